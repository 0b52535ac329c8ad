"""One history from the logs of all members: what was committed, in order, and nothing that was only proposed.

A leader that is killed may leave proposals in its own log that nobody else has; its successor begins a new ZooKeeper
epoch (the upper half of the zxid) without them. And a member that was brought up to date with a snapshot has holes in
its log. So: whatever a quorum has logged is committed, with all before it in the same ZooKeeper epoch. What fewer have
logged at the end of one is decided by the digest of the tree that the servers wrote behind the next transaction.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.torture.tree import Tree
from tests.torture.txnlog import DamagedLog, Entry, read_logs

BRANCHES_MAX: Final = 10_000


class Unclear(Exception):
    """The logs do not say what was committed: a hole in all of them, or digests that fit no choice."""


def read_members(data_dirs: Sequence[Path]) -> list[list[Entry]]:
    """The entries of each member."""
    return [list(read_logs(data_dir)) for data_dir in data_dirs]


def replay_members(members: Sequence[Sequence[Entry]]) -> tuple[list[Entry], Tree]:
    """The committed transactions in order, and the tree that they make, each digest compared.

    The end of the last ZooKeeper epoch counts as committed: ask for it when all members are at rest.
    """
    quorum = len(members) // 2 + 1
    tree = Tree()
    committed: list[Entry] = []
    undecided: list[list[Entry]] = []
    for epoch, (certain, tail) in _by_epoch(members, quorum):
        if certain:
            committed += _decide(tree, undecided, certain[0])
            undecided = []
        for entry in certain:
            _expect_next(committed, entry, epoch)
            if not tree.apply(entry):
                raise Unclear(f"the tree after {entry.zxid:#x} is not the servers'")
            committed.append(entry)
        if tail:
            undecided.append(tail)
    for tail in undecided[-1:]:
        for entry in tail:
            if not tree.apply(entry):
                raise Unclear(f"the tree after {entry.zxid:#x}, which few have logged, is not the servers'")
            committed.append(entry)
    return committed, tree


def _by_epoch(members: Sequence[Sequence[Entry]], quorum: int) -> Iterator[tuple[int, tuple[list[Entry], list[Entry]]]]:
    """For each ZooKeeper epoch: entries that are committed for certain, and those behind them that fewer have."""
    found: dict[int, Entry] = {}
    copies: Counter[int] = Counter()
    for member in members:
        own = {entry.zxid: entry for entry in member}
        for zxid, entry in own.items():
            if not _are_same(found.setdefault(zxid, entry), entry):
                raise DamagedLog(f"two members have logged different transactions as {zxid:#x}")
        copies.update(own.keys())
    for epoch, zxids in itertools.groupby(sorted(found), key=lambda zxid: zxid >> 32):
        entries = [found[zxid] for zxid in zxids]
        logged = [index for index, entry in enumerate(entries) if copies[entry.zxid] >= quorum]
        end = logged[-1] + 1 if logged else 0
        yield epoch, (entries[:end], entries[end:])


def _are_same(one: Entry, other: Entry) -> bool:
    """Whether two members mean the same. Of a multi that failed, servers may log the other parts as failed too: they
    turn them into errors when they apply it, sometimes before they have written it."""
    return one == other or (
        one.failed and other.failed and one._replace(operations=()) == other._replace(operations=())
    )


def _decide(tree: Tree, undecided: Sequence[Sequence[Entry]], following: Entry) -> list[Entry]:
    """How much of each undecided end was committed, so that the tree after `following` is the servers'."""
    if not undecided:
        return []
    start = tree.zxid
    lengths = [range(len(tail), -1, -1) for tail in undecided]
    for choice in itertools.islice(itertools.product(*lengths), BRANCHES_MAX):
        taken = [entry for tail, length in zip(undecided, choice, strict=True) for entry in tail[:length]]
        fits = _applies(tree, [*taken, following])
        tree.go_back(start)
        if fits:
            for entry in taken:
                tree.apply(entry)
            return taken
    raise Unclear(f"no choice of what was committed before {following.zxid:#x} fits its digest")


def _applies(tree: Tree, entries: Iterable[Entry]) -> bool:
    try:
        return all(tree.apply(entry) for entry in entries)
    except KeyError:
        return False  # a child below, or data for, a node that is not there


def _expect_next(committed: Sequence[Entry], entry: Entry, epoch: int) -> None:
    """Within a ZooKeeper epoch the numbers have no gaps."""
    last = committed[-1].zxid if committed else 0
    expected = last + 1 if last >> 32 == epoch else (epoch << 32) + 1
    if entry.zxid != expected:
        raise Unclear(f"no log has what came between {expected:#x} and {entry.zxid:#x}")
