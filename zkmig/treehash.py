"""Tree hash: what docs/treehash.md defines, for every node of a snapshot, by the backend in use.

A subtree's hash does not depend on where the subtree is, so equal hashes mean equal subtrees, also across roots.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from struct import pack
from typing import Any

from zkmig import backend, treehash_plain
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.snapshot import Hashes, Snapshot

HashColumns = Callable[..., tuple[bytes, bytes]]


def hashes(snapshot: Snapshot) -> Hashes:
    """Per-node hashes of `snapshot`, kept on it once computed."""
    if snapshot.hashes is None:
        snapshot.hashes = compute(snapshot, _backend())
    return snapshot.hashes


def compute(snapshot: Snapshot, hash_columns: HashColumns) -> Hashes:
    """Per-node hashes by the given backend's `hash_columns`."""
    return Hashes(*hash_columns(*column_arguments(snapshot)))


def column_arguments(snapshot: Snapshot) -> tuple[Any, ...]:
    """What `hash_columns` takes, from a snapshot's columns."""
    columns = snapshot.columns
    ttl_nodes = array("i", sorted(columns.ttls))
    ttl_values = array("q", (columns.ttls[node] for node in ttl_nodes))
    acl_blob, acl_offsets = encode_acls(columns.acl_table)
    still = _server_nodes(snapshot)
    return (
        columns.paths_blob,
        columns.path_offsets,
        columns.ends,
        columns.data_blob,
        columns.data_offsets,
        columns.nulls,
        columns.kinds,
        ttl_nodes,
        ttl_values,
        columns.acl_ids,
        acl_blob,
        acl_offsets,
        columns.stats.cversion,
        columns.stats.num_children,
        still.start,
        still.stop,
    )


def _server_nodes(snapshot: Snapshot) -> range:
    # The counters of "/" and of the server's own subtree are left alone [fact 34]; the backends see to "/" themselves.
    if paths.contains(paths.SYSTEM_ROOT, snapshot.root):
        return range(len(snapshot))
    return snapshot.subtree_indices(paths.SYSTEM_ROOT) if paths.SYSTEM_ROOT in snapshot else range(0)


def encode_acls(acl_table: Sequence[AclList]) -> tuple[bytes, array[int]]:
    """ACL lists as jute lays them out (count; perms, scheme, id of each entry, strings with their length)."""
    encoded = [_encode_acl(acl) for acl in acl_table]
    offsets = array("Q", (0,))
    for piece in encoded:
        offsets.append(offsets[-1] + len(piece))
    return b"".join(encoded), offsets


def _encode_acl(acl: AclList) -> bytes:
    entries = (pack(">i", entry.perms) + _string(entry.scheme) + _string(entry.id) for entry in acl)
    return pack(">i", len(acl)) + b"".join(entries)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return pack(">i", len(encoded)) + encoded


def _backend() -> HashColumns:
    if backend.name() == "cython":
        from zkmig._fast import treehash as compiled

        return compiled.hash_columns
    return treehash_plain.hash_columns
