"""An ensemble of three with a small heap survives a migration that is large for it.

Goal: no member dies, is replaced or loses its leader while a large tree goes in by batches: each server keeps its last
500 transactions in its heap, at about three times their size, besides the tree itself, so that larger frames would kill
it. Method: real servers whose Java may take so many megabytes and no more; a tree with data like that of real ones;
afterwards their processes, their logs and ZooKeeper's own epoch (no election) are looked at, and each member is asked
by a session of its own for all that it holds.
"""

from __future__ import annotations

import pytest

import zkmig
from tests.trees import Node, Tree, snapshot_of
from zkmig.dev import Ensemble
from zkmig.dev.server import Server
from zkmig.plan.make import make_plan
from zkmig.source.location import parse_hosts

ROOT = "/moved"
CHILDREN = 250  # of a parent
DATA_BYTES_MAX = 144
ELECTION_BITS = 32  # a zxid is ZooKeeper's own epoch, then a counter


def wide_tree(znodes: int) -> Tree:
    """Parents of 250 children; paths of 60 to 90 bytes; a third of the data null, the mean of the rest 72 bytes."""
    tree: Tree = {"": Node(b"")}
    for group in range(znodes // (CHILDREN + 1)):
        parent = f"/warehouse-{group:05}"
        tree[parent] = Node(b"", counter=CHILDREN)
        for number in range(CHILDREN):
            data = None if number % 3 == 0 else bytes([number]) * (number * 7 % DATA_BYTES_MAX)
            tree[f"{parent}/part-of-the-replica-of-a-table-{number:010}"] = Node(data)
    tree[""] = Node(b"", counter=znodes // (CHILDREN + 1))
    return tree


def znodes_held(member: Server) -> int:
    """As many as the member itself has below the root."""
    return len(zkmig.read(f"zk://{member.hosts}{ROOT}"))


def lives(ensemble: Ensemble) -> tuple[int, list[tuple[int, str]]]:
    """Which election's leader reigns; of each member the process and what it is. A member that died has another."""
    return ensemble.leader().zxid() >> ELECTION_BITS, [(member.pid, member.mode()) for member in ensemble.members]


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(
    ("znodes", "heap_mb"),
    [pytest.param(8_000, 64, id="quick"), pytest.param(300_000, 512, id="full", marks=pytest.mark.nightly)],
)
def test_an_ensemble_of_small_heap_survives(znodes: int, heap_mb: int) -> None:
    """Goal and method: see the module."""
    tree = snapshot_of(wide_tree(znodes), ROOT)
    assert len(tree) > 0.95 * znodes
    with Ensemble(heap_mb=heap_mb) as three:
        target = f"zk://{three.hosts}{ROOT}"
        zkmig.init(target, "moved", allow_empty=True)
        before = lives(three)
        plan = make_plan(tree, None, target_root=ROOT, hosts=parse_hosts(three.hosts))
        applied = zkmig.apply(plan, target, epoch=1, scope="moved", single_shot="never")
        assert applied.batches == len(plan.batch_ends)
        assert lives(three) == before
        assert {znodes_held(member) for member in three.members} == {len(tree)}
        for member in three.members:
            log = member.log_path.read_text()
            assert "OutOfMemory" not in log
            assert "java.lang.Error" not in log
