"""What an operator declares does what it says, and refuses what it cannot mean.

Method: rules over made-up trees against naive models (a regular expression for patterns, dicts for relocation and
ACLs), and the refusals one by one.
"""

from __future__ import annotations

import functools
import operator
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, Node, Tree, names, snapshot_of, tree_of, trees
from zkmig.errors import BadInput, PlanImpossible
from zkmig.model import path as paths
from zkmig.model.acl import ALL, CREATE, READ, WORLD, Acl, AclList, Identity, digest_id, grants
from zkmig.model.patterns import Pattern
from zkmig.model.znode import Kind
from zkmig.policy.identities import AclRule, mapped_acl, with_identities
from zkmig.policy.kinds import TTL_MS_MAX, KindRule, with_kinds
from zkmig.policy.relocation import PathRule, Relocation, relocated
from zkmig.source.read import narrow

ALICE = Identity("digest", digest_id("alice", "a"))
BOB = Identity("digest", digest_id("bob", "b"))
SASL_OLD = Identity("sasl", "app@OLD")
SASL_NEW = Identity("sasl", "app@NEW")

# -- patterns ---------------------------------------------------------------------------------------------------------

few = st.sampled_from(("a", "b", "a-b", "*x"))
components = st.lists(few | st.sampled_from(("*", "**")), max_size=5)


@given(components, st.lists(few, max_size=6))
def test_a_pattern_matches_as_its_regular_expression_does(pattern: list[str], path: list[str]) -> None:
    expression = "".join(
        "(/[^/]+)*" if each == "**" else "/[^/]+" if each == "*" else "/" + re.escape(each) for each in pattern
    )
    wanted = re.fullmatch(expression, "".join(f"/{name}" for name in path)) is not None
    made, absolute = Pattern(tuple(pattern)), "/" + "/".join(path)
    assert made.matches(absolute) == wanted
    assert made.matcher()(absolute) == wanted
    assert paths.contains(made.top, absolute) or not wanted


def test_patterns_keep_to_whole_components() -> None:
    """/app is not /apple, and a star is one component, not a part of it."""
    assert not Pattern.parse("/app/**").matches("/apple")
    assert Pattern.parse("/app/**").matches("/app")
    assert Pattern.parse("/app/*").matches("/app/x")
    assert not Pattern.parse("/app/*").matches("/app/x/y")
    assert not Pattern.parse("/app/x*").matches("/app/xy")
    assert Pattern.parse("/").matches("/")
    assert not Pattern.parse("/").matches("/app")


def test_a_pattern_of_many_stars_is_not_slow() -> None:
    """Twenty `**` over a deep path: linear work, where backtracking would not end."""
    assert not Pattern(("**", "a") * 20).matches("/" + "/".join("b" * 200))


@pytest.mark.parametrize("text", ["", "app/*", "/app//x", "/app/../x"])
def test_what_could_match_no_path_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Pattern.parse(text)


# -- kinds ------------------------------------------------------------------------------------------------------------


@given(trees())
def test_only_what_reads_as_persistent_gets_a_kind(tree: Tree) -> None:
    """Ephemerals stay ephemerals, and what a file knows to be a container or a TTL node stays that."""
    source = snapshot_of(tree, "/app")
    ruled, (use,) = with_kinds(source, (KindRule.parse("ttl=5000:/app/**"),))
    for path, before in source.items():
        after = ruled[path]
        if before.kind is Kind.PERSISTENT:
            assert (after.kind, after.ttl_ms) == (Kind.TTL, 5000)
            assert after._replace(kind=before.kind, ttl_ms=0) == before
        else:
            assert after == before
    assert use.nodes == sum(znode.kind is Kind.PERSISTENT for znode in source.values())


def test_the_first_rule_that_matches_decides_and_unused_ones_are_told() -> None:
    source = snapshot_of({"": Node(), "/locks": Node(), "/locks/a": Node(), "/e": EPHEMERAL}, "/app")
    rules = tuple(map(KindRule.parse, ("container:/app/locks", "ttl=7:/app/locks/**", "container:/app/none")))
    ruled, uses = with_kinds(source, rules)
    assert (ruled["/app/locks"].kind, ruled["/app/locks/a"].kind) == (Kind.CONTAINER, Kind.TTL)
    assert (ruled["/app"].kind, ruled["/app/e"].kind) == (Kind.PERSISTENT, Kind.EPHEMERAL)
    assert [(use.nodes, use.first) for use in uses] == [(1, "/app/locks"), (1, "/app/locks/a"), (0, "")]


@pytest.mark.parametrize(
    "text",
    [
        "container",
        "containers:/a",
        "ttl:/a",
        "ttl=0:/a",
        f"ttl={TTL_MS_MAX + 1}:/a",
        "ttl=-5:/a",
        "ttl=1s:/a",
        "ttl=²:/a",
    ],
)
def test_a_rule_that_no_server_could_follow_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        KindRule.parse(text)


# -- ACL identities ---------------------------------------------------------------------------------------------------

someone = st.sampled_from((ALICE, BOB, SASL_OLD, SASL_NEW, WORLD, Identity("ip", "10.0.0.0/8")))
entries = st.lists(st.builds(lambda who, perms: Acl(perms, *who), someone, st.integers(1, 31)), max_size=6)


def grants_of(acl: AclList, who: Identity) -> int:
    """What the entries that name exactly this identity grant together."""
    return functools.reduce(operator.or_, (e.perms for e in acl if Identity(e.scheme, e.id) == who), 0)


@given(entries.map(tuple), st.dictionaries(someone, st.none() | someone, max_size=4))
def test_who_held_what_holds_it_under_the_new_name(acl: AclList, rules: dict[Identity, Identity | None]) -> None:
    """For every identity: what the mapped list grants is what the old list granted all those who became it."""
    mapped = mapped_acl(acl, rules)
    for who in (ALICE, BOB, SASL_OLD, SASL_NEW, WORLD):
        wanted = 0
        for entry in acl:
            old = Identity(entry.scheme, entry.id)
            if rules.get(old, old) == who:
                wanted |= entry.perms
        assert grants_of(mapped, who) == wanted
    if not any(Identity(entry.scheme, entry.id) in rules for entry in acl):
        assert mapped == acl


def test_entries_that_come_to_name_one_identity_merge() -> None:
    acl = (Acl(READ, *SASL_OLD), Acl(ALL, *ALICE), Acl(CREATE, *SASL_NEW))
    assert mapped_acl(acl, {SASL_OLD: SASL_NEW}) == (Acl(READ | CREATE, *SASL_NEW), Acl(ALL, *ALICE))


@given(trees())
def test_mapping_a_tree_maps_each_acl_and_nothing_else(tree: Tree) -> None:
    me = Identity("digest", "me:vlUvLnd8MlacsE80rDuu6ONESbM=")
    source = snapshot_of(tree)
    mapped, unused = with_identities(source, (AclRule(me, BOB), AclRule(SASL_OLD, SASL_NEW)))
    for path, before in source.items():
        assert mapped[path] == before._replace(acl=mapped_acl(before.acl, {me: BOB}))
    is_used = any(Identity(entry.scheme, entry.id) == me for znode in source.values() for entry in znode.acl)
    assert {rule.before for rule in unused} == ({SASL_OLD} if is_used else {SASL_OLD, me})


def test_an_acl_is_never_left_empty() -> None:
    """An empty list is open to everybody: the drop is refused, naming the node, and nothing is opened instead."""
    source = snapshot_of({"": Node(), "/hers": Node(acl=(Acl(ALL, *ALICE),))}, "/app")
    with pytest.raises(PlanImpossible) as caught:
        with_identities(source, (AclRule(ALICE, None),))
    assert caught.value.where == "/app/hers"
    both = snapshot_of({"": Node(), "/hers": Node(acl=(Acl(ALL, *ALICE), Acl(READ, *BOB)))}, "/app")
    assert with_identities(both, (AclRule(ALICE, None),))[0]["/app/hers"].acl == (Acl(READ, *BOB),)
    assert not grants(with_identities(both, (AclRule(ALICE, None),))[0]["/app/hers"].acl, [ALICE])


def test_rules_for_identities_divide_where_a_scheme_follows() -> None:
    """Hashes end with "=" themselves."""
    rule = AclRule.parse(f"digest:{ALICE.id}=digest:{BOB.id}")
    assert (rule.before, rule.after) == (ALICE, BOB)
    assert AclRule.parse("sasl:app@OLD=sasl:app@NEW") == AclRule(SASL_OLD, SASL_NEW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sasl:a",
        "sasl:a=",
        "=sasl:a",
        "sasl:a=sasl:b=sasl:c",
        "sasl:a=world:anyone",
        "auth:x=sasl:a",
        "world:me=sasl:a",
    ],
)
def test_a_rule_that_says_nothing_or_opens_a_node_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        AclRule.parse(text)


def test_a_password_in_a_rule_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        AclRule.parse("digest:me:hunter2=digest:me:hunter3")
    assert "hunter" not in str(caught.value)


def test_two_rules_about_one_identity_are_refused() -> None:
    source = snapshot_of({"": Node()})
    with pytest.raises(BadInput):
        with_identities(source, (AclRule(ALICE, BOB), AclRule(ALICE, None)))


# -- relocation -------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=200)
def test_a_relocated_tree_is_the_model_with_other_paths(data: st.DataObject) -> None:
    """Model: each path's image by its deepest rule; made-up parents beside; counters, data and ACLs as they were."""
    tree = data.draw(trees())
    tree[""] = tree[""]._replace(kind=Kind.PERSISTENT, ttl_ms=0)
    old = data.draw(st.sampled_from(sorted(tree)))
    new = "".join(f"/{name}" for name in data.draw(st.lists(names, min_size=1, max_size=3)))
    if not old or paths.contains(old, new) or new in tree:
        return
    parents = {new[:at] for at in range(len(new)) if new[at] == "/"}
    if any(tree[parent].kind is Kind.EPHEMERAL for parent in parents if parent in tree):
        return
    found, made_up = relocated(snapshot_of(tree, "/app"), Relocation(((old, new),)))
    model = {new + path[len(old) :] if paths.contains(old, path) else path: node for path, node in tree.items()}
    moved = tree_of(found)
    assert {path: node for path, node in moved.items() if path not in made_up} == model
    assert set(made_up) == {parent for parent in parents if parent not in model}
    for path in made_up:
        assert moved[path] == Node(b"", moved[path.rpartition("/")[0]].acl, 0)


def test_two_subtrees_change_places() -> None:
    source = snapshot_of({"": Node(), "/a": Node(b"a"), "/a/x": Node(b"ax"), "/b": Node(b"b")}, "/app")
    moved, made_up = relocated(source, Relocation.of(map(PathRule.parse, ("/app/a=/t/b", "/app/b=/t/a")), "/app", "/t"))
    assert {path: node.data for path, node in tree_of(moved).items()} == {
        "": b"",
        "/a": b"b",
        "/b": b"a",
        "/b/x": b"ax",
    }
    assert made_up == ()


def test_the_deeper_rule_decides() -> None:
    source = snapshot_of({"": Node(), "/a": Node(), "/a/in": Node(b"in"), "/a/in/x": Node(), "/a/y": Node()}, "/app")
    rules = map(PathRule.parse, ("/app/a=/app/b", "/app/a/in=/app/out"))
    moved, _ = relocated(source, Relocation.of(rules, "/app", "/app"))
    assert set(tree_of(moved)) == {"", "/b", "/b/y", "/out", "/out/x"}


@pytest.mark.parametrize(
    "rules",
    [
        ("/app/a=/t/x", "/app/a=/t/y"),  # twice
        ("/app/a=/t/x", "/app/b=/t/x"),  # one target
        ("/app/a=/t/x", "/app/b=/t/x/y"),  # into what has been moved
        ("/app/a=/t/a/b",),  # below itself
        ("/app=/t/x",),  # the root
        ("/app/a=/t",),
        ("/apple/a=/t/x",),  # beside the roots, by whole components
        ("/app/a=/target/x",),
    ],
)
def test_rules_that_exclude_each_other_are_refused(rules: tuple[str, ...]) -> None:
    with pytest.raises(BadInput):
        Relocation.of(map(PathRule.parse, rules), "/app", "/t")


@pytest.mark.parametrize("rules", [("/app/gone=/app/x",), ("/app/a=/app/b",)])
def test_nothing_to_move_and_a_taken_place_are_refused(rules: tuple[str, ...]) -> None:
    source = snapshot_of({"": Node(), "/a": Node(), "/b": Node()}, "/app")
    with pytest.raises(BadInput):
        relocated(source, Relocation.of(map(PathRule.parse, rules), "/app", "/app"))


@pytest.mark.parametrize("text", ["", "/a", "a=/b", "/a=b", "/a=/b=/c", "/a/=/b//c"])
def test_a_rule_for_paths_divides_into_two_absolute_ones(text: str) -> None:
    with pytest.raises(BadInput):
        PathRule.parse(text)


def test_images_of_a_subtree_are_its_own_and_what_leaves_it() -> None:
    relocation = Relocation((("/a/in", "/out"), ("/a/deep", "/a/moved")))
    assert relocation.images("/a") == ("/a", "/out")
    assert relocation.images("/a/in/x") == ("/out/x",)
    assert relocation.images("") == ("",)
    assert relocation.images("/z") == ("/z",)


def test_excludes_follow_what_is_relocated() -> None:
    """A subtree left out below one that moves is left out where it would have arrived."""
    source = snapshot_of({"": Node(), "/a": Node(), "/a/x": Node()}, "/app")
    left = narrow(source, (*source.scope.excludes, "/app/a/x"))
    moved, _ = relocated(left, Relocation((("/a", "/b"),)))
    assert moved.scope.excludes == (*source.scope.excludes, "/app/b/x")
