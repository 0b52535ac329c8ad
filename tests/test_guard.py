"""`zkmig guard` as a program: its life beside migrations and holds, outages, crashes and other guards.

Method: the real program with small commands on a real server, looked at by its status file, its registration and /proc;
a TCP proxy takes the servers away from it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest

from tests.guards import SLEEPER, Guarded, entry_of, is_alive, python, until
from tests.interruptions import when_said
from tests.program import PROGRAM, Program
from tests.proxy import Proxy
from tests.scopes import AFTER, BEFORE, Site
from zkmig.apply.forward import Options
from zkmig.cli.failures import exit_code_of
from zkmig.cli.guard import guard as guard_command
from zkmig.cli.main import cli
from zkmig.dev import Server
from zkmig.epoch import record as records
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.record import Held
from zkmig.epoch.transitions import State


@pytest.fixture
def guarded(site: Site, tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(site.server.hosts, site.names, tmp_path) as one:
        yield one


def registration(site: Site) -> GuardEntry:
    return entry_of(site.kazoo.get(f"{site.names.guards}/unit")[0])


def hold(site: Site, held: Held | None) -> None:
    """Hold, or release, as an admin does."""
    record, stat = site.record(), site.kazoo.get(site.names.record)[1]
    site.kazoo.set(site.names.record, records.encode(record.updated(held=held)), stat.version)


HELD = Held("rack move", "ops", 1.0)


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


def test_without_leave_to_wait_it_ends_with_75(site: Site, guarded: Guarded) -> None:
    """At its start, and also once its command had to be ended."""
    site.init(BEFORE)
    process = guarded.start("--no-wait")
    guarded.await_up()
    hold(site, HELD)
    assert process.wait(30) == 75
    assert registration(site).stopped
    again = guarded.start("--no-wait")
    assert again.wait(30) == 75
    assert guarded.stderr.count("rack move") == 2


def test_without_leave_to_wait_a_scope_that_is_not_there_is_told_as_such(
    site: Site, guarded: Guarded, program: Program
) -> None:
    """With the code and the words of other commands, since the name may be mistyped; EMPTY is not that."""
    site.init()
    there = guarded.start("--no-wait")
    assert there.wait(30) == 75
    mistyped = guarded.start("--no-wait", "--scope", "tpyo")
    assert mistyped.wait(30) == 3
    assert (guarded.status()["phase"], guarded.status()["code"]) == ("left", 3)
    at = ("--at", f"zk://{site.server.hosts}", "--control", site.names.control)
    told = program("epoch", *at, "--scope", "tpyo").failed(3, "there is no scope 'tpyo'", site.names.scope)
    assert guarded.stderr.endswith(told)


def test_a_registry_that_cannot_be_read_is_not_taken_for_a_scope_that_is_not_there(
    zk: Server, tree_root: str, tmp_path: Path
) -> None:
    """The guard itself does not need it: it is the hold that counts, and cron tries again."""
    with (
        Site(zk, f"{tree_root}/tree", f"{tree_root}/control") as site,
        Guarded(zk.hosts, site.names, tmp_path) as guarded,
    ):
        site.kazoo.create(tree_root)
        site.init(BEFORE)
        hold(site, HELD)
        site.kazoo.set(site.names.registry, b'{"format": 99}')
        process = guarded.start("--no-wait")
        assert process.wait(30) == 75
        assert "rack move" in guarded.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
    ],
)
def test_its_code_is_the_commands(site: Site, guarded: Guarded, command: tuple[str, ...], code: int) -> None:
    site.init(BEFORE)
    process = guarded.start(command=command)
    assert process.wait(30) == code
    assert registration(site).stopped


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_program_that_is_not_there_is_named_and_registers_nothing(
    site: Site, guarded: Guarded, program: str, code: int
) -> None:
    site.init(BEFORE)
    process = guarded.start(command=(program, "--password=hunter2"))
    assert process.wait(30) == code
    assert f"zkmig: the command cannot be started: {program}: " in guarded.stderr
    assert "hunter2" not in guarded.stderr
    assert site.kazoo.get_children(site.names.guards) == []


def test_a_program_that_goes_while_its_guard_waits_is_named(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    program = guarded.folder / "scaler"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    hold(site, HELD)
    process = guarded.start(command=(str(program),))
    guarded.await_phase("waiting")
    program.unlink()
    hold(site, None)
    assert process.wait(30) == 127
    assert f"cannot be started: {program}: No such file or directory" in guarded.stderr
    assert registration(site).stopped


def test_stdin_and_stdout_are_the_commands(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    process = guarded.start("--quiet", command=("tr", "a-z", "A-Z"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.communicate("through and through\n", timeout=30)[0] == "THROUGH AND THROUGH\n"
    assert process.returncode == 0


def test_signals_are_handed_on(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    code = "import signal, time\nfor n in (1, 10, 12, 28, 36):\n signal.signal(n, lambda n, _: print(n, flush=True))\n"
    process = guarded.start(command=python(f"{code}print('up', flush=True)\nwhile True: time.sleep(0.1)"))

    def is_said(text: str) -> bool:
        return f"{text}\n" in guarded.stdout

    until(partial(is_said, "up"))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGRTMIN + 2):
        process.send_signal(number)
        until(partial(is_said, str(int(number))))
    assert guarded.end(process) == 143


def test_its_arguments_are_told_to_nobody(site: Site, guarded: Guarded) -> None:
    site.init(BEFORE)
    process = guarded.start("-vv", command=(*SLEEPER, "--password=hunter2"))
    guarded.await_up()
    told = registration(site).encode().decode() + guarded.stdout + guarded.stderr + str(guarded.status())
    assert "hunter2" not in told
    assert guarded.end(process) == 3


def test_a_service_manager_is_told(site: Site, guarded: Guarded) -> None:
    """READY though it is held, STATUS, WATCHDOG while it waits, STOPPING; the command does not see the socket."""
    site.init(BEFORE)
    hold(site, HELD)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"zkmig-test-{os.getpid()}"
        manager.bind(f"\0{address}")
        manager.settimeout(30)
        environment = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": "400000"}
        process = guarded.start(command=("sh", "-c", 'echo "socket: $NOTIFY_SOCKET"'), environment=environment)
        told = list[str]()
        while not (any("rack move" in line for line in told) and "READY=1" in told and told.count("WATCHDOG=1") > 2):
            told.append(manager.recv(4096).decode())
        hold(site, None)
        assert process.wait(30) == 0
        while "STOPPING=1" not in told:
            told.append(manager.recv(4096).decode())
    assert "socket: \n" in guarded.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace of one's own takes root")
def test_as_the_first_process_of_a_container(site: Site, guarded: Guarded) -> None:
    """It reaps what falls to it, and the next container on this machine ends up with the name."""
    site.init(BEFORE)
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", PROGRAM)
    orphans = "for i in 1 2 3; do (sleep 0.1 &); done; sleep 1; exit 5"
    process = guarded.start(command=("sh", "-c", orphans), program=unshare)
    assert process.wait(30) == 5
    held = guarded.start(program=unshare)
    until(lambda: guarded.is_in("running"))
    assert guarded.status()["guard_pid"] == 1
    before = registration(site)
    held.kill()  # and with it the whole namespace
    held.wait()
    guarded.start(program=unshare)
    until(lambda: guarded.is_in("running"))
    assert registration(site).instance != before.instance


def test_one_that_leaves_while_the_servers_are_away_says_so(site: Site, guarded: Guarded) -> None:
    """It does not wait for them for long; the next guard of the name finds out that nothing runs."""
    site.init(BEFORE)
    with Proxy(site.server.port) as proxy:
        process = guarded.start("--session-timeout", "4", hosts=proxy.hosts)
        guarded.await_up()
        proxy.partition()
        proxy.cut_all()
        begun = time.monotonic()
        assert guarded.end(process) == 3
        assert time.monotonic() - begun < 15
        assert "did not take down in time" in guarded.stderr
    assert not registration(site).stopped
    again = guarded.start()
    guarded.await_up()
    assert guarded.end(again) == 3


@pytest.mark.parametrize(("told", "seconds"), [("10s", 10), ("2m", 120), ("7", 7), ("0", 0), (".25", 0.25), (None, 10)])
def test_the_grace_is_a_duration_or_seconds(told: str | None, seconds: float) -> None:
    """0 is one: KILL at once."""
    argv = ["--grace", told] if told is not None else []
    with guard_command.make_context("guard", [*argv, "--", "ls"]) as context:
        assert context.params["grace_s"] == seconds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--after-commit", "exec"), "exec HOOK"),
        (("--after-commit", "jump"), "exec HOOK"),
        (("--after-commit", "exec", "/bin/true", "more"), "unexpected extra argument"),
        (("--name", "a/b"), "not a name"),
        (("--scope", "a/b"), "not a scope name"),
        (("--grace", "-1"), "--grace"),
        (("--grace", "10 parsecs"), "not a duration"),
        (("--grace", "nan"), "not a duration"),
        (("--grace", "inf"), "not a duration"),
    ],
)
def test_wrong_usage_is_refused(
    guarded: Guarded, options: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = guarded.argv(*options)
    assert exit_code_of(lambda: cli.main(argv, standalone_mode=False)) == 2
    assert words in capfd.readouterr().err


@pytest.mark.parametrize("words", [("ls",), ("ls", "-l"), ("ls", "--color"), ("sh", "-c", "true"), ("ls", "-vl")])
def test_a_command_that_does_not_stand_behind_the_dashes(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whether or not it has options, which are taken for the guard's."""
    assert exit_code_of(lambda: cli.main(["guard", "--scope", "prod", *words], standalone_mode=False)) == 2
    assert "behind --, as in: zkmig guard --scope S -- CMD" in capfd.readouterr().err


def test_a_wrong_option_in_front_of_the_dashes_is_no_matter_of_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["guard", "--scop", "prod", "--", "ls"]
    assert exit_code_of(lambda: cli.main(argv, standalone_mode=False)) == 2
    told = capfd.readouterr().err
    assert "--scop" in told
    assert "behind --" not in told


def test_without_a_command_it_is_refused(guarded: Guarded, capfd: pytest.CaptureFixture[str]) -> None:
    argv = guarded.argv(command=())[:-1]
    assert exit_code_of(lambda: cli.main(argv, standalone_mode=False)) == 2
    assert "behind --" in capfd.readouterr().err
