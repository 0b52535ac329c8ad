"""When a guarded service must not run, by the server's transaction log, and whether it did, by its own diary.

Independent of the engine: the record's states are read from the JSON that the transactions carry. Of an epoch in
batches the forbidden span begins with the transaction that opens it, which a drain precedes, and ends with the one that
brings STABLE back, be it the commit or the end of a rollback. A hold's begins when `hold --wait` has returned, which
only its caller knows, and ends with the transaction that releases it.

A line of the diary breaks a span if it was written within it by the clock (the servers stamp transactions with that of
the same machine, when they have received them), or if it has seen a zxid of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.managers.witness_process import SAW
from tests.torture.txnlog import Create, Entry, SetData, read_logs

CLOCK_MARGIN_S = 0.002  # stamps are of whole milliseconds

OPEN, ROLLING_BACK, STABLE, PREPARING = "OPEN", "ROLLING_BACK", "STABLE", "PREPARING"
WRITING = {OPEN, ROLLING_BACK}


class Change(NamedTuple):
    """The record, or a registration of a guard, was written. fields: its JSON."""

    zxid: int
    wall: float
    path: str
    fields: dict[str, Any]


class Span(NamedTuple):
    """Where nothing guarded may run: from zxid_first on, until zxid_end. what: for people."""

    what: str
    zxid_first: int
    wall_first: float
    zxid_end: int
    wall_end: float

    def holds(self, line: dict[str, Any]) -> bool:
        """Whether this line of a diary must not be."""
        if self.wall_first + CLOCK_MARGIN_S < float(line["wall"]) < self.wall_end - CLOCK_MARGIN_S:
            return True
        return line["what"] == SAW and self.zxid_first <= int(line["zxid"]) < self.zxid_end


def read_diary(file: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """Whole lines, in the order of their writing; of so many bytes at the end, or all."""
    if not file.exists():
        return []
    with file.open("rb") as diary:
        begin = 0 if last_bytes is None else max(0, diary.seek(0, os.SEEK_END) - last_bytes)
        diary.seek(begin)
        raw = diary.read()
    whole = raw[raw.find(b"\n") + 1 if begin else 0 : raw.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def changes_of(entries: Iterable[Entry], home: str) -> list[Change]:
    """All that was written to the record and to registrations. home: of the scope."""
    found = []
    for entry in entries:
        for operation in entry.operations:
            if not entry.failed and isinstance(operation, SetData | Create) and _is_told(operation.path, home):
                fields = json.loads(operation.data or b"{}")
                found.append(Change(entry.zxid, entry.time_ms / 1000, operation.path, fields))
    return found


def _is_told(path: str, home: str) -> bool:
    return path == f"{home}/epoch" or path.startswith(f"{home}/guards/")


def log_changes(data_dir: Path, home: str) -> list[Change]:
    """The same of a single server's log."""
    return changes_of(read_logs(data_dir), home)


def spans_of(changes: Sequence[Change], home: str) -> list[Span]:
    """Every epoch that was open and is over, in order."""
    spans = []
    opened: Change | None = None
    for change in changes:
        if change.path != f"{home}/epoch":
            continue
        state = change.fields["state"]
        if opened is None and state in WRITING:
            opened = change
        elif opened is not None and state not in WRITING:
            outcome = change.fields["last"]["outcome"]
            what = f"epoch {opened.fields['target_epoch']}, {outcome}"
            spans.append(Span(what, opened.zxid, opened.wall, change.zxid, change.wall))
            opened = None
    return spans


def drains_of(changes: Sequence[Change], home: str) -> list[tuple[float, float]]:
    """From PREPARING to whatever came of it, by the clock."""
    drains = []
    begun: float | None = None
    for change in changes:
        if change.path == f"{home}/epoch":
            if begun is not None and change.fields["state"] != PREPARING:
                drains.append((begun, change.wall))
                begun = None
            elif begun is None and change.fields["state"] == PREPARING:
                begun = change.wall
    return drains


def broken_spans(diary: Iterable[dict[str, Any]], spans: Sequence[Span]) -> list[str]:
    """What must not have been: a sentence for each line of the diary that lies in a span."""
    return [f"{span.what}: {line}" for line in diary for span in spans if span.holds(line)]


def registered_as_running(changes: Sequence[Change], home: str) -> list[str]:
    """Guards that said that they run when an epoch was opened: a drain passed them over."""
    stopped: dict[str, bool] = {}
    wrong = []
    was = ""
    for change in changes:
        if change.path != f"{home}/epoch":
            stopped[change.path] = change.fields["stopped"]
            continue
        state = change.fields["state"]
        if state == OPEN != was:
            wrong += [f"epoch {change.fields['target_epoch']}: {path}" for path, is_so in stopped.items() if not is_so]
        was = state
    return wrong
