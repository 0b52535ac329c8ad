"""`zkmig rehearse`: a plan tried on a throw-away server, before its window or in CI."""

from __future__ import annotations

from dataclasses import asdict

import click

from zkmig.api import rehearse as api
from zkmig.api.migrate import load_plan
from zkmig.cli.plan import counts_text
from zkmig.cli.run import STOPPED, Run, command_options, exclude_option, exit_codes
from zkmig.errors import BadInput
from zkmig.rehearse.result import Rehearsal, Stage


@click.command(
    epilog=exit_codes(
        {
            "0": "proven: every stage has left the tree that it had to",
            "2": "usage or bad input; no ZooKeeper or Java here; a change that cannot be made",
            "3": "refused: the plan is stale against its target, or a rule of its policy is broken",
            "4": "not proven: a stage has left another tree; the first path that differs is named",
            "6": "the target, or the throw-away server, is unreachable, or does not permit it",
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="PLAN")
@click.option("--at", metavar="zk://HOSTS", help="Read the target there, not at the servers that the plan names.")
@click.option(
    "--target", metavar="FILE", help="Take this snapshot of the target instead of reading it from the servers."
)
@click.option(
    "--keep",
    metavar="FOLDER",
    help="Leave the throw-away server's files there, with all data of the target in them. Else they go.",
)
@exclude_option
@command_options
def rehearse(
    run: Run, plan_file: str, at: str | None, target: str | None, keep: str | None, excludes: tuple[str, ...]
) -> None:
    """Carry PLAN out, and take it back, on a throw-away server that holds a copy of its target.

    The target is read and loaded into a real ZooKeeper server on loopback. There the plan is applied, in its batches,
    with the rules of its policy, and reverted; then once more in a single transaction where it fits one. After each
    stage the whole tree is compared: with the target, with what the plan foretells, with the target again. The target
    itself is only read. What a rehearsal says nothing about is listed; give the credentials of whoever will apply the
    plan, so that permissions are rehearsed too.
    """
    if at is not None and target is not None:
        raise BadInput("a target is either read from servers or from a file", "--at, --target", "give one of them")
    sealed = load_plan(plan_file)
    with run.progress("target") as progress:
        found = api.rehearse(
            sealed,
            target if target is not None else at,
            excludes=excludes,
            keep=keep,
            progress=progress.read,
            report=progress.counted,
            **run.session,
        )
    run.document({"outcome": "nothing to do" if sealed.plan.is_empty else "proven", **document(found)})
    if sealed.plan.is_empty:
        run.line("nothing to rehearse: the plan is empty, and fits its target")
        return
    _show(run, found, counts_text(sealed.plan))


def document(found: Rehearsal) -> dict[str, object]:
    """For --json."""
    return {**asdict(found), "seconds": round(found.seconds, 3)}


def _show(run: Run, found: Rehearsal, counts: str) -> None:
    run.line(f"target    {found.target or found.root}")
    run.line(f"plan      {found.plan_hash[:16]}: {counts}; {found.writes} writes")
    for stage in found.stages:
        run.line(f"{'ok':<10}{stage.name:<17} {stage.seconds:8.2f} s  {_told(stage)}")
    for sentence in found.warnings:
        run.line(f"warning   {sentence}")
    for sentence in found.not_rehearsed:
        run.line(f"not shown {sentence}")
    if found.kept:
        run.line(f"kept      {found.kept}")
    run.line(f"proven    in {found.seconds:.1f} s; the target was only read")


def _told(stage: Stage) -> str:
    size = f" ({stage.nodes} znodes, tree {stage.tree_hash[:16]})" if stage.tree_hash is not None else ""
    return f"{stage.proven}{size}"
