"""Decoders of what is stored: snapshot and plan files, the journal and the records of the control plane, columns."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import tempfile
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

from tests.fuzz.structures import blocks_of, sealed_again, spoiled_inside, spoiled_value
from tests.fuzz.target import Target, compiled_module
from tests.trees import EPHEMERAL, Node, snapshot_of
from zkmig.epoch import journal, record
from zkmig.epoch.attempts import NOTE_BYTES_MAX, AttemptNote, Fate, PutBack
from zkmig.epoch.journal import AclEntry, Action, Entry, Journal, Manifest, make_chunks, read_set
from zkmig.epoch.leases import GuardEntry, Lease
from zkmig.epoch.record import ConflictNote, Held, LastOutcome, Owner, Pending, Record
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput, UnknownFormat
from zkmig.model import columns_plain, order_plain
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, Identity
from zkmig.model.quota import Quota
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode
from zkmig.plan import planfile
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan, SourcePin, TargetPin
from zkmig.sealed import Format
from zkmig.source import zks

STAT = Stat(*range(1, 12))
PRIVATE = (Acl(ALL, "digest", "me:vlUvLnd8MlacsE80rDuu6ONESbM="), Acl(READ, *WORLD))


# -- sealed files -----------------------------------------------------------------------------------------------------


@cache
def _snapshot_file() -> bytes:
    tree = {
        "": Node(b"root"), "/a": Node(None, PRIVATE), "/a/b": Node(b"x" * 50, counter=3), "/c": EPHEMERAL,
        "/d": Node(b"", kind=Kind.TTL, ttl_ms=9), "/é": Node(b"1", kind=Kind.CONTAINER),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "snapshot")
        zks.write(snapshot_of(tree), path)
        return path.read_bytes()


@cache
def _plan_file() -> bytes:
    pin = Pin(1, 2, 3)
    operations = (
        CreateNode("/app/n", None, OPEN_ACL),
        CreateNode("/app/n/队", b"data", PRIVATE, Kind.TTL, 9),
        CreateNode("/app/o", b"", OPEN_ACL),
        WriteData("/app/w", b"new", pin, 3),
        RaiseCounter("/app/n", 4, 5),
        DeleteNode("/app/d", pin, 99),
    )
    plan = Plan(
        source=SourcePin("zk://a:2181/app", "/app", "a" * 64, "b" * 64, 5, 9, True, 1_700_000_000_000),
        target=TargetPin("zk://b:2181/app", (("b", 2181),), "/app", "c" * 64, None, 8, "s", "/zkmig", "0" * 16, 4),
        operations=operations,
        batch_ends=(3, 6),
        acl_steps=(AclStep("/app/n", OPEN_ACL[:1], OPEN_ACL, pin), AclStep("/app/m", None, OPEN_ACL, None)),
        touched=("/app",),
        head_bytes=10,
        journal_bytes=77,
        limits=Limits(),
        identity=Identity("digest", "me:x"),
        notes=("a note",),
        quotas=(Quota("/app", "count=5,bytes=-1"),),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "plan"))
        planfile.write(plan, path)
        return Path(path).read_bytes()


def _file_target(form: Format, whole: Callable[[], bytes], read: Callable[[str], object]) -> Target:
    """A reader of sealed files: of the bytes as they are, and of what is in their blocks, sealed again."""

    def make(_: random.Random, draw: random.Random) -> bytes:
        return whole() if draw.random() < 0.1 else spoiled_inside(draw, form, whole())

    def check(_: random.Random, raw: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            for content in (raw, sealed_again(form, blocks_of(raw))):
                path.write_bytes(content)
                with contextlib.suppress(BadInput):
                    read(str(path))

    return Target(make, check)


# -- the control plane ------------------------------------------------------------------------------------------------


@cache
def _chunks() -> tuple[bytes, ...]:
    before = Znode("/app/w", b"old", PRIVATE, STAT, Kind.PERSISTENT)
    made = Journal(
        (
            Entry(Action.CREATED, "/app/n", 0, None),
            Entry(Action.CREATED, "/app/t", 0, None, Kind.TTL, 7),
            Entry(Action.WRITTEN, "/app/w", 0, before),
            Entry(Action.DELETED, "/app/d", 1, before._replace(path="/app/d", data=None, acl=OPEN_ACL)),
            Entry(Action.TOUCHED, "/app", journal.NO_BATCH, before._replace(path="/app")),
        ),
        (AclEntry("/app/n", None, OPEN_ACL, 0, True), AclEntry("/app/w", PRIVATE, OPEN_ACL, 4, False)),
    )
    read_sets = {entry.path: read_set(OPEN_ACL) for entry in made.entries}
    return tuple(chunk.payload for chunk in make_chunks(made, read_sets, [WORLD], [WORLD]))


def _make_chunk(_: random.Random, draw: random.Random) -> bytes:
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(b"".join(_chunks()))
    items = list(unpacker)
    at = draw.randrange(len(items))
    items[at] = spoiled_value(draw, items[at])
    return b"".join(map(msgpack.packb, items))


def _check_chunk(random: random.Random, raw: bytes) -> None:
    cut = random.randint(0, len(raw))
    for payloads in ([raw], [raw, *_chunks()], [raw[:cut], raw[cut:]]):
        with contextlib.suppress(UnknownFormat):
            journal.unpack(payloads, "/undo")


def _json_target(values: tuple[bytes, ...], decode: Callable[[bytes], object]) -> Target:
    """A decoder of JSON: of values changed inside, of nesting without end, of numbers and texts that are none."""

    def make(_: random.Random, draw: random.Random) -> bytes:
        value = json.loads(draw.choice(values))
        if draw.random() < 0.02:
            return draw.choice((b"[", b'{"format":', b'{"a":[')) * draw.choice((10, 1_000, 100_000))
        odd: tuple[Any, ...] = (
            None, True, 0, 1, -1, 2, 10**30, 1.5, float("nan"), "", "OPEN", "\ud800", [], {}, [[]], {"format": 1},
        )  # fmt: skip
        return json.dumps(spoiled_value(draw, value, odd)).encode()

    def check(_: random.Random, raw: bytes) -> None:
        with contextlib.suppress(UnknownFormat):
            decode(raw)

    return Target(make, check)


RECORDS = (
    record.encode(Record("0123456789abcdef", State.STABLE, 4, "/app")),
    record.encode(
        Record(
            "0123456789abcdef", State.ROLLING_BACK, 4, "/app", ("/app/x",), State.STABLE, 5, "0badcafe", "p", "m", 7, 3,
            Owner(3, "host", 9, 1.5), Held("why", "who", 1.0), Pending(4, "a", 1, "m"),
            ConflictNote("/app/n", "create", "there", 2), last=LastOutcome(4, "a", "committed", 1.0),
        )
    ),
)  # fmt: skip
MANIFEST = Manifest("i", 5, "0badcafe", "/app", "p", 2, 1_000, ("a" * 64, "b" * 64), (1,), 99, quotas=(("/app", "x"),))


NOTE = AttemptNote(
    5, "0badcafe", "p", 1.5, Fate.CONFLICT, owners=(Owner(3, "host", 9, 1.5, "/p.zkplan"),), evicted=("acting/x",),
    put_back=(PutBack("/a", 2),), masks=("/app/secrets/**",),
    conflict=ConflictNote("/app/n", "verify", "why", 2, 1, 7, "h", 2, 7, "g", 3, 1),
)  # fmt: skip


def _decode_note(raw: bytes) -> None:
    note = AttemptNote.decode(raw)
    if note is not None:
        assert len(note.encode()) <= NOTE_BYTES_MAX
        assert note.worked_on_by(Owner(9, "other", 1, 1.0)).owners


def _decode_lease(raw: bytes) -> None:
    Lease.decode(raw)
    GuardEntry.decode(raw)


# -- columns ----------------------------------------------------------------------------------------------------------


def _make_columns(random: random.Random, draw: random.Random) -> bytes:
    pieces = draw.choices((b"/", b"/a", b"/a/b", b"/b", b"/\xc3\xa9", b"/a/.", b"a", b"", b"/a\0", b"//"), k=8)
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    if draw.random() < 0.7:
        pieces.sort(key=lambda piece: piece.replace(b"/", b"\0"))
    values = [random.choice((0, 1, 2, 3)) for _ in range(40)]
    return struct.pack("<B9Q40i", 9, *offsets, *values) + b"".join(pieces)


def _check_columns(_: random.Random, raw: bytes) -> None:
    """Offsets, values and bytes are taken as they come; whatever the plain functions say, the compiled ones say."""
    count = min(raw[0] if raw else 0, (len(raw) - 1) // 8 if raw else 0)
    offsets = array("Q", raw[1 : 1 + 8 * count])
    rest = raw[1 + 8 * count :]
    values, blob = array("i", rest[: min(160, len(rest) // 4 * 4)]), rest[160:]
    nodes = max(count - 1, 0)
    marks = bytes(value & 255 for value in values)
    wide = array("q", values)
    small = array("I", (value & 7 for value in values))
    order = _Twins("order", order_plain)
    columns = _Twins("columns", columns_plain)
    columns.agree("divides", offsets, len(blob))
    columns.agree("first_refused", blob, offsets)
    columns.agree("shape", blob, offsets)
    order.agree("tree_order", blob, offsets)
    columns.agree("reordered_blob", blob, offsets, values[:nodes])
    columns.agree("reordered", offsets, values[:nodes])
    columns.agree("cuts", values, offsets[0] & 0xFFFFFFFF if offsets else 0)
    columns.agree("lengths", offsets, marks[:nodes], 0, nodes)
    columns.agree("translated", small, 0, min(5, len(small)), small[:4])
    columns.agree(
        "first_unsound", small[:nodes], 4, marks[:nodes], marks[8 : 8 + nodes], offsets, wide[:2], wide[9 : 9 + nodes],
        values[3 : 3 + nodes],
    )  # fmt: skip


class _Twins:
    """A compiled module and its specification."""

    def __init__(self, name: str, plain: Any) -> None:
        self._plain = plain
        self._compiled = compiled_module(name) or plain

    def agree(self, name: str, *arguments: Any) -> None:
        expected = _outcome(getattr(self._plain, name), arguments)
        assert _outcome(getattr(self._compiled, name), arguments) == expected, name


def _outcome(function: Callable[..., object], arguments: tuple[Any, ...]) -> object:
    try:
        return function(*arguments)
    except ValueError as error:
        return str(error)


TARGETS = {
    "snapshot file": _file_target(zks.FORMAT, _snapshot_file, zks.read),
    "plan file": _file_target(planfile.FORMAT, _plan_file, planfile.read),
    "journal chunk": Target(_make_chunk, _check_chunk),
    "journal manifest": _json_target((MANIFEST.encode(),), lambda raw: Manifest.decode(raw, "/manifest")),
    "epoch record": _json_target(RECORDS, lambda raw: record.decode(raw, "/record")),
    "lease": _json_target((Lease("me", 5).encode(), b'{"format": 1, "unit": "u", "stopped": false}'), _decode_lease),
    "attempt note": _json_target((NOTE.encode(),), _decode_note),
    "columns": Target(_make_columns, _check_columns),
}
