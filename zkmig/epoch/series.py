"""A series: many guarded multis, pipelined, of which each applies only after all before it, or not at all.

All that is under way at a time was sent under one head. When the record has moved for a hold, all of it fails: the
answers are drained, the hold is adopted, and the series goes on from the first that did not apply. A beat may adopt it
earlier, between two answers: then nothing more is sent until the rest is answered. Else one sent under the new head
could apply behind another, of the old head, that has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zkmig.epoch.guarded import HEAD_LENGTH, failed_at, is_record_moved, multi_result
from zkmig.epoch.pace import Pace
from zkmig.epoch.sending import SENDS_MAX, Sending
from zkmig.errors import Outcome, OutcomeUnknown
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.replies import MultiResult, Reply
from zkmig.wire.requests import Multi, WriteOp


class Writer(Protocol):
    """What a series needs of its migrator; see there."""

    client: Client
    stop: StopRequest
    sending: Sending
    record_version: int

    def beat(self) -> None: ...
    def guarded(self, operations: Sequence[WriteOp]) -> Multi: ...
    def adopt(self, result: MultiResult, in_doubt: bool = False) -> bool: ...
    def raise_if_head_failed(self, result: MultiResult, resent: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class SeriesFailure:
    """Multi number `index` of a series failed in its own operations; it and all after it did not apply."""

    index: int
    result: MultiResult

    @property
    def operation(self) -> int:
        """Index into the operations of that multi (the head not counted)."""
        assert self.result.failed_index is not None
        return self.result.failed_index - HEAD_LENGTH


@dataclass
class Series:
    """One series of a migrator; the arguments are those of `Migrator.write_series`. done: how many have applied."""

    migrator: Writer
    operations_of: Callable[[int], Sequence[WriteOp]]
    done: int
    total: int
    witness: int
    pace: Pace
    progress: Callable[[int], None]
    landed: Callable[[int, int], None]
    _sent: int = 0
    _head_version: int = -1  # of the record, in the head of all that is under way
    _doubtful: int = field(init=False)  # multis below this number were sent on a connection that was lost
    _failure: SeriesFailure | None = None
    _moved: MultiResult | None = None  # of the first that failed since the record has moved

    def __post_init__(self) -> None:
        self._doubtful = self.done

    def run(self) -> SeriesFailure | None:
        """Send all of it; see `Migrator.write_series`."""
        migrator, losses = self.migrator, 0
        while self.done < self.total:
            before = self.done
            self._begin()
            try:
                with migrator.stop.patiently():
                    for reply in migrator.client.pipeline(self._requests(), self._depth):
                        self.pace.answered()
                        self._take(reply)
            except (OutcomeUnknown, ConnectionLost):
                losses = losses + 1 if self.done == before else 1
                if losses == SENDS_MAX:
                    raise
                self._doubtful = max(self._doubtful, self._sent)
                migrator.sending.take_up(losses, migrator.guarded(self.operations_of(self.done)))
                continue
            if self._failure is not None:
                return self._failure
            if self._moved is not None:
                self._adopt(self._moved)
            if self.done < self.total and migrator.stop.requested:
                raise migrator.stop.error(Outcome.PARTLY_WRITTEN)
        return None

    def _begin(self) -> None:
        """From the first that has not applied, under the head of now."""
        self._sent, self._moved, self._head_version = self.done, None, self.migrator.record_version
        self.pace.restarted()

    def _depth(self) -> int:
        return 1 if self._is_doubtful else self.pace.depth()  # what is sent again is judged one by one

    @property
    def _is_doubtful(self) -> bool:
        return self.done < self._doubtful

    def _requests(self) -> Iterator[Multi]:
        """Made when the connection can take the next one; ends on failure, under another head, on a stop request."""
        migrator = self.migrator
        while self._sent < self.total and self._failure is None and self._moved is None:
            operations = self.operations_of(self._sent)
            self.pace.wait_for_turn(len(operations), migrator.beat)
            if migrator.stop.requested or migrator.record_version != self._head_version:
                return
            self._sent += 1
            yield migrator.guarded(operations)

    def _take(self, reply: Reply) -> None:
        """One more answer. Those behind a failure fail at the witness or at the record: drained, not judged."""
        if self._failure is not None or self._moved is not None:
            return
        if reply.error == 0:
            self.landed(self.done, reply.zxid)
        else:
            result = multi_result(reply)
            if is_record_moved(result):
                self._moved = result
                return
            self.migrator.raise_if_head_failed(result, self._is_doubtful)
            if not (self._is_doubtful and failed_at(result, self.witness)):
                self._failure = SeriesFailure(self.done, result)
                return
        self.done += 1
        self.progress(self.done)

    def _adopt(self, result: MultiResult) -> None:
        """Nothing is under way any more, and nothing under the old head can apply: go on under that of the hold."""
        if self.migrator.record_version != self._head_version:
            return  # a beat has done it
        if not self.migrator.adopt(result, self._is_doubtful):
            self.migrator.raise_if_head_failed(result, self._is_doubtful)
