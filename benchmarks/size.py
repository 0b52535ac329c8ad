"""How large the benchmarks are: ZKMIG_BENCH=small (in every test run, so that they cannot rot), full or huge."""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "ZKMIG_BENCH"


@dataclass(frozen=True, slots=True)
class Size:
    """Znodes of the trees on servers, in memory only, read once for the peak of memory, and of kazoo's sample.

    rounds: pairs of which the median is taken. heap_mb: of the server.
    """

    name: str
    on_servers: tuple[int, ...]
    in_memory: tuple[int, ...]
    for_memory: tuple[int, ...]
    kazoo_sample: int
    rounds: int
    heap_mb: int


SMALL = Size("small", (2_000,), (10_000,), (5_000,), 200, 3, 512)
FULL = Size("full", (10_000, 100_000), (10_000, 100_000, 1_000_000), (100_000, 1_000_000), 15_000, 3, 3_072)
HUGE = Size("huge", (1_000_000,), (1_000_000,), (1_000_000,), 15_000, 1, 6_144)


def chosen() -> Size:
    """The size that the environment asks for; small if it asks for none."""
    asked = os.environ.get(VARIABLE) or SMALL.name
    for size in (SMALL, FULL, HUGE):
        if size.name == asked:
            return size
    raise ValueError(f"{VARIABLE} is {asked!r}: use {SMALL.name}, {FULL.name} or {HUGE.name}")


SIZE = chosen()
