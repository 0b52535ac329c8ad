"""What the commands that write an epoch share: options, what they show of the outcome, the ways on from a failure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click

from zkmig.apply.batches import describe
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Applied
from zkmig.apply.tempo import TempoSeen
from zkmig.apply.verify import Deviation
from zkmig.cli.policy import say_left_out
from zkmig.cli.run import Run
from zkmig.cli.sessions import session_words
from zkmig.cli.terminal import is_terminal
from zkmig.counted import counted
from zkmig.errors import BadInput, Conflict, Held, Outcome, RuleViolated, StalePlan, WrongEpoch, ZkmigError
from zkmig.model.path import CONTROL_ROOT
from zkmig.plan.plan import Plan
from zkmig.policy.leftout import LeftOut

WRITING = {
    "4": "conflict: somebody else wrote a path of the plan; their value stands",
    "5": "outcome unknown: run zkmig status, then zkmig resume",
}
REFUSED = (
    "refused: stale plan, wrong epoch, held, another owner, other incarnation, a single shot required and not possible"
    ", readers or guards still at work when --drain-timeout was over"
)


def require_yes(yes: bool) -> None:
    """BadInput where nobody can be asked and --yes is not given."""
    if not yes and not is_terminal():
        raise BadInput("there is no terminal to ask on", "", "give --yes to go ahead without a question")


def how_written(single_shot: bool | None, batches: int) -> str:
    """In how many pieces."""
    if single_shot:
        return "in one transaction"
    return f"in {counted(batches, 'batch')}"


def ends_there(applied: Applied) -> bool:
    """Whether there is nothing to carry out."""
    return applied.already or applied.nothing_to_do


def say_if_no_rules(run: Run, plan: Plan) -> None:
    """Who has forgotten the policy learns it here at the latest."""
    if not plan.soundness.rules:
        run.say("no rules: the plan was made without a policy that has any, so nothing judges where it leads to")


def say_work(run: Run, plan: Plan, foreseen: Applied) -> None:
    """What a plan would do, to whoever is then asked."""
    how = how_written(foreseen.single_shot, len(plan.batch_ends))
    run.say(f"{plan.counts_text}; {counted(plan.writes, 'write')} {how}; {plan.journal_bytes} bytes of undo")
    for note in plan.notes:
        run.say(f"note: {note}")
    say_left_out(run, plan.left_out)
    say_if_no_rules(run, plan)


def show_dry_run(run: Run, sealed: SealedPlan, epoch: int, foreseen: Applied) -> None:
    """What would be done, a line each."""
    plan = sealed.plan
    document = dry_run_document(plan, foreseen)
    for line in document["operations"]:
        run.line(line)
    is_over = ends_there(foreseen)
    say_if_no_rules(run, plan)
    run.say("nothing to do" if is_over else f"dry run: {counted(plan.writes, 'write')} would make epoch {epoch}")
    run.document(document)
    say_left_out(run, plan.left_out)


def dry_run_document(plan: Plan, foreseen: Applied) -> dict[str, Any]:
    """The same for --json."""
    is_over = ends_there(foreseen)
    return {
        "outcome": _outcome(foreseen) if is_over else "dry run",
        "scope": plan.target.scope,
        "epoch": foreseen.epoch,
        "writes": foreseen.writes,
        "batches": foreseen.batches,
        "single_shot": foreseen.single_shot,
        "operations": [] if is_over else list(_described(plan)),
        "not_carried": plan.left_out.document(),
    }


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
    return "nothing to do" if ends_there(applied) else "applied"


def show_applied(
    run: Run,
    applied: Applied,
    scope: str | None,
    was_resumed: bool = False,
    left_out: LeftOut | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """What came of an epoch. more: for --json."""
    run.document({**applied_document(applied, scope, left_out, was_resumed), **(more or {})})
    say_applied(run, applied, left_out, was_resumed)


def applied_document(
    applied: Applied, scope: str | None, left_out: LeftOut | None, was_resumed: bool = False
) -> dict[str, Any]:
    """What came of an epoch, for --json."""
    return {
        "outcome": "applied" if was_resumed else _outcome(applied),
        "scope": scope,
        "epoch": applied.epoch,
        "attempt": applied.attempt,
        "writes": applied.writes,
        "batches": applied.batches,
        "single_shot": applied.single_shot,
        "acls_set": applied.acls,
        "quotas_set": applied.quotas,
        "deviations": plain(applied.deviations),
        "tempo": _tempo_document(applied.tempo),
        "not_carried": left_out.document() if left_out is not None else None,
    }


def say_applied(run: Run, applied: Applied, left_out: LeftOut | None, was_resumed: bool = False) -> None:
    """The same for people."""
    outcome = "applied" if was_resumed else _outcome(applied)
    if outcome != "applied":
        run.line(f"{outcome}: epoch {applied.epoch} is committed")
        return
    how = how_written(applied.single_shot, applied.batches)
    beside = [counted(number, what) for number, what in ((applied.acls, "ACL"), (applied.quotas, "quota")) if number]
    more = f"; {' and '.join(beside)} set" if beside else ""
    run.line(f"epoch {applied.epoch} is committed: {counted(applied.writes, 'write')} {how}{more}")
    _say_tempo(run, applied.tempo)
    say_deviations(run, applied.deviations)
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
    in_flight = f"{depths} batch{'' if depths == '1' else 'es'} in flight"
    if tempo.median_ms is None or tempo.p99_ms is None or tempo.idle_ms is None:
        run.say(f"{in_flight}; the latency of other clients' writes could not be measured")
        return
    run.say(
        f"{in_flight}; a small write of another client took {tempo.median_ms:.1f} ms (median) to "
        f"{tempo.p99_ms:.1f} ms (p99), {tempo.idle_ms:.1f} ms (median) before the first batch"
    )
    if tempo.others:
        count = counted(tempo.others, "transaction")
        run.say(f"others wrote meanwhile, at least {count}")


def plain(deviations: tuple[Deviation, ...]) -> list[dict[str, Any]]:
    """Deviations for --json."""
    return [asdict(deviation) for deviation in deviations]


def say_deviations(run: Run, deviations: tuple[Deviation, ...]) -> None:
    """Paths that were left with somebody else's value."""
    for deviation in deviations:
        run.say(f"left as found: {deviation.path}: {deviation.reason}")


# Refusals that may come after minutes of draining. Not a matter of the classes: `remove` may have written before them.
_TELLING_UNWRITTEN = (StalePlan, RuleViolated, WrongEpoch, Held, DrainTimeout)

# -- ways on ----------------------------------------------------------------------------------------------------------


@dataclass
class WaysOn:
    """What the commands that lead out need to name. plan_file: as it is to be given, None where none is needed."""

    plan_file: str | None

    def name_plan(self, plan_file: str) -> None:
        """It was saved there."""
        self.plan_file = plan_file


@contextmanager
def ways_on(plan_file: str | None, at: str | None, scope: str | None, control: str = CONTROL_ROOT) -> Iterator[WaysOn]:
    """Add to an error that leaves an epoch under way, or may do so, the commands that lead out."""
    ways = WaysOn(plan_file)
    try:
        yield ways
    except Exception as error:
        if isinstance(error, _TELLING_UNWRITTEN):
            error.tells_unwritten = True
        if not isinstance(error, ZkmigError) or error.outcome is not Outcome.NOTHING_WRITTEN:
            where = "".join(f" {option} {shlex.quote(value)}" for option, value in _place_options(at, scope, control))
            plan = f" {shlex.quote(ways.plan_file)}" if ways.plan_file is not None else ""
            how = session_words() + _rate_words()
            resume, rollback = (f"zkmig {name}{plan}{where}{how} --yes" for name in ("resume", "rollback"))
            if isinstance(error, Conflict):  # to go on would meet the same foreign change again
                error.add_note(f"  take back:     {rollback}")
                if error.may_go_on:
                    error.add_note(f"  or go on, once what stands in the way is put right by hand:  {resume}")
            else:
                error.add_note(f"  go on with:    {resume}")
                error.add_note(f"  or take back:  {rollback}")
        raise


def _rate_words() -> str:
    """The rate that was asked for: who pastes what is proposed would otherwise write at another."""
    throttle = click.get_current_context().params.get("throttle")
    return "" if throttle is None else f" --throttle {throttle:g}"


def _place_options(at: str | None, scope: str | None, control: str) -> Iterator[tuple[str, str]]:
    if at:
        yield "--at", at
    if scope:
        yield "--scope", scope
    if control != CONTROL_ROOT:
        yield "--control", control
