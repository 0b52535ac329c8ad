"""Zombies: a migrator stands still just before a write, another finishes, and then the first one goes on.

It stands still past its session, or keeps it while another takes the scope with --steal; in the latter case nothing but
the owner's token stands between its next write and the tree. Sometimes a whole further epoch goes by before it wakes.
"""

from __future__ import annotations

from typing import Any

from tests.torture.faults import SHORT_SESSION_S, NotInjected, await_lock_gone, came_of, fault
from tests.torture.processes import Migrator
from tests.torture.world import Planned, World


def _stand(world: World, zombie: Migrator, planned: Planned | None) -> None:
    """Wait until it stands; NotInjected if it never does."""
    if not zombie.wait_standing():
        zombie.wait()
        world.settle(planned)
        raise NotInjected(came_of(zombie))


def _fate(world: World) -> tuple[str, dict[str, Any]]:
    """How it loses the scope, and the options of its session."""
    is_expired = world.rng.random() < 0.4
    return ("expired", {"session_timeout_s": SHORT_SESSION_S}) if is_expired else ("stolen", {})


def _wake_too_late(world: World, zombie: Migrator, planned: Planned | None, how: str) -> str:
    """Others finish; then it goes on."""
    if how == "expired":
        await_lock_gone(world)
    settled = world.settle(planned)
    if world.rng.random() < 0.3:
        further = world.plan()
        other = world.apply_by_program(further, "--single-shot", "auto")
        with world.ended(other):
            other.wait()
        settled += f", and a further epoch: {world.settle(further)}"
    zombie.go_on()
    zombie.wait()
    return f"{how}; meanwhile {settled}; the zombie: {came_of(zombie)}"


@fault("zombie-in-batches")
def zombie_in_batches(world: World) -> str:
    planned = world.plan()
    how, session = _fate(world)
    stop = {"kind": "batch", "number": world.rng.randrange(14)}
    zombie = world.apply(planned, throttle=None, stop=stop, **session)
    with world.ended(zombie):
        _stand(world, zombie, planned)
        return f"before batch {stop['number']}, " + _wake_too_late(world, zombie, planned, how)


@fault("zombie-in-rollback")
def zombie_in_rollback(world: World) -> str:
    planned = world.plan()
    how, session = _fate(world)
    first = world.apply(planned, throttle=None, stop={"kind": "batch", "number": world.rng.randrange(5, 14)})
    with world.ended(first):
        _stand(world, first, planned)
    stop = {"kind": "undo", "number": world.rng.randrange(5)}
    zombie = world.order(command="rollback", steal=True, stop=stop, **session)
    with world.ended(zombie):
        _stand(world, zombie, planned)
        return f"before undo {stop['number']}, " + _wake_too_late(world, zombie, planned, how)


@fault("zombie-in-set-acl")
def zombie_in_set_acl(world: World) -> str:
    """Before an ACL is tightened, or after the commit, before one is loosened."""
    planned = world.plan()
    how, session = _fate(world)
    stop = {"kind": "acl", "number": world.rng.randrange(3)}
    zombie = world.apply(planned, throttle=None, stop=stop, **session)
    with world.ended(zombie):
        _stand(world, zombie, planned)
        state = world.record().get("state")
        return f"before setACL {stop['number']} in {state}, " + _wake_too_late(world, zombie, planned, how)


@fault("zombie-in-journal")
def zombie_in_journal(world: World) -> str:
    """Before a chunk of undo: the record does not name its attempt yet, and another begins one of its own."""
    planned = world.plan()
    stop = {"kind": "journal", "number": world.rng.randrange(4)}
    zombie = world.apply(planned, throttle=None, stop=stop)
    with world.ended(zombie):
        _stand(world, zombie, planned)
        other = world.apply(planned, throttle=None, steal=True, at=world.location())
        with world.ended(other):
            other.wait()
        return f"before write {stop['number']} of the journal, " + _wake_too_late(world, zombie, planned, "stolen")


@fault("zombie-in-prune")
def zombie_in_prune(world: World) -> str:
    """While it takes old journals away, another takes the scope and begins an epoch of its own."""
    how, session = _fate(world)
    stop = {"kind": "delete", "number": world.rng.randrange(2)}
    zombie = world.order(command="prune", stop=stop, **session)
    with world.ended(zombie):
        _stand(world, zombie, None)
        if how == "expired":
            await_lock_gone(world)
        planned = world.plan()
        other = world.apply(
            planned, throttle=None, steal=True, at=world.location(), stop={"kind": "batch", "number": 6}
        )
        with world.ended(other):
            _stand(world, other, planned)
            zombie.go_on()  # in the midst of an epoch whose undo it must not touch
            zombie.wait()
        return f"before delete {stop['number']}, {how}; the zombie: {came_of(zombie)}; then {world.settle(planned)}"


@fault("control-plane-recreated")
def control_plane_recreated(world: World) -> str:
    """The control plane is deleted and created again under a migrator that stands still, then it goes on."""
    planned = world.plan()
    kind = world.rng.choice(("batch", "journal", "batch", "acl"))
    stop = {"kind": kind, "number": world.rng.randrange(4)}
    zombie = world.apply(planned, throttle=None, stop=stop)
    with world.ended(zombie):
        _stand(world, zombie, planned)
        state = world.record().get("state")
        world.forget()
        world.init()
        came = "nothing else"
        if world.rng.random() < 0.6:
            further = world.plan()
            other = world.apply(further, throttle=None, at=world.location())
            with world.ended(other):
                other.wait()
            came = world.settle(further)
        zombie.go_on()
        zombie.wait()
    return f"before {kind} {stop['number']} in {state}; meanwhile {came}; the zombie: {came_of(zombie)}"
