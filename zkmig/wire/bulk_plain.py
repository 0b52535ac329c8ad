"""Bulk reads on the wire in plain Python: requests encoded from columns of paths, replies decoded into columns.

This is the specification: zkmig/_fast/bulk.pyx must give the same bytes, the same columns, and the same error at the
same offset. Nothing is appended to any column before the whole reply has proved to be sound.

Columns are those of `zkmig.model.staging`: blobs with offsets of one entry more than nodes, and an array for each Stat
field. `nodes` are always indices into a column of paths. A refusal is (node, error code), for the caller to name.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Collection, Sequence

from zkmig.wire.jute import STAT_BYTES, Decoder, JuteError

Bytes = bytes | bytearray | memoryview
Refusal = tuple[int, int]

OP_GET_DATA = 4
OP_GET_ACL = 6
OP_GET_CHILDREN = 8
OP_MULTI_READ = 22
OP_ERROR = -1
NO_NODE = -101
SESSION_EXPIRED = -112

REPLY_HEADER_BYTES = 16
REPLY_BYTES_MAX = 2**30  # as in wire.session

MULTI_OVERHEAD = 17  # bytes of a frame beside its parts, its length prefix not counted

_PART = struct.Struct(">i?ii")  # type, done, error; length of the path
_LAST_PART = struct.Struct(">i?i").pack(-1, True, -1)
_HEAD = struct.Struct(">iii")  # length, xid, opcode
_ACL_HEAD = struct.Struct(">iiii")  # length, xid, opcode; length of the path
_FRAME_HEAD = struct.Struct(">iiqi")  # length, xid, zxid, error


# -- requests ---------------------------------------------------------------------------------------------------------


def fitting(offsets: array[int], nodes: array[int], request_bytes_max: int) -> int:
    """How many of `nodes`, from the first on, go into a multiRead of so many bytes; at least one, if there is one."""
    left = request_bytes_max - MULTI_OVERHEAD
    for count, node in enumerate(nodes):
        left -= _PART.size + 1 + offsets[node + 1] - offsets[node]
        if left < 0:
            return max(count, 1)
    return len(nodes)


def encode_reads(paths: Bytes, offsets: array[int], nodes: array[int], opcode: int, xid: int) -> bytes:
    """The frame of a multiRead that asks for getData or getChildren (opcode) of each node; length prefix included."""
    pieces: list[Bytes] = [b""]
    for node in nodes:
        path = paths[offsets[node] : offsets[node + 1]]
        pieces += (_PART.pack(opcode, False, -1, len(path)), path, b"\0")
    pieces.append(_LAST_PART)
    pieces[0] = _HEAD.pack(8 + sum(map(len, pieces)), xid, OP_MULTI_READ)
    return b"".join(pieces)


def encode_get_acls(paths: Bytes, offsets: array[int], nodes: array[int], xid: int) -> bytes:
    """A frame of getACL for each node, one after another; their xids ascend from `xid`."""
    pieces: list[Bytes] = []
    for count, node in enumerate(nodes):
        path = paths[offsets[node] : offsets[node + 1]]
        pieces += (_ACL_HEAD.pack(12 + len(path), xid + count, OP_GET_ACL, len(path)), path)
    return b"".join(pieces)


# -- replies ----------------------------------------------------------------------------------------------------------


def take_frames(received: Bytes, start: int, xid: int, count: int) -> tuple[int, int, int]:
    """How far replies to `count` requests, whose xids ascend from `xid`, have arrived whole and in order.

    Returns (where the next frame begins, frames taken, the largest zxid of them or 0). Stops in front of any frame that
    is something else: a watch event, a ping, a damaged length, the end of the session.
    """
    taken, zxid_last, end = 0, 0, len(received)
    while taken < count and end - start >= 4 + REPLY_HEADER_BYTES:
        length, frame_xid, zxid, error = _FRAME_HEAD.unpack_from(received, start)
        if not REPLY_HEADER_BYTES <= length <= REPLY_BYTES_MAX or frame_xid != xid + taken or error == SESSION_EXPIRED:
            break
        if length > end - start - 4:
            break
        start += 4 + length
        taken += 1
        zxid_last = max(zxid_last, zxid)
    return start, taken, zxid_last


def decode_data(
    frame: bytes,
    nodes: array[int],
    asked: tuple[Bytes, array[int]],
    columns: tuple[bytearray, array[int], bytearray, array[int], bytearray],
    stats: Sequence[array[int]],
    origins: array[int],
    error: Callable[[str, int], Exception],
) -> tuple[list[int], Refusal | None]:
    """Append what a multiRead of getData says of `nodes` of the column `asked`; (absent nodes, first refusal).

    columns: paths, their offsets, data, its offsets, nulls. stats: the eleven Stat columns. origins: which node each
    one that was appended is. Where a node was refused, nothing is appended. error: makes what is raised, from what and
    where.
    """
    decoder = Decoder(frame, REPLY_HEADER_BYTES)
    absent: list[int] = []
    refusal: Refusal | None = None
    found = []
    with _raising(error):
        for count, node in enumerate(nodes):
            code = _read_part_header(decoder, OP_GET_DATA, "getData", count, len(nodes))
            if code is None:
                found.append((node, decoder.read_buffer(), decoder.read_stat()))
            elif code == NO_NODE:
                absent.append(node)
            else:
                refusal = refusal or (node, code)
        _read_end(decoder)
    if refusal is not None:
        return absent, refusal
    asked_paths, asked_offsets = asked
    paths, path_offsets, data, data_offsets, nulls = columns
    for node, value, stat in found:
        paths += asked_paths[asked_offsets[node] : asked_offsets[node + 1]]
        path_offsets.append(len(paths))
        data += value or b""
        data_offsets.append(len(data))
        nulls.append(value is None)
        for column, field in zip(stats, stat, strict=True):
            column.append(field)
        origins.append(node)
    return absent, None


def decode_children(
    frame: bytes,
    nodes: array[int],
    asked: tuple[Bytes, array[int]],
    excluded: tuple[Collection[bytes], Collection[bytes]],
    columns: tuple[bytearray, array[int]],
    counts: array[int],
    error: Callable[[str, int], Exception],
) -> tuple[list[int], Refusal | None]:
    """Append the paths of the children that a multiRead of getChildren names; (absent nodes, first refusal).

    excluded: paths that are left out, and their parents. columns: paths and their offsets. counts: gets two entries for
    each node, how many children were appended and how many were left out; (0, 0) for an absent one.
    """
    decoder = Decoder(frame, REPLY_HEADER_BYTES)
    absent: list[int] = []
    refusal: Refusal | None = None
    left_out, left_out_parents = excluded
    asked_paths, asked_offsets = asked
    found: list[tuple[list[bytes], int]] = []
    with _raising(error):
        for count, node in enumerate(nodes):
            code = _read_part_header(decoder, OP_GET_CHILDREN, "getChildren", count, len(nodes))
            if code is None:
                parent = bytes(asked_paths[asked_offsets[node] : asked_offsets[node + 1]])
                head = b"/" if parent == b"/" else parent + b"/"
                children = [head + _read_name(decoder) for _ in range(decoder.read_count("strings", 4))]
                kept = children
                if parent in left_out_parents:
                    kept = [child for child in children if child not in left_out]
                found.append((kept, len(children) - len(kept)))
                continue
            found.append(([], 0))
            if code == NO_NODE:
                absent.append(node)
            else:
                refusal = refusal or (node, code)
        _read_end(decoder)
    if refusal is not None:
        return absent, refusal
    paths, offsets = columns
    for kept, dropped in found:
        for child in kept:
            paths += child
            offsets.append(len(paths))
        counts.extend((len(kept), dropped))
    return absent, None


def decode_acls(
    frames: bytes,
    nodes: array[int],
    pins: tuple[array[int], array[int]],
    acl_ids: array[int],
    known: dict[bytes, int],
    error: Callable[[str, int], Exception],
) -> tuple[list[int], list[int], Refusal | None, list[bytes]]:
    """Note the ACL of each of `nodes` that still is what it was: (absent, moved, first refusal, ACLs not seen before).

    frames: replies to getACL, length prefixes included, as `take_frames` delimits them. pins: columns of czxid and
    aversion; a node for which the reply has others has moved. acl_ids: the column that gets a position for each node.
    known: positions by encoded ACL; new ones are added, and returned in order. Where a node was refused, only that
    counts.
    """
    absent: list[int] = []
    moved: list[int] = []
    refusal: Refusal | None = None
    found: list[tuple[int, bytes]] = []
    start = 0
    with _raising(error):
        for count, node in enumerate(nodes):
            left = len(frames) - start - 4
            if left < REPLY_HEADER_BYTES:
                raise JuteError(f"{count} replies where {len(nodes)} are due", start)
            length, _, _, code = _FRAME_HEAD.unpack_from(frames, start)
            if not REPLY_HEADER_BYTES <= length <= left:
                raise JuteError(f"a frame of {length} bytes where {left} are left", start)
            decoder = Decoder(frames[start + 4 : start + 4 + length], REPLY_HEADER_BYTES)
            start += 4 + length
            if code == NO_NODE:
                absent.append(node)
            elif code:
                refusal = refusal or (node, code)
            else:
                _skip_acl(decoder)
                raw = decoder.buffer[REPLY_HEADER_BYTES : decoder.offset]
                stat = decoder.read_stat()
                decoder.expect_end()
                if (stat.czxid, stat.aversion) == (pins[0][node], pins[1][node]):
                    found.append((node, bytes(raw)))
                else:
                    moved.append(node)
        if start != len(frames):
            raise JuteError(f"{len(frames) - start} bytes left over", start)
    if refusal is not None:
        return absent, moved, refusal, []
    new: list[bytes] = []
    for node, raw in found:
        position = known.get(raw)
        if position is None:
            position = known[raw] = len(known)
            new.append(raw)
        acl_ids[node] = position
    return absent, moved, None, new


# -- what was read ----------------------------------------------------------------------------------------------------


def survey(stats: Sequence[array[int]], first: int) -> tuple[array[int], array[int], int]:
    """Of the nodes from `first` on: those that have children, those whose counter is odd, the newest change (or 0).

    A change is mzxid or pzxid. A counter is odd where cversion + numChildren is, which Apache ZooKeeper never shows.
    """
    _, mzxid, _, _, _, cversion, _, _, _, children, pzxid = stats
    nodes = range(first, len(mzxid))
    inner = array("i", (node for node in nodes if children[node]))
    odd = array("i", (node for node in nodes if (cversion[node] + children[node]) & 1))
    return inner, odd, max([0, *(max(mzxid[node], pzxid[node]) for node in nodes)])


# -- rescans ----------------------------------------------------------------------------------------------------------


def match_known(
    first: int,
    origins: array[int],
    stats: Sequence[array[int]],
    known_stats: Sequence[array[int]],
    acl_ids: array[int],
    known_acl_ids: array[int],
    acl_map: array[int],
) -> tuple[array[int], array[int]]:
    """What has to be read of nodes that an earlier scan knew: (nodes whose ACL moved, nodes whose child list moved).

    first: the first node to look at, all after it included. origins: the earlier scan's index of each. stats,
    known_stats: Stat columns now and then. acl_ids: gets the position that `acl_map` gives for the earlier one, where
    czxid and aversion are the same. A child list moved where czxid, cversion or pzxid did.
    """
    czxid, _, _, _, _, cversion, aversion, _, _, children, pzxid = stats
    known_czxid, _, _, _, _, known_cversion, known_aversion, _, _, _, known_pzxid = known_stats
    acls, lists = array("i"), array("i")
    for node in range(first, len(czxid)):
        origin = origins[node]
        is_same = czxid[node] == known_czxid[origin]
        if is_same and aversion[node] == known_aversion[origin]:
            acl_ids[node] = acl_map[known_acl_ids[origin]]
        else:
            acls.append(node)
        is_listed = is_same and pzxid[node] == known_pzxid[origin] and cversion[node] == known_cversion[origin]
        if not is_listed and children[node]:
            lists.append(node)
    return acls, lists


def miscounted(parents: array[int], num_children: array[int]) -> array[int]:
    """Nodes that have another number of children in the columns than their Stat says."""
    counts = array("i", bytes(4 * len(num_children)))
    for parent in parents:
        if parent >= 0:
            counts[parent] += 1
    return array("i", (node for node, count in enumerate(counts) if count != num_children[node]))


# -- inside -----------------------------------------------------------------------------------------------------------


class _raising:
    """Turns a JuteError into what the caller wants to have raised."""

    def __init__(self, error: Callable[[str, int], Exception]) -> None:
        self._error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> None:
        if isinstance(raised, JuteError):
            raise self._error(raised.what, raised.offset) from None


def _read_part_header(decoder: Decoder, opcode: int, operation: str, count: int, total: int) -> int | None:
    """The error code of a part that failed; None in front of a result."""
    offset = decoder.offset
    kind, done, _ = decoder.read_multi_header()
    if done:
        raise JuteError(f"reply to {total} parts ends after {count}", offset)
    if kind == OP_ERROR:
        return decoder.read_int()
    if kind != opcode:
        raise JuteError(f"part of type {kind} answers {operation}", offset)
    return None


def _read_end(decoder: Decoder) -> None:
    offset = decoder.offset
    if not decoder.read_multi_header()[1]:
        raise JuteError("reply has more parts than the request", offset)
    decoder.expect_end()


def _read_name(decoder: Decoder) -> bytes:
    offset = decoder.offset
    name = decoder.read_buffer()
    if not name or b"/" in name:
        raise JuteError("a child's name is null, empty or holds a slash", offset)
    return name


def _skip_acl(decoder: Decoder) -> None:
    # A count and so many entries of perms, scheme and id; what they hold is decoded once for each ACL that is new.
    for _ in range(decoder.read_count("ACL entries", 12)):
        decoder.read_int()
        for _ in range(2):
            offset = decoder.offset
            if decoder.read_buffer() is None:
                raise JuteError("string of -1 bytes", offset)


__all__ = [
    "REPLY_BYTES_MAX",
    "STAT_BYTES",
    "decode_acls",
    "decode_children",
    "decode_data",
    "encode_get_acls",
    "encode_reads",
    "fitting",
    "match_known",
    "miscounted",
    "survey",
    "take_frames",
]
