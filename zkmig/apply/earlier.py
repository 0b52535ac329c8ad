"""Earlier: what has come of a plan that was begun before, as the notes of its attempts tell.

Who comes with such a plan again is told so, rather than that it was never begun, or that somebody has moved versions.
"""

from __future__ import annotations

from contextlib import suppress

from zkmig.epoch.attempts import Attempt, Fate, read_attempts
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING
from zkmig.errors import Refused, StalePlan, ZkmigError
from zkmig.wire.client import Client
from zkmig.wire.link import address

_ENDED = (Fate.COMMITTED, Fate.ROLLED_BACK, Fate.ABORTED)


def refuse_ended(client: Client, names: ControlPaths, record: Record, plan_hash: str) -> None:
    """Refused where nothing is under way, and this plan was, under an epoch that is over but not the committed one."""
    if record.state in MIGRATING or plan_hash == record.committed_plan_hash:
        return
    attempt = _latest(client, names, record, plan_hash)
    if attempt is None:
        return
    number, following = attempt.note.epoch, record.epoch + 1
    begin = f"zkmig apply --epoch {following}"
    again = f"make the plan again, then {begin}"
    match attempt.fate:
        case Fate.ROLLED_BACK:
            what = f"epoch {number} was begun with this plan and rolled back"
            hint = f"what a rollback brings back has new versions: {again}"
        case Fate.ABORTED:
            what = f"epoch {number} was begun with this plan and given up before anything was written"
            hint = f"begin it again with {begin}" if number == following else again
        case _:
            what, hint = f"this plan was committed as epoch {number}", again
    raise Refused(f"{what}; now the scope is {record.state.value} at epoch {record.epoch}", names.record, hint)


def explain_stale(error: StalePlan, client: Client, names: ControlPaths, plan_hash: str) -> None:
    """Say in the error where it was, and that a rollback of this very plan has moved versions, if one has."""
    error.where = error.where or f"{names.home} at {address(client.server)}"
    with suppress(ZkmigError):  # the error itself says more than why it could not be explained
        record, _ = read_record(client, names)
        attempt = _latest(client, names, record, plan_hash, (Fate.ROLLED_BACK,))
        if attempt is not None and attempt.note.applied != 0:
            what = f"epoch {attempt.note.epoch} was begun with this plan and rolled back"
            error.what = f"{what}, which itself has moved versions; {error.what}"


def _latest(
    client: Client, names: ControlPaths, record: Record, plan_hash: str, fates: tuple[Fate, ...] = _ENDED
) -> Attempt | None:
    """The latest attempt with this plan of such a fate."""
    found = (one for one in reversed(read_attempts(client, names, record)) if one.note.plan_hash == plan_hash)
    return next((one for one in found if one.fate in fates), None)
