"""Leases of admitted actions and registrations of guards: what a drain waits for.

Both are persistent nodes, so that an expired session or a crash does not make a running action look finished. A lease
carries its own maximal time; its holder releases it by writing it again; only a migrator removes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

FORMAT = 1

# Added to a lease's own maximum before it counts as over: the holder counts from before it sent, we from when we saw,
# so this is for clocks that run slower than ours: a part of the maximum, and never less than the first.
LEASE_MARGIN_MS = 2_000
LEASE_DRIFT_PART = 1 / 100
LEASE_MAX_MS = 15 * 60 * 1000  # no lease blocks for longer, whatever it says

ENTRY_BYTES_MAX = 8 * 1024
NAME_BYTES_MAX = 1024
"""What has more data, or a longer name, is neither a lease nor a registration: many times what any takes."""


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
class GuardEntry:
    """A guarded process. stopped: the guard has ended it and keeps it down."""

    unit: str
    stopped: bool

    @classmethod
    def decode(cls, data: bytes | None) -> GuardEntry | None:
        """None for what is no registration. One of a newer format counts as running."""
        try:
            fields = json.loads(data or b"")
            if _is_newer(fields["format"]):
                return cls("of a newer zkmig", stopped=False)
            if fields["format"] != FORMAT:
                return None
            return cls(str(fields["unit"]), fields["stopped"] is True)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
