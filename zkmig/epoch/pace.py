"""Pace: how many multis of a series are under way at a time, and when the next may go."""

from __future__ import annotations

from typing import Protocol


class Pace(Protocol):
    """What a series of multis asks before each. Asked from one thread only."""

    def depth(self) -> int:
        """Multis that may be unanswered at a time, at least 1."""

    def wait_for_turn(self, writes: int) -> None:
        """Return when a multi of so many writes may go, or when a stop was asked for; never raises."""

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

    def wait_for_turn(self, writes: int) -> None:
        pass

    def answered(self) -> None:
        pass

    def restarted(self) -> None:
        pass
