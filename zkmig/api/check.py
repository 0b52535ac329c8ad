"""check: a tree, or the tree that a plan leads to, held against rules, whenever somebody asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Unpack

from zkmig.api.access import Access, SessionOptions
from zkmig.api.migrate import load_plan
from zkmig.api.policies import load_policy
from zkmig.api.trees import ReadProgress, Tree, read_options, scan_target, take, take_or_none
from zkmig.apply.engine import SealedPlan
from zkmig.apply.judging import judge_written, with_causes
from zkmig.apply.options import quiet
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.record import RULES
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput, StalePlan
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT, SYSTEM_ROOT
from zkmig.model.patterns import parse_path
from zkmig.model.snapshot import Snapshot
from zkmig.plan import planfile
from zkmig.plan.operations import CreateNode, DeleteNode, Pin, WriteData
from zkmig.plan.plan import Plan
from zkmig.plan.predict import predict
from zkmig.plan.soundness import causes
from zkmig.policy.captures import any_of
from zkmig.policy.policy import Policy
from zkmig.policy.rules import Rules
from zkmig.rules.judge import baseline_of, judge
from zkmig.rules.links import links_between
from zkmig.rules.references import LinksOf
from zkmig.rules.violation import VIOLATIONS_NAMED_MAX, Verdict, Violation
from zkmig.source import read as sources
from zkmig.source.location import EnsembleLocation, FileLocation, parse

Say = Callable[[str], None]
AnyPolicyFile = Policy | Rules | str | os.PathLike[str]


def check(
    tree_or_plan: Tree | Plan | SealedPlan | os.PathLike[str],
    *,
    policy: AnyPolicyFile | None = None,
    target: Tree | None = None,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    require_consistent: bool = False,
    progress: ReadProgress | None = None,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Verdict:
    """What the rules of a policy say of a tree, or of the tree that a plan leads to. Nothing is written.

    tree_or_plan: a snapshot, a location, a plan, or the name of a plan file, known by its content. policy: a policy,
    its rules, or the name of its file; None: the rules that a plan was made under.

    Of a tree, rules that speak of before and after are not judged, and named so. Of a plan, its target is read again
    (target: where it is, or a snapshot of it; None: on the servers that the plan names). The plan's own rules are held
    against what it leads to by now, with what was there when it was made, as `apply` would; other rules take what is
    there now for what was before. Of a plan whose epoch is open because its rules have stopped it, the tree as written
    is judged: so one sees what is to be mended.

    excludes: absolute paths left out with all below them, besides those of the policy (or plan) that lie in the tree.
    say: gets sentences for the operator.
    Raises BadInput where there are no rules to judge, or one speaks of what is not in the tree; StalePlan where the
    target has moved on; NotConsistent, if asked for, for what was read and is fuzzy; and what `read` raises.
    """
    access = Access.of(**session)
    declared = _declared(policy, access)
    sealed = _plan_of(tree_or_plan)
    if sealed is None:
        assert isinstance(tree_or_plan, Snapshot | str)
        if target is not None:
            raise BadInput("only a plan has a target", str(target), "leave it out, or name a plan file")
        rules = _rules_for_tree(tree_or_plan, declared)
        tree = _tree(tree_or_plan, declared, access, excludes, control, progress)
        return judge(rules, _settled(tree, require_consistent, say)).masked(any_of(declared.masks if declared else ()))
    plan = sealed.plan
    rules = declared.rules if declared is not None else plan.soundness.rules
    if not rules:
        hint = "name a policy with --policy" if declared is None else "a policy for this needs references or guardrails"
        raise BadInput("there are no rules to judge", sealed.path or plan.target.root, hint)
    if declared is None and target is None:
        written = _as_written(sealed, access, say)
        if written is not None:
            return written
    now = _target_now(plan, target, access, excludes, control, progress)
    if now is not None:
        _settled(now, require_consistent, say)
    masks = any_of((*plan.masks, *(declared.masks if declared is not None else ())))
    return _check_plan(plan, rules, now, is_own=declared is None).masked(masks)


def _settled(tree: Snapshot, require_consistent: bool, say: Say) -> Snapshot:
    if tree.is_fuzzy:
        say(f"others wrote while the tree was read, so that a mix of its states is judged: {tree.consistency.reason}")
    return sources.consistent(tree) if require_consistent else tree


def _declared(policy: AnyPolicyFile | None, access: Access) -> Policy | None:
    if policy is None or isinstance(policy, Policy):
        return policy
    return Policy(rules=policy) if isinstance(policy, Rules) else load_policy(policy, access.auth)


def _plan_of(given: Tree | Plan | SealedPlan | os.PathLike[str]) -> SealedPlan | None:
    match given:
        case SealedPlan():
            return given
        case Plan():
            return SealedPlan(given, planfile.plan_hash(given))
        case Snapshot():
            return None
        case str():
            place = parse(given)
            name = str(place.path) if isinstance(place, FileLocation) else ""
            return load_plan(name) if name and planfile.is_planfile(name) else None
        case _:
            return load_plan(given)


# -- a tree -----------------------------------------------------------------------------------------------------------


def _rules_for_tree(tree: Tree, declared: Policy | None) -> Rules:
    where = tree if isinstance(tree, str) else tree.root
    if declared is None:
        raise BadInput("there is no policy to judge it by", where, "name one with --policy")
    if not declared.rules:
        raise BadInput("the policy has no rules to judge", where, "see docs/policy.md: references, guardrails, checks")
    return declared.rules


def _tree(
    tree: Tree,
    declared: Policy | None,
    access: Access,
    excludes: Sequence[str],
    control: str,
    progress: ReadProgress | None,
) -> Snapshot:
    declares = declared.excludes if declared is not None else ()
    place = parse(tree) if isinstance(tree, str) else None
    root = place.path if isinstance(place, EnsembleLocation) else None
    # A policy's excludes may also speak of the other tree of a migration.
    asked = [*excludes, *(_inside(declares, root) if root is not None else ())]
    found = take(tree, read_options(access, asked, control, progress), access)
    if root is not None:
        return found
    return sources.narrow(found, tuple(dict.fromkeys((*found.scope.excludes, *_inside(declares, found.root)))))


def _inside(excludes: Sequence[str], root: str) -> list[str]:
    found = []
    for text in excludes:
        exclude = parse_path(text, "an exclude")
        if paths.contains(exclude, root):
            raise BadInput("the policy leaves it out with all that is in it", root, f"it excludes {exclude}")
        found += [exclude] if paths.contains(root, exclude) else []
    return found


# -- a plan -----------------------------------------------------------------------------------------------------------


def _target_now(
    plan: Plan,
    target: Tree | None,
    access: Access,
    excludes: Sequence[str],
    control: str,
    progress: ReadProgress | None,
) -> Snapshot | None:
    """The tree that the plan changes, as it is now; None where its root is not there."""
    root = plan.target.root
    planned = (*plan.soundness.excludes, *plan.left_out.excluded)
    always = (SYSTEM_ROOT, control, plan.target.control)
    left = [each for each in planned if each not in always and each != root and paths.contains(root, each)]
    asked = tuple(dict.fromkeys((*excludes, *left)))
    place = parse(target) if isinstance(target, str) else None
    if target is None:
        if not plan.target.hosts:
            raise BadInput("the plan names no servers", root, "say where its target is with --at zk://HOST")
        place = EnsembleLocation(plan.target.hosts, root, plan.target.tls)
    if isinstance(place, EnsembleLocation):
        if place.path not in ("/", root):
            raise BadInput(f"the plan is for {root}, not {place.path}", str(place), "check the plan and --at")
        place = EnsembleLocation(place.hosts, root, place.tls)
        sources.make_scope(root, asked, control)  # before anything is asked of a server
        with access.client(place) as client:
            return scan_target(access, place, client, asked, control, progress)
    assert target is not None
    found = take_or_none(target, read_options(access, (), control, progress), access)
    if found is None or root not in found:
        raise BadInput(
            f"the plan is for {root}, which it does not hold", str(place or "the snapshot"), "give the target"
        )
    within = found.subtree(root)
    return sources.narrow(within, tuple(dict.fromkeys((*within.scope.excludes, *asked))))


def _as_written(sealed: SealedPlan, access: Access, say: Say) -> Verdict | None:
    """What stands against the commit of an epoch that this plan has written and that its rules have stopped; None where
    there is no such."""
    plan = sealed.plan
    if plan.target.scope is None or plan.target.control is None or not plan.target.hosts:
        return None
    with access.client(EnsembleLocation(plan.target.hosts, plan.target.root, plan.target.tls)) as client:
        record, _ = read_record(client, ControlPaths(plan.target.scope, plan.target.control))
        conflict = record.conflict
        if record.state is not State.OPEN or record.plan_hash != sealed.hash:
            return None
        if conflict is None or conflict.operation != RULES:
            return None
        say(f"epoch {record.target_epoch} is written and OPEN: what is judged is the tree as it was written")
        return judge_written(client, plan, plan.target.control, access.stop.check, say).verdict


def _check_plan(plan: Plan, rules: Rules, now: Snapshot | None, is_own: bool) -> Verdict:
    _refuse_stale(plan, now)
    try:
        after = predict(now, plan.target.root, plan.ordered, plan.acl_steps)
    except (BadInput, KeyError) as error:
        raise _stale(plan.target.root) from error
    if is_own:
        return with_causes(judge(rules, after, plan.soundness.baseline), plan, after)
    verdict = judge(rules, after, baseline_of(rules, now)).caused(causes(plan.ordered))
    return _with_split_groups(verdict, [*_split_groups(plan, rules, now, after)])


def _refuse_stale(plan: Plan, now: Snapshot | None) -> None:
    """What the plan writes or deletes has to be what it was. What it creates `predict` finds there twice."""
    pins = [(each.path, each.pin) for each in plan.ordered.rest if isinstance(each, WriteData | DeleteNode)]
    pins += [(step.path, step.pin) for step in plan.acl_steps if step.pin is not None]
    for path, pin in pins:
        if now is None or path not in now or Pin.of(now.stat_at(now.index(path))) != pin:
            raise _stale(path)


def _stale(path: str) -> StalePlan:
    return StalePlan("the target has moved on since the plan was made", path, "plan again")


def _split_groups(plan: Plan, rules: Rules, now: Snapshot | None, after: Snapshot) -> Iterator[Violation]:
    """Of rules that the plan was not made under: what is to change together, and does so in several batches."""
    names = {rule.name for rule in rules.together}
    if not names or len(plan.batch_ends) < 2:
        return
    batches = _batches(plan)
    written = {operation.path for operation in plan.ordered.rest if isinstance(operation, WriteData)}
    links = LinksOf(now) if now is not None else None
    for name, group in links_between(rules, links, LinksOf(after), written.__contains__).groups:
        held = sorted({batches[path] for path in group if path in batches})
        if name in names and len(held) > 1:
            numbers = ", ".join(str(batch + 1) for batch in held[:3]) + (", ..." if len(held) > 3 else "")
            what = f"{len(group)} paths that change together do so in batches {numbers} of the plan"
            yield Violation(name, group[0], what)


def _batches(plan: Plan) -> Mapping[str, int]:
    """The batch of each path that is created, written or deleted, from 0."""
    found: dict[str, int] = {}
    for number, operations in enumerate(plan.batches()):
        for operation in operations:
            if isinstance(operation, CreateNode | WriteData | DeleteNode):
                found[operation.path] = number
    return found


def _with_split_groups(verdict: Verdict, split: list[Violation]) -> Verdict:
    more = dict(verdict.more)
    named = list(verdict.violations)
    count: dict[str, int] = {}
    for violation in split:
        count[violation.rule] = count.get(violation.rule, 0) + 1
        if count[violation.rule] <= VIOLATIONS_NAMED_MAX:
            named.append(violation)
        else:
            more[violation.rule] = more.get(violation.rule, 0) + 1
    return Verdict(tuple(named), more, verdict.judged, verdict.not_judged, verdict.takes_old)
