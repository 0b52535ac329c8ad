"""Soundness: what the rules say of a plan before anything of it is written, and what they tie together in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from zkmig.errors import RuleViolated
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.plan.creates import Operations
from zkmig.plan.dependency import Ties
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, WriteData
from zkmig.plan.predict import predict
from zkmig.policy.rules import NO_RULES, Rules
from zkmig.rules.baseline import Baseline
from zkmig.rules.judge import baseline_of, judge
from zkmig.rules.links import links_between
from zkmig.rules.references import LinksOf
from zkmig.rules.violation import Verdict, Violation

NAMED_MAX = 20  # violations named in one error


@dataclass(frozen=True, slots=True)
class Soundness:
    """What a plan carries of its rules. baseline: of the tree that it starts from. verdict: on the one it leads to.

    excludes: absolute paths below which the target was not read, and is not read when it is judged again.
    """

    rules: Rules = NO_RULES
    baseline: Baseline = field(default_factory=Baseline)
    verdict: Verdict = field(default_factory=Verdict)
    excludes: tuple[str, ...] = ()


def examine(
    rules: Rules,
    target: Snapshot | None,
    root: str,
    operations: Operations,
    acl_steps: Iterable[AclStep],
    hides: Callable[[str], bool] = lambda _: False,
    excludes: Sequence[str] = (),
) -> tuple[Soundness, Ties]:
    """Judge the tree that the operations lead to. RuleViolated names what is against it. hides: as for
    `Verdict.masked`. excludes: what is left out of a target that is not there yet, absolute."""
    if not rules:
        return Soundness(), Ties()
    after = predict(target, root, operations, acl_steps)
    links_before = LinksOf(target) if target is not None else None
    links_after = LinksOf(after)
    baseline = baseline_of(rules, target, links_before)
    verdict = judge(rules, after, baseline, links=links_after).caused(causes(operations)).masked(hides)
    refuse(verdict, rules, "the plan is refused", "change what is to be, or the policy")
    written = {operation.path for operation in operations.rest if isinstance(operation, WriteData)}
    links = links_between(rules, links_before, links_after, written.__contains__)
    left_out = target.scope.excludes if target is not None else tuple(excludes)
    return Soundness(rules, baseline, verdict, left_out), Ties(links.before, links.groups, links.filled)


def against(verdict: Verdict, rules: Rules) -> list[Violation]:
    """The violations that count: all, or those that were not there before."""
    return [each for each in verdict.violations if not (each.is_old and rules.report_existing)]


def refuse(verdict: Verdict, rules: Rules, what: str, hint: str) -> None:
    """RuleViolated for what counts, each named."""
    found = against(verdict, rules)
    if not found:
        return
    first, *others = found
    if all(each.is_old for each in found):
        hint = f'{hint}; or take what was wrong before with existing = "report"'
    error = RuleViolated(f"{what}: {_sentence(first)}", "", hint)
    error.violations = tuple(found)
    more = verdict.count - len(verdict.violations)
    for violation in others[: NAMED_MAX - 1]:
        error.add_note(f"  also: {_sentence(violation)}")
    if len(others) >= NAMED_MAX or more:
        error.add_note(f"  also: {len(others) - min(len(others), NAMED_MAX - 1) + more} more")
    raise error


def _sentence(violation: Violation) -> str:
    return f"{violation}{'; it was so before this plan' if violation.is_old else ''}"


def causes(operations: Operations) -> Callable[[Violation], str]:
    """What of the operations has to do with a violation, "" for nothing. Gathered when it is first asked."""
    found: dict[str, str] = {}
    deleted_below: Counter[str] = Counter()

    def gather() -> None:
        found.update(dict.fromkeys(operations.creates.paths(), "created"))
        for operation in operations.rest:
            match operation:
                case CreateNode(path=path):
                    found[path] = "created"
                case WriteData(path=path):
                    found[path] = "written"
                case DeleteNode(path=path):
                    found[path] = "deleted"
                    deleted_below[paths.parent(path) if path != "/" else ""] += 1
                case _:
                    pass

    def cause(violation: Violation) -> str:
        if violation.is_old:
            return ""
        if not found:
            gather()
        causes = []
        if found.get(violation.target) == "deleted":
            causes.append(f"{violation.target} is deleted by this plan")
        if violation.path in found:
            causes.append(f"it is {found[violation.path]} by this plan")
        if deleted_below[violation.path]:
            count = deleted_below[violation.path]
            causes.append(f"{count} of its children {'is' if count == 1 else 'are'} deleted by this plan")
        return ", ".join(causes)

    return cause
