"""Conflicts: what somebody else has left on a path of the plan, and whether that is its old value again.

A controller that puts a path back whenever it changes is no accident to be waited for: it stops every attempt until it
is stopped itself, or told of the change. So put-back values are counted, by versions, over all attempts at an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from zkmig.apply.verify import Deviation, Written
from zkmig.epoch.attempts import PUT_BACK_MAX, Attempt, AttemptNote, PutBack, home_of, read_attempts, shortened
from zkmig.epoch.journal import Action, Entry, read_set
from zkmig.epoch.owner import Migrator
from zkmig.epoch.record import ConflictNote, data_hash
from zkmig.model.acl import WORLD, AclList
from zkmig.model.stat import Stat
from zkmig.plan.operations import CreateNode
from zkmig.plan.plan import Plan
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.replies import AclResult, DataResult
from zkmig.wire.requests import Create, GetAcl, GetData

PUT_BACK = "put-back"  # below the home
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


def times_put_back(entry: Entry | None, found: Found, left_at: int | None = None) -> int:
    """How often others have given a path its old value again, after the plan's own write to it; 0 where it does not
    carry that.

    entry: of the journal; None for a path that the plan creates. left_at: the version that the plan's own write has
    left, where it is known to be another than the one after the pre-image's.
    """
    before = entry.before if entry is not None else None
    if before is None:
        return int(found.stat is None)  # its old value is that it is not there
    if found.stat is None or not found.is_readable or found.data != before.data:
        return 0
    assert entry is not None
    if found.stat.czxid != before.stat.czxid:
        return found.stat.version + 1  # a new node; each of its versions is a write, its creation one too
    if left_at is None:
        left_at = before.stat.version + int(entry.action is Action.WRITTEN)
    return max(0, found.stat.version - left_at)


def is_rewritten(entry: Entry | None, found: Found) -> bool:
    """Whether a path that the plan has not written yet was written with the very value that it had.

    Nothing was put back then: who renews a value now and then is no controller that reverts.
    """
    before = entry.before if entry is not None else None
    if before is None or found.stat is None or not found.is_readable or found.data != before.data:
        return False
    return (found.stat.czxid, found.stat.version) != (before.stat.czxid, before.stat.version)


def sentence(times: int) -> str:
    """What to say of a path put back so often."""
    if times == 1:
        return "put back to its old value once: perhaps by a controller that reverts; look for one before trying again"
    return (
        f"put back to its old value {times} times: looks like a controller that reverts; "
        "stop it or change its source first"
    )


class PutBacks:
    """Counts what others put back in the attempt under way, on top of earlier attempts at its epoch.

    Conflicts name their paths in the record and the note. What only a rollback finds may lie below what not everybody
    may look into: that goes into a node for admins alone, beside the deviations.
    """

    def __init__(self, migrator: Migrator, note: AttemptNote) -> None:
        self._migrator = migrator
        self._now = {one.path: one.times for one in note.put_back}
        self._shown = set(self._now)
        attempts = read_attempts(migrator.client, migrator.names, migrator.record, epoch=note.epoch)
        self._earlier = [self._of(one) for one in attempts if one.note.attempt != note.attempt]
        for one in attempts:
            if one.note.attempt == note.attempt:
                self._now = self._of(one) | self._now

    def add(self, path: str, times: int, is_shown: bool = False) -> tuple[int, int]:
        """Counted within this attempt; returned with all earlier ones, and how many attempts that makes.

        is_shown: whether the path is named for all anyway.
        """
        if not times:
            return 0, 0
        key = shortened(path)
        self._now[key] = max(times, self._now.get(key, 0))
        if is_shown:
            self._shown.add(key)
        before = [found[key] for found in self._earlier if key in found]
        return sum(before) + self._now[key], len(before) + 1

    @property
    def noted(self) -> tuple[PutBack, ...]:
        """For the note: those put back most often."""
        return self._most(shown=True)

    def record_hidden(self, home: str) -> None:
        """Keep the others below the attempt's home. It is but a memory: where it cannot be kept it is not."""
        hidden = [[one.path, one.times] for one in self._most(shown=False)]
        if hidden:
            data = json.dumps(hidden).encode()
            self._migrator.write([Create(f"{home}/{PUT_BACK}", data, self._migrator.private_acl)], witness=0)

    def _most(self, shown: bool) -> tuple[PutBack, ...]:
        chosen = (item for item in self._now.items() if (item[0] in self._shown) == shown)
        most = sorted(chosen, key=lambda item: -item[1])
        return tuple(PutBack(path, times) for path, times in most[:PUT_BACK_MAX])

    def _of(self, attempt: Attempt) -> dict[str, int]:
        """What was put back in an attempt, by path."""
        found = {one.path: one.times for one in attempt.note.put_back}
        if PUT_BACK in attempt.children:
            place = f"{home_of(self._migrator.names, attempt.note).home}/{PUT_BACK}"
            reply = self._migrator.client.call_reply(GetData(place))
            if isinstance(reply.result, DataResult):
                with suppress(ValueError, TypeError, OverflowError, RecursionError):
                    found |= {str(path): int(times) for path, times in json.loads(reply.result.data or b"")}
        return found


def acls_given(plan: Plan, path: str) -> list[AclList]:
    """The ACLs that a plan gives to a path, one after the other."""
    creates, wanted = plan.ordered.creates, path.encode()
    created = [creates[index].acl for index, each in enumerate(creates.path_column()) if each == wanted]
    created += [op.acl for op in plan.ordered.rest if isinstance(op, CreateNode) and op.path == path]
    steps = [acl for step in plan.acl_steps if step.path == path for acl in (step.tighten, step.final)]
    return created + [acl for acl in steps if acl is not None]


def examine_conflict(
    migrator: Migrator,
    puts: PutBacks,
    deviation: Deviation,
    operation: str,
    batch: int,
    entry: Entry | None,
    written: Written | None,
    given: Sequence[AclList],
    *,
    is_masked: bool,
) -> ConflictNote:
    """The note of a conflict. entry: of the path in the journal, None where the plan creates it. written: as the plan
    leaves it, where its batch has applied; None where the path was still to come, or was to be deleted. given: the
    ACLs that the plan gives the path. is_masked: its policy masks the path, so that no hash of it is told."""
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
    if not is_masked and _may_be_told(migrator, deviation.path, entry, given):
        note = replace(
            note,
            expected_hash=data_hash(expected[0]) if expected is not None else None,
            found_hash=data_hash(found.data) if found.stat is not None and found.is_readable else None,
        )
    if not was_written:
        again = "; it was written again with the value that it had" if is_rewritten(entry, found) else ""
        return replace(note, reason=deviation.reason + again)
    times, attempts = puts.add(deviation.path, times_put_back(entry, found), is_shown=True)
    if not times:
        return note
    return replace(note, put_back=times, attempts=attempts, reason=f"{deviation.reason}; {sentence(times)}")


def _may_be_told(migrator: Migrator, path: str, entry: Entry | None, given: Sequence[AclList]) -> bool:
    """Whether everybody who reads the record may read the node, as it was, as it is and as the plan has it: a hash
    tells who can guess. Where no ACL is known, nobody may."""
    live = migrator.client.call_reply(GetAcl(path))
    if not isinstance(live.result, AclResult) and live.error != Code.NO_NODE:
        return False
    acls = [*given, *([live.result.acl] if isinstance(live.result, AclResult) else [])]
    if entry is not None and entry.before is not None:
        acls.append(entry.before.acl)
    readers = read_set(migrator.control_acl)
    return bool(acls) and all(WORLD in one or one >= readers for one in map(read_set, acls))


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
        times = times_put_back(entry, found) if found is not None and entry is not None else 0
        total, _ = puts.add(one.path, times)
        told.append(replace(one, reason=f"{one.reason}; {sentence(total)}") if total else one)
    return told
