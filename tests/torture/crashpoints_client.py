"""A migrator's connection that dies at one chosen write, as a process does that is killed: nothing is closed.

Its writes are counted as they are pulled from the engine, so a run that is let through tells how many crash points
there are. A frame that is held back stays with the dead one's connection, whose session lives on, and can be delivered
at any later moment: to the server that is a frame that was long on its way.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from enum import Enum
from types import FrameType
from typing import get_args

from zkmig.wire.client import Client
from zkmig.wire.replies import Reply
from zkmig.wire.requests import Exists, Read, Write

WRITES = get_args(Write)

# Ways of the engine that every write goes, whoever asks for it: what lies above them on the stack is who did.
PLUMBING = frozenset(
    {
        "Migrator.write",
        "Migrator.write_all",
        "Migrator.transition",
        "Migrator.write_series",
        "Sending.send",
        "Series.run",
        "Series._requests",
        "_Series.send",
        "write_acls",
        "Forward._must",
        "Forward._transition_to_commit",
        "transition_noted",
    }
)


class Died(BaseException):
    """The process is gone: nothing that it might do about an error is done."""


class Fate(Enum):
    """What becomes of the one write, and with it of the process. One that sleeps does not die: it goes on."""

    BEFORE = "before it is sent"
    LANDED = "landed, unanswered"
    ANSWERED = "answered"
    LATE = "delivered late"
    ASLEEP = "sent by one that slept meanwhile"


class MortalClient(Client):
    """number: of the write that is its end, from 0; None lets it live. watch: called before each write is sent.

    writes: each that was sent or, the last, was to be sent; askers: who in the engine asked for each, as
    module:function, known when `watch` is called. late: those held back, as many as would have been under way.
    """

    number: int | None = None
    fate = Fate.BEFORE
    watch: Callable[[Write], object] = staticmethod(lambda _: None)

    def condemn(self, number: int | None, fate: Fate) -> None:
        """Let it meet `fate` at its write of that number."""
        self.number, self.fate = number, fate

    def __enter__(self) -> MortalClient:
        self.writes: list[Write] = []
        self.askers: list[str] = []
        self.late: list[Read | Write] = []
        self.is_dying = False
        super().__enter__()
        return self

    # -- requests -----------------------------------------------------------------------------------------------------

    def call_reply(self, request: Read | Write) -> Reply:
        if self.is_dying:
            raise Died
        if not isinstance(request, WRITES):
            return super().call_reply(request)
        is_last = self._is_last(request)
        if is_last and self.fate in (Fate.BEFORE, Fate.LATE):
            self.is_dying = True
            self.late = [request]
            raise Died
        reply = super().call_reply(request)
        self.is_dying = is_last
        if is_last and self.fate is Fate.LANDED:
            raise Died
        return reply

    def pipeline(
        self, requests: Iterable[Read | Write], depth: int | Callable[[], int]
    ) -> Generator[Reply, None, None]:
        if self.is_dying:
            raise Died
        return self._mortal_pipeline(iter(requests), depth)

    def reconnect(self) -> None:
        if self.is_dying:
            raise Died
        super().reconnect()

    def _mortal_pipeline(
        self, requests: Iterator[Read | Write], depth: int | Callable[[], int]
    ) -> Generator[Reply, None, None]:
        """Once it is dying no more requests are pulled, and answers to those under way are seen by nobody."""
        under_way: deque[bool] = deque()  # whether each is the last one of its process
        for reply in super().pipeline(self._until_the_last(requests, under_way, depth), depth):
            is_last = under_way.popleft()
            if self.is_dying:
                continue
            yield reply
            self.is_dying = is_last
        if self.is_dying:
            raise Died

    def _until_the_last(
        self, requests: Iterator[Read | Write], under_way: deque[bool], depth: int | Callable[[], int]
    ) -> Iterator[Read | Write]:
        for request in requests:
            is_last = isinstance(request, WRITES) and self._is_last(request)
            if is_last and self.fate in (Fate.BEFORE, Fate.LATE):
                self.is_dying = True
                more = depth if isinstance(depth, int) else depth()
                self.late = [request, *(each for _, each in zip(range(more - 1), requests, strict=False))]
                return
            under_way.append(is_last)
            self.is_dying = is_last and self.fate is Fate.LANDED
            yield request
            if self.is_dying:
                return

    def _is_last(self, request: Write) -> bool:
        self.askers.append(_asker(sys._getframe()))
        self.watch(request)
        self.writes.append(request)
        return len(self.writes) - 1 == self.number and self.fate is not Fate.ASLEEP

    # -- the end ------------------------------------------------------------------------------------------------------

    def deliver(self) -> list[Reply]:
        """Let what was held back through, now."""
        return [super(MortalClient, self).call_reply(request) for request in self.late]

    def vanish(self) -> None:
        """The connection ends as a killed process's does: all that was sent is with the server, nothing is closed."""
        self.is_dying = True
        super().call_reply(Exists("/"))
        with self._lock:
            self._link.lose("the process is gone")


def _asker(frame: FrameType | None) -> str:
    while frame is not None:
        module, name = frame.f_globals["__name__"], frame.f_code.co_qualname
        if module.startswith(("zkmig.apply.", "zkmig.epoch.")) and name not in PLUMBING:
            return f"{module}:{name}"
        frame = frame.f_back
    return "?"
