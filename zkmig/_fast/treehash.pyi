"""Tree hash over columns, compiled; zkmig/treehash_plain.py is the specification."""

from array import array

def blake2b(data: bytes, person: bytes, piece_bytes: int) -> bytes: ...
def hash_columns(
    paths_blob: bytes,
    path_offsets: array[int],
    ends: array[int],
    data_blob: bytes,
    data_offsets: array[int],
    nulls: bytes,
    kinds: bytes,
    ttl_nodes: array[int],
    ttl_values: array[int],
    acl_ids: array[int],
    acl_blob: bytes,
    acl_offsets: array[int],
    cversions: array[int],
    nums_children: array[int],
    still_first: int,
    still_end: int,
) -> tuple[bytes, bytes]: ...
