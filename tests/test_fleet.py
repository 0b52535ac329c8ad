"""Several sessions as one: every read that is posted is answered once, whichever connections are lost on the way.

Method: a real server behind a proxy for each session that shall be hurt; the proxy cuts at a chosen request, so that
the loss lies between requests that are known. What comes back is compared with what kazoo wrote.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from tests.conftest import KazooClientFactory
from tests.proxy import Fate, Proxy
from zkmig.dev import Server
from zkmig.errors import Unreachable
from zkmig.source.location import parse_hosts
from zkmig.wire import fleet as fleet_module
from zkmig.wire.client import CLOSE_TIMEOUT_S, Client
from zkmig.wire.codes import Code
from zkmig.wire.credential import Credential
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.fleet import LEAD, LOSSES_MAX, WIDEN_TIMEOUT_S, Arrival, Fleet
from zkmig.wire.replies import DataResult, RawResult
from zkmig.wire.requests import OP_GET_ACL, OP_GET_DATA, OP_MULTI_READ, GetAclMany, GetData, ReadMany

COUNT = 60
WAIT_S = 30.0


@pytest.fixture
def paths(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> list[str]:
    """Znodes whose data is their number."""
    kazoo = kazoo_client(zk)
    kazoo.create(tree_root)
    made = [f"{tree_root}/{number:03d}" for number in range(COUNT)]
    for number, path in enumerate(made):
        kazoo.create_async(path, str(number).encode())
    assert kazoo.get(made[-1])[0] == str(COUNT - 1).encode()
    return made


@pytest.fixture
def proxy(zk: Server) -> Iterator[Proxy]:
    with Proxy(zk.port) as one:
        yield one


def column_of(paths: Sequence[str]) -> tuple[bytes, array[int]]:
    offsets = array("Q", (0,))
    for path in paths:
        offsets.append(offsets[-1] + len(path))
    return "".join(paths).encode(), offsets


def bursts(paths: Sequence[str], size: int) -> list[GetAclMany]:
    """getACL of all paths, so many in a burst."""
    column = column_of(paths)
    return [
        GetAclMany(*column, array("i", range(first, min(first + size, len(paths)))))
        for first in range(0, len(paths), size)
    ]


def all_arrivals(fleet: Fleet, requests: Sequence[tuple[int, GetData | ReadMany]] = ()) -> list[Arrival]:
    """Post requests on their lanes; what arrives until nothing is under way."""
    for lane, request in requests:
        fleet.post(lane, request)
    found: list[Arrival] = []
    deadline = time.monotonic() + WAIT_S
    while arrived := fleet.arrivals():
        found += arrived
        assert time.monotonic() < deadline
    return found


def widened(fleet: Fleet, lanes: int) -> None:
    for _ in range(lanes):
        assert fleet.widen()


def data_of(arrivals: Sequence[Arrival]) -> dict[str, bytes | None]:
    """What GetData found, by path; each path must have been answered once."""
    found: dict[str, bytes | None] = {}
    for _, request, reply in arrivals:
        assert isinstance(request, GetData)
        assert isinstance(reply.result, DataResult)
        assert request.path not in found
        found[request.path] = reply.result.data
    return found


def expected_data(paths: Sequence[str]) -> dict[str, bytes]:
    return {path: str(number).encode() for number, path in enumerate(paths)}


def replies_in(result: object) -> int:
    """Frames in the answer to a burst."""
    assert isinstance(result, RawResult)
    raw, count = result.received, 0
    while raw:
        raw = raw[4 + int.from_bytes(raw[:4]) :]
        count += 1
    return count


def cut_once(opcode: int, after: int, fate: Fate) -> Callable[[int, int], Fate]:
    """A judge for the request of this kind that follows so many of them; all others pass."""
    seen = 0

    def judge(asked: int, _: int) -> Fate:
        nonlocal seen
        if asked != opcode:
            return Fate.PASS
        seen += 1
        return fate if seen == after + 1 else Fate.PASS

    return judge


# -- whole connections ------------------------------------------------------------------------------------------------


def test_reads_of_all_kinds_over_several_lanes(zk: Server, paths: list[str]) -> None:
    """Single reads, a multiRead and bursts at once; each is answered on its lane, a lane's in their order."""
    with Client(parse_hosts(zk.hosts)) as client, Fleet(client) as fleet:
        widened(fleet, 3)
        assert fleet.others == [1, 2, 3]
        column = column_of(paths)
        posted: dict[int, list[object]] = {}
        requests: list[GetData | GetAclMany | ReadMany] = [*map(GetData, paths[:20]), *bursts(paths, 7)]
        requests.append(ReadMany(*column, array("i", range(COUNT)), OP_GET_DATA))
        for number, each in enumerate(requests):
            fleet.post(number % 4, each)
            posted.setdefault(number % 4, []).append(each)
        assert [fleet.under_way(lane) for lane in range(4)] == [len(posted[lane]) for lane in range(4)]
        found: dict[int, list[object]] = {}
        for lane, request, reply in all_arrivals(fleet):
            found.setdefault(lane, []).append(request)
            assert reply.error == Code.OK
            if isinstance(request, GetAclMany):
                assert replies_in(reply.result) == len(request.nodes)
        assert found == posted
        assert fleet.arrivals() == []
        assert fleet.losses == 0


def test_lanes_have_the_identities_of_the_leading_session_and_go_with_the_fleet(
    zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    kazoo = kazoo_client(zk)
    kazoo.add_auth("digest", "ann:hunter2")
    kazoo.create(tree_root, b"secret", acl=[make_digest_acl("ann", "hunter2", all=True)])
    sessions: list[Client] = []
    with Client(parse_hosts(zk.hosts), auth=(Credential("digest", b"ann:hunter2"),)) as client:
        with Fleet(client) as fleet:
            widened(fleet, 1)
            sessions += [lane.client for lane in fleet._lanes.values()]
            fleet.post(1, GetData(tree_root))
            assert data_of(all_arrivals(fleet)) == {tree_root: b"secret"}
        assert [each.is_connected for each in sessions] == [True, False]


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.TORN, Fate.UNANSWERED])
def test_a_side_lane_that_is_lost_is_done_without(zk: Server, proxy: Proxy, paths: list[str], fate: Fate) -> None:
    """Its requests are asked of the leading session, a burst whole; that has lost nothing."""
    with Client(parse_hosts(zk.hosts)) as client, Fleet(client) as fleet:
        with Client(parse_hosts(proxy.hosts)) as other:
            fleet._lanes[7] = fleet_module._Lane(other)  # not by `widen`, which goes where the leading session is
            first, *others = bursts(paths, 6)
            fleet.post(7, first)
            arrivals = fleet.arrivals()
            proxy.judge = cut_once(OP_GET_ACL, 17, fate)
            for request in others:
                fleet.post(7 if 7 in fleet.others else LEAD, request)
            arrivals += all_arrivals(fleet)
        assert proxy.cuts == 1
        assert [replies_in(reply.result) for _, _, reply in arrivals] == [6] * 10
        assert Counter(request.path for _, request, _ in arrivals) == Counter(paths[::6])
        assert {lane for lane, _, _ in arrivals} == {LEAD, 7}
        assert (fleet.others, fleet.losses) == ([], 0)
        fleet.post(LEAD, GetData(paths[3]))
        assert data_of(all_arrivals(fleet)) == {paths[3]: b"3"}


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.TORN, Fate.UNANSWERED])
def test_the_leading_session_is_taken_up_again_and_asked_again(
    zk: Server, proxy: Proxy, paths: list[str], fate: Fate
) -> None:
    """The same session; what was answered before the loss stays so, the rest is answered once; the loss is counted."""
    other = Client(parse_hosts(zk.hosts))
    with Client([*parse_hosts(proxy.hosts), ("127.0.0.1", zk.port)]) as client, other, Fleet(client) as fleet:
        fleet._lanes[1] = fleet_module._Lane(other)
        before = client.session_id
        proxy.judge = cut_once(OP_GET_DATA, 25, fate)
        for number, path in enumerate(paths):
            fleet.post(number % 2, GetData(path))
        assert data_of(all_arrivals(fleet)) == expected_data(paths)
        assert (proxy.cuts, fleet.losses, client.session_id) == (1, 1, before)


def test_a_burst_that_was_half_answered_is_asked_again_whole(zk: Server, proxy: Proxy, paths: list[str]) -> None:
    """The replies that came before the loss do not get into the answer twice."""
    with Client([*parse_hosts(proxy.hosts), ("127.0.0.1", zk.port)]) as client, Fleet(client) as fleet:
        proxy.judge = cut_once(OP_GET_ACL, 40, Fate.UNANSWERED)
        (burst,) = bursts(paths, COUNT)
        fleet.post(LEAD, burst)
        ((lane, request, reply),) = all_arrivals(fleet)
        assert (lane, request, replies_in(reply.result)) == (LEAD, burst, COUNT)
        assert fleet.losses == 1


def test_losses_are_counted_and_one_too_many_ends_it(proxy: Proxy, paths: list[str]) -> None:
    """Every multiRead is cut: after LOSSES_MAX times the loss is the caller's."""
    with Client(parse_hosts(proxy.hosts)) as client, Fleet(client) as fleet:
        proxy.judge = lambda opcode, _: Fate.LOST if opcode == OP_MULTI_READ else Fate.PASS
        request = ReadMany(*column_of(paths), array("i", (0, 1)), OP_GET_DATA)
        with pytest.raises(ConnectionLost):
            all_arrivals(fleet, [(LEAD, request)])
        assert (fleet.losses, proxy.cuts) == (LOSSES_MAX, LOSSES_MAX + 1)


def ask_the_leading_session_alone(fleet: Fleet, request: ReadMany) -> None:
    """Without `arrivals`, which would also bring what others were asked."""
    fleet.post(LEAD, request)
    while not fleet._take(LEAD):
        fleet._wait()


def test_a_fleet_that_gave_up_begins_anew_with_nothing_under_way(zk: Server, proxy: Proxy, paths: list[str]) -> None:
    """The leading session is lost once too often while another has answers to come: nobody is told of them later."""
    with Client(parse_hosts(proxy.hosts)) as client, Client(parse_hosts(zk.hosts)) as other, Fleet(client) as fleet:
        fleet._lanes[1] = fleet_module._Lane(other)
        proxy.judge = lambda opcode, _: Fate.LOST if opcode == OP_MULTI_READ else Fate.PASS
        fleet.post(1, bursts(paths, COUNT)[0])
        with pytest.raises(ConnectionLost):
            ask_the_leading_session_alone(fleet, ReadMany(*column_of(paths), array("i", (0, 1)), OP_GET_DATA))
        client.reconnect()
        assert fleet.others == []
        fleet.post(LEAD, GetData(paths[3]))
        assert data_of(all_arrivals(fleet)) == {paths[3]: b"3"}


def test_sessions_of_a_server_that_is_silent_are_left_together(fresh_zk: Server) -> None:
    """Taking leave is waited for once, not once for each: whoever stops a scan waits as long as that takes."""
    with Client(parse_hosts(fresh_zk.hosts)) as client:
        try:
            with Fleet(client) as fleet:
                widened(fleet, 4)
                fresh_zk.pause()
                before = time.monotonic()
            assert CLOSE_TIMEOUT_S <= time.monotonic() - before < 2 * CLOSE_TIMEOUT_S
        finally:
            fresh_zk.unpause()


def test_a_server_that_is_gone_is_told(fresh_zk: Server) -> None:
    """The error of taking the session up again; lanes are closed all the same."""
    with Client(parse_hosts(fresh_zk.hosts), connect_timeout_s=1.0) as client, Fleet(client) as fleet:
        widened(fleet, 2)
        fresh_zk.kill()
        with pytest.raises(Unreachable):
            all_arrivals(fleet, [(lane, GetData("/")) for lane in (1, 2, LEAD)])
        assert fleet.losses == 1


def test_all_lanes_lost_with_the_server_are_asked_again_when_it_is_back(fresh_zk: Server) -> None:
    """Nothing is under way on lanes that went: the leading session answers for all."""
    client = Client(parse_hosts(fresh_zk.hosts), session_timeout_ms=60_000, connect_timeout_s=60.0)
    with client, Fleet(client) as fleet:
        widened(fleet, 2)
        fresh_zk.pause()  # what is posted now is not answered before the end
        for lane in (LEAD, 1, 2):
            fleet.post(lane, GetData("/"))
        fresh_zk.kill()
        fresh_zk.start()
        arrivals = all_arrivals(fleet)
        assert [(lane, reply.error) for lane, _, reply in arrivals] == [(LEAD, 0)] * 3
        assert (fleet.others, fleet.losses) == ([], 1)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_server_that_admits_no_more_connections_leaves_those_that_are(kazoo_client: KazooClientFactory) -> None:
    """maxClientCnxns 3: beside the leading session and kazoo there is room for one lane; the fleet goes on with it."""
    with Server(config={"maxClientCnxns": 3}) as server:
        kazoo: KazooClient = kazoo_client(server)
        kazoo.create("/n", b"here")
        with Client(parse_hosts(server.hosts)) as client, Fleet(client) as fleet:
            assert fleet.widen()
            before = time.monotonic()
            assert not fleet.widen()
            assert time.monotonic() - before < 2 * WIDEN_TIMEOUT_S  # a scan waits for it
            assert fleet.others == [1]
            for lane in (LEAD, 1):
                fleet.post(lane, GetData("/n"))
            arrivals = all_arrivals(fleet)
            assert [reply.error for _, _, reply in arrivals] == [0, 0]
            assert {lane for lane, _, _ in arrivals} == {LEAD, 1}
        kazoo.stop()
