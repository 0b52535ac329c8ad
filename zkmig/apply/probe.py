"""LatencyProbe: what a small write takes right now, measured by a session of its own in a thread of its own.

It sends a multi that holds nothing but a check. That goes the whole way of a write, through the leader's queue, the
quorum and the transaction logs [zookeeper-facts 4], and so waits behind our batches as everybody's writes do; yet it
changes nothing, needs no node and no permission beyond what the migrator has (a refused check takes the same way).
Whatever becomes of the probe, the migration goes on: without it at the lowest tempo.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Self

from zkmig.errors import ZkmigError
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import Check, Multi

INTERVAL_S: Final = 0.01  # between an answer and the next probe
RETRY_S: Final = 1.0  # after a loss, before the next session
IDLE_PROBES: Final = 20
IDLE_INTERVAL_S: Final = 0.004
IDLE_WAIT_S_MAX: Final = 0.5
JOIN_S_MAX: Final = 1.0

OpenProbe = Callable[[StopRequest], Client]
"""A client, not connected yet, whose calls end when the request is made."""


class Stamp(NamedTuple):
    """zxid: of a probe's answer. probes: how many its session had sent until then. losses: of sessions before it."""

    zxid: int
    probes: int
    losses: int


class Measured(NamedTuple):
    """latencies: seconds, of probes answered since the last look. waiting_s: of the one under way, 0.0 if none is.

    stamp: of the newest answer of this session; None before the first.
    """

    latencies: list[float]
    waiting_s: float
    is_lost: bool
    stamp: Stamp | None


class LatencyProbe:
    """A context manager: measures from its beginning to its end. path: of the node that is checked."""

    def __init__(self, open_client: OpenProbe, path: str) -> None:
        self._open = open_client
        self._path = path
        self._stop = StopRequest()
        self._over = threading.Event()
        self._interval_s = IDLE_INTERVAL_S
        self._lock = threading.Condition()  # notified of each latency, and of a loss
        self._latencies: list[float] = []
        self._sent_at: float | None = None
        self._is_lost = False
        self._stamp: Stamp | None = None
        self.first: Stamp | None = None
        """Of the first answer of the present session."""
        self.losses = 0
        self._thread = threading.Thread(target=self._run, name="zkmig-latency-probe", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._stop.request("the migration needs no probe any more", 0)
        self._thread.join(JOIN_S_MAX)  # a server that does not answer is not waited for

    def idle(self, stop: StopRequest) -> list[float]:
        """Latencies before anything is written; as many as came in time, none if the probe is lost."""
        with self._lock:
            self._lock.wait_for(
                lambda: stop.requested or self._is_lost or len(self._latencies) >= IDLE_PROBES, IDLE_WAIT_S_MAX
            )
            self._interval_s = INTERVAL_S
            found, self._latencies = self._latencies, []
        return found

    def take(self) -> Measured:
        """What was measured since the last look."""
        with self._lock:
            found, self._latencies = self._latencies, []
            waiting_s = 0.0 if self._sent_at is None else time.monotonic() - self._sent_at
            return Measured(found, waiting_s, self._is_lost, self._stamp)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with self._open(self._stop) as client:
                    self._measure(client)
            except ZkmigError:
                if not self._over.is_set():
                    self._lose()
            self._over.wait(RETRY_S)

    def _measure(self, client: Client) -> None:
        probe = Multi((Check(self._path, -1),))
        while not self._over.is_set():
            start = time.monotonic()
            with self._lock:
                self._sent_at = start
            zxid = client.call_reply(probe).zxid
            end = time.monotonic()
            with self._lock:
                self._stamp = Stamp(zxid, client.writes_submitted, self.losses)
                self.first = self.first or self._stamp
                self._latencies.append(end - start)
                self._sent_at, self._is_lost = None, False
                interval_s = self._interval_s
                self._lock.notify_all()
            self._over.wait(interval_s)

    def _lose(self) -> None:
        with self._lock:
            self._is_lost, self._sent_at = True, None
            self._stamp = self.first = None
            self.losses += 1
            self._lock.notify_all()
