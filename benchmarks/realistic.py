"""A tree like those that people have, of any size, the same each time; and how to put it on a server.

Measured on real trees, or reported of them: mean data 48 bytes with a tail to 1 MB, a third empty, three quarters
leaves, depth 5 to 9, paths of 60 to 115 bytes, one parent with a tenth of all znodes, 2 % ephemerals, 4 % of the
parents with a sequence counter ahead of their children, a handful of distinct ACLs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, AclList, Identity, digest_id
from zkmig.model.columns import KIND_EPHEMERAL
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.requests import FLAG_EPHEMERAL, Create, Delete, Multi, WriteOp, operation_size

OWNER: Final = Credential("digest", b"bench:mark")
"""Who may change the znodes that not everybody may change."""

_OWNER = Identity("digest", digest_id("bench", "mark"))
_READABLE: AclList = (Acl(READ, *WORLD), Acl(ALL, *_OWNER))
_SHARED: AclList = (Acl(READ, *WORLD), Acl(ALL, *_OWNER), Acl(ALL, "digest", digest_id("other", "mark")))
_ACLS = (OPEN_ACL, _READABLE, _SHARED)
_ACL_WEIGHTS = (80, 15, 5)

_SEED = 20160811
_INNER_SHARE = 0.26
_INNER_BY_DEPTH = {2: 0.002, 3: 0.02, 4: 0.14, 5: 0.23, 6: 0.24, 7: 0.22, 8: 0.148}  # the root is at depth 1
_WIDE_DEPTH = 4
_WIDE_SHARE = 0.1
_EMPTY_SHARE = 1 / 3
_NULL_SHARE = 0.02
_DATA_MU, _DATA_SIGMA = 3.8, 0.95  # of ln(bytes), for what is neither empty nor null: mean 70, so 48 over all
_LARGEST_BYTES_MAX = 1_000_000
_EPHEMERAL_SHARE = 0.02
_ODD_COUNTER_SHARE = 0.04
_ODD_COUNTER_MAX = 9
_WORDS = (
    "tables", "replicas", "parts", "columns", "log", "queue", "blocks", "metadata", "mutations", "leader_election",
    "brokers", "topics", "partitions", "config", "instances", "registry", "shard", "quorum", "hosts", "state",
)  # fmt: skip


def make(znodes: int, root: str = "/bench") -> Snapshot:
    """A snapshot of so many znodes, at least 1,000, below and with `root`. The same arguments, the same tree."""
    return _Maker(znodes, root).snapshot()


class _Maker:
    """Node 0 is the root, then the other inner nodes by depth, then the leaves."""

    def __init__(self, znodes: int, root: str) -> None:
        self._rng = random.Random(_SEED)
        self._znodes = znodes
        self._root = root
        self._paths = [root]
        self._parents = [-1]
        self._has_inner: set[int] = set()
        self._wide = 0

    def snapshot(self) -> Snapshot:
        self._add_inner()
        inner = len(self._paths)
        self._add_leaves(inner)
        builder = SnapshotBuilder()
        children = [0] * inner
        for above in self._parents[1:]:
            children[above] += 1
        blob = self._rng.randbytes(_LARGEST_BYTES_MAX)
        for index, path in enumerate(self._paths):
            data = self._data(index, blob)
            acl = self._rng.choices(_ACLS, _ACL_WEIGHTS)[0]
            builder.add(path, data, acl, self._stat(index, data, children[index] if index < inner else 0, inner))
        consistency = Consistency(False, self._znodes, self._znodes, "it was made up")
        return builder.build(Scope(self._root), Provenance("made up"), consistency)

    def _add_inner(self) -> None:
        above = [0]
        for depth, share in _INNER_BY_DEPTH.items():
            level = range(len(self._paths), len(self._paths) + max(1, round(share * _INNER_SHARE * self._znodes)))
            for _ in level:
                self._has_inner.add(self._add_below(self._rng.choice(above)))
            if depth == _WIDE_DEPTH:
                self._wide = level[0]
            above = list(level)

    def _add_leaves(self, inner: int) -> None:
        for index in range(inner):
            if index not in self._has_inner:
                self._add_below(index)
        for _ in range(int(_WIDE_SHARE * self._znodes)):
            self._add_below(self._wide)
        shuffled = self._rng.sample(range(inner), inner)
        while len(self._paths) < self._znodes:
            # Squared: many parents with a few children, few with many.
            self._add_below(shuffled[int(inner * self._rng.random() ** 2)])

    def _add_below(self, above: int) -> int:
        word = _WORDS[int(len(_WORDS) * self._rng.random())]
        self._paths.append(f"{self._paths[above]}/{word}-{len(self._paths):05x}")
        self._parents.append(above)
        return above

    def _data(self, index: int, blob: bytes) -> bytes | None:
        if index == self._znodes - 1:
            return blob[: min(self._znodes, _LARGEST_BYTES_MAX)]
        draw = self._rng.random()
        if draw < _EMPTY_SHARE:
            return None if draw < _NULL_SHARE else b""
        size = max(1, int(self._rng.lognormvariate(_DATA_MU, _DATA_SIGMA)))
        start = self._rng.randrange(len(blob) // 2)
        return blob[start : start + size]

    def _stat(self, index: int, data: bytes | None, children: int, inner: int) -> Stat:
        is_ephemeral = index >= inner and self._rng.random() < _EPHEMERAL_SHARE * self._znodes / (self._znodes - inner)
        ahead = 0
        if children and self._rng.random() < _ODD_COUNTER_SHARE:
            ahead = self._rng.randint(1, _ODD_COUNTER_MAX)
        zxid, ms = index + 1, 1_470_900_000_000 + index
        cversion = children + 2 * ahead  # 2 * counter - children
        owner = 0x1000_0000_0000 + index if is_ephemeral else 0
        return Stat(zxid, zxid, ms, ms, 0, cversion, 0, owner, len(data or b""), children, zxid)


def changed(snapshot: Snapshot, changes: int) -> Snapshot:
    """The same tree with so many znodes changed: half of them written, a quarter deleted, a quarter added."""
    rng = random.Random(_SEED + changes)
    ends, kinds = snapshot.columns.ends, snapshot.columns.kinds
    # No ephemerals: a diff leaves them out.
    leaves = [index for index in range(1, len(snapshot)) if ends[index] == index + 1 and kinds[index] != KIND_EPHEMERAL]
    chosen = rng.sample(leaves, changes)
    written, deleted, doubled = (
        set(chosen[: changes // 2]),
        set(chosen[changes // 2 : 3 * changes // 4]),
        set(chosen[3 * changes // 4 :]),
    )
    builder = SnapshotBuilder()
    for index, (path, znode) in enumerate(snapshot.items()):
        if index in deleted:
            continue
        data = b"changed" if index in written else znode.data
        builder.add(path, data, znode.acl, znode.stat)
        if index in doubled:
            builder.add(f"{path}-twin", b"added", znode.acl, znode.stat)
    return builder.build(snapshot.scope, snapshot.provenance, snapshot.consistency)


def without_ephemerals(snapshot: Snapshot, root: str) -> Snapshot:
    """The tree under another root, without what no migration carries."""
    builder = SnapshotBuilder()
    for path, znode in snapshot.items():
        if znode.kind is not Kind.EPHEMERAL:
            builder.add(root + path.removeprefix(snapshot.root), znode.data, znode.acl, znode.stat)
    return builder.build(Scope(root), snapshot.provenance, snapshot.consistency)


# -- on a server ------------------------------------------------------------------------------------------------------

_PLANT_OPERATIONS = 500
_PLANT_BYTES = 256 * 1024
_PLANT_DEPTH = 4


def plant(client: Client, snapshot: Snapshot) -> None:
    """Create the tree, sequence counters included. Its ephemerals live as long as the client's session."""
    _write(client, (write for znode in snapshot.values() for write in _plantings(znode)))


def _plantings(znode: Znode) -> Iterator[WriteOp]:
    yield Create(znode.path, znode.data, znode.acl, FLAG_EPHEMERAL if znode.ephemeral_owner else 0)
    for _ in range(znode.counter - znode.stat.num_children):
        yield Create(f"{znode.path}/counted", b"", OPEN_ACL)
        yield Delete(f"{znode.path}/counted", 0)


def uproot(client: Client, paths: Sequence[str]) -> None:
    """Delete a tree, whoever has created it. paths: of all its znodes, parents first."""
    _write(client, (Delete(path, -1) for path in reversed(paths)))  # -1: benchmarks own their server


def _write(client: Client, writes: Iterable[WriteOp]) -> None:
    for reply in client.pipeline(_multis(writes), _PLANT_DEPTH):
        if reply.error:
            raise AssertionError(f"a tree could not be written: {reply}")


def _multis(writes: Iterable[WriteOp]) -> Iterator[Multi]:
    batch: list[WriteOp] = []
    batch_bytes = 0
    for write in writes:
        size = operation_size(write)
        if batch and (len(batch) == _PLANT_OPERATIONS or batch_bytes + size > _PLANT_BYTES):
            yield Multi(tuple(batch))
            batch, batch_bytes = [], 0
        batch.append(write)
        batch_bytes += size
    if batch:
        yield Multi(tuple(batch))
