"""Readers and guarded processes at the wrong moment: stopped inside an action, started every second, killed.

There is no `zkmig guard` yet: what a guard leaves under guards/ (docs/protocol.md) is left here by stand-ins, which
register in one transaction with a check of the record under STABLE, as the real one has to.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress

from kazoo.exceptions import KazooException, NoNodeError

from tests.torture.faults import NotInjected, Unexpected, came_of, fault
from tests.torture.processes import Migrator
from tests.torture.world import HOME, MIGRATING, POLL_S, Planned, World


@fault("reader-stopped-in-an-action")
def reader_stopped_in_an_action(world: World) -> str:
    """The action begins just before the record says PREPARING; SIGSTOP between two effects. Nobody can release it.

    The drain waits for the lease's whole time; or it gives up before; or somebody takes over, who has to wait in turn.
    """
    if not world.readers:
        raise NotInjected("no reader")
    reader, planned = world.readers[0], world.plan()
    way = world.rng.choice(("waits", "waits", "gives up", "is killed"))
    seconds, drain = (20.0, 0.5) if way == "gives up" else (5.0, 20.0)
    single_shot, pause = world.rng.choice(("auto", "never")), world.rng.uniform(0.0, 0.3)
    stop = {"kind": "to-PREPARING", "number": 0}
    migrator = world.apply(planned, throttle=None, single_shot=single_shot, drain_timeout_s=drain, stop=stop)
    with world.ended(migrator):
        if not migrator.wait_standing():
            raise NotInjected(came_of(migrator))
        begun = time.monotonic()
        if not reader.act(seconds):
            raise NotInjected("not admitted")
        time.sleep(pause)
        reader.stop()
        try:
            if reader.hear(0.0):
                raise NotInjected("the action was over too soon")
            migrator.go_on()
            _await_begun(world, planned, migrator)
            if time.monotonic() - begun > seconds:
                raise NotInjected("the lease was over when the record said PREPARING")
            if way == "is killed":
                migrator.kill()
                world.settle(planned)
            migrator.wait()
            took = time.monotonic() - begun
        finally:
            reader.go_on()
            reader.tell("end")
    said = reader.hear(20.0)
    if not said:
        raise Unexpected("the reader does not end its action")
    return f"{way}: {came_of(migrator)} after {took:.1f} s; the reader then: {said}; {world.settle(planned)}"


def _await_begun(world: World, planned: Planned, migrator: Migrator) -> None:
    """Until the record says that the plan's epoch is under way, or over."""
    while migrator.is_alive:
        record = world.record()
        if record["state"] in MIGRATING or record["epoch"] == planned.epoch:
            return
        time.sleep(POLL_S)
    migrator.wait()
    if not _gave_up(migrator) and world.record()["epoch"] != planned.epoch:
        raise NotInjected(came_of(migrator))


def _gave_up(migrator: Migrator) -> bool:
    """Whether what it told is that its drain took too long."""
    return isinstance(migrator.report, dict) and migrator.report.get("error") == "DrainTimeout"


def register(world: World, unit: str) -> bool:
    """Register a guarded process as running, if the scope is STABLE and stays so."""
    with suppress(KazooException):
        data, stat = world.kazoo.get(f"{HOME}/epoch")
        record = json.loads(data or b"")
        if record["state"] != "STABLE" or record.get("held"):
            return False
        entry = json.dumps({"format": 1, "unit": unit, "stopped": False}).encode()
        transaction = world.kazoo.transaction()
        transaction.check(f"{HOME}/inc-{record['incarnation']}", -1)
        transaction.check(f"{HOME}/epoch", stat.version)
        if world.kazoo.exists(f"{HOME}/guards/{unit}"):
            transaction.set_data(f"{HOME}/guards/{unit}", entry)
        else:
            transaction.create(f"{HOME}/guards/{unit}", entry)
        return not any(isinstance(result, Exception) for result in transaction.commit())
    return False


def acknowledge(world: World, unit: str) -> None:
    """Say that the process was ended and is kept down."""
    entry = json.dumps({"format": 1, "unit": unit, "stopped": True}).encode()
    with suppress(NoNodeError):
        world.patiently(world.kazoo.set, f"{HOME}/guards/{unit}", entry)


def deregister(world: World, unit: str) -> None:
    with suppress(NoNodeError):
        world.patiently(world.kazoo.delete, f"{HOME}/guards/{unit}")


@fault("guard-killed")
def guard_killed(world: World) -> str:
    """Its registration stays: nobody knows whether the process still runs. The drain gives up, or it is evicted."""
    unit = f"host.killed{world.rng.randrange(1000)}"
    planned = world.plan()
    if not register(world, unit):
        raise NotInjected("the scope was not STABLE")
    try:
        # The lock of the last migrator may stay as long as its session, where a fault has cut its release off.
        migrator = world.apply(planned, drain_timeout_s=0.5, steal=True)
        with world.ended(migrator):
            migrator.wait()
        if not _gave_up(migrator) and "drain" not in world.off:
            raise Unexpected(f"a guard that nobody has heard of again is not waited for: {came_of(migrator)}")
        came = came_of(migrator)
        if world.rng.random() < 0.5:
            other = world.apply_by_program(planned, "--evict", f"guards/{unit}", "--single-shot", "never")
            came += "; evicted"
        else:
            deregister(world, unit)  # as the restarted guard does that has killed what was left
            other = world.apply_by_program(planned, "--single-shot", "auto")
        with world.ended(other):
            other.wait()
    finally:
        deregister(world, unit)
    return f"{came}; {came_of(other)}; then {world.settle(planned)}"


@fault("service-manager")
def service_manager(world: World) -> str:
    """It insists on "running": starts the guarded process again as soon as it is down."""
    unit = f"host.insists{world.rng.randrange(1000)}"
    over = threading.Event()
    starts, refusals, stops = [0], [0], [0]

    def insist() -> None:
        is_running = False
        while not over.wait(0.02 if is_running else world_pause):
            if is_running:
                with suppress(KazooException):
                    if json.loads(world.kazoo.get(f"{HOME}/epoch")[0] or b"")["state"] != "STABLE":
                        acknowledge(world, unit)
                        stops[0] += 1
                        is_running = False
            elif register(world, unit):
                starts[0] += 1
                is_running = True
            else:
                refusals[0] += 1

    planned = world.plan()
    world_pause = world.rng.choice((0.1, 1.0))
    manager = threading.Thread(target=insist, name="service manager", daemon=True)
    manager.start()
    try:
        time.sleep(world_pause * 1.5)
        migrator = world.apply_by_program(planned)
        with world.ended(migrator):
            migrator.wait()
        settled = world.settle(planned)
    finally:
        over.set()
        manager.join()
        deregister(world, unit)
    if not stops[0]:
        raise NotInjected("the process was not running when the epoch began")
    counts = f"started {starts[0]} times, ended {stops[0]} times, not started {refusals[0]} times"
    return f"{counts}; {came_of(migrator)}; then {settled}"
