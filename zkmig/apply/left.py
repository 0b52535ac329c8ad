"""Left: what a committed epoch has left on each of its paths, told from its journal alone: czxid, version, aversion.

So it can be told of a node whether anybody has written it since. What attempts that were rolled back have made of a
path since then, the same value under other versions, is no writing of others where their journals are kept.

Who reverts has to know all of that (`left_by`). Who only looks may not be let into all of it (`left_as_seen`): the ACL
steps lie in private chunks, and what a rollback has left with somebody else's value is named to admins alone. What
cannot be known then is not looked at, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from zkmig.apply.rollback import read_deviations
from zkmig.epoch.attempts import Attempt, home_of
from zkmig.epoch.control import AttemptPaths, ControlPaths
from zkmig.epoch.journal import NO_BATCH, AclEntry, Action, Entry, Journal, JournalMissing, load
from zkmig.errors import NotPermitted
from zkmig.model.acl import AclList, may_show_as
from zkmig.model.stat import Stat
from zkmig.model.znode import Znode
from zkmig.wire.client import Client

_ANY_BORN: Final = (0, (1 << 63) - 1)


class Left(NamedTuple):
    """A path as the epoch has left it. is_there: else it was deleted. born: czxids that the node may have, first and
    last. version None: not looked at. acls: the aversions that it may have, and what it shows at each (None: the
    aversion says it all, nobody has set another); None: not looked at. is_known False: whether it was written since by
    others or by an attempt that was rolled back cannot be told; only its value can."""

    is_there: bool
    born: tuple[int, int] = (0, 0)
    version: int | None = None
    acls: Mapping[int, AclList | None] | None = None
    is_known: bool = True


_UNKNOWN: Final = Left(True, _ANY_BORN, is_known=False)


class Shift(NamedTuple):
    """What an attempt that was rolled back has made of a path's versions. before: its Stat when the attempt began.
    writes, acl_writes: by how many versions it went on, at most. born: czxids of the node that was created again in its
    place, None where it is the same."""

    before: Stat
    writes: int
    acl_writes: int
    born: tuple[int, int] | None


@dataclass(slots=True)
class LeftAsSeen:
    """What an epoch has left, as far as this identity may know. unknown: by the name of an attempt, the paths of which
    is not known what it has made of them. has_hidden_acls: whether ACLs cannot be judged. shifts: by the name of an
    attempt, of each of its paths; an attempt whose journal is gone has none."""

    left: dict[str, Left]
    has_hidden_acls: bool
    unknown: dict[str, set[str]] = field(default_factory=dict)
    shifts: dict[str, dict[str, Shift]] = field(default_factory=dict)


def left_by(
    client: Client, names: ControlPaths, attempt: Attempt, journal: Journal, later: Sequence[Attempt]
) -> dict[str, Left]:
    """Of each path in the journal; later: attempts rolled back since, whose journals are kept.

    Raises NotPermitted where not all may be read that it takes.
    """
    left = _left_by(attempt, journal)
    for one in later:
        place = home_of(names, one.note)
        try:
            _, done = load(client, place, one.note.manifest_hash)
        except JournalMissing:
            continue
        foreign = {deviation.path for deviation in read_deviations(client, place)}
        tightened = _tightened(done)
        for path, entry, before in _at_stake(done, left):
            if path not in foreign and _is_as(left[path], before):
                left[path] = _carried(left[path], entry, before, one, path in tightened)
    return left


def left_as_seen(
    client: Client,
    names: ControlPaths,
    attempt: Attempt,
    journal: Journal,
    has_hidden_acls: bool,
    later: Sequence[Attempt],
) -> LeftAsSeen:
    """The same for one who looks on, and may not be permitted to read all of it."""
    left = _left_by(attempt, journal)
    if has_hidden_acls:
        left = {path: one._replace(acls=None) for path, one in left.items()}
    seen = LeftAsSeen(left, has_hidden_acls)
    for one in later:
        _carry_on_as_seen(client, names, one, seen)
    return seen


def load_as_seen(client: Client, place: AttemptPaths, manifest_hash: str) -> tuple[Journal, bool]:
    """The journal, and whether its ACL steps, if it has any, are hidden from this identity."""
    try:
        return load(client, place, manifest_hash)[1], False
    except NotPermitted:
        journal = load(client, place, manifest_hash, for_reader=True)[1]
        return journal, not journal.acls


def _left_by(attempt: Attempt, journal: Journal) -> dict[str, Left]:
    steps = {step.path: step for step in journal.acls}
    return {path: _left_of(entry, steps.get(path), attempt) for path, entry in journal.by_path().items()}


def _left_of(entry: Entry, step: AclEntry | None, attempt: Attempt) -> Left:
    if entry.action is Action.DELETED:
        return Left(is_there=False)
    before = entry.before
    if before is None:
        born, version, aversion = (attempt.czxid, attempt.mzxid), 0, 0
    else:
        born = (before.stat.czxid, before.stat.czxid)
        version = before.stat.version + (entry.action is Action.WRITTEN)
        aversion = before.stat.aversion
    if entry.action is Action.TOUCHED:
        return Left(True, born)
    if step is None:
        return Left(True, born, version, {aversion: None})
    aversion += step.tighten is not None
    if not step.is_pending_after_commit:
        return Left(True, born, version, {aversion: step.final})
    # One that could not be set was left, and is as it was before the commit.
    return Left(True, born, version, {aversion: step.tighten, aversion + 1: step.final})


def _carry_on_as_seen(client: Client, names: ControlPaths, attempt: Attempt, seen: LeftAsSeen) -> None:
    place, name = home_of(names, attempt.note), attempt.note.attempt
    left = seen.left
    try:
        journal, is_acl_hidden = load_as_seen(client, place, attempt.note.manifest_hash)
    except JournalMissing:
        return
    except NotPermitted:  # nor is it known which paths it has touched
        seen.unknown[name] = {path for path, one in left.items() if one.is_there}
        left.update(dict.fromkeys(seen.unknown[name], _UNKNOWN))
        return
    try:
        foreign = {deviation.path for deviation in read_deviations(client, place)}
        is_told = True
    except NotPermitted:
        foreign, is_told = set(), False
    tightened = _tightened(journal)
    shifts = seen.shifts.setdefault(name, {})
    unknown: set[str] = set()
    for path, entry, before in _at_stake(journal, left):
        shifts[path] = _shift(entry, before, attempt, path in tightened, path in foreign)
        one = left[path]
        if path in foreign or not one.is_known or not _is_as(one, before):
            continue
        carried = _carried(one, entry, before, attempt, path in tightened)
        if carried != one and not is_told:
            is_of_acl = carried._replace(acls=None) == one._replace(acls=None)
            carried = one._replace(acls=None) if is_of_acl else _UNKNOWN
            unknown.add(path)
        left[path] = carried._replace(acls=None) if is_acl_hidden else carried
    seen.has_hidden_acls |= is_acl_hidden
    if unknown:
        seen.unknown[name] = unknown


def _at_stake(journal: Journal, left: Mapping[str, Left]) -> list[tuple[str, Entry, Znode]]:
    """Entries of paths that are looked at and were there when the attempt began, each with what was there."""
    entries = journal.by_path()
    found = ((path, entries[path]) for path in left if path in entries)
    return [(path, entry, entry.before) for path, entry in found if entry.before is not None]


def _tightened(journal: Journal) -> set[str]:
    return {step.path for step in journal.acls if step.tighten is not None and not step.created}


def _is_applied(entry: Entry, attempt: Attempt) -> bool:
    return NO_BATCH < entry.batch < (attempt.note.applied or 0)


def _shift(entry: Entry, before: Znode, attempt: Attempt, is_tightened: bool, is_foreign: bool) -> Shift:
    is_applied = _is_applied(entry, attempt)
    writes = (1 if is_foreign else 2) if entry.action is Action.WRITTEN and is_applied else 0
    is_born = entry.action is Action.DELETED and is_applied and not is_foreign
    return Shift(before.stat, writes, 2 * is_tightened, (attempt.czxid, attempt.mzxid) if is_born else None)


def _carried(left: Left, entry: Entry, before: Znode, attempt: Attempt, is_tightened: bool) -> Left:
    """What an attempt that was rolled back has made of it: the same value under other versions."""
    is_applied = _is_applied(entry, attempt)
    if entry.action is Action.DELETED and is_applied:
        return Left(True, (attempt.czxid, attempt.mzxid), 0, {0: before.acl})
    if entry.action is Action.WRITTEN and is_applied and left.version is not None:
        left = left._replace(version=left.version + 2)
    if is_tightened and left.acls is not None:
        # One setACL to give back, two where it had been taken; none where no right was had to move the aversion.
        # At each of them somebody else may have set another ACL instead.
        first, acl = before.stat.aversion, before.acl
        left = left._replace(acls={first: acl, first + 1: acl, first + 2: acl})
    return left


def _is_as(left: Left, node: Znode) -> bool:
    """Whether the node is what the epoch has left."""
    stat = node.stat
    if not left.is_there or not left.born[0] <= stat.czxid <= left.born[1] or stat.ephemeral_owner:
        return False
    return left.version in (None, stat.version) and why_not_acl(left, node) is None


def why_not_acl(left: Left, node: Znode) -> str | None:
    """Why its ACL is not what the epoch has left; None if it is."""
    if left.acls is None:
        return None
    if node.stat.aversion in left.acls:
        acl = left.acls[node.stat.aversion]
        if acl is None or may_show_as(acl, node.acl):
            return None
    return "its ACL was changed"


def why_not(left: Left, node: Znode) -> str | None:
    """Why a node is not what the epoch has left; None if it is."""
    stat = node.stat
    if not left.is_there:
        return "created again"
    if not left.born[0] <= stat.czxid <= left.born[1] or stat.ephemeral_owner:
        return "deleted and created again"
    if left.version not in (None, stat.version):
        return f"written, version {stat.version}"
    return why_not_acl(left, node)
