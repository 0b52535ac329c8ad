"""The client against real servers: every request kind, pipelines, authentication, and what the facts promise of reads.

Method: our client acts, plain kazoo looks (or the other way round). Losses are in test_wire_loss.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing

import pytest
from kazoo.security import make_acl, make_digest_acl_credential

from tests.conftest import KazooClientFactory
from zkmig.dev import Server
from zkmig.errors import NotPermitted
from zkmig.model.acl import ALL, OPEN_ACL, READ, Acl, Identity, digest_id
from zkmig.wire import replies as rp
from zkmig.wire import requests as rq
from zkmig.wire.client import Client, Credential, probe_frame_limit
from zkmig.wire.codes import Code, ServerError
from zkmig.wire.faults import FrameTooLarge
from zkmig.wire.requests import (
    AddWatch,
    Check,
    Create,
    Create2,
    CreateContainer,
    CreateTtl,
    Delete,
    Exists,
    GetAcl,
    GetChildren,
    GetChildren2,
    GetData,
    Multi,
    MultiRead,
    SetAcl,
    SetData,
    Sync,
)

ME = Credential("digest", b"me:hunter2")
MINE = (Acl(ALL, "digest", digest_id("me", "hunter2")),)


@pytest.fixture
def client(zk: Server, tree_root: str) -> Iterator[Client]:
    """A client of the shared server; tree_root is there."""
    with Client([("127.0.0.1", zk.port)]) as one:
        one.call(Create(tree_root, b"", OPEN_ACL))
        yield one


# -- one request at a time --------------------------------------------------------------------------------------------


def test_reads_agree_with_kazoo(zk: Server, client: Client, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """What each read gives equals what kazoo reads of a node that kazoo made."""
    kazoo = kazoo_client(zk)
    kazoo.create(
        tree_root + "/ü x%", b"data", acl=[make_acl("ip", "10.0.0.1", read=True), make_acl("world", "anyone", all=True)]
    )
    path = tree_root + "/ü x%"
    data, stat = kazoo.get(path)
    assert client.call(GetData(path)) == (data, tuple(stat))
    assert client.exists(path) == client.call(Exists(path)).stat == tuple(stat)
    assert client.call(GetChildren(tree_root)).children == kazoo.get_children(tree_root)
    parent = client.call(GetChildren2(tree_root))
    assert (parent.children, parent.stat.cversion) == (["ü x%"], 1)
    acl, _ = client.call(GetAcl(path))
    assert acl == (Acl(READ, "ip", "10.0.0.1"), Acl(ALL, "world", "anyone"))
    assert client.call(Sync(path)).path == path


def test_each_write_alone(client: Client, tree_root: str) -> None:
    """Creates of every kind, setData, setACL and delete; each answers with path or Stat."""
    assert client.call(Create(tree_root + "/s-", b"", OPEN_ACL, rq.FLAG_SEQUENTIAL)).path == tree_root + "/s-0000000000"
    creates: list[Create2 | CreateContainer | CreateTtl] = [
        Create2(tree_root + "/2", b"1", OPEN_ACL),
        CreateContainer(tree_root + "/c", b"1", OPEN_ACL),
        CreateTtl(tree_root + "/t", b"1", OPEN_ACL, 60_000),
    ]
    for number, request in enumerate(creates):
        created = client.call(request)
        assert created.path == request.path
        assert created.stat is not None
        assert created.stat.data_length == 1
        assert client.call(SetData(request.path, bytes(number), 0)).stat.version == 1
        assert client.call(SetAcl(request.path, (Acl(ALL, "world", "anyone"),), 0)).stat.aversion == 1
        assert client.call(Delete(request.path, 1)) == rp.DONE


def test_ephemerals_go_with_close(zk: Server, client: Client, tree_root: str) -> None:
    """An ephemeral belongs to the session that made it, and goes when close() returns."""
    with Client([("127.0.0.1", zk.port)]) as other:
        other.call(Create(tree_root + "/e", b"", OPEN_ACL, rq.FLAG_EPHEMERAL))
        stat = client.exists(tree_root + "/e")
        assert stat is not None
        assert stat.ephemeral_owner == other.session_id
    client.call(Sync(tree_root))
    assert client.exists(tree_root + "/e") is None


def test_null_and_empty_data_stay_apart(client: Client, tree_root: str) -> None:
    """None and b"" are two values: created, set and read back, alone and in multis."""
    for number, data in enumerate((None, b"")):
        path = f"{tree_root}/{number}"
        client.call(Create(path, data, OPEN_ACL))
        client.call(Multi((Create(path + "/m", data, OPEN_ACL), SetData(path, b"x", 0), SetData(path, data, 1))))
        client.call(SetData(path + "/m", data, 0))
        read = client.call(MultiRead((GetData(path), GetData(path + "/m"))))
        found = [part.data for part in read.results if isinstance(part, rp.DataResult)]
        assert found == [data, data]
        assert client.call(GetData(path)).data == data


def test_errors_are_raised_or_kept(client: Client, tree_root: str) -> None:
    """call() raises a ServerError that names path and operation; call_reply() leaves the code in the reply."""
    with pytest.raises(ServerError, match=f"^{tree_root}/x: getData refused: NoNode") as caught:
        client.call(GetData(tree_root + "/x"))
    assert caught.value.code == Code.NO_NODE
    reply = client.call_reply(Delete(tree_root, 7))
    assert (reply.error, reply.result) == (Code.BAD_VERSION, None)
    assert reply.zxid == client.last_zxid > 0


# -- multi and multiRead ----------------------------------------------------------------------------------------------


def test_every_operation_kind_in_one_multi(
    zk: Server, client: Client, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """One multi with all seven kinds applies as a whole, at one zxid, and each part answers in its own way."""
    result = client.call(
        Multi(
            (
                Check(tree_root, 0),
                Create(tree_root + "/plain-", b"1", OPEN_ACL, rq.FLAG_SEQUENTIAL),
                Create2(tree_root + "/two", None, OPEN_ACL),
                CreateContainer(tree_root + "/box", b"", OPEN_ACL),
                CreateTtl(tree_root + "/ttl", b"3", OPEN_ACL, 3_600_000),
                SetData(tree_root, b"4", 0),
                Create(tree_root + "/gone", b"", OPEN_ACL),
                Delete(tree_root + "/gone", 0),
            )
        )
    )
    check, plain, two, box, ttl, changed, gone, deleted = result.results
    assert [check, deleted] == [rp.DONE, rp.DONE]
    created = [part.path for part in (plain, two, box, ttl, gone) if isinstance(part, rp.CreateResult)]
    assert created == [tree_root + name for name in ("/plain-0000000000", "/two", "/box", "/ttl", "/gone")]
    assert isinstance(changed, rp.StatResult)
    assert changed.stat.mzxid == client.last_zxid
    kazoo = kazoo_client(zk)
    assert sorted(kazoo.get_children(tree_root)) == ["box", "plain-0000000000", "ttl", "two"]
    assert {kazoo.get(path)[1].czxid for path in created[:4]} == {client.last_zxid}


def test_a_failed_multi_applies_nothing_and_says_which(client: Client, tree_root: str) -> None:
    """The second of three fails: index, code and path are told, the first is undone, the zxid is used up."""
    operations = (Create(tree_root + "/a", b"", OPEN_ACL), Check(tree_root, 5), Create(tree_root + "/b", b"", OPEN_ACL))
    reply = client.call_reply(Multi(operations))
    assert isinstance(reply.result, rp.MultiResult)
    assert reply.result.results == tuple(map(rp.SubError, (Code.OK, Code.BAD_VERSION, Code.RUNTIME_INCONSISTENCY)))
    assert (reply.error, reply.result.failed_index) == (Code.BAD_VERSION, 1)
    with pytest.raises(ServerError) as caught:
        client.call(Multi(operations))
    assert (caught.value.index, caught.value.path, caught.value.operation) == (1, tree_root, "check")
    assert client.call(GetChildren(tree_root)).children == []


def test_a_multi_of_one_check_takes_a_zxid(client: Client, tree_root: str) -> None:
    """It goes through the leader like a write: the linearizable certificate that a version still holds."""
    before = client.last_zxid
    client.call(Multi((Check(tree_root, 0),)))
    assert client.last_zxid == before + 1


@pytest.mark.parametrize(
    ("kind", "part"), [(Multi, SetAcl("/", OPEN_ACL, -1)), (MultiRead, GetAcl("/"))], ids=["setACL", "getACL"]
)
def test_acl_requests_are_refused_inside_a_multi(
    client: Client, kind: Callable[[tuple[object, ...]], rq.Multi | rq.MultiRead], part: object
) -> None:
    """Servers have no such parts: MarshallingError for the whole request, and the connection goes on."""
    assert client.call_reply(kind((part,))).error == Code.MARSHALLING_ERROR
    assert client.call(Sync("/")).path == "/"


def test_a_multi_read_answers_each_part_for_itself(client: Client, tree_root: str) -> None:
    """A part that fails leaves the others alone; order is that of the request."""
    client.call(Create(tree_root + "/a", b"1", OPEN_ACL))
    parts = client.call(MultiRead((GetChildren(tree_root), GetData(tree_root + "/x"), GetData(tree_root + "/a"))))
    children, missing, data = parts.results
    assert (children, missing) == (rp.ChildrenResult(["a"]), rp.SubError(Code.NO_NODE))
    assert isinstance(data, rp.DataResult)
    assert data.data == b"1"
    assert client.has_multi_read


def test_reads_under_a_writer_are_whole_where_the_facts_say_so(
    zk: Server, client: Client, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """kazoo sets ten nodes to one value per transaction, without pause. Each multiRead must see one value; a set of
    single reads is one state exactly when max(mzxid) <= min(stamp), and the run must have met both kinds of sets."""
    paths = [f"{tree_root}/{number}" for number in range(10)]
    client.call(Multi(tuple(Create(path, b"0", OPEN_ACL) for path in paths)))
    stop = threading.Event()
    writer = threading.Thread(target=_write_in_step, args=(kazoo_client(zk), paths, stop))
    writer.start()
    try:
        seen, torn, whole, rounds = set(), 0, 0, 0
        while (rounds < 300 or not torn or not whole) and rounds < 5_000:
            rounds += 1
            parts = client.call(MultiRead(tuple(map(GetData, paths)))).results
            values = {part.data for part in parts if isinstance(part, rp.DataResult)}
            assert len(values) == 1, "a multiRead saw two states"
            seen |= values
            replies = list(client.pipeline(map(GetData, paths), 3))
            results = [reply.result for reply in replies if isinstance(reply.result, rp.DataResult)]
            assert len(results) == len(paths)
            is_one_state = max(one.stat.mzxid for one in results) <= min(reply.zxid for reply in replies)
            assert is_one_state == (len({one.data for one in results}) == 1)
            whole, torn = whole + is_one_state, torn + (not is_one_state)
        assert len(seen) > 10
        assert whole
        assert torn
    finally:
        stop.set()
        writer.join()


def _write_in_step(kazoo: object, paths: list[str], stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        transaction = kazoo.transaction()  # type: ignore[attr-defined]  # the factory's clients are KazooClients
        for path in paths:
            transaction.set_data(path, str(number).encode())
        transaction.commit()


# -- frames -----------------------------------------------------------------------------------------------------------


def test_the_frame_limit_is_exact(zk: Server, client: Client, tree_root: str) -> None:
    """The largest frame is taken, one byte more ends the connection; the client refuses it before sending anything."""
    host = [("127.0.0.1", zk.port)]
    assert probe_frame_limit(host, rq.FRAME_BYTES_MAX_DEFAULT)
    assert not probe_frame_limit(host, rq.FRAME_BYTES_MAX_DEFAULT + 1)
    empty = rq.frame_size(Multi((Create(tree_root + "/big", b"", OPEN_ACL),)))
    data = bytes(rq.FRAME_BYTES_MAX_DEFAULT - empty)
    with pytest.raises(FrameTooLarge, match="1048576 bytes, above the limit of 1048575"):
        client.call(Multi((Create(tree_root + "/big", data + b"!", OPEN_ACL),)))
    assert client.exists(tree_root + "/big") is None
    client.call(Multi((Create(tree_root + "/big", data, OPEN_ACL),)))
    assert client.call(GetData(tree_root + "/big")).data == data


def test_replies_may_be_larger_than_any_request(client: Client, tree_root: str) -> None:
    """Five nodes of 900 kB in one multiRead: jute.maxbuffer does not bind the server's own replies."""
    data = bytes(900_000)
    for number in range(5):
        client.call(Create(f"{tree_root}/{number}", data, OPEN_ACL))
    parts = client.call(MultiRead(tuple(GetData(f"{tree_root}/{number}") for number in range(5)))).results
    assert [part.data for part in parts if isinstance(part, rp.DataResult)] == [data] * 5


# -- pipelines --------------------------------------------------------------------------------------------------------


def test_a_pipeline_keeps_order_and_depth(client: Client, tree_root: str) -> None:
    """2,000 creates at depth 7: replies in order, and never more than seven pulled beyond those answered."""
    pulled = 0

    def creates() -> Iterator[Create]:
        nonlocal pulled
        for number in range(2_000):
            pulled += 1
            yield Create(f"{tree_root}/{number}", b"", OPEN_ACL)

    answered = 0
    for number, reply in enumerate(client.pipeline(creates(), 7)):
        assert reply.result == rp.CreateResult(f"{tree_root}/{number}")
        answered += 1
        assert pulled - answered <= 2 * 7  # seven unanswered, and up to seven replies not handed out yet
    assert answered == pulled == 2_000
    stat = client.exists(tree_root)
    assert stat is not None
    assert stat.num_children == 2_000


def test_a_pipeline_of_conditional_batches_stops_at_the_first_failure(client: Client, tree_root: str) -> None:
    """Each batch sets a cursor at its expected version: after one fails, all later ones are refused."""
    path = tree_root + "/cursor"
    client.call(Create(path, b"", OPEN_ACL))
    batches = [Multi((SetData(path, b"", i), Create(f"{tree_root}/{i}", b"", OPEN_ACL))) for i in range(20)]
    batches[7] = Multi((SetData(path, b"", 7), Create(f"{tree_root}/3", b"", OPEN_ACL)))
    replies = list(client.pipeline(batches, 4))
    assert [reply.error for reply in replies] == [0] * 7 + [Code.NODE_EXISTS] + [Code.BAD_VERSION] * 12
    assert client.call(GetData(path)).stat.version == 7


def test_other_calls_may_come_between_the_replies_of_a_pipeline(client: Client, tree_root: str) -> None:
    """A call inside the loop, and a second pipeline through it, get their own answers."""
    inner = client.pipeline([Sync(f"/inner-{number}") for number in range(50)], 5)
    for number, reply in enumerate(client.pipeline([Sync(f"/outer-{number}") for number in range(50)], 5)):
        assert reply.result == rp.PathResult(f"/outer-{number}")
        assert client.call(Sync(tree_root)).path == tree_root
        assert next(inner).result == rp.PathResult(f"/inner-{number}")


def test_a_pipeline_left_early_leaves_the_client_usable(client: Client, tree_root: str) -> None:
    """What is unanswered is abandoned; later calls get their own answers."""
    with closing(client.pipeline([Sync(f"/{number}") for number in range(50)], 10)) as replies:
        for _ in range(3):
            next(replies)
    for number in range(30):
        assert client.call(Sync(f"{tree_root}/{number}")).path == f"{tree_root}/{number}"


def test_an_error_of_the_source_comes_after_the_answers(client: Client, tree_root: str) -> None:
    """The source raises, or yields a frame that is too large: first all replies to what was sent, then the error."""

    def broken() -> Iterator[Create]:
        for number in range(25):
            yield Create(f"{tree_root}/a{number}", b"", OPEN_ACL)
        raise LookupError("source")

    def too_large() -> Iterator[Create]:
        for number in range(25):
            yield Create(f"{tree_root}/b{number}", b"" if number != 20 else bytes(2_000_000), OPEN_ACL)

    for source, error, count in ((broken(), LookupError, 25), (too_large(), FrameTooLarge, 20)):
        answered = 0
        with pytest.raises(error):  # noqa: PT012 - the loop is what is tested
            for reply in client.pipeline(source, 8):
                assert reply.error == 0
                answered += 1
        assert answered == count
    stat = client.exists(tree_root)
    assert stat is not None
    assert stat.num_children == 45


def test_several_threads_share_a_client(client: Client, tree_root: str) -> None:
    """Four threads call at once; each gets the answers to its own requests."""
    wrong: list[str] = []

    def call_many(name: str) -> None:
        wrong.extend(
            name for number in range(200) if client.call(Sync(f"/{name}-{number}")).path != f"/{name}-{number}"
        )

    threads = [threading.Thread(target=call_many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert client.exists(tree_root) is not None


# -- watches ----------------------------------------------------------------------------------------------------------


def test_events_of_a_multi_come_before_a_reply_that_reflects_it(
    zk: Server, client: Client, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A persistent recursive watch; kazoo writes, we read until it shows: by then its events are all there."""
    client.call(AddWatch(tree_root, rq.WATCH_PERSISTENT_RECURSIVE))
    kazoo = kazoo_client(zk)
    for number in range(50):
        transaction = kazoo.transaction()
        transaction.create(f"{tree_root}/{number}")
        transaction.set_data(tree_root, str(number).encode())
        pending = transaction.commit_async()
        while client.call(GetData(tree_root)).data != str(number).encode():
            pass
        events = client.take_watch_events()
        assert [(event.type, event.path) for event in events] == [(1, f"{tree_root}/{number}"), (3, tree_root)]
        assert len(pending.get(timeout=10)) == 2
    assert client.take_watch_events() == []


def test_waiting_for_a_watch_event(
    zk: Server, client: Client, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """take_watch_events waits up to its time-out, and returns as soon as an event is there."""
    client.call(GetData(tree_root, watch=True))
    assert client.take_watch_events(0.05) == []
    kazoo_client(zk).set(tree_root, b"x")
    assert [event.path for event in client.take_watch_events(30.0)] == [tree_root]


# -- who the client is ------------------------------------------------------------------------------------------------


def test_a_node_is_open_to_its_digest_alone(zk: Server, client: Client, tree_root: str) -> None:
    """The right secret reads and writes; no secret, and a wrong one, get NotPermitted and change nothing."""
    path = tree_root + "/mine"
    host = [("127.0.0.1", zk.port)]
    with Client(host, auth=[ME]) as owner:
        owner.call(Create(path, b"1", MINE))
        assert owner.identities == (Identity("digest", MINE[0].id), Identity("ip", "127.0.0.1"))
    with Client(host, auth=[Credential("digest", b"me:wrong")]) as stranger:
        for one in (client, stranger):
            with pytest.raises(NotPermitted, match=f"^{path}: getData refused: NoAuth"):
                one.call(GetData(path))
            with pytest.raises(NotPermitted, match="operation 1 of a multi"):
                one.call(Multi((Check(tree_root, -1), SetData(path, b"2", 0))))
    with Client(host, auth=[ME]) as owner:
        assert owner.call(GetData(path)).data == b"1"
    assert client.identities == (Identity("ip", "127.0.0.1"),)


def test_the_digest_is_kazoos(zk: Server, client: Client, tree_root: str, kazoo_client: KazooClientFactory) -> None:
    """The id we compute is the one kazoo computes, and the server compares with."""
    assert MINE[0].id == make_digest_acl_credential("me", "hunter2")
    client.call(Create(tree_root + "/mine", b"1", MINE))
    kazoo = kazoo_client(zk)
    kazoo.add_auth("digest", "me:hunter2")
    assert kazoo.get(tree_root + "/mine")[0] == b"1"


def test_who_lacks_admin_reads_masked_digests(zk: Server, client: Client, tree_root: str) -> None:
    """getACL hides the hash from a session that may read but not administer: what it gives is not the stored ACL."""
    acl = (*MINE, Acl(READ, "world", "anyone"))
    client.call(Create(tree_root + "/mine", b"", acl))
    assert client.call(GetAcl(tree_root + "/mine")).acl == (Acl(ALL, "digest", "me:x"), acl[1])
    with Client([("127.0.0.1", zk.port)], auth=[ME]) as owner:
        assert owner.call(GetAcl(tree_root + "/mine")).acl == acl


def test_an_acl_id_beyond_the_bmp_comes_back(zk: Server, client: Client, tree_root: str) -> None:
    """The server takes UTF-8 and sends two surrogates; the ACL read is the ACL written."""
    acl = (*OPEN_ACL, Acl(READ, "digest", "g\U0001f600:x"))
    client.call(Create(tree_root + "/smile", b"", acl))
    assert client.call(GetAcl(tree_root + "/smile")).acl == acl
    assert zk.is_running


def test_a_refused_credential_is_not_permitted(zk: Server) -> None:
    """A scheme that the server does not know: AuthFailed, with the server's address and without the secret."""
    with pytest.raises(
        NotPermitted, match=rf"^127.0.0.1:{zk.port}: nosuch authentication refused: AuthFailed"
    ) as caught:
        Client([("127.0.0.1", zk.port)], auth=[Credential("nosuch", b"hunter2")]).connect()
    assert "hunter2" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    """Neither a credential nor a client tells its secret."""
    assert "hunter2" not in repr(ME) + str(ME) + repr(Client([("127.0.0.1", 1)], auth=[ME]))
    assert "digest" in repr(ME)


def test_an_opcode_unknown_to_the_server_costs_one_reconnect(
    zk: Server, tree_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers Unimplemented and closes the connection; the questions about it take the session up again.

    A server of today stands in for an old one: whoAmI and multiRead are asked by opcodes that it does not have."""
    monkeypatch.setattr(rq.WhoAmI, "opcode", 999)
    monkeypatch.setattr(rq.MultiRead, "opcode", 998)
    with Client([("127.0.0.1", zk.port)], auth=[ME]) as client:
        session_id = client.session_id
        client.call(Create(tree_root, b"", OPEN_ACL, rq.FLAG_EPHEMERAL))
        assert client.identities == (Identity("digest", MINE[0].id),)
        assert not client.has_multi_read
        assert client.session_id == session_id
        stat = client.exists(tree_root)
        assert stat is not None
        assert stat.ephemeral_owner == session_id


def test_a_client_is_a_context_manager(zk: Server) -> None:
    """Typed as such, and connected inside."""
    one: AbstractContextManager[Client] = Client([("127.0.0.1", zk.port)])
    with one as client:
        assert client.is_connected
        assert client.server == ("127.0.0.1", zk.port)
        assert 1_000 <= client.session_timeout_ms <= 60_000
    assert not client.is_connected
