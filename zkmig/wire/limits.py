"""The largest frame that every member takes: jute.maxbuffer belongs to each server [zookeeper-facts 38].

A server does not tell its limit; it drops the connection of whoever sends more [zookeeper-facts 11]. So each member is
asked by itself, on a session of its own, with an `exists` of a path that long: nothing is written, and a follower with
a lower limit than the leader is found before a transaction throws it out of the quorum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from zkmig.errors import BadInput, Unreachable
from zkmig.wire import requests as rq
from zkmig.wire.client import Client
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.link import Host, address, addresses_of
from zkmig.wire.tls import Tls

CONNECT_TIMEOUT_S: Final = 5.0
_HEAD_BYTES: Final = rq.frame_size(rq.Exists("/")) - 1
_LEAST: Final = 64  # less cannot even open a session


class MemberLimit(NamedTuple):
    """member: as it was named. frame_bytes: the largest that it takes, up to what was asked; None: no answer."""

    member: Host
    frame_bytes: int | None
    fault: Unreachable | None = None


class FrameLimits(NamedTuple):
    """One entry for each member; for each address, where a name has several."""

    members: tuple[MemberLimit, ...]

    @property
    def smallest(self) -> MemberLimit:
        """The member that takes the least, of those that answered. Raises Unreachable when none did."""
        answered = [each for each in self.members if each.frame_bytes is not None]
        if not answered:
            raise self.members[0].fault or Unreachable("no member answered", address(self.members[0].member))
        return min(answered, key=lambda each: each.frame_bytes or 0)

    @property
    def silent(self) -> tuple[str, ...]:
        """Addresses of the members that did not answer: their limit may be smaller."""
        return tuple(address(each.member) for each in self.members if each.frame_bytes is None)


def frame_limits(
    hosts: Sequence[Host],
    frame_bytes_max: int,
    *,
    tls: Tls | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    check_stop: Callable[[], None] | None = None,
) -> FrameLimits:
    """What each of `hosts` takes in one frame, in bytes without the length prefix, up to `frame_bytes_max`.

    One question a member where it takes that much, else some twenty. connect_timeout_s: for each member. A member that
    is down is no error here; NotPermitted and BadInput (TLS) are.
    """
    if not hosts:
        raise BadInput("no server given", hint="name one, as host:port")

    def ask(host: Host, tls: Tls | None) -> int:
        client = Client(
            [host],
            connect_timeout_s=connect_timeout_s,
            frame_bytes_max=frame_bytes_max,
            check_stop=check_stop,
            tls=tls,
        )
        with client:
            return _largest(client, frame_bytes_max)

    return FrameLimits(tuple(limit for host in dict.fromkeys(hosts) for limit in _ask_addresses(host, tls, ask)))


def _ask_addresses(host: Host, tls: Tls | None, ask: Callable[[Host, Tls | None], int]) -> list[MemberLimit]:
    """Every address behind a name, since each may be another member; those that refuse count only if all do."""
    found: list[MemberLimit] = []
    for where in addresses_of(host):
        secured = None if tls is None else dataclasses.replace(tls, server_name=tls.name_of(host[0]))
        try:
            found.append(MemberLimit(host, ask(where, secured)))
        except Unreachable as fault:
            found.append(MemberLimit(host, None, fault))
    answered = [each for each in found if each.frame_bytes is not None]
    return answered or found[:1]


def _largest(client: Client, frame_bytes_max: int) -> int:
    """By halving; first all, and then the server's default, since most are the one or the other."""
    taken, refused = min(_LEAST, frame_bytes_max), frame_bytes_max + 1
    guesses = [rq.FRAME_BYTES_MAX_DEFAULT + 1, rq.FRAME_BYTES_MAX_DEFAULT, frame_bytes_max]
    while refused - taken > 1:
        size = guesses.pop() if guesses else (taken + refused) // 2
        if not taken < size < refused:
            continue
        if _takes(client, size):
            taken = size
        else:
            refused = size
    return taken


def _takes(client: Client, size: int) -> bool:
    if not client.is_connected:
        client.reconnect()
    try:
        client.call_reply(rq.Exists("/" + "a" * (size - _HEAD_BYTES - 1)))
    except ConnectionLost:
        client.reconnect()  # Unreachable here: it was not the size, the server has gone
        return False
    return True
