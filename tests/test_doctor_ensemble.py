"""The doctor at an ensemble of three: each member is asked by itself, and what is wrong with one is said of that one.

Method: one real ensemble for the module; a follower is given settings of its own, paused, stopped, or put behind a
front that tells of an older zxid. Each test leaves the three as it found them.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

import zkmig
from tests.doctor_fronts import listening, relay, word_of
from tests.program import Program, location
from zkmig.dev import Ensemble
from zkmig.dev.ensemble import Member
from zkmig.doctor.finding import Diagnosis, Severity
from zkmig.errors import Unreachable

BOBS = [make_digest_acl("bob", "pw", all=True)]


@pytest.fixture(scope="module")
def three() -> Iterator[Ensemble]:
    """With a closed znode, /app/secret; all four-letter words are allowed."""
    with Ensemble(config={"4lw.commands.whitelist": "*"}) as ensemble:
        with closing(KazooClient(ensemble.hosts)) as kazoo:
            kazoo.start()
            kazoo.create("/app", b"")
            kazoo.create("/fine", b"")
            kazoo.create("/app/secret", b"", acl=BOBS)
            kazoo.stop()
        yield ensemble


@contextmanager
def given(three: Ensemble, *options: str) -> Iterator[Member]:
    """One follower, with these options of Java for a while."""
    odd = three.followers()[0]
    before = list(odd._java_options)
    for java_options in ([*before, *options], before):
        odd.stop()
        odd._java_options[:] = java_options
        odd.start()
        three.wait_ready()
        if java_options is not before:
            yield odd


def wheres(found: Diagnosis, code: str) -> set[str]:
    """Where findings with this code are."""
    return {finding.where for finding in found.of(code)}


def test_three_members_in_order(three: Ensemble) -> None:
    """The control of all below: one leader, all level, each asked; what is wrong with 3.8.0 in a quorum is said."""
    found = zkmig.diagnose(location(three.hosts, "/fine"))
    assert not [finding for finding in found.findings if finding.severity is Severity.PROBLEM]
    assert wheres(found, "leader") == {three.leader().address}
    for code in ("members-up", "in-sync", "version", "frame-limit"):
        assert wheres(found, code) == {three.hosts.replace(",", ", ")}
    grave = [finding for finding in found.of("known-bug") if finding.severity is Severity.WARNING]
    assert ["ZOOKEEPER-4785" in finding.what for finding in grave] == [True]
    assert not found.of("sessions-local")


def test_members_that_are_not_named(three: Ensemble) -> None:
    """One of three in the location: the others are known from /zookeeper/config, and missed."""
    found = zkmig.diagnose(location(three.members[0].hosts))
    (missing,) = found.of("members-not-named")
    assert "3 members, the location names 1" in missing.what


def test_settings_of_one_member(three: Ensemble) -> None:
    """A follower with a small jute.maxbuffer that does not look at ACLs: both are said of it, and of none else; the
    leader goes on to refuse writes."""
    others = {member.address for member in three.members}
    with given(three, "-Djute.maxbuffer=70000", "-Dzookeeper.skipACL=yes") as odd:
        found = zkmig.diagnose(location(three.hosts, "/app"), auth=())
        others.remove(odd.address)
        assert wheres(found, "frame-differs") == wheres(found, "frame-small") == {odd.address}
        assert wheres(found, "acl-skipped") == {odd.address}
        (strict,) = found.of("acl-differs")
        assert set(strict.where.split(", ")) == others
        assert found.of("acl-checked")
    after = zkmig.diagnose(location(three.hosts, "/app"), auth=())
    assert not {"frame-differs", "acl-skipped", "acl-differs"} & {finding.code for finding in after.findings}


def test_a_member_that_is_down_or_silent(three: Ensemble) -> None:
    """Stopped, then paused: it is named, and that the next loss stops all writes; the others are examined."""
    odd = three.followers()[0]
    for hurt, mend in ((odd.stop, odd.start), (odd.pause, odd.unpause)):
        hurt()
        try:
            found = zkmig.diagnose(location(three.hosts))
        finally:
            mend()
            three.wait_ready()
        assert wheres(found, "member-down") == {odd.address}
        (thin,) = found.of("quorum-thin")
        assert "2 of 3" in thin.what
        assert odd.address not in "".join(wheres(found, "in-sync"))
        assert not found.of("members-up")


def test_without_a_quorum_it_is_said_who_says_so(three: Ensemble, program: Program) -> None:
    """Two of three are stopped: no member takes a session (exit 6), and the third says itself that it serves nobody."""
    first, second, third = three.members
    first.stop()
    second.stop()
    try:
        deadline = time.monotonic() + 30
        while third.mode():  # until it has noticed
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(Unreachable) as caught:
            zkmig.diagnose(location(three.hosts))
        program("doctor", location(three.hosts)).failed(6, "no server took the session", third.address)
    finally:
        first.start()
        second.start()
        three.wait_ready()
    assert third.address in str(caught.value)
    assert "serves nobody" in str(caught.value)


def test_a_member_that_is_behind(three: Ensemble) -> None:
    """A front before a follower makes its srvr tell of an older zxid: that member is named, with how far it is behind;
    the follower itself is the control."""
    leader, follower = three.leader(), three.followers()[0]

    def older(part: bytes) -> bytes:
        return re.sub(rb"Zxid: 0x[0-9a-f]+", lambda found: b"Zxid: %#x" % (int(found[0][6:], 16) - 1000 & ~0xFF), part)

    def front(connection: socket.socket) -> None:
        relay(connection, follower.port, older if word_of(connection) == "srvr" else bytes)

    with listening(front) as address:
        found = zkmig.diagnose(location(f"{leader.hosts},{address}"))
    (behind,) = found.of("behind")
    assert behind.where == address
    assert "behind what was committed" in behind.what
    assert not found.of("not-one-ensemble")
    assert not zkmig.diagnose(location(f"{leader.hosts},{follower.hosts}")).of("behind")


def test_sessions_that_one_member_alone_knows() -> None:
    """localSessionsEnabled: a session cannot be taken up elsewhere, and yet it is one ensemble: a note, no problem."""
    with Ensemble(config={"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"}) as local:
        found = zkmig.diagnose(location(local.hosts))
    assert not found.of("not-one-ensemble")
    assert found.of("sessions-local")
    assert {finding.severity for finding in found.of("sessions-local")} == {Severity.NOTE}
