"""`zkmig rehearse` as its users see it: its lines, its files, its exit codes, and that its server always ends.

Method: the program, with a plan and a script for a scope on a real server; signals at the time its server is there.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import ACL, Id

import zkmig
from tests.program import Program, location
from tests.rehearsed import SMALL, SMALL_AFTER
from tests.scopes import Site
from zkmig.model.acl import ALL, digest_id
from zkmig.rehearse import stage_server
from zkmig.rehearse.run import APPLY, APPLY_AT_ONCE, LOAD, REVERT, START


@pytest.fixture
def prepared(site: Site, program: Program) -> Iterator[Program]:
    """p.zkplan and t.zks in the program's folder; auth holds the credentials."""
    site.init(SMALL)
    zkmig.save_plan(site.plan(SMALL_AFTER).plan, str(program.folder / "p.zkplan"))
    zkmig.save_snapshot(zkmig.read(location(site.server.hosts, site.root)), str(program.folder / "t.zks"))
    (program.folder / "tmp").mkdir()
    yield program
    assert list((program.folder / "tmp").iterdir()) == []  # however it ended


def environment(program: Program) -> dict[str, str]:
    return {"TMPDIR": str(program.folder / "tmp"), "ZKMIG_AUTH": "digest:me:hunter2"}


@pytest.mark.parametrize("more", [(), ("--target", "t.zks")])
def test_the_program(prepared: Program, site: Site, more: tuple[str, ...]) -> None:
    ran = prepared("rehearse", "p.zkplan", *more, env=environment(prepared)).succeeded()
    assert ran.stdout.count("\nok ") == 6
    assert "proven" in ran.stdout.splitlines()[-1]
    document = prepared("rehearse", "p.zkplan", *more, "--json", env=environment(prepared)).succeeded().document
    assert document["outcome"] == "proven"
    assert [stage["name"] for stage in document["stages"]] == [START, LOAD, APPLY, REVERT, APPLY_AT_ONCE, REVERT]
    assert document["stages"][1]["tree_hash"] == document["tree_hash"] == document["stages"][-1]["tree_hash"]
    assert site.record().epoch == 0


def test_the_program_keeps_the_servers_files(prepared: Program) -> None:
    """A server started on them has the tree as it was before the epochs, and those in its history."""
    prepared("rehearse", "p.zkplan", "--keep", "kept", env=environment(prepared)).succeeded()
    assert (prepared.folder / "kept" / "data" / "version-2").is_dir()
    assert not (prepared.folder / "kept" / "pid").exists()
    ran = prepared("rehearse", "p.zkplan", "--keep", "kept", env=environment(prepared))
    ran.failed(2, "kept", "--keep")


def test_kept_files_are_for_their_owner_while_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that ACLs guard stands in them, and the files themselves may be read by all: the folder keeps others out."""
    (tmp_path / "server").mkdir(mode=0o700)
    (tmp_path / "server" / "data").mkdir()
    (tmp_path / "server" / "data" / "log.1").write_bytes(b"secret")
    seen: list[int] = []
    settle = shutil.copystat

    def spying(source: Any, target: Any, **options: Any) -> None:
        seen.append(stat.S_IMODE(os.stat(tmp_path / "kept").st_mode))
        settle(source, target, **options)

    monkeypatch.setattr(shutil, "copystat", spying)
    stage_server._keep(tmp_path / "server", str(tmp_path / "kept"))
    assert set(seen) == {0o700}
    assert (tmp_path / "kept" / "data" / "log.1").read_bytes() == b"secret"


def test_the_super_user_of_the_target_is_one_here_too(tmp_path: Path) -> None:
    """What no ACL of the target keeps out is not refused by ACLs of the copy, which knows that user by another name."""
    server, who = stage_server.make_server()
    with server:
        tree = location(server.hosts, "/app")
        kazoo = KazooClient(server.hosts, auth_data=[("digest", "me:hunter2")])
        kazoo.start()
        try:
            kazoo.create("/app/mine", b"1", acl=[ACL(ALL, Id("digest", digest_id("me", "hunter2")))], makepath=True)
        finally:
            kazoo.stop()
            kazoo.close()
        zkmig.init(tree, scope="app", auth=(who,))
        script = tmp_path / "0001_mine.py"
        script.write_text('import zkmig\n@zkmig.migration(epoch=1)\ndef mine(tree):\n    tree.set("/app/mine", b"2")\n')
        found = zkmig.rehearse(script, tree, auth=(who,))
    assert found.as_super
    assert any("super user" in sentence for sentence in found.not_rehearsed)
    assert [stage.name for stage in found.stages] == [START, LOAD, APPLY, REVERT, APPLY_AT_ONCE, REVERT]


def test_the_program_on_a_stale_plan(prepared: Program, site: Site) -> None:
    site.kazoo.set(f"{site.root}/a", b"1")
    prepared("rehearse", "p.zkplan", env=environment(prepared)).failed(3, "written since", f"{site.root}/a")


def test_bad_usage_of_the_program(prepared: Program) -> None:
    prepared("rehearse", "p.zkplan", "--target", "t.zks", "--at", "zk://h", env=environment(prepared)).failed(2, "--at")
    prepared("rehearse", "t.zks", env=environment(prepared)).failed(2, "snapshot")
    prepared("rehearse", "missing.zkplan", env=environment(prepared)).failed(2, "missing.zkplan")
    (prepared.folder / "cut.zkplan").write_bytes((prepared.folder / "p.zkplan").read_bytes()[:-40])
    prepared("rehearse", "cut.zkplan", env=environment(prepared)).failed(2, "cut.zkplan")
    without = prepared("rehearse", "p.zkplan", env={**environment(prepared), "PATH": "/nowhere", "JAVA_HOME": ""})
    assert without.code in (0, 2), without  # found elsewhere, or named


SCRIPT = """
import zkmig


@zkmig.migration(epoch=1)
def change(tree):
    tree.set(f"{tree.root}/a", b"by a script")
    tree.delete(f"{tree.root}/a/b")
"""


def test_a_script(prepared: Program, site: Site) -> None:
    """Planned for its target first; not applied to it. The next epoch alone can be rehearsed there."""
    (prepared.folder / "0001_change.py").write_text(SCRIPT)
    (prepared.folder / "0002_change.py").write_text(SCRIPT.replace("epoch=1", "epoch=2"))
    (prepared.folder / "0001_fails.py").write_text(SCRIPT.replace("/a/b", "/x"))
    env, at = environment(prepared), location(site.server.hosts)
    before = site.look()
    for more in (("--at", at, "--scope", site.names.scope), ("--target", "t.zks")):
        ran = prepared("rehearse", "0001_change.py", *more, "--json", env=env).succeeded()
        assert ran.document["outcome"] == "proven"
        assert ran.document["writes"] == 2
    assert site.look() == before
    ran = prepared("rehearse", "0002_change.py", "--at", at + site.root, env=env)
    ran.failed(3, "0002_change.py", "is for epoch 2, and the next one is 1")
    prepared("rehearse", "0001_fails.py", "--at", at + site.root, env=env).failed(2, "0001_fails.py:8")
    prepared("rehearse", "0001_change.py", env=env).failed(2, "--at")
    prepared("rehearse", "p.zkplan", "--scope", "prod", env=env).failed(2, "--scope")
    prepared("rehearse", "p.zkplan", env={**env, "ZKMIG_SCOPE": "prod", "ZKMIG_AT": "zk://nowhere:1"}).succeeded()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_server_too(prepared: Program, number: signal.Signals, code: int) -> None:
    """Once its process is there: afterwards neither that nor its folder is."""
    process = prepared.start("rehearse", "p.zkplan", env=environment(prepared))
    try:
        pid = await_server(prepared.folder / "tmp", process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    # Where the program is killed outright, or does not know yet the process that it has started, the folder's keeper
    # ends it.
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() or any((prepared.folder / "tmp").iterdir()):
        assert time.monotonic() < deadline, "the server, or its folder, is still there"
        time.sleep(0.01)


def await_server(folder: Path, process: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for file in folder.glob("*/pid"):
            text = file.read_text().strip()
            if text:
                return int(text)
        assert process.poll() is None
        time.sleep(0.01)
    raise AssertionError("no server was started")
