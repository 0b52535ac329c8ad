"""`zkmig apply` of migration scripts: those that are due, one epoch each, in order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import click

from zkmig.api import migrate
from zkmig.api.due import Due, find_due
from zkmig.api.scripts import foresee, kept_plan, plan_script
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Applied
from zkmig.cli.applying import (
    applied_document,
    dry_run_document,
    say_applied,
    say_if_no_rules,
    say_work,
    ways_on,
)
from zkmig.cli.policy import say_left_out
from zkmig.cli.run import Run
from zkmig.counted import counted
from zkmig.plan import planfile
from zkmig.plan.plan import Plan
from zkmig.policy.policy import Policy
from zkmig.script.load import Script


def are_scripts(name: str) -> bool:
    """Whether what is to be applied is a directory of scripts, or one script. A plan is known by its magic."""
    if os.path.isdir(name):
        return True
    return name.endswith(".py") and not (os.path.isfile(name) and planfile.is_planfile(name))


@dataclass(frozen=True, slots=True)
class How:
    """What the operator said of the whole row. options: as `migrate.apply` takes them."""

    at: str
    policy: Policy
    plans: str | None
    yes: bool
    control: str
    options: dict[str, Any]


def apply_scripts(run: Run, where: str, epoch: int, scope: str | None, dry_run: bool, how: How) -> None:
    """Plan, show, ask and apply, script by script. Each epoch that is committed stays so, whatever comes behind it."""
    wait = bool(how.options["wait"]) and not dry_run
    due = find_due(where, how.at, epoch=epoch, scope=scope, wait=wait, control=how.control, say=run.say, **run.session)
    if not due.scripts:
        run.line(f"already applied: epoch {due.epoch} is committed")
        run.document({"outcome": "already applied", "scope": due.scope, "epoch": due.epoch, "epochs": []})
        return
    foreseen: tuple[Plan, ...] = ()
    if dry_run or len(due.scripts) > 1:  # what is wrong with a later one is told before the first write
        with run.progress() as progress:
            foreseen = foresee(
                due, policy=how.policy, control=how.control, progress=progress.read, say=run.say, **run.session
            )
    if dry_run:
        _show_foreseen(run, due, foreseen, how)
        return
    documents = [_apply_one(run, due, script, how) for script in due.scripts]
    run.document({"outcome": "applied", "scope": due.scope, "epoch": due.scripts[-1].epoch, "epochs": documents})


def _show_foreseen(run: Run, due: Due, plans: tuple[Plan, ...], how: How) -> None:
    """The first as the servers would take it; the others as far as can be told without the epochs before them."""
    documents: list[dict[str, Any]] = []
    for script, plan in zip(due.scripts, plans, strict=True):
        if documents:
            shown = Applied(due.epoch, None, plan.writes, len(plan.batch_ends), plan.why_not_single_shot() is None)
        else:
            shown = _carry_out(run, due, script, SealedPlan(plan, planfile.plan_hash(plan)), how, dry_run=True)
        document = dry_run_document(plan, shown)
        for line in document["operations"]:
            run.line(line)
        say_if_no_rules(run, plan)
        run.say(f"dry run: {script.path}: {counted(plan.writes, 'write')} would make epoch {script.epoch}")
        say_left_out(run, plan.left_out)
        documents.append({**document, "epoch": script.epoch, "script": script.pin.file})
    run.document({"outcome": "dry run", "scope": due.scope, "epoch": due.epoch, "epochs": documents})


def _apply_one(run: Run, due: Due, script: Script, how: How) -> dict[str, Any]:
    if len(due.scripts) > 1:
        run.say(f"epoch {script.epoch}: {script.path}")
    with run.progress() as progress:
        plan = plan_script(
            script,
            due.target,
            policy=how.policy,
            scope=due.scope,
            control=how.control,
            progress=progress.read,
            say=run.say,
            **run.session,
        )
    if not how.yes:
        foreseen = _carry_out(run, due, script, SealedPlan(plan, planfile.plan_hash(plan)), how, dry_run=True)
        _say_intent(run, due, script, plan, foreseen)
        if not click.confirm("Apply it?", err=True):
            if script.epoch > due.epoch + 1:
                run.say(f"epoch {script.epoch - 1} stays committed")
            raise click.Abort
    with run.gracefully():
        with kept_plan(plan, script, due, how.plans, control=how.control, **run.session) as sealed:
            shown = os.path.relpath(sealed.path)
            with ways_on(shown, None, None, how.control):
                applied = _carry_out(run, due, script, sealed, how, dry_run=False)
        say_applied(run, applied, plan.left_out)
        if how.yes:
            say_if_no_rules(run, plan)
    return {**applied_document(applied, due.scope, plan.left_out), "script": script.pin.file, "plan_file": shown}


def _carry_out(run: Run, due: Due, script: Script, sealed: SealedPlan, how: How, dry_run: bool) -> Applied:
    with run.progress() as progress:
        return migrate.apply(
            sealed,
            epoch=script.epoch,
            scope=due.scope,
            dry_run=dry_run,
            control=how.control,
            report=progress.counted,
            say=run.say,
            **how.options,
            **run.session,
        )


def _say_intent(run: Run, due: Due, script: Script, plan: Plan, foreseen: Applied) -> None:
    run.say(f"epoch {script.epoch} of scope {due.scope}, by {script.path}: {due.target}")
    say_work(run, plan, foreseen)
