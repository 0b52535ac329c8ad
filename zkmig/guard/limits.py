"""Limits: how far a migration may have moved the tree from what a guarded command last knew, before it may run again.

The command itself knows no budget, so its guard holds the committed image against the one under which the command ran
last: the baseline, kept as a Reader's is (`zkmig.reader.baseline`). It is written in the very transaction that
registers the command, and again when the command has ended, while the image is still that of its epoch: what went on
while it ran it has seen itself. So within one epoch nothing is compared, however often a service manager starts it.

Used by one thread, that of the registration.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.interfaces import IAsyncResult

from zkmig.epoch.budgets import guard_reader
from zkmig.epoch.control import ControlPaths
from zkmig.errors import ActingRefused, BadInput, Forbidden, ReaderError, ZkmigError
from zkmig.guard.bound import NoAnswerError
from zkmig.guard.events import Seen
from zkmig.model.acl import AclList, Identity
from zkmig.model.patterns import Pattern
from zkmig.reader.baseline import (
    Baseline,
    Decision,
    Keeping,
    Operation,
    Stored,
    check_hashes_may_be_told,
    decide,
    fingerprint,
    holders,
    taken_back,
)
from zkmig.reader.budget import Budget
from zkmig.reader.ledger import KEPT_BYTES_MAX, put_into, read_stored
from zkmig.reader.reader import Reader
from zkmig.reader.view import View
from zkmig.wire.requests import operation_size

VIEW_TIMEOUT_S: Final = 5.0
"""How long it is tried to get a view."""

END_TIMEOUT_S: Final = 1.5
"""How long that may take when the command has ended, with all that belongs to it: a drain waits, and a guard that
leaves has `decision.LEAVE_WAIT_S` for this and for "stopped"."""

T = TypeVar("T")
_logger = logging.getLogger("zkmig.guard")


class OverBudget(Exception):
    """The command may not run on this image, unless an operator says so."""


class _Answer(Protocol):
    def __call__(self, result: IAsyncResult[T], /) -> T: ...


class Limits:
    """budgets: one or more, of patterns inside the scope. client: of the guard, for what is stored.

    answer: waits for a result of kazoo's, as the registration does; what it raises goes through.
    """

    def __init__(
        self, client: KazooClient, names: ControlPaths, unit: str, budgets: Sequence[Budget], answer: _Answer
    ) -> None:
        self._client = client
        self._names = names
        self._unit = unit
        self._budgets = tuple(budgets)
        self._answer = answer
        self.reader = guard_reader(unit)
        """Under which what it ran on is kept, and `status` shows an override."""
        self._tops = list(dict.fromkeys(Pattern.parse(budget.pattern).top for budget in budgets))
        self._reader = self._new_reader()
        self.remark = ""
        """On what was given for the latest start."""
        self._moved: tuple[Keeping, Decision] | None = None  # by the latest registration, as far as it has landed

    def _new_reader(self) -> Reader:
        names = self._names
        return Reader(
            self._client, names.scope, self._tops, control=names.control, name=self.reader, timeout_s=VIEW_TIMEOUT_S
        )

    def of_start(
        self, under: Seen, ran: int | None, record_acl: AclList, identities: Sequence[Identity], override: str | None
    ) -> tuple[Operation, ...]:
        """What a registration has to carry for the command to run on the image of `under`.

        ran: the epoch under which it ran last, by its registration; None: not known. override: why it may run all the
        same. Raises OverBudget; ZkmigError where the image cannot be read, or what is stored.
        """
        view = self._view(under)
        keeping = self._keeping(record_acl, identities, view)
        stored = self._stored()
        known = stored if ran != under.epoch else _forgotten(stored)
        try:
            decision = self._decide(keeping, view, known)
        except ActingRefused as refused:
            if override is None:
                raise OverBudget(refused.what) from refused
            decision = self._decide(keeping, view, known, override)
            _logger.warning("%s runs beyond its budget, overridden (%s): %s", self._unit, override, refused.what)
        self._moved = (keeping, decision) if decision.writes else None
        self.remark = self._void(decision)
        if self.remark:
            _logger.warning("%s: %s", self._unit, self.remark)
        return decision.operations

    def _void(self, decision: Decision) -> str:
        """Of nothing nothing can be removed: a pattern that was mistyped is a budget that keeps nothing down."""
        ours = {budget.pattern for budget in self._budgets}
        counted = () if decision.after.note is None else decision.after.note.patterns
        void = [one.pattern for one in counted if one.pattern in ours and not one.nodes]
        return f"no znode matches its budget {', '.join(void)}, which limits nothing now" if void else ""

    def begun(self) -> None:
        """The command has run on the image of the latest `of_start`, or that was never sent."""
        self._moved = None

    def take_back(self) -> None:
        """What `of_start` gave was sent and the command was not started: it has not run on that image.

        What is stored is put back where it still is of that sending; nothing of it may be under way any more.
        """
        if self._moved is None:
            return
        self._answer(self._client.sync_async(self._names.seen(self.reader)))
        try:
            operations = taken_back(*self._moved, self._stored())
            if operations:
                transaction = self._client.transaction()
                put_into(transaction, operations)
                self._answer(transaction.commit_async())  # refused: another guard of this name has registered since
        except (ZkmigError, KazooException) as error:
            _logger.warning("what %s ran on last could not be put back: %s", self._unit, type(error).__name__)
        self._moved = None

    def at_end(self, ran: int, record_acl: AclList, identities: Sequence[Identity]) -> None:
        """The command has ended: the image that it saw last is what the next start is held against.

        Only while that is still the image of its epoch. What cannot be done, or not in time, is left: then more differs
        at the next start, not less.
        """
        reader = self._reader
        keeping = threading.Thread(
            target=self._keep_last_seen, args=(reader, ran, record_acl, identities), name="zkmig guard, last view"
        )
        keeping.daemon = True
        keeping.start()
        keeping.join(END_TIMEOUT_S)
        if keeping.is_alive():
            _logger.info("what %s saw last could not be kept in time", self._unit)
            self._reader = self._new_reader()  # that one is the thread's, which ends it

    def _keep_last_seen(self, reader: Reader, ran: int, record_acl: AclList, identities: Sequence[Identity]) -> None:
        """However late: it is written where the image is that of its epoch, over the version that was read."""
        try:
            view = reader.view()
            if view.epoch != ran:
                return
            keeping = self._keeping(record_acl, identities, view)
            operations = self._decide(keeping, view, _forgotten(self._stored())).operations
            transaction = self._client.transaction()
            put_into(transaction, operations)
            self._answer(transaction.commit_async())
        except ZkmigError as error:
            _logger.info("what %s saw last could not be kept: %s", self._unit, error)
        except (KazooException, NoAnswerError) as error:
            _logger.info("what %s saw last could not be kept: %s", self._unit, type(error).__name__)
        finally:
            if reader is not self._reader:
                reader.close()

    def close(self) -> None:
        """End what the views have begun."""
        self._reader.close()

    def _view(self, under: Seen) -> View:
        view = self._reader.view()
        record = view.seen.record
        if (record.incarnation, view.record_version) != (under.incarnation, under.version):
            raise ReaderError("the record has moved", self._names.record)
        return view

    def _keeping(self, record_acl: AclList, identities: Sequence[Identity], view: View) -> Keeping:
        keeping = Keeping(self._names, self.reader, record_acl, tuple(identities))
        check_hashes_may_be_told(view.unordered(), self._budgets, holders(keeping.identities))
        return keeping

    def _decide(self, keeping: Keeping, view: View, stored: Stored, override: str | None = None) -> Decision:
        now = fingerprint(view.unordered(), self._budgets)
        decision = decide(keeping, self._budgets, now, view.epoch, stored, override)
        size = sum(map(operation_size, decision.operations))
        if size > KEPT_BYTES_MAX:
            patterns = ", ".join(budget.pattern for budget in self._budgets)
            raise BadInput(f"what the budget keeps takes {size} bytes, and {KEPT_BYTES_MAX} is the limit", patterns)
        return decision

    def _stored(self) -> Stored:
        hint = "the name was taken by another identity: choose another --name, or have an admin delete it"
        what = "not permitted to read what the command last ran on"
        return read_stored(
            self._client, self._names, self.reader, self._answer, lambda path: Forbidden(what, path, hint)
        )


def _forgotten(stored: Stored) -> Stored:
    """With nothing to compare with; the versions stay, and what was overridden."""
    return dataclasses.replace(stored, baseline=Baseline(), trouble="")
