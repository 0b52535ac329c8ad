"""Before: nodes as they are on the target, for a plan that itself knows only their versions and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.model.znode import Znode
from zkmig.plan.plan import Plan
from zkmig.show.changes import Change


@dataclass(frozen=True, slots=True)
class Before:
    """nodes: by absolute path; those that are not there are none of them. scope: what of the target was read."""

    nodes: Mapping[str, Znode]
    scope: Scope

    @classmethod
    def of(cls, nodes: Mapping[str, Znode], scope: Scope, plan: Plan) -> Before:
        """BadInput for nodes of somewhere else."""
        if not paths.overlap(scope.root, plan.target.root):
            what = f"this tree lies elsewhere than the plan's target, {plan.target.root}"
            raise BadInput(what, scope.root, "--before wants the tree that the plan changes")
        return cls(nodes, scope)

    def is_read(self, path: str) -> bool:
        """Whether a node that is missing here is missing there."""
        includes = self.scope.includes
        return self.scope.covers(path) and (not includes or any(paths.contains(top, path) for top in includes))

    def node(self, change: Change) -> tuple[Znode | None, str]:
        """The node before, and why it is not the one that the plan was made for. Both: it is another by now."""
        path = change.path
        if not self.is_read(path):
            return None, "it was not read"
        node = self.nodes.get(path)
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
