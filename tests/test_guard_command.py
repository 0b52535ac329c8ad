"""`zkmig guard` as a command is run: exit codes, stdin and stdout, signals, service managers, containers, wrong usage.

Method: the real program with small commands on a real server; what it does beside migrations is in test_guard.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.containers import IN_A_CONTAINER, needs_unshare
from tests.guards import HELD, SLEEPER, Guarded, hold, python, registration, until
from tests.program import PROGRAM, Program
from tests.proxy import Proxy
from tests.scopes import BEFORE, Site
from zkmig.cli.failures import exit_code_of
from zkmig.cli.guard import guard as guard_command
from zkmig.cli.main import cli
from zkmig.dev import Server


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
    numbers = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGRTMIN + 2]
    code = (
        "import signal\n"
        f"numbers = {list(map(int, numbers))}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
        "print('up', flush=True)\n"
        "while True: print(int(signal.sigwait(numbers)), flush=True)\n"
    )
    process = guarded.start(command=python(code))

    def is_said(text: str) -> bool:
        return f"{text}\n" in guarded.stdout

    until(partial(is_said, "up"))
    for number in numbers:
        process.send_signal(number)
        until(partial(is_said, str(int(number))))
    assert guarded.end(process) == 143


def test_a_signal_that_ends_the_command_is_told_and_leaves_it_its_time(site: Site, guarded: Guarded) -> None:
    """The command takes longer to end than the grace, which is not for this; one that reloads it is not told."""
    site.init(BEFORE)
    may_end = guarded.folder / "may-end"
    grace_s = 0.2
    code = (
        "import os, signal, sys, time\n"
        "numbers = (signal.SIGHUP, signal.SIGTERM)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
        "print('up', flush=True)\n"
        "while signal.sigwait(numbers) == signal.SIGHUP: print('reloaded', flush=True)\n"
        f"while not os.path.exists({str(may_end)!r}): time.sleep(0.02)\n"
        "print('done', flush=True)\n"
        "sys.exit(7)\n"
    )
    process = guarded.start("--grace", grace_s, command=python(code))
    until(lambda: "up\n" in guarded.stdout)
    process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded\n" in guarded.stdout)
    assert "passed on" not in guarded.stdout
    process.send_signal(signal.SIGTERM)
    guarded.await_phase("running", "; SIGTERM passed on to the command")
    time.sleep(5 * grace_s)  # that it is left alone for so long is what is shown
    may_end.touch()
    assert process.wait(30) == 7
    told = guarded.stdout
    assert ": under epoch 0; SIGTERM passed on to the command\n" in told
    assert told.index("passed on") < told.index("done\n") < told.index("the command has ended with 7")


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


@needs_unshare
def test_as_the_first_process_of_a_container(site: Site, guarded: Guarded) -> None:
    """Orphans of the command are reaped while it runs, and the next container on this machine ends up with the name."""
    site.init(BEFORE)
    contained = (*IN_A_CONTAINER, PROGRAM)
    orphans = "$(for i in 1 2 3; do (sleep 0.1 >/dev/null & echo $!); done)"
    until_reaped = f"for pid in {orphans}; do while kill -0 $pid; do sleep 0.02; done; done 2>/dev/null; exit 5"
    process = guarded.start(command=("sh", "-c", until_reaped), program=contained)
    assert process.wait(30) == 5
    held = guarded.start(program=contained)
    until(lambda: guarded.is_in("running"))
    assert guarded.status()["guard_pid"] == 1
    before = registration(site)
    held.kill()  # and with it the whole namespace
    held.wait()
    guarded.start(program=contained)
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
