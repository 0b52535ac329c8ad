"""Prune: journals that nobody will need again are taken away, the notes of their attempts stay.

Kept are the undo of the last committed epochs, for revert; with that of the last one, the journals of attempts rolled
back since, by which revert tells what they have made of its paths from what others have; and the journal in which
pending ACLs and quotas are listed.
A journal goes in this order: in one multi the note says that it is pruned and the manifest goes; then all that lies
below the home, deepest first, in multis of bounded size. So whoever stops in between has left a journal that is known
to be no journal, and the next prune goes on with it. Every one of these multis is guarded.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from zkmig.apply.engine import owning
from zkmig.apply.entries import ACTING, list_entries, read_entries
from zkmig.apply.options import Options, Progress
from zkmig.epoch.attempts import Attempt, Fate, home_of, read_attempts, revertible, rolled_back_since
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import HEAD_LENGTH, Migrator, TakeOver, read_owner
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import Conflict, NotOwner, NotPermitted, Outcome, Refused
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name, error_for
from zkmig.wire.replies import ChildrenResult
from zkmig.wire.requests import Delete, GetChildren, SetData, WriteOp, operation_size

DELETES_MAX = 250  # in one multi, as writes in a batch are
FRAME_BYTES_MAX = 60 * 1024
RELEASED_MAX = 10_000  # leases looked at
SWEEPS_MAX = 5  # of one subtree, in which somebody else deletes or creates at the same time
LIST_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Pruned:
    """What came of it. pruned: attempts whose journals were taken away, as they are since; on a dry run those that
    would be, as they are. kept: those whose journals stay. nodes: znodes removed below their homes; leases: released
    ones removed. journal_bytes: of undo, in what of it was whole."""

    record: Record
    pruned: tuple[Attempt, ...]
    kept: tuple[Attempt, ...]
    nodes: int
    leases: int = 0
    is_dry_run: bool = False
    journal_bytes: int = 0


def prune(
    client: Client,
    names: ControlPaths,
    keep: int,
    *,
    options: Options,
    take_over: TakeOver,
    stop: StopRequest,
    dry_run: bool = False,
) -> Pruned:
    """Take away all journals but those that reverting the last `keep` committed epochs works from.

    Refused while an epoch is under way, whose journal is what leads out of it, and while another migrator is alive: it
    may be putting up the journal of the next.
    """
    record, _ = read_record(client, names)
    check_at_rest(record, names, "prune")
    if dry_run:
        owner = read_owner(client, names)
        if owner.alive and not take_over.wait and not take_over.steal:
            raise NotOwner(f"another migrator is at work ({owner.who})", names.home, "wait with --wait")
        attempts = read_attempts(client, names, record, is_owner=True)
        chosen, kept = choose(attempts, record, keep)
        nodes = sum(len(below(client, home_of(names, attempt.note).home)) for attempt in chosen)
        return Pruned(record, tuple(chosen), tuple(kept), nodes, is_dry_run=True, journal_bytes=_undo_bytes(chosen))
    migrator = Migrator.take(
        client, names, take_over, stop, options.say, lambda record: check_at_rest(record, names, "prune")
    )
    with owning(migrator):
        check_at_rest(migrator.record, names, "prune")
        attempts = read_attempts(client, names, migrator.record, is_owner=True)
        chosen, kept = choose(attempts, migrator.record, keep)
        nodes = prune_attempts(migrator, chosen, options)
        leases = _remove_released(migrator)
        names_chosen = {attempt.note.attempt for attempt in chosen}
        after = read_attempts(client, names, migrator.record, is_owner=True) if chosen else []
    pruned = tuple(attempt for attempt in after if attempt.note.attempt in names_chosen)
    return Pruned(migrator.record, pruned, tuple(kept), nodes, leases, journal_bytes=_undo_bytes(chosen))


def _undo_bytes(attempts: Iterable[Attempt]) -> int:
    return sum(attempt.note.journal_bytes for attempt in attempts if attempt.is_kept)


def _remove_released(migrator: Migrator) -> int:
    """Leases that their holders have released, which lie there until a migrator comes by. The number that went."""
    client, names = migrator.client, migrator.names
    entries = read_entries(client, list_entries(client, names, ACTING)[:RELEASED_MAX])
    # At the version seen: a reader takes its lease's node for its next action, and may be doing so now.
    released = [
        Delete(entry.path, entry.stat.version)
        for entry in entries
        if isinstance(entry.content, Lease) and entry.content.released and entry.stat.num_children == 0
    ]
    gone = 0
    for batch in batched(released):
        check_stop(migrator)
        result = migrator.write(batch)
        gone += len(batch) if result.failed_index is None else 0  # else a drain takes them, or the next prune
    return gone


def check_at_rest(record: Record, names: ControlPaths, what: str) -> None:
    """Refused unless no migration is under way."""
    if record.state in MIGRATING:
        raise Refused(
            f"epoch {record.target_epoch} is {record.state.value}: {what} waits for its end",
            names.record,
            "run zkmig status, then resume or rollback",
        )
    if record.state not in (State.STABLE, State.EMPTY):
        raise Refused(f"the scope is {record.state.value}", names.record, "run zkmig status")


def choose(attempts: Sequence[Attempt], record: Record, keep: int) -> tuple[list[Attempt], list[Attempt]]:
    """Attempts whose journals, or what is left of them, are to go; and those that keep theirs. Oldest first."""
    committed = sorted((a for a in attempts if a.fate is Fate.COMMITTED), key=lambda a: a.note.epoch)
    needed = {a.note.attempt for a in (committed[-keep:] if keep > 0 else [])}
    if record.pending is not None:
        needed.add(record.pending.attempt)
    last = revertible(attempts, record)
    if last is not None and last.note.attempt in needed:
        needed |= {a.note.attempt for a in rolled_back_since(attempts, last)}
    chosen = [a for a in attempts if a.children and a.note.attempt not in needed]
    return chosen, [a for a in attempts if a.is_kept and a.note.attempt in needed]


# -- taking away ------------------------------------------------------------------------------------------------------


def prune_attempts(migrator: Migrator, chosen: Sequence[Attempt], options: Options) -> int:
    """Take away what lies below each home; the number of znodes that went."""
    nodes = 0
    for number, attempt in enumerate(chosen):
        options.report(Progress("prune", number, len(chosen)))
        home = home_of(migrator.names, attempt.note).home
        nodes += _mark(migrator, attempt, home)
        nodes += sweep(migrator, partial(below, migrator.client, home), home)
    options.report(Progress("prune", len(chosen), len(chosen)))
    return nodes


def _mark(migrator: Migrator, attempt: Attempt, home: str) -> int:
    """From here on it is no journal any more. The number of znodes that went."""
    if attempt.note.pruned is not None and "manifest" not in attempt.children:
        return 0
    fate = attempt.fate if attempt.note.fate is not Fate.UNKNOWN else Fate.UNKNOWN
    note = dataclasses.replace(attempt.note, fate=fate, pruned=time.time())
    operations: list[WriteOp] = [SetData(home, note.encode(), attempt.version)]
    if "manifest" in attempt.children:
        operations.append(_delete(f"{home}/manifest"))
    check_stop(migrator)
    migrator.write_all(operations, "prune this attempt", witness=0)
    return len(operations) - 1


def _delete(path: str) -> Delete:
    # Version -1: below the home of an attempt that is over, whatever there is goes; the guard says who may.
    return Delete(path, -1)


def below(client: Client, path: str, may_hide: bool = False) -> list[str]:
    """All that lies below `path`, children before their parents. may_hide: but for what may not be listed."""
    found: list[str] = []
    level = [path]
    while level:
        children: list[str] = []
        for parent, reply in zip(level, client.pipeline(map(GetChildren, level), LIST_DEPTH), strict=True):
            if reply.error == Code.NO_NODE or (reply.error == Code.NO_AUTH and may_hide):
                continue
            if reply.error == Code.NO_AUTH:
                raise NotPermitted("not permitted to look below it", parent, "authenticate as the scope's admin")
            if reply.error:
                raise error_for(reply.error, parent, "getChildren")
            assert isinstance(reply.result, ChildrenResult)
            children += [f"{parent}/{name}" for name in reply.result.children]
        found += children
        level = children
    return found[::-1]


def sweep(migrator: Migrator, listed: Callable[[], list[str]], where: str) -> int:
    """Delete what `listed` gives, asked again as long as somebody else deletes or creates there too."""
    gone = 0
    for _ in range(SWEEPS_MAX):
        paths = listed()
        if not paths:
            return gone
        for batch in batched_deletes(paths):
            check_stop(migrator)
            result = migrator.write(batch)
            if result.failed_index is None:
                gone += len(batch)
                continue
            path = batch[result.failed_index - HEAD_LENGTH].path
            if result.code == Code.NO_AUTH:
                hint = "authenticate as the scope's admin: --auth-file"
                raise NotPermitted("not permitted to remove it", path, hint, Outcome.PARTLY_WRITTEN)
            if result.code not in (Code.NO_NODE, Code.NOT_EMPTY):
                raise Conflict(f"could not remove it: {code_name(result.code)}", path, "run the command again")
            break  # gone already, by this very multi sent before perhaps; or there is something new below it
    if not listed():
        return gone
    raise Conflict("somebody else keeps creating nodes here", where, "stop that, then run the command again")


def batched_deletes(paths: Sequence[str]) -> Iterator[list[Delete]]:
    """Deletes in the given order, in multis of bounded length and size."""
    return batched(_delete(path) for path in paths)


def batched(deletes: Iterable[Delete]) -> Iterator[list[Delete]]:
    """The same for deletes that are there already."""
    batch: list[Delete] = []
    size = 0
    for delete in deletes:
        if batch and (len(batch) == DELETES_MAX or size + operation_size(delete) > FRAME_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(delete)
        size += operation_size(delete)
    if batch:
        yield batch


def check_stop(migrator: Migrator) -> None:
    """Between two multis: raise Stopped when asked to stop."""
    if migrator.stop.requested:
        raise migrator.stop.error(Outcome.PARTLY_WRITTEN)
