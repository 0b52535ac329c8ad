#!/usr/bin/env python3
"""Has Spin check docs/model/epoch.pml: the protocol has to hold, and each mechanism switched off to be noticed.

Prints a table, one configuration a row, and exits with 1 unless every row is as expected. Needs `spin` and a C
compiler; `make model` sees to both. docs/protocol.md says what the model covers.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "docs" / "model" / "epoch.pml"
LABEL = re.compile(r"^([a-z_]+_(?:[A-Z]+_)+[A-Z]+):$")
DEPTH_MAX = 20_000
MEMORY_MB = 2_500  # of one search; two run at a time
JOBS = 2


@dataclass(frozen=True)
class Configuration:
    """What is searched. switched_off: the mechanism that a negative control does without; "" for the protocol itself.

    seconds: of a bitstate search, which ends then, however far it has come; None: every state is visited.
    cycles: look for runs that never end, beside the assertions; ends in anybody's midst are then not looked for.
    """

    name: str
    defines: str
    switched_off: str = ""
    seconds: int | None = None
    cycles: bool = False

    @property
    def flags(self) -> list[str]:
        """For spin: -D for each define."""
        names = [*self.defines.split(), *([self.switched_off] if self.switched_off else [])]
        return [f"-D{name}" for name in names]


WRITERS = "LIVES=2 LOSSES=1 FOREIGN=1"
VIEWS = "LIVES=2 LOSSES=0 FOREIGN=0 VIEWERS=1"
ACTIONS = "LIVES=2 LOSSES=0 FOREIGN=0 ACTORS=1"
DROPS = "LIVES=2 LOSSES=0 FOREIGN=0 DROPS=1"
HOLDS = "LIVES=1 LOSSES=1 FOREIGN=0 HOLDS=3"
ACLS = "LIVES=2 LOSSES=0 FOREIGN=0 ACLS"

PROTOCOL = (
    Configuration("writers", WRITERS),
    Configuration("single shot", "LIVES=2 LOSSES=1 FOREIGN=0 SHOT"),
    Configuration("views, two migrators", VIEWS),
    Configuration("views, others writing", "LIVES=1 LOSSES=0 FOREIGN=1 VIEWERS=1 VIEWS=2"),
    Configuration("actions, answers lost", "LIVES=1 LOSSES=1 FOREIGN=0 ACTORS=1 VIEWS=2 SHOT"),
    Configuration("actions, two migrators", ACTIONS),
    Configuration("two readers", "LIVES=1 LOSSES=0 FOREIGN=0 VIEWERS=1 ACTORS=1 SHOT"),
    Configuration("control plane made anew", DROPS),
    Configuration("two epochs, from EMPTY", "LIVES=2 LOSSES=0 FOREIGN=0 EPOCHS=2 EMPTY_FIRST"),
    Configuration("holds, answers lost", HOLDS),
    Configuration("holds and actions", "LIVES=1 LOSSES=0 FOREIGN=0 ACTORS=1 HOLDS=2 SHOT"),
    Configuration("ACLs, two migrators", ACLS),
    Configuration("ACLs, answers lost", "LIVES=1 LOSSES=2 FOREIGN=0 ACLS"),
    Configuration("cycles: writers", "LIVES=1 LOSSES=1 FOREIGN=1", cycles=True),
    Configuration("cycles: single shot", "LIVES=2 LOSSES=0 FOREIGN=0 SHOT", cycles=True),
    Configuration("cycles: readers", "LIVES=1 LOSSES=0 FOREIGN=0 VIEWERS=1 ACTORS=1", cycles=True),
    Configuration("cycles: control plane made anew", "LIVES=1 LOSSES=0 FOREIGN=0 DROPS=1", cycles=True),
    Configuration("cycles: ACLs", "LIVES=1 LOSSES=1 FOREIGN=0 ACLS", cycles=True),
    Configuration(
        "all at once",
        "LIVES=4 LOSSES=2 FOREIGN=2 VIEWERS=1 ACTORS=1 VIEWS=2 DROPS=1 EPOCHS=2 ATTEMPTS=3 SHOT",
        seconds=60,
    ),
)

CONTROLS = (
    Configuration("overlay", VIEWS, "NO_OVERLAY"),
    Configuration("second read of the record", VIEWS, "NO_SECOND_READ"),
    Configuration("attempt in the key of undo", "LIVES=3 LOSSES=0 FOREIGN=1 VIEWERS=1 VIEWS=2", "UNDO_BY_NUMBER"),
    Configuration("owner check", WRITERS, "NO_OWNER_CHECK"),
    Configuration("record check", WRITERS, "NO_RECORD_CHECK"),
    Configuration("incarnation check", DROPS, "NO_INCARNATION"),
    Configuration("cursor", WRITERS, "NO_CURSOR"),
    Configuration("undo cursor", "LIVES=2 LOSSES=1 FOREIGN=0", "NO_UNDO_CURSOR"),
    Configuration("expected versions", WRITERS, "NO_VERSIONS"),
    Configuration("checks in the opening", "LIVES=1 LOSSES=0 FOREIGN=1", "NO_OPEN_CHECKS"),
    Configuration("look before the commit", "LIVES=1 LOSSES=0 FOREIGN=1", "NO_VERIFY"),
    Configuration("checks in the commit", "LIVES=1 LOSSES=0 FOREIGN=1", "NO_COMMIT_CHECKS"),
    Configuration("note of a conflict", "LIVES=1 LOSSES=0 FOREIGN=1", "NO_CONFLICT_NOTE"),
    Configuration("rollback past foreign values", "LIVES=1 LOSSES=0 FOREIGN=1", "NO_PASSING_OVER"),
    Configuration("drain", ACTIONS, "NO_DRAIN"),
    Configuration("time of leases", ACTIONS, "LEASES_END_EARLY"),
    Configuration("record check of admission", ACTIONS, "ADMIT_WITHOUT_RECORD"),
    Configuration("adoption of a hold", HOLDS, "NO_ADOPTION"),
    Configuration("adoption of a hold alone", HOLDS, "ADOPT_ANY"),
    Configuration("fence of setACL", ACLS, "NO_FENCE"),
)


@dataclass(frozen=True)
class Found:
    """What a search has told. error: pan's own words, "" for none. is_complete: it came to its end."""

    states: int
    depth: int
    errors: int
    error: str
    is_complete: bool
    seconds: float

    def verdict(self, configuration: Configuration) -> str:
        """ "as expected", or what is not."""
        if configuration.switched_off:
            return "caught" if self.error.startswith("assertion violated") else "NOT CAUGHT"
        if self.error:
            return f"VIOLATED: {self.error}"
        if configuration.seconds is not None:
            return "holds" if self.is_complete else "holds as far as it came"
        return "holds" if self.is_complete else "NOT COMPLETE"

    def is_expected(self, configuration: Configuration) -> bool:
        """Whether the verdict is the one to be wished for."""
        return self.verdict(configuration).islower()


def search(configuration: Configuration, spin: str, compiler: str) -> Found:
    """Make the verifier of one configuration in a folder of its own and run it."""
    with tempfile.TemporaryDirectory(prefix="zkmig-model-") as folder:
        run([spin, "-a", *configuration.flags, str(MODEL)], folder)
        is_partial = configuration.seconds is not None
        method = ["-DBITSTATE"] if is_partial else ["-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}"]
        effort = "-O0" if configuration.switched_off else "-O1"  # an error is found sooner than a compiler is done
        property_ = "-DNP" if configuration.cycles else "-DSAFETY"  # -DSAFETY sees no cycles
        run([compiler, effort, "-w", property_, *method, "-o", "pan", "pan.c"], folder)
        limits = [f"-m{DEPTH_MAX}", *(["-l"] if configuration.cycles else [])]
        limits += ["-w24"] if configuration.seconds is None else ["-w30", f"-Q{configuration.seconds / 60:g}"]
        start = time.monotonic()
        told = run(["./pan", *limits], folder)
        return read_findings(told, time.monotonic() - start)


def read_findings(told: str, seconds: float) -> Found:
    """From what pan prints."""
    error = re.search(r"^pan:\d+: (.*?)(?: \(at depth \d+\))?$", told, re.MULTILINE)
    numbers = re.search(r"depth reached (\d+), errors: (\d+)", told)
    states = re.search(r"^\s*([\d.e+]+) states, stored", told, re.MULTILINE)
    if not numbers or not states:
        return Found(0, 0, 0, "", False, seconds)
    is_complete = "Search not completed" not in told and "max search depth too small" not in told
    return Found(
        int(float(states[1])), int(numbers[1]), int(numbers[2]), error[1] if error else "", is_complete, seconds
    )


def run(command: list[str], folder: str) -> str:
    """Its output; pan's exit code tells nothing that its output does not, the others' ends it all."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and command[0] != "./pan":
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def report(configurations: Iterable[Configuration], spin: str, compiler: str) -> bool:
    """Search them all, print a row each; whether all are as expected."""
    is_good = True
    say(f"{'configuration':<36}{'search':<12}{'states':>12}{'depth':>7}{'seconds':>9}  result")
    with ThreadPoolExecutor(JOBS) as pool:
        pending = [(each, pool.submit(search, each, spin, compiler)) for each in configurations]
        for configuration, future in pending:
            found = future.result()
            is_good &= found.is_expected(configuration)
            name = f"without {configuration.name}" if configuration.switched_off else configuration.name
            kind = "exhaustive" if configuration.seconds is None else "bitstate"
            kind = "cycles" if configuration.cycles else kind
            kind = "to an error" if configuration.switched_off else kind
            numbers = f"{found.states:>12,}{found.depth:>7}{found.seconds:>9.1f}"
            say(f"{name:<36}{kind:<12}{numbers}  {found.verdict(configuration)}")
    return is_good


def say(line: str) -> None:
    """A line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def label_lines(text: str) -> dict[str, int]:
    """The line of each transition's label."""
    found = ((number, LABEL.match(line)) for number, line in enumerate(text.splitlines(), 1))
    return {match[1]: number for number, match in found if match}


def main() -> int:
    """The exit code: 0 when all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the search that only time ends")
    parser.add_argument("--only", metavar="NAME", help="one configuration, or the negative control of that switch")
    parser.add_argument("--lines", action="store_true", help="print the line of each transition, and search nothing")
    arguments = parser.parse_args()
    if arguments.lines:
        for label, number in label_lines(MODEL.read_text()).items():
            say(f"{label} {number}")
        return 0
    chosen = [each for each in (*PROTOCOL, *CONTROLS) if not (arguments.quick and each.seconds)]
    if arguments.only:
        chosen = [each for each in chosen if arguments.only in (each.name, each.switched_off)]
    if not chosen:
        raise SystemExit(f"there is no configuration {arguments.only!r}")
    is_good = report(chosen, os.environ.get("SPIN", "spin"), os.environ.get("CC", "cc"))
    say("all as expected" if is_good else "NOT as expected")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
