"""The record is readable JSON, comes back as it was written, and is refused unless it is whole and of a known format.

Method: made-up records through bytes and back; fields removed, added, mistyped; the errors looked at.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkmig.epoch import record as records
from zkmig.epoch.record import ConflictNote, Held, LastOutcome, Owner, Pending, Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import UnknownFormat

WHERE = "/zkmig/scopes/prod/epoch"
UNDER_WAY = sorted(MIGRATING, key=lambda state: state.value)
FEWER = settings(max_examples=40)
text = st.text(max_size=12)
times = st.floats(0, 4e9, allow_nan=False)
numbers = st.integers(0, 10**9)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)

IDLE = Record("00ff" * 4, State.STABLE, 3, "/app", committed_attempt="a" * 8, committed_plan_hash="b" * 64)
OPEN = Record(
    "00ff" * 4,
    State.OPEN,
    3,
    "/app",
    target_epoch=4,
    attempt="0badcafe",
    plan_hash="a" * 64,
    manifest_hash="b" * 64,
    batches_total=7,
    owner=Owner(3, "host", 17, 1.5, "p.zkplan"),
)


@st.composite
def made_up_records(draw: st.DrawFn) -> Record:
    state = draw(st.sampled_from(State))
    epoch = draw(numbers)
    under_way: dict[str, Any] = {}
    if state in MIGRATING:
        under_way = {
            "target_epoch": epoch + 1,
            "attempt": draw(text),
            "plan_hash": draw(hashes),
            "manifest_hash": draw(hashes),
            "batches_total": draw(numbers),
            "cursor": draw(numbers) if state is State.ROLLING_BACK else None,
            "owner": draw(st.none() | st.builds(Owner, numbers, text, numbers, times, text)),
            "conflict": draw(st.none() | st.builds(ConflictNote, text, text, text, numbers)),
        }
    return Record(
        draw(text),
        state,
        epoch,
        draw(text),
        excludes=tuple(draw(st.lists(text, max_size=3))),
        base=draw(st.sampled_from((State.STABLE, State.EMPTY))),
        held=draw(st.none() | st.builds(Held, text, text, times, st.none() | times)),
        pending=draw(st.none() | st.builds(Pending, numbers, text, numbers, hashes)),
        committed_attempt=draw(st.none() | text),
        committed_plan_hash=draw(st.none() | hashes),
        last=draw(st.none() | st.builds(LastOutcome, numbers, text, text, times, numbers)),
        unknown=draw(st.dictionaries(text.map("x_".__add__), st.none() | text | st.lists(numbers), max_size=3)),
        **under_way,
    )


@FEWER
@given(made_up_records())
def test_comes_back_as_it_was_written(record: Record) -> None:
    assert records.decode(records.encode(record), WHERE) == record


@FEWER
@given(made_up_records())
def test_is_one_line_of_json_with_the_names_that_other_languages_look_for(record: Record) -> None:
    encoded = records.encode(record)
    assert b"\n" not in encoded
    fields = json.loads(encoded)
    assert (fields["state"], fields["epoch"], fields["root"]) == (record.state.value, record.epoch, record.root)
    assert (fields["format"], fields["min_reader"]) == (1, 1)
    assert list(fields) == sorted(fields)


def test_fields_of_a_newer_zkmig_are_kept_through_a_transition() -> None:
    fields = json.loads(records.encode(IDLE)) | {"format": 2, "canary": {"share": 0.5}}
    record = records.decode(json.dumps(fields).encode(), WHERE)
    moved = record.moved("prepare", State.PREPARING, target_epoch=4)
    assert json.loads(records.encode(moved))["canary"] == {"share": 0.5}
    assert json.loads(records.encode(moved))["format"] == 2


@pytest.mark.parametrize("name", ["owner", "held", "pending", "conflict", "last"])
def test_a_later_key_inside_a_part_is_passed_over(name: str) -> None:
    """A newer zkmig may say more of an owner or a conflict; that must not make the record unreadable."""
    record = OPEN.updated(
        held=Held("why", "ops", 1.0),
        pending=Pending(3, "cafe", 1, "a" * 64),
        conflict=ConflictNote("/a", "write", "why", 3),
        last=LastOutcome(3, "cafe", "committed", 1.0),
    )
    fields = json.loads(records.encode(record))
    fields[name]["later"] = {"x": 1}
    assert records.decode(json.dumps(fields).encode(), WHERE) == record


def test_a_conflict_of_the_first_form_is_still_read() -> None:
    """Path, operation, reason and batch alone."""
    fields = json.loads(records.encode(OPEN))
    fields["conflict"] = {"path": "/a", "operation": "write", "reason": "why", "batch": 3}
    fields["last"] = {"epoch": 3, "attempt": "cafe", "outcome": "aborted", "at": 1.0}
    record = records.decode(json.dumps(fields).encode(), WHERE)
    assert record.conflict == ConflictNote("/a", "write", "why", 3)
    assert record.last == LastOutcome(3, "cafe", "aborted", 1.0)


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(data: bytes | None) -> UnknownFormat:
    with pytest.raises(UnknownFormat) as caught:
        records.decode(data, WHERE)
    assert caught.value.where == WHERE
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "data", [None, b"", b"{", b"[]", b'"x"', b"7", b"null", b"\xff\xfe", b"{}", b'{"format": "1"}']
)
def test_what_is_no_record_is_refused(data: bytes | None) -> None:
    refused(data)


@pytest.mark.parametrize(("version", "min_reader"), [(2, 2), (9, 3), (1, 0), (2, "1"), (2, None), (True, True)])
def test_a_format_that_needs_another_reader_is_refused(version: object, min_reader: object) -> None:
    fields = json.loads(records.encode(IDLE)) | {"format": version, "min_reader": min_reader}
    refused(json.dumps(fields).encode())


def test_an_unknown_format_is_named() -> None:
    fields = json.loads(records.encode(IDLE)) | {"format": 12, "min_reader": 11}
    assert "12" in str(refused(json.dumps(fields).encode()))


REQUIRED = ("state", "epoch", "root", "incarnation", "base", "excludes", "batches_total")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_record_without_a_required_field_is_refused(name: str) -> None:
    fields = json.loads(records.encode(IDLE))
    del fields[name]
    refused(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "CLOSED"),
        ("state", None),
        ("epoch", "3"),
        ("epoch", True),
        ("epoch", -1),
        ("epoch", 3.0),
        ("root", None),
        ("incarnation", 7),
        ("base", "OPEN?"),
        ("excludes", None),
        ("batches_total", None),
        ("held", "yes"),
        ("pending", {"epoch": 3}),
        ("owner", []),
        ("cursor", "1"),
        ("cursor", 1 << 63),
        ("committed_attempt", []),
        ("excludes", "/app"),
        ("excludes", [1]),
        ("owner", {"token": 1, "host": "h", "pid": 1, "since": 1.0, "plan_path": [1]}),
        ("held", {"reason": "why", "holder": ["ops"], "since": 1.0}),
        ("pending", {"epoch": 3, "attempt": {}, "acls": 1, "manifest_hash": "a"}),
        ("conflict", {"path": "/a", "operation": 1, "reason": "why", "batch": 3}),
        ("last", {"epoch": 3, "attempt": "a", "outcome": None, "at": 1.0}),
        ("last", {"epoch": 3, "attempt": "a", "outcome": "committed", "at": ""}),
        ("last", {"epoch": 3, "attempt": "a", "outcome": "committed", "at": 10**400}),
        ("last", {"epoch": 3, "attempt": "a", "outcome": "committed", "at": 1.0, "deviations": True}),
    ],
)
def test_a_field_of_another_type_is_refused(name: str, value: object) -> None:
    fields = json.loads(records.encode(IDLE)) | {name: value}
    refused(json.dumps(fields).encode())


@pytest.mark.parametrize("name", ["target_epoch", "attempt", "plan_hash", "manifest_hash"])
@pytest.mark.parametrize("state", UNDER_WAY)
def test_a_migration_under_way_without_its_attempt_is_refused(state: State, name: str) -> None:
    """Rather than an assertion later, in whoever first needs the field."""
    fields = json.loads(records.encode(OPEN)) | {"state": state.value, "cursor": 2}
    assert records.decode(json.dumps(fields).encode(), WHERE).state is state
    refused(json.dumps(fields | {name: None}).encode())


def test_a_rollback_without_its_cursor_is_refused() -> None:
    fields = json.loads(records.encode(OPEN)) | {"state": "ROLLING_BACK", "cursor": None}
    refused(json.dumps(fields).encode())


@given(st.data())
def test_no_altered_byte_leads_to_anything_but_a_record_or_a_refusal(data: st.DataObject) -> None:
    """Never another kind of error: a reader of a record that somebody edited by hand must fail closed, and say so."""
    encoded = bytearray(records.encode(OPEN))
    offset = data.draw(st.integers(0, len(encoded) - 1))
    encoded[offset] = data.draw(st.integers(0, 255))
    try:
        decoded = records.decode(bytes(encoded), WHERE)
    except UnknownFormat:
        return
    assert isinstance(decoded, Record)
