"""Creates as columns are the creates they stand for: on the wire, in the journal, in sizes; in both backends alike.

Method: made-up nodes encoded as `wire.requests` and msgpack do it one by one; then the same columns, sound and
damaged, through both backends, whose results or errors must be equal; replies to a multi cut and altered.
"""

from __future__ import annotations

import dataclasses
import random
from array import array
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkmig.epoch import created
from zkmig.epoch.journal import Action, Entry, entry_bytes, unpack
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, Identity
from zkmig.model.znode import Kind
from zkmig.plan import creates_plain
from zkmig.plan.creates import Creates, Operations
from zkmig.plan.operations import CreateNode, DeleteNode, Pin, RaiseCounter, forward_size
from zkmig.wire import packed, replies
from zkmig.wire.jute import Decoder
from zkmig.wire.packed import PackedOperations
from zkmig.wire.requests import Check, Delete, Multi, SetData, WriteOp, encode, encode_parts, frame_size

compiled: ModuleType = pytest.importorskip("zkmig._fast.encode", reason="the compiled modules were not built")

PIN = Pin(1, 2, 3)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=9)
node_paths = st.lists(names, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
acls = st.sampled_from([OPEN_ACL, (Acl(READ, *WORLD),), (Acl(ALL, "digest", "me:x"), Acl(READ, *WORLD)), ()])
kinds = st.sampled_from([Kind.PERSISTENT, Kind.PERSISTENT, Kind.CONTAINER, Kind.TTL])
nodes = st.builds(
    lambda path, data, acl, kind, ttl: CreateNode(path, data, acl, kind, ttl if kind is Kind.TTL else 0),
    node_paths,
    st.none() | st.binary(max_size=300),
    acls,
    kinds,
    st.integers(1, 2**40 - 1),
)
many = st.lists(nodes, max_size=12)
FEWER = settings(max_examples=60)


def outcome(work: Callable[..., Any], *arguments: Any) -> Any:
    """What comes of it: the result, or the error's type and words."""
    try:
        return work(*arguments)
    except (ValueError, KeyError) as error:
        return type(error).__name__, str(error)


def columns_of(creates: Creates) -> list[Any]:
    acl_blob, acl_offsets = creates._acls()
    return [
        creates.paths_blob,
        creates.path_offsets,
        creates.data_blob,
        creates.data_offsets,
        creates.nulls,
        creates.acl_ids,
        acl_blob,
        acl_offsets,
        creates.kinds,
        creates.ttls,
    ]


# -- the same as one by one -------------------------------------------------------------------------------------------


@FEWER
@given(many)
def test_they_are_a_sequence_of_the_nodes(made: list[CreateNode]) -> None:
    creates = Creates.of(made)
    creates.check()
    assert list(creates) == made
    assert creates[1:] == tuple(made[1:])
    assert [creates.path_at(index) for index in range(len(made))] == [node.path for node in made]
    if made:
        assert creates[-1] == made[-1]


@pytest.mark.parametrize("backend", [creates_plain, compiled], ids=["plain", "compiled"])
@FEWER
@given(made=many)
def test_bytes_and_sizes_are_those_of_the_requests(backend: Any, made: list[CreateNode]) -> None:
    creates = Creates.of(made)
    columns = columns_of(creates)
    assert backend.encode_creates(*columns, 0, len(made)) == encode_parts(node.write() for node in made)
    sizes = backend.create_sizes(columns[1], columns[3], columns[5], columns[7], columns[8])
    assert list(sizes) == list(map(forward_size, made))
    assert list(creates.undo_sizes()) == [node.undo_size() for node in made]
    assert creates.encoder().opcodes(0, len(made)) == bytes(node.write().opcode for node in made)


@FEWER
@given(many)
def test_a_multi_of_packed_operations_is_the_same_multi(made: list[CreateNode]) -> None:
    """Its frame, its size; its operations as values; and equal hash and equality."""
    head: tuple[WriteOp, ...] = (Check("/a", 1), SetData("/c", None, 7))
    writes = tuple(node.write() for node in made)
    encoder = Creates.of(made).encoder()
    operations = PackedOperations(encoder.parts(0, len(made)), encoder.opcodes(0, len(made)), lambda: writes)
    multi = Multi(operations.behind(head, encode_parts(head)))
    plain = Multi((*head, *writes))
    assert encode(multi, 5) == encode(plain, 5)
    assert frame_size(multi) == frame_size(plain)
    assert tuple(multi.operations) == plain.operations
    assert multi.path == "/a"


@pytest.mark.parametrize("pack", [created.pack_created, compiled.pack_created], ids=["plain", "compiled"])
@FEWER
@given(made=many, payload_bytes_max=st.integers(1, 400), first_batch=st.sampled_from([0, 120, 250, 65_530, 70_000]))
def test_journal_entries_are_those_that_msgpack_makes(
    pack: Any, made: list[CreateNode], payload_bytes_max: int, first_batch: int
) -> None:
    creates = Creates.of(made)
    batches = array("i", range(first_batch, first_batch + len(made)))
    entries = [
        msgpack.packb(["e", index, Action.CREATED.value, node.path, batches[index]]) for index, node in enumerate(made)
    ]
    nodes = array("i", range(len(made)))
    payloads = pack(creates.paths_blob, creates.path_offsets, nodes, batches, payload_bytes_max)
    assert b"".join(payloads) == b"".join(entries)
    assert all(len(payload) <= max(payload_bytes_max, *map(len, entries)) for payload in payloads)
    expected = [entry_bytes(Entry(Action.CREATED, node.path, 0, None)) for node in made]
    assert created.created_sizes(creates.path_offsets) == expected


@FEWER
@given(made=many, payload_bytes_max=st.integers(1, 400))
def test_a_journal_knows_as_what_each_is_created(made: list[CreateNode], payload_bytes_max: int) -> None:
    """Of persistent ones it says nothing, so that a journal that never says anything is read as it always was."""
    creates = Creates.of(made)
    batches = array("i", range(len(made)))
    groups = array("I", [index % 2 for index in range(len(made))])
    table = (frozenset({WORLD}), frozenset({Identity("digest", "me:x")}))
    whole = created.Created(
        creates.paths_blob, creates.path_offsets, batches, groups, table, creates.kinds, creates.ttls
    )
    payloads = [payload for _, payload in whole.payloads(payload_bytes_max)]
    expected = tuple(
        Entry(Action.CREATED, node.path, index, None, node.kind, node.ttl_ms) for index, node in enumerate(made)
    )
    assert unpack(payloads, "undo").entries == expected
    bare = created.Created(creates.paths_blob, creates.path_offsets, batches, groups, table)
    assert {entry.kind for entry in unpack([data for _, data in bare.payloads(400)], "undo").entries} <= {
        Kind.PERSISTENT
    }
    weight = sum(map(len, payloads)) - sum(len(data) for _, data in bare.payloads(payload_bytes_max))
    assert weight <= created.kind_sizes(creates.kinds)


class ReadOnce(array):  # type: ignore[type-arg]
    """A column that may be gone through once: once for each group would take its length squared."""

    passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        assert self.passes == 1
        return super().__iter__()


def test_a_journal_is_gathered_in_one_pass_however_many_groups_read_it() -> None:
    """Each of 50 nodes is for a user of its own, or of two, or for nobody; each group's payload holds its own."""
    creates = Creates.of(CreateNode(f"/{number}", b"", OPEN_ACL) for number in range(50))
    table = tuple(frozenset({Identity("digest", f"user{number}:x")}) for number in range(60))
    groups = ReadOnce("I", [number // 2 if number < 20 else number for number in range(50)])
    whole = created.Created(
        creates.paths_blob, creates.path_offsets, array("i", bytes(4 * 50)), groups, table, creates.kinds, creates.ttls
    )
    found: dict[str, list[str]] = {}
    for group, payload in whole.payloads(400):
        (reader,) = group
        items = msgpack.Unpacker()
        items.feed(payload)
        found.setdefault(reader.id, []).extend(item[3] for item in items)
    expected: dict[str, list[str]] = {}
    for number in range(50):
        expected.setdefault(f"user{number // 2 if number < 20 else number}:x", []).append(f"/{number}")
    assert found == expected


def test_long_paths_and_many_nodes_are_packed_as_msgpack_does() -> None:
    """Every width of a length and of a number."""
    lengths = [1, 31, 32, 255, 256, 65_535, 65_536, *[2] * 66_000]
    creates = Creates.of(CreateNode("/" + "x" * (length - 1), b"", OPEN_ACL) for length in lengths)
    count = len(creates)
    nodes = array("i", [*range(7), 127, 128, 255, 256, 65_535, 65_536, count - 1])
    batches = array("i", [2**31 - 1]) * count
    arguments = (creates.paths_blob, creates.path_offsets, nodes, batches, 1 << 30)
    assert compiled.pack_created(*arguments) == created.pack_created(*arguments)


@FEWER
@given(st.lists(node_paths, unique=True, max_size=20), st.booleans())
def test_parents_are_found_in_any_order(found: list[str], in_order: bool) -> None:
    if in_order:
        found.sort(key=paths.order_key)
    creates = Creates.of(CreateNode(path, b"", OPEN_ACL) for path in found)
    places = {path: index for index, path in enumerate(found)}
    assert list(creates.parents()) == [places.get(paths.parent(path), -1) for path in found]


def test_operations_are_equal_to_the_sequence_they_were_made_of() -> None:
    values = (
        CreateNode("/a", b"", OPEN_ACL),
        CreateNode("/a/b", None, ()),
        RaiseCounter("/a", 3, 4),
        CreateNode("/z", b"late", OPEN_ACL),
        DeleteNode("/d", PIN, 9),
    )
    operations = Operations.of(values)
    assert operations == values
    assert operations == Operations.of(list(values))
    assert operations != values[:-1]
    assert operations != (*values[:-1], DeleteNode("/e", PIN, 9))
    assert (len(operations.creates), len(operations.rest)) == (2, 3)
    assert [operations[index] for index in range(-5, 5)] == [*values, *values]
    assert operations[1:4] == values[1:4]
    assert hash(operations) == hash(Operations.of(values))


# -- relocation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("/", "/"), ("/", "/t"), ("/a", "/"), ("/a", "/b/c"), ("/队", "/x")])
def test_relocated_paths_are_those_that_join_gives(old: str, new: str) -> None:
    found = [old, *(paths.join(old, below) for below in ("/b", "/b/c", "/队 列"))]
    column, offsets = creates_plain._joined([path.encode() for path in found])
    nodes = array("i", [0, 1, 3])
    strip, prefix = 0 if old == "/" else len(old.encode()), b"" if new == "/" else new.encode()
    expected = [paths.join(new, paths.relative_to(found[node], old)) for node in nodes]
    for backend in (creates_plain, compiled):
        blob, places = backend.relocate(column, offsets, nodes, strip, prefix)
        assert [blob[places[i] : places[i + 1]].decode() for i in range(len(nodes))] == expected
        blob, places = backend.gather(column, offsets, nodes)
        assert [blob[places[i] : places[i + 1]].decode() for i in range(len(nodes))] == [found[node] for node in nodes]


# -- damaged columns: equal errors, never a byte from outside ---------------------------------------------------------


def damaged(columns: list[Any], rng: random.Random) -> list[Any]:
    """The columns with one number or one length altered."""
    which = rng.choice([0, 1, 2, 3, 5, 7, 8])
    column = columns[which][:]
    if isinstance(column, bytes):
        column = column[: rng.randrange(len(column) + 1)] if which != 8 else bytes(rng.choices(range(5), k=len(column)))
    elif column and rng.random() < 0.7:
        column[rng.randrange(len(column))] = rng.choice([0, 1, 7, 1_000, 2**31])
    else:
        del column[rng.randrange(len(column)) :]
    return [*columns[:which], column, *columns[which + 1 :]]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_columns_give_equal_errors(seed: int) -> None:
    rng = random.Random(seed)
    made = [
        CreateNode(f"/n{i}", rng.choice([None, b"", rng.randbytes(9)]), rng.choice([OPEN_ACL, ()]), Kind.PERSISTENT)
        for i in range(rng.randrange(1, 8))
    ]
    for _ in range(40):
        columns = damaged(columns_of(Creates.of(made)), rng)
        bounds = rng.choice([(0, len(made)), (1, 2), (0, 99), (-1, 1), (2, 1)])
        one = outcome(creates_plain.encode_creates, *columns, *bounds)
        assert outcome(compiled.encode_creates, *columns, *bounds) == one
        nodes = array("i", rng.choices(range(-1, 9), k=4))
        moved = (columns[0], columns[1], nodes, 1, b"/to")
        assert outcome(compiled.relocate, *moved) == outcome(creates_plain.relocate, *moved)
        noted = (columns[0], columns[1], nodes, array("i", rng.choices([0, 1, -1], k=9)), 50)
        assert outcome(compiled.pack_created, *noted) == outcome(created.pack_created, *noted)


@pytest.mark.parametrize("column", ["path_offsets", "data_offsets", "acl_ids", "kinds", "nulls", "ttls", "paths_blob"])
def test_columns_that_do_not_fit_together_are_refused(column: str) -> None:
    """As they may come from a file that somebody has sealed."""
    sound = Creates.of([CreateNode("/a", b"x", OPEN_ACL), CreateNode("/队", None, (), Kind.TTL, 5)])
    bad: dict[str, Any] = {
        "path_offsets": array("Q", (0, 3, 6)),  # the second begins in the middle of a path
        "data_offsets": array("Q", (0, 2, 1)),
        "acl_ids": array("I", (0, 2)),
        "kinds": b"\0\3",
        "nulls": b"\0\2",
        "ttls": {0: 5},
        "paths_blob": b"/a/\xff\xfe\xfd",
    }
    fields = {name: getattr(sound, name) for name in (field.name for field in dataclasses.fields(Creates))}
    with pytest.raises((BadInput, ValueError)):
        Creates(**{**fields, column: bad[column]}).check()


# -- replies ----------------------------------------------------------------------------------------------------------

ASKED: tuple[WriteOp, ...] = (
    Check("/c", 1),
    SetData("/cursor", None, 3),
    CreateNode("/a", b"1", OPEN_ACL).write(),
    CreateNode("/b", b"1", OPEN_ACL, Kind.CONTAINER).write(),
    CreateNode("/b/c", b"1", OPEN_ACL, Kind.TTL, 4).write(),
    Delete("/d", 0),
)


def header(kind: int, done: bool = False, error: int = 0) -> bytes:
    return kind.to_bytes(4, "big", signed=True) + bytes([done]) + error.to_bytes(4, "big", signed=True)


def answer() -> bytes:
    """As a server answers ASKED when all was applied."""
    return b"".join(
        (
            header(13),
            header(5) + bytes(68),
            header(1) + b"\0\0\0\2/a",
            header(15) + b"\0\0\0\2/b" + bytes(68),
            header(15) + b"\0\0\0\4/b/c" + bytes(68),
            header(2),
            header(-1, done=True, error=-1),
        )
    )


@pytest.mark.parametrize("judge", [packed.all_applied, compiled.all_applied], ids=["plain", "compiled"])
def test_only_an_answer_to_all_of_them_counts(judge: Any) -> None:
    """Judged alike for each length and each altered byte; what is not taken for applied is left to the decoder."""
    opcodes = bytes(operation.opcode for operation in ASKED)
    whole = b"head" + answer()
    assert judge(whole, 4, opcodes)
    assert not judge(whole + b"\0", 4, opcodes)
    assert not judge(whole, 4, opcodes[:-1])
    assert not judge(whole, 4, opcodes + b"\1")
    assert not judge(whole, -1, opcodes)
    assert not any(judge(whole[:length], 4, opcodes) for length in range(len(whole)))
    failed = header(-1, error=-101) + (-101).to_bytes(4, "big", signed=True)
    assert not judge(b"head" + failed * len(ASKED) + header(-1, done=True), 4, opcodes)


def test_altered_answers_are_judged_alike() -> None:
    opcodes = bytes(operation.opcode for operation in ASKED)
    whole = answer()
    rng = random.Random(5)
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << rng.randrange(8)
        assert compiled.all_applied(bytes(altered), 0, opcodes) == packed.all_applied(bytes(altered), 0, opcodes)


def test_the_decoder_says_what_is_wrong_and_no_results_where_all_is_well() -> None:
    operations = PackedOperations(encode_parts(ASKED), bytes(operation.opcode for operation in ASKED), lambda: ASKED)
    assert replies.decode_result(Multi(operations), Decoder(answer())) == replies.MultiResult(())
    refused = (
        header(-1)
        + bytes(4)
        + (header(-1, error=-101) + (-101).to_bytes(4, "big", signed=True)) * 1
        + (header(-1, error=-2) + (-2).to_bytes(4, "big", signed=True)) * (len(ASKED) - 2)
        + header(-1, done=True)
    )
    result = replies.decode_result(Multi(operations), Decoder(refused))
    assert isinstance(result, replies.MultiResult)
    assert (result.failed_index, result.code) == (1, -101)


def test_columns_of_no_bytes() -> None:
    """Empty blobs have no address; sanitizers watch that nobody uses it."""
    none, empty, one = array("Q", (0,)), array("Q", (0, 0)), array("i", (0,))
    for given_ in (none, array("i"), array("i")), (empty, one, one):
        assert compiled.pack_created(b"", *given_, 100) == created.pack_created(b"", *given_, 100)
    for blob in (b"", bytearray()):
        assert compiled.gather(blob, empty, one) == creates_plain.gather(bytes(blob), empty, one)
        assert compiled.relocate(blob, empty, one, 0, b"") == creates_plain.relocate(bytes(blob), empty, one, 0, b"")
    columns: tuple[Any, ...]
    for columns in (
        (b"", none, b"", none, b"", array("I"), b"", none, b"", {}, 0, 0),
        (b"", empty, b"", empty, b"\0", array("I", (0,)), b"", empty, b"\0", {}, 0, 1),
    ):
        assert compiled.encode_creates(*columns) == creates_plain.encode_creates(*columns)
