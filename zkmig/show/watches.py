"""Watches that would fire: what somebody would hear who had set every watch there is before the plan is applied.

From the plan alone: which watches are set no server tells all of, so these are upper bounds. As servers trigger them
(DataTree.createNode, deleteNode, setData): a create fires exists watches of the path and child watches of its parent; a
write data watches; a deletion data, exists and child watches of the path and child watches of its parent. Setting an
ACL fires none [zookeeper-facts 3]. A sequence counter is raised by children that come and go in one transaction.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, assert_never

from zkmig.counted import counted
from zkmig.model import path as paths
from zkmig.plan.creates import Operations
from zkmig.plan.operations import CreateNode, DeleteNode, RaiseCounter, WriteData


@dataclass(frozen=True, slots=True)
class Watches:
    """created, written, deleted: paths whose watches fire with NodeCreated, NodeDataChanged and NodeDeleted, once each.
    children: of each path whose child watches fire with NodeChildrenChanged, how often a persistent one does; one that
    fires once does so once. recursive: events of a persistent recursive watch over all of it."""

    created: int
    written: int
    deleted: int
    children: dict[str, int]
    recursive: int

    @property
    def child_events(self) -> int:
        """Events of persistent child watches on all those paths."""
        return sum(self.children.values())

    @property
    def text(self) -> str:
        """As in "exists watches of 3 created, data watches of 2 written, ..."; "none"."""
        found = [
            f"{kind} of {count} {what}"
            for kind, count, what in (
                ("exists watches", self.created, "created"),
                ("data watches", self.written, "written"),
                ("all watches", self.deleted, "deleted"),
            )
            if count
        ]
        if self.children:
            parents, events = counted(len(self.children), "parent"), counted(self.child_events, "event")
            found.append(f"child watches of {parents} ({events})")
        return ", ".join(found) or "none"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "exists": self.created,
            "data": self.written,
            "deleted": self.deleted,
            "children": len(self.children),
            "children_events": self.child_events,
            "recursive_events": self.recursive,
            "children_of": self.children,
        }


def watches_of(operations: Operations) -> Watches:
    """What would fire while all of these are carried out."""
    created = recursive = len(operations.creates)
    written = deleted = 0
    children: Counter[str] = Counter()
    for path in operations.creates.paths():
        _tell_parent(children, path)
    for operation in operations.rest:
        match operation:
            case CreateNode(path=path):
                created += 1
                recursive += 1
                _tell_parent(children, path)
            case WriteData():
                written += 1
                recursive += 1
            case DeleteNode(path=path):
                deleted += 1
                recursive += 1
                _tell_parent(children, path)
            case RaiseCounter(path=path, pairs=pairs):
                children[path] += 2 * pairs
                recursive += 2 * pairs
            case _:
                assert_never(operation)
    return Watches(created, written, deleted, dict(children), recursive)


def _tell_parent(children: Counter[str], path: str) -> None:
    if path != "/":
        children[paths.parent(path)] += 1
