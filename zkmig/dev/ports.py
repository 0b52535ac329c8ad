"""Free TCP ports on loopback that a server may keep through restarts."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 10_000
_TRIES_MAX = 1_000
_LINUX_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def pick_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on just now.

    They lie below the range from which the kernel serves outgoing connections. A port of that range could be given to
    somebody's client while its server is down, and a client that keeps connecting to a stopped server can even be
    given the very port it calls and connect to itself (TCP's simultaneous open).

    Another process may still take one before it is used: whoever binds it must be ready to pick again.
    """
    highest = _lowest_ephemeral() - 1
    chosen: set[int] = set()
    for _ in range(_TRIES_MAX):
        if len(chosen) == count:
            break
        # Random, so that runs side by side seldom try the same port.
        port = random.randint(_LOWEST, highest) if highest > _LOWEST else 0
        bound = _bind(port)
        if bound:
            chosen.add(bound)
    if len(chosen) < count:
        raise OSError(f"no {count} free ports on {LOOPBACK} after {_TRIES_MAX} tries")
    return list(chosen)


def _lowest_ephemeral() -> int:
    try:
        return int(_LINUX_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        return 32_768  # Linux's default; elsewhere the range begins higher


def _bind(port: int) -> int:
    """The port that could be bound (the kernel's choice for 0), or 0 if it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return 0
        bound: int = probe.getsockname()[1]
        return bound
