"""The tree that a plan leads to, as predicted, is the tree that it was made for; what nobody writes stays.

Method: plans between made-up neighbours, predicted and compared by tree hash; operations that fit another tree.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.scopes import MINE, MINE_BUT_READABLE, MY_IDENTITY
from tests.trees import EPHEMERAL, Node, Tree, neighbours, snapshot_of, tree_of
from zkmig.errors import BadInput, PlanImpossible
from zkmig.model.acl import OPEN_ACL
from zkmig.model.znode import Kind
from zkmig.plan.creates import Operations
from zkmig.plan.make import make_plan
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, Pin, WriteData
from zkmig.plan.predict import predict
from zkmig.policy.policy import Policy

PIN = Pin(1, 2, 3)


@settings(max_examples=60)
@given(neighbours())
def test_it_is_what_the_plan_was_made_for(pair: tuple[Tree, Tree]) -> None:
    """Names, data, ACLs and kinds, whether the root was there before or not."""
    # Nothing can be created with an ACL of no entries, and counters are not predicted.
    one, other = (
        {path: node._replace(counter=min(node.counter, 9), acl=node.acl or OPEN_ACL) for path, node in tree.items()}
        for tree in pair
    )
    source = snapshot_of(one)
    for target in (snapshot_of(other), None):
        try:
            plan = make_plan(source, target)
        except PlanImpossible:
            continue  # another kind, or an ephemeral in the way
        made = predict(target, "/app", plan.ordered, plan.acl_steps)
        assert made.tree_hash == source.tree_hash
        ephemerals = target.ephemerals if target is not None else 0
        assert made.ephemerals == ephemerals
        assert len(made) == len(source) - source.ephemerals + ephemerals


def test_what_nobody_writes_stays() -> None:
    """Ephemerals, what the policy leaves out, Stats; late creates count like others, and ACLs are the final ones."""
    before: Tree = {"": Node(b"x"), "/kept": Node(b"k", counter=7), "/live": EPHEMERAL, "/out": Node(b"o", MINE)}
    after: Tree = {"": Node(b"y"), "/kept": Node(b"k", MINE_BUT_READABLE, counter=7), "/new": Node(b"n", MINE)}
    target = snapshot_of(before)
    plan = make_plan(snapshot_of(after), target, policy=Policy(excludes=("/app/out",)), identities=[MY_IDENTITY])
    late = CreateNode("/app/new/late", None, MINE, Kind.TTL, 5_000)
    made = predict(target, "/app", Operations(plan.ordered.creates, (*plan.ordered.rest, late)), plan.acl_steps)
    assert made["/app/kept"].stat == target["/app/kept"].stat
    assert tree_of(made) == {
        "": Node(b"y"),
        "/kept": after["/kept"],
        "/live": EPHEMERAL,
        "/new": after["/new"],
        "/new/late": Node(None, MINE, 0, Kind.TTL, 5_000),
        "/out": before["/out"],
    }


@pytest.mark.parametrize(
    "operation",
    [
        WriteData("/app/gone", b"", PIN, 0),
        DeleteNode("/app/gone", PIN, 0),
        DeleteNode("/app/full", PIN, 0),
        CreateNode("/app/full", b"", ()),
        CreateNode("/app/gone/below", b"", ()),
    ],
    ids=["write", "delete", "delete of a parent", "create of what is there", "create below nothing"],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_operations_for_another_tree_are_an_error(operation: Operation, is_there: bool) -> None:
    """Never a tree in which some of them were left out."""
    target = snapshot_of({"": Node(), "/full": Node(), "/full/child": Node()}) if is_there else None
    if not is_there and operation == CreateNode("/app/full", b"", ()):
        operation = CreateNode("/elsewhere", b"", ())
    with pytest.raises(BadInput):
        predict(target, "/app", Operations.of([operation]))
