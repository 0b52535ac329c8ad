"""Waiting for a condition, with a time after which it has failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.05
WAIT_MAX_S = 60.0

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: Callable[[], str] | str, timeout_s: float = WAIT_MAX_S) -> T:
    """What `look` finds, as soon as it is neither None nor False. AssertionError, saying `what`, after the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"still not after {timeout_s:g} s: {told}")
        time.sleep(POLL_S)
