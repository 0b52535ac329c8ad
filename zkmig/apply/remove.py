"""Remove: a scope's control plane goes, and with the last scope the control root. The tree itself is not touched.

What can be large goes first, under the guard, while the scope stays what it is: journals, notes, registrations. All the
rest, registry included, goes in one multi: so a scope is there wholly or not at all, and a removal that was stopped
is begun again. That multi fails if an action was admitted or a guard has registered in the very last moment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from zkmig.apply.drain import Drain
from zkmig.apply.engine import owning
from zkmig.apply.entries import ACTING, list_entries, read_entries
from zkmig.apply.options import Options
from zkmig.apply.prune import batched, below, check_at_rest, check_stop, prune_attempts, sweep
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.control import REGISTRY_FORMAT, ControlPaths, read_record, read_registry
from zkmig.epoch.owner import HEAD_LENGTH, Migrator, TakeOver
from zkmig.epoch.record import Record
from zkmig.errors import Conflict, Held, NotPermitted, OtherIncarnation, Outcome, Refused
from zkmig.model import path as paths
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name
from zkmig.wire.replies import ChildrenResult
from zkmig.wire.requests import Delete, GetChildren, SetData, WriteOp

TRIES_MAX = 10
NAMED_MAX = 5


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
    that was admitted is waited for."""
    record, _ = read_record(client, names)
    _check(client, record, names)
    if dry_run:
        is_last, kept = _control_goes(client, names)
        return Removed(record, len(below(client, names.home)) + 1, is_last, kept, is_dry_run=True)
    migrator = Migrator.take(client, names, take_over, stop, options.say, lambda record: _check(client, record, names))
    with owning(migrator):
        _check(client, migrator.record, names)
        return _remove(migrator, options)


def _check(client: Client, record: Record, names: ControlPaths) -> None:
    check_at_rest(record, names, "removing the scope")
    if record.held is not None:
        raise Held(f"the scope is held by {record.held.holder}: {record.held.reason}", names.record, "release it first")
    if record.pending is not None:
        raise Refused(f"{record.pending} are pending", names.record, "run resume first")
    guards = _children(client, names.guards)
    if guards:
        more = f" and {len(guards) - NAMED_MAX} more" if len(guards) > NAMED_MAX else ""
        raise Refused(f"guards are registered: {', '.join(guards[:NAMED_MAX])}{more}", names.guards, "stop them first")


def _children(client: Client, path: str) -> list[str]:
    reply = client.call_reply(GetChildren(path))
    return sorted(reply.result.children) if isinstance(reply.result, ChildrenResult) else []


def _remove(migrator: Migrator, options: Options) -> Removed:
    client, names = migrator.client, migrator.names
    record = migrator.record
    nodes = 0
    keep_control = ""
    for _ in range(TRIES_MAX):
        Drain(migrator, options.drain_timeout_s, options.say).wait()
        nodes += _remove_contents(migrator, options)
        is_last, kept = _control_goes(client, names)
        is_last, kept = is_last and not keep_control, keep_control or kept
        operations = _last_multi(client, names, is_last)
        try:
            result = migrator.write(operations)
        except OtherIncarnation as error:
            if error.outcome is not Outcome.UNKNOWN:
                raise
            return Removed(record, nodes, is_last, kept)  # the same multi has landed before, its answer was lost
        if result.failed_index is None:
            return Removed(record, nodes + len(operations) - 1, is_last, kept)
        path = operations[result.failed_index - HEAD_LENGTH].path
        if path == names.control and result.code in (Code.NO_AUTH, Code.NOT_EMPTY):
            keep_control = f"{path} stays: {code_name(result.code)}"
            continue
        if result.code == Code.NO_AUTH:
            raise NotPermitted("not permitted to remove it", path, "authenticate as its admin", Outcome.PARTLY_WRITTEN)
        if path == names.guards:
            _check(client, record, names)
        # Somebody was admitted, registered, or changed the scopes, since we looked.
    raise Conflict("others keep registering here", path, "stop them, then run the command again")


def _remove_contents(migrator: Migrator, options: Options) -> int:
    """What lies in the scope's directories; they and the record stay."""
    client, names = migrator.client, migrator.names
    attempts = read_attempts(client, names, migrator.record, is_owner=True)
    nodes = prune_attempts(migrator, [attempt for attempt in attempts if attempt.children], options)
    nodes += sweep(migrator, lambda: below(client, names.epochs), names.epochs)
    nodes += _remove_dead_leases(migrator)
    return nodes + sweep(migrator, lambda: below(client, names.readers), names.readers)


def _remove_dead_leases(migrator: Migrator) -> int:
    """What blocks nobody: each at the version that was judged, since actions are admitted until the last multi, and a
    reader takes its lease's node again. What cannot be removed fails that multi."""
    client, names = migrator.client, migrator.names
    gone = 0
    for entry in read_entries(client, list_entries(client, names, ACTING)):
        if entry.blocks_ms == 0:
            deletes = [
                *(Delete(path, -1) for path in below(client, entry.path)),
                Delete(entry.path, entry.stat.version),
            ]
            for batch in batched(deletes):
                check_stop(migrator)
                gone += len(batch) if migrator.write(batch).failed_index is None else 0
    return gone


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
