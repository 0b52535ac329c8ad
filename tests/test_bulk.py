"""Bulk reads: whatever the size and shape of the requests, each path gets its own answer, from one state.

Method: trees written and read singly by kazoo, read in bulk, compared; the requests are noted on their way out.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.security import make_acl, make_digest_acl

from tests.conftest import KazooClientFactory
from tests.wire_clients import NotingClient, SingleClient, SlowClient
from zkmig.dev import Ensemble, Server
from zkmig.errors import NotPermitted
from zkmig.model.acl import OPEN_ACL, READ, Acl, digest_id
from zkmig.source import bulk
from zkmig.source.bulk import NodeAbsent, NodeRead, Pace, read_acls, read_nodes
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.requests import GetChildren, GetData, frame_size

CLIENTS = pytest.mark.parametrize("client_class", [NotingClient, SingleClient])


def fill(kazoo: KazooClient, root: str, count: int, make_data: Callable[[int], bytes]) -> list[str]:
    """`count` children of a new `root`; their paths."""
    kazoo.create(root)
    paths = [f"{root}/n{number:05d}" for number in range(count)]
    for first in range(0, count, 200):
        batch = kazoo.transaction()
        for number, path in enumerate(paths[first : first + 200], start=first):
            batch.create(path, make_data(number))
        assert batch.commit() == paths[first : first + 200]
    return paths


@CLIENTS
@pytest.mark.parametrize("children", [True, False])
def test_each_path_gets_its_own_answer_in_input_order(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, client_class: type[NotingClient], children: bool
) -> None:
    """Odd names, null and empty data, absent and repeated paths, shuffled; compared with kazoo one by one."""
    kazoo = kazoo_client(zk)
    kazoo.create(tree_root, None)
    rng = random.Random(7)
    paths = [tree_root]
    for number in range(400):
        name = rng.choice(["队列", "100%25", "a b", "é", "%", "n"]) + str(number)
        path = f"{rng.choice(paths[-20:])}/{name}"
        kazoo.create(path, rng.choice([None, b"", rng.randbytes(rng.randrange(300))]))
        paths.append(path)
    asked = [*paths, *rng.sample(paths, 50), *(path + "-absent" for path in paths[:30])]
    rng.shuffle(asked)

    with client_class(zk) as client:
        read = list(read_nodes(client, asked, children=children))

    assert [node.path for node in read] == asked
    for node in read:
        try:
            data, stat = kazoo.get(node.path)
        except NoNodeError:
            assert isinstance(node, NodeAbsent)
            continue
        assert isinstance(node, NodeRead)
        assert node.data == data
        assert tuple(node.stat) == tuple(stat)
        names = sorted(kazoo.get_children(node.path)) if children else None
        assert (None if node.children is None else sorted(node.children)) == names
        assert stat.mzxid <= node.zxid <= kazoo.last_zxid
    assert any(isinstance(node, NodeAbsent) for node in read)


def test_requests_stay_within_bytes_count_and_depth(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """3,000 nodes with short and then with long names: count is the limit of the one, bytes that of the other."""
    kazoo = kazoo_client(zk)
    short = fill(kazoo, tree_root, 3_000, lambda _: b"x")
    long_root = f"{tree_root}/{'l' * 400}"
    long = fill(kazoo, long_root, 1_500, lambda _: b"")
    with NotingClient(zk) as client:
        for paths in (short, long):
            assert [node.path for node in read_nodes(client, paths, children=True)] == paths
        counts = [len(request.reads) // 2 for request in client.multi_reads]
        sizes = [frame_size(request) for request in client.multi_reads]
    assert counts[0] == bulk.NODES_FIRST
    assert max(counts) == bulk.NODES_MAX
    assert bulk.REQUEST_BYTES_MAX / 2 < max(sizes) <= bulk.REQUEST_BYTES_MAX + 1_000
    # One more may be handed to the pipeline than is unanswered: it asks before it hands out.
    assert client.ahead_max <= 2 * bulk.READ_DEPTH


def test_data_and_children_of_a_node_are_parts_of_one_request(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    paths = fill(kazoo_client(zk), tree_root, 500, lambda _: b"")
    with NotingClient(zk) as client:
        list(read_nodes(client, paths, children=True))
        parts = [request.reads for request in client.multi_reads]
    assert all(reads[::2] == tuple(GetData(read.path) for read in reads[1::2]) for reads in parts)
    assert all(isinstance(read, GetChildren) for reads in parts for read in reads[1::2])


def test_large_nodes_make_requests_small_and_small_ones_make_them_grow_again(
    fresh_zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """60 nodes of 300 kB, then 2,000 small ones, one request at a time, so that each reply is seen before the next."""
    kazoo = kazoo_client(fresh_zk)
    large = [kazoo.create(f"/large-{number:02d}", bytes(300_000)) for number in range(60)]
    small = fill(kazoo, tree_root, 2_000, lambda _: b"x")
    pace = Pace()
    pace.nodes = 8
    with SlowClient(fresh_zk) as client:
        read = list(read_nodes(client, large + small, pace=pace))
        counts = [len(request.reads) for request in client.multi_reads]
    assert [len(node.data or b"") for node in read if isinstance(node, NodeRead)][59:61] == [300_000, 1]
    assert counts[:5] == [8, 8, 1, 1, 1]  # the pipeline asks for one ahead
    assert counts.count(1) > 40
    assert max(counts) > 500


def test_what_is_known_to_be_large_is_cut_in_advance(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """The same, with the pace told beforehand: no request ever asks for more than the aim and one node."""
    kazoo = kazoo_client(fresh_zk)
    large = fill(kazoo, "/large", 40, lambda _: b"")
    for path in large:
        kazoo.set(path, bytes(300_000))
    small = fill(kazoo, "/small", 500, lambda _: b"x")
    pace = Pace()
    pace.nodes = bulk.NODES_MAX
    pace.expected["/large"] = 300_000
    with NotingClient(fresh_zk) as client:
        read = list(read_nodes(client, small + large, pace=pace))
        asked = [[part.path for part in request.reads] for request in client.multi_reads]
    assert len(read) == 540
    assert len(asked[0]) == 502
    assert max(len(set(paths).intersection(large)) for paths in asked) == 2


@pytest.mark.parametrize(
    ("nodes", "reply_bytes", "after"),
    [
        (64, 64 * 100, 128),
        (64, 64 * 1_000_000, 1),
        (64, bulk.REPLY_BYTES_AIM, 64),
        (64, bulk.REPLY_BYTES_AIM * 2, 32),
        (1, 1_000_000, 1),
        (64, 0, 128),
    ],
)
def test_the_pace_falls_at_once_and_rises_by_doubling(nodes: int, reply_bytes: int, after: int) -> None:
    pace = Pace()
    pace.saw(nodes, reply_bytes)
    assert pace.nodes == after
    for _ in range(20):
        pace.saw(pace.nodes, pace.nodes)
    assert pace.nodes == bulk.NODES_MAX


@CLIENTS
def test_data_and_children_agree_while_somebody_writes(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, client_class: type[NotingClient]
) -> None:
    """Each transaction creates a child and writes the number of children into the parent; no read may differ."""
    kazoo = kazoo_client(zk)
    parents = fill(kazoo, tree_root, 20, lambda _: b"0")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            batch = kazoo.transaction()
            for parent in parents:
                batch.create(f"{parent}/{number}")
                batch.set_data(parent, str(number).encode())
            batch.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with client_class(zk) as client:
            highest = 0
            while highest < 50:
                for node in read_nodes(client, parents, children=True):
                    assert isinstance(node, NodeRead)
                    highest = int(node.data or b"")
                    assert highest == len(node.children or ()) == node.stat.num_children
                    assert max(node.stat.mzxid, node.stat.pzxid) <= node.zxid
    finally:
        stop.set()
        writer.join()


@CLIENTS
@pytest.mark.parametrize("children", [True, False])
def test_no_permission_names_the_path_and_leaves_the_session_usable(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, client_class: type[NotingClient], children: bool
) -> None:
    kazoo = kazoo_client(zk)
    paths = fill(kazoo, tree_root, 300, lambda _: b"secret")
    kazoo.set_acls(paths[170], [make_digest_acl("ann", "hunter2", all=True)])
    with client_class(zk) as client:
        read = read_nodes(client, paths, children=children)
        with pytest.raises(NotPermitted) as caught:
            list(read)
        assert caught.value.where == paths[170]
        assert "--auth-file" in caught.value.hint
        assert "secret" not in str(caught.value)
        assert [node.path for node in read_nodes(client, paths[:100])] == paths[:100]
    with client_class(zk, (Credential("digest", b"ann:hunter2"),)) as client:
        assert len(list(read_nodes(client, paths, children=children))) == 300


def test_a_run_that_is_left_early_leaves_the_session_usable(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    paths = fill(kazoo_client(zk), tree_root, 2_000, lambda number: str(number).encode())
    with NotingClient(zk) as client:
        for tries in range(5):
            assert next(read_nodes(client, paths)).path == paths[0]
            read = list(read_nodes(client, paths[tries:]))
            assert [node.data for node in read if isinstance(node, NodeRead)] == [
                str(number).encode() for number in range(tries, 2_000)
            ]


def test_paths_may_be_found_while_they_are_read(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """A list that grows by what is read: every node is reached in few requests."""
    paths = fill(kazoo_client(zk), tree_root, 2_000, lambda _: b"")
    todo = [tree_root, *paths[:1_000]]
    with NotingClient(zk) as client:
        for node in read_nodes(client, todo, children=True):
            if node.path == tree_root and isinstance(node, NodeRead):
                todo.extend(paths[1_000:])
    assert sum(len(request.reads) for request in client.multi_reads) == 2 * 2_001


def test_acls_come_in_input_order_with_the_stat_they_belong_to(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    paths = fill(kazoo, tree_root, 300, lambda _: b"")
    kazoo.set_acls(paths[7], [make_acl("world", "anyone", read=True), make_digest_acl("ann", "hunter2", all=True)])
    with NotingClient(zk, (Credential("digest", b"ann:hunter2"),)) as client:
        acls = list(read_acls(client, [*paths, tree_root + "/absent", paths[7]]))
    assert acls[300] is None
    assert acls[7] == acls[301]
    assert all(acl is not None for acl in acls[:300])
    for path, result in zip(paths, acls, strict=False):
        assert result is not None
        assert tuple(result.stat) == tuple(kazoo.get(path)[1])
        guarded = (Acl(READ, "world", "anyone"), Acl(31, "digest", digest_id("ann", "hunter2")))
        assert result.acl == (guarded if path == paths[7] else OPEN_ACL)


def test_an_acl_that_may_not_be_read_names_the_path(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    paths = fill(kazoo, tree_root, 50, lambda _: b"")
    kazoo.set_acls(paths[20], [make_digest_acl("ann", "hunter2", all=True)])
    with NotingClient(zk) as client, pytest.raises(NotPermitted) as caught:
        list(read_acls(client, paths))
    assert caught.value.where == paths[20]


def test_every_member_of_an_ensemble_answers(ensemble: Ensemble, kazoo_client: KazooClientFactory) -> None:
    kazoo = kazoo_client(ensemble)
    paths = fill(kazoo, "/bulk", 500, lambda number: str(number).encode())
    for member in ensemble.members:
        with Client(parse_hosts(member.hosts), zxid_floor=kazoo.last_zxid) as client:
            read = [node for node in read_nodes(client, paths, children=True) if isinstance(node, NodeRead)]
            assert [node.data for node in read] == [str(number).encode() for number in range(500)]
            assert all(acl is not None and acl.acl == OPEN_ACL for acl in read_acls(client, paths))
