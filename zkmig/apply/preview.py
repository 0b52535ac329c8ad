"""What resume or rollback would do now, from the same records and journals, without taking the scope."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.apply.aclsteps import finals
from zkmig.apply.batches import describe
from zkmig.apply.earlier import refuse_ended
from zkmig.apply.engine import SealedPlan, check_plan_given, refuse_at_rest
from zkmig.apply.rollback import undo_batches
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.journal import Action, load
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import State
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client


@dataclass(frozen=True, slots=True)
class Preview:
    """summary: a sentence. operations: a line each, in order, never data; none when there is nothing to do."""

    scope: str
    record: Record
    summary: str
    operations: tuple[str, ...] = ()
    is_needed: bool = True


def preview_resume(client: Client, names: ControlPaths, sealed: SealedPlan | None) -> Preview:
    """As `engine.resume`: the same refusals, nothing written."""
    record, _ = read_record(client, names)
    if sealed is not None:
        refuse_ended(client, names, record, sealed.plan, sealed.hash)
    check_plan_given(record, names, sealed)
    match record.state:
        case State.PREPARING | State.OPEN:
            assert sealed is not None
            applied = _cursors(client, names, record)[0]
            batches = list(sealed.plan.batches())[applied:]
            text = f"go on with epoch {record.target_epoch} from batch {applied + 1} of {record.batches_total}"
            operations = [describe(operation) for batch in batches for operation in batch]
            operations += [f"set acl {step.path}" for step in sealed.plan.acl_steps]
            operations += [f"set quota {quota.path}" for quota in sealed.plan.quotas]
            return Preview(names.scope, record, f"{text}, then commit it", tuple(operations))
        case State.ROLLING_BACK:
            return _preview_undo(client, names, record)
    if record.pending is None:
        return Preview(names.scope, record, f"nothing to go on with: {record.state.value}", is_needed=False)
    attempt = names.attempt(record.pending.epoch, record.pending.attempt)
    manifest, journal = load(client, attempt, record.pending.manifest_hash)
    paths = [f"set acl {write.path}" for write in finals(journal.acls)]
    paths += [f"set quota {path}" for path, _ in manifest.quotas]
    return Preview(names.scope, record, f"set what is pending: {record.pending}", tuple(paths))


def preview_rollback(client: Client, names: ControlPaths) -> Preview:
    """As `engine.rollback`: the same refusals, nothing written."""
    record, _ = read_record(client, names)
    refuse_at_rest(client, names, record)
    if record.state is State.PREPARING:
        return Preview(names.scope, record, f"give up epoch {record.target_epoch}, of which nothing is written yet")
    return _preview_undo(client, names, record)


_UNDONE = {Action.CREATED: "delete", Action.WRITTEN: "write", Action.DELETED: "create"}


def _preview_undo(client: Client, names: ControlPaths, record: Record) -> Preview:
    assert record.target_epoch is not None
    assert record.attempt is not None
    assert record.manifest_hash is not None
    applied, undone = _cursors(client, names, record)
    manifest, journal = load(client, names.attempt(record.target_epoch, record.attempt), record.manifest_hash)

    def operations() -> Iterator[str]:
        for batch in undo_batches(journal, manifest, applied)[undone:]:
            yield from (f"{_UNDONE[entry.action]} {entry.path}" for entry in batch.entries if entry.action in _UNDONE)
            yield from map(describe, batch.raises)
        for step in journal.acls:
            if step.tighten is not None and not step.created:
                yield f"set acl {step.path}"

    written = "the batch" if applied == 1 else f"the {applied} batches"
    text = f"take back {written} that epoch {record.target_epoch} has written"
    return Preview(names.scope, record, text, tuple(operations()))


def _cursors(client: Client, names: ControlPaths, record: Record) -> tuple[int, int]:
    """Batches applied and undone so far. While a migrator lives they move on."""
    assert record.target_epoch is not None
    assert record.attempt is not None
    attempt = names.attempt(record.target_epoch, record.attempt)
    applied, undone = (
        node.stat.version if isinstance(node, NodeRead) else 0
        for node in read_nodes(client, [attempt.cursor, attempt.rcursor])
    )
    return (record.cursor if record.cursor is not None else applied), undone
