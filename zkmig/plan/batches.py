"""Cutting operations into batches by the exact bytes of their frames, and of the frames that undo them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zkmig.errors import PlanImpossible
from zkmig.plan.operations import Operation, RaiseCounter, forward_size
from zkmig.plan.plan import Limits
from zkmig.wire.requests import MULTI_OVERHEAD


class NodeTooLarge(PlanImpossible):
    """One operation needs a larger frame than the servers are known to take. frame_bytes: what it needs."""

    def __init__(self, frame_bytes: int, path: str, limits: Limits) -> None:
        super().__init__(
            f"this node needs a guarded transaction of {frame_bytes} bytes, the servers take {limits.frame_bytes_max}",
            path,
            "make the node smaller, or raise jute.maxbuffer on every server of the target",
        )
        self.frame_bytes = frame_bytes


def cut(
    operations: Iterable[Operation], head_bytes: int, limits: Limits
) -> tuple[tuple[Operation, ...], tuple[int, ...]]:
    """Operations and the ends of their batches.

    A batch and its undo each fit `batch_bytes_max`; one operation that is larger than that makes a batch of its own up
    to `frame_bytes_max`, above which the plan is refused. A RaiseCounter that is larger than a batch comes back in
    several; no other operation is ever split, and no path is written in two batches.
    """
    overhead = MULTI_OVERHEAD + head_bytes
    budget = min(limits.batch_bytes_max, limits.frame_bytes_max) - overhead
    done: list[Operation] = []
    ends: list[int] = []
    forward = undo = 0
    for operation in operations:
        for part in _split(operation, budget):
            size, undo_size = forward_size(part), part.undo_size()
            _refuse_too_large(part, overhead + max(size, undo_size), limits)
            if done and (forward + size > budget or undo + undo_size > budget) and (forward or undo):
                ends.append(len(done))
                forward = undo = 0
            done.append(part)
            forward += size
            undo += undo_size
    if done:
        ends.append(len(done))
    return tuple(done), tuple(ends)


def _split(operation: Operation, budget: int) -> Iterator[Operation]:
    if not isinstance(operation, RaiseCounter):
        yield operation
        return
    pairs_max = max(budget // RaiseCounter.pair_size(operation.path), 1)
    left = operation.pairs
    while left:
        pairs = min(left, pairs_max)
        yield RaiseCounter(operation.path, pairs, operation.to)
        left -= pairs


def _refuse_too_large(operation: Operation, frame_bytes: int, limits: Limits) -> None:
    if frame_bytes > limits.frame_bytes_max:
        raise NodeTooLarge(frame_bytes, operation.path, limits)
