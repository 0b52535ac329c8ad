"""The session without a network: what it makes of any bytes, and what it says about unanswered writes.

Method: generated exchanges, cut into pieces, cut short and damaged at random; `feed` must never raise, never lose what
came before the damage, and never take damaged bytes for the answer to more requests than were asked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire_values import (
    PATHS,
    Exchange,
    exchanges,
    pack_part,
    pack_parts,
    pack_reply,
    pack_stat,
    pack_text,
    pack_welcome,
)
from zkmig.model.acl import OPEN_ACL
from zkmig.model.stat import Stat
from zkmig.wire import replies as rp
from zkmig.wire import requests as rq
from zkmig.wire.codes import Code
from zkmig.wire.faults import FrameTooLarge
from zkmig.wire.session import (
    TRANSITIONS,
    Answered,
    AuthAnswered,
    Broken,
    Connected,
    Event,
    Expired,
    Pong,
    Session,
    Signal,
    State,
    WatchEvent,
)

STAT = Stat(*range(1, 12))
SET = rq.SetData("/a", b"x", 0)


def connected(requests: Sequence[rq.Read | rq.Write] = (), *, floor: int = 0) -> Session:
    """A session past its welcome that has sent `requests`."""
    session = Session(timeout_ms=10_000, zxid_floor=floor)
    session.open()
    session.feed(pack_welcome(0x77, 4_000))
    for request in requests:
        session.submit(request)
    session.sent(len(session.output))
    return session


def stream(exchange_list: Sequence[Exchange]) -> bytes:
    """The replies to a row of requests, xids from 1, zxids from 101."""
    return b"".join(pack_reply(n, 100 + n, 0, each.body) for n, each in enumerate(exchange_list, 1))


def answers(events: Sequence[Event]) -> list[rp.Reply]:
    return [event.reply for event in events if isinstance(event, Answered)]


# -- beginning and end ------------------------------------------------------------------------------------------------


def test_the_connect_request_carries_the_floor() -> None:
    """A server that lags behind the floor must be able to refuse; layout by zookeeper.jute, ConnectRequest."""
    session = Session(timeout_ms=10_000, zxid_floor=0x500000001)
    session.open()
    assert bytes(session.output) == struct.pack(">iiqiqi", 45, 0, 0x500000001, 10_000, 0, 16) + bytes(17)


def test_a_session_is_taken_up_again_with_its_id_password_and_newest_zxid() -> None:
    """After a loss the next connect request names the session, and the newest zxid that any reply showed."""
    session = connected([rq.Sync("/")], floor=7)
    session.feed(pack_reply(1, 42, 0, pack_text("/")))
    session.feed(pack_reply(-1, -1, 0, struct.pack(">ii", 3, 3) + pack_text("/a")))  # events carry no zxid before 3.9
    session.end()
    session.open()
    assert bytes(session.output) == struct.pack(">iiqiqi", 45, 0, 42, 10_000, 0x77, 16) + b"p" * 16 + b"\0"
    session.feed(pack_welcome(0x77, 4_000))
    assert (session.state, session.session_id) == (State.CONNECTED, 0x77)


@pytest.mark.parametrize(("tail", "read_only"), [(b"", False), (b"\0", False), (b"\1", True)])
def test_the_read_only_byte_may_be_absent(tail: bytes, read_only: bool) -> None:
    """Old servers send none."""
    session = Session(timeout_ms=10_000)
    session.open()
    assert session.feed(pack_welcome(5, 4_000, tail=tail)) == [Connected(5, 4_000, read_only)]
    assert (session.timeout_ms, session.password) == (4_000, b"p" * 16)


def test_a_timeout_of_zero_means_expired() -> None:
    """The server's way to say that it no longer knows the session."""
    session = connected()
    session.end()
    session.open()
    assert session.feed(pack_welcome(0, 0, bytes(16))) == [Expired()]
    assert session.state is State.EXPIRED
    assert session.end() == []
    assert session.state is State.EXPIRED


def test_close_is_answered() -> None:
    """CloseSession is a request like others; its answer ends the session."""
    session = connected()
    states = [session.state]
    session.close()
    states.append(session.state)
    session.feed(pack_reply(1, 9, 0, b""))
    states.append(session.state)
    assert states == [State.CONNECTED, State.CLOSING, State.CLOSED]


def test_an_answer_of_session_expired_ends_the_session() -> None:
    """The request that got it was not carried out; those behind it are refused likewise, or not answered."""
    session = connected([SET, SET])
    replies = answers(session.feed(pack_reply(1, 9, Code.SESSION_EXPIRED, b"")))
    assert [reply.error for reply in replies] == [Code.SESSION_EXPIRED]
    assert session.state is State.EXPIRED
    assert len(session.end()) == 1


def test_every_move_outside_the_table_is_refused() -> None:
    """What the table does not allow cannot be done: a session that is closed or expired is never opened again."""
    assert not [pair for pair in TRANSITIONS if pair[0] in (State.CLOSED, State.EXPIRED) and pair[1] is Signal.REOPENED]
    session = Session(timeout_ms=1)
    with pytest.raises(RuntimeError, match="is lost, not connected"):
        session.submit(SET)
    with pytest.raises(RuntimeError):
        session.ping()


# -- replies ----------------------------------------------------------------------------------------------------------


@given(st.lists(exchanges(), max_size=6), st.lists(st.integers(1, 60), max_size=40))
def test_replies_come_back_however_they_are_cut(exchange_list: list[Exchange], sizes: list[int]) -> None:
    """Any row of requests and answers, arriving in pieces of any size, gives the same replies in order."""
    session = connected([each.request for each in exchange_list])
    rest = stream(exchange_list)
    replies: list[rp.Reply] = []
    for size in sizes:
        replies += answers(session.feed(rest[:size]))
        rest = rest[size:]
    replies += answers(session.feed(memoryview(rest)))
    assert [reply.result for reply in replies] == [each.result for each in exchange_list]
    assert [(reply.xid, reply.zxid) for reply in replies] == [(n, 100 + n) for n in range(1, len(exchange_list) + 1)]
    for reply, each in zip(replies, exchange_list, strict=True):
        assert reply.error == (each.result.code if isinstance(each.result, rp.MultiResult) else 0)
    assert not session.waits
    assert session.last_zxid == (100 + len(exchange_list) if exchange_list else 0)


def test_a_failed_multi_names_the_operation() -> None:
    """The reply header says 0 (FinalRequestProcessor); the parts say which failed, and Reply.error repeats it."""
    multi = rq.Multi((rq.Check("/", -1), rq.SetData("/a", b"", 3), rq.Delete("/b", 0)))
    session = connected([multi])
    parts = [pack_part(-1, struct.pack(">i", code), code) for code in (0, -103, -2)]
    (reply,) = answers(session.feed(pack_reply(1, 5, 0, pack_parts(parts))))
    assert isinstance(reply.result, rp.MultiResult)
    assert (reply.error, reply.result.failed_index, reply.result.code) == (Code.BAD_VERSION, 1, Code.BAD_VERSION)
    error = rp.failure(multi, reply)
    assert error is not None
    assert (error.path, error.operation, error.index) == ("/a", "setData", 1)
    assert str(error).startswith("/a: setData (operation 1 of a multi) refused: BadVersion")


def test_an_error_code_unknown_here_keeps_its_number() -> None:
    """A newer server's code is reported as it came."""
    session = connected([SET])
    (reply,) = answers(session.feed(pack_reply(1, 5, -999, b"")))
    error = rp.failure(SET, reply)
    assert error is not None
    assert (error.code, str(error)) == (-999, "/a: setData refused: error -999")


def test_pings_auth_and_watch_events_stand_beside_the_order() -> None:
    """Their xids are negative; none of them is taken for the answer that is due, nor delays it."""
    session = connected([rq.Sync("/")])
    session.ping()
    session.authenticate(rq.Auth("digest", b"me:pw"))
    events = session.feed(
        pack_reply(-4, 0, 0, b"")
        + pack_reply(-1, -1, 0, struct.pack(">ii", 4, 3) + pack_text("/a"))
        + pack_reply(-2, 8, 0, b"")
        + pack_reply(1, 9, 0, pack_text("/"))
    )
    assert events[:3] == [AuthAnswered("digest", 0), WatchEvent(4, 3, "/a"), Pong(8)]
    assert answers(events) == [rp.Reply(1, 9, 0, rp.PathResult("/"))]


# -- damage -----------------------------------------------------------------------------------------------------------


def test_an_answer_out_of_order_names_both_xids() -> None:
    """Replies come in the order of the requests; anything else means that the stream cannot be trusted."""
    session = connected([SET, SET])
    (event,) = session.feed(pack_reply(2, 5, 0, pack_stat(STAT)))
    assert isinstance(event, Broken)
    assert "request 2 where that to 1 is due" in str(event.fault)
    assert session.state is State.LOST
    assert [each.may_have_landed for each in session.end()] == [True, True]


def test_an_answer_that_nobody_asked_for_is_a_fault() -> None:
    """Also one to an auth that was not sent."""
    for xid in (1, rq.XID_AUTH):
        (event,) = connected().feed(pack_reply(xid, 5, 0, b""))
        assert isinstance(event, Broken)


@pytest.mark.parametrize("length", [-1, -(2**31), 2**31 - 1])
def test_an_impossible_frame_length_is_a_fault_at_once(length: int) -> None:
    """It must not make the session wait for two gigabytes."""
    (event,) = connected().feed(struct.pack(">i", length))
    assert isinstance(event, Broken)


@pytest.mark.parametrize(
    ("request_", "body", "complaint"),
    [
        (SET, pack_stat(STAT)[:-1], "truncated stat at byte 16"),
        (SET, pack_stat(STAT) + b"?", "1 bytes left over at byte 84"),
        (rq.Multi((SET,)), pack_parts([]), "reply to 1 parts ends after 0 at byte 16"),
        (rq.Multi(()), pack_parts([pack_part(2, b"")]), "more parts than the request at byte 16"),
        (rq.Multi((SET,)), pack_parts([pack_part(2, b"")]), "part of type 2 answers setData at byte 16"),
        (rq.MultiRead((rq.GetData("/"),)), pack_parts([pack_part(8, bytes(4))]), "type 8 answers getData at byte 16"),
        (rq.AddWatch("/", 0), struct.pack(">i", -4), "error -4 in its body at byte 16"),
    ],
)
def test_a_reply_of_the_wrong_layout_is_a_fault_with_its_offset(
    request_: rq.Read | rq.Write, body: bytes, complaint: str
) -> None:
    """Too short, too long, or of another type than the request calls for."""
    (event,) = connected([request_]).feed(pack_reply(1, 5, 0, body))
    assert isinstance(event, Broken)
    assert complaint in str(event.fault)


@given(st.lists(exchanges(), min_size=1, max_size=4), st.data())
def test_a_stream_cut_anywhere_gives_what_was_whole(exchange_list: list[Exchange], data: st.DataObject) -> None:
    """Cut short at any offset: the replies before the cut, no event more, and the rest is still waiting."""
    whole = stream(exchange_list)
    stop = data.draw(st.integers(0, len(whole) - 1))
    session = connected([each.request for each in exchange_list])
    events = session.feed(whole[:stop])
    assert [reply.result for reply in answers(events)] == [each.result for each in exchange_list][: len(events)]
    assert len(session.end()) == len(exchange_list) - len(events)


@given(st.lists(exchanges(), min_size=1, max_size=4), st.data())
def test_a_damaged_stream_never_raises(exchange_list: list[Exchange], data: st.DataObject) -> None:
    """Overwrite bytes anywhere: events come out, at most one answer for each request, and nothing after a fault."""
    noise = bytearray(stream(exchange_list))
    for _ in range(data.draw(st.integers(1, 4))):
        noise[data.draw(st.integers(0, len(noise) - 1))] = data.draw(st.integers(0, 255))
    session = connected([each.request for each in exchange_list])
    events = session.feed(noise)
    assert len(answers(events)) <= len(exchange_list)
    assert not any(isinstance(event, Broken) for event in events[:-1])
    if events and isinstance(events[-1], Broken):
        assert session.state is State.LOST
        assert session.feed(stream(exchange_list)) == []
    assert len(session.end()) == len(exchange_list) - len(answers(events))


@given(st.binary(max_size=200), st.booleans())
def test_noise_never_raises(noise: bytes, welcomed: bool) -> None:
    """Bytes of any kind, before and after the welcome."""
    session = Session(timeout_ms=10_000)
    session.open()
    if welcomed:
        session.feed(pack_welcome(5, 4_000))
        session.submit(SET)
    session.feed(noise)
    session.end()


# -- writes without an answer -----------------------------------------------------------------------------------------


@given(st.lists(st.builds(rq.SetData, PATHS, st.binary(max_size=30), st.just(0)), min_size=1, max_size=5), st.data())
def test_a_write_may_have_landed_if_a_byte_of_it_was_sent(writes: list[rq.SetData], data: st.DataObject) -> None:
    """Send any part of a row of writes, then lose the connection: exactly those that were begun may have landed."""
    session = connected()
    ends: list[int] = []
    for write in writes:
        session.submit(write)
        ends.append(len(session.output))
    sent = data.draw(st.integers(0, len(session.output)))
    session.sent(sent)
    begun = [start < sent for start in [0, *ends[:-1]]]
    assert [each.may_have_landed for each in session.pending_writes] == begun
    assert [each.may_have_landed for each in session.end()] == begun


def test_reads_never_count_as_landed() -> None:
    """A read without an answer changes nothing, sent or not."""
    session = connected([rq.GetData("/"), rq.MultiRead((rq.GetData("/"),)), rq.Sync("/")])
    assert session.pending_writes == []
    assert [each.may_have_landed for each in session.end()] == [False] * 3


def test_a_frame_over_the_limit_is_refused_before_it_is_queued() -> None:
    """The largest frame passes, one byte more does not; the error names path, size and limit, and nothing is sent."""
    overhead = rq.frame_size(rq.Create("/big", b"", OPEN_ACL))
    session = Session(timeout_ms=1_000, frame_bytes_max=1_000)
    session.open()
    session.feed(pack_welcome(5, 1_000))
    session.sent(len(session.output))
    with pytest.raises(FrameTooLarge, match=r"^/big: create needs a frame of 1001 bytes, above the limit of 1000; "):
        session.submit(rq.Create("/big", bytes(1_001 - overhead), OPEN_ACL))
    assert (bytes(session.output), session.waits) == (b"", False)
    assert session.submit(rq.Create("/big", bytes(1_000 - overhead), OPEN_ACL)) == 1
    assert len(session.output) == 1_004
