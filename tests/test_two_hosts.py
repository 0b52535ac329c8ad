"""What one host began another one ends: forward with its own copy of the plan, or back without any.

Method: the real program in two folders with homes of their own, and the servers named in another order; the first is
killed. Readers' and kazoo's eyes tell what came of it.
"""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.conftest import KazooClientFactory
from tests.program import PROGRAM, Program, Ran, location
from zkmig.dev import Server

NODES = 60
WAIT_S = 60.0


class Host(NamedTuple):
    """A folder and a home of its own. hosts: how it names the servers."""

    program: Program
    home: Path
    hosts: str

    def run(self, *words: object) -> Ran:
        return self.program(*words, env=self.env)

    @property
    def env(self) -> Mapping[str, str]:
        return {"HOME": str(self.home)}

    @property
    def at(self) -> tuple[str, ...]:
        return "--at", location(self.hosts)


class Pair(NamedTuple):
    """Two hosts, a scope over `root`, and a plan at the first."""

    first: Host
    second: Host
    client: KazooClient
    root: str

    @property
    def scope(self) -> tuple[str, ...]:
        return "--scope", self.root[1:]

    @property
    def home(self) -> str:
        return f"/zkmig/scopes/{self.root[1:]}"

    def state(self) -> str:
        document = self.second.run("status", *self.second.at, *self.scope, "--json").succeeded().document
        return str(document["state"])

    def last(self) -> dict[str, object]:
        """The latest attempt, as the other host's history tells."""
        document = self.second.run("history", *self.second.at, *self.scope, "--json").succeeded().document
        attempt: dict[str, object] = document["attempts"][-1]
        return attempt


@pytest.fixture
def pair(zk: Server, tree_root: str, tmp_path: Path, kazoo_client: KazooClientFactory) -> Pair:
    client = kazoo_client(zk)
    port = zk.hosts.rpartition(":")[2]
    orders = (f"127.0.0.1:{port},localhost:{port}", f"localhost:{port},127.0.0.1:{port}")
    hosts = []
    for name, order in zip(("one", "two"), orders, strict=True):
        home = tmp_path / f"home-{name}"
        folder = tmp_path / name
        home.mkdir()
        folder.mkdir()
        hosts.append(Host(Program(folder), home, order))
    first, second = hosts
    client.create(f"{tree_root}-new", b"new")
    client.create(tree_root, b"old")
    client.create(f"{tree_root}/gone", b"here")
    for number in range(NODES):
        client.create(f"{tree_root}-new/n{number:02}", b"x" * 100)
    first.run("init", location(first.hosts, tree_root), "--scope", tree_root[1:]).succeeded()
    source, target = location(first.hosts, f"{tree_root}-new"), location(first.hosts, tree_root)
    first.run("plan", "--from", source, "--to", target, "-o", "p.zkplan").succeeded()
    return Pair(first, second, client, tree_root)


def killed_once(pair: Pair, is_there: Callable[[], bool], *options: str) -> None:
    """The first host applies, slowly, until it is killed as soon as `is_there`."""
    words = ("apply", "--epoch", "1", "p.zkplan", "--yes", "--single-shot", "never", *options)
    process = pair.first.program.start(*words, env=pair.first.env)
    deadline = time.monotonic() + WAIT_S
    while not is_there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()


def has_written(pair: Pair) -> bool:
    try:
        (attempt,) = pair.client.get_children(f"{pair.home}/epochs")
        return bool(pair.client.get(f"{pair.home}/epochs/{attempt}/cursor")[1].version)
    except (ValueError, NoNodeError):
        return False


@pytest.fixture
def cut_off(pair: Pair) -> Pair:
    """The first host was killed in the middle; its session may still live."""
    for number in range(NODES):  # many small batches: the plan of `pair` is one
        pair.client.set(f"{pair.root}-new/n{number:02}", bytes(3_000))
    source, target = location(pair.first.hosts, f"{pair.root}-new"), location(pair.first.hosts, pair.root)
    pair.first.run("plan", "--from", source, "--to", target, "-o", "p.zkplan", "--force").succeeded()
    killed_once(pair, lambda: has_written(pair), "--throttle", "60")
    assert pair.state() == "OPEN"
    return pair


def test_the_other_host_goes_on_with_its_own_copy(cut_off: Pair) -> None:
    """Under another name, in another folder; the history names both."""
    copy = cut_off.second.program.folder / "sub" / "copy.zkplan"
    copy.parent.mkdir()
    shutil.copy(cut_off.first.program.folder / "p.zkplan", copy)
    ran = cut_off.second.run("resume", copy, *cut_off.second.at, *cut_off.scope, "--steal", "--yes").succeeded()
    assert "epoch 1 is committed" in ran.stdout
    assert len(cut_off.client.get_children(cut_off.root)) == NODES
    last = cut_off.last()
    owners = last["owners"]
    assert isinstance(owners, list)
    assert last["outcome"] == "committed"
    assert [Path(owner["plan_path"]).name for owner in owners] == ["p.zkplan", "copy.zkplan"]


def test_the_other_host_takes_it_back_without_the_plan(cut_off: Pair) -> None:
    os.unlink(cut_off.first.program.folder / "p.zkplan")
    cut_off.second.run("rollback", *cut_off.second.at, *cut_off.scope, "--steal", "--yes").succeeded()
    assert cut_off.client.get_children(cut_off.root) == ["gone"]
    assert cut_off.client.get(cut_off.root)[0] == b"old"
    assert cut_off.last()["outcome"] == "rolled_back"


def test_another_plan_at_the_same_path_is_not_gone_on_with(cut_off: Pair) -> None:
    """The path that the first host named exists here too, and is something else: by hash, not by name."""
    path = cut_off.first.program.folder / "p.zkplan"
    other = ("plan", "--from", location(cut_off.second.hosts, f"{cut_off.root}-new"))
    where = location(cut_off.second.hosts, cut_off.root)
    cut_off.client.set(f"{cut_off.root}-new", b"newer")
    cut_off.second.run(*other, "--to", where, "-o", path, "--force").succeeded()
    resume = ("resume", *cut_off.second.at, *cut_off.scope, "--steal", "--yes")
    line = cut_off.second.run(*resume).failed(3, "going on needs its plan file", str(path))
    assert "Traceback" not in line
    cut_off.second.run("resume", path, *cut_off.second.at, *cut_off.scope, "--steal", "--yes").failed(
        3, "this is not the plan of epoch 1"
    )
    os.unlink(path)
    os.mkfifo(path)  # nobody will ever write into it
    cut_off.second.run(*resume).failed(3, "going on needs its plan file")
    assert cut_off.state() == "OPEN"


def test_left_in_preparing_it_is_given_up_from_elsewhere(pair: Pair) -> None:
    """A guarded process held the drain up, and its migrator was killed: nothing was written, nothing is lost."""
    pair.client.create(f"{pair.home}/guards/web1.autoscaler", b'{"format": 1, "unit": "autoscaler", "stopped": false}')

    def is_preparing() -> bool:
        return b'"PREPARING"' in (pair.client.get(f"{pair.home}/epoch")[0] or b"")

    killed_once(pair, is_preparing)
    shown = pair.second.run("rollback", *pair.second.at, *pair.scope, "--dry-run").succeeded()
    assert "of which nothing is written yet" in shown.stderr
    pair.second.run("rollback", *pair.second.at, *pair.scope, "--steal", "--yes").succeeded()
    assert pair.state() == "STABLE"
    assert pair.client.get_children(pair.root) == ["gone"]
    last = pair.last()
    assert (last["outcome"], last["reason"]) == ("aborted", "taken back before anything was written")
    pair.client.delete(f"{pair.home}/guards/web1.autoscaler")
    pair.first.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()


def test_what_the_other_host_committed_meanwhile_is_done(cut_off: Pair) -> None:
    """Both go on; the one that waited says "already applied" and exits with 0."""
    copy = cut_off.second.program.folder / "copy.zkplan"
    shutil.copy(cut_off.first.program.folder / "p.zkplan", copy)
    words = ("resume", copy, *cut_off.second.at, *cut_off.scope, "--steal", "--yes", "--throttle", "3")
    second = cut_off.second.program.start(*words, env=cut_off.second.env)
    deadline = time.monotonic() + WAIT_S
    while not _is_owned_by(cut_off, second):
        assert time.monotonic() < deadline
    waited = cut_off.first.run("apply", "--epoch", 1, "p.zkplan", "--yes", "--wait").succeeded()
    assert "waiting for the migrator" in waited.stderr
    assert "already applied: epoch 1 is committed" in waited.stdout
    second.communicate(timeout=WAIT_S)
    assert second.returncode == 0


def _is_owned_by(pair: Pair, process: subprocess.Popen[str]) -> bool:
    data, stat = pair.client.get(f"{pair.home}/owner")
    return f'"pid": {process.pid}'.encode() in (data or b"") and bool(
        pair.client.exists(f"{pair.home}/lock-{stat.version}")
    )


# -- the commands ------------------------------------------------------------------------------------------------------


def test_history_prune_revert_remove(pair: Pair) -> None:
    """The life of a scope by the program alone, each command from the other host than the one before."""
    first, second, scope = pair.first, pair.second, pair.scope
    assert "has seen no attempt yet" in second.run("history", *second.at, *scope).succeeded().stdout
    first.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    before = second.run("history", *second.at, *scope).succeeded().stdout
    assert "committed" in before
    assert "bytes of undo kept" in before
    assert "nothing to prune" in second.run("prune", *second.at, *scope).succeeded().stdout
    dry = second.run("revert", "--epoch", 1, *second.at, *scope, "--dry-run", "--json").succeeded().document
    assert f"create {pair.root}/gone" in dry["operations"]
    second.run("revert", "--epoch", 1, *second.at, *scope).failed(2, "--yes")
    second.run("revert", "--epoch", 2, *second.at, *scope, "--yes").failed(3, "not the last committed one, which is 1")
    assert second.program.files == set()
    reverted = second.run("revert", "--epoch", 1, *second.at, *scope, "--yes", "--json").succeeded().document
    assert (reverted["epoch"], reverted["reverts"]) == (2, 1)
    assert second.program.files == {f"revert-{pair.root[1:]}-1.zkplan"}
    assert pair.client.get_children(pair.root) == ["gone"]
    assert pair.client.get(f"{pair.root}/gone")[0] == b"here"
    assert "taking back epoch 1" in first.run("history", *first.at, *scope).succeeded().stdout
    would = first.run("prune", *first.at, *scope, "--dry-run", "--json").succeeded().document
    assert [one["epoch"] for one in would["pruned"]] == [1]
    assert "pruned epoch 1" in first.run("prune", *first.at, *scope).succeeded().stdout
    assert "undo pruned" in second.run("history", *second.at, *scope).succeeded().stdout
    first.run("prune", *first.at, *scope, "--keep", 0).succeeded()
    second.run("revert", "--epoch", 2, *second.at, *scope, "--yes").failed(3, "the undo of epoch 2 was pruned")
    first.run("remove", *first.at, "--yes").failed(2, "no scope is named")
    first.run("remove", *first.at, *scope).failed(2, "--yes")
    assert "would be removed" in first.run("remove", *first.at, *scope, "--dry-run").succeeded().stdout
    assert "removed" in first.run("remove", *first.at, *scope, "--yes").succeeded().stdout
    second.run("status", *second.at, *scope).failed(3, "no scope")
    assert pair.client.get_children(pair.root) == ["gone"]


def test_a_revert_that_was_killed_is_gone_on_with_from_another_folder(pair: Pair) -> None:
    """Its plan has the default name, in the folder where it began; status knows where, and resume finds it."""
    for number in range(NODES):
        pair.client.set(f"{pair.root}-new/n{number:02}", bytes(3_000))
    source, target = location(pair.first.hosts, f"{pair.root}-new"), location(pair.first.hosts, pair.root)
    pair.first.run("plan", "--from", source, "--to", target, "-o", "p.zkplan", "--force").succeeded()
    pair.first.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    words = ("revert", "--epoch", 1, *pair.first.at, *pair.scope, "--yes", "--single-shot", "never", "--throttle", "15")
    process = pair.first.program.start(*words, env=pair.first.env)
    deadline = time.monotonic() + WAIT_S
    while len(pair.client.get_children(pair.root)) in (NODES, 1):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = pair.second.run("status", *pair.second.at, *pair.scope, "--json").succeeded().document
    resume = next(command for command in found["next"] if command.startswith("zkmig resume"))
    assert str(pair.first.program.folder / f"revert-{pair.root[1:]}-1.zkplan") in resume
    pair.second.run(*shlex.split(resume)[1:], "--steal").succeeded()
    assert pair.client.get_children(pair.root) == ["gone"]
    last = pair.last()
    assert (last["outcome"], last["reverts"], last["epoch"]) == ("committed", 1, 2)


def answered(host: Host, question: bytes, answer: bytes, *words: object) -> tuple[int, str]:
    """Run with a terminal for stdin and stderr, and answer its question: exit code, and what it showed."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [PROGRAM, *map(str, words)],
            cwd=host.program.folder,
            env=host.program.environment({"TERM": "xterm", **host.env}),
            stdin=its,
            stderr=its,
            stdout=subprocess.DEVNULL,
        )
        os.close(its)
        shown = b""
        while question not in shown:
            shown += terminal.read(1024)
        terminal.write(answer + b"\n")
        return process.wait(timeout=60), shown.decode()


def test_revert_and_remove_ask_on_a_terminal(pair: Pair) -> None:
    """They show what they would do; a no writes nothing."""
    host, place = pair.first, (*pair.first.at, *pair.scope)
    host.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    revert = ("revert", "--epoch", 1, *place)
    code, shown = answered(host, b"Take it back?", b"n", *revert)
    assert (code, host.program.files) == (2, {"p.zkplan"})
    assert "epoch 2 would take back epoch 1" in shown
    assert "sequence counters stay where they are" in shown
    assert answered(host, b"Take it back?", b"y", *revert)[0] == 0
    assert pair.client.get_children(pair.root) == ["gone"]
    code, shown = answered(host, b"Remove it?", b"n", "remove", *place)
    assert code == 2
    assert "its history and undo with them" in shown
    assert pair.state() == "STABLE"
    assert answered(host, b"Remove it?", b"y", "remove", *place)[0] == 0
    assert pair.client.exists(pair.home) is None


def test_refusals_are_one_line_each(cut_off: Pair) -> None:
    at, scope = cut_off.second.at, cut_off.scope
    for words in (("prune",), ("revert", "--epoch", 1, "--yes"), ("remove", "--yes")):
        cut_off.second.run(*words, *at, *scope).failed(3, "epoch 1 is OPEN", "resume or rollback")
    cut_off.second.run("prune", "--keep", "-1", *at, *scope).failed(2, "--keep")
    cut_off.second.run("revert", *at, *scope).failed(2, "--epoch")
    for command in ("history", "prune", "remove"):
        cut_off.second.run(command, *at, "--scope", "other", *(("--yes",) if command == "remove" else ())).failed(
            3, "no scope 'other'"
        )
    shown = cut_off.second.run("rollback", *at, *scope, "--dry-run").succeeded().stdout
    assert f"delete {cut_off.root}/n00" in shown.splitlines()
