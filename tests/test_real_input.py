"""Real trees, and what they lack, go to a second server and back; plain kazoo finds nothing lost and nothing added.

Method: `tests/kazoo_eyes.py` puts a tree on the source server; the program `zkmig` takes it through snapshot, plan,
apply and verify onto the target, then from there to another place on the source; kazoo compares data (null apart from
empty), ACLs, counters, and the names that the next sequential children get on both sides.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl_credential

from tests.conftest import KazooClientFactory, ServerPair
from tests.kazoo_eyes import OPEN, AclRow, Seen, look, next_sequential, put, real_tree
from tests.program import Program

DATA = Path(__file__).parent / "data"
SECRET = "ops:night-shift"


def carry(source: str, target: str, scope: str, folder: Path, *options: str) -> None:
    """snapshot, init, plan from the snapshot file, apply, verify: as a user would type it."""
    zkmig = Program(folder)
    options = (*options, "--control", f"/control-{scope}")  # other tests' control planes may admit others only
    snapshot, plan = f"{scope}.zks", f"{scope}.zkplan"
    zkmig("snapshot", source, "-o", snapshot, *options).succeeded()
    zkmig("init", target, "--scope", scope, *options).succeeded()
    zkmig("plan", "--from", snapshot, "--to", target, "-o", plan, *options).succeeded()
    zkmig("apply", "--epoch", "1", plan, "--yes", *options).succeeded()
    zkmig("verify", snapshot, target, *options).succeeded()


Place = tuple[KazooClient, str]


def assert_same(first: Place, *others: Place) -> None:
    """Everything that is carried is equal; then so are the next sequential names (asking for them raises counters)."""
    expected = look(*first)
    for other in others:
        assert look(*other) == expected
    parents = [path for path, seen in expected.items() if seen.counter and seen.acl == OPEN][:400]
    names = next_sequential(*first, parents)
    for other in others:
        assert next_sequential(*other, parents) == names


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["clickhouse-18.16", "apache-zookeeper-invalidsnap"])
def test_a_real_tree_goes_to_a_second_server_and_back(
    name: str, zk_pair: ServerPair, kazoo_client: KazooClientFactory, tree_root: str, tmp_path: Path
) -> None:
    """Goal: every znode of a real system survives both ways. Method: see the module."""
    tree = real_tree(DATA / f"{name}.jsonl.gz")
    here, there = kazoo_client(zk_pair.source), kazoo_client(zk_pair.target)
    put(here, tree_root, tree)
    back = f"{tree_root}-back"
    carry(
        f"zk://{zk_pair.source.hosts}{tree_root}",
        f"zk://{zk_pair.target.hosts}{tree_root}",
        f"there-{tree_root[1:]}",
        tmp_path,
    )
    carry(
        f"zk://{zk_pair.target.hosts}{tree_root}",
        f"zk://{zk_pair.source.hosts}{back}",
        f"back-{tree_root[1:]}",
        tmp_path,
    )
    assert_same((here, tree_root), (here, back), (there, tree_root))


@pytest.mark.timeout(600)
def test_what_real_trees_lack_is_carried_too(
    zk_pair: ServerPair, kazoo_client: KazooClientFactory, tree_root: str, tmp_path: Path
) -> None:
    """Goal: nulls, odd ACLs, odd names, large nodes and live ephemerals. Method: a made tree, both ways, by kazoo."""
    here, there = kazoo_client(zk_pair.source), kazoo_client(zk_pair.target)
    for client in (here, there):
        client.add_auth("digest", SECRET)
    put(here, tree_root, odd_tree())
    owner = kazoo_client(zk_pair.source)
    for number in range(80):
        owner.create(f"{tree_root}/live/session-{number}", b"mine", ephemeral=True)
    (tmp_path / "auth").write_text(f"digest:{SECRET}\n")
    (tmp_path / "auth").chmod(0o600)
    auth = ("--auth-file", str(tmp_path / "auth"))
    back = f"{tree_root}-back"
    carry(
        f"zk://{zk_pair.source.hosts}{tree_root}",
        f"zk://{zk_pair.target.hosts}{tree_root}",
        f"there-{tree_root[1:]}",
        tmp_path,
        *auth,
    )
    assert look(there, tree_root) == look(here, tree_root)
    assert there.get_children(f"{tree_root}/live") == []  # ephemerals are never copied
    carry(
        f"zk://{zk_pair.target.hosts}{tree_root}",
        f"zk://{zk_pair.source.hosts}{back}",
        f"back-{tree_root[1:]}",
        tmp_path,
        *auth,
    )
    assert_same((here, tree_root), (here, back), (there, tree_root))


def odd_tree() -> dict[str, Seen]:
    """Cases that the recorded trees have none of."""
    ops: AclRow = (31, "digest", make_digest_acl_credential("ops", "night-shift"))
    stranger: AclRow = (31, "digest", make_digest_acl_credential("stranger", "unknown"))
    only_read: AclRow = (1, "world", "anyone")
    return {
        "": Seen(b""),
        "/null": Seen(None),
        "/empty": Seen(b""),
        "/null/below": Seen(None, OPEN, 3),
        "/ops": Seen(b"secret", (ops,), 5),
        "/ops/below": Seen(b"secret", (ops, only_read)),
        "/addresses": Seen(b"", ((31, "ip", "127.0.0.1"), (1, "ip", "10.0.0.0/8"))),
        "/read-only": Seen(b"", (only_read, ops), 2),
        "/read-only/child": Seen(b"data"),
        "/read-only/other": Seen(b"data", (only_read, ops)),
        "/shared": Seen(b"", (stranger, ops)),
        "/cjk-队列-キュー-큐": Seen("値".encode()),
        "/cjk-队列-キュー-큐/100% sure": Seen(b"percent"),
        "/%2F%zz": Seen(b"percent"),
        "/accents é à ü": Seen(b""),
        "/large": Seen(bytes(range(256)) * 4_090),  # 1,047,040 bytes
        "/live": Seen(b""),
        "/queue": Seen(b"", OPEN, 12_345),
        "/queue/n-0000000007": Seen(b"job"),
    }
