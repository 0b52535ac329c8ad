"""`zkmig plan`: what would have to be done, into a file."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from zkmig.api import migrate, scripts
from zkmig.apply.engine import SealedPlan
from zkmig.cli.check import closing_line, verdict_document, violation_line
from zkmig.cli.output import check_output
from zkmig.cli.policy import policy_options
from zkmig.cli.run import (
    FUZZY,
    STOPPED,
    Run,
    command_options,
    consistent_option,
    control_option,
    exclude_option,
    exit_codes,
)
from zkmig.counted import counted
from zkmig.errors import BadInput
from zkmig.plan.plan import BATCH_FRAME_BYTES_MAX, JOURNAL_BYTES_MAX, SINGLE_SHOT_OPS_MAX, Limits, Plan
from zkmig.policy.policy import Policy
from zkmig.source.location import EnsembleLocation, parse

NOTES_SHOWN = 20


@click.command(
    epilog=exit_codes(
        {
            "0": "planned, whatever the differences",
            "2": "usage or bad input; also a change that cannot be made safely, or a script that fails",
            "3": "refused: --scope, or the script, names another scope than the target's; a rule of the policy",
            **FUZZY,
            "6": "unreachable, or not permitted to read or to make the change",
            **STOPPED,
        }
    )
)
@click.argument("script", metavar="[SCRIPT]", required=False)
@click.option("--from", "source", metavar="LOCATION", help="The tree to have: zk://... or a snapshot.")
@click.option("--to", "target", required=True, metavar="LOCATION", help="The tree to change. Its root may be absent.")
@click.option("-o", "--output", required=True, metavar="FILE", help="The plan file to write.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--scope", envvar="ZKMIG_SCOPE", metavar="NAME", help="The scope it must belong to. ZKMIG_SCOPE.")
@click.option(
    "--batch-bytes",
    type=click.IntRange(min=1024),
    default=BATCH_FRAME_BYTES_MAX,
    show_default=True,
    metavar="BYTES",
    help="Largest transaction, unless one node needs more.",
)
@click.option(
    "--single-shot-ops-max",
    type=click.IntRange(min=0),
    default=SINGLE_SHOT_OPS_MAX,
    show_default=True,
    metavar="N",
    help="Most writes in the one transaction of a single shot.",
)
@click.option(
    "--journal-max",
    type=click.IntRange(min=0),
    default=JOURNAL_BYTES_MAX,
    show_default=True,
    metavar="BYTES",
    help="Most bytes of undo to put on the servers.",
)
@consistent_option
@exclude_option
@control_option
@command_options
@policy_options(carrying=True)
def plan(
    run: Run,
    script: str | None,
    source: str | None,
    target: str,
    output: str,
    force: bool,
    scope: str | None,
    batch_bytes: int,
    single_shot_ops_max: int,
    journal_max: int,
    require_consistent: bool,
    excludes: tuple[str, ...],
    control: str,
    policy: Policy,
) -> None:
    """Plan how the tree at --to becomes equal to the tree at --from, or what SCRIPT makes of it, into a file.

    The plan is the order of all writes, in batches, with the version that each expects; it names the servers, the
    scope and the epoch that it was made for, and `zkmig apply` refuses it once they have moved. Ephemerals are counted
    and never carried over. What is left out is said, and what the target would refuse (unknown schemes, kinds, quotas,
    permissions) is named before anything is tried. Nothing is written to any server.

    SCRIPT is a migration script, as `zkmig new` makes one. It is trusted code, and is run five times, in four
    processes: its plan is refused where it does not come out the same each time.
    """
    check_output(output, force)
    parse(target)
    if (source is None) == (script is None):
        raise BadInput("a plan wants either --from or a script", "", "say zkmig plan --from LOCATION, or name a script")
    limits = Limits(batch_bytes_max=batch_bytes, single_shot_ops_max=single_shot_ops_max, journal_bytes_max=journal_max)
    remarks: list[str] = []
    with run.progress() as progress:
        options: dict[str, Any] = {
            "policy": policy,
            "limits": limits,
            "scope": scope,
            "excludes": excludes,
            "control": control,
            "require_consistent": require_consistent,
            "progress": progress.read,
            "say": remarks.append,
        }
        if source is not None:
            parse(source)
            made = migrate.make_plan(source, target, **options, **run.session)
        else:
            made = scripts.plan_script(script or "", target, **options, **run.session)
    findings = migrate.preflight(made, **run.session) if isinstance(parse(target), EnsembleLocation) else ()
    sealed = migrate.save_plan(made, output, force)
    run.document(
        {
            "plan": output,
            "plan_hash": sealed.hash,
            **summary_document(made),
            "verdict": verdict_document(made.soundness.verdict) if made.soundness.rules else None,
            "preflight": list(map(asdict, findings)),
        }
    )
    show_summary(run, sealed)
    for finding in findings:
        run.say(f"{'apply will refuse' if finding.is_fatal else 'warning'}: {finding}")
    if made.source.is_fuzzy:
        which = "source" if made.script is None else "target"
        remarks.append(f"others wrote the {which} while it was read: the plan leads to a mix of its states")
    for remark in remarks:
        run.say(f"note: {remark}")
    refused = (migrate.WILL_BE_STALE, scripts.WILL_BE_REFUSED)
    will_be_refused = any(each in remark for each in refused for remark in remarks)
    is_something = not made.is_empty or made.script is not None
    if made.target.epoch is not None and is_something and not will_be_refused:
        run.say(f"apply it with: zkmig apply --epoch {made.target.epoch + 1} {shlex.quote(output)}")


def summary_document(made: Plan) -> dict[str, Any]:
    """What a plan is, for --json."""
    reason = made.why_not_single_shot()
    source = {
        name: value for name, value in dataclasses.asdict(made.source).items() if name not in ("is_fuzzy", "taken_at")
    }
    return {
        "source": {**source, "fuzzy": made.source.is_fuzzy},
        "target": {
            "location": made.target.location,
            "hosts": [f"{host}:{port}" for host, port in made.target.hosts],
            "root": made.target.root,
            "tree_hash": made.target.tree_hash,
            "counter_hash": made.target.counter_hash,
        },
        "script": None if made.script is None else dataclasses.asdict(made.script),
        "scope": made.target.scope,
        "epoch": made.target.epoch,
        "incarnation": made.target.incarnation,
        "empty": made.is_empty,
        "counts": made.counts,
        "writes": made.writes,
        "batches": len(made.batch_ends),
        "single_shot": reason is None,
        "why_not_single_shot": reason,
        "journal_bytes": made.journal_bytes,
        "ephemerals_source": made.ephemerals_source,
        "ephemerals_target": made.ephemerals_target,
        "not_carried": made.left_out.document(),
        "quotas": [{"path": quota.path, "limits": quota.text} for quota in made.quotas],
        "notes": list(made.notes),
    }


def show_summary(run: Run, sealed: SealedPlan) -> None:
    """The same for people."""
    made = sealed.plan
    where = f" in scope {made.target.scope} at epoch {made.target.epoch}" if made.target.scope else ""
    run.line(f"from      {made.source.location}{' (fuzzy)' if made.source.is_fuzzy else ''}")
    run.line(f"to        {made.target.location or _place_of(made)}{where}")
    if made.script is not None:
        run.line(f"script    {made.script.name}, for epoch {made.script.epoch}, sha256 {made.script.sha256[:16]}")
    if made.is_empty:
        run.line("changes   none: there is nothing to do")
    else:
        run.line(f"changes   {made.counts_text}")
        run.line(f"written   {size_text(made)}")
        reason = made.why_not_single_shot()
        run.line(f"at once   {'possible: one transaction' if reason is None else f'no: {reason}'}")
    if made.quotas:
        run.line(f"quotas    {len(made.quotas)} to set after the commit, of {made.quotas[0].path} first")
    for sentence in made.left_out.sentences():
        run.line(f"left out  {sentence}")
    if made.ephemerals_target:
        run.line(f"left out  {counted(made.ephemerals_target, 'ephemeral')} of the target")
    for note in made.notes[:NOTES_SHOWN]:
        run.line(f"note      {note}")
    if len(made.notes) > NOTES_SHOWN:
        run.line(f"note      and {len(made.notes) - NOTES_SHOWN} more, which --json names")
    for sentence in _rules_text(made):
        run.line(f"rules     {sentence}")
    run.line(f"plan      {sealed.hash[:16]}")


def _rules_text(made: Plan) -> Iterator[str]:
    """A rule that was not judged, because it met no node, is one that its author may have misspelt."""
    if not made.soundness.rules:
        yield "none: no policy with rules was given"
        return
    verdict = made.soundness.verdict
    yield closing_line(verdict)
    lines = [violation_line(violation) for violation in verdict.violations]
    lines += [f"not judged: {rule}: {why}" for rule, why in verdict.not_judged]
    yield from lines[:NOTES_SHOWN]
    if len(lines) > NOTES_SHOWN:
        yield f"and {len(lines) - NOTES_SHOWN} more, which --json names"


def _place_of(made: Plan) -> str:
    """Of a target that is not there yet."""
    hosts = EnsembleLocation(made.target.hosts, made.target.root, made.target.tls) if made.target.hosts else None
    return str(hosts or made.target.root)


def size_text(made: Plan) -> str:
    """As in "12 writes in 1 batch, 340 bytes of undo"."""
    batches = counted(len(made.batch_ends), "batch")
    return f"{counted(made.writes, 'write')} in {batches}, {made.journal_bytes} bytes of undo"
