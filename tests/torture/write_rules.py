"""P3 and P4: one writer, each batch once and in order, and one commit point.

Rules: `dead-token` (a write under a token that had been bumped, or of a control plane that was gone), `unowned-write`
(to the record or a journal by a session that never took the token), `dead-incarnation`, `unguarded-write` (the owner's,
but not behind checks of owner, incarnation and record: one of an earlier token of its session would have passed, too),
`write-outside-epoch`, `batch-without-cursor`, `undo-without-cursor`, `other-attempt` (a cursor of another attempt was
moved), `path-written-twice`, `batch-other-than-planned`, `undone-twice`, `undo-of-nothing` (of a path that no batch
has touched), `journal-deleted` (of an attempt that is open, rolling back or pending), `commit-before-the-end`,
`transition` (a step that the table of docs/protocol.md does not have).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from tests.torture.history import History
from tests.torture.hold_rules import is_hold
from tests.torture.replay import Attempt, RecordAt, Replay, changes, checks, net_changes
from tests.torture.txnlog import CLOSE_SESSION, Create, Delete, Entry, SetAcl, SetData
from tests.torture.violation import Findings

# (state before, state after, how much the committed epoch moves). A note in the record leaves both as they are.
TRANSITIONS: Final = {
    ("STABLE", "PREPARING", 0),
    ("EMPTY", "PREPARING", 0),
    ("PREPARING", "STABLE", 0),
    ("PREPARING", "EMPTY", 0),
    ("PREPARING", "STABLE", 1),
    ("PREPARING", "OPEN", 0),
    ("OPEN", "STABLE", 1),
    ("OPEN", "ROLLING_BACK", 0),
    ("ROLLING_BACK", "STABLE", 0),
    ("ROLLING_BACK", "EMPTY", 0),
}


class WriteRules:
    """Looks at every transaction of every session that ever took the token, and at all that touch the journal."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._findings = findings
        self._written: dict[tuple[int, str], set[str]] = {}  # by batches, and by undo batches
        self._undone: dict[tuple[int, str], set[str]] = {}

    def check(self) -> None:
        self._check_transitions()
        for entry in self._replay.writes():
            if self._replay.is_migrators(entry):
                self._check_migrators(entry)
            else:
                self._check_others(entry)

    # -- the record ---------------------------------------------------------------------------------------------------

    def _check_transitions(self) -> None:
        last: RecordAt | None = None
        for record in self._replay.records:
            if record.fields is None:
                last = None
                continue
            if last is not None:
                self._check_transition(last, record)
            elif record.state not in ("STABLE", "EMPTY") or record.epoch != 0:
                self._findings.violate("transition", record.zxid, f"begins as {record.state} at epoch {record.epoch}")
            last = record

    def _check_transition(self, last: RecordAt, record: RecordAt) -> None:
        moved = record.epoch - last.epoch
        step = (last.state, record.state, moved)
        if step not in TRANSITIONS and (last.state != record.state or moved):
            what = f"{last.state} at epoch {last.epoch} -> {record.state} at epoch {record.epoch}"
            self._findings.violate("transition", record.zxid, what, f"{record.session:#x}")
        if moved == 1:
            self._findings.count("commits")
            self._check_commit(record)
        elif (last.state, moved) == ("ROLLING_BACK", 0) and record.state != last.state:
            self._findings.count("rollbacks")
        elif (last.state, moved) == ("PREPARING", 0) and record.state in ("STABLE", "EMPTY"):
            self._findings.count("aborts")

    def _check_commit(self, record: RecordAt) -> None:
        attempt = self._replay.attempt_at(record.zxid - 1)
        if attempt is None or attempt.opened is None:
            return
        cursor = self._replay.tree.at(f"{self._replay.attempt_home(attempt)}/cursor", record.zxid)
        total = attempt.fields.get("batches_total")
        if cursor is None or cursor.version != total:
            done = cursor.version if cursor else None
            self._findings.violate("commit-before-the-end", record.zxid, f"{done} of {total} batches were applied")

    # -- who may write ------------------------------------------------------------------------------------------------

    def _check_others(self, entry: Entry) -> None:
        if is_hold(self._replay, entry):
            return  # an admin's right in every state: it touches nothing of the owner's
        for op in changes(entry):
            journal = op.path.startswith(f"{self._replay.home}/epochs/")
            record = op.path == self._replay.record_path and not isinstance(op, Create)
            if (journal or record) and not isinstance(op, Delete):  # deleting it all is an operator's right
                self._findings.violate("unowned-write", entry.zxid, op.path, f"{entry.session:#x}")

    def _check_migrators(self, entry: Entry) -> None:
        ops = [op for op in changes(entry) if self._is_guarded(op.path)]
        if not ops or entry.type == CLOSE_SESSION or any(op.path == self._replay.owner_path for op in ops):
            return
        self._findings.count("migration transactions")
        before = self._replay.record_at(entry.zxid - 1)
        owner = self._replay.owner_at(entry.zxid - 1)
        is_acl = all(isinstance(op, SetAcl) for op in ops)
        who = f"{entry.session:#x}"
        if owner is None or owner.session != entry.session:
            if is_acl and (self._may_be_late(entry, before) or self._is_of_a_plane_that_is_gone(entry, before)):
                self._findings.concede("late-set-acl", entry.zxid, ops[0].path, who)
                return
            self._findings.violate("dead-token", entry.zxid, ops[0].path, who)
            return
        taken = self._replay.record_at(owner.zxid)
        if before is None or taken is None or before.incarnation != taken.incarnation:
            self._findings.violate("dead-incarnation", entry.zxid, ops[0].path, who)
            return
        if not is_acl:
            self._check_guard(entry, before)
        self._check_journal(entry)
        if self._replay.tree_changes(entry):
            self._check_tree_write(entry, before, is_acl)

    def _check_guard(self, entry: Entry, before: RecordAt) -> None:
        """What is logged of a check is the version that was found: whether any was good enough does not show."""
        self._findings.count("guards")
        passed = {op.path for op in (*checks(entry), *changes(entry))}
        guard = {f"{self._replay.home}/inc-{before.incarnation}", self._replay.record_path, self._replay.owner_path}
        if not guard <= passed:
            what = f"without {', '.join(sorted(guard - passed))}"
            self._findings.violate("unguarded-write", entry.zxid, what, f"{entry.session:#x}")

    def _check_journal(self, entry: Entry) -> None:
        record = self._replay.record_at(entry.zxid)
        if record is None or record.fields is None:
            return
        needed = f"{record.fields.get('target_epoch')}-{record.attempt}"
        if record.state not in ("OPEN", "ROLLING_BACK"):
            pending = record.fields.get("pending")
            if not pending:
                return
            needed = f"{pending['epoch']}-{pending['attempt']}"
        journal = f"{self._replay.home}/epochs/{needed}"
        for op in changes(entry):
            if isinstance(op, Delete) and (op.path == journal or op.path.startswith(journal + "/")):
                self._findings.violate("journal-deleted", entry.zxid, op.path, f"{entry.session:#x}")

    def _is_guarded(self, path: str) -> bool:
        """Of the tree, or of the control plane but for locks and what readers leave there."""
        if self._replay.is_inside(path):
            return True
        name = path.removeprefix(self._replay.home + "/")
        return name != path and not name.startswith(("lock-", "readers/"))

    def _may_be_late(self, entry: Entry, before: RecordAt | None) -> bool:
        """A setACL cannot be part of a guarded multi: one that was on its way may land until the next owner has been
        at the same path, and no later than the end of the epoch."""
        if before is None or (before.state in ("STABLE", "EMPTY") and not (before.fields or {}).get("pending")):
            return False
        owner = self._replay.owner_at(entry.zxid - 1)
        path = changes(entry)[0].path
        since = self._replay.entries_within(owner.zxid, entry.zxid - 1) if owner else []
        return owner is not None and not any(
            later.session == owner.session and any(isinstance(op, SetAcl) and op.path == path for op in changes(later))
            for later in since
            if not later.failed
        )

    def _is_of_a_plane_that_is_gone(self, entry: Entry, before: RecordAt | None) -> bool:
        """Whether its control plane was deleted since the token was taken: no later owner can know of this path. It
        may land as long as nobody else has set the ACL since."""
        taken = [owner.zxid for owner in self._replay.owners if owner.session == entry.session][-1]
        then = self._replay.record_at(taken)
        if before is not None and then is not None and before.incarnation == then.incarnation:
            return False
        path = changes(entry)[0].path
        since = (later for later in self._replay.entries_within(taken, entry.zxid - 1) if not later.failed)
        others = (later for later in since if later.session != entry.session)
        return not any(isinstance(op, SetAcl) and op.path == path for later in others for op in changes(later))

    # -- batches ------------------------------------------------------------------------------------------------------

    def _check_tree_write(self, entry: Entry, before: RecordAt, is_acl: bool) -> None:
        attempt = self._replay.attempt_at(entry.zxid - 1)
        who = f"{entry.session:#x}"
        after = self._replay.record_at(entry.zxid)
        pending = (before.fields or {}).get("pending")
        is_single_shot = before.state == "PREPARING" and after is not None and after.epoch == before.epoch + 1
        if is_acl and (before.state in ("OPEN", "ROLLING_BACK") or pending):
            return
        if is_single_shot:
            self._findings.count("single shots")
            self._check_single_shot(entry, attempt)
            return
        if attempt is None or before.state not in ("OPEN", "ROLLING_BACK"):
            self._findings.violate("write-outside-epoch", entry.zxid, f"a write in {before.state}", who)
            return
        if before.state == "OPEN":
            self._check_batch(entry, attempt)
        else:
            self._check_undo(entry, attempt)

    def _check_moved(self, entry: Entry, attempt: Attempt, name: str, rule: str) -> int | None:
        """The version that the attempt's cursor has afterwards."""
        moved = {op.path: op.version for op in changes(entry) if isinstance(op, SetData)}
        path = f"{self._replay.attempt_home(attempt)}/{name}"
        others = [p for p in moved if p != path and p.startswith(f"{self._replay.home}/epochs/")]
        if others:
            self._findings.violate("other-attempt", entry.zxid, others[0], f"{entry.session:#x}")
        if path not in moved:
            self._findings.violate(rule, entry.zxid, f"{path} stayed where it was", f"{entry.session:#x}")
        return moved.get(path)

    def _check_batch(self, entry: Entry, attempt: Attempt) -> None:
        self._findings.count("batches")
        version = self._check_moved(entry, attempt, "cursor", "batch-without-cursor")
        written = {op.path for op in net_changes(entry) if self._replay.is_inside(op.path)}
        so_far = self._written.setdefault((attempt.prepared, attempt.name), set())
        for path in sorted(written & so_far):
            self._findings.violate("path-written-twice", entry.zxid, path, f"{entry.session:#x}")
        so_far |= written
        plan = self._plans.get(str(attempt.fields.get("plan_hash")))
        if plan is None or version is None:
            return
        batches = plan["batches"]
        wanted = set(batches[version - 1]) if version <= len(batches) else set()
        if written != wanted:  # counters that are raised do not show where they are high enough already
            odd = sorted(written ^ wanted)[:3]
            self._findings.violate(
                "batch-other-than-planned", entry.zxid, f"batch {version}: {', '.join(odd)}", f"{entry.session:#x}"
            )

    def _check_single_shot(self, entry: Entry, attempt: Attempt | None) -> None:
        plan = self._plans.get(str(attempt.fields.get("plan_hash"))) if attempt is not None else None
        if plan is None:
            return
        wanted = {path for batch in plan["batches"] for path in batch}
        written = {op.path for op in net_changes(entry) if self._replay.is_inside(op.path)}
        if written != wanted:
            odd = ", ".join(sorted(written ^ wanted)[:3])
            self._findings.violate("batch-other-than-planned", entry.zxid, f"single shot: {odd}")

    def _check_undo(self, entry: Entry, attempt: Attempt) -> None:
        self._check_moved(entry, attempt, "rcursor", "undo-without-cursor")
        self._findings.count("undo batches")
        which = (attempt.prepared, attempt.name)
        undone = self._undone.setdefault(which, set())
        written = {op.path for op in net_changes(entry) if self._replay.is_inside(op.path)}
        self._findings.count("paths of undo batches", len(written))
        for path in sorted(written & undone):
            self._findings.violate("undone-twice", entry.zxid, path, f"{entry.session:#x}")
        for path in sorted(written - self._written.get(which, set())):
            self._findings.violate("undo-of-nothing", entry.zxid, path, f"{entry.session:#x}")
        undone |= written

    @cached_property
    def _plans(self) -> dict[str, dict[str, Any]]:
        return {plan["plan_hash"]: plan for plan in self._history.of_kind("plan")}
