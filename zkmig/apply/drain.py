"""The drain: before the first write, wait until no admitted action can still take effect and no guarded process runs.

What has to be waited for is settled when the record leaves STABLE: every admission checks the record as it was before,
in the transaction that takes the lease, and so does the registration of a guard. So one look at what is there by then
is enough, and an entry that is younger than the record's last change holds nothing up, whoever makes how many of them.

Times are counted by this process from its own first sight of an entry, so no clock is compared with another's; whoever
takes over begins to count anew. An entry that its holder writes again keeps the time at which it was first seen.

What is evicted is passed over by the drains of its attempt, and stays: it may still be at work, so an attempt after one
that came to nothing has to wait for it, or to be told again not to. It is settled once its own attempt is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain

from zkmig.apply.blocking import Blocker, Waiting, judged, pause_s
from zkmig.apply.entries import (
    ACTING,
    GUARDS,
    UNREADABLE,
    Entry,
    list_entries,
    matching,
    named_entries,
    read_entries,
    some,
)
from zkmig.apply.evictions import read_evictions, record_evictions
from zkmig.epoch.control import AttemptPaths, ControlPaths
from zkmig.epoch.journal import CHUNK_BYTES_MAX
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.owner import HEAD_LENGTH, Migrator
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING
from zkmig.errors import Refused, ZkmigError
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.requests import Delete, Exists, SetData, operation_size

REMOVED_MAX = 10_000
REMOVED_AT_ONCE = 100
REFUSALS_MAX = 20
"""Entries that are over: how many a drain removes, how many in one transaction, and how many of these may fail."""

SAID_MAX = 50  # evicted entries that are told one by one


class DrainTimeout(Refused):
    """Leases or guards still block when the time given for the drain is over."""


@dataclass
class Drain:
    """Waits for leases and guards of one scope. timeout_s: how long at most. evict: entries not to wait for, by name.

    A name is that of an entry, acting/NAME, guards/NAME or its path: see `entries.named_entries`; or UNREADABLE.
    """

    migrator: Migrator
    timeout_s: float
    say: Callable[[str], None]
    evict: Sequence[str] = ()
    _evicted: set[tuple[str, int]] = field(default_factory=set)  # path and czxid
    _blocking: dict[str, Blocker] = field(default_factory=dict)
    _dead: list[Entry] = field(default_factory=list)
    _buried: int = 0

    def wait(self) -> None:
        """Return when nothing blocks any more; DrainTimeout names what still does."""
        deadline = time.monotonic() + self.timeout_s
        self._through_losses(self._look_at_all)
        waiting = Waiting(self.say)
        waiting.begin(self._blocking)
        while True:
            self.migrator.stop.check()
            self._remove_dead()
            if not self._blocking and self._attempt() is None:
                # The scope is at rest, to be removed, say, and somebody may have been admitted meanwhile.
                self._through_losses(self._look_at_all)
            if not self._blocking:
                return
            begun = time.monotonic()
            if begun > deadline:
                raise DrainTimeout(
                    f"still at work after {self.timeout_s:.0f} s: {some(self._blocking.values())}",
                    self.migrator.names.home,
                    "let them finish, start a guard that was killed again where it ran, and run this again; or give "
                    "more time: --drain-timeout; or do without: --evict NAME",
                )
            waiting.go_on(self._blocking)
            self._through_losses(self._look_again)
            time.sleep(pause_s(begun))

    def is_evicted(self, entry: Entry) -> bool:
        """Whether this very entry was evicted in the attempt, or by this drain."""
        return (entry.path, entry.stat.czxid) in self._evicted

    def _through_losses(self, look: Callable[[], None]) -> None:
        """Look; once more on another connection where the first was lost. Services wait while a scope is PREPARING."""
        try:
            look()
        except ConnectionLost:
            self.migrator.client.reconnect()
            look()

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look_at_all(self) -> None:
        migrator, client = self.migrator, self.migrator.client
        attempt = self._attempt()
        # Read before the entries, so that it is no later than what they are compared with.
        youngest = client.call(Exists(migrator.names.record)).stat.mzxid if attempt is not None else None
        if attempt is not None:
            self._evicted = {(f"{migrator.names.home}/{e.entry}", e.czxid) for e in read_evictions(client, attempt)}
        there = {kind: list_entries(client, migrator.names, kind) for kind in (ACTING, GUARDS)}
        to_evict = self._to_evict(set(chain.from_iterable(there.values())))
        may_not_read = UNREADABLE in self.evict
        evicted: list[Entry] = []
        for entry in chain.from_iterable(read_entries(client, paths) for paths in there.values()):
            is_old = youngest is None or entry.stat.czxid <= youngest
            if entry.path in to_evict or (may_not_read and is_old and not entry.is_readable):
                evicted.append(entry)
            elif is_old:
                self._judge(entry)
            else:
                self._bury(entry)
        self._evict(evicted, attempt)

    def _look_again(self) -> None:
        waited_for = self._blocking
        found = list(read_entries(self.migrator.client, list(waited_for)))
        self._blocking = {}
        for entry in found:
            before = waited_for[entry.path]
            if self._born(entry) == before.born:
                self._judge(entry, before.first_seen)
            elif self._attempt() is None:
                self._judge(entry)  # the record has not left STABLE: it is another lease
            else:
                self._bury(entry)  # made again while nothing is admitted

    def _judge(self, entry: Entry, first_seen: float | None = None) -> None:
        """Whether it blocks, as it is now."""
        found = judged(entry, self._born(entry), first_seen)
        if found is None:
            self._bury(entry)
        elif not self.is_evicted(entry):
            self._blocking[entry.path] = found

    def _born(self, entry: Entry) -> tuple[int, int]:
        """What tells this lease from another of the same name. Once nothing is admitted, writing makes no other."""
        return entry.stat.czxid, entry.stat.mzxid if self._attempt() is None else 0

    def _attempt(self) -> AttemptPaths | None:
        record = self.migrator.record
        if record.state not in MIGRATING or record.target_epoch is None or record.attempt is None:
            return None
        return self.migrator.names.attempt(record.target_epoch, record.attempt)

    # -- doing without ------------------------------------------------------------------------------------------------

    def _to_evict(self, there: Set[str]) -> set[str]:
        """Paths of what is to be evicted; what has gone by itself since it was named is no mistake."""
        wanted: set[str] = set()
        for name in self.evict:
            if name == UNREADABLE:
                continue
            found = matching(self.migrator.names, name, there)
            if not found and not matching(self.migrator.names, name, {path for path, _ in self._evicted}):
                self.say(f"not evicted, since it is gone: {name}")
            wanted.update(found)
        return wanted

    def _evict(self, entries: Sequence[Entry], attempt: AttemptPaths | None) -> None:
        """On record first; a scope that is being removed has none."""
        new = [entry for entry in entries if not self.is_evicted(entry)]
        if new and attempt is not None:
            record_evictions(self.migrator, attempt, new)
        for entry in new[:SAID_MAX]:
            self.say(f"evicted {entry.name} ({entry.what}): whatever it stood for may still be at work")
        if len(new) > SAID_MAX:
            self.say(f"evicted {len(new) - SAID_MAX} more")
        self._evicted.update((entry.path, entry.stat.czxid) for entry in new)

    def _bury(self, entry: Entry) -> None:
        """It is over. Remove it later, if it is worth it and the servers may let us.

        Guards keep their registrations. What has children can be deleted by nobody but its owner.
        """
        if entry.kind == ACTING and entry.stat.num_children == 0 and self._buried < REMOVED_MAX:
            self._dead.append(entry)
            self._buried += 1

    def _remove_dead(self) -> None:
        """Delete what is over; nothing depends on it."""
        dead, self._dead = self._dead, []
        _remove(self.migrator, dead)


def _remove(migrator: Migrator, entries: Sequence[Entry]) -> None:
    """Delete the entries, as far as it may be done and goes well."""
    # At the version that was judged: were it another lease by now, it would have to be judged again.
    _write_each(migrator, [Delete(entry.path, entry.stat.version) for entry in entries])


def _write_each(migrator: Migrator, writes: Sequence[Delete | SetData]) -> set[str]:
    """Carry the writes out, as far as it may be done and goes well; the paths of those that are not permitted."""
    left = list(writes)
    refusals = 0
    forbidden: set[str] = set()
    while left and refusals < REFUSALS_MAX:
        many = _fitting(left)
        now, later = left[:many], left[many:]
        result = migrator.write(now)
        if result.failed_index is not None:
            failed = now.pop(result.failed_index - HEAD_LENGTH)  # written or removed by its holder meanwhile
            if result.code == Code.NO_AUTH:
                forbidden.add(failed.path)
            refusals += 1
            later = now + later
        left = later
    return forbidden | {write.path for write in left}


def _fitting(writes: Sequence[Delete | SetData]) -> int:
    """How many of them go into one transaction: at least one."""
    size = 0
    for count, write in enumerate(writes[:REMOVED_AT_ONCE]):
        size += operation_size(write)
        if size > CHUNK_BYTES_MAX and count:
            return count
    return min(len(writes), REMOVED_AT_ONCE)


def settle_evicted(migrator: Migrator, before_commit: int) -> None:
    """After the commit: what its drain was told not to wait for is to hold up no other. What cannot be settled stays.

    before_commit: a zxid seen before the epoch was committed. What was written later may be an action that was admitted
    under the new epoch, or a guard that runs again, and is left alone: holders use their nodes again. A lease is
    deleted. Of a guard it is written that nothing runs, and all else of its registration stays: the next guard of that
    name has to know under which epoch it ran last.
    """
    client, names, record = migrator.client, migrator.names, migrator.record
    assert record.committed_attempt is not None
    with suppress(ZkmigError):  # the epoch is committed, whatever comes of this
        evictions = read_evictions(client, names.attempt(record.epoch, record.committed_attempt))
        born = {f"{names.home}/{eviction.entry}": eviction.czxid for eviction in evictions}
        found = [
            entry
            for entry in read_entries(client, list(born))
            if entry.stat.czxid == born[entry.path] and entry.stat.mzxid <= before_commit
        ]
        guards = {entry.path: entry for entry in found if _is_known_guard(entry)}
        _put_down(migrator, guards, record.epoch)
        rest = [entry for entry in found if entry.path not in guards]
        _remove(migrator, [entry for entry in rest if entry.stat.num_children == 0])


def _is_known_guard(entry: Entry) -> bool:
    return isinstance(entry.content, GuardEntry) and not entry.content.is_newer


def _put_down(migrator: Migrator, guards: dict[str, Entry], epoch: int) -> None:
    """Write that they have stopped; those whose ACL keeps the admins out are deleted."""
    writes = []
    for path, entry in guards.items():
        guard = entry.content
        if isinstance(guard, GuardEntry) and not guard.stopped:
            down = replace(guard, stopped=True, since=time.time(), why=f"evicted, and epoch {epoch} committed")
            writes.append(SetData(path, down.encode(), entry.stat.version))
    forbidden = _write_each(migrator, writes)
    _remove(migrator, [guards[path] for path in forbidden if guards[path].stat.num_children == 0])


def refuse_unknown(client: Client, names: ControlPaths, record: Record, evict: Sequence[str]) -> None:
    """Refused, before anything is written, unless each name is that of an entry, or was evicted in this attempt."""
    if not evict:
        return
    done: set[str] = set()
    if record.target_epoch is not None and record.attempt is not None:
        evictions = read_evictions(client, names.attempt(record.target_epoch, record.attempt))
        done = {f"{names.home}/{eviction.entry}" for eviction in evictions}
    named_entries(client, names, [name for name in evict if not matching(names, name, done)])
