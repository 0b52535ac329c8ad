"""P1: every view is the whole image of one committed epoch, and no reader is shown an older one than before.

Rules: `torn-view` (a znode is not as the image of the view's epoch has it), `record-mismatch` (the record was not as
the view says, at the zxid that it names), `older-view`, `view-without-image`.

A view names two zxids between which the record was the same. In STABLE and PREPARING each znode must be as it was at
some zxid of that window (migrations write nothing then). In OPEN and ROLLING_BACK each path that the attempt changes,
from its beginning to its end, must be as it was before the attempt was opened, whatever has been written when the view
was taken; so must the Stat fields of its parents that tell of children; everything else as at some zxid of the window.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from tests.torture.history import History, Row, image_digest, is_apart
from tests.torture.replay import Attempt, Replay, net_changes, raised_counters
from tests.torture.tree import Value, parent
from tests.torture.txnlog import Create, Delete
from tests.torture.violation import Findings

OVERLAID: Final = ("OPEN", "ROLLING_BACK")
SHOWN: Final = ("STABLE", "PREPARING", *OVERLAID)
NAMED_MAX: Final = 5

# Places in a Stat.
CVERSION, NUM_CHILDREN, PZXID, AVERSION = 5, 9, 10, 6
_OF_CHILDREN = (CVERSION, NUM_CHILDREN, PZXID)


@dataclass
class Touched:
    """What an attempt changes over all its time. written: data or existence; beside: parents of those, and nodes whose
    counter is raised. created: paths that were absent before. is_whole: what was planned is known, so that all else is
    live."""

    written: frozenset[str]
    beside: frozenset[str]
    created: frozenset[str]
    is_whole: bool

    def hides(self, path: str) -> bool:
        """Whether the path, or one above it, is created."""
        while path not in self.created:
            if path == "/":
                return False
            path = parent(path)
        return True


class ViewRules:
    """apart: subtree of churn, whose rows the views tell one by one. plans: paths of each plan by its hash."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._findings = findings
        self._apart = str(history.run.get("apart", ""))
        self._touched: dict[int, Touched] = {}
        self._digests: dict[int, str] = {}
        self._verdicts: dict[tuple[Any, ...], list[str]] = {}

    def check(self) -> None:
        last: dict[str, dict[str, Any]] = {}
        for view in self._history.of_kind("view"):
            self._findings.count("views")
            before = last.get(view["who"])
            if before is not None:
                self._check_order(before, view)
            if self._check_record(view):
                self._check_image(view, self._window(before, view))
            last[view["who"]] = view

    def _check_order(self, before: dict[str, Any], view: dict[str, Any]) -> None:
        went_back = view["zxid"] < before["zxid"]
        if view["incarnation"] == before["incarnation"]:
            went_back |= view["epoch"] < before["epoch"]
        if went_back:
            seen = f"epoch {before['epoch']} at {before['zxid']:#x}"
            self._findings.violate("older-view", view["zxid"], f"epoch {view['epoch']} after {seen}", view["who"])

    def _check_record(self, view: dict[str, Any]) -> bool:
        record = self._replay.record_at(view["zxid"])
        if record is None:
            self._findings.violate("record-mismatch", view["zxid"], "there was no record", view["who"])
            return False
        said = (view["incarnation"], view["epoch"], view["state"], view["record_version"])
        was = (record.incarnation, record.epoch, record.state, record.version)
        if said != was:
            self._findings.violate("record-mismatch", view["zxid"], f"the view says {said}, it was {was}", view["who"])
        if record.state not in SHOWN:
            self._findings.violate("view-without-image", view["zxid"], f"a view in {record.state}", view["who"])
        return said == was

    @staticmethod
    def _window(before: dict[str, Any] | None, view: dict[str, Any]) -> tuple[int, int]:
        """A view that was kept is brought up to date from the one before."""
        first = view["zxid_first"]
        if before is not None and before["zxid_first"] == first:
            first = max(first, before["zxid"])
        return first, view["zxid"]

    def _check_image(self, view: dict[str, Any], window: tuple[int, int]) -> None:
        attempt = None
        if view["state"] in OVERLAID:
            attempt = self._replay.attempt_at(view["zxid"])
            self._findings.count("views of an open epoch")
        if view["digest"] != self._expected_digest(attempt, window[1]):
            self._check_rows(view, attempt, window)
        self._check_apart(view, window)

    # -- the whole image at one zxid ----------------------------------------------------------------------------------

    def _expected_digest(self, attempt: Attempt | None, zxid: int) -> str:
        """Of the image as it is when nobody else writes; "" where somebody does."""
        at = zxid
        if attempt is not None and attempt.opened is not None:
            at = attempt.opened
            if bisect_right(self._foreign_changes, zxid) != bisect_right(self._foreign_changes, at):
                return ""
        moved = self._last_change(at)
        if moved not in self._digests:
            image = self._replay.tree.image(self._paths, at)
            self._digests[moved] = image_digest(_row(path, value) for path, value in image.items())
        return self._digests[moved]

    @cached_property
    def _foreign_changes(self) -> list[int]:
        """Zxids at which somebody else changed anything of `_paths`."""
        changed = set(self._changes)
        writes = self._replay.writes()
        return [e.zxid for e in writes if e.zxid in changed and not self._replay.is_migrators(e)]

    @cached_property
    def _paths(self) -> list[str]:
        return [path for path in self._replay.tree.below(self._replay.root) if not is_apart(path, self._apart)]

    @cached_property
    def _changes(self) -> list[int]:
        """Zxids at which anything of `_paths` changed."""
        return sorted({zxid for path in self._paths for zxid in self._replay.tree.paths[path].zxids})

    def _last_change(self, zxid: int) -> int:
        place = bisect_right(self._changes, zxid)
        return self._changes[place - 1] if place else 0

    # -- znode by znode -----------------------------------------------------------------------------------------------

    def _check_rows(self, view: dict[str, Any], attempt: Attempt | None, window: tuple[int, int]) -> None:
        self._findings.count("views compared znode by znode")
        first, last = self._last_change(window[0]), self._last_change(window[1])
        is_kept = window[0] != view["zxid_first"]
        # Kept views may have ACLs as old as when the tree was read: setACL fires no watch.
        acl_first = self._last_change(view["zxid_first"]) if is_kept else first
        key = (view["digest"], attempt.prepared if attempt else 0, first, last, acl_first)
        if key not in self._verdicts:
            rows = self._history.rows(view["digest"])
            self._verdicts[key] = self._wrong(rows, attempt, (first, last), acl_first)
        wrong = self._verdicts[key]
        if wrong:
            more = f" and {len(wrong) - NAMED_MAX} more" if len(wrong) > NAMED_MAX else ""
            what = f"{view['state']}, epoch {view['epoch']}: {', '.join(wrong[:NAMED_MAX])}{more}"
            self._findings.violate("torn-view", view["zxid"], what, view["who"])

    def _wrong(
        self, rows: dict[str, Row], attempt: Attempt | None, window: tuple[int, int], acl_first: int
    ) -> list[str]:
        touched = self._touched_by(attempt) if attempt is not None else None
        paths = {*rows, *self._paths}
        return sorted(
            path for path in paths if not self._is_right(path, rows.get(path), attempt, touched, window, acl_first)
        )

    def _is_right(
        self,
        path: str,
        row: Row | None,
        attempt: Attempt | None,
        touched: Touched | None,
        window: tuple[int, int],
        acl_first: int,
    ) -> bool:
        timeline = self._replay.tree.paths.get(path)
        if timeline is None:
            return False  # shown, and never there
        live = timeline.within(*window)
        if attempt is None or touched is None or attempt.opened is None:
            if row is None:
                return None in live
            acls = timeline.within(acl_first, window[1])
            return any(_shows(row, value, acls) for value in live if value is not None)
        before = timeline.within(attempt.taken, attempt.opened)
        if touched.hides(path):
            return row is None
        if path in touched.written:
            if row is None:
                return None in before or self._is_cut_off(path, touched, window)
            return any(value is not None and _shows(row, value, [value]) for value in before)
        if not touched.is_whole:
            live = [*live, *before]  # it may be a path of the plan that was not come to
        if row is None:
            return None in live or self._is_cut_off(path, touched, window)
        return _mixes(row, live, before if path in touched.beside else live)

    def _is_cut_off(self, path: str, touched: Touched, window: tuple[int, int]) -> bool:
        """Whether somebody else has deleted a node above, which the attempt does not touch."""
        while path not in ("/", self._replay.root):
            path = parent(path)
            if path not in touched.written and None in self._replay.tree.paths[path].within(*window):
                return True
        return False

    def _touched_by(self, attempt: Attempt) -> Touched:
        known = self._touched.get(attempt.prepared)
        if known is None:
            plan = self._plans.get(str(attempt.fields.get("plan_hash")))
            known = self._touched[attempt.prepared] = touched_by(self._replay, attempt, plan)
        return known

    @cached_property
    def _plans(self) -> dict[str, dict[str, Any]]:
        return {plan["plan_hash"]: plan for plan in self._history.of_kind("plan")}

    # -- the churn of others ------------------------------------------------------------------------------------------

    @cached_property
    def _apart_paths(self) -> list[str]:
        if not self._apart:
            return []
        return [path for path in self._replay.tree.below(self._apart) if self._replay.is_inside(path)]

    def _check_apart(self, view: dict[str, Any], window: tuple[int, int]) -> None:
        shown: dict[str, str] = view.get("apart", {})
        wrong = [path for path in self._apart_paths if not self._was(path, shown.get(path), window)]
        wrong += [path for path in shown if path not in self._replay.tree.paths]
        if wrong:
            what = f"not as they were within {window[0]:#x}..{window[1]:#x}: {', '.join(wrong[:NAMED_MAX])}"
            self._findings.violate("torn-view", view["zxid"], what, view["who"])

    def _was(self, path: str, digest: str | None, window: tuple[int, int]) -> bool:
        values = self._replay.tree.paths[path].within(*window)
        if digest is None:
            return None in values
        return any(value is not None and _row(path, value).digest == digest for value in values)


def touched_by(replay: Replay, attempt: Attempt, plan: dict[str, Any] | None = None) -> Touched:
    """What the log says the attempt has changed, and what its plan names besides. plan: its event, if there is one."""
    written, beside = set[str](), set[str]()
    start = attempt.prepared if attempt.opened is None else attempt.opened
    end = attempt.ended if attempt.ended is not None else replay.tree.zxid
    for entry in replay.entries_within(start, end):
        if entry.failed or not replay.is_migrators(entry):
            continue
        for op in net_changes(entry):
            if replay.is_inside(op.path):
                written.add(op.path)
                if isinstance(op, Create | Delete):
                    beside.add(parent(op.path))
        beside.update(path for path in raised_counters(entry) if replay.is_inside(path))
    if plan is not None:
        for path in (path for batch in plan["batches"] for path in batch):
            written.add(path)
            if plan["target"].get(path) is None or replay.tree.at(path, start) is None:
                beside.add(parent(path))
        beside.update(plan.get("raises", ()))
    created = frozenset(path for path in written if replay.tree.at(path, start) is None)
    return Touched(frozenset(written), frozenset(beside - written), created, plan is not None)


def _row(path: str, value: Value) -> Row:
    return Row(path, value.data, tuple((entry.perms, entry.scheme, entry.id) for entry in value.acl), value.stat)


def _shows(row: Row, value: Value, acls: Iterable[Value | None]) -> bool:
    """Whether the row is this value; its ACL with its version that of any of `acls`."""
    if row.data != value.data or _without(row.stat, AVERSION) != _without(value.stat, AVERSION):
        return False
    return any(a is not None and row.acl == a.acl and row.stat[AVERSION] == a.aversion for a in acls)


def _mixes(row: Row, own: Iterable[Value | None], of_children: Iterable[Value | None]) -> bool:
    """Whether the row is one of `own`, but for what its Stat tells of children, which is that of one of the others."""
    bare = _without(row.stat, *_OF_CHILDREN)
    is_own = any(
        value is not None and (row.data, row.acl, bare) == (value.data, value.acl, _without(value.stat, *_OF_CHILDREN))
        for value in own
    )
    children = tuple(row.stat[place] for place in _OF_CHILDREN)
    return is_own and any(
        value is not None and children == tuple(value.stat[place] for place in _OF_CHILDREN) for value in of_children
    )


def _without(stat: tuple[int, ...], *places: int) -> tuple[int, ...]:
    return tuple(field for place, field in enumerate(stat) if place not in places)
