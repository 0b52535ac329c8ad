"""`zkmig guard` as a program: its life beside migrations and holds, outages, crashes and other guards.

Method: the real program with small commands on a real server, looked at by its status file, its registration and /proc;
a TCP proxy takes the servers away from it.
"""

from __future__ import annotations

import os
import signal
import socket
from itertools import groupby
from pathlib import Path

import pytest

from tests.guards import HELD, Guarded, hold, is_alive, python, registration, until
from tests.interruptions import when_said
from tests.program import Program
from tests.proxy import Proxy
from tests.scopes import AFTER, BEFORE, Site
from zkmig.apply.forward import Options
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.transitions import State


def test_held_it_ends_its_command_says_so_and_stays(site: Site, guarded: Guarded) -> None:
    """Everything it has started goes, also what has left the session; released, it starts anew."""
    site.init(BEFORE)
    (guarded.folder / "pid").touch()
    stubborn = "trap '' TERM HUP INT; echo $$ > pid; while :; do sleep 0.05; done"
    command = (
        "sh",
        "-c",
        f"(setsid sh -c \"{stubborn}\" &); trap 'exit 3' TERM; touch up; while :; do sleep 0.05; done",
    )
    process = guarded.start(command=command)
    pid = guarded.await_running()
    until(lambda: (guarded.folder / "pid").read_text().strip())
    daemon = int((guarded.folder / "pid").read_text())
    entry = registration(site)
    assert (entry.stopped, entry.epoch, entry.unit) == (False, 0, "unit")
    hold(site, HELD)
    status = guarded.await_phase("waiting", "rack move")
    assert (status["hold"]["holder"], status["hold"]["expired"], status["pid"]) == ("ops", False, None)
    assert not is_alive(pid)
    assert not is_alive(daemon)
    entry = registration(site)
    assert entry.stopped
    assert "rack move" in entry.why
    (guarded.folder / "up").unlink()
    hold(site, None)
    assert guarded.await_running() != pid
    until((guarded.folder / "up").exists)
    assert guarded.end(process) == 3
    assert registration(site).stopped
    assert guarded.status()["code"] == 3
    lines = [line for line in guarded.stdout.splitlines() if line.startswith("guard unit: ")]
    phases = [line.split()[2] for line in lines]
    assert [phase for phase, _ in groupby(phases)] == ["running", "ending", "waiting", "running", "ending", "left"]
    assert any("SIGTERM passed on" in line for line in lines)


def test_a_drain_waits_until_all_is_gone(site: Site, guarded: Guarded) -> None:
    """And an epoch that is committed leads to a start under it."""
    site.init(BEFORE)
    process = guarded.start(command=("sh", "-c", "trap '' TERM; touch up; while :; do sleep 0.05; done"))
    pid = guarded.await_running()
    until((guarded.folder / "up").exists)
    waited = list[State]()
    sealed = site.plan(AFTER)
    say = when_said("waiting for guards/unit", lambda: waited.append(site.record().state))
    site.apply(sealed, options=Options("never", say=say))
    assert waited == [State.PREPARING]
    assert not is_alive(pid)
    until(lambda: guarded.is_in("running") and guarded.status()["epoch"] == 1)
    assert registration(site).epoch == 1
    hold(site, HELD)
    guarded.await_phase("waiting")
    assert guarded.end(process) == 143


@pytest.mark.parametrize("policy", ["stay-down", "exec HOOK", "exec NO"])
def test_after_a_commit_as_it_was_told(site: Site, guarded: Guarded, policy: str) -> None:
    site.init(BEFORE)
    hook = guarded.folder / "hook"
    hook.write_text('#!/bin/sh\necho "hook $ZKMIG_SCOPE $ZKMIG_EPOCH_BEFORE $ZKMIG_EPOCH"\nexit $(cat answer)\n')
    hook.chmod(0o755)
    (guarded.folder / "answer").write_text("4" if policy == "exec NO" else "0")
    told = ["--after-commit", *policy.replace("HOOK", str(hook)).replace("NO", str(hook)).split()]
    process = guarded.start(*told)
    guarded.await_up()
    site.apply(site.plan(AFTER))
    if policy == "exec HOOK":
        until(lambda: guarded.is_in("running") and guarded.status()["epoch"] == 1)
        assert f"hook {site.names.scope} 0 1\n" in guarded.stdout
        guarded.await_up()
        assert guarded.end(process) == 3
        return
    guarded.await_phase("down", "said no to epoch 1: 4" if policy == "exec NO" else "stay down")
    assert guarded.end(process) == 128 + signal.SIGTERM
    # It lasts over a restart, whatever that one is told, until somebody says otherwise.
    process = guarded.start()
    down = guarded.await_phase("down")
    kept = registration(site).down
    assert kept is not None
    assert down["since"] == kept.since
    process.send_signal(signal.SIGUSR1)
    guarded.await_up()
    assert registration(site).down is None
    assert guarded.end(process) == 3


def test_an_outage_ends_nothing_and_what_has_happened_meanwhile_is_made_up_for(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    with Proxy(site.server.port) as proxy:
        process = guarded.start("--session-timeout", "4", hosts=proxy.hosts)
        pid = guarded.await_up()
        proxy.partition()
        proxy.cut_all()
        guarded.await_phase("running", "the servers do not answer")
        proxy.heal()
        until(lambda: "do not answer" not in guarded.status()["why"])
        assert guarded.await_up() == pid
        proxy.partition()
        proxy.cut_all()
        hold(site, HELD)
        guarded.await_phase("running", "the servers do not answer")
        assert is_alive(pid)
        proxy.heal()
        guarded.await_phase("waiting", "rack move")
        assert not is_alive(pid)
        assert guarded.end(process) == 143


def test_evicted_while_cut_off_it_ends_what_runs_on(site: Site, guarded: Guarded) -> None:
    """The migration was told not to wait for it. Once it hears of that it ends the command, and only then goes on."""
    site.init(BEFORE)
    with Proxy(site.server.port) as proxy:
        process = guarded.start("--after-commit", "stay-down", "--session-timeout", "4", hosts=proxy.hosts)
        pid = guarded.await_up()
        proxy.partition()
        proxy.cut_all()
        site.apply(site.plan(AFTER), options=Options("never", evict=("guards/unit",)))
        assert is_alive(pid)
        proxy.heal()
        guarded.await_phase("down")
        assert not is_alive(pid)
        assert "evicted" in guarded.stdout
        assert registration(site).down is not None
        assert guarded.end(process) == 143


def test_killed_with_its_keeper_it_leaves_nothing_to_the_next(site: Site, guarded: Guarded) -> None:
    """Both die at once: what had left the process group lives on, until the next guard of the name ends it."""
    site.init(BEFORE)
    daemon = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    spawn = "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(600)"
    process = guarded.start(command=(*python(spawn), daemon))
    pid = guarded.await_running()
    until(lambda: (guarded.folder / "pid").exists() and (guarded.folder / "pid").read_text())
    orphan = int((guarded.folder / "pid").read_text())
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot end what its keeper leaves
    os.kill(keeper, signal.SIGKILL)
    process.kill()
    process.wait()
    assert is_alive(orphan)
    assert not registration(site).stopped
    again = guarded.start()
    guarded.await_up()
    assert not is_alive(orphan)
    assert "had left" in guarded.stderr
    assert guarded.end(again) == 3


def test_killed_alone_its_keeper_ends_what_it_had_started(site: Site, guarded: Guarded, program: Program) -> None:
    site.init(BEFORE)
    process = guarded.start()
    pid = guarded.await_up()
    process.kill()
    process.wait()
    until(lambda: not is_alive(pid))
    assert not registration(site).stopped  # nobody could say so
    at = ("--at", f"zk://{site.server.hosts}", "--scope", site.names.scope)
    assert "guards     unit: its guard is gone, registered as running since" in program("status", *at).stdout
    guarded.start()
    assert guarded.await_up() != pid


STUBBORN = ("sh", "-c", "trap '' TERM; echo up $$; while :; do sleep 0.05; done")


def test_what_a_guard_killed_alone_has_left_is_waited_for_and_that_is_said(site: Site, guarded: Guarded) -> None:
    """By lines, the status file and to the manager; not with --no-wait; TERM ends it. The keeper has a long grace."""
    site.init(BEFORE)
    process = guarded.start("--grace", "600", command=STUBBORN)
    pid = guarded.await_up()
    process.kill()
    process.wait()
    refused = guarded.start("--no-wait")
    assert refused.wait(30) == 75
    assert (guarded.status()["phase"], guarded.status()["code"]) == ("left", 75)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"zkmig-test-claim-{os.getpid()}"
        manager.bind(f"\0{address}")
        manager.settimeout(30)
        waits = guarded.start(environment={"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": "400000"})
        told = list[str]()
        while not ("READY=1" in told and told.count("WATCHDOG=1") > 2):
            told.append(manager.recv(4096).decode())
        guarded.await_phase("looking", f"pid {process.pid}, has left is being ended")
        assert "guard unit: looking since" in guarded.stdout
        assert guarded.end(waits) == 143
    assert (guarded.status()["phase"], guarded.status()["code"]) == ("left", 143)
    waits = guarded.start()
    guarded.await_phase("looking", "is being ended")
    os.kill(pid, signal.SIGKILL)
    assert guarded.await_up() != pid
    assert guarded.end(waits) == 3


def test_a_stopped_keeper_ends_what_it_keeps(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    process = guarded.start()
    pid = guarded.await_up()
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGSTOP)
    hold(site, HELD)
    guarded.await_phase("waiting")
    assert not is_alive(pid)
    assert guarded.end(process) == 143


def test_its_keeper_dies(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    process = guarded.start()
    pid = guarded.await_up()
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    assert process.wait(30) == 70
    assert "keeper" in guarded.stderr
    assert not is_alive(pid)
    assert registration(site).stopped


BLIND_LATER = """
import sys
from zkmig.guard.registration import Registration
look = Registration._look
def fail_once_it_runs(self):
    if self._lookout.entry is not None and not self._lookout.entry.stopped:
        raise ValueError("unforeseen")
    look(self)
Registration._look = fail_once_it_runs
from zkmig.cli.main import main
main()
"""


def test_what_is_unforeseen_ends_the_command(site: Site, guarded: Guarded) -> None:
    """A guard that does not hear of the record any more must not let it run on."""
    site.init(BEFORE)
    process = guarded.start(command=("sh", "-c", "echo $$ > pid; sleep 600"), program=python(BLIND_LATER))
    assert process.wait(30) == 70
    assert "internal error" in guarded.stderr
    until(lambda: not (guarded.folder / "pid").exists() or not is_alive(int((guarded.folder / "pid").read_text())))


def test_a_name_is_one_guards_on_a_machine(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    guarded.start()
    pid = guarded.await_up()
    second = guarded.start("--status-file", "second.json")
    assert second.wait(30) == 3
    assert "--name" in guarded.stderr
    assert is_alive(pid)


def test_the_registration_of_another_machine_is_waited_for_or_taken_over(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    process = {"host": "zk9", "pid": 7, "started": 1, "machine": "m", "boot": "b", "namespace": "n", "init": False}
    elsewhere = GuardEntry("unit", False, "other", 1, 5.0, "runs", 0, process)
    site.kazoo.create(f"{site.names.guards}/unit", elsewhere.encode())
    first = guarded.start()
    guarded.await_phase("contested", "zk9 pid 7")
    assert guarded.end(first) == 143
    refused = guarded.start("--no-wait")
    assert refused.wait(30) == 75
    assert registration(site) == elsewhere
    guarded.start("--take-over")
    guarded.await_up()
    assert registration(site).instance != "other"


def test_what_keeps_it_waiting_at_its_start_is_said(site: Site, guarded: Guarded) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        process = guarded.start(hosts=address)
        guarded.await_phase("looking", "cannot connect yet")
        early = guarded.status()["why"]
        for words in (f"{address} connection refused", "it goes on trying"):
            assert words in early
        guarded.await_phase("looking", "the servers do not answer")
        late = guarded.status()["why"]
        assert "; tried for 1" in late  # 10 s, or a little more
        assert f"{address} connection refused" in late
        assert guarded.end(process, signal.SIGINT) == 130
        said = [line for line in guarded.stdout.splitlines() if ": looking since" in line]
        assert [early in said[0], late in said[1], len(said)] == [True, True, 2]
    process = guarded.start()
    guarded.await_phase("waiting", "there is no scope")
    site.init()
    guarded.await_phase("waiting", "EMPTY")
    site.apply(site.plan(BEFORE))
    guarded.await_up()
    assert guarded.end(process) == 3


def test_status_shows_guards(site: Site, guarded: Guarded, program: Program) -> None:
    site.init(BEFORE)
    process = guarded.start()
    guarded.await_up()
    at = ("--at", f"zk://{site.server.hosts}", "--scope", site.names.scope)
    screen = program("status", *at).stdout
    assert "guards     unit: running since" in screen
    assert "running    1 guard; an epoch that begins waits until it ends" in screen
    hold(site, HELD)
    guarded.await_phase("waiting")
    screen = program("status", *at).stdout
    assert "guards     unit: stopped since" in screen
    document = program("status", *at, "--json").document
    assert document["guards"] == ["unit"]
    (told,) = document["guarded"]
    assert (told["name"], told["stopped"], told["epoch"], told["pid"]) == ("unit", True, 0, process.pid)
    assert "rack move" in told["why"]
