"""Pace: how many multis of a series are under way at a time, and when the next may go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


def _nothing() -> None:
    pass


class Pace(Protocol):
    """What a series of multis asks before each. Asked from one thread only."""

    def depth(self) -> int:
        """Multis that may be unanswered at a time, at least 1."""

    def wait_for_turn(self, writes: int, meanwhile: Callable[[], None] = _nothing) -> None:
        """Return when a multi of so many writes may go, or when a stop was asked for.

        meanwhile: called again and again while it waits; nothing is raised but what that raises.
        """

    def answered(self) -> None:
        """One was answered."""

    def restarted(self) -> None:
        """A series begins, perhaps after a lost connection: none is under way."""


class Steady:
    """The same depth all the time, and no waiting."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def depth(self) -> int:
        return self._depth

    def wait_for_turn(self, writes: int, meanwhile: Callable[[], None] = _nothing) -> None:
        pass

    def answered(self) -> None:
        pass

    def restarted(self) -> None:
        pass
