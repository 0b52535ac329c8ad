"""Columns: a tree's nodes as arrays, so that a million znodes are some thirty objects.

Invariant of every `Columns`: nodes are in tree order (`path.order_key`), each once; every parent precedes its
children; node 0 is the only root; an ephemeral has no children. `Columns.checked` establishes it where data enters;
everything after trusts it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zkmig.errors import BadInput
from zkmig.model import columns_plain, twins
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.znode import Kind

NODES_MAX = 2**31 - 2  # indices are 32 bits; the largest tree reported by users has 111 million nodes
STAT_TYPECODES = "qqqqiiiqiiq"  # zookeeper.jute, class Stat: long or int

KIND_PERSISTENT = Kind.PERSISTENT.value
KIND_EPHEMERAL = Kind.EPHEMERAL.value
KIND_TTL = Kind.TTL.value


class StatColumns(NamedTuple):
    """The eleven Stat fields, a column each, in wire order; the typecodes are STAT_TYPECODES."""

    czxid: array[int]
    mzxid: array[int]
    ctime: array[int]
    mtime: array[int]
    version: array[int]
    cversion: array[int]
    aversion: array[int]
    ephemeral_owner: array[int]
    data_length: array[int]
    num_children: array[int]
    pzxid: array[int]

    @classmethod
    def empty(cls) -> StatColumns:
        """Eleven columns of no nodes."""
        return cls(*(array(typecode) for typecode in STAT_TYPECODES))


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """n nodes. Offsets have n + 1 entries into their blob; every other column has n. Not to be written to.

    paths_blob: absolute UTF-8 paths. parents: index of the parent, -1 for the root. ends: one past the subtree, so
    the first child of i is i + 1 if ends[i] > i + 1, and the next sibling of c is ends[c]. nulls: 1 where data is
    null (its slice of data_blob is then empty). acl_ids: positions in acl_table. kinds: Kind values. ttls:
    milliseconds by index, for exactly the nodes of kind TTL.
    """

    paths_blob: bytes
    path_offsets: array[int]  # Q
    parents: array[int]  # i
    ends: array[int]  # i
    data_blob: bytes
    data_offsets: array[int]  # Q
    nulls: bytes
    acl_ids: array[int]  # I
    acl_table: tuple[AclList, ...]
    kinds: bytes
    ttls: Mapping[int, int]
    stats: StatColumns

    @classmethod
    def checked(
        cls,
        *,
        paths_blob: bytes,
        path_offsets: array[int],
        data_blob: bytes,
        data_offsets: array[int],
        nulls: bytes,
        acl_ids: array[int],
        acl_table: tuple[AclList, ...],
        kinds: bytes,
        ttls: Mapping[int, int],
        stats: StatColumns,
    ) -> Columns:
        """Columns whose invariant has been checked, parents and ends computed. Raises BadInput naming the path."""
        count = len(path_offsets) - 1
        check_offsets("path", path_offsets, len(paths_blob))
        check_offsets("data", data_offsets, len(data_blob))
        per_node: Sequence[Sequence[int]] = (data_offsets[1:], nulls, acl_ids, kinds, *stats)
        if count < 1 or count > NODES_MAX or any(len(column) != count for column in per_node):
            raise BadInput("columns are not of one length, or hold no node")
        _check_characters(paths_blob, path_offsets)
        parents, ends = _shape(paths_blob, path_offsets)
        columns = cls(
            paths_blob=paths_blob,
            path_offsets=path_offsets,
            parents=parents,
            ends=ends,
            data_blob=data_blob,
            data_offsets=data_offsets,
            nulls=nulls,
            acl_ids=acl_ids,
            acl_table=acl_table,
            kinds=kinds,
            ttls=ttls,
            stats=stats,
        )
        columns._check_values()
        return columns

    def __len__(self) -> int:
        return len(self.kinds)

    def path_bytes(self, index: int) -> bytes:
        """Absolute path of a node, UTF-8."""
        return self.paths_blob[self.path_offsets[index] : self.path_offsets[index + 1]]

    def data(self, index: int) -> bytes | None:
        """Data of a node; None is null."""
        if self.nulls[index]:
            return None
        return self.data_blob[self.data_offsets[index] : self.data_offsets[index + 1]]

    def slice(self, start: int) -> Columns:
        """The subtree of node `start`, as columns of its own."""
        stop = self.ends[start]
        nodes = slice(start, stop)
        path_start, path_stop = self.path_offsets[start], self.path_offsets[stop]
        data_start, data_stop = self.data_offsets[start], self.data_offsets[stop]
        shifted = twins.columns().shifted
        parents = shifted(self.parents, start, stop, -start)
        parents[0] = -1
        return Columns(
            paths_blob=self.paths_blob[path_start:path_stop],
            path_offsets=shifted(self.path_offsets, start, stop + 1, -path_start),
            parents=parents,
            ends=shifted(self.ends, start, stop, -start),
            data_blob=self.data_blob[data_start:data_stop],
            data_offsets=shifted(self.data_offsets, start, stop + 1, -data_start),
            nulls=self.nulls[nodes],
            acl_ids=self.acl_ids[nodes],
            acl_table=self.acl_table,
            kinds=self.kinds[nodes],
            ttls={index - start: ttl for index, ttl in self.ttls.items() if start <= index < stop},
            stats=StatColumns(*(column[nodes] for column in self.stats)),
        )

    def _check_values(self) -> None:
        fault, node = twins.columns().first_unsound(
            self.acl_ids,
            len(self.acl_table),
            self.kinds,
            self.nulls,
            self.data_offsets,
            array("q", sorted(self.ttls)),
            self.stats.ephemeral_owner,
            self.ends,
        )
        if fault:
            raise BadInput(_REASONS[fault], self.path_bytes(node).decode() if node >= 0 else "")


_REASONS = {
    columns_plain.NOT_A_PATH: "not a znode path, or a second root",
    columns_plain.ORPHAN: "its parent is missing, or nodes are not in tree order",
    columns_plain.TWICE: "it is there twice",
    columns_plain.UNSORTED: "nodes are not in tree order",
    columns_plain.ACL_UNKNOWN: "an ACL id points outside the ACL table",
    columns_plain.MARKER_UNKNOWN: "a kind or null marker has a value of no meaning",
    columns_plain.TTL_MISPLACED: "times to live are not those of the TTL nodes",
    columns_plain.OWNER_MISPLACED: "a node is ephemeral exactly if a session owns it",
    # Seen only when a node was deleted and created anew as an ephemeral while its children were read.
    columns_plain.EPHEMERAL_PARENT: "an ephemeral with children: the tree moved while being read",
    columns_plain.NULL_WITH_DATA: "data of a null node is not empty",
}


def check_offsets(what: str, offsets: array[int], blob_bytes: int) -> None:
    """Raise BadInput unless offsets begin at 0, never fall, and end at the end of their blob."""
    if not twins.columns().divides(offsets, blob_bytes):
        raise BadInput(f"{what} offsets do not divide their bytes")


def _check_characters(blob: bytes, offsets: array[int]) -> None:
    node = twins.columns().first_refused(blob, offsets)
    if node < 0:
        return
    try:
        path = blob[offsets[node] : offsets[node + 1]].decode()
    except UnicodeDecodeError:
        raise BadInput(f"path of node {node} is not UTF-8") from None
    paths.validate(path)
    raise AssertionError(f"{path!r} is valid after all")


def _shape(blob: bytes, offsets: array[int]) -> tuple[array[int], array[int]]:
    parents, ends, fault, node = twins.columns().shape(blob, offsets)
    if fault:
        path = blob[offsets[node] : offsets[node + 1]]
        raise BadInput(_REASONS[fault], path.decode(errors="replace") or f"node {node}")
    return parents, ends
