"""ACL steps: setACL outside multis, conditional on the aversion, the same result however often they are run.

The aversion of a node that somebody has made anew is 0 again. So each path is looked at first: where another node
stands by now, whose ACL may keep a secret, it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zkmig.apply.obstacles import stats_of
from zkmig.apply.verify import REPLACED, Deviation, why
from zkmig.epoch.attempts import home_written
from zkmig.epoch.journal import AclEntry, Journal
from zkmig.epoch.owner import Migrator
from zkmig.epoch.record import Pending
from zkmig.epoch.sending import SENDS_MAX
from zkmig.errors import NotPermitted, OutcomeUnknown, Unreachable
from zkmig.model.acl import AclList, may_show_as
from zkmig.model.stat import Stat
from zkmig.wire.codes import Code, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.replies import AclResult
from zkmig.wire.requests import GetAcl, SetAcl

DEPTH = 64
DELETED = "deleted by somebody else"
FOREIGN_ACL = "its ACL was changed by somebody else"


Born = tuple[int, int]
"""The czxids that a node may have, first and last."""


@dataclass(frozen=True, slots=True)
class AclWrite:
    """Set `acl` on `path` if its aversion is still `aversion`.

    is_fence: `acl` is what the node has anyway; the write only moves the aversion, so that an older one fails. born:
    else it is another node; None: that was looked at, or is not known.
    """

    path: str
    acl: AclList
    aversion: int
    is_fence: bool = False
    born: Born | None = None


def born_before(journal: Journal) -> dict[str, Born]:
    """Of the nodes whose ACL an attempt sets, those that were there when it began."""
    wanted = {step.path for step in journal.acls}
    held = ((entry.path, entry.before) for entry in journal.entries if entry.path in wanted)
    return {path: (node.stat.czxid, node.stat.czxid) for path, node in held if node is not None}


def born_until(migrator: Migrator, pending: Pending, journal: Journal) -> dict[str, Born]:
    """The same, and those that a committed attempt has created: they came between the first write of its home and its
    commit, which is the last, where that could be noted there."""
    created = [step.path for step in journal.acls if step.created]
    written = home_written(migrator, pending.epoch, pending.attempt) if created else None
    return born_before(journal) | ({} if written is None else dict.fromkeys(created, written))


def tightenings(acls: Sequence[AclEntry], born: Mapping[str, Born]) -> list[AclWrite]:
    """What is taken away before any data is written."""
    return [AclWrite(a.path, a.tighten, a.aversion, born=born.get(a.path)) for a in acls if a.tighten is not None]


def finals(acls: Sequence[AclEntry], born: Mapping[str, Born] | None = None) -> list[AclWrite]:
    """What is set after the commit. born: of those nodes of which it is known."""
    waiting = (step for step in acls if step.is_pending_after_commit)
    born = born or {}
    return [AclWrite(a.path, a.final, a.aversion_before_final, born=born.get(a.path)) for a in waiting]


def write_acls(
    migrator: Migrator, writes: Sequence[AclWrite], progress: Callable[[int], None] = lambda _: None
) -> list[Deviation]:
    """Set each ACL. One that somebody else has changed, or that the server will not store, is left and returned.

    A write whose condition fails is done already when the ACL reads as wanted: by an earlier run, or by the same
    write sent before a connection was lost. NotPermitted: one was never done, and this identity may not.
    """
    writes, replaced = _not_replaced(migrator, writes)
    series = _Series(migrator, writes, progress)
    losses = 0
    while series.answered < len(writes):
        before = series.answered
        try:
            if not migrator.client.is_connected:
                migrator.client.reconnect()
            series.send(1 if losses else DEPTH)
        except (OutcomeUnknown, ConnectionLost):
            losses = 1 if series.answered > before else losses + 1
            if losses == SENDS_MAX:
                raise
        except Unreachable as error:
            raise OutcomeUnknown(error.what, error.where, "run zkmig resume") from error
    judged = (_judge(migrator, write, code) for write, code in series.doubtful)
    return [*replaced, *series.deviations, *filter(None, judged)]


def _not_replaced(migrator: Migrator, writes: Sequence[AclWrite]) -> tuple[Sequence[AclWrite], list[Deviation]]:
    """Those on nodes that are not known to be others by now, and the rest as deviations."""
    known = [write.path for write in writes if write.born is not None]
    if not known:
        return writes, []
    stats = _look(migrator, known)
    left: list[AclWrite] = []
    replaced: list[Deviation] = []
    for write in writes:
        stat = stats.get(write.path)
        if write.born is None or (stat is not None and write.born[0] <= stat.czxid <= write.born[1]):
            left.append(write)
        else:
            replaced.append(Deviation(write.path, DELETED if stat is None else REPLACED))
    return left, replaced


def _look(migrator: Migrator, paths: Sequence[str]) -> dict[str, Stat | None]:
    """On the next connection, if need be."""
    client = migrator.client
    for _ in range(SENDS_MAX - 1):
        try:
            if not client.is_connected:
                client.reconnect()
            return dict(stats_of(client, paths))
        except ConnectionLost:
            continue
    client.reconnect()
    return dict(stats_of(client, paths))


class _Series:
    """Writes on their way. doubtful: refused by that code, but perhaps because they were done before."""

    def __init__(self, migrator: Migrator, writes: Sequence[AclWrite], progress: Callable[[int], None]) -> None:
        self._migrator = migrator
        self._writes = writes
        self._progress = progress
        self.answered = 0
        self.doubtful: list[tuple[AclWrite, int]] = []
        self.deviations: list[Deviation] = []

    def send(self, depth: int) -> None:
        """All that are not answered yet."""
        requests = [SetAcl(w.path, w.acl, w.aversion) for w in self._writes[self.answered :]]
        with self._migrator.stop.patiently():
            for reply in self._migrator.client.pipeline(requests, depth):
                self._take(self._writes[self.answered], reply.error)
                self.answered += 1
                self._progress(self.answered)

    def _take(self, write: AclWrite, error: int) -> None:
        if error in (Code.BAD_VERSION, Code.NO_AUTH):
            self.doubtful.append((write, error))  # set already? A final ACL may well shut this identity out
        elif error == Code.NO_NODE:
            self.deviations.append(Deviation(write.path, DELETED))
        elif error == Code.INVALID_ACL:
            # No later try would do better, and an epoch that waits for it forever could neither end nor go back.
            self.deviations.append(Deviation(write.path, f"its ACL was left as it is, {why(error)}"))
        elif error:
            raise error_for(error, write.path, "setACL")


def _judge(migrator: Migrator, write: AclWrite, code: int) -> Deviation | None:
    """What became of a write that was refused: None when it had been done before.

    The aversion decides, not what the ACL looks like: to a session without ADMIN an old password looks like a new one.
    """
    live = migrator.client.call_reply(GetAcl(write.path))
    stat = live.result.stat if isinstance(live.result, AclResult) else migrator.client.exists(write.path)
    if stat is None:
        return Deviation(write.path, DELETED)
    if code == Code.NO_AUTH and stat.aversion == write.aversion:
        if write.is_fence:
            if not migrator.has_living_predecessor():
                return None  # what would have to be fenced off went with its session
            raise NotPermitted(
                "a former owner's session lives, and its setACL may still be on its way",
                write.path,
                "go on as an identity with ADMIN on it, or once that session has ended",
            )
        raise NotPermitted("not permitted to set its ACL", write.path, "go on as an identity with ADMIN on it")
    if isinstance(live.result, AclResult):
        is_done = may_show_as(write.acl, live.result.acl)
    else:
        is_done = stat.aversion == write.aversion + 1  # it shuts this identity out, as the final one may
    return None if is_done else Deviation(write.path, FOREIGN_ACL)
