"""Order, shape and soundness of columns, in plain Python: the specification that zkmig/_fast/columns.pyx must equal.

Functions over blobs, offsets and arrays that know no errors of ours: what is amiss comes back as a fault and the node
it is about, and `zkmig.model.columns` makes the message. Tree order is `path.order_key` on bytes: "/" below all else.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from heapq import merge
from io import BytesIO
from itertools import islice
from operator import gt

Blob = bytes | bytearray

# Faults; 0 is none. The compiled module has the same numbers.
SOUND = 0
NOT_A_PATH = 1  # not a path below the root, or a second root
ORPHAN = 2  # its parent is not there, or does not come right before its subtree
TWICE = 3
UNSORTED = 4  # below its parent, but not in order among its siblings
ACL_UNKNOWN = 5
MARKER_UNKNOWN = 6  # a kind or null marker of no meaning
TTL_MISPLACED = 7
OWNER_MISPLACED = 8  # ephemeral without a session, or the reverse
EPHEMERAL_PARENT = 9
NULL_WITH_DATA = 10

_KIND_TTL = 2
_KIND_EPHEMERAL = 3
_KIND_BYTES = bytes(range(4))

# -- order ------------------------------------------------------------------------------------------------------------

_SORT_RUN_NODES = 1 << 18  # sort keys held at a time: some 45 MiB, however large the tree
_COPY_NODES = 1 << 14  # slices of a blob held at a time while it is reordered


def sort_key(path: bytes) -> bytes:
    """`path.order_key` on bytes; "/" becomes NUL instead of nothing, which sorts the same."""
    return path.replace(b"/", b"\0")


def tree_order(blob: Blob, offsets: array[int]) -> array[int] | None:
    """Indices in tree order, equal paths in the order they are in; None if all are in that order already."""

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
    return array(column.typecode, map(column.__getitem__, order))


def reordered_bytes(column: Blob, order: array[int]) -> bytes:
    """The same for a column of bytes."""
    return bytes(map(column.__getitem__, order))


def reordered_blob(blob: Blob, offsets: array[int], order: array[int]) -> tuple[bytes, array[int]]:
    """The same for a blob with its offsets."""
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


# -- pieces of columns ------------------------------------------------------------------------------------------------


def shifted(offsets: array[int], start: int, stop: int, by: int) -> array[int]:
    """offsets[start:stop], each with `by` added, which may be below zero."""
    return array(offsets.typecode, (offset + by for offset in islice(offsets, start, stop)))


def translated(ids: array[int], start: int, stop: int, table: array[int]) -> array[int]:
    """table[id] for each of ids[start:stop]."""
    return array("I", map(table.__getitem__, islice(ids, start, stop)))


def kinds_of(owners: array[int], start: int) -> bytes:
    """Ephemeral where a session owns the node, else persistent, from `start` on."""
    return bytes(_KIND_EPHEMERAL if owner else 0 for owner in islice(owners, start, None))


# -- soundness --------------------------------------------------------------------------------------------------------


def divides(offsets: array[int], blob_bytes: int) -> bool:
    """Whether offsets begin at 0, never fall, and end at the end of their blob."""
    if not offsets or offsets[0] != 0 or offsets[-1] != blob_bytes:
        return False
    return not any(map(gt, offsets, islice(offsets, 1, None)))


_PLAIN_BYTES = bytes(range(0x20, 0x7F))
# path.validate on UTF-8: controls, C1 controls, surrogates and private use, U+FFF0 to U+FFFF, beyond the BMP.
_REFUSED = re.compile(
    rb"[\x00-\x1f\x7f\xf0-\xff]|\xc2[\x80-\x9f]|\xed[\xa0-\xbf]|\xee|\xef[\x80-\xa3]|\xef\xbf[\xb0-\xbf]"
)
_CHECK_NODES = 4096  # nodes whose paths are decoded at a time, to bound the memory of the check


def first_refused(blob: bytes, offsets: array[int]) -> int:
    """The first node whose path has a character or a component that `path.validate` refuses; -1 if none has.

    Empty components are left to `shape`. Whole stretches are looked at with C-speed scans. Paths begin with "/", or
    `shape` refuses them, so "/./" in a stretch is a relative component of some path in it.
    """
    count = len(offsets) - 1
    for first in range(0, count, _CHECK_NODES):
        last = min(first + _CHECK_NODES, count)
        if not _is_legal(blob[offsets[first] : offsets[last]]):
            for index in range(first, last):
                if not _is_legal(blob[offsets[index] : offsets[index + 1]]):
                    return index
    return -1


def _is_legal(stretch: bytes) -> bool:
    fenced = stretch + b"/"
    if b"/./" in fenced or b"/../" in fenced:
        return False
    if not stretch.translate(None, _PLAIN_BYTES):
        return True
    try:
        stretch.decode()
    except UnicodeDecodeError:
        return False
    return _REFUSED.search(stretch) is None


def shape(blob: bytes, offsets: array[int]) -> tuple[array[int], array[int], int, int]:
    """(parents, ends, fault, node) of paths in tree order.

    The open nodes are the ancestors of the node before, so a parent that exists is among them; names that ascend
    under each parent are then the same as tree order.
    """
    count = len(offsets) - 1
    parents = array("i", bytes(4 * count))
    ends = array("i", bytes(4 * count))
    open_paths: list[bytes] = []
    open_nodes: list[int] = []
    last_names: list[bytes] = []
    for index in range(count):
        path = blob[offsets[index] : offsets[index + 1]]
        head, slash, name = path.rpartition(b"/")
        if not slash or (not name and path != b"/") or (not name and index):
            return parents, ends, NOT_A_PATH, index
        head = head or b"/"
        if index:
            while open_paths and open_paths[-1] != head:
                ends[open_nodes.pop()] = index
                open_paths.pop()
                last_names.pop()
            if not open_paths:
                return parents, ends, ORPHAN, index
            if name <= last_names[-1]:
                return parents, ends, TWICE if name == last_names[-1] else UNSORTED, index
            last_names[-1] = name
        parents[index] = open_nodes[-1] if index else -1
        open_paths.append(path)
        open_nodes.append(index)
        last_names.append(b"")
    for node in open_nodes:
        ends[node] = count
    return parents, ends, SOUND, -1


def first_unsound(
    acl_ids: array[int],
    acls: int,
    kinds: bytes,
    nulls: bytes,
    data_offsets: array[int],
    ttl_nodes: Sequence[int],
    owners: array[int],
    ends: array[int],
) -> tuple[int, int]:
    """(fault, node) of values that have no meaning, or not together; node -1 where a column as a whole is at fault.

    Columns are of one length, `ttl_nodes` ascend, `ends` are those of `shape`.
    """
    if max(acl_ids) >= acls:
        return ACL_UNKNOWN, -1
    if kinds.translate(None, _KIND_BYTES) or nulls.translate(None, b"\0\1"):
        return MARKER_UNKNOWN, -1
    if kinds.count(_KIND_TTL) != len(ttl_nodes) or any(
        not 0 <= node < len(kinds) or kinds[node] != _KIND_TTL for node in ttl_nodes
    ):
        return TTL_MISPLACED, -1
    for node, (kind, owner) in enumerate(zip(kinds, owners, strict=True)):
        if (kind == _KIND_EPHEMERAL) != (owner != 0):
            return OWNER_MISPLACED, node
        if owner and ends[node] != node + 1:
            return EPHEMERAL_PARENT, node
    node = nulls.find(1)
    while node >= 0:
        if data_offsets[node] != data_offsets[node + 1]:
            return NULL_WITH_DATA, node
        node = nulls.find(1, node + 1)
    return SOUND, -1
