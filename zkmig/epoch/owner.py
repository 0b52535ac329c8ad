"""Migrator: the one writer of a scope, and the guarded multi through which all of its writes go.

Invariant: every write of a migration, the journal's included, is a multi whose head checks the incarnation, the epoch
record and the owner's token. A transition replaces the record's check by a compare-and-set of it. So a migrator that
lost the scope, or woke up after it was deleted and created again, cannot write anything any more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.guarded import (
    ADOPTIONS_MAX,
    HEAD_LENGTH,
    HEAD_RECORD,
    failed_at,
    guard_failure,
    is_record_moved,
    is_same_but_for_hold,
    multi_result,
    record_in,
)
from zkmig.epoch.pace import Pace
from zkmig.epoch.record import Owner, Record, nested
from zkmig.epoch.sending import Sending
from zkmig.epoch.series import Series, SeriesFailure
from zkmig.errors import (
    Conflict,
    NotOwner,
    NotPermitted,
    OtherIncarnation,
    Outcome,
    OutcomeUnknown,
    UnknownFormat,
    Unreachable,
)
from zkmig.model.acl import ALL, OPEN_ACL, AclList
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.packed import PackedOperations
from zkmig.wire.replies import DataResult, MultiResult
from zkmig.wire.requests import (
    Check,
    Create,
    Delete,
    GetAcl,
    GetChildren,
    GetData,
    Multi,
    SetData,
    Sync,
    WriteOp,
    encode_parts,
)

# What a caller of `Migrator` needs to name is found here too.
__all__ = ["HEAD_LENGTH", "Migrator", "OwnerView", "SeriesFailure", "TakeOver", "read_owner"]

OWNER_POLL_S = 0.25
BEAT_TRIES = 3  # where holds come and go
BEAT_PART = 1 / 6  # of its session's time-out: so often at most the owner at work says that it gets on
EPHEMERAL = 1  # create flag
TIMEOUT_MS_MAX = 2**31 - 1  # of a session; the protocol has no more room for it


@dataclass(frozen=True, slots=True)
class OwnerView:
    """The owner node as others see it. alive: its lock is there. session_timeout_ms: of the session that took it.

    beats: how often it has said that it gets on. progress_at: when last, by the servers' clock, unix time in s; None:
    its lock is gone.
    """

    owner: Owner | None
    token: int
    alive: bool
    session_timeout_ms: int
    beats: int = 0
    progress_at: float | None = None

    @property
    def who(self) -> str:
        """As in "zk1 pid 4711"."""
        return f"{self.owner.host} pid {self.owner.pid}" if self.owner else f"token {self.token}"


def read_owner(client: Client, names: ControlPaths) -> OwnerView:
    """Who took the scope last, and whether that session still lives."""
    node = client.call(GetData(names.owner))
    assert isinstance(node, DataResult)
    token = node.stat.version
    lock = client.exists(names.lock(token)) if token > 0 else None
    owner, timeout_ms = None, 30_000
    if token > 0:
        try:
            fields = json.loads(node.data or b"")
            owner = nested(Owner, fields)
            timeout = fields["session_timeout_ms"]
            timeout_ms = timeout if type(timeout) is int and 0 < timeout <= TIMEOUT_MS_MAX else timeout_ms
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            owner = None  # informative only: the token is what counts
    if lock is None:
        return OwnerView(owner, token, False, timeout_ms)
    return OwnerView(owner, token, True, timeout_ms, lock.version, lock.mtime / 1000)


@dataclass(frozen=True, slots=True)
class TakeOver:
    """How to take a scope that may have an owner. wait: for a living one; steal: do not even look whether it lives."""

    wait: bool = False
    steal: bool = False
    plan_path: str = ""


class Migrator:
    """The writer of one scope. record and record_version are what every write is conditional on."""

    def __init__(self, client: Client, names: ControlPaths, stop: StopRequest) -> None:
        self.client = client
        self.names = names
        self.stop = stop
        self.token = -1
        self.owner: Owner | None = None
        self.record: Record
        self.record_version = -1
        self.control_acl: AclList = OPEN_ACL
        self._lock_data = b""
        self._beat_at = 0.0
        self.sending = Sending(client, stop)
        self.admit_hold: Callable[[Record], None] = lambda _: None  # called before a hold is adopted; may raise

    # -- taking the scope ---------------------------------------------------------------------------------------------

    @classmethod
    def take(
        cls,
        client: Client,
        names: ControlPaths,
        how: TakeOver,
        stop: StopRequest,
        say: Callable[[str], None] = lambda _: None,
        admit: Callable[[Record], None] = lambda _: None,
    ) -> Migrator:
        """Become the owner: bump the token first, read the record afterwards, so that what is read is final.

        Raises NotOwner when a living owner keeps the scope and waiting was not asked for. admit: called with the
        record just before the token is taken; what it raises leaves the scope to its owner.
        """
        self = cls(client, names, stop)
        idle_token = -1  # an owner that lives but has stopped working
        while True:
            client.call(Sync(names.home))
            record, _ = read_record(client, names)
            if record.format > records.FORMAT:
                raise UnknownFormat(
                    f"record format {record.format}: this zkmig may read it, not write it", names.record, "upgrade"
                )
            seen = read_owner(client, names)
            if seen.alive and not how.steal and seen.token != idle_token:
                idle_token = self._await_owner(seen, how, say)
                continue
            admit(record)
            if self._bump(record.incarnation, seen.token, how):
                break
        self.record, stat = read_record(client, names)
        self.record_version = stat.version
        if self.record.incarnation != record.incarnation:
            raise OtherIncarnation("the scope was deleted and created again", names.record, "start over")
        self.control_acl = client.call(GetAcl(names.record)).acl
        self._beat_at = time.monotonic()
        client.between = self.beat
        return self

    def _await_owner(self, seen: OwnerView, how: TakeOver, say: Callable[[str], None]) -> int:
        """Return once the owner is gone (-1), or its token when it made no progress for as long as its session lasts.

        A stopped or stuck process can keep its lock: the token, not the lock, is what makes taking it over safe.
        """
        who = seen.who
        if not how.wait:
            raise NotOwner(
                f"another migrator is at work ({who})", self.names.home, "wait with --wait, or take over with --steal"
            )
        say(
            f"waiting for the migrator at {who}; if it is dead, for up to {seen.session_timeout_ms / 1000:g} s, its "
            "session's time-out; --steal does not wait"
        )
        progress = self._progress(seen)
        quiet_since = time.monotonic()
        while True:
            self.stop.check()
            now = read_owner(self.client, self.names)
            if now.token != seen.token or not now.alive:
                return -1
            latest = self._progress(now)
            if latest != progress:
                progress, quiet_since = latest, time.monotonic()
            if time.monotonic() - quiet_since > seen.session_timeout_ms / 1000:
                say(f"the migrator at {who} has made no progress within its session time-out: taking over")
                return seen.token
            time.sleep(OWNER_POLL_S)

    def _progress(self, seen: OwnerView) -> tuple[int, ...]:
        """Versions that move whenever the present owner gets on with its work."""
        record, stat = read_record(self.client, self.names)
        versions = [stat.version, seen.beats]
        if record.attempt is not None and record.target_epoch is not None:
            attempt = self.names.attempt(record.target_epoch, record.attempt)
            for path in (attempt.cursor, attempt.rcursor):
                reply = self.client.call_reply(GetData(path))
                versions.append(reply.result.stat.version if isinstance(reply.result, DataResult) else -1)
        return tuple(versions)

    def _bump(self, incarnation: str, token_seen: int, how: TakeOver) -> bool:
        """Take the token by compare-and-set, the lock in the same multi. False when somebody else was faster."""
        token = token_seen + 1
        owner = Owner(token, platform.node(), os.getpid(), time.time(), how.plan_path)
        data = json.dumps(
            {**dataclasses.asdict(owner), "session_timeout_ms": self.client.session_timeout_ms}, sort_keys=True
        ).encode()
        acl = self.client.call(GetAcl(self.names.record)).acl
        multi = Multi(
            (
                Check(self.names.incarnation(incarnation), -1),
                SetData(self.names.owner, data, token_seen),
                Create(self.names.lock(token), data, acl, EPHEMERAL),
            )
        )
        try:
            reply, resent = self.sending.send(multi)
            taken = reply.error == 0 or (resent and self._is_taken(data, token))
        except OutcomeUnknown:
            # A token that was taken for a session that is gone hurts nobody: the next owner bumps it again.
            raise Unreachable("the connection was lost while taking the scope", self.names.owner, "try again") from None
        if taken:
            self.token, self.owner, self._lock_data = token, owner, data
            return True
        if multi_result(reply).code == Code.NO_AUTH:
            raise NotPermitted("not permitted to write this scope", self.names.owner, "authenticate as its admin")
        if multi_result(reply).code == Code.BAD_VERSION:
            return False
        if multi_result(reply).code == Code.NO_NODE:
            raise OtherIncarnation("the scope was deleted and created again", self.names.home, "start over")
        raise error_for(multi_result(reply).code, self.names.owner, "take the owner's token")

    def _is_taken(self, data: bytes, token: int) -> bool:
        """Whether the owner node is what this very process has written, at some moment of its own, for this token."""
        node = self.sending.read_back(self.names.owner)
        return node is not None and node.data == data and node.stat.version == token

    @property
    def private_acl(self) -> AclList:
        """The control plane's ACL, for its admins alone."""
        return tuple(entry for entry in self.control_acl if entry.perms == ALL)

    def has_living_predecessor(self) -> bool:
        """Whether the session of an earlier owner lives, so that something of it which no guard holds may still land.

        Once its lock is gone its session is closed, and the servers take nothing more of it. A lock that this session
        does not see is gone: each was made before the token of this one.
        """
        own = self.names.lock(self.token).rpartition("/")[2]
        names = self.client.call(GetChildren(self.names.home)).children
        return any(name.startswith("lock-") and name != own for name in names)

    # -- being seen at work -------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Let others see that the work gets on, now and then: to be called by who does the work, wherever it goes.

        Reading, draining and verifying move nothing that others could see; so the lock is written, under the guard. The
        client calls this between the answers of its pipelines. It is never a thread's of its own: one that is stuck has
        to look stuck. Raises NotOwner as soon as the scope was taken over.
        """
        now = time.monotonic()
        if now - self._beat_at < self.client.session_timeout_ms / 1000 * BEAT_PART:
            return
        self._beat_at = now
        try:
            with self.stop.patiently():
                for _ in range(BEAT_TRIES):
                    # Version -1: who holds the token is the only one to write its lock, and each beat is as good as
                    # any other.
                    multi = self.guarded([SetData(self.names.lock(self.token), self._lock_data, -1)])
                    reply = self.client.call_reply(multi)
                    if not reply.error or not self._adopt_here(multi_result(reply)):
                        return
        except (OutcomeUnknown, ConnectionLost):
            return  # whose pipeline this is will find out too, and knows what to do

    def _adopt_here(self, result: MultiResult) -> bool:
        """`adopt`, on the connection that there is: another would be for whose pipeline this is to make."""
        if is_record_moved(result):
            node = self.client.call_reply(GetData(self.names.record)).result
            if isinstance(node, DataResult) and self._adopt(record_in(node, self.names.record)):
                return True
        self.raise_if_head_failed(result)  # a lock that is gone stops nothing: the token counts
        return False

    # -- writing ------------------------------------------------------------------------------------------------------

    def head(self) -> tuple[WriteOp, ...]:
        """check(incarnation), check(record), check(owner)."""
        return (
            Check(self.names.incarnation(self.record.incarnation), -1),  # its name is its identity; it has no versions
            Check(self.names.record, self.record_version),
            Check(self.names.owner, self.token),
        )

    def guarded(self, operations: Sequence[WriteOp]) -> Multi:
        """The operations under the guard, as the request that is sent."""
        head = self.head()
        if isinstance(operations, PackedOperations):
            return Multi(operations.behind(head, encode_parts(head)))
        return Multi((*head, *operations))

    def write(self, operations: Sequence[WriteOp], witness: int | None = None) -> MultiResult:
        """Send one guarded multi and return its result, which may be a failure of one of `operations`.

        witness: index into `operations` of one that nobody else can have done (a compare-and-set or a create of a
        name that is ours). After a lost answer the same multi is sent again; if it then fails at the witness, the
        first one has landed, and that counts as done; also where a hold came between the two.
        """
        resent = False
        for _ in range(ADOPTIONS_MAX):
            reply, resent = self.sending.send(self.guarded(operations), resent)
            result = multi_result(reply)
            if reply.error == 0:
                return result
            if not self.adopt(result, resent):
                break
        self.raise_if_head_failed(result, resent)
        if resent and witness is not None and failed_at(result, witness):
            return MultiResult(())
        return result

    def write_all(self, operations: Sequence[WriteOp], what: str, witness: int | None = None) -> None:
        """`write` for operations on the control plane, where any failure is an error: nobody else writes there."""
        result = self.write(operations, witness)
        if result.failed_index is not None and result.failed_index >= HEAD_LENGTH:
            path = operations[result.failed_index - HEAD_LENGTH].path
            if result.code == Code.NO_AUTH:
                raise NotPermitted(f"not permitted to {what}", path, "authenticate as the scope's admin")
            raise Conflict(f"could not {what}: {code_name(result.code)}", path, "run zkmig status")

    def transition(self, record: Record, extra: Sequence[WriteOp] = ()) -> MultiResult:
        """Compare-and-set the record, with `extra` operations in the same multi.

        Returns the result (a failure of an extra operation is the caller's to judge); on success the new record is
        what later writes are conditional on.
        """
        record = dataclasses.replace(record, owner=self.owner if record.attempt else None)
        resent = False
        for _ in range(ADOPTIONS_MAX):
            record = record.updated(held=self.record.held)  # which is not a migrator's to change
            head = list(self.head())
            head[HEAD_RECORD] = SetData(self.names.record, records.encode(record), self.record_version)
            reply, resent = self.sending.send(Multi((*head, *extra)), resent)
            result = multi_result(reply)
            if reply.error == 0:
                self.record, self.record_version = record, self.record_version + 1
                return result
            if not is_record_moved(result):
                break
            found = self._find_record(resent)
            tells = not is_same_but_for_hold(record, self.record)  # else it looks the same whether it landed or not
            if resent and tells and found is not None and self._is_mine(record, found):
                self.record, self.record_version = found
                return MultiResult(())
            if not self._adopt(found):
                break
            # The record is as it was, at a later version: what was sent before has not landed, and cannot any more.
            resent = resent and not tells
        self.raise_if_head_failed(result, resent)
        return result

    def _is_mine(self, record: Record, found: tuple[Record, int]) -> bool:
        """Whether a record that was sent has landed: it is there, with another hold since, perhaps."""
        return is_same_but_for_hold(record, found[0]) and found[1] > self.record_version

    def adopt(self, result: MultiResult, in_doubt: bool = False) -> bool:
        """Whether it failed at a hold, and can be sent again. in_doubt: it may have landed when sent before that."""
        return is_record_moved(result) and self._adopt(self._find_record(in_doubt))

    def _adopt(self, found: tuple[Record, int] | None) -> bool:
        """Take over record and version if they are this migrator's own but for the hold, and later ones.

        Whoever has taken the scope meanwhile may have done so under the same record: the owner's check tells, in all
        that is sent from now on.
        """
        if found is None or found[1] <= self.record_version or not is_same_but_for_hold(found[0], self.record):
            return False
        self.admit_hold(found[0])
        self.record, self.record_version = found
        return True

    def _find_record(self, in_doubt: bool) -> tuple[Record, int] | None:
        return record_in(self.sending.read_back(self.names.record, in_doubt), self.names.record)

    def write_series(
        self,
        operations_of: Callable[[int], Sequence[WriteOp]],
        start: int,
        total: int,
        *,
        witness: int,
        pace: Pace,
        progress: Callable[[int], None] = lambda _: None,
        landed: Callable[[int, int], None] = lambda _number, _zxid: None,
    ) -> SeriesFailure | None:
        """Send guarded multis number start..total-1, pipelined; each applies only after all before it, or not at all.

        operations_of(i): the operations of multi i, asked for when it is about to be sent. witness: index into them
        of one that nobody else can have done (see `write`): after a lost connection the unanswered ones are sent
        again, and one that fails at its witness has landed before. Returns the first failure that lies in the
        operations themselves (nothing is sent after it), None when all applied. progress gets the number applied;
        landed the number of a multi and the zxid at which it applied, where its own answer has told.

        Raises Stopped, between two multis, when asked to stop.
        """
        return Series(self, operations_of, start, total, witness, pace, progress, landed).run()

    def raise_if_head_failed(self, result: MultiResult, resent: bool = False) -> None:
        """Turn a failed guard into its error; return when the failure lies in the operations after it.

        resent: an earlier sending may have landed before the guard came to fail.
        """
        error = guard_failure(self.names, result)
        if error is not None:
            error.outcome = Outcome.UNKNOWN if resent else error.outcome
            raise error

    def release(self) -> None:
        """Give the lock back; the session's end would do it too."""
        self.client.between = None
        # Version -1: its version counts beats. Names come again in a scope that was deleted and created again.
        incarnation = Check(self.names.incarnation(self.record.incarnation), -1)
        self.client.call_reply(Multi((incarnation, Delete(self.names.lock(self.token), -1))))
