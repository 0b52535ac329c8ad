"""What a guard and its keeper leave when both are killed at once is found by its mark, and ended.

Method: a daemon below a stand-in guard (tests/guarding.py), both parties killed so that neither sees the other's end,
then the search, as the next guard would make it.
"""

from __future__ import annotations

import builtins
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guarding import MARK, PATIENCE_S, REPOSITORY, Guarded, Told, Yard, runs, wait_for
from tests.hiding import hiding, needs_hiding
from zkmig.guard.descendants import look_at
from zkmig.guard.leftovers import MARKER, end_leftovers, find_leftovers, marked

# Ignores TERM, has left its session and parent, and has a child without the mark.
STUBBORN = (
    "trap '' TERM; (setsid sh -c 'trap \"\" TERM; env -i sleep 600 & echo $! > {0}/unmarked; "
    "echo $$ > {0}/daemon; wait' &); while :; do sleep 0.05; done"
)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path) as made:
        yield made


def kill_both(guard: Guarded) -> None:
    os.kill(guard.keeper, signal.SIGSTOP)
    os.kill(guard.process.pid, signal.SIGSTOP)
    os.kill(guard.process.pid, signal.SIGKILL)
    os.kill(guard.keeper, signal.SIGKILL)
    guard.process.wait(PATIENCE_S)
    wait_for(lambda: not runs(guard.keeper), "the keeper's end")


def abandoned(yard: Yard, popen: Told | None = None) -> tuple[Guarded, int, int]:
    """A guard and its keeper, both killed, and what is left: the daemon's pid, and that of its unmarked child."""
    guard = yard.guard(["sh", "-c", STUBBORN.format(yard.folder)], popen=popen).start()
    daemon, unmarked = yard.pid_from("daemon"), yard.pid_from("unmarked")
    kill_both(guard)
    return guard, daemon, unmarked


def test_what_both_leave_is_found_and_ended(yard: Yard) -> None:
    """The daemon by its mark, its child without a mark by descent; the command itself went with its keeper."""
    guard, daemon, unmarked = abandoned(yard)
    wait_for(lambda: not runs(guard.command), "PDEATHSIG")
    assert runs(daemon)
    assert {process.pid for process in find_leftovers(guard.instance).processes} >= {daemon, unmarked}
    swept = end_leftovers(guard.instance, grace_s=0.3, timeout_s=PATIENCE_S)
    assert swept.left == ()
    assert swept.ended >= 2
    assert not runs(daemon)
    assert not runs(unmarked)


def test_only_the_instance_asked_for_is_touched(yard: Yard) -> None:
    """Another guard's command, and what merely mentions the instance, live on."""
    guard, daemon, _ = abandoned(yard)
    other = yard.guard(["sh", "-c", "sleep 600; :", guard.instance], instance=guard.instance[:-1]).start()
    swept = end_leftovers(guard.instance, grace_s=0, timeout_s=PATIENCE_S)
    assert swept.left == ()
    assert not runs(daemon)
    assert runs(other.command)
    other.stop(5)
    other.expect("Exited")
    other.expect("Gone")


def test_inside_another_guard_both_names_find_it(yard: Yard) -> None:
    guard, daemon, _ = abandoned(yard, popen={"env": {MARKER: marked("a", "b")}})
    for instance in ("a", "b", guard.instance):
        assert daemon in {process.pid for process in find_leftovers(instance).processes}
    assert find_leftovers("c").processes == ()
    yard.sweep()


def test_we_and_those_above_us_are_no_leftovers(yard: Yard) -> None:
    """The search runs inside a guard whose mark it looks for: it finds its sibling, not itself nor its parent."""
    look = "from zkmig.guard.leftovers import *; print(*[each.pid for each in find_leftovers('mine').processes])"
    script = f'sleep 600 & echo $!; {sys.executable} -c "{look}"; kill $!'
    environment = {**os.environ, MARKER: "mine", MARK: yard.mark, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(["sh", "-c", script], env=environment, check=True, capture_output=True, text=True)
    sibling, found = ran.stdout.splitlines()
    assert found == sibling


def test_what_kill_does_not_end_in_time_is_named(yard: Yard) -> None:
    guard, daemon, _ = abandoned(yard)
    swept = end_leftovers(guard.instance, grace_s=600, timeout_s=0.3)
    assert daemon in {process.pid for process in swept.left}
    yard.sweep()


def test_what_began_before_the_instance_is_passed_over(yard: Yard) -> None:
    guard, daemon, _ = abandoned(yard)
    process = look_at(daemon)
    assert process is not None
    assert daemon in {each.pid for each in find_leftovers(guard.instance, process.started).processes}
    assert daemon not in {each.pid for each in find_leftovers(guard.instance, process.started + 1).processes}
    yard.sweep()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_what_we_may_not_look_at_is_counted(yard: Yard) -> None:
    """Looked for by another user: not found, but counted, and that none was found proves nothing."""
    guard, daemon, _ = abandoned(yard)
    process = look_at(daemon)
    assert process is not None
    os.seteuid(54321)
    try:
        found = find_leftovers(guard.instance, process.started)
    finally:
        os.seteuid(0)
    assert found.processes == ()
    assert found.unreadable >= 1
    assert (found.sees_own, found.sees_all) == (True, False)
    yard.sweep()


@pytest.mark.parametrize("file", ["stat", "environ"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_what_cannot_be_read_is_no_proof_that_nothing_is_left(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, file: str, number: int
) -> None:
    """No right is missing, so it may be of our own user: then a look that finds nothing proves nothing at all."""
    guard, daemon, unmarked = abandoned(yard)
    honest = builtins.open

    def failing(path: Any, *arguments: Any, **more: Any) -> Any:
        if path in (f"/proc/{daemon}/{file}", f"/proc/{unmarked}/{file}"):
            raise OSError(number, os.strerror(number))
        return honest(path, *arguments, **more)

    wait_for(lambda: not runs(guard.command), "PDEATHSIG")
    assert find_leftovers(guard.instance).sees_own
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", failing)
        found = find_leftovers(guard.instance)
    assert not {daemon, unmarked} & {process.pid for process in found.processes}
    assert (found.sees_own, found.sees_all) == (False, False)
    yard.sweep()


@needs_hiding
@pytest.mark.parametrize("hidepid", [0, 1, 2, 4])
def test_a_proc_that_hides_processes_is_known_by_its_mount(hidepid: int) -> None:
    asked = "from zkmig.guard.descendants import hides_processes; print(hides_processes())"
    command = [*hiding(hidepid), sys.executable, "-c", asked]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout == f"{hidepid != 0}\n"
