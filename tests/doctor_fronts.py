"""Ports that answer as a test wants: no servers at all, or a front before a real one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port where each connection is given to `answer`, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        def handle(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                answer(connection)

        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def word_of(connection: socket.socket) -> str:
    """The four-letter word that a connection begins with, "" for a session."""
    begin = connection.recv(4, socket.MSG_PEEK)
    return begin.decode() if begin.isalpha() else ""


def relay(connection: socket.socket, port: int, change: Callable[[bytes], bytes] = bytes) -> None:
    """Pass all that comes to a port of this machine, and back what `change` makes of each part."""
    with socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_copy, args=(server, connection, change), daemon=True)
        back.start()
        _copy(connection, server, bytes)
        back.join()


def _copy(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(change(part))
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
