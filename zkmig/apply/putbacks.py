"""Put-backs: what others have done to the paths of a committed epoch, and how often. Pure: no server is asked here.

Put back is what carries its old value again: the data or the ACL of before, or its absence where the epoch has created
it, or the node itself where the epoch has deleted it. Everything else that is not as the epoch has left it was changed
by others. Times are counted by versions, so that a loop is counted that is faster than anybody looks; where somebody
else writes a path between two looks, that counts too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from zkmig.apply.conflicts import Found, times_put_back
from zkmig.apply.left import Left, why_not, why_not_acl
from zkmig.epoch.journal import AclEntry, Action, Entry
from zkmig.epoch.record import data_hash
from zkmig.model.acl import AclList, may_show_as
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode

PutBackKind = Literal["data", "acl", "created", "deleted"]

_OF_DATA = (Action.WRITTEN, Action.DELETED)


class Versions(NamedTuple):
    """By which it is known whether anybody has written a node."""

    czxid: int
    version: int
    aversion: int


def versions_of(stat: Stat | None) -> Versions | None:
    """None for a node that is not there."""
    return None if stat is None else Versions(stat.czxid, stat.version, stat.aversion)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is on a path instead of what the epoch has left. kind None: changed by others; reason says how.

    times: how often since the commit, as far as versions tell. data_hash: of what it holds now (`data_hash` of the
    record), None where nothing is there, or it may not be read. written_at: by the servers' clock, Unix seconds.
    """

    path: str
    kind: PutBackKind | None
    reason: str
    times: int
    data_hash: str | None
    written_at: float | None


class Expected(NamedTuple):
    """One path of the epoch: its entry in the journal, what the epoch has left, and whether it has set its ACL."""

    entry: Entry
    left: Left
    step: AclEntry | None

    def wants_acl(self, stat: Stat) -> bool:
        """Whether versions alone do not tell, so that the ACL has to be read."""
        acls = self.left.acls
        return acls is not None and (stat.aversion not in acls or acls[stat.aversion] is not None)


def judge(expected: Expected, found: Found, acl: AclList | None) -> list[Verdict]:
    """What is not as the epoch has left it: [], or one verdict, or two where data and ACL were both put back.

    acl: as it is now; None where it was not read.
    """
    entry, left, _ = expected
    stat = found.stat
    if stat is None:
        if not left.is_there:
            return []
        is_old = entry.before is None
        return [_verdict(found, "deleted" if is_old else None, "deleted")]
    verdicts: list[Verdict] = []
    if entry.action in _OF_DATA:
        is_same = left.is_there and left.born[0] <= stat.czxid <= left.born[1]
        times = times_put_back(entry, found, left.version if is_same else None)
        if times:
            kind: PutBackKind = "created" if entry.action is Action.DELETED else "data"
            what = "created again as it was" if kind == "created" else "its old data again"
            verdicts.append(_verdict(found, kind, what, times))
    verdicts += _of_acl(expected, found, stat, acl)
    if not verdicts:
        if acl is None and left.acls is not None and stat.aversion in left.acls:
            left = left._replace(acls=None)  # it may not be read; nobody has set another, as far as its aversion tells
        node = Znode(found.path, found.data, acl or (), stat, Kind.PERSISTENT)
        reason = why_not(left, node)
        verdicts += [_verdict(found, None, reason)] if reason is not None else []
    return verdicts


def _of_acl(expected: Expected, found: Found, stat: Stat, acl: AclList | None) -> Iterator[Verdict]:
    entry, left, step = expected
    if step is None or acl is None or not left.acls or entry.before is None or entry.action is Action.DELETED:
        return
    node = Znode(found.path, found.data, acl, stat, Kind.PERSISTENT)
    if why_not_acl(left, node) is not None and may_show_as(entry.before.acl, acl):
        yield _verdict(found, "acl", "its old ACL again", max(1, stat.aversion - max(left.acls)))


def _verdict(found: Found, kind: PutBackKind | None, reason: str, times: int = 1) -> Verdict:
    stat = found.stat
    hashed = data_hash(found.data) if stat is not None and found.is_readable else None
    return Verdict(found.path, kind, reason, times, hashed, stat.mtime / 1000 if stat is not None else None)


# -- counting ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PutBackCount:
    """One path and kind that was put back. count: times. first_seen, last_seen: Unix seconds, by our own clock; is_now:
    whether it still carries its old value."""

    path: str
    kind: PutBackKind
    count: int
    first_seen: float
    last_seen: float
    is_now: bool = True


class Tally:
    """What was seen of the paths of one epoch. put_back: by path and kind, in order of the first sight. changed: paths
    that others have changed, with the latest reason."""

    def __init__(self) -> None:
        self.put_back: dict[tuple[str, PutBackKind], PutBackCount] = {}
        self.changed: dict[str, str] = {}

    @property
    def times(self) -> int:
        """Put-backs of all paths together."""
        return sum(one.count for one in self.put_back.values())

    @property
    def paths(self) -> int:
        """Paths that were put back."""
        return len({path for path, _ in self.put_back})

    @property
    def now(self) -> int:
        """Paths that carry their old value, as last seen."""
        return len({one.path for one in self.put_back.values() if one.is_now})

    def forget_now(self) -> None:
        """Another epoch is followed: what was seen stays counted, how things are now is yet to be seen."""
        self.changed.clear()
        for one in self.put_back.values():
            one.is_now = False

    def saw_as_left(self, path: str) -> None:
        """The path is as the epoch has left it."""
        self._over(path)
        self.changed.pop(path, None)

    def saw(self, verdict: Verdict, before: Versions | None, now: Versions | None, is_first: bool, at: float) -> int:
        """Count one verdict on what has moved since the last look; how many times it adds.

        before, now: the node's versions at the last look and this one. is_first: there was no last look.
        """
        if verdict.kind is None:
            self._over(verdict.path)
            self.changed[verdict.path] = verdict.reason
            return 0
        self.changed.pop(verdict.path, None)
        key = verdict.path, verdict.kind
        known = self.put_back.get(key)
        added = _added(verdict, before, now, is_first)
        if known is None and not added:
            added = 1
        if known is None:
            self.put_back[key] = PutBackCount(verdict.path, verdict.kind, added, at, at)
            return added
        if added:
            known.count += added
            known.last_seen = at
        known.is_now = True
        return added

    def _over(self, path: str) -> None:
        for kind in ("data", "acl", "created", "deleted"):
            one = self.put_back.get((path, kind))
            if one is not None:
                one.is_now = False


def _added(verdict: Verdict, before: Versions | None, now: Versions | None, is_first: bool) -> int:
    """How often since the last look."""
    if is_first:
        return verdict.times
    if now is None or before is None or now.czxid != before.czxid:
        return 1 if now is None or verdict.kind == "acl" else now.version + 1
    if verdict.kind == "acl":
        return now.aversion - before.aversion
    return now.version - before.version
