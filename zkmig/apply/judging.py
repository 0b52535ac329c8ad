"""Judging: a plan's rules, held against its target on the servers, before the first write and before the commit.

Planning has judged a tree that was read then. Others write meanwhile: paths that the plan does not touch make it no
stale one, but may make what it leads to unsound. So the target is read again, and judged with what the rules knew of
it when the plan was made: what is gone counts, whoever has taken it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from zkmig.errors import BadInput, NotPermitted, RuleViolated, StalePlan, ZkmigError
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.plan.operations import DeleteNode
from zkmig.plan.plan import Plan
from zkmig.plan.predict import predict, with_acls
from zkmig.plan.soundness import against, causes, refuse
from zkmig.policy.captures import any_of
from zkmig.policy.rules import MaxDeletions
from zkmig.rules.guardrails import gone_text
from zkmig.rules.judge import judge
from zkmig.rules.pychecks import NotLoaded
from zkmig.rules.relied import may_matter, relied_on
from zkmig.rules.violation import Verdict, Violation
from zkmig.source import ensemble as live
from zkmig.source.read import make_scope
from zkmig.wire.client import Client
from zkmig.wire.requests import Check

Say = Callable[[str], None]
LEFT_OUT_MAX = 20  # nodes that may not be read, each of which takes one more reading of the tree
NAMED_MAX = 5  # paths that others have deleted, in one violation
STRICT_MAX = 3  # commits that fail at what others write all the time
BY_OTHERS = "others have changed the tree since the plan was made"


@dataclass(frozen=True, slots=True)
class Judged:
    """A tree of the target, and what the plan's rules say of it. tree: as predicted or as written; read: as it was read
    for that, None where its root is not there."""

    tree: Snapshot
    read: Snapshot | None
    verdict: Verdict


def judge_predicted(
    client: Client, plan: Plan, control: str, between: Callable[[], object], say: Say, known: Snapshot | None = None
) -> Judged:
    """The tree that the plan leads to from the target as it is now. RuleViolated names what is against it.

    between: as for `judge`. known: as it was read before, which spares reading ACLs and children again. To be called
    when the plan was seen to be no stale one.
    """
    rules = plan.soundness.rules
    now = _read(client, plan, control, say, known)
    try:
        tree = predict(now, plan.target.root, plan.ordered, plan.acl_steps)
    except (BadInput, KeyError) as error:
        what = "the target has changed while it was judged: the plan fits it no longer"
        raise StalePlan(what, plan.target.root, "plan again") from error
    verdict = with_causes(judge(rules, tree, plan.soundness.baseline, between), plan, tree).masked(any_of(plan.masks))
    refuse(verdict, rules, "the tree that this plan leads to by now is not sound", "plan again, or mend the target")
    return Judged(tree, now, verdict)


def judge_written(
    client: Client, plan: Plan, control: str, between: Callable[[], object], say: Say, known: Snapshot | None = None
) -> Judged:
    """The tree as it is once all is written, with the ACLs that follow the commit. Nothing is raised for what is
    against it."""
    now = _read(client, plan, control, say, known)
    if now is None:
        raise BadInput("the root of the plan is gone", plan.target.root, "run zkmig status")
    tree = with_acls(now, {step.path: step.final for step in plan.acl_steps})
    verdict = judge(plan.soundness.rules, tree, plan.soundness.baseline, between)
    return Judged(tree, now, with_causes(verdict, plan, tree).masked(any_of(plan.masks)))


@dataclass
class Rulings:
    """What a plan's rules say on its way to the commit. Without rules nothing is read, and nothing is against it.

    between: as for `judge`: a judgement may take longer than others wait for a sign of life.
    """

    client: Client
    plan: Plan
    control: str
    say: Say
    between: Callable[[], object]
    last: Judged | None = None

    def predicted(self) -> None:
        """RuleViolated where the tree that the plan leads to, as the target is now, is not sound."""
        if self.plan.soundness.rules:
            self.say("judging what it leads to")
            self.last = judge_predicted(self.client, self.plan, self.control, self.between, self.say, self._known)

    def written(self) -> list[Violation]:
        """What counts against the tree as written."""
        if not self.plan.soundness.rules:
            return []
        self.say("judging what was written")
        self.last = judge_written(self.client, self.plan, self.control, self.between, self.say, self._known)
        return against(self.last.verdict, self.plan.soundness.rules)

    def checks(self, tried: int) -> Iterator[Check]:
        """Of what the last verdict relies on and is there already, once each. tried: how often a commit has failed at
        one of them."""
        if self.last is None or self.last.read is None:
            return
        found: dict[str, int] = {}
        for path, version in relied_on(self.plan.soundness.rules, self.last.tree, is_strict=tried < STRICT_MAX):
            if path in self.last.read:
                found[path] = max(version, found.get(path, version))
        for path, version in found.items():
            yield Check(path, version)

    @property
    def _known(self) -> Snapshot | None:
        return self.last.read if self.last is not None else None


def with_causes(verdict: Verdict, plan: Plan, tree: Snapshot) -> Verdict:
    """The verdict on a tree that others write too, each violation with what causes it. The plan alone was found sound,
    so that what it has no part in comes from others."""
    of_plan = causes(plan.ordered)
    found = replace(verdict, violations=tuple(_others_first(verdict.violations, plan, tree)))
    return found.caused(lambda each: of_plan(each) or ("" if each.is_old else BY_OTHERS))


def _others_first(violations: Iterable[Violation], plan: Plan, tree: Snapshot) -> Iterator[Violation]:
    """The same; a limit to deletions names first what is not the plan's: what the plan deletes it says itself."""
    limits = {rule.name: rule for rule in plan.soundness.rules.guardrails if isinstance(rule, MaxDeletions)}
    for violation in violations:
        rule = limits.get(violation.rule)
        if rule is None:
            yield violation
            continue
        planned = {operation.path for operation in plan.ordered.rest if isinstance(operation, DeleteNode)}
        before = plan.soundness.baseline[rule.name].paths
        gone = [path for path in before if path not in tree]
        others = [path for path in gone if path not in planned]
        what = gone_text(rule, [*others, *(path for path in gone if path in planned)], len(before))
        yield replace(violation, what=what, change=_taken(others))


def _taken(others: Sequence[str]) -> str:
    if not others:
        return ""
    more = f" and {len(others) - NAMED_MAX} more" if len(others) > NAMED_MAX else ""
    were = "was" if len(others) == 1 else "were"
    return f"{len(others)} of them {were} deleted by others: {', '.join(others[:NAMED_MAX])}{more}"


def public_reason(violated: Violation) -> str:
    """What a record that everybody reads may say: no digest, which tells who can guess, and no name but the node's."""
    return f"against the rule {violated.rule!r}"


def reason_of(error: ZkmigError) -> str:
    """The same of an error that was met before anything was written."""
    if isinstance(error, NotLoaded):
        return error.public
    if not isinstance(error, RuleViolated):
        return error.what
    first = next((each for each in error.violations if isinstance(each, Violation)), None)
    return f"{first.path}: {public_reason(first)}" if first is not None else "against a rule"


def _read(client: Client, plan: Plan, control: str, say: Say, known: Snapshot | None) -> Snapshot | None:
    """The target, less what may not be read where it is no matter: somebody's lock with an ACL of its own would else
    keep an open epoch from its commit for as long as it is there."""
    excludes = _excludes(plan, control)
    while True:
        scope = make_scope(plan.target.root, excludes, control)
        try:
            found = live.scan_or_none(client, scope, known=known)
            if found is not None and found.is_fuzzy:
                say(f"a mix of the tree's states is judged, since others write: {found.consistency.reason}")
            return found
        except NotPermitted as error:
            if len(excludes) - len(plan.soundness.excludes) >= LEFT_OUT_MAX or not _is_no_matter(plan, error.where):
                raise
            say(f"{error.where} may not be read; no rule speaks of it, and it is left out")
            excludes = [*excludes, error.where]


def _is_no_matter(plan: Plan, path: str) -> bool:
    """Whether a node that may not be read, with all below it, has no part in the plan nor in a verdict on it."""
    if not path.startswith("/") or paths.contains(path, plan.target.root) or may_matter(plan.soundness.rules, path):
        return False
    top, rest = path.encode(), plan.ordered.rest
    if any(each == top or each.startswith(top + b"/") for each in plan.ordered.creates.path_column()):
        return False
    return not any(paths.contains(path, each.path) for each in (*rest, *plan.acl_steps))


def _excludes(plan: Plan, control: str) -> list[str]:
    """What was left out when it was read for the plan, less what always is."""
    always = make_scope(plan.target.root, (), control).excludes
    return [each for each in plan.soundness.excludes if each not in always]
