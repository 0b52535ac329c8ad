"""ACL steps: setACL outside multis, conditional on the aversion, the same result however often they are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zkmig.apply.verify import Deviation
from zkmig.epoch.journal import AclEntry
from zkmig.epoch.owner import SENDS_MAX, Migrator
from zkmig.errors import NotPermitted, OutcomeUnknown, Unreachable
from zkmig.model.acl import AclList, may_show_as
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.replies import AclResult
from zkmig.wire.requests import GetAcl, SetAcl

DEPTH = 64
FOREIGN_ACL = "its ACL was changed by somebody else"


@dataclass(frozen=True, slots=True)
class AclWrite:
    """Set `acl` on `path` if its aversion is still `aversion`."""

    path: str
    acl: AclList
    aversion: int


def tightenings(acls: Sequence[AclEntry]) -> list[AclWrite]:
    """What is taken away before any data is written."""
    return [AclWrite(a.path, a.tighten, a.aversion) for a in acls if a.tighten is not None]


def finals(acls: Sequence[AclEntry]) -> list[AclWrite]:
    """What is set after the commit."""
    return [AclWrite(a.path, a.final, a.aversion_before_final) for a in acls if a.is_pending_after_commit]


def write_acls(
    migrator: Migrator, writes: Sequence[AclWrite], progress: Callable[[int], None] = lambda _: None
) -> list[Deviation]:
    """Set each ACL. One that somebody else has changed is left as it is and returned.

    A write whose condition fails is done already when the ACL reads as wanted: by an earlier run, or by the same
    write sent before a connection was lost.
    """
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
    deviations = series.deviations
    deviations += [Deviation(w.path, FOREIGN_ACL) for w in series.doubtful if not _is_done(migrator.client, w)]
    return deviations


class _Series:
    """Writes on their way. doubtful: refused, but perhaps because they were done before."""

    def __init__(self, migrator: Migrator, writes: Sequence[AclWrite], progress: Callable[[int], None]) -> None:
        self._migrator = migrator
        self._writes = writes
        self._progress = progress
        self.answered = 0
        self.doubtful: list[AclWrite] = []
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
            self.doubtful.append(write)  # set already? A final ACL may well shut this identity out
        elif error == Code.NO_NODE:
            self.deviations.append(Deviation(write.path, "deleted by somebody else"))
        elif error:
            raise error_for(error, write.path, "setACL")


def _is_done(client: Client, write: AclWrite) -> bool:
    """Whether a write that was refused had been done before. NotPermitted when it never was, and may not be."""
    live = client.call_reply(GetAcl(write.path))
    if isinstance(live.result, AclResult):
        return may_show_as(write.acl, live.result.acl)
    # Neither READ nor ADMIN: an ACL that shuts this identity out, as the final one may. The aversion, which exists
    # shows to everybody, tells whether it was set once; what it is cannot be seen.
    stat = client.exists(write.path)
    if stat is not None and stat.aversion == write.aversion:
        raise NotPermitted("not permitted to set its ACL", write.path, "resume as an identity with ADMIN on it")
    return stat is not None and stat.aversion == write.aversion + 1
