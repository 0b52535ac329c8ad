"""The tree hash: the compiled module against its twin in plain Python, which uses hashlib's BLAKE2b."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks.pairs import Baseline, Contest, timed
from zkmig import treehash_plain
from zkmig.model.snapshot import Snapshot
from zkmig.treehash import compute

BAR = 1 / 4


@pytest.fixture
def compiled() -> ModuleType:
    """The compiled module, where it was built."""
    module: ModuleType = pytest.importorskip("zkmig._fast.treehash", reason="the compiled modules were not built")
    return module


def test_compiled_against_twin(tree_in_memory: Snapshot, compiled: ModuleType, contest: Contest) -> None:
    tree = tree_in_memory
    assert compute(tree, compiled.hash_columns) == compute(tree, treehash_plain.hash_columns)
    twin = timed(lambda: compute(tree, treehash_plain.hash_columns))
    contest.run(
        "tree hash, compiled",
        len(tree),
        timed(lambda: compute(tree, compiled.hash_columns)),
        [Baseline("plain twin", twin, len(tree), BAR)],
    )
