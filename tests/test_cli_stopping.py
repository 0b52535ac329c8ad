"""A migration that is stopped midway: what the program says, what it leaves, and how it is gone on with.

Method: a plan of many small batches; when kazoo sees that some are applied, halt the server, signal the program, let
the server go on. A throttle makes the plan last for seconds, of which the test needs some hundredths: so the signal
always finds the epoch open and batches to come.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

import zkmig
from tests.conftest import KazooClientFactory
from tests.program import Program, Ran, location
from zkmig.dev import Server

NODES = 2_000
LAST = f"n{NODES - 1:05}"
WAIT_S = 60.0
ESTABLISHED = "01"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that may be halted."""
    with Server() as server:
        yield server


@pytest.fixture
def client(server: Server, kazoo_client: KazooClientFactory) -> KazooClient:
    return kazoo_client(server, timeout=30.0)


@pytest.fixture
def at(server: Server, client: KazooClient, program: Program, tree_root: str) -> str:
    """Location above one scope, over .../live; p.zkplan: it shall equal .../new."""
    client.create(f"{tree_root}/new/pools", makepath=True)
    client.create(f"{tree_root}/live", b"")
    transaction = client.transaction()
    for number in range(NODES):
        transaction.create(f"{tree_root}/new/pools/n{number:05}", b"x" * 100)
    assert not [result for result in transaction.commit() if isinstance(result, Exception)]
    there = location(server.hosts, tree_root)
    zkmig.init(f"{there}/live", tree_root[1:], allow_empty=True)
    plan = zkmig.make_plan(f"{there}/new", f"{there}/live", limits=zkmig.Limits(batch_bytes_max=1_400))
    zkmig.save_plan(plan, str(program.folder / "p.zkplan"))
    return there


APPLY = ("apply", "--epoch", "1", "p.zkplan", "--yes", "--single-shot", "never", "--throttle", "400")


def home_of(at: str) -> str:
    """Where the scope keeps its record; it is named like the tree's root."""
    return "/zkmig/scopes/" + at.rpartition("/")[2]


def cursor(client: KazooClient, at: str) -> int:
    """Batches applied by the only attempt there is; 0 before there is one."""
    epochs = f"{home_of(at)}/epochs"
    try:
        (attempt,) = client.get_children(epochs)
        return int(client.get(f"{epochs}/{attempt}/cursor")[1].version)
    except (ValueError, NoNodeError):
        return 0


def wait_until_some_batches_are_applied(client: KazooClient, at: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while cursor(client, at) == 0:
        assert process.poll() is None, "it came to its end before it could be stopped"
        assert time.monotonic() < deadline


def wait_until_two_clients_are_unanswered(server: Server) -> None:
    """The probe's session and the one that writes: bytes lie in two sockets that the halted server does not read."""
    deadline = time.monotonic() + WAIT_S
    while unread(server.port) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def unread(port: int) -> int:
    """Connections accepted at this port whose bytes nobody has read, by the kernel's own tables (proc(5))."""
    found = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, here, _, state, queues, *_ = line.split()
            is_ours = int(here.rpartition(":")[2], 16) == port and state == ESTABLISHED
            found += is_ours and int(queues.partition(":")[2], 16) > 0
    return found


def ended(process: subprocess.Popen[str]) -> Ran:
    stdout, stderr = process.communicate(timeout=WAIT_S)
    return Ran(process.returncode, stdout, stderr)


def stopped_midway(program: Program, server: Server, client: KazooClient, at: str, number: signal.Signals) -> Ran:
    """Apply, and signal the program while the epoch is open and the server halted."""
    process = program.start(*APPLY)
    wait_until_some_batches_are_applied(client, at, process)
    server.pause()
    process.send_signal(number)
    server.unpause()
    return ended(process)


def pools(at: str) -> str:
    """The target's node that gets all the children."""
    return "/" + at.rpartition("/")[2] + "/live/pools"


def names(client: KazooClient, at: str) -> int:
    """How many it has."""
    return len(client.get_children(pools(at))) if client.exists(pools(at)) else 0


def status(program: Program, at: str) -> dict[str, object]:
    document = program("status", "--at", at, "--json").succeeded().document
    assert isinstance(document, dict)
    return document


def test_ctrl_c_stops_between_batches_and_resume_goes_on(
    program: Program, server: Server, client: KazooClient, at: str
) -> None:
    """Exit 130 with the epoch open; status proposes to resume; resume finds the plan by itself and commits."""
    ran = stopped_midway(program, server, client, at, signal.SIGINT)
    assert ran.code == 130
    assert "Traceback" not in ran.stderr
    lines = ran.stderr.splitlines()
    assert any(line.startswith("zkmig: stopped: interrupted") for line in lines)
    assert "  go on with:    zkmig resume p.zkplan --throttle 400 --yes" in lines  # at the rate that was asked for
    assert "  or take back:  zkmig rollback p.zkplan --throttle 400 --yes" in lines

    found = status(program, at)
    assert (found["state"], found["epoch"], found["target_epoch"]) == ("OPEN", 0, 1)
    assert found["owner_alive"] is False
    applied, total = found["batches_applied"], found["batches_total"]
    assert isinstance(applied, int)
    assert isinstance(total, int)
    assert 0 < applied < total
    assert 0 < names(client, at) < NODES

    program("apply", "--epoch", 1, "p.zkplan", "--yes").failed(3, "epoch 1 is OPEN")
    assert "OPEN" in program("epoch", "--at", at, "--require-stable").stderr
    program("resume", "--at", at).failed(2, "--yes")
    dry = program("resume", "--at", at, "--dry-run").succeeded()
    assert f"create {pools(at)}/{LAST}" in dry.stdout.splitlines()
    assert f"create {pools(at)}/n00000" not in dry.stdout.splitlines()

    resumed = program("resume", "--at", at, "--yes", "--json").succeeded()
    assert "going on with the plan file" in resumed.stderr
    assert (resumed.document["outcome"], resumed.document["epoch"]) == ("applied", 1)
    program("verify", f"{at}/new", f"{at}/live").succeeded()
    assert status(program, at)["state"] == "STABLE"


def test_sigterm_stops_and_rollback_takes_back(program: Program, server: Server, client: KazooClient, at: str) -> None:
    ran = stopped_midway(program, server, client, at, signal.SIGTERM)
    assert ran.code == 143
    dry = program("rollback", "--at", at, "--dry-run").succeeded()
    assert f"delete {pools(at)}/n00000" in dry.stdout.splitlines()
    assert names(client, at) > 0
    ran = program("rollback", "p.zkplan", "--yes", "--json").succeeded()
    assert "make a new one with zkmig plan" in ran.stderr
    taken_back = ran.document
    assert (taken_back["outcome"], taken_back["epoch"], taken_back["deviations"]) == ("rolled back", 0, [])
    assert names(client, at) == 0
    assert status(program, at)["epoch"] == 0
    for words in (("resume",), ("resume", "--dry-run")):
        told = program(*words, "p.zkplan", "--yes").failed(3, "epoch 1 was begun with this plan and rolled back")
        assert "begin it again with zkmig apply --epoch 1" in told  # it only creates, and nothing has a new version
    program("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()


def test_resume_refuses_another_plan_and_wants_one(
    program: Program, server: Server, client: KazooClient, at: str
) -> None:
    """With the file gone, resume asks for it; a plan of other limits is not the one that was begun."""
    stopped_midway(program, server, client, at, signal.SIGINT)
    plan = zkmig.load_plan(program.folder / "p.zkplan").plan
    (program.folder / "p.zkplan").rename(program.folder / "moved.zkplan")
    zkmig.save_plan(replace(plan, notes=("another",)), str(program.folder / "other.zkplan"))
    program("resume", "--at", at, "--yes").failed(3, "needs its plan file")
    program("resume", "other.zkplan", "--yes").failed(3, "not the plan of epoch 1")
    program("resume", "moved.zkplan", "--yes").succeeded()


def test_a_killed_migrator_is_waited_for_or_taken_over_from(program: Program, client: KazooClient, at: str) -> None:
    """SIGKILL leaves the lock until the session ends: --no-wait refuses, --steal goes on at once."""
    process = program.start(*APPLY)
    wait_until_some_batches_are_applied(client, at, process)
    process.kill()
    ended(process)
    assert status(program, at)["owner_alive"] is True
    refused = program("resume", "--at", at, "--no-wait", "--yes")
    assert refused.code == 3
    assert "another migrator" in refused.stderr
    told = program("status", "--at", at).succeeded().stdout
    assert told.index("the owner's session lives (till 30 s after a kill): wait") < told.index("zkmig resume")
    program("apply", "--epoch", 1, "p.zkplan", "--yes").failed(
        3, "epoch 1 is OPEN, and the session of", "up to 30 s, after a kill", "resume", "wait for it with --wait"
    )
    program("resume", "--at", at, "--steal", "--yes").succeeded()
    assert names(client, at) == NODES


def test_a_released_lease_is_not_acting(program: Program, client: KazooClient, at: str) -> None:
    """It stays until a migrator removes it, and blocks nobody; nor does what cannot be read as a lease."""
    for name, data in (
        ("done", b'{"format": 1, "max_ms": 9, "reader": "r", "released": true}'),
        ("busy", b'{"format": 1, "max_ms": 9, "reader": "r", "released": false}'),
        ("odd", b"?"),
    ):
        client.create(f"{home_of(at)}/acting/{name}", data)
    assert status(program, at)["acting"] == ["busy"]


def test_a_foreign_write_is_a_conflict(program: Program, client: KazooClient, at: str) -> None:
    """Somebody creates what a later batch would create: exit 4, nothing of theirs is lost, on the way back neither."""
    process = program.start(*APPLY)
    wait_until_some_batches_are_applied(client, at, process)
    client.create(f"{pools(at)}/{LAST}", b"theirs")
    ran = ended(process)
    assert ran.code == 4
    assert f"{pools(at)}/{LAST}" in ran.stderr
    take_back, go_on = ran.stderr.splitlines()[-2:]
    assert take_back == "  take back:     zkmig rollback p.zkplan --throttle 400 --yes"
    assert "put right by hand" in go_on
    assert go_on.endswith("zkmig resume p.zkplan --throttle 400 --yes")
    found = status(program, at)
    assert str(found["advice"]).startswith("roll back; or resume, once")
    assert found["conflict"] is not None
    next_commands = found["next"]
    assert isinstance(next_commands, list)
    assert next_commands[0].startswith("zkmig rollback")
    taken_back = program("rollback", "--at", at, "--yes").succeeded()
    assert f"left as found: {pools(at)}" in taken_back.stderr
    assert client.get(f"{pools(at)}/{LAST}")[0] == b"theirs"
    assert names(client, at) == 1


@pytest.mark.parametrize(
    ("number", "option", "code"),
    [(signal.SIGINT, (), 130), (None, ("--timeout", "3"), 143)],
    ids=["SIGINT", "timeout"],
)
def test_an_end_while_draining_leaves_nothing_behind(
    program: Program, client: KazooClient, at: str, number: signal.Signals | None, option: tuple[str, ...], code: int
) -> None:
    """A guarded process keeps apply waiting before its first write: stopped there, the scope is STABLE again."""
    client.create(f"{home_of(at)}/guards/host.unit", b'{"format": 1, "unit": "web", "stopped": false}')
    process = program.start(*APPLY, *option)
    if number is not None:
        assert process.stderr is not None
        said = ""
        while "waiting for" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(number)
    ran = ended(process)
    assert ran.code == code
    assert "go on with" not in ran.stderr
    assert ran.stderr.splitlines()[-1].endswith("; nothing was written")
    found = status(program, at)
    assert (found["state"], found["target_epoch"]) == ("STABLE", None)
    assert names(client, at) == 0


def test_a_silent_server_before_the_first_write_is_named(program: Program, server: Server, at: str) -> None:
    """The server is halted before apply asks its first question: --timeout ends it with the server's name, and says
    that nothing was written."""
    server.pause()
    try:
        ran = program(*APPLY, "--timeout", "2")
    finally:
        server.unpause()
    assert ran.code == 143
    line = ran.stderr.splitlines()[-1]
    assert f"--timeout is over while waiting for {server.hosts}, silent for " in line
    assert line.endswith("; nothing was written")
    assert status(program, at)["state"] == "STABLE"


def test_a_second_signal_ends_at_once(program: Program, server: Server, client: KazooClient, at: str) -> None:
    """With the server halted the answer in flight never comes; the second Ctrl-C does not wait for it."""
    process = program.start(*APPLY)
    wait_until_some_batches_are_applied(client, at, process)
    server.pause()
    try:
        wait_until_two_clients_are_unanswered(server)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = ""
        while "a second signal stops at once" not in said:
            said += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        ran = ended(process)
    finally:
        server.unpause()
    assert ran.code == 130
    assert "run zkmig status" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_ctrl_c_while_reading_leaves_no_file(program: Program, server: Server, at: str) -> None:
    server.pause()
    try:
        process = program.start("snapshot", f"{at}/live", "-o", "x.zks", "--verbose")
        assert process.stderr is not None
        assert "reading " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        ran = ended(process)
    finally:
        server.unpause()
    assert ran.code == 130
    assert program.files == {"p.zkplan"}
