"""A tree of many znodes goes to another server; plain kazoo finds it equal; a second run has nothing to do.

Method: the tree is put by plain kazoo, carried by the program as a user would type it, and compared by plain kazoo
(data, ACLs, counters). "Writes nothing" is seen on the server: its last zxid moves by sessions alone, which is what the
same commands cost when they only read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import KazooClientFactory, ServerPair
from tests.kazoo_eyes import Seen, last_zxid, look, put
from tests.program import Program, Ran


def wide_tree(znodes: int) -> dict[str, Seen]:
    """Parents of 99 children each, a third of the data empty, some counters ahead of the children."""
    tree = {"": Seen(b"", counter=znodes // 100)}
    for group in range(znodes // 100):
        tree[f"/group-{group}"] = Seen(b"", counter=99 + (7 if group % 25 == 0 else 0))
        for number in range(99):
            tree[f"/group-{group}/node-{number:03}"] = Seen(b"" if number % 3 == 0 else b"%d" % number * 16)
    return tree


@pytest.mark.timeout(600)
@pytest.mark.parametrize("znodes", [2_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_a_copy_is_equal_and_the_second_run_writes_nothing(
    znodes: int, zk_pair: ServerPair, kazoo_client: KazooClientFactory, tree_root: str, tmp_path: Path
) -> None:
    """Goal: nothing lost at size, nothing rewritten the second time. Method: see the module."""
    here, there = kazoo_client(zk_pair.source), kazoo_client(zk_pair.target)
    put(here, tree_root, wide_tree(znodes))
    source, target = f"zk://{zk_pair.source.hosts}{tree_root}", f"zk://{zk_pair.target.hosts}{tree_root}"
    program = Program(tmp_path)

    def zkmig(*arguments: str) -> Ran:
        # Other tests' control planes on this server may admit others only.
        return program(*arguments, "--control", f"/control-{tree_root[1:]}")

    first, second = "first.zkplan", "second.zkplan"
    zkmig("init", target, "--scope", tree_root[1:]).succeeded()
    zkmig("plan", "--from", source, "--to", target, "-o", first).succeeded()
    zkmig("apply", "--epoch", "1", first, "--yes").succeeded()
    assert look(there, tree_root) == look(here, tree_root)
    zkmig("verify", source, target).succeeded()

    zkmig("plan", "--from", source, "--to", target, "-o", second).succeeded()
    before = last_zxid(there)
    zkmig("status", "--at", target, "--scope", tree_root[1:]).succeeded()  # reads only: what sessions cost
    sessions = last_zxid(there) - before
    before = last_zxid(there)
    result = zkmig("apply", "--epoch", "2", second, "--yes", "--json").succeeded().document
    assert last_zxid(there) - before == sessions
    assert result["writes"] == 0
