"""The batches of a plan as they are sent: each behind a compare-and-set of the cursor, so in order, and once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from zkmig.model import path as paths
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.requests import SetData, WriteOp

CURSOR = 0  # the cursor's place among a batch's operations, behind the guard


class BatchWriter:
    """Turns batch i into writes. Counters are raised by what is still missing when the writer is made.

    Make one only when nothing older can be in flight (after the token was bumped): it reads the live counters.
    """

    def __init__(self, client: Client, plan: Plan, cursor_path: str, applied: int) -> None:
        self._batches = list(plan.batches())
        self._cursor_path = cursor_path
        self._pairs = self._counter_pairs(client, applied)

    def __len__(self) -> int:
        return len(self._batches)

    def operations(self, index: int) -> Sequence[WriteOp]:
        """setData(cursor, expected version index), then the batch."""
        cursor = SetData(self._cursor_path, None, index)
        return (cursor, *self._writes(index))

    def all_writes(self) -> list[WriteOp]:
        """Every operation of the plan, for a single shot."""
        return [write for index in range(len(self._batches)) for write in self._writes(index)]

    def culprit(self, index: int, position: int) -> str:
        """Path of the write at `position` of batch `index` (the cursor not counted)."""
        return list(self._writes(index))[position].path

    def _writes(self, index: int) -> Iterable[WriteOp]:
        for position, operation in enumerate(self._batches[index]):
            if isinstance(operation, RaiseCounter):
                yield from operation.writes(self._pairs[index, position])
            else:
                yield operation.write()

    def _counter_pairs(self, client: Client, applied: int) -> dict[tuple[int, int], int]:
        """How many pairs each RaiseCounter that is still to come sends."""
        remaining_creates: Counter[str] = Counter()
        raises: list[tuple[int, int, RaiseCounter]] = []
        for index in range(applied, len(self._batches)):
            for position, operation in enumerate(self._batches[index]):
                if isinstance(operation, CreateNode):
                    remaining_creates[paths.parent(operation.path)] += 1
                elif isinstance(operation, RaiseCounter):
                    raises.append((index, position, operation))
        live = _live_counters(client, {operation.path for _, _, operation in raises})
        missing: dict[str, int] = {}
        pairs: dict[tuple[int, int], int] = {}
        for index, position, operation in raises:
            path = operation.path
            missing.setdefault(path, operation.to - live.get(path, 0) - remaining_creates[path])
            pairs[index, position] = max(0, min(operation.pairs, missing[path]))
            missing[path] -= pairs[index, position]
        return pairs


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
