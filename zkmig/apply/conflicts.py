"""Conflicts: what somebody else has left on a path of the plan, and whether that is its old value again.

A controller that puts a path back whenever it changes is no accident to be waited for: it stops every attempt until it
is stopped itself, or told of the change. So put-back values are counted, by versions, over all attempts at an epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from zkmig.apply.verify import Deviation, Written
from zkmig.epoch.attempts import PUT_BACK_MAX, AttemptNote, PutBack, put_back_before, read_attempts, shortened
from zkmig.epoch.journal import Action, Entry, read_set
from zkmig.epoch.owner import Migrator
from zkmig.epoch.record import ConflictNote, data_hash
from zkmig.model.acl import WORLD
from zkmig.model.stat import Stat
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.replies import AclResult, DataResult
from zkmig.wire.requests import GetAcl, GetData

LOOKED_AT_MAX = 1_000  # deviations whose values are compared
DEPTH = 64


@dataclass(frozen=True, slots=True)
class Found:
    """What is on a path. stat None: nothing. data: None too where it may not be read (is_readable says)."""

    path: str
    data: bytes | None = None
    stat: Stat | None = None
    is_readable: bool = True


def look(client: Client, paths: Iterable[str]) -> list[Found]:
    """What is there now; a node that may not be read is told by its Stat."""
    asked = list(paths)
    found: list[Found] = []
    for path, reply in zip(asked, client.pipeline(map(GetData, asked), DEPTH), strict=True):
        if isinstance(reply.result, DataResult):
            found.append(Found(path, reply.result.data, reply.result.stat))
        elif reply.error == Code.NO_NODE:
            found.append(Found(path))
        else:
            found.append(Found(path, None, client.exists(path), is_readable=False))
    return found


def times_put_back(entry: Entry | None, found: Found, was_written: bool) -> int:
    """How often others have given a path of the plan its old value again; 0 where it does not carry that.

    entry: of the journal; None for a path that the plan creates. was_written: whether its batch has applied.
    """
    before = entry.before if entry is not None else None
    if before is None:
        return int(was_written and found.stat is None)  # its old value is that it is not there
    if found.stat is None or not found.is_readable or found.data != before.data:
        return 0
    assert entry is not None
    if found.stat.czxid != before.stat.czxid:
        return found.stat.version + 1  # a new node; each of its versions is a write, its creation one too
    ours = int(was_written and entry.action is Action.WRITTEN)
    return max(0, found.stat.version - before.stat.version - ours)


def sentence(times: int) -> str:
    """What to say of a path put back so often."""
    if times == 1:
        return "put back to its old value once: perhaps by a controller that reverts; look for one before trying again"
    return (
        f"put back to its old value {times} times: looks like a controller that reverts; "
        "stop it or change its source first"
    )


class PutBacks:
    """Counts what others put back in the attempt under way, on top of earlier attempts at its epoch."""

    def __init__(self, migrator: Migrator, note: AttemptNote) -> None:
        self._now = {one.path: one.times for one in note.put_back}
        self._epoch = note.epoch
        attempts = read_attempts(migrator.client, migrator.names, migrator.record)
        self._earlier = [one for one in attempts if one.note.attempt != note.attempt]

    def add(self, path: str, times: int) -> tuple[int, int]:
        """Counted within this attempt; returned with all earlier ones, and how many attempts that makes."""
        if not times:
            return 0, 0
        key = shortened(path)
        self._now[key] = max(times, self._now.get(key, 0))
        before, attempts = put_back_before(self._earlier, self._epoch, path)
        return before + self._now[key], attempts + 1

    @property
    def noted(self) -> tuple[PutBack, ...]:
        """For the note: those put back most often."""
        most = sorted(self._now.items(), key=lambda item: -item[1])
        return tuple(PutBack(path, times) for path, times in most[:PUT_BACK_MAX])


def examine_conflict(
    migrator: Migrator,
    puts: PutBacks,
    deviation: Deviation,
    operation: str,
    batch: int,
    entry: Entry | None,
    written: Written | None,
) -> ConflictNote:
    """The note of a conflict. entry: of the path in the journal, None where the plan creates it. written: as the plan
    leaves it, where its batch has applied; None where the path was still to come, or was to be deleted."""
    note = ConflictNote(deviation.path, operation, deviation.reason, batch)
    if operation == "setACL":
        return note
    (found,) = look(migrator.client, [deviation.path])
    note = replace(
        note,
        found_version=found.stat.version if found.stat is not None else None,
        found_czxid=found.stat.czxid if found.stat is not None else None,
    )
    before = entry.before if entry is not None else None
    was_written = operation in ("verify", "commit")
    if written is not None:
        note = replace(note, expected_version=written.version, expected_czxid=written.czxid)
        expected: tuple[bytes | None] | None = (written.data,)
    elif before is not None and not was_written:
        note = replace(note, expected_version=before.stat.version, expected_czxid=before.stat.czxid)
        expected = (before.data,)
    else:
        expected = None
    if _may_be_told(migrator, deviation.path, entry):
        note = replace(
            note,
            expected_hash=data_hash(expected[0]) if expected is not None else None,
            found_hash=data_hash(found.data) if found.stat is not None and found.is_readable else None,
        )
    times, attempts = puts.add(deviation.path, times_put_back(entry, found, was_written))
    if not times:
        return note
    return replace(note, put_back=times, attempts=attempts, reason=f"{deviation.reason}; {sentence(times)}")


def _may_be_told(migrator: Migrator, path: str, entry: Entry | None) -> bool:
    """Whether everybody who reads the record may read the node, as it was and as it is: a hash tells who can guess."""
    live = migrator.client.call_reply(GetAcl(path))
    acls = [live.result.acl] if isinstance(live.result, AclResult) else []
    if not acls and live.error != Code.NO_NODE:
        return False
    if entry is not None and entry.before is not None:
        acls.append(entry.before.acl)
    readers = read_set(migrator.control_acl)
    sets = [read_set(acl) for acl in acls]
    return all(WORLD in one or one >= readers for one in sets)


def explained(
    migrator: Migrator, puts: PutBacks, deviations: Sequence[Deviation], entries: dict[str, Entry]
) -> list[Deviation]:
    """The deviations of a rollback, saying of each path that carries its old value again how often it was put back.

    entries: of the journal, by path, of what had applied.
    """
    told: list[Deviation] = []
    known = [one for one in deviations if one.path in entries]
    looked = {found.path: found for found in look(migrator.client, islice((one.path for one in known), LOOKED_AT_MAX))}
    for one in deviations:
        found = looked.get(one.path)
        entry = entries.get(one.path)
        times = times_put_back(entry, found, True) if found is not None and entry is not None else 0
        total, _ = puts.add(one.path, times)
        told.append(replace(one, reason=f"{one.reason}; {sentence(total)}") if total else one)
    return told
