"""Paths that an attempt creates, as columns: their undo is nothing but their names, yet there may be a million of them.

They are the first entries of a journal, in the order of the plan. `pack_created` is the specification of the compiled
function of that name in zkmig/_fast/encode.pyx.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import msgpack

from zkmig import backend
from zkmig.model.acl import Identity

ACTION = "created"  # journal.Action.CREATED
_FIXED_BYTES = 11  # of an entry: array head, tag, action
_NUMBER_BYTES_MAX = 5
_KIND_BYTES = 18  # array head, tag, position, kind, milliseconds
_PERSISTENT = b"\0"  # Kind.PERSISTENT


@dataclass(frozen=True, slots=True, eq=False)
class Created:
    """n paths. batches: which one creates each. groups: who may read the name of each, as a position in group_table.
    kinds: Kind values, b"" where all are persistent; ttls: milliseconds by index, of those of kind TTL."""

    paths_blob: bytes
    path_offsets: array[int]  # Q, n + 1
    batches: array[int]  # i
    groups: array[int]  # I
    group_table: tuple[frozenset[Identity], ...]
    kinds: bytes = b""
    ttls: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.batches)

    def payloads(self, payload_bytes_max: int) -> Iterator[tuple[frozenset[Identity], bytes]]:
        """The entries cut into payloads, each of one group."""
        kinds_differ = bool(self.kinds.strip(_PERSISTENT))
        for group, nodes in zip(self.group_table, self._nodes_by_group(), strict=True):
            for payload in _packer()(self.paths_blob, self.path_offsets, nodes, self.batches, payload_bytes_max):
                yield group, payload
            if kinds_differ:
                for payload in self._kind_payloads(nodes, payload_bytes_max):
                    yield group, payload

    def _nodes_by_group(self) -> list[array[int]]:
        """In one pass: each user may be a group of their own."""
        if len(self.group_table) == 1:
            return [array("i", range(len(self)))]
        found = [array("i") for _ in self.group_table]
        for node, group in enumerate(self.groups):
            found[group].append(node)
        return found

    def _kind_payloads(self, nodes: Iterable[int], payload_bytes_max: int) -> Iterator[bytes]:
        """Of those that are not persistent, which is what an entry means that nothing else is said of."""
        items = [pack_kind(node, self.kinds[node], self.ttls.get(node, 0)) for node in nodes if self.kinds[node]]
        count = max(1, payload_bytes_max // _KIND_BYTES)
        for start in range(0, len(items), count):
            yield b"".join(items[start : start + count])


def pack_kind(position: int, kind: int, ttl_ms: int) -> bytes:
    """The item that tells of an entry as what its node is created."""
    packed: bytes = msgpack.packb(["k", position, kind, ttl_ms])
    return packed


def kind_sizes(kinds: bytes) -> int:
    """What these items take in all, at most."""
    return _KIND_BYTES * (len(kinds) - kinds.count(0))


def created_sizes(path_offsets: array[int]) -> list[int]:
    """What `journal.entry_bytes` gives for the entry of each path."""
    lengths = [end - start for start, end in pairwise(path_offsets)]
    fixed = _FIXED_BYTES + _NUMBER_BYTES_MAX + 1
    return [fixed + size + (1 if size < 32 else 2 if size < 0x100 else 3 if size < 0x10000 else 5) for size in lengths]


def pack_created(
    paths_blob: bytes, path_offsets: Sequence[int], nodes: Sequence[int], batches: Sequence[int], payload_bytes_max: int
) -> list[bytes]:
    """Journal entries of these nodes, cut into payloads; one entry alone may exceed the maximum."""
    payloads: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    if len(batches) < len(path_offsets) - 1:
        raise ValueError("columns are not of one length")
    for node in nodes:
        if not 0 <= node < len(path_offsets) - 1:
            raise ValueError(f"node {node} of {len(path_offsets) - 1}")
        first, last = path_offsets[node], path_offsets[node + 1]
        if not first <= last <= len(paths_blob):
            raise ValueError(f"offsets {first} and {last} in {len(paths_blob)} bytes")
        if batches[node] < 0:
            raise ValueError(f"node {node} is in batch {batches[node]}")
        path = paths_blob[first:last].decode(errors="surrogateescape")
        packed = msgpack.packb(["e", node, ACTION, path, batches[node]], unicode_errors="surrogateescape")
        if size and size + len(packed) > payload_bytes_max:
            payloads.append(b"".join(waiting))
            waiting, size = [], 0
        waiting.append(packed)
        size += len(packed)
    if waiting:
        payloads.append(b"".join(waiting))
    return payloads


@cache
def _packer() -> Callable[..., list[bytes]]:
    if backend.name() == "cython":
        from zkmig._fast import encode as compiled

        packer: Callable[..., list[bytes]] = compiled.pack_created
        return packer
    return pack_created
