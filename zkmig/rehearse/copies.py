"""Copies: what of a tree another server can hold, and as what. Pure.

A throw-away server takes data, ACLs and counters as they are, ephemerals from a session that lasts as long as it does,
and nothing else: kinds are shown to nobody [zookeeper-facts 18], ids of schemes that it does not know have to be stood
in for, and a counter that would take many thousand creates [19] is left low, unless the plan itself raises it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from zkmig.errors import Refused
from zkmig.model import path as paths
from zkmig.model.acl import OPEN_ACL, Acl, AclList, Identity, digest_id
from zkmig.model.columns import KIND_EPHEMERAL
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.znode import Kind
from zkmig.plan.operations import RAISED_BY_MAX, RaiseCounter
from zkmig.plan.plan import Plan
from zkmig.rehearse.places import places

COUNTER_PAIRS_MAX = 500_000  # creates, beyond those of the children: a thousand take about 0.1 s
_CVERSION_MAX = 2**31 - 1
_SHOWN = bytes(Kind.EPHEMERAL.value if kind == KIND_EPHEMERAL else Kind.PERSISTENT.value for kind in range(256))


@dataclass(frozen=True, slots=True)
class Copy:
    """What is to be loaded, and what must be there then.

    tree: the target as the server can show it. durable: the same before the ephemerals have come, each of which raises
    its parent's counter by one. low: paths whose counter stays lower than the target's.
    """

    tree: Snapshot
    durable: Snapshot
    low: tuple[str, ...] = ()


def copy_of(target: Snapshot, stand_ins: Mapping[Identity, Identity], raised: Collection[str]) -> Copy:
    """The copy to make of the target. stand_ins: for ids that the server does not take. raised: paths of which the plan
    raises the counter, so that it has to be exact. Refused where that would take hours: nothing sets a counter, it is
    raised by as many creates."""
    shown = with_ids(shown_kinds(target), stand_ins)
    kept = places(shown, raised).values()
    _refuse_high(shown, kept)
    lowered = _counters_to_leave(shown, kept)
    tree = with_counters(shown, _counters_to_find(shown) | lowered)
    ephemerals = _ephemerals_below(tree)
    durable = with_counters(tree, {node: tree.counter_at(node) - count for node, count in ephemerals.items()})
    return Copy(tree, durable, tuple(shown.path_at(node) for node in lowered))


def refuse_long(plan: Plan) -> None:
    """Refused where the plan itself raises counters for hours, as one does that moves a queue with a high one."""
    raises = [operation for operation in plan.ordered.rest if isinstance(operation, RaiseCounter)]
    total = sum(operation.pairs for operation in raises)
    if total > RAISED_BY_MAX:
        highest = max(raises, key=lambda operation: operation.to)
        raise Refused(
            f"it cannot be rehearsed: the plan raises sequence counters by {total} in all, to {highest.to} here, and "
            f"each is a create; {RAISED_BY_MAX} in all are made",
            highest.path,
            "rehearse a plan without this path, or on a snapshot taken where it is lower",
        )


def shown_kinds(tree: Snapshot) -> Snapshot:
    """The tree as a server shows it to clients: containers and TTL nodes as persistent ones."""
    kinds = tree.columns.kinds.translate(_SHOWN)
    if kinds == tree.columns.kinds:
        return tree
    return _with(tree, kinds=kinds, ttls={})


def with_ids(tree: Snapshot, stand_ins: Mapping[Identity, Identity]) -> Snapshot:
    """The tree with other ids in its ACLs; an empty ACL, which grants everybody everything, as the open one."""
    table = tuple(acl_with_ids(acl, stand_ins) for acl in tree.columns.acl_table)
    return tree if table == tree.columns.acl_table else _with(tree, acl_table=table)


def acl_with_ids(acl: AclList, stand_ins: Mapping[Identity, Identity]) -> AclList:
    """The ACL with other ids."""
    named = (Identity(entry.scheme, entry.id) for entry in acl)
    entries = zip(acl, (stand_ins.get(each, each) for each in named), strict=True)
    return tuple(Acl(entry.perms, *identity) for entry, identity in entries) or OPEN_ACL


def stand_in(identity: Identity) -> Identity:
    """A digest id that nobody knows a password of; another for each id."""
    seed = hashlib.sha256(repr(identity).encode()).hexdigest()
    return Identity("digest", digest_id(f"rehearsed-{seed[:16]}", seed))


def identities_in(tree: Snapshot) -> dict[Identity, int]:
    """Every id in the tree's ACLs, with an index of a node that has it."""
    first: dict[int, int] = {}
    for node, acl_id in enumerate(tree.columns.acl_ids):
        first.setdefault(acl_id, node)
    found: dict[Identity, int] = {}
    for acl_id, node in first.items():
        for entry in tree.columns.acl_table[acl_id]:
            found.setdefault(Identity(entry.scheme, entry.id), node)
    return found


def with_counters(tree: Snapshot, counters: Mapping[int, int]) -> Snapshot:
    """The tree with other sequence counters, by index. One that no cversion can show is left as it is."""
    stats = tree.columns.stats
    cversion = array("i", stats.cversion)
    for node, counter in counters.items():
        wanted = 2 * counter - stats.num_children[node]
        if abs(wanted) <= _CVERSION_MAX:
            cversion[node] = wanted
    return tree if cversion == stats.cversion else _with(tree, stats=stats._replace(cversion=cversion))


def _counters_to_find(tree: Snapshot) -> dict[int, int]:
    """Counters lower than the children that are there, as other servers than Apache's count them: none can be here."""
    stats = tree.columns.stats
    pairs = enumerate(zip(stats.cversion, stats.num_children, strict=True))
    return {node: children for node, (cversion, children) in pairs if (cversion + children) // 2 < children}


def _refuse_high(tree: Snapshot, kept: Collection[int]) -> None:
    pairs = {node: tree.counter_at(node) - tree.columns.stats.num_children[node] for node in kept}
    if sum(pairs.values()) > RAISED_BY_MAX:
        highest = max(pairs, key=pairs.__getitem__)
        raise Refused(
            f"it cannot be rehearsed: the plan raises a sequence counter that is at {tree.counter_at(highest)}, which "
            f"takes a copy as many creates to have; {RAISED_BY_MAX} in all are made",
            tree.path_at(highest),
            "leave this path out of a plan to rehearse, or rehearse on a snapshot taken where it is lower",
        )


def _counters_to_leave(tree: Snapshot, kept: Collection[int]) -> dict[int, int]:
    """Counters that would take too many creates, by index, and what they are left at: as many as there are children."""
    exact = set(kept)
    stats = tree.columns.stats
    wanted: list[tuple[int, int]] = []
    for node, (cversion, children) in enumerate(zip(stats.cversion, stats.num_children, strict=True)):
        pairs = (cversion + children) // 2 - children
        if pairs > 0 and node not in exact:
            wanted.append((pairs, node))
    found: dict[int, int] = {}
    total = 0
    for pairs, node in sorted(wanted):
        if total + pairs > COUNTER_PAIRS_MAX:
            found[node] = stats.num_children[node]
        else:
            total += pairs
    return found


def _ephemerals_below(tree: Snapshot) -> dict[int, int]:
    """Of each parent of ephemerals how many."""
    found: dict[int, int] = {}
    for node, kind in enumerate(tree.columns.kinds):
        if kind == KIND_EPHEMERAL:
            parent = tree.columns.parents[node]
            found[parent] = found.get(parent, 0) + 1
    return found


def _with(tree: Snapshot, **columns: Any) -> Snapshot:
    replaced = dataclasses.replace(tree.columns, **columns)
    return Snapshot(replaced, tree.scope, tree.provenance, tree.consistency)


def relocated(tree: Snapshot, root: str) -> Snapshot:
    """The same tree below another root."""
    if tree.root == root:
        return tree
    builder = SnapshotBuilder()
    for path, node in tree.items():
        place = paths.join(root, paths.relative_to(path, tree.root))
        builder.add(place, node.data, node.acl, node.stat, node.kind, node.ttl_ms)
    return builder.build(Scope(root), tree.provenance, tree.consistency)
