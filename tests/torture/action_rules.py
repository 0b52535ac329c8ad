"""P2: no action on a stale view, and no migration write while an action may still take effect.

Rules: `lease-alive` (admitted, neither released nor over, when the first write of a migration became possible),
`lease-removed-alive` (by a migrator, and not evicted by the attempt just committed), `guard-running` (like the first),
`admitted-outside-stable`, `effect-under-another-epoch`, `effect-during-migration`. Residue: `paused-before-effect`
(the action asked its token, and its effect was sent or arrived long after).

A lease is over when its own maximum has passed since it was written: its holder counts from before that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final

from tests.torture.history import History
from tests.torture.replay import Attempt, Replay, changes, decoded
from tests.torture.tree import Value
from tests.torture.txnlog import Delete, Entry
from tests.torture.violation import Findings

FORMAT: Final = 1
PAUSE_S: Final = 2.0  # docs/protocol.md: the margin that a drain adds to a lease's own time


class ActionRules:
    """Leases and guards as the log has them, and effects as actions have told of them."""

    def __init__(self, history: History, replay: Replay, findings: Findings) -> None:
        self._history = history
        self._replay = replay
        self._findings = findings

    def check(self) -> None:
        for attempt in self._replay.attempts:
            if attempt.first_write is not None:
                self._check_drained(attempt, attempt.first_write)
        for entry in self._replay.writes():
            if self._replay.is_migrators(entry):
                self._check_removals(entry)
        for action in self._history.of_kind("action"):
            if action["phase"] == "admitted":
                self._check_admission(action)
            elif action["phase"] == "effect":
                self._check_effect(action)

    # -- leases and guards --------------------------------------------------------------------------------------------

    def _check_drained(self, attempt: Attempt, zxid: int) -> None:
        entry = self._replay.entry_at(zxid)
        assert entry is not None
        for path, value in self._entries("acting", zxid):
            if _is_alive(value, entry.time_ms) and not self._is_evicted(path, zxid, attempt.epoch, attempt.name):
                self._findings.violate("lease-alive", zxid, f"{path} at epoch {attempt.epoch}")
        for path, value in self._entries("guards", zxid):
            if value.czxid > attempt.prepared:
                continue  # registered without the check of the record that a registration needs
            fields = decoded(value.data)
            is_running = fields is not None and fields.get("format") == FORMAT and fields.get("stopped") is False
            if is_running and not self._is_evicted(path, zxid, attempt.epoch, attempt.name):
                self._findings.violate("guard-running", zxid, f"{path} at epoch {attempt.epoch}")

    def _check_removals(self, entry: Entry) -> None:
        inside = f"{self._replay.home}/acting/"
        for op in changes(entry):
            if not isinstance(op, Delete) or not op.path.startswith(inside):
                continue
            value = self._replay.tree.at(op.path, entry.zxid - 1)
            is_alive = value is not None and _is_alive(value, entry.time_ms)
            if is_alive and not self._is_done_without(op.path, entry.zxid):
                self._findings.violate("lease-removed-alive", entry.zxid, op.path, f"{entry.session:#x}")

    def _is_done_without(self, path: str, zxid: int) -> bool:
        """While its attempt is under way an evicted lease stays: the next one has to wait for it."""
        record = self._replay.record_at(zxid)
        if record is None or record.fields is None or record.state != "STABLE":
            return False
        return self._is_evicted(path, zxid, record.epoch, str(record.fields.get("committed_attempt")))

    def _entries(self, directory: str, zxid: int) -> Iterator[tuple[str, Value]]:
        for path in self._directories[directory]:
            value = self._replay.tree.at(path, zxid)
            if value is not None:
                yield path, value

    @cached_property
    def _directories(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"acting": [], "guards": []}
        for path in self._replay.tree.below(self._replay.home):
            directory, _, name = path.removeprefix(self._replay.home + "/").partition("/")
            if name and directory in found:
                found[directory].append(path)
        return found

    def _is_evicted(self, path: str, zxid: int, epoch: int, attempt: str) -> bool:
        """Whether an eviction that is on record beside this attempt's journal names it."""
        name = path.removeprefix(self._replay.home + "/")
        beside = f"{self._replay.home}/epochs/{epoch}-{attempt}/"
        values = (self._replay.tree.at(note, zxid) for note in self._evictions if note.startswith(beside))
        return any(value is not None and name in json.dumps(decoded(value.data)) for value in values)

    @cached_property
    def _evictions(self) -> list[str]:
        below = self._replay.tree.below(f"{self._replay.home}/epochs")
        return [path for path in below if path.rpartition("/")[2].startswith("evicted-")]

    # -- actions ------------------------------------------------------------------------------------------------------

    def _check_admission(self, action: dict[str, Any]) -> None:
        self._findings.count("actions admitted")
        record = self._replay.record_at(action["token"])
        if record is None or record.state != "STABLE" or record.epoch != action["epoch"]:
            was = f"{record.state} at epoch {record.epoch}" if record else "no record"
            self._findings.violate("admitted-outside-stable", action["token"], f"it was {was}", action["who"])

    def _check_effect(self, action: dict[str, Any]) -> None:
        zxid = self._zxid_of_effect(action)
        if zxid is None:
            self._findings.count("effects that did not land")
            return
        self._findings.count("effects")
        record = self._replay.record_at(zxid)
        if record is None:
            return  # the control plane is gone, and with it what could have moved
        rule = ""
        if self._incarnation_at(action["token"]) != record.incarnation:
            return
        if record.epoch != action["epoch"]:
            rule = "effect-under-another-epoch"
        elif record.state not in ("STABLE", "PREPARING"):
            rule = "effect-during-migration"
        if not rule:
            return
        what = f"an action of epoch {action['epoch']} took effect in {record.state} at epoch {record.epoch}"
        if self._was_paused(action, zxid):
            self._findings.concede("paused-before-effect", zxid, what, action["who"])
        else:
            self._findings.violate(rule, zxid, what, action["who"])

    def _was_paused(self, action: dict[str, Any], zxid: int) -> bool:
        """Whether much time lay between asking the token and the effect's transaction."""
        entry = self._replay.entry_at(zxid)
        return entry is not None and entry.time_ms / 1000 - action["checked_wall"] > PAUSE_S

    def _incarnation_at(self, zxid: int) -> str:
        record = self._replay.record_at(zxid)
        return record.incarnation if record else ""

    def _zxid_of_effect(self, action: dict[str, Any]) -> int | None:
        """From the log, since an effect whose answer was lost counts too. Each effect writes data of its own."""
        return self._effects.get(action["effect_path"], {}).get(action["effect_data"])

    @cached_property
    def _effects(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for action in self._history.of_kind("action"):
            path = action.get("effect_path")
            if path is None or path in found:
                continue
            timeline = self._replay.tree.paths.get(path)
            moments = zip(timeline.zxids, timeline.values, strict=True) if timeline else ()
            found[path] = {(value.data or b"").decode(): zxid for zxid, value in moments if value is not None}
        return found


def _is_alive(value: Value, now_ms: int) -> bool:
    """Whether an admitted action may still take effect; what is no lease does not count."""
    fields = decoded(value.data)
    if fields is None or fields.get("format") != FORMAT or fields.get("released") is True:
        return False
    max_ms = fields.get("max_ms")
    return isinstance(max_ms, int) and now_ms < value.mtime + max_ms
