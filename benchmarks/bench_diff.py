"""A diff of two snapshots of which one znode in a thousand differs, hashes present, against hashing one of them."""

from __future__ import annotations

from benchmarks import realistic
from benchmarks.pairs import Baseline, Contest, timed
from zkmig import treehash
from zkmig.diff import diff
from zkmig.model.snapshot import Snapshot

BAR = 0.05


def test_few_changes(tree_in_memory: Snapshot, contest: Contest) -> None:
    tree = tree_in_memory
    changes = len(tree) // 1_000
    other = realistic.changed(tree, changes)
    assert len(diff(other, tree, hash_first=True).changes) == changes

    def hash_one() -> None:
        tree.hashes = None
        treehash.hashes(tree)

    contest.run(
        f"diff, {changes:,} changes",
        len(tree),
        timed(lambda: diff(other, tree)),
        [Baseline("hashing one", timed(hash_one), len(tree), BAR)],
    )
