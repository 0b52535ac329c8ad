"""A TCP proxy in front of one ZooKeeper server that cuts connections at a chosen request: real sockets, real losses."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Self

from zkmig.wire.requests import OP_MULTI, OP_SET_ACL

_LENGTH = struct.Struct(">i")
_HEADER = struct.Struct(">ii")  # xid, opcode


class Fate(Enum):
    """What becomes of a request, and then of its connection."""

    PASS = auto()
    LOST = auto()  # never reaches the server; cut
    TORN = auto()  # half of its frame reaches the server; cut
    UNANSWERED = auto()  # reaches the server, which answers; the answer is kept back; cut
    HELD = auto()  # kept back, and all behind it, until `release`; the connection stays


Judge = Callable[[int, int], Fate]  # opcode, number of writes seen so far (from 0)


def cut_at(number: int, fate: Fate) -> Judge:
    """One write's fate; everything else passes."""
    return lambda opcode, seen: fate if seen == number and opcode in WRITES else Fate.PASS


WRITES = (OP_MULTI, OP_SET_ACL)


class Proxy:
    """Listens on a port of its own. judge: asked for the fate of every request of every connection.

    writes: multis and setACLs seen, resent ones included. cuts: connections cut. held: requests held back so far;
    delivered: of these, sent on to a server that still had the connection.
    While it is partitioned nothing passes in either direction, and nothing is lost.
    """

    def __init__(self, port: int) -> None:
        self.judge: Judge = lambda _, __: Fate.PASS
        self.concerns: Callable[[bytes], bool] = lambda _: True  # frames that are judged and counted; the others pass
        self.writes = 0
        self.cuts = 0
        self.held = 0
        self.delivered = 0
        self._open = threading.Event()
        self._open.set()
        self._released = threading.Event()
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # shutdown() wakes the thread in accept(); close() alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.set()
        self._released.set()
        self.cut_all()

    def cut_all(self) -> int:
        """Cut every connection; how many there were. What is held back for the server stays to be released."""
        connections = [connection for connection in self._connections if not connection.is_cut]
        for connection in connections:
            connection.cut()
        return len(connections)

    def partition(self) -> None:
        """Let nothing through, new connections included."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything through that has waited."""
        self._open.set()

    def release(self) -> None:
        """Deliver what was held, late, whether its sender is still there or not; from now on nothing is held."""
        self._released.set()

    def hold_again(self) -> None:
        """Requests can be held once more."""
        self._released.clear()

    def wait_until_open(self) -> None:
        self._open.wait()

    def wait_for_release(self) -> None:
        self.held += 1
        self._released.wait()

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def decide(self, opcode: int) -> Fate:
        """The fate of one more request."""
        with self._lock:
            fate = self.judge(opcode, self.writes)
            self.writes += opcode in WRITES
            self.cuts += fate not in (Fate.PASS, Fate.HELD)
            return fate

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:  # the server is down
                client.close()
                continue
            connection = _Connection(self, client, server)
            self._connections.append(connection)
            for pump in (connection.pump_requests, connection.pump_answers):
                threading.Thread(target=pump, name="proxy connection", daemon=True).start()


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._kept_back: int | None = None  # xid of the answer that is
        self._is_holding = False
        self.is_cut = False

    def cut(self) -> None:
        if self._is_holding:
            return  # the server is not told that the client has gone, so that what is held can still arrive
        self.is_cut = True
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def pump_requests(self) -> None:
        is_first = True  # the first frame opens the session, and has no header
        while frame := _read_frame(self._client):
            xid, opcode = _HEADER.unpack_from(frame, _LENGTH.size)
            is_judged = not is_first and self._proxy.concerns(frame)
            fate = self._proxy.decide(opcode) if is_judged else Fate.PASS
            is_first = False
            self._proxy.wait_until_open()
            if fate is Fate.HELD:
                self._is_holding = True
                self._proxy.wait_for_release()
                self._is_holding = False
                self._proxy.delivered += self._is_open()
                fate = Fate.PASS
            if fate is Fate.UNANSWERED:
                self._kept_back = xid
            if fate is Fate.TORN:
                frame = frame[: len(frame) // 2]
            if fate is not Fate.LOST:
                with contextlib.suppress(OSError):
                    self._server.sendall(frame)
            if fate is Fate.UNANSWERED:
                return  # whoever sees the answer cuts
            if fate is not Fate.PASS:
                break
        self.cut()

    def _is_open(self) -> bool:
        """Whether the server has not closed the connection."""
        try:
            return self._server.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def pump_answers(self) -> None:
        is_first = True
        while frame := _read_frame(self._server):
            if not is_first and _LENGTH.unpack_from(frame, _LENGTH.size)[0] == self._kept_back:
                break
            is_first = False
            self._proxy.wait_until_open()
            with contextlib.suppress(OSError):
                self._client.sendall(frame)
        self.cut()


def _read_frame(source: socket.socket) -> bytes:
    """A whole frame with its length, b"" at the end of the connection."""
    try:
        head = source.recv(_LENGTH.size, socket.MSG_WAITALL)
        if len(head) < _LENGTH.size:
            return b""
        body = source.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)
    except OSError:
        return b""
    return head + body if len(body) == _LENGTH.unpack(head)[0] else b""
