"""Staging takes nodes one by one, from decoders and from earlier columns, and gives the same snapshot each way.

Method: made-up trees put together in several ways are compared with the tree added in one go.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, Node, Tree, snapshot_of, trees
from zkmig.model.acl import Acl
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import Staging

ACL = (Acl(1, "world", "anyone"),)


def build(staging: Staging, root: str = "/app") -> Snapshot:
    return staging.build(Scope(root), Provenance("test"), Consistency(True, 0, 0, "test"))


@given(trees(), st.data())
def test_nodes_of_earlier_columns_join_those_added_one_by_one(tree: Tree, choice: st.DataObject) -> None:
    """Each node of a snapshot arrives alone or within a range; the ACL table of the staging has another order."""
    whole = snapshot_of(tree)
    alone = choice.draw(st.sets(st.integers(0, len(whole) - 1)))
    staging = Staging()
    staging.acl_id(ACL)
    edges = [0, *sorted({edge for index in alone for edge in (index, index + 1)} | {len(whole)})]
    ranges = [(start, stop) for start, stop in pairwise(edges) if start not in alone and start < stop]
    half = choice.draw(st.integers(0, len(ranges)))
    staging.extend(whole.columns, ranges[:half])
    for index in alone:
        znode = whole.znode_at(index)
        staging.add(znode.path, znode.data, znode.acl, znode.stat, znode.kind, znode.ttl_ms)
    staging.extend(whole.columns, ranges[half:])
    assert len(staging) == len(whole)
    assert list(build(staging).items()) == list(whole.items())


def test_kinds_that_a_decoder_leaves_out_are_told_from_the_stats() -> None:
    """Columns are appended to directly, kinds excepted; then a node is added with a kind of its own."""
    whole = snapshot_of({"": Node(), "/a": Node(b"1"), "/e": EPHEMERAL, "/n": Node(None)})
    staging = Staging()
    for znode in list(whole.values())[:3]:
        staging.paths += znode.path.encode()
        staging.path_offsets.append(len(staging.paths))
        staging.data += znode.data or b""
        staging.data_offsets.append(len(staging.data))
        staging.nulls.append(0)
        staging.acl_ids.append(staging.acl_id(znode.acl))
        for column, value in zip(staging.stats, znode.stat, strict=True):
            column.append(value)
    last = whole["/app/n"]
    staging.add(last.path, last.data, last.acl, last.stat, last.kind)
    assert list(build(staging).items()) == list(whole.items())
