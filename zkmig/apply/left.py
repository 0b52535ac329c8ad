"""Left: what a committed epoch has left on each of its paths, told from its journal alone: czxid, version, aversion.

So it can be told of a node whether anybody has written it since. What attempts that were rolled back have made of a
path since then, the same value under other versions, is no writing of others where their journals are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zkmig.apply.rollback import read_deviations
from zkmig.epoch.attempts import Attempt, home_of
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.journal import NO_BATCH, AclEntry, Action, Entry, Journal, JournalMissing, load
from zkmig.model.acl import AclList, may_show_as
from zkmig.model.znode import Znode
from zkmig.wire.client import Client


class Left(NamedTuple):
    """A path as the epoch has left it. is_there: else it was deleted. born: czxids that the node may have, first and
    last. version None: not looked at. acls: the aversions that it may have, and what it shows at each (None: the
    aversion says it all, nobody has set another); None: not looked at."""

    is_there: bool
    born: tuple[int, int] = (0, 0)
    version: int | None = None
    acls: Mapping[int, AclList | None] | None = None


def left_by(
    client: Client, names: ControlPaths, attempt: Attempt, journal: Journal, later: Sequence[Attempt]
) -> dict[str, Left]:
    """Of each path in the journal; later: attempts rolled back since, whose journals are kept."""
    steps = {step.path: step for step in journal.acls}
    left = {path: _left_of(entry, steps.get(path), attempt) for path, entry in journal.by_path().items()}
    for one in later:
        _carry_on(client, names, one, left)
    return left


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


def _carry_on(client: Client, names: ControlPaths, attempt: Attempt, left: dict[str, Left]) -> None:
    """What an attempt that was rolled back has made of them: the same values under other versions."""
    place = home_of(names, attempt.note)
    try:
        _, journal = load(client, place, attempt.note.manifest_hash)
    except JournalMissing:
        return
    foreign = {deviation.path for deviation in read_deviations(client, place)}
    applied = attempt.note.applied or 0
    tightened = {step.path for step in journal.acls if step.tighten is not None and not step.created}
    entries = journal.by_path()
    for path, one in left.items():
        entry = entries.get(path)
        if entry is None or entry.before is None or path in foreign or not _is_as(one, entry.before):
            continue
        is_applied = NO_BATCH < entry.batch < applied
        if entry.action is Action.DELETED and is_applied:
            left[path] = Left(True, (attempt.czxid, attempt.mzxid), 0, {0: entry.before.acl})
            continue
        if entry.action is Action.WRITTEN and is_applied and one.version is not None:
            left[path] = one = one._replace(version=one.version + 2)
        if path in tightened and one.acls is not None:
            # One setACL to give back, two where it had been taken; none where no right was had to move the aversion.
            # At each of them somebody else may have set another ACL instead.
            first, acl = entry.before.stat.aversion, entry.before.acl
            left[path] = one._replace(acls={first: acl, first + 1: acl, first + 2: acl})


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
