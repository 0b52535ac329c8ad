"""Patterns with captures: what they find in a tree is what they match, path by path, and nothing makes them slow."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import Node, Tree, snapshot_of
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.policy.captures import CapturePattern, Template

ROOTS = ("/", "/app", "/app/pools/web", "/a-b/a/b/c")


def match(pattern: str, path: str) -> Mapping[str, str] | None:
    return CapturePattern.parse(pattern).match(path)


@pytest.mark.parametrize(
    ("pattern", "path", "captures"),
    [
        ("/", "/", {}),
        ("/", "/a", None),
        ("/pools/{pool}", "/pools/web", {"pool": "web"}),
        ("/pools/{pool}", "/pools", None),
        ("/pools/{pool}", "/pools/web/x", None),
        ("/pools/{pool}/", "/pools/web", {"pool": "web"}),
        ("/pools/*", "/pools/web", {}),
        ("/pools/*", "/pool/web", None),
        ("/*/*", "/a/b", {}),
        ("/pools/a*", "/pools/a*", {}),
        ("/pools/a*", "/pools/ab", None),
        ("/s/shard-{n}", "/s/shard-7", {"n": "7"}),
        ("/s/shard-{n}", "/s/shard-", None),
        ("/s/{n}-shard", "/s/-shard", None),
        ("/s/{a}-{b}", "/s/x-y-z", {"a": "x", "b": "y-z"}),
        ("/s/{a}-{b}", "/s/--", None),
        ("/s/{a}-{b}", "/s/---", {"a": "-", "b": "-"}),
        ("/s/<{a}-{b}>", "/s/<1->>", {"a": "1", "b": ">"}),
        ("/s/{{{a}}}", "/s/{x}", {"a": "x"}),
        ("/s/{{a}}", "/s/{a}", {}),
        ("/{a}/{b}", "/x/y", {"a": "x", "b": "y"}),
        ("/**", "/", {}),
        ("/**", "/a/b", {}),
        ("/a/**", "/a", {}),
        ("/a/**", "/ab", None),
        ("/a/**/{x}", "/a", None),
        ("/a/**/{x}", "/a/b", {"x": "b"}),
        ("/a/**/{x}/end", "/a/b/c/end", {"x": "c"}),
        ("/{x}/**/end", "/a/end", {"x": "a"}),
        ("/{x}/**/end", "/end", None),
        ("/队/{x}", "/队/列", {"x": "列"}),
    ],
)
def test_a_path_fits_by_whole_components(pattern: str, path: str, captures: Mapping[str, str] | None) -> None:
    assert match(pattern, path) == captures


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("pools/{x}", "absolute"),
        ("/a//b", "empty component"),
        ("/a/../b", "relative component"),
        ("/a/**/b/**", "more than one **"),
        ("/{a}/{a}", "stands there twice"),
        ("/{a}-{a}", "stands there twice"),
        ("/{value}", "stands for the data"),
        ("/{a}{b}", "side by side"),
        ("/{a b}", "no capture"),
        ("/{}", "no capture"),
        ("/{1}", "no capture"),
        ("/a{b", "without its other half"),
        ("/a}b", "without its other half"),
        ("/{a/b}", "without its other half"),
    ],
)
def test_what_could_match_nothing_or_in_several_ways_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(BadInput, match=words.replace("*", r"\*")):
        CapturePattern.parse(pattern)


def test_many_captures_in_a_hostile_name_take_no_time() -> None:
    """Goal: no backtracking. Method: a name on which a regular expression of these captures would not end."""
    pattern = CapturePattern.parse("/" + "-".join(f"{{c{number}}}" for number in range(12)) + "x")
    assert pattern.match("/" + "-" * 100_000) is None
    found = pattern.match("/" + "-" * 100_000 + "x")
    assert found is not None
    assert found["c0"] == "-"


_components = st.sampled_from(["a", "b", "a-b", "-", "*", "{}", "{}-{}", "a{}", "{}b", "**"])


@st.composite
def patterns(draw: st.DrawFn) -> CapturePattern:
    parts = draw(st.lists(_components, max_size=5))
    while parts.count("**") > 1:
        parts.remove("**")
    numbers = iter(range(20))
    texts = []
    for part in parts:
        while "{}" in part:
            part = part.replace("{}", f"{{c{next(numbers)}}}", 1)
        texts.append(part)
    return CapturePattern.parse("/" + "/".join(texts))


@st.composite
def small_trees(draw: st.DrawFn) -> Tree:
    tree: Tree = {"": Node()}
    for _ in range(draw(st.integers(0, 40))):
        parent = draw(st.sampled_from(sorted(tree)))
        tree.setdefault(f"{parent}/{draw(st.sampled_from(['a', 'b', 'a-b', '-', '--', '---', 'ab', 'aab']))}", Node())
    return tree


@given(patterns(), small_trees(), st.sampled_from(ROOTS))
def test_what_is_found_is_what_matches(pattern: CapturePattern, tree: Tree, root: str) -> None:
    """Goal: descent skips nothing. Method: the same captures in the same order as by matching every path."""
    snapshot = snapshot_of(tree, root)
    wanted = [
        (node, found) for node in range(len(snapshot)) if (found := pattern.match(snapshot.path_at(node))) is not None
    ]
    assert list(pattern.find(snapshot)) == wanted
    for node, _ in wanted:
        path = snapshot.path_at(node)
        while path != "/":  # whatever lies above a node that fits may be said to be reached
            assert pattern.may_reach(path)
            assert paths.overlap(path, pattern.top)
            path = paths.parent(path)


@pytest.mark.parametrize(
    ("text", "value", "path", "top"),
    [
        ("/pools/{value}", "web", "/pools/web", "/pools"),
        ("/pools/{value}", "a/b", "/pools/a/b", "/pools"),
        ("/{svc}/p-{value}", "1", "/s/p-1", "/"),
        ("/pools/p-{value}", "1", "/pools/p-1", "/pools"),
        ("{value}", "/any/where", "/any/where", "/"),
        ("/{{{value}}}", "x", "/{x}", "/"),
    ],
)
def test_a_template_makes_a_path_of_a_value(text: str, value: str, path: str, top: str) -> None:
    template = Template.parse(text, frozenset({"svc"}))
    assert template.fill({"svc": "s"}, value) == path
    assert template.top == top


@pytest.mark.parametrize("value", ["", "/x", "x/", "..", "a/../b", "a\0b", "a\nb", "\ud800"])
def test_a_value_that_makes_no_path_is_said_to(value: str) -> None:
    with pytest.raises(BadInput):
        Template.parse("/pools/{value}", frozenset()).fill({}, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/pools/{pool}", "is not captured"),
        ("/pools/{svc}", "does not say where"),
        ("pools/{value}", "absolute path"),
        ("/pools//{value}", "empty component"),
        ("/pools/{value", "without its other half"),
    ],
)
def test_a_template_that_makes_no_path_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Template.parse(text, frozenset({"svc"}))
