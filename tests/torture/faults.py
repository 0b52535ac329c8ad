"""Faults: what a fault is, and those that befall a migrator from outside: kills, rivals, lost connections, sessions.

A fault brings about its own migration, harms it, and says what was observed. Which moment, which way out and how often
are decided by the world's random numbers alone, so that a seed repeats the choices (though not the timing).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from tests.proxy import Fate
from tests.torture.processes import MIGRATOR_TIMEOUT_S, Migrator
from tests.torture.world import HOME, MIGRATING, Kind, Planned, World

BOTH: tuple[Kind, ...] = ("one", "three")
THREE: tuple[Kind, ...] = ("three",)
ONE: tuple[Kind, ...] = ("one",)
SHORT_SESSION_S = 1.0


class NotInjected(Exception):
    """The moment for the fault did not come: the migration was over before, say. It does not count."""


class Unexpected(Exception):
    """What was observed is not what was promised, whatever the checker finds."""


class Fault(NamedTuple):
    """run: brings it about in a world, and returns what was observed."""

    name: str
    kinds: tuple[Kind, ...]
    run: Callable[[World], str]


FAULTS: dict[str, Fault] = {}


def fault(name: str, kinds: tuple[Kind, ...] = BOTH) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    """Registers a function as a fault, for worlds of these kinds."""

    def register(run: Callable[[World], str]) -> Callable[[World], str]:
        FAULTS[name] = Fault(name, kinds, run)
        return run

    return register


def begin(world: World) -> tuple[Planned, Migrator]:
    """Plan, and begin to apply with the real program."""
    planned = world.plan()
    return planned, world.apply_by_program(planned)


def came_of(migrator: Migrator) -> str:
    """How a migrator ended, in a few words."""
    report = migrator.report if isinstance(migrator.report, dict) else {}
    said = migrator.said.strip().rpartition("\n")[2][:120]
    return f"exit {migrator.exit} {report.get('error') or said}".strip()


def await_lock_gone(world: World, timeout_s: float = 30.0) -> float:
    """Seconds until the last owner's lock is gone: its session has expired."""
    begun = time.monotonic()
    token = world.patiently(world.kazoo.get, f"{HOME}/owner")[1].version
    while world.patiently(world.kazoo.exists, f"{HOME}/lock-{token}") is not None:
        if time.monotonic() - begun > timeout_s:
            raise NotInjected("the lock stays")
        time.sleep(0.02)
    return time.monotonic() - begun


def random_moment(world: World, migrator: Migrator) -> str:
    """Wait for some moment of the migration: just after the process began, or once some batches were applied."""
    if world.rng.random() < 0.3:
        time.sleep(world.rng.uniform(0.3, 1.2))
        return str(world.record().get("state"))
    applied = world.await_batches(world.rng.randrange(14), migrator)
    return f"{world.record().get('state')}, {applied} batches applied"


def moment_amid(world: World, migrator: Migrator) -> str:
    """Wait for some moment at which the record says that the migration is under way; NotInjected if none comes."""
    count = world.rng.randrange(12)
    world.await_state(*MIGRATING, migrator=migrator)
    applied = world.await_batches(count, migrator)
    state = str(world.record().get("state"))
    if state not in MIGRATING or not migrator.is_alive:
        raise NotInjected(f"the migration was over: {state}")
    return f"{state}, {applied} batches applied"


# -- killed, and not alone --------------------------------------------------------------------------------------------


@fault("migrator-killed")
def migrator_killed(world: World) -> str:
    planned, migrator = begin(world)
    with world.ended(migrator):
        when = random_moment(world, migrator)
        if not migrator.kill():
            raise NotInjected(when)
    return f"killed in {when}; then {world.settle(planned)}"


@fault("rivals")
def rivals(world: World) -> str:
    """Several migrators that take the scope from one another while each is at work."""
    planned, first = begin(world)
    with world.ended(first):
        random_moment(world, first)
        others = [world.take_over(planned, world.any_way()) for _ in range(2)]
        with world.ended(*others):
            for each in (*others, first):
                each.wait()
    ends = ", ".join(f"{each.shown['command']}: exit {each.exit}" for each in (first, *others))
    return f"{ends}; then {world.settle(planned)}"


# -- connections ------------------------------------------------------------------------------------------------------


@fault("partition")
def partition(world: World) -> str:
    """Nothing passes between the migrator and any server; what is under way arrives late, or never."""
    planned = world.plan()
    migrator = world.apply(planned, session_timeout_s=world.rng.choice((3.0, 30.0)))
    with world.ended(migrator):
        when = random_moment(world, migrator)
        if not migrator.is_alive:
            raise NotInjected(when)
        seconds = world.rng.uniform(0.2, 4.0)
        for proxy in world.proxies:
            proxy.partition()
        time.sleep(seconds)
        is_cut = world.rng.random() < 0.5
        cuts = sum(proxy.cut_all() for proxy in world.proxies) if is_cut else 0
        for proxy in world.proxies:
            proxy.heal()
        migrator.wait()
    return f"{seconds:.1f} s in {when}, {cuts} cut; {came_of(migrator)}; then {world.settle(planned)}"


@fault("mid-frame-reset")
def mid_frame_reset(world: World) -> str:
    """Connections reset in the midst of a frame, before it, or before its answer."""
    planned = world.plan()
    number, fates = world.rng.randrange(20), (Fate.TORN, Fate.TORN, Fate.LOST, Fate.UNANSWERED)
    at = {number + further: world.rng.choice(fates) for further in (0, *world.rng.sample(range(1, 8), 3))}
    seen = [-1]
    cuts: list[str] = []

    def judge(opcode: int, _: int) -> Fate:
        del opcode
        seen[0] += 1
        fate = at.get(seen[0], Fate.PASS)
        if fate is not Fate.PASS:
            cuts.append(fate.name)
        return fate

    migrator = world.apply(planned, throttle=None)
    with world.ended(migrator):
        for proxy in world.proxies:
            proxy.judge = judge
        migrator.wait()
        for proxy in world.proxies:
            proxy.judge = lambda _, __: Fate.PASS
    settled = world.settle(planned)
    if not cuts:
        raise NotInjected("too few writes")
    return f"from write {number} on {', '.join(cuts)}; {came_of(migrator)}; then {settled}"


@fault("session-expired")
def session_expired(world: World) -> str:
    """The migrator stands still until its session is over, and finds so itself: nobody has taken over."""
    planned = world.plan()
    stop = {"kind": "batch", "number": world.rng.randrange(12)}
    migrator = world.apply(planned, session_timeout_s=SHORT_SESSION_S, throttle=None, stop=stop)
    with world.ended(migrator):
        if not migrator.wait_standing():
            raise NotInjected(came_of(migrator))
        seconds = await_lock_gone(world)
        migrator.go_on()
        migrator.wait()
    return f"before batch {stop['number']}, after {seconds:.1f} s; {came_of(migrator)}; then {world.settle(planned)}"


@fault("late-frame")
def late_frame(world: World) -> str:
    """Frames of a migrator arrive after another has taken over and finished: a batch, the journal, or a setACL."""
    planned = world.plan()
    number = world.rng.randrange(22)
    seen = [0]

    def judge(opcode: int, _: int) -> Fate:
        del opcode
        seen[0] += 1
        return Fate.HELD if seen[0] > number else Fate.PASS

    proxy, dies_before = world.rng.choice(world.proxies), world.rng.random() < 0.5
    held = proxy.held
    proxy.hold_again()
    proxy.judge = judge
    migrator = world.apply(planned, at=world.location(proxy.hosts), throttle=None)
    with world.ended(migrator):
        deadline = time.monotonic() + MIGRATOR_TIMEOUT_S
        while proxy.held == held and migrator.is_alive and time.monotonic() < deadline:
            time.sleep(0.005)
        proxy.judge = lambda _, __: Fate.PASS
        if proxy.held == held:
            proxy.release()
            migrator.wait()
            world.settle(planned)
            raise NotInjected("too few writes")
        state = world.record().get("state")
        delivered = proxy.delivered
        if dies_before:
            migrator.kill()  # its frames are on their way all the same
        settled = world.settle(planned) if state != "STABLE" else _apply_instead(world, planned)
        proxy.release()
        if not dies_before:
            migrator.wait()
        time.sleep(0.2)  # for the servers to take, or refuse, what was late
        if proxy.delivered == delivered:
            raise NotInjected("the server had closed the connection before")
    return f"from write {number} on, in {state}; meanwhile {settled}; {came_of(migrator)}"


def _apply_instead(world: World, planned: Planned) -> str:
    """Another migrator carries the plan out, taking the scope from the one whose journal is still on its way."""
    other = world.order(command="apply", plan=str(planned.file), epoch=planned.epoch, at=world.location(), steal=True)
    with world.ended(other):
        other.wait()
    return f"applied by another: {came_of(other)}, {world.settle(planned)}"


@fault("plain-epoch")
def plain_epoch(world: World) -> str:
    """No fault: an epoch as it should be, now and then, in one transaction or in batches."""
    planned = world.plan()
    options = world.rng.choice((("--single-shot", "auto"), ("--single-shot", "never")))
    migrator = world.apply_by_program(planned, *options)
    with world.ended(migrator):
        if world.readers and world.rng.random() < 0.5:
            with suppress(OSError):
                world.readers[0].act(0.4)
        migrator.wait()
    return f"{options[1]}; {came_of(migrator)}; {world.settle(planned)}"
