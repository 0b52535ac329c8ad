"""Status: what a scope is doing, who does it, what blocks and for how long, and what its history has left."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from zkmig.apply.entries import ACTING, GUARDS, Entry, blocking_entries, list_entries, read_entries
from zkmig.apply.evictions import Eviction, read_evictions
from zkmig.epoch.attempts import Attempt, Fate, read_attempts, revertible, rolled_back_since
from zkmig.epoch.budgets import BudgetNote, Override, guard_reader, read_budgets
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.owner import OwnerView, read_owner
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import State
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.replies import ChildrenResult
from zkmig.wire.requests import GetChildren

OVERRIDES_SHOWN_S: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Status:
    """One scope at one moment. readers, guards: names of what is registered; a guard that reads the tree for its budget
    is no reader. guarded: of these guards the registrations that can be read, by name. blocking: what a drain would
    wait for, leases and guards. evicted: what the drain of the epoch under way was told not to wait for.
    batches_undone: in a rollback. attempts: all of the scope's. progress_at: when work on the epoch under way was last
    seen to get on, by the servers' clock, Unix seconds. budgets: of the readers that have one. guards_path: where the
    guards' registrations lie."""

    scope: str
    record: Record
    owner: OwnerView
    batches_applied: int
    batches_undone: int
    readers: tuple[str, ...]
    guards: tuple[str, ...]
    blocking: tuple[Entry, ...]
    evicted: tuple[Eviction, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    progress_at: float | None = None
    budgets: tuple[BudgetNote, ...] = ()
    guarded: tuple[tuple[str, GuardEntry], ...] = ()
    guards_path: str = ""

    @property
    def is_at_rest(self) -> bool:
        """No epoch is under way and nobody holds it: whoever runs is meant to run."""
        return self.record.state in (State.STABLE, State.EMPTY) and self.record.held is None

    @property
    def overrides(self) -> list[tuple[BudgetNote, Override]]:
        """Actions beyond a budget within OVERRIDES_SHOWN_S, the latest first."""
        since = time.time() - OVERRIDES_SHOWN_S
        found = [(note, one) for note in self.budgets for one in note.overrides if one.at >= since]
        return sorted(found, key=lambda pair: -pair[1].at)

    @property
    def blocks_at_most_s(self) -> float | None:
        """For how long what blocks can do so at most, from now; None: until somebody ends it."""
        times = [entry.blocks_ms for entry in self.blocking]
        return None if None in times else max((ms for ms in times if ms is not None), default=0) / 1000

    @property
    def revertible(self) -> Attempt | None:
        """The last committed attempt, if its undo is kept, and known to be whole."""
        return revertible(self.attempts, self.record)

    @property
    def prunable(self) -> tuple[Attempt, ...]:
        """Attempts whose journals nobody needs any more, but for those of committed epochs, which are a choice."""
        last = self.revertible
        needed = [] if last is None else rolled_back_since(self.attempts, last)
        over = (Fate.ROLLED_BACK, Fate.ABORTED, Fate.ABANDONED, Fate.UNKNOWN)
        return tuple(one for one in self.attempts if one.children and one.fate in over and one not in needed)

    @property
    def acting(self) -> tuple[str, ...]:
        """Names of the leases that block: not released, and not malformed."""
        return tuple(entry.name.partition("/")[2] for entry in self.blocking if entry.kind == ACTING)


def read_status(client: Client, names: ControlPaths) -> Status:
    """Read all of it. Refused when there is no such scope."""
    record, _ = read_record(client, names)
    applied = undone = 0
    evicted: list[Eviction] = []
    owner = read_owner(client, names)
    moments = [] if owner.progress_at is None else [owner.progress_at]
    if record.target_epoch is not None and record.attempt is not None:
        attempt = names.attempt(record.target_epoch, record.attempt)
        cursors = list(read_nodes(client, [attempt.cursor, attempt.rcursor]))
        applied, undone = (node.stat.version if isinstance(node, NodeRead) else 0 for node in cursors)
        moments += [node.stat.mtime / 1000 for node in cursors if isinstance(node, NodeRead)]
        evicted = read_evictions(client, attempt)
    guards = _children(client, names.guards)
    return Status(
        names.scope,
        record,
        owner,
        applied,
        undone,
        _without_guards(_children(client, names.readers), guards),
        guards,
        tuple(blocking_entries(client, names)),
        tuple(evicted),
        tuple(read_attempts(client, names, record, is_owner=not owner.alive)),
        max(moments, default=None),
        tuple(read_budgets(client, names)),
        tuple(_guarded(client, names)),
        names.guards,
    )


def _children(client: Client, path: str) -> tuple[str, ...]:
    result = client.call(GetChildren(path))
    assert isinstance(result, ChildrenResult)
    return tuple(sorted(result.children))


def _without_guards(readers: Sequence[str], guards: Collection[str]) -> tuple[str, ...]:
    """Less those that are guards, by their names; what follows the last dash tells one session from the next."""
    theirs = {guard_reader(unit) for unit in guards}
    return tuple(name for name in readers if name.rpartition("-")[0] not in theirs)


def _guarded(client: Client, names: ControlPaths) -> Iterator[tuple[str, GuardEntry]]:
    """Name and content of each registration of a guard."""
    for entry in read_entries(client, list_entries(client, names, GUARDS)):
        if isinstance(entry.content, GuardEntry):
            yield entry.name.partition("/")[2], entry.content
