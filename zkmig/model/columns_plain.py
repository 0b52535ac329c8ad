"""Columns in another order, their pieces, shape and soundness in plain Python: what zkmig/_fast/columns.pyx must equal.

Functions over blobs, offsets and arrays that know no errors of ours: what is amiss comes back as a fault and the node
it is about, and `zkmig.model.columns` makes the message. Columns that do not fit together raise ValueError.
"""

from __future__ import annotations

import re
from array import array
from io import BytesIO
from itertools import accumulate, islice
from operator import gt, sub

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

_LENGTH_MAX = 0x7FFFFFFF
_KIND_TTL = 2
_KIND_EPHEMERAL = 3
_KIND_BYTES = bytes(range(4))

# -- another order ----------------------------------------------------------------------------------------------------

_COPY_NODES = 1 << 14  # slices of a blob held at a time while it is reordered


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


# -- pieces of columns ------------------------------------------------------------------------------------------------


def shifted(column: array[int], start: int, stop: int, by: int) -> array[int]:
    """column[start:stop], each with `by` added, which may be below zero. Of type Q or i; no value may leave it."""
    _demand_range(len(column), start, stop)
    return array(column.typecode, (value + by for value in islice(column, start, stop)))


def translated(ids: array[int], start: int, stop: int, table: array[int]) -> array[int]:
    """table[id] for each of ids[start:stop]."""
    _demand_range(len(ids), start, stop)
    if max(islice(ids, start, stop), default=-1) >= len(table):
        raise ValueError("an id outside the table")
    return array("I", map(table.__getitem__, islice(ids, start, stop)))


def kinds_of(owners: array[int], start: int) -> bytes:
    """Ephemeral where a session owns the node, else persistent, from `start` on."""
    _demand_range(len(owners), start, len(owners))
    return bytes(_KIND_EPHEMERAL if owner else 0 for owner in islice(owners, start, None))


def lengths(offsets: array[int], nulls: Blob, start: int, stop: int) -> array[int]:
    """Bytes of each of the slices from `start` to `stop`; -1 for a null one. nulls may be empty: then none is."""
    _demand_range(len(offsets) - 1, start, stop)
    if nulls:
        _demand_range(len(nulls), start, stop)
    sizes = list(map(sub, islice(offsets, start + 1, stop + 1), islice(offsets, start, stop)))
    if sizes and not 0 <= min(sizes) <= max(sizes) <= _LENGTH_MAX:
        raise ValueError("a length out of range")
    for node in range(start, stop) if any(nulls[start:stop]) else ():
        if nulls[node]:
            sizes[node - start] = -1
    return array("i", sizes)


def cuts(lengths: array[int], first: int) -> tuple[array[int], bytes]:
    """The inverse: where each slice ends if the first begins at `first`, and 1 for each that is null."""
    if lengths and min(lengths) < -1:
        raise ValueError("a length below -1")
    ends = accumulate((max(length, 0) for length in lengths), initial=first)
    return array("Q", islice(ends, 1, None)), bytes(length < 0 for length in lengths)


def _demand_range(count: int, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= count:
        raise ValueError("a range outside the column")


# -- soundness --------------------------------------------------------------------------------------------------------


def divides(offsets: array[int], blob_bytes: int) -> bool:
    """Whether offsets begin at 0, never fall, and end at the end of their blob."""
    if not offsets or offsets[0] != 0 or offsets[-1] != blob_bytes:
        return False
    return not any(map(gt, offsets, islice(offsets, 1, None)))


def demand_division(offsets: array[int], blob_bytes: int) -> None:
    """Raise ValueError unless they divide."""
    if not divides(offsets, blob_bytes):
        raise ValueError("offsets do not divide their bytes")


_PLAIN_BYTES = bytes(range(0x20, 0x7F))
# path.validate on UTF-8: controls, C1 controls, surrogates and private use, U+FFF0 to U+FFFF, beyond the BMP.
_REFUSED = re.compile(
    rb"[\x00-\x1f\x7f\xf0-\xff]|\xc2[\x80-\x9f]|\xed[\xa0-\xbf]|\xee|\xef[\x80-\xa3]|\xef\xbf[\xb0-\xbf]"
)
_CHECK_NODES = 4096  # nodes whose paths are looked at together


def first_refused(blob: bytes, offsets: array[int]) -> int:
    """The first node whose path has a character or a component that `path.validate` refuses; -1 if none has.

    Empty components are left to `shape`.
    """
    demand_division(offsets, len(blob))
    count = len(offsets) - 1
    for first in range(0, count, _CHECK_NODES):
        last = min(first + _CHECK_NODES, count)
        stretch = blob[offsets[first] : offsets[last]]
        # Two scans at the speed of C spare most stretches a look at each path.
        if b"/." in stretch or stretch.translate(None, _PLAIN_BYTES):
            for index in range(first, last):
                if not _is_legal(blob[offsets[index] : offsets[index + 1]]):
                    return index
    return -1


def _is_legal(path: bytes) -> bool:
    fenced = path + b"/"
    if b"/./" in fenced or b"/../" in fenced:
        return False
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return _REFUSED.search(path) is None


def shape(blob: bytes, offsets: array[int]) -> tuple[array[int], array[int], int, int]:
    """(parents, ends, fault, node) of paths in tree order.

    The open nodes are the ancestors of the node before, so a parent that exists is among them; names that ascend
    under each parent are then the same as tree order.
    """
    demand_division(offsets, len(blob))
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
    ttl_nodes: array[int],
    owners: array[int],
    ends: array[int],
) -> tuple[int, int]:
    """(fault, node) of values that have no meaning, or not together; node -1 where a column as a whole is at fault.

    `ttl_nodes` ascend, `ends` are those of `shape`.
    """
    per_node = (acl_ids, nulls, data_offsets[1:], owners, ends)
    if not kinds or any(len(column) != len(kinds) for column in per_node):
        raise ValueError("columns are not of one length, or hold no node")
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
