"""Before the commit: is every path of the plan exactly what the plan says?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.model.acl import AclList
from zkmig.plan.operations import CreateNode, DeleteNode, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.source.bulk import NodeAbsent, NodeRead, read_acls, read_nodes
from zkmig.wire.client import Client


@dataclass(frozen=True, slots=True)
class Deviation:
    """A path that is not as it should be, and how; never its data."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """A path as the plan leaves it: version counts from its creation, acl None where the plan does not set it."""

    path: str
    data: bytes | None
    version: int
    acl: AclList | None


def written_nodes(plan: Plan) -> Iterator[Written]:
    """What the plan leaves on each path that it creates, writes or gives another ACL (before the final ACL steps)."""
    tightened = {step.path: step.tighten for step in plan.acl_steps if step.tighten is not None}
    for operation in plan.operations:
        match operation:
            case CreateNode():
                yield Written(operation.path, operation.data, 0, operation.acl)
            case WriteData():
                yield Written(operation.path, operation.data, operation.pin.version + 1, tightened.get(operation.path))
            case DeleteNode() | RaiseCounter():
                pass


def find_deviations(client: Client, plan: Plan) -> list[Deviation]:
    """Read every path of the plan again and compare data, versions, ACLs, absence and counters."""
    found = list(_written_deviations(client, plan))
    deleted = (op.path for op in plan.operations if isinstance(op, DeleteNode))
    found += [Deviation(n.path, "exists again") for n in read_nodes(client, deleted) if isinstance(n, NodeRead)]
    found += _counter_deviations(client, plan)
    return found


def _written_deviations(client: Client, plan: Plan) -> Iterator[Deviation]:
    expected = {node.path: node for node in written_nodes(plan)}
    for node in read_nodes(client, expected):
        wanted = expected[node.path]
        if isinstance(node, NodeAbsent):
            yield Deviation(node.path, "gone")
        elif node.stat.version != wanted.version or node.data != wanted.data:
            yield Deviation(node.path, f"written by somebody else (version {node.stat.version})")
    acls = {path: node.acl for path, node in expected.items() if node.acl is not None}
    acls |= {step.path: step.tighten for step in plan.acl_steps if step.tighten is not None}
    for (path, acl), live in zip(acls.items(), read_acls(client, list(acls)), strict=True):
        if live is not None and live.acl != acl:
            yield Deviation(path, "its ACL was changed by somebody else")


def _counter_deviations(client: Client, plan: Plan) -> Iterator[Deviation]:
    wanted = {op.path: op.to for op in plan.operations if isinstance(op, RaiseCounter)}
    for node in read_nodes(client, wanted):
        if isinstance(node, NodeRead) and node.stat.counter < wanted[node.path]:
            yield Deviation(node.path, f"its sequence counter is {node.stat.counter}, not {wanted[node.path]}")
