"""Before the commit: is every path of the plan exactly what the plan says?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.model.acl import AclList, may_show_as
from zkmig.plan.operations import CreateNode, DeleteNode, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.source.bulk import NodeAbsent, NodeRead, read_acls, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name

# What only another writer can have caused, when an operation was sound as the plan was made.
FOREIGN = frozenset({Code.NO_NODE, Code.BAD_VERSION, Code.NODE_EXISTS, Code.NOT_EMPTY, Code.NO_CHILDREN_FOR_EPHEMERALS})


@dataclass(frozen=True, slots=True)
class Deviation:
    """A path that is not as it should be, and how; never its data."""

    path: str
    reason: str


def why(code: int) -> str:
    """The reason of a deviation, from the server's error code."""
    return f"{'changed by somebody else' if code in FOREIGN else 'refused by the server'}: {code_name(code)}"


@dataclass(frozen=True, slots=True)
class Written:
    """A path as the plan leaves its data. version counts from its creation. czxid: None where the plan creates it."""

    path: str
    data: bytes | None
    version: int
    czxid: int | None


def written_nodes(plan: Plan) -> Iterator[Written]:
    """What the plan leaves on each path that it creates or writes."""
    for operation in plan.operations:
        match operation:
            case CreateNode():
                yield Written(operation.path, operation.data, 0, None)
            case WriteData():
                yield Written(operation.path, operation.data, operation.pin.version + 1, operation.pin.czxid)
            case DeleteNode() | RaiseCounter():
                pass


@dataclass(frozen=True, slots=True)
class _Guarded:
    """The ACL of a path before the commit. acl: None where it is as it was, so that the aversion says it all."""

    acl: AclList | None
    aversion: int
    czxid: int | None


def _guarded_nodes(plan: Plan) -> dict[str, _Guarded]:
    found = {op.path: _Guarded(op.acl, 0, None) for op in plan.operations if isinstance(op, CreateNode)}
    for step in plan.acl_steps:
        if step.pin is not None:
            aversion = step.pin.aversion + (step.tighten is not None)
            found[step.path] = _Guarded(step.tighten, aversion, step.pin.czxid)
    return found


def find_deviations(client: Client, plan: Plan) -> list[Deviation]:
    """Read every path of the plan again and compare data, versions, ACLs, absence and counters."""
    found = list(_written_deviations(client, plan))
    found += _acl_deviations(client, plan)
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
        elif wanted.czxid not in (None, node.stat.czxid):
            # The write could not tell: it is conditional on a version, and those repeat [zookeeper-facts 14].
            yield Deviation(node.path, "deleted and created again by somebody else")
        elif node.stat.version != wanted.version or node.data != wanted.data:
            yield Deviation(node.path, f"written by somebody else (version {node.stat.version})")


def _acl_deviations(client: Client, plan: Plan) -> Iterator[Deviation]:
    expected = _guarded_nodes(plan)
    for (path, wanted), live in zip(expected.items(), read_acls(client, list(expected)), strict=True):
        if live is None:
            yield Deviation(path, "gone")
        elif wanted.czxid not in (None, live.stat.czxid):
            yield Deviation(path, "deleted and created again by somebody else")
        elif live.stat.aversion != wanted.aversion or not (wanted.acl is None or may_show_as(wanted.acl, live.acl)):
            yield Deviation(path, "its ACL was changed by somebody else")


def _counter_deviations(client: Client, plan: Plan) -> Iterator[Deviation]:
    wanted = {op.path: op.to for op in plan.operations if isinstance(op, RaiseCounter)}
    for node in read_nodes(client, wanted):
        if isinstance(node, NodeRead) and node.stat.counter < wanted[node.path]:
            yield Deviation(node.path, f"its sequence counter is {node.stat.counter}, not {wanted[node.path]}")
