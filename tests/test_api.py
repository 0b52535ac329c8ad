"""The public Python names, as docs and scripts use them, against real servers; and that they are loaded when used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

import zkmig
from tests.conftest import KazooClientFactory, ServerPair
from tests.program import Program, location
from zkmig.dev import Server


@pytest.fixture
def pools(zk_pair: ServerPair, tree_root: str, kazoo_client: KazooClientFactory) -> tuple[str, str]:
    """Locations of a tree with pools on one server, and of another version of it on a second one."""
    ours, theirs = kazoo_client(zk_pair.source), kazoo_client(zk_pair.target)
    for client, names in ((ours, ("web", "cache")), (theirs, ("web", "old"))):
        client.create(f"{tree_root}/pools", makepath=True)
        for name in names:
            client.create(f"{tree_root}/pools/{name}", f"{name} of {client.hosts}".encode())
    return location(zk_pair.source.hosts, tree_root), location(zk_pair.target.hosts, tree_root)


def test_a_migration_in_three_lines(pools: tuple[str, str], tree_root: str) -> None:
    """Read both, plan, apply under an epoch: the trees are equal, and the reader shows the new one."""
    source, target = pools
    zkmig.init(target, tree_root[1:])
    plan = zkmig.make_plan(zkmig.read(source), zkmig.read(target), policy=zkmig.ComparePolicy())
    result = zkmig.apply(plan, target, scope=tree_root[1:], epoch=1)
    assert (result.epoch, result.single_shot, result.deviations) == (1, True, ())
    assert zkmig.read(source).tree_hash == zkmig.read(target).tree_hash
    assert not zkmig.verify(source, target).differs()
    assert zkmig.committed(target).epoch == 1
    assert zkmig.apply(plan, target, epoch=1).already

    with zkmig.Reader(target.removeprefix("zk://").partition("/")[0], scope=tree_root[1:]) as reader:
        view = reader.view()
        assert view.children(f"{tree_root}/pools") == ["cache", "web"]
        assert (view.epoch, view.migrating) == (1, False)
        with reader.acting(view) as token:
            assert isinstance(token, zkmig.Token)


def test_a_snapshot_is_a_mapping_in_tree_order(pools: tuple[str, str], tree_root: str) -> None:
    snapshot = zkmig.read(pools[0])
    assert list(snapshot) == [tree_root, *(f"{tree_root}/pools{rest}" for rest in ("", "/cache", "/web"))]
    znode = snapshot[f"{tree_root}/pools/web"]
    assert (znode.kind, znode.counter, znode.ephemeral_owner) == (zkmig.Kind.PERSISTENT, 0, 0)
    assert znode.data is not None
    assert znode.data.startswith(b"web of")
    assert snapshot.is_fuzzy is False
    assert snapshot.zxid_first <= snapshot.zxid_last
    assert len(snapshot.tree_hash) == 64


def test_files_of_snapshots_and_plans(program: Program, pools: tuple[str, str]) -> None:
    """What is saved is what is read again, and a plan keeps its hash."""
    snapshot = zkmig.read(pools[0])
    zkmig.save_snapshot(snapshot, str(program.folder / "s"))
    assert zkmig.read(str(program.folder / "s")).tree_hash == snapshot.tree_hash
    with pytest.raises(zkmig.BadInput, match="the file exists"):
        zkmig.save_snapshot(snapshot, str(program.folder / "s"))
    plan = zkmig.make_plan(snapshot, pools[1])
    saved = zkmig.save_plan(plan, str(program.folder / "p"))
    loaded = zkmig.load_plan(program.folder / "p")
    assert loaded == saved
    assert loaded.plan == plan


def test_a_plan_for_a_live_target_pins_its_scope(pools: tuple[str, str], tree_root: str) -> None:
    """The incarnation and the epoch are in the plan, so a commit in between makes it stale wherever it wrote."""
    source, target = pools
    made = zkmig.init(target, tree_root[1:])
    first = zkmig.make_plan(source, target)
    assert (first.target.scope, first.target.epoch) == (tree_root[1:], 0)
    assert first.target.incarnation == made.record.incarnation
    assert first.target.hosts == (("127.0.0.1", int(target.split(":")[2].partition("/")[0])),)
    zkmig.apply(first, epoch=1)
    empty = zkmig.make_plan(source, target)
    assert empty.is_empty
    assert empty.target.epoch == 1
    with pytest.raises(zkmig.WrongEpoch):
        zkmig.apply(empty, epoch=3)
    with pytest.raises(zkmig.StalePlan):
        zkmig.apply(first, epoch=2)


def test_a_root_without_a_parent_is_refused_where_nothing_creates_it(pools: tuple[str, str], tree_root: str) -> None:
    """init creates what is missing above its own root; inside a scope nothing does."""
    source, target = pools
    early = zkmig.make_plan(source, f"{target}/far/away")
    zkmig.init(target, tree_root[1:])
    with pytest.raises(zkmig.BadInput, match="its parent does not exist"):
        zkmig.make_plan(source, f"{target}/far/away")
    assert early.counts["create"] == 4


def test_the_plan_of_snapshots_asks_nobody(pools: tuple[str, str], zk_pair: ServerPair) -> None:
    """Planning between two snapshots moves no server's zxid: no session is opened."""
    source, target = map(zkmig.read, pools)
    before = zk_pair.source.zxid(), zk_pair.target.zxid()
    plan = zkmig.make_plan(source, target)
    assert (zk_pair.source.zxid(), zk_pair.target.zxid()) == before
    assert plan.target.hosts == (("127.0.0.1", zk_pair.target.port),)
    assert plan.target.scope is None


def test_diff_reads_what_it_is_not_given(pools: tuple[str, str]) -> None:
    source, target = pools
    by_location = zkmig.diff(source, target)
    assert [change.path for change in by_location] == [change.path for change in zkmig.diff(zkmig.read(source), target)]
    assert by_location.counts._asdict() == {"add": 1, "data": 1, "acl": 0, "kind": 0, "counter": 0, "delete": 1}
    assert zkmig.diff(source, None).counts.add == 4
    assert not zkmig.diff(source, source).differs(exact_counters=True)


def test_credentials_are_given_or_come_from_the_environment(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = kazoo_client(zk)
    client.create(tree_root)
    client.create(f"{tree_root}/secret", acl=[make_digest_acl("owner", "sesame", all=True)])
    there = location(zk.hosts, tree_root)
    with pytest.raises(zkmig.NotPermitted):
        zkmig.read(there, auth=())
    assert len(zkmig.read(there, auth=[("digest", "owner:sesame")])) == 2
    assert len(zkmig.read(there, auth=[zkmig.Credential("digest", b"owner:sesame")])) == 2
    monkeypatch.setenv("ZKMIG_AUTH", "digest:owner:sesame")
    assert len(zkmig.read(there)) == 2


def grow_protected(client: KazooClient, root: str) -> None:
    """A parent with a child, in which nobody may create any more."""
    client.create(root)
    closed = [make_digest_acl("owner", "sesame", read=True, admin=True)]
    client.create(f"{root}/vault")
    client.create(f"{root}/vault/gold", b"1", acl=closed)
    client.set_acls(f"{root}/vault", closed)


def test_protected_parents_are_filled_and_closed_again(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Somebody else's ACL lets the migrator in for the time of its work only."""
    client = kazoo_client(zk)
    client.create(tree_root)
    grow_protected(client, f"{tree_root}/a")
    source = location(zk.hosts, f"{tree_root}/a")
    auth = [("digest", "owner:sesame"), ("digest", "mover:van")]
    zkmig.init(location(zk.hosts, f"{tree_root}/b"), tree_root[1:], auth=auth, allow_empty=True)
    target = location(zk.hosts, f"{tree_root}/b")
    plan = zkmig.make_plan(zkmig.read(source, auth=auth), target, auth=auth)
    assert plan.identity is not None
    zkmig.apply(plan, epoch=1, auth=auth)
    assert not zkmig.verify(source, target, auth=auth).differs()
    assert zkmig.status(target, auth=auth).record.pending is None


@pytest.mark.parametrize("limit_bytes", [1_048_575, 3_000_000])
def test_a_large_node_is_planned_where_the_servers_take_it(
    tree_root: str, kazoo_client: KazooClientFactory, limit_bytes: int
) -> None:
    """A server with a raised jute.maxbuffer is asked, and takes the node; one without is refused at planning."""
    with Server(jute_maxbuffer=3_000_000) as roomy, Server(jute_maxbuffer=limit_bytes) as target:
        client = kazoo_client(roomy)
        client.create(tree_root, b"x" * 1_500_000)
        source, there = location(roomy.hosts, tree_root), location(target.hosts, tree_root)
        if limit_bytes < 1_500_000:
            with pytest.raises(zkmig.PlanImpossible, match=tree_root):
                zkmig.make_plan(source, there)
            return
        zkmig.init(there, "big")
        zkmig.apply(zkmig.make_plan(source, there), epoch=1)
        data = kazoo_client(target).get(tree_root)[0]
        assert data == b"x" * 1_500_000


def test_a_single_shot_is_not_planned_above_what_the_servers_take(
    tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A server whose jute.maxbuffer was lowered: the plan is cut in batches that it takes, and applies."""
    with Server(jute_maxbuffer=200_000) as server:
        client = kazoo_client(server)
        client.create(f"{tree_root}/a", makepath=True)
        for number in range(40):
            client.create(f"{tree_root}/a/n{number}", b"x" * 10_000)
        source, target = location(server.hosts, f"{tree_root}/a"), location(server.hosts, f"{tree_root}/b")
        zkmig.init(target, "low", allow_empty=True)
        plan = zkmig.make_plan(source, target)
        assert plan.why_not_single_shot() is not None
        assert zkmig.apply(plan, epoch=1).batches > 1
        assert not zkmig.verify(source, target).differs()


def test_what_fails_after_the_first_write_says_so(pools: tuple[str, str], tree_root: str) -> None:
    """An error that by itself means that nothing was written, raised when the last batch is in, tells of the writes
    before; resume goes on from there."""
    source, target = pools
    zkmig.init(target, tree_root[1:])
    plan = zkmig.make_plan(source, target)

    def fail_at(text: str) -> None:
        if text == "verifying":
            raise zkmig.Unreachable("the line is dead")

    with pytest.raises(zkmig.Unreachable) as caught:
        zkmig.apply(plan, epoch=1, single_shot="never", say=fail_at)
    assert caught.value.outcome is zkmig.Outcome.PARTLY_WRITTEN
    assert "run zkmig status" in str(caught.value)
    assert zkmig.status(target).record.target_epoch == 1
    with pytest.raises(zkmig.Refused):
        zkmig.resume(at=target)  # the plan came from no file
    result = zkmig.resume(plan)
    assert result is not None
    assert result.epoch == 1
    assert zkmig.resume(plan) is None
    with pytest.raises(zkmig.Refused):
        zkmig.rollback(target)


# -- the names --------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    assert [name for name in zkmig.__all__ if getattr(zkmig, name, None) is None] == []
    assert set(zkmig.__all__) <= set(dir(zkmig))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = zkmig.nonsense  # type: ignore[attr-defined]  # the point of the test


@pytest.mark.parametrize("module", ["zkmig.apply.engine", "zkmig.diff"])
def test_functions_stay_functions_beside_modules_of_their_name(module: str) -> None:
    assert isinstance(importlib.import_module(module), ModuleType)
    assert callable(zkmig.apply)
    assert callable(zkmig.diff)
    assert not isinstance(zkmig.apply, ModuleType)
    assert not isinstance(zkmig.diff, ModuleType)


def test_importing_zkmig_loads_next_to_nothing() -> None:
    """In a fresh interpreter: the package alone; a name loads its home; reading loads no planner."""
    code = (
        "import sys, zkmig\n"
        "alone = {name for name in sys.modules if name.startswith('zkmig.')}\n"
        "zkmig.Reader\n"
        "print(len(alone), any(name.startswith(('zkmig.plan', 'zkmig.apply', 'networkx')) for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", "False"]
