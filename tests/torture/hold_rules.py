"""Holds: the record's one field that moves without the owner's token, and what must not happen under it.

Rules: `hold-lost` (a migrator has set, changed or taken off a hold), `admitted-under-hold`, `effect-after-quiet` (once
`hold --wait` had returned an action took effect, and the hold was still the same). A write of the record by somebody
who is no migrator is a hold only if nothing else of the record changes, nothing else is written, and it checks the
incarnation; any other is `unowned-write` (`write_rules.py`).
"""

from __future__ import annotations

from typing import Any, Final

from tests.torture.history import History
from tests.torture.replay import RecordAt, Replay, changes, checks
from tests.torture.txnlog import Entry, SetData
from tests.torture.violation import Findings

HOLDS: Final = "holds set, renewed or released"


def is_hold(replay: Replay, entry: Entry) -> bool:
    """Whether a transaction sets or releases a hold, and does nothing else."""
    written = changes(entry)
    before, after = replay.record_at(entry.zxid - 1), replay.record_at(entry.zxid)
    if before is None or after is None or [op.path for op in written] != [replay.record_path]:
        return False
    is_checked = f"{replay.home}/inc-{before.incarnation}" in {op.path for op in checks(entry)}
    return is_checked and isinstance(written[0], SetData) and _without_hold(before) == _without_hold(after)


def _without_hold(record: RecordAt) -> dict[str, Any]:
    return {name: value for name, value in (record.fields or {}).items() if name != "held"}


def _held(record: RecordAt | None) -> Any:
    return None if record is None or record.fields is None else record.fields.get("held")


class HoldRules:
    """Goes through the records, the admissions, and what whoever held the scope has told."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._findings = findings

    def check(self) -> None:
        for last, record in zip(self._replay.records, self._replay.records[1:], strict=False):
            is_one = last.incarnation == record.incarnation and record.fields is not None
            if is_one and _held(last) != _held(record):
                self._check_moved(record)
        for action in self._history.of_kind("action"):
            if action["phase"] == "admitted" and _held(self._replay.record_at(action["token"])) is not None:
                self._findings.violate("admitted-under-hold", action["token"], "it was held", action["who"])
        for quiet in self._history.of_kind("hold"):
            if quiet["phase"] == "quiet":
                self._check_quiet(quiet["zxid"])

    def _check_moved(self, record: RecordAt) -> None:
        if record.session in self._replay.migrators:
            self._findings.violate("hold-lost", record.zxid, f"in {record.state}", f"{record.session:#x}")
        else:
            self._findings.count(HOLDS)
            self._findings.count(f"{HOLDS} in {record.state}")

    def _check_quiet(self, zxid: int) -> None:
        """Effects told of, by the transactions that they are."""
        held = _held(self._replay.record_at(zxid))
        if held is None:
            return  # it was released between the wait's end and the note of it
        self._findings.count("holds that were waited for")
        for action in self._history.of_kind("action"):
            path, landed = action.get("effect_path"), action.get("zxid")
            if path is None or landed is None or landed <= zxid:
                continue
            known = _held(self._replay.record_at(landed))
            if known is not None and (known["holder"], known["since"]) == (held["holder"], held["since"]):
                self._findings.violate("effect-after-quiet", landed, f"quiet since {zxid:#x}", action["who"])
