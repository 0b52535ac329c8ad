"""Facts: what a plan is as a whole, a sentence each, for text and page alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.counted import counted
from zkmig.plan.plan import Plan
from zkmig.show.before import Before
from zkmig.show.changes import ChangeTree
from zkmig.show.document import violation_text
from zkmig.show.outside import outside_of
from zkmig.show.values import Masks
from zkmig.show.watches import watches_of
from zkmig.source.location import EnsembleLocation

HASH_CHARS = 16
VIOLATIONS_NAMED_MAX = 20
NOT_JUDGED_NAMED_MAX = 20


@dataclass(frozen=True, slots=True)
class Fact:
    """about: one word, the same for sentences of one sort."""

    about: str
    text: str


def facts_of(plan: Plan, plan_hash: str, masks: Masks) -> Iterator[Fact]:
    """Everything but the changes themselves. plan_hash: hex."""
    yield Fact("plan", plan_hash)
    if plan.script is not None:
        script = plan.script
        scope = f"scope {script.scope}" if script.scope is not None else "any scope"
        made_by = f"{script.file}, {script.name}, sha256 {script.sha256[:HASH_CHARS]}"
        yield Fact("script", f"{made_by}; for epoch {script.epoch} of {scope}")
    yield from _trees(plan)
    yield from _writes(plan)
    yield Fact("watches", f"would fire if set: {watches_of(plan.ordered).text}")
    for outside in outside_of(plan):
        yield Fact("outside", str(outside))
    for sentence in plan.left_out.sentences():
        yield Fact("left out", sentence)
    yield from _rules(plan, masks)
    for pattern in masks.patterns:
        yield Fact("masked", pattern.text)
    for note in plan.notes:
        yield Fact("note", note)


def _trees(plan: Plan) -> Iterator[Fact]:
    source, target = plan.source, plan.target
    yield Fact("from", f"{source.location or source.root}{' (fuzzy, a mix of states)' if source.is_fuzzy else ''}")
    yield Fact("", f"tree {source.tree_hash[:HASH_CHARS]}, zxids {source.zxid_first:#x} to {source.zxid_last:#x}")
    where = EnsembleLocation(target.hosts, target.root, target.tls) if target.hosts else target.root
    yield Fact("to", target.location or str(where))
    if target.tree_hash is None:
        yield Fact("", "there was no such tree yet")
    else:
        yield Fact("", f"tree {target.tree_hash[:HASH_CHARS]}, zxid {target.zxid_last:#x}")
    if target.hosts:
        protocol = "by TLS" if target.tls else "without TLS"
        yield Fact("hosts", f"{', '.join(f'{host}:{port}' for host, port in target.hosts)}, {protocol}")
    if target.scope is None:
        yield Fact("scope", "none covered the target yet: any epoch")
    else:
        yield Fact("scope", f"{target.scope} at epoch {target.epoch}, incarnation {target.incarnation}")


def _writes(plan: Plan) -> Iterator[Fact]:
    if plan.is_empty:
        yield Fact("changes", "none: there is nothing to do")
        return
    yield Fact("changes", plan.counts_text)
    reason = plan.why_not_single_shot()
    size = f"one transaction of at most {counted(plan.single_shot_bytes, 'byte')}"
    yield Fact("at once", f"possible: {size}" if reason is None else f"no: {reason}")
    if plan.batch_ends:
        yield Fact("batches", f"{counted(plan.writes, 'write')} in {counted(len(plan.batch_ends), 'batch')}")
    undo = counted(plan.journal_bytes, "byte")
    yield Fact("undo", f"about {undo} of journal on the servers, until it is pruned")


def facts_of_before(tree: ChangeTree, before: Before) -> Iterator[Fact]:
    """How many of the nodes that the plan changes are still what it was made for, and each that is not."""
    found = [(change.path, before.node(change)[1]) for change in tree.changes()]
    others = [(path, fault) for path, fault in found if fault]
    nodes = counted(len(found), "changed node")
    yield Fact("before", f"as the plan was made for: {len(found) - len(others)} of {nodes}")
    for path, fault in others:
        yield Fact("before", f"{path}: {fault}")


def _rules(plan: Plan, masks: Masks) -> Iterator[Fact]:
    soundness = plan.soundness
    if not soundness.rules:
        yield Fact("rules", "none: the plan was made without a policy that has any")
        return
    verdict = soundness.verdict
    found = f"violations: {verdict.count}" if verdict.count else "nothing is against it"
    yield Fact("rules", f"{len(verdict.judged)} judged: {found}")
    checks = {rule.name for rule in soundness.rules.checks}
    for violation in verdict.violations[:VIOLATIONS_NAMED_MAX]:
        old = " (it was so before)" if violation.is_old else ""
        yield Fact("violation", f"{violation.rule}: {violation.path}: {violation_text(violation, checks, masks)}{old}")
    if verdict.count > VIOLATIONS_NAMED_MAX:
        yield Fact("violation", f"and {verdict.count - VIOLATIONS_NAMED_MAX} more")
    for name, why in verdict.not_judged[:NOT_JUDGED_NAMED_MAX]:
        yield Fact("rules", f"{name}: not judged: {why}")
    if len(verdict.not_judged) > NOT_JUDGED_NAMED_MAX:
        yield Fact("rules", f"and {len(verdict.not_judged) - NOT_JUDGED_NAMED_MAX} more that are not judged")
