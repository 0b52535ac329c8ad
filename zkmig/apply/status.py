"""Status: what a scope is doing, who does it, what blocks, and the commands that can follow."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from zkmig.apply.entries import ACTING, Entry, blocking_entries
from zkmig.apply.evictions import Eviction, read_evictions
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.owner import OwnerView, read_owner
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.model.path import CONTROL_ROOT
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.replies import ChildrenResult
from zkmig.wire.requests import GetChildren


@dataclass(frozen=True, slots=True)
class Status:
    """One scope at one moment. readers, guards: names of what is registered. blocking: what a drain would wait for,
    leases and guards. evicted: what the drain of the epoch under way was told not to wait for. batches_undone: in a
    rollback."""

    scope: str
    record: Record
    owner: OwnerView
    batches_applied: int
    batches_undone: int
    readers: tuple[str, ...]
    guards: tuple[str, ...]
    blocking: tuple[Entry, ...]
    evicted: tuple[Eviction, ...] = ()

    @property
    def acting(self) -> tuple[str, ...]:
        """Names of the leases that block: not released, and not malformed."""
        return tuple(entry.name.partition("/")[2] for entry in self.blocking if entry.kind == ACTING)


def read_status(client: Client, names: ControlPaths) -> Status:
    """Read all of it. Refused when there is no such scope."""
    record, _ = read_record(client, names)
    applied = undone = 0
    evicted: list[Eviction] = []
    if record.target_epoch is not None and record.attempt is not None:
        attempt = names.attempt(record.target_epoch, record.attempt)
        applied, undone = (
            node.stat.version if isinstance(node, NodeRead) else 0
            for node in read_nodes(client, [attempt.cursor, attempt.rcursor])
        )
        evicted = read_evictions(client, attempt)
    return Status(
        names.scope,
        record,
        read_owner(client, names),
        applied,
        undone,
        _children(client, names.readers),
        _children(client, names.guards),
        tuple(blocking_entries(client, names)),
        tuple(evicted),
    )


def _children(client: Client, path: str) -> tuple[str, ...]:
    result = client.call(GetChildren(path))
    assert isinstance(result, ChildrenResult)
    return tuple(sorted(result.children))


def advice(status: Status) -> str | None:
    """What to know before one of the commands that can follow is run."""
    if status.owner.alive and status.record.state in MIGRATING:
        return "the owner is alive: wait for it to end, or take over with --steal"
    if status.record.state is State.OPEN and status.record.conflict is not None:
        return "roll back; resume only once the foreign change is undone by hand"
    return None


def next_commands(status: Status, at: str, control: str = CONTROL_ROOT) -> list[str]:
    """The exact command lines that can follow in this state. at: zk://... of the ensemble, without a path."""
    record = status.record
    elsewhere = "" if control == CONTROL_ROOT else f" --control {shlex.quote(control)}"
    where = f"--at {at} --scope {status.scope}{elsewhere}"
    owner = status.owner.owner
    plan = shlex.quote(owner.plan_path) if owner and owner.plan_path else "PLAN.zkplan"
    match record.state:
        case State.PREPARING | State.OPEN if record.conflict is None:
            return [f"zkmig resume {plan} {where} --yes", f"zkmig rollback {where} --yes"]
        case State.OPEN:
            return [f"zkmig rollback {where} --yes", f"zkmig resume {plan} {where} --yes"]
        case State.ROLLING_BACK:
            return [f"zkmig rollback {where} --yes"]
        case State.STABLE | State.EMPTY if record.pending:
            return [f"zkmig resume {where} --yes"]
        case State.STABLE | State.EMPTY:
            root = shlex.quote(at + record.root)
            return [
                f"zkmig plan --from SOURCE --to {root} -o PLAN.zkplan{elsewhere}",
                f"zkmig apply --epoch {record.epoch + 1} PLAN.zkplan",
            ]
        case _:
            return []
