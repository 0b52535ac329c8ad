"""What a diff deletes, gathered from the target's columns: there may be as many deletes as there are creates."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from zkmig.epoch.journal import deleted_sizes
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.plan.added import added_nodes
from zkmig.plan.operations import DeleteNode, Pin


@dataclass(frozen=True, slots=True)
class Deleted:
    """operations: in tree order. journal_sizes: bytes that the entry of each takes in the undo journal.

    counters: the sequence counter of each, which a rollback has to raise again. parents: indices of the target's nodes
    that lose a child, each once.
    """

    operations: Sequence[DeleteNode]
    journal_sizes: Sequence[int]
    counters: array[int]
    parents: Sequence[int]


def deleted_nodes(target: Snapshot, nodes: array[int], root: str) -> Deleted:
    """For these nodes of the target (indices, ascending), which is at `root`."""
    again = added_nodes(target, nodes, root)  # as what undo creates them
    creates, stats = again.creates, target.columns.stats
    rows = zip(*(map(column.__getitem__, nodes) for column in stats), strict=True)
    pinned = zip(
        *(map(column.__getitem__, nodes) for column in (stats.czxid, stats.version, stats.aversion)), strict=True
    )
    # As Pin._make and DeleteNode._make do it, without a call of Python for each of what may be a million.
    pins = map(partial(tuple.__new__, Pin), pinned)
    kinds = map(tuple(Kind).__getitem__, creates.kinds)  # by value
    ttls = map(creates.ttls.get, range(len(nodes)), [0] * len(nodes)) if creates.ttls else [0] * len(nodes)
    journal_sizes = deleted_sizes(
        creates.path_offsets,
        creates.data_offsets,
        creates.nulls,
        creates.acl_ids,
        creates.acl_table,
        rows,
        creates.ttls,
    )
    fields = zip(creates.paths(), pins, creates.sizes(), kinds, ttls, strict=True)
    return Deleted(
        operations=list(map(partial(tuple.__new__, DeleteNode), fields)),
        journal_sizes=journal_sizes,
        counters=again.counters,
        parents=[each for each in dict.fromkeys(map(target.columns.parents.__getitem__, nodes)) if each >= 0],
    )
