"""Snapshot: an immutable tree of znodes, a mapping from absolute path to Znode in tree order, backed by columns.

The invariant (tree order, each path once, parents before children, one root) is checked by `Columns.checked`, where
data enters: by `SnapshotBuilder.build` and by the reader of snapshot files.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from heapq import merge
from io import BytesIO
from typing import NamedTuple

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.columns import KIND_EPHEMERAL, KIND_PERSISTENT, Columns, StatColumns
from zkmig.model.scope import Scope
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode

_KINDS = tuple(Kind)  # by value
_STATS_WAITING_MAX = 1_024  # Stats of new znodes that are put into columns together


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a snapshot comes from. location: as given, never with credentials. taken_at: Unix ms, None if unknown.

    kinds_known: whether container and TTL kinds are true. A live read cannot tell them from persistent [fact 18].
    """

    location: str
    hosts: tuple[str, ...] = ()
    taken_at: int | None = None
    tool_version: str = ""
    server_version: str | None = None
    kinds_known: bool = False


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether a snapshot is one state of the tree. reason: how that is known, in a sentence.

    Not fuzzy: data, children and stats are of one zxid, any of zxid_first..zxid_last. Fuzzy: they are of several
    states between zxid_first and zxid_last.
    """

    is_fuzzy: bool
    zxid_first: int
    zxid_last: int
    reason: str


class Hashes(NamedTuple):
    """Per-node hash columns, 32 bytes a node, as docs/treehash.md defines them; zero where a node is left out."""

    tree: bytes
    counter: bytes


class Snapshot(Mapping[str, Znode]):
    """A tree at rest. Iteration is in tree order; lookups are binary searches; a Znode is made when asked for.

    columns: the arrays themselves, for code that must not make an object per node. hashes: filled in by
    `zkmig.treehash.hashes`, None before.
    """

    __slots__ = ("columns", "consistency", "hashes", "provenance", "scope")

    def __init__(self, columns: Columns, scope: Scope, provenance: Provenance, consistency: Consistency) -> None:
        """`columns` come from `Columns.checked` or are a slice of such. SnapshotBuilder is the usual way here."""
        root = columns.path_bytes(0).decode()
        if root != scope.root:
            raise BadInput(f"the first node is {root}, not the root of the scope", scope.root)
        self.columns = columns
        self.scope = scope
        self.provenance = provenance
        self.consistency = consistency
        self.hashes: Hashes | None = None

    # -- the mapping ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[str]:
        return map(self.path_at, range(len(self)))

    def __getitem__(self, path: str) -> Znode:
        return self.znode_at(self.index(path))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._find(path) is not None

    def items(self) -> ItemsView[str, Znode]:
        """(path, znode) in tree order, without a search for each."""
        return _Items(self)

    def values(self) -> ValuesView[Znode]:
        """Znodes in tree order."""
        return _Values(self)

    def __repr__(self) -> str:
        return f"<Snapshot of {self.provenance.location or self.root}: {len(self)} znodes>"

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def root(self) -> str:
        """Absolute path of the node at the top."""
        return self.scope.root

    @property
    def is_fuzzy(self) -> bool:
        """False when data, children and stats are of one zxid and each ACL was read at the same (czxid, aversion)."""
        return self.consistency.is_fuzzy

    @property
    def zxid_first(self) -> int:
        """First zxid of the range that the snapshot stands for (`Consistency`)."""
        return self.consistency.zxid_first

    @property
    def zxid_last(self) -> int:
        """Last zxid of that range."""
        return self.consistency.zxid_last

    @property
    def kinds_known(self) -> bool:
        """Whether container and TTL kinds are true (`Provenance`)."""
        return self.provenance.kinds_known

    @property
    def ephemerals(self) -> int:
        """Number of ephemerals: in the snapshot, but left out of hash, diff, plan and verify."""
        return self.columns.kinds.count(KIND_EPHEMERAL)

    @property
    def tree_hash(self) -> str:
        """Hash of names, data, ACLs and kinds, 64 hexadecimal digits (docs/treehash.md). Computed when first asked."""
        return self._hashes().tree[:32].hex()

    @property
    def counter_hash(self) -> str:
        """Hash of the sequence counters, 64 hexadecimal digits (docs/treehash.md). Computed when first asked."""
        return self._hashes().counter[:32].hex()

    def _hashes(self) -> Hashes:
        # The one import that points up: a property of a value should not need a call elsewhere first.
        from zkmig.treehash import hashes

        return hashes(self)

    # -- by index ------------------------------------------------------------------------------------------------------

    def index(self, path: str) -> int:
        """Position of `path` in tree order; KeyError if it is not there."""
        found = self._find(path)
        if found is None:
            raise KeyError(path)
        return found

    def path_at(self, index: int) -> str:
        """Absolute path of the node at `index`, 0 to len - 1."""
        return self.columns.path_bytes(index).decode()

    def data_at(self, index: int) -> bytes | None:
        """Data; None is null, which is not empty."""
        return self.columns.data(index)

    def acl_at(self, index: int) -> AclList:
        """ACL, in stored order."""
        return self.columns.acl_table[self.columns.acl_ids[index]]

    def stat_at(self, index: int) -> Stat:
        """Stat as read."""
        return Stat(*[column[index] for column in self.columns.stats])

    def kind_at(self, index: int) -> Kind:
        """Kind; see `kinds_known`."""
        return _KINDS[self.columns.kinds[index]]

    def counter_at(self, index: int) -> int:
        """Number of the next sequential child."""
        stats = self.columns.stats
        return (stats.cversion[index] + stats.num_children[index]) // 2

    def znode_at(self, index: int) -> Znode:
        """The node at `index` as a value."""
        return Znode(
            self.path_at(index),
            self.data_at(index),
            self.acl_at(index),
            self.stat_at(index),
            self.kind_at(index),
            self.columns.ttls.get(index, 0),
        )

    # -- by structure --------------------------------------------------------------------------------------------------

    def children(self, path: str) -> list[str]:
        """Names of the children of `path`, by UTF-8 bytes; KeyError if it is not there."""
        return [paths.name(self.path_at(child)) for child in self.children_at(self.index(path))]

    def children_at(self, index: int) -> Iterator[int]:
        """Indices of the children of the node at `index`."""
        ends = self.columns.ends
        child, stop = index + 1, ends[index]
        while child < stop:
            yield child
            child = ends[child]

    def subtree_indices(self, path: str) -> range:
        """Indices of `path` and everything below it; KeyError if it is not there."""
        index = self.index(path)
        return range(index, self.columns.ends[index])

    def subtree(self, path: str) -> Snapshot:
        """The snapshot rooted at `path`; KeyError if it is not there."""
        index = self.index(path)
        if index == 0:
            return self
        scope = Scope(path, self.scope.excludes)
        return Snapshot(self.columns.slice(index), scope, self.provenance, self.consistency)

    def _find(self, path: str) -> int | None:
        try:
            encoded = path.encode()
        except UnicodeEncodeError:
            return None
        index = bisect_left(range(len(self)), _sort_key(encoded), key=self._key_at)
        return index if index < len(self) and self.columns.path_bytes(index) == encoded else None

    def _key_at(self, index: int) -> bytes:
        return _sort_key(self.columns.path_bytes(index))


class _Items(ItemsView[str, Znode]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[tuple[str, Znode]]:
        for znode in map(self._mapping.znode_at, range(len(self._mapping))):
            yield znode.path, znode


class _Values(ValuesView[Znode]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[Znode]:
        return map(self._mapping.znode_at, range(len(self._mapping)))


class SnapshotBuilder:
    """Collects znodes in any order and builds one Snapshot of them. Good for one build."""

    def __init__(self) -> None:
        self._paths = BytesIO()
        self._path_offsets = array("Q", (0,))
        self._data = BytesIO()
        self._data_offsets = array("Q", (0,))
        self._nulls = bytearray()
        self._acl_ids = array("I")
        self._acl_table: dict[AclList, int] = {}
        self._kinds = bytearray()
        self._ttls: dict[int, int] = {}
        self._stats = StatColumns.empty()
        self._stats_waiting: list[Stat] = []  # eleven appends a znode would cost more than all the rest of `add`

    def __len__(self) -> int:
        return len(self._kinds)

    def add(
        self, path: str, data: bytes | None, acl: AclList, stat: Stat, kind: Kind | None = None, ttl_ms: int = 0
    ) -> None:
        """Add a znode, its path absolute. kind None: ephemeral or persistent, as stat.ephemeral_owner says."""
        try:
            encoded = path.encode()
        except UnicodeEncodeError:
            raise BadInput("not a znode path: it cannot be encoded", repr(path)) from None
        self._paths.write(encoded)
        self._path_offsets.append(self._paths.tell())
        if data:
            self._data.write(data)
        self._data_offsets.append(self._data.tell())
        self._nulls.append(data is None)
        self._acl_ids.append(self._acl_table.setdefault(acl, len(self._acl_table)))
        if kind is None:
            self._kinds.append(KIND_EPHEMERAL if stat.ephemeral_owner else KIND_PERSISTENT)
        else:
            if kind is Kind.TTL:
                self._ttls[len(self._kinds)] = ttl_ms
            self._kinds.append(kind.value)
        self._stats_waiting.append(stat)
        if len(self._stats_waiting) == _STATS_WAITING_MAX:
            self._take_stats()

    def _take_stats(self) -> None:
        for column, values in zip(self._stats, zip(*self._stats_waiting, strict=True), strict=False):
            column.extend(values)
        self._stats_waiting.clear()

    def build(self, scope: Scope, provenance: Provenance, consistency: Consistency) -> Snapshot:
        """Sort, check and hand over. Raises BadInput naming an orphan, a duplicate or a path that cannot be."""
        if not self._kinds:
            raise BadInput("the tree has no root", scope.root)
        self._take_stats()
        order = _tree_order(self._paths.getvalue(), self._path_offsets)
        # Column after column, each original dropped once it is reordered: the peak is one column above the snapshot.
        paths_blob, self._paths = self._paths.getvalue(), BytesIO()
        data_blob, self._data = self._data.getvalue(), BytesIO()
        if order is not None:
            paths_blob, self._path_offsets = _reorder_blob(paths_blob, self._path_offsets, order)
            data_blob, self._data_offsets = _reorder_blob(data_blob, self._data_offsets, order)
            self._nulls = bytearray(map(self._nulls.__getitem__, order))
            self._kinds = bytearray(map(self._kinds.__getitem__, order))
            self._acl_ids = _reorder(self._acl_ids, order)
            for position, name in enumerate(StatColumns._fields):
                self._stats = self._stats._replace(**{name: _reorder(self._stats[position], order)})
            if self._ttls:
                self._ttls = {new: self._ttls[old] for new, old in enumerate(order) if old in self._ttls}
        columns = Columns.checked(
            paths_blob=paths_blob,
            path_offsets=self._path_offsets,
            data_blob=data_blob,
            data_offsets=self._data_offsets,
            nulls=bytes(self._nulls),
            acl_ids=self._acl_ids,
            acl_table=tuple(self._acl_table),
            kinds=bytes(self._kinds),
            ttls=self._ttls,
            stats=self._stats,
        )
        return Snapshot(columns, scope, provenance, consistency)


# -- sorting ----------------------------------------------------------------------------------------------------------

_SORT_RUN_NODES = 1 << 18  # sort keys held at a time: some 45 MiB, however large the tree
_COPY_NODES = 1 << 14  # slices of a blob held at a time while it is reordered


def _sort_key(path: bytes) -> bytes:
    # path.order_key on bytes; "/" becomes NUL instead of nothing, which sorts the same.
    return path.replace(b"/", b"\0")


def _tree_order(blob: bytes, offsets: array[int]) -> array[int] | None:
    """Indices in tree order; None if that is the order they are in."""

    def key(index: int) -> bytes:
        return _sort_key(blob[offsets[index] : offsets[index + 1]])

    count = len(offsets) - 1
    runs: list[array[int]] = []
    is_sorted = True
    for first in range(0, count, _SORT_RUN_NODES):
        nodes = range(first, min(first + _SORT_RUN_NODES, count))
        run = array("i", sorted(nodes, key=key))
        is_sorted = is_sorted and run == array("i", nodes) and (first == 0 or key(first - 1) < key(first))
        runs.append(run)
    if is_sorted:
        return None
    return runs[0] if len(runs) == 1 else array("i", merge(*runs, key=key))


def _reorder(column: array[int], order: array[int]) -> array[int]:
    return array(column.typecode, map(column.__getitem__, order))


def _reorder_blob(blob: bytes, offsets: array[int], order: array[int]) -> tuple[bytes, array[int]]:
    out = BytesIO()
    out_offsets = array("Q", (0,))
    position = 0
    for first in range(0, len(order), _COPY_NODES):
        pieces = [blob[offsets[index] : offsets[index + 1]] for index in order[first : first + _COPY_NODES]]
        out.write(b"".join(pieces))
        for piece in pieces:
            position += len(piece)
            out_offsets.append(position)
    return out.getvalue(), out_offsets
