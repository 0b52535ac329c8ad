"""The snapshot file (.zks): a sealed file whose blocks are runs of a snapshot's columns.

    header   a map: nodes, scope, provenance, consistency (as the model names their fields)
    acls     any number of {"acls": [[[perms, scheme, id], ...], ...]}, in the order of acl_ids
    nodes    {"paths", "path_lengths" u32, "data", "data_lengths" i32 (-1 null), "acl_ids" u32, "kinds" u8,
             "ttl_nodes" u32 (within the block), "ttl_values" i64, and the eleven Stat fields, i64 or i32}
    trailer  {"nodes", "tree_hash", "counter_hash"}

Columns are binary strings of little-endian integers. Nodes are in tree order; parents follow from the paths.
Written and read block by block, so that memory stays within a block of the snapshot's own.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from typing import Any, BinaryIO

from zkmig import sealed
from zkmig.errors import BadInput, DamagedFile
from zkmig.model import twins
from zkmig.model.acl import AclList, acl_of_plain
from zkmig.model.columns import STAT_TYPECODES, Columns, StatColumns
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot

FORMAT = sealed.Format(b"zksnap\0", 1, "snapshot file", "zkmig snapshot")

NODES_PER_BLOCK = 1 << 13
BYTES_PER_BLOCK = 1 << 20  # of paths and data, so that a block stays in the cache; a single node may exceed it
ACLS_PER_BLOCK = 1 << 12


def is_zks(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a snapshot file, by its magic; its name does not matter."""
    return sealed.is_of(FORMAT, path)


def write(snapshot: Snapshot, path: str | os.PathLike[str], force: bool = False) -> None:
    """Write `snapshot` to `path`: complete, readable by its owner alone, or not at all.

    Computes the hashes if they are not known yet. Raises BadInput if the file exists (unless `force`) or cannot be
    written.
    """
    with sealed.create(path, FORMAT, force) as writer:
        _put(snapshot, writer)


def write_into(snapshot: Snapshot, file: BinaryIO) -> None:
    """The same into a file that is open: an OSError of it goes through."""
    _put(snapshot, sealed.Writer(file, FORMAT))


def _put(snapshot: Snapshot, writer: sealed.Writer) -> None:
    columns = snapshot.columns
    writer.block(
        {
            "nodes": len(columns),
            "scope": asdict(snapshot.scope),
            "provenance": asdict(snapshot.provenance),
            "consistency": asdict(snapshot.consistency),
        }
    )
    for first in range(0, len(columns.acl_table), ACLS_PER_BLOCK):
        writer.block({"acls": columns.acl_table[first : first + ACLS_PER_BLOCK]})
    for first, last in _runs(columns):
        writer.block(_encode_run(columns, first, last))
    writer.block({"nodes": len(columns), "tree_hash": snapshot.tree_hash, "counter_hash": snapshot.counter_hash})
    writer.seal()


def read(path: str | os.PathLike[str], verify_hash: bool = True) -> Snapshot:
    """The whole snapshot, or an error: BadInput if there is no such file, DamagedFile if anything in it is amiss.

    verify_hash: compute the hashes and compare them with those in the file. The seal alone proves that the file is as
    it was written; this proves in addition that it was written, and is read, as docs/treehash.md says. The result
    stays on the snapshot, where diff, plan and verify need it anyway.
    """
    return _taken(sealed.read(path, FORMAT), os.fspath(path), verify_hash)


def read_from(file: BinaryIO, shown: str, verify_hash: bool = True) -> Snapshot:
    """The same of a file that is open, from where it stands; shown: what messages call it."""
    return _taken(sealed.read_from(file, shown, FORMAT), shown, verify_hash)


def _taken(blocks: Iterator[sealed.Block], shown: str, verify_hash: bool) -> Snapshot:
    offset = 0
    loader = _Loader()
    for offset, value in blocks:
        with _blamed_on(shown, offset):
            loader.take(value)
    with _blamed_on(shown, offset):
        return loader.finish(verify_hash)


@contextmanager
def _blamed_on(shown: str, offset: int) -> Iterator[None]:
    """Errors of content that is sealed but makes no sense, told as damage at `offset`."""
    try:
        yield
    except BadInput as error:
        raise DamagedFile(f"not a sound tree ({error.where or 'columns'}: {error.what})", shown, offset) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedFile(f"not what zkmig writes ({error})", shown, offset) from error


# -- writing ----------------------------------------------------------------------------------------------------------


def _runs(columns: Columns) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the nodes of each block."""
    count = len(columns)
    first = 0
    while first < count:
        start = columns.path_offsets[first] + columns.data_offsets[first]
        last = bisect_right(
            range(first + 1, min(first + NODES_PER_BLOCK, count)),
            start + BYTES_PER_BLOCK,
            key=lambda node: columns.path_offsets[node + 1] + columns.data_offsets[node + 1],
        )
        last += first + 1
        yield first, last
        first = last


def _encode_run(columns: Columns, first: int, last: int) -> dict[str, bytes]:
    nodes = slice(first, last)
    lengths = twins.columns().lengths
    ttl_nodes = sorted(node for node in columns.ttls if first <= node < last) if columns.ttls else []
    return {
        "paths": columns.paths_blob[columns.path_offsets[first] : columns.path_offsets[last]],
        "path_lengths": _little_endian(lengths(columns.path_offsets, b"", first, last)),
        "data": columns.data_blob[columns.data_offsets[first] : columns.data_offsets[last]],
        "data_lengths": _little_endian(lengths(columns.data_offsets, columns.nulls, first, last)),
        "acl_ids": _little_endian(columns.acl_ids[nodes]),
        "kinds": columns.kinds[nodes],
        "ttl_nodes": _little_endian(array("I", (node - first for node in ttl_nodes))),
        "ttl_values": _little_endian(array("q", (columns.ttls[node] for node in ttl_nodes))),
        **{
            name: _little_endian(column[nodes]) for name, column in zip(StatColumns._fields, columns.stats, strict=True)
        },
    }


def _little_endian(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


# -- reading ----------------------------------------------------------------------------------------------------------


class _Loader:
    """Columns while they are read, block by block."""

    def __init__(self) -> None:
        self._header: dict[str, Any] | None = None
        self._trailer: dict[str, Any] | None = None
        self._acl_table: list[AclList] = []
        self._paths = BytesIO()
        self._path_offsets = array("Q", (0,))
        self._data = BytesIO()
        self._data_offsets = array("Q", (0,))
        self._nulls = bytearray()
        self._acl_ids = array("I")
        self._kinds = bytearray()
        self._ttls: dict[int, int] = {}
        self._stats = StatColumns.empty()

    def take(self, value: dict[str, Any]) -> None:
        """Take one block in; nothing may follow the trailer."""
        if self._trailer is not None:
            raise ValueError("a block after the trailer")
        if self._header is None:
            self._header = value
        elif "acls" in value:
            self._acl_table += map(acl_of_plain, value["acls"])
        elif "paths" in value:
            self._take_nodes(value)
        else:
            self._trailer = value

    def _take_nodes(self, run: dict[str, bytes]) -> None:
        first = len(self._kinds)
        self._take_blob(self._paths, self._path_offsets, run["paths"], run["path_lengths"])
        self._nulls += self._take_blob(self._data, self._data_offsets, run["data"], run["data_lengths"])
        self._acl_ids += _column("I", run["acl_ids"])
        self._kinds += run["kinds"]
        ttl_nodes, ttl_values = _column("I", run["ttl_nodes"]), _column("q", run["ttl_values"])
        self._ttls.update((first + node, ttl) for node, ttl in zip(ttl_nodes, ttl_values, strict=True))
        for name, typecode, column in zip(StatColumns._fields, STAT_TYPECODES, self._stats, strict=True):
            column.extend(_column(typecode, run[name]))

    def _take_blob(self, blob: BytesIO, offsets: array[int], content: bytes, lengths: bytes) -> bytes:
        """Append slices and where they end; returns which are null."""
        ends, nulls = twins.columns().cuts(_column("i", lengths), offsets[-1])
        blob.write(content)
        offsets += ends
        if offsets[-1] != blob.tell():
            raise ValueError("lengths do not divide their bytes")
        return nulls

    def finish(self, verify_hash: bool) -> Snapshot:
        """Check everything there is; a Snapshot, BadInput or ValueError."""
        header, trailer = self._header, self._trailer
        if header is None or trailer is None or not header["nodes"] == trailer["nodes"] == len(self._kinds):
            raise ValueError("blocks are missing")
        columns = Columns.checked(
            paths_blob=self._paths.getvalue(),
            path_offsets=self._path_offsets,
            data_blob=self._data.getvalue(),
            data_offsets=self._data_offsets,
            nulls=bytes(self._nulls),
            acl_ids=self._acl_ids,
            acl_table=tuple(self._acl_table),
            kinds=bytes(self._kinds),
            ttls=self._ttls,
            stats=self._stats,
        )
        scope, provenance = header["scope"], header["provenance"]
        snapshot = Snapshot(
            columns,
            Scope(scope["root"], tuple(scope["excludes"]), tuple(scope.get("includes", ()))),
            Provenance(**{**provenance, "hosts": tuple(provenance["hosts"])}),
            Consistency(**header["consistency"]),
        )
        stated = trailer["tree_hash"], trailer["counter_hash"]
        if verify_hash and stated != (snapshot.tree_hash, snapshot.counter_hash):
            raise ValueError("the nodes do not have the hash that the trailer states")
        return snapshot


def _column(typecode: str, packed: bytes) -> array[int]:
    column = array(typecode)
    column.frombytes(packed)
    if sys.byteorder == "big":
        column.byteswap()
    return column
