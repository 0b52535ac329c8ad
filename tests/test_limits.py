"""The smallest frame that every member takes: each is asked, and none is harmed.

Method: single servers and one ensemble whose members have limits of their own, asked over plain TCP and TLS; what is
told is compared with the setting, to the byte.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from zkmig.api.frames import all_take
from zkmig.dev import Ensemble, Server
from zkmig.errors import BadInput, Unreachable
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client, probe_frame_limit
from zkmig.wire.limits import frame_limits
from zkmig.wire.requests import FRAME_BYTES_MAX_DEFAULT
from zkmig.wire.tls import Tls

SMALL = 70_000


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """A server that takes less than others, with a TLS port."""
    with Server(jute_maxbuffer=SMALL, tls=True) as server:
        yield server


def test_the_limit_is_found_to_the_byte(zk: Server, small: Server) -> None:
    """Above, at and below what servers take; what was not asked for is not looked for."""
    there, here = parse_hosts(zk.hosts), parse_hosts(small.hosts)
    assert frame_limits(there, 4_000_000).smallest.frame_bytes == FRAME_BYTES_MAX_DEFAULT
    assert frame_limits(there, FRAME_BYTES_MAX_DEFAULT).smallest.frame_bytes == FRAME_BYTES_MAX_DEFAULT
    assert frame_limits(there, 5_000).smallest.frame_bytes == 5_000
    limits = frame_limits((*there, *here, *there), 2_000_000)
    assert [each.frame_bytes for each in limits.members] == [FRAME_BYTES_MAX_DEFAULT, SMALL]
    assert limits.smallest.member == here[0]
    assert probe_frame_limit(here, SMALL)
    assert not probe_frame_limit(here, SMALL + 1)
    assert all_take((*there, *here), SMALL)
    assert not all_take((*there, *here), SMALL + 1)


def test_the_limit_over_tls(small: Server) -> None:
    """The same answer through the TLS port, as the client that it wants; each address by the name it shows."""
    assert small.certificates is not None
    tls = Tls(str(small.certificates.ca), str(small.certificates.client))
    port = parse_hosts(small.tls_hosts)[0][1]
    limits = frame_limits([("localhost", port)], 200_000, tls=tls)
    assert [(each.member, each.frame_bytes) for each in limits.members] == [(("localhost", port), SMALL)]


def test_members_that_are_down_are_named(zk: Server) -> None:
    """One of two does not answer: its limit is not known, and it is said which; none answers: Unreachable."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = taken.getsockname()
        limits = frame_limits([down, *parse_hosts(zk.hosts)], 10_000)
        assert limits.smallest.frame_bytes == 10_000
        assert limits.silent == (f"127.0.0.1:{down[1]}",)
        with pytest.raises(Unreachable, match=f"127.0.0.1:{down[1]} connection refused"):
            _ = frame_limits([down], 10_000).smallest
    with pytest.raises(BadInput):
        frame_limits([], 10_000)


def test_members_of_an_ensemble_are_asked_one_by_one() -> None:
    """Three members, one of which takes less: the smallest is its own, whoever leads; asking throws nobody out."""
    with Ensemble() as ensemble:
        odd = next(member for member in ensemble.followers())
        odd.stop()
        odd._java_options.append(f"-Djute.maxbuffer={SMALL}")
        odd.start()
        ensemble.wait_ready()
        modes = [member.mode() for member in ensemble.members]
        limits = frame_limits(parse_hosts(ensemble.hosts), FRAME_BYTES_MAX_DEFAULT)
        assert [each.frame_bytes for each in limits.members] == [
            SMALL if member is odd else FRAME_BYTES_MAX_DEFAULT for member in ensemble.members
        ]
        assert limits.smallest.member == ("127.0.0.1", odd.port)
        assert [member.mode() for member in ensemble.members] == modes
        with Client(parse_hosts(ensemble.hosts)) as client:
            assert client.exists("/") is not None
