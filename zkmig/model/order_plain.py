"""Tree order of columns in plain Python: the specification that zkmig/_fast/order.pyx must equal.

Tree order is `path.order_key` on bytes: "/" below all else. Columns that do not fit together raise ValueError.
"""

from __future__ import annotations

from array import array
from heapq import merge
from io import BytesIO

from zkmig.model.columns_plain import Blob, demand_division

_SORT_RUN_NODES = 1 << 18  # sort keys held at a time: some 45 MiB, however large the tree
_COPY_NODES = 1 << 14  # slices of a blob held at a time while it is reordered


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


def reordered(column: array[int], order: array[int]) -> array[int]:
    """The column's values in another order."""
    _demand_within(order, len(column))
    return array(column.typecode, map(column.__getitem__, order))


def reordered_bytes(column: Blob, order: array[int]) -> bytes:
    """The same for a column of bytes."""
    _demand_within(order, len(column))
    return bytes(map(column.__getitem__, order))


def reordered_blob(blob: Blob, offsets: array[int], order: array[int]) -> tuple[bytes, array[int]]:
    """The same for a blob with its offsets."""
    demand_division(offsets, len(blob))
    _demand_within(order, len(offsets) - 1)
    out = BytesIO()
    out_offsets = array("Q", (0,))
    position = 0
    for first in range(0, len(order), _COPY_NODES):
        pieces = [blob[offsets[index] : offsets[index + 1]] for index in order[first : first + _COPY_NODES]]
        out.write(b"".join(pieces))
        for piece in pieces:
            position += len(piece)
            out_offsets.append(position)
    return out.getvalue(), out_offsets


def _demand_within(order: array[int], count: int) -> None:
    if order and not 0 <= min(order) <= max(order) < count:
        raise ValueError("an order that points outside the column")
