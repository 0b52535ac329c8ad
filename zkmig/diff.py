"""Diff: what to change on a target so that it equals a source. Pure, over two snapshots.

One merge along both trees, by the backend in use. Left out on both sides: ephemerals, which are counted, and whatever
the scope of either side excludes.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from zkmig import backend, diff_plain, treehash
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
from zkmig.diff_plain import RUNS, Aspects, EntryColumns, Runs, Side
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
    compared = {"data": policy.data, "acl": policy.acl, "kind": policy.kind, "counter": policy.counter}
    if not source.kinds_known or (target is not None and not target.kinds_known):
        compared["kind"] = False
    result = Diff(source, target, tuple(name for name, is_compared in compared.items() if is_compared), excluded)
    acl_table: dict[AclList, int] = {}  # of both, so that comparing two ACLs is comparing two numbers
    ours = _side(source, excluded, acl_table, compared["kind"])
    if target is None:
        result.changes.extend(_backend().add_all(ours))
    elif target.columns.kinds[0] == KIND_EPHEMERAL:
        result.in_the_way.append(Code.EPHEMERAL_IN_THE_WAY, 0, 0)
        result.changes.extend(_backend().add_all(ours))
    else:
        theirs = _side(target, excluded, acl_table, compared["kind"])
        aspects = Aspects(**compared, root_counter="/" not in (source.root, target.root))
        found = _backend().walk(ours, theirs, aspects, _RUNS)
        result.changes.extend(found[0])
        result.notes.extend(found[1])
        result.in_the_way.extend(found[2])
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


def _indices(snapshot: Snapshot, excluded: tuple[str, ...]) -> array[int]:
    absolute = (paths.join(snapshot.root, path) for path in excluded)
    return array("i", sorted(snapshot.index(path) for path in absolute if path in snapshot))


def _side(snapshot: Snapshot, excluded: tuple[str, ...], acl_table: dict[AclList, int], with_ttls: bool) -> Side:
    columns, hashes = snapshot.columns, snapshot.hashes
    ttl_nodes = array("i", sorted(columns.ttls) if with_ttls else ())
    return Side(
        paths_blob=columns.paths_blob,
        path_offsets=columns.path_offsets,
        parents=columns.parents,
        ends=columns.ends,
        data_blob=columns.data_blob,
        data_offsets=columns.data_offsets,
        nulls=columns.nulls,
        acl_ids=columns.acl_ids,
        acls=array("I", (acl_table.setdefault(acl, len(acl_table)) for acl in columns.acl_table)),
        kinds=columns.kinds,
        ttl_nodes=ttl_nodes,
        ttl_values=array("q", map(columns.ttls.__getitem__, ttl_nodes)),
        cversions=columns.stats.cversion,
        nums_children=columns.stats.num_children,
        left_out=_indices(snapshot, excluded),
        tree_hashes=hashes.tree if hashes else b"",
        counter_hashes=hashes.counter if hashes else b"",
    )


_RUNS = RUNS


class _Walks(Protocol):
    """zkmig/diff_plain.py says what each does."""

    def walk(
        self, source: Side, target: Side, aspects: Aspects, runs: Runs
    ) -> tuple[EntryColumns, EntryColumns, EntryColumns]: ...
    def add_all(self, source: Side) -> EntryColumns: ...


def _backend() -> _Walks:
    if backend.name() == "cython":
        from zkmig._fast import diff as compiled

        return compiled
    return diff_plain
