"""`zkmig revert`: take back a committed epoch."""

from __future__ import annotations

from collections.abc import Callable

import click

from zkmig.api import revert as reverting
from zkmig.api.migrate import SingleShot
from zkmig.api.revert import Reverted
from zkmig.apply.engine import SealedPlan
from zkmig.apply.revert import NOTE
from zkmig.cli.applying import (
    WRITING,
    how_written,
    require_yes,
    show_applied,
    show_dry_run,
    ways_on,
)
from zkmig.cli.options import writing_options
from zkmig.cli.output import check_output
from zkmig.cli.run import (
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    exit_codes,
    required_at,
    scope_options,
    yes_option,
)
from zkmig.counted import counted


@click.command(
    epilog=exit_codes(
        {
            "0": "taken back: the tree is as before epoch N, under epoch N+1",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": "refused: not the last epoch, its undo pruned, others have written since, or as for apply",
            **WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.option(
    "--epoch",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="The epoch to take back: the last committed one. Epoch N+1 does it.",
)
@click.option(
    "-o",
    "plan_file",
    metavar="FILE",
    help="Where to save the plan, which resume needs. Default: revert-SCOPE-N.zkplan, in the current folder.",
)
@click.option("--force", is_flag=True, help="Overwrite the file of -o.")
@yes_option
@writing_options
@scope_options()
@command_options
def revert(
    run: Run,
    epoch: int,
    plan_file: str | None,
    force: bool,
    yes: bool,
    dry_run: bool,
    single_shot: SingleShot,
    drain_timeout_s: float,
    evict: tuple[str, ...],
    throttle: float | None,
    ignore_quotas: bool,
    wait: bool,
    steal: bool,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Take back committed epoch N: data, ACLs and kinds of all that it wrote, from the undo that is kept of it.

    That is an epoch of its own, N+1: services are waited for, readers see the whole old or the whole new tree, and
    `zkmig resume` and `zkmig rollback` lead out of it. Nothing is written where others have written since on a path of
    epoch N: they are named. Sequence counters stay where they are, since nothing lowers them; quotas that came with
    the epoch stay too.
    """
    where = required_at(at)
    require_yes(yes or dry_run)
    if plan_file is not None:
        check_output(plan_file, force)
    may_wait = wait and not dry_run
    plan = reverting.plan_revert(where, epoch, scope, wait=may_wait, control=control, say=run.say, **run.session)

    def carry_out(dry_run: bool, saved: Callable[[str], object] = lambda _: None) -> Reverted:
        with run.progress() as progress:
            return reverting.revert(
                where,
                epoch,
                scope,
                plan=plan,
                plan_file=plan_file,
                force=force,
                dry_run=dry_run,
                single_shot=single_shot,
                drain_timeout_s=drain_timeout_s,
                evict=evict,
                throttle=throttle,
                ignore_quotas=ignore_quotas,
                wait=wait,
                steal=steal,
                control=control,
                report=progress.counted,
                say=run.say,
                saved=saved,
                **run.session,
            )

    if dry_run:
        foreseen = carry_out(True)
        show_dry_run(run, SealedPlan(plan, ""), epoch + 1, foreseen.applied)
        run.say(NOTE)
        return
    if not yes:
        foreseen = carry_out(True)
        how = how_written(foreseen.applied.single_shot, len(plan.batch_ends))
        run.say(f"epoch {epoch + 1} would take back epoch {epoch} of scope {plan.target.scope}: {plan.counts_text}")
        run.say(f"{counted(plan.writes, 'write')} {how}; {NOTE}")
        click.confirm("Take it back?", abort=True, err=True)
    with run.gracefully():
        with ways_on(plan_file, at, scope, control) as ways:
            result = carry_out(False, ways.name_plan)
        run.say(f"epoch {epoch} is taken back; {NOTE}")
        show_applied(run, result.applied, plan.target.scope, more={"reverts": epoch, "plan_file": result.plan_path})
