"""ChangeTree: what a plan changes, node by node in tree order, with counts of all that is below each.

Over columns, since a plan may change a million nodes: a Change is made when one is asked for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import assert_never

from zkmig.model import path as paths
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, RaiseCounter, WriteData
from zkmig.plan.plan import Plan

SORTS = ("create", "write", "delete", "raise_counter", "set_acl")  # as Plan.counts names them
CREATE, WRITE, DELETE, RAISE, ACL = range(len(SORTS))

_NUL = b"\0"


@dataclass(frozen=True, slots=True)
class Change:
    """All that a plan does to one node. batches: the numbers, from 1, of those that do it; ACL steps are in none."""

    path: str
    create: CreateNode | None = None
    write: WriteData | None = None
    delete: DeleteNode | None = None
    raises: tuple[RaiseCounter, ...] = ()
    step: AclStep | None = None
    batches: tuple[int, ...] = ()

    @property
    def is_one(self) -> bool:
        """Whether anything is done to it; else it only leads to what is."""
        return bool(self.create or self.write or self.delete or self.raises or self.step)

    @property
    def data_after(self) -> bytes | None:
        """The data that is written; None for null, and where none is."""
        done = self.create or self.write
        return done.data if done else None

    @property
    def sorts(self) -> tuple[str, ...]:
        """Of SORTS, what is done."""
        done = (self.create, self.write, self.delete, self.raises, self.step)
        return tuple(sort for sort, what in zip(SORTS, done, strict=True) if what)


@dataclass(frozen=True, slots=True, eq=False)
class ChangeTree:
    """Nodes that are changed and those above them, in tree order; the first is the top.

    parents: index of the parent, -1 for the top. ends: one past the last node of the subtree. counts: for each of
    SORTS, how many nodes of the subtree it is done to. sizes: bytes of data that are written in the subtree.
    """

    plan: Plan
    parents: array[int]
    ends: array[int]
    counts: tuple[array[int], ...]
    sizes: array[int]
    _keys: list[bytes]
    _entries: array[int]  # numbers of operations, then of ACL steps, node by node
    _starts: array[int]  # of each node, where its entries begin; one more at the end

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def changed(self) -> int:
        """How many nodes are changed."""
        return sum(1 for node in range(len(self)) if self.is_changed(node))

    def is_changed(self, node: int) -> bool:
        """Whether anything is done to the node itself."""
        return self._starts[node] < self._starts[node + 1]

    def path_at(self, node: int) -> str:
        """Absolute path."""
        return self._keys[node].replace(_NUL, b"/").decode() or "/"

    def name_at(self, node: int) -> str:
        """Last component; of the top, its path."""
        return self._keys[node].rpartition(_NUL)[2].decode() if node else self.path_at(node)

    def children(self, node: int) -> Iterator[int]:
        """In tree order."""
        child, end = node + 1, self.ends[node]
        while child < end:
            yield child
            child = self.ends[child]

    def is_whole(self, node: int, sort: int) -> bool:
        """Whether this (CREATE or DELETE) is done to each node of the subtree."""
        return self.counts[sort][node] == self.ends[node] - node

    def count_text(self, node: int) -> dict[str, int]:
        """Of each sort that there is, how many in the subtree."""
        return {sort: count[node] for sort, count in zip(SORTS, self.counts, strict=True) if count[node]}

    def change_at(self, node: int) -> Change:
        """What is done to a node."""
        operations, ends = self.plan.operations, self.plan.batch_ends
        first, end = self._starts[node], self._starts[node + 1]
        if end == first + 1 and (number := self._entries[first]) < len(self.plan.ordered.creates):  # the most
            created = self.plan.ordered.creates[number]
            return Change(created.path, created, batches=(bisect_right(ends, number) + 1,))
        create: CreateNode | None = None
        write: WriteData | None = None
        delete: DeleteNode | None = None
        step: AclStep | None = None
        raises: list[RaiseCounter] = []
        batches: dict[int, None] = {}
        for number in self._entries[first:end]:
            if number >= len(operations):
                step = self.plan.acl_steps[number - len(operations)]
                continue
            batches[bisect_right(ends, number) + 1] = None
            match operations[number]:
                case CreateNode() as create:
                    pass
                case WriteData() as write:
                    pass
                case DeleteNode() as delete:
                    pass
                case RaiseCounter() as raised:
                    raises.append(raised)
                case other:
                    assert_never(other)
        return Change(self.path_at(node), create, write, delete, tuple(raises), step, tuple(batches))

    def changes(self) -> Iterator[Change]:
        """Of each node that is changed, in tree order."""
        return (self.change_at(node) for node in range(len(self)) if self.is_changed(node))


def change_tree(plan: Plan, below: str = "/") -> ChangeTree:
    """The changes of a plan at and below a path. The top is that path, or the root of the plan's target if that is
    below it; or "/", if the plan goes beyond its target's root."""
    entries = _entries_of(plan, _key(below.encode()))
    root = plan.target.root if paths.contains(below, plan.target.root) else below
    top = _key(root.encode())
    if any(not _is_below(top, key) for key, _ in entries):
        top = b""
    return _Builder(plan, top).build(entries)


def changed_at_least(plan: Plan, below: str = "/") -> int:
    """A number of nodes at and below a path that are changed, without the tree of them: there may be more."""
    creates, rest, top = plan.ordered.creates, plan.ordered.rest, _key(below.encode())
    created = sum(_is_below(top, _key(path)) for path in creates.path_column()) if top else len(creates)
    return max(created, len({each.path for each in rest if paths.contains(below, each.path)}))


def _key(path: bytes) -> bytes:
    """`paths.order_key`, of bytes."""
    return b"" if path == b"/" else path.replace(b"/", _NUL)


def _is_below(top: bytes, key: bytes) -> bool:
    return not top or key == top or key.startswith(top + _NUL)


def _entries_of(plan: Plan, below: bytes) -> list[tuple[bytes, int]]:
    creates, rest = plan.ordered.creates, plan.ordered.rest
    named = chain(creates.path_column(), (each.path.encode() for each in chain(rest, plan.acl_steps)))
    entries = [(key, number) for number, path in enumerate(named) if _is_below(below, key := _key(path))]
    entries.sort()
    return entries


def _sort_of(operation: Operation) -> int:
    match operation:
        case CreateNode():
            return CREATE
        case WriteData():
            return WRITE
        case DeleteNode():
            return DELETE
        case RaiseCounter():
            return RAISE
        case _:
            assert_never(operation)


class _Builder:
    """Nodes as they come, each behind its ancestors."""

    def __init__(self, plan: Plan, top: bytes) -> None:
        self._plan = plan
        self._keys = [top]
        self._parents, self._ends = array("q", (-1,)), array("q", (0,))
        self._starts = array("q", (0,))
        self._counts = tuple(array("q", (0,)) for _ in SORTS)
        self._sizes = array("q", (0,))
        self._open = [0]  # the node at hand and those above it, innermost last

    def build(self, entries: list[tuple[bytes, int]]) -> ChangeTree:
        """entries: in tree order."""
        for at, (key, number) in enumerate(entries):
            if key != self._keys[-1]:
                self._reach(key, at)
            self._count(number)
        self._close(0)
        self._starts.append(len(entries))
        for node in range(len(self._keys) - 1, 0, -1):
            parent = self._parents[node]
            for column in (*self._counts, self._sizes):
                column[parent] += column[node]
        numbers = array("q", [number for _, number in entries])
        return ChangeTree(
            self._plan, self._parents, self._ends, self._counts, self._sizes, self._keys, numbers, self._starts
        )

    def _reach(self, key: bytes, at: int) -> None:
        depth = len(self._open)
        while not _is_below(self._keys[self._open[depth - 1]], key):
            depth -= 1
        self._close(depth)
        at_byte = len(self._keys[self._open[-1]])
        while at_byte >= 0:
            at_byte = key.find(_NUL, at_byte + 1)
            self._add(key if at_byte < 0 else key[:at_byte], at)

    def _add(self, key: bytes, at: int) -> None:
        self._keys.append(key)
        self._parents.append(self._open[-1])
        self._ends.append(0)
        self._starts.append(at)
        for column in (*self._counts, self._sizes):
            column.append(0)
        self._open.append(len(self._keys) - 1)

    def _close(self, depth: int) -> None:
        while len(self._open) > depth:
            self._ends[self._open.pop()] = len(self._keys)

    def _count(self, number: int) -> None:
        operations = self._plan.ordered
        creates = operations.creates
        if number < len(creates):  # the most, for which no object is made
            self._counts[CREATE][-1] += 1
            self._sizes[-1] += creates.data_offsets[number + 1] - creates.data_offsets[number]
            return
        if number >= len(operations):
            self._counts[ACL][-1] += 1
            return
        operation = operations[number]
        sort = _sort_of(operation)
        if sort != RAISE or not self._counts[RAISE][-1]:  # one that was cut in several counts once
            self._counts[sort][-1] += 1
        if isinstance(operation, CreateNode | WriteData):
            self._sizes[-1] += len(operation.data or b"")
