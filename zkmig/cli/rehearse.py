"""`zkmig rehearse`: a plan tried on a throw-away server, before its window or in CI."""

from __future__ import annotations

from dataclasses import asdict

import click
from click.core import ParameterSource

from zkmig.api import rehearse as api
from zkmig.api.migrate import load_plan
from zkmig.cli.policy import loaded_policy, policy_option
from zkmig.cli.run import STOPPED, Run, command_options, exclude_option, exit_codes, scope_options
from zkmig.counted import counted
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
@click.argument("plan_file", metavar="PLAN|SCRIPT")
@click.option(
    "--target", metavar="FILE", help="Take this snapshot of the target instead of reading it from the servers."
)
@click.option(
    "--keep",
    metavar="FOLDER",
    help="Leave the throw-away server's files there, with all data of the target in them. Else they go.",
)
@exclude_option
@policy_option
@scope_options(at_help="Read the target there, not at the servers that PLAN names. SCRIPT: where its target is.")
@command_options
def rehearse(
    run: Run,
    plan_file: str,
    target: str | None,
    keep: str | None,
    excludes: tuple[str, ...],
    policy_file: str | None,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Carry PLAN out, and take it back, on a throw-away server that holds a copy of its target.

    The target is read and loaded into a real ZooKeeper server on loopback. There the plan is applied, in its batches,
    with the rules of its policy, and reverted; then once more in a single transaction where it fits one. After each
    stage the whole tree is compared: with the target, with what the plan foretells, with the target again. The target
    itself is only read. SCRIPT, a migration script, is planned for its target first.

    What a rehearsal says nothing about is listed. Give the credentials of whoever will apply the plan, so that
    permissions are rehearsed too.
    """
    script = api.is_script(plan_file)
    at, scope, policy_file = (
        None if (not script or target is not None) and is_from_surroundings(name) else given
        for name, given in (("at", at), ("scope", scope), ("policy_file", policy_file))
    )
    if at is not None and target is not None:
        raise BadInput("a target is either read from servers or from a file", "--at, --target", "give one of them")
    plan = plan_file if script else load_plan(plan_file)
    if not script and (scope is not None or policy_file is not None):
        option = "--scope" if scope is not None else "--policy"
        raise BadInput("this is for scripts, and here is a plan", option, "leave it out: a plan has its own")
    with run.progress("target") as progress:
        found = api.rehearse(
            plan,
            target if target is not None else at,
            policy=loaded_policy(run, policy_file),
            scope=scope,
            control=control,
            excludes=excludes,
            keep=keep,
            progress=progress.read,
            report=progress.counted,
            **run.session,
        )
    is_empty = not found.stages
    run.document({"outcome": "nothing to do" if is_empty else "proven", **document(found)})
    if is_empty:
        run.line("nothing to rehearse: the plan is empty, and fits its target")
    else:
        _show(run, found)


def is_from_surroundings(option: str) -> bool:
    """Whether the environment or a profile says it: what a plan, or a file, says itself goes before that."""
    source = click.get_current_context().get_parameter_source(option)
    return source in (ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)


def document(found: Rehearsal) -> dict[str, object]:
    """For --json."""
    return {**asdict(found), "seconds": round(found.seconds, 3)}


def _show(run: Run, found: Rehearsal) -> None:
    run.line(f"target    {found.target or found.root}")
    run.line(f"plan      {found.plan_hash[:16]}, {counted(found.writes, 'write')} in {counted(found.batches, 'batch')}")
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
