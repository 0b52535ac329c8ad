"""Draft: the tree of a target as it is, to be changed by a script into what it is to be. Nothing is written.

Paths are absolute on the target. What is wrong with a change is said at once, as BadInput; `zkmig.script.load` adds the
line of the script. The tree that comes of it goes with the target through `plan.make.make_plan`, so what counts is the
difference between the two: what a script changes and changes back is no change.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import ALL, OPEN_ACL, Acl, AclList
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.znode import Kind, Znode
from zkmig.plan.operations import RAISED_BY_MAX
from zkmig.policy.kinds import TTL_MS_MAX
from zkmig.script import finding
from zkmig.script.finding import Found
from zkmig.script.overlay import Body, Node, Overlay

_DIGITS_MAX = 1_100  # behind the point of any float
COUNTER_MAX = 2**30 - 1  # of which a Stat, with 32 bits for twice as much, can tell


class Draft:
    """A tree to be changed. base: the target; None: its root, that of `scope`, is not there yet, and the script creates
    it."""

    def __init__(self, base: Snapshot | None, scope: Scope | None = None) -> None:
        self._base = base
        self._scope = base.scope if base is not None else scope or Scope("/")
        self._tree = Overlay(base, self._scope.root)

    @property
    def root(self) -> str:
        """Absolute path of the node at the top."""
        return self._tree.root

    # -- looking ------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Znode | None:
        """The node, None if there is none. Of what the draft has changed, the Stat says what can be known of it."""
        node = self._look(path)
        return None if node is None else self._tree.znode(path, node)

    def data(self, path: str) -> bytes | None:
        """Its data; None is null, which is not empty. BadInput if there is no such node."""
        return self._tree.body(self._there(path)).data

    def acl(self, path: str) -> AclList:
        """Its ACL. BadInput if there is no such node."""
        return self._tree.body(self._there(path)).acl

    def exists(self, path: str) -> bool:
        """Whether it is there."""
        return self._look(path) is not None

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.exists(path)

    def children(self, path: str) -> list[str]:
        """Names of its children, by their UTF-8 bytes, ephemerals among them. BadInput if there is no such node."""
        return self._tree.children(self._there(path))

    def walk(self, path: str | None = None) -> list[str]:
        """The path (None: the root) and all below it, in tree order, as they are now. BadInput if it is not there."""
        path = self.root if path is None else path
        return list(self._tree.walk(path, self._there(path)))

    def find(self, pattern: str) -> list[Found]:
        """(path, captures) of all nodes that fit, in tree order, as they are now: `/pools/{pool}/hosts/{host}`.

        `*` is any one component, `**` any number of them. BadInput for what is no pattern.
        """
        if not isinstance(pattern, str):
            raise BadInput(f"a pattern is a str, not {type(pattern).__name__}", "", "write it like /app/pools/{pool}")
        return list(finding.find(self._tree, pattern))

    # -- changing -----------------------------------------------------------------------------------------------------

    def set(self, path: str, data: bytes | None, acl: Sequence[Acl] | None = None) -> None:
        """Give a node that is there other data; None is null. acl: another ACL too."""
        self._change(path, "written", data=_bytes(data, path), **({} if acl is None else {"acl": _acl(acl, path)}))

    def set_acl(self, path: str, acl: Sequence[Acl]) -> None:
        """Give a node that is there another ACL, as servers store it: `zkmig.Acl(perms, scheme, id)`."""
        self._change(path, "given an ACL", acl=_acl(acl, path))

    def create(
        self,
        path: str,
        data: bytes | None = b"",
        acl: Sequence[Acl] | None = None,
        kind: Kind = Kind.PERSISTENT,
        *,
        ttl_ms: int = 0,
        makepath: bool = False,
    ) -> None:
        """Create a node that is not there. acl None: its parent's; kind: Kind.CONTAINER, or Kind.TTL with ttl_ms.

        makepath: create what is missing above it too, empty, with the ACL of the nearest node that is there.
        """
        body = Body(_bytes(data, path), OPEN_ACL, _kind(kind, ttl_ms, path), ttl_ms)
        given = None if acl is None else _acl(acl, path)
        if self._look(path) is not None:
            raise BadInput("it is there already", path, "change it with set")
        if kind is not Kind.PERSISTENT and self._base is not None and path in self._base:
            raise BadInput("it is there now, and no write changes its kind", path, "delete it in an epoch before")
        parent = self._parent_of(path, makepath)
        self._tree.put(path, Node(-1, body._replace(acl=parent if given is None else given)))

    def delete(self, path: str, recursive: bool = False) -> None:
        """Delete a node that is there. recursive: with all below it."""
        node = self._there(path)
        self._require_moveable(path, node, "deleted")
        if not recursive and self._tree.has_children(node):
            raise BadInput("it has children", path, "delete it with recursive=True, or its children before it")
        self._tree.put(path, None)

    def move(self, source: str, target: str, *, makepath: bool = False) -> None:
        """Move a node and all below it: data, ACLs, kinds and sequence counters.

        On the servers that is to create and to delete: the nodes at `target` begin at version 0, and the next number of
        a sequence goes on from where it was.
        """
        node = self._there(source)
        self._require_moveable(source, node, "moved")
        self._require_free(source, target, "moved")
        self._parent_of(target, makepath)
        self._tree.put(source, None)
        self._tree.put(target, node)

    def copy(self, source: str, target: str, *, makepath: bool = False, without_ephemerals: bool = False) -> None:
        """Copy a node and all below it: data, ACLs, kinds and sequence counters.

        Where there are ephemerals, without_ephemerals has to say that the copy is to be without them.
        """
        node = self._there(source)
        self._require_known(source, "copied")
        if self._tree.body(node).kind is Kind.EPHEMERAL:
            raise _ephemeral(source, "copied")
        held = None if without_ephemerals else self._tree.first_ephemeral(source, node)
        if held is not None:
            raise BadInput(f"it holds an ephemeral, {held}", source, "copy it with without_ephemerals=True")
        self._require_free(source, target, "copied")
        self._parent_of(target, makepath)
        self._tree.put(target, self._tree.without_ephemerals(source, node) if without_ephemerals else node.copied())

    def raise_counter(self, path: str, to: int) -> None:
        """Let the next sequential child have at least the number `to`. Nothing lowers a counter.

        Each number is a create and a delete on the servers: BadInput for more than RAISED_BY_MAX of them.
        """
        if type(to) is not int or not 0 <= to <= COUNTER_MAX:
            raise BadInput(f"a counter is a number from 0 to {COUNTER_MAX}", path)
        now = self._tree.body(self._there(path)).counter
        there = self._base.counter_at(self._base.index(path)) if self._base is not None and path in self._base else 0
        if to > now and to - there > RAISED_BY_MAX:
            what = f"its counter is at {there}, and to raise it to {to} takes more than {RAISED_BY_MAX} creates"
            raise BadInput(what, path, "a lower number, or names that go on from where they are")
        self._change(path, "counted", counter=max(now, to))

    # -- JSON ---------------------------------------------------------------------------------------------------------

    def get_json(self, path: str) -> Any:
        """Its data as JSON. BadInput if there is no such node, or no JSON in it, or a number that would not be written
        back as it is."""
        data = self.data(path)
        try:
            text = (data or b"").decode()
            return json.loads(text, object_pairs_hook=_once, parse_constant=_refused, parse_float=_exact)
        except _Inexact:
            raise BadInput(
                "a number in its JSON has more digits than a float of Python",
                path,
                "change its text, which is tree.data",
            ) from None
        except (ValueError, RecursionError):  # its text would quote the data
            raise BadInput(f"its data ({len(data or b'')} bytes) is no JSON, or has a key twice", path) from None

    def set_json(self, path: str, value: Any) -> None:
        """Give a node that is there this value as data: UTF-8, keys sorted, no spaces."""
        self.set(path, _dumped(value, path))

    def update_json(self, path: str, change: Callable[[Any], Any] | Mapping[str, Any]) -> None:
        """Change the JSON of a node: by these fields of an object, or by a function of the value.

        The function returns the new value, or changes it in place and returns None. Data whose value stays the same
        stays as it is, however it is written.
        """
        before = self.get_json(path)
        value = self.get_json(path)
        if isinstance(change, Mapping):
            if not isinstance(value, dict):
                raise BadInput("its JSON is no object", path, "change it with a function")
            value.update(change)
        elif not callable(change):
            raise BadInput(
                f"{type(change).__name__} is no change of JSON", path, "give fields of an object, or a function"
            )
        else:
            changed = change(value)
            value = value if changed is None else changed
        after = _dumped(value, path)
        if after != _dumped(before, path):
            self.set(path, after)
        else:
            self._change(path, "written")

    # -- what comes of it ---------------------------------------------------------------------------------------------

    def snapshot(self, location: str = "") -> Snapshot:
        """The tree as it is to be. BadInput if it has no root. location: what messages are to call it."""
        if self._base is None:
            return self._tree.snapshot(self._scope, Provenance(location, kinds_known=True), _NEW)
        provenance = dataclasses.replace(self._base.provenance, location=location or self._base.provenance.location)
        return self._tree.snapshot(self._scope, provenance, self._base.consistency)

    # -- what may be done ---------------------------------------------------------------------------------------------

    def _look(self, path: str) -> Node | None:
        """The node there. BadInput where the draft cannot know: outside of what was read."""
        if not isinstance(path, str):
            raise BadInput(f"a path is a str, not {type(path).__name__}", "", "write it like /app/pools")
        paths.validate(path)
        if not paths.contains(self.root, path):
            raise BadInput(f"it is not inside {self.root}, the tree of this draft", path)
        if not self._scope.covers(path):
            raise BadInput("it is left out of what was read", path, "look at --exclude, and at the policy")
        includes = self._scope.includes
        if includes and not any(paths.overlap(each, path) for each in includes):
            raise BadInput("it is not among what is included", path, "look at --include, and at the policy")
        return self._tree.find(path)

    def _there(self, path: str) -> Node:
        node = self._look(path)
        if node is None:
            raise BadInput("there is no such znode", path, "create it first, or ask with exists")
        return node

    def _change(self, path: str, verb: str, **fields: Any) -> None:
        body = self._tree.body(self._there(path))
        self._require_selected(path)
        if body.kind is Kind.EPHEMERAL:
            raise _ephemeral(path, verb)
        changed = body._replace(**fields)
        if changed != body:
            self._tree.held(path).body = changed

    def _require_selected(self, path: str) -> None:
        includes = self._scope.includes
        if includes and not any(paths.contains(each, path) for each in includes):
            raise BadInput("it only leads to what is included, and is not changed", path, "include it too")

    def _require_known(self, path: str, verb: str) -> None:
        """All below it was read, so that nothing is passed over in silence."""
        for each in self._scope.excludes:
            if paths.contains(path, each):
                raise BadInput(f"{each}, below it, is left out of what was read, so it cannot be {verb}", path)
        self._require_selected(path)

    def _require_moveable(self, path: str, node: Node, verb: str) -> None:
        if path == self.root:
            raise BadInput(f"the root of the tree cannot be {verb}", path)
        self._require_known(path, verb)
        if self._tree.body(node).kind is Kind.EPHEMERAL:
            raise _ephemeral(path, verb)
        if (held := self._tree.first_ephemeral(path, node)) is not None:
            raise BadInput(f"it holds an ephemeral, {held}, so it cannot be {verb}", path, "stop its owner first")

    def _require_free(self, source: str, target: str, verb: str) -> None:
        if self._look(target) is not None:
            raise BadInput("it is there already", target, "delete it first")
        if paths.contains(source, target):
            raise BadInput(f"{source} cannot be {verb} into itself", target)

    def _parent_of(self, path: str, makepath: bool) -> AclList:
        """The ACL of the parent, which may have a child there; made where it is missing and that is wanted."""
        self._require_selected(path)
        if path == self.root:
            return OPEN_ACL
        missing: list[str] = []
        parent = paths.parent(path)
        while (node := self._look(parent)) is None:
            missing.append(parent)
            if not makepath:
                raise BadInput("its parent is not there", path, "create it first, or with makepath=True")
            if parent == self.root:
                break
            parent = paths.parent(parent)
        body = Body(None, OPEN_ACL) if node is None else self._tree.body(node)
        if body.kind is Kind.EPHEMERAL:
            raise BadInput("its parent is an ephemeral, which has no children", path)
        acl = body.acl or OPEN_ACL  # as servers take an empty one, which they store for nobody
        for each in missing:
            self._require_selected(each)
        for each in reversed(missing):
            self._tree.put(each, Node(-1, Body(b"", acl)))
        return acl


_NEW = Consistency(False, 0, 0, "nothing is there yet")


def _ephemeral(path: str, verb: str) -> BadInput:
    return BadInput(f"an ephemeral belongs to its session and cannot be {verb}", path)


def _bytes(data: object, path: str) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    hint = 'encode it: "text".encode()' if isinstance(data, str) else "None is null, b'' is empty"
    raise BadInput(f"data is bytes or None, not {type(data).__name__}", path, hint)


def _acl(acl: Sequence[Acl], path: str) -> AclList:
    hint = "write it like [zkmig.Acl(31, 'world', 'anyone')]"
    try:
        entries = tuple(Acl(*entry) for entry in acl)  # once: a generator has no second time
    except TypeError:
        raise BadInput("this is no ACL", path, hint) from None
    given: tuple[object, object, object]  # whoever writes a script may have left types out
    for given in entries:
        perms, scheme, name = given
        is_sound = type(perms) is int and 0 < perms <= ALL and _is_text(scheme) and _is_text(name)
        if not is_sound:
            raise BadInput(f"an ACL entry is perms (1 to {ALL}), scheme and id", path, hint)
        if scheme == "auth" or not scheme:
            raise BadInput(
                f"no server stores an ACL of scheme {scheme!r}", path, "name the identity, as digest:user:HASH"
            )
    if not entries:
        raise BadInput("an ACL without an entry is not taken by servers", path, hint)
    return entries


def _is_text(value: object) -> bool:
    """Whether servers can store it: UTF-8 knows no lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _kind(kind: object, ttl_ms: int, path: str) -> Kind:
    if not isinstance(kind, Kind) or kind is Kind.EPHEMERAL:
        raise BadInput("a script creates nodes of Kind.PERSISTENT, CONTAINER or TTL", path)
    if kind is Kind.TTL and (type(ttl_ms) is not int or not 0 < ttl_ms <= TTL_MS_MAX):
        raise BadInput(f"a TTL node wants ttl_ms, 1 to {TTL_MS_MAX} milliseconds", path)
    if kind is not Kind.TTL and ttl_ms:
        raise BadInput("ttl_ms is for Kind.TTL", path)
    return kind


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are each there once: of two, writing it again would lose one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


class _Inexact(ValueError):
    """A number that is another one once it is read and written."""


def _exact(text: str) -> float:
    """The float that a text stands for. _Inexact for a text that says more: written back it would be another number.

    What a float was written as, with however many digits, is the float itself rounded there.
    """
    value = float(text)
    if math.isfinite(value):
        try:
            written = Decimal(text)
            exponent = written.as_tuple().exponent
            digits = -exponent if isinstance(exponent, int) and exponent < 0 else 0
            if Decimal(repr(value)) == written or (
                value and digits < _DIGITS_MAX and Decimal(f"{value:.{digits}f}") == written
            ):
                return value
        except InvalidOperation:  # an exponent beyond any number
            pass
    raise _Inexact


def _dumped(value: Any, path: str) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError):  # their text may quote the value; a lone surrogate is a ValueError
        raise BadInput("this value cannot be written as JSON", path) from None
