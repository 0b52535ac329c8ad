"""One ZooKeeper session as a state machine without I/O: bytes in, events out; no socket, no clock, no thread.

The caller moves bytes: it sends what `output` holds, says how much with `sent`, and gives what arrives to `feed`. The
session survives its connections: after `end` it can `open` again with the same id and password, and it never goes
back before the newest zxid it has seen (the server refuses a client that is ahead of it: ZooKeeperServer.
processConnectRequest). Nothing that arrives makes `feed` raise: malformed bytes end in a Broken event.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from zkmig.wire import requests as rq
from zkmig.wire.bulk import codec
from zkmig.wire.codes import Code
from zkmig.wire.faults import FrameTooLarge, ProtocolFault
from zkmig.wire.jute import Decoder, JuteError
from zkmig.wire.replies import MultiResult, RawResult, Reply, decode_result

REPLY_BYTES_MAX = 1 << 30  # a length beyond this is garbage, not a reply
XID_MAX = 2**31 - 1
PASSWORD_BYTES = 16

_LENGTH = struct.Struct(">i")
_CONNECT_REQUEST = struct.Struct(">iiqiqi")  # length, protocol, last zxid seen, timeout, session id, password length


class State(Enum):
    """Of a session towards its server."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"
    EXPIRED = "expired"
    LOST = "lost"


class Signal(Enum):
    """What moves a session from state to state."""

    WELCOMED = "the server accepted the session"
    REJECTED = "the server no longer knows the session"
    CLOSE_ASKED = "the client asks to close"
    CLOSE_ANSWERED = "the server has closed the session"
    ENDED = "the connection ended"
    REOPENED = "the client connects again"


TRANSITIONS: dict[tuple[State, Signal], State] = {
    (State.CONNECTING, Signal.WELCOMED): State.CONNECTED,
    (State.CONNECTING, Signal.REJECTED): State.EXPIRED,
    (State.CONNECTING, Signal.ENDED): State.LOST,
    (State.CONNECTED, Signal.REJECTED): State.EXPIRED,
    (State.CONNECTED, Signal.CLOSE_ASKED): State.CLOSING,
    (State.CONNECTED, Signal.ENDED): State.LOST,
    (State.CLOSING, Signal.CLOSE_ANSWERED): State.CLOSED,
    (State.CLOSING, Signal.REJECTED): State.EXPIRED,
    (State.CLOSING, Signal.ENDED): State.LOST,
    (State.CLOSED, Signal.ENDED): State.CLOSED,
    (State.EXPIRED, Signal.REJECTED): State.EXPIRED,  # each request still in flight is refused for the same reason
    (State.EXPIRED, Signal.ENDED): State.EXPIRED,
    (State.LOST, Signal.ENDED): State.LOST,
    (State.LOST, Signal.REOPENED): State.CONNECTING,
}


class Connected(NamedTuple):
    """The server accepted the session. timeout_ms: as the server granted it."""

    session_id: int
    timeout_ms: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """The server refused to take up the session again."""


class Answered(NamedTuple):
    """The reply to the oldest unanswered request."""

    request: rq.Request | rq.Bulk
    reply: Reply


class AuthAnswered(NamedTuple):
    """error: 0, or the server's code."""

    scheme: str
    error: int


class Pong(NamedTuple):
    """zxid: the server's newest. error: 0, or the code with which it closes the session."""

    zxid: int
    error: int = 0


class WatchEvent(NamedTuple):
    """type: 1 created, 2 deleted, 3 data changed, 4 children changed; state: 3 connected (Watcher.Event)."""

    type: int
    state: int
    path: str


class Broken(NamedTuple):
    """What arrived is no reply, or not the one that is due. Nothing after it is read."""

    fault: ProtocolFault


Event = Connected | Expired | Answered | AuthAnswered | Pong | WatchEvent | Broken


class Unanswered(NamedTuple):
    """A request without an answer. may_have_landed: it writes, and a byte of its frame was sent."""

    xid: int
    request: rq.Request | rq.Bulk
    may_have_landed: bool


class _Pending(NamedTuple):
    xid: int  # the first, where there are several
    request: rq.Request | rq.Bulk
    start: int  # where its frame begins in all that this connection has sent or will send


class Session:
    """See the module. timeout_ms: asked for until Connected, granted afterwards."""

    def __init__(
        self, *, timeout_ms: int, zxid_floor: int = 0, frame_bytes_max: int = rq.FRAME_BYTES_MAX_DEFAULT
    ) -> None:
        self.state = State.LOST
        self.session_id = 0
        self.password = bytes(PASSWORD_BYTES)
        self.timeout_ms = timeout_ms
        self.read_only = False
        self.last_zxid = zxid_floor
        self.writes_submitted = 0
        """Writes ever submitted: each takes a zxid, once the leader has it, whether it applies or fails."""
        self.output = bytearray()
        """Bytes to be sent, oldest first."""
        self._timeout_asked_ms = timeout_ms
        self._frame_bytes_max = frame_bytes_max
        self._input = bytearray()
        self._is_broken = False  # what arrives is no longer read
        self._bytes_queued = 0  # since open(); less len(output), the bytes sent
        self._pending: deque[_Pending] = deque()
        self._auths: deque[rq.Auth] = deque()
        self._pings = 0
        self._xid = 0
        # Of the oldest request, if it is a GetAclMany: the replies to it that have come, and how many.
        self._many = bytearray()
        self._many_taken = 0

    # -- what the client wants ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin on a fresh connection: a new session at first, later the same one."""
        self._move(Signal.REOPENED)
        self._input.clear()
        self._is_broken = False
        self.output.clear()
        self._bytes_queued = 0
        self._auths.clear()
        self._pings = 0
        self._forget_many()
        size = _CONNECT_REQUEST.size - 4 + len(self.password) + 1
        head = (size, 0, self.last_zxid, self._timeout_asked_ms, self.session_id, len(self.password))
        self._queue(_CONNECT_REQUEST.pack(*head) + self.password + b"\0")  # the last byte: not content with read-only

    def submit(self, request: rq.Read | rq.Write | rq.Bulk) -> int:
        """Queue a request; its xid is returned and comes back in the reply. Raises FrameTooLarge, queueing nothing."""
        self._require(State.CONNECTED)
        if isinstance(request, rq.GetAclMany):
            xid = self._next_xids(len(request.nodes))
            frame = request.frames(xid)
        else:
            xid = self._next_xids(1)
            frame = request.frame(xid) if isinstance(request, rq.ReadMany) else rq.encode(request, xid)
            if len(frame) - 4 > self._frame_bytes_max:
                self._xid = xid - 1  # unused
                raise FrameTooLarge(request.operation, request.path, len(frame) - 4, self._frame_bytes_max)
        self._pending.append(_Pending(xid, request, self._bytes_queued))
        self._queue(frame)
        self.writes_submitted += request.writes
        return xid

    def authenticate(self, auth: rq.Auth) -> None:
        """Queue an identity; AuthAnswered follows."""
        self._require(State.CONNECTED)
        self._auths.append(auth)
        self._queue(rq.encode(auth, rq.XID_AUTH))

    def ping(self) -> None:
        """Queue a ping; Pong follows."""
        self._require(State.CONNECTED)
        self._pings += 1
        self._queue(rq.encode(rq.Ping(), rq.XID_PING))

    def close(self) -> None:
        """Queue the end of the session."""
        self._require(State.CONNECTED)
        self._move(Signal.CLOSE_ASKED)
        xid = self._next_xids(1)
        self._pending.append(_Pending(xid, rq.CloseSession(), self._bytes_queued))
        self._queue(rq.encode(rq.CloseSession(), xid))

    # -- what the connection does -------------------------------------------------------------------------------------

    def sent(self, count: int) -> None:
        """The first `count` bytes of `output` were handed to the network."""
        del self.output[:count]

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take what arrived; return what it amounts to, in order of arrival."""
        if self._is_broken or self.state in (State.LOST, State.CLOSED):
            return []
        self._input += data
        events: list[Event] = []
        start = 0
        try:
            with memoryview(self._input) as view:
                while (stop := self._frame_end(start)) >= 0:
                    if self._pending and isinstance(self._pending[0].request, rq.GetAclMany):
                        before, start = start, self._take_many(view, start, self._pending[0], events)
                        if start > before:
                            continue
                    event = self._event(bytes(view[start + 4 : stop]))
                    start = stop
                    if event is not None:
                        events.append(event)
        except JuteError as error:
            events.append(self._broken(f"malformed reply: {error.what} at byte {error.offset} of its frame"))
        except ProtocolFault as fault:
            events.append(self._broken(fault.what))
        else:
            del self._input[:start]
        return events

    def end(self) -> list[Unanswered]:
        """The connection ended: what is left unanswered, oldest first."""
        self._move(Signal.ENDED)
        unanswered = self.unanswered()
        self._pending.clear()
        self._auths.clear()
        self._pings = 0
        self._forget_many()
        self.output.clear()
        return unanswered

    def unanswered(self) -> list[Unanswered]:
        """Requests without an answer, oldest first."""
        sent = self._bytes_queued - len(self.output)
        return [Unanswered(p.xid, p.request, p.request.writes and p.start < sent) for p in self._pending]

    @property
    def pending_writes(self) -> list[Unanswered]:
        """The unanswered requests that write; those with may_have_landed False were not sent at all."""
        return [each for each in self.unanswered() if each.request.writes]

    @property
    def waits(self) -> bool:
        """Whether the server owes an answer."""
        return bool(self._pending or self._auths or self._pings or self.state is State.CONNECTING)

    @property
    def pings_unanswered(self) -> int:
        """Pings without their Pong."""
        return self._pings

    # -- inside -------------------------------------------------------------------------------------------------------

    def _move(self, signal: Signal) -> None:
        state = TRANSITIONS.get((self.state, signal))
        if state is None:
            raise ProtocolFault(f"{signal.value} while {self.state.value}")
        self.state = state

    def _require(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError(f"the session is {self.state.value}, not {state.value}")

    def _next_xids(self, count: int) -> int:
        # The first of so many in a row.
        first = self._xid + 1 if self._xid + count <= XID_MAX else 1
        self._xid = first + count - 1
        return first

    def _queue(self, frame: bytes) -> None:
        self.output += frame
        self._bytes_queued += len(frame)

    def _frame_end(self, start: int) -> int:
        # Where the frame that begins at `start` ends in the input, or -1 while it is incomplete.
        if len(self._input) - start < 4:
            return -1
        length: int = _LENGTH.unpack_from(self._input, start)[0]
        if not 0 <= length <= REPLY_BYTES_MAX:
            raise ProtocolFault(f"malformed reply: a frame of {length} bytes")
        stop = start + 4 + length
        return stop if stop <= len(self._input) else -1

    def _broken(self, what: str) -> Broken:
        self._input.clear()
        self._is_broken = True
        self._move(Signal.ENDED)
        return Broken(ProtocolFault(what, hint="is this a ZooKeeper server?"))

    def _event(self, frame: bytes) -> Event | None:
        decoder = Decoder(frame)
        if self.state is State.CONNECTING:
            return self._welcome(decoder)
        xid, zxid, error = decoder.read_reply_header()
        # Watch events carry zxid -1 before 3.9, answers to auth 0, Unimplemented -1: the newest is what counts.
        self.last_zxid = max(self.last_zxid, zxid)
        if xid == rq.XID_PING:
            self._pings = max(0, self._pings - 1)
            return Pong(zxid, error)
        if xid == rq.XID_WATCH:
            event = WatchEvent(decoder.read_int(), decoder.read_int(), decoder.read_string())
            decoder.expect_end()
            return event
        if xid == rq.XID_AUTH:
            if not self._auths:
                raise ProtocolFault("an answer to auth that was not asked")
            return AuthAnswered(self._auths.popleft().scheme, error)
        return self._answer(xid, zxid, error, decoder)

    def _take_many(self, view: memoryview, start: int, pending: _Pending, events: list[Event]) -> int:
        # Replies to the oldest request, as many as are there in a row; where they end.
        xid, request, _ = pending
        assert isinstance(request, rq.GetAclMany)
        due = len(request.nodes) - self._many_taken
        stop, taken, zxid = codec().take_frames(view, start, xid + self._many_taken, due)
        if taken:
            self._many += view[start:stop]
            self._many_taken += taken
            self.last_zxid = max(self.last_zxid, zxid)
            if taken == due:
                events.append(Answered(request, Reply(xid, zxid, Code.OK, RawResult(bytes(self._many)))))
                self._pending.popleft()
                self._forget_many()
        return int(stop)

    def _forget_many(self) -> None:
        self._many = bytearray()
        self._many_taken = 0

    def _welcome(self, decoder: Decoder) -> Event:
        decoder.read_int()  # protocol version, always 0
        timeout_ms = decoder.read_int()
        session_id = decoder.read_long()
        password = decoder.read_buffer()
        self.read_only = decoder.read_bool() if decoder.remaining else False  # absent from servers before 3.4
        decoder.expect_end()
        if timeout_ms <= 0:
            self._move(Signal.REJECTED)
            return Expired()
        self._move(Signal.WELCOMED)
        self.session_id, self.timeout_ms, self.password = session_id, timeout_ms, password or b""
        return Connected(session_id, timeout_ms, self.read_only)

    def _answer(self, xid: int, zxid: int, error: int, decoder: Decoder) -> Event | None:
        if not self._pending:
            if self.state is State.EXPIRED:
                return None  # one more refusal of a GetAclMany, see below
            raise ProtocolFault(f"an answer to request {xid}, but none is waiting for one")
        first, request, _ = self._pending[0]
        due = first + self._many_taken
        if xid != due:
            if self.state is State.EXPIRED:
                return None
            raise ProtocolFault(f"an answer to request {xid} where that to {due} is due")
        if isinstance(request, rq.GetAclMany):
            # All that `take_frames` leaves for here: the session is over. The server refuses the rest one by one
            # (PrepRequestProcessor), or just closes the connection; the first refusal answers for all.
            result, xid = None, first
        else:
            result = decode_result(request, decoder) if error == Code.OK else None
        self._pending.popleft()
        self._forget_many()
        if isinstance(result, MultiResult):
            error = result.code
        if error == Code.SESSION_EXPIRED:
            self._move(Signal.REJECTED)
        elif isinstance(request, rq.CloseSession):
            self._move(Signal.CLOSE_ANSWERED)
        return Answered(request, Reply(xid, zxid, error, result))
