"""Following: what to know in a state, and the exact command lines that can follow. Pure, but for one look at a file."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable, Iterator

from zkmig.apply.status import Status
from zkmig.epoch.attempts import Fate
from zkmig.epoch.record import RULES, Held, Owner, Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.model.path import CONTROL_ROOT

PLACEHOLDER = "PLAN.zkplan"


def advice(status: Status) -> list[str]:
    """What to know before one of the commands that can follow is run, in sentences."""
    record = status.record
    if record.state in MIGRATING:
        return list(_while_migrating(status))
    if record.held is not None:
        return ["nothing begins until the hold is released", *_once_expired(record.held)]
    if status.owner.alive:
        return ["a migrator is at work, perhaps putting up a journal: wait for it"]
    return list(_after_rollback(status.record))


def _after_rollback(record: Record) -> Iterator[str]:
    last = record.last
    if last is not None and last.outcome == Fate.ROLLED_BACK.value:
        yield f"after the rollback of epoch {last.epoch} its plan may be stale: make a new one"


def _once_expired(held: Held) -> Iterator[str]:
    if held.is_expired():
        yield "the hold has expired: release it, or extend it with zkmig hold --for"


def _while_migrating(status: Status) -> Iterator[str]:
    record = status.record
    if status.owner.alive:
        lasts = f"{status.owner.session_timeout_ms / 1000:g} s"
        yield f"the owner's session lives (till {lasts} after a kill): wait, and --steal only if it is gone or stuck"
    if record.state is State.PREPARING and status.blocking:
        yield "it waits for what blocks: --evict NAME does without"
    if record.state is State.OPEN and record.conflict is not None:
        mended = "the tree is mended" if record.conflict.operation == RULES else "what stands there is removed by hand"
        yield f"roll back; or resume, once {mended}" if record.conflict.may_go_on else "roll back"
    if plan_elsewhere(status) is not None and (record.conflict is None or record.conflict.may_go_on):
        yield "resume needs its plan, which is not here"


def plan_elsewhere(status: Status) -> str | None:
    """Host and path of the plan that `resume` needs, as in "zk1:/home/op/p.zkplan"; None where it lies here."""
    owner = _planner(status)
    if status.record.state not in (State.PREPARING, State.OPEN) or owner is None or _is_here(owner, os.path.isfile):
        return None
    return f"{owner.host}:{owner.plan_path}"


def next_commands(
    status: Status, at: str, control: str = CONTROL_ROOT, has_file: Callable[[str], bool] = os.path.isfile
) -> list[str]:
    """The exact command lines that can follow in this state. at: zk://... of the ensemble, without a path.

    has_file: whether a path names a file on this host.
    """
    elsewhere = "" if control == CONTROL_ROOT else f" --control {shlex.quote(control)}"
    where = f"--at {at} --scope {status.scope}{elsewhere}"
    return [*_of_state(status, at, elsewhere, where, has_file), *_to_release(status.record, where)]


def _to_release(record: Record, where: str) -> Iterator[str]:
    if record.held is not None and record.state not in MIGRATING:  # else the migration's end comes first
        yield f"zkmig release --holder {shlex.quote(record.held.holder)} {where}"


def _of_state(status: Status, at: str, elsewhere: str, where: str, has_file: Callable[[str], bool]) -> list[str]:
    record = status.record
    owner = _planner(status)
    plan = shlex.quote(owner.plan_path) if owner is not None and _is_here(owner, has_file) else PLACEHOLDER
    resume, rollback = f"zkmig resume {plan} {where} --yes", f"zkmig rollback {where} --yes"
    # Never --steal: what is copied in a hurry is not to end a healthy migrator's work. Both wait for one.
    look = [f"zkmig status {where}"] if status.owner.alive else []
    match record.state:
        case State.PREPARING | State.OPEN if record.conflict is None:
            return [*look, resume, rollback]
        case State.OPEN:
            may_go_on = record.conflict is not None and record.conflict.may_go_on and not look
            return [*look, rollback, resume] if may_go_on else [*look, rollback]
        case State.ROLLING_BACK:
            return [*look, f"zkmig resume {where} --yes"] if status.owner.alive else [rollback]
        case State.STABLE | State.EMPTY if record.pending:
            return [f"zkmig resume {where} --yes"]
        case State.STABLE | State.EMPTY:
            return [*_to_begin(status, at, elsewhere), *_to_keep(status, where)]
        case _:
            return []


def _to_begin(status: Status, at: str, elsewhere: str) -> list[str]:
    if status.record.held is not None:
        return []
    root = shlex.quote(at + status.record.root)
    return [
        f"zkmig plan --from SOURCE --to {root} -o {PLACEHOLDER}{elsewhere}",
        f"zkmig apply --epoch {status.record.epoch + 1} {PLACEHOLDER}",
    ]


def _to_keep(status: Status, where: str) -> Iterator[str]:
    record = status.record
    if status.owner.alive:
        return
    if record.last is not None and record.last.outcome != "committed":
        yield f"zkmig history {where}"
    if status.revertible is not None and record.held is None:
        yield f"zkmig revert --epoch {record.epoch} {where}"
    if status.prunable:
        yield f"zkmig prune {where}"


def _planner(status: Status) -> Owner | None:
    """Who last worked with a plan file, and said where it lies."""
    owners = [status.owner.owner, status.record.owner]
    for one in status.attempts:
        if one.note.attempt == status.record.attempt:
            owners += reversed(one.note.owners)
    return next((owner for owner in owners if owner is not None and owner.plan_path), None)


def _is_here(owner: Owner, has_file: Callable[[str], bool]) -> bool:
    """Whether the plan file can be named. Whether it is the very plan, resume finds out by its hash."""
    return owner.host == platform.node() and has_file(owner.plan_path)
