"""Notify: what a guard tells the service manager that started it, by the datagrams of sd_notify(3).

They inform: nothing is said where there is no manager that listens, and one that does not take them stops nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Meant for the guard alone: to the command, which is not the service's main process, they would be a trap."""

STATUS_CHARS_MAX: Final = 500


class Notifier:
    """watchdog_s: so often at least `alive_if_due` is to be called; None: the manager does not ask for it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._alive_at = 0.0
        self.watchdog_s = _watchdog_s(environment) if self._socket is not None else None

    def ready(self) -> None:
        """It is up: what it was started for is in its hands, though the command may have to wait."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """A line for people."""
        self._send("STATUS=" + " ".join(text[:STATUS_CHARS_MAX].splitlines()))

    def stopping(self) -> None:
        """It is about to end."""
        self._send("STOPPING=1")

    def alive_if_due(self) -> None:
        """Its loop goes round. Sent twice as often as `watchdog_s` asks for."""
        if self.watchdog_s is not None and time.monotonic() >= self._alive_at:
            self._send("WATCHDOG=1")
            self._alive_at = time.monotonic() + self.watchdog_s / 2

    def close(self) -> None:
        """Nothing more is told."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(errors="replace"), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Half of the time that the manager waits at most, as its manual advises."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environment["WATCHDOG_USEC"]) / 2 / 1e6
    except (KeyError, ValueError):
        return None
