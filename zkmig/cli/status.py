"""`zkmig status`: what a scope is doing, and what can follow."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import click

from zkmig.api import status as scopes
from zkmig.api.access import address, ensemble
from zkmig.apply.entries import some
from zkmig.apply.status import Status, advice, next_commands
from zkmig.cli.run import BAD_INPUT, STOPPED, UNREACHABLE, Run, command_options, exit_codes, required_at, scope_options
from zkmig.cli.sessions import session_words
from zkmig.epoch.transitions import State


@click.command(
    epilog=exit_codes({"0": "whatever it finds", **BAD_INPUT, "3": "there is no such scope", **UNREACHABLE, **STOPPED})
)
@scope_options()
@command_options
def status(run: Run, at: str | None, scope: str | None, control: str) -> None:
    """Tell what a scope is doing, who does it, what blocks it, and the commands that can follow."""
    place = ensemble(required_at(at))
    found = scopes.status(str(place), scope, control=control, **run.session)
    following = [command + session_words() for command in next_commands(found, address(place), control)]
    run.document(_document(found, following, control))
    if not run.as_json:
        _show(run, found, following)


def _document(found: Status, following: list[str], control: str) -> dict[str, Any]:
    record = found.record

    def plain(value: Any) -> Any:
        return None if value is None else dataclasses.asdict(value)

    return {
        "scope": found.scope,
        "root": record.root,
        "state": record.state.value,
        "held": plain(record.held),
        "epoch": record.epoch,
        "target_epoch": record.target_epoch,
        "attempt": record.attempt,
        "batches_applied": found.batches_applied,
        "batches_undone": found.batches_undone,
        "batches_total": record.batches_total,
        "owner": plain(found.owner.owner),
        "owner_alive": found.owner.alive,
        "owner_progress_at": found.owner.progress_at,
        "readers": list(found.readers),
        "guards": list(found.guards),
        "acting": list(found.acting),
        "blocking": [{"name": entry.name, "what": entry.what} for entry in found.blocking],
        "evicted": [dataclasses.asdict(eviction) for eviction in found.evicted],
        "pending": plain(record.pending),
        "conflict": plain(record.conflict),
        "last": plain(record.last),
        "incarnation": record.incarnation,
        "control": control,
        "advice": advice(found),
        "next": following,
    }


def _show(run: Run, found: Status, following: list[str]) -> None:
    record = found.record
    rows = [("scope", f"{found.scope} over {record.root}"), ("state", _state(found)), ("epoch", f"{record.epoch}")]
    if record.target_epoch is not None:
        rows.append(("under way", f"epoch {record.target_epoch}, attempt {record.attempt}"))
    if record.state in (State.OPEN, State.ROLLING_BACK):
        rows.append(("batches", f"{found.batches_applied} of {record.batches_total} applied"))
    if record.state is State.ROLLING_BACK:
        rows.append(("undone", f"{found.batches_undone} steps of the rollback"))
    if found.owner.owner is not None and (found.owner.alive or record.target_epoch is not None):
        owner = found.owner.owner
        alive = "alive" if found.owner.alive else "gone"
        rows.append(("owner", f"{owner.host} pid {owner.pid}, {alive}, since {_when(owner.since)}{_progress(found)}"))
    if record.held is not None:
        rows.append(("held", f"by {record.held.holder} since {_when(record.held.since)}: {record.held.reason}"))
    if record.pending is not None:
        rows.append(("pending", str(record.pending)))
    if record.conflict is not None:
        rows.append(("conflict", f"{record.conflict.path}: {record.conflict.reason}"))
    if record.last is not None:
        deviations = f", {record.last.deviations} paths left as found" if record.last.deviations else ""
        rows.append(("last", f"epoch {record.last.epoch} {record.last.outcome} {_when(record.last.at)}{deviations}"))
    rows += [(title, some(names)) for title, names in _registered(found) if names]
    if found.blocking:
        rows.append(("blocking", some([f"{entry.name} ({entry.what})" for entry in found.blocking])))
    rows += [("evicted", str(eviction)) for eviction in found.evicted]
    for title, text in rows:
        run.line(f"{title:<10} {text}")
    if (warning := advice(found)) is not None:
        run.line(f"{'advice':<10} {warning}")
    for command in following:
        run.line(f"{'next':<10} {command}")


def _state(found: Status) -> str:
    return found.record.state.value + (", held" if found.record.held is not None else "")


def _registered(found: Status) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("readers", found.readers), ("guards", found.guards)


def _progress(found: Status) -> str:
    if found.owner.progress_at is None:
        return ""
    # By the clock of the server that leads, against ours; a migrator at work says so now and then, not all the time.
    return f", last progress {max(0.0, time.time() - found.owner.progress_at):.0f} s ago"


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
