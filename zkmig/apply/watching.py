"""Watching: a committed epoch is followed, and whoever puts its paths back is named. Nothing is written.

The kept undo tells what each path was before, and what the epoch has left on it. A watch over the tree is a hint of
what to read again (`zkmig.source.treewatch`); all paths are read now and then in any case, since ACLs fire no watch,
and after every loss: what happened while nobody was told is found then. Without such a watch that slow poll is all.

What was read counts only if the record was the same before and after: then the tree was live, and no migration has
written in between. A hold alone may come and go meanwhile. While an epoch is open, its own writes are not looked
at. When the next has been committed, the paths of the one before are looked at once more, those of both as the undo of
the next has found them; then the next is followed, or, if one was pinned, all is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from zkmig.apply.conflicts import Found, look
from zkmig.apply.left import LeftAsSeen, left_as_seen, load_as_seen
from zkmig.apply.putbacks import Expected, Known, PutBackKind, Tally, Verdict, Versions, judge, versions_of
from zkmig.epoch.attempts import Attempt, Fate, home_of, read_attempts, rolled_back_since
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.guarded import is_same_but_for_hold
from zkmig.epoch.journal import Action, Entry, Journal, JournalMissing
from zkmig.epoch.record import Held, Record
from zkmig.epoch.transitions import IMAGES, Image
from zkmig.errors import NotPermitted, OtherIncarnation, Refused, Unreachable, ZkmigError
from zkmig.model.acl import AclList
from zkmig.model.scope import Scope
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.source.treewatch import TreeWatch
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.faults import SessionExpired
from zkmig.wire.replies import AclResult
from zkmig.wire.requests import GetAcl

INTERVAL_S: Final = 30.0
"""Between two looks at all paths."""

TICK_S: Final = 1.0
"""Between two looks at the record, where nothing is told meanwhile."""

RETRY_S: Final = 0.5
LOOK_PATHS: Final = 1_000
ACL_DEPTH: Final = 64

LOOKS_MAX: Final = 3
"""So many looks in a row that do not count are told of; and so many are tried at the end."""

What = Literal[
    "following",
    "put_back",
    "changed",
    "heartbeat",
    "lost",
    "back",
    "paused",
    "resumed",
    "held",
    "released",
    "unjudged",
    "blind",
    "superseded",
    "ended",
]


@dataclass(frozen=True, slots=True)
class Sighting:
    """One thing seen while watching. at, first_seen, last_seen: Unix seconds, by our own clock.

    event: "following" (an epoch; paths: how many), "put_back" (path, kind, count so far, what it holds as a hash),
    "changed" (path: by others, to another value; text: how), "heartbeat" (a look at all paths is over), "superseded"
    (the next epoch was committed) and "ended". Each of these has put_back, times, now and changed, all of this epoch:
    paths that were put back, how often together, how many still are, paths changed by others. Else text says what there
    is to know: "unjudged" what cannot be told of paths, and why; "blind" that looks do not count. written_at: by the
    servers' clock.
    """

    event: What
    at: float
    epoch: int
    text: str = ""
    path: str | None = None
    kind: PutBackKind | None = None
    count: int | None = None
    first_seen: float | None = None
    last_seen: float | None = None
    written_at: float | None = None
    data_hash: str | None = None
    paths: int | None = None
    put_back: int | None = None
    times: int | None = None
    now: int | None = None
    changed: int | None = None


@dataclass(frozen=True, slots=True)
class _Followed:
    """An epoch, its attempt, and what is expected on each of its paths."""

    attempt: Attempt
    journal: Journal
    has_hidden_acls: bool
    expected: dict[str, Expected]
    seen: LeftAsSeen

    @property
    def epoch(self) -> int:
        return self.attempt.note.epoch


class Watching:
    """Follows one scope. connect: opens a session; find: which scope it is. epoch: stay with that one.

    Raises, from `run`: Refused (nothing was committed yet, another epoch is the last one, or its undo is not kept),
    OtherIncarnation (the scope was removed), Stopped, and Unreachable where it could not connect, or could not look
    when its time was over: not connected, an epoch open, or a record that moved during every look. A loss in between
    is told, and not raised. "ended" is told before what ends it is raised.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        find: Callable[[Client], ControlPaths],
        stop: StopRequest,
        *,
        epoch: int | None = None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.tally = Tally()
        self._connect = connect
        self._find = find
        self._stop = stop
        self._pinned = epoch
        self._interval_s = interval_s
        self._known = Known()
        self._dirty: set[str] = set()
        self._is_whole = False  # whether all paths were looked at, and everything since then was told or polled
        self._look_at = 0.0
        self._is_live = True
        self._carried: set[str] = set()  # attempts that were taken back, and whose versions are in `_known`
        self._is_uncarried = False  # whether one was taken back whose versions nobody knows
        self._told_state = ""
        self._told_hold: tuple[str, str, float, bool] | None = None
        self._told_unjudged: set[str] = set()
        self._failed_looks = 0  # in a row
        self._is_paused_at_end = False
        self._looked_at = time.time()  # when the last look at all paths began that counts

    def run(self, *, once: bool = False, for_s: float | None = None) -> Generator[Sighting, None, None]:
        """Everything seen, as it is seen. once: look once. for_s: end then, with a last look."""
        deadline = None if for_s is None else time.monotonic() + for_s
        self._client = self._connect()
        try:
            self._names = self._find(self._client)
            self._record = read_record(self._client, self._names)[0]
            self._followed = self._load(self._record, self._pinned)
            yield from self._following()
            try:
                yield from self._follow(once, deadline)
            except ZkmigError:
                yield self._sum("ended")
                raise
            yield self._sum("ended")
        finally:
            self._client.close()

    def _follow(self, once: bool, deadline: float | None) -> Generator[Sighting, None, None]:
        self._watch_tree()
        is_over = False
        last_looks = 0
        while not is_over:
            is_last = once or (deadline is not None and time.monotonic() >= deadline)
            self._is_whole = self._is_whole and not is_last
            try:
                is_over = yield from self._turn(once, is_last, self._wait_s(deadline))
            except Unreachable as error:
                if once:
                    raise
                yield from self._come_back(error, deadline)
                continue
            last_looks += is_last
            if not is_over and is_last and not self._is_whole and last_looks >= LOOKS_MAX:
                raise self._not_seen("the record moved during each of the last looks, so none of them counts")
            is_over = is_over or (is_last and self._is_whole)
        if self._is_paused_at_end:
            raise self._not_seen("an epoch is open or being rolled back, so there was no last look")

    def _not_seen(self, what: str) -> Unreachable:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._looked_at))
        return Unreachable(what, self._names.record, f"what happened since {when} is not known; watch for longer")

    def _wait_s(self, deadline: float | None) -> float:
        """For how long to wait for a hint before the next turn."""
        now = time.monotonic()
        if self._told_state and not self._is_live:
            return TICK_S if deadline is None else max(0.0, min(TICK_S, deadline - now))
        if not self._is_whole:
            return 0.0
        until = min(now + TICK_S, self._look_at)
        return max(0.0, (until if deadline is None else min(until, deadline)) - now)

    # -- what is followed ---------------------------------------------------------------------------------------------

    def _load(self, record: Record, epoch: int | None) -> _Followed:
        where = self._names.record
        if record.epoch == 0:
            raise Refused("no epoch has been committed yet, so there is none to watch", where)
        if epoch is not None and epoch != record.epoch:
            what = f"epoch {epoch} is not the last committed one, which is {record.epoch}"
            raise Refused(what, where, f"only the last one can be watched: --epoch {record.epoch}")
        attempts = read_attempts(self._client, self._names, record)
        for one in attempts:
            if one.fate is Fate.COMMITTED and one.note.epoch == record.epoch:
                return self._load_attempt(one, attempts)
        raise _not_kept(record.epoch, self._names.epochs)

    def _load_attempt(self, attempt: Attempt, attempts: Sequence[Attempt]) -> _Followed:
        place = home_of(self._names, attempt.note)
        if not attempt.is_kept or attempt.note.fate is not Fate.COMMITTED or not attempt.note.manifest_hash:
            raise _not_kept(attempt.note.epoch, place.home)
        try:
            journal, has_hidden_acls = load_as_seen(self._client, place, attempt.note.manifest_hash)
        except JournalMissing as error:
            raise _not_kept(attempt.note.epoch, place.home) from error
        return self._expecting(attempt, journal, has_hidden_acls, attempts)

    def _expecting(
        self, attempt: Attempt, journal: Journal, has_hidden_acls: bool, attempts: Sequence[Attempt]
    ) -> _Followed:
        later = rolled_back_since(attempts, attempt)
        seen = left_as_seen(self._client, self._names, attempt, journal, has_hidden_acls, later)
        steps = {step.path: step for step in journal.acls}
        entries = journal.by_path()
        expected = {path: Expected(entries[path], one, steps.get(path)) for path, one in seen.left.items()}
        return _Followed(attempt, journal, has_hidden_acls, expected, seen)

    def _following(self) -> Iterator[Sighting]:
        """Begin anew with the epoch that is followed now."""
        self.tally = Tally()
        self._known = Known()
        self._carried = set(self._followed.seen.shifts)
        self._is_whole, self._is_uncarried = False, False
        yield self._sum("following")
        yield from self._tell_unjudged()

    def _carry(self, attempts: Sequence[Attempt]) -> None:
        """Attempts were rolled back: the same values, under other versions, which are not those of others."""
        old = self._followed
        self._followed = self._expecting(old.attempt, old.journal, old.has_hidden_acls, attempts)
        shifts = self._followed.seen.shifts
        new = [one.note.attempt for one in rolled_back_since(attempts, old.attempt)]
        for name in new:
            if name in self._carried:
                continue
            self._carried.add(name)
            self._is_uncarried |= name not in shifts
            for path, shift in shifts.get(name, {}).items():
                self._known.carry(path, shift)

    def _tell_unjudged(self) -> Iterator[Sighting]:
        """What this identity may not know, once."""
        seen, epoch = self._followed.seen, self._followed.epoch
        texts = [
            f"{len(paths)} paths that attempt {name}, rolled back since, has touched: what it has left there may not "
            "be read by this identity, so until now only old values are told from others"
            for name, paths in seen.unknown.items()
        ]
        if seen.has_hidden_acls:
            texts.append(f"ACLs of epoch {epoch} are not judged: its undo does not show them to this identity")
        for text in texts:
            if text not in self._told_unjudged:
                self._told_unjudged.add(text)
                yield self._sighting("unjudged", text=text)

    # -- one turn -----------------------------------------------------------------------------------------------------

    def _turn(self, once: bool, is_last: bool, wait_s: float) -> Generator[Sighting, None, bool]:
        """Wait for a hint, look at the record, and read again what may have moved. Returns whether all is over."""
        self._dirty |= self._hints(wait_s)
        record = read_record(self._client, self._names)[0]
        self._dirty |= self._hints(0.0)
        if record.incarnation != self._record.incarnation:
            raise OtherIncarnation("the scope was removed and created again", self._names.home, "watch it again")
        yield from self._tell_state(record)
        self._is_live = IMAGES[record.state] is Image.LIVE
        if not self._is_live:
            self._dirty.clear()  # written by the migration; all is looked at again when it is over
            self._is_whole = False
            if once:
                raise Refused(
                    "a migration is under way, so nothing can be looked at", self._names.record, "wait for it"
                )
            self._is_paused_at_end = is_last
            return is_last
        if (record.epoch, record.committed_attempt) != (self._record.epoch, self._record.committed_attempt):
            yield from self._look_back(record)
            yield self._sum("superseded", text=f"epoch {record.epoch} was committed")
            if self._pinned is not None:
                return True
            self._followed = self._load(record, None)
            yield from self._following()
        elif record.last != self._record.last:
            # An attempt was rolled back or aborted: the same values, perhaps under other versions.
            self._carry(read_attempts(self._client, self._names, record))
            self._is_whole = False
            yield from self._tell_unjudged()
        self._record = record
        is_all = is_last or not self._is_whole or time.monotonic() >= self._look_at
        yield from self._look(is_all)
        return False

    def _hints(self, wait_s: float) -> set[str]:
        if not self._watch.is_set:
            if wait_s:
                self._client.take_watch_events(wait_s)  # waits, and notices a loss
            return set()
        if wait_s:
            self._watch.wait(wait_s)
        told = self._watch.take()
        if not self._watch.is_whole:
            self._watch_tree()
        expected = self._followed.expected
        return {path for path in told if path in expected}

    def _watch_tree(self) -> None:
        """Set the watch anew: whatever was told before is not all that happened."""
        self._watch = TreeWatch(self._client, Scope(self._record.root))
        with suppress(NotPermitted):
            self._watch.begin()
        self._forget()

    def _forget(self) -> None:
        """Nothing is known any more of what happened since the last look."""
        self._dirty.clear()
        self._is_whole = False

    def _tell_state(self, record: Record) -> Iterator[Sighting]:
        state = record.state.value
        if state != self._told_state:
            if IMAGES[record.state] is not Image.LIVE:
                what = f"epoch {record.target_epoch} is {state}: what it writes itself is not looked at"
                yield self._sighting("paused", text=what)
            elif self._told_state:
                yield self._sighting("resumed", text=f"the scope is {state}")
            self._told_state = state
        hold = _key_of(record.held)
        if hold != self._told_hold:
            text = record.held.told() if record.held is not None else ""
            yield self._sighting("released" if record.held is None else "held", text=text)
            self._told_hold = hold

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self, is_all: bool) -> Iterator[Sighting]:
        """Read paths again, and tell of them, if the record has not moved until then; else it is done over."""
        wanted = self._followed.expected.keys() if is_all else self._dirty
        if not wanted and not is_all:
            return
        begun = time.time()
        moved = [one for chunk in _chunks(wanted) for one in self._moved(chunk)]
        if not is_same_but_for_hold(read_record(self._client, self._names)[0], self._record):
            self._failed_looks += 1
            if self._failed_looks == LOOKS_MAX:
                text = f"{LOOKS_MAX} looks in a row do not count, since the record moved during each; nothing is seen"
                yield self._sighting("blind", text=text)
            return
        self._failed_looks = 0
        for path, now, verdicts in moved:
            yield from self._count(path, now, verdicts)
        self._dirty.clear()  # what is told from now on is in the watch
        if is_all:
            self._is_whole, self._is_uncarried = True, False
            self._look_at, self._looked_at = time.monotonic() + self._interval_s, begun
            yield self._sum("heartbeat")

    def _look_back(self, record: Record) -> Iterator[Sighting]:
        """A last look at the epoch that was followed, after the next was committed: what others did before that.

        What the next has written is told by its undo, as it was when it was opened; all else is as it is.
        """
        followed = self._followed
        found = self._found_by(record) if record.epoch == followed.epoch + 1 else None
        if found is not None:
            by_undo = [one for path, one in found.items() if path in self._followed.expected]
            others = [path for path in self._followed.expected if path not in found]
            moved = [one for chunk in _chunks(others) for one in self._moved(chunk)]
            moved += self._judged([node for node, _ in by_undo], {node.path: acl for node, acl in by_undo})
        if found is None or not is_same_but_for_hold(read_record(self._client, self._names)[0], record):
            when = time.strftime("%H:%M:%S", time.localtime(self._looked_at))
            text = f"what happened to the paths of epoch {followed.epoch} between {when} and the next is not known"
            yield self._sighting("unjudged", text=text)
            return
        for path, now, verdicts in moved:
            yield from self._count(path, now, verdicts)

    def _found_by(self, record: Record) -> dict[str, tuple[Found, AclList]] | None:
        """What the attempt that was committed now has found on each path that it writes; None where that is not known:
        its undo is not kept, or another attempt has come since."""
        last = record.last
        attempts = read_attempts(self._client, self._names, record)
        for one in attempts:
            if one.note.attempt != record.committed_attempt or one.note.epoch != record.epoch or not one.is_kept:
                continue
            if last is None or last.attempt != record.committed_attempt or not one.note.manifest_hash:
                return None
            place = home_of(self._names, one.note)
            try:
                journal, _ = load_as_seen(self._client, place, one.note.manifest_hash)
            except (JournalMissing, NotPermitted):
                return None
            self._carry(attempts)
            entries = journal.by_path().items()
            return {path: _as_found(entry) for path, entry in entries if entry.action is not Action.TOUCHED}
        return None

    def _moved(self, paths: Sequence[str]) -> Iterator[tuple[str, Versions | None, list[Verdict]]]:
        """Those of the paths that are not as they were at the last look, with what is to be said of each."""
        found = [one for one in self._read(paths) if self._known.has_moved(one.path, versions_of(one.stat))]
        expected = self._followed.expected
        acls = self._acls(
            [one.path for one in found if one.stat is not None and expected[one.path].wants_acl(one.stat)]
        )
        return self._judged(found, acls)

    def _judged(
        self, found: Sequence[Found], acls: Mapping[str, AclList]
    ) -> Iterator[tuple[str, Versions | None, list[Verdict]]]:
        for one in found:
            if self._known.has_moved(one.path, versions_of(one.stat)):
                verdicts = judge(self._followed.expected[one.path], one, acls.get(one.path))
                yield one.path, versions_of(one.stat), verdicts

    def _read(self, paths: Sequence[str]) -> list[Found]:
        try:
            return [
                Found(one.path, one.data, one.stat) if isinstance(one, NodeRead) else Found(one.path)
                for one in read_nodes(self._client, paths)
            ]
        except NotPermitted:
            return look(self._client, paths)  # one by one: those that may not be read are told by their Stats

    def _acls(self, paths: Sequence[str]) -> dict[str, AclList]:
        replies = self._client.pipeline(map(GetAcl, paths), ACL_DEPTH)
        found = zip(paths, replies, strict=True)
        return {path: reply.result.acl for path, reply in found if isinstance(reply.result, AclResult)}

    def _count(self, path: str, now: Versions | None, verdicts: Sequence[Verdict]) -> Iterator[Sighting]:
        is_first, before = self._known.saw(path, now)
        if self._is_uncarried:
            before = now
        if not verdicts:
            self.tally.saw_as_left(path)
        for verdict in verdicts:
            if self.tally.saw(verdict, before, now, is_first, time.time()):
                assert verdict.kind is not None
                one = self.tally.put_back[path, verdict.kind]
                yield self._sum(
                    "put_back",
                    text=verdict.reason,
                    path=path,
                    kind=verdict.kind,
                    count=one.count,
                    first_seen=one.first_seen,
                    last_seen=one.last_seen,
                    written_at=verdict.written_at,
                    data_hash=verdict.data_hash,
                )
            elif verdict.kind is None:
                yield self._sum(
                    "changed",
                    text=verdict.reason,
                    path=path,
                    written_at=verdict.written_at,
                    data_hash=verdict.data_hash,
                )

    def _sum(self, event: What, **fields: Any) -> Sighting:
        tally = self.tally
        return self._sighting(
            event,
            paths=len(self._followed.expected),
            put_back=tally.paths,
            times=tally.times,
            now=tally.now,
            changed=len(tally.changed),
            **fields,
        )

    def _sighting(self, event: What, **fields: Any) -> Sighting:
        return Sighting(event, time.time(), self._followed.epoch, **fields)

    # -- losses -------------------------------------------------------------------------------------------------------

    def _come_back(self, error: Unreachable, deadline: float | None) -> Iterator[Sighting]:
        """Connect again, however long it takes; then all paths are to be looked at. Raises the loss at the deadline."""
        since = time.time()
        yield self._sighting("lost", text=error.what)
        while True:
            self._stop.check()
            try:
                try:
                    self._client.reconnect()
                except SessionExpired:
                    self._client.close()
                    self._client = self._connect()
                self._watch_tree()
                break
            except Unreachable as again:
                if deadline is not None and time.monotonic() >= deadline:
                    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
                    hint = f"what happened since {when} is not known"
                    raise Unreachable(again.what, again.where, hint) from again
                time.sleep(RETRY_S)
        yield self._sighting(
            "back", text=f"connected again after {time.time() - since:.1f} s; all paths are read again"
        )


def _not_kept(epoch: int, where: str) -> Refused:
    return Refused(f"the undo of epoch {epoch} is not kept, so what was there before is not known", where)


def _key_of(held: Held | None) -> tuple[str, str, float, bool] | None:
    """What makes it another hold, or worth another word."""
    return None if held is None else (held.holder, held.reason, held.since, held.is_expired())


def _as_found(entry: Entry) -> tuple[Found, AclList]:
    before = entry.before
    return (Found(entry.path), ()) if before is None else (Found(entry.path, before.data, before.stat), before.acl)


def _chunks(paths: Collection[str]) -> Iterator[list[str]]:
    wanted = list(paths)
    for start in range(0, len(wanted), LOOK_PATHS):
        yield wanted[start : start + LOOK_PATHS]
