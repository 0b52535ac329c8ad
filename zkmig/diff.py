"""Diff: what to change on a target so that it equals a source. Pure, over two snapshots.

One merge along both trees, in which subtrees of equal hash are passed over. Left out on both sides: ephemerals, which
are counted, and whatever the scope of either side excludes.
"""

from __future__ import annotations

from collections.abc import Iterator

from zkmig import treehash
from zkmig.changes import (
    DEFAULT_POLICY,
    Add,
    Change,
    ChangeAcl,
    ChangeCounter,
    ChangeData,
    ChangeKind,
    Code,
    ComparePolicy,
    CounterHigher,
    Counts,
    Delete,
    Diff,
    EphemeralInTheWay,
    ExcludedInTheWay,
    InTheWay,
)
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.columns import KIND_EPHEMERAL
from zkmig.model.snapshot import Snapshot

# What a caller of `diff` needs to name is found here too.
__all__ = [
    "DEFAULT_POLICY",
    "Add",
    "Change",
    "ChangeAcl",
    "ChangeCounter",
    "ChangeData",
    "ChangeKind",
    "ComparePolicy",
    "CounterHigher",
    "Counts",
    "Delete",
    "Diff",
    "EphemeralInTheWay",
    "ExcludedInTheWay",
    "InTheWay",
    "diff",
]


def diff(
    source: Snapshot, target: Snapshot | None, policy: ComparePolicy = DEFAULT_POLICY, hash_first: bool = False
) -> Diff:
    """What to change on `target` so that it equals `source`.

    target None: nothing is there, so that every node is added, the root included. Hashes are used if both snapshots
    have them; hash_first computes those that are missing. The root's counter is not compared if either root is "/",
    where it is the server's own. Raises BadInput if the source's root is an ephemeral.
    """
    if source.columns.kinds[0] == KIND_EPHEMERAL:
        raise BadInput("the root is an ephemeral: there is nothing to carry over", source.root)
    if hash_first and target is not None:
        treehash.hashes(source)
        treehash.hashes(target)
    excluded = _excluded(source, target)
    aspects = {"data": policy.data, "acl": policy.acl, "kind": policy.kind, "counter": policy.counter}
    if not source.kinds_known or (target is not None and not target.kinds_known):
        aspects["kind"] = False
    compared = tuple(name for name, is_compared in aspects.items() if is_compared)
    result = Diff(source, target, compared, excluded)
    left_out = _indices(source, excluded)
    if target is None:
        _add_subtree(result, source, left_out, 0)
    elif target.columns.kinds[0] == KIND_EPHEMERAL:
        result.in_the_way.append(Code.EPHEMERAL_IN_THE_WAY, 0, 0)
        _add_subtree(result, source, left_out, 0)
    else:
        _Merge(result, source, target, left_out, _indices(target, excluded)).run()
    return result


def _excluded(source: Snapshot, target: Snapshot | None) -> tuple[str, ...]:
    # A scope that leaves a path out knows nothing of it: absence there must not become a delete here, nor may a node
    # be added where the other side is not to be touched.
    relative = {
        paths.relative_to(exclude, side.root)
        for side in (source, target)
        if side is not None
        for exclude in side.scope.excludes
        if exclude != side.root and paths.contains(side.root, exclude)
    }
    return tuple(sorted(relative, key=paths.order_key))


def _indices(snapshot: Snapshot, excluded: tuple[str, ...]) -> frozenset[int]:
    absolute = (paths.join(snapshot.root, path) for path in excluded)
    return frozenset(snapshot.index(path) for path in absolute if path in snapshot)


def _add_subtree(result: Diff, source: Snapshot, left_out: frozenset[int], node: int) -> None:
    kinds, ends = source.columns.kinds, source.columns.ends
    end = ends[node]
    while node < end:
        if node in left_out:
            node = ends[node]
            continue
        if kinds[node] != KIND_EPHEMERAL:
            result.changes.append(Code.ADD, node, -1)
        node += 1


_STREAK = 4  # siblings in a row found equal one by one, before runs of them are compared
_RUN_NODES = 16  # length of the first run; each run that is equal makes the next one longer by this factor
_RUN_GROWTH = 4


class _Merge:
    """The walk along both trees. left_out: indices of the tops of excluded subtrees."""

    def __init__(
        self,
        result: Diff,
        source: Snapshot,
        target: Snapshot,
        source_left_out: frozenset[int],
        target_left_out: frozenset[int],
    ) -> None:
        self.result = result
        self.source = source
        self.target = target
        self.source_left_out = source_left_out
        self.target_left_out = target_left_out
        # ACLs by identity of one table, so that comparing two is comparing two ints.
        table: dict[AclList, int] = {}
        self.source_acls, self.target_acls = (
            [table.setdefault(acl, len(table)) for acl in side.columns.acl_table] for side in (source, target)
        )
        self.is_root_counter_compared = "/" not in (source.root, target.root)
        # Pairs of hash columns to compare; none if a side has no hashes, so that every node is looked at.
        self.hash_columns: list[tuple[bytes, bytes]] = []
        if source.hashes is not None and target.hashes is not None:
            self.hash_columns.append((source.hashes.tree, target.hashes.tree))
            if "counter" in result.compared:
                self.hash_columns.append((source.hashes.counter, target.hashes.counter))

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
        ours, theirs = self.source.columns, self.target.columns
        source_end, target_end = ours.ends[source_parent], theirs.ends[target_parent]
        source_name, target_name = _name_start(self.source, source_parent), _name_start(self.target, target_parent)
        source, target, streak = source_parent + 1, target_parent + 1, 0
        while True:
            while source < source_end and ours.kinds[source] == KIND_EPHEMERAL:
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
                if theirs.kinds[target] == KIND_EPHEMERAL:
                    self.result.in_the_way.append(Code.EPHEMERAL_IN_THE_WAY, source, target)
                    self._add(source)
                elif self._is_same(source, target):
                    streak += 1
                else:
                    streak = 0
                    yield source, target
                source, target = ours.ends[source], theirs.ends[target]
                if streak >= _STREAK:
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
        ours, theirs = self.source.columns, self.target.columns
        source_end, target_end = ours.ends[source_parent], theirs.ends[target_parent]
        run = _RUN_NODES
        while run >= _RUN_NODES and self.source.root == self.target.root:
            count = min(run, source_end - source, target_end - target)
            if count and self._is_same(source, target, count) and self._has_same_paths(source, target, count):
                # The run may end inside a sibling's subtree, which then is equal to its end.
                top = source + count - 1
                while ours.parents[top] != source_parent:
                    top = ours.parents[top]
                source, target = ours.ends[top], theirs.ends[target + top - source]
                run *= _RUN_GROWTH
            else:
                run = min(run, count) // _RUN_GROWTH
        return source, target

    def _has_same_paths(self, source: int, target: int, count: int) -> bool:
        ours, theirs = self.source.columns, self.target.columns
        here = slice(ours.path_offsets[source], ours.path_offsets[source + count])
        there = slice(theirs.path_offsets[target], theirs.path_offsets[target + count])
        return ours.paths_blob[here] == theirs.paths_blob[there]

    def _compare(self, source: int, target: int) -> None:
        """Two nodes of one path, neither of them an ephemeral."""
        compared, changes = self.result.compared, self.result.changes
        ours, theirs = self.source.columns, self.target.columns
        if "data" in compared and ours.data(source) != theirs.data(target):
            changes.append(Code.DATA, source, target)
        if "acl" in compared and self.source_acls[ours.acl_ids[source]] != self.target_acls[theirs.acl_ids[target]]:
            changes.append(Code.ACL, source, target)
        if "kind" in compared and (
            ours.kinds[source] != theirs.kinds[target] or ours.ttls.get(source) != theirs.ttls.get(target)
        ):
            changes.append(Code.KIND, source, target)
        if "counter" in compared and (source or self.is_root_counter_compared):
            wanted, current = self.source.counter_at(source), self.target.counter_at(target)
            if wanted > current:
                changes.append(Code.COUNTER, source, target)
            elif wanted < current:
                self.result.notes.append(Code.COUNTER_HIGHER, source, target)

    def _add(self, node: int) -> None:
        _add_subtree(self.result, self.source, self.source_left_out, node)

    def _delete_subtree(self, node: int) -> None:
        columns, result = self.target.columns, self.result
        if columns.kinds[node] == KIND_EPHEMERAL:
            return  # it goes with its session, and nothing above it is deleted
        end = columns.ends[node]
        while node < end:
            if node in self.target_left_out:
                result.in_the_way.append(Code.EXCLUDED_IN_THE_WAY, -1, node)
                node = columns.ends[node]
                continue
            if columns.kinds[node] == KIND_EPHEMERAL:
                result.in_the_way.append(Code.EPHEMERAL_IN_THE_WAY, -1, node)
            else:
                result.changes.append(Code.DELETE, -1, node)
            node += 1


def _name_start(snapshot: Snapshot, parent: int) -> int:
    """Where the names of a node's children begin in their paths; "/" alone ends with its separator."""
    offsets = snapshot.columns.path_offsets
    path_bytes = offsets[parent + 1] - offsets[parent]
    return 1 if path_bytes == 1 else path_bytes + 1
