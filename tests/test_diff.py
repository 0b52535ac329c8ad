"""A diff holds exactly the changes that make the target equal to the source, with and without hashes.

Method: pairs of made-up trees at one or two roots; the changes are carried out on a dict and must give the source.
Then the cases with a name: ephemerals in the way, counters, kinds, excludes, wide parents, real trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, REAL_TREES, Node, Tree, load_real, neighbours, snapshot_of, tree_of, trees
from zkmig import diff_plain
from zkmig.diff import (
    Add,
    Change,
    ChangeAcl,
    ChangeCounter,
    ChangeData,
    ChangeKind,
    ComparePolicy,
    CounterHigher,
    Delete,
    Diff,
    EphemeralInTheWay,
    ExcludedInTheWay,
    diff,
)
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import Acl
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind

ROOTS = st.sampled_from((("/app", "/app"), ("/app", "/moved/app"), ("/app", "/"), ("/", "/app"), ("/", "/")))


@contextmanager
def short_runs() -> Iterator[None]:
    """Runs of siblings from the first one on, so that small trees take every path of the walk."""
    # Not `import zkmig.diff`: the package has a function of that name.
    with mock.patch.object(import_module("zkmig.diff"), "_RUNS", diff_plain.Runs(streak=1, nodes=1, growth=2)):
        yield


def lasting(tree: Tree) -> Tree:
    return {path: node for path, node in tree.items() if node.kind is not Kind.EPHEMERAL}


def carry_out(changes: Diff, target: Tree) -> Tree:
    """The target after every change, each of which must fit what is there when its turn comes."""
    tree = lasting(target)
    for change in changes:
        match change:
            case Add(path, znode):
                assert path not in tree
                assert path == "" or path.rpartition("/")[0] in tree
                tree[path] = Node(znode.data, znode.acl, znode.counter, znode.kind, znode.ttl_ms)
            case ChangeData(path, before, after):
                assert tree[path].data == before.data != after.data
                tree[path] = tree[path]._replace(data=after.data)
            case ChangeAcl(path, before, after):
                assert tree[path].acl == before.acl != after.acl
                tree[path] = tree[path]._replace(acl=after.acl)
            case ChangeKind(path, before, after):
                assert (tree[path].kind, tree[path].ttl_ms) == (before.kind, before.ttl_ms)
                tree[path] = tree[path]._replace(kind=after.kind, ttl_ms=after.ttl_ms)
            case ChangeCounter(path, lower, higher):
                assert tree[path].counter == lower < higher
                tree[path] = tree[path]._replace(counter=higher)
            case Delete(path, before):
                assert tree[path].data == before.data
                del tree[path]
    for note in changes.notes:
        assert tree[note.path].counter == note.target > note.source
        tree[note.path] = tree[note.path]._replace(counter=note.source)
    return tree


@given(neighbours(), ROOTS)
def test_carrying_out_the_changes_gives_the_source(pair: tuple[Tree, Tree], roots: tuple[str, str]) -> None:
    source, target = (snapshot_of(tree, root) for tree, root in zip(pair, roots, strict=True))
    changes = diff(source, target)
    reached, wanted = carry_out(changes, pair[1]), lasting(pair[0])
    if "/" in roots:  # the server's own counter, not compared
        reached[""] = reached[""]._replace(counter=wanted[""].counter)
    assert reached == wanted
    assert changes.ephemerals_source == len(pair[0]) - len(lasting(pair[0]))
    assert changes.ephemerals_target == len(pair[1]) - len(lasting(pair[1]))
    assert sum(changes.counts) == len(changes) == len(list(changes))
    assert changes.is_empty == (not list(changes)) == (not changes.differs())


@given(neighbours(), ROOTS)
def test_changes_come_in_tree_order(pair: tuple[Tree, Tree], roots: tuple[str, str]) -> None:
    source, target = (snapshot_of(tree, root) for tree, root in zip(pair, roots, strict=True))
    keys = [paths.order_key(change.path) for change in diff(source, target)]
    assert keys == sorted(keys)


def values(changes: Diff) -> tuple[list[Change], list[CounterHigher], list[object]]:
    return list(changes), list(changes.notes), list(changes.in_the_way)


@given(neighbours(), ROOTS)
def test_hashes_change_nothing_but_the_time(pair: tuple[Tree, Tree], roots: tuple[str, str]) -> None:
    source, target = (snapshot_of(tree, root) for tree, root in zip(pair, roots, strict=True))
    plain = diff(source, target)
    assert (source.hashes, target.hashes) == (None, None)
    hashed = diff(source, target, hash_first=True)
    assert None not in (source.hashes, target.hashes)
    with short_runs():
        in_runs = diff(source, target)
    assert values(plain) == values(hashed) == values(in_runs)


@given(trees())
def test_a_tree_does_not_differ_from_itself_elsewhere(tree: Tree) -> None:
    one, other = snapshot_of(tree, "/app"), snapshot_of(tree, "/moved/app")
    for hash_first in (False, True):
        changes = diff(one, other, hash_first=hash_first)
        assert changes.is_empty
        assert not changes.differs(exact_counters=True)


@given(trees())
def test_everything_is_added_where_nothing_is(tree: Tree) -> None:
    changes = diff(snapshot_of(tree), None)
    assert carry_out(changes, {}) == lasting(tree)
    assert changes.counts.add == len(changes)
    assert changes.ephemerals_target == 0


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees(name: str) -> None:
    """A real tree against itself, and against the same with every hundredth node changed and every 101st gone."""
    source = load_real(name)
    assert diff(source, load_real(name), hash_first=True).is_empty
    changed = tree_of(source)
    for number, path in enumerate(list(changed)):
        has_children = bool(source.children(path or "/"))
        if number % 100 == 1:
            changed[path] = changed[path]._replace(data=b"changed")
        if number % 101 == 1 and not has_children:
            del changed[path]
    target = snapshot_of(changed, "/")
    changes = diff(source, target)
    assert values(changes) == values(diff(source, target, hash_first=True))
    assert changes.counts.data > 15
    assert changes.counts.add > 5
    # Neither the root's counter nor /zookeeper is compared; snapshot_of keeps both as they are.
    assert carry_out(changes, changed) == lasting(tree_of(source))


# -- cases with a name ------------------------------------------------------------------------------------------------


def changes_between(source: Tree, target: Tree, policy: ComparePolicy | None = None) -> Diff:
    plain = diff(snapshot_of(source), snapshot_of(target), policy or ComparePolicy())
    hashed = diff(snapshot_of(source), snapshot_of(target), policy or ComparePolicy(), hash_first=True)
    assert values(plain) == values(hashed)
    return plain


def test_null_and_empty_differ() -> None:
    (change,) = changes_between({"": Node(), "/a": Node(None)}, {"": Node(), "/a": Node(b"")})
    assert isinstance(change, ChangeData)
    assert (change.path, change.before.data, change.after.data) == ("/a", b"", None)
    assert (change.before.path, change.after.path) == ("/app/a", "/app/a")


def test_acl_entries_in_another_order_differ() -> None:
    acl = (Acl(31, "ip", "10.0.0.1"), Acl(1, "world", "anyone"))
    (change,) = changes_between({"": Node(acl=acl)}, {"": Node(acl=acl[::-1])})
    assert isinstance(change, ChangeAcl)
    assert (change.before.acl, change.after.acl) == (acl[::-1], acl)


def test_counters_rise_and_are_noted_when_they_cannot_fall() -> None:
    source = {"": Node(counter=5), "/low": Node(counter=1), "/high": Node(counter=7)}
    target = {"": Node(counter=5), "/low": Node(counter=2), "/high": Node(counter=6)}
    changes = changes_between(source, target)
    assert list(changes) == [ChangeCounter("/high", 6, 7)]
    assert list(changes.notes) == [CounterHigher("/low", 1, 2)]
    only_higher = changes_between({"": Node(counter=1)}, {"": Node(counter=2)})
    assert only_higher.is_empty
    assert not only_higher.differs()
    assert only_higher.differs(exact_counters=True)


@pytest.mark.parametrize("roots", [("/", "/app"), ("/app", "/"), ("/", "/")])
def test_the_counter_of_the_servers_root_is_left_alone(roots: tuple[str, str]) -> None:
    source, target = snapshot_of({"": Node(counter=9)}, roots[0]), snapshot_of({"": Node(counter=3)}, roots[1])
    changes = diff(source, target, hash_first=True)
    assert changes.is_empty
    assert not changes.notes


def test_kinds_are_compared_only_where_both_are_known() -> None:
    source = {"": Node(), "/c": Node(kind=Kind.CONTAINER), "/t": Node(kind=Kind.TTL, ttl_ms=5)}
    target = {"": Node(), "/c": Node(), "/t": Node(kind=Kind.TTL, ttl_ms=6)}
    changes = changes_between(source, target)
    assert [(type(change), change.path) for change in changes] == [(ChangeKind, "/c"), (ChangeKind, "/t")]
    assert changes.compared == ("data", "acl", "kind", "counter")
    for is_known, is_other_known in ((True, False), (False, True), (False, False)):
        one, other = snapshot_of(source, kinds_known=is_known), snapshot_of(target, kinds_known=is_other_known)
        unknown = diff(one, other, hash_first=True)
        assert unknown.is_empty
        assert unknown.compared == ("data", "acl", "counter")
        assert "compared: data, acl, counter;" in unknown.summary()


@pytest.mark.parametrize("aspect", ["data", "acl", "kind", "counter"])
def test_the_policy_says_what_is_compared(aspect: str) -> None:
    source = {"": Node(b"1", (), 1, Kind.CONTAINER)}
    target = {"": Node(b"2")}
    everything = changes_between(source, target)
    assert everything.counts == (0, 1, 1, 1, 1, 0)
    less = changes_between(source, target, replace(ComparePolicy(), **{aspect: False}))
    assert less.counts == everything.counts._replace(**{aspect: 0})
    assert aspect not in less.compared


def test_ephemerals_in_the_way() -> None:
    """Where a node is to be added, or below one to be deleted; elsewhere an ephemeral disturbs nobody."""
    source = {"": Node(), "/a": Node(), "/a/x": Node(), "/kept": Node()}
    target = {"": Node(), "/a": EPHEMERAL, "/gone": Node(), "/gone/e": EPHEMERAL, "/kept": Node(), "/kept/e": EPHEMERAL}
    changes = changes_between(source, target)
    assert list(changes.in_the_way) == [EphemeralInTheWay("/a"), EphemeralInTheWay("/gone/e")]
    assert [(type(change), change.path) for change in changes] == [(Add, "/a"), (Add, "/a/x"), (Delete, "/gone")]
    assert changes.ephemerals_target == 3
    assert "2 nodes in the way" in changes.summary()


def test_an_ephemeral_of_the_source_is_not_carried_over() -> None:
    changes = changes_between({"": Node(), "/leader": EPHEMERAL}, {"": Node(), "/leader": Node(b"copied by mistake")})
    assert [(type(change), change.path) for change in changes] == [(Delete, "/leader")]
    assert changes_between({"": Node(), "/leader": EPHEMERAL}, {"": Node(), "/leader": EPHEMERAL}).is_empty


def test_a_root_that_is_an_ephemeral() -> None:
    lasts, ends = snapshot_of({"": Node()}), snapshot_of({"": EPHEMERAL})
    with pytest.raises(BadInput, match="the root is an ephemeral"):
        diff(ends, lasts)
    assert list(diff(lasts, ends).in_the_way) == [EphemeralInTheWay("")]


def excluding(snapshot: Snapshot, *excludes: str) -> Snapshot:
    return Snapshot(snapshot.columns, Scope(snapshot.root, excludes), snapshot.provenance, snapshot.consistency)


PLACES = ("", "/a", "/m", "/z")  # before, between and behind the siblings that are compared


@given(st.sampled_from(PLACES), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_an_excluded_subtree_is_as_if_it_were_on_neither_side(
    place: str, is_ours: bool, in_source: bool, in_target: bool, hash_first: bool
) -> None:
    """Wherever it is and whichever side excludes it, the changes are those of the trees without it."""
    source: Tree = {"": Node(), "/b": Node(), "/c": Node(b"new"), "/m": Node(), "/m/x": Node(), "/y": Node()}
    target: Tree = {"": Node(), "/b": Node(), "/c": Node(b"old"), "/f": Node(), "/m": Node(), "/z": Node()}
    expected = values(diff(snapshot_of(source), snapshot_of(target)))
    extra = f"{place}/left" if place in source else f"{place}left"
    if in_source:
        source |= {extra: Node(b"1"), f"{extra}/below": Node()}
    if in_target:
        target |= {extra: Node(b"2"), f"{extra}/other": Node()}
    sides = [snapshot_of(source), snapshot_of(target)]
    sides[not is_ours] = excluding(sides[not is_ours], f"/app{extra}")
    changes = diff(sides[0], sides[1], hash_first=hash_first)
    assert values(changes)[1:] == expected[1:]
    assert [(type(c), c.path) for c in changes] == [(type(c), c.path) for c in expected[0]]


def test_an_added_subtree_is_added_without_what_is_excluded() -> None:
    source = {"": Node(), "/new": Node(), "/new/left": Node(), "/new/left/below": Node(), "/new/taken": Node()}
    changes = diff(snapshot_of(source), excluding(snapshot_of({"": Node()}), "/app/new/left"))
    assert [change.path for change in changes] == ["/new", "/new/taken"]


@pytest.mark.parametrize("hash_first", [False, True])
def test_what_either_scope_excludes_is_left_out_on_both_sides(hash_first: bool) -> None:
    """A scope says nothing about what it excludes: no delete on its word, and no add over it."""
    source = {"": Node(), "/a": Node(), "/a/x": Node(), "/a0": Node(), "/b": Node()}
    target = {"": Node(), "/b": Node(), "/b/cache": Node(), "/b/cache/y": Node(), "/old": Node(), "/old/z": Node()}
    changes = diff(
        excluding(snapshot_of(source, "/one"), "/one/b/cache", "/one/old/z"),
        excluding(snapshot_of(target, "/other"), "/other/a"),
        hash_first=hash_first,
    )
    assert changes.excluded == ("/a", "/b/cache", "/old/z")
    assert [(type(change), change.path) for change in changes] == [(Add, "/a0"), (Delete, "/old")]
    assert list(changes.in_the_way) == [ExcludedInTheWay("/old/z")]
    outside = diff(excluding(snapshot_of(source), "/application", "/app"), None, hash_first=hash_first)
    assert outside.excluded == ()


def test_the_servers_own_trees_are_never_deleted_or_added() -> None:
    """The default excludes are absolute: copying /app to / must not touch /zookeeper and /zkmig there."""
    source = {"": Node(), "/zookeeper": Node(), "/zkmig": Node(), "/zkmig/x": Node(), "/a": Node()}
    changes = diff(snapshot_of(source, "/app"), snapshot_of({"": Node()}, "/"))
    assert [change.path for change in changes] == ["/a"]
    back = diff(snapshot_of({"": Node()}, "/"), snapshot_of(source, "/app"))
    assert [change.path for change in back] == ["/a"]


@given(st.sets(st.integers(0, 299), max_size=8), st.sets(st.integers(0, 299), max_size=8), st.booleans())
def test_wide_parents(changed: set[int], missing: set[int], is_hashed: bool) -> None:
    """300 siblings, every tenth with a child, are passed over in runs; each change among them must be found."""
    source: Tree = {"": Node()}
    for number in range(300):
        source[f"/n{number:03d}"] = Node()
        if number % 10 == 0:
            source[f"/n{number:03d}/child"] = Node(b"c")
    target = {path: node for path, node in source.items() if not path or int(path[2:5]) not in missing}
    for number in changed - missing:
        path = f"/n{number:03d}/child" if number % 10 == 0 else f"/n{number:03d}"
        target[path] = Node(b"changed")
    expected: set[tuple[type[Change], str]] = {
        (ChangeData, f"/n{n:03d}/child" if n % 10 == 0 else f"/n{n:03d}") for n in changed - missing
    }
    expected |= {(Add, path) for path in source.keys() - target.keys()}
    changes = diff(snapshot_of(source), snapshot_of(target), hash_first=is_hashed)
    found = [(type(change), change.path) for change in changes]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_equal_runs_need_equal_names_too() -> None:
    """Siblings of equal hash under other names: the hash of a node does not cover its own name."""
    names = [f"/n{number:03d}" for number in range(200)]
    source = {"": Node(), **dict.fromkeys(names, Node(b"x"))}
    target = {"": Node(), **{name.replace("/n15", "/m15"): node for name, node in source.items() if name}}
    changes = diff(snapshot_of(source), snapshot_of(target), hash_first=True)
    assert changes.counts == (10, 0, 0, 0, 0, 10)


def test_a_run_that_ends_inside_a_subtree_goes_on_behind_it() -> None:
    """An ephemeral that only the target has makes equal subtrees of unequal size; "-" sorts below "/"."""
    source = {"": Node(), "/0": Node(), "/a": Node(), "/a/c": Node(), "/a-b": Node(), "/b": Node()}
    target = {**source, "/a/e": EPHEMERAL, "/b": Node(b"changed")}
    with short_runs():
        changes = diff(snapshot_of(source), snapshot_of(target), hash_first=True)
    assert [(type(change), change.path) for change in changes] == [(ChangeData, "/b")]


def test_changes_are_a_sequence_made_on_access() -> None:
    source = {"": Node(), **{f"/n{number}": Node() for number in range(10)}}
    changes = diff(snapshot_of(source), snapshot_of({"": Node()})).changes
    assert changes[3] == list(changes)[3] == changes[3:4][0]
    assert list(reversed(changes)) == list(changes)[::-1]
    assert changes[-1].path == "/n9"
    with pytest.raises(IndexError):
        changes[10]


def test_summary_names_counts_and_what_was_left_out() -> None:
    source = {"": Node(b"new", counter=1), "/a": Node(), "/e": EPHEMERAL}
    changes = changes_between(source, {"": Node(counter=2), "/gone": Node()})
    assert changes.summary() == (
        "1 added, 1 with other data, 1 deleted; 1 counter higher on the target "
        "(compared: data, acl, kind, counter; left out: 1 ephemeral of the source, 0 of the target)"
    )
    assert changes_between({"": Node()}, {"": Node()}).summary().startswith("no differences (compared: ")


def test_hashes_save_the_walk() -> None:
    """5,000 nodes under a parent of 1,000, one change: what is looked at, not how long it takes, is counted."""
    source: Tree = {"": Node()}
    for number in range(1000):
        source |= {f"/n{number:04d}": Node(), **{f"/n{number:04d}/c{child}": Node(b"x") for child in range(4)}}
    one, other = snapshot_of(source), snapshot_of({**source, "/n0500/c2": Node(b"y")})
    merge = diff_plain._Merge
    looks = []
    for hash_first in (False, True):
        with (
            mock.patch.object(import_module("zkmig.diff"), "_backend", return_value=diff_plain),
            mock.patch.object(merge, "_compare", autospec=True, side_effect=merge._compare) as compare,
            mock.patch.object(merge, "_is_same", autospec=True, side_effect=merge._is_same) as is_same,
        ):
            assert diff(one, other, hash_first=hash_first).counts.data == 1
        looks.append((compare.call_count, is_same.call_count))
    assert looks[0][0] == 5001
    assert looks[1][0] == 3
    assert looks[1][1] < 60
