"""What the plan's paths are right now on the target: is the plan stale, and what must undo remember?"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zkmig.epoch.created import Created
from zkmig.epoch.journal import NO_BATCH, AclEntry, Action, Entry, Journal, ReadSet, read_set
from zkmig.errors import NotPermitted, StalePlan
from zkmig.model import path as paths
from zkmig.model.acl import AclList, is_masked
from zkmig.model.znode import Kind, Znode
from zkmig.plan.operations import CreateNode, DeleteNode, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.source.bulk import NodeAbsent, NodeRead, read_acls, read_nodes
from zkmig.wire.client import Client

NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Preimage:
    """The journal to upload, and the READ set of every path in it; what is created comes before that journal."""

    journal: Journal
    read_sets: dict[str, ReadSet]
    created: Created


def take_preimage(client: Client, plan: Plan, scope_root: str) -> Preimage:
    """Read every path of the plan; StalePlan, naming paths, when one is not what it was when the plan was made."""
    parents = plan.ordered.creates.parents()
    touched, nodes = _look(client, plan, scope_root, parents)
    entries = list(_entries(plan, touched, nodes))
    acls = tuple(
        AclEntry(step.path, step.tighten, step.final, step.pin.aversion if step.pin else 0, step.pin is None)
        for step in plan.acl_steps
    )
    return Preimage(Journal(tuple(entries), acls), _read_sets(plan, nodes), _created(plan, parents, nodes))


def recheck(client: Client, plan: Plan, scope_root: str) -> None:
    """The same test as `take_preimage` once more, after the drain and before the first write."""
    _look(client, plan, scope_root, plan.ordered.creates.parents())


def _look(client: Client, plan: Plan, scope_root: str, parents: array[int]) -> tuple[tuple[str, ...], dict[str, Znode]]:
    """Paths whose Stat alone changes, and what is there now; parents: as `Creates.parents` gives them."""
    stale = _Stale()
    creates = plan.ordered.creates
    tops = [creates.path_at(index) for index, parent in enumerate(parents) if parent < 0]
    tops += [op.path for op in plan.ordered.rest if isinstance(op, CreateNode)]
    touched = (*_above(client, plan, scope_root, tops, stale), *plan.touched)
    nodes = _existing(client, plan, touched, stale)
    for node in read_nodes(client, tops):  # below a node that is not there nothing is
        if isinstance(node, NodeRead):
            stale.add(node.path, "exists already")
    stale.raise_if_any()
    return touched, nodes


class _Stale:
    """Paths that are not as planned, with the reason."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, path: str, reason: str) -> None:
        self.found.append((path, reason))

    def raise_if_any(self) -> None:
        if not self.found:
            return
        named = ", ".join(f"{path} ({reason})" for path, reason in self.found[:NAMED_MAX])
        more = f" and {len(self.found) - NAMED_MAX} more" if len(self.found) > NAMED_MAX else ""
        raise StalePlan(f"the target has changed since the plan was made: {named}{more}", hint="make the plan again")


def _above(client: Client, plan: Plan, scope_root: str, tops: Sequence[str], stale: _Stale) -> tuple[str, ...]:
    """The parent of a root that the plan creates: it gains a child, though no snapshot of the target has shown it."""
    root = plan.target.root
    if root == "/" or root not in tops:
        return ()
    parent = paths.parent(root)
    if client.exists(parent) is None:
        stale.add(parent, "is not there")
        return ()
    return (parent,) if paths.contains(scope_root, parent) else ()


def _existing(client: Client, plan: Plan, touched: Iterable[str], stale: _Stale) -> dict[str, Znode]:
    pins: dict[str, Pin | None] = dict.fromkeys(touched)
    pins |= {op.path: op.pin for op in plan.ordered.rest if isinstance(op, WriteData | DeleteNode)}
    pins |= {step.path: step.pin for step in plan.acl_steps if step.pin}
    deleted = {op.path for op in plan.ordered.rest if isinstance(op, DeleteNode)}
    kept = sorted(pins.keys() - deleted, key=paths.order_key)
    reads = [*read_nodes(client, kept), *read_nodes(client, sorted(deleted, key=paths.order_key), children=True)]
    found: dict[str, NodeRead] = {}
    for node in reads:
        if isinstance(node, NodeAbsent):
            stale.add(node.path, "gone")
            continue
        pin = pins[node.path]
        if pin is not None and Pin.of(node.stat) != pin:
            stale.add(node.path, "written since")
        extra = {paths.join(node.path, "/" + name) for name in node.children or ()} - deleted
        if extra:
            stale.add(node.path, f"has gained a child: {paths.name(min(extra))}")
        found[node.path] = node
    nodes = _with_acls(client, found, stale)
    for path in deleted & nodes.keys():
        if is_masked(nodes[path].acl, client.identities):
            raise NotPermitted(
                "its ACL shows only masked ids to this session, so it could not be brought back as it is",
                path,
                "authenticate as somebody with ADMIN on it: --auth-file",
            )
    return nodes


def _with_acls(client: Client, found: dict[str, NodeRead], stale: _Stale) -> dict[str, Znode]:
    nodes: dict[str, Znode] = {}
    for read, acl in zip(found.values(), read_acls(client, list(found)), strict=True):
        if acl is None:
            stale.add(read.path, "gone")
        elif (acl.stat.czxid, acl.stat.aversion) != (read.stat.czxid, read.stat.aversion):
            stale.add(read.path, "its ACL is being changed")
        else:
            nodes[read.path] = Znode(read.path, read.data, acl.acl, read.stat, Kind.PERSISTENT)
    return nodes


def _entries(plan: Plan, touched: Iterable[str], nodes: dict[str, Znode]) -> Iterable[Entry]:
    written: set[str] = set()
    first = len(plan.ordered.creates)
    for batch, (start, end) in enumerate(plan.batch_ranges()):
        for operation in plan.ordered.rest[max(0, start - first) : max(0, end - first)]:
            match operation:
                case CreateNode(path=path, kind=kind, ttl_ms=ttl_ms):
                    yield Entry(Action.CREATED, path, batch, None, kind, ttl_ms)
                case WriteData(path=path):
                    written.add(path)
                    yield Entry(Action.WRITTEN, path, batch, nodes[path])
                case DeleteNode(path=path, kind=kind, ttl_ms=ttl_ms):
                    yield Entry(Action.DELETED, path, batch, nodes[path]._replace(kind=kind, ttl_ms=ttl_ms))
                case RaiseCounter():
                    pass  # its path is created by the plan, or touched
    for step in plan.acl_steps:
        if step.pin is not None and step.path not in written:
            written.add(step.path)
            yield Entry(Action.ACL, step.path, NO_BATCH, nodes[step.path])
    for path in touched:
        if path not in written:
            yield Entry(Action.TOUCHED, path, NO_BATCH, nodes[path])


def _read_sets(plan: Plan, nodes: dict[str, Znode]) -> dict[str, ReadSet]:
    sets = {path: read_set(node.acl) for path, node in nodes.items()}
    late = {operation.path: operation.acl for operation in plan.ordered.rest if isinstance(operation, CreateNode)}
    created: dict[str, AclList] = dict(late)
    if late:
        above = {paths.parent(path).encode() for path in late if path != "/"}
        creates = plan.ordered.creates
        places = (place for place, path in enumerate(creates.path_column()) if path in above)
        created |= {creates.path_at(place): creates.acl_table[creates.acl_ids[place]] for place in places}
    for path, acl in late.items():
        # What a created path has to protect is its name, and that is as public as its parent's child list.
        parent = "" if path == "/" else paths.parent(path)
        if parent in created:
            sets[path] = read_set(created[parent])  # what is in `sets` of it is about its own name
        else:
            sets[path] = sets.get(parent) or read_set(acl)
    return sets


def _created(plan: Plan, parents: array[int], nodes: dict[str, Znode]) -> Created:
    """The creates for the journal; each name is as public as the child list that it stands in."""
    creates = plan.ordered.creates
    sets = [read_set(acl) for acl in creates.acl_table]
    table: dict[ReadSet, int] = {}
    by_acl = [table.setdefault(each, len(table)) for each in sets]
    acl_ids = creates.acl_ids
    groups = array("I", [by_acl[acl_ids[parent]] if parent >= 0 else 0 for parent in parents])
    for index, parent in enumerate(parents):
        if parent < 0:
            above = nodes.get(paths.parent(creates.path_at(index)))
            group = read_set(above.acl) if above is not None else sets[acl_ids[index]]
            groups[index] = table.setdefault(group, len(table))
    batches = array("i")
    for batch, (start, end) in enumerate(plan.batch_ranges()):
        batches.extend([batch] * (min(end, len(creates)) - start))
        if end >= len(creates):
            break
    return Created(creates.paths_blob, creates.path_offsets, batches, groups, tuple(table), creates.kinds, creates.ttls)
