"""`zkmig init`, `status` and `epoch`: what a scope is. Loads neither planner nor applier."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import click

from zkmig.api import scopes
from zkmig.api.access import address, ensemble
from zkmig.apply.status import Status, next_commands
from zkmig.cli.run import (
    BAD_INPUT,
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    control_option,
    exit_codes,
    scope_options,
)
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput


def required_at(at: str | None) -> str:
    """The value of --at, or BadInput."""
    if not at:
        raise BadInput("no ensemble is given", "", "say --at zk://HOST, or set ZKMIG_AT")
    return at


@click.command(
    epilog=exit_codes(
        {
            "0": "created, or there already over the same root",
            **BAD_INPUT,
            "3": "refused: the name is taken by another root, or the root overlaps another scope's",
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("location")
@click.option("--scope", envvar="ZKMIG_SCOPE", metavar="NAME", required=True, help="Name of the scope. ZKMIG_SCOPE.")
@click.option(
    "--admin",
    "admins",
    multiple=True,
    metavar="ID",
    help="Who may migrate: digest:USER (password in the auth file), digest:USER:HASH, ip:ADDRESS, world:anyone. "
    "May be given several times. Default: the identities of the auth file, else everybody.",
)
@click.option(
    "--reader",
    "readers",
    multiple=True,
    metavar="ID",
    help="Who may read the record and register as a reader. Default: world:anyone.",
)
@click.option("--allow-empty", is_flag=True, help="Make it STABLE although there is no tree yet.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@control_option
@command_options
def init(
    run: Run,
    location: str,
    scope: str,
    admins: tuple[str, ...],
    readers: tuple[str, ...],
    allow_empty: bool,
    dry_run: bool,
    control: str,
) -> None:
    """Create a scope over the tree at LOCATION, as in zk://zk1:2181/app.

    A scope is a tree that migrates as a whole and has one epoch. It begins at epoch 0: STABLE if there is a tree,
    EMPTY if there is none; readers of an EMPTY scope get no view until epoch 1 commits, since a tree that is not there
    yet looks like a tree with nothing in it.
    """
    with run.gracefully():
        result = scopes.init(
            location,
            scope,
            admins=admins,
            readers=readers,
            allow_empty=allow_empty,
            control=control,
            dry_run=dry_run,
            auth=run.auth,
            stop=run.stop,
        )
    record = result.record
    done = "would be created" if dry_run and result.created else "created" if result.created else "is there already"
    run.line(f"scope {scope} over {record.root} {done}: {record.state.value} at epoch {record.epoch}")
    for path in result.ancestors:
        run.line(f"{'would create' if dry_run else 'created'} {path}")
    run.document(
        {
            "scope": scope,
            "created": result.created and not dry_run,
            "dry_run": dry_run,
            "root": record.root,
            "state": record.state.value,
            "epoch": record.epoch,
            "incarnation": record.incarnation if not (dry_run and result.created) else None,
            "control": control,
            "ancestors": list(result.ancestors),
        }
    )


@click.command(
    epilog=exit_codes({"0": "whatever it finds", **BAD_INPUT, "3": "there is no such scope", **UNREACHABLE, **STOPPED})
)
@scope_options()
@command_options
def status(run: Run, at: str | None, scope: str | None, control: str) -> None:
    """Tell what a scope is doing, who does it, what blocks it, and the commands that can follow."""
    place = ensemble(required_at(at))
    found = scopes.status(str(place), scope, control=control, auth=run.auth, stop=run.stop)
    following = next_commands(found, address(place), control)
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
        "readers": list(found.readers),
        "guards": list(found.guards),
        "acting": list(found.acting),
        "pending": plain(record.pending),
        "conflict": plain(record.conflict),
        "last": plain(record.last),
        "incarnation": record.incarnation,
        "control": control,
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
        rows.append(("owner", f"{owner.host} pid {owner.pid}, {alive}, since {_when(owner.since)}"))
    if record.held is not None:
        rows.append(("held", f"by {record.held.holder} since {_when(record.held.since)}: {record.held.reason}"))
    if record.pending is not None:
        rows.append(("pending", f"{record.pending.acls} ACLs of epoch {record.pending.epoch}"))
    if record.conflict is not None:
        rows.append(("conflict", f"{record.conflict.path}: {record.conflict.reason}"))
    if record.last is not None:
        deviations = f", {record.last.deviations} paths left as found" if record.last.deviations else ""
        rows.append(("last", f"epoch {record.last.epoch} {record.last.outcome} {_when(record.last.at)}{deviations}"))
    rows += [(title, ", ".join(names)) for title, names in _registered(found) if names]
    for title, text in rows:
        run.line(f"{title:<10} {text}")
    for command in following:
        run.line(f"{'next':<10} {command}")


def _state(found: Status) -> str:
    return found.record.state.value + (", held" if found.record.held is not None else "")


def _registered(found: Status) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("readers", found.readers), ("acting", found.acting), ("guards", found.guards)


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


@click.command(
    epilog=exit_codes(
        {
            "0": "printed",
            **BAD_INPUT,
            "3": "there is no such scope",
            **UNREACHABLE,
            "75": "with --require-stable: not STABLE, or held",
            **STOPPED,
        }
    )
)
@click.option("--require-stable", is_flag=True, help="Exit 75 unless the scope is STABLE and not held.")
@scope_options()
@command_options
def epoch(run: Run, require_stable: bool, at: str | None, scope: str | None, control: str) -> None:
    """Print the number of the committed epoch of a scope."""
    found = scopes.committed(required_at(at), scope, control=control, auth=run.auth, stop=run.stop)
    run.line(str(found.epoch))
    run.document(
        {
            "scope": found.scope,
            "epoch": found.epoch,
            "state": found.record.state.value,
            "held": found.record.held is not None,
            "stable": found.is_stable,
        }
    )
    if require_stable:
        found.require_stable()
