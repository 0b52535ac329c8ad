"""The batches of a plan as they are sent: each behind a compare-and-set of the cursor, so in order, and once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from zkmig.model import path as paths
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.packed import PackedOperations
from zkmig.wire.requests import Check, SetData, WriteOp, encode_parts, operation_size

CURSOR = 0  # the cursor's place among a batch's operations, behind the guard


class BatchWriter:
    """Turns batch i into writes. Counters are raised by what is still missing when the writer is made.

    Make one only when nothing older can be in flight (after the token was bumped): it reads the live counters.
    """

    def __init__(self, client: Client, plan: Plan, cursor_path: str, applied: int) -> None:
        self._operations = plan.ordered
        self._ranges = list(plan.batch_ranges())
        self._encoder = self._operations.creates.encoder()
        self._cursor_path = cursor_path
        self._pairs = self._counter_pairs(client, applied)

    def __len__(self) -> int:
        return len(self._ranges)

    def operations(self, index: int) -> Sequence[WriteOp]:
        """setData(cursor, expected version index), then the batch."""
        cursor = SetData(self._cursor_path, None, index)
        start, end = self._ranges[index]
        if end > len(self._operations.creates):
            return (cursor, *self._writes(index))
        creates, head = self._encoder, (cursor,)
        packed = PackedOperations(
            creates.parts(start, end), creates.opcodes(start, end), lambda: tuple(self._writes(index))
        )
        return packed.behind(head, encode_parts(head))

    def all_writes(self) -> list[WriteOp]:
        """Every operation of the plan, for a single shot."""
        return [write for index in range(len(self._ranges)) for write in self._writes(index)]

    def culprit(self, index: int, position: int) -> str:
        """Path of the write at `position` of batch `index` (the cursor not counted)."""
        return list(self._writes(index))[position].path

    def _writes(self, index: int) -> Iterable[WriteOp]:
        for position in range(*self._ranges[index]):
            operation = self._operations[position]
            if isinstance(operation, RaiseCounter):
                yield from operation.writes(self._pairs[position])
            else:
                yield operation.write()

    def _counter_pairs(self, client: Client, applied: int) -> dict[int, int]:
        """How many pairs each RaiseCounter that is still to come sends, by its index among the operations."""
        first = self._ranges[applied][0] if applied < len(self._ranges) else len(self._operations)
        behind = len(self._operations.creates)
        raises = [
            (position, operation)
            for position, operation in enumerate(self._operations.rest, behind)
            if position >= first and isinstance(operation, RaiseCounter)
        ]
        if not raises:
            return {}
        wanted = {operation.path for _, operation in raises}
        remaining_creates = self._creates_below(wanted, first)
        live = _live_counters(client, wanted)
        missing: dict[str, int] = {}
        pairs: dict[int, int] = {}
        for position, operation in raises:
            path = operation.path
            missing.setdefault(path, operation.to - live.get(path, 0) - remaining_creates[path])
            pairs[position] = max(0, min(operation.pairs, missing[path]))
            missing[path] -= pairs[position]
        return pairs

    def _creates_below(self, wanted: set[str], first: int) -> Counter[str]:
        """How many children of each path are still to be created, by operation `first` or a later one."""
        creates = self._operations.creates
        parents = (creates.path_bytes(index).rpartition(b"/")[0] for index in range(first, len(creates)))
        names = {path.encode() if path != "/" else b"": path for path in wanted}
        found = Counter(names[parent] for parent in parents if parent in names)
        for operation in self._operations.rest[max(0, first - len(creates)) :]:
            if isinstance(operation, CreateNode):
                found[paths.parent(operation.path)] += 1
        return found


def _live_counters(client: Client, wanted: set[str]) -> dict[str, int]:
    return {node.path: node.stat.counter for node in read_nodes(client, wanted) if isinstance(node, NodeRead)}


def describe(operation: Operation) -> str:
    """One line for a dry run: what and where, never data."""
    match operation:
        case CreateNode():
            return f"create {operation.path}"
        case WriteData():
            return f"write {operation.path}"
        case DeleteNode():
            return f"delete {operation.path}"
        case RaiseCounter():
            return f"raise counter {operation.path} to {operation.to}"


def fitting(checks: Iterable[Check], room: int) -> list[Check]:
    """As many as fit into so many bytes of a multi, in their order."""
    found: list[Check] = []
    for check in checks:
        room -= operation_size(check)
        if room < 0:
            break
        found.append(check)
    return found
