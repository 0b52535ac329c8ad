"""Cutting operations into batches by the exact bytes of their frames, and of the frames that undo them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from zkmig.errors import PlanImpossible
from zkmig.plan.creates import Creates
from zkmig.plan.dependency import Block
from zkmig.plan.operations import Operation, RaiseCounter, forward_size
from zkmig.plan.plan import Limits
from zkmig.wire.requests import MULTI_OVERHEAD

NAMED_MAX = 5  # members named in one line
MEMBERS_MAX = 105  # members named in one error


class FrameTooLarge(PlanImpossible):
    """Something needs a larger frame than the servers are known to take. frame_bytes: what it needs."""

    frame_bytes: int


class NodeTooLarge(FrameTooLarge):
    """One operation that does."""

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
    creates: Creates | None,
    operations: Iterable[Operation],
    head_bytes: int,
    limits: Limits,
    blocks: Sequence[Block] = (),
) -> tuple[tuple[Operation, ...], tuple[int, ...]]:
    """The same for operations that come behind so many creates; the ends count these too, the operations do not.

    blocks: what no batch may divide, counted from the first create, in order. One that is larger than a batch makes a
    batch of its own up to `frame_bytes_max`; above it BlockTooLarge.
    """
    cutter = _Cutter(MULTI_OVERHEAD + head_bytes, limits)
    count = len(creates) if creates is not None else 0
    if creates is not None:
        cutter.take_creates(creates, [block for block in blocks if block.stop <= count])
    behind = {block.start - count: block for block in blocks if block.start >= count}
    waiting = iter(enumerate(operations))
    for number, operation in waiting:
        block = behind.get(number)
        if block is None:
            cutter.take(operation)
        else:
            others = islice(waiting, block.stop - block.start - 1)
            cutter.take_block([operation, *(other for _, other in others)], block.why)
    return tuple(cutter.done), tuple(cutter.ends())


class BlockTooLarge(FrameTooLarge):
    """What one transaction has to hold. members: paths, and the bytes that each takes there or in the undo."""

    def __init__(self, frame_bytes: int, members: Sequence[tuple[str, int]], why: str, limits: Limits) -> None:
        named = [f"{path} ({size} bytes)" for path, size in sorted(members, key=lambda member: -member[1])]
        super().__init__(
            f"{len(members)} changes have to be one transaction ({why}) of {frame_bytes} bytes, the servers take "
            f"{limits.frame_bytes_max}",
            ", ".join(named[:NAMED_MAX]) + (f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""),
            "let the rule hold fewer of them together, or raise jute.maxbuffer on every server of the target",
        )
        self.frame_bytes = frame_bytes
        for name in named[NAMED_MAX:MEMBERS_MAX]:
            self.add_note(f"  also: {name}")
        if len(named) > MEMBERS_MAX:
            self.add_note(f"  also: {len(named) - MEMBERS_MAX} more")


def too_large(
    creates: Creates, rest: Sequence[Operation], blocks: Sequence[Block], head_bytes: int, limits: Limits
) -> Iterator[FrameTooLarge]:
    """Everything that fits no frame, in order: `cut_behind` stops at the first."""
    overhead = MULTI_OVERHEAD + head_bytes
    room = limits.frame_bytes_max - overhead
    sizes, count = creates.sizes(), len(creates)
    if sizes and max(sizes) > room:
        for index, size in enumerate(sizes):
            if size > room:
                yield NodeTooLarge(overhead + size, creates.path_at(index), limits)
    for operation in rest:
        if not isinstance(operation, RaiseCounter):
            size = max(forward_size(operation), operation.undo_size())
            if size > room:
                yield NodeTooLarge(overhead + size, operation.path, limits)
    for block in blocks:
        members: list[Operation] = list(creates[block.start : block.stop])
        members += rest[max(0, block.start - count) : max(0, block.stop - count)]
        if block_size(members) > room:
            yield _block_too_large(overhead, members, block.why, limits)


def block_size(members: Sequence[Operation]) -> int:
    """Bytes that operations take in one transaction, or in the one that takes them back."""
    return max(sum(map(forward_size, members)), sum(member.undo_size() for member in members))


def _block_too_large(overhead: int, members: Sequence[Operation], why: str, limits: Limits) -> BlockTooLarge:
    named = [(member.path, max(forward_size(member), member.undo_size())) for member in members]
    return BlockTooLarge(overhead + block_size(members), named, why, limits)


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
        if isinstance(operation, RaiseCounter):
            for part in _split(operation, self._budget, self._limits.batch_ops_max):
                self._take(part, 2 * part.pairs)
        else:
            self._take(operation, 1)

    def _take(self, operation: Operation, writes: int) -> None:
        size, undo_size = forward_size(operation), operation.undo_size()
        _refuse_too_large(operation.path, self._overhead + max(size, undo_size), self._limits)
        self._add((operation,), writes, size, undo_size)

    def take_block(self, operations: Sequence[Operation], why: str) -> None:
        """Operations of which none raises a counter."""
        size, undo_size = sum(map(forward_size, operations)), sum(each.undo_size() for each in operations)
        if self._overhead + max(size, undo_size) > self._limits.frame_bytes_max:
            raise _block_too_large(self._overhead, operations, why, self._limits)
        self._add(operations, len(operations), size, undo_size)

    def _add(self, operations: Sequence[Operation], writes: int, size: int, undo_size: int) -> None:
        if self._writes and (
            self._forward + size > self._budget
            or self._undo + undo_size > self._budget
            or self._writes + writes > self._limits.batch_ops_max
        ):
            self._ends.append(self._count)
            self._forward = self._undo = self._writes = 0
        self.done += operations
        self._count += len(operations)
        self._writes += writes
        self._forward += size
        self._undo += undo_size

    def take_creates(self, creates: Creates, blocks: Sequence[Block]) -> None:
        """All of them, before anything else. Creating takes more bytes than taking back, so that only it counts."""
        sizes, undo_sizes = creates.sizes(), creates.undo_sizes()
        if sizes and self._overhead + max(sizes) > self._limits.frame_bytes_max:
            first = next(i for i, size in enumerate(sizes) if self._overhead + size > self._limits.frame_bytes_max)
            _refuse_too_large(creates.path_at(first), self._overhead + sizes[first], self._limits)
        budget, ops_max, ends = self._budget, self._limits.batch_ops_max, self._ends
        start = filled = 0
        for index, stop, size in self._pieces(creates, sizes, blocks):
            filled += size
            if (filled > budget or stop - start > ops_max) and index > start:
                ends.append(index)
                start, filled = index, size
        self._count, self._writes = len(sizes), len(sizes) - start
        self._forward, self._undo = filled, sum(undo_sizes[start:])

    def _pieces(
        self, creates: Creates, sizes: Sequence[int], blocks: Sequence[Block]
    ) -> Iterator[tuple[int, int, int]]:
        """What is not to be divided: first, one past the last, bytes."""
        done = 0
        for block in blocks:
            yield from zip(
                range(done, block.start), range(done + 1, block.start + 1), sizes[done : block.start], strict=True
            )
            size = sum(sizes[block.start : block.stop])
            if self._overhead + size > self._limits.frame_bytes_max:
                raise _block_too_large(self._overhead, creates[block.start : block.stop], block.why, self._limits)
            yield block.start, block.stop, size
            done = block.stop
        yield from zip(range(done, len(sizes)), range(done + 1, len(sizes) + 1), sizes[done:], strict=True)


def _split(operation: RaiseCounter, budget: int, ops_max: int) -> Iterator[RaiseCounter]:
    pairs_max = max(min(budget // RaiseCounter.pair_size(operation.path), ops_max // 2), 1)
    left = operation.pairs
    while left:
        pairs = min(left, pairs_max)
        yield RaiseCounter(operation.path, pairs, operation.to)
        left -= pairs


def _refuse_too_large(path: str, frame_bytes: int, limits: Limits) -> None:
    if frame_bytes > limits.frame_bytes_max:
        raise NodeTooLarge(frame_bytes, path, limits)
