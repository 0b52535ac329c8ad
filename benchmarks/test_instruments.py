"""What measures must be right itself: the made-up tree is what it says, the floor counts replies however they arrive.

Method: the tree's own columns; replies of made-up bytes, cut in all ways, through a pair of sockets.
"""

from __future__ import annotations

import socket
import struct
from statistics import mean

import pytest

from benchmarks import realistic
from benchmarks.pairs import Baseline, row_of
from benchmarks.raw_floor import Replay
from benchmarks.table import lines

ZNODES = 10_000


def test_the_tree_is_like_real_ones() -> None:
    tree = realistic.make(ZNODES)
    stats = tree.columns.stats
    inner = [index for index, children in enumerate(stats.num_children) if children]
    ahead = [index for index in inner if stats.cversion[index] != stats.num_children[index]]
    assert len(tree) == ZNODES
    assert mean(stats.data_length) == pytest.approx(48, rel=0.15)
    assert stats.data_length.count(0) / ZNODES == pytest.approx(1 / 3, abs=0.03)
    assert max(stats.data_length) == ZNODES
    assert 1 - len(inner) / ZNODES == pytest.approx(0.74, abs=0.01)
    assert max(stats.num_children) == pytest.approx(ZNODES / 10, rel=0.05)
    assert 60 < len(tree.columns.paths_blob) / ZNODES < 115
    assert len(ahead) / len(inner) == pytest.approx(0.04, abs=0.02)
    assert sum(map(bool, stats.ephemeral_owner)) / ZNODES == pytest.approx(0.02, abs=0.01)
    assert realistic.make(ZNODES).tree_hash == tree.tree_hash


def test_so_many_changes_as_asked_for() -> None:
    tree = realistic.make(ZNODES)
    other = realistic.changed(tree, 40)
    assert len(tree.keys() - other.keys()) == 10
    assert len(other.keys() - tree.keys()) == 10
    assert sum(tree[path].data != other[path].data for path in tree.keys() & other.keys()) == 20


@pytest.mark.parametrize("piece_bytes", [1, 7, 19, 20, 21, 1_000])
def test_replies_are_counted_however_they_are_cut(piece_bytes: int) -> None:
    bodies = [b"", b"x", bytes(100), b"", b"\xff" * 33]
    replies = b"".join(
        struct.pack(">iiqi", 16 + len(body), xid, -1, 0) + body for xid, body in enumerate(bodies, start=1)
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        replay = Replay(ours, [b"request"] * len(bodies), depth=2)
        for start in range(0, len(replies), piece_bytes):
            assert replay.answered < len(bodies)
            theirs.sendall(replies[start : start + piece_bytes])
            replay.receive()
        assert replay.answered == len(bodies)


def test_a_failed_request_ends_the_floor() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack(">iiqi", 16, 1, 5, -101))
        with pytest.raises(AssertionError, match="failed with -101"):
            Replay(ours, [b"request"], depth=1).receive()


def test_ratios_are_of_the_cost_of_a_znode() -> None:
    row = row_of("scan", 1_000, [2.0, 3.0, 9.0], Baseline("walk", lambda: 0.0, 100, bar=0.25), [1.0, 2.0, 3.0])
    assert (row.ours, row.theirs) == (3.0, 2.0)
    assert (row.low, row.ratio, row.high) == pytest.approx((0.15, 0.2, 0.3))
    _, line = lines([row])
    assert line.split("  ")[-1] == "4.0 x faster: met"
