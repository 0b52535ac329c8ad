"""Pairs: each round times what zkmig is compared with, then zkmig itself, so that both meet the same machine.

Never a timed assertion: a ratio is printed and written down, with both absolute figures and its spread.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from benchmarks.size import SIZE

Run = Callable[[], float]
"""Does the work once; the seconds that count."""


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    def pedantic(self, target: Callable[[], object], *, setup: Callable[[], None], rounds: int) -> object:
        """Call `target` so many times, timed, each time after `setup`, which is not."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What zkmig is compared with. znodes: that one run covers.

    bar: what the ratio should not exceed; None where no bar is set.
    """

    name: str
    run: Run
    znodes: int
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ours and theirs are medians, in `unit`: s or B. against: "" where there is no baseline.

    ratio: median over the rounds of ours a znode to theirs a znode; low and high are its extremes.
    """

    name: str
    znodes: int
    ours: float
    unit: str = "s"
    rounds: int = 1
    against: str = ""
    theirs_znodes: int = 0
    theirs: float = 0.0
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bar: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What there is of it, to four digits."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value not in (None, "", 0)
        }


def row_of(name: str, znodes: int, ours: Sequence[float], baseline: Baseline, theirs: Sequence[float]) -> Row:
    """The row of two lists of seconds, taken in turn."""
    scale = baseline.znodes / znodes
    ratios = [one / other * scale for one, other in zip(ours, theirs, strict=True)]
    return Row(
        name,
        znodes,
        median(ours),
        rounds=len(ours),
        against=baseline.name,
        theirs_znodes=baseline.znodes,
        theirs=median(theirs),
        ratio=median(ratios),
        low=min(ratios),
        high=max(ratios),
        bar=baseline.bar,
    )


class Contest:
    """Runs zkmig and its baselines in turn. times: of each by its name, zkmig's by ""."""

    def __init__(self, benchmark: Benchmark, rows: list[Row]) -> None:
        self._benchmark = benchmark
        self._rows = rows
        self.times: dict[str, list[float]] = {}

    def run(self, name: str, znodes: int, ours: Run, baselines: Sequence[Baseline], rounds: int = SIZE.rounds) -> None:
        """Time `ours`, over so many znodes, against each of the baselines, after a round to warm up."""
        for run in (*(baseline.run for baseline in baselines), ours):
            run()
        self._benchmark.pedantic(
            lambda: self._take("", ours),
            setup=lambda: self._take_all(baselines),
            rounds=rounds,
        )
        if not baselines:
            self._rows.append(Row(name, znodes, median(self.times[""]), rounds=rounds))
        for baseline in baselines:
            self.add(name, znodes, self.times[""], baseline)

    def add(self, name: str, znodes: int, ours: Sequence[float], baseline: Baseline) -> None:
        """A row of times of zkmig that were taken in the same rounds as those of the baseline."""
        self._rows.append(row_of(name, znodes, ours, baseline, self.times[baseline.name]))

    def _take_all(self, baselines: Sequence[Baseline]) -> None:
        for baseline in baselines:
            self._take(baseline.name, baseline.run)
        gc.collect()

    def _take(self, name: str, run: Run) -> None:
        self.times.setdefault(name, []).append(run())


def timed(work: Callable[[], object]) -> Run:
    """A run all of which counts."""

    def run() -> float:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        del result  # to free it takes time as well, but not of the work
        return seconds

    return run
