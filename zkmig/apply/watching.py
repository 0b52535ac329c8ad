"""Watching: a committed epoch is followed, and whoever puts its paths back is named. Nothing is written.

What it has left on its paths, and what is there instead, is told by `zkmig.apply.watched`. A watch over the tree is
a hint of what to read again (`zkmig.source.treewatch`); all paths are read now and then in any case, since ACLs fire
no watch, and after every loss: what happened while nobody was told is found then. Without the hint, that is all.

What was read counts only if the record was the same before and after: then the tree was live, and no migration has
written in between. A hold alone may come and go meanwhile. While an epoch is open, its own writes are not looked
at. When the next has been committed, the paths of the one before are looked at once more, those of both as the undo of
the next has found them; then the next is followed, or, if one was pinned, all is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from zkmig.apply.putbacks import PutBackKind, Verdict
from zkmig.apply.watched import Moved, last_committed
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.guarded import is_same_but_for_hold
from zkmig.epoch.record import Held, Record, shown_time
from zkmig.epoch.transitions import IMAGES, Image
from zkmig.errors import NotPermitted, OtherIncarnation, Refused, Unreachable, ZkmigError
from zkmig.model.scope import Scope
from zkmig.source.treewatch import TreeWatch
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.faults import SessionExpired

INTERVAL_S: Final = 30.0
"""Between two looks at all paths."""

TICK_S: Final = 1.0
"""Between two looks at the record, where nothing is told meanwhile."""

RETRY_S: Final = 0.5

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
        self._connect = connect
        self._find = find
        self._stop = stop
        self._pinned = epoch
        self._interval_s = interval_s
        self._dirty: set[str] = set()
        self._is_whole = False  # whether all paths were looked at, and everything since then was told or polled
        self._look_at = 0.0
        self._is_live = True
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
            self._followed = last_committed(self._client, self._names, self._record, self._pinned)
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
        when = shown_time(self._looked_at)
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

    def _following(self) -> Iterator[Sighting]:
        """Begin anew with the epoch that is followed now."""
        self._is_whole = False
        yield self._sum("following")
        yield from self._tell_unjudged()

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
            self._followed = last_committed(self._client, self._names, record, None)
            yield from self._following()
        elif record.last != self._record.last:
            # An attempt was rolled back or aborted: the same values, perhaps under other versions.
            self._followed.carry(self._client, self._names, read_attempts(self._client, self._names, record))
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
        moved = self._followed.moved(self._client, wanted)
        if not is_same_but_for_hold(read_record(self._client, self._names)[0], self._record):
            self._failed_looks += 1
            if self._failed_looks == LOOKS_MAX:
                text = f"{LOOKS_MAX} looks in a row do not count, since the record moved during each; nothing is seen"
                yield self._sighting("blind", text=text)
            return
        self._failed_looks = 0
        yield from self._count(moved)
        self._dirty.clear()  # what is told from now on is in the watch
        if is_all:
            self._is_whole, self._followed.is_uncarried = True, False
            self._look_at, self._looked_at = time.monotonic() + self._interval_s, begun
            yield self._sum("heartbeat")

    def _look_back(self, record: Record) -> Iterator[Sighting]:
        """A last look at the epoch that was followed, after the next was committed: what others did before that."""
        moved = self._followed.moved_before(self._client, self._names, record)
        if moved is None or not is_same_but_for_hold(read_record(self._client, self._names)[0], record):
            when = shown_time(self._looked_at)
            epoch = self._followed.epoch
            text = f"what happened to the paths of epoch {epoch} between {when} and the next is not known"
            yield self._sighting("unjudged", text=text)
            return
        yield from self._count(moved)

    def _count(self, moved: Iterable[Moved]) -> Iterator[Sighting]:
        for one in moved:
            for verdict in self._followed.count(one):
                yield self._told(verdict)

    def _told(self, verdict: Verdict) -> Sighting:
        what = {
            "text": verdict.reason,
            "path": verdict.path,
            "written_at": verdict.written_at,
            "data_hash": verdict.data_hash,
        }
        if verdict.kind is None:
            return self._sum("changed", **what)
        one = self._followed.tally.put_back[verdict.path, verdict.kind]
        return self._sum(
            "put_back",
            kind=verdict.kind,
            count=one.count,
            first_seen=one.first_seen,
            last_seen=one.last_seen,
            **what,
        )

    def _sum(self, event: What, **fields: Any) -> Sighting:
        tally = self._followed.tally
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
                    when = shown_time(since)
                    hint = f"what happened since {when} is not known"
                    raise Unreachable(again.what, again.where, hint) from again
                time.sleep(RETRY_S)
        yield self._sighting(
            "back", text=f"connected again after {time.time() - since:.1f} s; all paths are read again"
        )


def _key_of(held: Held | None) -> tuple[str, str, float, bool] | None:
    """What makes it another hold, or worth another word."""
    return None if held is None else (held.holder, held.reason, held.since, held.is_expired())
