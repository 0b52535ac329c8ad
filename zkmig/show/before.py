"""Before: nodes as they are on the target, for a plan that itself knows only their versions and lengths."""

from __future__ import annotations

from dataclasses import dataclass

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Znode
from zkmig.plan.plan import Plan
from zkmig.show.changes import Change


@dataclass(frozen=True, slots=True)
class Before:
    """tree: of the plan's target. fault: why a node may not be shown as what the plan was made for, "" if it may."""

    tree: Snapshot

    @classmethod
    def of(cls, tree: Snapshot, plan: Plan) -> Before:
        """BadInput for a tree of somewhere else."""
        if not paths.overlap(tree.root, plan.target.root):
            what = f"this tree lies elsewhere than the plan's target, {plan.target.root}"
            raise BadInput(what, tree.root, "--before wants the tree that the plan changes")
        return cls(tree)

    def node(self, change: Change) -> tuple[Znode | None, str]:
        """The node before, and why it is not the one that the plan was made for. Both: it is another by now."""
        path = change.path
        scope = self.tree.scope
        if not scope.covers(path) or (scope.includes and not any(paths.contains(top, path) for top in scope.includes)):
            return None, "it was not read"
        node = self.tree.get(path)
        if change.create:
            return node, "it is there already, and the plan creates it" if node else ""
        if node is None:
            return None, "it is not there any more"
        pinned = change.write or change.delete
        if pinned and (node.stat.czxid, node.stat.version) != (pinned.pin.czxid, pinned.pin.version):
            return node, "it has been written since the plan was made"
        step = change.step
        if step and step.pin and (node.stat.czxid, node.stat.aversion) != (step.pin.czxid, step.pin.aversion):
            return node, "its ACL has been set since the plan was made"
        return node, ""
