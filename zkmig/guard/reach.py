"""Reach: why a guard that has just begun cannot connect yet.

kazoo goes on trying, and keeps to itself what it fails at: a name that does not resolve, a port where nobody listens,
or where something else does. So a thread asks beside it, as other commands would, until kazoo is connected or the
servers count as silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.5
"""Where a server is there, kazoo is connected within hundredths: nobody asks then."""

AGAIN_S: Final = 3.0
SLOW_S: Final = 2.0
"""So long after the start it is said that there is no answer, though asking has not ended: names may take long."""


class Reach:
    """servers: in words. ask: why no server can be reached, "" if one can; it may take its time. news: called, from
    another thread, when `why` has changed."""

    def __init__(
        self, servers: str, is_connected: Callable[[], bool], ask: Callable[[], str], news: Callable[[], None]
    ) -> None:
        self._servers = servers
        self._is_connected = is_connected
        self._ask = ask
        self._news = news
        self._found: str | None = None  # None: not asked to the end yet
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="zkmig guard, reaching", daemon=True)

    def start(self) -> None:
        """From now on time is counted."""
        self._began = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Nothing is asked any more, and nothing told."""
        self._over.set()

    @property
    def for_s(self) -> float:
        """For how long it has been tried."""
        return time.monotonic() - self._began

    @property
    def why(self) -> str:
        """Why it is not connected yet; "" where that is not known, and for good once it is connected."""
        if not self._over.is_set() and self._is_connected():
            self.close()
        if self._over.is_set():
            return ""
        if self._found is None:
            return f"no answer so far ({self._servers})" if self.for_s >= SLOW_S else ""
        return self._found

    def _run(self) -> None:
        pause_s = FIRST_S
        while not self._over.wait(pause_s) and not self._is_connected():
            self._found = self._ask()
            self._news()
            if not self._found:
                return  # kazoo will be there in a moment
            pause_s = AGAIN_S
