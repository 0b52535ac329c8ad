"""Baseline: what was last acted on under a reader's name, as it is kept in the control plane, and what may follow.

Two nodes hold it: the note that everybody may read (`zkmig.epoch.budgets`) and, for the reader alone, the fingerprints,
since a hash of data tells who can guess the data. An action's transaction writes both where its view differs, by
compare-and-set, and checks their versions where it does not. So of any number of readers of one name, each is held
against what was last acted on, whoever did; and one that starts anew begins from there.

`decide` makes the verdict and the operations from values: the caller reads what is stored, and sends them in the very
transaction that admits what it is about to do.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgpack

from zkmig.epoch.budgets import WHY_CHARS_MAX, BudgetNote, Counted, Difference, Override
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.record import shown_time
from zkmig.errors import ActingRefused, BadInput, UnknownFormat
from zkmig.model.acl import READ, WORLD, WRITE, Acl, AclList, Identity, grants
from zkmig.model.znode import Znode
from zkmig.reader.budget import MARK_BYTES, Budget, Known, Marks, compare_all, marks_of, matching
from zkmig.reader.kazoo_acl import lease_acl
from zkmig.wire.requests import Check, Create, SetData

FORMAT: Final = 1
ID_BYTES: Final = 8

Operation = Check | Create | SetData


class BudgetExceeded(ActingRefused):
    """The view differs from what was last acted on by more than a budget allows; nothing was admitted.

    differences: of each pattern that is exceeded. override: `acting(view, override="why")` acts all the same.
    """

    def __init__(self, what: str, where: str, hint: str, differences: Sequence[Difference]) -> None:
        super().__init__(what, where, hint)
        self.differences = tuple(differences)


# -- what is kept -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """What was last acted on under one pattern: on which epoch, when (Unix seconds), and its fingerprint."""

    epoch: int
    at: float
    marks: Marks


@dataclass(frozen=True, slots=True)
class Baseline:
    """Sections by pattern. id: of the write, by which one whose answer was lost knows its own."""

    id: bytes = b""
    sections: Mapping[str, Section] = field(default_factory=dict)

    def encode(self) -> bytes:
        parts = [[pattern, one.epoch, one.at, one.marks] for pattern, one in self.sections.items()]
        return bytes(msgpack.packb({"format": FORMAT, "id": self.id, "sections": parts}))

    @classmethod
    def decode(cls, data: bytes | None, path: str) -> Baseline:
        """UnknownFormat for what is none."""
        try:
            fields = msgpack.unpackb(data or b"")
            if fields["format"] != FORMAT:
                raise UnknownFormat(f"a reader's baseline of format {fields['format']}", path, "upgrade zkmig")
            return cls(bytes(fields["id"]), {str(part[0]): _section(*part[1:]) for part in fields["sections"]})
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, msgpack.UnpackException) as error:
            raise UnknownFormat("this is not a reader's baseline", path) from error


def _section(epoch: int, at: float, marks: bytes) -> Section:
    if type(epoch) is not int or type(at) is not float or type(marks) is not bytes or len(marks) % MARK_BYTES:
        raise ValueError("a section of other types")
    return Section(epoch, at, marks)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the control plane holds for one reader's name. Versions: of the two nodes, None for one that is not there.

    trouble: why what is there cannot be held against a view; then nothing is admitted but by an override.
    """

    note: BudgetNote | None = None
    note_version: int | None = None
    baseline: Baseline | None = None
    seen_version: int | None = None
    trouble: str = ""

    @classmethod
    def of_nodes(
        cls,
        names: ControlPaths,
        reader: str,
        note: tuple[bytes | None, int] | None,
        seen: tuple[bytes | None, int] | None,
    ) -> Stored:
        """From the data and version of `names.budget(reader)` and `names.seen(reader)`, None where one is not there.

        They may have been read one after the other: the transaction checks the versions of both.
        """
        note_version, seen_version = (None if one is None else one[1] for one in (note, seen))
        kept = None if note is None else BudgetNote.decode(note[0])
        if seen is None:
            trouble = "what was last acted on was deleted" if note is not None else ""
            return cls(kept, note_version, None, None, trouble)
        try:
            return cls(kept, note_version, Baseline.decode(seen[0], names.seen(reader)), seen_version)
        except UnknownFormat as error:
            return cls(kept, note_version, None, seen_version, error.what)


# -- views ------------------------------------------------------------------------------------------------------------


def fingerprint(nodes: Iterable[Znode], budgets: Sequence[Budget], known: Known | None = None) -> dict[str, Marks]:
    """Of a view's nodes, by pattern. known: what was hashed for the view before."""
    everything = list(nodes)
    return {budget.pattern: marks_of(matching(everything, budget.pattern), known) for budget in budgets}


def holders(identities: Iterable[Identity]) -> tuple[Identity, ...]:
    """Who may read and write a baseline: the session's credentials; without any, everybody.

    An address would not do: a service that starts again elsewhere has to find what it last acted on.
    """
    proven = tuple(one for one in identities if one.scheme not in ("ip", "world", "super"))
    return proven or (WORLD,)


def check_hashes_may_be_told(nodes: Iterable[Znode], budgets: Sequence[Budget], kept_for: Sequence[Identity]) -> None:
    """BadInput where everybody could read the hash of a znode that not everybody may read."""
    if WORLD not in kept_for:
        return
    known: dict[AclList, bool] = {}
    everything = list(nodes)
    for budget in budgets:
        for node in matching(everything, budget.pattern):
            if node.acl not in known:
                known[node.acl] = bool(grants(node.acl, ()) & READ)
            if not known[node.acl]:
                raise BadInput(
                    "without credentials everybody could read a hash of this znode, which not everybody may read",
                    node.path,
                    "give the reader credentials, or the budget another pattern",
                )


# -- the verdict ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """Admitted, as far as budgets go. operations: for the transaction that admits, at their place in it all or none.

    before: what was stored. after: what is, once that transaction has been carried out. override: as it is recorded.
    """

    operations: tuple[Operation, ...]
    before: Stored
    after: Stored
    override: Override | None = None

    @property
    def writes(self) -> bool:
        """Whether the baseline moves."""
        return self.after is not self.before


@dataclass(frozen=True, slots=True)
class Keeping:
    """Whose baseline, and where. record_acl: of the scope's record, by which its admins and readers are known."""

    names: ControlPaths
    reader: str
    record_acl: AclList
    identities: tuple[Identity, ...]

    def operations(self, stored: Stored, note: BudgetNote, baseline: Baseline) -> tuple[Operation, ...]:
        """The writes of both nodes, each at the version that was read."""
        kept_for = holders(self.identities)
        told = lease_acl(self.record_acl, kept_for)
        alone = tuple(Acl(READ | WRITE, *identity) for identity in kept_for)
        return (
            _written(self.names.budget(self.reader), note.encode(), stored.note_version, told),
            _written(self.names.seen(self.reader), baseline.encode(), stored.seen_version, alone),
        )

    def checks(self, stored: Stored) -> tuple[Operation, ...]:
        """That both nodes are at the versions that were read."""
        assert stored.note_version is not None
        assert stored.seen_version is not None
        return (
            Check(self.names.budget(self.reader), stored.note_version),
            Check(self.names.seen(self.reader), stored.seen_version),
        )


def _written(path: str, data: bytes, version: int | None, acl: AclList) -> Create | SetData:
    return Create(path, data, acl) if version is None else SetData(path, data, version)


def decide(
    keeping: Keeping,
    budgets: Sequence[Budget],
    now: Mapping[str, Marks],
    epoch: int,
    stored: Stored,
    override: str | None = None,
) -> Decision:
    """Whether an action may follow on a view, and what its transaction has to carry for that.

    now: the view's `fingerprint`; epoch: the view's. Raises BudgetExceeded, or ActingRefused where what is stored
    cannot be read; neither with an override, which says why.
    """
    before = stored.baseline or Baseline()
    where = keeping.names.budget(keeping.reader)
    if stored.trouble and override is None:
        hint = 'acting(view, override="why") begins anew'
        raise ActingRefused(f"what {keeping.reader!r} last acted on is not known: {stored.trouble}", where, hint)
    differences, exceeded = compare_all(budgets, {name: one.marks for name, one in before.sections.items()}, now)
    if exceeded and override is None:
        raise _exceeded(keeping, exceeded, before, now)
    overridden = tuple(difference for _, difference in exceeded)
    is_known = stored.note_version is not None and stored.baseline is not None
    if is_known and not overridden and all(one.nodes is not None and not one.total for one in differences):
        return Decision(keeping.checks(stored), stored, stored)
    at = time.time()
    sections = {pattern: Section(epoch, at, marks) for pattern, marks in now.items()}
    if override is None:
        # Of patterns that another release of the service has: it is held to them when it comes back.
        sections = {**before.sections, **sections}
    counted = {one.pattern: Counted(one.pattern, one.nodes) for one in (stored.note.patterns if stored.note else ())}
    for one in differences:
        is_first = one.nodes is None
        nodes = len(now[one.pattern]) // MARK_BYTES
        counts = (0, 0, 0) if is_first else (one.added, one.removed, one.changed)
        counted[one.pattern] = Counted(one.pattern, nodes, *counts)
    note = BudgetNote(
        keeping.reader,
        epoch,
        at,
        tuple(counted[pattern] for pattern in sections if pattern in counted),
        stored.note.overrides if stored.note is not None else (),
    )
    recorded = None
    if override is not None and (overridden or stored.trouble):
        recorded = Override(at, override[:WHY_CHARS_MAX], epoch, overridden)
        note = note.with_override(recorded)
    baseline = Baseline(secrets.token_bytes(ID_BYTES), sections)
    after = Stored(note, _next(stored.note_version), baseline, _next(stored.seen_version))
    return Decision(keeping.operations(stored, note, baseline), stored, after, recorded)


def _next(version: int | None) -> int:
    return 0 if version is None else version + 1


def taken_back(keeping: Keeping, decision: Decision, stored: Stored) -> tuple[Operation, ...]:
    """What puts the baseline back to what it was before a transaction whose action never began.

    stored: as it is now. () if that is not what the transaction has written: then it never landed, or somebody has
    acted since. The nodes cannot be deleted by a reader, so "never acted" is kept as a baseline without sections.
    """
    assert decision.after.baseline is not None
    if stored.baseline is None or stored.baseline.id != decision.after.baseline.id:
        return ()
    before = decision.before
    note = before.note or BudgetNote(keeping.reader, 0, 0.0)
    baseline = before.baseline or Baseline()
    return keeping.operations(stored, note, dataclasses.replace(baseline, id=secrets.token_bytes(ID_BYTES)))


def _exceeded(
    keeping: Keeping,
    exceeded: Sequence[tuple[Budget, Difference]],
    before: Baseline,
    now: Mapping[str, Marks],
) -> BudgetExceeded:
    budget, difference = exceeded[0]
    where = keeping.names.budget(keeping.reader)
    hint = 'look at what differs; if it is meant, acting(view, override="why") acts, and is recorded'
    differences = [one for _, one in exceeded]
    if difference.nodes is None:
        nodes = len(now[budget.pattern]) // MARK_BYTES
        what = f"{keeping.reader!r} has not acted yet under {budget.pattern}, where {nodes} znodes are now"
        return BudgetExceeded(f"{what}, and its budget says to refuse the first time", where, hint, differences)
    section = before.sections[budget.pattern]
    share = f" ({100 * difference.total / difference.nodes:.3g} %)" if difference.nodes else ""
    when = shown_time(section.at)
    more = f"; so does {len(exceeded) - 1} more" if len(exceeded) > 1 else ""
    what = (
        f"{difference}: {difference.total}{share} of {difference.nodes} znodes differ from what {keeping.reader!r} "
        f"last acted on (epoch {section.epoch}, {when}), and its budget is {budget.limit}{more}"
    )
    return BudgetExceeded(what, where, hint, differences)
