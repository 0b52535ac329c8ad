"""The tree that was wanted: a commit brings the whole of it, and on the way no ACL lets in who is not meant to be.

Rules: `not-the-wanted-tree` (at the commit a node's data, kind or existence is another one, or its counter is lower; of
the whole scope, whatever the plan says), `acl-not-final` (once nothing is pending any more), `acl-too-wide` (a batch
applies before what both trees do not grant has been taken away, or creates a node that grants more than it is to),
`acl-not-planned` (the owner sets an ACL that neither tree asks for). Paths that somebody else has written, or whose ACL
he has set, are left out: `foreign_rules.py` judges them.

The wanted tree is what the run itself has handed to the planner; nothing of it is read off the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

from tests.torture.foreign_rules import data_digest
from tests.torture.history import History, is_apart
from tests.torture.replay import Attempt, RecordAt, Replay, changes, net_changes
from tests.torture.tree import Value
from tests.torture.txnlog import AclRow, AclRows, Create, Entry, SetAcl
from tests.torture.violation import Findings

Identity = tuple[str, str]

WORLD: Final[Identity] = ("world", "anyone")


class Wanted(NamedTuple):
    """A znode of the wanted tree. data: as `data_digest` tells it. owner: as in Create; 0 for a persistent one.
    counter: children it has had, at the least."""

    data: str
    acl: AclRows
    owner: int
    counter: int

    def plain(self) -> list[Any]:
        """As JSON holds it, in a plan's event."""
        return [self.data, [list(row) for row in self.acl], self.owner, self.counter]

    @classmethod
    def of_plain(cls, fields: list[Any]) -> Wanted:
        data, acl, owner, counter = fields
        return cls(data, tuple(AclRow(*row) for row in acl), owner, counter)


class Course(NamedTuple):
    """An attempt and what is to be held against it. writer: who may be let in meanwhile. foreign: paths not judged."""

    attempt: Attempt
    wanted: Mapping[str, Wanted]
    writer: Identity
    foreign: frozenset[str]


class WantedRules:
    """Goes through the attempts whose plan's event tells the wanted tree."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._findings = findings
        self._apart = str(history.run.get("apart", ""))

    def check(self) -> None:
        for attempt in self._replay.attempts:
            plan = self._plans.get(str(attempt.fields.get("plan_hash")))
            if plan is None or "wanted" not in plan:
                continue
            wanted = {path: Wanted.of_plain(fields) for path, fields in plan["wanted"].items()}
            settled = self._settled(attempt)
            end = settled or attempt.ended or self._replay.tree.zxid
            scheme, who = plan["writer"]
            course = Course(attempt, wanted, (scheme, who), self._foreign(plan["zxid"], end))
            self._check_on_the_way(course, end)
            if attempt.outcome == "committed":
                assert attempt.ended is not None
                self._check_commit(course, attempt.ended)
                if settled is not None:
                    self._check_final(course, attempt.ended, settled)

    # -- the commit ---------------------------------------------------------------------------------------------------

    def _check_commit(self, course: Course, end: int) -> None:
        there = set(self._replay.tree.image(self._replay.tree.below(self._replay.root), end))
        for path in sorted(there | course.wanted.keys()):
            if path in course.foreign or is_apart(path, self._apart):
                continue
            self._findings.count("znodes judged at a commit")
            what = _difference(self._replay.tree.at(path, end), course.wanted.get(path))
            if what:
                self._findings.violate("not-the-wanted-tree", end, f"{path}: {what}")

    def _check_final(self, course: Course, end: int, settled: int) -> None:
        before = course.attempt.prepared
        for path, wanted in course.wanted.items():
            value, then = self._replay.tree.at(path, settled), self._replay.tree.at(path, end)
            if value is None or then is None or value.czxid != then.czxid or path in course.foreign:
                continue
            was = self._replay.tree.at(path, before)
            self._findings.count("ACLs judged after a commit")
            if was is not None and set(was.acl) != set(wanted.acl):
                self._findings.count("changed ACLs judged after a commit")
            if set(value.acl) != set(wanted.acl):
                what = f"{path} has {_shown(value.acl)}, wanted {_shown(wanted.acl)}"
                self._findings.violate("acl-not-final", settled, what)

    def _settled(self, attempt: Attempt) -> int | None:
        """When nothing was pending any more; None if it did not come to that."""
        if attempt.outcome != "committed":
            return None
        for record in self._replay.records:
            if attempt.ended is None or record.zxid < attempt.ended:
                continue
            if record.fields is None or record.incarnation != attempt.incarnation:
                return None
            if not record.fields.get("pending"):
                return record.zxid
        return None

    # -- on the way ---------------------------------------------------------------------------------------------------

    def _check_on_the_way(self, course: Course, end: int) -> None:
        for entry in self._replay.entries_within(course.attempt.prepared, end):
            owner, record = self._replay.owner_at(entry.zxid - 1), self._replay.record_at(entry.zxid - 1)
            if entry.failed or record is None or owner is None or owner.session != entry.session:
                continue  # a late setACL of another is for the rules of writes
            acls = [op for op in self._replay.tree_changes(entry) if isinstance(op, SetAcl)]
            for op in acls:
                self._check_set_acl(course, entry, op, record)
            is_single_shot = entry.zxid == course.attempt.ended and course.attempt.single_shot
            if not acls and self._replay.tree_changes(entry) and (record.state == "OPEN" or is_single_shot):
                self._check_batch(course, entry)

    def _check_batch(self, course: Course, entry: Entry) -> None:
        """What the batch finds in place, and what it creates."""
        for path in self._to_change(course):
            live = self._replay.tree.at(path, entry.zxid - 1)
            if live is None:
                continue
            self._findings.count("changed ACLs judged at batches")
            self._check_width(course, entry, path, live.acl)
        for op in net_changes(entry):
            if isinstance(op, Create) and op.path in course.wanted and op.path not in course.foreign:
                self._findings.count("ACLs of creates judged")
                self._check_width(course, entry, op.path, op.acl)

    def _to_change(self, course: Course) -> list[str]:
        """Paths that are there when the epoch opens, with another ACL than they are to have."""
        opened = course.attempt.opened or course.attempt.prepared
        found = []
        for path, wanted in course.wanted.items():
            before = self._replay.tree.at(path, opened)
            if before is not None and path not in course.foreign and set(before.acl) != set(wanted.acl):
                found.append(path)
        return found

    def _check_width(self, course: Course, entry: Entry, path: str, acl: AclRows) -> None:
        """It grants nobody but the migrator what not both trees grant him."""
        bounds = [course.wanted[path].acl]
        before = self._replay.tree.at(path, course.attempt.opened or course.attempt.prepared)
        bounds += [before.acl] if before is not None else []
        for identity in {WORLD, *((row.scheme, row.id) for row in acl)} - {course.writer}:
            if any(_granted(acl, identity) & ~_granted(bound, identity) for bound in bounds):
                what = f"{path} has {_shown(acl)}, wanted {_shown(course.wanted[path].acl)}"
                self._findings.violate("acl-too-wide", entry.zxid, what, f"{entry.session:#x}")
                return

    def _check_set_acl(self, course: Course, entry: Entry, op: SetAcl, record: RecordAt) -> None:
        if op.path in course.foreign:
            return
        self._findings.count("setACLs judged")
        who = f"{entry.session:#x}"
        before = self._replay.tree.at(op.path, course.attempt.opened or course.attempt.prepared)
        wanted = course.wanted.get(op.path)
        if record.state == "OPEN":
            if before is None or wanted is None or set(before.acl) == set(wanted.acl):
                self._findings.violate("acl-not-planned", entry.zxid, f"{op.path}, whose ACL is to stay", who)
            else:
                self._check_width(course, entry, op.path, op.acl)
            return
        right = before.acl if record.state == "ROLLING_BACK" and before is not None else wanted.acl if wanted else ()
        if set(op.acl) != set(right):
            what = f"{op.path} in {record.state}: {_shown(op.acl)} instead of {_shown(right)}"
            self._findings.violate("acl-not-planned", entry.zxid, what, who)

    # -- others -------------------------------------------------------------------------------------------------------

    def _foreign(self, zxid_after: int, zxid_last: int) -> frozenset[str]:
        """Paths that others have written, or whose ACL they have set."""
        entries = self._replay.entries_within(zxid_after, zxid_last)
        others = (entry for entry in entries if not entry.failed and not self._replay.is_migrators(entry))
        return frozenset(op.path for entry in others for op in changes(entry) if self._replay.is_inside(op.path))

    @cached_property
    def _plans(self) -> dict[str, dict[str, Any]]:
        return {plan["plan_hash"]: plan for plan in self._history.of_kind("plan")}


def _difference(value: Value | None, wanted: Wanted | None) -> str:
    if value is None or wanted is None:
        is_there, is_wanted = value is not None, wanted is not None
        return "" if is_there == is_wanted else "it is there" if is_there else "it is not there"
    if data_digest(value.data) != wanted.data:
        return "other data"
    if value.owner != wanted.owner:
        return "another kind"
    return f"counter {value.creates}, wanted {wanted.counter}" if value.creates < wanted.counter else ""


def _granted(acl: Iterable[AclRow], identity: Identity) -> int:
    """Permission bits; what the world is granted counts for everybody."""
    bits = 0
    for row in acl:
        if (row.scheme, row.id) in (identity, WORLD):
            bits |= row.perms
    return bits


def _shown(acl: Iterable[AclRow]) -> str:
    """Without ids: they are of a test, but may be long."""
    return ", ".join(f"{row.scheme} {row.perms}" for row in acl)
