"""TLS: the same client over it, on a real server's TLS port; and what it says of every certificate that will not do.

Method: one ZooKeeper server with a TLS port that wants client certificates, for the whole module. What no single
server can be asked for (expired, made out to another host, TLS 1.3, cut in the middle) is a TLS front before its plain
port (tests/tls_front.py). kazoo, on the plain port, tells from outside what became of writes.
"""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import ACL, Id

import zkmig
from tests.conftest import KazooClientFactory
from tests.program import Program
from tests.tls_front import TlsFront
from zkmig.dev import Ensemble, Server
from zkmig.dev.certificates import CLIENT_NAME, Certificates, issue, make_certificates
from zkmig.epoch.control import ControlPaths
from zkmig.errors import BadInput, Outcome, OutcomeUnknown, Unreachable
from zkmig.model.acl import ALL, OPEN_ACL, Acl, Identity
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.link import Host
from zkmig.wire.replies import DataResult
from zkmig.wire.requests import FLAG_EPHEMERAL, Create, GetData, Multi, SetData, Sync
from zkmig.wire.tls import Tls

X509 = Identity("x509", "CN=client,O=zkmig")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(server: Server) -> Certificates:
    assert server.certificates is not None
    return server.certificates


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> Tls:
    """As an operator has it: our authority, and a client certificate with its key in one file."""
    return Tls(str(certificates.ca), str(certificates.client))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority that nobody here trusts, with the same names."""
    return make_certificates(tmp_path_factory.mktemp("foreign"))


@pytest.fixture
def kazoo(server: Server, kazoo_client: KazooClientFactory) -> KazooClient:
    return kazoo_client(server)


def secure_host(server: Server) -> Host:
    return "127.0.0.1", int(server.tls_hosts.rpartition(":")[2])


def issued(certificates: Certificates, file: Path, extensions: str, days: int = 1) -> Path:
    """A server's certificate by the authority of the module."""
    issue(certificates.ca, certificates.ca.with_suffix(".key"), "/CN=front", file, extensions, days)
    return file


def refused(host: Host, tls: Tls | None, *words: str) -> str:
    """What is said of a server that cannot be had; at once, where trying again is of no use."""
    started = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        Client([host], tls=tls).connect()
    assert time.monotonic() - started < 5
    text = str(caught.value)
    assert f"127.0.0.1:{host[1]} " in text
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


# -- the same client --------------------------------------------------------------------------------------------------


def test_reads_and_writes_over_tls(server: Server, tls: Tls, kazoo: KazooClient, tree_root: str) -> None:
    """Write by TLS, read by kazoo without it; and the server knows the client by its certificate."""
    with Client([secure_host(server)], tls=tls) as client:
        client.call(Create(tree_root, b"by tls", OPEN_ACL))
        assert kazoo.get(tree_root)[0] == b"by tls"
        assert X509 in client.identities
        assert client.has_multi_read
        assert client.last_zxid > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_large_reads_and_writes_at_once_do_not_block_each_other(
    server: Server, certificates: Certificates, tls: Tls, tree_root: str, version: ssl.TLSVersion
) -> None:
    """60 pairs of a write and a read of half a megabyte, all unanswered together, far beyond what sockets hold: neither
    side waits for the other for ever, and every byte arrives as it was."""
    data = [bytes([number]) * 500_000 for number in range(3)]
    with (
        TlsFront(server.port, certificates.server, version=version) as front,
        Client([front.host], tls=tls) as client,
    ):
        client.call(Create(tree_root, data[0], OPEN_ACL))
        requests = [
            request
            for number in range(60)
            for request in (SetData(tree_root, data[number % 3], number), GetData(tree_root))
        ]
        replies = list(client.pipeline(requests, len(requests)))
        assert [reply.error for reply in replies] == [0] * len(requests)
        for number, reply in enumerate(replies[1::2]):
            assert isinstance(reply.result, DataResult)
            assert reply.result.data == data[number % 3]


def test_what_tls_holds_already_is_not_waited_for(server: Server, certificates: Certificates, tls: Tls) -> None:
    """Many answers in one record, which poll tells of once: 2,000 small calls in depth come without a pause. (A client
    that waited for poll would get each rest of a record with the next answer, and the last one never.)"""
    with TlsFront(server.port, certificates.server) as front, Client([front.host], tls=tls) as client:
        assert [reply.error for reply in client.pipeline([Sync("/")] * 2_000, 500)] == [0] * 2_000
        events_before = client.exists("/")
        assert events_before is not None


def test_a_tree_is_the_same_by_tls(server: Server, tls: Tls, kazoo: KazooClient, tree_root: str) -> None:
    """4,000 znodes with ACLs, read in depth and over several sessions at once: the hashes are those of a plain read."""
    kazoo.create(tree_root)
    for start in range(0, 4_000, 1_000):
        transaction = kazoo.transaction()
        for number in range(start, start + 1_000):
            acl = [ACL(31, Id("world", "anyone")), ACL(1, Id("ip", f"10.0.{number % 7}.1"))]
            transaction.create(f"{tree_root}/n{number}", b"x" * (number % 500), acl=acl)
        assert not [result for result in transaction.commit() if isinstance(result, Exception)]
    by_tls = zkmig.read(f"zks://{server.tls_hosts}{tree_root}", tls=tls)
    plain = zkmig.read(f"zk://{server.hosts}{tree_root}")
    assert len(by_tls) == 4_001
    assert (by_tls.tree_hash, by_tls.counter_hash) == (plain.tree_hash, plain.counter_hash)
    assert not by_tls.is_fuzzy


def test_a_session_goes_on_after_its_connection(server: Server, tls: Tls, tree_root: str) -> None:
    """reconnect() over TLS: same session, nothing seen is unseen."""
    with Client([secure_host(server)], tls=tls) as client:
        client.call(Create(tree_root, b"", OPEN_ACL))
        session_id, seen = client.session_id, client.last_zxid
        client.reconnect()
        assert client.session_id == session_id
        assert client.exists(tree_root) is not None
        assert client.last_zxid >= seen


def test_only_the_client_with_the_certificate_may(server: Server, tls: Tls, tree_root: str) -> None:
    """A node that only the x509 identity may read: it can, everybody else cannot."""
    with Client([secure_host(server)], tls=tls) as client:
        client.call(Create(tree_root, b"mine", (Acl(ALL, *X509),)))
        assert client.call(GetData(tree_root)).data == b"mine"
    with pytest.raises(zkmig.NotPermitted), Client([("127.0.0.1", server.port)]) as other:
        other.call(GetData(tree_root))


# -- connections that end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reset_in_the_middle_of_an_answer(
    server: Server, certificates: Certificates, tls: Tls, kazoo: KazooClient, tree_root: str, version: ssl.TLSVersion
) -> None:
    """The connection is reset within the answer to a write: unknown, and it did land; within that to a read: nothing
    was written; and the session goes on."""
    kazoo.create(tree_root, b"x" * 100_000)
    with TlsFront(server.port, certificates.server, version=version) as front, Client([front.host], tls=tls) as client:
        front.cut_after = 50_000
        with pytest.raises(ConnectionLost) as lost:
            client.call(GetData(tree_root))
        assert lost.value.outcome is Outcome.NOTHING_WRITTEN
        client.reconnect()
        front.cut_after = 20
        with pytest.raises(OutcomeUnknown) as unknown:
            client.call(SetData(tree_root, b"y", 0))
        assert unknown.value.outcome is Outcome.UNKNOWN
        client.reconnect()
        assert client.call(GetData(tree_root)).data == b"y"
    assert kazoo.get(tree_root)[0] == b"y"


def test_what_did_not_leave_is_not_said_to_have_landed(
    certificates: Certificates, tls: Tls, kazoo: KazooClient, server: Server, tree_root: str
) -> None:
    """Writes of 8 MB in depth to a server that was halted: the network takes the first ones. When the connection is
    given up, what could not be sent is known not to have landed, and every write that landed was said to be unknown."""
    kazoo.create(tree_root, b"")
    with (
        TlsFront(server.port, certificates.server) as front,
        Client([front.host], tls=tls, session_timeout_ms=1) as client,
    ):
        server.pause()
        try:
            requests = [Multi((SetData(tree_root, b"z" * 900_000, number),)) for number in range(60)]
            with client._lock:
                xids = [client._link.submit(request) for request in requests]
                client._link.wait(lambda: False, 20.0)
                unknown = client._link._may_have_landed & set(xids)
        finally:
            server.unpause()
        server.wait_ready()
        assert 0 < len(unknown) < len(xids)
        assert unknown == set(xids[: len(unknown)])
    stat = kazoo.exists(tree_root)
    assert stat is not None
    assert stat.version <= len(unknown)


def test_another_member_takes_the_session_up() -> None:
    """Three members with one authority: kill the one in use; the session, its ephemeral and all that it has seen are at
    another one, by TLS; and a member that is behind the floor is passed over there as well."""
    with Ensemble(tls=True) as ensemble:
        certificates = ensemble.members[0].certificates
        assert certificates is not None
        tls = Tls(str(certificates.ca), str(certificates.client))
        hosts = parse_hosts(ensemble.tls_hosts)
        with Client(hosts, tls=tls, session_timeout_ms=30_000) as client:
            client.call(Create("/moved", b"", OPEN_ACL, FLAG_EPHEMERAL))
            seen, first = client.last_zxid, client.server
            ensemble.members[hosts.index(first)].kill()
            with pytest.raises(ConnectionLost):
                client.call(Sync("/"))
            client.reconnect()
            assert client.server != first
            stat = client.exists("/moved")
            assert stat is not None
            assert stat.ephemeral_owner == client.session_id
            assert client.last_zxid >= seen
            other = [client.server]
        with pytest.raises(Unreachable, match="not serving, or behind what this session has seen"):
            Client(other, tls=tls, zxid_floor=2**62, connect_timeout_s=2.0).connect()


# -- servers that will not do -----------------------------------------------------------------------------------------


def test_a_server_of_an_unknown_authority(server: Server, tls: Tls, foreign: Certificates) -> None:
    refused(secure_host(server), replace(tls, ca=str(foreign.ca)), "authority not trusted here", "--tls-ca")
    refused(secure_host(server), replace(tls, ca=""), "authority not trusted here", "--tls-ca")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_expired_certificate(
    server: Server, certificates: Certificates, tls: Tls, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    pem = issued(certificates, tmp_path / "old.pem", "subjectAltName=IP:127.0.0.1\n", days=-1)
    with TlsFront(server.port, pem, version=version) as front:
        refused(front.host, tls, "out of date", "certificate has expired")
        refused(front.host, replace(tls, check_hostname=False), "out of date")


def test_another_hosts_certificate(server: Server, certificates: Certificates, tls: Tls, tmp_path: Path) -> None:
    """By address and by name; accepted when the check is switched off, or the name is told."""
    pem = issued(certificates, tmp_path / "other.pem", "subjectAltName=DNS:zk1.example\n")
    with TlsFront(server.port, pem) as front:
        refused(front.host, tls, "made out to another host", "127.0.0.1")
        with pytest.raises(Unreachable, match=r"another host.*localhost"):
            Client([("localhost", front.host[1])], tls=tls).connect()
        for other in (replace(tls, check_hostname=False), replace(tls, server_name="zk1.example")):
            with Client([front.host], tls=other) as client:
                assert client.exists("/") is not None


def test_the_name_of_the_host_is_accepted(server: Server, tls: Tls) -> None:
    """`localhost` is what the certificate says. Other ways to write a host are cut to what certificates hold."""
    with Client([("localhost", secure_host(server)[1])], tls=tls) as client:
        assert client.exists("/") is not None
    assert tls.name_of("zk1.example.") == "zk1.example"
    assert tls.name_of("fe80::1%eth0") == "fe80::1"


def test_a_client_without_or_with_the_wrong_certificate(
    server: Server, certificates: Certificates, tls: Tls, foreign: Certificates
) -> None:
    """Refused by ZooKeeper (TLS 1.2) and by TLS 1.3, where the refusal comes after the handshake."""
    for cert in ("", str(foreign.client)):
        refused(secure_host(server), replace(tls, cert=cert), "client certificate", "--tls-cert")
        with TlsFront(server.port, certificates.server, ca=certificates.ca) as front:
            refused(front.host, replace(tls, cert=cert), "client certificate", "--tls-cert")


def test_a_port_without_tls(server: Server, tls: Tls) -> None:
    """ZooKeeper's plain port, and something else that answers in plain text."""
    refused(("127.0.0.1", server.port), tls, "is this its TLS port?")
    with TlsFront(server.port) as front:
        refused(front.host, tls, "is this its TLS port?")


def test_a_tls_port_without_tls(server: Server) -> None:
    with pytest.raises(Unreachable, match=r"unheard: a TLS port\? then write zks://; or not serving"):
        Client([secure_host(server)], connect_timeout_s=0.5).connect()


def test_a_silent_port_takes_no_longer_than_the_connect_timeout(server: Server, tls: Tls) -> None:
    """A port that accepts and says nothing: the handshake ends with the time for connecting."""
    started = time.monotonic()
    with TlsFront(server.port, speaks=False) as front, pytest.raises(Unreachable, match="TLS handshake in time"):
        Client([front.host], tls=tls, connect_timeout_s=1.0).connect()
    assert 0.9 <= time.monotonic() - started < 5


def test_one_member_that_will_not_do_leaves_the_others(
    server: Server, certificates: Certificates, tls: Tls, tmp_path: Path
) -> None:
    """The first has an expired certificate, the second none, the third serves."""
    pem = issued(certificates, tmp_path / "old.pem", "subjectAltName=IP:127.0.0.1\n", days=-1)
    with TlsFront(server.port, pem) as front:
        with Client([front.host, ("127.0.0.1", server.port), secure_host(server)], tls=tls) as client:
            assert client.server == secure_host(server)
        assert front.connections == 1


def test_no_socket_is_left(server: Server, tls: Tls) -> None:
    """After failures of every sort and ten good connections there are as many file descriptors as before."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(5):
        with Client([secure_host(server)], tls=tls) as client:
            client.reconnect()
        refused(secure_host(server), replace(tls, cert=""))
        refused(("127.0.0.1", server.port), tls)
    assert count() <= before  # what earlier tests left may go meanwhile


# -- files ------------------------------------------------------------------------------------------------------------


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def test_files_that_cannot_be_used(certificates: Certificates, tls: Tls, foreign: Certificates, tmp_path: Path) -> None:
    """Each is told by its name and what to do, before anything is connected to."""
    junk, secret = tmp_path / "junk.pem", tmp_path / "secret.key"
    junk.write_text("this is no certificate\n")
    openssl("pkey", "-in", certificates.client, "-aes256", "-passout", "pass:hunter2", "-out", secret)
    for other, words in (
        (Tls(ca=str(tmp_path / "absent")), "the TLS authorities cannot be read: No such file"),
        (Tls(ca=str(tmp_path)), "the TLS authorities cannot be read: Is a directory"),
        (Tls(ca=str(junk)), "no certificates in PEM; check --tls-ca"),
        (replace(tls, cert=str(tmp_path / "absent")), "the TLS certificate cannot be read"),
        (replace(tls, cert=str(junk)), "no certificate and key in PEM"),
        (replace(tls, cert=str(certificates.ca)), "no certificate and key in PEM"),
        (replace(tls, key=str(tmp_path / "absent")), "the TLS key cannot be read"),
        (replace(tls, key=str(foreign.client)), "the TLS key does not belong to the certificate"),
        (replace(tls, key=str(secret)), "needs a passphrase, which is not supported"),
        (Tls(key=str(certificates.client)), "a TLS key without its certificate"),
        (replace(tls, ca="a\0b"), "cannot be read"),
    ):
        with pytest.raises(BadInput) as caught:
            Client([("127.0.0.1", 1)], tls=other).connect()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_key_that_others_can_read_is_used_with_a_warning(
    certificates: Certificates, tls: Tls, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="zkmig"):
        tls.context()
        assert not caplog.records
        key = tmp_path / "key.pem"
        openssl("pkey", "-in", certificates.client, "-out", key)
        key.chmod(0o644)
        replace(tls, key=str(key)).context()
    assert f"{key}: other users may read this TLS key" in caplog.text


# -- the program, and Python ------------------------------------------------------------------------------------------


@pytest.fixture
def place(server: Server, kazoo: KazooClient, tree_root: str) -> str:
    """zks:// location of a tree that only the client's certificate may change; beside it, one with -new to copy."""
    mine = [ACL(31, Id(*X509)), ACL(1, Id("world", "anyone"))]
    kazoo.create(tree_root)
    kazoo.create(f"{tree_root}/old", b"1", acl=mine)
    kazoo.set_acls(tree_root, mine)
    kazoo.create(f"{tree_root}-new", acl=[ACL(31, Id("world", "anyone"))])
    kazoo.create(f"{tree_root}-new/new", b"2", acl=mine)
    kazoo.set_acls(f"{tree_root}-new", mine)
    return f"zks://{server.tls_hosts}{tree_root}"


def test_a_migration_through_the_program(
    server: Server, tls: Tls, program: Program, place: str, kazoo: KazooClient, tree_root: str
) -> None:
    """From init to status by zks://, as an x509 identity, with files in the environment, options or both; the plan
    knows that its servers are to be reached by TLS."""
    env = {"ZKMIG_TLS_CA": tls.ca, "ZKMIG_TLS_CERT": tls.cert}
    created = program("init", place, "--scope", tree_root[1:], "--json", env=env)
    assert created.succeeded().document["state"] == "STABLE"
    admins = [entry.id for entry in kazoo.get_acls(ControlPaths(tree_root[1:]).record)[0] if entry.perms == ALL]
    assert admins == [Id(*X509)]
    source = f"zks://{server.tls_hosts}{tree_root}-new"
    program("plan", "--from", source, "--to", place, "-o", "p.zkplan", env=env).succeeded()
    # Without a certificate it is not even heard; the plan says where.
    program("apply", "--epoch", "1", "p.zkplan", "--yes", "--tls-ca", tls.ca).failed(6, "client certificate")
    applied = program("apply", "--epoch", "1", "p.zkplan", "--yes", "--tls-ca", tls.ca, "--tls-cert", tls.cert)
    assert "epoch 1 is committed" in applied.succeeded().stdout
    assert kazoo.get_children(tree_root) == ["new"]
    assert program("verify", source, place, env=env).code == 0
    status = program("status", "--at", place, "--scope", tree_root[1:], "--json", env=env).succeeded().document
    assert status["epoch"] == 1
    assert f"--to zks://{server.tls_hosts}{tree_root}" in status["next"][0]


def test_failures_are_lines_of_the_program(server: Server, tls: Tls, program: Program) -> None:
    """One line, exit code 6 for a server that will not do and 2 for a file; --tls-no-hostname is heeded."""
    there = f"zks://{server.tls_hosts}/"
    program("snapshot", there, "-o", "x.zks").failed(6, "authority not trusted here", "--tls-ca")
    program("snapshot", there, "-o", "x.zks", "--tls-ca", "absent.pem").failed(2, "absent.pem: the TLS authorities")
    program("snapshot", f"zks://{server.hosts}/", "-o", "x.zks", "--tls-ca", tls.ca).failed(6, "is this its TLS port?")
    assert not program.files - {"x"}


def test_python_over_tls(server: Server, tls: Tls, place: str, tree_root: str) -> None:
    """read, init, make_plan, apply, status and a Reader, all with tls=."""
    source = f"zks://{server.tls_hosts}{tree_root}-new"
    name = tree_root[1:]
    assert zkmig.read(source, tls=tls)[f"{tree_root}-new/new"].data == b"2"
    zkmig.init(place, name, tls=tls)
    with zkmig.Reader(server.tls_hosts, name, tls=tls) as reader:
        assert reader.view()[f"{tree_root}/old"].data == b"1"
        zkmig.apply(zkmig.make_plan(source, place, tls=tls), epoch=1, tls=tls)
        view = reader.view(fresh=True)
        assert view.epoch == 1
        assert set(view) == {tree_root, f"{tree_root}/new"}
        with reader.acting(view) as token:
            token.check()
    assert zkmig.status(place, name, tls=tls).record.epoch == 1


def test_a_kazoo_client_brings_its_tls(server: Server, tls: Tls, place: str, tree_root: str) -> None:
    """A Reader of a kazoo client with TLS reads by TLS as well, with the same files."""
    zkmig.init(place, tree_root[1:], tls=tls)
    client = KazooClient(server.tls_hosts, use_ssl=True, ca=tls.ca, certfile=tls.cert, keyfile=tls.cert)
    client.start()
    try:
        with zkmig.Reader(client, tree_root[1:]) as reader:
            assert reader.view()[f"{tree_root}/old"].data == b"1"
    finally:
        client.stop()
        client.close()
    with pytest.raises(BadInput, match="does not verify"):
        zkmig.Reader(KazooClient(server.tls_hosts, use_ssl=True, verify_certs=False), tree_root[1:])


def test_certificates_of_ones_own_are_as_described(certificates: Certificates) -> None:
    """The subject is what ACLs will name; the keys are their owner's alone."""
    text = subprocess.run(
        ["openssl", "x509", "-in", certificates.client, "-noout", "-subject", "-nameopt", "RFC2253"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert text == f"subject={X509.id}\n"
    assert CLIENT_NAME == "/O=zkmig/CN=client"
    for file in (certificates.server, certificates.client, certificates.ca.with_suffix(".key")):
        assert file.stat().st_mode & 0o077 == 0
