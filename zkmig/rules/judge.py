"""Judge: every rule over one tree, as it is predicted, as it was written, or as somebody asks about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.policy.rules import PythonCheck, Reference, Rule, Rules, Together
from zkmig.rules import guardrails, pychecks, references
from zkmig.rules.baseline import Baseline, Before, baseline_rules
from zkmig.rules.violation import Verdict, Violation, gathered

NEEDS_A_PLAN = "it speaks of before and after, and there is no plan"
Key = tuple[str, str, str, str]


def baseline_of(rules: Rules, before: Snapshot | None) -> Baseline:
    """What the rules need to know of the tree before. None: it was not there."""
    if before is None:
        return Baseline(baseline_rules(rules, None))
    known = frozenset(violation.key for violation in _found(rules, before, None))
    return Baseline(baseline_rules(rules, before), known)


def judge(rules: Rules, after: Snapshot, before: Baseline | None = None) -> Verdict:
    """What is against the tree. before None: rules that speak of before and after are not judged, which is said.

    BadInput for a rule that speaks of paths which lie outside of the tree, and for a check in Python that cannot be
    called or fails.
    """
    for rule in rules:
        _refuse_outside(rule, after)
    known = before.known if before is not None else frozenset[Key]()
    violations, more = gathered(_marked(_found(rules, after, before), known))
    judged, left = [], []
    for rule in rules:
        if isinstance(rule, Together) or (before is None and _speaks_of_before(rule)):
            left.append((rule.name, NEEDS_A_PLAN))
        else:
            judged.append(rule.name)
    return Verdict(violations, more, tuple(judged), tuple(left))


def _found(rules: Rules, after: Snapshot, before: Baseline | None) -> Iterator[Violation]:
    for reference in rules.references:
        yield from references.judged(reference, after)
    for rule in rules.guardrails:
        if not guardrails.speaks_of_before(rule):
            yield from guardrails.judged(rule, after, Before())
        elif before is not None:
            yield from guardrails.judged(rule, after, before[rule.name])
    for check in rules.checks:
        yield from pychecks.judged(check, after)


def _marked(found: Iterable[Violation], known: frozenset[Key]) -> Iterator[Violation]:
    for violation in found:
        yield dataclasses.replace(violation, is_old=True) if violation.key in known else violation


def _speaks_of_before(rule: Rule) -> bool:
    return not isinstance(rule, Reference | Together | PythonCheck) and guardrails.speaks_of_before(rule)


def _tops(rule: Rule) -> Iterator[str]:
    match rule:
        case Reference():
            yield rule.source.top
            yield rule.target.top
        case Together():
            for pattern in rule.patterns:
                yield pattern.top
        case PythonCheck():
            return
        case _:
            yield rule.pattern.top


def _refuse_outside(rule: Rule, tree: Snapshot) -> None:
    """A rule that can meet nothing of the tree would find it sound, whatever is there."""
    for top in _tops(rule):
        if not paths.overlap(tree.root, top):
            what = f"the rule {rule.name!r} speaks of {top}, which lies outside of what is judged"
            raise BadInput(what, tree.root, "judge a tree that holds both, or leave the rule out")
        outside = [each for each in tree.scope.excludes if paths.contains(each, top)]
        if outside:
            raise BadInput(f"the rule {rule.name!r} speaks of {top}, which is left out", outside[0], "take it in")
