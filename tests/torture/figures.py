"""How much a run has put to the test: leases and guards that a drain met, views amid batches, late writes, digests.

Nothing is judged here. A run of `--full` must reach floors of these figures (`tests/torture/__main__.py`), so that it
cannot pass because nothing happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.torture.history import History
from tests.torture.replay import Attempt, Replay, decoded
from tests.torture.tree import Value
from tests.torture.violation import Findings

VIEWS: Final = "views"  # counted by the rules for views, and
OPEN_VIEWS: Final = "views of an open epoch"
AMID_VIEWS: Final = "views amid the batches of an open epoch"
DISTINCT_VIEWS: Final = "distinct views"
DISTINCT_AMID: Final = "distinct views amid the batches"
LEASES: Final = "leases alive at PREPARING"
GUARDS: Final = "running guards at PREPARING"
REFUSED: Final = "late writes of the robbed that were refused"
TRANSACTIONS: Final = "transactions replayed"
DIGESTS: Final = "digests of the whole tree compared"
UNPROVEN: Final = "transactions without a digest"


class Figures:
    """Counted off the log and the views."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._count = findings.count

    def check(self) -> None:
        for attempt in self._replay.attempts:
            self._count_held_up(attempt)
        self._count_refused()
        self._count_views()
        self._count(TRANSACTIONS, sum(1 for _ in self._replay.writes()))
        self._count(UNPROVEN, sum(entry.digest is None for entry in self._replay.writes()))
        self._count(DIGESTS, self._replay.tree.digests_checked)

    def _count_held_up(self, attempt: Attempt) -> None:
        """What was there when the record left STABLE, so that the drain had to wait for it."""
        entry = self._replay.entry_at(attempt.prepared)
        assert entry is not None
        for value in self._entries("acting", attempt.prepared):
            fields = decoded(value.data) or {}
            max_ms = fields.get("max_ms")
            is_alive = fields.get("released") is not True and isinstance(max_ms, int)
            self._count(LEASES, int(is_alive and entry.time_ms < value.mtime + int(max_ms or 0)))
        for value in self._entries("guards", attempt.prepared):
            self._count(GUARDS, int((decoded(value.data) or {}).get("stopped") is False))

    def _entries(self, directory: str, zxid: int) -> Iterator[Value]:
        inside = f"{self._replay.home}/{directory}/"
        for path in self._replay.tree.below(inside.rstrip("/")):
            value = self._replay.tree.at(path, zxid)
            if value is not None and path.startswith(inside):
                yield value

    def _count_refused(self) -> None:
        """Transactions of sessions that held the token once, and had lost it when the servers came to them."""
        first: dict[int, int] = {}
        for owner in self._replay.owners:
            if owner.session is not None:
                first.setdefault(owner.session, owner.zxid)
        for entry in self._replay.entries:
            if entry.failed and first.get(entry.session, entry.zxid) < entry.zxid:
                owner_now = self._replay.owner_at(entry.zxid)
                self._count(REFUSED, int(owner_now is None or owner_now.session != entry.session))

    def _count_views(self) -> None:
        """A view is another one if its image is, the churn aside, or the place that the epoch had come to."""
        distinct, amid = set[tuple[Any, ...]](), set[tuple[Any, ...]]()
        for view in self._history.of_kind("view"):
            place = self._place(view)
            key = (view["digest"], view["incarnation"], view["record_version"], *place)
            distinct.add(key)
            if place[0] > 0:
                amid.add(key)
                self._count(AMID_VIEWS)
        self._count(DISTINCT_VIEWS, len(distinct))
        self._count(DISTINCT_AMID, len(amid))

    def _place(self, view: dict[str, Any]) -> tuple[int, int]:
        """Batches that had been applied, and taken back, when the view was taken."""
        attempt = self._replay.attempt_at(view["zxid"])
        if attempt is None or view["state"] not in ("OPEN", "ROLLING_BACK"):
            return 0, 0
        home = self._replay.attempt_home(attempt)
        cursors = (self._replay.tree.at(f"{home}/{name}", view["zxid"]) for name in ("cursor", "rcursor"))
        applied, undone = (cursor.version if cursor is not None else 0 for cursor in cursors)
        return applied, undone
