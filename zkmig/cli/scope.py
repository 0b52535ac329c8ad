"""`zkmig init` and `epoch`: a scope, and its number. Loads neither planner nor applier, to start at once."""

from __future__ import annotations

import click

from zkmig.api import scopes
from zkmig.cli.run import (
    BAD_INPUT,
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    control_option,
    exit_codes,
    required_at,
    scope_options,
)


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
            **run.session,
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
    found = scopes.committed(required_at(at), scope, control=control, **run.session)
    held = found.record.held
    if held is not None and not require_stable:
        run.say(f"the scope is {held.told()}")
    run.line(str(found.epoch))
    run.document(
        {
            "scope": found.scope,
            "epoch": found.epoch,
            "state": found.record.state.value,
            "held": None if held is None else held.document(),
            "stable": found.is_stable,
        }
    )
    if require_stable:
        found.require_stable()
