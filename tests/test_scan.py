"""Scans of live trees: nothing is missed, nothing is mixed without being said, nothing is left out silently.

Method: what a scan returns is compared with a plain kazoo walk; changes are made at chosen moments of a scan (between
one request and the next) or by a concurrent writer whose invariant every snapshot of one state must keep.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_acl, make_digest_acl

from tests.conftest import KazooClientFactory
from tests.proxy import Fate, Proxy
from tests.wire_clients import NotingClient, RewritingClient, SingleClient, paths_of
from zkmig.dev import Ensemble, Server
from zkmig.errors import BadInput, NotPermitted
from zkmig.model.acl import READ, Acl, AclList, digest_id
from zkmig.model.path import order_key
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.source import frontier, settle
from zkmig.source.ensemble import SourceAbsent, scan, scan_or_none
from zkmig.source.location import parse_hosts
from zkmig.source.settle import Settling
from zkmig.source.treewatch import TreeWatch
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.faults import ProtocolFault
from zkmig.wire.requests import (
    OP_ADD_WATCH,
    OP_EXISTS,
    OP_GET_ACL,
    OP_MULTI_READ,
    OP_SYNC,
    Bulk,
    GetAcl,
    GetAllChildrenNumber,
    GetChildren,
    GetData,
    Read,
    Write,
)

ANN = Credential("digest", b"ann:hunter2")
ANN_ACL = make_digest_acl("ann", "hunter2", all=True)


class Seen(NamedTuple):
    """A znode as kazoo shows it."""

    data: bytes | None
    acl: AclList
    stat: tuple[int, ...]


def walk(kazoo: KazooClient, root: str, excludes: tuple[str, ...] = ("/zookeeper", "/zkmig")) -> dict[str, Seen]:
    """Everything at and below `root`, node by node, by kazoo."""
    tree: dict[str, Seen] = {}
    level = [root]
    while level:
        asked = [
            (path, kazoo.get_async(path), kazoo.get_acls_async(path), kazoo.get_children_async(path))
            for path in level
            if path not in excludes
        ]
        level = []
        for path, data_asked, acls_asked, children_asked in asked:
            data, stat = data_asked.get()
            acl = tuple(Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in acls_asked.get()[0])
            tree[path] = Seen(data, acl, tuple(stat))
            level += [f"{path.rstrip('/')}/{name}" for name in children_asked.get()]
    return tree


def seen_by(snapshot: Snapshot) -> dict[str, Seen]:
    return {path: Seen(znode.data, znode.acl, tuple(znode.stat)) for path, znode in snapshot.items()}


def create_all(kazoo: KazooClient, paths: list[str], data: bytes = b"") -> None:
    for first in range(0, len(paths), 500):
        batch = kazoo.transaction()
        for path in paths[first : first + 500]:
            batch.create(path, data)
        assert batch.commit() == paths[first : first + 500]


def grow(kazoo: KazooClient, root: str, wide: int = 200) -> None:
    """A tree of some 600 nodes with everything that trees hold, and one parent of `wide` children."""
    rng = random.Random(11)
    kazoo.create(root, b"root")
    parents = [root]
    acls = [
        None,
        [make_acl("world", "anyone", read=True), make_acl("ip", "127.0.0.1", all=True)],
        [make_acl("world", "anyone", all=True), make_digest_acl("bob", "b", read=True)],
    ]
    for number in range(500):
        name = rng.choice(["队列-", "100%25-", "a b ", "ünï", "%2F", "n", "-", "."]) + str(number)
        path = f"{rng.choice(parents[-30:])}/{name}"
        kazoo.create(path, rng.choice([None, b"", rng.randbytes(rng.randrange(400))]), acl=rng.choice(acls))
        if rng.random() < 0.4:
            parents.append(path)
    for number in range(40):
        kazoo.create(f"{rng.choice(parents)}/live-{number}", b"me", ephemeral=True)
    for path in rng.sample(parents[1:], 20):
        kazoo.set(path, b"set again")
        kazoo.create(f"{path}/seq-", sequence=True)
        kazoo.delete(kazoo.create(f"{path}/seq-", sequence=True))
    kazoo.create(f"{root}/large", bytes(1_048_000 - len(root)))
    kazoo.create(f"{root}/wide")
    create_all(kazoo, [f"{root}/wide/{number:010d}" for number in range(wide)], b"one of many")


@pytest.mark.parametrize("client_class", [NotingClient, SingleClient])
def test_a_scan_equals_a_plain_walk(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, client_class: type[NotingClient]
) -> None:
    """Data with null apart from empty, ACLs, Stats, names and shape, and no node of a sibling of similar name."""
    kazoo = kazoo_client(zk)
    grow(kazoo, tree_root, wide=5_000 if client_class is NotingClient else 300)
    kazoo.create(tree_root + "le", b"a sibling that only begins alike")
    with client_class(zk) as client:
        snapshot = scan(client, Scope(tree_root))
    walked = walk(kazoo, tree_root)
    assert len(walked) > 850
    assert seen_by(snapshot) == walked
    assert list(snapshot) == sorted(walked, key=order_key)
    assert {znode.data for znode in snapshot.values()} >= {None, b""}
    assert sum(znode.kind is Kind.EPHEMERAL for znode in snapshot.values()) == snapshot.ephemerals == 40
    assert snapshot.provenance.hosts == (zk.hosts,)
    assert not snapshot.kinds_known


def test_a_scan_of_the_whole_server_leaves_out_the_servers_own(
    fresh_zk: Server, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(fresh_zk)
    create_all(kazoo, ["/a", "/zookeeper-not", "/zkmig", "/zkmig/scopes", "/zkmigrations", "/a/zkmig"])
    with NotingClient(fresh_zk) as client:
        snapshot = scan(client, Scope("/"))
        assert seen_by(snapshot) == walk(kazoo, "/")
    assert list(snapshot) == ["/", "/a", "/a/zkmig", "/zkmigrations", "/zookeeper-not"]
    assert not snapshot.is_fuzzy


def test_excludes_are_whole_subtrees_and_nothing_else(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, *(tree_root + tail for tail in ("/x", "/x/y", "/xy", "/x-y", "/z", "/z/x"))])
    kazoo.set_acls(tree_root + "/x/y", [ANN_ACL])
    with NotingClient(zk) as client:
        snapshot = scan(client, Scope(tree_root, (tree_root + "/x",)))
        assert list(snapshot) == [tree_root + tail for tail in ("", "/x-y", "/xy", "/z", "/z/x")]
        assert not any(path.startswith(tree_root + "/x/") for path in client.asked())
        with pytest.raises(BadInput, match="left out of its own scope"):
            scan(client, Scope(tree_root, (tree_root,)))


def test_a_root_that_is_not_there(zk: Server, tree_root: str) -> None:
    with NotingClient(zk) as client:
        assert scan_or_none(client, Scope(tree_root)) is None
        with pytest.raises(SourceAbsent, match=tree_root):
            scan(client, Scope(tree_root))


def test_progress_counts_up_to_every_node(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    create_all(kazoo_client(zk), [tree_root, *(f"{tree_root}/{number}" for number in range(9_000))])
    counts: list[int] = []
    with NotingClient(zk) as client:
        scan(client, Scope(tree_root), progress=counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == 9_001
    assert len(counts) > 2


# -- one state, or not ------------------------------------------------------------------------------------------------


def test_a_quiet_tree_is_one_state_and_its_zxids_are_exact(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """The state holds from its last change to the first answer: both are known, since nothing else happens."""
    kazoo = kazoo_client(fresh_zk)
    grow(kazoo, "/app")
    changed = kazoo.exists("/app/wide")
    assert changed is not None
    with NotingClient(fresh_zk) as client:
        snapshot = scan(client, Scope("/app"))
        assert not snapshot.is_fuzzy
        assert snapshot.zxid_first == max(max(seen.stat[1], seen.stat[10]) for seen in walk(kazoo, "/app").values())
        assert snapshot.zxid_last == fresh_zk.zxid() == client.last_zxid
        kazoo.create("/elsewhere")
        later = scan(client, Scope("/app"))
    assert (later.zxid_first, later.zxid_last) == (snapshot.zxid_first, snapshot.zxid_last + 1)
    assert f"{snapshot.zxid_first:#x}" in snapshot.consistency.reason


BINS = 30
TOKENS = 300


def make_bins(kazoo: KazooClient, root: str) -> None:
    """Bins that hold tokens as children, and their number as data."""
    kazoo.create(root)
    create_all(kazoo, [f"{root}/bin-{number:02d}" for number in range(BINS)])
    for number in range(TOKENS):
        kazoo.create(f"{root}/bin-{number % BINS:02d}/token-{number}")
    for number in range(BINS):
        kazoo.set(f"{root}/bin-{number:02d}", str(TOKENS // BINS).encode())


class Mover(threading.Thread):
    """Moves tokens from bin to bin, each move a transaction, in bursts with pauses: some scans fall into a pause."""

    def __init__(self, kazoo: KazooClient, root: str) -> None:
        super().__init__(daemon=True)
        self._kazoo, self._root = kazoo, root
        self.stop = threading.Event()
        self.moves = 0

    def run(self) -> None:
        rng = random.Random(3)
        bins = [{f"token-{number}" for number in range(first, TOKENS, BINS)} for first in range(BINS)]
        while not self.stop.wait(rng.choice([0, 0, 0.001, 0.02, 0.1])):
            for _ in range(rng.randrange(1, 6)):
                giver = rng.choice([number for number in range(BINS) if bins[number]])
                taker = rng.choice([number for number in range(BINS) if number != giver])
                token = rng.choice(sorted(bins[giver]))
                bins[giver].remove(token)
                bins[taker].add(token)
                batch = self._kazoo.transaction()
                batch.delete(f"{self._root}/bin-{giver:02d}/{token}")
                batch.create(f"{self._root}/bin-{taker:02d}/{token}")
                for number in (giver, taker):
                    batch.set_data(f"{self._root}/bin-{number:02d}", str(len(bins[number])).encode())
                results = batch.commit()
                assert not any(isinstance(result, Exception) for result in results)
                self.moves += 1


@contextmanager
def moving(kazoo: KazooClient, root: str) -> Iterator[Mover]:
    mover = Mover(kazoo, root)
    mover.start()
    try:
        yield mover
    finally:
        mover.stop.set()
        mover.join()


def is_whole(snapshot: Snapshot) -> bool:
    """Whether it can be one state: every token once, and every bin's data its number of tokens."""
    bins = snapshot.children(snapshot.root)
    held = {name: snapshot.children(f"{snapshot.root}/{name}") for name in bins}
    tokens = sorted(token for names in held.values() for token in names)
    counts = {name: int(snapshot[f"{snapshot.root}/{name}"].data or b"") for name in bins}
    return (
        tokens == sorted(f"token-{number}" for number in range(TOKENS))
        and all(counts[name] == len(held[name]) for name in bins)
        and all(znode.stat.num_children == len(snapshot.children(path)) for path, znode in snapshot.items())
    )


def test_what_claims_to_be_one_state_by_zxids_is_one(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Unwatched scans under moving tokens. Negative control: without the rule, torn ones would have been taken."""
    kazoo = kazoo_client(zk)
    make_bins(kazoo, tree_root)
    one_state = torn = 0
    with NotingClient(zk) as client, moving(kazoo, tree_root) as mover:
        while one_state < 20 or torn < 20:
            assert mover.is_alive()
            snapshot = scan(client, Scope(tree_root), watched=False)
            assert snapshot.zxid_first <= snapshot.zxid_last
            if not snapshot.is_fuzzy:
                assert is_whole(snapshot)
                one_state += 1
            else:
                assert "zxid" in snapshot.consistency.reason or "faster" in snapshot.consistency.reason
                torn += not is_whole(snapshot)
    assert mover.moves > 100
    with NotingClient(zk) as client:
        assert not scan(client, Scope(tree_root), watched=False).is_fuzzy


@pytest.mark.parametrize("known", [False, True])
def test_a_watched_scan_is_one_state_though_others_write(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, known: bool
) -> None:
    """Tokens move all the time: each scan, or rescan, comes to one state, in which their total holds."""
    kazoo = kazoo_client(zk)
    make_bins(kazoo, tree_root)
    by_watch = 0
    snapshot = None
    with NotingClient(zk) as client, moving(kazoo, tree_root) as mover:
        while by_watch < 40:
            assert mover.is_alive()
            snapshot = scan(client, Scope(tree_root), known=snapshot if known else None)
            assert not snapshot.is_fuzzy, snapshot.consistency.reason
            assert is_whole(snapshot)
            by_watch += "watch" in snapshot.consistency.reason
    assert mover.moves > 100


def test_a_watch_that_is_not_listened_to_is_found_out(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with the events thrown away, the same scans claim one state for trees that are none."""
    kazoo = kazoo_client(zk)
    make_bins(kazoo, tree_root)
    monkeypatch.setattr(TreeWatch, "_dirty", lambda *_: set())
    torn = 0
    with NotingClient(zk) as client, moving(kazoo, tree_root) as mover:
        while not torn:
            assert mover.is_alive()
            snapshot = scan(client, Scope(tree_root))
            torn += not snapshot.is_fuzzy and not is_whole(snapshot)


def test_churn_without_end_is_called_fuzzy_over_its_zxids(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Before each request another znode is created, so that the watch always tells of one that was not read."""
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/a", tree_root + "/a/b"])
    first_zxid = kazoo.last_zxid
    number = 0

    def before(_: Read | Write | Bulk) -> None:
        nonlocal number
        number += 1
        kazoo.create(f"{tree_root}/a/{number}")

    with NotingClient(zk) as client:
        client.before = before
        snapshot = scan(client, Scope(tree_root))
    assert number > settle.ROUNDS_MIN
    assert snapshot.is_fuzzy
    assert first_zxid <= snapshot.zxid_first < snapshot.zxid_last <= kazoo.last_zxid
    assert "faster than they could be read" in snapshot.consistency.reason


def test_acls_that_change_all_the_time_belong_to_their_znodes(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A writer sets ACLs whose id tells the aversion that they will have: each snapshot of one state has them so."""
    kazoo = kazoo_client(zk)
    nodes = [f"{tree_root}/{number}" for number in range(40)]
    create_all(kazoo, [tree_root, *nodes])
    stop = threading.Event()

    def write() -> None:
        aversions = dict.fromkeys(nodes, 0)
        rng = random.Random(13)
        while not stop.is_set():
            node = rng.choice(nodes)
            aversions[node] += 1
            acl = [make_acl("world", "anyone", all=True), make_acl("digest", f"n:{aversions[node]}", read=True)]
            kazoo.set_acls(node, acl)

    writer = threading.Thread(target=write)
    writer.start()
    one_state = seen_moving = 0
    try:
        with NotingClient(zk) as client:
            while one_state < 30 or not seen_moving:
                assert writer.is_alive()
                snapshot = scan(client, Scope(tree_root))
                if snapshot.is_fuzzy:
                    assert "ACL" in snapshot.consistency.reason
                    continue
                one_state += 1
                for node in nodes:
                    acl, aversion = snapshot[node].acl, snapshot[node].stat.aversion
                    assert (acl[1].id == f"n:{aversion}") if aversion else len(acl) == 1
                asked = client.asked(GetAcl)
                seen_moving += len(asked) > len(set(asked))
                client.requests.clear()
    finally:
        stop.set()
        writer.join()


def toggle(kazoo: KazooClient, path: str) -> None:
    if kazoo.exists(path):
        kazoo.delete(path)
    else:
        kazoo.create(path)


READS = (OP_MULTI_READ, OP_GET_ACL, OP_EXISTS, OP_ADD_WATCH, OP_SYNC)


@pytest.mark.parametrize("with_known", [False, True])
@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
def test_a_scan_goes_on_after_its_connection_is_lost(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, with_known: bool, fate: Fate
) -> None:
    """The connection is cut at each request in turn, and something is written while it is down.

    The watch went with it: the scan sets another, scans again, and ends with the tree as it is, of one state.
    """
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, *(f"{tree_root}/{name}" for name in ("a", "a/b", "a/c", "d"))])
    cut_at, is_cut = 0, True
    with Proxy(zk.port) as proxy:
        while is_cut:
            seen, is_cut = 0, False
            proxy.judge = lambda *_: Fate.PASS
            with NotingClient(proxy) as client:
                known = scan(client, Scope(tree_root)) if with_known else None

                def judge(opcode: int, _: int, cut_at: int = cut_at) -> Fate:
                    nonlocal seen, is_cut
                    seen += opcode in READS
                    if opcode not in READS or seen != cut_at + 1:
                        return Fate.PASS
                    is_cut = True
                    kazoo.set(f"{tree_root}/a/b", str(cut_at).encode())
                    toggle(kazoo, f"{tree_root}/now-and-then")
                    return fate

                proxy.judge = judge
                snapshot = scan(client, Scope(tree_root), known=known)
                assert seen_by(snapshot) == walk(kazoo, tree_root)
                assert not snapshot.is_fuzzy
            cut_at += 1
    assert cut_at > (3 if with_known else 6)


def test_a_lost_side_connection_costs_nothing_but_time(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """ACLs of 3,000 znodes are asked for over several connections, each of which is cut at its 100th getACL."""
    kazoo = kazoo_client(fresh_zk)
    create_all(kazoo, ["/app", *(f"/app/{number}" for number in range(3_000))])
    with Proxy(fresh_zk.port) as proxy:
        asked = 0

        def judge(opcode: int, _: int) -> Fate:
            nonlocal asked
            asked += opcode == OP_GET_ACL
            return Fate.LOST if opcode == OP_GET_ACL and asked in (700, 1_900) else Fate.PASS

        proxy.judge = judge
        with NotingClient(proxy) as client:
            snapshot = scan(client, Scope("/app"))
    assert proxy.cuts == 2
    assert seen_by(snapshot) == walk(kazoo, "/app")
    assert not snapshot.is_fuzzy


def test_the_rule_holds_whichever_member_answers(ensemble: Ensemble, kazoo_client: KazooClientFactory) -> None:
    """The same through each member of an ensemble in turn, which may lag; afterwards all show the same tree."""
    kazoo = kazoo_client(ensemble)
    make_bins(kazoo, "/bins")
    with moving(kazoo, "/bins"):
        for member in ensemble.members:
            with NotingClient(member) as client:
                one_state = 0
                while one_state < 5:
                    snapshot = scan(client, Scope("/bins"))
                    if not snapshot.is_fuzzy:
                        assert is_whole(snapshot)
                        one_state += 1
    walked = walk(kazoo, "/bins")
    for member in ensemble.members:
        with Client(parse_hosts(member.hosts), zxid_floor=kazoo.last_zxid) as client:
            assert seen_by(scan(client, Scope("/bins"))) == walked


def test_without_multi_read_no_state_is_claimed(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    create_all(kazoo_client(zk), [tree_root, tree_root + "/a"])
    with SingleClient(zk) as client:
        snapshot = scan(client, Scope(tree_root))
    assert snapshot.is_fuzzy
    assert "multiRead" in snapshot.consistency.reason


def test_a_scan_of_an_old_server_reads_it_once(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """There is no watch that could be lost."""
    create_all(kazoo_client(zk), [tree_root, tree_root + "/a"])
    with SingleClient(zk) as client:
        scan(client, Scope(tree_root))
        assert sorted(client.asked(GetAcl)) == [tree_root, tree_root + "/a"]


def test_no_watch_outlives_a_scan(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """Also where the root was not there: whoever creates it over the same session is not told of each znode."""
    kazoo = kazoo_client(zk)
    with NotingClient(zk) as client:
        for _ in range(2):
            scan_or_none(client, Scope(tree_root))
            toggle(kazoo, tree_root)
            client.exists("/")
            assert client.take_watch_events() == []


def test_children_that_come_while_a_round_is_taken_in_do_not_keep_it_from_being_a_state(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """After each read of data, and before each read of an ACL, another child is created: what was told before it
    counts, and a child that was read together with the parent that lists it is not missing."""
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/a", tree_root + "/a/b"])
    number = 0

    def before(request: Read | Write | Bulk) -> None:
        nonlocal number
        if paths_of(request, GetAcl):
            number += 1
            kazoo.create(f"{tree_root}/a/{number}")

    with NotingClient(zk) as client:
        client.before = before
        snapshot = scan(client, Scope(tree_root))
    assert not snapshot.is_fuzzy, snapshot.consistency.reason
    assert "watch" in snapshot.consistency.reason
    assert 0 < number <= 8
    assert len(snapshot) == 3 + sum(1 for path in snapshot if path.rpartition("/")[2].isdigit())
    assert snapshot[tree_root + "/a"].stat.num_children == len(snapshot.children(tree_root + "/a"))


# -- changes at chosen moments ----------------------------------------------------------------------------------------


def reads(request: Read | Write | Bulk, path: str) -> bool:
    return path in paths_of(request) and not asks_acl_of(request, path)


def asks_acl_of(request: Read | Write | Bulk, path: str) -> bool:
    return path in paths_of(request, GetAcl)


def once_before(
    client: NotingClient, when: Callable[[Read | Write | Bulk], bool], act: Callable[[], object]
) -> list[bool]:
    """Act when the first such request is about to go out. The list is not empty once that has happened."""
    done: list[bool] = []

    def before(request: Read | Write | Bulk) -> None:
        if not done and when(request):
            done.append(True)
            act()

    client.before = before
    return done


def test_a_change_between_two_requests_makes_it_fuzzy_over_their_zxids(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/a", tree_root + "/a/b"])
    with NotingClient(zk) as client:
        acted = once_before(
            client, lambda request: reads(request, tree_root + "/a/b"), lambda: kazoo.set(tree_root + "/a/b", b"!")
        )
        before = scan(client, Scope(tree_root), watched=False) if not acted else None
        after = scan(client, Scope(tree_root), watched=False)
    assert before is not None
    assert before.is_fuzzy
    assert before.zxid_first < before[tree_root + "/a/b"].stat.mzxid <= before.zxid_last
    assert seen_by(before) == seen_by(after) == walk(kazoo, tree_root)
    assert not after.is_fuzzy


def test_an_acl_set_between_data_and_acl_is_noticed(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """setACL leaves no zxid; the node is read again, so that data and ACL are of one aversion."""
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/a", tree_root + "/b"])
    with NotingClient(zk) as client:
        acted = once_before(
            client,
            lambda request: asks_acl_of(request, tree_root + "/a"),
            lambda: kazoo.set_acls(tree_root + "/a", [make_acl("world", "anyone", read=True)]),
        )
        snapshot = scan(client, Scope(tree_root))
    assert acted
    assert snapshot[tree_root + "/a"].acl == (Acl(READ, "world", "anyone"),)
    assert snapshot[tree_root + "/a"].stat.aversion == 1
    assert not snapshot.is_fuzzy
    assert seen_by(snapshot) == walk(kazoo, tree_root)


def test_an_acl_that_never_rests_makes_it_fuzzy(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/a"])
    with NotingClient(zk) as client:

        def before(request: Read | Write | Bulk) -> None:
            if asks_acl_of(request, tree_root + "/a"):
                kazoo.set_acls(tree_root + "/a", [make_acl("world", "anyone", all=True)])

        client.before = before
        snapshot = scan(client, Scope(tree_root))
    assert snapshot.is_fuzzy
    assert "ACL" in snapshot.consistency.reason
    assert list(snapshot) == [tree_root, tree_root + "/a"]


CHURN: dict[str, Callable[[KazooClient, str], object]] = {
    "a leaf goes": lambda kazoo, root: kazoo.delete(root + "/a/leaf"),
    "a leaf goes and another comes": lambda kazoo, root: (
        kazoo.delete(root + "/a/leaf"),
        kazoo.create(root + "/a/other/deep", makepath=True),
    ),
    "a subtree goes": lambda kazoo, root: kazoo.delete(root + "/a", recursive=True),
    "a subtree goes and comes back smaller": lambda kazoo, root: (
        kazoo.delete(root + "/a", recursive=True),
        kazoo.create(root + "/a/sub/new", b"new", makepath=True),
    ),
    "everything below the root goes": lambda kazoo, root: (
        kazoo.delete(root + "/a", recursive=True),
        kazoo.delete(root + "/z", recursive=True),
    ),
    "a wide parent loses half": lambda kazoo, root: [kazoo.delete(f"{root}/wide/{n:03d}") for n in range(100)],
    "a node becomes an ephemeral": lambda kazoo, root: (
        kazoo.delete(root + "/a/sub", recursive=True),
        kazoo.create(root + "/a/sub", ephemeral=True),
    ),
}


@pytest.mark.parametrize("churn", CHURN)
@pytest.mark.parametrize("moment", ["/a/leaf", "/a/sub/one", "/a", "/wide/150", "acl:/a", "acl:/a/leaf", "acl:/z"])
def test_what_comes_and_goes_during_a_scan_is_settled_not_skipped(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, churn: str, moment: str
) -> None:
    """One burst of deletes and creates at one moment: a snapshot of one state equals the tree before it or after it.

    A fuzzy one may hold some of both, but every parent in it has exactly the children that its Stat counts, and what
    was there before and after is there.
    """
    kazoo = kazoo_client(zk)
    tails = ["", "/a", "/a/leaf", "/a/sub", "/a/sub/one", "/a/sub/two", "/a/sub/two/three", "/wide", "/z", "/z/y"]
    create_all(kazoo, [tree_root + tail for tail in (*tails, *(f"/wide/{number:03d}" for number in range(200)))])
    before = walk(kazoo, tree_root)
    kind, _, tail = moment.rpartition(":")

    def is_the_moment(request: Read | Write | Bulk) -> bool:
        if kind == "acl":
            return asks_acl_of(request, tree_root + tail)
        return reads(request, tree_root + tail)

    with NotingClient(zk) as client:
        acted = once_before(client, is_the_moment, lambda: CHURN[churn](kazoo, tree_root))
        snapshot = scan(client, Scope(tree_root))
    assert acted
    after = walk(kazoo, tree_root)
    if not snapshot.is_fuzzy:
        assert seen_by(snapshot) in (before, after)
    assert {path for path in before if path in after and before[path].stat[0] == after[path].stat[0]} <= set(snapshot)
    assert set(snapshot) <= set(before) | set(after)
    for path, znode in snapshot.items():
        assert znode.stat.num_children == len(snapshot.children(path)), path


def _swapped(is_it: Callable[[Read | Write | Bulk, str], bool], path: str, request: Read | Write | Bulk) -> bool:
    return is_it(request, path)


def test_a_root_that_vanishes_midway_is_absent(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    kazoo = kazoo_client(zk)
    for moment in (tree_root, tree_root + "/a"):
        for is_it in (reads, asks_acl_of):
            create_all(kazoo, [tree_root, tree_root + "/a"])
            with NotingClient(zk) as client:
                acted = once_before(
                    client,
                    partial(_swapped, is_it, moment),
                    lambda: kazoo.delete(tree_root, recursive=True),
                )
                assert scan_or_none(client, Scope(tree_root)) is None
                assert acted


def test_endless_churn_ends_in_a_fuzzy_snapshot_that_says_so(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Whenever a child is about to be read it is deleted, and another takes its place."""
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/queue", tree_root + "/queue/0", tree_root + "/rest"])
    number = 0
    with NotingClient(zk) as client:

        def before(request: Read | Write | Bulk) -> None:
            nonlocal number
            if reads(request, f"{tree_root}/queue/{number}"):
                kazoo.delete(f"{tree_root}/queue/{number}")
                number += 1
                kazoo.create(f"{tree_root}/queue/{number}")

        client.before = before
        snapshot = scan(client, Scope(tree_root))
    assert number >= settle.ROUNDS_MIN
    assert snapshot.is_fuzzy
    assert "faster than they could be read" in snapshot.consistency.reason
    assert list(snapshot) == [tree_root, tree_root + "/queue", tree_root + "/rest"]


def test_a_znode_whose_acl_was_never_there_does_not_get_another_ones(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """It is there whenever its data is read, gone whenever its ACL is: even a fuzzy snapshot makes up no ACL for it."""
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/rest", tree_root + "/rest/a"])
    blinking = tree_root + "/blinks"
    acl = [make_acl("world", "anyone", all=True), make_acl("ip", "10.0.0.1", read=True)]
    kazoo.create(blinking, b"", acl=acl)
    blinks = 0

    def before(request: Read | Write | Bulk) -> None:
        nonlocal blinks
        is_there = kazoo.exists(blinking) is not None
        if asks_acl_of(request, blinking) and is_there:
            kazoo.delete(blinking)
            blinks += 1
        elif reads(request, blinking) and not is_there:
            kazoo.create(blinking, b"", acl=acl)

    with NotingClient(zk) as client:
        client.before = before
        snapshot = scan(client, Scope(tree_root))
    assert blinks >= settle.ROUNDS_MIN
    assert snapshot.is_fuzzy
    assert list(snapshot) == [tree_root, tree_root + "/rest", tree_root + "/rest/a"]


def test_nodes_that_stay_are_in_every_snapshot_under_churn(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A writer creates and deletes subtrees at random among nodes that stay; no scan misses one of these, or fails."""
    kazoo = kazoo_client(zk)
    staying = [tree_root, *(f"{tree_root}/p{number}" for number in range(40))]
    staying += [f"{tree_root}/p{number}/stays" for number in range(40)]
    create_all(kazoo, staying)
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        rng = random.Random(5)
        there: set[str] = set()
        try:
            while not stop.is_set():
                subtree = f"{rng.choice(staying)}/t{rng.randrange(30)}"
                if subtree in there:
                    kazoo.delete(subtree, recursive=True)
                    there.remove(subtree)
                else:
                    create_all(kazoo, [subtree, *(f"{subtree}/{number}" for number in range(rng.randrange(6)))])
                    there.add(subtree)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    writer = threading.Thread(target=churn)
    writer.start()
    vanished = 0
    try:
        with NotingClient(zk) as client:
            deadline = time.monotonic() + 30
            while vanished < 10 and time.monotonic() < deadline:
                client.requests.clear()
                snapshot = scan(client, Scope(tree_root))
                assert set(staying) <= set(snapshot)
                listed = client.asked(GetChildren)
                vanished += len(listed) > len(set(listed))
    finally:
        stop.set()
        writer.join()
    assert not failures
    assert vanished >= 10
    with NotingClient(zk) as client:
        assert seen_by(scan(client, Scope(tree_root))) == walk(kazoo, tree_root)


# -- permissions ------------------------------------------------------------------------------------------------------


def test_a_node_that_may_not_be_read_stops_the_scan_by_name(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, *(f"{tree_root}/{number}" for number in range(100))], b"secret")
    kazoo.set_acls(tree_root + "/77", [ANN_ACL])
    with NotingClient(zk) as client:
        with pytest.raises(NotPermitted) as caught:
            scan(client, Scope(tree_root))
        assert caught.value.where == tree_root + "/77"
        assert caught.value.exit_code == 6
        assert "--auth-file" in str(caught.value)
        assert "secret" not in str(caught.value)
        narrowed = scan(client, Scope(tree_root, (tree_root + "/77",)))
        assert len(narrowed) == 100
    with NotingClient(zk, (ANN,)) as client:
        assert scan(client, Scope(tree_root))[tree_root + "/77"].data == b"secret"


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_znode_that_no_watch_tells_of_is_not_left_out(
    zk: Server,
    tree_root: str,
    kazoo_client: KazooClientFactory,
    monkeypatch: pytest.MonkeyPatch,
    is_counted: bool,
) -> None:
    """After its parent was read, a znode is created that this session may not read, and then something else is written.

    The server fires no event for it. Negative control: without the census, one state is claimed that lacks it.
    """
    kazoo, ann = kazoo_client(zk), kazoo_client(zk)
    ann.add_auth("digest", "ann:hunter2")
    tails = ["", "/p", "/p/a", "/q", *(f"/q/{number}" for number in range(200))]
    create_all(kazoo, [tree_root + tail for tail in tails])

    def hide() -> None:
        ann.create(tree_root + "/p/secret", b"", acl=[ANN_ACL])
        kazoo.set(tree_root + "/q/1", b"written after it")

    if not is_counted:
        monkeypatch.setattr(Settling, "_counts", ())
    with NotingClient(zk) as client:
        acted = once_before(client, lambda request: asks_acl_of(request, tree_root + "/p/a"), hide)
        if is_counted:
            with pytest.raises(NotPermitted) as caught:
                scan(client, Scope(tree_root))
            assert caught.value.where == tree_root + "/p/secret"
        else:
            snapshot = scan(client, Scope(tree_root))
            assert not snapshot.is_fuzzy
            assert tree_root + "/p/secret" not in snapshot
    assert acted


def test_what_the_scope_leaves_out_is_not_counted(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """The whole server, less subtrees, one of them not there, one inside another: the census agrees with the scan."""
    kazoo = kazoo_client(fresh_zk)
    create_all(kazoo, ["/a", "/a/x", "/a/x/y", "/b", "/b/c", "/zkmig", "/zkmig/scopes"])
    scope = Scope("/", ("/zookeeper", "/zkmig", "/a/x", "/a/x/y", "/none"))
    with NotingClient(fresh_zk) as client:
        acted = once_before(client, lambda request: asks_acl_of(request, "/b/c"), lambda: kazoo.set("/b/c", b"!"))
        snapshot = scan(client, scope)
        assert any(isinstance(request, GetAllChildrenNumber) for request in client.requests)
    assert acted
    assert list(snapshot) == ["/", "/a", "/b", "/b/c"]
    assert not snapshot.is_fuzzy
    assert "watch" in snapshot.consistency.reason


def test_a_masked_acl_is_not_taken_for_the_real_one(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Readable by all, ADMIN for ann: without ADMIN the server shows "ann:x", which nobody could log in as."""
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, tree_root + "/a"])
    kazoo.set_acls(tree_root + "/a", [ANN_ACL, make_acl("world", "anyone", read=True)])
    with NotingClient(zk) as client:
        with pytest.raises(NotPermitted) as caught:
            scan(client, Scope(tree_root))
        assert caught.value.where == tree_root + "/a"
        masked = scan(client, Scope(tree_root), masked_acls=True)
        assert masked[tree_root + "/a"].acl == (Acl(31, "digest", "ann:x"), Acl(READ, "world", "anyone"))
    with NotingClient(zk, (ANN,)) as client:
        whole = scan(client, Scope(tree_root))
    full = Acl(31, "digest", digest_id("ann", "hunter2"))
    assert whole[tree_root + "/a"].acl == (full, Acl(READ, "world", "anyone"))


# -- ACLs known beforehand --------------------------------------------------------------------------------------------


def test_a_rescan_asks_only_for_what_moved(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """Given an earlier snapshot: data of all, ACLs where czxid or aversion moved, child lists where pzxid did."""
    kazoo = kazoo_client(zk)
    parents = [f"{tree_root}/{number}" for number in range(50)]
    create_all(kazoo, [tree_root, *parents, *(parent + "/leaf" for parent in parents)])
    with NotingClient(zk) as client:
        first = scan(client, Scope(tree_root))
        assert sorted(client.asked(GetAcl)) == sorted(first)
        assert sorted(client.asked(GetChildren)) == sorted([tree_root, *parents])
        kazoo.set_acls(tree_root + "/7", [make_acl("world", "anyone", read=True)])
        kazoo.delete(tree_root + "/8", recursive=True)
        kazoo.create(tree_root + "/8", acl=[make_acl("world", "anyone", all=True)])
        kazoo.create(tree_root + "/8/other")
        kazoo.create(tree_root + "/9/new/deep", makepath=True)
        kazoo.delete(tree_root + "/10/leaf")
        kazoo.set(tree_root + "/11", b"data alone")
        client.requests.clear()
        second = scan(client, Scope(tree_root), known=first)
        assert seen_by(second) == walk(kazoo, tree_root)
        assert not second.is_fuzzy
        moved = [tree_root + tail for tail in ("/8", "/8/other", "/9/new", "/9/new/deep")]
        assert sorted(client.asked(GetAcl)) == [tree_root + "/7", *moved]
        # /10 has no child left, and what was gone when it was read is looked for through its parents.
        assert {tree_root + tail for tail in ("/8", "/9")} <= set(client.asked(GetChildren))
        assert not set(parents[11:]) & set(client.asked(GetChildren))
        client.requests.clear()
        assert seen_by(scan(client, Scope(tree_root), known=second)) == walk(kazoo, tree_root)
        assert client.asked(GetAcl) == client.asked(GetChildren) == []


@pytest.mark.parametrize("churn", CHURN)
@pytest.mark.parametrize("moment", ["", "/a/leaf", "/a/sub/one", "/wide/150"])
def test_a_rescan_settles_what_comes_and_goes(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory, churn: str, moment: str
) -> None:
    """One burst of deletes and creates before a rescan (no moment) or in its midst: it ends with the tree after it."""
    kazoo = kazoo_client(zk)
    tails = ["", "/a", "/a/leaf", "/a/sub", "/a/sub/one", "/a/sub/two", "/a/sub/two/three", "/wide", "/z", "/z/y"]
    create_all(kazoo, [tree_root + tail for tail in (*tails, *(f"/wide/{number:03d}" for number in range(200)))])
    with NotingClient(zk) as client:
        known = scan(client, Scope(tree_root))
        if moment:
            acted = once_before(
                client, lambda request: reads(request, tree_root + moment), lambda: CHURN[churn](kazoo, tree_root)
            )
        else:
            acted = [True]
            CHURN[churn](kazoo, tree_root)
        snapshot = scan(client, Scope(tree_root), known=known)
    assert acted
    assert not snapshot.is_fuzzy
    assert seen_by(snapshot) == walk(kazoo, tree_root)


def test_what_hangs_in_the_air_for_a_moment_is_no_fault(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A known parent is gone when it is asked for, and back with its children when these are asked for."""
    kazoo = kazoo_client(zk)
    subtree = [tree_root + "/a", *(f"{tree_root}/a/{number:03d}" for number in range(200))]
    create_all(kazoo, [tree_root, *subtree])
    with NotingClient(zk) as client:
        known = scan(client, Scope(tree_root))
        kazoo.delete(tree_root + "/a", recursive=True)
        acted = once_before(
            client, lambda request: reads(request, tree_root + "/a/150"), lambda: create_all(kazoo, subtree, b"again")
        )
        snapshot = scan(client, Scope(tree_root), known=known)
    assert acted
    assert not snapshot.is_fuzzy
    assert seen_by(snapshot) == walk(kazoo, tree_root)


def test_a_rescan_asks_for_large_znodes_a_few_at_a_time(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """Those known to be large are asked for by their size; of many new children of a known parent a sample first."""
    kazoo = kazoo_client(fresh_zk)
    small = [f"/{top}/{number}" for top in ("a", "c", "d") for number in range(1_500)]
    create_all(kazoo, ["/a", "/b-large", "/c", "/d", "/e-large", "/e-large/one", *small])
    for number in range(60):
        kazoo.create(f"/b-large/{number}", bytes(200_000))
    with NotingClient(fresh_zk) as client:
        known = scan(client, Scope("/"))
        for number in range(100):
            kazoo.create(f"/e-large/{number}", bytes(200_000))
        client.requests.clear()
        snapshot = scan(client, Scope("/"), known=known)
        asked = [
            [path for path in paths_of(request, GetData) if "-large/" in path and path != "/e-large/one"]
            for request in client.requests
        ]
    assert sum(len(znode.data or b"") for znode in snapshot.values()) == 160 * 200_000
    assert sum(map(len, asked)) == 160
    assert max(map(len, asked)) == frontier.SAMPLE_CHILDREN


def test_what_is_known_of_another_scope_is_not_used(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    create_all(kazoo, [tree_root, *(tree_root + tail for tail in ("/a", "/a/b", "/c"))])
    with NotingClient(zk) as client:
        narrow = scan(client, Scope(tree_root, (tree_root + "/a",)))
        assert seen_by(scan(client, Scope(tree_root), known=narrow)) == walk(kazoo, tree_root)
        whole = scan(client, Scope(tree_root))
        assert list(scan(client, Scope(tree_root, (tree_root + "/a",)), known=whole)) == [tree_root, tree_root + "/c"]
        assert list(scan(client, Scope(tree_root + "/a"), known=whole)) == [tree_root + "/a", tree_root + "/a/b"]


# -- servers of another kind, or small --------------------------------------------------------------------------------


def test_counters_that_are_not_apache_zookeepers_are_refused(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """One node's cversion is shown as ClickHouse Keeper would, which counts setData as well."""
    create_all(kazoo_client(zk), [tree_root, tree_root + "/a", tree_root + "/a/b"])

    def count_one_more(request: Read | Write | Bulk, raw: bytes) -> bytes:
        if paths_of(request, GetData) != [tree_root + "/a"]:
            return raw
        at = 16 + 9 + 4 + 36  # headers, the length of the data, which is empty, and what precedes cversion in a Stat
        (cversion,) = struct.unpack_from(">i", raw, at)
        return raw[:at] + struct.pack(">i", cversion + 1) + raw[at + 4 :]

    with RewritingClient(zk) as client:
        scan(client, Scope(tree_root))
        client.rewrite = count_one_more
        with pytest.raises(BadInput, match="Keeper") as caught:
            scan(client, Scope(tree_root))
    assert caught.value.where == tree_root + "/a"


def test_a_reply_that_is_none_ends_the_scan_with_its_place(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    create_all(kazoo_client(zk), [tree_root, tree_root + "/a"])
    with RewritingClient(zk) as client:
        client.rewrite = lambda _, raw: raw[:-1]
        with pytest.raises(ProtocolFault, match="truncated multi header at byte") as caught:
            scan(client, Scope(tree_root))
    assert caught.value.where == tree_root


def test_counters_foretell_the_next_sequential_name(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    grow(kazoo, tree_root)
    with NotingClient(zk) as client:
        snapshot = scan(client, Scope(tree_root))
    parents = [path for path, znode in snapshot.items() if znode.stat.num_children]
    for path in random.Random(2).sample(parents, 30):
        assert kazoo.create(f"{path}/next-", sequence=True) == f"{path}/next-{snapshot[path].counter:010d}"


def test_large_siblings_are_asked_for_a_few_at_a_time(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    """100 siblings of 200 kB after 3,000 small nodes: only a sample of them is asked for unawares."""
    kazoo = kazoo_client(fresh_zk)
    kazoo.create("/large")
    create_all(kazoo, ["/app", *(f"/app/{number}" for number in range(3_000))])
    for number in range(100):
        kazoo.create(f"/large/{number}", bytes(200_000))
    with NotingClient(fresh_zk) as client:
        assert sum(len(znode.data or b"") for znode in scan(client, Scope("/")).values()) == 100 * 200_000
        asked = [
            [path for path in paths_of(request, GetData) if path.startswith("/large/")] for request in client.requests
        ]
        assert max(len(paths_of(request, GetData)) for request in client.requests) > 500
    asked_at_once = list(map(len, asked))
    assert sum(asked_at_once) == 100
    assert max(asked_at_once) == frontier.SAMPLE_CHILDREN


@pytest.mark.nightly
def test_a_server_of_small_heap_survives_a_scan(kazoo_client: KazooClientFactory) -> None:
    """120 siblings of 900 kB after many small nodes, in a heap that holds them little more than twice."""
    with Server(heap_mb=320) as server:
        kazoo = kazoo_client(server)
        kazoo.create("/big")
        for number in range(120):
            kazoo.create(f"/big/{number}", bytes(900_000))
            # The server keeps its last 500 transactions in its heap as well [37]: small ones push the large out.
            for _ in range(25):
                kazoo.set_async("/big", b"x")
        create_all(kazoo, ["/app", *(f"/app/{number}" for number in range(5_000))])
        with NotingClient(server) as client:
            snapshot = scan(client, Scope("/"))
        assert len(snapshot) == 5_123
        assert sum(len(znode.data or b"") for znode in snapshot.values()) == 120 * 900_000 + 1
