"""Snapshot: an immutable tree of znodes, a mapping from absolute path to Znode in tree order, backed by columns.

The invariant (tree order, each path once, parents before children, one root) is checked by `Columns.checked`, where
data enters: by `staging.Staging.build` and by the reader of snapshot files.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import NamedTuple

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model import twins
from zkmig.model.acl import AclList
from zkmig.model.columns import KIND_EPHEMERAL, Columns
from zkmig.model.scope import Scope
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode

_KINDS = tuple(Kind)  # by value


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
        """`columns` come from `Columns.checked` or are a slice of such. `staging.Staging` is the usual way here."""
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
        scope = self.scope.below(path)
        return Snapshot(self.columns.slice(index), scope, self.provenance, self.consistency)

    def _find(self, path: str) -> int | None:
        try:
            encoded = path.encode()
        except UnicodeEncodeError:
            return None
        index = twins.order().find(self.columns.paths_blob, self.columns.path_offsets, encoded)
        return index if index >= 0 else None


class _Items(ItemsView[str, Znode]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[tuple[str, Znode]]:
        for znode in map(self._mapping.znode_at, range(len(self._mapping))):
            yield znode.path, znode


class _Values(ValuesView[Znode]):
    _mapping: Snapshot

    def __iter__(self) -> Iterator[Znode]:
        return map(self._mapping.znode_at, range(len(self._mapping)))
