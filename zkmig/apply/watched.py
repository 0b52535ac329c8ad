"""What is watched: the paths of a committed epoch, what it has left on each of them, and what is there instead.

The kept undo tells both: the epoch's own, what each path was before and what the epoch has left on it; that of the next
one, what was there when that was opened, so that the paths of the one before can be looked back at after they have been
written again. When to look, and what counts of it, is decided in `zkmig.apply.watching`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from zkmig.apply.conflicts import Found, look
from zkmig.apply.left import LeftAsSeen, left_as_seen, load_as_seen
from zkmig.apply.masking import kept_masks
from zkmig.apply.putbacks import Expected, Known, Tally, Verdict, Versions, judge, versions_of
from zkmig.epoch.attempts import Attempt, Fate, home_of, read_attempts, rolled_back_since
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.journal import Action, Entry, Journal, JournalMissing
from zkmig.epoch.record import Record
from zkmig.errors import NotPermitted, Refused
from zkmig.model.acl import AclList
from zkmig.policy.captures import any_of
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.replies import AclResult
from zkmig.wire.requests import GetAcl

LOOK_PATHS: Final = 1_000
ACL_DEPTH: Final = 64


class Moved(NamedTuple):
    """A path that is not as it was at the last look, its versions now, and what is to be said of it."""

    path: str
    now: Versions | None
    verdicts: list[Verdict]


class Watched:
    """An epoch, what is expected on each of its paths, and what was seen of them so far.

    attempt: the one that was committed, with its journal; attempts: all that are known. expected: by path. seen: what
    this identity may not know of it. tally: what was counted. is_uncarried: whether an attempt was rolled back since of
    which nobody knows what versions it has left, so that there is nothing to count writes from until all was looked at.
    """

    def __init__(
        self,
        client: Client,
        names: ControlPaths,
        attempt: Attempt,
        journal: Journal,
        has_hidden_acls: bool,
        attempts: Sequence[Attempt],
    ) -> None:
        self.attempt = attempt
        self.tally = Tally()
        self.is_uncarried = False
        self._is_masked = any_of(kept_masks(attempt.note))
        self._journal = journal
        self._has_hidden_acls = has_hidden_acls
        self._known = Known()
        self._expect(client, names, attempts)
        self._carried = set(self.seen.shifts)  # attempts that were taken back, and whose versions are in `_known`

    @property
    def epoch(self) -> int:
        """Its number."""
        return self.attempt.note.epoch

    def _expect(self, client: Client, names: ControlPaths, attempts: Sequence[Attempt]) -> None:
        later = rolled_back_since(attempts, self.attempt)
        seen = left_as_seen(client, names, self.attempt, self._journal, self._has_hidden_acls, later)
        steps = {step.path: step for step in self._journal.acls}
        entries = self._journal.by_path()
        self.expected = {path: Expected(entries[path], one, steps.get(path)) for path, one in seen.left.items()}
        self.seen: LeftAsSeen = seen

    def carry(self, client: Client, names: ControlPaths, attempts: Sequence[Attempt]) -> None:
        """Attempts were rolled back: the same values, under other versions, which are not those of others."""
        self._expect(client, names, attempts)
        for one in rolled_back_since(attempts, self.attempt):
            name = one.note.attempt
            if name in self._carried:
                continue
            self._carried.add(name)
            self.is_uncarried |= name not in self.seen.shifts
            for path, shift in self.seen.shifts.get(name, {}).items():
                self._known.carry(path, shift)

    # -- looking ------------------------------------------------------------------------------------------------------

    def moved(self, client: Client, paths: Collection[str]) -> list[Moved]:
        """Those of the paths, all of them of this epoch, that are not as they were at the last look, or that were never
        looked at. Raises Unreachable."""
        wanted = list(paths)
        chunks = (wanted[start : start + LOOK_PATHS] for start in range(0, len(wanted), LOOK_PATHS))
        return [one for chunk in chunks for one in self._moved(client, chunk)]

    def moved_before(self, client: Client, names: ControlPaths, record: Record) -> list[Moved] | None:
        """A look back, after the next epoch was committed, as `record` tells: what had moved before that.

        What the next has written is told by its undo, as it was when it was opened; all else is as it is. None where
        that is not known: more than one epoch has come since, or another attempt, or that undo is not kept.
        """
        found = self._found_by(client, names, record) if record.epoch == self.epoch + 1 else None
        if found is None:
            return None
        by_undo = [one for path, one in found.items() if path in self.expected]
        moved = self.moved(client, [path for path in self.expected if path not in found])
        moved += self._judged([node for node, _ in by_undo], {node.path: acl for node, acl in by_undo})
        return moved

    def count(self, moved: Moved) -> Iterator[Verdict]:
        """What is to be told of a path that has moved, each as it is counted."""
        path, now, verdicts = moved
        is_first, before = self._known.saw(path, now)
        if self.is_uncarried:
            before = now
        if not verdicts:
            self.tally.saw_as_left(path)
        for verdict in verdicts:
            if self.tally.saw(verdict, before, now, is_first, time.time()) or verdict.kind is None:
                yield verdict

    def _found_by(self, client: Client, names: ControlPaths, record: Record) -> dict[str, tuple[Found, AclList]] | None:
        """What the attempt that was committed now has found on each path that it writes; None where that is not known:
        its undo is not kept, or another attempt has come since."""
        last = record.last
        attempts = read_attempts(client, names, record)
        for one in attempts:
            if one.note.attempt != record.committed_attempt or one.note.epoch != record.epoch or not one.is_kept:
                continue
            if last is None or last.attempt != record.committed_attempt or not one.note.manifest_hash:
                return None
            try:
                journal, _ = load_as_seen(client, home_of(names, one.note), one.note.manifest_hash)
            except (JournalMissing, NotPermitted):
                return None
            self.carry(client, names, attempts)
            entries = journal.by_path().items()
            return {path: _as_found(entry) for path, entry in entries if entry.action is not Action.TOUCHED}
        return None

    def _moved(self, client: Client, paths: Sequence[str]) -> Iterator[Moved]:
        found = [one for one in _read(client, paths) if self._known.has_moved(one.path, versions_of(one.stat))]
        wants = [one.path for one in found if one.stat is not None and self.expected[one.path].wants_acl(one.stat)]
        return self._judged(found, _acls(client, wants))

    def _judged(self, found: Sequence[Found], acls: Mapping[str, AclList]) -> Iterator[Moved]:
        for one in found:
            if self._known.has_moved(one.path, versions_of(one.stat)):
                verdicts = judge(self.expected[one.path], one, acls.get(one.path))
                if self._is_masked(one.path):
                    verdicts = [replace(each, data_hash=None) for each in verdicts]  # it tells who can guess
                yield Moved(one.path, versions_of(one.stat), verdicts)


def last_committed(client: Client, names: ControlPaths, record: Record, epoch: int | None) -> Watched:
    """The last committed epoch; only if it is that one, where an epoch is given.

    Raises Refused where there is none, another is the last one, or its undo is not kept; NotPermitted, Unreachable.
    """
    if record.epoch == 0:
        raise Refused("no epoch has been committed yet, so there is none to watch", names.record)
    if epoch is not None and epoch != record.epoch:
        what = f"epoch {epoch} is not the last committed one, which is {record.epoch}"
        raise Refused(what, names.record, f"only the last one can be watched: --epoch {record.epoch}")
    attempts = read_attempts(client, names, record)
    for one in attempts:
        if one.fate is Fate.COMMITTED and one.note.epoch == record.epoch:
            return _load(client, names, one, attempts)
    raise _not_kept(record.epoch, names.epochs)


def _load(client: Client, names: ControlPaths, attempt: Attempt, attempts: Sequence[Attempt]) -> Watched:
    place = home_of(names, attempt.note)
    if not attempt.is_kept or attempt.note.fate is not Fate.COMMITTED or not attempt.note.manifest_hash:
        raise _not_kept(attempt.note.epoch, place.home)
    try:
        journal, has_hidden_acls = load_as_seen(client, place, attempt.note.manifest_hash)
    except JournalMissing as error:
        raise _not_kept(attempt.note.epoch, place.home) from error
    return Watched(client, names, attempt, journal, has_hidden_acls, attempts)


def _not_kept(epoch: int, where: str) -> Refused:
    return Refused(f"the undo of epoch {epoch} is not kept, so what was there before is not known", where)


def _as_found(entry: Entry) -> tuple[Found, AclList]:
    before = entry.before
    return (Found(entry.path), ()) if before is None else (Found(entry.path, before.data, before.stat), before.acl)


def _read(client: Client, paths: Sequence[str]) -> list[Found]:
    try:
        return [
            Found(one.path, one.data, one.stat) if isinstance(one, NodeRead) else Found(one.path)
            for one in read_nodes(client, paths)
        ]
    except NotPermitted:
        return look(client, paths)  # one by one: those that may not be read are told by their Stats


def _acls(client: Client, paths: Sequence[str]) -> dict[str, AclList]:
    replies = client.pipeline(map(GetAcl, paths), ACL_DEPTH)
    found = zip(paths, replies, strict=True)
    return {path: reply.result.acl for path, reply in found if isinstance(reply.result, AclResult)}
