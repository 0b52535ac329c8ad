"""Limits of servers: frames of exactly the largest size and of one byte more, and a heap that is hardly enough."""

from __future__ import annotations

from typing import Final

import zkmig
from tests.torture.faults import NotInjected, Unexpected, came_of, fault
from tests.torture.world import ROOT, Planned, World
from tests.trees import Node
from zkmig.errors import OutcomeUnknown, Unreachable
from zkmig.model.acl import OPEN_ACL
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.requests import Create, Multi, frame_size

FRAME_BYTES_MAX: Final = 128 * 1024
SMALL_HEAP_MB: Final = 128  # the last 500 transactions stay in it, at three times their frame: up to 94 MB of batches
LARGE: Final = "/large"


@fault("frame-of-limit-and-one-more", ("frames",))
def frame_of_limit_and_one_more(world: World) -> str:
    """Of plain frames, what the servers say; of plans, the largest node that fits is carried, one byte more not."""
    taken = [_is_taken(world, FRAME_BYTES_MAX + more) for more in (0, 1)]
    if taken != [True, False]:
        raise NotInjected(f"the server takes frames otherwise: {taken}")
    fits = _largest_node(world)
    too_large = _try_plan(world, fits + 1)
    planned = _try_plan(world, fits)
    assert planned is not None
    migrator = world.apply_by_program(planned, "--single-shot", world.rng.choice(("auto", "never")))
    with world.ended(migrator):
        migrator.wait()
    if too_large is not None:
        raise Unexpected(f"a node of {fits + 1} bytes was planned, though it fits no frame")
    if migrator.exit != 0:
        raise Unexpected(f"a node of {fits} bytes was planned and not carried: {came_of(migrator)}")
    settled = world.settle(planned)
    back = world.plan()  # without the large node, so that undo has to carry it
    migrator_back = world.apply_by_program(back, "--single-shot", "never")
    with world.ended(migrator_back):
        migrator_back.wait()
    if world.patiently(world.kazoo.exists, ROOT + LARGE) is not None:
        world.foreign("delete", ROOT + LARGE)
    return (
        f"frame of {FRAME_BYTES_MAX} taken, one byte more not; node of {fits} bytes: {came_of(migrator)}, {settled}; "
        f"of one byte more: refused by the plan; back: {came_of(migrator_back)}, {world.settle(back)}"
    )


def _is_taken(world: World, frame_bytes: int) -> bool:
    """Whether the server takes a request of that size. Nothing is created: the multi fails at its last operation."""

    def request(data_bytes: int) -> Multi:
        impossible = Create(f"{ROOT}/absent/x", b"", OPEN_ACL)
        return Multi((Create("/frames", bytes(data_bytes), OPEN_ACL), impossible))

    wanted = request(frame_bytes - frame_size(request(0)))
    with Client(parse_hosts(world.hosts), frame_bytes_max=2 * FRAME_BYTES_MAX) as client:
        try:
            client.call_reply(wanted)
        except (OutcomeUnknown, Unreachable):
            return False
    return True


def _try_plan(world: World, node_bytes: int) -> Planned | None:
    tree = {**world.next_tree(), LARGE: Node(bytes(node_bytes))}
    try:
        return world.plan(tree, zkmig.Limits())
    except (zkmig.PlanImpossible, zkmig.BadInput):
        return None


def _largest_node(world: World) -> int:
    """Bytes of the largest node that a plan takes. Found once for a world: heads of frames do not change."""
    known = world.notes.get("largest node")
    if known is None:
        low, high = FRAME_BYTES_MAX - 4096, FRAME_BYTES_MAX
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _try_plan(world, middle) is None else (middle, high)
        known = world.notes["largest node"] = low
    return int(known)


@fault("small-heap", ("heap",))
def small_heap(world: World) -> str:
    """Megabytes to and fro, in batches of the usual size, on a server whose heap they must not fill."""
    tree = {**world.next_tree(), LARGE: Node(b"")}
    for number in range(150):
        tree[f"{LARGE}/{number:03}"] = Node(world.rng.randbytes(6_000))
    planned = world.plan(tree, zkmig.Limits())
    server = world.members[0]
    pid = server.pid
    migrator = world.apply_by_program(planned, "--single-shot", "never")
    with world.ended(migrator):
        migrator.wait()
    settled = world.settle(planned)
    if not server.is_running or server.pid != pid:
        raise Unexpected(f"the server has died of {len(planned.batches)} batches; {came_of(migrator)}")
    if migrator.exit != 0:
        raise Unexpected(f"{len(planned.batches)} batches were not carried: {came_of(migrator)}")
    heap = f"-Xmx{SMALL_HEAP_MB}m: the server lives"
    return f"{len(planned.batches)} batches of up to 64 KiB, {heap}; {came_of(migrator)}, {settled}"
