"""A pipeline: many requests under way over one link, and their replies in the order of the requests.

The lock that guards the link is held while something is sent or waited for, and not while the caller is at work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Final

from zkmig.errors import ZkmigError
from zkmig.wire import requests as rq
from zkmig.wire.link import Link, Submitted
from zkmig.wire.replies import Reply

REFILL_PART: Final = 1 / 4  # of the depth at least is sent together: a packet for each request costs both sides


class Pipeline:
    """One run of requests. pause: called before each look for room, without the lock."""

    def __init__(self, link: Link, lock: threading.Lock, pause: Callable[[], None]) -> None:
        self._link = link
        self._lock = lock
        self._pause = pause
        self._waiting: deque[Submitted] = deque()  # submitted, and not answered yet

    def replies(self, source: Iterator[rq.Read | rq.Write], depth: int) -> Generator[Reply, None, None]:
        """As `Client.pipeline` tells: pulled as room appears, before the replies that made the room are handed out."""
        ready: list[Reply] = []
        failure: Exception | None = None
        try:
            while True:
                self._pause()
                room = depth - len(self._waiting)
                if room >= depth * REFILL_PART:
                    batch, failure = _pull(source, room, failure)
                    failure = self._submit(batch) or failure
                yield from ready
                if not self._waiting:
                    break
                ready = self._collect()
        except BaseException as stop:
            self._abandon(stop)
            raise
        if failure is not None and not isinstance(failure, StopIteration):
            raise failure

    def paced_replies(
        self, source: Iterator[rq.Read | rq.Write], depth: Callable[[], int]
    ) -> Generator[Reply, None, None]:
        """As `Client.pipeline` tells: pulled one at a time, after all replies that are there."""
        failure: Exception | None = None
        try:
            while True:
                self._pause()
                while failure is None and len(self._waiting) < depth():
                    batch, failure = _pull(source, 1, failure)
                    failure = self._submit(batch) or failure
                if not self._waiting:
                    break
                yield from self._collect()
        except BaseException as stop:
            self._abandon(stop)
            raise
        if failure is not None and not isinstance(failure, StopIteration):
            raise failure

    def _submit(self, batch: list[rq.Read | rq.Write]) -> ZkmigError | None:
        if not batch:
            return None
        with self._lock:
            try:
                for request in batch:
                    self._waiting.append((self._link.submit(request), request))
            except ZkmigError as error:
                return error
            finally:
                self._link.pump(0)
        return None

    def _collect(self) -> list[Reply]:
        # The replies that are there, at least one; their requests no longer wait.
        link, waiting = self._link, self._waiting
        answers, first = link.answers, waiting[0][0]
        with self._lock:
            link.look_for_stop()
            link.wait(lambda: first in answers)
            ready = []
            while waiting and waiting[0][0] in answers:
                ready.append(answers.pop(waiting.popleft()[0]))
            if not ready:
                raise link.loss_error(waiting)
            return ready

    def _abandon(self, stop: BaseException) -> None:
        with self._lock:
            self._link.abandon(self._waiting, stop)


def _pull(
    source: Iterator[rq.Read | rq.Write], count: int, failure: Exception | None
) -> tuple[list[rq.Read | rq.Write], Exception | None]:
    # Up to `count` requests, and what ended the source, if it has ended: StopIteration, or an error of its own.
    batch: list[rq.Read | rq.Write] = []
    try:
        while failure is None and len(batch) < count:
            batch.append(next(source))
    except Exception as error:  # noqa: BLE001 - raised again when all that was sent before is answered
        failure = error
    return batch, failure
