"""Registration: writing the node under guards/ by which a drain knows of a guarded process.

One thread asks the servers, one thing at a time, so that signals and processes are answered while they are away; what
it finds it posts as events. Three things are done:

- look: record and registration are read, and watched (`zkmig.guard.lookout`). Watches may be lost, so it is done every
  half session as well.
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
from typing import Any, Final

from kazoo.client import KazooClient, KazooState, TransactionRequest
from kazoo.exceptions import (
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import ZnodeStat
from kazoo.security import ACL

from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.record import shown_time
from zkmig.errors import BadInput, Forbidden, ZkmigError
from zkmig.guard.bound import BoundSetData, NoAnswerError
from zkmig.guard.events import (
    Acknowledge,
    Acknowledged,
    Doubtful,
    Event,
    NotAcknowledged,
    NotRegistered,
    Register,
    Registered,
    Seen,
    Silent,
)
from zkmig.guard.limits import Limits, OverBudget
from zkmig.guard.lookout import REFUSALS, Judge, Lookout
from zkmig.model.acl import AclList, Identity
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
CLOSE_TIMEOUT_S: Final = 1.0
RETRY_S: Final = 0.1

_logger = logging.getLogger("zkmig.guard")

Clean = Callable[[], str]
"""Ends what earlier guards of the name have left: "" once all is gone, else what is not. May take its time."""


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
        self._who = who
        self._post = post
        self._poll_s = poll_s
        self._lookout = Lookout(
            client, names, me.unit, me.instance, judge, self.look, answer_timeout_s=answer_timeout_s
        )
        self.path = self._lookout.path
        self._limits = Limits(client, names, me.unit, budgets, self._lookout.answer) if budgets else None
        # Of the thread alone:
        self._writes = 0
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
        self._lookout.connection += 1
        if state == KazooState.CONNECTED:
            self.look()
        elif not self._is_closing:
            self._post(_silence(self._client))

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

    def _look(self) -> None:
        for event in self._lookout.look():
            self._post(event)

    # -- writing ------------------------------------------------------------------------------------------------------

    def _set_bound(self, entry: GuardEntry) -> BoundSetData:
        lookout = self._lookout
        assert lookout.version is not None
        read_on = lookout.read_on
        return BoundSetData(self.path, entry.encode(), lookout.version, lambda: lookout.connection == read_on)

    def _has_landed_elsewhere(self, stat: ZnodeStat) -> bool:
        """Whether what was written over is not the node that was read: what the docstring of this module leaves."""
        if stat.czxid == self._lookout.czxid:
            return False
        _logger.error(
            "%s was deleted and created anew while it was written: another guard's was written over", self.path
        )
        return True

    def _register(self, order: Register) -> Event:
        lookout = self._lookout
        known = lookout.entry, lookout.version
        try:
            lookout.load_before_write()
        except NoAnswerError:
            return NotRegistered(SILENT)  # nothing was sent
        if (lookout.entry, lookout.version) != known or not lookout.may_write_over():
            return NotRegistered(CHANGED)
        entry = self._next_entry(stopped=False, why=order.why, epoch=order.epoch)
        transaction = self._client.transaction()
        self._check(transaction, order.under)
        place = len(transaction.operations)  # of the registration itself; what budgets need comes after it
        try:
            record_acl = lookout.record_acl()
            if lookout.version is None:
                transaction.create(self.path, entry.encode(), acl=self._acl(record_acl))
            else:
                transaction.operations.append(self._set_bound(entry))
            if self._limits is not None and order.is_command:
                ran = None if lookout.entry is None else lookout.entry.epoch
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
            results = lookout.answer(transaction.commit_async())
        except NoAnswerError:
            return Doubtful()
        failed = _first_failure(results)
        if failed is not None:
            return self._not_registered(failed, results[failed], is_budget=failed > place)
        stat = results[place]
        if isinstance(stat, ZnodeStat) and self._has_landed_elsewhere(stat):
            return NotRegistered(CHANGED)
        lookout.written(entry, stat.version if isinstance(stat, ZnodeStat) else 0)
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
        entry = self._lookout.entry
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
                self._limits.at_end(order.epoch, self._lookout.record_acl(), self._who())

    def _acknowledge(self, order: Acknowledge) -> Event:
        """Write "stopped" over whatever is ours, be it there by now or not yet."""
        lookout = self._lookout
        entry = self._next_entry(stopped=True, why=order.why, epoch=order.epoch, down=order.down)
        while not self._is_closing:
            lookout.load_before_write()
            if lookout.is_unreadable:
                return NotAcknowledged(lookout.unreadable, is_forbidden=True)
            if lookout.is_anothers or not lookout.may_write_over(order.taking):
                lookout.lost()
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
                if lookout.version is None:
                    return NotAcknowledged(self._refusal("write", error))
            except (NoAuthError, InvalidACLError) as error:
                return NotAcknowledged(self._refusal("write", error), is_forbidden=True)
        raise NoAnswerError

    def _write_stopped(self, entry: GuardEntry) -> bool:
        """Over what was just read; whether it was that."""
        lookout = self._lookout
        if lookout.version is None:
            acl = self._acl(lookout.record_acl())
            lookout.answer(self._client.create_async(self.path, entry.encode(), acl=acl))
            version = 0
        else:
            transaction = self._client.transaction()
            transaction.operations.append(self._set_bound(entry))
            results = lookout.answer(transaction.commit_async())
            if (failed := _first_failure(results)) is not None:
                raise results[failed] if isinstance(results[failed], REFUSALS) else NoAnswerError
            if self._has_landed_elsewhere(results[0]):
                return False
            version = results[0].version
        lookout.written(entry, version)
        return True

    def _next_entry(self, *, stopped: bool, **fields: Any) -> GuardEntry:
        self._writes += 1
        me = self._me
        return GuardEntry(me.unit, stopped, me.instance, self._writes, time.time(), process=me.process, **fields)

    def _acl(self, record_acl: AclList) -> list[ACL]:
        """Who may do what to the registration. A guard without credentials leaves it to everybody to write: an address
        would do only until the host has another."""
        return kazoo_acl(lease_acl(record_acl, holders(self._who())))

    def _refusal(self, what: str, error: Exception) -> str:
        if isinstance(error, NoNodeError):
            return f"there is no scope {self._names.scope!r} any more"
        hint = "init the scope with this identity as --reader"
        if self._lookout.version is not None:
            hint = "it was made by another identity: use that one, or have an admin delete it"
        return f"not permitted to {what} {self.path} ({type(error).__name__}); {hint}"


def _silence(client: KazooClient) -> Silent:
    servers = ",".join(f"{host}:{port}" for host, port in client.hosts)
    return Silent(f"the servers do not answer ({servers}), at {shown_time(time.time())}")


def _first_failure(results: Sequence[Any]) -> int | None:
    """Index of the operation that failed the transaction; those before it were rolled back, those after not tried."""
    for index, result in enumerate(results):
        if isinstance(result, Exception) and not isinstance(result, RolledBackError | RuntimeInconsistency):
            return index
    return 0 if any(isinstance(result, Exception) for result in results) else None
