"""Creates over columns, compiled; zkmig/plan/creates_plain.py, wire/packed.py and epoch/created.py specify it."""

from array import array
from collections.abc import Mapping

def relocate(
    blob: bytes, offsets: array[int], nodes: array[int], strip: int, prefix: bytes
) -> tuple[bytes, array[int]]: ...
def gather(blob: bytes, offsets: array[int], nodes: array[int]) -> tuple[bytes, array[int]]: ...
def create_sizes(
    path_offsets: array[int], data_offsets: array[int], acl_ids: array[int], acl_offsets: array[int], kinds: bytes
) -> array[int]: ...
def encode_creates(
    paths_blob: bytes,
    path_offsets: array[int],
    data_blob: bytes,
    data_offsets: array[int],
    nulls: bytes,
    acl_ids: array[int],
    acl_blob: bytes,
    acl_offsets: array[int],
    kinds: bytes,
    ttls: Mapping[int, int],
    start: int,
    stop: int,
) -> bytes: ...
def all_applied(reply: bytes, position: int, opcodes: bytes) -> bool: ...
def pack_created(
    paths_blob: bytes, path_offsets: array[int], nodes: array[int], batches: array[int], payload_bytes_max: int
) -> list[bytes]: ...
