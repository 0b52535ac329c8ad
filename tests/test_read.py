"""Reading a location: live or file, whole or narrowed, and one telling line for whatever cannot be read.

Method: the same tree through an ensemble location and through a file made of it; every bad input on a real server or
a real file.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kazoo.security import make_digest_acl

import zkmig
from tests.conftest import KazooClientFactory
from tests.program import Program
from zkmig.dev import Server
from zkmig.errors import BadInput, DamagedFile, NotConsistent, NotPermitted, Stopped, Unreachable
from zkmig.model.path import CONTROL_ROOT, SYSTEM_ROOT
from zkmig.model.snapshot import Consistency, Snapshot
from zkmig.plan import planfile
from zkmig.source import read as reading
from zkmig.source import zks
from zkmig.source.ensemble import SourceAbsent
from zkmig.source.location import EnsembleLocation
from zkmig.source.read import make_scope, read, read_or_none
from zkmig.wire.credential import Credential

TAILS = ("", "/a", "/a/b", "/ab", "/a-b", "/c", "/c/d")


@pytest.fixture
def tree(zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> str:
    """A small tree; its root."""
    kazoo = kazoo_client(zk)
    for tail in TAILS:
        kazoo.create(tree_root + tail, tail.encode())
    return tree_root


def test_an_ensemble_and_a_file_made_of_it_read_the_same(zk: Server, tree: str, tmp_path: Path) -> None:
    text = f"zk://{zk.hosts}{tree}/"
    live = read(text)
    assert live.provenance.location == text
    assert live.provenance.hosts == (zk.hosts,)
    assert live.provenance.taken_at is not None
    assert not live.is_fuzzy
    zks.write(live, tmp_path / "no suffix")
    stored = read(str(tmp_path / "no suffix"))
    assert dict(stored) == dict(live)
    assert (stored.scope, stored.provenance, stored.consistency) == (live.scope, live.provenance, live.consistency)
    assert stored.tree_hash == live.tree_hash


def test_what_must_be_one_state_is_refused_when_it_is_not_known_to_be(
    zk: Server, tree: str, tmp_path: Path, program: Program
) -> None:
    """A file that says it is fuzzy: read as it is, unless one state is asked for; then exit code 4, and no file."""
    live = zkmig.read(f"zk://{zk.hosts}{tree}", require_consistent=True)
    fuzzy = Snapshot(live.columns, live.scope, live.provenance, Consistency(True, 0x17, 0x19, "others wrote"))
    zks.write(fuzzy, tmp_path / "fuzzy.zks")
    location = str(tmp_path / "fuzzy.zks")
    assert zkmig.read(location).is_fuzzy
    with pytest.raises(NotConsistent, match="0x17 to 0x19: others wrote"):
        zkmig.read(location, require_consistent=True)
    saved = program("snapshot", location, "-o", "copy.zks").succeeded()
    assert "fuzzy, of zxids 0x17 to 0x19" in saved.stdout
    assert "warning: copy.zks is fuzzy, a mix of states (zxids 0x17 to 0x19)" in saved.stderr
    program("snapshot", location, "-o", "none.zks", "--require-consistent").failed(4, "fuzzy", "others wrote")
    to = f"zk://{zk.hosts}/elsewhere"
    program("plan", "--from", location, "--to", to, "-o", "none.zkplan", "--require-consistent").failed(4, "fuzzy")
    assert sorted(path.name for path in program.folder.iterdir()) == ["copy.zks", "fuzzy.zks"]


def test_a_read_given_an_earlier_snapshot_is_the_tree_as_it_is(
    zk: Server, tree: str, kazoo_client: KazooClientFactory
) -> None:
    earlier = zkmig.read(f"zk://{zk.hosts}{tree}")
    kazoo = kazoo_client(zk)
    kazoo.delete(tree + "/c", recursive=True)
    kazoo.create(tree + "/a/new", b"new")
    later = zkmig.read(f"zk://{zk.hosts}{tree}", known=earlier)
    assert dict(later) == dict(zkmig.read(f"zk://{zk.hosts}{tree}"))
    assert list(later) == [tree + tail for tail in ("", "/a", "/a/b", "/a/new", "/a-b", "/ab")]


def test_a_location_is_where_a_chrooted_client_works(zk: Server, tree: str, kazoo_client: KazooClientFactory) -> None:
    """Paths in a snapshot are absolute on the server, whatever chroot the services below it use."""
    kazoo_client(f"{zk.hosts}{tree}/a").create("/mine", b"by a chrooted client")
    snapshot = read(EnsembleLocation(((zk.hosts.partition(":")[0], zk.port),), tree + "/a"))
    assert list(snapshot) == [f"{tree}/a", f"{tree}/a/b", f"{tree}/a/mine"]


def test_excludes_narrow_a_live_tree_and_a_file_alike(zk: Server, tree: str, tmp_path: Path) -> None:
    file = tmp_path / "tree.zks"
    zks.write(read(f"zk://{zk.hosts}{tree}"), file)
    excludes = [tree + "/a/", tree + "/c/d"]
    live = read(f"zk://{zk.hosts}{tree}", excludes=excludes)
    stored = read(str(file), excludes=excludes)
    assert list(live) == list(stored) == [tree + tail for tail in ("", "/a-b", "/ab", "/c")]
    assert live.scope == stored.scope
    assert live.tree_hash == stored.tree_hash
    again = tmp_path / "narrowed.zks"
    zks.write(stored, again)
    assert read(str(again)).scope == stored.scope
    assert read(str(again), excludes=[tree + "/ab"]).scope.excludes == (*stored.scope.excludes, tree + "/ab")
    elsewhere = read(str(file), excludes=[tree + "/nothing-here"])
    assert elsewhere.tree_hash == read(str(file)).tree_hash


def test_the_servers_own_tree_and_the_control_plane_are_never_part(zk: Server, tree: str) -> None:
    assert make_scope("/").excludes == (SYSTEM_ROOT, CONTROL_ROOT)
    assert make_scope("/", control="/ops/zkmig").excludes == (SYSTEM_ROOT, "/ops/zkmig")
    assert list(read(f"zk://{zk.hosts}{tree}", control=tree + "/a")) == [
        tree + tail for tail in ("", "/a-b", "/ab", "/c", "/c/d")
    ]
    for root in ("/zookeeper", "/zookeeper/quota", "/zkmig", "/zkmig/scopes"):
        with pytest.raises(BadInput, match="never read or migrated"):
            read(f"zk://{zk.hosts}{root}")


@pytest.mark.parametrize("exclude", ["/app", "/", "/apple", "/ap", "relative", "/app//x", ""])
def test_an_exclude_that_leaves_out_nothing_or_everything_is_refused(exclude: str) -> None:
    with pytest.raises(BadInput):
        make_scope("/app", [exclude])


def test_a_root_that_is_not_there_is_told_or_none(zk: Server, tree_root: str) -> None:
    text = f"zk://{zk.hosts}{tree_root}"
    assert read_or_none(text) is None
    with pytest.raises(SourceAbsent) as caught:
        read(text)
    assert text in str(caught.value)


def test_credentials_open_what_is_closed(zk: Server, tree: str, kazoo_client: KazooClientFactory) -> None:
    kazoo_client(zk).set_acls(tree + "/c", [make_digest_acl("ann", "hunter2", all=True)])
    with pytest.raises(NotPermitted, match=f"{tree}/c"):
        read(f"zk://{zk.hosts}{tree}")
    assert len(read(f"zk://{zk.hosts}{tree}", auth=[Credential("digest", b"ann:hunter2")])) == len(TAILS)


def test_nobody_listening_is_unreachable(tree_root: str) -> None:
    with Server() as server:
        hosts = server.hosts
    with pytest.raises(Unreachable, match=hosts):
        read(f"zk://{hosts}{tree_root}", connect_timeout_s=0.5)


def test_a_stop_ends_a_read(zk: Server, tree: str) -> None:
    def stop() -> None:
        raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        read(f"zk://{zk.hosts}{tree}", check_stop=stop)


def test_files_that_are_no_snapshots_are_told_apart(tmp_path: Path) -> None:
    assert planfile.FORMAT.magic.startswith(reading.PLAN_MAGIC)
    plan = tmp_path / "misnamed.zks"
    plan.write_bytes(planfile.FORMAT.start + b"whatever follows")
    with pytest.raises(BadInput, match="plan file") as caught:
        read(str(plan))
    assert not isinstance(caught.value, DamagedFile)
    text = tmp_path / "text.zks"
    text.write_bytes(b"hello")
    with pytest.raises(DamagedFile, match="not a snapshot file"):
        read(str(text))
    with pytest.raises(BadInput, match="directory"):
        read(str(tmp_path))
    with pytest.raises(BadInput, match="no such file"):
        read(str(tmp_path / "absent.zks"))


@pytest.mark.parametrize("text", ["zk1:2181", "zk1:2181/app", "127.0.0.1:2181,zk2:2181/app"])
def test_a_forgotten_scheme_is_pointed_out(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(text)
    assert f"zk://{text}" in str(caught.value)
