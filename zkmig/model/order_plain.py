"""Tree order of columns in plain Python: the specification that zkmig/_fast/order.pyx must equal.

Tree order is `path.order_key` on bytes: "/" below all else. Columns that do not fit together raise ValueError.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from heapq import merge

from zkmig.model.columns_plain import Blob, demand_division

_SORT_RUN_NODES = 1 << 18  # sort keys held at a time: some 45 MiB, however large the tree


def sort_key(path: bytes) -> bytes:
    """`path.order_key` on bytes; "/" becomes NUL instead of nothing, which sorts the same."""
    return path.replace(b"/", b"\0")


def tree_order(blob: Blob, offsets: array[int]) -> array[int] | None:
    """Indices in tree order, equal paths in the order they are in; None if all are in that order already."""

    demand_division(offsets, len(blob))

    def key(index: int) -> bytes:
        return sort_key(bytes(blob[offsets[index] : offsets[index + 1]]))

    count = len(offsets) - 1
    runs: list[array[int]] = []
    is_sorted = True
    for first in range(0, count, _SORT_RUN_NODES):
        nodes = range(first, min(first + _SORT_RUN_NODES, count))
        run = array("i", sorted(nodes, key=key))
        is_sorted = is_sorted and run == array("i", nodes) and (first == 0 or key(first - 1) <= key(first))
        runs.append(run)
    if is_sorted:
        return None
    return runs[0] if len(runs) == 1 else array("i", merge(*runs, key=key))


def find(blob: Blob, offsets: array[int], path: bytes) -> int:
    """Position of a path among paths in tree order; -1 if it is not there."""

    def at(index: int) -> bytes:
        first, last = offsets[index], offsets[index + 1]
        if not first <= last <= len(blob):
            raise ValueError("offsets do not divide their bytes")
        return bytes(blob[first:last])

    count = len(offsets) - 1
    index = bisect_left(range(count), sort_key(path), key=lambda index: sort_key(at(index)))
    return index if index < count and at(index) == path else -1
