"""Backward: from OPEN or ROLLING_BACK to the tree as it was, from the journal alone.

Never stuck, never silent: an undo operation that meets somebody else's write leaves their value, and the path is
recorded in the same multi that passes it (a node beside the cursors), so that a crash does not forget it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from zkmig.apply.aclsteps import DELETED, FOREIGN_ACL, AclWrite, write_acls
from zkmig.apply.conflicts import PutBacks, explained
from zkmig.apply.forward import abort, attempt_of, cursor_version
from zkmig.apply.obstacles import find_replaced, left_as_is, without_blocked
from zkmig.apply.options import Options, Progress, say_hold
from zkmig.apply.pacing import Pacing, paced
from zkmig.apply.tempo import TempoSeen
from zkmig.apply.verify import FOREIGN, REPLACED, Deviation, why
from zkmig.epoch.attempts import Fate, own_note, transition_noted
from zkmig.epoch.control import AttemptPaths
from zkmig.epoch.journal import CHUNK_BYTES_MAX, NO_BATCH, AclEntry, Action, Entry, Journal, Manifest, load
from zkmig.epoch.owner import HEAD_LENGTH, Migrator
from zkmig.epoch.record import LastOutcome
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, NotPermitted, Outcome, Refused
from zkmig.model import path as paths
from zkmig.model.acl import CREATE, DELETE, AclList, Identity, grants, may_show_as
from zkmig.model.znode import Znode
from zkmig.plan.operations import CreateNode, RaiseCounter
from zkmig.source.bulk import NodeRead, read_acls, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name
from zkmig.wire.jute import utf8_size
from zkmig.wire.replies import ChildrenResult
from zkmig.wire.requests import Check, Create, Delete, GetChildren, SetData, WriteOp

CURSOR = 0  # the undo cursor's place among the operations of an undo batch
NAMED_MAX = 3  # names in one reason
ACL_ROUNDS = 2
DEVIATION_PREFIX = "deviation-"
ACLS = "acls-"  # in a name behind it: of ACLs, not of a batch
DEVIATION_BYTES = 100  # of one, beside its path


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What came of it. epoch: the committed one, as before. deviations: paths left with somebody else's value."""

    epoch: int
    batches_undone: int
    deviations: tuple[Deviation, ...]
    tempo: TempoSeen | None = None


def roll_back(migrator: Migrator, options: Options) -> RolledBack:
    """From PREPARING, OPEN or ROLLING_BACK to where the attempt began. Refused in any other state."""
    record = migrator.record
    if record.state is State.PREPARING:
        abort(migrator, "taken back before anything was written")
        return RolledBack(record.epoch, 0, ())
    if record.state not in (State.OPEN, State.ROLLING_BACK):
        raise Refused(f"there is nothing to roll back: the scope is {record.state.value}", migrator.names.record)
    say_hold(record, options.say)
    attempt = attempt_of(migrator)
    assert record.manifest_hash is not None
    manifest, journal = load(migrator.client, attempt, record.manifest_hash)
    if record.state is State.OPEN:
        _begin(migrator, attempt)
    assert migrator.record.cursor is not None
    return _Undo(migrator, manifest, journal, migrator.record.cursor, options).run()


def _begin(migrator: Migrator, attempt: AttemptPaths) -> None:
    cursor = cursor_version(migrator, attempt.cursor)
    moved = migrator.record.moved("begin_rollback", State.ROLLING_BACK, cursor=cursor, conflict=None)
    result = migrator.transition(moved, [Check(attempt.cursor, cursor)])
    if result.failed_index is not None:
        raise Conflict(f"could not begin to roll back: {code_name(result.code)}", attempt.cursor, "try again")


# -- what to undo: a function of the journal and the cursor alone, so that every process cuts the same batches --------


@dataclass(frozen=True, slots=True)
class UndoBatch:
    """Entries to undo, latest first, or counters to raise again."""

    entries: tuple[Entry, ...] = ()
    raises: tuple[RaiseCounter, ...] = ()


def undo_batches(journal: Journal, manifest: Manifest, cursor: int) -> list[UndoBatch]:
    """One for each applied batch, last first; then the counters of nodes that were deleted and come back."""
    applied: dict[int, list[Entry]] = {index: [] for index in range(cursor)}
    for entry in journal.entries:
        if entry.batch in applied:
            applied[entry.batch].append(entry)
    batches = [UndoBatch(tuple(reversed(applied[index]))) for index in reversed(range(cursor))]
    return batches + _raise_batches(journal, manifest, cursor)


def _raise_batches(journal: Journal, manifest: Manifest, cursor: int) -> list[UndoBatch]:
    returning = [e for e in journal.entries if e.action is Action.DELETED and NO_BATCH < e.batch < cursor]
    children = Counter(paths.parent(entry.path) for entry in returning)
    batches: list[UndoBatch] = []
    for entry in returning:
        assert entry.before is not None
        left = entry.before.counter - children[entry.path]
        pairs_max = max(manifest.frame_bytes // 2 // RaiseCounter.pair_size(entry.path), 1)
        while left > 0:
            pairs = min(left, pairs_max)
            batches.append(UndoBatch(raises=(RaiseCounter(entry.path, pairs, entry.before.counter),)))
            left -= pairs
    return batches


def undo_write(entry: Entry) -> WriteOp | None:
    """The write that takes one entry back, conditional on what the migration wrote; None when there is none."""
    if entry.action is Action.CREATED:
        return Delete(entry.path, 0)
    assert entry.before is not None
    if entry.action is Action.WRITTEN:
        return SetData(entry.path, entry.before.data, entry.before.stat.version + 1)
    if entry.action is Action.DELETED:
        node = entry.before
        return CreateNode(node.path, node.data, node.acl, node.kind, node.ttl_ms).write()
    return None


@dataclass
class _Undo:
    migrator: Migrator
    manifest: Manifest
    journal: Journal
    cursor: int
    options: Options
    replaced: frozenset[str] = frozenset()
    puts: PutBacks = field(init=False)

    def run(self) -> RolledBack:
        attempt = attempt_of(self.migrator)
        note, _ = own_note(self.migrator, self.migrator.record)
        self.puts = PutBacks(self.migrator, note)
        batches = undo_batches(self.journal, self.manifest, self.cursor)
        self.replaced = find_replaced(self.migrator.client, attempt, self.journal, self.cursor, note.conflict)
        migrator, options = self.migrator, self.options
        with paced(
            len(batches),
            migrator.stop,
            options.open_probe,
            migrator.names.record,
            options.writes_per_s,
            migrator.client,
        ) as pacing:
            self._undo(attempt, batches, pacing)
        foreign_acls = self._restore_acls()
        try:
            recorded = _recorded(self.migrator.client, attempt)
        except NotPermitted:
            recorded = [("", Deviation(attempt.home, "what was recorded here cannot be read"))]
        known = {deviation.path for _, deviation in recorded}
        others = [deviation for deviation in foreign_acls if deviation.path not in known]
        self._record_acls(attempt, others)
        # A batch has left out the data of a path; counters and ACLs come later, where undo has put the data back.
        of_data = frozenset(map(str, range(self.cursor)))
        others += [deviation for place, deviation in recorded if place not in of_data]
        deviations = self._explained([deviation for place, deviation in recorded if place in of_data])
        return replace(self._end(attempt, len(batches), deviations + others), tempo=pacing.seen())

    def _undo(self, attempt: AttemptPaths, batches: Sequence[UndoBatch], pacing: Pacing) -> None:
        done = cursor_version(self.migrator, attempt.rcursor)
        while done < len(batches):
            failure = self.migrator.write_series(
                lambda index: self._operations(attempt, batches[index], index),
                done,
                len(batches),
                witness=CURSOR,
                pace=pacing,
                progress=lambda count: self.options.report(Progress("undo", count, len(batches), *pacing.now())),
            )
            if failure is None:
                return
            self._pass(attempt, batches[failure.index], failure.index)
            done = failure.index + 1

    def _operations(self, attempt: AttemptPaths, batch: UndoBatch, index: int) -> list[WriteOp]:
        return [*self._head(attempt, index, self._passed_over(batch)), *self._writes(batch)]

    def _head(self, attempt: AttemptPaths, index: int, left_out: Sequence[Deviation]) -> list[WriteOp]:
        head: list[WriteOp] = [SetData(attempt.rcursor, None, index)]
        if left_out:
            head.append(_record_deviations(self.migrator, attempt, index, left_out))
        return head

    def _passed_over(self, batch: UndoBatch) -> list[Deviation]:
        return [Deviation(entry.path, REPLACED) for entry in batch.entries if entry.path in self.replaced]

    def _writes(self, batch: UndoBatch) -> Iterator[WriteOp]:
        for entry in batch.entries:
            write = undo_write(entry)
            if write is not None and entry.path not in self.replaced:
                yield write
        yield from self._raise_writes(batch.raises)

    def _raise_writes(self, raises: Iterable[RaiseCounter]) -> Iterator[WriteOp]:
        for operation in raises:
            yield from operation.writes(operation.pairs)

    def _pass(self, attempt: AttemptPaths, batch: UndoBatch, index: int) -> None:
        """Undo one batch that somebody else's writes are in the way of: each of those is left out and recorded."""
        writes = list(self._writes(batch))
        left_out = self._passed_over(batch)
        if not batch.raises:
            writes, blocked_now = without_blocked(self.migrator.client, writes)
            left_out += blocked_now
        while True:
            head = self._head(attempt, index, left_out)
            result = self.migrator.write([*head, *writes], witness=CURSOR)
            if result.failed_index is None:
                return
            position = result.failed_index - HEAD_LENGTH - len(head)
            if position < 0:
                raise Conflict("the undo cursor was moved by somebody else", attempt.rcursor, "run zkmig status")
            blocked = writes.pop(position)
            if batch.raises:
                writes = []  # a counter that cannot be raised: its node is not ours any more, or lets nobody do it
            if result.code == Code.NO_AUTH and not self._lets_nobody_raise(batch):
                raise NotPermitted(
                    "not permitted to undo",
                    blocked.path,
                    "run zkmig rollback as an identity that may",
                    Outcome.PARTLY_WRITTEN,
                )
            path = batch.raises[0].path if batch.raises else blocked.path
            if result.code not in (*FOREIGN, Code.NO_AUTH):
                # A quota, say: nobody has put another value there, so passing over it would lose ours.
                raise Conflict(
                    f"the server refuses to undo: {code_name(result.code)}",
                    path,
                    "remove the cause, then run zkmig rollback again",
                    Outcome.PARTLY_WRITTEN,
                )
            if result.code == Code.NOT_EMPTY:
                left_out.append(self._above(blocked, writes))
            elif batch.raises:
                left_out.append(Deviation(path, f"left as it is, {why(result.code)}"))
            else:
                left_out.append(left_as_is(blocked, result.code))

    def _above(self, blocked: WriteOp, writes: Sequence[WriteOp]) -> Deviation:
        """A path that cannot go, and what is below it. writes: the rest of its multi, of which nothing is done yet."""
        path = blocked.path
        reply = self.migrator.client.call_reply(GetChildren(path)).result
        if not isinstance(reply, ChildrenResult):
            return left_as_is(blocked, Code.NOT_EMPTY)  # gone meanwhile, or not to be read
        going = {write.path for write in writes if isinstance(write, Delete)}
        others = [name for name in reply.children if paths.join(path, f"/{name}") not in going]
        more = f" and {len(others) - NAMED_MAX} more" if len(others) > NAMED_MAX else ""
        return Deviation(
            path, f"left as it is, for what somebody else has put below it: {', '.join(others[:NAMED_MAX])}{more}"
        )

    def _lets_nobody_raise(self, batch: UndoBatch) -> bool:
        """Whether a counter stays as it is because the ACL that came back with its node shuts everybody out."""
        paths_raised = {operation.path for operation in batch.raises}
        acls = (e.before.acl for e in self.journal.entries if e.path in paths_raised and e.before is not None)
        return any(not _lets_raise(acl) for acl in acls)

    def _restore_acls(self) -> list[Deviation]:
        for _ in range(ACL_ROUNDS):
            writes, deviations = _acl_restores(self.migrator.client, self.journal)
            found = write_acls(self.migrator, writes)
            if not found:
                break  # else a setACL of the former owner came in between: it is its last, and now to be seen
        return deviations + found

    def _record_acls(self, attempt: AttemptPaths, deviations: Sequence[Deviation]) -> None:
        """As those of batches are: whoever takes an epoch back later has to know of them."""
        for number, part in enumerate(_parts(deviations)):
            place = f"{ACLS}{self.migrator.token}-{number}"  # who goes on from here may find others
            what = "record whose ACL was left"
            self.migrator.write_all([_record_deviations(self.migrator, attempt, place, part)], what, witness=0)

    def _explained(self, deviations: list[Deviation]) -> list[Deviation]:
        at_stake = (e for e in self.journal.entries if NO_BATCH < e.batch < self.cursor)
        return explained(self.migrator, self.puts, deviations, {entry.path: entry for entry in at_stake})

    def _end(self, attempt: AttemptPaths, length: int, deviations: list[Deviation]) -> RolledBack:
        record = self.migrator.record
        assert record.target_epoch is not None
        assert record.attempt is not None
        outcome = LastOutcome(record.target_epoch, record.attempt, "rolled_back", time.time(), len(deviations))
        closed = record.closed("end_rollback", record.base, outcome)
        self.puts.record_hidden(attempt.home)
        checks = [Check(attempt.cursor, self.cursor), Check(attempt.rcursor, length)]
        result = transition_noted(
            self.migrator,
            closed,
            checks,
            record,
            fate=Fate.ROLLED_BACK,
            ended=outcome.at,
            applied=self.cursor,
            deviations=len(deviations),
            put_back=self.puts.noted,
        )
        if result.failed_index is not None:
            raise Conflict(f"could not end the rollback: {code_name(result.code)}", attempt.rcursor, "run zkmig status")
        return RolledBack(record.epoch, self.cursor, tuple(deviations))


def _lets_raise(acl: AclList) -> bool:
    needed = CREATE | DELETE
    return any(grants(acl, [Identity(entry.scheme, entry.id)]) & needed == needed for entry in acl)


def _acl_restores(client: Client, journal: Journal) -> tuple[list[AclWrite], list[Deviation]]:
    """What brings back the ACLs that the attempt has tightened, and the paths whose ACL is foreign by now.

    One that was never reached is written too, as it is: a setACL that the former owner has sent, and that is still on
    its way, then finds another aversion. Nothing else fences it, since it cannot be part of a guarded multi.
    """
    steps: dict[str, AclEntry] = {a.path: a for a in journal.acls if a.tighten is not None and not a.created}
    before: dict[str, Znode] = {e.path: e.before for e in journal.entries if e.before and e.path in steps}
    writes: list[AclWrite] = []
    foreign: list[Deviation] = []
    for path, live in zip(before, read_acls(client, list(before)), strict=True):
        step, node = steps[path], before[path]
        if live is None or live.stat.czxid != node.stat.czxid:
            foreign.append(Deviation(path, DELETED))
        elif live.stat.aversion == step.aversion:
            writes.append(AclWrite(path, node.acl, step.aversion, is_fence=True))
        elif live.stat.aversion == step.aversion + 1 and step.tighten and may_show_as(step.tighten, live.acl):
            writes.append(AclWrite(path, node.acl, step.aversion + 1))
        elif not may_show_as(node.acl, live.acl):
            foreign.append(Deviation(path, FOREIGN_ACL))
    return writes, foreign


def _record_deviations(
    migrator: Migrator, attempt: AttemptPaths, place: int | str, deviations: Sequence[Deviation]
) -> WriteOp:
    data = json.dumps([[d.path, d.reason] for d in deviations]).encode()
    # The names of nodes are not for all who may read the scope: some lie below what others may not look into.
    return Create(f"{attempt.home}/{DEVIATION_PREFIX}{place}", data, migrator.private_acl)


def _parts(deviations: Sequence[Deviation]) -> Iterator[list[Deviation]]:
    """Cut so that the paths of each part fit a chunk."""
    part: list[Deviation] = []
    size = 0
    for deviation in deviations:
        added = utf8_size(deviation.path) + DEVIATION_BYTES
        if part and size + added > CHUNK_BYTES_MAX:
            yield part
            part, size = [], 0
        part.append(deviation)
        size += added
    if part:
        yield part


def read_deviations(client: Client, attempt: AttemptPaths) -> list[Deviation]:
    """Paths that undoing has left with somebody else's value, as recorded so far; NotPermitted: no looking there."""
    return [deviation for _, deviation in _recorded(client, attempt)]


def _recorded(client: Client, attempt: AttemptPaths) -> list[tuple[str, Deviation]]:
    """The same, each with the place that it is recorded in: an undo batch's number, or one of those for ACLs."""
    names = client.call(GetChildren(attempt.home)).children
    nodes = [f"{attempt.home}/{name}" for name in sorted(names) if name.startswith(DEVIATION_PREFIX)]
    found: list[tuple[str, Deviation]] = []
    for node in read_nodes(client, nodes):
        if isinstance(node, NodeRead):
            place = paths.name(node.path).removeprefix(DEVIATION_PREFIX)
            found += [(place, deviation) for deviation in _deviations_of(node)]
    return found


def _deviations_of(node: NodeRead) -> list[Deviation]:
    """What one of the nodes tells; a damaged one that something was left, though not where: a rollback goes on."""
    try:
        return [Deviation(str(path), str(reason)) for path, reason in json.loads(node.data or b"[]")]
    except (ValueError, TypeError, RecursionError):
        return [Deviation(node.path, "this note of paths left as they are cannot be read")]
