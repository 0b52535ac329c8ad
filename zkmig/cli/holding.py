"""`zkmig hold` and `release`: a maintenance flag on a scope."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Any

import click

from zkmig.api import holding
from zkmig.apply.holding import Holding
from zkmig.cli.durations import as_seconds
from zkmig.cli.options import drain_option, dry_run_option, evict_option
from zkmig.cli.run import (
    BAD_INPUT,
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    exit_codes,
    required_at,
    scope_options,
)
from zkmig.errors import BadInput

_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_UNKNOWN = {"5": "outcome unknown: run zkmig status"}


def moment(text: str, now: float) -> float:
    """Unix seconds of 17:30, the next one, or of 2016-08-11 17:30, in local time, or with a zone as ISO 8601 has it."""
    text = text.strip()
    try:
        if _CLOCK.fullmatch(text):
            hour, minute = map(int, text.split(":"))
            at = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
            return (at if at.timestamp() > now else at + timedelta(days=1)).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadInput("not a time", f"--until {text}", "write it like 17:30 or 2016-08-11T17:30") from error


_HOLDER = click.option("--holder", metavar="NAME", help="Who holds it. Default: user@host of whoever runs this.")


@click.command(
    epilog=exit_codes(
        {
            "0": "held; with --wait: and nothing acts any more",
            **BAD_INPUT,
            "3": "refused: held by somebody else; or, with --wait, still at work in the end: then it IS held",
            **_UNKNOWN,
            **UNREACHABLE,
            "130/143": "stopped by SIGINT / by SIGTERM or --timeout; a hold that was set stays",
        }
    )
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for everybody who is refused by it.")
@_HOLDER
@click.option(
    "--for",
    "duration",
    callback=as_seconds,
    metavar="DURATION",
    help="How long it is meant to last: 90m, 2h, 1d12h, or seconds.",
)
@click.option("--until", metavar="TIME", help="Until when: 17:30, or 2016-08-11T17:30.")
@click.option("--replace", is_flag=True, help="Take the place of somebody else's hold.")
@click.option("--wait", is_flag=True, help="Return once nothing acts any more, or exit 3; the hold stays in any case.")
@drain_option
@evict_option
@dry_run_option
@scope_options()
@command_options
def hold(
    run: Run,
    reason: str,
    holder: str | None,
    duration: float | None,
    until: str | None,
    replace: bool,
    wait: bool,
    drain_timeout_s: float,
    evict: tuple[str, ...],
    dry_run: bool,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Hold a scope for maintenance: no reader acts, no guarded process runs, no epoch begins, until it is released.

    It is a flag beside the state, which survives every restart and every epoch. An `apply` that is at work already,
    were it only preparing, goes on, and ends under the hold: that is told. The same holder may run it again, to give
    another reason or more time. Past its time a hold stays in force, and is told as expired everywhere, until somebody
    releases it.
    """
    if duration is not None and until is not None:
        raise BadInput("both --for and --until", "", "give one of them")
    now = time.time()
    deadline = now + duration if duration is not None else None
    deadline = moment(until, now) if until is not None else deadline
    with run.gracefully():
        result = holding.hold(
            required_at(at),
            scope,
            reason=reason,
            holder=holder,
            until=deadline,
            replace=replace,
            wait=wait,
            drain_timeout_s=drain_timeout_s,
            evict=evict,
            dry_run=dry_run,
            control=control,
            say=run.say,
            **run.session,
        )
    held = result.record.held
    assert held is not None
    if result.before is not None and result.before.holder != held.holder:
        run.say(f"it was {result.before.told()}")
    state = f"{result.record.state.value} at epoch {result.record.epoch}"
    run.line(f"scope {result.scope}, {state}, {'would be ' if dry_run else ''}{held.told()}")
    if result.owner is not None and result.owner.alive:
        run.line(f"a migrator is at work ({result.owner.who}): it goes on under the hold")
    for blocker in result.blocking:
        run.line(f"still at work: {blocker}")
    if not result.blocking and not dry_run:
        run.line("nothing acts")
    run.document({"outcome": _outcome(result), **_document(result)})


def _outcome(result: Holding) -> str:
    if result.is_dry_run:
        return "dry run"
    return "held" if result.before is None else "renewed" if result.changed else "held already"


def _document(result: Holding) -> dict[str, Any]:
    held = result.record.held
    return {
        "scope": result.scope,
        "state": result.record.state.value,
        "epoch": result.record.epoch,
        "held": None if held is None else held.document(),
        "before": None if result.before is None else result.before.document(),
        "changed": result.changed and not result.is_dry_run,
        "owner_alive": result.owner is not None and result.owner.alive,
        "blocking": [
            {"name": "/".join(one.path.split("/")[-2:]), "what": one.what, "at_most_s": one.at_most_s}
            for one in result.blocking
        ],
    }


@click.command(
    epilog=exit_codes(
        {
            "0": "released, or not held",
            **BAD_INPUT,
            "3": "refused: it is somebody else's hold",
            **_UNKNOWN,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@_HOLDER
@dry_run_option
@scope_options()
@command_options
def release(run: Run, holder: str | None, dry_run: bool, at: str | None, scope: str | None, control: str) -> None:
    """Release the hold of a scope. Somebody else's has to be named: --holder NAME, as status tells it."""
    with run.gracefully():
        result = holding.release(required_at(at), scope, holder=holder, dry_run=dry_run, control=control, **run.session)
    state = f"{result.record.state.value} at epoch {result.record.epoch}"
    done = "is not held" if result.before is None else "would be released" if dry_run else "released"
    run.line(f"scope {result.scope}, {state}, {done}")
    if result.before is not None:
        run.line(f"it was {result.before.told()}")
    if result.record.held is not None:
        run.line(f"it was held again meanwhile: {result.record.held.told()}")
    outcome = "dry run" if dry_run else "not held" if result.before is None else "released"
    run.document({"outcome": outcome, **_document(result)})
