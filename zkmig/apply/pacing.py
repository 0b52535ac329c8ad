"""Pacing: a tempo that follows the latency probe, and the operator's throttle, as one `epoch.pace.Pace`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from zkmig.apply.probe import LatencyProbe, OpenProbe
from zkmig.apply.tempo import Tempo, TempoSeen, Throttle
from zkmig.stop import StopRequest

DEPTH_UNPROBED: Final = 2  # batches in flight where nobody measures what that does to others
PROBED_FROM: Final = 16  # multis: shorter work is over before a probe could tell anything
SLICE_S: Final = 0.05  # of a wait, after which a stop is looked for


class Pacing:
    """probe None: DEPTH_UNPROBED, and only the throttle counts. clock, sleep: seconds, as those of `time`."""

    def __init__(
        self,
        stop: StopRequest,
        probe: LatencyProbe | None,
        throttle: Throttle | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._stop = stop
        self._probe = probe
        self._throttle = throttle
        self._unanswered = 0
        self._sent_at = self._answered_at = 0.0
        self._round_trip_s = 0.0
        self.tempo = Tempo(probe.idle(stop)) if probe is not None else None

    def depth(self) -> int:
        """Batches that may be under way. One, while a throttle has them wait for each other anyhow."""
        if self._throttle is not None and self._throttle.wait_s():
            return 1
        self._look()
        return self.tempo.depth if self.tempo is not None else DEPTH_UNPROBED

    def wait_for_turn(self, writes: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Return when a batch of so many writes may go, or when a stop was asked for. meanwhile: see `Pace`."""
        self._look()
        until = 0.0
        if self.tempo is not None and not self._unanswered:
            until = self._answered_at + self.tempo.pause_s(self._round_trip_s)
        while not self._stop.requested:
            wait_s = max(until - self._clock(), self._throttle.wait_s() if self._throttle is not None else 0.0)
            if wait_s <= 0:
                break
            self._sleep(min(wait_s, SLICE_S))
            meanwhile()
        if self._throttle is not None:
            self._throttle.sent(writes)
        self._unanswered += 1
        self._sent_at = self._clock()

    def answered(self) -> None:
        """A batch was answered."""
        self._unanswered = max(0, self._unanswered - 1)
        self._answered_at = self._clock()
        if not self._unanswered:
            self._round_trip_s = self._answered_at - self._sent_at

    def restarted(self) -> None:
        """A series begins, perhaps after a lost connection: nothing is under way."""
        self._unanswered = 0

    def now(self) -> tuple[float | None, float | None]:
        """Batches under way on an average, and the latency measured last, in ms; None where nobody measures."""
        if self.tempo is None:
            return None, None
        return self.tempo.in_flight, self.tempo.latency_ms

    def seen(self) -> TempoSeen | None:
        """What there is to tell in the end; None where nobody measured."""
        if self.tempo is None or self._probe is None:
            return None
        return self.tempo.seen(self._probe.losses)

    def _look(self) -> None:
        if self._probe is None or self.tempo is None:
            return
        measured = self._probe.take()
        for latency in measured.latencies:
            self.tempo.saw(latency)
        if measured.is_lost:
            self.tempo.lost()
        else:
            self.tempo.waits(measured.waiting_s)


@contextmanager
def paced(
    multis: int, stop: StopRequest, open_probe: OpenProbe | None, path: str, writes_per_s: float | None
) -> Iterator[Pacing]:
    """The pacing of work of so many multis. path: of a node that the probe can check."""
    throttle = Throttle(writes_per_s, time.monotonic) if writes_per_s is not None else None
    with ExitStack() as stack:
        probe = None
        if open_probe is not None and multis >= PROBED_FROM:
            probe = stack.enter_context(LatencyProbe(open_probe, path))
        yield Pacing(stop, probe, throttle)
