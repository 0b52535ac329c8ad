"""Predict: the tree that a plan leads to, from the tree that it starts from. Pure.

What nobody writes stays as it is, ephemerals included; what the plan creates has no Stat of its own yet, and says zero.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

from zkmig.errors import BadInput
from zkmig.model import twins
from zkmig.model.acl import AclList
from zkmig.model.columns import STAT_TYPECODES
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.plan.creates import Creates, Operations
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, WriteData


def predict(target: Snapshot | None, root: str, operations: Operations, acl_steps: Iterable[AclStep] = ()) -> Snapshot:
    """The target once all is carried out, its ACLs final. target None: its root, `root`, is not there yet.

    BadInput where the two do not fit: the target is not the one that the operations were planned for.
    """
    builder = SnapshotBuilder()
    gone: set[str] = set()
    written: dict[str, bytes | None] = {}
    late: list[CreateNode] = []
    for operation in operations.rest:
        match operation:
            case DeleteNode(path=path):
                gone.add(path)
            case WriteData(path=path, data=data):
                written[path] = data
            case CreateNode():
                late.append(operation)
            case _:
                pass
    if target is None and (gone or written):
        raise BadInput(_NO_FIT, next(iter((*gone, *written))), "plan again")
    if target is not None:
        builder.extend(target.columns, _others(target, gone | written.keys()))
        for path, data in written.items():
            node = target[path]
            builder.add(path, data, node.acl, node.stat, node.kind, node.ttl_ms)
    _extend(builder, operations.creates)
    for create in late:
        builder.add(create.path, create.data, create.acl, _UNBORN, create.kind, create.ttl_ms)
    scope = target.scope if target is not None else Scope(root)
    made = builder.build(scope, Provenance(f"the plan for {root}"), _PREDICTED)
    return with_acls(made, {step.path: step.final for step in acl_steps})


_UNBORN = Stat(*[0] * len(STAT_TYPECODES))
SEARCHES_A_PASS = 8  # nodes that a pass over the columns looks at while one path is searched for
_NO_FIT = "the operations are for another tree: this node is not there"
_PREDICTED = Consistency(False, 0, 0, "it is predicted")


def _others(target: Snapshot, left: Collection[str]) -> Iterator[tuple[int, int]]:
    """Ranges of all nodes but these, which have to be there."""
    start = 0
    for node in sorted(_indices(target, left)):
        if start < node:
            yield start, node
        start = node + 1
    if start < len(target):
        yield start, len(target)


def _indices(target: Snapshot, left: Collection[str]) -> Iterator[int]:
    """Where these are, in any order. A search for each, or where they are many one look at every node."""
    columns = target.columns
    if len(left) < len(target) // SEARCHES_A_PASS:
        find = twins.order().find
        for path in left:
            node = find(columns.paths_blob, columns.path_offsets, path.encode())
            if node < 0:
                raise BadInput(_NO_FIT, path, "plan again")
            yield node
        return
    wanted = {path.encode() for path in left}
    for node, (start, end) in enumerate(pairwise(columns.path_offsets)):
        raw = columns.paths_blob[start:end]
        if raw in wanted:
            wanted.remove(raw)
            yield node
    if wanted:
        raise BadInput(_NO_FIT, min(wanted).decode(), "plan again")


def _extend(builder: SnapshotBuilder, creates: Creates) -> None:
    """All that is created, column by column: a million of them are no objects."""
    count, first = len(creates), len(builder)
    table = array("I", map(builder.acl_id, creates.acl_table))
    shifted, translated = twins.columns().shifted, twins.columns().translated
    builder.path_offsets += shifted(creates.path_offsets, 1, count + 1, len(builder.paths))
    builder.data_offsets += shifted(creates.data_offsets, 1, count + 1, len(builder.data))
    builder.paths += creates.paths_blob
    builder.data += creates.data_blob
    builder.nulls += creates.nulls
    builder.acl_ids += translated(creates.acl_ids, 0, count, table)
    for column, typecode in zip(builder.stats, STAT_TYPECODES, strict=True):
        column += array(typecode, bytes(count * column.itemsize))
    assert len(builder.kinds) == first  # whatever was added before came with its kind
    builder.kinds += creates.kinds
    builder.ttls |= {first + index: ttl for index, ttl in creates.ttls.items()}


def with_acls(snapshot: Snapshot, acls: dict[str, AclList]) -> Snapshot:
    """The same tree with these ACLs on those of the paths that it has."""
    wanted = {snapshot.index(path): acl for path, acl in acls.items() if path in snapshot}
    if not wanted:
        return snapshot
    columns = snapshot.columns
    table = {acl: at for at, acl in enumerate(columns.acl_table)}
    ids = array("I", columns.acl_ids)
    for node, acl in wanted.items():
        ids[node] = table.setdefault(acl, len(table))
    replaced = dataclasses.replace(columns, acl_ids=ids, acl_table=tuple(table))
    return Snapshot(replaced, snapshot.scope, snapshot.provenance, snapshot.consistency)
