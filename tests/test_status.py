"""Status fits one screen whatever happens at the same time, and the commands that it names are those that can follow.

Method: made-up scopes of every state with everything at once, and names of any length, drawn on a screen of 24 lines;
real ones on a server, by the engine.
"""

from __future__ import annotations

import dataclasses
import platform
import shlex
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interruptions import Interrupted, at, interrupt
from tests.program import Program, location
from tests.scopes import BEFORE, Site
from tests.test_history import NEXT
from tests.test_prune import live_a_while
from zkmig.apply.entries import Entry
from zkmig.apply.evictions import Eviction
from zkmig.apply.following import advice, next_commands, plan_elsewhere
from zkmig.apply.options import Options
from zkmig.apply.status import Status, read_status
from zkmig.cli.applying import ways_on
from zkmig.cli.status import COLUMNS, LINES, TITLE, _gone, _width, screen
from zkmig.dev import Server
from zkmig.epoch.attempts import Attempt, AttemptNote, Fate
from zkmig.epoch.budgets import BudgetNote, Override, guard_reader
from zkmig.epoch.leases import Down, GuardEntry, Lease
from zkmig.epoch.owner import OwnerView, TakeOver
from zkmig.epoch.record import ConflictNote, Held, LastOutcome, Owner, Pending, Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import Conflict, Outcome
from zkmig.guard import machine
from zkmig.guard.machine import this_process
from zkmig.model.stat import Stat

HERE = "zk://zk1.example.com:2181,zk2.example.com:2181,zk3.example.com:2181"
HOST = platform.node()
LONG = "/a/path/that/" + "goes/on/" * 60
WIDE = "队列" * 100


def made_up(
    state: State, text: str = LONG, count: int = 4_000, alive: bool = True, plan: str = "/home/op/p.zkplan"
) -> Status:
    """A scope in which everything that can be, is at the same time."""
    under_way = state in MIGRATING
    owner = Owner(7, text if text != "" else HOST, 4711, 1_700_000_000.0, plan)
    conflict = ConflictNote(
        text, "verify", f"changed by somebody else; put back: {text}", 3, 1, 2, "ab" * 16, 5, 2, "cd" * 16
    )
    record = Record(
        "0" * 16,
        state,
        6,
        "/app",
        target_epoch=7 if under_way else None,
        attempt="0badcafe" if under_way else None,
        plan_hash="a" * 64 if under_way else None,
        manifest_hash="b" * 64 if under_way else None,
        batches_total=90,
        cursor=9 if state is State.ROLLING_BACK else None,
        owner=owner if under_way else None,
        held=Held(text, "ops", 1.0, 2.0),
        pending=None if under_way else Pending(6, "cafe", 17, "h", 2),
        conflict=conflict if state is State.OPEN else None,
        committed_attempt="cafe0000",
        last=LastOutcome(6, "cafe0000", "rolled_back", 1.0, 12, text),
    )
    stat = Stat(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    blocking = (
        *(Entry(f"/zkmig/scopes/s/acting/{n}", stat, Lease(text, 30_000), True) for n in range(count)),
        Entry("/zkmig/scopes/s/guards/g", stat, GuardEntry(text, stopped=False), True),
    )
    note = AttemptNote(6, "cafe0000", "a" * 64, 1.0, Fate.COMMITTED)
    attempts = (
        Attempt(note, Fate.COMMITTED, 1, 1, 2, ("manifest", "undo")),
        Attempt(dataclasses.replace(note, attempt="x"), Fate.ROLLED_BACK, 1, 1, 2, ("undo",)),
    )
    names = tuple(f"{text}-{number}" for number in range(count))
    return Status(
        "prod",
        record,
        OwnerView(owner, 7, alive, 30_000, 3, 1.0 if alive else None),
        37,
        5,
        names,
        names,
        blocking,
        (Eviction("acting/x", 1, text, "host pid 3", 1.0),) * 20,
        attempts,
        1_700_000_000.0,
    )


def lines_on_screen(lines: list[str]) -> int:
    return sum(max(1, -(-_width(line) // COLUMNS)) for line in lines)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("text", ["", LONG, WIDE, "\x1b[2J\u202e" * 30])
@pytest.mark.parametrize("alive", [True, False])
def test_the_worst_case_fits_one_screen(state: State, text: str, alive: bool) -> None:
    """Thousands of readers, leases and guards, long names, and commands that wrap, since they must not be cut."""
    found = made_up(state, text, alive=alive)
    control = " --control /operations/coordination/zkmig --profile prod --auth-file /etc/zkmig/auth"
    following = [f"{command}{control}" for command in next_commands(found, HERE, has_file=lambda _: True)]
    lines = screen(found, following, 1_700_000_003.0)
    assert lines_on_screen(lines) <= LINES
    assert all(_width(line) <= COLUMNS for line in lines if not line.startswith(("next", "plan ")))
    assert [line.removeprefix("next").strip() for line in lines if line.startswith("next")] == following
    titles = {line.split(" ")[0] for line in lines}
    assert {"scope", "state", "epoch", "held", "blocking"} <= titles
    assert ("conflict" in titles) == (state is State.OPEN)
    assert "\x1b" not in "".join(lines)


@settings(max_examples=60)
@given(st.sampled_from(sorted(State, key=str)), st.text(max_size=200), st.integers(0, 9), st.booleans())
def test_any_names_fit(state: State, text: str, count: int, alive: bool) -> None:
    found = made_up(state, text, count, alive)
    lines = screen(found, next_commands(found, HERE, has_file=lambda _: False), 1_700_000_003.0)
    assert lines_on_screen(lines) <= LINES


def test_what_blocks_is_counted_and_bounded() -> None:
    """4,000 leases of 30 s: 32.3 s at most with the margin; a guard has no end of its own."""
    found = made_up(State.PREPARING, "web1")
    assert found.blocks_at_most_s is None
    leases = dataclasses.replace(found, blocking=found.blocking[:-1])
    assert leases.blocks_at_most_s == pytest.approx(32.3)
    (line,) = [line for line in screen(leases, [], 0.0) if line.startswith("blocking")]
    assert "4000, for 32 s more at most" in line


def test_at_rest_nothing_reads_like_a_fault() -> None:
    """The same guard and leases that block a drain are at work while nobody waits for them; a hold does."""
    found = made_up(State.STABLE, "web1", count=2)
    at_rest = dataclasses.replace(found, record=dataclasses.replace(found.record, held=None))
    lines = screen(at_rest, [], 0.0)
    assert "running    2 actions, 1 guard; an epoch that begins waits until they end" in lines
    assert "           acting/0, acting/1, guards/g" in lines
    alone = screen(dataclasses.replace(at_rest, blocking=found.blocking[-1:]), [], 0.0)
    assert "running    1 guard; an epoch that begins waits until it ends" in alone
    assert not any(line.startswith("blocking") for line in lines + alone)
    for waited_for in (found, made_up(State.PREPARING, "web1", count=2), made_up(State.OPEN, "web1", count=2)):
        assert any(line.startswith("blocking   3, until they end") for line in screen(waited_for, [], 0.0))


@pytest.mark.parametrize(
    ("entry", "is_told"),
    [
        (GuardEntry("g", stopped=True, since=0.0), True),
        (GuardEntry("g", stopped=True, since=80_000.0), False),
        (GuardEntry("g", stopped=True), False),
        (GuardEntry("g", stopped=True, since=0.0, down=Down(1, "a hook said no", 0.0)), False),
        (GuardEntry("g", stopped=False, since=0.0), False),
    ],
)
def test_how_to_be_rid_of_a_guard_is_told_of_those_that_ended(entry: GuardEntry, is_told: bool) -> None:
    """Of one that is stopped for more than a day, though nothing keeps it; not under a hold, which may last as long."""
    held = dataclasses.replace(
        made_up(State.STABLE, "web1", count=0), guards=("g",), guarded=(("g", entry),), guards_path="/zkmig/guards"
    )
    at_rest = dataclasses.replace(held, record=dataclasses.replace(held.record, held=None))
    way = "guards     ended for good? then an admin deletes /zkmig/guards/NAME"
    assert (way in screen(at_rest, [], 86_401.0)) == is_told
    assert way not in screen(held, [], 86_401.0)


WHY = "still at work after 3 s: guards/as (guarded process as, registered as running on web1 (guard's pid 4711))"


def at_rest(*guarded: tuple[str, GuardEntry], why: str = "", held: str = "") -> Status:
    found = made_up(State.STABLE, "web1", count=0)
    last = LastOutcome(6, "cafe0000", "aborted", 1.0, 0, why)
    record = dataclasses.replace(found.record, held=Held(held, "ops", 1.0, None) if held else None, last=last)
    names = tuple(name for name, _ in guarded)
    return dataclasses.replace(found, record=record, guards=names, guarded=guarded, evicted=(), readers=())


def words_of(lines: list[str]) -> str:
    return " ".join(line[TITLE:].strip() for line in lines)


def test_words_that_people_have_to_read_are_whole() -> None:
    """Why the last attempt ended, why a guard is kept down, why somebody holds, why a budget was overridden: over
    several lines of the screen where one is too narrow."""
    down = GuardEntry("as", stopped=True, since=1.0, down=Down(3, "10 of 12 hosts differ from those before, " * 2, 1.0))
    override = Override(time.time(), "site B is switched off since the flood of Monday, and stays so", 5, ())
    note = BudgetNote("autoscaler", 5, 1.0, overrides=(override,))
    found = dataclasses.replace(at_rest(("as", down), why=WHY), budgets=(note,))
    shown = words_of(screen(found, ["zkmig plan"], 2.0))
    for words in (WHY, str(down.down and down.down.why.strip()), "SIGUSR1 to its guard starts it", override.why):
        assert words in shown
    assert "…" not in shown
    reason = "; ".join(["rack B is moved to the other room"] * 4)
    assert reason in words_of(screen(at_rest(held=reason), [], 2.0))


def test_each_of_a_few_guards_has_a_line() -> None:
    """Up to five; of more, how many there are."""
    some = [(f"unit{number}", GuardEntry(f"unit{number}", stopped=False, since=1.0)) for number in range(6)]
    shown = screen(at_rest(*some[:5]), [], 2.0)
    assert [line.split(":")[0].split()[-1] for line in shown if ": running since" in line] == [n for n, _ in some[:5]]
    assert not any(": running since" in line for line in screen(at_rest(*some), [], 2.0))
    assert any("6, 6 running: unit0" in line for line in screen(at_rest(*some), [], 2.0))


def test_a_guard_that_is_gone_is_not_told_as_running() -> None:
    """It cannot say so itself: where it ran, and what to do, also where there are too many for a line each."""
    entry = GuardEntry("as", stopped=False, since=1.0, process={"host": "web1", "pid": 4711})
    others = [(f"unit{number}", GuardEntry(f"unit{number}", stopped=False)) for number in range(9)]
    for guarded in ([("as", entry)], [("as", entry), *others]):
        shown = words_of(screen(at_rest(*guarded), [], 2.0, {"as"}))
        assert "as: its guard is gone, registered as running since" in shown
        assert "on web1 (guard's pid 4711): start it there again, or --evict guards/as" in shown
    shown = words_of(screen(at_rest(("as", entry)), [], 2.0))
    assert "gone" not in shown
    assert "on web1 (guard's pid 4711)" in shown


def test_only_a_guard_that_is_certainly_gone_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc shows neither of two; the kernel says of one alone that there is no such process."""

    def read_process(pid: int) -> NoReturn:
        raise FileNotFoundError(pid)

    me = this_process()
    child = subprocess.Popen(["true"])
    child.wait()
    there = GuardEntry("there", stopped=False, process=me.to_json())
    ended = GuardEntry("ended", stopped=False, process={**me.to_json(), "pid": child.pid})
    monkeypatch.setattr(machine, "read_process", read_process)
    assert _gone(at_rest(("there", there), ("ended", ended))) == {"ended"}


def test_what_is_told_to_delete_is_the_guard(site: Site) -> None:
    site.init(BEFORE)
    path = f"{site.names.guards}/web1.scaler"
    site.kazoo.create(path, GuardEntry("web1.scaler", stopped=True, since=1.0).encode())
    found = read_status(site.client(), site.names)
    (way,) = [line for line in screen(found, [], 1e6) if "for good?" in line]
    assert _width(way) <= COLUMNS
    site.kazoo.delete(way.rpartition(" ")[2].replace("NAME", "web1.scaler"))
    assert read_status(site.client(), site.names).guards == ()


def test_a_guard_that_reads_for_its_budget_is_no_reader(site: Site) -> None:
    """Presences named as sessions name them; a reader whose guard is not there is told as what it says it is."""
    site.init(BEFORE)
    units = ["web1.scaler", "web1-a@x", "x" * 99]
    for unit in units:
        site.kazoo.create(f"{site.names.guards}/{unit}", GuardEntry(unit, stopped=False).encode())
        for session in ("0badcafe", "1badcafe"):
            site.kazoo.create(f"{site.names.readers}/{guard_reader(unit)}-{session}", ephemeral=True)
    others = ["guard.web2.scaler-0badcafe", "web1.scaler-0badcafe"]
    for name in others:
        site.kazoo.create(f"{site.names.readers}/{name}", ephemeral=True)
    found = read_status(site.client(), site.names)
    assert (found.readers, found.guards) == (tuple(others), tuple(sorted(units)))


def test_the_commands_say_what_it_takes() -> None:
    """The plan where it lies on this host, else a placeholder and where it lies."""
    gone = made_up(State.OPEN, "", alive=False)
    gone = dataclasses.replace(gone, record=dataclasses.replace(gone.record, conflict=None))
    assert next_commands(gone, HERE, "/ops/zk", lambda path: path == "/home/op/p.zkplan") == [
        f"zkmig resume /home/op/p.zkplan --at {HERE} --scope prod --control /ops/zk --yes",
        f"zkmig rollback --at {HERE} --scope prod --control /ops/zk --yes",
    ]
    assert "PLAN.zkplan" in next_commands(gone, HERE, has_file=lambda _: False)[0]
    elsewhere = made_up(State.OPEN, "other-host", alive=False)
    elsewhere = dataclasses.replace(elsewhere, record=dataclasses.replace(elsewhere.record, conflict=None))
    assert "PLAN.zkplan" in next_commands(elsewhere, HERE, has_file=lambda _: True)[0]
    assert plan_elsewhere(elsewhere) == "other-host:/home/op/p.zkplan"
    assert any("resume needs its plan" in sentence for sentence in advice(elsewhere))
    for command in next_commands(made_up(State.OPEN, "", alive=True), HERE, "/with space/zk"):
        assert "/with space/zk" in shlex.split(command)


@pytest.mark.parametrize("state", sorted(MIGRATING, key=str))
@pytest.mark.parametrize("has_conflict", [True, False])
def test_nothing_proposed_takes_a_scope_from_a_migrator_that_lives(state: State, has_conflict: bool) -> None:
    """The first is to look again, and what follows waits for it; of --steal it is said when that is right."""
    alive = made_up(state, "", alive=True)
    if not has_conflict:
        alive = dataclasses.replace(alive, record=dataclasses.replace(alive.record, conflict=None))
    commands = next_commands(alive, HERE)
    assert commands[0] == f"zkmig status --at {HERE} --scope prod"
    assert len(commands) > 1
    assert not any("--steal" in command for command in commands)
    assert any("--steal only if it is gone or stuck" in sentence for sentence in advice(alive))
    dead = made_up(state, "", alive=False)
    assert not any("status" in command for command in next_commands(dead, HERE))
    assert not any("--steal" in sentence for sentence in advice(dead))


def test_ways_on_name_the_control_root() -> None:
    """Of an error that leaves something under way; the commands can be run as they stand."""
    way = ways_on("my plan", "zk://here", "prod", "/ops/zk")
    error = Conflict("changed", "/a", outcome=Outcome.PARTLY_WRITTEN)
    error.may_go_on = True
    with click.Context(click.Command("apply")), pytest.raises(Conflict) as caught, way:
        raise error
    lines = [line.partition(":  ")[2].strip() for line in caught.value.__notes__]
    assert lines == [
        "zkmig rollback 'my plan' --at zk://here --scope prod --control /ops/zk --yes",
        "zkmig resume 'my plan' --at zk://here --scope prod --control /ops/zk --yes",
    ]


def test_at_rest_it_names_revert_prune_and_history(site: Site) -> None:
    live_a_while(site)
    found = read_status(site.client(), site.names)
    commands = next_commands(found, "zk://here")
    assert [command.split()[1] for command in commands] == ["plan", "apply", "revert", "prune"]
    assert "revert --epoch 3 " in commands[2]
    assert len(found.prunable) == 3
    site.leave_open(site.plan(BEFORE), 2, epoch=4)
    site.rollback()
    commands = next_commands(read_status(site.client(), site.names), "zk://here")
    assert [command.split()[1] for command in commands] == ["plan", "apply", "history", "revert", "prune"]


def test_progress_is_when_the_work_last_got_on(site: Site) -> None:
    """By the servers' clock: the cursor's, or the beat of the owner that lives."""
    site.init(BEFORE)
    site.leave_open(site.plan(NEXT), 3)
    found = read_status(site.client(), site.names)
    attempt = site.names.attempt(1, str(site.record().attempt))
    stat = site.kazoo.exists(attempt.cursor)
    assert stat is not None
    assert found.progress_at is not None
    assert found.progress_at >= stat.mtime / 1000
    assert not found.owner.alive


def test_the_commands_work_as_they_stand(program: Program, fresh_zk: Server, tmp_path: Path) -> None:
    """With a control root of its own: be cut off, and run what status says word by word, from an empty folder."""
    with Site(fresh_zk, "/app", control="/ops/zkmig") as one:
        one.kazoo.create("/ops")
        one.init({"": BEFORE[""], "/a": BEFORE["/keep"]})
        plan = one.plan({"": BEFORE[""], **{f"/n{number}": BEFORE["/keep"] for number in range(40)}})
        one.leave_open(plan, 2)
        base = (
            "status",
            "--at",
            location(fresh_zk.hosts),
            "--scope",
            one.names.scope,
            "--control",
            "/ops/zkmig",
            "--json",
        )
        (tmp_path / "auth").write_text("digest:me:hunter2\n")
        found = program(*base, "--auth-file", "auth").succeeded().document
        rollback = next(command for command in found["next"] if "rollback" in command)
        program(*shlex.split(rollback)[1:]).succeeded()
        found = program(*base, "--auth-file", "auth").succeeded().document
        ran = [command.split()[1] for command in found["next"]]
        assert ran == ["plan", "apply", "history", "prune"]
        for command in found["next"][2:]:
            program(*shlex.split(command)[1:]).succeeded()
        assert program(*base, "--auth-file", "auth").document["prunable"] == 0


def test_a_migrator_that_puts_up_its_journal_is_told_of(site: Site) -> None:
    """STABLE, and yet somebody is at work: neither revert nor prune would be let in."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    seen: list[Status] = []

    def look() -> None:
        seen.append(read_status(site.client(), site.names))
        interrupt()

    with suppress(Interrupted):
        site.apply(site.plan(BEFORE), 2, how=TakeOver(), options=Options("never", report=at("journal", 1, look)))
    (found,) = seen
    assert found.owner.alive
    assert [command.split()[1] for command in next_commands(found, "zk://here")] == ["plan", "apply"]
    assert advice(found) == ["a migrator is at work, perhaps putting up a journal: wait for it"]


def test_what_blocks_is_named_as_evict_takes_it() -> None:
    """Goal: nobody has to look elsewhere for the name. Method: names as Readers make them."""
    found = made_up(State.PREPARING, "web1")
    entries = tuple(
        dataclasses.replace(entry, path=f"/zkmig/scopes/s/acting/vm-19186-{number:016x}")
        for number, entry in enumerate(found.blocking[:3])
    )
    lines = screen(dataclasses.replace(found, blocking=entries), [], 0.0)
    (at,) = [number for number, line in enumerate(lines) if line.startswith("blocking")]
    assert "--json names all" in lines[at]
    assert [line.strip() for line in lines[at + 1 : at + 3]] == [entry.name for entry in entries[:2]]


def test_a_plan_that_lies_elsewhere_is_named_whole() -> None:
    path = "/home/operator/migrations/2016-08-11/split-pools/revert-prod-17.zkplan"
    found = made_up(State.OPEN, "", alive=False)
    owner = Owner(7, "zk-admin-1.example", 4711, 1.0, path)
    record = dataclasses.replace(found.record, owner=owner, conflict=None)
    found = dataclasses.replace(found, record=record, owner=dataclasses.replace(found.owner, owner=owner))
    assert any(line.endswith(f"zk-admin-1.example:{path}") for line in screen(found, [], 0.0))


@pytest.mark.parametrize(
    ("expected", "found", "may"),
    [((None, None), (0, 5), True), ((3, 5), (3, 5), True), ((3, 5), (4, 5), False), ((3, 5), (3, 9), False)],
)
def test_resume_is_proposed_only_where_it_can_pass(
    expected: tuple[int | None, int | None], found: tuple[int, int], may: bool
) -> None:
    """A node or child too many can be removed; a version that has moved stays, whatever is written there again."""
    status = made_up(State.OPEN, "", alive=False)
    conflict = ConflictNote("/app/a", "write", "written by somebody else", 3, expected[0], expected[1], None, *found)
    status = dataclasses.replace(status, record=dataclasses.replace(status.record, conflict=conflict))
    assert any(command.startswith("zkmig resume") for command in next_commands(status, HERE)) == may
