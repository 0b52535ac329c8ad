"""`zkmig apply`, `resume` and `rollback`: what changes a tree, and what to do when it did not come to its end."""

from __future__ import annotations

from typing import Literal

import click
from click.core import ParameterSource

from zkmig.api import migrate
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Applied
from zkmig.apply.preview import Preview
from zkmig.apply.rollback import RolledBack
from zkmig.cli.applying import (
    REFUSED,
    WRITING,
    ends_there,
    plain,
    require_yes,
    say_deviations,
    say_if_no_rules,
    say_work,
    show_applied,
    show_dry_run,
    ways_on,
)
from zkmig.cli.options import (
    drain_option,
    dry_run_option,
    evict_option,
    single_shot_option,
    steal_option,
    throttle_option,
    wait_by_default_option,
    writing_options,
)
from zkmig.cli.policy import loaded_policy, policy_option
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
from zkmig.cli.scripts import How, apply_scripts, are_scripts
from zkmig.counted import counted
from zkmig.errors import BadInput
from zkmig.policy.policy import Policy


@click.command(
    epilog=exit_codes(
        {
            "0": "committed; or already applied; or there is nothing to do",
            "2": "usage or bad input, also a script that fails; no --yes where nobody can be asked",
            "3": f"{REFUSED}; of scripts: one is missing, is there twice, was edited since it was applied",
            **WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="PLAN|SCRIPTS")
@click.option(
    "--epoch",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="The epoch that this creates: the committed one plus 1, with scripts one for each up to N. Anything else is "
    "refused.",
)
@yes_option
@writing_options
@click.option(
    "--plans",
    metavar="DIR",
    help="Where the plans of scripts are kept, for resume. Default: .plans beside the scripts.",
)
@policy_option
@scope_options(at_help="Other servers than the plan names; with scripts, where to apply them.")
@command_options
def apply(
    run: Run,
    plan_file: str,
    epoch: int,
    yes: bool,
    dry_run: bool,
    single_shot: migrate.SingleShot,
    drain_timeout_s: float,
    evict: tuple[str, ...],
    throttle: float | None,
    ignore_quotas: bool,
    wait: bool,
    steal: bool,
    plans: str | None,
    policy_file: str | None,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Carry out PLAN as migration epoch N, and commit it; or plan and carry out SCRIPTS up to epoch N.

    Readers that use zkmig see the whole old tree until the commit and the whole new one afterwards. The servers and
    the scope are those that the plan names. What the target would refuse is named before anything is written. SIGINT
    and SIGTERM stop after the batch in flight; what was begun is recorded on the servers, and `zkmig resume` or `zkmig
    rollback` leads out from any host.

    SCRIPTS is a directory of migration scripts, or one of them. Those from the committed epoch to N are applied in
    order, one epoch each. Refused before the first write where a number is missing or there twice, and where a file was
    edited since it was applied: the servers keep its hash. Run again after an interruption, it goes on behind the last
    committed epoch; one that is under way is gone on with first, by `zkmig resume`.
    """
    if are_scripts(plan_file):
        require_yes(yes or dry_run)
        options = {
            "single_shot": single_shot,
            "drain_timeout_s": drain_timeout_s,
            "evict": evict,
            "throttle": throttle,
            "ignore_quotas": ignore_quotas,
            "wait": wait,
            "steal": steal,
        }
        policy = loaded_policy(run, policy_file) or Policy()
        how = How(required_at(at), policy, plans, yes, control, options)
        apply_scripts(run, plan_file, epoch, scope, dry_run, how)
        return
    _refuse_for_plan("plans", "policy_file")
    sealed = migrate.load_plan(plan_file)
    at, scope = _given(at, scope, sealed)
    require_yes(yes or dry_run)

    def carry_out(dry_run: bool) -> Applied:
        with run.progress() as progress:
            return migrate.apply(
                sealed,
                at,
                epoch=epoch,
                scope=scope,
                single_shot=single_shot,
                drain_timeout_s=drain_timeout_s,
                evict=evict,
                throttle=throttle,
                ignore_quotas=ignore_quotas,
                wait=wait,
                steal=steal,
                dry_run=dry_run,
                control=control,
                report=progress.counted,
                say=run.say,
                **run.session,
            )

    if dry_run:
        show_dry_run(run, sealed, epoch, carry_out(True))
        return
    if not yes:
        foreseen = carry_out(True)  # nobody is asked about what would be refused, or is done already
        if ends_there(foreseen):
            show_applied(run, foreseen, scope or sealed.plan.target.scope, left_out=sealed.plan.left_out)
            return
        _say_intent(run, sealed, epoch, foreseen)
        click.confirm("Apply it?", abort=True, err=True)
    with run.gracefully():  # to the last line: a signal that comes after the commit must not look like one before
        with ways_on(plan_file, at, scope, control):
            applied = carry_out(False)
        show_applied(run, applied, scope or sealed.plan.target.scope, left_out=sealed.plan.left_out)
        if yes:  # else it was said before the question
            say_if_no_rules(run, sealed.plan)


def _refuse_for_plan(*options: str) -> None:
    """What only scripts heed; from the environment it may be there for other commands."""
    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "--" + name.removesuffix("_file")
            raise BadInput("this is for scripts, and here is a plan", option, "leave it out: a plan has its policy")


def _given(at: str | None, scope: str | None, sealed: SealedPlan | None) -> tuple[str | None, str | None]:
    """--at and --scope as given; a plan that knows its target wins over ZKMIG_AT, ZKMIG_SCOPE and a profile."""
    context = click.get_current_context()
    if sealed is not None and sealed.plan.target.hosts and _is_from_environment(context, "at"):
        at = None
    if sealed is not None and sealed.plan.target.scope and _is_from_environment(context, "scope"):
        scope = None
    return at, scope


def _is_from_environment(context: click.Context, option: str) -> bool:
    return context.get_parameter_source(option) in (ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)


def _say_intent(run: Run, sealed: SealedPlan, epoch: int, foreseen: Applied) -> None:
    plan = sealed.plan
    where = ", ".join(f"{host}:{port}" for host, port in plan.target.hosts)
    run.say(f"epoch {epoch} of scope {plan.target.scope or '(the one covering it)'}: {plan.target.root} on {where}")
    say_work(run, plan, foreseen)


# -- going on, and going back -----------------------------------------------------------------------------------------


@click.command(
    epilog=exit_codes(
        {
            "0": "committed, or rolled back to the end; or there is nothing to go on with",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": "refused: no plan file, or another one; another owner at work",
            **WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="[PLAN]", required=False)
@yes_option
@single_shot_option
@drain_option
@evict_option
@throttle_option
@wait_by_default_option
@steal_option
@dry_run_option
@scope_options(at_help="The ensemble; may be left out when PLAN is given.")
@command_options
def resume(
    run: Run,
    plan_file: str | None,
    yes: bool,
    single_shot: migrate.SingleShot,
    drain_timeout_s: float,
    evict: tuple[str, ...],
    throttle: float | None,
    wait: bool,
    steal: bool,
    dry_run: bool,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Go on from where a migration stopped: to its commit, or to the end of a rollback that was begun.

    PLAN is the file that was applied; without it, the file that the last owner named is taken if it is still there and
    the same. A rollback and pending ACLs go on without one. Another migrator that is alive is waited for; when it makes
    no progress for as long as its session lasts, it is taken over from, which is safe.
    """
    sealed = migrate.load_plan(plan_file) if plan_file is not None else None
    at, scope = _given(at, scope, sealed)
    require_yes(yes or dry_run)
    agreed = None
    if dry_run or not yes:
        agreed = _agreed(run, "resume", sealed, at, scope, control, dry_run)
        if agreed is None:
            return
    with run.gracefully():
        with ways_on(plan_file, at, scope, control), run.progress() as progress:
            result = migrate.resume(
                sealed,
                at,
                scope=scope,
                single_shot=single_shot,
                drain_timeout_s=drain_timeout_s,
                evict=evict,
                throttle=throttle,
                agreed=agreed,
                wait=wait,
                steal=steal,
                control=control,
                report=progress.counted,
                say=run.say,
                **run.session,
            )
        match result:
            case None:
                run.line("nothing to go on with")
                run.document({"outcome": "nothing to do", "scope": scope})
            case RolledBack():
                _show_rolled_back(run, result, scope)
            case Applied():
                show_applied(run, result, scope, was_resumed=True)


@click.command(
    epilog=exit_codes(
        {
            "0": "rolled back; the epoch is the one before",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": "refused: no epoch is under way; another owner at work",
            **WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="[PLAN]", required=False)
@yes_option
@wait_by_default_option
@throttle_option
@steal_option
@dry_run_option
@scope_options(at_help="The ensemble; may be left out when PLAN is given.")
@command_options
def rollback(
    run: Run,
    plan_file: str | None,
    yes: bool,
    wait: bool,
    throttle: float | None,
    steal: bool,
    dry_run: bool,
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Take back an epoch that is not committed: every node as it was before, from the journal on the servers.

    The plan is not needed; PLAN only says where. What somebody else has written meanwhile is left as it is and named.
    Sequence counters stay where they are, since nothing lowers them.
    """
    sealed = migrate.load_plan(plan_file) if plan_file is not None else None
    at, scope = _given(at, scope, sealed)
    require_yes(yes or dry_run)
    agreed = None
    if dry_run or not yes:
        agreed = _agreed(run, "rollback", sealed, at, scope, control, dry_run)
        if agreed is None:
            return
    with run.gracefully():
        with ways_on(plan_file, at, scope, control), run.progress() as progress:
            result = migrate.rollback(
                at,
                plan=sealed,
                scope=scope,
                wait=wait,
                throttle=throttle,
                agreed=agreed,
                steal=steal,
                control=control,
                report=progress.counted,
                say=run.say,
                **run.session,
            )
        _show_rolled_back(run, result, scope)


def _agreed(
    run: Run,
    action: Literal["resume", "rollback"],
    sealed: SealedPlan | None,
    at: str | None,
    scope: str | None,
    control: str,
    dry_run: bool,
) -> Preview | None:
    """Show what would be done; ask, unless that was all that was wanted. What was agreed to; click.Abort for a no."""
    found = migrate.preview(action, sealed, at, scope=scope, control=control, say=run.say, **run.session)
    if dry_run:
        for line in found.operations:
            run.line(line)
        run.document(
            {
                "outcome": "dry run" if found.is_needed else "nothing to do",
                "scope": found.scope,
                "epoch": found.record.epoch,
                "state": found.record.state.value,
                "summary": found.summary,
                "operations": list(found.operations),
            }
        )
    run.say(f"scope {found.scope}: {found.summary}")
    if found.is_needed and not dry_run:
        click.confirm("Go ahead?", abort=True, err=True)
    return found if found.is_needed and not dry_run else None


def _show_rolled_back(run: Run, result: RolledBack, scope: str | None) -> None:
    run.document(
        {
            "outcome": "rolled back",
            "scope": scope,
            "epoch": result.epoch,
            "batches_undone": result.batches_undone,
            "deviations": plain(result.deviations),
        }
    )
    run.line(f"rolled back: epoch {result.epoch} stays committed; {counted(result.batches_undone, 'batch')} taken back")
    if result.batches_undone:
        run.say("what was brought back has new versions, so the old plan may be stale: make a new one with zkmig plan")
    say_deviations(run, result.deviations)
