"""P6, and the way back: nobody else's write is overwritten or lost without a word, and a rollback restores all else.

Rules: `overwrote-foreign` (a migration write on a path that somebody else had written since the plan was made),
`foreign-write-lost` (at the end of the attempt neither it nor a later foreign value is there, and no report names the
path), `undo-incomplete` (after a rollback a path is not as it was when the attempt was opened), `counter-lowered`,
`not-the-planned-tree`, `committed-over-foreign` (what somebody else wrote on a planned path after the migration did was
to be found by the verification, or by a check of the commit, and the attempt committed without a report). Residues:
`version-repeated` (deleted and created again at the version that the write expected; docs/protocol.md says so), which
must be reported all the same; `late-foreign-write` (after the last batch, on a path that the commit did not check).

A write is foreign if its session never took the token. Writes of children alone do not count. A report counts for an
attempt if it is in its record, beside its journal, or of a migrator that began when the plan was there and the attempt
was not over; and then only for paths that somebody else has written, or something above or below them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from tests.torture.history import History, is_apart
from tests.torture.replay import Attempt, Change, Replay, checks, net_changes
from tests.torture.tree import Value, parent
from tests.torture.txnlog import Create, Delete, Entry, SetAcl
from tests.torture.violation import Findings

REPORT_PREFIX = "deviation-"


class Foreign(NamedTuple):
    """A write of somebody else. value: what it left, None for a delete."""

    zxid: int
    path: str
    value: Value | None


class ForeignRules:
    """Goes through attempts: from the state that the plan was made against to the attempt's end."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._findings = findings
        self._apart = str(history.run.get("apart", ""))

    def check(self) -> None:
        for attempt in self._replay.attempts:
            if attempt.outcome == "forgotten":
                continue  # with its control plane went all that it promised
            end = attempt.ended if attempt.ended is not None else self._replay.tree.zxid
            plan = self._plans.get(str(attempt.fields.get("plan_hash")))
            start = plan["zxid"] if plan is not None else attempt.taken
            foreign = list(self._foreign(start, end))
            reported = self._reported(attempt, end)
            touched = self._check_writes(attempt, start, end, foreign, reported)
            if attempt.ended is None:
                continue
            planned = {path for batch in plan["batches"] for path in batch} if plan else set()
            self._check_kept(attempt, end, foreign, set(touched) | planned, reported)
            if attempt.outcome == "rolled_back":
                self._check_undone(attempt, start, end, foreign, reported)
            if attempt.outcome == "committed" and plan is not None:
                self._check_arrived(end, plan, foreign)
                late = [write for write in foreign if write.path in planned and write.path not in reported]
                self._check_committed(end, late, touched)

    # -- what others wrote --------------------------------------------------------------------------------------------

    def _foreign(self, zxid_after: int, zxid_last: int, with_acls: bool = False) -> Iterator[Foreign]:
        for entry in self._replay.entries_within(zxid_after, zxid_last):
            if entry.failed or self._replay.is_migrators(entry):
                continue
            for op in net_changes(entry):
                is_judged = self._replay.is_inside(op.path) and not is_apart(op.path, self._apart)
                if is_judged and (with_acls or not _is_acl(op)):
                    yield Foreign(entry.zxid, op.path, self._replay.tree.at(op.path, entry.zxid))

    def _reported(self, attempt: Attempt, end: int) -> set[str]:
        """Paths that the record, the journal or a migrator's own report has named."""
        found: set[str] = set()
        for record in self._replay.records:
            if attempt.prepared <= record.zxid <= end and record.fields:
                found |= _paths_in(record.fields.get("conflict"))
        for path in self._replay.tree.below(self._replay.attempt_home(attempt)):
            if path.rpartition("/")[2].startswith(REPORT_PREFIX):
                for _, value in self._replay.tree.paths[path].changes(0, end):
                    found |= _paths_in(json.loads(value.data or b"[]")) if value is not None else set()
        for began, ended in self._migrators:
            if self._is_within(began["wall"], ended["wall"], attempt, end):
                found |= _paths_in(ended.get("report"))
        return found

    @cached_property
    def _migrators(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The beginning of each migrator, and its end."""
        events = self._history.of_kind("migrator")
        began = {event["number"]: event for event in events if event["phase"] == "began"}
        return [(began[event["number"]], event) for event in events if event["phase"] == "ended"]

    def _is_within(self, began_s: float, ended_s: float, attempt: Attempt, end: int) -> bool:
        """Whether a migrator may have had to do with this attempt."""
        plan = self._plans.get(str(attempt.fields.get("plan_hash")))
        is_after_the_plan = plan is None or plan["wall"] <= began_s
        return is_after_the_plan and began_s <= self._wall(end) and self._wall(attempt.prepared) <= ended_s

    def _wall(self, zxid: int) -> float:
        """Seconds since 1970 at a transaction."""
        entry = self._replay.entry_at(zxid)
        assert entry is not None
        return entry.time_ms / 1000

    # -- nothing overwritten ------------------------------------------------------------------------------------------

    def _check_writes(
        self, attempt: Attempt, start: int, end: int, foreign: list[Foreign], reported: set[str]
    ) -> dict[str, int]:
        """Returns the paths that the attempt has changed, and the zxid of its last change."""
        by_path: dict[str, list[Foreign]] = {}
        for write in foreign:
            by_path.setdefault(write.path, []).append(write)
        touched: dict[str, int] = {}  # when the attempt itself has last written it
        for entry in self._replay.entries_within(attempt.prepared, end):
            if entry.failed or not self._replay.is_migrators(entry):
                continue
            for op in net_changes(entry):
                if not self._replay.is_inside(op.path) or _is_acl(op):
                    continue
                since = touched.get(op.path, start)
                before = [write for write in by_path.get(op.path, ()) if since < write.zxid < entry.zxid]
                if before:
                    self._check_write(entry, op, before, since, reported)
                touched[op.path] = entry.zxid
        return touched

    def _check_write(self, entry: Entry, op: Change, before: list[Foreign], since: int, reported: set[str]) -> None:
        last = before[-1]
        if isinstance(op, Create) and last.value is None:
            return  # nobody's value was there any more
        now, planned = self._replay.tree.at(op.path, entry.zxid - 1), self._replay.tree.at(op.path, since)
        is_same_version = now is not None and planned is not None and now.version == planned.version
        if is_same_version and now is not None and planned is not None and now.czxid != planned.czxid:
            self._findings.concede("version-repeated", entry.zxid, op.path, f"{entry.session:#x}")
            if op.path in reported or isinstance(op, Delete):
                return
        what = f"{op.path}, which others had written at {last.zxid:#x}"
        self._findings.violate("overwrote-foreign", entry.zxid, what, f"{entry.session:#x}")

    # -- nothing lost -------------------------------------------------------------------------------------------------

    def _check_kept(
        self, attempt: Attempt, end: int, foreign: list[Foreign], paths: set[str], reported: set[str]
    ) -> None:
        last = {write.path: write for write in foreign}  # the latest of each path
        for path, write in last.items():
            if path not in paths:
                continue
            self._findings.count("foreign writes on paths of a plan")
            now = self._replay.tree.at(path, end)
            is_kept = now is None if write.value is None else now is not None and now.mzxid >= write.zxid
            if is_kept and now is not None:
                is_kept = now.writer not in self._replay.migrators or write.value is None
            if not is_kept and path not in reported:
                what = f"{path}, written by others at {write.zxid:#x}, epoch {attempt.epoch} {attempt.outcome}"
                self._findings.violate("foreign-write-lost", end, what)

    # -- all else as promised -----------------------------------------------------------------------------------------

    def _check_undone(self, attempt: Attempt, start: int, end: int, foreign: list[Foreign], reported: set[str]) -> None:
        assert attempt.opened is not None
        others = {write.path for write in foreign}
        in_the_way = {write.path for write in self._foreign(start, end, with_acls=True)}
        for path in self._replay.tree.below(self._replay.root):
            if path in others or is_apart(path, self._apart):
                continue
            if path in reported and _is_near(path, in_the_way):
                self._findings.count("paths left by a rollback, reported")
                continue
            timeline = self._replay.tree.paths[path]
            if not timeline.changes(attempt.opened, end):
                continue
            self._findings.count("paths undone")
            before, after = timeline.at(attempt.opened), timeline.at(end)
            if _bare(before) != _bare(after):
                what = f"{path} after epoch {attempt.epoch} was rolled back: {_differences(before, after)}"
                self._findings.violate("undo-incomplete", end, what)
            elif before is not None and after is not None and after.creates < before.creates:
                self._findings.violate("counter-lowered", end, f"{path}: {before.creates} -> {after.creates}")

    def _check_arrived(self, end: int, plan: dict[str, Any], foreign: list[Foreign]) -> None:
        others = {write.path for write in foreign}
        for path, wanted in plan.get("target", {}).items():
            if path in others:
                continue
            value = self._replay.tree.at(path, end)
            found = None if value is None else data_digest(value.data)
            if found != wanted:
                self._findings.violate("not-the-planned-tree", end, path)

    def _check_committed(self, end: int, foreign: list[Foreign], touched: dict[str, int]) -> None:
        """foreign: on planned paths, and not reported. touched: the attempt's own last write of each path."""
        commit, owner = self._replay.entry_at(end), self._replay.owner_at(end)
        assert commit is not None
        assert owner is not None
        checked = {check.path for check in checks(commit)}
        self._findings.count("paths of a plan that a commit checked", len(checked & set(touched)))
        batches_end = max([zxid for zxid in touched.values() if zxid < end], default=end)
        is_late_after = max(batches_end, owner.zxid)  # before that, the owner's verification cannot have begun
        for path, write in {write.path: write for write in foreign}.items():
            mine, now = self._replay.tree.at(path, touched.get(path, 0)), self._replay.tree.at(path, end)
            if write.zxid < touched.get(path, 0) or (now is None and mine is None):
                continue
            what = f"{path}, written by others at {write.zxid:#x}"
            if path in checked and now is not None and mine is not None and now.version == mine.version:
                self._findings.concede("version-repeated", end, what)
            elif path not in checked and write.zxid > is_late_after:
                self._findings.concede("late-foreign-write", end, what)
            else:
                self._findings.violate("committed-over-foreign", end, what)

    @cached_property
    def _plans(self) -> dict[str, dict[str, Any]]:
        return {plan["plan_hash"]: plan for plan in self._history.of_kind("plan")}


def data_digest(data: bytes | None) -> str:
    """What a plan's event says of the data that a path is to have; a path that is to go has None instead."""
    return "null" if data is None else hashlib.sha256(data).hexdigest()[:16]


def _is_acl(op: Change) -> bool:
    return isinstance(op, SetAcl)


def _is_near(path: str, others: set[str]) -> bool:
    """Whether one of the others is the path, or above it, or below."""
    above = path
    while above != "/":
        if above in others:
            return True
        above = parent(above)
    return any(other.startswith(path + "/") for other in others)


def _bare(value: Value | None) -> tuple[object, ...] | None:
    """What a rollback restores: data, ACL, kind."""
    return None if value is None else (value.data, value.acl, value.owner)


def _differences(before: Value | None, after: Value | None) -> str:
    if before is None or after is None:
        return "it is there" if before is None else "it is gone"
    names = ("data", "ACL", "kind")
    return ", ".join(n for n, a, b in zip(names, _bare(before) or (), _bare(after) or (), strict=True) if a != b)


def _paths_in(report: object) -> set[str]:
    """Every absolute path in a report, whatever its shape."""
    match report:
        case str():
            return {report} if report.startswith("/") else set()
        case dict():
            return set().union(*map(_paths_in, report.values())) if report else set()
        case list() | tuple():
            return set().union(*map(_paths_in, report)) if report else set()
        case _:
            return set()
