"""The walk along two trees in plain Python: the specification that zkmig/_fast/diff.pyx must equal.

One merge along both, in which subtrees of equal hash are passed over, so that the cost follows what differs. Both sides
are columns that `Columns.checked` has passed; what comes out are codes (`zkmig.changes.Code`) and pairs of indices.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

_ADD = 0
_DATA = 1
_ACL = 2
_KIND = 3
_COUNTER = 4
_DELETE = 5
_COUNTER_HIGHER = 6
_EPHEMERAL_IN_THE_WAY = 7
_EXCLUDED_IN_THE_WAY = 8

_KIND_EPHEMERAL = 3


class Side(NamedTuple):
    """One tree: columns as `Columns` has them, and what else the walk needs.

    acls: for each entry of the ACL table, a number that both sides share. ttl_nodes: ascending, with ttl_values beside
    them. left_out: tops of excluded subtrees, ascending. tree_hashes, counter_hashes: as `Hashes`; empty where unknown.
    """

    paths_blob: bytes
    path_offsets: array[int]  # Q
    parents: array[int]  # i
    ends: array[int]  # i
    data_blob: bytes
    data_offsets: array[int]  # Q
    nulls: bytes
    acl_ids: array[int]  # I
    acls: array[int]  # I
    kinds: bytes
    ttl_nodes: array[int]  # i
    ttl_values: array[int]  # q
    cversions: array[int]  # i
    nums_children: array[int]  # i
    left_out: array[int]  # i
    tree_hashes: bytes
    counter_hashes: bytes


class Aspects(NamedTuple):
    """What is compared. root_counter: whether the root's counter is, where counters are."""

    data: bool
    acl: bool
    kind: bool
    counter: bool
    root_counter: bool


class Runs(NamedTuple):
    """How a walk gets past many equal siblings.

    streak: siblings in a row found equal one by one, before runs of them are compared. nodes: length of the first run;
    growth: each run that is equal makes the next one longer by this factor.
    """

    streak: int
    nodes: int
    growth: int


RUNS = Runs(4, 16, 4)


class Entries:
    """Codes with a source and a target index each, -1 where a side has no node."""

    __slots__ = ("codes", "sources", "targets")

    def __init__(self) -> None:
        self.codes = bytearray()
        self.sources: array[int] = array("i")
        self.targets: array[int] = array("i")

    def append(self, code: int, source: int, target: int) -> None:
        self.codes.append(code)
        self.sources.append(source)
        self.targets.append(target)

    def columns(self) -> tuple[bytearray, array[int], array[int]]:
        return self.codes, self.sources, self.targets


EntryColumns: TypeAlias = "tuple[bytearray, array[int], array[int]]"


def walk(source: Side, target: Side, aspects: Aspects, runs: Runs) -> tuple[EntryColumns, EntryColumns, EntryColumns]:
    """(changes, notes, what is in the way), in tree order, of two trees neither of whose roots is an ephemeral."""
    merge = _Merge(source, target, aspects, runs)
    merge.run()
    return merge.changes.columns(), merge.notes.columns(), merge.in_the_way.columns()


def add_all(source: Side) -> EntryColumns:
    """Every node of the source as one to add."""
    changes = Entries()
    _add_subtree(changes, source, frozenset(source.left_out), 0)
    return changes.columns()


def _add_subtree(changes: Entries, source: Side, left_out: frozenset[int], node: int) -> None:
    kinds, ends = source.kinds, source.ends
    end = ends[node]
    while node < end:
        if node in left_out:
            node = ends[node]
            continue
        if kinds[node] != _KIND_EPHEMERAL:
            changes.append(_ADD, node, -1)
        node += 1


class _Merge:
    def __init__(self, source: Side, target: Side, aspects: Aspects, runs: Runs) -> None:
        self.source = source
        self.target = target
        self.aspects = aspects
        self.runs = runs
        self.changes = Entries()
        self.notes = Entries()
        self.in_the_way = Entries()
        self.source_left_out = frozenset(source.left_out)
        self.target_left_out = frozenset(target.left_out)
        self.source_ttls = dict(zip(source.ttl_nodes, source.ttl_values, strict=True))
        self.target_ttls = dict(zip(target.ttl_nodes, target.ttl_values, strict=True))
        # Pairs of hash columns to compare; none if a side has no hashes, so that every node is looked at.
        self.hash_columns: list[tuple[bytes, bytes]] = []
        if source.tree_hashes and target.tree_hashes:
            self.hash_columns.append((source.tree_hashes, target.tree_hashes))
            if aspects.counter:
                self.hash_columns.append((source.counter_hashes, target.counter_hashes))
        self.has_same_root = _path(source, 0) == _path(target, 0)

    def run(self) -> None:
        """Append every change, note and obstacle, in tree order."""
        if self._is_same(0, 0):
            return
        self._compare(0, 0)
        open_pairs = [self._children(0, 0)]
        while open_pairs:
            # A pair's children come before its next sibling: that merge waits on the stack.
            pair = next(open_pairs[-1], None)
            if pair is None:
                open_pairs.pop()
            else:
                self._compare(*pair)
                open_pairs.append(self._children(*pair))

    def _children(self, source_parent: int, target_parent: int) -> Iterator[tuple[int, int]]:
        """Merge two lists of children by name. Yields the pairs to compare; deals with nodes of one side itself."""
        ours, theirs = self.source, self.target
        source_end, target_end = ours.ends[source_parent], theirs.ends[target_parent]
        source_name, target_name = _name_start(self.source, source_parent), _name_start(self.target, target_parent)
        source, target, streak = source_parent + 1, target_parent + 1, 0
        while True:
            while source < source_end and ours.kinds[source] == _KIND_EPHEMERAL:
                source = ours.ends[source]
            while target < target_end and target in self.target_left_out:
                target = theirs.ends[target]
            if source >= source_end or target >= target_end:
                break
            name = ours.paths_blob[ours.path_offsets[source] + source_name : ours.path_offsets[source + 1]]
            other = theirs.paths_blob[theirs.path_offsets[target] + target_name : theirs.path_offsets[target + 1]]
            if name < other:
                self._add(source)
                source = ours.ends[source]
            elif name > other:
                self._delete_subtree(target)
                target = theirs.ends[target]
            else:
                if theirs.kinds[target] == _KIND_EPHEMERAL:
                    self.in_the_way.append(_EPHEMERAL_IN_THE_WAY, source, target)
                    self._add(source)
                elif self._is_same(source, target):
                    streak += 1
                else:
                    streak = 0
                    yield source, target
                source, target = ours.ends[source], theirs.ends[target]
                if streak >= self.runs.streak:
                    source, target = self._pass_equal_siblings(source, target, source_parent, target_parent)
                    streak = 0
        while source < source_end:
            self._add(source)
            source = ours.ends[source]
        while target < target_end:
            if target not in self.target_left_out:
                self._delete_subtree(target)
            target = theirs.ends[target]

    def _is_same(self, source: int, target: int, count: int = 1) -> bool:
        """Whether hashes show that `count` nodes from here on are equal with all below them."""
        here, there = slice(32 * source, 32 * (source + count)), slice(32 * target, 32 * (target + count))
        return bool(self.hash_columns) and all(one[here] == other[there] for one, other in self.hash_columns)

    def _pass_equal_siblings(self, source: int, target: int, source_parent: int, target_parent: int) -> tuple[int, int]:
        """Where two lists of siblings go on after runs of equal ones: a wide parent costs its changes, not its width.

        A run is so many nodes in tree order. Names count as well as hashes; paths of one root are equal if the bytes
        of all of them together are, because each one's parent is there before it.
        """
        ours, theirs = self.source, self.target
        source_end, target_end = ours.ends[source_parent], theirs.ends[target_parent]
        run = self.runs.nodes
        while run >= self.runs.nodes and self.has_same_root:
            count = min(run, source_end - source, target_end - target)
            if count and self._is_same(source, target, count) and self._has_same_paths(source, target, count):
                # The run may end inside a sibling's subtree, which then is equal to its end.
                top = source + count - 1
                while ours.parents[top] != source_parent:
                    top = ours.parents[top]
                source, target = ours.ends[top], theirs.ends[target + top - source]
                run *= self.runs.growth
            else:
                run = min(run, count) // self.runs.growth
        return source, target

    def _has_same_paths(self, source: int, target: int, count: int) -> bool:
        ours, theirs = self.source, self.target
        here = slice(ours.path_offsets[source], ours.path_offsets[source + count])
        there = slice(theirs.path_offsets[target], theirs.path_offsets[target + count])
        return ours.paths_blob[here] == theirs.paths_blob[there]

    def _compare(self, source: int, target: int) -> None:
        """Two nodes of one path, neither of them an ephemeral."""
        aspects, changes = self.aspects, self.changes
        ours, theirs = self.source, self.target
        if aspects.data and _data(ours, source) != _data(theirs, target):
            changes.append(_DATA, source, target)
        if aspects.acl and ours.acls[ours.acl_ids[source]] != theirs.acls[theirs.acl_ids[target]]:
            changes.append(_ACL, source, target)
        if aspects.kind and (
            ours.kinds[source] != theirs.kinds[target] or self.source_ttls.get(source) != self.target_ttls.get(target)
        ):
            changes.append(_KIND, source, target)
        if aspects.counter and (source or aspects.root_counter):
            wanted, current = _counter(ours, source), _counter(theirs, target)
            if wanted > current:
                changes.append(_COUNTER, source, target)
            elif wanted < current:
                self.notes.append(_COUNTER_HIGHER, source, target)

    def _add(self, node: int) -> None:
        _add_subtree(self.changes, self.source, self.source_left_out, node)

    def _delete_subtree(self, node: int) -> None:
        target = self.target
        if target.kinds[node] == _KIND_EPHEMERAL:
            return  # it goes with its session, and nothing above it is deleted
        end = target.ends[node]
        while node < end:
            if node in self.target_left_out:
                self.in_the_way.append(_EXCLUDED_IN_THE_WAY, -1, node)
                node = target.ends[node]
                continue
            if target.kinds[node] == _KIND_EPHEMERAL:
                self.in_the_way.append(_EPHEMERAL_IN_THE_WAY, -1, node)
            else:
                self.changes.append(_DELETE, -1, node)
            node += 1


def _path(side: Side, node: int) -> bytes:
    return side.paths_blob[side.path_offsets[node] : side.path_offsets[node + 1]]


def _data(side: Side, node: int) -> bytes | None:
    return None if side.nulls[node] else side.data_blob[side.data_offsets[node] : side.data_offsets[node + 1]]


def _counter(side: Side, node: int) -> int:
    return (side.cversions[node] + side.nums_children[node]) // 2


def _name_start(side: Side, parent: int) -> int:
    """Where the names of a node's children begin in their paths; "/" alone ends with its separator."""
    path_bytes = side.path_offsets[parent + 1] - side.path_offsets[parent]
    return 1 if path_bytes == 1 else path_bytes + 1
