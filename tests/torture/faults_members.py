"""Faults of members of an ensemble: the leader killed, a follower stopped with a batch in it."""

from __future__ import annotations

import threading
import time

from tests.proxy import Fate
from tests.torture.faults import THREE, NotInjected, begin, came_of, fault, moment_amid
from tests.torture.world import MIGRATING, World


@fault("leader-killed", THREE)
def leader_killed(world: World) -> str:
    """SIGKILL; the others elect a successor while the migration and the readers are at work."""
    assert world.ensemble is not None
    planned, migrator = begin(world)
    with world.ended(migrator):
        when = moment_amid(world, migrator)
        old = world.ensemble.leader()
        is_migrating = world.record().get("state") in MIGRATING
        begun = time.monotonic()
        old.kill()
        is_migrating &= migrator.is_alive
        world.ensemble.wait_ready()
        seconds = time.monotonic() - begun
        new = world.ensemble.leader()
        migrator.wait()
        old.start()
        world.ensemble.wait_ready()
    if not is_migrating:
        raise NotInjected(f"no migration was under way: {when}")
    names = {id(member): number for number, member in enumerate(world.members)}
    moved = f"leader {names[id(old)]} -> {names[id(new)]} within {seconds:.1f} s"
    return f"in {when}: {moved}; {came_of(migrator)}; then {world.settle(planned)}"


@fault("follower-stopped", THREE)
def follower_stopped(world: World) -> str:
    """SIGSTOP of a follower that has just been handed a batch; another may take over before it goes on with it."""
    assert world.ensemble is not None
    follower = world.rng.choice(world.ensemble.followers())
    index = world.members.index(follower)
    proxy = world.proxies[index]
    others = ",".join(member.hosts for number, member in enumerate(world.members) if number != index)
    planned = world.plan()
    number, has_stopped, seen = world.rng.randrange(3, 20), threading.Event(), [0]

    def judge(opcode: int, _: int) -> Fate:
        del opcode
        seen[0] += 1
        if seen[0] == number:
            follower.pause()
            has_stopped.set()
        return Fate.PASS

    proxy.judge = judge
    migrator = world.apply(planned, at=world.location(proxy.hosts), throttle=None)
    with world.ended(migrator):
        while not has_stopped.wait(0.01):
            if not migrator.is_alive:
                proxy.judge = lambda _, __: Fate.PASS
                world.settle(planned)
                raise NotInjected(came_of(migrator))
        meanwhile = "nobody else"
        try:
            if world.rng.random() < 0.6:
                other = world.take_over(planned, world.any_way(), hosts=others)
                with world.ended(other):
                    other.wait()
                meanwhile = f"{other.shown['command']}: {came_of(other)}"
            else:
                time.sleep(world.rng.uniform(0.3, 2.5))
        finally:
            proxy.judge = lambda _, __: Fate.PASS
            follower.unpause()
        migrator.wait()
        world.ensemble.wait_ready()
    return f"with write {number} in it; meanwhile {meanwhile}; {came_of(migrator)}; then {world.settle(planned)}"
