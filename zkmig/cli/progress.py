"""Progress of long work on stderr: bars on a terminal, else a line now and then. Nothing for what is over soon."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_INTERVAL_S = 10.0


class Counted(Protocol):
    """Where long work stands (`zkmig.apply.forward.Progress` is one)."""

    @property
    def phase(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...


class Progress:
    """Shows phases of work. A context manager; this base writes a line every LINE_INTERVAL_S seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next_line = time.monotonic() + LINE_INTERVAL_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def counted(self, step: Counted) -> None:
        """So many of so many of a phase are done."""
        self._show(step.phase, step.done, step.total)

    def read(self, count: int) -> None:
        """So many znodes were read; nobody knows of how many."""
        self._show(f"{self._what}: znodes read".removeprefix(": "), count, None)

    def _show(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + LINE_INTERVAL_S
            click.echo(f"{phase}: {done}" + ("" if total is None else f" of {total}"), err=True)


class _Bars(Progress):
    """The same on a terminal."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _show(self, phase: str, done: int, total: int | None) -> None:
        if self._bars is None:
            self._bars = _start_bars()
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=total)
        self._bars.update(self._tasks[phase], completed=done, total=total)


def _start_bars() -> RichProgress:
    # Loaded here: rich takes longer to import than most commands take to run.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=Console(stderr=True), transient=True)
    bars.start()
    return bars


def open_progress(what: str) -> Progress:
    """Progress for a terminal, or for a log. what: of whom `read` counts, as in "source"."""
    return _Bars(what) if sys.stderr.isatty() else Progress(what)
