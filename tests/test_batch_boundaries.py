"""At every batch boundary the tree is as sound as it was, whatever is created, written, moved and deleted.

Method: two made-up trees full of references, circles and groups, and rules for them; a plan from one to the other, in
batches of a few operations; its operations carried out on a dict. What the dict has to fulfil is written down here a
second time, without a line of the engine. Negative controls: each sort of tie left out, and the order by default.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.scopes import settled
from tests.trees import Node, snapshot_of
from zkmig.errors import RuleViolated
from zkmig.plan import dependency, make
from zkmig.plan.dependency import Ordered
from zkmig.plan.make import make_plan
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.policy import Policy
from zkmig.policy.rules import (
    Guardrail,
    JsonData,
    MaxDeletions,
    MaxSize,
    MinChildren,
    NeverEmpty,
    Reference,
    Rules,
    Together,
    Unchanged,
)
from zkmig.rules import links

EXAMPLES = 600  # about half a minute; by hand 20,000 have run
ROOT = "/app"
NAMES = ("a", "b", "c", "d")
NOWHERE = "nowhere"

Model = dict[str, bytes]  # absolute path -> data


class Unsound(AssertionError):
    """What is wrong with a tree at a boundary, or with a step on the way there."""


class Case(NamedTuple):
    """before and after: data by path below the root. counters: how far those of `after` are ahead of their children."""

    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    counters: Mapping[str, int]
    rules: Rules
    batch_ops_max: int


# -- cases ------------------------------------------------------------------------------------------------------------


def reference(name: str, source: str, target: str, json_path: str | None = None, required: bool = True) -> Reference:
    pattern = CapturePattern.parse(source)
    return Reference(name, pattern, Template.parse(target, pattern.names), json_path, required)


def pattern(text: str) -> CapturePattern:
    return CapturePattern.parse(text)


REFERENCES = (
    reference("active", "/app/teams/{team}/{svc}/active", "/app/pools/{value}"),
    reference("hosts", "/app/pools/{pool}", "/app/hosts/{value}", "$.hosts[*]"),
    reference("peers", "/app/pools/{pool}", "/app/pools/{value}", "$.peers[*]"),
    reference("home", "/app/hosts/{host}", "/app/pools/{value}", "$.home[*]"),
    reference("links", "/app/links/{link}", "{value}"),
)
TOGETHER = (
    ("service", ("/app/teams/{team}/{svc}/active", "/app/teams/{team}/{svc}/conf")),
    ("flagged", ("/app/pools/{x}", "/app/flags/{x}")),
    ("linked", ("/app/hosts/{x}/slots", "/app/links/{x}", "/app/teams/{x}")),
    ("nested", ("/app/teams/{team}", "/app/teams/{team}/{svc}/conf")),
)
GUARDRAILS: dict[str, Callable[[str, int], Guardrail]] = {
    "some hosts": lambda name, count: MinChildren(name, pattern("/app/hosts"), count),
    "filled": lambda name, count: MinChildren(name, pattern("/app/pools"), count),
    "flags": lambda name, count: MinChildren(name, pattern("/app/flags"), count),
    "services": lambda name, count: MinChildren(name, pattern("/app/teams/{team}"), count),
    "entries": lambda name, count: MinChildren(name, pattern("/app/teams/{team}/{svc}"), count),
    "slots": lambda name, count: MinChildren(name, pattern("/app/hosts/{host}/slots"), count),
    "pools": lambda name, _: NeverEmpty(name, pattern("/app/pools")),
    "teams": lambda name, _: NeverEmpty(name, pattern("/app/teams/*")),
    "all": lambda name, _: NeverEmpty(name, pattern("/app/**")),
    "gone": lambda name, count: MaxDeletions(name, pattern("/app/hosts/*"), count=count),
    "share": lambda name, count: MaxDeletions(name, pattern("/app/**"), share=0.2 * count),
    "fixed": lambda name, count: Unchanged(name, pattern(f"/app/hosts/{NAMES[count]}")),
    "size": lambda name, count: MaxSize(name, pattern("/app/pools/*"), 20 * count),
    "json": lambda name, _: JsonData(name, pattern("/app/pools/*")),
}

some_names = st.lists(st.sampled_from(NAMES), unique=True, max_size=4).map(sorted)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Data by path below the root, parents first; names lead nowhere now and then."""
    hosts, pools, flags = draw(some_names), draw(some_names), draw(some_names)

    def some(names: Sequence[str]) -> list[str]:
        known = [*names, NOWHERE] if draw(st.integers(0, 30)) == 30 else names
        picked: list[str] = draw(st.lists(st.sampled_from(known), unique=True, max_size=2)) if known else []
        return picked

    tree = {"": b"", "/hosts": b"", "/pools": b"", "/flags": b"", "/teams": b"", "/links": b""}
    for host in hosts:
        tree[f"/hosts/{host}"] = json.dumps({"home": some(pools)}).encode()
        if draw(st.booleans()):
            tree[f"/hosts/{host}/slots"] = b""
            tree |= {f"/hosts/{host}/slots/{slot}": b"" for slot in draw(some_names)}
    for pool in pools:
        tree[f"/pools/{pool}"] = json.dumps({"hosts": some(hosts), "peers": some(pools)}).encode()
    tree |= {f"/flags/{flag}": draw(st.binary(max_size=1)) for flag in flags}
    for team, service in draw(st.lists(st.tuples(*[st.sampled_from(NAMES[:3])] * 2), unique=True, max_size=5)):
        tree[f"/teams/{team}"] = tree[f"/teams/{team}/{service}"] = b""
        is_active: bool = draw(st.booleans())
        if pools and is_active:
            tree[f"/teams/{team}/{service}/active"] = draw(st.sampled_from(pools)).encode()
        tree[f"/teams/{team}/{service}/conf"] = draw(st.binary(max_size=1))
    targets = sorted(tree)
    for link in draw(some_names):
        tree[f"/links/{link}"] = (ROOT + draw(st.sampled_from(targets))).encode()
    unwanted = draw(st.sets(st.sampled_from(("/hosts", "/pools", "/flags", "/teams", "/links")), max_size=1))
    kept = {path: data for path, data in tree.items() if f"/{path[1:].partition('/')[0]}" not in unwanted}
    return dict(sorted(kept.items(), key=lambda item: item[0].replace("/", "\0")))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Some of the rules; what was wrong before is reported only, so that there is such a thing."""
    before, after = draw(trees()), draw(trees())
    rules = Rules(
        references=tuple(draw(st.lists(st.sampled_from(REFERENCES), unique=True))),
        guardrails=tuple(
            GUARDRAILS[name](name, draw(st.integers(1, 3)))
            for name in draw(st.lists(st.sampled_from(sorted(GUARDRAILS)), unique=True, max_size=5))
        ),
        together=tuple(
            Together(name, tuple(map(pattern, patterns)))
            for name, patterns in draw(st.lists(st.sampled_from(TOGETHER), unique=True, max_size=2))
        ),
        report_existing=True,
    )
    counters = draw(st.dictionaries(st.sampled_from(sorted(after)), st.integers(1, 3), max_size=2))
    return Case(before, after, counters, rules, draw(st.integers(1, 4)))


@st.composite
def swaps(draw: st.DrawFn) -> Case:
    """Children of one parent come as those of another go, in one transaction each; neither may run short."""

    def tree() -> dict[str, bytes]:
        found = {"": b"", "/flags": b"", "/pools": b""}
        for parent in ("/flags", "/pools"):
            found |= {f"{parent}/{name}": draw(st.binary(max_size=1)) for name in draw(some_names)}
        return dict(sorted(found.items()))

    guardrails = draw(st.lists(st.sampled_from(("filled", "flags", "pools", "all")), unique=True, min_size=1))
    rules = Rules(
        guardrails=tuple(GUARDRAILS[name](name, draw(st.integers(1, 3))) for name in guardrails),
        together=tuple(Together(name, tuple(map(pattern, patterns))) for name, patterns in TOGETHER[1:2]),
        report_existing=True,
    )
    return Case(tree(), tree(), {}, rules, draw(st.integers(1, 2)))


def planned(case: Case) -> tuple[Plan, Rules]:
    """A plan, and the rules that it was made under: without those that the tree as it is to be is against."""
    before = snapshot_of(settled({path: Node(data) for path, data in case.before.items()}))
    ahead = {path: sum(child.rpartition("/")[0] == path for child in case.after if child) for path in case.after}
    after = snapshot_of(
        {path: Node(data, counter=ahead[path] + case.counters.get(path, 0)) for path, data in case.after.items()}
    )
    rules = case.rules
    while True:
        try:
            plan = make_plan(after, before, policy=Policy(rules=rules), limits=Limits(batch_ops_max=case.batch_ops_max))
        except RuleViolated as error:
            broken = {getattr(violation, "rule", "") for violation in error.violations}
            kept = [rule for rule in rules if rule.name not in broken]
            assert len(kept) < len(list(rules))
            rules = Rules(
                references=tuple(rule for rule in rules.references if rule in kept),
                guardrails=tuple(rule for rule in rules.guardrails if rule in kept),
                together=rules.together,
                report_existing=True,
            )
        else:
            return plan, rules


# -- what a sound tree is ---------------------------------------------------------------------------------------------


def fits(text: str, path: str) -> dict[str, str] | None:
    expression = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text.replace("/**", "(/.+)?").replace("/*", "/[^/]+"))
    found = re.fullmatch(expression, path)
    return found.groupdict() if found else None


def dangling(rules: Rules, tree: Model) -> set[tuple[str, str, str]]:
    """Rule, node, and what the node names, of each required reference that leads nowhere."""
    found = set()
    for rule in rules.references:
        if not rule.required:
            continue
        for path, data in tree.items():
            captures = fits(rule.source.text, path)
            if captures is None:
                continue
            names = json.loads(data)[rule.json[2:-3]] if rule.json else [data.decode()]
            targets = (rule.target.text.format(**captures, value=name) for name in names)
            found |= {(rule.name, path, target) for target in targets if target not in tree}
    return found


def children(tree: Iterable[str], path: str) -> int:
    return sum(other.rpartition("/")[0] == path for other in tree)


def violations(rules: Rules, tree: Model, first: Model) -> Iterator[tuple[str, str]]:
    """Of the guardrails. first: the tree that all began with."""
    for rule in rules.guardrails:
        now, then = (
            {path: data for path, data in each.items() if fits(rule.pattern.text, path) is not None}
            for each in (tree, first)
        )
        match rule:
            case MinChildren(count=count):
                yield from ((f"{rule.name}: children", path) for path in now if children(tree, path) < count)
            case NeverEmpty():
                yield from (
                    (f"{rule.name}: empty", path) for path in then if children(first, path) > 0 == children(tree, path)
                )
            case MaxDeletions(count=count, share=share):
                allowed = count if share is None else int(share * len(then) + 1e-6)
                if len(then.keys() - now.keys()) > (allowed or 0):
                    yield f"{rule.name}: deletions", ""
            case Unchanged():
                if now != then:
                    yield f"{rule.name}: changed", ""
            case MaxSize(size=size):
                yield from ((f"{rule.name}: size", path) for path, data in now.items() if len(data) > size)
            case JsonData():
                for path, data in now.items():
                    try:
                        json.loads(data)
                    except ValueError:
                        yield f"{rule.name}: json", path
            case _:
                raise AssertionError(f"a guardrail that is not looked at: {rule}")


def carry_out(operation: Operation, tree: Model) -> None:
    path = operation.path
    parent = path.rpartition("/")[0]
    match operation:
        case CreateNode(data=data):
            if path in tree or (path != ROOT and parent not in tree):
                raise Unsound(f"created without its parent, or twice: {path}")
            tree[path] = data or b""
        case WriteData(data=data):
            if path not in tree:
                raise Unsound(f"written where nothing is: {path}")
            tree[path] = data or b""
        case DeleteNode():
            if path not in tree or children(tree, path):
                raise Unsound(f"deleted twice, or before its children: {path}")
            del tree[path]
        case RaiseCounter():
            if path not in tree:
                raise Unsound(f"its counter is raised, and it is not there: {path}")


def take_back(operation: Operation, tree: Model, first: Model) -> None:
    match operation:
        case CreateNode(path=path):
            carry_out(DeleteNode(path, None, 0), tree)  # type: ignore[arg-type]
        case DeleteNode(path=path):
            carry_out(CreateNode(path, first[path], ()), tree)
        case WriteData(path=path):
            tree[path] = first[path]
        case RaiseCounter():
            pass


def groups(rules: Rules, first: Model, last: Model) -> Iterator[tuple[str, set[str]]]:
    """What has to change in one transaction, of what changes at all."""
    touched = {path for path in first.keys() | last.keys() if first.get(path) != last.get(path)}
    for rule in rules.together:
        common = frozenset.intersection(*(each.names for each in rule.patterns))
        found: dict[tuple[str, ...], set[str]] = {}
        for path in touched:
            for each in rule.patterns:
                captures = fits(each.text, path)
                if captures is not None:
                    found.setdefault(tuple(captures[name] for name in sorted(common)), set()).add(path)
        yield from ((rule.name, group) for group in found.values())


def check(case: Case) -> None:
    """Carry the plan out and take it back, and look at each boundary."""
    plan, rules = planned(case)
    first = {ROOT + path: data for path, data in case.before.items()}
    last = {ROOT + path: data for path, data in case.after.items()}
    batch_of: dict[str, int] = {}
    tree = dict(first)
    dangled, violated = dangling(rules, first), set(violations(rules, first, first))

    def look(where: str) -> None:
        if found := dangling(rules, tree) - dangled:
            raise Unsound(f"{where}: it dangles: {found}")
        if broken := set(violations(rules, tree, first)) - violated:
            raise Unsound(f"{where}: {broken}")

    for number, batch in enumerate(plan.batches()):
        for operation in batch:
            carry_out(operation, tree)
            if not isinstance(operation, RaiseCounter):
                assert batch_of.setdefault(operation.path, number) == number
        look(f"after batch {number}")
    if tree != last:
        raise Unsound("the end is not what was planned")
    for name, group in groups(rules, first, last):
        if len({batch_of[path] for path in group}) > 1:
            raise Unsound(f"apart: {name}: {group}")
    for number, batch in reversed(list(enumerate(plan.batches()))):
        for operation in reversed(batch):
            take_back(operation, tree, first)
        look(f"before batch {number}")
    if tree != first:
        raise Unsound("taken back, it is not what it was")


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(cases() | swaps())
def test_every_boundary_is_sound_forward_and_back(case: Case) -> None:
    check(case)


# -- negative controls ------------------------------------------------------------------------------------------------


def nothing(*_: object) -> Iterator[Any]:
    return iter(())


def by_default(*arguments: Any) -> Ordered:
    """The order of a plan that knows no ties."""
    return Ordered(None, tuple(arguments[2]))


def without_blocks(*arguments: Any) -> Ordered:
    return dataclasses.replace(dependency.order(*arguments), blocks=())


def late_without_what_is_below(self: Any) -> bytearray:
    """Only what the ties name is late, not what lies below it."""
    late = late_creates(self)
    return bytearray(late[number] and number in self._component_of for number in range(len(late)))


late_creates = dependency._Orderer._late
CONTROLS: dict[str, tuple[object, str, object, str]] = {
    "the order by default": (make, "order", by_default, "dangles|apart|children"),
    "referents first": (links, "_referents_first", nothing, "dangles"),
    "referrers gone first": (links, "_referrers_gone_first", nothing, "dangles"),
    "groups": (links, "_together", nothing, "apart"),
    "never short": (links, "_never_short", nothing, "children"),
    "filled": (links, "_filled", nothing, "children|empty"),
    "blocks": (make, "order", without_blocks, "dangles|apart|children"),
    "what lies below late creates": (dependency._Orderer, "_late", late_without_what_is_below, "without its parent"),
    "creates above, deletes below": (dependency._Orderer, "_needed_of_tree", nothing, "dangles|parent|children|apart"),
    "between two members": (dependency._Orderer, "_between", nothing, "dangles|parent|children|apart"),
    "the way up the tree": (dependency._Orderer, "_edges_of_tree", nothing, "dangles|parent|children|apart"),
}


@pytest.mark.parametrize("left_out", CONTROLS)
def test_what_is_left_out_is_caught(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cases every time, so that it is known that there is one among them that catches it."""
    place, name, replacement, what = CONTROLS[left_out]
    monkeypatch.setattr(place, name, replacement)

    @settings(
        max_examples=2_000,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(swaps() if left_out == "filled" else cases())
    def holds(case: Case) -> None:
        check(case)

    with pytest.raises(Unsound, match=what):
        holds()
