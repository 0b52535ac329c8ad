"""What a diff adds, gathered from the source's columns: creates of a plan, without an object for each.

Adds of a diff are in tree order, and none is below a node that is left out; so a parent that is added precedes its
children here, and one that is not is on the target already, or is what the root is created below.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.columns import KIND_TTL
from zkmig.model.snapshot import Snapshot
from zkmig.plan.acls import AclPlanner
from zkmig.plan.creates import Creates, columns_backend
from zkmig.plan.operations import AclStep


@dataclass(frozen=True, slots=True)
class Added:
    """creates: with the ACLs of the source, on the target's paths.

    parents: of each, the index of its parent among them, -1 where that is none of them. children: how many of them are
    below each. counters: the sequence counter that each is to have.
    """

    creates: Creates
    parents: array[int]
    children: array[int]
    counters: array[int]

    def tops(self) -> Iterator[str]:
        """Paths of those whose parent is not created."""
        return (self.creates.path_at(index) for index, parent in enumerate(self.parents) if parent < 0)

    def raises(self) -> Iterator[tuple[int, int]]:
        """Index of each whose counter, if it has one, is not its number of children; and by how much it is higher."""
        pairs = zip(self.counters, self.children, strict=True)
        return (
            (index, counter - count) for index, (counter, count) in enumerate(pairs) if counter and counter != count
        )


def added_nodes(source: Snapshot, nodes: array[int], root: str) -> Added:
    """What to create for these nodes of the source (indices, ascending) on a target at `root`."""
    columns, backend = source.columns, columns_backend()
    old, new = source.root.encode(), root.encode()
    if len(nodes) == len(columns) and old == new:
        paths_blob, path_offsets = columns.paths_blob, columns.path_offsets  # nothing is copied
        data_blob, data_offsets = columns.data_blob, columns.data_offsets
    else:
        strip, prefix = 0 if old == b"/" else len(old), b"" if new == b"/" else new
        paths_blob, path_offsets = backend.relocate(columns.paths_blob, columns.path_offsets, nodes, strip, prefix)
        data_blob, data_offsets = backend.gather(columns.data_blob, columns.data_offsets, nodes)
    creates = Creates(
        paths_blob=paths_blob,
        path_offsets=path_offsets,
        data_blob=data_blob,
        data_offsets=data_offsets,
        nulls=bytes(map(columns.nulls.__getitem__, nodes)),
        acl_ids=array("I", map(columns.acl_ids.__getitem__, nodes)),
        acl_table=columns.acl_table,
        kinds=(kinds := bytes(map(columns.kinds.__getitem__, nodes))),
        ttls={i: columns.ttls[nodes[i]] for i, kind in enumerate(kinds) if kind == KIND_TTL} if columns.ttls else {},
    )
    parents, children = _family(source, nodes)
    cversion, num_children = columns.stats.cversion, columns.stats.num_children
    counters = array("q", [(cversion[node] + num_children[node]) // 2 for node in nodes])
    if nodes and creates.path_bytes(0) == b"/":
        counters[0] = children[0]  # that of "/" is the server's own
    return Added(creates, parents, children, counters)


def _family(source: Snapshot, nodes: array[int]) -> tuple[array[int], array[int]]:
    place = array("i", [-1]) * (len(source) + 1)  # one more: for the parent -1 of the root
    for index, node in enumerate(nodes):
        place[node] = index
    above = source.columns.parents
    parents = array("i", [place[above[node]] for node in nodes])
    children = array("i", [0]) * len(nodes)
    for parent in parents:
        if parent >= 0:
            children[parent] += 1
    return parents, children


def with_migrators_acls(added: Added, raised: set[int], acls: AclPlanner) -> tuple[Creates, list[AclStep]]:
    """The creates with ACLs that let the migrator do its work below them, and the steps that narrow them afterwards.

    raised: indices of those whose counter is raised, which takes children too.
    """
    table: dict[AclList, int] = {}
    chosen: dict[tuple[int, bool], tuple[int, bool]] = {}  # by ACL and whether there is work below: its id, narrowed?
    ids = array("I")
    steps: list[AclStep] = []
    creates = added.creates
    for index, (acl_id, children) in enumerate(zip(creates.acl_ids, added.children, strict=True)):
        key = (acl_id, children > 0 or index in raised)
        if key not in chosen:
            acl, step = acls.for_created(creates.path_at(index), creates.acl_table[acl_id], key[1])
            chosen[key] = table.setdefault(acl, len(table)), step is not None
        new_id, is_narrowed = chosen[key]
        ids.append(new_id)
        if is_narrowed:
            path = creates.path_at(index)
            step = acls.for_created(path, creates.acl_table[acl_id], key[1])[1]
            steps += [step] if step else []
    return _with_acls(creates, ids, tuple(table)), steps


def _with_acls(creates: Creates, ids: array[int], table: tuple[AclList, ...]) -> Creates:
    return Creates(
        paths_blob=creates.paths_blob,
        path_offsets=creates.path_offsets,
        data_blob=creates.data_blob,
        data_offsets=creates.data_offsets,
        nulls=creates.nulls,
        acl_ids=ids,
        acl_table=table,
        kinds=creates.kinds,
        ttls=creates.ttls,
    )


def parents_of(paths_of_tops: Iterator[str]) -> Iterator[str]:
    """The parent of each path; none for "/"."""
    return (paths.parent(path) for path in paths_of_tops if path != "/")
