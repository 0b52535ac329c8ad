"""Before the commit: is every path of the plan exactly what the plan says?"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import sub

from zkmig.model.acl import AclList, may_show_as
from zkmig.plan.creates import Creates
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.source.bulk import NodeAbsent, NodeRead, read_acls, read_nodes
from zkmig.source.columnread import Stretch, read_column
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name

# What only another writer can have caused, when an operation was sound as the plan was made.
FOREIGN = frozenset({Code.NO_NODE, Code.BAD_VERSION, Code.NODE_EXISTS, Code.NOT_EMPTY, Code.NO_CHILDREN_FOR_EPHEMERALS})
REPLACED = "deleted and created again by somebody else"


@dataclass(frozen=True, slots=True)
class Deviation:
    """A path that is not as it should be, and how; never its data."""

    path: str
    reason: str


def why(code: int) -> str:
    """The reason of a deviation, from the server's error code."""
    if code == Code.BAD_VERSION:
        return "changed by somebody else"  # the code says no more
    return f"{'changed by somebody else' if code in FOREIGN else 'refused by the server'}: {code_name(code)}"


@dataclass(frozen=True, slots=True)
class Written:
    """A path as the plan leaves its data. version counts from its creation. czxid: None where the plan creates it."""

    path: str
    data: bytes | None
    version: int
    czxid: int | None


def written_nodes(plan: Plan) -> Iterator[Written]:
    """What the plan leaves on each path that it writes or creates; those whose version is highest come first."""
    writes = (operation for operation in plan.ordered.rest if isinstance(operation, WriteData))
    for write in sorted(writes, key=lambda write: -write.pin.version):
        yield Written(write.path, write.data, write.pin.version + 1, write.pin.czxid)
    for create in chain(plan.ordered.creates, plan.ordered.rest):
        if isinstance(create, CreateNode):
            yield Written(create.path, create.data, 0, None)


@dataclass(frozen=True, slots=True)
class _Guarded:
    """The ACL of a path before the commit. acl: None where it is as it was, so that the aversion says it all."""

    acl: AclList | None
    aversion: int
    czxid: int | None


def find_deviations(client: Client, plan: Plan, zxids: Mapping[int, int] | None = None) -> list[Deviation]:
    """Read every path of the plan again and compare data, versions, ACLs, absence and counters.

    zxids: at which a batch has applied, by its number, as far as that is known. A node created at that very zxid is the
    one that the batch has created; while its aversion is 0 it has the ACL that it was created with, which is then not
    read.
    """
    found: list[Deviation] = []
    guarded: dict[str, _Guarded] = {}
    rest: Iterable[Operation] = plan.ordered.rest
    if client.has_multi_read:
        for read in _read_again(client, plan, zxids or {}):
            found += read.deviations
            guarded |= read.guarded
    else:
        rest = plan.operations
    values = {op.path: op for op in rest if isinstance(op, CreateNode | WriteData)}
    found += _value_deviations(client, values)
    guarded |= {path: _Guarded(op.acl, 0, None) for path, op in values.items() if isinstance(op, CreateNode)}
    for step in plan.acl_steps:
        if step.pin is not None:
            aversion = step.pin.aversion + (step.tighten is not None)
            guarded[step.path] = _Guarded(step.tighten, aversion, step.pin.czxid)
    found += _acl_deviations(client, guarded)
    deleted = (op.path for op in plan.ordered.rest if isinstance(op, DeleteNode))
    found += [Deviation(n.path, "exists again") for n in read_nodes(client, deleted) if isinstance(n, NodeRead)]
    found += _counter_deviations(client, plan)
    return found


# -- what was created -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """What came of some nodes. guarded: those whose ACL is still to be looked at."""

    deviations: list[Deviation]
    guarded: dict[str, _Guarded]


def _read_again(client: Client, plan: Plan, zxids: Mapping[int, int]) -> Iterator[_Step]:
    creates = plan.ordered.creates
    born = array("q", bytes(8 * len(creates)))
    for batch, (start, end) in enumerate(plan.batch_ranges()):
        end = min(end, len(creates))
        if start < end and batch in zxids:
            born[start:end] = array("q", [zxids[batch]]) * (end - start)
    for stretch in read_column(client, creates.paths_blob, creates.path_offsets, creates.data_offsets):
        if not _is_as_created(creates, stretch, born):
            yield _one_by_one(creates, stretch, born)


def _is_as_created(creates: Creates, stretch: Stretch, born: array[int]) -> bool:
    """Whether each node is the very one that its batch has created, untouched since; no node is looked at for that."""
    start, stop, stats = stretch.start, stretch.stop, stretch.stats
    zeros = array("i", bytes(4 * (stop - start)))
    data = slice(creates.data_offsets[start], creates.data_offsets[stop])
    lengths = array("i", map(sub, creates.data_offsets[start + 1 : stop + 1], creates.data_offsets[start:stop]))
    return (
        not stretch.absent
        and stats.czxid == born[start:stop]
        and stats.version == zeros
        and stats.aversion == zeros
        and stretch.nulls == creates.nulls[start:stop]
        and stretch.data == creates.data_blob[data]
        and stats.data_length == lengths
    )


def _one_by_one(creates: Creates, stretch: Stretch, born: array[int]) -> _Step:
    step = _Step([Deviation(creates.path_at(index), "gone") for index in stretch.absent], {})
    stats, offsets = stretch.stats, stretch.data_offsets
    for place, index in enumerate(stretch.origins):
        node = creates[index]
        data = None if stretch.nulls[place] else stretch.data[offsets[place] : offsets[place + 1]]
        version = stats.version[place]
        # One that nobody has written, with other data, is another node.
        is_another = stats.ephemeral_owner[place] or 0 < born[index] < stats.czxid[place]
        if is_another or (version == 0 and data != node.data):
            step.deviations.append(Deviation(node.path, REPLACED))
        elif version != 0:
            step.deviations.append(Deviation(node.path, f"written by somebody else (version {version})"))
        elif stats.czxid[place] != born[index] or stats.aversion[place]:
            step.guarded[node.path] = _Guarded(node.acl, 0, None)
    return step


# -- the rest ---------------------------------------------------------------------------------------------------------


def _value_deviations(client: Client, expected: Mapping[str, CreateNode | WriteData]) -> Iterator[Deviation]:
    for node in read_nodes(client, expected):
        wanted = expected[node.path]
        version, czxid = (wanted.pin.version + 1, wanted.pin.czxid) if isinstance(wanted, WriteData) else (0, None)
        if isinstance(node, NodeAbsent):
            yield Deviation(node.path, "gone")
        elif czxid not in (None, node.stat.czxid) or (czxid is None and _is_another(node, wanted.data)):
            # The write could not tell: it is conditional on a version, and those repeat [zookeeper-facts 14].
            yield Deviation(node.path, REPLACED)
        elif node.stat.version != version or node.data != wanted.data:
            yield Deviation(node.path, f"written by somebody else (version {node.stat.version})")


def _is_another(node: NodeRead, data: bytes | None) -> bool:
    """Whether it cannot be the one that the plan has created with that data: an ephemeral, or other data unwritten."""
    return bool(node.stat.ephemeral_owner) or (node.stat.version == 0 and node.data != data)


def _acl_deviations(client: Client, expected: Mapping[str, _Guarded]) -> Iterator[Deviation]:
    for (path, wanted), live in zip(expected.items(), read_acls(client, list(expected)), strict=True):
        if live is None:
            yield Deviation(path, "gone")
        elif wanted.czxid not in (None, live.stat.czxid):
            yield Deviation(path, REPLACED)
        elif live.stat.aversion != wanted.aversion or not (wanted.acl is None or may_show_as(wanted.acl, live.acl)):
            yield Deviation(path, "its ACL was changed by somebody else")


def _counter_deviations(client: Client, plan: Plan) -> Iterator[Deviation]:
    wanted = {op.path: op.to for op in plan.ordered.rest if isinstance(op, RaiseCounter)}
    for node in read_nodes(client, wanted):
        if isinstance(node, NodeAbsent):
            yield Deviation(node.path, "gone")
        elif node.stat.counter < wanted[node.path]:
            yield Deviation(node.path, f"its sequence counter is {node.stat.counter}, not {wanted[node.path]}")
