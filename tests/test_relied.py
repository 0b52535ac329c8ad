"""Relied on: what the commit checks again, and that a frame which holds a part of it holds something of every rule."""

from __future__ import annotations

from itertools import islice

from tests.trees import Node, Tree, snapshot_of
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.rules import MaxSize, MinChildren, NeverEmpty, Reference, Rules, Unchanged
from zkmig.rules.relied import ANY, relied_on

POOLS = 50
VERSION = 3  # of all data in such a tree
TREE: Tree = {
    "": Node(),
    "/hosts": Node(),
    "/hosts/h1": Node(),
    "/hosts/h2": Node(),
    "/pools": Node(),
    **{f"/pools/p{number:02}": Node(b"h1") for number in range(POOLS)},
    "/fixed": Node(b"as it is"),
    "/sets": Node(),
    "/sets/web": Node(),
    "/sets/web/m1": Node(),
}
POOL = CapturePattern.parse("/app/pools/{pool}")
HOST_OF_A_POOL = Reference("host", POOL, Template.parse("/app/hosts/{value}", POOL.names))
FIXED = Unchanged("fixed", CapturePattern.parse("/app/fixed"))
SETS = NeverEmpty("sets", CapturePattern.parse("/app/sets/*"))
HOSTS = MinChildren("hosts", CapturePattern.parse("/app/hosts"), 2)


def test_a_rule_of_many_nodes_leaves_room_for_the_others() -> None:
    """Method: of a hundred checks of a reference and a few of three guardrails only the first ten are taken."""
    rules = Rules((HOST_OF_A_POOL,), (FIXED, SETS, HOSTS))
    taken = {path for path, _ in islice(relied_on(rules, snapshot_of(TREE)), 10)}
    assert taken >= {"/app/pools/p00", "/app/hosts/h1", "/app/fixed", "/app/sets/web", "/app/sets/web/m1", "/app/hosts"}


def test_all_of_it_comes_and_of_a_node_that_is_named_only_that_it_is_there() -> None:
    rules = Rules((HOST_OF_A_POOL,), (FIXED, SETS, HOSTS))
    found = set(relied_on(rules, snapshot_of(TREE)))
    pools = {(f"/app/pools/p{number:02}", VERSION) for number in range(POOLS)}
    there = ("/app/hosts", "/app/hosts/h1", "/app/hosts/h2", "/app/sets/web", "/app/sets/web/m1")
    assert found == pools | {("/app/fixed", VERSION)} | {(path, ANY) for path in there}


def test_a_size_is_held_to_the_version_until_it_is_given_up() -> None:
    rules = Rules((), (MaxSize("small", CapturePattern.parse("/app/fixed"), 100),))
    tree = snapshot_of(TREE)
    assert set(relied_on(rules, tree)) == {("/app/fixed", VERSION)}
    assert set(relied_on(rules, tree, is_strict=False)) == {("/app/fixed", ANY)}
