"""Cutting operations into batches by the exact bytes of their frames, and of the frames that undo them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zkmig.errors import PlanImpossible
from zkmig.plan.creates import Creates
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

    A batch and its undo each fit `batch_bytes_max`, and it holds no more than `batch_ops_max` writes; one operation
    that is larger than that makes a batch of its own up to `frame_bytes_max`, above which the plan is refused. A
    RaiseCounter that is larger than a batch comes back in several; no other operation is ever split, and no path is
    written in two batches.
    """
    return cut_behind(None, operations, head_bytes, limits)


def cut_behind(
    creates: Creates | None, operations: Iterable[Operation], head_bytes: int, limits: Limits
) -> tuple[tuple[Operation, ...], tuple[int, ...]]:
    """The same for operations that come behind so many creates; the ends count these too, the operations do not."""
    cutter = _Cutter(MULTI_OVERHEAD + head_bytes, limits)
    if creates is not None:
        cutter.take_creates(creates)
    for operation in operations:
        cutter.take(operation)
    return tuple(cutter.done), tuple(cutter.ends())


class _Cutter:
    """The batch that is being filled: its bytes forward and back, and its writes."""

    def __init__(self, overhead: int, limits: Limits) -> None:
        self._overhead = overhead
        self._limits = limits
        self._budget = min(limits.batch_bytes_max, limits.frame_bytes_max) - overhead
        self._ends: list[int] = []
        self._count = self._writes = self._forward = self._undo = 0
        self.done: list[Operation] = []

    def ends(self) -> list[int]:
        return [*self._ends, self._count] if self._writes else self._ends

    def take(self, operation: Operation) -> None:
        ops_max = self._limits.batch_ops_max
        for part in _split(operation, self._budget, ops_max):
            size, undo_size = forward_size(part), part.undo_size()
            writes = 2 * part.pairs if isinstance(part, RaiseCounter) else 1
            _refuse_too_large(part.path, self._overhead + max(size, undo_size), self._limits)
            if self._writes and (
                self._forward + size > self._budget
                or self._undo + undo_size > self._budget
                or self._writes + writes > ops_max
            ):
                self._ends.append(self._count)
                self._forward = self._undo = self._writes = 0
            self.done.append(part)
            self._count += 1
            self._writes += writes
            self._forward += size
            self._undo += undo_size

    def take_creates(self, creates: Creates) -> None:
        """All of them, before anything else. Creating takes more bytes than taking back, so that only it counts."""
        sizes, undo_sizes = creates.sizes(), creates.undo_sizes()
        if sizes and self._overhead + max(sizes) > self._limits.frame_bytes_max:
            first = next(i for i, size in enumerate(sizes) if self._overhead + size > self._limits.frame_bytes_max)
            _refuse_too_large(creates.path_at(first), self._overhead + sizes[first], self._limits)
        budget, ops_max, ends = self._budget, self._limits.batch_ops_max, self._ends
        start = filled = 0
        for index, size in enumerate(sizes):
            filled += size
            if (filled > budget or index - start == ops_max) and index > start:
                ends.append(index)
                start, filled = index, size
        self._count, self._writes = len(sizes), len(sizes) - start
        self._forward, self._undo = filled, sum(undo_sizes[start:])


def _split(operation: Operation, budget: int, ops_max: int) -> Iterator[Operation]:
    if not isinstance(operation, RaiseCounter):
        yield operation
        return
    pairs_max = max(min(budget // RaiseCounter.pair_size(operation.path), ops_max // 2), 1)
    left = operation.pairs
    while left:
        pairs = min(left, pairs_max)
        yield RaiseCounter(operation.path, pairs, operation.to)
        left -= pairs


def _refuse_too_large(path: str, frame_bytes: int, limits: Limits) -> None:
    if frame_bytes > limits.frame_bytes_max:
        raise NodeTooLarge(frame_bytes, path, limits)
