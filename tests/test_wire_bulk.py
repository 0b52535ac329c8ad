"""Bulk reads through the session without a network: a burst of getACLs is one answer, however its replies arrive.

Method: bursts among other requests are answered with watch events and pings between the replies, and all of it is cut
into pieces at random, cut short, or damaged; on both backends.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bulk_values import Asked, acl_reply, asked, children_reply, data_reply, spoiled
from tests.wire_values import pack_acl, pack_bytes, pack_reply, pack_stat, pack_text, pack_welcome
from zkmig.model.acl import OPEN_ACL
from zkmig.model.stat import Stat
from zkmig.wire import bulk, bulk_plain
from zkmig.wire import requests as rq
from zkmig.wire.codes import Code
from zkmig.wire.faults import FrameTooLarge
from zkmig.wire.replies import PathResult, RawResult, Reply
from zkmig.wire.session import (
    XID_MAX,
    Answered,
    Broken,
    Event,
    Pong,
    Session,
    State,
    WatchEvent,
)

RANDOM = st.randoms(use_true_random=False)
ANSWER = pack_acl(OPEN_ACL) + pack_stat(Stat(*range(1, 12)))
WATCH_EVENT = pack_reply(-1, -1, 0, struct.pack(">ii", 3, 3) + pack_bytes(b"/a"))

AskedFor = rq.GetAclMany | rq.ReadMany | rq.Sync


@pytest.fixture(params=["python", "in use"], autouse=True)
def _codec(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test with the plain codec, and with that of the backend."""
    codec = bulk_plain if request.param == "python" else bulk.codec()
    with (
        mock.patch("zkmig.wire.session.codec", return_value=codec),
        mock.patch("zkmig.wire.requests.codec", return_value=codec),
    ):
        yield


def connected(*requests: AskedFor, frame_bytes_max: int = rq.FRAME_BYTES_MAX_DEFAULT) -> Session:
    """A session past its welcome that has sent `requests`."""
    session = Session(timeout_ms=10_000, frame_bytes_max=frame_bytes_max)
    session.open()
    session.feed(pack_welcome(0x77, 4_000))
    session.sent(len(session.output))
    for request in requests:
        session.submit(request)
    return session


def burst(count: int) -> rq.GetAclMany:
    """getACL of /0, /1 and so on; not more than ten."""
    return rq.GetAclMany(b"/0/1/2/3/4/5/6/7/8/9", array("Q", range(0, 22, 2)), array("i", range(count)))


def answered(events: list[Event]) -> list[tuple[AskedFor, Reply]]:
    """Requests and their replies, in order."""
    found = []
    for event in events:
        if isinstance(event, Answered):
            assert isinstance(event.request, AskedFor)
            found.append((event.request, event.reply))
    return found


def xids_of(output: bytes) -> list[int]:
    """Of the frames in what is to be sent."""
    found = []
    while output:
        length, xid = struct.unpack_from(">ii", output)
        found.append(xid)
        output = output[4 + length :]
    return found


# -- replies in pieces ------------------------------------------------------------------------------------------------


def a_request(random: random.Random) -> tuple[AskedFor, Asked]:
    column = asked(random, nodes_min=1)
    match random.randrange(4):
        case 0:
            return rq.ReadMany(*column, random.choice((rq.OP_GET_DATA, rq.OP_GET_CHILDREN))), column
        case 1:
            return rq.Sync("/"), column
        case _:
            return rq.GetAclMany(*column), column


def replies_to(random: random.Random, request: AskedFor, column: Asked, xid: int, zxid: int) -> list[bytes]:
    """The frames that answer a request, with lengths; all of one zxid."""
    if isinstance(request, rq.GetAclMany):
        frames = [acl_reply(random, xid + n) for n in range(len(column.nodes))]
    elif isinstance(request, rq.ReadMany):
        reply = data_reply if request.part == rq.OP_GET_DATA else children_reply
        frames = [pack_reply(xid, 0, 0, reply(random, column)[16:])]
    else:
        frames = [pack_reply(xid, 0, 0, pack_text("/"))]
    return [frame[:8] + struct.pack(">q", zxid) + frame[16:] for frame in frames]


def an_exchange(random: random.Random, count_max: int = 5) -> tuple[Session, list[Answered], list[bytes]]:
    """A session that has sent bursts and other requests; their answers; the frames that hold those."""
    session = connected()
    expected, frames = [], []
    for number in range(random.randint(1, count_max)):
        request, column = a_request(random)
        xid = session.submit(request)
        replies = replies_to(random, request, column, xid, 100 + number)
        frames += replies
        result: RawResult | PathResult = PathResult("/")
        if isinstance(request, rq.GetAclMany):
            result = RawResult(b"".join(replies))
        elif isinstance(request, rq.ReadMany):
            result = RawResult(replies[0][4:])
        expected.append(Answered(request, Reply(xid, 100 + number, 0, result)))
    assert xids_of(bytes(session.output)) == list(range(1, len(frames) + 1))
    session.sent(len(session.output))
    return session, expected, frames


def with_strays(random: random.Random, session: Session, frames: list[bytes]) -> list[bytes]:
    """Watch events and answers to pings between the frames."""
    found = []
    for frame in frames:
        if random.random() < 0.3:
            found.append(WATCH_EVENT)
        if random.random() < 0.3:
            session.ping()
            found.append(pack_reply(-2, 1, 0, b""))
        found.append(frame)
    session.sent(len(session.output))
    return found


@given(RANDOM)
def test_answers_come_whole_however_their_replies_are_cut(random: random.Random) -> None:
    session, expected, frames = an_exchange(random)
    frames = with_strays(random, session, frames)
    stream, events = b"".join(frames), list[Event]()
    while stream:
        size = random.choice((1, 3, 16, 20, 50, 1000))
        events += session.feed(memoryview(stream[:size]))
        stream = stream[size:]
    assert [event for event in events if isinstance(event, Answered)] == expected
    assert sum(isinstance(event, WatchEvent) for event in events) == frames.count(WATCH_EVENT)
    assert sum(isinstance(event, Pong) for event in events) == frames.count(pack_reply(-2, 1, 0, b""))
    assert not any(isinstance(event, Broken) for event in events)
    assert not session.waits
    assert session.last_zxid == 100 + len(expected) - 1


@given(RANDOM)
def test_a_stream_cut_short_leaves_the_burst_unanswered(random: random.Random) -> None:
    """Wherever the connection ends; asked again on the next one, the burst is answered from its first reply on."""
    session, expected, frames = an_exchange(random)
    stream = b"".join(frames)
    events = session.feed(stream[: random.randrange(len(stream))])
    assert events == expected[: len(events)]
    unanswered = session.end()
    assert [(each.xid, each.request, each.may_have_landed) for each in unanswered] == [
        (each.reply.xid, each.request, False) for each in expected[len(events) :]
    ]
    session.open()
    session.feed(pack_welcome(0x77, 4_000))
    request = burst(2)
    again = session.submit(request)
    reply = pack_reply(again, 200, 0, ANSWER) + pack_reply(again + 1, 201, 0, ANSWER)
    assert session.feed(reply) == [Answered(request, Reply(again, 201, 0, RawResult(reply)))]


@given(RANDOM)
def test_a_damaged_stream_never_raises(random: random.Random) -> None:
    """Never more answers than requests, nothing after a fault, and what was not answered is told."""
    session, expected, frames = an_exchange(random)
    stream = spoiled(random, b"".join(with_strays(random, session, frames)))
    events = session.feed(stream)
    count = sum(isinstance(event, Answered) for event in events)
    assert count <= len(expected)
    assert not any(isinstance(event, Broken) for event in events[:-1])
    if session.state is State.CONNECTED:
        session.feed(stream)
    assert len(session.end()) <= len(expected) - count


# -- the end of the session -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_session_that_expires_in_a_burst(taken: int) -> None:
    """The server refuses each request in flight by itself (PrepRequestProcessor): one answer for the whole burst."""
    request, behind = burst(3), rq.Sync("/")
    session = connected(request, behind)
    replies = [
        pack_reply(1 + n, 9, 0 if n < taken else Code.SESSION_EXPIRED, ANSWER if n < taken else b"") for n in range(3)
    ]
    events = session.feed(b"".join(replies) + pack_reply(4, 9, Code.SESSION_EXPIRED, b""))
    assert events == [
        Answered(request, Reply(1, 9, Code.SESSION_EXPIRED, None)),
        Answered(behind, Reply(4, 9, Code.SESSION_EXPIRED, None)),
    ]
    assert session.state is State.EXPIRED
    assert session.end() == []


def test_a_session_that_expires_in_a_burst_need_say_so_only_once() -> None:
    session = connected(burst(3), rq.Sync("/"))
    assert len(session.feed(pack_reply(1, 9, Code.SESSION_EXPIRED, b""))) == 1
    assert [each.request for each in session.end()] == [rq.Sync("/")]
    assert session.state is State.EXPIRED


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_xids_of_a_burst_are_in_a_row_and_never_beyond_the_largest() -> None:
    """A burst that does not fit below it begins at 1 again, one that just fits does not."""
    session = connected()
    session._xid = XID_MAX - 3
    assert session.submit(burst(3)) == XID_MAX - 2
    assert session.submit(burst(2)) == 1
    session._xid = XID_MAX - 3
    assert session.submit(burst(4)) == 1
    xids = [XID_MAX - 2, XID_MAX - 1, XID_MAX, 1, 2, 1, 2, 3, 4]
    assert xids_of(bytes(session.output)) == xids
    session.sent(len(session.output))
    events = session.feed(b"".join(pack_reply(xid, 9, 0, ANSWER) for xid in xids))
    assert [reply.xid for _, reply in answered(events)] == [XID_MAX - 2, 1, 1]
    assert not session.waits


@pytest.mark.parametrize(("taken", "xid"), [(0, 2), (1, 1), (1, 3), (2, XID_MAX)])
def test_a_reply_out_of_order_in_a_burst_names_both_xids(taken: int, xid: int) -> None:
    session = connected(burst(3))
    events = session.feed(
        b"".join(pack_reply(1 + n, 9, 0, ANSWER) for n in range(taken)) + pack_reply(xid, 9, 0, ANSWER)
    )
    assert [type(event) for event in events] == [Broken]
    assert isinstance(events[0], Broken)
    assert f"request {xid} where that to {taken + 1} is due" in str(events[0].fault)
    assert [each.xid for each in session.end()] == [1]


@pytest.mark.parametrize("length", [-1, 0, 15, 2**30 + 1, -(2**31)])
def test_an_impossible_length_in_a_burst_is_a_fault_at_once(length: int) -> None:
    session = connected(burst(2))
    events = session.feed(pack_reply(1, 9, 0, ANSWER) + struct.pack(">i", length) + pack_reply(2, 9, 0, ANSWER)[4:])
    assert [type(event) for event in events] == [Broken]
    assert session.state is State.LOST


def test_a_multi_read_over_the_limit_is_refused_before_it_is_queued() -> None:
    """The error names the first node; the xid goes to the next request."""
    column = b"/first/second", array("Q", (0, 6, 13)), array("i", (0, 1))
    size = len(rq.ReadMany(*column, rq.OP_GET_DATA).frame(1)) - 4
    session = connected(frame_bytes_max=size - 1)
    with pytest.raises(FrameTooLarge, match=rf"^/first: multiRead needs a frame of {size} bytes"):
        session.submit(rq.ReadMany(*column, rq.OP_GET_DATA))
    assert (bytes(session.output), session.waits) == (b"", False)
    assert session.submit(rq.Sync("/")) == 1
    assert connected(frame_bytes_max=size).submit(rq.ReadMany(*column, rq.OP_GET_DATA)) == 1
