"""Obstacles: what others have put in the way of a batch, or of one that undoes it, told before it is sent, from Stats.

A failed multi names but one operation, and versions repeat: without a look first, a rollback would take a multi for
each node that somebody has removed, and a node of somebody else that has the version of ours would be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zkmig.apply.verify import REPLACED, Deviation, why
from zkmig.epoch.control import AttemptPaths
from zkmig.epoch.journal import NO_BATCH, Action, Entry, Journal
from zkmig.epoch.record import ConflictNote
from zkmig.model import path as paths
from zkmig.model.stat import Stat
from zkmig.plan.operations import DeleteNode, WriteData
from zkmig.plan.plan import Plan
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.replies import StatResult
from zkmig.wire.requests import Check, Delete, Exists, SetData, WriteOp

EXISTS_DEPTH = 128
NOTHING_ABOVE = "not brought back: what was above it is gone"


def without_blocked(client: Client, writes: Sequence[WriteOp]) -> tuple[list[WriteOp], list[Deviation]]:
    """The writes less those that are bound to fail by what stands at their own paths or is gone above them, and these
    as deviations."""
    stats = dict(stats_of(client, [write.path for write in writes]))
    above = {paths.parent(write.path) for write in writes if _creates(write) and write.path != "/"}
    missing = {path for path, stat in stats_of(client, above - stats.keys()) if stat is None}
    free: list[WriteOp] = []
    blocked: list[Deviation] = []
    for write in writes:
        code = _foreseen(write, stats[write.path])
        if code is None and _creates(write) and paths.parent(write.path) in missing:
            missing.add(write.path)  # nor can anything be made below it
            blocked.append(left_as_is(write, Code.NO_NODE))
        elif code is None:
            free.append(write)
        else:
            blocked.append(left_as_is(write, code))
    return free, blocked


def stats_of(client: Client, asked: Iterable[str]) -> Iterable[tuple[str, Stat | None]]:
    """Of each path, None where nothing is; asks for no permission."""
    listed = list(asked)
    for path, reply in zip(listed, client.pipeline(map(Exists, listed), EXISTS_DEPTH), strict=True):
        yield path, reply.result.stat if isinstance(reply.result, StatResult) else None


def _creates(write: WriteOp) -> bool:
    return not isinstance(write, Delete | SetData | Check)


def _foreseen(write: WriteOp, stat: Stat | None) -> Code | None:
    match write:
        case Delete() | SetData():
            if stat is None:
                return Code.NO_NODE
            return None if stat.version == write.version else Code.BAD_VERSION
        case Check():
            return None
        case _:
            return None if stat is None else Code.NODE_EXISTS


def left_as_is(write: WriteOp, code: int) -> Deviation:
    """What to say of a write that was left out, since the server refuses it with this code."""
    if _creates(write) and code == Code.NO_NODE:
        return Deviation(write.path, NOTHING_ABOVE)
    return Deviation(write.path, f"left as it is, {why(code)}")


def find_replaced(
    client: Client, attempt: AttemptPaths, journal: Journal, cursor: int, conflict: ConflictNote | None
) -> frozenset[str]:
    """Paths that the attempt has created or written and where by now another node stands, made after their batch.

    Such a node may have the very version that undoing expects, since versions repeat [zookeeper-facts 14]; its zxids
    tell. What a batch has left is all of one zxid, and older than what any later batch has left; what others have put
    in its place is younger. So the oldest of a batch dates it. Only where nothing of a batch is left as it was can the
    oldest of what replaced it pass for a node that it has created; not so an ephemeral, which no plan creates, and not
    one that was found before the commit and is what stopped the epoch (conflict: the last one, as noted). A node that
    was there before may have been replaced before its batch, which then has written to it.
    """
    at_stake = [e for e in journal.entries if NO_BATCH < e.batch < cursor and e.action is not Action.DELETED]
    stats = dict(stats_of(client, [entry.path for entry in at_stake]))
    replaced: list[str] = []
    left: dict[int, list[tuple[Entry, Stat]]] = {}  # by batch
    for entry in at_stake:
        stat = stats[entry.path]
        if stat is None:
            continue
        if entry.before is None and (stat.ephemeral_owner or _is_noted(entry.path, stat, conflict)):
            replaced.append(entry.path)
        else:
            left.setdefault(entry.batch, []).append((entry, stat))
    zxid = client.call(Exists(attempt.cursor)).stat.mzxid  # the last batch has written it
    for batch in sorted(left, reverse=True):
        dates = [stat.czxid if entry.before is None else stat.mzxid for entry, stat in left[batch]]
        zxid = min(zxid, *dates)
        is_certain = dates.count(zxid) > 1 or batch == cursor - 1
        for entry, stat in left[batch]:
            is_another = entry.before is not None and stat.czxid != entry.before.stat.czxid
            if stat.czxid > zxid or (is_another and not is_certain):
                replaced.append(entry.path)
    return frozenset(replaced)


def _is_noted(path: str, stat: Stat, conflict: ConflictNote | None) -> bool:
    """Whether it is the node that a conflict tells of as one that has replaced another."""
    if conflict is None or not conflict.reason.startswith(REPLACED):
        return False
    return (path, stat.czxid) == (conflict.path, conflict.found_czxid)


def first_replaced(client: Client, plan: Plan, applied: int) -> tuple[str, int] | None:
    """The first path that a batch is still to write or delete and where by now another node stands, and that batch.

    applied: how many batches have. For who goes on after a while: that node may well have the version that is expected.
    """
    creates, rest = len(plan.ordered.creates), plan.ordered.rest
    ahead: dict[str, tuple[int, int]] = {}  # czxid, batch
    for batch, (start, end) in enumerate(plan.batch_ranges()):
        if batch < applied:
            continue
        for operation in rest[max(0, start - creates) : max(0, end - creates)]:
            if isinstance(operation, WriteData | DeleteNode):
                ahead[operation.path] = operation.pin.czxid, batch
    for path, stat in stats_of(client, ahead):
        czxid, batch = ahead[path]
        if stat is not None and stat.czxid != czxid:
            return path, batch
    return None
