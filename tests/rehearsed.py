"""Trees and plans to rehearse, without a server."""

from __future__ import annotations

from typing import Any

import zkmig
from tests.scopes import settled
from tests.trees import Node, Tree, snapshot_of
from zkmig.model.snapshot import Snapshot
from zkmig.plan.make import make_plan
from zkmig.plan.plan import Plan

SMALL: Tree = settled({"": Node(b"root"), "/a": Node(b"1"), "/a/b": Node(b"2"), "/q": Node(b"", counter=9)})
SMALL_AFTER: Tree = settled({"": Node(b"root"), "/a": Node(b"new"), "/c": Node(None), "/q": Node(b"", counter=12)})


def plan_between(before: Tree, after: Tree, root: str = "/app", **more: Any) -> tuple[Plan, Snapshot]:
    """A plan, and its target."""
    target = snapshot_of(before, root)
    return make_plan(snapshot_of(after, root), target, **more), target


def sealed(plan: Plan) -> zkmig.SealedPlan:
    return zkmig.SealedPlan(plan, "0" * 64)
