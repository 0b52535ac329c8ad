"""A guarded command at a terminal, and a guard that is PID 1 of a container.

Method: a pseudo-terminal of which a stand-in guard is the session's leader, and typed keys; `unshare --pid`, where that
is allowed.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import IN_A_CONTAINER, needs_unshare
from tests.guarding import Guarded, Yard, runs, wait_for

CTRL_C = b"\x03"
CTRL_Z = b"\x1a"
COUNTS_SIGNALS = (
    "trap 'echo INT >> {0}/got; n=$((n+1)); [ $n = 2 ] && exit 6' INT; echo $$ > {0}/ready; "
    "while :; do sleep 0.05; done"
)


class Terminal:
    """A pseudo-terminal; guards started at it lead its session."""

    def __init__(self) -> None:
        self.keyboard, self.screen = pty.openpty()

    def popen(self) -> dict[str, object]:
        """`setsid --ctty` makes the guard's process the session's leader, and its group the foreground."""
        return {"stdin": self.screen, "prefix": ["setsid", "--ctty"]}

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    @property
    def foreground(self) -> int:
        return int.from_bytes(fcntl.ioctl(self.keyboard, termios.TIOCGPGRP, b"\0" * 4), "little")

    def close(self) -> None:
        os.close(self.keyboard)
        os.close(self.screen)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def yard(tmp_path: Path, terminal: Terminal) -> Iterator[Yard]:  # noqa: ARG001  # for the order
    """Left before the terminal is closed, which would hang up its session."""
    with Yard(tmp_path) as made:
        yield made


def test_ctrl_c_reaches_the_command_once(yard: Yard, terminal: Terminal) -> None:
    """Its handler counts: after one key one, after two two. Nothing else in the guard's group hears of it."""
    guard = yard.guard(["sh", "-c", COUNTS_SIGNALS.format(yard.folder)], popen=terminal.popen()).start()
    yard.pid_from("ready")
    assert terminal.foreground == guard.command
    terminal.type(CTRL_C)
    wait_for((yard.folder / "got").exists, "the first INT")
    assert guard.quiet(0.3)
    assert (yard.folder / "got").read_text() == "INT\n"
    terminal.type(CTRL_C)
    assert guard.expect("Exited")["code"] == 6
    guard.expect("Gone")
    assert guard.process.poll() is None


def test_the_foreground_is_given_back_and_taken_again(yard: Yard, terminal: Terminal) -> None:
    guard = yard.guard(["sleep", "600"], popen=terminal.popen()).start()
    guards_group = os.getpgid(guard.process.pid)
    assert terminal.foreground == guard.command
    guard.stop(5)
    guard.expect("Exited")
    guard.expect("Gone")
    assert terminal.foreground == guards_group
    guard.start()
    assert terminal.foreground == guard.command
    os.kill(guard.keeper, signal.SIGKILL)
    guard.expect("KeeperDied")
    guard.expect("Gone")
    assert terminal.foreground == guards_group


def test_a_command_reads_its_terminal(yard: Yard, terminal: Terminal) -> None:
    """In the background it would be stopped for that."""
    guard = yard.guard(["sh", "-c", 'read line; [ "$line" = hello ] && exit 8'], popen=terminal.popen()).start()
    terminal.type(b"hello\n")
    assert guard.expect("Exited")["code"] == 8
    guard.expect("Gone")


def test_a_command_not_started_leaves_the_terminal_to_the_guard(yard: Yard, terminal: Terminal) -> None:
    guard = yard.guard(["no-such-command"], popen=terminal.popen())
    guard.tell(do="start", argv=None)
    guard.expect("NotStarted")
    guard.expect("Gone")
    assert terminal.foreground == os.getpgid(guard.process.pid)


def test_ctrl_z_does_not_suspend_it(yard: Yard, terminal: Terminal) -> None:
    """Its CONT handler counts how often it was stopped and continued.

    Again and again, because a shell that is stopped while it vforks does not stop, but hangs in its stopped child.
    """
    count = yard.folder / "continued"
    script = (
        f"n=0; trap 'n=$((n+1)); echo $n > {count}' CONT; echo $$ > {yard.folder}/ready; while :; do /bin/true; done"
    )
    guard = yard.guard(["sh", "-c", script], popen=terminal.popen()).start()
    yard.pid_from("ready")
    before = ""
    for _ in range(8):
        terminal.type(CTRL_Z)
        wait_for(lambda seen=before: count.exists() and count.read_text() not in {"", seen}, "CONT")  # type: ignore[misc]
        before = count.read_text()
    guard.stop(5)
    guard.expect("Exited")
    guard.expect("Gone")


def contained(yard: Yard, argv: list[str], **settings: object) -> Guarded:
    """A guard that is PID 1 of a pid namespace. The pids that it tells are those inside."""
    return yard.guard(argv, popen={"prefix": [*IN_A_CONTAINER]}, **settings)


@needs_unshare
def test_pid_1_starts_and_ends_a_command(yard: Yard) -> None:
    script = f"(setsid sleep 600 &); readlink /proc/self/ns/pid > {yard.folder}/namespace; exit 3"
    guard = contained(yard, ["sh", "-c", script]).start()
    assert guard.expect("Exited")["code"] == 3
    assert (yard.folder / "namespace").read_text() != os.readlink("/proc/self/ns/pid") + "\n"
    assert guard.quiet(0.2)
    guard.stop(5)
    guard.expect("Gone")


@needs_unshare
def test_without_a_proc_of_its_own_namespace_nothing_is_started(yard: Yard) -> None:
    """The pids in that /proc are those of strangers: the keeper would signal them."""
    prefix = [each for each in IN_A_CONTAINER if each != "--mount-proc"]
    guard = yard.guard(["sleep", "600"], popen={"prefix": prefix})
    guard.tell(do="start", argv=None)
    assert "/proc" in guard.expect("NotStarted")["text"]
    guard.expect("Gone")


@needs_unshare
def test_pid_1_reaps_strangers_and_spares_them_when_its_keeper_dies(yard: Yard) -> None:
    """A stranger gets in by `nsenter`, as `docker exec` does, and leaves two orphans to PID 1: one ends, one stays."""
    guard = contained(yard, ["sleep", "600"], grace_s=0.5).start()
    init = next(pid for pid in yard.inhabitants() if innermost(pid) == 1)
    stranger = f"(sleep 0.3 & sleep 600 & echo $! > {yard.folder}/stays)"
    mark = {**os.environ, "ZKMIG_TEST_YARD": yard.mark}
    subprocess.run(["nsenter", "--target", str(init), "--pid", "--mount", "sh", "-c", stranger], env=mark, check=True)
    stays = yard.pid_from("stays")
    outside = next(pid for pid in yard.inhabitants() if innermost(pid) == stays)
    # Both fell to it at the same time, and it reaps and notes in one look: who stays is noted when the other is reaped.
    wait_for(lambda: children_of(init) == {outside, pid_outside(yard, guard.keeper)}, "the other to be reaped")
    os.kill(pid_outside(yard, guard.keeper), signal.SIGKILL)
    guard.expect("KeeperDied")
    guard.expect("Gone")
    assert runs(outside)
    guard.process.kill()
    wait_for(lambda: not yard.inhabitants(), "the end of the namespace, which the kernel takes its time for")


def innermost(pid: int) -> int:
    """The pid of a process in its own namespace; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])


def pid_outside(yard: Yard, inside: int) -> int:
    ours = os.readlink("/proc/self/ns/pid")
    strangers = (pid for pid in yard.inhabitants() if os.readlink(f"/proc/{pid}/ns/pid") != ours)
    return next(pid for pid in strangers if innermost(pid) == inside)


def children_of(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
