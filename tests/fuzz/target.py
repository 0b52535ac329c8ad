"""A fuzz target: it makes inputs for one decoder and checks what the decoder does with them.

An input is bytes and nothing else, so that a file replays it: the first eight are the seed of what the input answers
(requests, columns), the rest is what the decoder gets. A check raises only when its property does not hold: only the
errors that are documented, no memory that the input's own size does not account for, and compiled equal to plain.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

from tests.bulk_values import spoiled

SEED_BYTES = 8
MEMORY_FREE = 4 << 20  # what a check may use whatever its input: caches, tables of ours
MEMORY_FACTOR = 400  # and for each byte of input: objects of Python for the smallest of fields, on two sides


class Target(NamedTuple):
    """make: what a decoder gets, sound or nearly; its first random is that which `check` gets, the other is free."""

    make: Callable[[random.Random, random.Random], bytes]
    check: Callable[[random.Random, bytes], None]

    def input(self, draw: random.Random) -> bytes:
        """One input, nine times in ten spoiled."""
        seed = draw.randbytes(SEED_BYTES)
        raw = self.make(_random(seed), draw)
        return seed + (raw if draw.random() < 0.1 else spoiled(draw, raw, 4))

    def run(self, raw: bytes) -> None:
        """Check one input, and the memory that it takes."""
        seed, rest = raw[:SEED_BYTES], raw[SEED_BYTES:]
        tracemalloc.start()
        try:
            self.check(_random(seed), rest)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        bound = MEMORY_FREE + MEMORY_FACTOR * len(raw)
        assert peak <= bound, f"an input of {len(raw)} bytes took {peak} bytes of memory, above {bound}"


def _random(seed: bytes) -> random.Random:
    return random.Random(int.from_bytes(seed))


@cache
def compiled_module(name: str) -> ModuleType | None:
    """A module of zkmig._fast; None where it was not built, and the plain one is fuzzed alone."""
    full = f"zkmig._fast.{name}"
    return import_module(full) if find_spec(full) else None
