"""Staging: columns of znodes in the order in which they arrived, on the way to a Snapshot.

Decoders write straight into the columns, so these are public. A node is there once every column but `kinds` has it;
kinds may lag behind and are then told from the stats.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from zkmig.errors import BadInput
from zkmig.model import twins
from zkmig.model.acl import AclList
from zkmig.model.columns import NODES_MAX, Columns, StatColumns, check_offsets
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind


class Staging:
    """Collects znodes in any order and builds one Snapshot of them. Good for one build.

    The columns are those of `Columns`, not yet ordered nor checked. paths, data: bytes one after another, cut by
    path_offsets and data_offsets (u64, from 0). nulls: 1 where data is null. acl_ids: u32, positions in acl_table,
    whose keys are in the order of their values. kinds: Kind values, of the first nodes at least; the others are
    ephemeral or persistent, as stats.ephemeral_owner says. ttls: milliseconds by index, of the TTL nodes.
    """

    __slots__ = (
        "acl_ids",
        "acl_table",
        "data",
        "data_offsets",
        "kinds",
        "nulls",
        "path_offsets",
        "paths",
        "stats",
        "ttls",
    )

    def __init__(self) -> None:
        self.paths = bytearray()
        self.path_offsets: array[int] = array("Q", (0,))
        self.data = bytearray()
        self.data_offsets: array[int] = array("Q", (0,))
        self.nulls = bytearray()
        self.acl_ids: array[int] = array("I")
        self.acl_table: dict[AclList, int] = {}
        self.kinds = bytearray()
        self.ttls: dict[int, int] = {}
        self.stats = StatColumns.empty()

    def __len__(self) -> int:
        return len(self.path_offsets) - 1

    def add(
        self, path: str, data: bytes | None, acl: AclList, stat: Stat, kind: Kind | None = None, ttl_ms: int = 0
    ) -> None:
        """Add a znode, its path absolute. kind None: ephemeral or persistent, as stat.ephemeral_owner says."""
        try:
            encoded = path.encode()
        except UnicodeEncodeError:
            raise BadInput("not a znode path: it cannot be encoded", repr(path)) from None
        if kind is not None:
            self._fill_kinds()
            if kind is Kind.TTL:
                self.ttls[len(self)] = ttl_ms
            self.kinds.append(kind.value)
        self.paths += encoded
        self.path_offsets.append(len(self.paths))
        if data:
            self.data += data
        self.data_offsets.append(len(self.data))
        self.nulls.append(data is None)
        self.acl_ids.append(self.acl_id(acl))
        for column, value in zip(self.stats, stat, strict=True):
            column.append(value)

    def acl_id(self, acl: AclList) -> int:
        """Position of an ACL in the table, which takes it in if it is new."""
        return self.acl_table.setdefault(acl, len(self.acl_table))

    def extend(self, columns: Columns, ranges: Iterable[tuple[int, int]]) -> None:
        """Add the nodes [start, stop) of each range of other columns."""
        self._fill_kinds()
        table = array("I", map(self.acl_id, columns.acl_table))
        is_same_table = table == array("I", range(len(table)))
        ttl_nodes = sorted(columns.ttls)
        paths_blob, data_blob = memoryview(columns.paths_blob), memoryview(columns.data_blob)
        for start, stop in ranges:
            self._extend_offsets(self.path_offsets, columns.path_offsets, start, stop)
            self.paths += paths_blob[columns.path_offsets[start] : columns.path_offsets[stop]]
            self._extend_offsets(self.data_offsets, columns.data_offsets, start, stop)
            self.data += data_blob[columns.data_offsets[start] : columns.data_offsets[stop]]
            for node in ttl_nodes[bisect_left(ttl_nodes, start) : bisect_left(ttl_nodes, stop)]:
                self.ttls[len(self.kinds) + node - start] = columns.ttls[node]
            self.nulls += columns.nulls[start:stop]
            self.kinds += columns.kinds[start:stop]
            if is_same_table:
                self.acl_ids += columns.acl_ids[start:stop]
            else:
                self.acl_ids += twins.columns().translated(columns.acl_ids, start, stop, table)
            for column, other in zip(self.stats, columns.stats, strict=True):
                column += other[start:stop]

    @staticmethod
    def _extend_offsets(offsets: array[int], others: array[int], start: int, stop: int) -> None:
        offsets += twins.columns().shifted(others, start + 1, stop + 1, offsets[-1] - others[start])

    def _fill_kinds(self) -> None:
        self.kinds += twins.columns().kinds_of(self.stats.ephemeral_owner, len(self.kinds))

    def build(self, scope: Scope, provenance: Provenance, consistency: Consistency) -> Snapshot:
        """Sort, check and hand over. Raises BadInput naming an orphan, a duplicate or a path that cannot be."""
        if not len(self):
            raise BadInput("the tree has no root", scope.root)
        self._fill_kinds()
        self._check_lengths()
        order = twins.order().tree_order(self.paths, self.path_offsets)
        # Column after column, each original dropped before the next is touched: the peak is one column above the
        # snapshot.
        paths_blob, self.path_offsets = _blob(self.paths, self.path_offsets, order)
        self.paths.clear()
        data_blob, self.data_offsets = _blob(self.data, self.data_offsets, order)
        self.data.clear()
        nulls, kinds = _bytes(self.nulls, order), _bytes(self.kinds, order)
        if order is not None:
            self.acl_ids = twins.columns().reordered(self.acl_ids, order)
            for position, name in enumerate(StatColumns._fields):
                self.stats = self.stats._replace(**{name: twins.columns().reordered(self.stats[position], order)})
            if self.ttls:
                self.ttls = {new: self.ttls[old] for new, old in enumerate(order) if old in self.ttls}
        columns = Columns.checked(
            paths_blob=paths_blob,
            path_offsets=self.path_offsets,
            data_blob=data_blob,
            data_offsets=self.data_offsets,
            nulls=nulls,
            acl_ids=self.acl_ids,
            acl_table=tuple(self.acl_table),
            kinds=kinds,
            ttls=self.ttls,
            stats=self.stats,
        )
        return Snapshot(columns, scope, provenance, consistency)

    def _check_lengths(self) -> None:
        # Before anything is put in order; `Columns.checked` looks again at what comes out.
        per_node = (self.nulls, self.acl_ids, self.kinds, *self.stats)
        if len(self.data_offsets) != len(self.path_offsets) or any(len(column) != len(self) for column in per_node):
            raise BadInput("columns are not of one length")
        if len(self) > NODES_MAX:
            raise BadInput(f"{len(self)} nodes, the most is {NODES_MAX}")
        check_offsets("path", self.path_offsets, len(self.paths))
        check_offsets("data", self.data_offsets, len(self.data))


def _blob(blob: bytearray, offsets: array[int], order: array[int] | None) -> tuple[bytes, array[int]]:
    return (bytes(blob), offsets) if order is None else twins.columns().reordered_blob(blob, offsets, order)


def _bytes(column: bytearray, order: array[int] | None) -> bytes:
    return bytes(column) if order is None else twins.columns().reordered_bytes(column, order)


SnapshotBuilder = Staging
"""The name for those who add znode by znode and do not look inside."""
