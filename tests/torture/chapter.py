"""A chapter: one world, a list of faults one after another, and the check of all that happened in it.

A run has several, each with a seed of its own, so that servers' logs stay short and a failure is told soon.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.torture import faults_foreign, faults_holds, faults_limits, faults_members, faults_readers, faults_zombies
from tests.torture.checker import check_folder
from tests.torture.faults import FAULTS, THREE, NotInjected, Unexpected
from tests.torture.figures import DIGESTS, UNPROVEN
from tests.torture.world import Kind, NoWayOn, World

# They register what they have.
SOURCES: Final = (faults_foreign, faults_holds, faults_limits, faults_members, faults_readers, faults_zombies)
TRIES_MAX: Final = 4  # of a fault whose moment does not come
LAST_VIEWS_S: Final = 0.5
NO_FAULT: Final = "plain-epoch"  # is brought about like one, and does not count as one

SERVER_OPTIONS: Final[dict[Kind, dict[str, Any]]] = {
    "one": {},
    "three": {},
    "frames": {"jute_maxbuffer": faults_limits.FRAME_BYTES_MAX},
    "heap": {"heap_mb": faults_limits.SMALL_HEAP_MB},
}


@dataclass
class Result:
    """What came of a chapter. figures: counted by the checker. faults: injected, by name; missed: their
    moment did not come. violations: as text."""

    chapter: str
    seed: int
    seconds: float = 0.0
    figures: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    residues: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def schedule(kind: Kind, seed: int, each: int, only: str = "", members_each: int | None = None) -> list[str]:
    """Names of faults in the order in which they come: each so many times. members_each: of those for three only."""
    found: list[str] = []
    for name, one in FAULTS.items():
        if kind in one.kinds and only in ("", name):
            times = members_each if one.kinds == THREE and members_each is not None else each
            found += [name] * times
    random.Random(f"{seed}/{kind}/order").shuffle(found)
    return found


def run_chapter(
    kind: Kind,
    seed: int,
    names: list[str],
    folder: Path,
    *,
    readers: tuple[int, int] = (2, 1),
    pause_s: float = 0.02,
    seconds_max: float = 3600.0,
    reader_options: tuple[str, ...] = (),
    off: tuple[str, ...] = (),
) -> Result:
    """Run it and check it. readers: that read afresh, and that keep views. folder: is left behind.

    reader_options: further arguments of each reader's process. off: what migrators do without, of those that can stand.
    """
    begun = time.monotonic()
    result = Result(f"{kind}:{seed}", seed)
    counts: Counter[str] = Counter()
    with World(kind, seed, folder, off, **SERVER_OPTIONS[kind]) as world:
        world.start_readers(*readers, pause_s, reader_options)
        world.start_churn()
        try:
            for place, name in enumerate(names):
                if time.monotonic() - begun > seconds_max:
                    result.problems.append(f"cut after {seconds_max:.0f} s: {len(names) - place} faults did not come")
                    break
                if _inject(world, name, counts[name] + 1, result.problems):
                    counts[name] += 1
                else:
                    result.missed[name] = result.missed.get(name, 0) + 1
        except NoWayOn as error:
            result.violations.append(f"P5, no way on, after {name}: {error}")
        except Exception as error:  # noqa: BLE001  # whatever else fails, what was recorded is checked all the same
            result.problems.append(f"{name}: {type(error).__name__}: {error}")
        result.problems += [migrator.broken for migrator in world.migrators if migrator.broken]
        dead = [reader.name for reader in world.readers if not reader.is_alive]
        result.problems += [f"{name} died, see {folder}/stderr-{name}" for name in dead]
        time.sleep(LAST_VIEWS_S)
        world.end_processes()
        world.collect()
    findings = check_folder(folder)
    result.faults = dict(counts)
    result.figures = findings.figures
    result.residues = dict(Counter(residue.rule for residue in findings.residues))
    result.violations += map(str, findings.violations)
    if result.figures[UNPROVEN] or not result.figures[DIGESTS]:
        result.problems.append("the servers' logs lack digests of their tree: the replay is not proven")
    result.seconds = time.monotonic() - begun
    return result


def _inject(world: World, name: str, number: int, problems: list[str]) -> bool:
    """Bring the fault about; whether it could be. problems: what should not have been observed is added."""
    for tries in range(TRIES_MAX):
        begun = time.monotonic()
        world.begin_fault(name, number, tries)
        try:
            effect = FAULTS[name].run(world)
        except NotInjected as error:
            world.log.write("missed", fault=name, n=number, detail=str(error))
            world.settle(None)
            continue
        except Unexpected as error:
            problems.append(f"{name}, {number}: {error}")
            effect = f"UNEXPECTED: {error}"
            world.settle(None)
        world.log.write("fault", fault=name, n=number, seconds=time.monotonic() - begun, effect=effect)
        return True
    return False
