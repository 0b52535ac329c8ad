"""Admission: leave to act on a view, as a lease that every migration waits for before it writes.

An action is admitted by one transaction that checks the incarnation, the record at the version of the view, the
decisive znodes at theirs, and takes the lease. So it is admitted only while the epoch that was read is the committed
one and no migration has left STABLE; and one that leaves STABLE later finds the lease. A lease is a persistent node
that says how long it may last; its holder counts that time from before it sent, the migrator from when it saw.

An admission whose answer did not come is not admitted. Its lease is then released under the same name, made if need be:
whatever the lost transaction still does, it fails at that node. No action is admitted before that is done.

Where there are budgets (`zkmig.reader.ledger`), the same transaction checks or moves what was last acted on.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import ZnodeStat

from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import LEASE_MAX_MS, Lease
from zkmig.epoch.transitions import State
from zkmig.errors import ActingRefused, BadInput, Forbidden, Unavailable, ZkmigError
from zkmig.model.acl import Acl, AclList, Identity
from zkmig.reader.baseline import Decision, Keeping, Operation
from zkmig.reader.budget import Budget
from zkmig.reader.kazoo_acl import kazoo_acl, lease_acl
from zkmig.reader.ledger import Ledger, put_into
from zkmig.reader.view import View
from zkmig.wire.requests import FRAME_BYTES_MAX_DEFAULT, MULTI_OVERHEAD, Check, operation_size

ANSWER_TIMEOUT_S: Final = 10.0
"""How long an admission waits for its answer, or for a connection; never longer than the action may take."""

RELEASE_TIMEOUT_S: Final = 2.0
"""How long a release waits for its answer; without one it is sent again at the next chance."""

LEASE_BYTES_MAX: Final = 8 * 1024
"""Of a multi's frame, set aside for the checks of the control plane and the lease."""

ADMISSION_TRIES_MAX: Final = 8
"""Times that an admission is sent where a drain has swept its lease away, or others of the reader's name have acted."""

RELEASE_TRIES_MAX: Final = 4
"""An admission and a release may have landed unseen, and a drain may have swept their node away."""

T = TypeVar("T")
_logger = logging.getLogger("zkmig")


def now_s() -> float:
    """Seconds on the clock by which actions end: where there is one, that which goes on in a suspended machine."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Token:
    """Proof of an admission, good until its time is over or the `with` block ends.

    fencing_token: the zxid of the transaction that admitted the action. It grows from admission to admission, whoever
    asks, in whichever scope, also after a control plane was deleted and created again. A resource that remembers the
    highest it has seen, and refuses lower ones, stops an action that was paused and wakes up after its time.
    epoch: of the view that is acted on.
    """

    __slots__ = ("_deadline", "_is_over", "epoch", "fencing_token", "lease")

    def __init__(self, fencing_token: int, epoch: int, lease: str, deadline: float) -> None:
        self.fencing_token = fencing_token
        self.epoch = epoch
        self.lease = lease
        self._deadline = deadline
        self._is_over = False

    def remaining(self) -> float:
        """Seconds in which the action may still take effect; 0.0 when it may not any more."""
        return 0.0 if self._is_over else max(0.0, self._deadline - now_s())

    def check(self) -> None:
        """Raise ActingRefused once the time is over. Ask before each effect."""
        if self.remaining() == 0.0:
            raise ActingRefused("the time of this action is over", self.lease, "take a new view and decide again")

    def end(self) -> None:
        """Nothing more is done under this token."""
        self._is_over = True

    def __repr__(self) -> str:
        return f"<Token {self.fencing_token:#x} at epoch {self.epoch}: {self.remaining():.1f} s left>"


@dataclass(slots=True, eq=False)
class _LeaseNode:
    """A name under acting/ that only this reader writes. version: of the node; None: there is none yet."""

    path: str
    version: int | None = None
    acl: AclList = ()


class Admission:
    """Admits the actions of one reader. Lease nodes are used again, since only a migrator can delete them.

    With budgets one is admitted at a time; they run side by side all the same.
    """

    def __init__(self, client: KazooClient, names: ControlPaths, name: str, budgets: Sequence[Budget] = ()) -> None:
        self._ledger = Ledger(client, names, name, budgets, self._answer) if budgets else None
        self._client = client
        self._names = names
        self._name = name
        self._lock = threading.Lock()
        self._settling = threading.Lock()
        self._free: list[_LeaseNode] = []
        self._held: dict[Token, _LeaseNode] = {}
        self._doubtful: list[_LeaseNode] = []
        self._record_acl: tuple[tuple[int, int], AclList] | None = None

    # -- admission ----------------------------------------------------------------------------------------------------

    def admit(
        self,
        view: View,
        max_seconds: float,
        decisive: Sequence[str],
        identities: tuple[Identity, ...],
        override: str | None = None,
    ) -> Token:
        """See `Reader.acting`."""
        max_ms = _milliseconds(max_seconds)
        _check_override(override, self._ledger)
        self._refuse_by_view(view)
        if self._ledger is not None:
            self._ledger.check_scope(view)
        checks = _decisive_checks(view, decisive)
        self._await_connection(min(max_seconds, ANSWER_TIMEOUT_S))
        if self._ledger is None:
            return self._admit(view, max_ms, checks, identities, None)
        with self._ledger.turn:
            return self._admit(view, max_ms, checks, identities, override)

    def _admit(
        self, view: View, max_ms: int, checks: list[Check], identities: tuple[Identity, ...], override: str | None
    ) -> Token:
        self.settle()
        if self._doubtful:
            raise Unavailable("an earlier action is not released yet", self._doubtful[0].path, "try again")
        record_acl = self._read_record_acl(view)
        acl = lease_acl(record_acl, identities)
        with self._lock:
            node = self._free.pop() if self._free else _LeaseNode(self._new_path())
        node.acl = acl
        for _ in range(ADMISSION_TRIES_MAX):
            try:
                spending = self._decided(view, record_acl, identities, override, checks, max_ms)
            except BaseException:
                with self._lock:
                    self._free.append(node)
                raise
            try:
                return self._send(view, node, checks, max_ms, spending)
            except _LeaseGone:
                # A drain has swept it away, which is its right once a lease is released.
                node = _LeaseNode(self._new_path(), None, acl)
            except _BaselineMoved:
                pass
        with self._lock:
            self._free.append(node)
        raise Unavailable("others of this reader's name act all the while", self._names.budget(self._name), "try again")

    def _decided(
        self,
        view: View,
        record_acl: AclList,
        identities: tuple[Identity, ...],
        override: str | None,
        checks: Sequence[Check],
        max_ms: int,
    ) -> Spending:
        """The verdict on the budgets; None where there are none."""
        if self._ledger is None:
            return None
        if not self._ledger.is_settled:
            raise Unavailable("an earlier action is not settled yet", self._names.budget(self._name), "try again")
        timeout_s = min(max_ms / 1000, ANSWER_TIMEOUT_S)
        keeping, decision = self._ledger.decide(view, record_acl, identities, override, timeout_s)
        taken = MULTI_OVERHEAD + LEASE_BYTES_MAX + sum(map(operation_size, checks))
        self._ledger.check_size(decision.operations, FRAME_BYTES_MAX_DEFAULT - taken)
        return keeping, decision

    def _send(self, view: View, node: _LeaseNode, checks: Sequence[Check], max_ms: int, spending: Spending) -> Token:
        kept = spending[1].operations if spending is not None else ()
        deadline = now_s() + max_ms / 1000
        transaction = self._client.transaction()
        transaction.check(self._names.incarnation(view.incarnation), -1)  # its name is its identity, not its version
        transaction.check(self._names.record, view.record_version)
        put_into(transaction, (*checks, *kept))
        self._take_lease(transaction, node, max_ms)
        try:
            results = self._answer(transaction.commit_async(), min(max_ms / 1000, ANSWER_TIMEOUT_S))
        except BaseException:
            with self._lock:
                self._doubtful.append(node)
            self._not_begun(spending)  # after its lease, which is to be settled before
            raise
        failed = _first_failure(results)
        if failed is not None:
            raise self._refusal(node, failed, results[failed], checks, kept)
        stat = results[-1]
        assert isinstance(stat, ZnodeStat)
        node.version = stat.version
        token = Token(stat.mzxid, view.epoch, node.path, deadline)
        with self._lock:
            self._held[token] = node
        if token.remaining() == 0.0:
            self._not_begun(spending)
            self.release(token)
            raise ActingRefused("admission took longer than the action may", node.path, "try again")
        if self._ledger is not None and spending is not None:
            self._ledger.admitted(spending[1])
        return token

    def _not_begun(self, spending: Spending) -> None:
        if self._ledger is not None and spending is not None:
            self._ledger.not_begun(*spending)

    def _take_lease(self, transaction: TransactionRequest, node: _LeaseNode, max_ms: int) -> None:
        data = Lease(self._name, max_ms).encode()
        version = node.version
        if version is None:
            transaction.create(node.path, b"", acl=kazoo_acl(node.acl))
            version = 0
        transaction.set_data(node.path, data, version)  # its Stat carries the zxid of the transaction

    def _refusal(
        self, node: _LeaseNode, index: int, error: Exception, checks: Sequence[Check], kept: Sequence[Operation]
    ) -> ZkmigError:
        """What a failed transaction means. It has changed nothing, so its lease is as free as before."""
        if self._ledger is not None and 0 <= index - 2 - len(checks) < len(kept):
            return self._refusal_of_budget(node, kept[index - 2 - len(checks)], error)
        is_lease = index >= 2 + len(checks)
        if is_lease and isinstance(error, NoNodeError | BadVersionError) and node.version is not None:
            return _LeaseGone()
        with self._lock:
            self._free.append(node)
        where = self._names.acting
        if not is_lease:
            control = (self._names.incarnation("*"), self._names.record)
            where = control[index] if index < 2 else checks[index - 2].path
        if isinstance(error, NoAuthError):
            return Forbidden("not permitted to act", where, "init the scope with this identity as --reader")
        if index == 0:
            return ActingRefused("the scope was deleted or created again since the view", where, "take a new view")
        if index == 1:
            return ActingRefused("the epoch record has moved since the view", where, "take a new view")
        if isinstance(error, BadVersionError | NoNodeError) and not is_lease:
            return ActingRefused("a decisive znode has changed since the view", where, "take a new view")
        return Unavailable(f"the servers did not take the lease: {type(error).__name__}", where, "try again")

    def _refusal_of_budget(self, node: _LeaseNode, operation: Operation, error: Exception) -> ZkmigError:
        assert self._ledger is not None
        self._ledger.moved()
        refusal = self._ledger.refusal(operation, error)
        if refusal is None:
            return _BaselineMoved()  # the caller goes on with the lease that it has
        with self._lock:
            self._free.append(node)
        return refusal

    # -- before it is sent --------------------------------------------------------------------------------------------

    def _refuse_by_view(self, view: View) -> None:
        where = self._names.record
        if view.names != self._names:
            raise ActingRefused(f"this view is of scope {view.scope!r}", where, "take a view of this Reader")
        record = view.seen.record
        if record.state is not State.STABLE:
            raise ActingRefused(f"the scope is {record.state.value}", where, "wait until it is STABLE")
        if record.held is not None:
            raise ActingRefused(f"the scope is {record.held.told()}", where, "wait until it is released")

    def _await_connection(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._client.connected:
            if time.monotonic() > deadline:
                raise Unavailable("the kazoo client is not connected", self._names.home, "check the servers")
            time.sleep(0.01)

    def _read_record_acl(self, view: View) -> AclList:
        stat = view.seen.stat
        known = self._record_acl
        if known is not None and known[0] == (stat.czxid, stat.aversion):
            return known[1]
        try:
            entries, now = self._answer(self._client.get_acls_async(self._names.record), ANSWER_TIMEOUT_S)
        except NoNodeError as error:
            raise ActingRefused("the scope is gone", self._names.record, "take a new view") from error
        except NoAuthError as error:
            raise Forbidden("not permitted to read who is admin", self._names.record) from error
        acl = tuple(Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in entries)
        self._record_acl = (now.czxid, now.aversion), acl
        return acl

    def _new_path(self) -> str:
        return f"{self._names.acting}/{self._name}-{secrets.token_hex(8)}"

    # -- release ------------------------------------------------------------------------------------------------------

    def release(self, token: Token) -> None:
        """Say that the action is over. Never raises: without an answer the lease is released at the next chance."""
        if token.remaining() == 0.0:
            _logger.warning("an action at epoch %d took longer than it may: %s", token.epoch, token.lease)
        token.end()
        with self._lock:
            node = self._held.pop(token, None)
            if node is not None:
                self._doubtful.append(node)
        self.settle()

    def settle(self) -> None:
        """Release what may still be held though no action runs; what does not work now stays for the next time."""
        while self._doubtful and self._client.connected:
            with self._settling:
                if not self._settle_one():
                    return
        # Not before: a lost admission can land until its lease is released.
        if self._ledger is not None and not self._doubtful and self._client.connected:
            self._ledger.settle()

    def _settle_one(self) -> bool:
        with self._lock:
            if not self._doubtful:
                return False
            node = self._doubtful[-1]
        try:
            is_free = self._release_node(node)
        except Unavailable as error:
            _logger.info("a lease could not be released yet: %s", error)
            return False
        except NoAuthError:
            _logger.warning("not permitted to release a lease any more; it runs out by itself: %s", node.path)
            is_free = False
        with self._lock:
            self._doubtful.remove(node)
            if is_free:
                self._free.append(node)
        return True

    def _release_node(self, node: _LeaseNode) -> bool:
        """Leave a released lease under this name, so that a transaction still in flight fails at it.

        False: there is nothing left that could be used again.
        """
        data = Lease(self._name, 0, released=True).encode()
        is_whole = True  # else its versions began anew, and the next action takes another name
        for _ in range(RELEASE_TRIES_MAX):
            try:
                if node.version is None:
                    create = self._client.create_async(node.path, data, acl=kazoo_acl(node.acl))
                    self._answer(create, RELEASE_TIMEOUT_S)
                    node.version = 0
                else:
                    # Conditional, so that a release whose answer was lost cannot land on a later action's lease.
                    write = self._client.set_async(node.path, data, node.version)
                    node.version = self._answer(write, RELEASE_TIMEOUT_S).version
                return is_whole
            except (BadVersionError, NodeExistsError):
                # What was not answered has landed: the admission, or a release.
                try:
                    node.version = self._answer(self._client.get_async(node.path), RELEASE_TIMEOUT_S)[1].version
                except NoNodeError:
                    node.version = None
            except NoNodeError:
                if node.version is None:
                    return False  # the scope is gone, and with it whatever its migrations would wait for
                node.version, is_whole = None, False  # a drain has swept it away
        raise Unavailable("the lease comes and goes", node.path, "try again")

    def _answer(self, result: IAsyncResult[T], timeout_s: float) -> T:
        """The result; the server's refusals as they are, anything else is Unavailable: no answer."""
        try:
            return result.get(timeout=timeout_s)
        except (NoNodeError, NoAuthError, NodeExistsError, BadVersionError):
            raise
        except (KazooException, self._client.handler.timeout_exception) as error:
            reason = type(error).__name__
            raise Unavailable(f"no answer from the servers ({reason})", self._names.home, "try again") from error


class _LeaseGone(ZkmigError):
    """The lease node to be used again is not as this reader left it."""

    def __init__(self) -> None:
        super().__init__("the lease node was removed")


class _BaselineMoved(ZkmigError):
    """Another reader of this name has acted since its baseline was read."""

    def __init__(self) -> None:
        super().__init__("the baseline has moved")


Spending = tuple[Keeping, Decision] | None


def _check_override(override: str | None, ledger: Ledger | None) -> None:
    if override is None:
        return
    if ledger is None:
        raise BadInput("an override, and this Reader has no budget", hint="give it one: Reader(..., budget=...)")
    if not override.strip():
        raise BadInput("an override that does not say why", hint='write override="why"')


def _milliseconds(max_seconds: float) -> int:
    if not 0 < max_seconds <= LEASE_MAX_MS / 1000:
        raise BadInput(
            f"an action may take up to {LEASE_MAX_MS // 1000} s, not {max_seconds:g}",
            hint="split it, with a new view for each part",
        )
    return math.ceil(max_seconds * 1000)


def _decisive_checks(view: View, decisive: Iterable[str]) -> list[Check]:
    checks: list[Check] = []
    size = MULTI_OVERHEAD + LEASE_BYTES_MAX
    for path in dict.fromkeys(decisive):
        if path not in view:
            raise BadInput("a decisive path that is not in the view", path, "absence cannot be checked")
        checks.append(Check(path, view[path].stat.version))
        size += operation_size(checks[-1])
    if size > FRAME_BYTES_MAX_DEFAULT:
        raise BadInput(f"{len(checks)} decisive paths do not fit one transaction", hint="name those that decide")
    return checks


def _first_failure(results: Sequence[Any]) -> int | None:
    """Index of the operation that failed the transaction; those before it were rolled back, those after not tried."""
    if not any(isinstance(result, Exception) for result in results):
        return None
    for index, result in enumerate(results):
        if isinstance(result, Exception) and not isinstance(result, RolledBackError | RuntimeInconsistency):
            return index
    return 0
