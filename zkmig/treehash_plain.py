"""Tree hash over columns, in plain Python: the specification that zkmig/_fast/treehash.pyx must equal.

docs/treehash.md defines the hashes. Children follow their parent in tree order, so one pass from the last node to
the first meets every child before its parent, and recursion is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from struct import Struct

TREE_PERSON = b"zkmig.tree.v1"
COUNTER_PERSON = b"zkmig.count.v1"
NOTHING = bytes(32)  # stands for a node that is left out; no input is known that hashes to it

_TTL = 2
_EPHEMERAL = 3
_KINDS = 4
_KIND = tuple(bytes((kind,)) for kind in range(_KINDS))
_INT = Struct(">i").pack
_UINT = Struct(">I").pack
_LONG = Struct(">q").pack


def hash_columns(
    paths_blob: bytes,
    path_offsets: Sequence[int],
    ends: Sequence[int],
    data_blob: bytes,
    data_offsets: Sequence[int],
    nulls: bytes,
    kinds: bytes,
    ttl_nodes: Sequence[int],
    ttl_values: Sequence[int],
    acl_ids: Sequence[int],
    acl_blob: bytes,
    acl_offsets: Sequence[int],
    cversions: Sequence[int],
    nums_children: Sequence[int],
    still_first: int,
    still_end: int,
) -> tuple[bytes, bytes]:
    """(tree hashes, counter hashes) of n nodes in tree order, 32 bytes a node; NOTHING where a node is left out.

    The columns are those of `zkmig.model.columns.Columns`; ttl_nodes ascend; acl_blob holds ACLs as jute lays them
    out, cut by acl_offsets. Counters of nodes in [still_first, still_end), and of "/", count as 0. Columns that do
    not fit together raise ValueError naming the node.
    """
    count = len(kinds)
    per_node = (ends, nulls, acl_ids, cversions, nums_children)
    if any(len(column) != count for column in per_node) or len(ttl_nodes) != len(ttl_values):
        raise ValueError("columns are not of one length")
    _check_offsets("path", path_offsets, count, len(paths_blob))
    _check_offsets("data", data_offsets, count, len(data_blob))
    _check_offsets("ACL", acl_offsets, max(len(acl_offsets) - 1, 0), len(acl_blob))

    trees, counters = _Hashes(TREE_PERSON, count), _Hashes(COUNTER_PERSON, count)
    acls = [acl_blob[start:end] for start, end in pairwise(acl_offsets)]
    ttls = list(zip(ttl_nodes, ttl_values, strict=True))
    for node in range(count - 1, -1, -1):
        kind = kinds[node]
        if not node < ends[node] <= count:
            raise ValueError(f"end of node {node} is out of range")
        if kind >= _KINDS:
            raise ValueError(f"kind of node {node} is unknown")
        if acl_ids[node] >= len(acls):
            raise ValueError(f"ACL of node {node} is out of range")
        if kind == _EPHEMERAL:
            continue
        children = list(_children(node, paths_blob, path_offsets, ends, kinds)) if ends[node] > node + 1 else []
        head = _KIND[kind]
        if kind == _TTL:
            ttl_node, ttl_value = ttls.pop() if ttls else (-1, 0)
            if ttl_node != node:
                raise ValueError(f"time to live of node {node} is missing")
            head += _LONG(ttl_value)
        if nulls[node]:
            head += _INT(-1)
        else:
            data = data_blob[data_offsets[node] : data_offsets[node + 1]]
            head += _INT(len(data)) + data
        trees.put(node, head + acls[acl_ids[node]], children)

        counter = (cversions[node] + nums_children[node]) >> 1
        if path_offsets[node + 1] - path_offsets[node] == 1 or still_first <= node < still_end:
            counter = 0
        risen = [(child, name) for child, name in children if counters.at(child) != NOTHING]
        if counter or risen:
            counters.put(node, _LONG(counter), risen)
    return bytes(trees.column), bytes(counters.column)


class _Hashes:
    """One column of hashes while it is filled."""

    def __init__(self, person: bytes, count: int) -> None:
        self.column = bytearray(32 * count)
        self._start = blake2b(digest_size=32, person=person)

    def at(self, node: int) -> bytearray:
        return self.column[32 * node : 32 * node + 32]

    def put(self, node: int, own: bytes, children: Sequence[tuple[int, bytes]]) -> None:
        """Hash a node of what is its own and of its (child, name) pairs."""
        pieces: list[bytes | bytearray] = [own, _UINT(len(children))]
        for child, name in children:
            pieces += (_UINT(len(name)), name, self.at(child))
        state = self._start.copy()
        state.update(b"".join(pieces))
        self.column[32 * node : 32 * node + 32] = state.digest()


def _children(
    node: int, paths_blob: bytes, path_offsets: Sequence[int], ends: Sequence[int], kinds: bytes
) -> Iterator[tuple[int, bytes]]:
    """(index, name) of the children that count."""
    path_bytes = path_offsets[node + 1] - path_offsets[node]
    name_start = 1 if path_bytes == 1 else path_bytes + 1  # the path "/" alone ends with its separator
    child, end = node + 1, ends[node]
    while child < end:
        if ends[child] > end:
            raise ValueError(f"end of node {child} is out of range")
        if kinds[child] != _EPHEMERAL:
            name = paths_blob[path_offsets[child] + name_start : path_offsets[child + 1]]
            if not name:
                raise ValueError(f"path of node {child} is not below its parent's")
            yield child, name
        child = ends[child]


def _check_offsets(what: str, offsets: Sequence[int], count: int, blob_bytes: int) -> None:
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[count] != blob_bytes:
        raise ValueError(f"{what} offsets do not divide their bytes")
    for position in range(count):
        if not 0 <= offsets[position + 1] - offsets[position] <= 0x7FFFFFFF:
            raise ValueError(f"{what} {position} has a length out of range")
