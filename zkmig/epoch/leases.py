"""Leases of admitted actions and registrations of guards: what a drain waits for.

Both are persistent nodes, so that an expired session or a crash does not make a running action look finished. A lease
carries its own maximal time; its holder releases it by writing it again; only a migrator removes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1

# Added to a lease's own maximum before it counts as over: the holder counts from before it sent, we from when we saw,
# so this is for clocks that run slower than ours: a part of the maximum, and never less than the first.
LEASE_MARGIN_MS = 2_000
LEASE_DRIFT_PART = 1 / 100
LEASE_MAX_MS = 15 * 60 * 1000  # no lease blocks for longer, whatever it says

ENTRY_BYTES_MAX = 8 * 1024
NAME_BYTES_MAX = 1024
"""What has more data, or a longer name, is neither a lease nor a registration: many times what any takes."""

TIME_MAX = 1e11
"""Unix times beyond this are no times."""


def _is_newer(version: object) -> bool:
    return isinstance(version, int) and version > FORMAT


@dataclass(frozen=True, slots=True)
class Lease:
    """An admitted action. max_ms: longest time it may take, counted by its holder from sending the admission."""

    reader: str
    max_ms: int
    released: bool = False

    @property
    def blocks_ms(self) -> int:
        """How long it can take effect at most, counted by somebody else from the first sight of it; 0 once released."""
        return 0 if self.released else blocks_at_most_ms(self.max_ms)

    def encode(self) -> bytes:
        return json.dumps(
            {"format": FORMAT, "max_ms": self.max_ms, "reader": self.reader, "released": self.released}
        ).encode()

    @classmethod
    def decode(cls, data: bytes | None) -> Lease | None:
        """None for what is no lease: malformed entries never block. One of a newer format does, as long as any may."""
        try:
            fields = json.loads(data or b"")
            if _is_newer(fields["format"]):
                return cls("of a newer zkmig", LEASE_MAX_MS)
            max_ms = fields["max_ms"]
            if fields["format"] != FORMAT or not isinstance(max_ms, int) or max_ms < 0:
                return None
            return cls(str(fields["reader"]), min(max_ms, LEASE_MAX_MS), fields.get("released") is True)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


def blocks_at_most_ms(max_ms: int) -> int:
    """The maximum of a lease and the margin on top of it."""
    return max_ms + LEASE_MARGIN_MS + round(max_ms * LEASE_DRIFT_PART)


@dataclass(frozen=True, slots=True)
class Down:
    """A guarded process that is to stay down although the scope is STABLE, until somebody says otherwise.

    epoch: the committed one that it was not started under. since: unix time in s. over_budget: since the tree is too
    far from what it last ran on, so that to start it is to override its budget.
    """

    epoch: int
    why: str
    since: float
    over_budget: bool = False


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """A guarded process. stopped: the guard has ended it and keeps it down; nothing but that decides for a drain.

    instance, write: which guard wrote this, and its how manieth write it was, by which it knows its own again. since:
    running or stopped since then, unix time in s. epoch: the committed one under which the process ran last; None: it
    never ran. process: who the guard is, to judge after a crash whether it can still live. down: see there. What tells
    and does not decide is taken as left out where it is not well-formed. is_newer: of a format that is not known here.
    """

    unit: str
    stopped: bool
    instance: str = ""
    write: int = 0
    since: float | None = None
    why: str = ""
    epoch: int | None = None
    process: Mapping[str, Any] | None = None
    down: Down | None = None
    is_newer: bool = False

    def encode(self) -> bytes:
        fields = asdict(self)
        del fields["is_newer"]
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes | None) -> GuardEntry | None:
        """None for what is no registration. One of a newer format counts as running."""
        try:
            fields = json.loads(data or b"")
            if _is_newer(fields["format"]):
                return cls("of a newer zkmig", stopped=False, is_newer=True)
            if fields["format"] != FORMAT:
                return None
            unit, stopped = str(fields["unit"]), fields["stopped"] is True
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        process = fields.get("process")
        return cls(
            unit,
            stopped,
            str(fields.get("instance", "")),
            _number(fields.get("write")) or 0,
            _time(fields.get("since")),
            str(fields.get("why", "")),
            _number(fields.get("epoch")),
            process if isinstance(process, dict) else None,
            _down(fields.get("down")),
        )


def _number(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _time(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < TIME_MAX else None


def _down(fields: object) -> Down | None:
    if not isinstance(fields, dict):
        return None
    epoch, since = _number(fields.get("epoch")) or 0, _time(fields.get("since")) or 0.0
    return Down(epoch, str(fields.get("why", "")), since, fields.get("over_budget") is True)
