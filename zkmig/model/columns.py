"""Columns: a tree's nodes as arrays, so that a million znodes are some thirty objects.

Invariant of every `Columns`: nodes are in tree order (`path.order_key`), each once; every parent precedes its
children; node 0 is the only root; an ephemeral has no children. `Columns.checked` establishes it where data enters;
everything after trusts it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import gt
from typing import NamedTuple

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.znode import Kind

NODES_MAX = 2**31 - 2  # indices are 32 bits; the largest tree reported by users has 111 million nodes
STAT_TYPECODES = "qqqqiiiqiiq"  # zookeeper.jute, class Stat: long or int

KIND_PERSISTENT = Kind.PERSISTENT.value
KIND_EPHEMERAL = Kind.EPHEMERAL.value
KIND_TTL = Kind.TTL.value
_KIND_BYTES = bytes(kind.value for kind in Kind)


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
        _check_offsets("path", path_offsets, len(paths_blob))
        _check_offsets("data", data_offsets, len(data_blob))
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
        parents = array("i", (parent - start for parent in self.parents[nodes]))
        parents[0] = -1
        return Columns(
            paths_blob=self.paths_blob[path_start:path_stop],
            path_offsets=array("Q", (offset - path_start for offset in self.path_offsets[start : stop + 1])),
            parents=parents,
            ends=array("i", (end - start for end in self.ends[nodes])),
            data_blob=self.data_blob[data_start:data_stop],
            data_offsets=array("Q", (offset - data_start for offset in self.data_offsets[start : stop + 1])),
            nulls=self.nulls[nodes],
            acl_ids=self.acl_ids[nodes],
            acl_table=self.acl_table,
            kinds=self.kinds[nodes],
            ttls={index - start: ttl for index, ttl in self.ttls.items() if start <= index < stop},
            stats=StatColumns(*(column[nodes] for column in self.stats)),
        )

    def _check_values(self) -> None:
        if max(self.acl_ids) >= len(self.acl_table):
            raise BadInput("an ACL id points outside the ACL table")
        if self.kinds.translate(None, _KIND_BYTES) or self.nulls.translate(None, b"\0\1"):
            raise BadInput("a kind or null marker has a value of no meaning")
        if any(self.kinds[i] != KIND_TTL for i in self.ttls) or self.kinds.count(KIND_TTL) != len(self.ttls):
            raise BadInput("times to live are not those of the TTL nodes")
        owners = self.stats.ephemeral_owner
        for index, (kind, owner) in enumerate(zip(self.kinds, owners, strict=True)):
            if (kind == KIND_EPHEMERAL) != (owner != 0):
                raise BadInput("a node is ephemeral exactly if a session owns it", self._where(index))
            if owner and self.ends[index] != index + 1:
                # Seen only when a node was deleted and created anew as an ephemeral while its children were read.
                raise BadInput("an ephemeral with children: the tree moved while being read", self._where(index))
        index = self.nulls.find(1)
        while index >= 0:
            if self.data_offsets[index] != self.data_offsets[index + 1]:
                raise BadInput("data of a null node is not empty", self._where(index))
            index = self.nulls.find(1, index + 1)

    def _where(self, index: int) -> str:
        return self.path_bytes(index).decode()


def _check_offsets(what: str, offsets: array[int], blob_bytes: int) -> None:
    if not offsets or offsets[0] != 0 or offsets[-1] != blob_bytes or any(map(gt, offsets, islice(offsets, 1, None))):
        raise BadInput(f"{what} offsets do not divide their bytes")


# -- paths ------------------------------------------------------------------------------------------------------------

_PLAIN_BYTES = bytes(range(0x20, 0x7F))
# path.validate on UTF-8: controls, C1 controls, surrogates and private use, U+FFF0 to U+FFFF, beyond the BMP.
_REFUSED = re.compile(
    rb"[\x00-\x1f\x7f\xf0-\xff]|\xc2[\x80-\x9f]|\xed[\xa0-\xbf]|\xee|\xef[\x80-\xa3]|\xef\xbf[\xb0-\xbf]"
)
_CHECK_NODES = 4096  # nodes whose paths are decoded at a time, to bound the memory of the check


def _check_characters(blob: bytes, offsets: array[int]) -> None:
    """Every path is one that ZooKeeper accepts, as `path.validate` says; empty components are left to `_shape`.

    Whole stretches are looked at with C-speed scans; a path at fault is then put through `path.validate` for the
    reason. Every path begins with "/", so "/./" in a stretch is a relative component of some path in it.
    """
    count = len(offsets) - 1
    for first in range(0, count, _CHECK_NODES):
        last = min(first + _CHECK_NODES, count)
        stretch = blob[offsets[first] : offsets[last]]
        if not _is_legal(stretch):
            for index in range(first, last):
                try:
                    paths.validate(blob[offsets[index] : offsets[index + 1]].decode())
                except UnicodeDecodeError:
                    raise BadInput(f"path of node {index} is not UTF-8") from None


def _is_legal(stretch: bytes) -> bool:
    fenced = stretch + b"/"
    if b"/./" in fenced or b"/../" in fenced:
        return False
    if not stretch.translate(None, _PLAIN_BYTES):
        return True
    try:
        stretch.decode()
    except UnicodeDecodeError:
        return False
    return _REFUSED.search(stretch) is None


def _shape(blob: bytes, offsets: array[int]) -> tuple[array[int], array[int]]:
    """(parents, ends) of paths in tree order; raises BadInput for an orphan, a duplicate or a node out of order.

    The open nodes are the ancestors of the node before, so a parent that exists is among them; names that ascend
    under each parent are then the same as tree order.
    """
    count = len(offsets) - 1
    parents = array("i", bytes(4 * count))
    ends = array("i", bytes(4 * count))
    open_paths: list[bytes] = []
    open_nodes: list[int] = []
    last_names: list[bytes] = []
    for index in range(count):
        path = blob[offsets[index] : offsets[index + 1]]
        head, slash, name = path.rpartition(b"/")
        if not slash or (not name and path != b"/") or (not name and index):
            raise BadInput("not a znode path, or a second root", _shown(path, index))
        head = head or b"/"
        if index:
            while open_paths and open_paths[-1] != head:
                ends[open_nodes.pop()] = index
                open_paths.pop()
                last_names.pop()
            if not open_paths:
                raise BadInput("its parent is missing, or nodes are not in tree order", _shown(path, index))
            if name <= last_names[-1]:
                reason = "it is there twice" if name == last_names[-1] else "nodes are not in tree order"
                raise BadInput(reason, _shown(path, index))
            last_names[-1] = name
        parents[index] = open_nodes[-1] if index else -1
        open_paths.append(path)
        open_nodes.append(index)
        last_names.append(b"")
    for node in open_nodes:
        ends[node] = count
    return parents, ends


def _shown(path: bytes, index: int) -> str:
    return path.decode(errors="replace") or f"node {index}"
