"""Made-up plans: operations with what was there before, so that a test can also build what undoes them."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from tests.trees import acls, names
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.journal import Action, Entry, Journal
from zkmig.epoch.owner import Migrator
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import State
from zkmig.model import path as paths
from zkmig.model.acl import OPEN_ACL, Identity
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan, SourcePin, TargetPin
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import Create, operation_size

SCOPE = "prod"
EPOCH = 12_345
ATTEMPT = "0badcafe"


class Step(NamedTuple):
    """An operation, and its node before it (None where there was none)."""

    operation: Operation
    before: Znode | None


def stat_of(version: int = 3, counter: int = 0, czxid: int = 11, aversion: int = 0) -> Stat:
    return Stat(czxid, 12, 1, 2, version, 2 * counter, aversion, 0, 0, 0, 13)


data = st.none() | st.binary(max_size=40) | st.integers(41, 1500).map(bytes)


@st.composite
def steps(draw: st.DrawFn, length_max: int = 18) -> list[Step]:
    """Creates, writes, counters and deletes of different paths, in this order, as a plan has them."""
    parents = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    found: list[tuple[int, Step]] = []
    for number in range(draw(st.integers(1, length_max))):
        path = f"/app/{draw(st.sampled_from(parents))}/{number}"
        order = draw(st.integers(0, 3))
        found.append((order, draw(_step(path, order))))
    return [step for _, step in sorted(found, key=lambda item: item[0])]


@st.composite
def _step(draw: st.DrawFn, path: str, order: int) -> Step:
    acl = draw(acls.filter(bool))
    match order:
        case 0:
            kind = draw(st.sampled_from((Kind.PERSISTENT, Kind.CONTAINER, Kind.TTL)))
            return Step(CreateNode(path, draw(data), acl, kind, 5_000 if kind is Kind.TTL else 0), None)
        case 1:
            before = Znode(path, draw(data), acl, stat_of(), Kind.PERSISTENT)
            operation = WriteData(path, draw(data), Pin.of(before.stat), len(before.data or b""))
            return Step(operation, before)
        case 2:
            pairs = draw(st.integers(1, 60))
            return Step(RaiseCounter(path, pairs, pairs + 7), None)
        case _:
            before = Znode(path, draw(data), acl, stat_of(counter=draw(st.integers(0, 50))), Kind.PERSISTENT)
            size = operation_size(Create(path, before.data, acl))
            return Step(DeleteNode(path, Pin.of(before.stat), size), before)


def journal_of(operations: tuple[Operation, ...], ends: tuple[int, ...], made: list[Step]) -> Journal:
    """What the engine would have remembered of these batches."""
    before = {step.operation.path: step.before for step in made}
    actions = {CreateNode: Action.CREATED, WriteData: Action.WRITTEN, DeleteNode: Action.DELETED}
    entries: list[Entry] = []
    start = 0
    for batch, end in enumerate(ends):
        entries += [
            Entry(actions[type(operation)], operation.path, batch, before[operation.path])
            for operation in operations[start:end]
            if type(operation) in actions
        ]
        start = end
    return Journal(tuple(entries))


def guarding_migrator(scope: str = SCOPE) -> Migrator:
    """A migrator that is not connected: its guarded multis can be made and measured."""
    migrator = Migrator(Client([("127.0.0.1", 1)]), ControlPaths(scope), StopRequest())
    migrator.record = Record("0123456789abcdef", State.OPEN, EPOCH - 1, "/app", target_epoch=EPOCH, attempt=ATTEMPT)
    migrator.record_version = migrator.token = 2**31 - 1
    return migrator


def plan_of(operations: tuple[Operation, ...], ends: tuple[int, ...], limits: Limits, head_bytes: int) -> Plan:
    """A plan around the operations, with a value in every field."""
    return Plan(
        source=SourcePin("zk://a:2181/app", "/app", "a" * 64, "b" * 64, 5, 9, True, 1_700_000_000_000),
        target=TargetPin("zk://b:2181/app", (("b", 2181),), "/app", "c" * 64, None, 8, SCOPE, "/zkmig", "0" * 16, 4),
        operations=operations,
        batch_ends=ends,
        acl_steps=(
            AclStep("/app/n", OPEN_ACL[:1], OPEN_ACL, Pin(1, 2, 3)),
            AclStep("/app/m", None, OPEN_ACL, None),
        ),
        touched=tuple(sorted({paths.parent(operation.path) for operation in operations})),
        head_bytes=head_bytes,
        journal_bytes=77,
        limits=limits,
        identity=Identity("digest", "me:x"),
        ephemerals_source=1,
        ephemerals_target=2,
        notes=("a note", "队列"),
    )
