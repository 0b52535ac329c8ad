"""Guardrails: each with a change that breaks it and one that just does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trees import EPHEMERAL, Node, Tree, snapshot_of, without
from zkmig.errors import BadInput
from zkmig.model.acl import READ, Acl
from zkmig.model.scope import Scope
from zkmig.model.znode import Kind
from zkmig.policy.captures import CapturePattern
from zkmig.policy.packed import packed, unpacked
from zkmig.policy.rules import (
    Guardrail,
    JsonData,
    MaxDeletions,
    MaxSize,
    MinChildren,
    NeverEmpty,
    Rules,
    SameCount,
    Together,
    Unchanged,
)
from zkmig.rules.guardrails import deletions_allowed
from zkmig.rules.judge import NEEDS_A_PLAN, NEEDS_TRANSACTIONS, baseline_of, judge
from zkmig.rules.violation import VIOLATIONS_NAMED_MAX, Verdict
from zkmig.source.read import narrow

HOSTS: Tree = {"": Node(), "/hosts": Node(), **{f"/hosts/h{number}": Node(b"secret") for number in range(10)}}
READ_ONLY = (Acl(READ, "world", "anyone"),)


def rule(kind: type, pattern: str, **fields: Any) -> Guardrail:
    made: Guardrail = kind("g", CapturePattern.parse(pattern), **fields)
    return made


def change(guardrail: Guardrail, before: Tree | None, after: Tree) -> Verdict:
    """The verdict on a change, from what a plan file would know of the tree before."""
    rules = unpacked(packed(Rules((), (guardrail,))))
    assert rules == Rules((), (guardrail,))
    verdict = judge(rules, snapshot_of(after), baseline_of(rules, snapshot_of(before) if before else None))
    assert "secret" not in repr(verdict)
    return verdict


def less(tree: Tree, *paths: str) -> Tree:
    for path in paths:
        tree = without(tree, path)
    return tree


def said(verdict: Verdict) -> list[str]:
    return list(map(str, verdict.violations))


@pytest.mark.parametrize(
    ("share", "before", "allowed"),
    [(0.1, 9, 0), (0.1, 10, 1), (0.1, 19, 1), (0.1, 30, 3), (0.29, 100, 29), (0.07, 100, 7), (1.0, 3, 3), (0.0, 3, 0),
     (1 / 3, 3, 1), (0.33333, 3, 0), (0.1, 0, 0)],
)  # fmt: skip
def test_a_share_is_rounded_down(share: float, before: int, allowed: int) -> None:
    limit = MaxDeletions("g", CapturePattern.parse("/x"), share=share)
    assert deletions_allowed(limit, before) == allowed


def test_no_more_go_than_may() -> None:
    tenth = rule(MaxDeletions, "/app/hosts/*", share=0.1)
    assert change(tenth, HOSTS, less(HOSTS, "/hosts/h1")).is_sound
    verdict = change(tenth, HOSTS, less(HOSTS, "/hosts/h1", "/hosts/h2"))
    assert said(verdict) == [
        "g: /app/hosts/*: 2 of 10 are gone (/app/hosts/h1, /app/hosts/h2), at most 1 (10 %) may go"
    ]
    nine = less(HOSTS, "/hosts/h0")
    assert not change(tenth, nine, less(nine, "/hosts/h1")).is_sound
    two = rule(MaxDeletions, "/app/hosts/*", count=2)
    assert change(two, HOSTS, less(HOSTS, "/hosts/h1", "/hosts/h2")).is_sound
    assert not change(two, HOSTS, less(HOSTS, "/hosts")).is_sound
    # What comes does not make up for what goes.
    assert not change(two, HOSTS, {**less(HOSTS, "/hosts/h1", "/hosts/h2", "/hosts/h3"), "/hosts/new": Node()}).is_sound


def test_a_minimum_of_children_counts_ephemerals() -> None:
    two = rule(MinChildren, "/app/hosts", count=2)
    some: Tree = {"": Node(), "/hosts": Node(), "/hosts/a": Node()}
    assert change(two, HOSTS, {**some, "/hosts/b": EPHEMERAL}).is_sound
    assert said(change(two, HOSTS, some)) == ["g: /app/hosts: it has 1 child, at least 2 wanted"]
    assert "no children" in said(change(two, HOSTS, less(some, "/hosts/a")))[0]
    # Grandchildren are no children.
    assert not change(two, HOSTS, {**some, "/hosts/a/x": Node()}).is_sound


def test_never_empty_once_filled() -> None:
    filled = rule(NeverEmpty, "/app/*")
    empty: Tree = {"": Node(), "/hosts": Node()}
    one: Tree = {**empty, "/hosts/h9": Node()}
    assert change(filled, HOSTS, one).is_sound
    assert "has none" in said(change(filled, HOSTS, empty))[0]
    assert "is gone" in said(change(filled, HOSTS, {"": Node()}))[0]
    # What was empty before may stay so, or go, and what is new may be empty.
    assert change(filled, empty, {"": Node(), "/pools": Node()}).is_sound
    assert change(filled, None, empty).is_sound


@pytest.mark.parametrize(
    "node", [Node(b"other"), Node(b""), Node(None), Node(b"secret", READ_ONLY), Node(b"secret", kind=Kind.EPHEMERAL)]
)
def test_nothing_changes_where_nothing_may(node: Node) -> None:
    same = rule(Unchanged, "/app/hosts/**")
    assert change(same, HOSTS, {**HOSTS, "/pools": Node(), "": Node(b"new")}).is_sound
    assert "has changed" in said(change(same, HOSTS, {**HOSTS, "/hosts/h1": node}))[0]
    assert "is gone" in said(change(same, HOSTS, less(HOSTS, "/hosts/h1")))[0]
    assert "is new" in said(change(same, HOSTS, {**HOSTS, "/hosts/new": Node()}))[0]


def test_null_and_empty_are_two_values() -> None:
    same = rule(Unchanged, "/app/x")
    assert not change(same, {"": Node(), "/x": Node(None)}, {"": Node(), "/x": Node(b"")}).is_sound
    assert not change(same, {"": Node(), "/x": Node(b"")}, {"": Node(), "/x": Node(None)}).is_sound


def test_data_is_no_longer_than_it_may_be() -> None:
    small = rule(MaxSize, "/app/hosts/*", size=6)
    assert change(small, None, {**HOSTS, "/hosts/h0": Node(None)}).is_sound
    (line,) = said(change(small, None, {**HOSTS, "/hosts/h0": Node(b"secrets")}))
    assert line.startswith("g: /app/hosts/h0 (7 bytes, sha256 ")
    assert line.endswith("): more than 6 bytes")


@pytest.mark.parametrize(
    ("data", "is_json"),
    [
        (b"{}", True), (b" 1 ", True), (b"null", True), (b'"\xc3\xa9"', True), (b"9" * 5000, True), (b"1e999", True),
        (b"", False), (None, False), (b"secret", False), (b"\xff", False), (b"{'a': 1}", False), (b"NaN", False),
        (b"[1,]", False), (b'{"a": 1, "a": 2}', False), (b"\xef\xbb\xbf{}", False), (b"{}{}", False),
    ],
)  # fmt: skip
def test_data_is_json(data: bytes | None, is_json: bool) -> None:
    verdict = change(rule(JsonData, "/app/x"), None, {"": Node(), "/x": Node(data)})
    assert verdict.is_sound == is_json


POOL = {
    "type": "object",
    "required": ["hosts"],
    "properties": {"hosts": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/host"}}},
    "additionalProperties": False,
    "$defs": {"host": {"type": "string", "pattern": "^h[0-9]+$"}},
}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'{"hosts": ["h1"]}', ""),
        (b"{}", "required"),
        (b'{"hosts": []}', "properties/hosts/minItems"),
        (b'{"hosts": ["secret"]}', "properties/hosts/items/pattern"),
        (b'{"hosts": ["h1"], "secret": 1}', "additionalProperties"),
        (b"[" * 900 + b"]" * 900, "type"),
    ],
)
def test_data_fits_a_schema(data: bytes, where: str) -> None:
    """A violation names the place in the schema: the one in the data would tell the data."""
    verdict = change(rule(JsonData, "/app/x", schema=POOL), None, {"": Node(), "/x": Node(data)})
    assert verdict.is_sound == (where == "")
    for line in said(verdict):
        assert line.endswith(f"its data does not fit the schema at {where}")


def test_a_schema_without_end_is_no_verdict_of_soundness() -> None:
    """Whatever a library trips over, the data was not found to fit."""
    schema = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    verdict = change(rule(JsonData, "/app/x", schema=schema), None, {"": Node(), "/x": Node(b"1")})
    assert "cannot be held against the schema (RecursionError)" in said(verdict)[0]


def test_as_many_match_after_as_before() -> None:
    same = rule(SameCount, "/app/hosts/*")
    assert change(same, HOSTS, {**less(HOSTS, "/hosts/h1"), "/hosts/new": Node()}).is_sound
    assert said(change(same, HOSTS, less(HOSTS, "/hosts/h1"))) == ["g: /app/hosts/*: 9 match, there were 10 before"]
    assert not change(same, HOSTS, {**HOSTS, "/hosts/new": Node()}).is_sound


BEFORE_AND_AFTER = [
    rule(MaxDeletions, "/app/hosts/*", count=0),
    rule(NeverEmpty, "/app/hosts"),
    rule(Unchanged, "/app/hosts"),
    rule(SameCount, "/app/hosts/*"),
]


@pytest.mark.parametrize("guardrail", BEFORE_AND_AFTER)
def test_what_speaks_of_before_takes_a_plan(guardrail: Guardrail) -> None:
    verdict = judge(Rules((), (guardrail,)), snapshot_of(HOSTS))
    assert verdict.not_judged == (("g", NEEDS_A_PLAN),)
    assert verdict.judged == ()
    verdict = change(guardrail, HOSTS, HOSTS)
    assert (verdict.judged, verdict.not_judged) == (("g",), ())


@pytest.mark.parametrize(
    "guardrail",
    [
        rule(MaxDeletions, "/app/host/*", count=0),
        rule(MinChildren, "/app/host", count=1),
        rule(NeverEmpty, "/app/host"),
        rule(Unchanged, "/app/host"),
        rule(MaxSize, "/app/host", size=1),
        rule(JsonData, "/app/host"),
        rule(SameCount, "/app/host/*"),
    ],
)
def test_a_slip_of_the_pen_is_named(guardrail: Guardrail) -> None:
    verdict = change(guardrail, HOSTS, HOSTS)
    assert verdict.is_sound
    assert verdict.not_judged == (("g", f"no node matches {guardrail.pattern}"),)


def test_what_was_wrong_before_is_told_apart() -> None:
    """Goal: old violations count unless the policy takes them. Method: one old, one new, one changed to worse."""
    small = rule(MaxSize, "/app/hosts/*", size=5)
    before = {**HOSTS, "/hosts/h1": Node(b"ok")}
    after = {**HOSTS, "/hosts/h2": Node(b"secret!")}
    for takes_old in (False, True):
        rules = Rules((), (small,), report_existing=takes_old)
        verdict = judge(rules, snapshot_of(after), baseline_of(rules, snapshot_of(before)))
        new = {violation.path for violation in verdict.violations if not violation.is_old}
        assert new == {"/app/hosts/h1", "/app/hosts/h2"}
        assert verdict.count == 10
        assert not verdict.is_sound
        same = judge(rules, snapshot_of(before), baseline_of(rules, snapshot_of(before)))
        assert same.is_sound == takes_old
        assert same.count == 9


def test_new_violations_are_named_however_many_old_ones_there_are() -> None:
    small = rule(MaxSize, "/app/*", size=1)
    before: Tree = {"": Node(), **{f"/{number:04}": Node(b"long") for number in range(300)}}
    after = {**before, "/9999": Node(b"long too")}
    rules = Rules((), (small,), report_existing=True)
    verdict = judge(rules, snapshot_of(after), baseline_of(rules, snapshot_of(before)))
    assert verdict.violations[0].path == "/app/9999"
    assert len(verdict.violations) == VIOLATIONS_NAMED_MAX
    assert (verdict.count, verdict.is_sound) == (301, False)


def test_a_group_with_a_slip_of_the_pen_is_named() -> None:
    """A pattern of several that meets nothing makes the rule say less than its author thinks."""
    patterns = {name: CapturePattern.parse(f"/app/{name}/{{x}}") for name in ("hosts", "host", "pools")}
    for names, judged in ((("hosts", "host"), ("t",)), (("host", "pools"), ())):
        rules = Rules(together=(Together("t", tuple(patterns[name] for name in names)),))
        verdict = judge(rules, snapshot_of(HOSTS), baseline_of(rules, None))
        assert verdict.judged == judged
        assert "no node matches /app/host/{x}" in verdict.not_judged[0][1]
        assert judge(rules, snapshot_of(HOSTS)).not_judged == (("t", NEEDS_TRANSACTIONS),)


def test_rules_over_what_is_partly_left_out_say_so() -> None:
    """Goal: children that nobody has read are not taken for absent in silence."""
    tree = narrow(snapshot_of(HOSTS), (*Scope("/app").excludes, "/app/hosts/h1"))
    about = "what lies at and below /app/hosts/h1, which is left out"
    for guardrail, is_partial in [
        (rule(MinChildren, "/app/hosts", count=1), True),
        (rule(MaxSize, "/app/hosts/*", size=9), True),
        (rule(MaxSize, "/app/**", size=9), True),
        (rule(MaxSize, "/app/hosts/h1/deep", size=9), None),
        (rule(MaxSize, "/app/hosts", size=9), False),
        (rule(MaxSize, "/app/hosts/h2", size=9), False),
    ]:
        if is_partial is None:
            with pytest.raises(BadInput, match="is left out"):
                judge(Rules((), (guardrail,)), tree)
            continue
        verdict = judge(Rules((), (guardrail,)), tree)
        assert verdict.judged == ("g",)
        assert verdict.not_judged == ((("g", about),) if is_partial else ())


def test_rules_at_the_very_root() -> None:
    """A tree of "/": the server's own subtrees are no part of it, and no news."""
    tree = snapshot_of({"": Node(b"secret"), "/a": Node(b"{}"), "/a/b": Node(b"{}")}, "/")
    guards = (rule(MaxSize, "/**", size=2), rule(MinChildren, "/", count=2), rule(JsonData, "/{x}/b"))
    found = [judge(Rules((), (guardrail,)), tree) for guardrail in guards]
    assert [[violation.path for violation in verdict.violations] for verdict in found] == [["/"], ["/"], []]
    assert all(verdict.judged and not verdict.not_judged for verdict in found)
    with pytest.raises(BadInput, match="is left out"):
        judge(Rules((), (rule(MaxSize, "/zookeeper/quota/**", size=2),)), tree)
