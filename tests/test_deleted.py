"""What a plan deletes is gathered from columns, and equals what each node by itself says.

Method: made-up trees, some nodes of them, on a root of their own; operations, sizes in the undo journal, counters and
parents are compared with those made of one Znode at a time. Sizes at the edges of msgpack's length fields are among
them, since the journal's weight and the refusal of a heavy one rest on these.
"""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import Node, snapshot_of, trees
from zkmig.epoch.journal import Action, Entry, entry_bytes
from zkmig.model import path as paths
from zkmig.model.acl import READ, Acl
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.plan.deleted import deleted_nodes
from zkmig.plan.operations import CreateNode, DeleteNode, Pin, forward_size


def expect_as_one_by_one(target: Snapshot, nodes: list[int]) -> None:
    """Each field of `deleted_nodes` against the node as a value."""
    deleted = deleted_nodes(target, array("i", nodes), target.root)
    gone = [target.znode_at(node) for node in nodes]
    operations = [
        DeleteNode(
            node.path,
            Pin.of(node.stat),
            forward_size(CreateNode(node.path, node.data, node.acl, node.kind, node.ttl_ms)),
            node.kind,
            node.ttl_ms,
        )
        for node in gone
    ]
    assert list(deleted.operations) == operations
    assert list(deleted.journal_sizes) == [entry_bytes(Entry(Action.DELETED, node.path, 0, node)) for node in gone]
    assert list(deleted.counters) == [node.counter for node in gone]
    parents = {paths.parent(node.path) for node in gone if node.path != target.root}
    assert sorted(map(target.path_at, deleted.parents)) == sorted(parents)


@settings(max_examples=100)
@given(tree=trees(), draw=st.data())
def test_any_nodes_of_any_tree(tree: dict[str, Node], draw: st.DataObject) -> None:
    """Goal: none of the columns is mixed up with another, or with those of nodes that stay."""
    target = snapshot_of(tree)
    mortal = [node for node in range(len(target)) if target.kind_at(node) is not Kind.EPHEMERAL]
    expect_as_one_by_one(target, sorted(draw.draw(st.sets(st.sampled_from(mortal), min_size=1))))


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65_535, 65_536])
def test_sizes_at_the_edges_of_length_fields(size: int) -> None:
    """Goal: a path, data or ACL of exactly so many bytes weighs what msgpack makes of it."""
    wide = tuple(Acl(READ, "digest", f"user{number}:x") for number in range(min(size, 300)))
    tree = {"": Node(), "/data": Node(b"x" * size, wide), f"/{'p' * max(1, size - 5)}": Node(None), "/ü": Node(b"")}
    target = snapshot_of(tree)
    expect_as_one_by_one(target, list(range(len(target))))
