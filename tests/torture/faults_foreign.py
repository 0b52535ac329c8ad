"""Foreign writers on the paths of a plan: old values put back, nodes replaced at the same version, new children."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from kazoo.exceptions import KazooException

from tests.torture.faults import NotInjected, Unexpected, begin, came_of, fault, moment_amid
from tests.torture.world import GROUPS, MIGRATING, ROOT, World


@fault("old-value-put-back")
def old_value_put_back(world: World) -> str:
    """A controller that puts the old value of one path back, again and again, whatever anybody else writes there."""
    planned = world.plan()
    if not planned.written:
        raise NotInjected("the plan writes nothing")
    path = world.rng.choice(planned.written)
    old = world.patiently(world.kazoo.get, path)[0]
    over, puts = threading.Event(), [0]

    def put_back() -> None:
        while not over.wait(0.03):
            with suppress(KazooException):
                if world.kazoo.get(path)[0] != old:
                    world.kazoo.set(path, old)
                    puts[0] += 1

    migrator = world.apply_by_program(planned)
    controller = threading.Thread(target=put_back, name="controller", daemon=True)
    controller.start()
    try:
        with world.ended(migrator):
            migrator.wait()
        settled = world.settle(planned)
    finally:
        over.set()
        controller.join()
    if not puts[0]:
        raise NotInjected(f"it was never changed; {came_of(migrator)}")
    return f"{puts[0]} times; {came_of(migrator)}; then {settled}"


@fault("replaced-at-the-same-version")
def replaced_at_the_same_version(world: World) -> str:
    """Deleted and created again, so that its version is what the next write expects, though it is another node.

    Before its batch, where that is 0; or after it, as often as not so that the next to meet it is a rollback.
    """
    path = f"{ROOT}/g{world.rng.randrange(GROUPS)}/both{world.rng.randrange(8)}"
    is_after, goes_back = world.rng.random() < 0.6, world.rng.random() < 0.6
    _replace(world, path, b"before the plan")
    planned = world.plan()
    batch = next((number for number, paths in enumerate(planned.batches) if path in paths), None)
    if batch is None or path not in planned.written:
        raise NotInjected("the plan does not write it")
    stop: dict[str, object] = {"kind": "batch", "number": 0}
    if is_after:
        is_last = batch + 1 == len(planned.batches)
        stop = {"kind": "to-STABLE", "number": 0} if is_last else {"kind": "batch", "number": batch + 1}
    migrator = world.apply(planned, throttle=None, stop=stop)
    with world.ended(migrator):
        if not migrator.wait_standing():
            raise NotInjected(came_of(migrator))
        if is_after:
            written = world.patiently(world.kazoo.get, path)[1].version
            _replace(world, path, b"another")
            for _ in range(written):
                world.foreign("set", path, b"another")
        else:
            _replace(world, path, b"after the plan")
        if is_after and goes_back:
            migrator.kill()
        else:
            migrator.go_on()
        migrator.wait()
    settled = world.settle(planned, "rollback" if is_after and goes_back else "")
    return f"{'after' if is_after else 'before'} its batch; {came_of(migrator)}; then {settled}"


def _replace(world: World, path: str, data: bytes) -> None:
    world.foreign("delete", path)
    if not world.foreign("create", path, data):
        raise NotInjected("could not be created")


@fault("child-under-a-created-node")
def child_under_a_created_node(world: World) -> str:
    planned = world.plan()
    migrator = world.apply(planned, throttle=None, stop={"kind": "batch", "number": world.rng.randrange(8, 14)})
    with world.ended(migrator):
        if not migrator.wait_standing():
            migrator.wait()
            raise NotInjected(came_of(migrator))
        there = [path for path in planned.created if world.patiently(world.kazoo.exists, path)]
        if not there:
            raise NotInjected("nothing has been created yet")
        path = world.rng.choice(there)
        if not world.foreign("create", f"{path}/foreign", b"mine"):
            raise NotInjected("could not be created")
        if world.rng.random() < 0.5:
            migrator.go_on()
        else:
            migrator.kill()
        migrator.wait()
    settled = world.settle(planned)
    if world.patiently(world.kazoo.exists, f"{path}/foreign") is None:
        raise Unexpected(f"somebody else's {path}/foreign is gone; {came_of(migrator)}; then {settled}")
    world.foreign("delete", f"{path}/foreign")
    return f"{came_of(migrator)}; then {settled}; the child is there"


@fault("foreign-writes")
def foreign_writes(world: World) -> str:
    """Several writes, creates and deletes on paths of the plan, at any moment."""
    planned, migrator = begin(world)
    done = amid = 0
    with world.ended(migrator):
        when = moment_amid(world, migrator)
        for _ in range(world.rng.randrange(1, 6)):
            path = world.rng.choice(planned.paths)
            is_migrating = world.record().get("state") in MIGRATING
            match world.rng.randrange(4):
                case 0:
                    is_done = world.foreign("delete", path)
                case 1:
                    is_done = world.foreign("create", path, b"foreign")
                case _:
                    is_done = world.foreign("set", path, b"foreign %d" % world.rng.randrange(1000))
            done += is_done
            amid += is_done and is_migrating
            time.sleep(world.rng.uniform(0, 0.2))
        migrator.wait()
    settled = world.settle(planned)
    if not amid:
        raise NotInjected("none amid the migration")
    return f"{done} from {when} on, {amid} of them amid the migration; {came_of(migrator)}; then {settled}"
