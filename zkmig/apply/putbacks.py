"""Put-backs: what others have done to the paths of a committed epoch, and how often. Pure: no server is asked here.

Put back is what carries its old value again: the data or the ACL of before, or its absence where the epoch has created
it, or the node itself where the epoch has deleted it. Everything else that is not as the epoch has left it was changed
by others. Writes are counted by versions, so that a loop is counted that is faster than anybody looks; where somebody
else writes a path between two looks, that counts too. Of nodes that are deleted and created again in between, only
what the last one tells is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from zkmig.apply.conflicts import Found, times_put_back
from zkmig.apply.left import Left, Shift, why_not, why_not_acl
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


_BORN_AGAIN: Final = -1  # for the czxid of a node that an attempt has created again


class Known:
    """The versions of each path at its last look, and what attempts that were rolled back have added since."""

    def __init__(self) -> None:
        self._versions: dict[str, Versions | None] = {}
        self._born: dict[str, tuple[int, int]] = {}  # czxids that such an attempt may have given

    def has_moved(self, path: str, now: Versions | None) -> bool:
        return path not in self._versions or self._versions[path] != now

    def saw(self, path: str, now: Versions | None) -> tuple[bool, Versions | None]:
        """Remember; whether it is the first look, and the versions from which those of now are to be counted."""
        is_first = path not in self._versions
        before, born = self._versions.get(path), self._born.pop(path, None)
        self._versions[path] = now
        if before is None or now is None:
            return is_first, before
        if _is_born_again(before, now.czxid, born):
            before = before._replace(czxid=now.czxid)
        if before.czxid == now.czxid:  # an attempt may have written less often than it could have
            before = Versions(now.czxid, min(before.version, now.version), min(before.aversion, now.aversion))
        return is_first, before

    def carry(self, path: str, shift: Shift) -> None:
        """As if the attempt had written before the last look. What others wrote between both counts from there on."""
        if path not in self._versions:
            return
        found = shift.before
        known = self._versions[path]
        if known is not None and _is_born_again(known, found.czxid, self._born.get(path)):
            known = known._replace(czxid=found.czxid)
        if known is None or known.czxid != found.czxid:
            known = Versions(found.czxid, -1, -1)  # created since; each of its versions is a write of others
        if shift.born is None:
            known = Versions(known.czxid, known.version + shift.writes, known.aversion + shift.acl_writes)
            self._born.pop(path, None)
        else:
            self._born[path] = shift.born
            known = Versions(_BORN_AGAIN, known.version - found.version, known.aversion - found.aversion)
        self._versions[path] = known


def _is_born_again(known: Versions, czxid: int, born: tuple[int, int] | None) -> bool:
    return known.czxid == _BORN_AGAIN and born is not None and born[0] <= czxid <= born[1]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is on a path instead of what the epoch has left. kind None: changed by others; reason says how.

    times: how often since the commit, as far as versions tell. data_hash: of what it holds now (`data_hash` of the
    record), None where nothing is there, it may not be read, or it is masked. written_at: by the servers' clock, Unix
    seconds.
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
            times = times if left.is_known else 1  # at least: its value says so, its versions say nothing
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
