"""The compiled codec of bulk reads equals its plain twin, and both equal the codec of single requests.

Method: made-up columns of paths and the replies that a server could give, sound and then spoiled (bits flipped, pieces
cut and put in, lengths set to extremes), go through both; results, columns afterwards, and errors with their offsets
must be the same, and after an error or a refusal every column as it was. Sound ones also go through `wire.requests` and
`wire.replies`, which know nothing of columns.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bulk_twins import BEFORE, agree_on_acls, agree_on_children, agree_on_data
from tests.bulk_values import (
    EXPIRED,
    INT32,
    INT64,
    NO_NODE,
    Asked,
    a_stat,
    acl_reply,
    asked,
    children_reply,
    data_reply,
    spoiled,
    stats_columns,
)
from tests.wire_values import pack_acl, pack_bytes, pack_part, pack_parts, pack_reply, pack_stat
from zkmig.model.acl import OPEN_ACL
from zkmig.model.stat import Stat
from zkmig.wire import bulk_plain
from zkmig.wire import replies as rp
from zkmig.wire import requests as rq
from zkmig.wire.jute import Decoder

compiled = pytest.importorskip("zkmig._fast.bulk", reason="the compiled modules were not built")

BOTH = pytest.mark.parametrize("codec", [bulk_plain, compiled], ids=["python", "cython"])
RANDOM = st.randoms(use_true_random=False)
HEADER = struct.pack(">iqi", 1, 2, 0)


def text(path: bytes) -> str:
    return path.decode()


def one_node(path: bytes = b"/a") -> Asked:
    return Asked(path, array("Q", (0, len(path))), array("i", (0,)))


def single_results(request: rq.MultiRead, frame: bytes) -> tuple[rp.ReadResult, ...]:
    """What the codec of single requests makes of a frame."""
    result = rp.decode_result(request, Decoder(frame, 16))
    assert isinstance(result, rp.MultiReadResult)
    return result.results


# -- requests ---------------------------------------------------------------------------------------------------------


@given(RANDOM, st.sampled_from([rq.OP_GET_DATA, rq.OP_GET_CHILDREN]), st.integers(1, 2**31 - 1))
def test_a_multi_read_has_the_bytes_of_single_reads(random: random.Random, opcode: int, xid: int) -> None:
    column = asked(random)
    kind = rq.GetData if opcode == rq.OP_GET_DATA else rq.GetChildren
    request = rq.MultiRead(tuple(kind(text(column.path(node))) for node in column.nodes))
    expected = rq.encode(request, xid)
    assert bulk_plain.encode_reads(*column, opcode, xid) == expected
    for paths in (column.paths, bytearray(column.paths), memoryview(column.paths)):
        assert compiled.encode_reads(paths, *column[1:], opcode, xid) == expected
    for limit in range(bulk_plain.MULTI_OVERHEAD - 1, len(expected) + 2):
        count = bulk_plain.fitting(column.offsets, column.nodes, limit)
        assert compiled.fitting(column.offsets, column.nodes, limit) == count
        if count > 1 or (count == 1 and limit >= len(expected) - 4):
            assert len(compiled.encode_reads(*column[:2], column.nodes[:count], opcode, 1)) - 4 <= limit
        if count < len(column.nodes):
            assert len(compiled.encode_reads(*column[:2], column.nodes[: count + 1], opcode, 1)) - 4 > limit


@given(RANDOM, st.integers(1, 2**31 - 9))
def test_get_acls_have_the_bytes_of_single_ones(random: random.Random, xid: int) -> None:
    column = asked(random)
    singles = (rq.encode(rq.GetAcl(text(column.path(node))), xid + n) for n, node in enumerate(column.nodes))
    expected = b"".join(singles)
    assert bulk_plain.encode_get_acls(*column, xid) == expected
    assert compiled.encode_get_acls(*column, xid) == expected


# -- data -------------------------------------------------------------------------------------------------------------


@given(RANDOM)
def test_data_is_what_the_decoder_of_single_replies_reads(random: random.Random) -> None:
    column = asked(random)
    frame = data_reply(random, column)
    request = rq.MultiRead(tuple(rq.GetData(text(column.path(node))) for node in column.nodes))
    results = single_results(request, frame)
    ((columns, stats, origins), (absent, refusal)) = agree_on_data(compiled, column, frame)
    paths, path_offsets, data, data_offsets, nulls = columns
    codes = [each.code if isinstance(each, rp.SubError) else None for each in results]
    assert absent == [node for node, code in zip(column.nodes, codes, strict=True) if code == NO_NODE]
    refused = [(n, code) for n, code in zip(column.nodes, codes, strict=True) if code not in (None, NO_NODE)]
    assert refusal == next(iter(refused), None)
    found: list[tuple[bytes, bytes | None, Stat]] = [(b"/was", b"old", BEFORE)]
    if refusal is None:
        found += [
            (column.path(node), each.data, each.stat)
            for node, each in zip(column.nodes, results, strict=True)
            if isinstance(each, rp.DataResult)
        ]
    assert [bytes(paths[path_offsets[n] : path_offsets[n + 1]]) for n in range(len(found))] == [x[0] for x in found]
    values = [bytes(data[data_offsets[n] : data_offsets[n + 1]]) for n in range(len(found))]
    assert [None if null else value for null, value in zip(nulls, values, strict=True)] == [x[1] for x in found]
    assert [Stat(*row) for row in zip(*stats, strict=True)] == [x[2] for x in found]
    assert len(origins) == len(path_offsets) - 1 == len(data_offsets) - 1 == len(found)


@given(RANDOM)
def test_spoiled_data_has_the_same_fault(random: random.Random) -> None:
    column = asked(random)
    agree_on_data(compiled, column, spoiled(random, data_reply(random, column)))


# -- children ---------------------------------------------------------------------------------------------------------


@given(RANDOM, st.booleans())
def test_children_are_what_the_decoder_of_single_replies_reads(random: random.Random, exclude: bool) -> None:
    column = asked(random)
    frame = children_reply(random, column)
    request = rq.MultiRead(tuple(rq.GetChildren(text(column.path(node))) for node in column.nodes))
    results = single_results(request, frame)
    expected: list[list[bytes]] = []
    for node, each in zip(column.nodes, results, strict=True):
        names = each.children if isinstance(each, rp.ChildrenResult) else []
        head = b"" if column.path(node) == b"/" else column.path(node)
        expected.append([head + b"/" + name.encode() for name in names])
    everything = [child for children in expected for child in children]
    left_out = frozenset(random.sample(everything, len(everything) // 3) if exclude else ())
    (((paths, offsets), counts), (_, refusal)) = agree_on_children(compiled, column, frame, left_out)
    children = [bytes(paths[offsets[n] : offsets[n + 1]]) for n in range(1, len(offsets) - 1)]
    if refusal is not None:
        assert not children
        return
    assert children == [child for child in everything if child not in left_out]
    kept = [sum(child not in left_out for child in of_one) for of_one in expected]
    pairs = [(count, len(of_one) - count) for count, of_one in zip(kept, expected, strict=True)]
    assert list(zip(counts[2::2], counts[3::2], strict=True)) == pairs


@given(RANDOM)
def test_spoiled_children_have_the_same_fault(random: random.Random) -> None:
    column = asked(random)
    left_out = frozenset({b"/a", b"/a/b", b"/b"})
    agree_on_children(compiled, column, spoiled(random, children_reply(random, column)), left_out)


@pytest.mark.parametrize("name", [None, b"", b"/", b"a/b"])
def test_a_child_without_a_proper_name_is_a_fault(name: bytes | None) -> None:
    frame = HEADER + pack_parts([pack_part(8, struct.pack(">i", 1) + pack_bytes(name))])
    _, (kind, what, offset) = agree_on_children(compiled, one_node(), frame)
    assert (kind, what, offset) == ("raised", "a child's name is null, empty or holds a slash", 16 + 9 + 4)


# -- ACLs -------------------------------------------------------------------------------------------------------------


def acl_frames(random: random.Random, column: Asked) -> tuple[bytes, tuple[array[int], array[int]]]:
    """Replies to getACL of each node, and pins that some of the Stats in them have."""
    stats = [a_stat(random) for _ in range(len(column.offsets) - 1)]
    replies = (
        acl_reply(random, 1 + n, stats[node] if random.random() < 0.7 else None, refusals=random.random() < 0.1)
        for n, node in enumerate(column.nodes)
    )
    return b"".join(replies), (array("q", (s.czxid for s in stats)), array("i", (s.aversion for s in stats)))


def frames_of(raw: bytes) -> Iterator[bytes]:
    while raw:
        length = int.from_bytes(raw[:4])
        yield raw[4 : 4 + length]
        raw = raw[4 + length :]


@given(RANDOM)
def test_acls_are_what_the_decoder_of_single_replies_reads(random: random.Random) -> None:
    column = asked(random)
    frames, pins = acl_frames(random, column)
    (acl_ids, known), (absent, moved, refusal, new) = agree_on_acls(compiled, column, frames, pins)
    assert list(known) == [b"\0\0\0\0", *new]
    if refusal is not None:
        assert refusal[1] not in (0, NO_NODE)
        return
    by_id = list(known)
    for node, frame in zip(column.nodes, frames_of(frames), strict=True):
        decoder = Decoder(frame)
        if decoder.read_reply_header()[2] == NO_NODE:
            assert node in absent
            continue
        result = rp.decode_result(rq.GetAcl(text(column.path(node))), decoder)
        assert isinstance(result, rp.AclResult)
        if (result.stat.czxid, result.stat.aversion) != (pins[0][node], pins[1][node]):
            assert node in moved
        elif column.nodes.count(node) == 1:
            assert by_id[acl_ids[node]] == pack_acl(result.acl)
    untouched = set(range(len(acl_ids))) - set(column.nodes)
    assert all(acl_ids[node] == 9 for node in untouched)


@given(RANDOM)
def test_spoiled_acls_have_the_same_fault(random: random.Random) -> None:
    column = asked(random)
    frames, pins = acl_frames(random, column)
    agree_on_acls(compiled, column, spoiled(random, frames), pins)


def test_a_null_string_in_an_acl_is_a_fault_at_its_place() -> None:
    acl = struct.pack(">ii", 1, 31) + pack_bytes(b"world") + pack_bytes(None)
    frame = pack_reply(1, 2, 0, acl + pack_stat(BEFORE))
    pins = array("q", (BEFORE.czxid,)), array("i", (BEFORE.aversion,))
    _, came = agree_on_acls(compiled, one_node(), frame, pins)
    assert came == ("raised", "string of -1 bytes", 16 + 4 + 4 + 4 + 5)


# -- every byte of one reply ------------------------------------------------------------------------------------------


def every_spoiling(raw: bytes) -> Iterator[bytes]:
    """Cut at each byte, each byte changed, and each four bytes made an extreme."""
    for at in range(len(raw)):
        yield raw[:at]
        yield raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]
        yield raw[:at] + bytes((raw[at] ^ 0x80,)) + raw[at + 1 :]
        for extreme in (-(2**31), -2, -1, 2**31 - 1, len(raw)):
            yield raw[:at] + struct.pack(">i", extreme) + raw[at + 4 :]
    yield raw + b"\0"


def test_each_byte_of_a_reply_spoiled() -> None:
    """No byte of a reply is there that the two sides read differently."""
    column = Asked(b"/a/b/", array("Q", (0, 2, 4, 5)), array("i", (1, 0, 2)))
    absent = pack_part(-1, struct.pack(">i", NO_NODE), NO_NODE)
    data = pack_part(4, pack_bytes(b"xyz") + pack_stat(BEFORE))
    children = pack_part(8, struct.pack(">i", 2) + pack_bytes(b"c") + pack_bytes(b"dd"))
    for each in every_spoiling(HEADER + pack_parts([data, absent, data])):
        agree_on_data(compiled, column, each)
    for each in every_spoiling(HEADER + pack_parts([children, absent, children])):
        agree_on_children(compiled, column, each, frozenset({b"/c"}))
    reply = pack_acl(OPEN_ACL) + pack_stat(BEFORE)
    frames = pack_reply(5, 9, 0, reply) + pack_reply(6, 9, NO_NODE, b"") + pack_reply(7, 9, 0, reply)
    pins = array("q", (1, 1, 1)), array("i", (7, 7, 7))
    for each in every_spoiling(frames):
        agree_on_acls(compiled, column, each, pins)
        assert compiled.take_frames(each, 0, 5, 3) == bulk_plain.take_frames(each, 0, 5, 3)


# -- frames in a row --------------------------------------------------------------------------------------------------


@given(RANDOM, st.sampled_from([1, 7, 2**31 - 4]))
def test_frames_are_taken_alike(random: random.Random, xid: int) -> None:
    """Replies in a row, the fourth of another xid; watch events, pings and the end of the session between them."""
    stream, taken, is_over = b"", 0, False
    for n in range(4):
        stray = random.choice((None, None, None, -1, -2))
        if stray is not None:
            is_over = True
            stream += pack_reply(stray, -1, 0, struct.pack(">ii", 3, 3) + pack_bytes(b"/a"))
        error = random.choice((0, 0, 0, NO_NODE, EXPIRED))
        is_over = is_over or error == EXPIRED
        taken += not is_over
        stream += pack_reply(
            xid + n if n < 3 else 1, random.choice(INT64), error, random.randbytes(random.randint(0, 9))
        )
    count = random.randint(0, 4)
    found = bulk_plain.take_frames(stream, 0, xid, count)
    assert compiled.take_frames(memoryview(stream), 0, xid, count) == found
    assert found[1] == min(taken, count, 3)
    for noise in (stream, spoiled(random, stream)):
        start = random.randint(0, len(noise))
        assert compiled.take_frames(noise, start, xid, count) == bulk_plain.take_frames(noise, start, xid, count)


@BOTH
def test_a_frame_is_taken_only_when_it_is_whole(codec: Any) -> None:
    """Cut at each byte: never more frames than are there, and always to the end of one."""
    frames = [pack_reply(7 + n, 10 - n, 0, bytes(n)) for n in range(3)]
    whole, ends = b"".join(frames), [sum(map(len, frames[:n])) for n in range(4)]
    for stop in range(len(whole) + 1):
        there = sum(end <= stop for end in ends) - 1
        expected = ends[there], there, max([0, *(10 - n for n in range(there))])
        assert codec.take_frames(whole[:stop], 0, 7, 3) == expected


# -- what was read, rescans -------------------------------------------------------------------------------------------


@given(RANDOM, st.integers(0, 9))
def test_surveys_agree(random: random.Random, count: int) -> None:
    stats = stats_columns([a_stat(random) for _ in range(count)])
    first = random.randint(0, count)
    inner, odd, newest = bulk_plain.survey(stats, first)
    assert compiled.survey(stats, first) == (inner, odd, newest)
    assert [each.typecode for each in compiled.survey(stats, first)[:2]] == ["i", "i"]


@given(RANDOM, st.integers(0, 9), st.integers(1, 6))
def test_what_is_known_is_matched_alike(random: random.Random, count: int, known_count: int) -> None:
    known = [a_stat(random) for _ in range(known_count)]
    origins = array("i", (random.randrange(known_count) for _ in range(count)))
    now = [known[origin] if random.random() < 0.6 else a_stat(random) for origin in origins]
    fields = ("cversion", "aversion", "num_children", "pzxid", "czxid")
    now = [
        each._replace(**{random.choice(fields): random.choice(INT32)}) if random.random() < 0.4 else each
        for each in now
    ]
    known_ids, acl_map = array("I", (random.randrange(3) for _ in known)), array("I", (5, 2**32 - 1, 0))
    first = random.randint(0, count)
    ids, other_ids = array("I", [7]) * count, array("I", [7]) * count
    shared = first, origins, stats_columns(now), stats_columns(known)
    expected = bulk_plain.match_known(*shared, ids, known_ids, acl_map)
    assert compiled.match_known(*shared, other_ids, known_ids, acl_map) == expected
    assert other_ids == ids


@given(st.lists(st.integers(-1, 5), max_size=12), st.lists(st.integers(-1, 4), min_size=6, max_size=9))
def test_miscounted_nodes_agree(parents: list[int], num_children: list[int]) -> None:
    arguments = array("i", parents), array("i", num_children)
    expected = bulk_plain.miscounted(*arguments)
    assert compiled.miscounted(*arguments) == expected
    assert list(expected) == [n for n, want in enumerate(num_children) if parents.count(n) != want]
