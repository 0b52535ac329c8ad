"""The drain: before the first write, wait until no admitted action can still take effect and no guarded process runs.

Times are counted by this process from its own first sight of a lease, so no clock is compared with another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from zkmig.epoch.leases import LEASE_MARGIN_MS, GuardEntry, Lease
from zkmig.epoch.owner import Migrator
from zkmig.errors import Refused
from zkmig.wire.codes import Code
from zkmig.wire.replies import ChildrenResult, DataResult
from zkmig.wire.requests import Delete, GetChildren, GetData

POLL_S = 0.1
NAMED_MAX = 5


class DrainTimeout(Refused):
    """Leases or guards still block when the time given for the drain is over."""


@dataclass
class Drain:
    """Waits for leases and guards of one scope. timeout_s: how long at most."""

    migrator: Migrator
    timeout_s: float
    say: Callable[[str], None]
    _first_seen: dict[tuple[str, int], float] = field(default_factory=dict)

    def wait(self) -> None:
        """Return when nothing blocks any more; DrainTimeout names what still does."""
        deadline = time.monotonic() + self.timeout_s
        said: set[str] = set()
        while True:
            self.migrator.stop.check()
            blocking = [*self._leases(), *self._guards()]
            if not blocking:
                return
            for name in blocking:
                if name not in said:
                    self.say(f"waiting for {name}")
            said.update(blocking)
            if time.monotonic() > deadline:
                more = f" and {len(blocking) - NAMED_MAX} more" if len(blocking) > NAMED_MAX else ""
                raise DrainTimeout(
                    f"still at work after {self.timeout_s:.0f} s: {', '.join(blocking[:NAMED_MAX])}{more}",
                    self.migrator.names.home,
                    "let them finish and apply again",
                )
            time.sleep(POLL_S)

    def _leases(self) -> list[str]:
        blocking = []
        for path, node in self._entries(self.migrator.names.acting):
            if node is None:
                blocking.append(f"{path} (unreadable)")
                continue
            lease = Lease.decode(node.data)
            if lease is None:
                continue
            seen = self._first_seen.setdefault((path, node.stat.czxid), time.monotonic())
            over = seen + (lease.max_ms + LEASE_MARGIN_MS) / 1000
            if lease.released or time.monotonic() > over:
                # Its holder may release it this moment: whichever version it has now, it no longer counts.
                self.migrator.write((Delete(path, -1),))
            else:
                blocking.append(path)
        return blocking

    def _guards(self) -> list[str]:
        blocking = []
        for path, node in self._entries(self.migrator.names.guards):
            entry = GuardEntry.decode(node.data) if node else None
            if node is None or (entry is not None and not entry.stopped):
                blocking.append(path)
        return blocking

    def _entries(self, directory: str) -> list[tuple[str, DataResult | None]]:
        """Children of a directory with their data; None for one that may not be read."""
        client = self.migrator.client
        listing = client.call(GetChildren(directory))
        assert isinstance(listing, ChildrenResult)
        children = [f"{directory}/{name}" for name in sorted(listing.children)]
        found: list[tuple[str, DataResult | None]] = []
        for path, reply in zip(children, client.pipeline(map(GetData, children), 64), strict=True):
            if reply.error == Code.NO_NODE:
                continue
            found.append((path, reply.result if isinstance(reply.result, DataResult) else None))
        return found
