"""Torture a migration engine: `python -m tests.torture --seed N [--quick | --full] [--only FAULT]`.

Prints what was done and found; exit code 1 if any rule was broken, with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from tests.torture.chapter import NO_FAULT, Result, run_chapter, schedule
from tests.torture.faults import FAULTS
from tests.torture.figures import (
    AMID_VIEWS,
    DISTINCT_AMID,
    DISTINCT_VIEWS,
    GUARDS,
    LEASES,
    OPEN_VIEWS,
    REFUSED,
    VIEWS,
)
from tests.torture.hold_rules import HOLDS
from tests.torture.world import Kind

CHAPTER_TIMEOUT_S: Final = 1800.0


class Chapter(NamedTuple):
    """kind: of its world. each: how often each fault comes; members_each: those that need three members."""

    kind: Kind
    seed: int
    each: int
    members_each: int


class Size(NamedTuple):
    """chapters: kind, how many, how often each fault, how often those of members."""

    chapters: tuple[tuple[Kind, int, int, int], ...]


QUICK: Final = Size((("one", 1, 1, 1),))
_THREE: Final = ("three", 1, 2, 6)
_ONE: Final = ("one", 1, 3, 0)
_LIMITS: Final = (("frames", 1, 22, 0), ("heap", 1, 22, 0))
EACH_MIN: Final = 20
FAULTS_MIN: Final = 500
FLOORS: Final = {
    VIEWS: 100_000,
    OPEN_VIEWS: 15_000,
    AMID_VIEWS: 10_000,
    DISTINCT_VIEWS: 3_000,
    DISTINCT_AMID: 1_500,
    LEASES: 300,
    GUARDS: 40,
    REFUSED: 100,
    "commits": 200,
    "rollbacks": 100,
    "actions admitted": 4_000,
    "guards": 4_000,
    HOLDS: 200,
    "paths undone": 2_000,
    "znodes judged at a commit": 20_000,
    "changed ACLs judged after a commit": 200,
    "changed ACLs judged at batches": 4_000,
    "setACLs judged": 400,
}
"""What a full run must have come to, so that it does not pass because nothing happened."""
FLOORS_QUICK: Final = {VIEWS: 100, "commits": 1}

# Of two chapters at a time, one has an ensemble.
FULL: Final = Size((_THREE, _ONE, _THREE, _ONE, _THREE, _ONE, _THREE, _ONE, _ONE, *_LIMITS))


def chapters_of(size: Size, seed: int) -> list[Chapter]:
    """Each with a seed of its own, drawn from the run's."""
    rng = random.Random(seed)
    return [
        Chapter(kind, rng.randrange(1 << 31), each, members_each)
        for kind, count, each, members_each in size.chapters
        for _ in range(count)
    ]


def _of_fault(chapters: list[Chapter], kinds: tuple[Kind, ...], seed: int) -> list[Chapter]:
    """Those in whose worlds it can come; else one of its own."""
    return [chapter for chapter in chapters if chapter.kind in kinds] or [Chapter(kinds[0], seed, 1, 1)]


def run_apart(chapter: Chapter, options: argparse.Namespace, folder: Path) -> Result:
    """A chapter in a process of its own."""
    command = [sys.executable, "-m", "tests.torture", "--chapter", f"{chapter.kind}:{chapter.seed}"]
    command += ["--each", str(chapter.each), "--members-each", str(chapter.members_each)]
    command += ["--only", options.only, "--folder", str(folder), "--seconds", str(options.seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CHAPTER_TIMEOUT_S + 600)
    try:
        return Result(**json.loads(ran.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        name = f"{chapter.kind}:{chapter.seed}"
        return Result(name, chapter.seed, problems=[f"the chapter's process failed: {ran.stderr[-2000:]}"])


def run_one(options: argparse.Namespace) -> int:
    """The chapter that --chapter names, its result as JSON on the last line."""
    kind, _, seed = options.chapter.partition(":")
    names = schedule(cast(Kind, kind), int(seed), options.each, options.only, options.members_each)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="zkmig-torture-"))
    result = run_chapter(cast(Kind, kind), int(seed), names, folder, seconds_max=options.seconds)
    print_lines([json.dumps(result.plain())])
    return 1 if result.violations or result.problems else 0


def print_lines(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def run_all(options: argparse.Namespace) -> int:
    """All chapters, a few at a time."""
    begun = time.monotonic()
    size = FULL if options.full else QUICK
    chapters = chapters_of(size, options.seed)
    if options.only:
        chapters = _of_fault(chapters, FAULTS[options.only].kinds, options.seed)
    base = Path(options.folder or tempfile.mkdtemp(prefix="zkmig-torture-"))
    print_lines([f"seed {options.seed}: {len(chapters)} chapters, in {base}"])
    results: list[Result] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        places = [base / f"{number:02}-{chapter.kind}" for number, chapter in enumerate(chapters)]
        for chapter, place, result in zip(
            chapters, places, pool.map(lambda c, p: run_apart(c, options, p), chapters, places), strict=True
        ):
            results.append(result)
            print_lines(_told(result, chapter, options, place))
            if not result.violations and not result.problems and not options.keep:
                shutil.rmtree(place, ignore_errors=True)
    print_lines(summary(results, time.monotonic() - begun))
    lacking = shortfalls(results, is_full=options.full, only=options.only)
    print_lines(f"TOO LITTLE: {each}" for each in lacking)
    is_bad = bool(lacking) or any(result.violations or result.problems for result in results)
    if not is_bad and not options.keep and not options.folder:
        shutil.rmtree(base, ignore_errors=True)
    if is_bad:
        size_option = "--full" if options.full else "--quick"
        only = f" --only {options.only}" if options.only else ""
        print_lines([f"FAILED: python -m tests.torture --seed {options.seed} {size_option}{only}"])
    return 1 if is_bad else 0


def _told(result: Result, chapter: Chapter, options: argparse.Namespace, place: Path) -> list[str]:
    lines = [
        f"{result.chapter}: {sum(result.faults.values())} faults, {result.figures.get('views', 0)} views, "
        f"{len(result.violations)} violations, {result.seconds:.0f} s"
    ]
    lines += [f"  VIOLATION {each}" for each in result.violations[:20]]
    lines += [f"  PROBLEM {each}" for each in result.problems]
    if result.violations or result.problems:
        again = f"--chapter {result.chapter} --each {chapter.each} --members-each {chapter.members_each}"
        lines.append(f"  again: python -m tests.torture {again}{f' --only {options.only}' if options.only else ''}")
        lines.append(f"  checked again: python -m tests.torture.checker {place}")
    return lines


def shortfalls(results: Sequence[Result], *, is_full: bool, only: str = "") -> list[str]:
    """What has come too seldom for the run to prove anything."""
    figures, faults, missed = Counter[str](), Counter[str](), Counter[str]()
    for result in results:
        figures.update(result.figures)
        faults.update(result.faults)
        missed.update(result.missed)
    del faults[NO_FAULT], missed[NO_FAULT]
    each = EACH_MIN if is_full and not only else 1
    wanted = [only] if only and only != NO_FAULT else set(FAULTS) - {NO_FAULT} if is_full else {*faults, *missed}
    lacking = [f"{name}: {faults[name]} of {each}" for name in sorted(wanted) if faults[name] < each]
    if only:
        return lacking
    if is_full and faults.total() < FAULTS_MIN:
        lacking.append(f"faults: {faults.total()} of {FAULTS_MIN}")
    floors = FLOORS if is_full else FLOORS_QUICK
    return lacking + [f"{what}: {figures[what]} of {floor}" for what, floor in floors.items() if figures[what] < floor]


def summary(results: Iterable[Result], seconds: float) -> list[str]:
    """Figures of the whole run."""
    figures, faults, missed, residues = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    violations = problems = 0
    for result in results:
        figures.update(result.figures)
        faults.update(result.faults)
        missed.update(result.missed)
        residues.update(result.residues)
        violations += len(result.violations)
        problems += len(result.problems)
    lines = ["", "checked"]
    lines += [f"{number:>9}  {what}" for what, number in sorted(figures.items())]
    plain = faults.pop(NO_FAULT, 0)
    lines += ["", f"faults injected: {faults.total()}; epochs without one: {plain}; missed: {missed.total()}"]
    lines += [f"{number:>9}  {what}" for what, number in sorted(faults.items())]
    if residues:
        lines += ["", "residues (docs/reliability.md)"]
        lines += [f"{number:>9}  {what}" for what, number in sorted(residues.items())]
    lines += ["", f"{violations} violations, {problems} problems, {seconds:.0f} s"]
    return lines


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of an earlier run")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one server, each fault once (the default)")
    size.add_argument("--full", action="store_true", help="everything, each fault at least 20 times")
    parser.add_argument("--only", default="", choices=["", *FAULTS], metavar="FAULT", help="this fault alone")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time")
    parser.add_argument("--folder", default="", help="where histories go; else a temporary one, kept on failure")
    parser.add_argument("--keep", action="store_true", help="keep them in any case")
    parser.add_argument("--seconds", type=float, default=CHAPTER_TIMEOUT_S, help="begin no fault later in a chapter")
    parser.add_argument("--chapter", default="", help="run this one, as a failure names it")
    parser.add_argument("--each", type=int, default=1, help="with --chapter: how often each fault comes")
    parser.add_argument("--members-each", type=int, default=None, help="with --chapter: those of members")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3), "big")
    return options


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    options: Any = parse(arguments)
    return run_one(options) if options.chapter else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
