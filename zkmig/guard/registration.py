"""Registration: the node under guards/ by which a drain knows of a guarded process, and the record beside it.

One thread asks the servers, one thing at a time, so that signals and processes are answered while they are away; what
it finds it posts as events. Three things are done:

- look: record and registration are read, and watched. Watches may be lost, so it is done every half session as well.
- register: one transaction checks the incarnation and the record at the version it was read, and writes "running" at
  the version of the registration that was read. So it lands only under the very record that was STABLE and not held.
- acknowledge: "stopped" is written over what says "running" of this guard, as often as it takes.

A version alone does not tell whose a node is: one that was deleted and created by another guard has the same versions
again. So before each write, repeated ones included, the node is read behind a sync, and nothing is written where it has
become another guard's; and a setData is carried out on the connection on which that was read, or fails (`bound`). What
was under way on an earlier connection cannot land any more by then: servers refuse what comes in a session that has
moved on, or is closed, and on one connection all is in order. So what was read tells what came of it, by the guard's
own name and a number in each write.

What remains: between that reading and the write's arrival, a moment if the network carries it and the session's timeout
at most, somebody deletes the node by hand and another guard of this name, on another machine, registers and reaches
the same version. It is found out by the czxid in the answer, and told; the other guard finds its registration gone and
ends its command. zkmig itself deletes a registration only where it was evicted and its ACL keeps the admins from
writing it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kazoo.client import KazooClient, KazooState, TransactionRequest
from kazoo.exceptions import (
    BadVersionError,
    InvalidACLError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import WatchedEvent, ZnodeStat
from kazoo.security import ACL

from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import ENTRY_BYTES_MAX, GuardEntry
from zkmig.errors import BadInput, Forbidden, UnknownFormat, ZkmigError
from zkmig.guard.bound import BoundSetData, NoAnswerError
from zkmig.guard.events import (
    Acknowledge,
    Acknowledged,
    Doubtful,
    EntrySeen,
    Event,
    Holder,
    NoRecord,
    NotAcknowledged,
    NotRegistered,
    Register,
    Registered,
    Seen,
    Silent,
    moment,
)
from zkmig.guard.limits import Limits, OverBudget
from zkmig.model.acl import Acl, AclList, Identity
from zkmig.reader.baseline import holders
from zkmig.reader.budget import Budget
from zkmig.reader.kazoo_acl import kazoo_acl, lease_acl
from zkmig.reader.ledger import put_into
from zkmig.reader.part import OutsideScope

ANSWER_TIMEOUT_S: Final = 10.0
"""Longer than that an answer is not waited for: whatever was asked is in doubt then."""

CONNECT_TIMEOUT_S: Final = 10.0
"""So long after its start a guard says that the servers do not answer."""

CHANGED: Final = "the registration was changed by somebody else"
LOST: Final = "the registration is another's by now"
SILENT: Final = "the servers do not answer"
REFUSALS: Final = (NoNodeError, NoAuthError, NodeExistsError, BadVersionError, InvalidACLError)
CLOSE_TIMEOUT_S: Final = 1.0
RETRY_S: Final = 0.1

T = TypeVar("T")
_logger = logging.getLogger("zkmig.guard")

Clean = Callable[[], str]
"""Ends what earlier guards of the name have left: "" once all is gone, else what is not. May take its time."""

Judge = Callable[[GuardEntry], tuple[Holder, str]]
"""Whether a registration that says running, of another guard than this, is of one that is gone: GONE, ANOTHER or
ALIVE, and whose it is. May take as long as ending what that one has left."""


@dataclass(frozen=True, slots=True)
class Me:
    """This guard. instance: no two have the same. process: see `machine`."""

    unit: str
    instance: str
    process: dict[str, object]


class Registration:
    """The registration of one guard, and the record that it depends on. `post` is called from other threads.

    who: identities of this guard, as ACLs name them; asked for when the registration is first made. poll_s: between two
    looks of which nothing has told that they are needed.
    """

    def __init__(
        self,
        client: KazooClient,
        names: ControlPaths,
        me: Me,
        clean: Clean,
        judge: Judge,
        who: Callable[[], Sequence[Identity]],
        post: Callable[[Event], None],
        *,
        poll_s: float,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        budgets: Sequence[Budget] = (),
    ) -> None:
        self._client = client
        self._names = names
        self._me = me
        self._clean = clean
        self._judge = judge
        self._who = who
        self._post = post
        self._poll_s = poll_s
        self._answer_timeout_s = answer_timeout_s
        self.path = f"{names.guards}/{me.unit}"
        self._limits = Limits(client, names, me.unit, budgets, self._answer) if budgets else None
        # Of the thread alone:
        self._entry: GuardEntry | None = None
        self._version: int | None = None  # of the registration; None: there is none
        self._czxid = 0
        self._own_czxid = 0  # of the node that last was seen to be this guard's, 0: none is
        self._read_on = 0  # the connection on which it was read before a write
        self._is_unreadable = False
        self._writes = 0
        self._known_gone = ""  # whose registration was last judged to be
        # Of all that is connected to it, by kazoo's thread:
        self._connection = 0
        # Of both:
        self._wakeup = threading.Condition()
        self._order: Register | Acknowledge | None = None
        self._look_wanted = True
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="zkmig guard", daemon=True)

    # -- for the guard ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, in the background, and look."""
        self._client.add_listener(self._on_state)
        self._client.start_async()
        self._thread.start()

    def check(self) -> None:
        """RuntimeError when its thread has ended of something unforeseen: what runs would not be ended any more."""
        if not self._thread.is_alive() and not self._is_closing:
            raise RuntimeError("the thread that asks the servers has ended")

    def look(self) -> None:
        """Read both now; EntrySeen, and Seen or NoRecord, follow."""
        with self._wakeup:
            self._look_wanted = True
            self._wakeup.notify()

    def carry_out(self, order: Register | Acknowledge) -> None:
        """One at a time: the next only once this one was answered."""
        with self._wakeup:
            self._order = order
            self._wakeup.notify()

    def close(self) -> None:
        """End the session, if that takes no longer than a moment; nothing hangs on it."""
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        closer = threading.Thread(target=self._close, name="zkmig guard, closing", daemon=True)
        closer.start()
        closer.join(CLOSE_TIMEOUT_S)

    def _close(self) -> None:
        if self._limits is not None:
            self._limits.close()
        self._client.stop()
        self._client.close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _on_state(self, state: str) -> None:
        """Of the session; called by kazoo before it sends anything on a new connection, and must not wait."""
        self._connection += 1
        if state == KazooState.CONNECTED:
            self.look()
        elif not self._is_closing:
            self._post(_silence(self._client))

    def _on_watch(self, _event: WatchedEvent) -> None:
        self.look()

    def _run(self) -> None:
        while left := self._clean():  # before anything else: it may well act
            self._post(Silent(left))
            self._pause()
            if self._is_closing:
                return
        if not self._await_connection(CONNECT_TIMEOUT_S):
            self._post(_silence(self._client))
        while self._await_connection(None):
            order, is_look = self._next_task()
            try:
                if order is None:
                    if is_look:
                        self._look()
                elif isinstance(order, Register):
                    self._post(self._register(order))
                    self.look()  # with a watch on what was written
                else:
                    self._acknowledge_until_answered(order)
            except NoAnswerError:
                self._post(_silence(self._client))
                self._pause()
                self.look()

    def _next_task(self) -> tuple[Register | Acknowledge | None, bool]:
        """The order that was given, or whether to look; waits for either, and for the time of the next look."""
        with self._wakeup:
            if self._order is None and not self._look_wanted and not self._is_closing:
                self._look_wanted = not self._wakeup.wait(self._poll_s) or self._look_wanted
            order, self._order = self._order, None
            if order is not None:
                return order, False
            is_look, self._look_wanted = self._look_wanted, False
            return None, is_look

    def _await_connection(self, timeout_s: float | None) -> bool:
        """Whether there is one; False also when closing."""
        with self._wakeup:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            while not self._client.connected and not self._is_closing:
                if deadline is not None and time.monotonic() > deadline:
                    return False
                self._wakeup.wait(RETRY_S)
            return not self._is_closing

    def _pause(self) -> None:
        with self._wakeup:
            if not self._is_closing:
                self._wakeup.wait(RETRY_S)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._answer(self._client.sync_async(self._names.record))
        record = self._read_record()
        self._post(self._read_entry())
        self._post(record)

    def _read_record(self) -> Seen | NoRecord:
        path = self._names.record
        try:
            data, stat = self._answer(self._client.get_async(path, watch=self._on_watch))
            record = records.decode(data, path)
        except NoNodeError:
            self._answer(self._client.exists_async(path, watch=self._on_watch))  # to be told when there is
            return NoRecord(f"there is no scope {self._names.scope!r} ({path})")
        except NoAuthError:
            return NoRecord(f"not permitted to read {path}; init the scope with this identity as --reader")
        except UnknownFormat as error:
            return NoRecord(str(error))
        last = None if record.last is None else (record.last.epoch, record.last.attempt, record.last.outcome)
        return Seen(
            record.incarnation,
            stat.version,
            stat.mzxid,
            record.state,
            record.epoch,
            record.held,
            record.target_epoch,
            last,
        )

    def _load_entry(self) -> None:
        """Remembers what is found, for the writes that follow on the same connection."""
        self._entry, self._version, self._czxid, self._is_unreadable = None, None, 0, False
        try:
            data, stat = self._answer(self._client.get_async(self.path, watch=self._on_watch))
        except NoNodeError:
            return
        except NoAuthError:
            self._is_unreadable = True
            return
        self._version, self._czxid = stat.version, stat.czxid
        self._entry = GuardEntry.decode(data) if stat.dataLength <= ENTRY_BYTES_MAX else None
        if self._entry is not None and self._entry.instance == self._me.instance:
            self._own_czxid = stat.czxid

    def _read_entry(self) -> EntrySeen:
        self._load_entry()
        entry = self._entry
        if self._is_unreadable:
            return EntrySeen(Holder.ANOTHER, who=self._unreadable)
        if self._version is None:
            return EntrySeen(Holder.NOBODY)
        if entry is None:
            return EntrySeen(Holder.STOPPED)  # what is no registration holds up nobody
        if entry.stopped:
            return EntrySeen(Holder.STOPPED, entry.epoch, entry.down)
        if entry.instance == self._me.instance:
            return EntrySeen(Holder.OURS, entry.epoch, entry.down)
        if self._whose(entry) == self._known_gone:
            return EntrySeen(Holder.GONE, entry.epoch, entry.down)
        holder, who = self._judge(entry)
        if holder is Holder.GONE:
            self._known_gone = self._whose(entry)
        return EntrySeen(holder, entry.epoch, entry.down, who, self._whose(entry))

    # -- writing ------------------------------------------------------------------------------------------------------

    def _load_before_write(self) -> None:
        """What the node is now, and not earlier than what this guard has sent on connections that are over."""
        connection = self._connection
        self._answer(self._client.sync_async(self.path))
        self._load_entry()
        self._read_on = connection

    @property
    def _unreadable(self) -> str:
        return f"{self.path} may not be read by this identity"

    @property
    def _is_anothers(self) -> bool:
        """Whether the node on which this guard was registered is gone, and this one is of somebody else's making."""
        entry = self._entry
        return entry is not None and entry.instance != self._me.instance and self._own_czxid not in (0, self._czxid)

    def _set_bound(self, entry: GuardEntry) -> BoundSetData:
        assert self._version is not None
        read_on = self._read_on
        return BoundSetData(self.path, entry.encode(), self._version, lambda: self._connection == read_on)

    def _has_landed_elsewhere(self, stat: ZnodeStat) -> bool:
        """Whether what was written over is not the node that was read: what the docstring of this module leaves."""
        if stat.czxid == self._czxid:
            return False
        _logger.error(
            "%s was deleted and created anew while it was written: another guard's was written over", self.path
        )
        return True

    def _whose(self, entry: GuardEntry) -> str:
        """What tells a registration from others: its instance, or this very write of one that has none that we know."""
        return entry.instance or f"czxid {self._czxid}, version {self._version}"

    def _may_write_over(self, taking: str = "") -> bool:
        """Whether what was read last does not say "running" of somebody else; it may be later than what was ordered."""
        entry = self._entry
        if entry is None or entry.stopped:
            return True
        return self._whose(entry) in (self._me.instance, self._known_gone, taking)

    def _register(self, order: Register) -> Event:
        known = self._entry, self._version
        try:
            self._load_before_write()
        except NoAnswerError:
            return NotRegistered(SILENT)  # nothing was sent
        if (self._entry, self._version) != known or not self._may_write_over():
            return NotRegistered(CHANGED)
        entry = self._next_entry(stopped=False, why=order.why, epoch=order.epoch)
        transaction = self._client.transaction()
        self._check(transaction, order.under)
        place = len(transaction.operations)  # of the registration itself; what budgets need comes after it
        try:
            record_acl = self._record_acl()
            if self._version is None:
                transaction.create(self.path, entry.encode(), acl=self._acl(record_acl))
            else:
                transaction.operations.append(self._set_bound(entry))
            if self._limits is not None and order.is_command:
                ran = None if self._entry is None else self._entry.epoch
                put_into(transaction, self._limits.of_start(order.under, ran, record_acl, self._who(), order.override))
        except (NoNodeError, NoAuthError) as error:
            return NotRegistered(self._refusal("read who is admin of", error), isinstance(error, NoAuthError))
        except NoAnswerError:
            return NotRegistered(SILENT)  # it was not sent
        except OutsideScope as error:
            return NotRegistered(f"--budget: {error.where}: {error.what}", is_usage=True)
        except OverBudget as verdict:
            return NotRegistered(str(verdict), is_over_budget=True)
        except ZkmigError as error:
            return NotRegistered(str(error), is_forbidden=isinstance(error, Forbidden | BadInput))
        try:
            results = self._answer(transaction.commit_async())
        except NoAnswerError:
            return Doubtful()
        failed = _first_failure(results)
        if failed is not None:
            return self._not_registered(failed, results[failed], is_budget=failed > place)
        stat = results[place]
        if isinstance(stat, ZnodeStat) and self._has_landed_elsewhere(stat):
            return NotRegistered(CHANGED)
        self._entry, self._version = entry, stat.version if isinstance(stat, ZnodeStat) else 0
        return Registered(self._limits.remark if self._limits is not None and order.is_command else "")

    def _check(self, transaction: TransactionRequest, under: Seen) -> None:
        """The conditions of a registration: the record as it was read, of the same incarnation."""
        transaction.check(self._names.incarnation(under.incarnation), -1)  # its name is its identity
        transaction.check(self._names.record, under.version)

    def _not_registered(self, index: int, error: Exception, is_budget: bool) -> NotRegistered:
        if isinstance(error, NoAuthError | InvalidACLError):
            return NotRegistered(self._refusal("write", error), is_forbidden=True)
        if index == 0:
            return NotRegistered("the scope was deleted or created again")
        if index == 1:
            return NotRegistered("the record has moved")
        if is_budget and isinstance(error, NoNodeError):
            what = "the scope has no place for budgets; run zkmig init over the same root once more, as its admin"
            return NotRegistered(what, is_forbidden=True)
        if is_budget and isinstance(error, BadVersionError | NodeExistsError):
            return NotRegistered("what it last ran on was changed by somebody else")
        if isinstance(error, BadVersionError | NodeExistsError | NoNodeError):
            return NotRegistered(CHANGED)
        return NotRegistered(f"the servers did not take the registration: {type(error).__name__}", is_forbidden=True)

    def _acknowledge_until_answered(self, order: Acknowledge) -> None:
        is_kept = False
        while True:
            try:
                if not is_kept:
                    self._keep_last_seen(order)
                    is_kept = True
                self._post(self._acknowledge(order))
                return
            except NoAnswerError:
                self._post(_silence(self._client))
            self._pause()
            if not self._await_connection(None):
                return

    def _keep_last_seen(self, order: Acknowledge) -> None:
        """Where there is a budget, and the command ran until now: the image that it saw last. It is only read while
        nothing of the next epoch can be written, since a drain waits for what is said after it. Where it was registered
        and did not start, it is put back what the registration has moved."""
        entry = self._entry
        if self._limits is None:
            return
        if order.not_begun:
            self._limits.take_back()
            return
        self._limits.begun()
        if order.epoch is None or entry is None:
            return
        if not entry.stopped and entry.instance == self._me.instance:
            with suppress(NoNodeError, NoAuthError):
                self._limits.at_end(order.epoch, self._record_acl(), self._who())

    def _acknowledge(self, order: Acknowledge) -> Event:
        """Write "stopped" over whatever is ours, be it there by now or not yet."""
        entry = self._next_entry(stopped=True, why=order.why, epoch=order.epoch, down=order.down)
        while not self._is_closing:
            self._load_before_write()
            if self._is_unreadable:
                return NotAcknowledged(self._unreadable, is_forbidden=True)
            if self._is_anothers or not self._may_write_over(order.taking):
                self._own_czxid = 0
                return NotAcknowledged(LOST, is_forbidden=True, is_ours=False)
            try:
                return (
                    Acknowledged()
                    if self._write_stopped(entry)
                    else NotAcknowledged(LOST, is_forbidden=True, is_ours=False)
                )
            except (BadVersionError, NodeExistsError):
                pass  # it has changed since, or the connection has
            except NoNodeError as error:
                if self._version is None:
                    return NotAcknowledged(self._refusal("write", error))
            except (NoAuthError, InvalidACLError) as error:
                return NotAcknowledged(self._refusal("write", error), is_forbidden=True)
        raise NoAnswerError

    def _write_stopped(self, entry: GuardEntry) -> bool:
        """Over what was just read; whether it was that."""
        if self._version is None:
            acl = self._acl(self._record_acl())
            self._answer(self._client.create_async(self.path, entry.encode(), acl=acl))
            self._version = 0
        else:
            transaction = self._client.transaction()
            transaction.operations.append(self._set_bound(entry))
            results = self._answer(transaction.commit_async())
            if (failed := _first_failure(results)) is not None:
                raise results[failed] if isinstance(results[failed], REFUSALS) else NoAnswerError
            if self._has_landed_elsewhere(results[0]):
                return False
            self._version = results[0].version
        self._entry = entry
        return True

    def _next_entry(self, *, stopped: bool, **fields: Any) -> GuardEntry:
        self._writes += 1
        me = self._me
        return GuardEntry(me.unit, stopped, me.instance, self._writes, time.time(), process=me.process, **fields)

    def _record_acl(self) -> AclList:
        entries, _ = self._answer(self._client.get_acls_async(self._names.record))
        return tuple(Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in entries)

    def _acl(self, record_acl: AclList) -> list[ACL]:
        """Who may do what to the registration. A guard without credentials leaves it to everybody to write: an address
        would do only until the host has another."""
        return kazoo_acl(lease_acl(record_acl, holders(self._who())))

    def _refusal(self, what: str, error: Exception) -> str:
        if isinstance(error, NoNodeError):
            return f"there is no scope {self._names.scope!r} any more"
        hint = "init the scope with this identity as --reader"
        if self._version is not None:
            hint = "it was made by another identity: use that one, or have an admin delete it"
        return f"not permitted to {what} {self.path} ({type(error).__name__}); {hint}"

    def _answer(self, result: IAsyncResult[T]) -> T:
        """The result; the server's refusals as they are, anything else is no answer."""
        try:
            return result.get(timeout=self._answer_timeout_s)
        except REFUSALS:
            raise
        except (KazooException, self._client.handler.timeout_exception) as error:
            _logger.info("no answer from the servers: %s", type(error).__name__)
            raise NoAnswerError from error


def _silence(client: KazooClient) -> Silent:
    servers = ",".join(f"{host}:{port}" for host, port in client.hosts)
    return Silent(f"the servers do not answer ({servers}), at {moment(time.time())}")


def _first_failure(results: Sequence[Any]) -> int | None:
    """Index of the operation that failed the transaction; those before it were rolled back, those after not tried."""
    for index, result in enumerate(results):
        if isinstance(result, Exception) and not isinstance(result, RolledBackError | RuntimeInconsistency):
            return index
    return 0 if any(isinstance(result, Exception) for result in results) else None
