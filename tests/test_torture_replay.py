"""The replayed transaction logs are the servers' own tree, at every zxid.

Method: every kind of transaction on a real server, compared with what plain kazoo reads; and digests that the servers
write behind each transaction. An ensemble whose leader is killed with a proposal that nobody else has: it must not
count, though it lies in that member's log.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.security import make_digest_acl

import tests.torture
from tests.conftest import KazooClientFactory
from tests.torture.merge import Unclear, read_members, replay_members
from tests.torture.tree import Tree
from tests.torture.txnlog import CONTAINER_OWNER, TTL_MASK, AclRow, Create, DamagedLog, Entry, read_log, read_logs
from zkmig.dev import Ensemble, Server
from zkmig.model.acl import OPEN_ACL
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.requests import CreateContainer, CreateTtl, Multi

TORTURE = Path(tests.torture.__file__).parent
INDEPENDENT = (
    *("txnlog", "tree", "merge", "replay", "history", "violation", "checker"),
    *("view_rules", "write_rules", "action_rules", "foreign_rules", "wanted_rules", "hold_rules", "figures"),
)


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[Server, KazooClient]]:
    """A server on which every kind of transaction has been, two crashes in between."""
    with Server(extended_types=True) as server:
        kazoo = KazooClient(server.hosts)
        kazoo.start()
        _write_everything(server, kazoo)
        server.kill()
        server.start()
        _await(kazoo)
        kazoo.set("/a", b"after a crash")
        server.restart()
        _await(kazoo)
        kazoo.set("/a", b"after a restart")
        yield server, kazoo
        kazoo.stop()
        kazoo.close()


def _await(kazoo: KazooClient) -> None:
    while True:
        with suppress(KazooException):
            kazoo.retry(kazoo.sync, "/")
            return


def _write_everything(server: Server, kazoo: KazooClient) -> None:
    kazoo.create("/a", b"x")
    kazoo.create("/a/null", None)
    kazoo.create("/a/gone", b"1")
    kazoo.create("/a/s-", sequence=True)
    kazoo.create("/a/e", b"1", ephemeral=True)
    kazoo.set("/a", b"yy")
    kazoo.set_acls("/a/null", [make_digest_acl("u", "p", all=True)])
    kazoo.delete("/a/gone")
    kazoo.create("/a/队列", "队列".encode())
    good = kazoo.transaction()
    good.create("/m", b"")
    good.create("/m/counter")
    good.delete("/m/counter")
    good.set_data("/m", b"2")
    good.check("/a", 1)
    good.commit()
    bad = kazoo.transaction()
    bad.create("/never", b"")
    bad.check("/a", 17)
    assert any(isinstance(result, Exception) for result in bad.commit())
    with suppress(KazooException):
        kazoo.delete("/absent")
    other = KazooClient(server.hosts)
    other.start()
    other.create("/a/of-a-session", ephemeral=True)
    other.stop()
    other.close()
    with Client(parse_hosts(server.hosts)) as client:
        client.call(
            Multi(
                (
                    CreateContainer("/container", b"c", OPEN_ACL),
                    CreateTtl("/ttl", b"t", OPEN_ACL, 3_600_000),
                )
            )
        )


def replayed(server: Server) -> Tree:
    tree = Tree()
    for entry in read_logs(server.data_dir):
        assert tree.apply(entry), f"{entry}: another tree than the server's"
    return tree


def compare(tree: Tree, kazoo: KazooClient, top: str = "/") -> int:
    """Every node that kazoo finds below is in the tree as it is, and no other; their number."""
    found = set()
    places = [top]
    while places:
        path = places.pop()
        found.add(path)
        if path == "/zookeeper/config":
            continue  # servers make it of their own configuration, without a transaction
        data, stat = kazoo.get(path)
        acl, _ = kazoo.get_acls(path)
        value = tree.now[path]
        assert (value.data, value.stat) == (data, tuple(stat)[:11]), path
        shown = [(a.perms, a.id.scheme, a.id.id) for a in acl]
        assert [tuple(row) for row in value.acl] == shown or path == "/" or path.startswith("/zookeeper"), path
        places += [f"{path.rstrip('/')}/{name}" for name in kazoo.get_children(path)]
    assert found == set(tree.now)
    return len(found)


def test_the_tree_is_that_of_the_server(busy: tuple[Server, KazooClient]) -> None:
    server, kazoo = busy
    assert kazoo.exists("/a/null") is not None
    kazoo.add_auth("digest", "u:p")
    tree = replayed(server)
    assert compare(tree, kazoo) >= 11  # twelve with the ephemeral, whose session a busy machine may let expire
    assert tree.digests_checked >= 20


def test_values_at_earlier_zxids(busy: tuple[Server, KazooClient]) -> None:
    tree = replayed(busy[0])
    timeline = tree.paths["/a"]
    data = [value.data for value in timeline.values if value is not None]
    assert [b"x", b"yy", b"after a crash", b"after a restart"] == list(dict.fromkeys(data))
    born = timeline.zxids[0]
    assert tree.at("/a", born - 1) is None
    assert [value and value.data for value in timeline.within(born - 1, born)] == [None, b"x"]
    assert tree.at("/m/counter", tree.paths["/m"].zxids[0]) is None  # it came and went within a transaction
    assert tree.now["/m"].creates == 1
    assert tree.at("/never", tree.zxid) is None


def test_kinds_of_nodes(busy: tuple[Server, KazooClient]) -> None:
    tree = replayed(busy[0])
    assert tree.now["/container"].owner == CONTAINER_OWNER
    assert tree.now["/ttl"].owner == TTL_MASK | 3_600_000
    assert tree.now["/ttl"].stat[7] == 0  # clients are not told
    assert "/a/of-a-session" in tree.paths
    assert "/a/of-a-session" not in tree.now
    assert tree.now["/a/null"].acl[0].scheme == "digest"


def test_going_back_is_as_if_it_had_not_been(busy: tuple[Server, KazooClient]) -> None:
    entries = list(read_logs(busy[0].data_dir))
    tree = Tree()
    for entry in entries[:10]:
        tree.apply(entry)
    here, zxid = dict(tree.now), tree.zxid
    for entry in entries[10:]:
        tree.apply(entry)
    tree.go_back(zxid)
    assert tree.now == here
    for entry in entries[10:]:
        assert tree.apply(entry)


def test_a_log_that_breaks_off_is_read_up_to_there(busy: tuple[Server, KazooClient], tmp_path: Path) -> None:
    file = next(iter((busy[0].data_dir / "version-2").glob("log.1")))
    whole = file.read_bytes().rstrip(b"\0")
    entries = list(read_log(file))
    copy = tmp_path / "log.1"
    for cut in (len(whole) - 1, len(whole) - 5, 20, 16, 7, 0):
        copy.write_bytes(whole[:cut])
        read = list(read_log(copy))
        assert read == entries[: len(read)]
        assert len(read) < len(entries)
    copy.write_bytes(whole[:-3] + bytes(100))
    assert list(read_log(copy)) == entries[:-1]
    copy.write_bytes(b"ZKLX" + whole[4:])
    with pytest.raises(DamagedLog):
        list(read_log(copy))


# -- ensembles --------------------------------------------------------------------------------------------------------


def test_what_only_a_dead_leader_has_logged_does_not_count(kazoo_client: KazooClientFactory) -> None:
    """Both followers are killed, the leader proposes once more and is killed as well; without it, the others go on."""
    with Ensemble() as three:
        kazoo = kazoo_client(three)
        kazoo.create("/kept", b"1")
        leader, followers = three.leader(), three.followers()
        direct = kazoo_client(leader)
        direct.sync("/")
        for follower in followers:
            follower.kill()
        for number in range(20):
            direct.create_async(f"/lost-{number}", b"nobody else has this")
        deadline = time.monotonic() + 5
        while not (orphans := _created(leader, "/lost-")) and time.monotonic() < deadline:
            time.sleep(0.01)
        leader.kill()
        assert orphans
        with ThreadPoolExecutor(2) as pool:  # neither serves before the other is there
            list(pool.map(lambda follower: follower.start(), followers))
        _await(kazoo)
        for number in range(30):
            kazoo.retry(kazoo.set, "/kept", b"%d" % number)
        committed, tree = replay_members(read_members([member.data_dir for member in three.members]))
        assert tree.now["/kept"].data == b"29"
        assert not [path for path in tree.paths if path.startswith("/lost-")]
        assert {entry.zxid for entry in committed}.isdisjoint(orphans)
        assert compare(tree, kazoo) == len(tree.now)


def _created(server: Server, prefix: str) -> set[int]:
    """Zxids at which the server's own log creates such paths."""
    return {
        entry.zxid
        for entry in read_logs(server.data_dir)
        for op in entry.operations
        if isinstance(op, Create) and op.path.startswith(prefix)
    }


ACL = (AclRow(31, "world", "anyone"),)


def entry_of(zxid: int, path: str, digests: Tree | None = None) -> Entry:
    """A create as it would be logged; digests: a tree that gives its digest."""
    entry = Entry(zxid, 1, 1, 1, 1, (Create(path, b"", ACL, 0, -1),), None)
    if digests is None:
        return entry
    digests.apply(entry)
    return entry._replace(digest=digests.digest)


def test_holes_of_one_member_are_filled_by_the_others() -> None:
    entries = [entry_of(zxid, f"/{zxid}") for zxid in range(1, 6)]
    members = [entries[:2], entries[:1] + entries[3:], entries]
    committed, tree = replay_members(members)
    assert [entry.zxid for entry in committed] == [1, 2, 3, 4, 5]
    assert "/5" in tree.now


def test_a_hole_in_all_members_is_not_passed_over() -> None:
    entries = [entry_of(zxid, f"/{zxid}") for zxid in (1, 2, 4)]
    with pytest.raises(Unclear, match="0x3"):
        replay_members([entries, entries, entries])


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_digests_decide_what_a_minority_has_logged(survives: int) -> None:
    """Of two proposals at the end of an epoch that one member alone has, so many were taken over by the next leader."""
    second = 1 << 32
    digests = Tree()
    sound = entry_of(1, "/1", digests)
    at_end = digests.zxid
    proposals = [entry_of(2, "/2", digests), entry_of(3, "/3", digests)]
    digests.go_back([at_end, 2, 3][survives])
    after = entry_of(second + 1, "/after", digests)
    members = [[sound, *proposals], [sound, after], [sound, after]]
    committed, tree = replay_members(members)
    assert [entry.zxid for entry in committed] == [*[1, 2, 3][: 1 + survives], second + 1]
    assert ("/3" in tree.paths) == (survives == 2)


def test_no_choice_that_fits_is_told() -> None:
    wrong = entry_of((1 << 32) + 1, "/after")._replace(digest=17)
    with pytest.raises(Unclear, match="no choice"):
        replay_members([[entry_of(1, "/1"), entry_of(2, "/2")], [entry_of(1, "/1"), wrong], [entry_of(1, "/1"), wrong]])


# -- independence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_checker_shares_no_code_with_the_engine(name: str) -> None:
    """Nothing but the standard library and one another."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse((TORTURE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    foreign = {"zkmig", "kazoo", "networkx", "msgpack"}
    assert not {module for module in imported if module.partition(".")[0] in foreign}
    ours = {module.removeprefix("tests.torture.") for module in imported if module.startswith("tests")}
    assert ours <= set(INDEPENDENT)
