"""`zkmig check`: whether a tree, or the tree that a plan leads to, is what a policy calls sound."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from zkmig.api import check as api
from zkmig.api.migrate import load_plan
from zkmig.apply.engine import SealedPlan
from zkmig.cli.policy import policy_option
from zkmig.cli.run import (
    FUZZY,
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    consistent_option,
    control_option,
    exclude_option,
    exit_codes,
)
from zkmig.counted import counted
from zkmig.errors import EXIT_DIFFERENT, EXIT_DONE, BadInput
from zkmig.plan.planfile import is_planfile
from zkmig.rules.violation import Verdict, Violation
from zkmig.source.location import FileLocation, parse

AND_OLD = "it was so before"


@click.command(
    epilog=exit_codes(
        {
            "0": "sound",
            "1": "a rule is violated",
            "2": "usage or bad input; also no rules to judge, or a rule about what is not in the tree",
            "3": "refused: the target has moved on since the plan was made, or a check in Python has changed",
            **FUZZY,
            **UNREACHABLE,
            **STOPPED,
        }
    )
)
@click.argument("location", metavar="PLAN|LOCATION")
@policy_option
@click.option(
    "--at",
    "target",
    metavar="zk://HOSTS",
    help="Of a plan: where its target is, if not on the servers that it names; also a snapshot file.",
)
@consistent_option
@exclude_option
@control_option
@command_options
def check(
    run: Run,
    location: str,
    policy_file: str | None,
    target: str | None,
    require_consistent: bool,
    excludes: tuple[str, ...],
    control: str,
) -> int:
    """Judge a tree, or the tree that a plan leads to, by the rules of a policy. Nothing is written.

    LOCATION is zk://... or a snapshot file. What speaks of before and after (at most so many deletions, never empty, no
    change, the same count, together) takes a plan, and is named as not judged.

    Of a PLAN the target is read again. Without --policy its own rules are judged, as apply would; with it those of the
    file, on the tree that the plan leads to from there. A plan's own rules go before ZKMIG_POLICY.

    A line for each violation: rule, path, length and digest of the value, what is wrong, the change that causes it.
    """
    judged, policy_file = _chosen(location, policy_file)
    remarks: list[str] = []
    with run.progress() as progress:
        verdict = api.check(
            judged,
            policy=policy_file or None,
            target=target,
            excludes=excludes,
            control=control,
            require_consistent=require_consistent,
            progress=progress.read,
            say=remarks.append,
            **run.session,
        )
    run.document(verdict_document(verdict))
    for violation in verdict.violations:
        run.line(violation_line(violation))
    for rule, count in verdict.more.items():
        run.line(f"{rule}: and {count} more")
    for remark in remarks:
        run.say(f"note: {remark}")
    for rule, why in verdict.not_judged:
        run.say(f"not judged: {rule}: {why}")
    if verdict.judged or verdict.violations:
        run.line(closing_line(verdict))
    if verdict.is_sound and not verdict.judged:
        raise BadInput("no rule was judged, so that nothing is known to be sound", location, "see the lines above")
    return EXIT_DONE if verdict.is_sound else EXIT_DIFFERENT


def _chosen(location: str, policy_file: str | None) -> tuple[str | SealedPlan, str | None]:
    """What is judged, and by which file; None: by what a plan carries."""
    place = parse(location)
    if not isinstance(place, FileLocation) or not is_planfile(str(place.path)):
        return location, policy_file
    plan = load_plan(str(place.path))
    source = click.get_current_context().get_parameter_source("policy_file")
    is_for_others = source is ParameterSource.ENVIRONMENT and bool(plan.plan.soundness.rules)
    return plan, None if is_for_others else policy_file


def violation_line(violation: Violation) -> str:
    """As in "hosts: /hosts/*: 3 of 9 are gone, at most 0 (10 %) may go"."""
    return f"{violation}; {AND_OLD}" if violation.is_old else str(violation)


def closing_line(verdict: Verdict) -> str:
    """As in "violated: 2 violations of 1 rule; 3 rules judged"."""
    judged = f"{counted(len(verdict.judged), 'rule')} judged"
    left = len({rule for rule, _ in verdict.not_judged} - {*verdict.judged})
    others = f", {left} not judged" if left else ""
    if not verdict.count:
        return f"sound: {judged}{others}"
    rules = {violation.rule for violation in verdict.violations}
    what = f"{counted(verdict.count, 'violation')} of {counted(len(rules), 'rule')}"
    if verdict.is_sound:
        return f"sound: {what}, all so before; {judged}{others}"
    return f"violated: {what}; {judged}{others}"


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """For --json. more: by rule, how many violations there are besides those that are named."""
    return {
        "sound": verdict.is_sound,
        "judged": list(verdict.judged),
        "not_judged": [{"rule": rule, "why": why} for rule, why in verdict.not_judged],
        "violations": [
            {
                "rule": violation.rule,
                "path": violation.path,
                "what": violation.what,
                "value": violation.value or None,
                "change": violation.change or None,
                "is_old": violation.is_old,
            }
            for violation in verdict.violations
        ],
        "more": verdict.more,
        "counts": {
            "judged": len(verdict.judged),
            "not_judged": len({rule for rule, _ in verdict.not_judged} - {*verdict.judged}),
            "violations": verdict.count,
        },
    }
