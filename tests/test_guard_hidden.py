"""A guard whose predecessor it may not see proves nothing of it, and waits: nothing is written over a living one.

Method: two guards of a name with their own --state-dir, of which the second has a /proc that hides the first
(hidepid=2), or may not look into what that has started; the first is alive, or killed while its keeper still ends
what it kept.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.guards import Guarded, is_alive, registration, until
from tests.hiding import LESS_CAPABLE, OTHER_USER, hiding, needs_hiding
from tests.interruptions import when_said
from tests.program import PROGRAM, Program
from tests.scopes import AFTER, BEFORE, Site
from zkmig.apply.forward import Options

pytestmark = needs_hiding

# Does not heed TERM; ends when it is let go.
STUBBORN = ("sh", "-c", "trap '' TERM; touch up; while [ ! -e let-go ]; do sleep 0.05; done; exit 4")
GRACE_S = 120  # nothing is to be killed meanwhile

hidden = pytest.mark.parametrize(
    "unseeing",
    [hiding(2, OTHER_USER), hiding(2, LESS_CAPABLE)],
    ids=["another user", "fewer capabilities"],
)


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[Guarded]:
    folder = tmp_path / "second"
    folder.mkdir()
    with Guarded(site.server.hosts, site.names, folder) as made:
        yield made


def await_any(guarded: Guarded, *phases: str) -> str:
    """Which of these it is in, once it is in one."""
    until(lambda: guarded.status().get("phase") in phases)
    return str(guarded.status()["phase"])


def said_by(argv: Sequence[str]) -> str:
    """On stdout."""
    return subprocess.run(argv, env=Program.environment(), check=True, capture_output=True, text=True).stdout


@hidden
def test_no_epoch_commits_while_a_hidden_guards_command_runs(
    site: Site, guarded: Guarded, second: Guarded, unseeing: Sequence[str]
) -> None:
    """The second comes while a drain waits for the first, whose command takes its time to end."""
    site.init(BEFORE)
    guarded.start("--grace", GRACE_S, command=STUBBORN)
    pid = guarded.await_running()
    until((guarded.folder / "up").exists)
    came_to = list[str]()

    def join() -> None:
        second.start(program=(*unseeing, PROGRAM))
        came_to.append(await_any(second, "contested", "waiting", "running"))
        if came_to == ["contested"]:
            assert "not to be seen by this user" in second.status()["why"]
            assert not registration(site).stopped
            assert is_alive(pid)
            (guarded.folder / "let-go").touch()

    site.apply(site.plan(AFTER), options=Options("never", say=when_said("waiting for guards/unit", join)))
    ran_on = is_alive(pid)
    (guarded.folder / "let-go").touch()
    assert not ran_on, "the epoch was committed while the command of the first guard ran"
    assert came_to == ["contested"]


@pytest.mark.parametrize(
    "unseeing",
    [hiding(2, OTHER_USER), hiding(2, LESS_CAPABLE), OTHER_USER, LESS_CAPABLE],
    ids=["hidden from another user", "hidden for want of capabilities", "another user", "fewer capabilities"],
)
def test_what_a_killed_guard_has_left_out_of_sight_is_waited_for(
    site: Site, guarded: Guarded, second: Guarded, unseeing: Sequence[str]
) -> None:
    """That the guard is gone can be seen, that what its keeper still ends is gone cannot; a human can say it."""
    site.init(BEFORE)
    first = guarded.start("--grace", GRACE_S, command=STUBBORN)
    pid = guarded.await_running()
    until((guarded.folder / "up").exists)
    first.kill()
    first.wait()
    came = second.start(program=(*unseeing, PROGRAM))
    assert await_any(second, "contested", "waiting", "running") == "contested"
    assert "which is gone; what it had started may not be" in second.status()["why"]
    assert is_alive(pid)
    assert not registration(site).stopped
    second.end(came)
    (guarded.folder / "let-go").touch()
    until(lambda: not is_alive(pid))
    second.start("--take-over", "--state-dir", second.folder / "state-again", program=(*unseeing, PROGRAM))
    second.await_up()


@pytest.mark.parametrize(
    ("before", "after"),
    [(hiding(2, OTHER_USER), hiding(2, OTHER_USER)), (OTHER_USER, OTHER_USER), (OTHER_USER, [])],
    ids=["the same user, others hidden", "the same user", "root, who sees all"],
)
def test_where_it_can_be_seen_that_nothing_is_left_nobody_is_asked(
    site: Site, guarded: Guarded, second: Guarded, before: Sequence[str], after: Sequence[str]
) -> None:
    site.init(BEFORE)
    first = guarded.start(program=(*before, PROGRAM))
    pid = guarded.await_up()
    first.kill()
    first.wait()
    second.start(program=(*after, PROGRAM))
    second.await_up()
    assert not is_alive(pid)


@hidden
def test_status_tells_no_hidden_guard_as_gone(site: Site, guarded: Guarded, unseeing: Sequence[str]) -> None:
    """And one that is gone still is, since the kernel says so to everybody."""
    site.init(BEFORE)
    process = guarded.start()
    guarded.await_up()
    argv = [*unseeing, PROGRAM, "status", "--at", f"zk://{site.server.hosts}", "--scope", site.names.scope]
    shown = said_by(argv)
    assert "guards     unit: running since" in shown
    assert "gone" not in shown
    process.kill()
    process.wait()
    assert "unit: its guard is gone, registered as running since" in said_by(argv)
