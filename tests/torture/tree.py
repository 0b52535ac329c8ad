"""The tree at every zxid: transactions replayed, each node's values kept with the zxid from which they held.

Digests that servers write behind each transaction (CRC-32 of path, data and Stat, summed over all nodes but those below
/zookeeper; DigestCalculator and AdHash of ZooKeeper) are computed here too: as long as they agree, the replayed tree is
the servers' own at each single zxid.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.torture.txnlog import (
    CLOSE_SESSION,
    CONTAINER_OWNER,
    TTL_MASK,
    AclRows,
    Create,
    Delete,
    Entry,
    SetAcl,
    SetData,
)

_STAT = struct.Struct(">qqqqqiiiq")
_MASK = (1 << 64) - 1
_SYSTEM = "/zookeeper/"

StatRow = tuple[int, int, int, int, int, int, int, int, int, int, int]


class Value(NamedTuple):
    """A node from one zxid on. creates: children ever created (not what clients see as cversion). owner: as in Create.
    writer: the session that has changed it last, its children not counted."""

    data: bytes | None
    acl: AclRows
    czxid: int
    mzxid: int
    pzxid: int
    ctime: int
    mtime: int
    version: int
    creates: int
    aversion: int
    owner: int
    children: int
    writer: int

    @property
    def stat(self) -> StatRow:
        """As a client is shown it: eleven fields in the order of ZooKeeper's Stat."""
        owner = 0 if self.owner == CONTAINER_OWNER or self.owner & TTL_MASK == TTL_MASK else self.owner
        cversion = 2 * self.creates - self.children
        size = len(self.data) if self.data is not None else 0
        return (
            *(self.czxid, self.mzxid, self.ctime, self.mtime, self.version, cversion),
            *(self.aversion, owner, size, self.children, self.pzxid),
        )


_NEW = Value(b"", (), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class Timeline:
    """Values of one path; None while it is not there."""

    __slots__ = ("values", "zxids")

    def __init__(self) -> None:
        self.zxids: list[int] = []
        self.values: list[Value | None] = []

    def put(self, zxid: int, value: Value | None) -> None:
        if self.zxids and self.zxids[-1] == zxid:
            self.values[-1] = value
        else:
            self.zxids.append(zxid)
            self.values.append(value)

    def forget_after(self, zxid: int) -> None:
        while self.zxids and self.zxids[-1] > zxid:
            self.zxids.pop()
            self.values.pop()

    def at(self, zxid: int) -> Value | None:
        """The value after the transaction `zxid` and all before it."""
        place = bisect_right(self.zxids, zxid)
        return self.values[place - 1] if place else None

    def within(self, zxid_first: int, zxid_last: int) -> list[Value | None]:
        """Every value that held at some zxid of the window, both ends included, oldest first."""
        start, end = bisect_right(self.zxids, zxid_first), bisect_right(self.zxids, zxid_last)
        before: list[Value | None] = [self.values[start - 1] if start else None]
        return before + self.values[start:end]

    def changes(self, zxid_after: int, zxid_last: int) -> list[tuple[int, Value | None]]:
        """(zxid, value) of what changed after the first and up to the last zxid."""
        start, end = bisect_right(self.zxids, zxid_after), bisect_right(self.zxids, zxid_last)
        return list(zip(self.zxids[start:end], self.values[start:end], strict=True))


class Tree:
    """All nodes by path ("/" is the root), now and at any zxid that was replayed.

    Invariant: after `apply(entry)` the tree is the servers' after that zxid, if they wrote digests, else as far as the
    log tells.
    """

    def __init__(self) -> None:
        self.now: dict[str, Value] = {}
        self.paths: dict[str, Timeline] = {}
        self.zxid = 0
        self.digests_checked = 0
        self._digest = 0
        self._ephemerals: dict[int, set[str]] = {}
        self._at = 0
        for path, children in (("/", 1), ("/zookeeper", 2), ("/zookeeper/quota", 0)):
            self._set(path, _NEW._replace(children=children))
        self._set("/zookeeper/config", _NEW._replace(aversion=-1))

    @property
    def digest(self) -> int:
        """As servers write it behind a transaction."""
        return self._digest

    # -- what it was --------------------------------------------------------------------------------------------------

    def at(self, path: str, zxid: int) -> Value | None:
        """The node after `zxid`; None if it was not there."""
        timeline = self.paths.get(path)
        return timeline.at(zxid) if timeline else None

    def below(self, root: str) -> Iterator[str]:
        """Paths that ever were at or below `root`."""
        inside = root.rstrip("/") + "/"
        return (path for path in self.paths if path == root or path.startswith(inside))

    def image(self, paths: Iterable[str], zxid: int) -> dict[str, Value]:
        """Those of the paths that were there after `zxid`."""
        found = {}
        for path in paths:
            value = self.paths[path].at(zxid)
            if value is not None:
                found[path] = value
        return found

    def go_back(self, zxid: int) -> None:
        """Undo every transaction after `zxid`, as if it had not been applied."""
        for path, timeline in list(self.paths.items()):
            if timeline.zxids and timeline.zxids[-1] > zxid:
                timeline.forget_after(zxid)
                self.now.pop(path, None)
                value = timeline.values[-1] if timeline.values else None
                if value is not None:
                    self.now[path] = value
                if not timeline.values:
                    del self.paths[path]
        self._digest = sum(_digest_of(path, value) for path, value in self.now.items() if not path.startswith(_SYSTEM))
        self._digest &= _MASK
        self._ephemerals = {}
        for path, value in self.now.items():
            if value.owner > 0:
                self._ephemerals.setdefault(value.owner, set()).add(path)
        self.zxid = self._at = zxid

    # -- replay -------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> bool:
        """Apply a transaction. False if a digest shows that the tree is another one than the servers'."""
        self.zxid = self._at = entry.zxid
        if not entry.failed:
            for operation in entry.operations:
                match operation:
                    case Create():
                        self._create(operation, entry)
                    case Delete():
                        self._delete(operation.path)
                    case SetData(path, data, version):
                        self._change(path, entry, data=data, version=version, mzxid=entry.zxid, mtime=entry.time_ms)
                    case SetAcl(path, acl, aversion):
                        self._change(path, entry, acl=acl, aversion=aversion)
            if entry.type == CLOSE_SESSION:
                for path in sorted(self._ephemerals.pop(entry.session, ())):
                    self._delete(path)
        if entry.digest is None:
            return True
        self.digests_checked += 1
        return entry.digest & _MASK == self._digest

    def _create(self, create: Create, entry: Entry) -> None:
        path, zxid, time_ms = create.path, entry.zxid, entry.time_ms
        above = parent(path)
        was = self.now[above]
        creates = was.creates + 1 if create.parent_creates < 0 else create.parent_creates
        moved = was._replace(children=was.children + (path not in self.now))
        if creates > was.creates:
            moved = moved._replace(creates=creates, pzxid=zxid)
        self._set(above, moved)
        self._set(
            path,
            Value(create.data, create.acl, zxid, zxid, zxid, time_ms, time_ms, 0, 0, 0, create.owner, 0, entry.session),
        )
        if create.owner > 0:
            self._ephemerals.setdefault(entry.session, set()).add(path)

    def _delete(self, path: str) -> None:
        node = self.now.get(path)
        if node is None:
            return  # a session's ephemeral that is gone already
        above = parent(path)
        was = self.now[above]
        self._set(above, was._replace(children=was.children - 1, pzxid=max(was.pzxid, self._at)))
        self._set(path, None)
        if node.owner in self._ephemerals:
            self._ephemerals[node.owner].discard(path)

    def _change(self, path: str, entry: Entry, **fields: object) -> None:
        fields["writer"] = entry.session
        self._set(path, self.now[path]._replace(**fields))  # type: ignore[arg-type]  # mypy cannot see through **

    def _set(self, path: str, value: Value | None) -> None:
        was = self.now.pop(path, None)
        if not path.startswith(_SYSTEM):
            self._digest += (_digest_of(path, value) if value else 0) - (_digest_of(path, was) if was else 0)
            self._digest &= _MASK
        if value is not None:
            self.now[path] = value
        self.paths.setdefault(path, Timeline()).put(self._at, value)


def _digest_of(path: str, value: Value) -> int:
    crc = zlib.crc32(b"" if path == "/" else path.encode())
    if value.data:
        crc = zlib.crc32(value.data, crc)
    stat = _STAT.pack(
        *(value.czxid, value.mzxid, value.pzxid, value.ctime, value.mtime),
        *(value.version, value.creates, value.aversion, value.owner),
    )
    return zlib.crc32(stat, crc)


def parent(path: str) -> str:
    """The path above; "/" for one right below it."""
    return path.rpartition("/")[0] or "/"
