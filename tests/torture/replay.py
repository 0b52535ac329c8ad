"""What the epoch protocol did, read off the replayed transactions: records, owners, attempts, leases, guards.

Nothing of the engine is used: the names and fields are those that docs/protocol.md promises to every language.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tests.torture.merge import read_members, replay_members
from tests.torture.tree import Tree, parent
from tests.torture.txnlog import Check, Create, Delete, Entry, Operation, SetAcl, SetData

CHANGES = (Create, Delete, SetData, SetAcl)

Change = Create | Delete | SetData | SetAcl


class RecordAt(NamedTuple):
    """The epoch record from `zxid` on. fields: None once it is gone. version: its dataVersion."""

    zxid: int
    session: int
    version: int
    fields: dict[str, Any] | None

    @property
    def state(self) -> str:
        return str(self.fields["state"]) if self.fields else ""

    @property
    def epoch(self) -> int:
        return int(self.fields["epoch"]) if self.fields else -1

    @property
    def incarnation(self) -> str:
        return str(self.fields["incarnation"]) if self.fields else ""

    @property
    def attempt(self) -> str | None:
        return self.fields.get("attempt") if self.fields else None


class OwnerAt(NamedTuple):
    """Who holds the token from `zxid` on. session: None when nobody does."""

    zxid: int
    session: int | None
    token: int


@dataclass
class Attempt:
    """One attempt at an epoch, by the zxids at which the record moved; None: it did not come to that.

    ended: the record is STABLE (or EMPTY) again. outcome: committed, rolled_back, aborted, or "" while it is under way.
    """

    name: str
    epoch: int
    incarnation: str
    fields: dict[str, Any]
    taken: int
    prepared: int
    opened: int | None = None
    rolled_back: int | None = None
    ended: int | None = None
    outcome: str = ""

    @property
    def single_shot(self) -> bool:
        return self.outcome == "committed" and self.opened is None

    @property
    def first_write(self) -> int | None:
        """The zxid from which on migration writes are to be reckoned with."""
        return self.opened if self.opened is not None else self.ended if self.outcome == "committed" else None


@dataclass
class Replay:
    """All that happened, in the order of the zxids. scope's names are those under `home`.

    entries: transactions that were committed and changed something or tried to. root: of the scope.
    """

    entries: list[Entry]
    tree: Tree
    root: str
    home: str
    records: list[RecordAt] = field(default_factory=list)
    owners: list[OwnerAt] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    @classmethod
    def of(cls, data_dirs: Sequence[Path], root: str, home: str) -> Replay:
        """From the log folders of all members (one: a single server). home: the scope's control plane."""
        entries, tree = replay_members(read_members(data_dirs))
        return cls.of_entries(entries, tree, root, home)

    @classmethod
    def of_entries(cls, entries: list[Entry], tree: Tree, root: str, home: str) -> Replay:
        """From transactions that were applied to `tree` already."""
        self = cls(entries, tree, root, home)
        for entry in self.writes():
            self._note(entry)
        return self

    def writes(self) -> Iterator[Entry]:
        """Transactions that changed something."""
        return (entry for entry in self.entries if entry.operations and not entry.failed)

    # -- names --------------------------------------------------------------------------------------------------------

    @property
    def record_path(self) -> str:
        return f"{self.home}/epoch"

    @property
    def owner_path(self) -> str:
        return f"{self.home}/owner"

    def attempt_home(self, attempt: Attempt) -> str:
        return f"{self.home}/epochs/{attempt.epoch}-{attempt.name}"

    def is_inside(self, path: str) -> bool:
        """Whether the path belongs to the scope's tree."""
        return path == self.root or path.startswith(self.root.rstrip("/") + "/")

    def tree_changes(self, entry: Entry) -> list[Change]:
        """What a transaction changed of the scope's tree."""
        return [op for op in changes(entry) if self.is_inside(op.path)]

    # -- at a zxid ----------------------------------------------------------------------------------------------------

    def record_at(self, zxid: int) -> RecordAt | None:
        """The record after `zxid`; None before the first, and while it is gone."""
        place = bisect_right(self._record_zxids, zxid)
        found = self.records[place - 1] if place else None
        return found if found is not None and found.fields is not None else None

    def owner_at(self, zxid: int) -> OwnerAt | None:
        place = bisect_right(self._owner_zxids, zxid)
        return self.owners[place - 1] if place else None

    def entry_at(self, zxid: int) -> Entry | None:
        place = bisect_right(self._entry_zxids, zxid)
        found = self.entries[place - 1] if place else None
        return found if found is not None and found.zxid == zxid else None

    def entries_within(self, zxid_after: int, zxid_last: int) -> list[Entry]:
        """Transactions after the first and up to the last zxid."""
        zxids = self._entry_zxids
        return self.entries[bisect_right(zxids, zxid_after) : bisect_right(zxids, zxid_last)]

    def attempt_at(self, zxid: int) -> Attempt | None:
        """The attempt under way after `zxid`."""
        place = bisect_right(self._attempt_zxids, zxid)
        found = self.attempts[place - 1] if place else None
        return found if found is not None and (found.ended is None or zxid < found.ended) else None

    @cached_property
    def _record_zxids(self) -> list[int]:
        return [record.zxid for record in self.records]

    @cached_property
    def _owner_zxids(self) -> list[int]:
        return [owner.zxid for owner in self.owners]

    @cached_property
    def _entry_zxids(self) -> list[int]:
        return [entry.zxid for entry in self.entries]

    @cached_property
    def _attempt_zxids(self) -> list[int]:
        return [attempt.prepared for attempt in self.attempts]

    # -- who is a migrator --------------------------------------------------------------------------------------------

    @cached_property
    def migrators(self) -> frozenset[int]:
        """Sessions that ever took the owner's token."""
        return frozenset(owner.session for owner in self.owners if owner.session is not None)

    def is_migrators(self, entry: Entry) -> bool:
        return entry.session in self.migrators

    # -- reading it off -----------------------------------------------------------------------------------------------

    def _note(self, entry: Entry) -> None:
        for op in changes(entry):
            if op.path == self.record_path:
                self._note_record(entry, op)
            elif op.path == self.owner_path:
                self._note_owner(entry, op)

    def _note_owner(self, entry: Entry, op: Change) -> None:
        match op:
            case SetData(_, _, version):
                self.owners.append(OwnerAt(entry.zxid, entry.session, version))
            case Create() | Delete():
                self.owners.append(OwnerAt(entry.zxid, None, 0))

    def _note_record(self, entry: Entry, op: Change) -> None:
        match op:
            case SetData(_, data, version):
                record = RecordAt(entry.zxid, entry.session, version, decoded(data))
            case Create(_, data):
                record = RecordAt(entry.zxid, entry.session, 0, decoded(data))
            case Delete():
                record = RecordAt(entry.zxid, entry.session, -1, None)
            case SetAcl():
                return
        last = self.records[-1] if self.records else None
        self.records.append(record)
        self._note_attempt(last, record)

    def _note_attempt(self, last: RecordAt | None, record: RecordAt) -> None:
        open_one = self.attempts[-1] if self.attempts and self.attempts[-1].ended is None else None
        if record.fields is None or (open_one is not None and record.incarnation != open_one.incarnation):
            if open_one is not None:
                open_one.ended, open_one.outcome = record.zxid, "forgotten"  # with its control plane
            return
        if record.state == "PREPARING" and (last is None or last.attempt != record.attempt):
            taken = self.owners[-1].zxid if self.owners else record.zxid
            epoch = int(record.fields["target_epoch"])
            self.attempts.append(
                Attempt(str(record.attempt), epoch, record.incarnation, record.fields, taken, record.zxid)
            )
        elif open_one is not None:
            if record.state == "OPEN" and open_one.opened is None:
                open_one.opened = record.zxid
            elif record.state == "ROLLING_BACK" and open_one.rolled_back is None:
                open_one.rolled_back = record.zxid
            elif record.state in ("STABLE", "EMPTY"):
                open_one.ended = record.zxid
                open_one.outcome = self._outcome(open_one, record)

    @staticmethod
    def _outcome(attempt: Attempt, record: RecordAt) -> str:
        if record.epoch == attempt.epoch:
            return "committed"
        return "rolled_back" if attempt.rolled_back is not None else "aborted"


def changes(entry: Entry) -> list[Change]:
    """The operations of a transaction that change something, in order."""
    return [op for op in entry.operations if isinstance(op, CHANGES)]


def checks(entry: Entry) -> list[Check]:
    return [op for op in entry.operations if isinstance(op, Check)]


def net_changes(entry: Entry) -> list[Change]:
    """The changes without children that come and go within the transaction (they raise their parent's counter)."""
    found = changes(entry)
    created = {op.path for op in found if isinstance(op, Create)}
    passing = {op.path for op in found if isinstance(op, Delete) and op.path in created}
    return [op for op in found if op.path not in passing]


def raised_counters(entry: Entry) -> set[str]:
    """Paths whose counter a transaction raised by such children."""
    found: Sequence[Operation] = changes(entry)
    created = {op.path for op in found if isinstance(op, Create)}
    return {parent(op.path) for op in found if isinstance(op, Delete) and op.path in created}


def decoded(data: bytes | None) -> dict[str, Any] | None:
    """JSON as the control plane holds it; None for what is not an object."""
    try:
        fields = json.loads(data or b"")
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
