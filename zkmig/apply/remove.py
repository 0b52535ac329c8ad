"""Remove: a scope's control plane goes, and with the last scope the control root. The tree itself is not touched.

What others have left goes first, under the guard: some of that may be beyond an admin's power, and then nothing of
worth is gone. Then what can be large: journals and notes. All the rest, registry included, goes in one multi: so a
scope is there wholly or not at all, and a removal that was stopped is begun again. That multi fails if an action was
admitted or a guard has registered in the very last moment.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from zkmig.apply.drain import Drain
from zkmig.apply.engine import owning
from zkmig.apply.entries import (
    ACTING,
    GUARDS,
    UNREADABLE,
    directory,
    list_entries,
    named_entries,
    read_entries,
    some,
)
from zkmig.apply.options import Options
from zkmig.apply.prune import SWEEPS_MAX, batched, below, check_at_rest, check_stop, prune_attempts, sweep
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.control import REGISTRY_FORMAT, ControlPaths, read_record, read_registry
from zkmig.epoch.owner import HEAD_LENGTH, Migrator, TakeOver
from zkmig.epoch.record import Record
from zkmig.errors import Conflict, Held, NotPermitted, OtherIncarnation, Outcome, Refused
from zkmig.model import path as paths
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name
from zkmig.wire.replies import ChildrenResult, MultiResult
from zkmig.wire.requests import Delete, GetChildren, SetData, WriteOp

TRIES_MAX = 10
LAST_TRIES_MAX = 100  # of the last multi, as long as it is only readers that come and go


@dataclass(frozen=True, slots=True)
class Removed:
    """What came of it. nodes: znodes of the control plane that went, or on a dry run would. control_removed: whether
    it was the last scope, and the control root went too. kept: why the control root is still there, "" for nothing to
    say."""

    record: Record
    nodes: int
    control_removed: bool
    kept: str = ""
    is_dry_run: bool = False


def remove_scope(
    client: Client,
    names: ControlPaths,
    *,
    options: Options,
    take_over: TakeOver,
    stop: StopRequest,
    dry_run: bool = False,
) -> Removed:
    """Remove the scope. Refused unless it is STABLE or EMPTY, with nothing pending, no hold and no guard; an action
    that was admitted is waited for. Not so what options.evict names, as for a drain; here it is on no record.
    """
    record, _ = read_record(client, names)
    evicted = set(named_entries(client, names, options.evict))
    _check(client, record, names, evicted, options.evict)
    if dry_run:
        is_last, kept = _control_goes(client, names)
        return Removed(record, len(below(client, names.home, may_hide=True)) + 1, is_last, kept, is_dry_run=True)

    def admit(record: Record) -> None:
        _check(client, record, names, evicted, options.evict)

    migrator = Migrator.take(client, names, take_over, stop, options.say, admit)
    migrator.admit_hold = _stop_at_hold
    with owning(migrator):
        admit(migrator.record)
        return _remove(migrator, options, admit)


def _check(client: Client, record: Record, names: ControlPaths, evicted: Set[str], evict: Sequence[str]) -> None:
    """evicted: paths of entries that are not waited for. evict: as the operator has named them."""
    check_at_rest(record, names, "removing the scope")
    if record.held is not None:
        raise Held(f"the scope is {record.held.told()}", names.record, "release it first")
    if record.pending is not None:
        raise Refused(f"{record.pending} are pending", names.record, "run resume first")
    guards = [
        entry.name
        for entry in read_entries(client, list_entries(client, names, GUARDS))
        if entry.blocks_ms != 0 and entry.path not in evicted and (entry.is_readable or UNREADABLE not in evict)
    ]
    if guards:
        hint = "stop them first; those whose processes are gone: --evict NAME"
        raise Refused(f"guards are registered: {some(guards)}", names.guards, hint)


def _stop_at_hold(record: Record) -> None:
    """Whoever has just been told that the scope is held is not to find it gone."""
    if record.held is not None:
        what = f"the scope is {record.held.told()}"
        raise Held(what, "", "run it again once that is released; the scope is there", Outcome.PARTLY_WRITTEN)


def _children(client: Client, path: str) -> list[str]:
    reply = client.call_reply(GetChildren(path))
    return sorted(reply.result.children) if isinstance(reply.result, ChildrenResult) else []


def _remove(migrator: Migrator, options: Options, admit: Callable[[Record], None]) -> Removed:
    client, names = migrator.client, migrator.names
    record = migrator.record
    drain = Drain(migrator, options.drain_timeout_s, options.say, options.evict)
    nodes = len(below(client, names.home, may_hide=True))  # with our lock, which a dry run has not, for the home
    keep_control = ""
    for _ in range(TRIES_MAX):
        drain.wait()
        _remove_what_others_left(migrator, drain)
        _remove_history(migrator, options)
        is_last, kept = _control_goes(client, names)
        is_last, kept = is_last and not keep_control, keep_control or kept
        try:
            result, operations = _write_last(migrator, is_last)
        except OtherIncarnation as error:
            if error.outcome is not Outcome.UNKNOWN:
                raise
            return Removed(record, nodes, is_last, kept)  # the same multi has landed before, its answer was lost
        if result.failed_index is None:
            return Removed(record, nodes, is_last, kept)
        path = operations[result.failed_index - HEAD_LENGTH].path
        if path == names.control and result.code in (Code.NO_AUTH, Code.NOT_EMPTY):
            keep_control = f"{path} stays: {code_name(result.code)}"
            continue
        if result.code == Code.NO_AUTH:
            raise NotPermitted("not permitted to remove it", path, "authenticate as its admin", Outcome.PARTLY_WRITTEN)
        if path == names.guards:
            admit(record)
        # Somebody was admitted, registered, or changed the scopes, since we looked.
    raise Conflict("others keep registering here", path, "stop them, then run the command again")


# -- what others have left --------------------------------------------------------------------------------------------


def _remove_what_others_left(migrator: Migrator, drain: Drain) -> int:
    """What blocks nobody, and all that readers say of themselves. The number of znodes that went.

    An entry goes at the version that was judged, since actions are admitted until the last multi, and a reader takes
    its lease's node again.
    """
    client, names = migrator.client, migrator.names
    deletes: list[Delete] = []
    for kind in (ACTING, GUARDS):
        listed = list_entries(client, names, kind)
        deletes += [
            Delete(entry.path, entry.stat.version)
            for entry in read_entries(client, listed)
            if entry.blocks_ms == 0 or drain.is_evicted(entry)
        ]
        above = directory(names, kind)
        others = {f"{above}/{name}" for name in _children(client, above)}.difference(listed)
        deletes += [Delete(path, -1) for path in sorted(others)]  # -1: of no form that anybody could judge
    # -1: readers inform, and decide nothing; a budget moves only with an action that is admitted, and its scope goes.
    informed = (f"{above}/{name}" for above in (names.readers, names.budgets) for name in _children(client, above))
    return _delete_all(migrator, [*deletes, *(Delete(path, -1) for path in informed)])


def _delete_all(migrator: Migrator, deletes: Sequence[Delete]) -> int:
    """Delete nodes that are anybody's, whatever lies below them; those that are gone or were written again, not.

    What lies below one is looked at only where something does, since that may be forbidden.
    """
    left = deque(deletes)
    emptied: Counter[str] = Counter()
    gone = 0
    while left:
        batch = next(batched(left))
        check_stop(migrator)
        result = migrator.write(batch)
        if result.failed_index is None:
            gone += len(batch)
            for _ in batch:
                left.popleft()
            continue
        failed = batch[result.failed_index - HEAD_LENGTH]
        left.remove(failed)
        if result.code == Code.NOT_EMPTY and emptied[failed.path] < SWEEPS_MAX:
            emptied[failed.path] += 1
            left.extendleft([failed, *(Delete(path, -1) for path in reversed(_below(migrator, failed.path)))])
        elif result.code == Code.NO_AUTH:
            raise _beyond(failed.path)
        elif result.code not in (Code.NO_NODE, Code.BAD_VERSION, Code.NOT_EMPTY):
            raise Conflict(f"could not remove it: {code_name(result.code)}", failed.path, "run the command again")
    return gone


def _below(migrator: Migrator, path: str) -> list[str]:
    try:
        return below(migrator.client, path)
    except NotPermitted as error:
        raise _beyond(error.where) from error


def _beyond(path: str) -> NotPermitted:
    what = "not permitted to remove what lies here or below it: that is for who has made it, or for a super user"
    return NotPermitted(what, path, "have it removed, then run the command again", Outcome.PARTLY_WRITTEN)


# -- what is the scope's own ------------------------------------------------------------------------------------------


def _remove_history(migrator: Migrator, options: Options) -> int:
    """Journals and notes. The number of znodes that went."""
    client, names = migrator.client, migrator.names
    attempts = read_attempts(client, names, migrator.record, is_owner=True)
    nodes = prune_attempts(migrator, [attempt for attempt in attempts if attempt.children], options)
    return nodes + sweep(migrator, lambda: below(client, names.epochs), names.epochs)


def _write_last(migrator: Migrator, is_last: bool) -> tuple[MultiResult, list[WriteOp]]:
    """The last multi, with what readers have registered just before it: they come again as long as there is a scope."""
    names = migrator.names
    for _ in range(LAST_TRIES_MAX):
        listed = (Delete(f"{names.readers}/{name}", -1) for name in _children(migrator.client, names.readers))
        readers = next(batched(listed), [])
        operations = [*readers, *_last_multi(migrator.client, names, is_last)]
        result = migrator.write(operations)
        if result.failed_index is None:
            break
        path = operations[result.failed_index - HEAD_LENGTH].path
        if not paths.contains(names.readers, path) or result.code not in (Code.NO_NODE, Code.NOT_EMPTY):
            break
    return result, operations


def _control_goes(client: Client, names: ControlPaths) -> tuple[bool, str]:
    """Whether the control root goes too: with the last scope, unless something else lies there."""
    registrations, _ = read_registry(client, names.control)
    if any(one.scope != names.scope for one in registrations):
        return False, ""
    others = set(_children(client, names.control)) - {paths.name(names.registry)}
    others |= set(_children(client, names.registry)) - {names.scope}
    if others:
        return False, f"{names.control} stays: there is something else in it"
    return True, ""


def _last_multi(client: Client, names: ControlPaths, is_last: bool) -> list[WriteOp]:
    """What makes it a scope, and its name in the registry. Version -1: the guard before them says who may."""
    registrations, version = read_registry(client, names.control)
    scopes = {one.scope: one.root for one in registrations if one.scope != names.scope}
    registry = json.dumps({"format": REGISTRY_FORMAT, "scopes": scopes}, sort_keys=True).encode()
    operations: list[WriteOp] = [SetData(names.registry, registry, version)]
    operations += [Delete(f"{names.home}/{name}", -1) for name in _children(client, names.home)]
    operations.append(Delete(names.home, -1))
    if is_last:
        operations += [Delete(names.registry, version + 1), Delete(names.control, -1)]
    return operations
