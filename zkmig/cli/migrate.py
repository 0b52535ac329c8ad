"""`zkmig apply`, `resume` and `rollback`: what changes a tree, and what to do when it did not come to its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import click
from click.core import ParameterSource

from zkmig.api import migrate
from zkmig.apply.batches import describe
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import DRAIN_TIMEOUT_S, Applied
from zkmig.apply.rollback import RolledBack
from zkmig.apply.tempo import TempoSeen
from zkmig.apply.verify import Deviation
from zkmig.cli.plan import counts_text
from zkmig.cli.policy import say_left_out
from zkmig.cli.run import (
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    exit_codes,
    scope_options,
    yes_option,
)
from zkmig.cli.sessions import session_words
from zkmig.cli.terminal import is_terminal
from zkmig.errors import BadInput, Conflict, Outcome, ZkmigError
from zkmig.plan.plan import Plan
from zkmig.policy.leftout import LeftOut

_WRITING = {
    "4": "conflict: somebody else wrote a path of the plan; their value stands",
    "5": "outcome unknown: run zkmig status, then zkmig resume",
}
_REFUSED = (
    "refused: stale plan, wrong epoch, held, another owner, other incarnation, a single shot required and not possible"
)

_single_shot_option = click.option(
    "--single-shot",
    type=click.Choice(["auto", "never", "require"]),
    default="auto",
    show_default=True,
    help="Whether all goes into the one transaction that moves the epoch, atomic for every reader there is.",
)
_drain_option = click.option(
    "--drain-timeout",
    "drain_timeout_s",
    type=click.FloatRange(min=0),
    default=DRAIN_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for readers' actions and guarded processes to end.",
)
_evict_option = click.option(
    "--evict",
    multiple=True,
    metavar="NAME",
    help="Do not wait for this lease or guard, acting/NAME or guards/NAME, exactly as status and errors name it. What "
    "it stands for may still be at work: end it first. Put on record. May be given several times.",
)
_throttle_option = click.option(
    "--throttle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="WRITES",
    help="At most so many writes (creates, changes, deletes) a second. Without it, as many as other clients can stand: "
    "their latency is measured all the while. A single shot is one transaction all the same.",
)
_steal_option = click.option("--steal", is_flag=True, help="Take over from another migrator without waiting for it.")
_dry_run_option = click.option("--dry-run", is_flag=True, help="Read and check everything, print it, write nothing.")
_ignore_quotas_option = click.option(
    "--ignore-quotas",
    is_flag=True,
    help="Go on although hard quotas of the target would be passed: its servers do not enforce them.",
)


@click.command(
    epilog=exit_codes(
        {
            "0": "committed; or already applied; or there is nothing to do",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": _REFUSED,
            **_WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="PLAN")
@click.option(
    "--epoch",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="The epoch that this creates: the committed one plus 1. Anything else is refused.",
)
@yes_option
@_dry_run_option
@_single_shot_option
@_drain_option
@_evict_option
@_throttle_option
@_ignore_quotas_option
@click.option("--wait", is_flag=True, help="Wait for another migrator to end instead of exiting 3.")
@_steal_option
@scope_options(at_help="Other servers than the plan names.")
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
    at: str | None,
    scope: str | None,
    control: str,
) -> None:
    """Carry out PLAN as migration epoch N, and commit it.

    Readers that use zkmig see the whole old tree until the commit and the whole new one afterwards. The servers and
    the scope are those that the plan names. What the target would refuse is named before anything is written. SIGINT
    and SIGTERM stop after the batch in flight; what was begun is recorded on the servers, and `zkmig resume` or `zkmig
    rollback` leads out from any host.
    """
    sealed = migrate.load_plan(plan_file)
    at, scope = _given(at, scope, sealed)
    _require_yes(yes or dry_run)

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
        _show_dry_run(run, sealed, epoch, carry_out(True))
        return
    if not yes:
        foreseen = carry_out(True)  # nobody is asked about what would be refused, or is done already
        if _ends_there(foreseen):
            _show_applied(run, foreseen, scope or sealed.plan.target.scope, left_out=sealed.plan.left_out)
            return
        _say_intent(run, sealed, epoch, foreseen)
        click.confirm("Apply it?", abort=True, err=True)
    with run.gracefully():  # to the last line: a signal that comes after the commit must not look like one before
        with _ways_on(plan_file, at, scope):
            applied = carry_out(False)
        _show_applied(run, applied, scope or sealed.plan.target.scope, left_out=sealed.plan.left_out)


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


def _require_yes(yes: bool) -> None:
    if not yes and not is_terminal():
        raise BadInput("there is no terminal to ask on", "", "give --yes to go ahead without a question")


def _ends_there(applied: Applied) -> bool:
    return applied.already or applied.nothing_to_do


def _say_intent(run: Run, sealed: SealedPlan, epoch: int, foreseen: Applied) -> None:
    plan = sealed.plan
    where = ", ".join(f"{host}:{port}" for host, port in plan.target.hosts)
    how = "in one transaction" if foreseen.single_shot else f"in {len(plan.batch_ends)} batches"
    run.say(f"epoch {epoch} of scope {plan.target.scope or '(the one covering it)'}: {plan.target.root} on {where}")
    run.say(f"{counts_text(plan)}; {plan.writes} writes {how}; {plan.journal_bytes} bytes of undo")
    for note in plan.notes:
        run.say(f"note: {note}")
    say_left_out(run, plan.left_out)


def _show_dry_run(run: Run, sealed: SealedPlan, epoch: int, foreseen: Applied) -> None:
    plan = sealed.plan
    is_over = _ends_there(foreseen)
    operations = [] if is_over else list(_described(plan))
    if not run.as_json:
        for line in operations:
            run.line(line)
    run.say("nothing to do" if is_over else f"dry run: {plan.writes} writes would make epoch {epoch}")
    run.document(
        {
            "outcome": _outcome(foreseen) if is_over else "dry run",
            "scope": plan.target.scope,
            "epoch": foreseen.epoch,
            "writes": foreseen.writes,
            "batches": foreseen.batches,
            "single_shot": foreseen.single_shot,
            "operations": operations,
            "not_carried": plan.left_out.document(),
        }
    )
    say_left_out(run, plan.left_out)


def _described(plan: Plan) -> Iterator[str]:
    for operation in plan.operations:
        yield describe(operation)
    for step in plan.acl_steps:
        yield f"set acl {step.path}"
    for quota in plan.quotas:
        yield f"set quota {quota.path}"


def _outcome(applied: Applied) -> str:
    if applied.already:
        return "already applied"
    return "nothing to do" if _ends_there(applied) else "applied"


def _show_applied(
    run: Run, applied: Applied, scope: str | None, was_resumed: bool = False, left_out: LeftOut | None = None
) -> None:
    outcome = "applied" if was_resumed else _outcome(applied)
    run.document(
        {
            "outcome": outcome,
            "scope": scope,
            "epoch": applied.epoch,
            "attempt": applied.attempt,
            "writes": applied.writes,
            "batches": applied.batches,
            "single_shot": applied.single_shot,
            "quotas_set": applied.quotas,
            "deviations": _plain(applied.deviations),
            "tempo": _tempo_document(applied.tempo),
            "not_carried": left_out.document() if left_out is not None else None,
        }
    )
    if outcome != "applied":
        run.line(f"{outcome}: epoch {applied.epoch} is committed")
        return
    how = "in one transaction" if applied.single_shot else f"in {applied.batches} batches"
    quotas = f"; {applied.quotas} quotas set" if applied.quotas else ""
    run.line(f"epoch {applied.epoch} is committed: {applied.writes} writes {how}{quotas}")
    _say_tempo(run, applied.tempo)
    _say_deviations(run, applied.deviations)
    if left_out is not None:
        say_left_out(run, left_out)


def _tempo_document(tempo: TempoSeen | None) -> dict[str, Any] | None:
    return asdict(tempo) if tempo is not None else None


def _say_tempo(run: Run, tempo: TempoSeen | None) -> None:
    """What others felt of it."""
    if tempo is None:
        return
    low, high = f"{tempo.in_flight_min:g}", f"{tempo.in_flight_max:g}"
    depths = low if low == high else f"{low} to {high}"
    if tempo.median_ms is None or tempo.p99_ms is None or tempo.idle_ms is None:
        run.say(f"{depths} batches in flight; the latency of other clients' writes could not be measured")
        return
    run.say(
        f"{depths} batches in flight; a small write of another client took {tempo.median_ms:.1f} ms (median) to "
        f"{tempo.p99_ms:.1f} ms (p99), {tempo.idle_ms:.1f} ms (median) before the first batch"
    )


def _plain(deviations: tuple[Deviation, ...]) -> list[dict[str, Any]]:
    return [asdict(deviation) for deviation in deviations]


def _say_deviations(run: Run, deviations: tuple[Deviation, ...]) -> None:
    for deviation in deviations:
        run.say(f"left as found: {deviation.path}: {deviation.reason}")


# -- going on, and going back -----------------------------------------------------------------------------------------


@click.command(
    epilog=exit_codes(
        {
            "0": "committed, or rolled back to the end; or there is nothing to go on with",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": "refused: no plan file, or another one; another owner at work",
            **_WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="[PLAN]", required=False)
@yes_option
@_single_shot_option
@_drain_option
@_evict_option
@_throttle_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for another migrator to end.")
@_steal_option
@_dry_run_option
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
    _require_yes(yes or dry_run)
    if (dry_run or not yes) and not _is_agreed(run, "resume", sealed, at, scope, control, dry_run):
        return
    with run.gracefully():
        with _ways_on(plan_file, at, scope), run.progress() as progress:
            result = migrate.resume(
                sealed,
                at,
                scope=scope,
                single_shot=single_shot,
                drain_timeout_s=drain_timeout_s,
                evict=evict,
                throttle=throttle,
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
                _show_applied(run, result, scope, was_resumed=True)


@click.command(
    epilog=exit_codes(
        {
            "0": "rolled back; the epoch is the one before",
            "2": "usage or bad input; no --yes where nobody can be asked",
            "3": "refused: no epoch is under way; another owner at work",
            **_WRITING,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("plan_file", metavar="[PLAN]", required=False)
@yes_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for another migrator to end.")
@_throttle_option
@_steal_option
@_dry_run_option
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
    _require_yes(yes or dry_run)
    if (dry_run or not yes) and not _is_agreed(run, "rollback", sealed, at, scope, control, dry_run):
        return
    with run.gracefully():
        with _ways_on(plan_file, at, scope), run.progress() as progress:
            result = migrate.rollback(
                at,
                plan=sealed,
                scope=scope,
                wait=wait,
                throttle=throttle,
                steal=steal,
                control=control,
                report=progress.counted,
                say=run.say,
                **run.session,
            )
        _show_rolled_back(run, result, scope)


def _is_agreed(
    run: Run,
    action: Literal["resume", "rollback"],
    sealed: SealedPlan | None,
    at: str | None,
    scope: str | None,
    control: str,
    dry_run: bool,
) -> bool:
    """Show what would be done; ask, unless that was all that was wanted. click.Abort for a no."""
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
    return found.is_needed and not dry_run


def _show_rolled_back(run: Run, result: RolledBack, scope: str | None) -> None:
    run.document(
        {
            "outcome": "rolled back",
            "scope": scope,
            "epoch": result.epoch,
            "batches_undone": result.batches_undone,
            "deviations": _plain(result.deviations),
        }
    )
    run.line(f"rolled back: epoch {result.epoch} stays committed; {result.batches_undone} batches taken back")
    _say_deviations(run, result.deviations)


@contextmanager
def _ways_on(plan_file: str | None, at: str | None, scope: str | None) -> Iterator[None]:
    """Add to an error that leaves an epoch under way, or may do so, the commands that lead out."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ZkmigError) or error.outcome is not Outcome.NOTHING_WRITTEN:
            where = "".join(f" {option} {shlex.quote(value)}" for option, value in _place_options(at, scope))
            plan = f" {shlex.quote(plan_file)}" if plan_file is not None else ""
            how = session_words()
            resume, rollback = (f"zkmig {name}{plan}{where}{how} --yes" for name in ("resume", "rollback"))
            if isinstance(error, Conflict):  # to go on would meet the same foreign change again
                error.add_note(f"  take back:     {rollback}")
                error.add_note(f"  or go on, once the foreign change is undone by hand:  {resume}")
            else:
                error.add_note(f"  go on with:    {resume}")
                error.add_note(f"  or take back:  {rollback}")
        raise


def _place_options(at: str | None, scope: str | None) -> Iterator[tuple[str, str]]:
    if at:
        yield "--at", at
    if scope:
        yield "--scope", scope
