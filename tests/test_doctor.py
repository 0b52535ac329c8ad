"""The doctor at single servers: each finding is provoked, and is absent where nothing provokes it.

Method: real servers with the setting in question, beside one without; the tree and its ACLs are made by plain kazoo.
That nothing is written is read from the server's own transaction log.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_acl, make_digest_acl

import zkmig
from tests.conftest import KazooClientFactory, ServerPair
from tests.doctor_fronts import listening, relay, word_of
from tests.program import Program, location
from tests.scopes import ALICES_IDENTITY, ME, MINE, MINE_BUT_READABLE, MY_IDENTITY, Site
from tests.torture import txnlog
from tests.trees import Node
from zkmig.dev import Server
from zkmig.dev.certificates import make_certificates
from zkmig.doctor import members
from zkmig.doctor.finding import Diagnosis, Severity
from zkmig.doctor.words import ANSWER_BYTES_MAX, ask
from zkmig.epoch.control import Roles
from zkmig.epoch.record import Held
from zkmig.errors import BadInput, Unreachable
from zkmig.model.acl import WORLD
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.tls import Tls

BOB = Credential("digest", b"bob:pw")
BOBS = [make_digest_acl("bob", "pw", all=True)]
READ_ONLY = [make_acl("world", "anyone", read=True)]
DAY_MS = 86_400_000
SESSIONS = {txnlog.CREATE_SESSION, txnlog.CLOSE_SESSION}


def severities(found: Diagnosis, code: str) -> list[Severity]:
    return [finding.severity for finding in found.of(code)]


def only(found: Diagnosis, code: str) -> str:
    """The text of the one finding with this code."""
    (finding,) = found.of(code)
    return f"{finding.severity.value} {finding.where}: {finding.what}"


def all_of(directory: Path) -> list[txnlog.Entry]:
    return list(txnlog.read_logs(directory))


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """A server as it comes: srvr alone of the words asked, no TTL nodes. With a tree below /app."""
    with Server() as server:
        with closing(KazooClient(server.hosts)) as kazoo:
            kazoo.start()
            kazoo.create("/app/pools/web", b"canary-data", makepath=True)
            kazoo.create("/app/read-only", b"", acl=READ_ONLY)
            kazoo.create("/app/secret", b"canary-data", acl=BOBS)
            kazoo.add_auth("digest", "bob:pw")
            kazoo.create("/app/secret/below", b"")
            kazoo.create("/fine/child", b"", makepath=True)
            kazoo.stop()
        yield server


# -- nothing is written -----------------------------------------------------------------------------------------------


def test_nothing_is_written_but_sessions_and_three_refused_transactions() -> None:
    """Goal: the doctor is safe at any time. Method: examine a server alone, and read its transaction log: what it has
    of us is sessions, and three errors; with reads_only sessions alone. A write of kazoo is the negative control."""
    with Server() as server:
        with closing(KazooClient(server.hosts)) as kazoo:
            kazoo.start()
            kazoo.create("/app/a", b"", makepath=True)
            kazoo.stop()
        before = len(all_of(server.data_dir))
        zkmig.diagnose(location(server.hosts, "/app"), reads_only=True)
        zkmig.diagnose(location(server.hosts, "/absent"), reads_only=True)
        reading = all_of(server.data_dir)
        zkmig.diagnose(location(server.hosts, "/app"))
        asking = all_of(server.data_dir)
    assert any(not entry.failed and entry.type not in SESSIONS for entry in reading[:before])
    assert {entry.type for entry in reading[before:]} == SESSIONS
    assert [entry.failed for entry in asking[len(reading) :] if entry.type not in SESSIONS] == [True] * 3
    assert not [entry for entry in asking[before:] if entry.type == txnlog.CLOSE_SESSION and entry.operations]
    zxids = [entry.zxid for entry in asking]
    assert zxids == list(range(zxids[0], zxids[0] + len(zxids)))  # the log is whole: each zxid is accounted for


# -- a server as it comes ---------------------------------------------------------------------------------------------


def test_a_sound_server_has_no_problem(plain: Server) -> None:
    """The negative control of most findings: a server as Debian has it, and a tree that is open to all."""
    found = zkmig.diagnose(location(plain.hosts, "/fine"))
    assert not [finding for finding in found.findings if finding.severity in (Severity.PROBLEM, Severity.WARNING)]
    assert "3.8.0" in only(found, "version")
    assert "1048575 bytes" in only(found, "frame-limit")
    assert severities(found, "acl-checked") == severities(found, "quota-none") == [Severity.OK]
    assert "1 to 60 s" in only(found, "session-limits")
    assert only(found, "standalone").startswith("note")
    assert "may read all 2 znodes" in only(found, "access-read")
    assert {finding.severity for finding in found.of("known-bug")} == {Severity.NOTE}  # the grave ones need a quorum
    assert "world:anyone" in only(found, "auth")


def test_what_words_do_not_tell_is_unknown(plain: Server) -> None:
    """mntr and envi are not allowed: what they tell is unknown, never taken for fine; what to set is said."""
    found = zkmig.diagnose(location(plain.hosts, "/fine"))
    assert only(found, "words-refused").startswith("unknown")
    assert "mntr, envi" in only(found, "words-refused")
    assert "4lw.commands.whitelist" in found.of("words-refused")[0].todo
    assert severities(found, "heap-unknown") == [Severity.UNKNOWN]
    assert not found.of("heap")


def test_settings_that_words_and_questions_tell() -> None:
    """A server with a small heap, a small jute.maxbuffer, short sessions and TTL nodes, and all words allowed."""
    config: Mapping[str, str | int] = {"4lw.commands.whitelist": "*", "maxSessionTimeout": 9_000}
    with Server(heap_mb=160, jute_maxbuffer=70_000, extended_types=True, config=config) as server:
        found = zkmig.diagnose(location(server.hosts))
    assert only(found, "heap-small").startswith("warning")
    assert only(found, "frame-small").startswith("warning")
    assert "70000 bytes" in only(found, "frame-small")
    assert only(found, "ttl").startswith("ok")
    assert "1 to 9 s" in only(found, "session-limits")
    assert severities(found, "session-limits") == [Severity.NOTE]
    assert not found.of("words-refused")


def test_a_frame_below_a_usual_batch_is_a_problem() -> None:
    """jute.maxbuffer under 64 KiB: apply could not even send a usual batch."""
    with Server(jute_maxbuffer=20_000) as server:
        found = zkmig.diagnose(location(server.hosts))
    assert only(found, "frame-small").startswith("problem")
    assert "20000 bytes" in only(found, "frame-small")
    assert "--batch-bytes 10000" in found.of("frame-small")[0].todo


def test_ttl_nodes_off_and_on(plain: Server, zk: Server, kazoo_client: KazooClientFactory, tree_root: str) -> None:
    """The same question at a server without and one with extendedTypesEnabled."""
    kazoo_client(zk).create(tree_root)
    assert only(zkmig.diagnose(location(plain.hosts, "/fine")), "ttl-off").startswith("note")
    assert only(zkmig.diagnose(location(zk.hosts, tree_root)), "ttl").startswith("ok")
    unasked = zkmig.diagnose(location(zk.hosts, tree_root), reads_only=True)
    assert severities(unasked, "kinds-unknown") == severities(unasked, "acl-unknown") == [Severity.UNKNOWN]


# -- ACLs -------------------------------------------------------------------------------------------------------------


def test_what_the_session_may_not_do_is_counted(plain: Server) -> None:
    """A closed subtree and a read-only znode, as nobody and as the one who owns them."""
    found = zkmig.diagnose(location(plain.hosts, "/app"), auth=())
    assert only(found, "access-read") == "problem /app: 1 znode may not be read or listed: /app/secret"
    for code in ("access-write", "access-create", "access-delete", "access-acl"):
        assert only(found, code).startswith("warning")
        assert "1 znode of 5: /app/read-only" in only(found, code)
    as_bob = zkmig.diagnose(location(plain.hosts, "/app"), auth=[BOB])
    assert "may read all 6 znodes" in only(as_bob, "access-read")
    assert "1 znode of 6: /app/read-only" in only(as_bob, "access-write")
    assert "digest:bob" in only(as_bob, "auth")


def test_the_root_itself_closed(plain: Server) -> None:
    """The path that was asked for may not be read: a finding, no failure, and nothing is said to be fine."""
    found = zkmig.diagnose(location(plain.hosts, "/app/secret"), auth=())
    assert only(found, "access-read").startswith("problem")
    assert not [f for f in found.findings if f.code.startswith("access-") and f.severity is Severity.OK]


def test_a_path_that_is_not_there(plain: Server) -> None:
    """A plan may create it: a note, and no word about access."""
    found = zkmig.diagnose(location(plain.hosts, "/absent/deep"))
    assert only(found, "path-absent").startswith("note")
    assert not [finding for finding in found.findings if finding.code.startswith("access-")]


def test_acls_that_only_the_server_can_judge(zk: Server, kazoo_client: KazooClientFactory, tree_root: str) -> None:
    """An address range: reading is tried, writing is left to the server and said to be unknown."""
    near, far = make_acl("ip", "127.0.0.0/8", all=True), make_acl("ip", "10.0.0.0/8", all=True)
    kazoo = kazoo_client(zk)
    kazoo.create(tree_root)
    kazoo.create(f"{tree_root}/near", b"", acl=[near])
    kazoo.create(f"{tree_root}/far", b"", acl=[far])
    found = zkmig.diagnose(location(zk.hosts, tree_root))
    assert only(found, "access-read").endswith(f"1 znode may not be read or listed: {tree_root}/far")
    unknown = [finding.what for finding in found.of("access-unknown")]
    assert len(unknown) == 4
    assert all(what.endswith(f"{tree_root}/near") for what in unknown)


def test_skipped_acls_are_found_for_reads_and_writes(plain: Server) -> None:
    """skipACL=yes: the closed subtree is read all the same, and a write that nobody may make is not refused for it.
    The plain server is the control; without a closed znode only the question about writes can tell."""
    with Server(java_options=["-Dzookeeper.skipACL=yes"]) as lenient:
        with closing(KazooClient(lenient.hosts)) as kazoo:
            kazoo.start()
            kazoo.create("/app", b"")
            kazoo.create("/app/secret", b"canary-data", acl=BOBS)
            kazoo.stop()
        found = zkmig.diagnose(location(lenient.hosts, "/app"), auth=())
        reading = zkmig.diagnose(location(lenient.hosts, "/app"), auth=(), reads_only=True)
        blind = zkmig.diagnose(location(lenient.hosts, "/"), auth=(), reads_only=True)
    assert severities(found, "acl-skipped") == [Severity.PROBLEM] * 2
    assert "/app/secret first" in only(reading, "acl-skipped")
    assert blind.of("acl-skipped")
    strict = zkmig.diagnose(location(plain.hosts, "/app"), auth=())
    assert not strict.of("acl-skipped")
    assert "canary" not in "".join(map(str, [finding.document() for finding in found.findings]))


def test_super_is_not_bound() -> None:
    """The super user: what it may do says nothing of others, and whether ACLs are checked cannot be asked by it."""
    digest = make_digest_acl("super", "root").id.id
    option = f"-Dzookeeper.DigestAuthenticationProvider.superDigest={digest}"
    with Server(java_options=[option]) as server:
        with closing(KazooClient(server.hosts)) as kazoo:
            kazoo.start()
            kazoo.create("/app", b"", acl=BOBS)
            kazoo.stop()
        found = zkmig.diagnose(location(server.hosts, "/app"), auth=[("digest", "super:root")])
    assert found.of("super")
    assert only(found, "acl-unknown").startswith("unknown")
    assert not found.of("acl-skipped")
    assert "super may do everything" in only(found, "access")


# -- scopes and quotas ------------------------------------------------------------------------------------------------


def test_a_scope_and_the_roles_in_it(site: Site) -> None:
    """STABLE and open to all; then held. The admin, somebody else, and a reader whom an ACL keeps out."""
    tree = {"": Node(b""), "/open": Node(b""), "/mine": Node(b"", MINE), "/shown": Node(b"", MINE_BUT_READABLE)}
    site.init(tree, Roles((MY_IDENTITY,), (ALICES_IDENTITY, WORLD)))
    where = location(site.server.hosts, site.root)
    as_me = zkmig.diagnose(where, auth=[ME])
    assert only(as_me, "scope").endswith("STABLE at epoch 0")
    assert only(as_me, "role").startswith("ok")
    kept_out = [finding for finding in as_me.of("access-role") if finding.severity is Severity.WARNING]
    assert len(kept_out) == 2  # alice, and everybody
    assert all(f"1 znode of 4: {site.root}/mine" in finding.what for finding in kept_out)
    as_nobody = zkmig.diagnose(where, auth=())
    assert only(as_nobody, "role").startswith("note")
    site.hold(Held("ops", "why", 0.0))
    assert "ops" in only(zkmig.diagnose(where, auth=()), "scope-held")
    site.hold(None)
    above = zkmig.diagnose(where + "/open", auth=())
    assert above.of("scope")


def test_roles_are_judged_in_their_own_scope_and_where_the_session_sees(site: Site) -> None:
    """A closed znode beside a scope is nothing to its reader. One inside, closed to the session too, leaves it unknown,
    never in order; so does an id that the server masks. Method: look from `/` as the admin, then as nobody."""
    shut = [f"{site.root}-beside", site.path("/shut")]
    site.init({"": Node(b"")}, Roles((MY_IDENTITY,), (ALICES_IDENTITY, WORLD)))
    for path in shut:
        site.kazoo.create(path, b"", acl=BOBS)
    try:
        found = zkmig.diagnose(location(site.server.hosts, "/"), auth=[ME])
        masked = zkmig.diagnose(location(site.server.hosts, site.root)).of("access-role")
    finally:
        for path in shut:
            site.kazoo.delete(path)
    told = [finding for finding in found.of("access-role") if f"of scope {site.names.scope} " in finding.what]
    assert len(told) == 3
    assert {finding.severity for finding in told} == {Severity.UNKNOWN}
    assert all(shut[1] in finding.what and shut[0] not in finding.what for finding in told)
    assert any("was not looked at" in finding.what for finding in masked)
    assert not any(finding.severity is Severity.OK for finding in masked)


def test_no_scope(plain: Server) -> None:
    """Where nobody ran init, the command for it is proposed."""
    found = zkmig.diagnose(location(plain.hosts, "/fine"))
    assert f"zkmig init {location(plain.hosts, '/fine')} --scope" in found.of("scope-none")[0].todo


def test_a_damaged_registry_is_a_finding(plain: Server, kazoo_client: KazooClientFactory) -> None:
    """A registry that is none: unknown, with what is wrong; the rest is examined all the same."""
    kazoo_client(plain).create("/other-control/scopes", b"\xff no json", makepath=True)
    found = zkmig.diagnose(location(plain.hosts, "/fine"), control="/other-control")
    assert only(found, "scope-unknown").startswith("unknown")
    assert found.of("access-read")


def test_quotas_on_the_path_and_above(zk: Server, kazoo_client: KazooClientFactory, tree_root: str) -> None:
    """Ample above; soft and hard ones near their end, or past it, on what lies below. None where nobody set one."""
    kazoo = kazoo_client(zk)
    for name in ("top", "top/soft", "top/hard", "top/full"):
        kazoo.create(f"{tree_root}/{name}", b"", makepath=True)
    for name, limits in (
        ("top", "count=1000,bytes=-1"),
        ("top/soft", "count=1,bytes=-1"),
        ("top/hard", "count=-1,bytes=-1;countHardLimit=3;byteHardLimit=-1"),
        ("top/full", "count=-1,bytes=-1;countHardLimit=3;byteHardLimit=-1"),
    ):
        place = f"/zookeeper/quota{tree_root}/{name}"
        kazoo.create(f"{place}/zookeeper_limits", limits.encode(), makepath=True)
        kazoo.create(f"{place}/zookeeper_stats", b"count=0,bytes=0")
    kazoo.set(f"/zookeeper/quota{tree_root}/top/soft/zookeeper_stats", b"count=2,bytes=0")
    kazoo.set(f"/zookeeper/quota{tree_root}/top/full/zookeeper_stats", b"count=3,bytes=0")
    found = zkmig.diagnose(location(zk.hosts, f"{tree_root}/top"))
    by_path = {finding.where.removeprefix(tree_root): finding.severity for finding in found.of("quota")}
    assert by_path == {
        "/top": Severity.NOTE,
        "/top/soft": Severity.WARNING,
        "/top/hard": Severity.NOTE,
        "/top/full": Severity.PROBLEM,
    }
    below = zkmig.diagnose(location(zk.hosts, f"{tree_root}/top/soft"))
    assert [f.where.removeprefix(tree_root) for f in below.of("quota") if "lies above" in f.what] == ["/top"]
    assert not found.of("quota-none")


def test_a_quota_that_makes_no_sense(zk: Server, kazoo_client: KazooClientFactory, tree_root: str) -> None:
    """A limit of thousands of digits, which no server reads: a warning. What nobody counts is not told as nothing."""
    kazoo = kazoo_client(zk)
    kazoo.create(f"{tree_root}/uncounted", makepath=True)
    place = f"/zookeeper/quota{tree_root}"
    kazoo.create(f"{place}/zookeeper_limits", b"count=" + b"9" * 5_000, makepath=True)
    kazoo.create(f"{place}/uncounted/zookeeper_limits", b"count=5,bytes=-1", makepath=True)
    found = zkmig.diagnose(location(zk.hosts, tree_root))
    kazoo.delete(f"{place}/zookeeper_limits")
    absurd, uncounted = found.of("quota")
    assert (absurd.severity, absurd.where) == (Severity.WARNING, tree_root)
    assert uncounted.severity is Severity.NOTE
    assert "? of 5 nodes" in uncounted.what
    assert found.of("access-read")


# -- TLS, and what is no member ---------------------------------------------------------------------------------------


def test_tls_is_told_with_the_end_of_the_certificate() -> None:
    """zks:// to a real TLS port: words go through it as well; by the plain port, what is not encrypted is said."""
    with Server(tls=True) as server:
        assert server.certificates is not None
        tls = Tls(str(server.certificates.ca), str(server.certificates.client))
        found = zkmig.diagnose(f"zks://{server.tls_hosts}/", tls=tls)
        plain = zkmig.diagnose(location(server.hosts))
        stranger = dataclasses.replace(tls, server_name="other.example")
        with pytest.raises(Unreachable, match="made out to another host"):
            zkmig.diagnose(f"zks://{server.tls_hosts}/", tls=stranger)
    assert "its certificate ends in" in only(found, "tls") or found.of("certificate-ends")
    assert found.of("encrypted")
    assert found.of("version")
    assert "x509:" in only(found, "auth")
    assert plain.of("clear")
    assert not plain.of("tls")


def test_two_servers_that_are_not_of_one_ensemble(zk_pair: ServerPair) -> None:
    """One location names two servers that know nothing of each other: the second knows no session of the first."""
    both = f"{zk_pair.source.hosts},{zk_pair.target.hosts}"
    found = zkmig.diagnose(location(both))
    assert only(found, "not-one-ensemble").startswith(f"problem {zk_pair.target.hosts}")
    twice = zkmig.diagnose(location(f"{zk_pair.source.hosts},localhost:{zk_pair.source.port}"))
    assert not twice.of("not-one-ensemble")  # one server by two names


def test_two_ensembles_under_tls(tmp_path: Path) -> None:
    """As members are named under TLS, each by a name of its own: what is not one ensemble is found there, too."""
    made = make_certificates(tmp_path)
    with Server(tls=made) as one, Server(tls=made) as other:
        ports = [server.tls_hosts.rpartition(":")[2] for server in (one, other)]
        tls = Tls(str(made.ca), str(made.client))
        found = zkmig.diagnose(f"zks://localhost:{ports[0]},127.0.0.1:{ports[1]}/", tls=tls)
        twice = zkmig.diagnose(f"zks://localhost:{ports[0]},127.0.0.1:{ports[0]}/", tls=tls)
    assert only(found, "not-one-ensemble").startswith(f"problem 127.0.0.1:{ports[1]}")
    assert not found.of("in-sync")
    assert not {"not-one-ensemble", "ensemble-unknown"} & {finding.code for finding in twice.findings}


def test_what_is_no_server_is_a_member_that_is_down(plain: Server) -> None:
    """Beside a real member: a closed port, one that says nothing, and one that floods with what is no ZooKeeper's."""

    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"\x1b[2J\xff" * 4096)

    def silence(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with listening(flood) as flooding, listening(silence) as silent, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
        told = ask(parse_hosts(flooding)[0])
        found = zkmig.diagnose(location(f"{plain.hosts},{closed},{flooding},{silent}", "/fine"))
    assert len(told.answers["srvr"]) <= ANSWER_BYTES_MAX + (1 << 16)
    assert {finding.where for finding in found.of("member-down")} == {closed, flooding, silent}
    assert found.of("version")[0].where == plain.hosts
    assert not found.of("members-up")


def test_a_member_is_read_by_a_session_that_notices_soon_when_it_freezes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a member may be silent goes by the session's time-out. Method: a server that grants a day; the day is
    told, and what is asked there is asked by a session of seconds."""
    granted: list[int] = []
    ask_for_config = members._config

    def asked(client: Client) -> str | None:
        granted.append(client.session_timeout_ms)
        return ask_for_config(client)

    monkeypatch.setattr(members, "_config", asked)
    with Server(config={"maxSessionTimeout": DAY_MS}) as server:
        found = zkmig.diagnose(location(server.hosts, "/"))
    assert granted == [members.SHORT_SESSION_MS]
    assert str(DAY_MS // 1000) in only(found, "session-limits")


def test_a_front_that_passes_sessions_only(plain: Server) -> None:
    """A front that hangs up on four-letter words: the version is not known, but multiRead says 3.6 or later; frames,
    sessions and ACLs need no words. The server without the front is the control."""

    def sessions_only(connection: socket.socket) -> None:
        if word_of(connection):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            relay(connection, plain.port)

    with listening(sessions_only) as front:
        found = zkmig.diagnose(location(front, "/fine"))
    assert "3.6 or later" in only(found, "version-unknown")
    assert not found.of("version")
    assert found.of("frame-limit")
    assert found.of("acl-checked")
    assert not zkmig.diagnose(location(plain.hosts, "/fine")).of("version-unknown")


def test_another_product_is_named(plain: Server) -> None:
    """A server whose srvr says that it is no Apache ZooKeeper: a problem, as its counters and watches differ."""

    def keeper(connection: socket.socket) -> None:
        if connection.recv(4) == b"srvr":
            connection.sendall(b"ClickHouse Keeper version: v23.3.1-testing\nZxid: 0x1\nMode: follower\n")

    with listening(keeper) as address:
        found = zkmig.diagnose(location(f"{plain.hosts},{address}", "/fine"))
    assert "ClickHouse Keeper" in only(found, "not-zookeeper")


# -- the program ------------------------------------------------------------------------------------------------------


def test_the_program(program: Program, plain: Server) -> None:
    """Exit 0 whatever is found, 2 for what is no live ensemble, 6 where nobody answers; one JSON document; names from
    the server are escaped; no data."""
    where = location(plain.hosts, "/app")
    with closing(KazooClient(plain.hosts)) as kazoo:
        kazoo.start()
        kazoo.create("/app/\u202eevil", b"canary-data", acl=READ_ONLY)
        kazoo.stop()
    text = program("doctor", where).succeeded()
    assert "problem  access-read" in text.stdout
    assert "ok       " not in text.stdout
    assert "ok       version" in program("doctor", where, "--all").succeeded().stdout
    assert "\\u202eevil" in text.stdout
    assert "\u202e" not in text.stdout
    document = program("doctor", where, "--json", "--reads-only").succeeded().document
    assert document["counts"]["problem"] == 1
    assert set(document["findings"][0]) == {"code", "severity", "where", "what", "means", "todo"}
    assert "canary" not in text.stdout + str(document)
    program("doctor", "file.zks").failed(2, "not a live ensemble")
    program("doctor", location(plain.hosts, "/zookeeper")).failed(2, "name another path")
    program("doctor", location(plain.hosts, "/app"), "--control", "x").failed(2)
    program("doctor", "zk://127.0.0.1:1/app").failed(6, "127.0.0.1:1", "refused")
    program("doctor", where, "--timeout", "0.001").failed(143)


def test_a_bad_credential_and_no_host(plain: Server) -> None:
    """What the caller got wrong is an error, not a finding."""
    with pytest.raises(BadInput):
        zkmig.diagnose("zk:///app")
    with pytest.raises(BadInput):
        zkmig.diagnose(location(plain.hosts), auth=[("digest", "no-colon")])
