"""A policy in force: what is selected is carried, and what is not is neither written nor compared.

Method: made-up trees; the diff after `prepare`, carried out on a dict, against a model that is stated path by path.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import Node, Tree, names, neighbours, snapshot_of, tree_of, trees
from zkmig.changes import Add, ChangeAcl, ChangeCounter, ChangeData, ChangeKind, Delete
from zkmig.diff import ComparePolicy, diff
from zkmig.errors import BadInput
from zkmig.model.acl import READ, Acl
from zkmig.model.quota import Quota
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.policy.carry import prepare
from zkmig.policy.policy import Policy, policy_of
from zkmig.policy.quotas import carried_quotas
from zkmig.policy.relocation import PathRule
from zkmig.policy.selection import common, merged, only

READERS = (Acl(READ, "world", "anyone"),)


def carried_out(source: Snapshot, target: Snapshot | None, policy: Policy) -> Tree:
    """The target after all changes of the diff."""
    ready = prepare(source, target, policy, "/t")
    found = diff(ready.source, ready.target, policy.compare)
    assert not found.in_the_way
    tree = {} if target is None else tree_of(target)
    for change in found:
        match change:
            case Add(path=path, znode=node):
                assert path not in tree
                tree[path] = Node(node.data, node.acl, node.counter, node.kind, node.ttl_ms)
            case ChangeData(path=path, after=after):
                tree[path] = tree[path]._replace(data=after.data)
            case ChangeAcl(path=path, after=after):
                tree[path] = tree[path]._replace(acl=after.acl)
            case ChangeCounter(path=path, after=counter):
                tree[path] = tree[path]._replace(counter=counter)
            case ChangeKind(path=path, after=after):
                tree[path] = tree[path]._replace(kind=after.kind, ttl_ms=after.ttl_ms)
            case Delete(path=path):
                del tree[path]
    assert all(not path or path.rpartition("/")[0] in tree for path in tree), "a node without its parent"
    return tree


def is_inside(path: str, tops: tuple[str, ...]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)


def no_ephemerals(tree: Tree) -> Tree:
    return {path: node._replace(kind=Kind.PERSISTENT, ttl_ms=0) for path, node in tree.items()}


@given(neighbours(), st.data())
@settings(max_examples=300)
def test_inside_an_include_the_source_wins_and_outside_nothing_changes(
    pair: tuple[Tree, Tree], data: st.DataObject
) -> None:
    """Model: inside, the source's nodes (a counter never goes down); outside, the target's; what is missing above an
    include that the source has is created."""
    ours, theirs = no_ephemerals(pair[0]), no_ephemerals(pair[1])
    known = sorted({path for path in (*ours, *theirs) if path})
    if not known:
        return
    tops = merged(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)))
    policy = Policy(includes=tuple("/app" + top for top in tops))
    result = carried_out(snapshot_of(ours, "/app"), snapshot_of(theirs, "/t"), policy)
    above = {top[:at] for top in tops if top in ours for at in range(len(top)) if top[at] == "/"}
    for path in {*result, *ours, *theirs}:
        if is_inside(path, tops):
            if path not in ours:
                assert path not in result
            else:
                counter = max(ours[path].counter, theirs[path].counter if path in theirs else 0)
                assert result[path] == ours[path]._replace(counter=counter)
        elif path in theirs:
            assert result[path] == theirs[path]
        elif path in above:
            assert result[path] == ours[path]
        else:
            assert path not in result


@given(trees(), st.data())
def test_what_is_included_compares_equal_by_hash(tree: Tree, data: st.DataObject) -> None:
    """Two trees that are the same inside an include have one hash once the policy is in force, whatever is outside."""
    tree = no_ephemerals(tree)
    top = data.draw(st.sampled_from(sorted(tree)))
    other = {path: node if is_inside(path, (top,)) else node._replace(data=b"other") for path, node in tree.items()}
    other.setdefault("/outside-of-all", Node())
    ready = prepare(snapshot_of(tree, "/app"), snapshot_of(other, "/t"), Policy(includes=("/app" + top,)))
    assert ready.target is not None
    if top:
        assert ready.source.tree_hash == ready.target.tree_hash
        assert ready.source.counter_hash == ready.target.counter_hash


def test_a_file_of_included_subtrees_never_deletes_the_rest() -> None:
    """The scope of a snapshot remembers its includes: diffed without any option, what it left out is not absent."""
    source = snapshot_of({"": Node(), "/a": Node(), "/a/x": Node(b"1"), "/b": Node()}, "/app")
    target = snapshot_of({"": Node(b"own", READERS, 7), "/a": Node(b"own"), "/a/y": Node(), "/c": Node()}, "/t")
    part = only(source, ("/a/x",))
    assert set(part) == {"/app", "/app/a", "/app/a/x"}
    assert part.scope.includes == ("/app/a/x",)
    result = carried_out(part, target, Policy())
    assert result == {**tree_of(target), "/a/x": Node(b"1")}


def test_a_subtree_of_what_is_included_remembers_what_it_is_part_of() -> None:
    """Below an include all of it is meant; above it, only the include still is."""
    tree = snapshot_of({"": Node(), "/a": Node(), "/a/x": Node(), "/a/x/y": Node(), "/a/z": Node()}, "/app")
    part = only(tree, ("/a/x",))
    assert part.subtree("/app/a").scope.includes == ("/app/a/x",)
    assert part.subtree("/app/a/x").scope.includes == ()
    assert part.subtree("/app/a/x/y").scope.includes == ()


def test_an_include_that_only_the_target_has_is_deleted_and_what_is_beside_it_stays() -> None:
    source = snapshot_of({"": Node()}, "/app")
    target = snapshot_of({"": Node(), "/a": Node(), "/a/x": Node(), "/a/x/y": Node(), "/a/z": Node()}, "/t")
    assert set(carried_out(source, target, Policy(includes=("/t/a/x",)))) == {"", "/a", "/a/z"}


@pytest.mark.parametrize("include", ["/nowhere", "/app/none", "/apple", "app/a"])
def test_an_include_of_nothing_is_refused(include: str) -> None:
    source = snapshot_of({"": Node(), "/a": Node()}, "/app")
    with pytest.raises(BadInput):
        prepare(source, None, Policy(includes=(include,)), "/t")


def test_includes_of_two_sides_select_what_both_select() -> None:
    assert common(("/a", "/b/c"), ("/a/x", "/b", "/z")) == ("/a/x", "/b/c")
    assert common((), ("/a",)) == ("/a",)
    assert merged(("/a/b", "/a", "/a-b", "/a/b/c")) == ("/a", "/a-b")
    source = only(snapshot_of({"": Node(), "/a": Node()}, "/app"), ("/a",))
    with pytest.raises(BadInput):
        prepare(source, snapshot_of({"": Node(), "/b": Node()}, "/t"), Policy(includes=("/t/b",)))


def test_an_exclude_inside_an_include_stays_out() -> None:
    source = snapshot_of({"": Node(), "/a": Node(b"1"), "/a/x": Node(b"1"), "/a/y": Node(b"1")}, "/app")
    target = snapshot_of({"": Node(), "/a": Node(b"2"), "/a/x": Node(b"2"), "/b": Node()}, "/t")
    policy = Policy(includes=("/app/a",), excludes=("/app/a/x",))
    assert carried_out(source, target, policy) == {
        "": Node(), "/a": Node(b"1"), "/a/x": Node(b"2"), "/a/y": Node(b"1"), "/b": Node(),
    }  # fmt: skip


def test_an_exclude_below_neither_root_is_refused() -> None:
    with pytest.raises(BadInput):
        prepare(snapshot_of({"": Node()}, "/app"), None, Policy(excludes=("/apple/x",)), "/t")


# -- with relocation --------------------------------------------------------------------------------------------------


def test_parents_made_up_for_a_relocation_leave_what_the_target_has_there() -> None:
    """The target's own /teams keeps data, ACL and counter; where it has none, an empty one is created."""
    source = snapshot_of({"": Node(), "/x": Node(b"x")}, "/app")
    policy = Policy(map_paths=(PathRule("/app/x", "/t/teams/one/x"),))
    assert carried_out(source, None, policy) == {
        "": Node(), "/teams": Node(), "/teams/one": Node(), "/teams/one/x": Node(b"x"),
    }  # fmt: skip
    target = snapshot_of({"": Node(), "/teams": Node(b"own", READERS, 9)}, "/t")
    assert carried_out(source, target, policy) == {
        "": Node(), "/teams": Node(b"own", READERS, 9), "/teams/one": Node(), "/teams/one/x": Node(b"x"),
    }  # fmt: skip
    assert len(prepare(source, target, policy).notes) == 2


def test_an_include_of_the_source_follows_its_relocation() -> None:
    source = snapshot_of({"": Node(), "/x": Node(b"x"), "/x/y": Node(), "/z": Node()}, "/app")
    target = snapshot_of({"": Node(), "/x": Node(b"old"), "/new": Node(b"old"), "/other": Node()}, "/t")
    policy = Policy(includes=("/app/x",), map_paths=(PathRule("/app/x", "/t/new"),))
    assert carried_out(source, target, policy) == {
        "": Node(), "/x": Node(b"old"), "/new": Node(b"x"), "/new/y": Node(), "/other": Node(),
    }  # fmt: skip


def test_parents_made_up_inside_an_include() -> None:
    """They are neither above what is included nor on the source, and yet somebody has to create them."""
    source = snapshot_of({"": Node(), "/a": Node(), "/x": Node(b"x"), "/z": Node()}, "/t")
    policy = Policy(includes=("/t/a",), map_paths=(PathRule("/t/x", "/t/a/deep/x"),))
    grown = {"": Node(), "/a": Node(), "/a/deep": Node(), "/a/deep/x": Node(b"x")}
    assert carried_out(source, snapshot_of({"": Node(), "/a": Node()}, "/t"), policy) == grown
    assert carried_out(source, None, policy) == grown


@pytest.mark.parametrize("include", ["/app", "/app/a"])
@pytest.mark.parametrize("target", [None, {}, {"": Node(), "/a": Node(), "/x": Node(b"own")}])
def test_parents_are_made_up_below_an_include_above_what_moves(include: str, target: Tree | None) -> None:
    """The include is the source's root, or between it and OLD; all of NEW's parents arrive, whatever the target has."""
    source = snapshot_of({"": Node(), "/a": Node(b"a"), "/a/n0": Node(b"0"), "/a/n1": Node(b"1")}, "/app")
    policy = Policy(includes=(include,), map_paths=(PathRule("/app/a/n1", "/t/x/y/n"),))
    held = None if target is None else snapshot_of(target or {"": Node()}, "/t")
    assert carried_out(source, held, policy) == {
        "": Node(), "/a": Node(b"a"), "/a/n0": Node(b"0"),
        "/x": Node(b"own") if target else Node(), "/x/y": Node(), "/x/y/n": Node(b"1"),
    }  # fmt: skip


@given(trees(), names)
def test_without_a_policy_nothing_is_touched(tree: Tree, name: str) -> None:
    source, target = snapshot_of(tree, "/app"), snapshot_of({"": Node(), f"/{name}": Node()}, "/t")
    ready = prepare(source, target, Policy())
    assert ready.source is source
    assert ready.target is target
    assert ready.notes == ()


def test_a_compare_policy_is_a_policy_that_declares_nothing_else() -> None:
    compare = ComparePolicy(acl=False)
    assert policy_of(compare) == Policy(compare)
    assert policy_of(None) == Policy()
    assert policy_of(Policy(quotas=True)).quotas


def test_a_quota_that_no_server_can_read_is_not_carried() -> None:
    """One that enforces quotas would refuse every write below it. It is named among what is left out."""
    tree = snapshot_of({"": Node(), "/a": Node(), "/b": Node()}, "/app")
    found = (Quota("/app/a", "count=5,bytes=-1"), Quota("/app/b", "count=five"))
    carried, left = carried_quotas(found, prepare(tree, None, Policy(), "/new"), "/app", "/new")
    assert carried == (Quota("/new/a", "count=5,bytes=-1"),)
    assert left == ("/app/b",)
