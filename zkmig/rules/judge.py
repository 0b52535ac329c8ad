"""Judge: every rule over one tree, as it is predicted, as it was written, or as somebody asks about it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT, SYSTEM_ROOT
from zkmig.model.snapshot import Snapshot
from zkmig.policy.captures import CapturePattern
from zkmig.policy.rules import MinChildren, NeverEmpty, PythonCheck, Reference, Rule, Rules, Together
from zkmig.rules import guardrails, pychecks, references
from zkmig.rules.baseline import Baseline, Before, baseline_rules
from zkmig.rules.references import LinksOf
from zkmig.rules.violation import Verdict, Violation, gathered

NEEDS_A_PLAN = "it speaks of before and after: it takes a plan"
NEEDS_TRANSACTIONS = "it speaks of what changes in one transaction: it takes a plan"
ONLY_ORDERS = "it is not required: it only orders what a plan writes"
Key = tuple[str, str, str, str]


def baseline_of(rules: Rules, before: Snapshot | None, links: LinksOf | None = None) -> Baseline:
    """What the rules need to know of the tree before. None: it was not there. links: its own, where others need them
    too."""
    if before is None:
        return Baseline(baseline_rules(rules, None))
    found = _keyed(_found(rules, before, None, _nothing, links))
    known = frozenset(key for key, violation in found if not pychecks.is_failure(violation))
    return Baseline(baseline_rules(rules, before), known)


def _nothing() -> None:
    """Nobody waits for a sign."""


def judge(
    rules: Rules,
    after: Snapshot,
    before: Baseline | None = None,
    between: Callable[[], object] = _nothing,
    links: LinksOf | None = None,
) -> Verdict:
    """What is against the tree. before None: rules that speak of before and after are not judged, which is said.

    between: called between two rules, for who has to show meanwhile that the work gets on, or may be told to stop.
    links: those of `after`, where others need them too.
    That paths change together is held by the order of a plan, and taken for granted where there is a `before`.
    BadInput for a rule that speaks of paths which lie outside of the tree, and for a check in Python that cannot be
    called; Refused for one that is no longer what it was when the policy was read.
    """
    for rule in rules:
        _refuse_outside(rule, after)
    known = before.known if before is not None else frozenset[Key]()
    violations, more = gathered(_marked(_found(rules, after, before, between, links), known))
    judged: list[str] = []
    left: list[tuple[str, str]] = []
    for rule in rules:
        reason = _why_not(rule, after, before)
        if reason:
            left.append((rule.name, reason))
            continue
        judged.append(rule.name)
        left += [(rule.name, f"what lies at and below {path}, which is left out") for path in _unseen(rule, after)]
        if isinstance(rule, Together):
            left += [(rule.name, missed) for pattern in rule.patterns if (missed := _met(pattern, after))]
    return Verdict(violations, more, tuple(judged), tuple(left), rules.report_existing)


def _found(
    rules: Rules, after: Snapshot, before: Baseline | None, between: Callable[[], object], links: LinksOf | None
) -> Iterator[Violation]:
    for reference in rules.references:
        between()
        # Kept only for who asks for them again: of a large tree they are many.
        yield from references.judged(reference, links or LinksOf(after))
    for rule in rules.guardrails:
        between()
        if not guardrails.speaks_of_before(rule):
            yield from guardrails.judged(rule, after, Before())
        elif before is not None:
            yield from guardrails.judged(rule, after, before[rule.name])
    for check in rules.checks:
        between()
        yield from pychecks.judged(check, after)


def _marked(found: Iterable[Violation], known: frozenset[Key]) -> Iterator[Violation]:
    for key, violation in _keyed(found):
        yield dataclasses.replace(violation, is_old=True) if key in known else violation


def _keyed(found: Iterable[Violation]) -> Iterator[tuple[Key, Violation]]:
    """Each with its key; what is found twice is told apart by its number, so that a second one is not old for being
    like the first."""
    times: Counter[Key] = Counter()
    for violation in found:
        key = violation.key
        times[key] += 1
        rule, path, what, value = key
        yield (key if times[key] == 1 else (rule, path, what, f"{value}, {times[key]}")), violation


def _why_not(rule: Rule, after: Snapshot, before: Baseline | None) -> str:
    """Why a rule says nothing of a tree, "" if it does. One that meets no node may hold a slip of the pen."""
    match rule:
        case PythonCheck():
            return ""
        case Together() if before is None:
            return NEEDS_TRANSACTIONS
        case Together(patterns=patterns):
            missed = [_met(pattern, after) for pattern in patterns]
            return "; ".join(missed) if all(missed) else ""
        case Reference(source=pattern, required=required):
            return _met(pattern, after) or ("" if required else ONLY_ORDERS)
        case _ if not guardrails.speaks_of_before(rule):
            return _met(rule.pattern, after)
        case _ if before is None:
            return NEEDS_A_PLAN
        case _:
            was = before[rule.name]
            return "" if was.paths or was.count else _met(rule.pattern, after)


def _met(pattern: CapturePattern, tree: Snapshot) -> str:
    return "" if next(pattern.find(tree), None) is not None else f"no node matches {pattern}"


def _patterns(rule: Rule) -> tuple[CapturePattern, ...]:
    match rule:
        case Reference():
            return (rule.source,)
        case Together():
            return rule.patterns
        case PythonCheck():
            return ()
        case _:
            return (rule.pattern,)


def _unseen(rule: Rule, tree: Snapshot) -> Iterator[str]:
    """Where the tree is not known, and the rule may have something to say."""
    for exclude in tree.scope.excludes:
        if exclude in (SYSTEM_ROOT, CONTROL_ROOT) or not paths.contains(tree.root, exclude):
            continue
        places = [exclude]
        if isinstance(rule, MinChildren | NeverEmpty):
            places.append(paths.parent(exclude))  # whose children are not all known
        if isinstance(rule, PythonCheck) or any(
            pattern.may_reach(exclude) or any(pattern.match(place) is not None for place in places)
            for pattern in _patterns(rule)
        ):
            yield exclude


def _refuse_outside(rule: Rule, tree: Snapshot) -> None:
    """A rule that can meet nothing of the tree would find it sound, whatever is there."""
    tops = [pattern.top for pattern in _patterns(rule)]
    for top in (*tops, rule.target.top) if isinstance(rule, Reference) else tops:
        if not paths.overlap(tree.root, top):
            what = f"the rule {rule.name!r} speaks of {top}, which lies outside of what is judged"
            raise BadInput(what, tree.root, "judge a tree that holds both, or leave the rule out")
        outside = [each for each in tree.scope.excludes if paths.contains(each, top)]
        if outside:
            raise BadInput(f"the rule {rule.name!r} speaks of {top}, which is left out", outside[0], "take it in")
    includes = tree.scope.includes
    if not includes:
        return
    # Above what is included nodes only lead there; whether they have other children nobody has looked.
    for top in tops or (tree.root,):
        if not any(paths.contains(each, top) for each in includes):
            what = f"the rule {rule.name!r} speaks of {top}, of which only a part was read"
            raise BadInput(what, includes[0], "judge a tree that holds all of it, or leave the rule out")
