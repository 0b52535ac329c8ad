"""Patterns with captures: `/services/{svc}/active` describes paths and names what stands in the place of each capture.

    /services/{svc}/active      {svc} is one whole component
    /shards/shard-{n}           or part of one, with text around it
    /pools/*                    `*` is any one component, without a name
    /pools/**                   `**` any number of them, none included; at most one, so that a path fits in one way

`{{` and `}}` stand for braces. Template is the way back: what a name leads to, as in `/pools/{value}`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
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
    """What one component has to look like. literal: None unless it can be one text only. names: of its captures."""

    literal: str | None
    fits: re.Pattern[str]
    names: tuple[str, ...]

    def match(self, name: str) -> Captures | None:
        if self.literal is not None:
            return {} if name == self.literal else None
        found = self.fits.fullmatch(name)
        return found.groupdict() if found else None


def _component(text: str, where: str) -> _Component:
    if text == ONE:
        return _Component(None, re.compile(r".+", re.DOTALL), ())
    pieces = _pieces(text, where)
    names = tuple(name for is_capture, name in pieces if is_capture)
    if any(one[0] and other[0] for one, other in itertools.pairwise(pieces)):
        raise BadInput(f"two captures side by side in {text!r}", where, "put text between them")
    expression = "".join(f"(?P<{name}>.+?)" if is_capture else re.escape(name) for is_capture, name in pieces)
    literal = "".join(name for _, name in pieces) if not names else None
    return _Component(literal, re.compile(expression, re.DOTALL), names)


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
        names = [name for component in components if component for name in component.names]
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
        return frozenset(name for component in self._components if component for name in component.names)

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
        names = path[1:].split("/") if path != "/" else []
        components = self._components
        if None in components:
            many = components.index(None)
            behind = len(components) - many - 1
            if len(names) < many + behind:
                return None
            pairs = [*zip(components[:many], names, strict=False)]
            pairs += zip(components[many + 1 :], names[len(names) - behind :], strict=True)
        elif len(names) != len(components):
            return None
        else:
            pairs = list(zip(components, names, strict=True))
        found: dict[str, str] = {}
        for component, name in pairs:
            assert component is not None
            captured = component.match(name)
            if captured is None:
                return None
            found |= captured
        return found

    def find(self, snapshot: Snapshot) -> Iterator[tuple[int, Captures]]:
        """Index and captures of each node that fits, in tree order. Only what can fit is looked at: text leads straight
        to one child, and `*` and captures to all of them."""
        root, top = snapshot.root, self.top
        if not paths.overlap(root, top):
            return
        start = top if paths.contains(root, top) else root
        if start not in snapshot:
            return
        depth = 0 if start == "/" else start.count("/")
        if None in self._components[:depth]:
            depth = self._components.index(None)
        begun = self._captures_above(start, depth)
        if begun is not None:
            yield from self._descend(snapshot, snapshot.index(start), depth, begun)

    def _captures_above(self, start: str, depth: int) -> Captures | None:
        found: dict[str, str] = {}
        for component, name in zip(self._components[:depth], start[1:].split("/"), strict=False):
            assert component is not None
            captured = component.match(name)
            if captured is None:
                return None
            found |= captured
        return found

    def _descend(self, snapshot: Snapshot, node: int, depth: int, found: Captures) -> Iterator[tuple[int, Captures]]:
        if depth == len(self._components):
            yield node, found
            return
        component = self._components[depth]
        if component is None:
            for below in range(node, snapshot.columns.ends[node]):
                captured = self.match(snapshot.path_at(below))
                if captured is not None:
                    yield below, captured
            return
        if component.literal is not None:
            child = paths.join(snapshot.path_at(node), "/" + component.literal)
            if child in snapshot:
                yield from self._descend(snapshot, snapshot.index(child), depth + 1, found)
            return
        for below in snapshot.children_at(node):
            captured = component.match(paths.name(snapshot.path_at(below)))
            if captured is not None:
                yield from self._descend(snapshot, below, depth + 1, {**found, **captured})


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
        return paths.validate("".join(filled[name] if is_capture else name for is_capture, name in self._pieces))
