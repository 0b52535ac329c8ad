"""Repin: the same plan for a copy of its target, on which czxid, version and aversion are others. Pure.

A plan is stale once a path that it writes is not the node that it was made for, and on a copy none of them is. So each
pin is taken from the copy; nothing else of an operation changes, nor its place, nor the batches, which is looked at
once more by `same_but_pins`. Whether the plan fits its real target is another question: `stale_paths` answers that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from zkmig.errors import StalePlan
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.plan.creates import Operations
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, WriteData
from zkmig.plan.plan import Plan, TargetPin
from zkmig.rehearse.places import places

NAMED_MAX = 5
_NO_PIN = Pin(0, 0, 0)


def pinned_paths(plan: Plan) -> Iterator[tuple[str, Pin]]:
    """What the plan expects to be there, and as what."""
    for operation in plan.ordered.rest:
        if isinstance(operation, WriteData | DeleteNode):
            yield operation.path, operation.pin
    for step in plan.acl_steps:
        if step.pin is not None:
            yield step.path, step.pin


def tops(plan: Plan) -> Iterator[str]:
    """What the plan creates below a node that it does not create; below one that is not there nothing is."""
    creates = plan.ordered.creates
    yield from (creates.path_at(index) for index, parent in enumerate(creates.parents()) if parent < 0)
    yield from (operation.path for operation in plan.ordered.rest if isinstance(operation, CreateNode))


def stale_paths(plan: Plan, target: Snapshot | None) -> list[tuple[str, str]]:
    """Paths of the target that are not what the plan was made for, each with the reason, in tree order.

    As `apply` would find them: one that is written, deleted or gets another ACL, one to create that is there, one to
    delete that has gained a child, a parent that is gone.
    """
    found: dict[str, str] = {}
    pins = dict(pinned_paths(plan))
    there = places(target, pins)
    deleted = {operation.path for operation in plan.ordered.rest if isinstance(operation, DeleteNode)}
    for path, pin in pins.items():
        if target is None or path not in there:
            found[path] = "gone"
        elif Pin.of(target.stat_at(there[path])) != pin:
            found[path] = "written since"
        elif path in deleted:
            for child in target.children_at(there[path]):
                if target.path_at(child) not in deleted:
                    found[path] = f"has gained a child: {paths.name(target.path_at(child))}"
                    break
    created = set(tops(plan))
    found |= dict.fromkeys(places(target, created), "exists already")
    parents = {paths.parent(path) for path in created if path not in (plan.target.root, "/")} - created
    needed = (parents | set(plan.touched)) - pins.keys()
    made_here = {operation.path for operation in plan.ordered.rest if isinstance(operation, CreateNode)}
    found |= dict.fromkeys(needed - places(target, needed).keys() - made_here, "gone")
    return sorted(found.items(), key=lambda item: paths.order_key(item[0]))


def refuse_stale(found: list[tuple[str, str]], where: str) -> None:
    """StalePlan, naming the first paths, where there are any."""
    if not found:
        return
    named = ", ".join(f"{path} ({reason})" for path, reason in found[:NAMED_MAX])
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    raise StalePlan(
        f"the target has changed since the plan was made: {named}{more}", where, "plan again, then rehearse that"
    )


def repinned(plan: Plan, copy: Snapshot | None, target: TargetPin, *, keeps_identity: bool) -> Plan:
    """The plan for a copy of its target. copy: as it was read; None: its root is not there.

    keeps_identity: whether the session that will write is who the plan's temporary ACLs let in; False for one that no
    ACL keeps out. StalePlan where a path that is to be changed is not there.
    """
    wanted = dict(pinned_paths(plan))
    there = places(copy, wanted)
    missing = [(path, "not there") for path in wanted if path not in there]
    refuse_stale(missing, target.root)
    pins = {path: Pin.of(copy.stat_at(index)) for path, index in there.items()} if copy is not None else {}
    rest = tuple(_with_pin(operation, pins) for operation in plan.ordered.rest)
    steps = tuple(
        step if step.pin is None else dataclasses.replace(step, pin=pins[step.path]) for step in plan.acl_steps
    )
    return dataclasses.replace(
        plan,
        target=target,
        operations=Operations(plan.ordered.creates, rest),
        acl_steps=steps,
        identity=plan.identity if keeps_identity else None,
    )


def _with_pin(operation: Operation, pins: dict[str, Pin]) -> Operation:
    if isinstance(operation, DeleteNode):
        return operation._replace(pin=pins[operation.path])
    if isinstance(operation, WriteData):
        return dataclasses.replace(operation, pin=pins[operation.path])
    return operation


def same_but_pins(one: Plan, other: Plan) -> str:
    """ "" where both do the same in the same batches, whatever they expect to find; else what differs first."""
    if one.batch_ends != other.batch_ends:
        return "the batches"
    if one.ordered.creates is not other.ordered.creates and Operations(one.ordered.creates) != Operations(
        other.ordered.creates
    ):
        return "what is created"
    if len(one.ordered.rest) != len(other.ordered.rest) or len(one.acl_steps) != len(other.acl_steps):
        return "the number of operations"
    for ours, theirs in zip((*one.ordered.rest, *one.acl_steps), (*other.ordered.rest, *other.acl_steps), strict=True):
        if ours is not theirs and _unpinned(ours) != _unpinned(theirs):
            return f"the operation on {ours.path}"
    if (one.quotas, one.limits, one.soundness.rules) != (other.quotas, other.limits, other.soundness.rules):
        return "quotas, limits or rules"
    return ""


def _unpinned(operation: Operation | AclStep) -> Operation | AclStep:
    if isinstance(operation, DeleteNode):
        return operation._replace(pin=_NO_PIN)
    if isinstance(operation, WriteData | AclStep) and operation.pin is not None:
        return dataclasses.replace(operation, pin=_NO_PIN)
    return operation
