"""StopRequest: how a signal or a deadline ends long work between two steps instead of in the middle of one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from zkmig.errors import Outcome, Stopped

EXIT_SIGINT = 130
EXIT_SIGTERM = 143

# While a batch is in flight its answer is awaited this long after a stop was asked for; then its outcome is unknown.
IN_FLIGHT_GRACE_S = 15.0


class Interruption(BaseException):
    """A signal ends what can be ended at once. No Exception, so that nothing on the way takes it for a failure."""


class StopRequest:
    """Asked to stop? Reads stop at once; writes stop after the batch in flight (`patiently`)."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._requested: tuple[str, int, float] | None = None
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._patient = False

    def request(self, reason: str, exit_code: int) -> None:
        """Called from a signal handler: only remembers."""
        if self._requested is None:
            self._requested = (reason, exit_code, time.monotonic())

    @property
    def requested(self) -> bool:
        """Whether the work should end at the next step."""
        if self._requested is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.request("the time given with --timeout is over", EXIT_SIGTERM)
        return self._requested is not None

    def check(self) -> None:
        """Raise Stopped once asked to stop; inside `patiently`, only when an answer does not come in time."""
        if not self.requested:
            return
        assert self._requested is not None
        if self._patient and time.monotonic() - self._requested[2] < IN_FLIGHT_GRACE_S:
            return
        raise self.error(Outcome.UNKNOWN if self._patient else Outcome.NOTHING_WRITTEN)

    def error(self, outcome: Outcome) -> Stopped:
        """The error that ends the work, with the exit code of what asked for it."""
        assert self._requested is not None
        reason, exit_code, _ = self._requested
        stopped = Stopped(f"stopped: {reason}", outcome=outcome)
        stopped.exit_code = exit_code
        return stopped

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Inside, `check` lets the answer to what was already sent arrive."""
        before, self._patient = self._patient, True
        try:
            yield
        finally:
            self._patient = before
