"""As whom a rehearsal writes: as its operator, where the tree's ACLs can be held to that, else as nobody is held. Pure.

The throw-away server knows the credentials that are given, and no others: an ACL that lets in `sasl`, `x509` or an
address lets nobody in here. What would be refused for that alone says nothing of the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, CREATE, DELETE, READ, WORLD, WRITE, AclList, Identity, grants
from zkmig.model.snapshot import Snapshot
from zkmig.plan.operations import CreateNode, DeleteNode, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.rehearse.places import places

_TOLD_HERE = ("world", "digest")


def why_super(plan: Plan, target: Snapshot | None, identities: Sequence[Identity]) -> str:
    """Why nobody here can be held to the ACLs, "" where the operator can.

    identities: those of the credentials given, as ACLs name them. With none given, every ACL that is not open to all is
    a reason. With some, one that names nothing but world and digests is not: what it refuses, the target refuses too.
    """
    if plan.identity is not None and plan.identity not in identities:
        return f"the plan's temporary ACLs let in {_told(plan.identity)}, of whom no credentials were given"
    for acl in _created(plan, identities):
        return f"ACLs of created nodes let in {_named(acl)}, of whom no credentials were given"
    for path, acl in _lacking(plan, target, identities):
        if not identities or any(entry.scheme not in _TOLD_HERE for entry in acl):
            return f"the ACL of {path} lets in {_named(acl)}, of whom nobody can be here"
    return ""


def _lacking(plan: Plan, target: Snapshot | None, identities: Sequence[Identity]) -> Iterator[tuple[str, AclList]]:
    """Existing nodes that the plan and its undo work on, and may not as these."""
    if target is None:
        return
    needed = _needed(plan)
    is_granted: dict[tuple[int, int], bool] = {}
    for path, node in places(target, needed).items():
        key = (target.columns.acl_ids[node], needed[path])
        if key not in is_granted:
            is_granted[key] = grants(target.acl_at(node), identities) & key[1] == key[1]
        if not is_granted[key]:
            yield path, target.acl_at(node)


def _needed(plan: Plan) -> dict[str, int]:
    needed: dict[str, int] = {}

    def need(path: str, perms: int) -> None:
        needed[path] = needed.get(path, READ) | perms

    creates = plan.ordered.creates
    changed = [creates.path_at(index) for index, parent in enumerate(creates.parents()) if parent < 0]
    for operation in plan.ordered.rest:
        match operation:
            case WriteData(path=path):
                need(path, WRITE)
            case RaiseCounter(path=path):
                need(path, CREATE | DELETE)
            case CreateNode(path=path) | DeleteNode(path=path):
                changed.append(path)
    for path in changed:
        if path != "/":
            need(paths.parent(path), CREATE | DELETE)
    for step in plan.acl_steps:
        if step.pin is not None:
            need(step.path, ADMIN)
    for path in plan.touched:
        need(path, READ)
    return needed


def _created(plan: Plan, identities: Sequence[Identity]) -> Iterator[AclList]:
    """ACLs of created nodes that keep these from reading them again, or from working below them."""
    creates = plan.ordered.creates
    parents = {parent for parent in creates.parents() if parent >= 0}
    above = {creates.acl_ids[parent] for parent in parents}
    for acl_id, acl in enumerate(creates.acl_table):
        needed = READ | (CREATE | DELETE if acl_id in above else 0)
        if grants(acl, identities) & needed != needed:
            yield acl


def _named(acl: AclList) -> str:
    others = [_told(Identity(entry.scheme, entry.id)) for entry in acl if (entry.scheme, entry.id) != WORLD]
    first = list(dict.fromkeys(others))[:3]
    return ", ".join(first) + (" and others" if len(set(others)) > len(first) else "") if first else "nobody"


def _told(identity: Identity) -> str:
    """Without the hash of a digest, which a password can be guessed from."""
    name = identity.id.partition(":")[0] if identity.scheme == "digest" else identity.id
    return f"{identity.scheme}:{name}"


def unknown_to(identities: Iterable[Identity]) -> str:
    """As in "sasl (3), x509 (1)"."""
    counts: dict[str, int] = {}
    for identity in identities:
        counts[identity.scheme] = counts.get(identity.scheme, 0) + 1
    return ", ".join(f"{scheme} ({count})" for scheme, count in sorted(counts.items()))
