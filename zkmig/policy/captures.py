"""Patterns with captures: `/services/{svc}/active` describes paths and names what stands in the place of each capture.

    /services/{svc}/active      {svc} is one whole component
    /shards/shard-{n}           or part of one; between two captures stands text, of which the first place counts
    /pools/*                    `*` is any one component, without a name
    /pools/**                   `**` any number of them, none included; at most one, so that a path fits in one way

`{{` and `}}` stand for braces. Template is the way back: what a name leads to, as in `/pools/{value}`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.patterns import MANY, ONE, parse_path
from zkmig.model.snapshot import Snapshot

VALUE = "value"  # in a template: what the data says
_PIECES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Captures = Mapping[str, str]
_Piece = tuple[bool, str]  # whether it is a capture; its name, or the text itself


def _pieces(component: str, where: str) -> tuple[_Piece, ...]:
    """Text and captures of one component, in order; text beside text is joined."""
    found: list[_Piece] = []
    for match in _PIECES.finditer(component):
        text, name = match[0], match[1]
        if name is not None:
            if not _NAME.fullmatch(name):
                raise BadInput(f"{text} is no capture", where, "captures look like {name}; {{ and }} stand for braces")
            found.append((True, name))
            continue
        if text in ("{", "}"):
            raise BadInput("a brace without its other half", where, "{{ and }} stand for braces")
        literal = text[0] if text in ("{{", "}}") else text
        if found and not found[-1][0]:
            found[-1] = (False, found[-1][1] + literal)
        else:
            found.append((False, literal))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Component:
    """What one component has to look like: texts[0] {names[0]} texts[1] {names[1]} ... texts[-1].

    `*` is a capture without a name. Between two captures there is text, and each stands for one character at least.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def literal(self) -> str | None:
        """The one name that it fits; None if there may be others."""
        return None if self.names else self.texts[0]

    @property
    def is_open(self) -> bool:
        """Whether every name fits."""
        return self.texts == ("", "")

    def match(self, name: str) -> Captures | None:
        """No regular expression: with several captures one can take longer than anybody waits for a hostile name.

        The first text there is ends a capture. That finds a fit wherever there is one, since it leaves most behind it.
        """
        if not self.names:
            return {} if name == self.texts[0] else None
        if self.is_open:
            return {self.names[0]: name} if self.names[0] else {}
        first, *between, last = self.texts
        stop = len(name) - len(last)
        if stop <= len(first) or not name.startswith(first) or not name.endswith(last):
            return None
        found: dict[str, str] = {}
        start = len(first)
        for capture, text in zip(self.names, between, strict=False):
            end = name.find(text, start + 1, stop)
            if end < 0:
                return None
            found[capture] = name[start:end]
            start = end + len(text)
        if start >= stop:
            return None
        found[self.names[-1]] = name[start:stop]
        return found


def _component(text: str, where: str) -> _Component:
    if text == ONE:
        return _Component(("", ""), ("",))
    pieces = _pieces(text, where)
    if any(one[0] and other[0] for one, other in itertools.pairwise(pieces)):
        raise BadInput(f"two captures side by side in {text!r}", where, "put text between them")
    texts, names = [""], []
    for is_capture, piece in pieces:
        if is_capture:
            names.append(piece)
            texts.append("")
        else:
            texts[-1] = piece
    return _Component(tuple(texts), tuple(names))


@dataclass(frozen=True, slots=True)
class CapturePattern:
    """text: as written. Equal when written alike."""

    text: str
    _components: tuple[_Component | None, ...]  # None: `**`

    @classmethod
    def parse(cls, text: str) -> Self:
        """BadInput for what could match no path, or in more ways than one."""
        path = parse_path(text, "a pattern")
        parts = path[1:].split("/") if path != "/" else []
        if parts.count(MANY) > 1:
            raise BadInput("more than one ** in a pattern", text, "a path has to fit in one way only")
        components = tuple(None if part == MANY else _component(part, text) for part in parts)
        names = [name for component in components if component for name in component.names if name]
        for name in names:
            if names.count(name) > 1 or name == VALUE:
                what = f"{{{VALUE}}} stands for the data" if name == VALUE else f"{{{name}}} stands there twice"
                raise BadInput(what, text, "give it another name")
        return cls(path, components)

    def __str__(self) -> str:
        return self.text

    @property
    def names(self) -> frozenset[str]:
        """Of its captures."""
        return frozenset(name for component in self._components if component for name in component.names if name)

    @property
    def top(self) -> str:
        """The path that all it can match lies on or below."""
        literal: list[str] = []
        for component in self._components:
            if component is None or component.literal is None:
                break
            literal.append(component.literal)
        return "/" + "/".join(literal)

    def match(self, path: str) -> Captures | None:
        """What an absolute path says for each capture; None if it does not fit."""
        names = _names_of(path)
        components = self._components
        if None not in components:
            return _match_all(components, names)
        many = components.index(None)
        behind = len(components) - many - 1
        if len(names) < many + behind:
            return None
        found = _match_all(components[:many], names[:many])
        below = _match_all(components[many + 1 :], names[len(names) - behind :]) if found is not None else None
        return None if found is None or below is None else {**found, **below}

    def may_reach(self, path: str) -> bool:
        """Whether a path there or below can fit."""
        for at, name in enumerate(_names_of(path)):
            if at == len(self._components):
                return False
            component = self._components[at]
            if component is None:
                return True
            if component.match(name) is None:
                return False
        return True

    def find(self, snapshot: Snapshot) -> Iterator[Found]:
        """Index and captures of each node that fits, in tree order. Only what can fit is looked at: text leads straight
        to one child, and `*` and captures to all of them."""
        above = _names_of(snapshot.root)
        many = self._components.index(None) if None in self._components else len(self._components)
        if len(above) > many:
            # The root lies within what `**` stands for, or deeper than anything that can fit.
            return self._fitting(snapshot) if None in self._components else iter(())
        captures = _match_all(self._components[: len(above)], above)
        if captures is None:
            return iter(())
        found: Iterator[Found] = iter(((0, captures),))
        for component in self._components[len(above) : many]:
            assert component is not None
            found = _children(snapshot, component, found)
        return found if many == len(self._components) else _below(snapshot, self._components[many + 1 :], found)

    def _fitting(self, snapshot: Snapshot) -> Iterator[Found]:
        for node in range(len(snapshot)):
            captures = self.match(snapshot.path_at(node))
            if captures is not None:
                yield node, captures


Found = tuple[int, Captures]  # index of a node, and what its path says


def _names_of(path: str) -> list[str]:
    return path[1:].split("/") if path != "/" else []


def _match_all(components: Sequence[_Component | None], names: Sequence[str]) -> Captures | None:
    """Of as many names as components, none of them `**`."""
    if len(components) != len(names):
        return None
    found: dict[str, str] = {}
    for component, name in zip(components, names, strict=True):
        assert component is not None
        captured = component.match(name)
        if captured is None:
            return None
        found |= captured
    return found


def _children(snapshot: Snapshot, component: _Component, found: Iterator[Found]) -> Iterator[Found]:
    """Of each node, the children that fit."""
    literal = component.literal
    for node, captures in found:
        if literal is not None:
            child = _child(snapshot, node, literal)
            if child is not None:
                yield child, captures
        elif component.is_open and component.names == ("",):
            for child in snapshot.children_at(node):
                yield child, captures
        else:
            start = len(snapshot.columns.path_bytes(node).rstrip(b"/")) + 1
            for child in snapshot.children_at(node):
                captured = component.match(snapshot.columns.path_bytes(child)[start:].decode())
                if captured is not None:
                    yield child, {**captures, **captured}


def _child(snapshot: Snapshot, node: int, name: str) -> int | None:
    try:
        return snapshot.index(paths.join(snapshot.path_at(node), "/" + name))
    except KeyError:
        return None


def _below(snapshot: Snapshot, tail: Sequence[_Component | None], found: Iterator[Found]) -> Iterator[Found]:
    """Of each node, itself and all below it whose last names fit; the first of them lies below the node."""
    ends = snapshot.columns.ends
    last = tail[-1].literal if tail and tail[-1] is not None else None
    suffix = b"/" + last.encode() if last is not None else b""
    for node, captures in found:
        if not tail:
            for below in range(node, ends[node]):
                yield below, captures
            continue
        start = len(snapshot.columns.path_bytes(node).rstrip(b"/")) + 1
        for below in range(node + 1, ends[node]):
            path = snapshot.columns.path_bytes(below)
            if path.endswith(suffix):
                captured = _match_all(tail, path[start:].decode().split("/")[-len(tail) :])
                if captured is not None:
                    yield below, {**captures, **captured}


@dataclass(frozen=True, slots=True)
class Template:
    """What a value leads to: `/pools/{value}`, or `{value}` alone where the data is an absolute path."""

    text: str
    _pieces: tuple[_Piece, ...]

    @classmethod
    def parse(cls, text: str, known: frozenset[str]) -> Self:
        """known: the captures that there are besides {value}. BadInput for any other, and for what can be no path."""
        pieces = _pieces(text, text)
        for is_capture, name in pieces:
            if is_capture and name != VALUE and name not in known:
                have = ", ".join(f"{{{each}}}" for each in (VALUE, *sorted(known)))
                raise BadInput(f"{{{name}}} is not captured", text, f"there are {have}")
        if (True, VALUE) not in pieces:
            raise BadInput(f"it does not say where {{{VALUE}}} stands", text, "write it like /pools/{value}")
        if not text.startswith("/") and text != f"{{{VALUE}}}":
            raise BadInput(
                "it wants an absolute path", text, "write it like /pools/{value}, or {value} for a whole path"
            )
        if text.startswith("/"):
            paths.validate("".join("x" if is_capture else name for is_capture, name in pieces))
        return cls(text, pieces)

    def __str__(self) -> str:
        return self.text

    @property
    def top(self) -> str:
        """The path that all it can name lies on or below, "/" if that is all."""
        first = next((at for at, (is_capture, _) in enumerate(self._pieces) if is_capture), len(self._pieces))
        literal = "".join(name for _, name in self._pieces[:first])
        if first == len(self._pieces):
            return literal or "/"
        return literal.rpartition("/")[0] or "/"

    def fill(self, captures: Captures, value: str) -> str:
        """The path. BadInput if it is none: a value may say anything."""
        filled = {**captures, VALUE: value}
        path = "".join([filled[name] if is_capture else name for is_capture, name in self._pieces])
        return path if _is_plain(path) else paths.validate(path)


def _is_plain(path: str) -> bool:
    """Whether a path is one that ZooKeeper takes, as seen at a glance: `validate` looks at each character."""
    return (
        path.isascii()
        and path.isprintable()
        and path.startswith("/")
        and not path.endswith("/")
        and "//" not in path
        and "/." not in path
    )


def any_of(patterns: Iterable[CapturePattern | str]) -> Callable[[str], bool]:
    """Whether a path fits one of them. BadInput for a text that is no pattern."""
    parsed = [CapturePattern.parse(str(pattern)) for pattern in patterns]
    return lambda path: any(pattern.match(path) is not None for pattern in parsed)
