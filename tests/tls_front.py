"""TLS in front of a plain server, with any certificate and any manners: real TLS, real ZooKeeper behind it.

What no one ZooKeeper server can be asked for (an expired certificate, TLS 1.3, a cut in the middle of a record) is made
here. Bytes are passed on as they come.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class TlsFront:
    """Listens on a port of its own. pem: its certificate and key, None for no TLS at all. ca: where it is given, client
    certificates are required. speaks: False to accept and say nothing.

    cut_after: of what goes to clients from now on, the bytes after which the connection is reset, once; -1 for never.
    connections: those accepted so far.
    """

    def __init__(
        self,
        port: int,
        pem: Path | None = None,
        *,
        ca: Path | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        speaks: bool = True,
    ) -> None:
        self.cut_after = -1
        self.connections = 0
        self._speaks = speaks
        self._target = ("127.0.0.1", port)
        self._context = None
        if pem is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.minimum_version = self._context.maximum_version = version
            self._context.load_cert_chain(pem)
            if ca is not None:
                self._context.load_verify_locations(ca)
                self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="tls front", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @property
    def host(self) -> tuple[str, int]:
        return "127.0.0.1", self._listener.getsockname()[1]

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.host[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(client)
            if self._speaks:
                threading.Thread(target=self._serve, args=(client,), name="tls front connection", daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as ends:
            ends.callback(raw.close)
            client = self._context.wrap_socket(raw, server_side=True) if self._context is not None else raw
            ends.callback(client.close)
            self._open.append(client)
            server = ends.enter_context(socket.create_connection(self._target))
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        # One thread for both directions: an SSLSocket may not be used by two.
        up, down = bytearray(), bytearray()
        client.setblocking(False)
        server.setblocking(False)
        while True:
            reading = [end for end, waiting in ((client, up), (server, down)) if len(waiting) < BUFFER_BYTES]
            writing = [end for end, waiting in ((server, up), (client, down)) if waiting]
            has_more = isinstance(client, ssl.SSLSocket) and client.pending()
            readable, writable, _ = select.select(reading, writing, (), 0 if has_more else None)
            if (client in readable or has_more) and not _take(client, up):
                return
            if server in readable and not _take(server, down):
                return
            if server in writable:
                _give(server, up)
            if client in writable:
                left = self.cut_after  # once: it may be set while this is sent
                count = _give(client, down, RECORD_BYTES if left < 0 else left)
                if left >= 0:
                    self.cut_after = left - count
                if left == count:
                    self.cut_after = -1
                    # Lingering for no time: the close becomes a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return


BUFFER_BYTES = 1 << 20
RECORD_BYTES = 16_384
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _take(source: socket.socket, into: bytearray) -> bool:
    try:
        data = source.recv(65_536)
    except _LATER:
        return True
    into += data
    return bool(data)


def _give(end: socket.socket, waiting: bytearray, most: int = RECORD_BYTES) -> int:
    try:
        count = end.send(bytes(waiting[:most]))
    except _LATER:
        return 0
    del waiting[:count]
    return count
