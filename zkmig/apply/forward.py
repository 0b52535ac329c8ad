"""Forward: from a plan to its committed epoch, and on from wherever an earlier process stopped.

The steps are those of the transition table; each is safe to repeat, because every write is conditional on something
that only this migration changes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn

from zkmig.apply.aclsteps import born_before, born_until, finals, tightenings, write_acls
from zkmig.apply.batches import CURSOR, BatchWriter, fitting
from zkmig.apply.conflicts import PutBacks, acls_given, examine_conflict
from zkmig.apply.drain import Drain, settle_evicted
from zkmig.apply.judging import Rulings, public_reason, reason_of
from zkmig.apply.obstacles import first_replaced
from zkmig.apply.options import DRAIN_TIMEOUT_S, Applied, Options, Progress, say_hold
from zkmig.apply.pacing import Pacing, paced
from zkmig.apply.preflight import examine
from zkmig.apply.preimage import Preimage, recheck, take_preimage
from zkmig.apply.quotas import quotas_set, write_quotas
from zkmig.apply.upload import Uploaded, upload
from zkmig.apply.verify import REPLACED, Deviation, find_deviations, why, written_nodes
from zkmig.epoch.attempts import Fate, PutBack, own_note, shortened, transition_noted
from zkmig.epoch.control import AttemptPaths
from zkmig.epoch.journal import Journal, load
from zkmig.epoch.owner import HEAD_LENGTH, Migrator
from zkmig.epoch.record import RULES, ConflictNote, LastOutcome, Pending, Record
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, NotPermitted, Outcome, PlanImpossible, Refused, Stopped, ZkmigError
from zkmig.model.quota import Quota
from zkmig.plan.operations import DeleteNode, WriteData
from zkmig.plan.plan import RECORD_BYTES_MAX, Plan
from zkmig.plan.preflight import refuse
from zkmig.policy.captures import any_of
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import probe_frame_limit
from zkmig.wire.codes import Code, code_name
from zkmig.wire.replies import MultiResult
from zkmig.wire.requests import MULTI_OVERHEAD, Check, Multi, WriteOp, frame_size, operation_size

# What a caller of `Forward` needs to name is found here too.
__all__ = ["DRAIN_TIMEOUT_S", "Applied", "Forward", "Options", "Progress", "abort", "attempt_of", "cursor_version"]

JUDGED_MAX = 10  # how often, before a tree that others keep changing is left to people
KEEPS_CHANGING = "keeps changing while it is judged by the rules"
UNSOUND_NAMED_MAX = 20


@dataclass
class Forward:
    """Carries one plan to its commit, as the owner of the scope."""

    migrator: Migrator
    plan: Plan
    plan_hash: str
    options: Options
    journal: Journal = field(default_factory=lambda: Journal(()))  # what the plan creates may be left out
    zxids: dict[int, int] = field(default_factory=dict)  # at which a batch has applied, as far as answers have told
    rulings: Rulings = field(init=False)

    def __post_init__(self) -> None:
        migrator = self.migrator

        def between() -> None:
            migrator.stop.check()
            migrator.beat()

        self.rulings = Rulings(migrator.client, self.plan, migrator.names.control, self.options.say, between)

    # -- the whole way ------------------------------------------------------------------------------------------------

    def run(self, epoch: int) -> Applied:
        """From STABLE or EMPTY to the commit of `epoch`."""
        single_shot = self._probe_frames(self.decide_single_shot())
        preimage = take_preimage(self.migrator.client, self.plan, self.migrator.record.root)
        self._preflight(preimage)
        self.rulings.predicted()
        with self._paced(0 if single_shot else len(self.plan.batch_ends)) as pacing:
            try:
                uploaded = upload(
                    self.migrator, self.plan, self.plan_hash, preimage, epoch, self.options, pacing, self._takes
                )
            except Stopped as stopped:
                stopped.outcome = Outcome.NOTHING_WRITTEN  # a journal that no record names is of no effect
                raise
            self.journal = preimage.journal
            self._prepare(epoch, uploaded)
            return self._from_preparing(single_shot, pacing)

    def resume(self) -> Applied:
        """From PREPARING or OPEN to the commit."""
        record = self.migrator.record
        if record.plan_hash != self.plan_hash:
            raise Refused("this is not the plan of the open epoch", self.migrator.names.record, "give that plan file")
        assert record.manifest_hash is not None
        say_hold(record, self.options.say)
        _, self.journal = load(self.migrator.client, self._attempt(), record.manifest_hash)
        if record.state is State.PREPARING:
            single_shot = self._probe_frames(self.decide_single_shot())
            with self._paced(0 if single_shot else len(self.plan.batch_ends)) as pacing:
                return self._from_preparing(single_shot, pacing)
        applied = self._cursor_version()
        replaced = first_replaced(self.migrator.client, self.plan, applied)
        if replaced is not None:
            self._record_conflict(Deviation(replaced[0], REPLACED), "write", replaced[1])
        if record.conflict is not None:
            # To be met again, or passed: then nobody is to be told any more to remove what stands on its path.
            self._must(self.migrator.record.updated(conflict=None))
        with self._paced(len(self.plan.batch_ends) - applied) as pacing:
            return self._from_open(pacing)

    def _paced(self, batches: int) -> AbstractContextManager[Pacing]:
        options, migrator = self.options, self.migrator
        return paced(
            batches, migrator.stop, options.open_probe, migrator.names.record, options.writes_per_s, migrator.client
        )

    def _from_preparing(self, single_shot: bool, pacing: Pacing) -> Applied:
        try:
            self.options.say("draining")
            Drain(self.migrator, self.options.drain_timeout_s, self.options.say, self.options.evict).wait()
            recheck(self.migrator.client, self.plan, self.migrator.record.root)
            self.rulings.predicted()
        except ZkmigError as error:
            self._abort_before_writing(error)
            raise
        if single_shot:
            return self._commit_single_shot()
        self._open()
        return self._from_open(pacing)

    def _abort_before_writing(self, error: ZkmigError) -> None:
        """Nothing was written yet, so that nobody needs to wait for a decision, whatever has gone wrong."""
        try:
            abort(self.migrator, reason_of(error))
        except ZkmigError:
            if isinstance(error, Refused | Stopped):
                raise  # else the first one says more

    def _from_open(self, pacing: Pacing) -> Applied:
        self._tighten()
        self._write_batches(pacing)
        return dataclasses.replace(self._commit(), tempo=pacing.seen())

    # -- before the epoch ---------------------------------------------------------------------------------------------

    def decide_single_shot(self) -> bool:
        """Whether all goes into the one multi that moves the record; Refused when that is required and impossible."""
        reason = self.plan.why_not_single_shot()
        if self.options.single_shot == "require" and reason:
            raise Refused(f"a single shot is not possible: {reason}", hint="use --single-shot auto")
        return self.options.single_shot != "never" and reason is None

    def _probe_frames(self, single_shot: bool) -> bool:
        """Whether it still is to be a single shot, once the server was asked about the frames it will be sent.

        Frames above a batch's usual size are tried on a throw-away connection first: a server that refuses one only
        drops the connection, which looks like any other loss [zookeeper-facts 11]. So are those that undo them.
        """
        overhead = MULTI_OVERHEAD + self.plan.head_bytes
        largest = overhead + max(map(max, self.plan.batch_sizes()), default=0)
        if not self._takes(largest):
            raise PlanImpossible(
                f"its largest transaction takes {largest} bytes, more than this server accepts",
                "",
                "raise jute.maxbuffer on every server of the target, or plan again with smaller nodes",
            )
        if not single_shot or self._takes(self.plan.single_shot_bytes):
            return single_shot
        if self.options.single_shot == "require":
            what = f"a single shot takes {self.plan.single_shot_bytes} bytes, more than this server accepts"
            raise Refused(what, hint="use --single-shot auto")
        return False

    def _takes(self, frame_bytes: int) -> bool:
        """Whether every server takes a frame of that size; one of a batch's usual size they do.

        All have to: a follower that took a larger frame than others do would throw these out [zookeeper-facts 38].
        """
        if frame_bytes <= self.plan.limits.batch_bytes_max:
            return True
        if self.options.all_take is not None:
            return self.options.all_take(frame_bytes)
        client = self.migrator.client
        return probe_frame_limit([client.server], frame_bytes, client.tls)

    def _preflight(self, preimage: Preimage) -> None:
        """Refuse what the target would refuse midway; say what may surprise. Nothing but the lock is written yet."""
        findings = examine(self.migrator.client, self.plan, preimage, ignore_quotas=self.options.ignore_quotas)
        refuse(findings)
        for finding in findings:
            self.options.say(f"warning: {finding}")

    def _prepare(self, epoch: int, uploaded: Uploaded) -> None:
        record = self.migrator.record
        prepared = record.moved(
            "prepare",
            State.PREPARING,
            base=record.state,
            target_epoch=epoch,
            attempt=uploaded.attempt,
            plan_hash=self.plan_hash,
            manifest_hash=uploaded.manifest_hash,
            batches_total=len(self.plan.batch_ends),
            conflict=None,
        )
        self._must(prepared, fate=Fate.UNDER_WAY, manifest_hash=uploaded.manifest_hash)

    def _must(self, record: Record, **noted: Any) -> None:
        """A transition with nothing but its note can fail only in its head."""
        result = transition_noted(self.migrator, record, **noted)
        if result.failed_index is not None:
            raise Conflict(f"the transition failed: {code_name(result.code)}", self.migrator.names.record)

    # -- the writes ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """With checks of as many paths of the plan as fit.

        What others write after the last look and before this would be shown as it was before, from now on, though views
        may have shown it already. Of absence there is no check.
        """
        touched = (op for op in self.plan.ordered.rest if isinstance(op, WriteData | DeleteNode))
        pins = ((each.path, each.pin) for each in chain(touched, self.plan.acl_steps))
        checks = fitting((Check(path, pin.version) for path, pin in pins if pin is not None), self._room())
        result = self.migrator.transition(self.migrator.record.moved("open", State.OPEN), checks)
        if result.failed_index is not None:
            self._give_up(checks[result.failed_index - HEAD_LENGTH].path, result, "open")

    def _tighten(self) -> None:
        writes = tightenings(self.journal.acls, born_before(self.journal))
        if not writes or self._cursor_version():
            return  # the first batch is only ever sent after all of them
        deviations = write_acls(self.migrator, writes)
        if deviations:
            self._record_conflict(deviations[0], "setACL", 0)

    def _write_batches(self, pacing: Pacing) -> None:
        applied = self._cursor_version()
        writer = BatchWriter(self.migrator.client, self.plan, self._attempt().cursor, applied)
        total = len(writer)
        self.options.report(Progress("write", applied, total))
        failure = self.migrator.write_series(
            writer.operations,
            applied,
            total,
            witness=CURSOR,
            pace=pacing,
            progress=lambda done: self.options.report(Progress("write", done, total, *pacing.now())),
            landed=self.zxids.__setitem__,
        )
        if failure is None:
            return
        if failure.operation == CURSOR:
            raise Conflict("the cursor was moved by somebody else", self._attempt().cursor, "run zkmig status")
        path = writer.culprit(failure.index, failure.operation - 1)
        if failure.result.code == Code.NO_AUTH:
            raise NotPermitted(
                "not permitted to write", path, "roll back, or resume as an identity that may", Outcome.PARTLY_WRITTEN
            )
        self._record_conflict(Deviation(path, why(failure.result.code)), "write", failure.index)

    def _record_conflict(self, deviation: Deviation, operation: str, batch: int) -> None:
        conflict, put_back = self._examined(deviation, operation, batch)
        self._note_conflict(conflict, put_back)
        where = "its commit" if operation in ("verify", "commit") else f"batch {batch + 1}"
        error = Conflict(
            f"{conflict.reason}; the migration stopped before {where}",
            deviation.path,
            "roll back with zkmig rollback, then plan again",
            Outcome.PARTLY_WRITTEN,
        )
        error.may_go_on = conflict.may_go_on
        raise error

    def _note_conflict(self, conflict: ConflictNote, put_back: tuple[PutBack, ...] = ()) -> None:
        """In the record and in the attempt's note, in one transaction."""
        self._must(self.migrator.record.updated(conflict=conflict), conflict=conflict, put_back=put_back)

    def _judge_written(self) -> None:
        """A conflict where the tree as written is not sound: what the plan leads to was, so others have changed it."""
        found = self.rulings.written()
        if found:
            what = f"the tree as written is not sound: {found[0]}"
            self._record_unsound(what, found[0].path, public_reason(found[0]), list(map(str, found[1:])))

    def _record_unsound(self, what: str, path: str, reason: str, others: Sequence[str] = ()) -> NoReturn:
        """what, others: for the operator, with digests; reason: for the record, which everybody reads, so that it is
        cut: neither a rule's name nor what a check calls a path is limited."""
        conflict = ConflictNote(shortened(path), RULES, shortened(reason), len(self.plan.batch_ends))
        self._note_conflict(conflict)
        error = Conflict(
            f"{what}; the migration stopped before its commit",
            "",
            "roll back with zkmig rollback, or mend the tree and resume",
            Outcome.PARTLY_WRITTEN,
        )
        error.may_go_on = conflict.may_go_on
        for other in others[:UNSOUND_NAMED_MAX]:
            error.add_note(f"  also: {other}")
        if len(others) > UNSOUND_NAMED_MAX:
            error.add_note(f"  also: {len(others) - UNSOUND_NAMED_MAX} more")
        raise error

    def _examined(self, deviation: Deviation, operation: str, batch: int) -> tuple[ConflictNote, tuple[PutBack, ...]]:
        entry = next((one for one in self.journal.entries if one.path == deviation.path and one.before), None)
        is_behind = operation in ("verify", "commit")
        nodes = written_nodes(self.plan) if is_behind else iter(())
        written = next((one for one in nodes if one.path == deviation.path), None)
        with self.migrator.stop.patiently():  # who was asked to stop still has to record it
            note, _ = own_note(self.migrator, self.migrator.record)
            puts = PutBacks(self.migrator, note)
            given = acls_given(self.plan, deviation.path)
            is_masked = any_of(self.plan.masks)(deviation.path)
            conflict = examine_conflict(
                self.migrator, puts, deviation, operation, batch, entry, written, given, is_masked=is_masked
            )
        return conflict, puts.noted

    def _cursor_version(self) -> int:
        return cursor_version(self.migrator, self._attempt().cursor)

    def _attempt(self) -> AttemptPaths:
        return attempt_of(self.migrator)

    # -- the commit ---------------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        self.options.say("verifying")
        deviations = find_deviations(self.migrator.client, self.plan, self.zxids)
        if deviations:
            self._record_conflict(deviations[0], "verify", len(self.plan.batch_ends))

    def _commit(self) -> Applied:
        """Verify, judge and commit; again where what the verdict relied on has changed in between."""
        total = len(self.plan.batch_ends)
        for tried in range(JUDGED_MAX):
            self._verify()
            self._judge_written()
            room = self._room()
            relied = fitting(self.rulings.checks(tried), room // 2)
            rest = room - sum(map(operation_size, relied))
            # Of as many plan paths as fit: written ones first, whose old versions others may still expect.
            written = fitting((Check(node.path, node.version) for node in written_nodes(self.plan)), rest)
            checks = [*relied, Check(self._attempt().cursor, total), *written]
            before_commit = self.migrator.client.last_zxid
            result = self._transition_to_commit(self._committed("commit"), checks, single_shot=False)
            if result.failed_index is None:
                break
            failed = result.failed_index - HEAD_LENGTH
            path = checks[failed].path
            if failed >= len(relied):
                self._record_conflict(Deviation(path, "changed just before the commit"), "commit", total)
            self.options.say(f"{path} has changed since it was judged")
        else:
            self._record_unsound(f"{path} {KEEPS_CHANGING}", path, KEEPS_CHANGING)
        deviations = finish_pending(self.migrator, self.journal, self.plan.quotas, self.options)
        settle_evicted(self.migrator, before_commit)
        return self._applied(total, False, deviations)

    def _transition_to_commit(self, record: Record, extra: Sequence[WriteOp], single_shot: bool) -> MultiResult:
        return transition_noted(
            self.migrator,
            record,
            extra,
            self.migrator.record,
            fate=Fate.COMMITTED,
            ended=time.time(),
            single_shot=single_shot,
            conflict=None,
            masks=self.plan.masks,  # also where the note was damaged meanwhile
        )

    def _room(self) -> int:
        """Bytes for checks in a transition that is no larger than a usual batch."""
        return self.plan.limits.batch_bytes_max - frame_size(Multi(self.migrator.head())) - RECORD_BYTES_MAX

    def _commit_single_shot(self) -> Applied:
        writer = BatchWriter(self.migrator.client, self.plan, self._attempt().cursor, 0)
        writes = writer.all_writes()
        room = self._room_of_single_shot()
        for tried in range(JUDGED_MAX):
            relied = fitting(self.rulings.checks(tried), room)
            before_commit = self.migrator.client.last_zxid
            record = self._committed("commit_single_shot")
            result = self._transition_to_commit(record, [*relied, *writes], single_shot=True)
            if result.failed_index is None:
                break
            failed = result.failed_index - HEAD_LENGTH
            if failed >= len(relied):
                self._give_up(writes[failed - len(relied)].path, result, "single shot")
            path = relied[failed].path
            self.options.say(f"{path} has changed since it was judged")
            try:
                recheck(self.migrator.client, self.plan, self.migrator.record.root)
                self.rulings.predicted()
            except ZkmigError as error:
                self._abort_before_writing(error)
                raise
        else:
            abort(self.migrator, f"{path} {KEEPS_CHANGING}")
            raise Conflict(f"{KEEPS_CHANGING}; nothing was written", path, "stop what writes it, then apply again")
        deviations = finish_pending(self.migrator, self.journal, self.plan.quotas, self.options)
        settle_evicted(self.migrator, before_commit)
        return self._applied(0, True, deviations)

    def _room_of_single_shot(self) -> int:
        """Bytes for checks of what the verdict relied on: as many as beside batches, if the servers take such a frame,
        or what is left of a usual batch."""
        limits, size = self.plan.limits, self.plan.single_shot_bytes
        left, wanted = limits.batch_bytes_max - size, limits.batch_bytes_max // 2
        if left >= wanted or not self.plan.soundness.rules:
            return left
        return wanted if size + wanted <= limits.frame_bytes_max and self._takes(size + wanted) else left

    def _give_up(self, path: str, result: MultiResult, operation: str) -> NoReturn:
        """Abort over a path that the first multi to write has failed at."""
        if result.code == Code.NO_AUTH:
            abort(self.migrator, f"not permitted to write {path}")
            raise NotPermitted("not permitted to write", path, "authenticate with --auth-file")
        conflict, put_back = self._examined(Deviation(path, why(result.code)), operation, 0)
        abort(self.migrator, f"conflict at {path}: {conflict.reason}", conflict=conflict, put_back=put_back)
        raise Conflict(f"{conflict.reason}; nothing was written", path, "plan again")

    def _committed(self, event: str) -> Record:
        record = self.migrator.record
        assert record.target_epoch is not None
        assert record.attempt is not None
        waiting = len(finals(self.journal.acls))
        return record.closed(
            event,
            State.STABLE,
            LastOutcome(record.target_epoch, record.attempt, "committed", time.time()),
            epoch=record.target_epoch,
            base=State.STABLE,
            committed_attempt=record.attempt,
            committed_plan_hash=record.plan_hash,
            pending=Pending(
                record.target_epoch, record.attempt, waiting, str(record.manifest_hash), len(self.plan.quotas)
            )
            if waiting or self.plan.quotas
            else None,
        )

    def _applied(self, batches: int, single_shot: bool, deviations: Sequence[Deviation]) -> Applied:
        record = self.migrator.record
        return Applied(
            record.epoch,
            record.committed_attempt,
            self.plan.writes,
            batches,
            single_shot,
            deviations=tuple(deviations),
            quotas=quotas_set(self.plan.quotas, deviations),
            acls=len({step.path for step in self.plan.acl_steps} - {deviation.path for deviation in deviations}),
        )


def attempt_of(migrator: Migrator) -> AttemptPaths:
    """Where the journal of the attempt under way lies."""
    record = migrator.record
    assert record.target_epoch is not None
    assert record.attempt is not None
    return migrator.names.attempt(record.target_epoch, record.attempt)


def cursor_version(migrator: Migrator, path: str) -> int:
    """Batches applied: a cursor's dataVersion is their number."""
    (node,) = read_nodes(migrator.client, [path])
    if not isinstance(node, NodeRead):
        raise Conflict("the cursor is gone", path, "run zkmig status")
    return node.stat.version


def abort(
    migrator: Migrator, reason: str, conflict: ConflictNote | None = None, put_back: tuple[PutBack, ...] = ()
) -> None:
    """PREPARING -> where it began: nothing was written. reason: for the history, never data."""
    record = migrator.record
    assert record.target_epoch is not None
    assert record.attempt is not None
    outcome = LastOutcome(record.target_epoch, record.attempt, "aborted", time.time(), reason=shortened(reason))
    closed = record.closed("abort", record.base, outcome)
    result = transition_noted(
        migrator,
        closed,
        (),
        record,
        fate=Fate.ABORTED,
        ended=outcome.at,
        reason=reason,
        conflict=conflict,
        put_back=put_back,
    )
    if result.failed_index is not None:
        raise Conflict(f"could not abort: {code_name(result.code)}", migrator.names.record, "run zkmig status")


def finish_pending(migrator: Migrator, journal: Journal, quotas: Sequence[Quota], options: Options) -> list[Deviation]:
    """Set what waits for the commit, ACLs and quotas, then take it off the record. What cannot be set is returned."""
    pending = migrator.record.pending
    if pending is None:
        return []
    writes = finals(journal.acls, born_until(migrator, pending, journal))
    deviations = write_acls(migrator, writes, lambda done: options.report(Progress("ACLs", done, len(writes))))
    deviations += write_quotas(migrator, quotas, lambda done: options.report(Progress("quotas", done, len(quotas))))
    last = migrator.record.last
    if last is not None:
        last = dataclasses.replace(last, deviations=last.deviations + len(deviations))
    migrator.transition(migrator.record.updated(pending=None, last=last))
    return deviations
