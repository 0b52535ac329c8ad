from array import array
from collections.abc import Callable, Collection, Sequence

Bytes = bytes | bytearray | memoryview
Refusal = tuple[int, int]
Error = Callable[[str, int], Exception]

def fitting(offsets: array[int], nodes: array[int], request_bytes_max: int) -> int: ...
def encode_reads(paths: Bytes, offsets: array[int], nodes: array[int], opcode: int, xid: int) -> bytes: ...
def encode_get_acls(paths: Bytes, offsets: array[int], nodes: array[int], xid: int) -> bytes: ...
def take_frames(received: Bytes, start: int, xid: int, count: int) -> tuple[int, int, int]: ...
def decode_data(
    frame: bytes,
    nodes: array[int],
    asked: tuple[Bytes, array[int]],
    columns: tuple[bytearray, array[int], bytearray, array[int], bytearray],
    stats: Sequence[array[int]],
    origins: array[int],
    error: Error,
) -> tuple[list[int], Refusal | None]: ...
def decode_children(
    frame: bytes,
    nodes: array[int],
    asked: tuple[Bytes, array[int]],
    excluded: tuple[Collection[bytes], Collection[bytes]],
    columns: tuple[bytearray, array[int]],
    counts: array[int],
    error: Error,
) -> tuple[list[int], Refusal | None]: ...
def decode_acls(
    frames: bytes,
    nodes: array[int],
    pins: tuple[array[int], array[int]],
    acl_ids: array[int],
    known: dict[bytes, int],
    error: Error,
) -> tuple[list[int], list[int], Refusal | None, list[bytes]]: ...
def survey(stats: Sequence[array[int]], first: int) -> tuple[array[int], array[int], int]: ...
def match_known(
    first: int,
    origins: array[int],
    stats: Sequence[array[int]],
    known_stats: Sequence[array[int]],
    acl_ids: array[int],
    known_acl_ids: array[int],
    acl_map: array[int],
) -> tuple[array[int], array[int]]: ...
def miscounted(parents: array[int], num_children: array[int]) -> array[int]: ...
