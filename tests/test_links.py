"""What rules tie together between two trees: referents before referrers, referrers gone before referents, groups.

Method: one sort of tie at a time between small trees, without a server; what has not changed is tied to nothing.
"""

from __future__ import annotations

import json

from tests.trees import Node, Tree, snapshot_of
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.rules import MinChildren, NeverEmpty, Reference, Rules, Together
from zkmig.rules.links import Links, links_between
from zkmig.rules.references import LinksOf


def pattern(text: str) -> CapturePattern:
    return CapturePattern.parse(text)


def reference(source: str, target: str, json_path: str | None = None, required: bool = True) -> Reference:
    return Reference(
        f"{source} names {target}", pattern(source), Template.parse(target, pattern(source).names), json_path, required
    )


def links(rules: Rules, before: Tree | None, after: Tree) -> Links:
    """Every node that both have, and whose data differs, counts as written."""
    old = LinksOf(snapshot_of(before)) if before is not None else None
    written = {"/app" + path for path in after if before is not None and path in before and after[path] != before[path]}
    return links_between(rules, old, LinksOf(snapshot_of(after)), written.__contains__)


ROOT: Tree = {"": Node(), "/p": Node(), "/s": Node()}
ACTIVE = Rules(references=(reference("/app/s/{x}", "/app/p/{value}"),))


def test_a_referent_comes_before_its_referrer() -> None:
    """Whether that is created or written; required or not. Where either stays as it is, nothing is tied."""
    for rule in (ACTIVE, Rules(references=(reference("/app/s/{x}", "/app/p/{value}", required=False),))):
        assert links(rule, ROOT, {**ROOT, "/p/a": Node(), "/s/1": Node(b"a")}).before == (("/app/p/a", "/app/s/1"),)
        with_old: Tree = {**ROOT, "/p/old": Node(), "/s/1": Node(b"old")}
        after: Tree = {**with_old, "/p/a": Node(), "/s/1": Node(b"a")}
        assert links(rule, with_old, after).before == (("/app/p/a", "/app/s/1"),)
        assert links(rule, with_old, {**with_old, "/p/a": Node()}).before == ()
        assert links(rule, None, {**ROOT, "/p/a": Node(), "/s/1": Node(b"a")}).before == (("/app/p/a", "/app/s/1"),)


def test_a_referrer_goes_before_its_referent() -> None:
    """It is deleted, or names another from now on."""
    before: Tree = {**ROOT, "/p/a": Node(), "/p/b": Node(), "/s/1": Node(b"a")}
    without: Tree = {path: node for path, node in before.items() if path != "/p/a"}
    assert links(ACTIVE, before, {**without, "/s/1": Node(b"b")}).before == (("/app/s/1", "/app/p/a"),)
    del without["/s/1"]
    assert links(ACTIVE, before, without).before == (("/app/s/1", "/app/p/a"),)


def test_what_leads_nowhere_ties_nothing() -> None:
    """Data that is no name, no JSON, no text, null; and each tie is there once, however often it is named."""
    rules = Rules(references=(*ACTIVE.references, reference("/app/p/{x}", "/app/p/{value}", "$.peers[*]")))
    broken: Tree = {**ROOT, "/s/1": Node(None), "/s/2": Node(b"\xff"), "/s/3": Node(b"a/../b"), "/p/j": Node(b"{")}
    assert links(rules, ROOT, broken).before == ()
    twice = Node(json.dumps({"peers": ["b", "b", 7, None]}).encode())
    assert links(rules, ROOT, {**ROOT, "/p/a": twice, "/p/b": Node()}).before == (("/app/p/b", "/app/p/a"),)


def test_groups_are_of_what_changes() -> None:
    """With equal captures of those that all patterns have; one alone is no group."""
    rules = Rules(together=(Together("t", (pattern("/app/s/{x}"), pattern("/app/p/{x}/{y}"))),))
    before: Tree = {**ROOT, "/p/a": Node(), "/p/a/kept": Node(), "/p/a/gone": Node(), "/s/a": Node(b"1")}
    after: Tree = {**ROOT, "/p/a": Node(), "/p/a/kept": Node(), "/p/a/new": Node(), "/s/a": Node(b"2")}
    (group,) = links(rules, before, after).groups
    assert (group[0], set(group[1])) == ("t", {"/app/p/a/gone", "/app/p/a/new", "/app/s/a"})
    assert links(rules, before, {**before, "/s/a": Node(b"2")}).groups == ()


def test_who_has_to_have_children_comes_and_goes_with_as_many() -> None:
    rules = Rules(guardrails=(MinChildren("m", pattern("/app/p/{x}"), 2), NeverEmpty("n", pattern("/app/s"))))
    full: Tree = {**ROOT, "/p/a": Node(), "/p/a/1": Node(), "/p/a/2": Node(), "/p/a/3": Node()}
    expected = (("m", ("/app/p/a", "/app/p/a/1", "/app/p/a/2")),)
    assert links(rules, ROOT, full) == Links((), expected, frozenset({"/app/s"}))
    assert links(rules, full, ROOT) == Links((), expected, frozenset({"/app/s", "/app/p/a"}))
    assert links(rules, full, full).groups == ()
