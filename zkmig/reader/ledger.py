"""Ledger: the budgets of one Reader, over its kazoo session: it reads what is stored, judges, and settles what is lost.

One admission at a time asks it, since the next has to know what the last has made of the baseline. What is stored is
remembered from one to the next: the transaction checks its versions, and one that has moved is read again.

An admission whose answer did not come has perhaps moved the baseline, and its action was not begun. Once nothing of it
is under way any more, which its lease settles (`zkmig.reader.admission`), the baseline is looked at and put back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import NoAuthError, NoNodeError
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import ZnodeStat

from zkmig.epoch.control import ControlPaths
from zkmig.errors import ActingRefused, BadInput, Forbidden, Unavailable, ZkmigError
from zkmig.model.acl import AclList, Identity
from zkmig.model.patterns import Pattern
from zkmig.reader.baseline import (
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
from zkmig.reader.budget import MARK_BYTES, Budget, Known, Marks
from zkmig.reader.kazoo_acl import kazoo_acl
from zkmig.reader.part import OutsideScope, part_of
from zkmig.reader.view import View
from zkmig.wire.requests import Check, Create, operation_size

SETTLE_TIMEOUT_S: Final = 2.0
"""How long putting a baseline back waits for an answer; without one it is tried again at the next chance."""

KEPT_BYTES_MAX: Final = 256 * 1024
"""Of what one action writes into the control plane, some 16,000 znodes. Servers keep the last 500 transactions in heap,
at about three times their size."""

KNOWN_MIN: Final = 10_000

_Node = tuple[bytes | None, ZnodeStat]
T = TypeVar("T")
_logger = logging.getLogger("zkmig")


class _Answer(Protocol):
    def __call__(self, result: IAsyncResult[T], timeout_s: float, /) -> T: ...


class Ledger:
    """budgets: one or more. answer: waits for kazoo's; raises Unavailable where none comes."""

    def __init__(
        self, client: KazooClient, names: ControlPaths, name: str, budgets: Sequence[Budget], answer: _Answer
    ) -> None:
        self._client = client
        self._names = names
        self._name = name
        self._budgets = tuple(budgets)
        self._answer = answer
        self._stored: Stored | None = None
        self._scope_checked: tuple[str, tuple[str, ...]] | None = None  # root and excludes for which all budgets fit
        self._marks: tuple[object, dict[str, Marks]] | None = None
        self._known: Known = {}
        self._void: frozenset[str] = frozenset()
        self._doubtful: tuple[Keeping, Decision] | None = None
        self._settling = threading.Lock()
        self.turn = threading.Lock()
        """Held from the verdict to the answer."""

    # -- before and after an admission --------------------------------------------------------------------------------

    def check_scope(self, view: View) -> None:
        """BadInput for a budget of what no view of the scope can show: it would let everything pass."""
        record = view.seen.record
        if (record.root, record.excludes) == self._scope_checked:
            return
        for budget in self._budgets:
            try:
                part_of(record, view.names.control, (Pattern.parse(budget.pattern).top,))
            except OutsideScope as error:
                what = f"a budget for what is not part of scope {view.scope!r}, which lies over {view.root}"
                raise BadInput(what, budget.pattern, "correct its pattern") from error
        self._scope_checked = record.root, record.excludes

    def decide(
        self,
        view: View,
        record_acl: AclList,
        identities: tuple[Identity, ...],
        override: str | None,
        timeout_s: float,
    ) -> tuple[Keeping, Decision]:
        """See `zkmig.reader.baseline.decide`. Nothing is refused by what was remembered alone."""
        keeping = Keeping(self._names, self._name, record_acl, identities)
        now = self._fingerprint(view, keeping)
        decision = self._decision(keeping, now, view.epoch, override, timeout_s)
        self._tell_void(now)
        return keeping, decision

    def _decision(
        self, keeping: Keeping, now: dict[str, Marks], epoch: int, override: str | None, timeout_s: float
    ) -> Decision:
        if self._stored is not None:
            try:
                return decide(keeping, self._budgets, now, epoch, self._stored)
            except ActingRefused:
                pass  # another reader of this name may have acted since
        self._stored = stored = self._read(timeout_s)
        return decide(keeping, self._budgets, now, epoch, stored, override)

    def _tell_void(self, now: dict[str, Marks]) -> None:
        """Log, once until it is another matter, which patterns match nothing: perhaps they were mistyped."""
        void = frozenset(pattern for pattern, marks in now.items() if not marks)
        if void - self._void:
            _logger.warning(
                "%s: no znode matches its budget %s, which limits nothing now", self._name, ", ".join(sorted(void))
            )
        self._void = void

    def check_size(self, operations: Sequence[Operation], bytes_left: int) -> None:
        """BadInput where what is to be kept is too large, or does not fit what the transaction's frame has left."""
        size = sum(map(operation_size, operations))
        room = min(bytes_left, KEPT_BYTES_MAX)
        if size > room:
            raise BadInput(
                f"what the budget keeps, {MARK_BYTES} bytes for each znode, takes {size} here, and {room} is the limit",
                ", ".join(budget.pattern for budget in self._budgets),
                "name fewer znodes by the patterns; an override forgets patterns that are no longer used",
            )

    def admitted(self, decision: Decision) -> None:
        """The transaction was carried out, and its action begins."""
        self._stored = decision.after
        if decision.override is not None:
            differed = "; ".join(map(str, decision.override.differed)) or "what was acted on before is not known"
            _logger.warning(
                "%s acts beyond its budget, overridden (%s): %s", self._name, decision.override.why, differed
            )

    def moved(self) -> None:
        """What was stored is not what was remembered."""
        self._stored = None

    def not_begun(self, keeping: Keeping, decision: Decision) -> None:
        """The transaction may have been carried out, or was, and its action does not begin."""
        self._stored = None
        if decision.writes:
            self._doubtful = keeping, decision

    def refusal(self, operation: Operation, error: Exception) -> ZkmigError | None:
        """What the failure of one of its operations means; None: it has moved meanwhile, decide anew."""
        if isinstance(error, NoAuthError):
            hint = "the name was taken by another identity: choose another, or have an admin delete it"
            return Forbidden("not permitted to keep what was acted on", operation.path, hint)
        if isinstance(operation, Create) and isinstance(error, NoNodeError):
            what = "the scope has no place for budgets: it was made by an older zkmig"
            return BadInput(what, self._names.budgets, "run zkmig init over the same root once more, as its admin")
        return None

    # -- what is stored -----------------------------------------------------------------------------------------------

    def _read(self, timeout_s: float) -> Stored:
        hint = "the name was taken by another identity: choose another, or have an admin delete it"
        forbidden = Forbidden("not permitted to read what was last acted on", self._names.seen(self._name), hint)
        return read_stored(
            self._client,
            self._names,
            self._name,
            lambda result: self._answer(result, timeout_s),
            lambda _path: forbidden,  # whichever of both it was, this is the one that matters
        )

    def _fingerprint(self, view: View, keeping: Keeping) -> dict[str, Marks]:
        if self._marks is None or self._marks[0] is not view.image:
            check_hashes_may_be_told(view.unordered(), self._budgets, holders(keeping.identities))
            if len(self._known) > 2 * len(view) + KNOWN_MIN:
                self._known.clear()  # most of it is of paths that are gone
            self._marks = view.image, fingerprint(view.unordered(), self._budgets, self._known)
        return self._marks[1]

    # -- what was lost ------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether no admission is in doubt; none is made while one is."""
        return self._doubtful is None

    def settle(self) -> None:
        """Put back what admissions have moved whose actions did not begin. Nothing of them may be under way any more.

        Never raises for a connection: what does not work now stays for the next time.
        """
        with self._settling:
            if self._doubtful is None:
                return
            keeping, decision = self._doubtful
            try:
                operations = taken_back(keeping, decision, self._read(SETTLE_TIMEOUT_S))
                if operations:
                    transaction = self._client.transaction()
                    put_into(transaction, operations)
                    # One that is refused: another reader of this name has acted since.
                    self._answer(transaction.commit_async(), SETTLE_TIMEOUT_S)
            except Unavailable as error:
                _logger.info("a baseline could not be settled yet: %s", error)
                return
            except Forbidden as error:
                _logger.warning("a baseline cannot be settled: %s", error)
            self._doubtful = None


def read_stored(
    client: KazooClient,
    names: ControlPaths,
    reader: str,
    answer: Callable[[IAsyncResult[_Node]], _Node],
    forbidden: Callable[[str], ZkmigError],
) -> Stored:
    """What the control plane holds for one reader's name; both nodes are asked for at once.

    answer: waits for kazoo's; what it raises goes through. forbidden: the error for a node, by its path, that this
    session may not read.
    """
    places = (names.budget(reader), names.seen(reader))
    asked = [client.get_async(path) for path in places]
    found: list[tuple[bytes | None, int] | None] = []
    for path, result in zip(places, asked, strict=True):
        try:
            data, stat = answer(result)
            found.append((data, stat.version))
        except NoNodeError:
            found.append(None)
        except NoAuthError as error:
            raise forbidden(path) from error
    return Stored.of_nodes(names, reader, *found)


def put_into(transaction: TransactionRequest, operations: Sequence[Operation]) -> None:
    """Add the operations to a kazoo transaction, in their order."""
    for operation in operations:
        if isinstance(operation, Check):
            transaction.check(operation.path, operation.version)
        elif isinstance(operation, Create):
            transaction.create(operation.path, operation.data or b"", acl=kazoo_acl(operation.acl))
        else:
            transaction.set_data(operation.path, operation.data or b"", operation.version)
