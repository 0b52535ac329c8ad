"""The guarded multi: the head that stands before every write of a migrator, and what it tells where it fails.

Its record check is the one part that somebody else may move without taking the scope: an admin sets or clears a hold,
in whatever state, and owns nothing by that. So a migrator adopts a record that differs from its own in nothing but the
hold, and sends again; the owner's check, which stays as it was, still fences it. Whatever else has moved is not its own
doing, and ends it.
"""

from __future__ import annotations

from typing import Final

from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.record import Record
from zkmig.errors import NotOwner, NotPermitted, OtherIncarnation, UnknownFormat, ZkmigError
from zkmig.wire.codes import Code, error_for
from zkmig.wire.replies import DataResult, MultiResult, Reply

# Positions in the head of a guarded multi.
HEAD_INCARNATION: Final = 0
HEAD_RECORD: Final = 1
HEAD_OWNER: Final = 2
HEAD_LENGTH: Final = 3

ADOPTIONS_MAX: Final = 1_000  # for one multi: each takes somebody who has written the record since the one before


def multi_result(reply: Reply) -> MultiResult:
    """What became of a multi's operations."""
    if not isinstance(reply.result, MultiResult):
        raise error_for(reply.error, "", "multi")
    return reply.result


def failed_at(result: MultiResult, witness: int) -> bool:
    """Whether it failed where only the same multi, landed before, can make it fail: version or name is taken."""
    return result.failed_index == HEAD_LENGTH + witness and result.code in (Code.BAD_VERSION, Code.NODE_EXISTS)


def is_record_moved(result: MultiResult) -> bool:
    """Whether it failed because the record is there at another version: nothing of it applied."""
    return result.failed_index == HEAD_RECORD and result.code == Code.BAD_VERSION


def is_same_but_for_hold(one: Record, other: Record) -> bool:
    """Whether two records differ in nothing but the hold. Incarnation, attempt and last outcome are part of them."""
    return one.updated(held=None) == other.updated(held=None)


def record_in(node: DataResult | None, path: str) -> tuple[Record, int] | None:
    """The record that a node holds and its version; None for what this migrator cannot have written or adopt."""
    if node is None:
        return None
    try:
        record = records.decode(node.data, path)
    except UnknownFormat:
        return None
    return (record, node.stat.version) if record.format <= records.FORMAT else None


def guard_failure(names: ControlPaths, result: MultiResult) -> ZkmigError | None:
    """The error that a failed head is; None when the failure lies in the operations after it."""
    if result.failed_index is None or result.failed_index >= HEAD_LENGTH:
        return None
    where = (names.home, names.record, names.owner)[result.failed_index]
    if result.code == Code.NO_AUTH:
        return NotPermitted("not permitted to use this scope", where, "authenticate as its admin: --auth-file")
    if result.failed_index == HEAD_INCARNATION or result.code == Code.NO_NODE:
        return OtherIncarnation("the scope was deleted or created again", where, "run zkmig status")
    if result.failed_index == HEAD_RECORD:
        return NotOwner("the epoch record was changed by somebody else", where, "run zkmig status")
    return NotOwner("another migrator has taken this scope over", where, "run zkmig status")
