"""What the members of a target take in one frame: asked only when a plan needs more than a usual batch.

A server does not say its jute.maxbuffer; it drops the connection of whoever sends more [zookeeper-facts 11]. So
frames of the sizes that a plan needs are tried at planning, on connections of their own, at every member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from zkmig.api.access import Hosts
from zkmig.errors import PlanImpossible
from zkmig.plan.batches import FrameTooLarge
from zkmig.plan.operations import Operation
from zkmig.plan.plan import Limits, Plan
from zkmig.wire.limits import frame_limits
from zkmig.wire.requests import MULTI_OVERHEAD
from zkmig.wire.tls import Tls


def fit_to_servers(make: Callable[[Limits], Plan], limits: Limits, hosts: Hosts, tls: Tls | None = None) -> Plan:
    """The plan that `make` gives within what every member of `hosts` takes.

    A node, or what has to be one transaction, over `limits.frame_bytes_max` is admitted where the members take it all
    the same (jute.maxbuffer was raised); PlanImpossible names the heaviest that some member does not take.
    """
    while True:
        try:
            plan = make(limits)
            break
        except FrameTooLarge as error:
            if not all_take(hosts, error.frame_bytes, tls):
                raise
            limits = dataclasses.replace(limits, frame_bytes_max=error.frame_bytes)
    largest, batch = _largest_batch(plan)
    usual = limits.batch_bytes_max
    if largest > usual and not all_take(hosts, largest, tls):
        if len(batch) > 1:  # a block: planned again with what they do take, it says what ties it together
            taken = frame_limits(hosts, largest, tls=tls).smallest.frame_bytes or 0
            return make(dataclasses.replace(limits, frame_bytes_max=taken))
        raise PlanImpossible(
            f"this node needs a guarded transaction of {largest} bytes, more than a member of the target takes",
            batch[0].path,
            "make the node smaller, or raise jute.maxbuffer on every server of the target",
        )
    single = plan.single_shot_bytes
    if plan.why_not_single_shot() is None and single > max(usual, largest):
        taken = frame_limits(hosts, single, tls=tls).smallest.frame_bytes or 0
        if taken < single:
            # What they take, not what the largest batch does: the chunk with its undo may be somewhat larger.
            return dataclasses.replace(plan, limits=dataclasses.replace(limits, frame_bytes_max=max(taken, largest)))
    return plan


def all_take(hosts: Hosts, frame_bytes: int, tls: Tls | None = None) -> bool:
    """Whether every member that can be reached takes a frame of that size. Unreachable if none can be."""
    return frame_limits(hosts, frame_bytes, tls=tls).smallest.frame_bytes == frame_bytes


def _largest_batch(plan: Plan) -> tuple[int, Sequence[Operation]]:
    """Bytes of the largest frame that writes a batch or takes it back, and its operations."""
    overhead = MULTI_OVERHEAD + plan.head_bytes
    largest, heaviest = 0, (0, 0)
    for bounds, sizes in zip(plan.batch_ranges(), plan.batch_sizes(), strict=True):
        if overhead + max(sizes) > largest:
            largest, heaviest = overhead + max(sizes), bounds
    return largest, plan.operations[slice(*heaviest)]
