"""A fleet: one session that leads and others of the same identity, over which bulk reads are spread.

One connection is answered one request after another, so that getACLs, which come singly, are many times faster over
several [zookeeper-facts 26]. Only reads are sent, so whatever a loss leaves unanswered is simply asked again: what
another session was asked, of one that is left; what the leading session was asked, once that has been taken up again.
Its watches are gone then, which `losses` tells.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from types import TracebackType
from typing import Final, NamedTuple, Self

from zkmig.errors import Unreachable
from zkmig.wire import requests as rq
from zkmig.wire.client import CLOSE_TIMEOUT_S, Client
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.link import CHECK_STOP_INTERVAL_S, Pollster, Submitted
from zkmig.wire.replies import Reply

LOSSES_MAX: Final = 5
"""Times that the leading session is taken up again; one that is lost more often is not worth more waiting."""

WIDEN_TIMEOUT_S: Final = 2.0
"""A server at its maxClientCnxns closes connections unheard, as one does that is about to serve: no use in waiting."""

LEAD: Final = 0

_log = logging.getLogger("zkmig.wire")


class Arrival(NamedTuple):
    """A request and its reply. lane: which session answered, LEAD for the leading one."""

    lane: int
    request: rq.Read | rq.Bulk
    reply: Reply


class _Lane:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.posted: deque[Submitted] = deque()
        self.requests: deque[rq.Read | rq.Bulk] = deque()

    def post(self, request: rq.Read | rq.Bulk) -> None:
        self.requests.append(request)  # first: if the post fails, it is among what was not answered
        self.posted.append((self.client.post(request), request))

    @property
    def is_answered(self) -> bool:
        return bool(self.posted) and self.client.is_answered(self.posted[0][0])

    def take(self) -> list[tuple[rq.Read | rq.Bulk, Reply]]:
        return [(self.requests.popleft(), reply) for reply in self.client.take(self.posted)]

    def drop(self) -> list[rq.Read | rq.Bulk]:
        unanswered = list(self.requests)
        self.requests.clear()
        self.posted.clear()
        return unanswered


class Fleet:
    """losses: times that the leading session lost its connection. Leaving the context closes the others."""

    def __init__(self, lead: Client) -> None:
        self._lanes: dict[int, _Lane] = {LEAD: _Lane(lead)}
        self._lane_next = 1
        self._pollster = Pollster()
        self._looked_after = time.monotonic()
        self.losses = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_others()

    def _close_others(self) -> None:
        # They share the time to take leave: a server that has stopped answering would else take it for each.
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for number in self.others:
            self._lanes.pop(number).client.close(max(0.0, deadline - time.monotonic()))

    @property
    def lead(self) -> Client:
        """The leading session."""
        return self._lanes[LEAD].client

    @property
    def others(self) -> list[int]:
        """The lanes beside the leading one."""
        return [number for number in self._lanes if number != LEAD]

    def under_way(self, lane: int) -> int:
        """Requests without an answer on a lane."""
        return len(self._lanes[lane].requests)

    def widen(self) -> bool:
        """Open one more session; whether that worked. A server may limit those from one address (maxClientCnxns)."""
        client = self.lead.sibling(WIDEN_TIMEOUT_S)
        try:
            client.connect()
        except Unreachable as error:
            client.close()
            _log.info("no further connection: %s", error)
            return False
        self._lanes[self._lane_next] = _Lane(client)
        self._lane_next += 1
        return True

    def post(self, lane: int, request: rq.Read | rq.Bulk) -> None:
        """Send a read."""
        try:
            self._lanes[lane].post(request)
        except Unreachable as error:
            self._lost(lane, error)

    def arrivals(self) -> list[Arrival]:
        """What has been answered since; waits for at least one answer unless nothing is under way.

        Raises what the leading session raises when it cannot be taken up again.
        """
        # What came while something was sent is there already, and no socket is going to tell of it again.
        ready = [number for number, lane in self._lanes.items() if lane.is_answered]
        while True:
            arrived: list[Arrival] = []
            for number in ready:
                arrived += self._take(number)
            if arrived or not any(lane.requests for lane in self._lanes.values()):
                return arrived
            ready = self._wait()

    def _take(self, number: int) -> list[Arrival]:
        try:
            return [Arrival(number, request, reply) for request, reply in self._lanes[number].take()]
        except Unreachable as error:
            self._lost(number, error)
            return []

    def _wait(self) -> list[int]:
        """Lanes on which something has happened; now and then all, since sessions live by being looked after."""
        busy = {number: lane for number, lane in self._lanes.items() if lane.requests}
        ready = self._pollster.ready({number: lane.client.readiness for number, lane in busy.items()})
        now = time.monotonic()
        if not ready or now - self._looked_after > CHECK_STOP_INTERVAL_S:
            self._looked_after = now
            return list(busy)
        return ready

    def _lost(self, number: int, error: Unreachable) -> None:
        again = self._lanes[number].drop()
        if number != LEAD:
            self._lanes.pop(number).client.close()
            _log.info("one of several connections was lost: %s", error)
        elif isinstance(error, ConnectionLost) and self.losses < LOSSES_MAX:
            self.losses += 1
            _log.warning("connection lost, taking the session up again: %s", error)
            self.lead.reconnect()
        else:
            # Whoever begins anew over this fleet must not be told what was asked before.
            self._close_others()
            raise error
        for request in again:
            self.post(LEAD, request)
