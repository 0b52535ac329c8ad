"""Attempts: what the home node of each (``epochs/<n>-<attempt>``) says of it, from its first write to its end.

The note is written with the node, and again in the same multi as each transition of the attempt, so that it is never
behind the record. The journal lies below; pruning takes that away and leaves the note, which is the scope's history.
Invariant: until a journal is pruned, its home's mzxid is the zxid of the transition that has ended the attempt.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from zkmig.epoch.control import AttemptPaths, ControlPaths
from zkmig.epoch.owner import HEAD_LENGTH, Migrator
from zkmig.epoch.record import ConflictNote, Owner, Record, nested
from zkmig.epoch.sending import SENDS_MAX
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import NotPermitted
from zkmig.model.stat import Stat
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.replies import ChildrenResult, MultiResult
from zkmig.wire.requests import GetChildren, SetData, WriteOp

FORMAT = 1
NOTE_TRIES = 2
NOTE_BYTES_MAX = 3 * 1024  # it goes into the multi of a transition, beside the record
OWNERS_MAX = 6
TEXT_MAX = 500  # characters of a reason, a plan's path, a path put back
EVICTED_MAX = 8  # entries named that a drain was told not to wait for
PUT_BACK_MAX = 4  # paths remembered from one attempt to the next
MASKS_BYTES_MAX = 600  # of their JSON; patterns that take more are kept as the one that all nodes match
MASKS_ALL = ("/**",)

_Read = TypeVar("_Read")
_NAME = re.compile(r"(\d{1,10})-(.+)", re.DOTALL)


class Fate(Enum):
    """What became of an attempt. JOURNAL: its journal was begun, and no record has named it yet. ABANDONED: nor will
    one, since whoever began it no longer owns the scope. CONFLICT: under way, stopped by somebody else's write."""

    JOURNAL = "journal"
    UNDER_WAY = "under_way"
    CONFLICT = "conflict"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    ABANDONED = "abandoned"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PutBack:
    """A path of the plan that others gave its old value again, so often while the attempt was under way."""

    path: str
    times: int


@dataclass(frozen=True, slots=True)
class ScriptNote:
    """The migration script that the plan was made by. file: its name, without a directory. sha256: of it, hex."""

    name: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class AttemptNote:
    """What is known of an attempt. Times are Unix seconds, by the clocks of the hosts that wrote them.

    owners: who worked on it, in order; beyond OWNERS_MAX those in the middle are left out. base: the state that it
    began in. writes, batches: of the plan; applied: batches applied when a rollback began. single_shot: None until
    the commit. journal_bytes, chunks: of undo. deviations: paths left with somebody else's value. reverts: the epoch
    that it takes back. conflict: the last one met. pruned: when the journal was taken away. evicted: leases and guards
    that its drain was told not to wait for, the first few of them. manifest_hash: what pins the journal. script: what
    the plan was made by. counts: the plan's operations by kind. user: who began it, by the name of the process's user.
    masks: patterns of the nodes whose data no output shows, those of the plan, or one that matches more.
    """

    epoch: int
    attempt: str
    plan_hash: str
    began: float
    fate: Fate = Fate.JOURNAL
    base: str = "STABLE"
    plan_path: str = ""
    owners: tuple[Owner, ...] = ()
    ended: float | None = None
    reason: str = ""
    writes: int = 0
    batches: int = 0
    applied: int | None = None
    single_shot: bool | None = None
    journal_bytes: int = 0
    chunks: int = 0
    deviations: int = 0
    reverts: int | None = None
    conflict: ConflictNote | None = None
    put_back: tuple[PutBack, ...] = ()
    pruned: float | None = None
    evicted: tuple[str, ...] = ()
    manifest_hash: str = ""
    script: ScriptNote | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    user: str = ""
    masks: tuple[str, ...] = ()
    format: int = FORMAT

    def worked_on_by(self, owner: Owner | None) -> AttemptNote:
        """With this owner at the end of the list, once."""
        if owner is None or any(known.token == owner.token for known in self.owners):
            return self
        owners = (*self.owners, dataclasses.replace(owner, plan_path=shortened(owner.plan_path)))
        if len(owners) > OWNERS_MAX:
            owners = (owners[0], *owners[-OWNERS_MAX + 1 :])
        return dataclasses.replace(self, owners=owners)

    def encode(self) -> bytes:
        """JSON of at most NOTE_BYTES_MAX; what matters least goes first where it would be more."""
        cut = dataclasses.replace(
            self,
            reason=shortened(self.reason),
            plan_path=shortened(self.plan_path),
            conflict=_shortened(self.conflict),
            evicted=tuple(shortened(entry, 80) for entry in self.evicted[:EVICTED_MAX]),
            script=_short_script(self.script),
            user=shortened(self.user, 64),
            masks=_bounded(self.masks),
        )
        owners = tuple(dataclasses.replace(owner, plan_path="", host=shortened(owner.host, 64)) for owner in cut.owners)
        few = dataclasses.replace(cut, owners=owners, masks=MASKS_ALL if cut.masks else ())
        for smaller in (
            cut,
            dataclasses.replace(cut, owners=owners),
            few,
            dataclasses.replace(few, put_back=cut.put_back[:1]),
            dataclasses.replace(few, owners=owners[-1:], put_back=(), conflict=None),
            dataclasses.replace(few, owners=owners[-1:], put_back=(), conflict=None, plan_path="", reason=""),
        ):
            data = _json(smaller)
            if len(data) <= NOTE_BYTES_MAX:
                break
        return data

    @classmethod
    def decode(cls, data: bytes | None) -> AttemptNote | None:
        """None for what is no note: what an attempt is then has to be told from its name and the record."""
        try:
            fields = json.loads(data or b"")
            known = {f.name for f in dataclasses.fields(cls)}
            values: dict[str, Any] = {name: value for name, value in fields.items() if name in known}
            values["fate"] = Fate(values["fate"])
            values["began"] = float(values["began"])
            values["owners"] = tuple(nested(Owner, owner) for owner in values.get("owners", ()))
            values["evicted"] = tuple(map(str, values.get("evicted", ())))
            values["masks"] = tuple(map(str, values.get("masks", ())))  # none of an older zkmig
            values["put_back"] = tuple(PutBack(str(one["path"]), int(one["times"])) for one in values["put_back"])
            if values.get("conflict") is not None:
                values["conflict"] = nested(ConflictNote, values["conflict"])
            if values.get("script") is not None:
                script = values["script"]
                values["script"] = ScriptNote(script["name"], script["file"], script["sha256"])
            note = cls(**values)
            return note if note._is_sound() else None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    def _is_sound(self) -> bool:
        """Whether what came from JSON is of the types that are made use of; owners and conflict are, see `nested`."""
        numbers = [self.epoch, self.writes, self.batches, self.journal_bytes, self.chunks, self.deviations]
        texts = [self.attempt, self.plan_hash, self.base, self.plan_path, self.reason, self.manifest_hash, self.user]
        numbers += self.counts.values()
        if self.script is not None:
            texts += dataclasses.astuple(self.script)
        optional = (self.applied, self.reverts)
        times = (self.ended, self.pruned)
        return (
            all(isinstance(number, int) for number in numbers)
            and all(isinstance(text, str) for text in texts)
            and all(number is None or isinstance(number, int) for number in optional)
            and all(moment is None or isinstance(moment, int | float) for moment in times)
        )


def _json(note: AttemptNote) -> bytes:
    text = json.dumps(dataclasses.asdict(note), default=lambda fate: fate.value, sort_keys=True, ensure_ascii=False)
    return text.encode(errors="backslashreplace")  # of a lone surrogate, which is how JSON writes it too


def shortened(text: str, length: int = TEXT_MAX) -> str:
    """The text, or its beginning and its end where it is longer."""
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-half:]}"


def _short_script(script: ScriptNote | None) -> ScriptNote | None:
    """Its name and file cut, its hash as it is."""
    if script is None:
        return None
    return dataclasses.replace(script, name=shortened(script.name, 80), file=shortened(script.file, 120))


def _bounded(masks: tuple[str, ...]) -> tuple[str, ...]:
    size = len(json.dumps(masks, ensure_ascii=False).encode(errors="backslashreplace"))
    return masks if size <= MASKS_BYTES_MAX else MASKS_ALL


def user_name() -> str:
    """The user that this process runs as; a container may know no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _shortened(conflict: ConflictNote | None) -> ConflictNote | None:
    if conflict is None:
        return None
    return dataclasses.replace(conflict, path=shortened(conflict.path), reason=shortened(conflict.reason))


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt as its home tells, and what is still below it. fate: as the record has it too. note: what the home
    says, or as much as its name and the record do. version, czxid, mzxid: of the home."""

    note: AttemptNote
    fate: Fate
    version: int
    czxid: int
    mzxid: int
    children: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        """Whether its journal is there, whole as far as is known."""
        return self.note.pruned is None and "manifest" in self.children and "undo" in self.children


def read_attempts(
    client: Client, names: ControlPaths, record: Record, is_owner: bool = False, epoch: int | None = None
) -> list[Attempt]:
    """Every attempt of the scope, or at that epoch, in the order in which they were begun.

    is_owner: whether nobody else can be uploading a journal, since this session holds the token.
    """
    reply = client.call_reply(GetChildren(names.epochs))
    if reply.error == Code.NO_NODE:
        return []
    if reply.error:
        raise error_for(reply.error, names.epochs, "getChildren")
    assert isinstance(reply.result, ChildrenResult)
    homes: dict[str, tuple[int, str]] = {}
    for name in reply.result.children:
        parts = _NAME.fullmatch(name)
        if parts is not None and epoch in (None, int(parts[1])):
            homes[f"{names.epochs}/{name}"] = int(parts[1]), parts[2]
    found: list[Attempt] = []
    for path, home in zip(homes, _read_homes(client, homes), strict=True):
        if home is None:
            continue
        note = home.note
        if note is None or (note.epoch, note.attempt) != homes[path]:
            note = AttemptNote(*homes[path], "", home.stat.ctime / 1000, Fate.UNKNOWN)
        fate = _fate(note, record, is_owner)
        found.append(Attempt(note, fate, home.stat.version, home.stat.czxid, home.stat.mzxid, home.children))
    return sorted(found, key=lambda one: one.czxid)


class _Home(NamedTuple):
    """A home. note None: it says nothing, or may not be read."""

    note: AttemptNote | None
    stat: Stat
    children: tuple[str, ...]
    is_readable: bool = True


def _read_homes(client: Client, homes: Iterable[str]) -> list[_Home | None]:
    """Each of them, None where it is gone. One that may not be read is told by its Stat: it stops nobody."""
    places = list(homes)
    try:
        return [
            _Home(AttemptNote.decode(node.data), node.stat, node.children or ()) if isinstance(node, NodeRead) else None
            for node in read_nodes(client, places, children=True)
        ]
    except NotPermitted:
        return [_read_home(client, place) for place in places]


def _read_home(client: Client, home: str) -> _Home | None:
    try:
        (node,) = read_nodes(client, [home], children=True)
    except NotPermitted:
        stat = client.exists(home)  # asks for no permission
        return _Home(None, stat, (), is_readable=False) if stat is not None else None
    return _Home(AttemptNote.decode(node.data), node.stat, node.children or ()) if isinstance(node, NodeRead) else None


def _fate(note: AttemptNote, record: Record, is_owner: bool) -> Fate:
    """What the note says, but for what only the record knows."""
    if record.state in MIGRATING and (record.target_epoch, record.attempt) == (note.epoch, note.attempt):
        return Fate.CONFLICT if record.conflict is not None else Fate.UNDER_WAY
    if (record.epoch, record.committed_attempt) == (note.epoch, note.attempt):
        return Fate.COMMITTED
    last = record.last
    if last is not None and (last.epoch, last.attempt) == (note.epoch, note.attempt) and last.outcome in _OUTCOMES:
        return Fate(last.outcome)
    if note.fate in (Fate.COMMITTED, Fate.ROLLED_BACK, Fate.ABORTED, Fate.ABANDONED, Fate.UNKNOWN):
        return note.fate
    # A journal that no record names. While it may still be going up, only its owner can tell that it is not.
    return Fate.ABANDONED if is_owner or record.state in MIGRATING or note.epoch != record.epoch + 1 else note.fate


_OUTCOMES = {Fate.COMMITTED.value, Fate.ROLLED_BACK.value, Fate.ABORTED.value}


# -- what a revert works from -----------------------------------------------------------------------------------------


def revertible(attempts: Iterable[Attempt], record: Record) -> Attempt | None:
    """The last committed attempt, if its undo is kept, pinned, and leads to a tree."""
    for one in attempts:
        if one.fate is Fate.COMMITTED and one.note.epoch == record.epoch:
            is_pinned = one.is_kept and one.note.fate is Fate.COMMITTED and bool(one.note.manifest_hash)
            return one if is_pinned and one.note.base != State.EMPTY.value else None
    return None


def rolled_back_since(attempts: Iterable[Attempt], committed: Attempt) -> list[Attempt]:
    """Attempts begun after that commit whose journals tell what they, and not others, have made of its paths."""
    return [
        one
        for one in attempts
        if one.czxid > committed.mzxid and one.fate is Fate.ROLLED_BACK and one.is_kept and one.note.manifest_hash
    ]


# -- the attempt under way --------------------------------------------------------------------------------------------


def home_of(names: ControlPaths, note: AttemptNote) -> AttemptPaths:
    """Where the journal of an attempt lies."""
    return names.attempt(note.epoch, note.attempt)


def read_note(client: Client, names: ControlPaths, record: Record) -> tuple[AttemptNote, int]:
    """The note of the attempt under way and its home's version; made up from the record where the home says nothing.

    Version -1: there is no home, or it may not be read.
    """
    assert record.target_epoch is not None
    assert record.attempt is not None
    home = _read_home(client, names.attempt(record.target_epoch, record.attempt).home)
    note = home.note if home is not None else None
    if note is None or (note.epoch, note.attempt) != (record.target_epoch, record.attempt):
        note = AttemptNote(
            record.target_epoch,
            record.attempt,
            record.plan_hash or "",
            home.stat.ctime / 1000 if home is not None else 0.0,
            Fate.UNDER_WAY,
            base=record.base.value,
            manifest_hash=record.manifest_hash or "",
        )
    return note, home.stat.version if home is not None and home.is_readable else -1


def noting(migrator: Migrator, record: Record, **changes: Any) -> list[SetData]:
    """The write that sets the note of the attempt that `record` names, for the multi of a transition.

    None where the home is gone, or may not be read: the attempt can end all the same.
    """
    note, version = own_note(migrator, record)
    if version < 0:
        return []
    note = dataclasses.replace(note.worked_on_by(migrator.owner), **changes)
    return [SetData(home_of(migrator.names, note).home, note.encode(), version)]


def own_note(migrator: Migrator, record: Record) -> tuple[AttemptNote, int]:
    """`read_note`, on the next connection if need be: a transition outlives a loss, so must what goes before it."""
    return _through_losses(migrator, lambda: read_note(migrator.client, migrator.names, record))


def _through_losses(migrator: Migrator, read: Callable[[], _Read]) -> _Read:
    client = migrator.client
    with migrator.stop.patiently():  # who was asked to stop still has to end the attempt
        for _ in range(SENDS_MAX - 1):
            try:
                if not client.is_connected:
                    client.reconnect()
                return read()
            except ConnectionLost:
                continue
        client.reconnect()
        return read()


def home_written(migrator: Migrator, epoch: int, attempt: str) -> tuple[int, int] | None:
    """The zxids at which an attempt's journal was begun and at which it was committed; None where this is not noted."""
    path = migrator.names.attempt(epoch, attempt).home
    home = _through_losses(migrator, lambda: _read_home(migrator.client, path))
    if home is None or home.note is None or home.note.fate is not Fate.COMMITTED:
        return None
    return home.stat.czxid, home.stat.mzxid


def transition_noted(
    migrator: Migrator, record: Record, extra: Sequence[WriteOp] = (), noted: Record | None = None, **changes: Any
) -> MultiResult:
    """`Migrator.transition`, with the note of the attempt that `noted` names (`record` by default) behind `extra`.

    A note tells; it decides nothing. So one that cannot be written is left out, and the transition goes on without it.
    """
    for _ in range(NOTE_TRIES):
        note = noting(migrator, noted or record, **changes)
        result = migrator.transition(record, [*extra, *note])
        if not note or result.failed_index != HEAD_LENGTH + len(extra):
            return result
        if result.code != Code.BAD_VERSION:  # as after an answer that was lost
            break
    return migrator.transition(record, extra)
