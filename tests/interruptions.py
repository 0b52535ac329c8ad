"""Ways to be called in the midst of a migrator's work, and to take it off its feet there."""

from __future__ import annotations

from collections.abc import Callable

from zkmig.apply.forward import Progress


class Interrupted(Exception):
    """Raised by a test out of a callback: the migrator's work ends there, as if it had been taken off its feet."""


def at(phase: str, done: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    """A `report` that acts once, when `done` units of a phase are done."""
    acted: list[bool] = []

    def report(progress: Progress) -> None:
        if progress.phase == phase and progress.done >= done and not acted:
            acted.append(True)
            act()

    return report


def when_said(sentence: str, act: Callable[[], object]) -> Callable[[str], None]:
    """A `say` that acts whenever a sentence begins so."""

    def say(said: str) -> None:
        if said.startswith(sentence):
            act()

    return say


def interrupt() -> None:
    raise Interrupted
