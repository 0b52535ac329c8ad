"""Creates over columns, in plain Python: the specification of zkmig/_fast/encode.pyx, equal in results and errors.

Columns are those of `zkmig.plan.creates.Creates`; offsets have one entry more than there are nodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from struct import Struct

from zkmig.wire import requests as rq

_INT = Struct(">i")
_LONG = Struct(">q")
_HEADER = Struct(">i?i")  # of a part of a multi: opcode, done, error
_NULL = _INT.pack(-1)

HEADER_BYTES = _HEADER.size
FIXED_BYTES = HEADER_BYTES + 12  # header, lengths of path and data, flags
OPCODES = (rq.OP_CREATE, rq.OP_CREATE_CONTAINER, rq.OP_CREATE_TTL)  # by Kind
FLAGS = (0, rq.FLAGS_CONTAINER, rq.FLAGS_TTL)
_KIND_TTL = 2


def relocate(
    blob: bytes, offsets: Sequence[int], nodes: Sequence[int], strip: int, prefix: bytes
) -> tuple[bytes, array[int]]:
    """Paths of `nodes`, their first `strip` bytes replaced by `prefix`, and their offsets.

    "/" as a whole counts as nothing, as in `model.path.relative_to`; nothing at all becomes "/".
    """
    pieces: list[bytes] = []
    for node in nodes:
        _check_node(node, len(offsets) - 1)
        piece = _slice(blob, offsets, node)[strip:]
        pieces.append(prefix + (b"" if piece == b"/" else piece) or b"/")
    return _joined(pieces)


def gather(blob: bytes, offsets: Sequence[int], nodes: Sequence[int]) -> tuple[bytes, array[int]]:
    """The slices of `nodes`, one after the other, and their offsets."""
    pieces: list[bytes] = []
    for node in nodes:
        _check_node(node, len(offsets) - 1)
        pieces.append(_slice(blob, offsets, node))
    return _joined(pieces)


def _joined(pieces: list[bytes]) -> tuple[bytes, array[int]]:
    offsets = array("Q", (0,))
    position = 0
    for piece in pieces:
        position += len(piece)
        offsets.append(position)
    return b"".join(pieces), offsets


def create_sizes(
    path_offsets: Sequence[int],
    data_offsets: Sequence[int],
    acl_ids: Sequence[int],
    acl_offsets: Sequence[int],
    kinds: bytes,
) -> array[int]:
    """Bytes that each create adds to a multi."""
    sizes = array("I")
    if len(acl_ids) != len(kinds) or min(len(path_offsets), len(data_offsets)) <= len(kinds):
        raise ValueError("columns are not of one length")
    for node, (acl_id, kind) in enumerate(zip(acl_ids, kinds, strict=True)):
        _check_create(node, acl_id, len(acl_offsets) - 1, kind)
        size = path_offsets[node + 1] - path_offsets[node] + data_offsets[node + 1] - data_offsets[node]
        acl_size = acl_offsets[acl_id + 1] - acl_offsets[acl_id]
        sizes.append(FIXED_BYTES + size + acl_size + (8 if kind == _KIND_TTL else 0))
    return sizes


def encode_creates(
    paths_blob: bytes,
    path_offsets: Sequence[int],
    data_blob: bytes,
    data_offsets: Sequence[int],
    nulls: bytes,
    acl_ids: Sequence[int],
    acl_blob: bytes,
    acl_offsets: Sequence[int],
    kinds: bytes,
    ttls: Mapping[int, int],
    start: int,
    stop: int,
) -> bytes:
    """The parts of a multi that create nodes start..stop-1: a header and a record each, without the closing header.

    acl_blob: ACL lists as jute lays them out. ttls: milliseconds, of nodes of kind TTL.
    """
    if not 0 <= start <= stop <= len(kinds):
        raise ValueError(f"creates {start} to {stop} of {len(kinds)}")
    if min(len(path_offsets) - 1, len(data_offsets) - 1, len(nulls), len(acl_ids)) < len(kinds):
        raise ValueError("columns are not of one length")
    for node in range(start, stop):
        _check_create(node, acl_ids[node], len(acl_offsets) - 1, kinds[node])
        _slice(paths_blob, path_offsets, node)
        _slice(data_blob, data_offsets, node)
        _slice(acl_blob, acl_offsets, acl_ids[node])
    parts: list[bytes] = []
    for node in range(start, stop):
        kind, acl_id = kinds[node], acl_ids[node]
        path, data = _slice(paths_blob, path_offsets, node), _slice(data_blob, data_offsets, node)
        parts += (
            _HEADER.pack(OPCODES[kind], False, -1),
            _INT.pack(len(path)),
            path,
            _NULL if nulls[node] else _INT.pack(len(data)),
            data,
            _slice(acl_blob, acl_offsets, acl_id),
            _INT.pack(FLAGS[kind]),
        )
        if kind == _KIND_TTL:
            parts.append(_LONG.pack(ttls[node]))
    return b"".join(parts)


def _slice(blob: bytes, offsets: Sequence[int], index: int) -> bytes:
    first, last = offsets[index], offsets[index + 1]
    if not first <= last <= len(blob):
        raise ValueError(f"offsets {first} and {last} in {len(blob)} bytes")
    return blob[first:last]


def _check_node(node: int, count: int) -> None:
    if not 0 <= node < count:
        raise ValueError(f"node {node} of {count}")


def _check_create(node: int, acl_id: int, acl_count: int, kind: int) -> None:
    if kind >= len(OPCODES):
        raise ValueError(f"create {node} is of kind {kind}")
    if acl_id >= acl_count:
        raise ValueError(f"create {node} has ACL {acl_id} of {acl_count}")
