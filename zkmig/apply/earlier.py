"""Earlier: what has come of a plan that was begun before, as the notes of its attempts tell.

Who comes with such a plan again is told so, rather than that it was never begun, or that somebody has moved versions.
"""

from __future__ import annotations

from contextlib import suppress

from zkmig.epoch.attempts import Attempt, AttemptNote, Fate, read_attempts
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING
from zkmig.errors import Refused, StalePlan, ZkmigError
from zkmig.plan.operations import DeleteNode, WriteData
from zkmig.plan.plan import Plan
from zkmig.wire.client import Client
from zkmig.wire.link import address

_ENDED = (Fate.COMMITTED, Fate.ROLLED_BACK, Fate.ABORTED)


def refuse_ended(client: Client, names: ControlPaths, record: Record, plan: Plan, plan_hash: str) -> None:
    """Refused where nothing is under way, and this plan was, under an epoch that is over but not the committed one."""
    if record.state in MIGRATING or plan_hash == record.committed_plan_hash:
        return
    attempt = _latest(client, names, record, plan_hash)
    if attempt is None:
        return
    number, following = attempt.note.epoch, record.epoch + 1
    begin = f"zkmig apply --epoch {following}"
    again = f"make the plan again, then {begin}"
    as_it_is = f"begin it again with {begin}" if number == following else again
    match attempt.fate:
        case Fate.ROLLED_BACK:
            what = f"epoch {number} was begun with this plan and rolled back"
            has_moved = _has_moved_versions(attempt.note, plan)
            hint = f"what a rollback brings back has new versions: {again}" if has_moved else as_it_is
        case Fate.ABORTED:
            what = f"epoch {number} was begun with this plan and given up before anything was written"
            hint = as_it_is
        case Fate.COMMITTED:
            what, hint = f"this plan was committed as epoch {number}", again
        case under_way:
            raise AssertionError(f"{under_way} is no end of an attempt")
    raise Refused(f"{what}; now the scope is {record.state.value} at epoch {record.epoch}", names.record, hint)


def explain_stale(error: StalePlan, client: Client, names: ControlPaths, plan: Plan, plan_hash: str) -> None:
    """Say in the error where it was, and that a rollback of this very plan has moved versions, if one has."""
    error.where = error.where or f"{names.home} at {address(client.server)}"
    with suppress(ZkmigError):  # the error itself says more than why it could not be explained
        record, _ = read_record(client, names)
        attempt = _latest(client, names, record, plan_hash, (Fate.ROLLED_BACK,))
        if attempt is not None and _has_moved_versions(attempt.note, plan):
            what = f"epoch {attempt.note.epoch} was begun with this plan and rolled back"
            error.what = f"{what}, which itself has moved versions; {error.what}"


def _has_moved_versions(note: AttemptNote, plan: Plan) -> bool:
    """Whether taking that attempt at the plan back has given new versions to nodes that the plan has found there.

    What was created is gone again, and counters are no versions. ACLs are tightened before the first batch.
    """
    done = len(plan.operations) if note.applied is None else (0, *plan.batch_ends)[note.applied]
    rest = plan.ordered.rest[: max(0, done - len(plan.ordered.creates))]
    has_rewritten = any(isinstance(operation, WriteData | DeleteNode) for operation in rest)
    return has_rewritten or any(step.pin is not None and step.tighten is not None for step in plan.acl_steps)


def _latest(
    client: Client, names: ControlPaths, record: Record, plan_hash: str, fates: tuple[Fate, ...] = _ENDED
) -> Attempt | None:
    """The latest attempt with this plan of such a fate."""
    found = (one for one in reversed(read_attempts(client, names, record)) if one.note.plan_hash == plan_hash)
    return next((one for one in found if one.fate in fates), None)
