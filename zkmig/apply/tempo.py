"""Tempo: how fast to write so that other clients do not suffer. Pure: it is told times, it reads no clock.

A few slow writes mean little: servers pause, and machines are busy with other things. Those that wait behind our
batches are all slow, so latencies are looked at in windows, whose median is held against the median when idle.

What is steered is the mean number of batches under way: from 1 on that is the depth of the pipeline; below 1 one batch
is under way for that part of the time, with pauses in between. It goes up by a step when others' latency has been
good for a while, and down by a factor at the first sign that it is not: additive increase, multiplicative decrease.
Where it had to come down it is tried again ever less often, so that what others lose by the trying becomes rare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

IN_FLIGHT_FIRST: Final = 2.0
IN_FLIGHT_MIN: Final = 1 / 4  # with less, most of the others' writes meet no batch at all, and the median tells nothing
IN_FLIGHT_MAX: Final = 8.0
INCREASE: Final = 0.5
INCREASE_PART_MAX: Final = 0.5  # of what is in flight: below 1 the steps are smaller
DECREASE: Final = 0.5

LATENCY_RATIO_MAX: Final = 3.0  # of the idle value, in the median; in the 99th percentile others are to see less than 5
IDLE_MS_MIN: Final = 2.0  # a server that is faster when idle is not held to multiples of less: a batch takes longer
IDLE_MS_UNKNOWN: Final = 5.0  # taken for the idle value where it could not be measured
WINDOW: Final = 16  # latencies
SLOW_MAX: Final = WINDOW // 2  # of a window; more, and its median is too high
WINDOWS_MAX: Final = 32  # good ones in a row before the next step up, after it had to come down again and again
DEAF_AFTER_DECREASE: Final = 2  # latencies that were under way at a decrease, and tell nothing about its effect
PAUSE_S_MAX: Final = 1.0


@dataclass(frozen=True, slots=True)
class TempoSeen:
    """What a migration has seen. in_flight_*: batches under way. idle_ms: median latency before the first.

    median_ms, p99_ms: latency while writing. probes: how many were measured. losses: of the probe's connection.
    others: transactions of others meanwhile, at least.
    """

    in_flight_min: float
    in_flight_max: float
    idle_ms: float | None
    median_ms: float | None
    p99_ms: float | None
    probes: int
    losses: int = 0
    others: int = 0


class Tempo:
    """idle_s: latencies measured before anything was written; none of them: the idle value is assumed."""

    def __init__(self, idle_s: Sequence[float]) -> None:
        self.idle_ms = median(idle_s) * 1000 if idle_s else None
        self.limit_s = LATENCY_RATIO_MAX * max(self.idle_ms or IDLE_MS_UNKNOWN, IDLE_MS_MIN) / 1000
        self.in_flight = IN_FLIGHT_FIRST if idle_s else IN_FLIGHT_MIN
        self._low = self._high = self.in_flight
        self._looked_at = self._slow = 0  # in this window
        self._windows = 0  # good ones in a row
        self._windows_wanted = 1
        self._ceiling = math.inf  # where it last had to come down
        self._deaf = 0
        self._is_overdue = False
        self._latencies: list[float] = []

    @property
    def depth(self) -> int:
        """Batches that may be under way at a time, at least 1."""
        return max(1, math.floor(self.in_flight))

    @property
    def latency_ms(self) -> float | None:
        """The last that was seen."""
        return self._latencies[-1] * 1000 if self._latencies else None

    def pause_s(self, round_trip_s: float) -> float:
        """How long to wait, once nothing is under way, for the mean to come down to what it should be below 1."""
        if self.in_flight >= 1:
            return 0.0
        return min(PAUSE_S_MAX, round_trip_s * (1 / self.in_flight - 1))

    def saw(self, latency_s: float) -> None:
        """Another write took so long."""
        self._latencies.append(latency_s)
        if self._is_overdue:
            self._is_overdue = False  # it has counted already
        else:
            self._count(latency_s)

    def waits(self, waiting_s: float) -> None:
        """Another write has been waiting for so long and is not answered yet."""
        if waiting_s > self.limit_s and not self._is_overdue:
            self._is_overdue = True
            self._count(waiting_s)

    def _count(self, latency_s: float) -> None:
        if self._deaf:
            self._deaf -= 1
            return
        self._looked_at += 1
        self._slow += latency_s > self.limit_s
        if self._slow > SLOW_MAX:
            self._decrease()
        elif self._looked_at == WINDOW:
            self._looked_at = self._slow = 0
            self._windows += 1
            if self._windows >= self._windows_wanted:
                self._increase()

    def lost(self) -> None:
        """Nobody measures any more: the lowest tempo, until latencies come again."""
        self._set(IN_FLIGHT_MIN)
        self._deaf = 0
        self._is_overdue = False

    def seen(self, losses: int = 0, others: int = 0) -> TempoSeen:
        """What there is to tell in the end."""
        found = sorted(self._latencies)
        middle, p99 = (found[int(len(found) * part)] * 1000 if found else None for part in (0.5, 0.99))
        return TempoSeen(self._low, self._high, self.idle_ms, middle, p99, len(found), losses, others)

    def _increase(self) -> None:
        if self.in_flight >= self._ceiling:  # it has held where it did not before: something has changed
            self._ceiling, self._windows_wanted = math.inf, 1
        self._set(self.in_flight + min(INCREASE, self.in_flight * INCREASE_PART_MAX))

    def _decrease(self) -> None:
        if self._ceiling < math.inf:
            self._windows_wanted = min(WINDOWS_MAX, 2 * self._windows_wanted)
        self._ceiling = self.in_flight
        self._deaf = DEAF_AFTER_DECREASE
        self._set(self.in_flight * DECREASE)

    def _set(self, in_flight: float) -> None:
        self.in_flight = min(IN_FLIGHT_MAX, max(IN_FLIGHT_MIN, in_flight))
        self._low, self._high = min(self._low, self.in_flight), max(self._high, self.in_flight)
        self._looked_at = self._slow = self._windows = 0


class Throttle:
    """At most so many writes a second, as --throttle says. clock: seconds, as time.monotonic."""

    def __init__(self, writes_per_s: float, clock: Callable[[], float]) -> None:
        self._writes_per_s = writes_per_s
        self._clock = clock
        self._free_at = clock()

    def wait_s(self) -> float:
        """How long until the next batch may go."""
        return max(0.0, self._free_at - self._clock())

    def sent(self, writes: int) -> None:
        """A batch of so many writes goes now. Time in which nothing was sent is not made up for."""
        self._free_at = max(self._clock(), self._free_at) + writes / self._writes_per_s
