"""The raw floor: what the server itself takes for a job, with nothing of a client in the way.

All requests are encoded beforehand and replayed over plain sockets; of the replies only lengths and error codes are
looked at. The jobs are those that zkmig has: read a tree that is known already, its ACLs, and write batches that each
move a cursor.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from typing import Final

from zkmig.model.snapshot import Snapshot
from zkmig.wire.credential import Credential
from zkmig.wire.requests import XID_AUTH, Auth, CloseSession, GetAcl, GetChildren, GetData, MultiRead, Request, encode

READ_NODES: Final = 1_000
READ_DEPTH: Final = 4
ACL_CONNECTIONS: Final = 8
ACL_DEPTH: Final = 128
"""Znodes a multiRead, multiReads under way; connections that getACLs are spread over, getACLs under way on each."""

_TIMEOUT_S = 30.0
_RECEIVE_BYTES = 1 << 20
_WELCOME = struct.Struct(">iiqiqi16s?")  # length, protocol, last zxid, timeout ms, session id, length, password, flag
_HEAD = struct.Struct(">iiqi")  # of a reply: length, xid, zxid, error
_LENGTH = struct.Struct(">i")


def data_requests(tree: Snapshot) -> list[Request]:
    """multiReads of the data of every znode, and of the children of those that have any."""
    ends = tree.columns.ends
    requests: list[Request] = []
    for start in range(0, len(tree), READ_NODES):
        parts: list[GetData | GetChildren] = []
        for index in range(start, min(start + READ_NODES, len(tree))):
            path = tree.path_at(index)
            parts.append(GetData(path))
            if ends[index] > index + 1:
                parts.append(GetChildren(path))
        requests.append(MultiRead(tuple(parts)))
    return requests


def acl_requests(tree: Snapshot) -> list[Request]:
    """A getACL of every znode."""
    return [GetAcl(path) for path in tree]


class Floor:
    """Requests, encoded, and the connections over which they go.

    depth: requests unanswered at a time on each connection. auth: whom every connection authenticates as.
    """

    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[Request],
        depth: int,
        connections: int = 1,
        auth: Credential | None = None,
    ) -> None:
        self._address = address
        self._auth = auth
        self._depth = depth
        self._shares = [
            [encode(request, xid) for request, xid in zip(requests[first::connections], count(1), strict=False)]
            for first in range(connections)
        ]

    def run(self) -> float:
        """Seconds from the first request to the last reply, on fresh connections. AssertionError for an error code."""
        with ExitStack() as stack:
            replays = [
                Replay(stack.enter_context(self._connect()), frames, self._depth) for frames in self._shares if frames
            ]
            start = time.perf_counter()
            _drive(replays)
            seconds = time.perf_counter() - start
            for replay in replays:
                replay.goodbye()
        return seconds

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._address, _TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(_WELCOME.pack(_WELCOME.size - 4, 0, 0, int(_TIMEOUT_S * 1000), 0, 16, bytes(16), False))
        _receive_frame(sock)
        if self._auth is not None:
            sock.sendall(encode(Auth(self._auth.scheme, self._auth.secret), XID_AUTH))
            _, _, error = struct.unpack(">iqi", _receive_frame(sock))
            assert not error, f"authentication failed with {error}"
        return sock


def _receive_frame(sock: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_receive_exactly(sock, _LENGTH.size))
    return _receive_exactly(sock, length)


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = sock.recv(size - len(received))
        assert piece, "the server closed the connection"
        received += piece
    return received


class Replay:
    """Frames over one socket. answered: replies that have arrived whole."""

    def __init__(self, sock: socket.socket, frames: list[bytes], depth: int) -> None:
        self.sock = sock
        self.answered = 0
        self.total = len(frames)
        self._frames = frames
        self._depth = depth
        self._sent = 0
        self._output = b""
        self._input = memoryview(bytearray(_RECEIVE_BYTES))
        self._head = b""
        self._body_left = 0
        sock.setblocking(False)

    def send(self) -> bool:
        """Send what the depth admits; whether some of it is still waiting for room in the socket."""
        stop = min(self.total, self.answered + self._depth)
        if stop > self._sent:
            self._output += b"".join(self._frames[self._sent : stop])
            self._sent = stop
        if self._output:
            with suppress(BlockingIOError):
                self._output = self._output[self.sock.send(self._output) :]
        return bool(self._output)

    def receive(self) -> None:
        """Take what has arrived."""
        size = self.sock.recv_into(self._input)
        assert size, "the server closed the connection"
        position = 0
        while position < size:
            if not self._body_left:
                stop = min(size, position + _HEAD.size - len(self._head))
                self._head += self._input[position:stop]
                position = stop
                if len(self._head) < _HEAD.size:
                    return
                length, _, _, error = _HEAD.unpack(self._head)
                assert not error, f"request {self.answered} of the floor failed with {error}"
                self._head = b""
                self._body_left = length - _HEAD.size + 4
            step = min(self._body_left, size - position)
            position += step
            self._body_left -= step
            self.answered += not self._body_left

    def goodbye(self) -> None:
        """End the session."""
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.sendall(encode(CloseSession(), self.total + 1))
        _receive_frame(self.sock)


def _drive(replays: Iterable[Replay]) -> None:
    poll = select.poll()
    busy = {replay.sock.fileno(): replay for replay in replays}
    for number, replay in busy.items():
        poll.register(number, _events(replay))
    while busy:
        ready = poll.poll(_TIMEOUT_S * 1000)
        assert ready, "the server has been silent for too long"
        for number, what in ready:
            replay = busy[number]
            if what & ~select.POLLOUT:
                replay.receive()
            if replay.answered == replay.total:
                poll.unregister(number)
                del busy[number]
            else:
                poll.modify(number, _events(replay))


def _events(replay: Replay) -> int:
    return select.POLLIN | select.POLLOUT if replay.send() else select.POLLIN
