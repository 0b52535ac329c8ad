"""Pacing: what the latency probe, the others who write and the operator's throttle allow, as one `epoch.pace.Pace`.

The tempo keeps the queue short in which others wait, which their median shows. Their tail is the server's own pauses,
so many for so many creates: while others write, a rate is kept to. Where nobody does, it would only cost time. An
operator's own throttle is taken at its word, also where it is higher.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from zkmig.apply.others import YIELD_WRITES_PER_S, Others
from zkmig.apply.probe import LatencyProbe, OpenProbe, Stamp
from zkmig.apply.tempo import Tempo, TempoSeen, Throttle
from zkmig.stop import StopRequest
from zkmig.wire.client import Client

DEPTH_UNPROBED: Final = 2  # batches in flight where nobody measures what that does to others
PROBED_FROM: Final = 16  # multis: shorter work is over before a probe could tell anything
SLICE_S: Final = 0.05  # of a wait, after which a stop is looked for


class Pacing:
    """probe None: DEPTH_UNPROBED, and only the throttle counts. clock, sleep: seconds, as those of `time`.

    writes: how many writes the writer has sent; nothing of them is under way when this is made.
    """

    def __init__(
        self,
        stop: StopRequest,
        probe: LatencyProbe | None,
        throttle: Throttle | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        writes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._stop = stop
        self._probe = probe
        self._throttle = throttle
        self._yielding = Throttle(YIELD_WRITES_PER_S, clock)
        self._others = Others()
        self._writes = writes
        self._unanswered = 0
        self._sent_at = self._answered_at = 0.0
        self._round_trip_s = 0.0
        self.tempo = Tempo(probe.idle(stop)) if probe is not None else None
        self._losses = 0
        if probe is not None and (first := probe.first) is not None:
            self._losses = first.losses
            self._others.begin(first.zxid, writes() + first.probes)

    def depth(self) -> int:
        """Batches that may be under way. One, while a rate has them wait for each other anyhow."""
        self._look()
        if (rate := self._rate()) is not None and rate.wait_s():
            return 1
        return self.tempo.depth if self.tempo is not None else DEPTH_UNPROBED

    def wait_for_turn(self, writes: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Return when a batch of so many writes may go, or when a stop was asked for. meanwhile: see `Pace`."""
        self._look()
        until = 0.0
        if self.tempo is not None and not self._unanswered:
            until = self._answered_at + self.tempo.pause_s(self._round_trip_s)
        rate = self._rate()
        while not self._stop.requested:
            wait_s = max(until - self._clock(), rate.wait_s() if rate is not None else 0.0)
            if wait_s <= 0:
                break
            self._sleep(min(wait_s, SLICE_S))
            meanwhile()
        if rate is not None:
            rate.sent(writes)
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
        return self.tempo.seen(self._probe.losses, self._others.transactions)

    def _rate(self) -> Throttle | None:
        """What is kept to: the operator's, else what others need while they write."""
        if self._throttle is None and self._others.write(self._clock()):
            return self._yielding
        return self._throttle

    def _look(self) -> None:
        if self._probe is None or self.tempo is None:
            return
        measured = self._probe.take()
        for latency in measured.latencies:
            self.tempo.saw(latency)
        if measured.is_lost:
            self.tempo.lost()
            self._others.unseen(self._clock())
        else:
            self.tempo.waits(measured.waiting_s)
            self._count(measured.stamp)

    def _count(self, stamp: Stamp | None) -> None:
        """How many transactions there were until then, and how many of them are ours."""
        if stamp is None:
            return
        if stamp.losses != self._losses:
            self._losses = stamp.losses
            self._others.lost()
        self._others.saw(stamp.zxid, self._writes() + stamp.probes, self._clock())


@contextmanager
def paced(
    multis: int, stop: StopRequest, open_probe: OpenProbe | None, path: str, writes_per_s: float | None, writer: Client
) -> Iterator[Pacing]:
    """The pacing of work of so many multis. path: of a node that the probe can check. writer: sends the multis."""
    throttle = Throttle(writes_per_s, time.monotonic) if writes_per_s is not None else None
    with ExitStack() as stack:
        probe = None
        if open_probe is not None and multis >= PROBED_FROM:
            probe = stack.enter_context(LatencyProbe(open_probe, path))
        yield Pacing(stop, probe, throttle, writes=lambda: writer.writes_submitted)
