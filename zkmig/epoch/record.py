"""The epoch record: one JSON node per scope that decides what every reader sees and what a migrator may do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from zkmig.epoch.transitions import MIGRATING, State, check_transition
from zkmig.errors import UnknownFormat

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 1
READABLE_FORMATS = range(1, FORMAT + 1)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who took the scope last. token: dataVersion of the owner node; informative but for the token."""

    token: int
    host: str
    pid: int
    since: float
    plan_path: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A maintenance hold: it survives every transition and blocks admission until released.

    deadline: by when its holder meant to release it. Past it the hold is in force as before, and told as expired: what
    was forgotten is to be seen, not to be guessed at. since, deadline: Unix seconds by the holder's clock.
    """

    reason: str
    holder: str
    since: float
    deadline: float | None = None

    def is_expired(self, now: float | None = None) -> bool:
        """Whether its deadline is over; now: Unix seconds, None: by this host's clock."""
        return self.deadline is not None and (time.time() if now is None else now) > self.deadline

    def told(self, now: float | None = None) -> str:
        """As in "held by ops@zk1 since 2016-08-11 15:00:00 UTC, until 2016-08-11 16:00:00 UTC: new disks"."""
        term = self.term(now)
        return f"held {self.by}{f', {term}' if term else ''}: {self.reason}"

    @property
    def by(self) -> str:
        """By whom and since when."""
        return f"by {self.holder} since {shown_time(self.since)}"

    def term(self, now: float | None = None) -> str:
        """Until when, or that this is over; "" of one without a deadline."""
        if self.deadline is None:
            return ""
        moment = shown_time(self.deadline)
        return f"EXPIRED since {moment} and not released" if self.is_expired(now) else f"until {moment}"

    def document(self, now: float | None = None) -> dict[str, Any]:
        """For --json."""
        return {**dataclasses.asdict(self), "expired": self.is_expired(now)}


def shown_time(unix_s: float) -> str:
    """Local time with its zone, since hosts and containers differ; of what is no time of a calendar, the number."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(unix_s)).rstrip()
    except (OverflowError, ValueError, OSError):
        return str(unix_s)


@dataclass(frozen=True, slots=True)
class Pending:
    """ACLs and quotas of a committed epoch that are still to be set: they are listed in the attempt's journal."""

    epoch: int
    attempt: str
    acls: int
    manifest_hash: str
    quotas: int = 0

    def __str__(self) -> str:
        parts = [f"{count} {what}" for count, what in ((self.acls, "ACLs"), (self.quotas, "quotas")) if count]
        return f"{' and '.join(parts)} of epoch {self.epoch}"


RULES = "rules"  # operation of a conflict: the tree as written is against a rule of its plan


@dataclass(frozen=True, slots=True)
class ConflictNote:
    """A foreign write that stopped the migration: path, what was expected there and what was found; never data.

    expected_, found_: version and czxid of the node, None where none was expected or found, or that is not known; hash
    of its data (`data_hash`), None also where not everybody who reads the record may read the node. put_back: how
    often the path was given its old value again, earlier attempts at this epoch included; attempts: how many of these.
    """

    path: str
    operation: str
    reason: str
    batch: int
    expected_version: int | None = None
    expected_czxid: int | None = None
    expected_hash: str | None = None
    found_version: int | None = None
    found_czxid: int | None = None
    found_hash: str | None = None
    put_back: int = 0
    attempts: int = 0

    @property
    def may_go_on(self) -> bool:
        """Whether `resume` can pass once somebody has put right what stands in the way: a node, or a child, too many.

        A node that was written is not such: its version has moved, and nothing brings it back. A tree that is against
        a rule can be mended, so that it is judged again.
        """
        if self.operation == RULES:
            return True
        if self.operation != "write" or self.found_version is None:
            return False
        found = (self.found_version, self.found_czxid)
        return self.expected_version is None or found == (self.expected_version, self.expected_czxid)


def data_hash(data: bytes | None) -> str:
    """The hash by which data is named, BLAKE2b-128 in hex; "null" for null."""
    return "null" if data is None else hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class LastOutcome:
    """How the latest attempt ended. outcome: committed, rolled_back or aborted; reason: of an abort. deviations: paths
    left foreign."""

    epoch: int
    attempt: str
    outcome: str
    at: float
    deviations: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """The record as a value. epoch: the committed one. target_epoch, attempt, plan_hash, manifest_hash and
    batches_total are set while a migration is under way. base: state to return to (EMPTY or STABLE). cursor: batches
    applied when a rollback began."""

    incarnation: str
    state: State
    epoch: int
    root: str
    excludes: tuple[str, ...] = ()
    base: State = State.STABLE
    target_epoch: int | None = None
    attempt: str | None = None
    plan_hash: str | None = None
    manifest_hash: str | None = None
    batches_total: int = 0
    cursor: int | None = None
    owner: Owner | None = None
    held: Held | None = None
    pending: Pending | None = None
    conflict: ConflictNote | None = None
    committed_attempt: str | None = None
    committed_plan_hash: str | None = None
    last: LastOutcome | None = None
    format: int = FORMAT
    min_reader: int = FORMAT
    unknown: dict[str, Any] = field(default_factory=dict)

    def moved(self, event: str, state: State, **changes: Any) -> Record:
        """The record after `event`, or Refused when the table has no such row."""
        check_transition(event, self.state, state)
        return dataclasses.replace(self, state=state, **changes)

    def updated(self, **changes: Any) -> Record:
        """The record in the same state with other notes (conflict, pending, held)."""
        return dataclasses.replace(self, **changes)

    def closed(self, event: str, state: State, outcome: LastOutcome, **changes: Any) -> Record:
        """The record after the attempt's end: what belonged to the attempt is cleared."""
        return self.moved(
            event,
            state,
            last=outcome,
            **{
                "target_epoch": None,
                "attempt": None,
                "plan_hash": None,
                "manifest_hash": None,
                "batches_total": 0,
                "cursor": None,
                "conflict": None,
                "owner": None,
                **changes,
            },
        )


def encode(record: Record) -> bytes:
    """The record as UTF-8 JSON with sorted keys, one line, readable from any language."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "unknown"}
    return json.dumps({**record.unknown, **fields}, default=_jsonable, sort_keys=True).encode()


def with_hold(data: bytes, held: Held | None) -> bytes:
    """The record's own JSON with another hold, and all else as it is: also keys that a later version has added."""
    fields = json.loads(data)
    fields["held"] = None if held is None else dataclasses.asdict(held)
    return json.dumps(fields, sort_keys=True).encode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, State):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"not in a record: {type(value)}")


def decode(data: bytes | None, path: str) -> Record:
    """The record from its node's data. What is not a record of a known format is UnknownFormat: fail closed."""
    try:
        fields = json.loads((data or b"").decode())
        version = fields["format"]
        if type(version) is not int:  # True is an int to isinstance, and equal to 1
            raise ValueError("format is not a number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # the last: brackets without end
        raise UnknownFormat("this is not an epoch record", path, "restore it or ask who wrote it") from error
    if fields.get("min_reader", version) not in READABLE_FORMATS:
        raise UnknownFormat(
            f"record format {version} needs a newer zkmig (this one reads {READABLE_FORMATS.stop - 1})", path, "upgrade"
        )
    try:
        return _build(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnknownFormat(f"damaged epoch record: {error}", path, "restore it or ask who wrote it") from error


_Part = TypeVar("_Part", bound="DataclassInstance")
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (int, float), "None": (NoneType,)}


def nested(kind: type[_Part], fields: dict[str, Any]) -> _Part:
    """A part of the record, or its like, from its JSON; keys that a later version has added are passed over.

    ValueError for a value of another type: whoever uses it later would fail at it.
    """
    known = {f.name: f.type for f in dataclasses.fields(kind)}
    values = {name: value for name, value in fields.items() if name in known}
    _check_annotated(values, known)
    return kind(**values)


def _check_annotated(values: dict[str, Any], annotations: dict[str, Any]) -> None:
    """Each value is of a type that the annotation of its field names, as in "int | None", and a number of 64 bits.

    A bool is no int. Larger integers are nothing that was ever written, and fail where they meet a float.
    """
    for name, value in values.items():
        is_large = type(value) is int and not -(1 << 63) <= value < 1 << 63
        if is_large or not any(type(value) in _TYPES[each] for each in annotations[name].split(" | ")):
            raise ValueError(f"{name} is not of type {annotations[name]}")


_NESTED: dict[str, Any] = {
    "owner": Owner,
    "held": Held,
    "pending": Pending,
    "conflict": ConflictNote,
    "last": LastOutcome,
}


# Fields of the record that are a number or a text, or null where there is none.
_SCALARS = frozenset(
    f.name for f in dataclasses.fields(Record) if all(each in _TYPES for each in str(f.type).split(" | "))
)


def _build(fields: dict[str, Any]) -> Record:
    known = {f.name: f.type for f in dataclasses.fields(Record) if f.name != "unknown"}
    values = {name: value for name, value in fields.items() if name in known}
    _check_annotated({name: value for name, value in values.items() if name in _SCALARS}, known)
    values["unknown"] = {name: value for name, value in fields.items() if name not in known}
    values["state"] = State(values["state"])
    values["base"] = State(values["base"])
    if type(values["excludes"]) is not list or not all(type(path) is str for path in values["excludes"]):
        raise ValueError("excludes are not a list of paths")
    values["excludes"] = tuple(values["excludes"])
    for name, kind in _NESTED.items():
        if values.get(name) is not None:
            values[name] = nested(kind, values[name])
    _check_types(values, {"epoch": int, "incarnation": str, "root": str, "batches_total": int})
    if values["state"] in MIGRATING:
        # What whoever goes on or takes back will need; a reader needs it for undo.
        _check_types(values, {"target_epoch": int, "attempt": str, "plan_hash": str, "manifest_hash": str})
        if values["target_epoch"] != values["epoch"] + 1:
            raise ValueError("target_epoch does not follow epoch")
    if values["state"] is State.ROLLING_BACK:
        _check_types(values, {"cursor": int})
    return Record(**values)


def _check_types(values: dict[str, Any], expected: dict[str, type]) -> None:
    for name, kind in expected.items():
        if type(values.get(name)) is not kind:
            raise ValueError(f"{name} is not of type {kind.__name__}")
        if kind is int and values[name] < 0:
            raise ValueError(f"{name} is negative")
