"""References: what data names is another node, whole or by JSON, and what cannot be told is no reason to be silent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trees import EPHEMERAL, Node, Tree, snapshot_of
from zkmig.errors import BadInput
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.rules import Reference, Rules
from zkmig.policy.selection import only
from zkmig.rules.judge import baseline_of, judge
from zkmig.rules.violation import Verdict
from zkmig.source.read import narrow

SERVICES: Tree = {
    "": Node(),
    "/services": Node(),
    "/services/web": Node(),
    "/services/web/active": Node(b"blue"),
    "/pools": Node(),
    "/pools/blue": Node(b'{"hosts": ["h1", "h2"], "of": {"svc": "web"}}'),
    "/hosts": Node(),
    "/hosts/h1": Node(None),
    "/hosts/h2": EPHEMERAL,
}


def reference(source: str, target: str, **fields: Any) -> Reference:
    pattern = CapturePattern.parse(source)
    return Reference("r", pattern, Template.parse(target, pattern.names), **fields)


ACTIVE = reference("/app/services/{svc}/active", "/app/pools/{value}")
HOSTS = reference("/app/pools/*", "/app/hosts/{value}", json="$.hosts[*]")


def held(rule: Reference, changes: Tree | None = None, base: Tree | None = None) -> Verdict:
    return judge(Rules((rule,)), snapshot_of({**(base or SERVICES), **(changes or {})}))


def only_one(verdict: Verdict) -> str:
    (violation,) = verdict.violations
    return str(violation)


@pytest.mark.parametrize("rule", [ACTIVE, HOSTS])
def test_names_that_lead_to_nodes_are_sound(rule: Reference) -> None:
    verdict = held(rule)
    assert verdict.is_sound
    assert verdict.judged == ("r",)
    assert not verdict.not_judged


@pytest.mark.parametrize(
    ("rule", "path", "data", "words"),
    [
        (ACTIVE, "/services/web/active", b"green", "names a node of /app/pools/{value} that is not there"),
        (ACTIVE, "/services/web/active", b"Blue", "not there"),
        (ACTIVE, "/services/web/active", b"blue\n", "strip = true"),
        (ACTIVE, "/services/web/active", b"", "no data"),
        (ACTIVE, "/services/web/active", None, "no data"),
        (ACTIVE, "/services/web/active", b"\xff\xfe", "no text"),
        (ACTIVE, "/services/web/active", b"../hosts/h1", "no path"),
        (HOSTS, "/pools/blue", b'{"hosts": ["h1", "h3"]}', "not there"),
        (HOSTS, "/pools/blue", b'{"hosts": [["h1"]]}', "no name"),
        (HOSTS, "/pools/blue", b'{"hosts": [true]}', "no name"),
        (HOSTS, "/pools/blue", b'{"hosts": [""]}', "no path"),
        (HOSTS, "/pools/blue", b'{"hosts": ["\\ud800"]}', "no path"),
        (HOSTS, "/pools/blue", b'{"hosts": ["h1"], "hosts": []}', "a field twice"),
        (HOSTS, "/pools/blue", b'{"hosts": [NaN]}', "not JSON"),
        (HOSTS, "/pools/blue", b"hosts", "not JSON"),
        (HOSTS, "/pools/blue", b"", "no data"),
        (HOSTS, "/pools/blue", b"[" * 100_000 + b"]" * 100_000, "too deeply"),
    ],
)
def test_what_leads_nowhere_is_named_without_its_data(
    rule: Reference, path: str, data: bytes | None, words: str
) -> None:
    said = only_one(held(rule, {path: Node(data)}))
    assert words in said
    assert f"/app{path}" in said
    for secret in ("green", "Blue", "h3", "../hosts"):
        assert secret not in said


def test_a_huge_number_is_a_number() -> None:
    """Python refuses to read it as one; it is JSON all the same, and here no name of a node."""
    data = b'{"hosts": [' + b"9" * 5000 + b"]}"
    assert "no name" in only_one(held(HOSTS, {"/pools/blue": Node(data)}))


def test_numbers_are_names_too() -> None:
    assert held(HOSTS, {"/pools/blue": Node(b'{"hosts": [1]}'), "/hosts/1": Node()}).is_sound


@pytest.mark.parametrize("data", [b" blue\r\n", b"blue"])
def test_blanks_around_a_name_are_taken_off_where_that_is_said(data: bytes) -> None:
    rule = reference("/app/services/{svc}/active", "/app/pools/{value}", strip=True)
    assert held(rule, {"/services/web/active": Node(data)}).is_sound


def test_captures_of_the_referrer_lead_on() -> None:
    rule = reference("/app/services/{svc}/active", "/app/pools/{svc}-{value}")
    assert not held(rule).is_sound
    assert held(rule, {"/pools/web-blue": Node()}).is_sound


def test_a_whole_path_is_a_name() -> None:
    rule = reference("/app/services/*/active", "{value}")
    assert held(rule, {"/services/web/active": Node(b"/app/hosts/h1")}).is_sound
    assert "not there" in only_one(held(rule, {"/services/web/active": Node(b"/app/hosts/h9")}))
    assert "was not read" in only_one(held(rule, {"/services/web/active": Node(b"/elsewhere")}))


def test_one_place_has_to_hold_a_name_and_a_list_may_be_empty() -> None:
    one = reference("/app/pools/*", "/app/services/{value}", json="$.of.svc")
    assert held(one).is_sound
    assert "nothing at $.of.svc" in only_one(held(one, {"/pools/blue": Node(b"{}")}))
    assert held(HOSTS, {"/pools/blue": Node(b'{"hosts": []}')}).is_sound


def test_what_is_not_required_is_not_judged_and_that_is_said() -> None:
    rule = reference("/app/services/{svc}/active", "/app/pools/{value}", required=False)
    verdict = held(rule, {"/services/web/active": Node(b"nowhere")})
    assert verdict.is_sound
    assert verdict.judged == ()
    assert [name for name, _ in verdict.not_judged] == ["r"]


def test_a_rule_that_meets_no_node_is_said_to() -> None:
    verdict = held(reference("/app/service/{svc}/active", "/app/pools/{value}"))
    assert verdict.judged == ()
    assert verdict.not_judged == (("r", "no node matches /app/service/{svc}/active"),)


@pytest.mark.parametrize(
    ("source", "target"),
    [("/other/{x}", "/app/{value}"), ("/app/{x}", "/other/{value}"), ("/application/{x}", "/app/{value}")],
)
def test_a_rule_about_another_tree_is_refused(source: str, target: str) -> None:
    with pytest.raises(BadInput, match="outside of what is judged"):
        held(reference(source, target))


def excluding(*excludes: str) -> Snapshot:
    return narrow(snapshot_of(SERVICES), (*Scope("/app").excludes, *excludes))


def test_what_is_left_out_is_never_taken_for_absent_or_sound() -> None:
    """Goal: no silence about what was not read. Method: referrers, then referents, left out wholly and in part."""
    with pytest.raises(BadInput, match="is left out"):
        judge(Rules((ACTIVE,)), excluding("/app/services"))
    with pytest.raises(BadInput, match="is left out"):
        judge(Rules((ACTIVE,)), excluding("/app/pools"))
    assert "was not read" in only_one(judge(Rules((ACTIVE,)), excluding("/app/pools/blue")))
    verdict = judge(Rules((ACTIVE,)), excluding("/app/services/web"))
    assert ("r", "no node matches /app/services/{svc}/active") in verdict.not_judged
    both = narrow(snapshot_of({**SERVICES, "/services/db": Node(), "/services/db/active": Node(b"blue")}),
                  (*Scope("/app").excludes, "/app/services/web"))  # fmt: skip
    verdict = judge(Rules((ACTIVE,)), both)
    assert verdict.judged == ("r",)
    assert verdict.not_judged == (("r", "what lies at and below /app/services/web, which is left out"),)


def test_a_part_of_a_tree_is_judged_only_where_it_holds_all_that_a_rule_speaks_of() -> None:
    part = only(snapshot_of(SERVICES), ("/services", "/pools"))
    assert judge(Rules((ACTIVE,)), part).is_sound
    with pytest.raises(BadInput, match="only a part"):
        judge(Rules((HOSTS,)), only(snapshot_of(SERVICES), ("/hosts",)))
    assert "was not read" in only_one(judge(Rules((HOSTS,)), only(snapshot_of(SERVICES), ("/pools", "/hosts/h1"))))


def test_a_name_that_leads_nowhere_since_is_new_beside_one_that_did_before() -> None:
    """One pool names two hosts, of which one was never there: that the other goes is no old violation."""
    rules = Rules((HOSTS,), report_existing=True)
    ghost: Tree = {**SERVICES, "/pools/blue": Node(b'{"hosts": ["h1", "ghost"]}')}
    before = baseline_of(rules, snapshot_of(ghost))
    assert judge(rules, snapshot_of(ghost), before).is_sound
    gone = judge(rules, snapshot_of({path: node for path, node in ghost.items() if path != "/hosts/h1"}), before)
    assert not gone.is_sound
    assert sorted(each.is_old for each in gone.violations) == [False, True]
    other: Tree = {path: node for path, node in ghost.items() if path != "/hosts/h1"} | {"/hosts/ghost": Node()}
    assert not judge(rules, snapshot_of(other), before).is_sound  # as many as before, and another one


def test_two_rules_of_one_name_are_none() -> None:
    """What was before is kept by name: one would be held against what the other knew."""
    with pytest.raises(BadInput, match="two rules are named 'r'"):
        Rules((HOSTS, ACTIVE))
