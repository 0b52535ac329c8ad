"""Blocking: what a drain and a hold wait for, as each knows it from its own first look.

Times are counted by this process, from its own first sight of an entry, so no clock is compared with another's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from zkmig.apply.entries import ACTING, GUARDS, NAMED_MAX, UNREADABLE, Entry, list_entries, read_entries
from zkmig.epoch.control import ControlPaths
from zkmig.wire.client import Client

POLL_S: Final = 0.1
POLL_MAX_S: Final = 1.0

GUARD_ENDS_S: Final = 15.0
"""In a guard's usual grace, which is 10 s, and the kill after it, its command is over and it says so."""

KILLED_GUARD: Final = (
    "a guard that was killed stays registered as running: start it there again, or go without: --evict NAME"
)


@dataclass(frozen=True, slots=True)
class Blocker:
    """An entry that blocks, as little of it as has to be kept of a million. born: czxid and, while admission goes on,
    mzxid. over: when it ceases to block; None: not by itself. Both times are of our own clock."""

    path: str
    what: str
    born: tuple[int, int]
    first_seen: float
    over: float | None

    @property
    def at_most_s(self) -> float | None:
        """For how long more it can block; None: until somebody ends it."""
        return None if self.over is None else max(0.0, self.over - time.monotonic())

    @property
    def name(self) -> str:
        """As `--evict` takes it: acting/NAME or guards/NAME."""
        return "/".join(self.path.split("/")[-2:])

    def __str__(self) -> str:
        limit = "" if self.at_most_s is None else f", at most {self.at_most_s:.0f} s more"
        return f"{self.name} ({self.what}{limit})"


def judged(entry: Entry, born: tuple[int, int], first_seen: float | None = None) -> Blocker | None:
    """What blocks of an entry as it is now; None when it is over. first_seen None: just now."""
    now = time.monotonic()
    first_seen = now if first_seen is None else first_seen
    blocks_ms = entry.blocks_ms
    over = None if blocks_ms is None else first_seen + blocks_ms / 1000
    if blocks_ms == 0 or (over is not None and now > over):
        return None
    return Blocker(entry.path, sys.intern(entry.what), born, first_seen, over)


@dataclass
class Waiting:
    """What is said while something is waited for."""

    say: Callable[[str], None]
    _since: float = 0.0
    _has_advised: bool = False

    def begin(self, blocking: Mapping[str, Blocker]) -> None:
        """Name the first few of what is waited for."""
        self._since = time.monotonic()
        for blocker in islice(blocking.values(), NAMED_MAX):
            self.say(f"waiting for {blocker}")
        if len(blocking) > NAMED_MAX:
            self.say(f"waiting for {len(blocking) - NAMED_MAX} more of them")

    def go_on(self, blocking: Mapping[str, Blocker]) -> None:
        """Say, once, what to do about a guard that waiting may not end; not of one that is just ending its command."""
        if self._has_advised or time.monotonic() - self._since < GUARD_ENDS_S:
            return
        if any(blocker.name.startswith(f"{GUARDS}/") for blocker in blocking.values()):
            self._has_advised = True
            self.say(KILLED_GUARD)


def pause_s(begun: float) -> float:
    """Before the next look: at most half of the time is spent on looking, however much there is. begun: the last."""
    return min(max(POLL_S, time.monotonic() - begun), POLL_MAX_S)


@dataclass
class Admitted:
    """What was admitted up to a moment from which nothing is admitted any more, and may still take effect.

    zxid: of that moment. What is younger was admitted by nobody, and what is written again is the same as before.
    passed_over: paths, and UNREADABLE for all that may not be read.
    """

    names: ControlPaths
    zxid: int
    passed_over: Collection[str] = ()
    blocking: dict[str, Blocker] = field(default_factory=dict)

    def look_at_all(self, client: Client) -> None:
        """The first look; again, it begins to count anew."""
        self.blocking = {}
        listed = (list_entries(client, self.names, kind) for kind in (ACTING, GUARDS))
        for entry in chain.from_iterable(read_entries(client, paths) for paths in listed):
            is_passed = entry.path in self.passed_over or (UNREADABLE in self.passed_over and not entry.is_readable)
            if entry.stat.czxid <= self.zxid and not is_passed:
                self._judge(entry, None)

    def look_again(self, client: Client) -> None:
        """At those that blocked."""
        before, found = self.blocking, list(read_entries(client, list(self.blocking)))
        self.blocking = {}
        for entry in found:
            known = before[entry.path]
            if entry.stat.czxid == known.born[0]:
                self._judge(entry, known.first_seen)

    def _judge(self, entry: Entry, first_seen: float | None) -> None:
        blocker = judged(entry, (entry.stat.czxid, 0), first_seen)
        if blocker is not None:
            self.blocking[entry.path] = blocker
