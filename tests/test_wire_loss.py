"""What a client says when the connection, the server or the session goes: may a write have landed, and what now.

Method: real servers are stopped, killed and let go on; a client is kept from beating by holding its lock. kazoo tells
from outside what became of sessions. Every wait is for a condition, never for a while.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient

from tests.conftest import KazooClientFactory
from zkmig.dev import Ensemble, Server
from zkmig.errors import BadInput, Outcome, OutcomeUnknown, Stopped, Unreachable
from zkmig.model.acl import ALL, OPEN_ACL, Acl
from zkmig.wire import requests as rq
from zkmig.wire.client import Client, Credential, probe_frame_limit
from zkmig.wire.faults import ConnectionLost, SessionExpired
from zkmig.wire.requests import AddWatch, Create, GetData, Multi, SetData, Sync

SESSION_MS = 1_000  # the shortest that these servers grant
WAIT_S = 30.0


def hosts(server: Server) -> list[tuple[str, int]]:
    return [("127.0.0.1", server.port)]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.01)


@pytest.fixture
def brief(fresh_zk: Server) -> Iterator[Client]:
    """A client with the shortest session, on a server of its own; /e is its ephemeral, /n a node."""
    with Client(hosts(fresh_zk), session_timeout_ms=1) as client:
        assert client.session_timeout_ms == SESSION_MS
        client.call(Create("/e", b"", OPEN_ACL, rq.FLAG_EPHEMERAL))
        client.call(Create("/n", b"0", OPEN_ACL))
        yield client


# -- staying alive ----------------------------------------------------------------------------------------------------


def test_an_idle_session_outlives_its_timeout(brief: Client, kazoo_client: KazooClientFactory) -> None:
    """Compute for three session timeouts without touching the client: same session, ephemeral there."""
    before = brief.session_id
    deadline = time.monotonic() + 3 * SESSION_MS / 1000
    while time.monotonic() < deadline:
        sum(range(10_000))  # holds the interpreter, as hashing and diffing do
    assert brief.is_connected
    assert brief.session_id == before
    stat = brief.exists("/e")
    assert stat is not None
    assert stat.ephemeral_owner == before
    assert kazoo_client(f"127.0.0.1:{brief.server[1]}").exists("/e") is not None


def test_a_session_outlives_a_slow_consumer_of_a_pipeline(brief: Client) -> None:
    """The loop that takes replies dawdles past the timeout between two of them; the rest still comes."""
    replies = brief.pipeline([Sync(f"/{number}") for number in range(30)], 10)
    first = next(replies)
    deadline = time.monotonic() + 2 * SESSION_MS / 1000
    while time.monotonic() < deadline:
        sum(range(10_000))
    assert [first.error, *(reply.error for reply in replies)] == [0] * 30
    assert brief.is_connected


def test_a_session_is_beaten_while_a_call_waits(brief: Client) -> None:
    """A call that waits for three timeouts (for an event that never comes) keeps the session alive by itself."""
    brief.call(AddWatch("/n", rq.WATCH_PERSISTENT))
    started = time.monotonic()
    assert brief.take_watch_events(3 * SESSION_MS / 1000) == []
    assert time.monotonic() - started >= 3 * SESSION_MS / 1000
    assert brief.exists("/e") is not None


def test_a_client_that_is_dropped_without_close_lets_its_session_end(
    fresh_zk: Server, kazoo_client: KazooClientFactory
) -> None:
    """Its heartbeat does not keep it alive for ever: the ephemeral goes, as after a crash."""
    client = Client(hosts(fresh_zk), session_timeout_ms=1)
    client.connect()
    client.call(Create("/e", b"", OPEN_ACL, rq.FLAG_EPHEMERAL))
    del client
    kazoo = kazoo_client(fresh_zk)
    wait_until(lambda: kazoo.exists("/e") is None, "the session's end")


# -- a server that falls silent or dies -------------------------------------------------------------------------------


def test_a_silent_server_leaves_a_write_unknown_and_a_read_harmless(fresh_zk: Server, brief: Client) -> None:
    """Stop the server. A write that was sent is OutcomeUnknown after 2/3 of the timeout; a read says that nothing was
    written; and a call on the lost connection sends nothing any more."""
    with Client(hosts(fresh_zk), session_timeout_ms=1) as reader:
        fresh_zk.pause()
        try:
            started = time.monotonic()
            with pytest.raises(
                OutcomeUnknown, match=r"^/n: setData was sent, but 127.0.0.1:.* has been silent"
            ) as unknown:
                brief.call(SetData("/n", b"1", 0))
            assert SESSION_MS / 1000 * 2 / 3 <= time.monotonic() - started < 10
            assert unknown.value.outcome is Outcome.UNKNOWN
            with pytest.raises(ConnectionLost) as lost:
                reader.call(GetData("/n"))
            assert lost.value.outcome is Outcome.NOTHING_WRITTEN
            with pytest.raises(ConnectionLost) as unsent:
                brief.call(SetData("/n", b"2", 1))
            assert unsent.value.outcome is Outcome.NOTHING_WRITTEN
        finally:
            fresh_zk.unpause()
    # The first was sent once and is one step; the second never left.
    with Client(hosts(fresh_zk)) as after:
        assert after.call(GetData("/n")).data in (b"0", b"1")


def test_a_killed_server_ends_a_pipeline_at_the_right_place(fresh_zk: Server) -> None:
    """Kill the server in the middle of a pipeline of conditional writes: as many applied as were answered, plus at most
    those unanswered; the error says that the outcome is unknown."""
    answered = 0
    depth = 8
    with Client(hosts(fresh_zk)) as client:
        client.call(Create("/n", b"", OPEN_ACL))
        with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the loop is what is tested
            for reply in client.pipeline((SetData("/n", b"", version) for version in range(1_000_000)), depth):
                assert reply.error == 0
                answered += 1
                if answered == 500:
                    fresh_zk.kill()
        assert not client.is_connected
        fresh_zk.restart()
        client.reconnect()
        stat = client.exists("/n")
    assert stat is not None
    assert answered <= stat.version <= answered + depth


def test_what_was_answered_before_the_end_is_told(fresh_zk: Server) -> None:
    """A call made meanwhile is answered after the 20 requests sent before it; then the server dies. All 20 replies are
    handed out, and the loss comes after them."""
    with Client(hosts(fresh_zk)) as client:
        replies = client.pipeline((Sync(f"/{number}") for number in range(1_000)), 20)
        told = [next(replies)]
        client.call(Sync("/"))
        fresh_zk.kill()
        with pytest.raises(ConnectionLost):
            told.extend(replies)
        assert len(told) >= 20
        assert not any(reply.error for reply in told)


# -- sessions that end ------------------------------------------------------------------------------------------------


def wait_for_expiry(kazoo: KazooClient) -> None:
    wait_until(lambda: kazoo.exists("/e") is None, "the session's end")


def test_a_client_that_slept_learns_that_its_session_is_gone(
    fresh_zk: Server, brief: Client, kazoo_client: KazooClientFactory
) -> None:
    """No beat until the server has ended the session (the client's lock is held, as if its process were stopped). The
    next write is not sent at all; reconnect() says expired, again and again; nothing opens a new session silently."""
    with brief._lock:
        wait_for_expiry(kazoo_client(fresh_zk))
    with pytest.raises(ConnectionLost) as lost:
        brief.call(SetData("/n", b"1", 0))
    assert lost.value.outcome is Outcome.NOTHING_WRITTEN
    for _ in range(2):
        with pytest.raises(SessionExpired, match="the session has expired; open a new session"):
            brief.reconnect()
        with pytest.raises(SessionExpired):
            brief.call(SetData("/n", b"1", 0))
    with Client(hosts(fresh_zk), zxid_floor=brief.last_zxid) as after:
        assert after.call(GetData("/n")).data == b"0"


def test_a_write_that_the_end_of_the_session_overtook_is_unknown(
    fresh_zk: Server, brief: Client, kazoo_client: KazooClientFactory
) -> None:
    """The server is stopped past the session's time-out with a write in its socket: the client cannot know whether that
    was read before the session ended. It says so, and after the server has gone on, that the session is gone."""
    fresh_zk.pause()
    try:
        with pytest.raises(OutcomeUnknown):
            brief.call(SetData("/n", b"1", 0))
    finally:
        fresh_zk.unpause()
    wait_for_expiry(kazoo_client(fresh_zk))
    with pytest.raises(SessionExpired):
        brief.reconnect()
    with pytest.raises(SessionExpired):
        brief.call(GetData("/n"))


def test_a_restarted_server_takes_the_session_up_again(fresh_zk: Server) -> None:
    """The session outlives its server: same id, ephemeral still there, credentials given again."""
    secret = Credential("digest", b"me:pw")
    with Client(hosts(fresh_zk), auth=[secret], session_timeout_ms=30_000) as client:
        identity = secret.identity
        assert identity is not None
        client.call(Create("/e", b"", OPEN_ACL, rq.FLAG_EPHEMERAL))
        client.call(Create("/mine", b"1", (Acl(ALL, *identity),)))
        session_id, seen = client.session_id, client.last_zxid
        fresh_zk.kill()
        with pytest.raises(ConnectionLost):
            client.call(Sync("/"))
        fresh_zk.restart()
        client.reconnect()
        assert client.session_id == session_id
        assert client.last_zxid >= seen
        stat = client.exists("/e")
        assert stat is not None
        assert stat.ephemeral_owner == session_id
        assert client.call(GetData("/mine")).data == b"1"


def test_reconnect_drops_a_connection_that_stands(zk: Server) -> None:
    """The session moves to the new connection, and a close still removes it."""
    with Client(hosts(zk)) as client:
        session_id = client.session_id
        client.reconnect()
        assert client.session_id == session_id
        assert client.call(Sync("/")).path == "/"


def test_another_member_takes_the_session_up(ensemble: Ensemble) -> None:
    """Kill the member in use; reconnect() finds another, where the session, its ephemeral and all it has seen are."""
    members = [("127.0.0.1", member.port) for member in ensemble.members]
    with Client(members, session_timeout_ms=30_000) as client:
        client.call(Create("/moved", b"", OPEN_ACL, rq.FLAG_EPHEMERAL))
        seen, first = client.last_zxid, client.server
        member = ensemble.members[members.index(first)]
        member.kill()
        try:
            with pytest.raises(ConnectionLost):
                client.call(Sync("/"))
            client.reconnect()
            assert client.server != first
            stat = client.exists("/moved")
            assert stat is not None
            assert stat.ephemeral_owner == client.session_id
            assert client.last_zxid >= seen
        finally:
            member.restart()
            ensemble.wait_ready()


# -- connecting -------------------------------------------------------------------------------------------------------


def test_a_server_behind_the_floor_is_passed_over(zk: Server, ensemble: Ensemble) -> None:
    """A floor that a server has not reached: it refuses, and the next host is tried; alone, it is named as the reason.
    The ensemble's zxids are above those of the single server, since they begin with the number of its leader's term."""
    member = ("127.0.0.1", ensemble.members[0].port)
    with Client([member]) as client:
        floor = client.last_zxid
    assert floor > zk.zxid()
    with Client([*hosts(zk), member], zxid_floor=floor) as client:
        assert client.server == member
        assert client.last_zxid >= floor
    with pytest.raises(Unreachable, match="or not serving, or behind what this session has seen"):
        Client(hosts(zk), zxid_floor=floor, connect_timeout_s=0.3).connect()
    with Client(hosts(zk), zxid_floor=zk.zxid()) as client:
        assert client.is_connected


def test_nobody_listening_is_told_at_once() -> None:
    """No server at the address: an error naming it, without waiting for the whole time-out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        started = time.monotonic()
        with pytest.raises(Unreachable, match=rf"127.0.0.1:{address[1]} connection refused\)"):
            Client([address]).connect()
    assert time.monotonic() - started < 5


def test_a_port_out_of_range_is_bad_input() -> None:
    """Refused before anything is tried."""
    for port in (0, 65_536):
        with pytest.raises(BadInput, match=f"^h:{port}: not a port"):
            Client([("h", port)])


def test_a_host_that_is_down_is_skipped(zk: Server) -> None:
    """The first host refuses, the second serves."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Client([taken.getsockname(), *hosts(zk)]) as client:
            assert client.server == ("127.0.0.1", zk.port)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 64])
def test_a_name_that_does_not_resolve_is_told(name: str) -> None:
    """A typing error in a host name is an ordinary error with that name in it."""
    with pytest.raises(Unreachable, match=re.escape(f"({name}:2181 ")):
        Client([(name, 2181)]).connect()


def test_what_is_no_zookeeper_is_told() -> None:
    """A web server at the address: a line that says what was found, at once rather than after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="sent what is no ZooKeeper reply"):
            Client([server.getsockname()]).connect()
        thread.join()


def test_a_silent_listener_takes_no_longer_than_the_connect_timeout() -> None:
    """A port that accepts and never answers; the check for a stop is made meanwhile."""
    checks: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer in time"):
            Client(
                [server.getsockname()], connect_timeout_s=1.2, check_stop=lambda: checks.append(time.monotonic())
            ).connect()
        assert 1.0 <= time.monotonic() - started < 5
    assert len(checks) >= 2


def test_the_probe_tells_a_dead_server_from_a_small_limit(zk: Server) -> None:
    """A server that answers nothing is Unreachable, not one with a small frame limit."""
    assert probe_frame_limit(hosts(zk), 14)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            probe_frame_limit([taken.getsockname()], 14)


# -- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["call", "pipeline"])
def test_a_stop_is_obeyed_while_a_server_is_silent(fresh_zk: Server, how: str) -> None:
    """The server is stopped; check_stop raises soon. The call ends then, and says whether a write is under way: of a
    read nothing is unknown, of a write that was sent everything."""
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise Stopped("stopped")

    cases: list[tuple[GetData | Multi, Outcome]] = [
        (GetData("/"), Outcome.NOTHING_WRITTEN),
        (Multi((SetData("/", b"", 0),)), Outcome.UNKNOWN),
    ]
    with Client(hosts(fresh_zk), session_timeout_ms=60_000, check_stop=check_stop) as client:
        for request, outcome in cases:
            fresh_zk.pause()
            timer = threading.Timer(0.2, stop.set)
            timer.start()
            started = time.monotonic()
            try:
                with pytest.raises(Stopped) as stopped:
                    _ = client.call_reply(request) if how == "call" else list(client.pipeline([request] * 3, 2))
                assert time.monotonic() - started < 10  # far below the 40 s of silence that would end it otherwise
                assert stopped.value.outcome is outcome
            finally:
                fresh_zk.unpause()
                timer.join()
            stop.clear()
            assert client.call(Sync("/")).path == "/"  # the answers to what was abandoned are dropped, not mixed up


def test_no_thread_and_no_socket_is_left(zk: Server) -> None:
    """Open and close ten clients, some of them failing: threads and file descriptors are as before."""

    def count() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(10):
        with Client(hosts(zk)) as client:
            client.call(Sync("/"))
        with pytest.raises(Unreachable):
            Client(hosts(zk), zxid_floor=2**62, connect_timeout_s=0.0).connect()
    assert count() == before
