"""`zkmig history`, `prune` and `remove`: what a scope keeps of its epochs, and taking it away."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from zkmig.api import keeping
from zkmig.api.keeping import KEEP_DEFAULT, History
from zkmig.apply.entries import some
from zkmig.apply.remove import Removed
from zkmig.cli.applying import how_written
from zkmig.cli.options import drain_option, dry_run_option, evict_option, steal_option, wait_for_owner_option
from zkmig.cli.run import (
    BAD_INPUT,
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    exit_codes,
    required_at,
    scope_options,
    yes_option,
)
from zkmig.cli.terminal import is_terminal
from zkmig.counted import counted
from zkmig.epoch.attempts import Attempt, Fate
from zkmig.epoch.record import Owner, shown_time
from zkmig.errors import BadInput

_CUT_OFF = {"4": "others keep writing into the control plane", "5": "cut off in between: run it again"}


# -- history ----------------------------------------------------------------------------------------------------------


@click.command(
    epilog=exit_codes({"0": "printed", **BAD_INPUT, "3": "there is no such scope", **UNREACHABLE, **STOPPED})
)
@scope_options()
@command_options
def history(run: Run, at: str | None, scope: str | None, control: str) -> None:
    """Tell of every attempt at an epoch: what became of it and why, who worked on it, and whether its undo is kept.

    Oldest first. Times are those of the hosts that worked on it.
    """
    found = keeping.history(required_at(at), scope, control=control, **run.session)
    run.document(
        {
            "scope": found.scope,
            "epoch": found.record.epoch,
            "state": found.record.state.value,
            "attempts": [
                {**attempt_document(attempt), "left_as_found": _left_document(found, attempt)} for attempt in found
            ],
        }
    )
    for attempt in found:
        run.line(
            f"epoch {attempt.note.epoch:<4} {attempt.note.attempt}  {shown_time(attempt.note.began)}  {fate(attempt)}"
        )
        for line in _details(attempt):
            run.line(f"    {line}")
        if left := found.left_as_found.get(attempt.note.attempt):
            run.line(f"    left as found: {some([f'{one.path} ({one.reason})' for one in left])}")
    if not len(found):
        run.line(f"scope {found.scope} has seen no attempt yet")


def _left_document(found: History, attempt: Attempt) -> list[dict[str, Any]] | None:
    """None: there are some, but they were pruned, or this identity may not read them."""
    left = found.left_as_found.get(attempt.note.attempt)
    if left is None:
        return None if attempt.note.deviations else []
    return [dataclasses.asdict(one) for one in left]


def attempt_document(attempt: Attempt) -> dict[str, Any]:
    """An attempt for --json. Times are Unix seconds."""
    note = attempt.note
    return {
        "epoch": note.epoch,
        "attempt": note.attempt,
        "outcome": attempt.fate.value,
        "reason": note.reason,
        "began": note.began,
        "ended": note.ended,
        "owners": [dataclasses.asdict(owner) for owner in note.owners],
        "plan_hash": note.plan_hash,
        "plan_path": note.plan_path,
        "script": None if note.script is None else dataclasses.asdict(note.script),
        "user": note.user,
        "counts": dict(note.counts),
        "writes": note.writes,
        "batches": note.batches,
        "batches_applied": note.applied,
        "single_shot": note.single_shot,
        "deviations": note.deviations,
        "reverts": note.reverts,
        "conflict": None if note.conflict is None else dataclasses.asdict(note.conflict),
        "put_back": [dataclasses.asdict(one) for one in note.put_back],
        "journal_bytes": note.journal_bytes,
        "journal_kept": attempt.is_kept,
        "pruned": note.pruned,
        "evicted": list(note.evicted),
    }


_FATES = {
    Fate.JOURNAL: "its journal is going up",
    Fate.UNDER_WAY: "under way",
    Fate.CONFLICT: "under way, stopped by a conflict",
    Fate.COMMITTED: "committed",
    Fate.ROLLED_BACK: "rolled back",
    Fate.ABORTED: "aborted",
    Fate.ABANDONED: "abandoned before it took effect",
    Fate.UNKNOWN: "nothing is known of its end",
}


def fate(attempt: Attempt) -> str:
    """What became of it, in a few words."""
    note = attempt.note
    text = _FATES[attempt.fate]
    if note.reverts is not None:
        text += f", taking back epoch {note.reverts}"
    if attempt.fate is Fate.ROLLED_BACK and note.deviations:
        text += f", {counted(note.deviations, 'path')} left as found"
    if note.ended is not None:
        text += f", after {max(0.0, note.ended - note.began):.0f} s"
    return text


def _details(attempt: Attempt) -> Iterator[str]:
    note = attempt.note
    if attempt.fate is Fate.ABORTED and note.reason:
        yield f"why: {note.reason}"
    if note.conflict is not None and attempt.fate is not Fate.ABORTED:
        yield f"conflict: {note.conflict.path}: {note.conflict.reason}"
    if note.evicted:
        yield f"not waited for: {some(note.evicted)}"
    if note.owners:
        user = f"{note.user} on " if note.user else ""
        yield f"by {user}{', then '.join(_who(owner) for owner in note.owners)}"
    if note.script is not None:
        yield f"from {note.script.file} ({note.script.name}), sha256 {note.script.sha256[:12]}"
    how = how_written(note.single_shot, note.batches)
    plan = f"plan {note.plan_hash[:12]}{f' of {note.plan_path}' if note.plan_path else ''}: " if note.plan_hash else ""
    counts = ", ".join(_counted(count, name) for name, count in note.counts.items() if count)
    yield f"{plan}{counted(note.writes, 'write')}{f' ({counts})' if counts else ''} {how}; {_journal(attempt)}"


_COUNTED = {
    "create": "create",
    "write": "change",
    "delete": "delete",
    "raise_counter": "counter",
    "set_acl": "ACL",
}


def _counted(count: int, name: str) -> str:
    """As in "2 creates"."""
    return counted(count, _COUNTED.get(name, name))


def _who(owner: Owner) -> str:
    return f"{owner.host} pid {owner.pid}"


def _journal(attempt: Attempt) -> str:
    if attempt.is_kept:
        return f"{attempt.note.journal_bytes} bytes of undo kept"
    return "undo pruned" if not attempt.children else "undo partly there, prune takes the rest"


# -- prune ------------------------------------------------------------------------------------------------------------


@click.command(
    epilog=exit_codes(
        {
            "0": "pruned, or there is nothing to prune",
            "2": "usage or bad input",
            "3": "refused: an epoch is under way, or another migrator is alive",
            **_CUT_OFF,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=KEEP_DEFAULT,
    show_default=True,
    metavar="K",
    help="Keep the undo of the last K committed epochs, which revert needs.",
)
@dry_run_option
@wait_for_owner_option
@steal_option
@scope_options()
@command_options
def prune(
    run: Run, keep: int, dry_run: bool, wait: bool, steal: bool, at: str | None, scope: str | None, control: str
) -> None:
    """Take away the journals that nobody will need again: of all attempts but the last K committed ones.

    What was aborted or abandoned goes in any case. What was rolled back goes too, unless that was after the last
    committed epoch and the undo of that is kept: to take it back, revert needs both. The history stays. Readers lose
    nothing. A journal in which pending ACLs are listed is kept.
    """
    with run.gracefully(), run.progress() as progress:
        result = keeping.prune(
            required_at(at),
            scope,
            keep=keep,
            dry_run=dry_run,
            wait=wait,
            steal=steal,
            control=control,
            report=progress.counted,
            say=run.say,
            **run.session,
        )
    done = "would prune" if dry_run else "pruned"
    for attempt in result.pruned:
        run.line(f"{done} epoch {attempt.note.epoch} {attempt.note.attempt}: {fate(attempt)}")
    if not result.pruned:
        run.line("nothing to prune")
    for attempt in result.kept:
        is_beside = attempt.fate is Fate.ROLLED_BACK
        why = f", rolled back; to revert epoch {result.record.epoch} takes it too" if is_beside else ""
        note = attempt.note
        run.line(f"kept epoch {note.epoch} {note.attempt}: {note.journal_bytes} bytes of undo{why}")
    run.document(
        {
            "outcome": "dry run" if dry_run else "pruned" if result.pruned else "nothing to do",
            "keep": keep,
            "pruned": [attempt_document(attempt) for attempt in result.pruned],
            "kept": [attempt_document(attempt) for attempt in result.kept],
            "nodes": result.nodes,
            "leases": result.leases,
            "journal_bytes": result.journal_bytes,
        }
    )


# -- remove -----------------------------------------------------------------------------------------------------------


@click.command(
    epilog=exit_codes(
        {
            "0": "removed",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": "refused: not STABLE or EMPTY, held, something pending, guards, actions under way, another owner",
            **_CUT_OFF,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@yes_option
@drain_option
@evict_option
@dry_run_option
@wait_for_owner_option
@steal_option
@scope_options()
@command_options
def remove(
    run: Run,
    yes: bool,
    drain_timeout_s: float,
    evict: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    steal: bool,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Remove a scope: its record, its history, all undo. The tree that it covers is not touched.

    Readers of the scope get no view any more. With the last scope the control root goes too. The scope has to be named,
    and goes in one transaction; stopped before that, the command is simply run again.
    """
    if not scope:
        raise BadInput("no scope is named", "", "say which with --scope")
    if not yes and not dry_run and not is_terminal():
        raise BadInput("there is no terminal to ask on", "", "give --yes to go ahead without a question")
    where = required_at(at)

    def carry_out(dry_run: bool) -> Removed:
        with run.progress() as progress:
            return keeping.remove(
                where,
                scope or "",
                dry_run=dry_run,
                wait=wait,
                steal=steal,
                drain_timeout_s=drain_timeout_s,
                evict=evict,
                control=control,
                report=progress.counted,
                say=run.say,
                **run.session,
            )

    if not yes and not dry_run:
        foreseen = carry_out(True)
        record = foreseen.record
        run.say(f"scope {scope} over {record.root}, {record.state.value} at epoch {record.epoch}")
        run.say(f"{foreseen.nodes} znodes of its control plane would go, its history and undo with them")
        click.confirm("Remove it?", abort=True, err=True)
    with run.gracefully():
        result = carry_out(dry_run)
    done = "would be removed" if dry_run else "removed"
    run.line(f"scope {scope} over {result.record.root} {done}: {result.nodes} znodes")
    if result.control_removed:
        run.line(f"{control} {done}: it was the last scope")
    elif result.kept:
        run.line(result.kept)
    run.document(
        {
            "outcome": "dry run" if dry_run else "removed",
            "scope": scope,
            "root": result.record.root,
            "epoch": result.record.epoch,
            "nodes": result.nodes,
            "control_removed": result.control_removed and not dry_run,
        }
    )
