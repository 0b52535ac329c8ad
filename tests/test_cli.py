"""The program as a whole, on real servers: a migration from init to verify, its output, its start.

Method: run the installed `zkmig` in a process of its own, and look at the servers with plain kazoo.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

from tests.conftest import KazooClientFactory, ServerPair
from tests.program import PROGRAM, Program, location
from zkmig.dev import Server

STATUS_FIELDS = {
    "scope", "state", "held", "epoch", "target_epoch", "batches_applied", "batches_total", "owner", "owner_alive",
    "readers", "guards", "pending", "next",
}  # fmt: skip


def grow(client: KazooClient, root: str, names: int = 3, data: bytes = b"v1") -> None:
    """A small tree: pools with members, one of them null, and a queue that has given out five numbers."""
    client.create(root, b"root", makepath=True)
    client.create(f"{root}/pools", b"")
    for number in range(names):
        client.create(f"{root}/pools/n{number}", data)
    client.create(f"{root}/queue", b"")
    for _ in range(5):
        client.delete(client.create(f"{root}/queue/q-", sequence=True))


def data_below(client: KazooClient, root: str) -> dict[str, bytes | None]:
    """Relative path -> data, as kazoo reads them."""
    found = {}
    stack = [root]
    while stack:
        path = stack.pop()
        found[path[len(root) :]] = client.get(path)[0]
        stack += [f"{path}/{name}" for name in client.get_children(path)]
    return found


@pytest.mark.parametrize("single_shot", ["require", "never"])
def test_a_migration_from_init_to_verify(
    program: Program, zk_pair: ServerPair, tree_root: str, kazoo_client: KazooClientFactory, single_shot: str
) -> None:
    """Copy a tree over another one on a second server, by every command; kazoo finds both the same in the end."""
    source, target = location(zk_pair.source.hosts, tree_root), location(zk_pair.target.hosts, tree_root)
    at, scope = ("--at", location(zk_pair.target.hosts)), ("--scope", tree_root[1:])
    ours, theirs = kazoo_client(zk_pair.source), kazoo_client(zk_pair.target)
    grow(ours, tree_root)
    theirs.create(f"{tree_root}/pools/old", b"", makepath=True)

    assert "STABLE at epoch 0" in program("init", target, *scope).succeeded().stdout
    assert program("init", target, *scope, "--json").succeeded().document["created"] is False
    assert program("epoch", *at, *scope).succeeded().stdout == "0\n"

    saved = program("snapshot", source, "-o", "monday.zks", "--json").succeeded().document
    assert (saved["znodes"], saved["fuzzy"], saved["root"]) == (6, False, tree_root)

    different = program("diff", "monday.zks", target)
    assert different.code == 1
    assert different.stdout.splitlines() == [
        "~ / data", "~ / counter 1 -> 2", "~ /pools counter 1 -> 3", "+ /pools/n0", "+ /pools/n1", "+ /pools/n2",
        "- /pools/old", "+ /queue",
    ]  # fmt: skip
    assert program("verify", "monday.zks", target).code == 1

    planned = program("plan", "--from", "monday.zks", "--to", target, "-o", "p.zkplan", "--json").succeeded().document
    assert planned["counts"] == {"create": 4, "write": 1, "delete": 1, "raise_counter": 1, "set_acl": 0}
    assert (planned["scope"], planned["epoch"], planned["single_shot"]) == (tree_root[1:], 0, True)

    dry = program("apply", "--epoch", 1, "p.zkplan", "--dry-run").succeeded()
    assert f"create {tree_root}/pools/n0" in dry.stdout.splitlines()
    assert sorted(theirs.get_children(f"{tree_root}/pools")) == ["old"]

    options = ("--yes", "--single-shot", single_shot, "--json")
    applied = program("apply", "--epoch", 1, "p.zkplan", *options).succeeded().document
    assert (applied["outcome"], applied["epoch"]) == ("applied", 1)
    assert applied["single_shot"] is (single_shot == "require")
    assert data_below(theirs, tree_root) == data_below(ours, tree_root)
    assert theirs.create(f"{tree_root}/queue/q-", sequence=True).endswith("q-0000000005")
    theirs.delete(f"{tree_root}/queue/q-0000000005")

    again = program("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    assert "already applied" in again.stdout
    assert program("verify", source, target).succeeded().stdout.startswith("the same: 6 znodes")
    assert program("diff", source, target, "--exact-counters").code == 1  # the queue's went up by one

    status = program("status", *at, *scope, "--json").succeeded().document
    assert status.keys() >= STATUS_FIELDS
    assert (status["state"], status["epoch"], status["target_epoch"]) == ("STABLE", 1, None)
    assert "epoch      1" in program("status", *at, *scope).succeeded().stdout
    assert program("epoch", *at, *scope, "--require-stable").succeeded().stdout == "1\n"

    plan_again = ("plan", "--from", source, "--to", target, "-o", "q.zkplan", "--json")
    assert program(*plan_again).succeeded().document["empty"] is True
    before = zk_pair.target.zxid()
    nothing = program("apply", "--epoch", 2, "q.zkplan", "--yes", "--json").succeeded().document
    assert nothing["outcome"] == "nothing to do"
    assert zk_pair.target.zxid() - before == 2  # a session's begin and its end


def test_places_may_come_from_the_environment(program: Program, zk: Server, tree_root: str) -> None:
    """ZKMIG_AT and ZKMIG_SCOPE stand in for options; a plan that knows its target does not heed them."""
    there = location(zk.hosts, tree_root)
    scope = tree_root[1:]
    program("init", there, "--scope", scope, "--allow-empty").succeeded()
    env = {"ZKMIG_AT": location(zk.hosts), "ZKMIG_SCOPE": scope}
    assert program("epoch", env=env).succeeded().stdout == "0\n"
    program("snapshot", location(zk.hosts, "/zookeeper/none"), "-o", "x.zks").failed(2)
    assert program("plan", "--from", there, "--to", there, "-o", "p.zkplan").code == 2  # the root is not there


def test_a_plan_goes_where_it_was_made_for(
    program: Program, zk_pair: ServerPair, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    grow(kazoo_client(zk_pair.source), tree_root)
    target = location(zk_pair.target.hosts, tree_root)
    program("init", target, "--scope", tree_root[1:]).succeeded()
    program("plan", "--from", location(zk_pair.source.hosts, tree_root), "--to", target, "-o", "p.zkplan").succeeded()
    misleading = {"ZKMIG_AT": location(zk_pair.source.hosts), "ZKMIG_SCOPE": "another"}
    program("apply", "--epoch", 1, "p.zkplan", "--yes", env=misleading).succeeded()
    assert kazoo_client(zk_pair.target).exists(f"{tree_root}/pools/n0")


def test_a_plan_may_be_made_before_init_and_against_a_file(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    client = kazoo_client(zk)
    grow(client, f"{tree_root}/new")
    client.create(f"{tree_root}/live", b"")
    source, live = location(zk.hosts, f"{tree_root}/new"), location(zk.hosts, f"{tree_root}/live")
    program("snapshot", live, "-o", "live.zks").succeeded()
    early = program("plan", "--from", source, "--to", live, "-o", "early.zkplan").succeeded()
    assert "run zkmig init" in early.stderr
    offline = program("plan", "--from", source, "--to", "live.zks", "-o", "offline.zkplan", "--json").succeeded()
    assert offline.document["target"]["hosts"] == [zk.hosts]
    program("apply", "--epoch", 1, "early.zkplan", "--yes").failed(3, "no scope covers")
    program("init", live, "--scope", f"{tree_root[1:]}-live", "--allow-empty").succeeded()
    program("apply", "--epoch", 1, "offline.zkplan", "--yes").succeeded()
    program("verify", source, live).succeeded()


def test_an_absent_target_is_all_differences_and_an_absent_source_is_bad_input(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    grow(kazoo_client(zk), tree_root)
    there, nowhere = location(zk.hosts, tree_root), location(zk.hosts, f"{tree_root}-none")
    all_new = program("diff", there, nowhere, "--json")
    assert all_new.code == 1
    assert all_new.document["target"] is None
    assert all_new.document["counts"]["add"] == 6
    assert program("verify", there, nowhere).code == 1
    program("diff", nowhere, there).failed(2, "no such znode")


def test_verify_says_how_many_differences_it_does_not_name(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """20 are named; of 20, the root's counter one of them, it says nothing of more."""
    client = kazoo_client(zk)
    client.create(f"{tree_root}/b", b"", makepath=True)
    for number in range(19):
        client.create(f"{tree_root}/a/{number}", b"", makepath=True)
    a, b = (location(zk.hosts, f"{tree_root}/{side}") for side in "ab")
    exact = program("verify", a, b)
    assert (exact.code, len(re.findall("^[+~] /", exact.stdout, re.MULTILINE)), " more" in exact.stdout) == (
        1,
        20,
        False,
    )
    for number in range(19, 22):
        client.create(f"{tree_root}/a/{number}", b"")
    cut = program("verify", a, b)
    assert (cut.code, len(re.findall("^[+~] /", cut.stdout, re.MULTILINE))) == (1, 20)
    assert "\n... and 3 more, which zkmig diff names\n" in cut.stdout


def test_excludes_apply_to_whichever_side_they_lie_in(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Two trees that differ only below one path are the same without it, named on either side."""
    client = kazoo_client(zk)
    for side in ("a", "b"):
        grow(client, f"{tree_root}/{side}")
    client.create(f"{tree_root}/b/queue/extra", b"")
    a, b = (location(zk.hosts, f"{tree_root}/{side}") for side in "ab")
    assert program("diff", a, b).code == 1
    for side in ("a", "b"):
        program("verify", a, b, "--exclude", f"{tree_root}/{side}/queue").succeeded()
    program("verify", a, b, "--exclude", "/elsewhere").failed(2, "below neither root")


# -- output -----------------------------------------------------------------------------------------------------------


def test_names_from_servers_cannot_play_with_the_terminal(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """A right-to-left override in a name is shown as an escape, an ordinary foreign name as it is."""
    client = kazoo_client(zk)
    client.create(f"{tree_root}/a", makepath=True)
    client.create(f"{tree_root}/b/x\u202ey", makepath=True)
    client.create(f"{tree_root}/b/队列", makepath=True)
    shown = program("diff", location(zk.hosts, f"{tree_root}/b"), location(zk.hosts, f"{tree_root}/a")).stdout
    assert "+ /x\\u202ey" in shown
    assert "+ /队列" in shown
    program("status", "--at", location("\u202e:1")).failed(2, "\\u202e")


def test_a_closed_pipe_is_no_failure(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory
) -> None:
    """Close stdout before the first line: the exit code still tells the result, and nothing is said."""
    grow(kazoo_client(zk), tree_root)
    process = program.start("diff", location(zk.hosts, tree_root), location(zk.hosts, f"{tree_root}-none"))
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error" not in stderr
    assert "Traceback" not in stderr


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run([PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 70
    assert ran.stderr.count("\n") == 1
    assert "could not be written" in ran.stderr


@pytest.fixture
def planned(program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory) -> str:
    """p.zkplan, for a scope named like the tree's root that is there already; the plan's target location."""
    client = kazoo_client(zk)
    grow(client, f"{tree_root}/new")
    client.create(f"{tree_root}/live", b"")
    target = location(zk.hosts, f"{tree_root}/live")
    program("init", target, "--scope", tree_root[1:], "--allow-empty").succeeded()
    made = program("plan", "--from", location(zk.hosts, f"{tree_root}/new"), "--to", target, "-o", "p.zkplan")
    assert re.search(r"^written +\d+ writes in 1 batch, \d+ bytes of undo$", made.succeeded().stdout, re.MULTILINE)
    return target


def answered(program: Program, answer: str, env: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Apply p.zkplan with a terminal for stdin and stderr, and answer its question: exit code, and what it showed."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [PROGRAM, "apply", "--epoch", "1", "p.zkplan"],
            cwd=program.folder,
            env=program.environment({"TERM": "xterm", **(env or {})}),
            stdin=its,
            stderr=its,
            stdout=subprocess.PIPE,
        )
        os.close(its)
        shown = b""
        while b"Apply it?" not in shown:
            shown += terminal.read(1024)
        terminal.write(answer.encode() + b"\n")
        assert process.stdout is not None
        process.stdout.read()
        return process.wait(timeout=60), shown


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(("answer", "code", "epoch"), [("y", 0, "1"), ("n", 2, "0")])
def test_apply_asks_on_a_terminal(
    program: Program, zk: Server, tree_root: str, answer: str, code: int, epoch: str
) -> None:
    """Give the program a terminal for stdin and stderr: it shows what it will do, and does what it is told."""
    ended, shown = answered(program, answer)
    assert ended == code
    assert f"epoch 1 of scope {tree_root[1:]}".encode() in shown
    assert b"5 to create" in shown
    at = ("--at", location(zk.hosts), "--scope", tree_root[1:])
    assert program("epoch", *at).succeeded().stdout == f"{epoch}\n"


@pytest.mark.parametrize("is_asked", [True, False])
def test_acls_alone_are_something_to_do(
    program: Program, zk: Server, tree_root: str, kazoo_client: KazooClientFactory, is_asked: bool
) -> None:
    """A plan that only tightens ACLs has no batches, and no single shot either; it must be carried out all the same."""
    client = kazoo_client(zk)
    client.add_auth("digest", "me:hunter2")
    for side in ("new", "live"):
        client.create(f"{tree_root}/{side}/a", b"x", makepath=True)
    mine = [make_digest_acl("me", "hunter2", all=True)]
    client.set_acls(f"{tree_root}/new/a", mine)
    me = {"ZKMIG_AUTH": "digest:me:hunter2"}
    source, target = (location(zk.hosts, f"{tree_root}/{side}") for side in ("new", "live"))
    program("init", target, "--scope", tree_root[1:], env=me).succeeded()
    program("plan", "--from", source, "--to", target, "-o", "p.zkplan", env=me).succeeded()
    dry = program("apply", "--epoch", 1, "p.zkplan", "--dry-run", "--json", env=me).succeeded().document
    assert (dry["outcome"], dry["operations"]) == ("dry run", [f"set acl {tree_root}/live/a"])
    if is_asked:
        assert answered(program, "y", me)[0] == 0
    else:
        ran = program("apply", "--epoch", 1, "p.zkplan", "--yes", "--json", env=me).succeeded()
        assert ran.document["outcome"] == "applied"
    assert client.get_acls(f"{tree_root}/live/a")[0] == mine


# -- help and start ---------------------------------------------------------------------------------------------------

COMMANDS = (
    "snapshot", "diff", "verify", "status", "history", "epoch", "init", "plan", "apply", "resume", "rollback", "revert",
    "prune", "remove", "dev", "demo",
)  # fmt: skip


def test_help_lists_every_command(program: Program) -> None:
    shown = program("--help").succeeded().stdout
    assert [name for name in COMMANDS if not re.search(rf"^  {name} ", shown, re.MULTILINE)] == []
    assert program("--version").succeeded().stdout.startswith("zkmig ")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_ends_with_its_exit_codes(program: Program, command: str) -> None:
    shown = program(command, "--help").succeeded().stdout
    assert "--timeout" in shown
    codes = shown[shown.index("Exit codes:") :]
    assert re.search(r"\b0\b", codes)
    assert re.search(r"\b2\b", codes)


def test_epoch_starts_without_what_it_does_not_need(planned: str) -> None:
    """Run `zkmig epoch` in an interpreter that tells in the end what it has loaded."""
    scope = Path(planned).parent.name
    at = planned.rpartition("/t-")[0]
    code = (
        "import atexit, sys; from zkmig.cli.main import main;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        f"sys.argv = ['zkmig', 'epoch', '--at', {at!r}, '--scope', {scope!r}]; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"
    loaded = set(ran.stderr.split())
    assert "zkmig.wire.client" in loaded
    assert not loaded & {"rich", "networkx", "kazoo", "msgpack", "zkmig.plan", "zkmig.diff", "importlib.metadata"}
