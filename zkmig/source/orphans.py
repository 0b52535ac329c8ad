"""Orphans: znodes that a rescan has read, and whose parent was gone a moment later.

A rescan asks for all that an earlier snapshot knew at once, so a subtree may be cut while it is read. Nothing may hang
in the air: what is below a path that has vanished is left out, and settling looks for what became of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from itertools import islice

from zkmig.model.staging import Staging


def without_orphans(staging: Staging, vanished: Collection[str]) -> Staging:
    """The same nodes, less all that is below one of `vanished` which is not among them."""
    present = {bytes(staging.paths[start:stop]) for start, stop in _slices(staging.path_offsets)}
    gone = {path.encode() for path in vanished} - present
    orphans = {path for path in present if not gone.isdisjoint(_above(path))}
    return _without(staging, orphans) if orphans else staging


def _above(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path


def _without(staging: Staging, left_out: set[bytes]) -> Staging:
    """A copy without these paths. Its kinds are left to be told from the Stats, as those of any live read."""
    kept = Staging()
    kept.acl_table = staging.acl_table
    for node, (start, stop) in enumerate(_slices(staging.path_offsets)):
        path = staging.paths[start:stop]
        if bytes(path) in left_out:
            continue
        kept.paths += path
        kept.path_offsets.append(len(kept.paths))
        kept.data += staging.data[staging.data_offsets[node] : staging.data_offsets[node + 1]]
        kept.data_offsets.append(len(kept.data))
        kept.nulls.append(staging.nulls[node])
        kept.acl_ids.append(staging.acl_ids[node])
        for column, other in zip(kept.stats, staging.stats, strict=True):
            column.append(other[node])
    return kept


def _slices(offsets: array[int]) -> Iterator[tuple[int, int]]:
    return zip(offsets, islice(offsets, 1, None), strict=False)
