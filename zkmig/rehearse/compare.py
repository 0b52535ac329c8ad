"""Compare: whether a tree is the one that it has to be, and the first place where it is not. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from zkmig.changes import Add, ChangeAcl, ChangeCounter, ChangeData, ChangeKind, Delete
from zkmig.diff import diff
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.plan.operations import CreateNode, RaiseCounter
from zkmig.plan.plan import Plan
from zkmig.plan.predict import predict
from zkmig.rehearse.copies import shown_kinds, with_counters
from zkmig.rehearse.places import places


@dataclass(frozen=True, slots=True)
class Difference:
    """path: absolute, the first in tree order. count: of all differences, counters included."""

    path: str
    what: str
    count: int

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{self.path} {self.what}{more}"


def difference(wanted: Snapshot | None, found: Snapshot | None, *, counters_may_be_higher: bool) -> Difference | None:
    """None where `found` is what it has to be: names, data, ACLs and counters; ephemerals and kinds do not count.

    None, as a tree, is one whose root is not there.
    """
    if wanted is None or found is None:
        if wanted is found:
            return None
        there = wanted or found
        assert there is not None
        return Difference(there.root, "is not there" if found is None else "is there", len(there))
    is_same = wanted.tree_hash == found.tree_hash
    if is_same and wanted.counter_hash == found.counter_hash:
        return None
    changes = diff(wanted, found)
    first = next(iter(changes.changes), None)
    higher = [] if counters_may_be_higher else list(changes.notes)
    count = len(changes.changes) + len(higher)
    places_of_all = [each.path for each in (first, *higher[:1]) if each is not None]
    if not places_of_all:
        if is_same and counters_may_be_higher:
            return None
        # Two hashes that differ while no node does: an error somewhere, or a node where none was looked for.
        return Difference(found.root, "has another hash, though no difference is seen", 1)
    path = min(places_of_all, key=paths.order_key)
    if first is not None and first.path == path:
        return Difference(paths.join(found.root, path), _WHAT[type(first)], count)
    return Difference(paths.join(found.root, path), "has a higher sequence counter than it must have", count)


_WHAT: dict[type, str] = {
    Add: "is not there",
    ChangeData: "has other data",
    ChangeAcl: "has another ACL",
    ChangeKind: "is of another kind",
    ChangeCounter: "has a lower sequence counter than it must have",
    Delete: "is there, and must not be",
}


def counters_higher(wanted: Snapshot | None, found: Snapshot | None) -> int:
    """How many sequence counters are higher than they were."""
    if wanted is None or found is None or wanted.counter_hash == found.counter_hash:
        return 0
    return len(diff(wanted, found).notes)


def predicted(base: Snapshot | None, plan: Plan) -> Snapshot:
    """What a server shows once the plan is carried out on `base`: `plan.predict`, and the counters.

    Each create below a node raises its counter by one [zookeeper-facts 19], and a RaiseCounter leaves it at `to`, where
    it was not higher already.
    """
    made = shown_kinds(predict(base, plan.target.root, plan.ordered, plan.acl_steps))
    creates = plan.ordered.creates
    below = Counter(paths.parent(path) for path in creates.paths() if path != "/")
    to: dict[str, int] = {}
    for operation in plan.ordered.rest:
        if isinstance(operation, CreateNode) and operation.path != "/":
            below[paths.parent(operation.path)] += 1
        elif isinstance(operation, RaiseCounter):
            to[operation.path] = max(operation.to, to.get(operation.path, 0))
    counters: dict[int, int] = {}
    for path, node in places(made, below.keys() | to.keys()).items():
        counters[node] = max(made.counter_at(node) + below[path], to.get(path, 0))
    return with_counters(made, counters)
