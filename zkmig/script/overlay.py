"""Overlay: a tree as it is to be, over a snapshot as it is. What nobody changes stays columns, however large it is.

A Node stands for a subtree of the base (origin) with what is different in it (below, and its own fields), or for one
that is new (origin -1). To move a subtree is to hang its Node elsewhere, to copy it is to copy what is different in it;
so both cost what was changed below, not what lies below.

Invariant: an ephemeral is never changed, so all that are visible stand where they stand in the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.columns import KIND_EPHEMERAL, Columns
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode

_UNBORN = Stat(*[0] * len(Stat._fields))


class Body(NamedTuple):
    """What a node says, its children apart. counter: at least so many children were created in order."""

    data: bytes | None
    acl: AclList
    kind: Kind = Kind.PERSISTENT
    ttl_ms: int = 0
    counter: int = 0


@dataclass(slots=True)
class Node:
    """origin: index in the base, -1 for a new node. body: None: as at the origin. below: what is different among its
    children, by name; None: gone."""

    origin: int
    body: Body | None = None
    below: dict[str, Node | None] = field(default_factory=dict)

    def copied(self) -> Node:
        """The same, with nothing in common that can be changed."""
        whole = replace(self, below=dict(self.below))
        todo = [whole]
        while todo:
            node = todo.pop()
            for name, child in node.below.items():
                if child is not None:
                    node.below[name] = again = replace(child, below=dict(child.below))
                    todo.append(again)
        return whole


class Run(NamedTuple):
    """Nodes [start, stop) of the base, unchanged, where `prefix` has taken the place of their first `cut` bytes."""

    start: int
    stop: int
    cut: int
    prefix: bytes


class Overlay:
    """base: None: there is no root yet. root: its absolute path."""

    def __init__(self, base: Snapshot | None, root: str) -> None:
        self.base = base
        self.root = root
        self.top: Node | None = None if base is None else Node(0)

    # -- looking ------------------------------------------------------------------------------------------------------

    def find(self, path: str) -> Node | None:
        """The node at a path inside the root; not to be changed: it may be made for the occasion."""
        node, names = self.top, _names(paths.relative_to(path, self.root))
        for depth, name in enumerate(names):
            if node is None:
                return None
            if name in node.below:
                node = node.below[name]
                continue
            # Nothing is different from here on down.
            index = self._base_index(node, "".join(f"/{each}" for each in names[depth:]))
            return None if index is None else Node(index)
        return node

    def held(self, path: str) -> Node:
        """The node at a path that is there, to be changed."""
        node = self.top
        assert node is not None
        for name in _names(paths.relative_to(path, self.root)):
            child = node.below.get(name)
            if child is None:
                index = self._base_index(node, f"/{name}")
                assert index is not None
                node.below[name] = child = Node(index)
            node = child
        return node

    def put(self, path: str, node: Node | None) -> None:
        """Hang a node there, or nothing; its parent is there."""
        if path == self.root:
            self.top = node
            return
        parent, name = self.held(paths.parent(path)), paths.name(path)
        if node is None and self._base_index(parent, f"/{name}") is None:
            parent.below.pop(name, None)
        else:
            parent.below[name] = node

    def body(self, node: Node) -> Body:
        """What a node says."""
        if node.body is not None:
            return node.body
        base, at = self._base(), node.origin
        return Body(
            base.data_at(at), base.acl_at(at), base.kind_at(at), base.columns.ttls.get(at, 0), base.counter_at(at)
        )

    def znode(self, path: str, node: Node) -> Znode:
        """As a value; of a node that is new, or was changed, the Stat says what can be known of it."""
        body = self.body(node)
        stat = self._stat(path, node, body, self._there(node))
        return Znode(path, body.data, body.acl, stat, body.kind, body.ttl_ms)

    def children(self, node: Node) -> list[str]:
        """Names of the children, by UTF-8 bytes."""
        return [name for name, _ in self._branches(node)]

    def has_children(self, node: Node) -> bool:
        """Whether it has any."""
        if any(child is not None for child in node.below.values()):
            return True
        return any(paths.name(self._base().path_at(at)) not in node.below for at in self._base_children(node))

    def _branches(self, node: Node) -> list[tuple[str, Node | int]]:
        """Children by name, in the order of their UTF-8 bytes: a Node if there is one, else the index in the base."""
        found: dict[str, Node | int] = {name: child for name, child in node.below.items() if child is not None}
        for at in self._base_children(node):
            name = paths.name(self._base().path_at(at))
            if name not in node.below:
                found[name] = at
        return sorted(found.items(), key=lambda branch: branch[0].encode())

    def walk(self, path: str, node: Node) -> Iterator[str]:
        """The path and all below it, in tree order. Nothing may be changed meanwhile."""
        todo: list[tuple[str, Node | int]] = [(path, node)]
        while todo:
            path, branch = todo.pop()
            node = Node(branch) if isinstance(branch, int) else branch
            if node.below:
                yield path
                todo += [(_join(path, name), child) for name, child in reversed(self._branches(node))]
            elif node.origin < 0:
                yield path
            else:
                run = self._run(node.origin, path)
                yield from (_moved(self._base().columns, at, run).decode() for at in range(run.start, run.stop))

    def first_ephemeral(self, path: str, node: Node) -> str | None:
        """Path of an ephemeral at or below it."""
        for index in self._ephemerals(path, node):
            return self._base().path_at(index)
        return None

    def without_ephemerals(self, path: str, node: Node) -> Node:
        """A copy of the subtree there, less its ephemerals, of which `node` itself is none."""
        copy = Overlay(self.base, path)
        copy.top = whole = node.copied()
        for index in list(self._ephemerals(path, node)):
            copy.put(self._base().path_at(index), None)
        return whole

    def _ephemerals(self, path: str, node: Node) -> Iterator[int]:
        for piece in self._pieces(path, node):
            if not isinstance(piece, Run):
                continue
            kinds, at = self._base().columns.kinds, piece.start - 1
            while (at := kinds.find(KIND_EPHEMERAL, at + 1, piece.stop)) >= 0:
                yield at

    # -- the tree that comes of it ------------------------------------------------------------------------------------

    def snapshot(self, scope: Scope, provenance: Provenance, consistency: Consistency) -> Snapshot:
        """All of it. BadInput if there is no root."""
        if self.top is None:
            raise BadInput("no root is left of the tree", self.root, "create it")
        builder = SnapshotBuilder()
        unmoved: list[tuple[int, int]] = []
        moved: list[Run] = []
        for piece in self._pieces(self.root, self.top):
            if isinstance(piece, Run):
                here = self._base().columns.path_bytes(piece.start)
                if here.startswith(piece.prefix) and len(piece.prefix) == piece.cut:
                    unmoved.append((piece.start, piece.stop))
                else:
                    moved.append(piece)
            else:
                path, body, stat = piece
                builder.add(path, body.data, body.acl, stat, body.kind, body.ttl_ms)
        if unmoved:
            builder.extend(self._base().columns, sorted(unmoved))
        if moved:
            _extend_moved(builder, self._base().columns, moved)
        return builder.build(scope, provenance, consistency)

    def _pieces(self, path: str, node: Node) -> Iterator[Run | tuple[str, Body, Stat]]:
        """All that lies at and below it, once: runs of what is as in the base, and single nodes that are not."""
        todo = [(path, node)]
        while todo:
            path, node = todo.pop()
            there = self._there(node)
            body = self.body(node)
            stat = self._stat(path, node, body, there)
            if node.origin < 0 or node.body is not None or stat != self._base().stat_at(node.origin):
                yield path, body, stat
            else:
                yield self._run(node.origin, path)._replace(stop=node.origin + 1)
            if node.origin >= 0:
                yield from self._unchanged_below(path, node, there)
            todo += [(_join(path, name), child) for name, child in node.below.items() if child is not None]

    def _unchanged_below(self, path: str, node: Node, there: dict[str, int | None]) -> Iterator[Run]:
        ends = self._base().columns.ends
        start, stop = node.origin + 1, ends[node.origin]
        whole = self._run(node.origin, path)
        for at in sorted(index for index in there.values() if index is not None):
            if start < at:
                yield whole._replace(start=start, stop=at)
            start = ends[at]
        if start < stop:
            yield whole._replace(start=start, stop=stop)

    def _run(self, origin: int, path: str) -> Run:
        """The whole subtree of a node of the base, as it lies at `path`."""
        columns = self._base().columns
        was = columns.path_bytes(origin)
        is_root = was == b"/"  # which is never moved
        return Run(origin, columns.ends[origin], 0 if is_root else len(was), b"" if is_root else path.encode())

    # -- Stats --------------------------------------------------------------------------------------------------------

    def _stat(self, path: str, node: Node, body: Body, there: dict[str, int | None]) -> Stat:
        """The origin's, with the number of children and the counter as they will be once this is written.

        there: what the origin has of the names in `below`. By difference, since what servers say of "/" is odd
        [zookeeper-facts 34].
        """
        was = _UNBORN if node.origin < 0 else self._base().stat_at(node.origin)
        more = sum(child is not None for child in node.below.values()) - sum(at is not None for at in there.values())
        children = was.num_children + more
        raised = max(body.counter, self._counter_after(path, node, there, children)) - was.counter
        return was._replace(
            data_length=len(body.data or b""), num_children=children, cversion=was.cversion + 2 * raised - more
        )

    def _counter_after(self, path: str, node: Node, there: dict[str, int | None], children: int) -> int:
        """What creating its children makes of the counter. A node that is there keeps its own, even if the draft has
        deleted and created it: what is planned is the difference."""
        here = self._index_or_none(path)
        if here is None:
            return children
        if here == node.origin:
            created = sum(child is not None and there[name] is None for name, child in node.below.items())
        elif node.origin < 0:
            created = sum(child is not None and not self._is_there(path, name) for name, child in node.below.items())
        else:
            created = 0  # of a subtree moved over another: what it may be too low by, the plan notes
        return self._base().counter_at(here) + created

    def _is_there(self, path: str, name: str) -> bool:
        return self._index_or_none(_join(path, name)) is not None

    def _there(self, node: Node) -> dict[str, int | None]:
        """What the origin has of the names in `below`."""
        return {name: self._base_index(node, f"/{name}") for name in node.below}

    # -- the base -----------------------------------------------------------------------------------------------------

    def _base(self) -> Snapshot:
        assert self.base is not None  # a node with an origin needs one
        return self.base

    def _base_index(self, node: Node, relative: str) -> int | None:
        if node.origin < 0:
            return None
        return self._index_or_none(paths.join(self._base().path_at(node.origin), relative))

    def _index_or_none(self, path: str) -> int | None:
        try:
            return None if self.base is None else self.base.index(path)
        except KeyError:
            return None

    def _base_children(self, node: Node) -> Iterator[int]:
        return self._base().children_at(node.origin) if node.origin >= 0 else iter(())


def _names(relative: str) -> list[str]:
    return relative.split("/")[1:]


def _join(path: str, name: str) -> str:
    return paths.join(path, f"/{name}")


def _moved(columns: Columns, index: int, run: Run) -> bytes:
    return run.prefix + columns.path_bytes(index)[run.cut :]


def _extend_moved(builder: SnapshotBuilder, columns: Columns, runs: list[Run]) -> None:
    """As `SnapshotBuilder.extend` of these runs, under their other paths."""
    first = len(builder)
    builder.extend(columns, [(run.start, run.stop) for run in runs])
    del builder.paths[builder.path_offsets[first] :]
    del builder.path_offsets[first + 1 :]
    for run in runs:
        for index in range(run.start, run.stop):
            builder.paths += _moved(columns, index, run)
            builder.path_offsets.append(len(builder.paths))
