"""Documents: a plan's changes, batches, watches and rules as plain values, for --json and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zkmig.model.znode import Kind, Znode
from zkmig.plan.plan import Plan
from zkmig.policy.rules import PythonCheck, Reference, Rule, Together
from zkmig.rules.violation import Violation
from zkmig.show.before import Before
from zkmig.show.changes import Change
from zkmig.show.values import Masks, Sight, acl_texts
from zkmig.wire.requests import MULTI_OVERHEAD

MASKED_WHAT = "what the check says of it is not shown: its data is masked"


def change_document(change: Change, sight: Sight, before: Before | None = None) -> dict[str, Any]:
    """One node without its path. Data as `Sight.value` puts it."""
    found: dict[str, Any] = {"changes": list(change.sorts)}
    if change.batches:
        found["batches"] = list(change.batches)
    if change.create:
        node = change.create
        found["data"] = sight.value(change.path, node.data)
        found["acl"] = acl_texts(node.acl)
        if node.kind is not Kind.PERSISTENT:
            found["kind"] = node.kind.name.lower()
        if node.kind is Kind.TTL:
            found["ttl_ms"] = node.ttl_ms
    if change.write:
        found["data"] = sight.value(change.path, change.write.data)
        found["before_bytes"] = change.write.before_size
    if change.delete:
        found["create_again_bytes"] = change.delete.before_size
        if change.delete.kind is not Kind.PERSISTENT:
            found["kind"] = change.delete.kind.name.lower()
    if change.raises:
        found["counter"] = {"to": change.raises[-1].to, "by_at_most": sum(each.pairs for each in change.raises)}
    if change.step:
        step = change.step
        found["acl_steps"] = {
            "before": acl_texts(step.tighten) if step.tighten is not None else None,
            "after": acl_texts(step.final) if step.is_pending_after_commit else None,
        }
    if before is not None:
        found["before"] = _before(*before.node(change), change, sight)
    return found


def _before(node: Znode | None, fault: str, change: Change, sight: Sight) -> dict[str, Any] | None:
    if node is None:
        return {"fault": fault} if fault else None
    found: dict[str, Any] = {"fault": fault} if fault else {}
    if not fault and (change.write or change.delete):
        found["data"] = sight.value(change.path, node.data)
    if not fault and (change.step or change.delete):
        found["acl"] = acl_texts(node.acl)
    return found


def batch_documents(plan: Plan) -> Iterator[dict[str, Any]]:
    """Each batch: its operations, the bytes of its frame and of the one that undoes it, the first and last path."""
    overhead = MULTI_OVERHEAD + plan.head_bytes
    for (start, end), (forward, undo) in zip(plan.batch_ranges(), plan.batch_sizes(), strict=True):
        yield {
            "operations": end - start,
            "bytes": overhead + forward,
            "undo_bytes": overhead + undo,
            "first": plan.operations[start].path,
            "last": plan.operations[end - 1].path,
        }


def rules_document(plan: Plan, masks: Masks) -> dict[str, Any]:
    """The rules that the plan was made under, and what came of each."""
    verdict = plan.soundness.verdict
    left: dict[str, list[str]] = {}
    for name, why in verdict.not_judged:
        left.setdefault(name, []).append(why)
    checks = {rule.name for rule in plan.soundness.rules.checks}
    return {
        "rules": [
            {
                "name": rule.name,
                "sort": _sort(rule),
                "about": about(rule),
                "reason": rule.reason,
                "judged": rule.name in verdict.judged,
                "not_judged": "; ".join(left.get(rule.name, ())),
                "violations": sum(each.rule == rule.name for each in verdict.violations)
                + verdict.more.get(rule.name, 0),
            }
            for rule in plan.soundness.rules
        ],
        "violations": [_violation(each, checks, masks) for each in verdict.violations],
        "more": dict(verdict.more),
    }


def _violation(violation: Violation, checks: set[str], masks: Masks) -> dict[str, Any]:
    """Without its target, which tells data."""
    told = violation_text(violation, checks, masks)
    is_masked = masks.hides(violation.path)
    return {
        "rule": violation.rule,
        "path": violation.path,
        "what": told,
        "value": "" if is_masked else violation.value,
        "change": "" if is_masked else violation.change,
        "was_there_before": violation.is_old,
    }


def violation_text(violation: Violation, checks: set[str], masks: Masks) -> str:
    """What is wrong. Rules of ours never say data; what a check in Python says is its author's."""
    return MASKED_WHAT if violation.rule in checks and masks.hides(violation.path) else violation.what


def _sort(rule: Rule) -> str:
    match rule:
        case Reference():
            return "reference"
        case Together():
            return "together"
        case PythonCheck():
            return "check"
        case _:
            return "guardrail"


def about(rule: Rule) -> str:
    """What a rule speaks of: its patterns, or the function."""
    match rule:
        case Reference():
            return f"{rule.source} -> {rule.target}{f' by {rule.json}' if rule.json else ''}"
        case Together():
            return ", ".join(map(str, rule.patterns))
        case PythonCheck():
            return rule.call
        case _:
            return str(rule.pattern)
