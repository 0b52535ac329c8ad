"""Evictions: entries that an operator has told a drain not to wait for, on record beside the attempt's journal.

The record comes before the effect: guarded writes name the entries, in as many nodes as keep frames small, and then a
drain passes over them. Each is known by its czxid, so that what takes its name later is not meant; and a drain of the
same attempt that somebody else goes on with passes over them as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from zkmig.apply.entries import Entry
from zkmig.epoch.attempts import noting, own_note
from zkmig.epoch.control import AttemptPaths
from zkmig.epoch.journal import CHUNK_BYTES_MAX
from zkmig.epoch.owner import Migrator
from zkmig.epoch.record import nested
from zkmig.errors import UnknownFormat
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.requests import Create

PREFIX = "evicted-"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Eviction:
    """entry: as `--evict` takes it. czxid: of its node. what: what stood there. by: who did it. at: unix time in s."""

    entry: str
    czxid: int
    what: str
    by: str
    at: float

    def __str__(self) -> str:
        return f"{self.entry} ({self.what}) by {self.by}"


def record_evictions(migrator: Migrator, attempt: AttemptPaths, entries: Sequence[Entry]) -> list[Eviction]:
    """Put on record that these are evicted; under the guard. Nothing is lost by doing it again after an error."""
    owner = migrator.owner
    by = f"{owner.host} pid {owner.pid}" if owner is not None else f"token {migrator.token}"
    evicted = [Eviction(entry.name, entry.stat.czxid, entry.what, by, time.time()) for entry in entries]
    what = "record what is evicted"
    for part in _parts(evicted):
        # A name that nobody else takes: of this owner, and no node is put on record twice by one.
        path = f"{attempt.home}/{PREFIX}{migrator.token}-{part[0].czxid:x}"
        migrator.write_all([Create(path, _encode(part), migrator.control_acl)], what, witness=0)
    note, _ = own_note(migrator, migrator.record)  # which outlives the journal
    names = (*note.evicted, *(each.entry for each in evicted))
    migrator.write(noting(migrator, migrator.record, evicted=names), witness=0)  # it tells; it decides nothing
    return evicted


def _parts(evicted: Sequence[Eviction]) -> Iterator[list[Eviction]]:
    """In the given order, as many together as a chunk of the journal may have bytes."""
    part: list[Eviction] = []
    size = 0
    for eviction in evicted:
        more = len(_encode([eviction]))
        if part and size + more > CHUNK_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(eviction)
        size += more
    if part:
        yield part


def _encode(evicted: Sequence[Eviction]) -> bytes:
    return json.dumps({"format": FORMAT, "evicted": [asdict(each) for each in evicted]}).encode()


def read_evictions(client: Client, attempt: AttemptPaths) -> list[Eviction]:
    """All that was evicted in this attempt so far, oldest first."""
    (home,) = read_nodes(client, [attempt.home], children=True)
    if not isinstance(home, NodeRead):
        return []
    found: list[Eviction] = []
    for node in read_nodes(
        client, [f"{attempt.home}/{name}" for name in home.children or () if name.startswith(PREFIX)]
    ):
        if isinstance(node, NodeRead):
            found += _decode(node)
    return sorted(found, key=lambda eviction: eviction.at)


def _decode(node: NodeRead) -> list[Eviction]:
    try:
        listed = json.loads(node.data or b"")["evicted"]
        return [nested(Eviction, each) for each in listed]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnknownFormat("this is not a record of evictions", node.path, "upgrade, or ask who wrote it") from error
