"""The fuzzer: inputs of a seed, one after another, and a file for each that fails."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import stored, wire
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {**wire.TARGETS, **stored.TARGETS}


class Crash(AssertionError):
    """A property did not hold. The message names the file that replays it."""


def run_one(name: str, raw: bytes, folder: Path) -> None:
    """Check one input. On failure it is kept in `folder`, and Crash tells where."""
    try:
        TARGETS[name].run(raw)
    except Exception as error:  # whatever it is, it is none that the decoder may raise
        path = folder / f"crash-{name.replace(' ', '-')}-{hashlib.sha256(raw).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        text = f"{name}: {type(error).__name__}: {error}; again: python -m tests.fuzz --replay {path}"
        raise Crash(text) from error


def inputs(name: str, seed: int) -> Iterator[bytes]:
    """Inputs of a target without end, the same ones for the same seed."""
    draw = random.Random(f"{name} {seed}")
    while True:
        yield TARGETS[name].input(draw)


def run_for(name: str, seed: int, seconds: float, folder: Path) -> int:
    """Check inputs for so long; how many.

    The one under way lies in `folder`, since a sanitizer or a fault of memory ends the process there and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / f"last-{name.replace(' ', '-')}-{seed}"
    deadline = time.monotonic() + seconds
    count = 0
    for raw in inputs(name, seed):
        last.write_bytes(raw)
        run_one(name, raw, folder)
        count += 1
        if time.monotonic() >= deadline:
            break
    last.unlink()
    return count
