"""A snapshot is a mapping in tree order over columns, and only sound trees become one.

Method: trees from hypothesis and real ones, compared with plain dicts sorted by `order_key`; unsound ones refused.
"""

from __future__ import annotations

import gc
import tracemalloc
from array import array
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, REAL_TREES, Node, Tree, load_real, names, snapshot_of, trees
from zkmig.errors import BadInput
from zkmig.model import columns_plain, order_plain
from zkmig.model import path as paths
from zkmig.model.acl import OPEN_ACL
from zkmig.model.columns import STAT_TYPECODES, Columns, StatColumns
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind

A_STAT = Stat(1, 2, 3, 4, 5, 6, 7, 0, 8, 2, 10)
ROOTS = st.sampled_from(("/", "/app", "/a/队列"))


def build(*added: str, root: str = "/") -> Snapshot:
    builder = SnapshotBuilder()
    for path in added:
        builder.add(path, b"", OPEN_ACL, A_STAT)
    return builder.build(Scope(root), Provenance("test"), Consistency(True, 0, 0, "test"))


@given(trees(), ROOTS)
def test_reads_back_what_was_added_in_tree_order(tree: Tree, root: str) -> None:
    snapshot = snapshot_of(tree, root)
    expected = {paths.join(root, relative): node for relative, node in tree.items()}
    assert list(snapshot) == sorted(expected, key=paths.order_key)
    assert len(snapshot) == len(expected)
    for index, (path, znode) in enumerate(snapshot.items()):
        node = expected[path]
        assert (znode.data, znode.acl, znode.kind, znode.ttl_ms) == (node.data, node.acl, node.kind, node.ttl_ms)
        assert znode.counter == node.counter == snapshot.counter_at(index)
        assert (znode.kind is Kind.EPHEMERAL) == (znode.ephemeral_owner != 0)
        assert snapshot[path] == znode == snapshot.znode_at(index)
        assert snapshot.index(path) == index
        assert path in snapshot
    assert list(snapshot.values()) == [snapshot[path] for path in snapshot]
    assert snapshot.ephemerals == sum(node.kind is Kind.EPHEMERAL for node in tree.values())


@given(trees(), ROOTS)
def test_structure_columns_agree_with_paths(tree: Tree, root: str) -> None:
    snapshot = snapshot_of(tree, root)
    order = list(snapshot)
    for index, path in enumerate(order):
        below = [other for other in order if paths.contains(path, other)]
        assert [order[i] for i in snapshot.subtree_indices(path)] == below
        children = [other for other in below if other != path and paths.parent(other) == path]
        assert snapshot.children(path) == [paths.name(child) for child in children]
        parent = snapshot.columns.parents[index]
        assert parent == -1 if index == 0 else order[parent] == paths.parent(path)


@given(trees(), ROOTS, st.data())
def test_subtree_is_what_building_it_alone_gives(tree: Tree, root: str, choice: st.DataObject) -> None:
    whole = snapshot_of(tree, root)
    path = choice.draw(st.sampled_from(list(whole)))
    part = whole.subtree(path)
    assert part.root == path
    assert list(part.items()) == [item for item in whole.items() if paths.contains(path, item[0])]
    alone = SnapshotBuilder()
    for znode in part.values():
        alone.add(znode.path, znode.data, znode.acl, znode.stat, znode.kind, znode.ttl_ms)
    rebuilt = alone.build(part.scope, part.provenance, part.consistency)
    for field in set(part.columns.__slots__) - {"acl_ids", "acl_table"}:
        assert getattr(part.columns, field) == getattr(rebuilt.columns, field)


@given(names, names)
@example("a", "a-b")
@example("a", "a\u00a0")
def test_siblings_in_tree_order_are_ordered_by_name_bytes(one: str, other: str) -> None:
    """The tree hash takes children in tree order and its definition says name bytes: they are the same."""
    below = [f"/{name}{rest}" for name in {one, other} for rest in ("", "/x")]
    top = [path for path in sorted(below, key=paths.order_key) if path.count("/") == 1]
    assert top == [f"/{name}" for name in sorted({one, other}, key=str.encode)]


EDGES = "/a.é\0\x1f\x7f\x85\u00a0\ud7ff\ue000\uf8ff\uf900\uffef\ufff0\uffff\U00010000"


@given(st.text(st.sampled_from(EDGES), max_size=8))
@example("/a/../b")
@example("/..")
def test_the_check_of_whole_blobs_agrees_with_path_validate(text: str) -> None:
    """One path at a time and the scan over all paths refuse the same characters and components."""
    ancestors = [text[:i] for i in range(1, len(text)) if text[i] == "/"]
    try:
        valid = bool(paths.validate(text)) and text != "/"
    except BadInput:
        valid = False
    if valid:
        assert text in build("/", *ancestors, text)
    else:
        with pytest.raises(BadInput):
            build("/", *ancestors, text)


def test_more_nodes_than_a_sort_run_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small runs stand for large trees; every rotation of the input gives the same snapshot."""
    monkeypatch.setattr(order_plain, "_SORT_RUN_NODES", 4)
    monkeypatch.setattr(columns_plain, "_COPY_NODES", 3)
    real = list(load_real("clickhouse-18.16").values())[:53]
    for turn in (0, 1, 17, 52):
        builder = SnapshotBuilder()
        for znode in real[turn:] + real[:turn]:
            builder.add(znode.path, znode.data, znode.acl, znode.stat)
        rebuilt = builder.build(Scope("/"), Provenance("test"), Consistency(False, 0, 0, "test"))
        assert list(rebuilt.values()) == real


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ((), "no root"),
        (("/a",), "not the root of the scope"),
        (("/", "/a/b"), "/a/b: its parent is missing"),
        (("/", "/a", "/a/b", "/a-b/c"), "/a-b/c: its parent is missing"),
        (("/", "/a", "/a/b", "/a"), "/a: it is there twice"),
        (("/", "/"), "second root"),
        (("/", "a"), "not a znode path"),
        (("/", ""), "not a znode path"),
        (("/", "/a", "/a/"), "not a znode path"),
        (("/", "//", "//a"), "not a znode path"),
        (("/", "/a\0b"), "not allowed"),
        (("/", "/\U0001f600"), "not allowed"),
        (("/", "/\ud800"), "cannot be encoded"),
    ],
)
def test_unsound_trees_are_refused(added: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        build(*added)


def test_ephemeral_with_children_is_refused() -> None:
    with pytest.raises(BadInput, match="/app/e: an ephemeral with children"):
        snapshot_of({"": Node(), "/e": EPHEMERAL, "/e/x": Node()})


@pytest.mark.parametrize(("kind", "owner"), [(Kind.EPHEMERAL, 0), (Kind.PERSISTENT, 5), (Kind.CONTAINER, 5)])
def test_kind_and_owner_must_agree(kind: Kind, owner: int) -> None:
    builder = SnapshotBuilder()
    builder.add("/", b"", OPEN_ACL, A_STAT._replace(ephemeral_owner=owner), kind)
    with pytest.raises(BadInput, match="a session owns it"):
        builder.build(Scope("/"), Provenance("test"), Consistency(True, 0, 0, "test"))


def test_lookups_that_find_nothing() -> None:
    snapshot = build("/", "/a", "/a/b")
    for absent in ("/aa", "/a/", "", "a", "/\ud800", "/a/b/c"):
        assert absent not in snapshot
        with pytest.raises(KeyError):
            snapshot[absent]
    assert object() not in snapshot
    assert snapshot.get("/x") is None


WRONG_COLUMNS: dict[str, object] = {
    "path_offsets": array("Q", (0, 1, 0, 5)),
    "paths_blob": b"//a/bx",
    "data_offsets": array("Q", (0, 5, 1, 5)),
    "data_blob": b"rdat",
    "nulls": b"\1\0\0",
    "acl_ids": array("I", (0, 0, 1)),
    "acl_table": (),
    "kinds": b"\0\0\4",
    "ttls": {1: 5},
    "stats": StatColumns.empty(),
}


@pytest.mark.parametrize("column", WRONG_COLUMNS)
def test_columns_are_checked_where_data_enters(column: str) -> None:
    """One column at a time is swapped for an unsound one."""
    sound = snapshot_of({"": Node(b"r"), "/a": Node(b"data"), "/b": Node()}, "/").columns
    entering: dict[str, Any] = {f.name: getattr(sound, f.name) for f in fields(Columns)}
    del entering["parents"], entering["ends"]
    assert Columns.checked(**entering).ends == sound.ends
    entering[column] = WRONG_COLUMNS[column]
    with pytest.raises(BadInput):
        Columns.checked(**entering)


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees(name: str) -> None:
    snapshot = load_real(name)
    assert len(snapshot) == {"clickhouse-18.16": 3963, "apache-zookeeper-invalidsnap": 2113}[name]
    assert snapshot.ephemerals == {"clickhouse-18.16": 80, "apache-zookeeper-invalidsnap": 0}[name]
    assert all(snapshot[path].path == path for path in snapshot)


def test_stat_columns_hold_every_field_in_wire_order() -> None:
    assert StatColumns._fields == Stat._fields
    extreme = Stat(*[2 ** (63 if code == "q" else 31) - 1 for code in STAT_TYPECODES])
    builder = SnapshotBuilder()
    builder.add("/", None, OPEN_ACL, extreme)
    assert builder.build(Scope("/"), Provenance("t"), Consistency(True, 0, 0, "t"))["/"].stat == extreme


def test_memory_stays_near_the_bytes_of_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak of building 20,000 nodes in scrambled order, sorted in short runs: 1.5 x (path + data + 68 B) + 64 B."""
    monkeypatch.setattr(order_plain, "_SORT_RUN_NODES", 2_000)
    monkeypatch.setattr(columns_plain, "_COPY_NODES", 2_000)
    count = 20_000
    gc.collect()
    tracemalloc.start()
    try:
        builder = SnapshotBuilder()
        builder.add("/", None, OPEN_ACL, A_STAT)
        for number in range(count):
            name = f"a-service-instance-with-a-name-of-usual-length-{number * 7919 % count:010d}"
            builder.add(f"/{name}", b"x" * 48, OPEN_ACL, A_STAT)
        snapshot = builder.build(Scope("/"), Provenance("t"), Consistency(True, 0, 0, "t"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    carried = len(snapshot.columns.paths_blob) + len(snapshot.columns.data_blob) + 68 * len(snapshot)
    assert peak < 1.5 * carried + 64 * count  # the bar for 1,000,000 nodes allows 64 MiB


def test_nothing_can_be_assigned() -> None:
    snapshot = build("/")
    for value, name in ((snapshot, "extra"), (snapshot.columns, "kinds")):
        with pytest.raises(AttributeError):
            setattr(value, name, b"")
