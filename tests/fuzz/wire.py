"""Decoders of what a server sends."""

from __future__ import annotations

import contextlib
import random
import struct
from array import array
from types import ModuleType
from unittest import mock

from tests.bulk_twins import agree_on_acls, agree_on_children, agree_on_data
from tests.bulk_values import (
    ACLS,
    Asked,
    a_stat,
    acl_reply,
    asked,
    children_reply,
    data_reply,
    some_data,
)
from tests.fuzz.target import Target, compiled_module
from tests.wire_values import (
    pack_acl,
    pack_bytes,
    pack_part,
    pack_parts,
    pack_reply,
    pack_stat,
    pack_texts,
    pack_welcome,
)
from zkmig.model.acl import OPEN_ACL
from zkmig.model.stat import Stat
from zkmig.wire import bulk_plain, packed
from zkmig.wire import requests as rq
from zkmig.wire import session as session_module
from zkmig.wire.jute import Decoder, JuteError, encode_int
from zkmig.wire.replies import decode_result
from zkmig.wire.session import Answered, Broken, Event, Session, State

# -- replies ----------------------------------------------------------------------------------------------------------


def _a_request(random: random.Random) -> rq.Read | rq.Write:
    operations = (
        rq.Create("/a", b"", OPEN_ACL), rq.Create2("/a", b"", OPEN_ACL), rq.SetData("/a", b"", 1), rq.Delete("/a", 1),
        rq.Check("/a", 1), rq.CreateContainer("/a", None, OPEN_ACL),
    )  # fmt: skip
    some = tuple(random.choices(operations, k=random.randint(0, 4)))
    opcodes = bytes(operation.opcode for operation in some)
    return random.choice(
        (
            rq.GetData("/a"), rq.Exists("/a"), rq.GetChildren("/a"), rq.GetChildren2("/a"), rq.GetAcl("/a"),
            rq.Sync("/a"), rq.WhoAmI(), rq.AddWatch("/a", 0), rq.RemoveWatches("/a"), rq.SetData("/a", b"", 0),
            rq.SetAcl("/a", OPEN_ACL, 0), rq.Create("/a", b"", OPEN_ACL), rq.Create2("/a", b"", OPEN_ACL),
            rq.Delete("/a", 0), rq.Multi(some), rq.Multi(some),
            rq.Multi(packed.PackedOperations(rq.encode_parts(some), opcodes, lambda: some)),
            rq.MultiRead((rq.GetData("/a"), rq.GetChildren("/b"), rq.GetData("/"))),
        )
    )  # fmt: skip


def _a_body(request: rq.Read | rq.Write, draw: random.Random) -> bytes:
    """What a server could answer, or nearly: the parts in an order that fits the request."""
    data, stat = pack_bytes(some_data(draw)), pack_stat(a_stat(draw))
    names, acl = pack_texts(draw.choices(("a", "é", "", "a/b"), k=2)), pack_acl(draw.choice(ACLS))
    match request:
        case rq.GetData():
            return data + stat
        case rq.Exists() | rq.SetData() | rq.SetAcl():
            return stat
        case rq.GetChildren():
            return names
        case rq.GetChildren2():
            return names + stat
        case rq.GetAcl():
            return acl + stat
        case rq.Sync() | rq.Create():
            return pack_bytes(b"/a")
        case rq.Create2():
            return pack_bytes(b"/a") + stat
        case rq.WhoAmI():
            return encode_int(2) + pack_texts(["a", "b"])[4:] * 2
        case rq.AddWatch():
            return encode_int(draw.choice((0, 0, -4)))
        case rq.MultiRead():
            return pack_parts([pack_part(4, data + stat), pack_part(8, names), pack_part(-1, encode_int(-101))])
        case rq.Multi(operations):
            bodies = {1: pack_bytes(b"/a"), 5: stat, 2: b"", 13: b""}
            kinds = [operation.opcode for operation in operations]
            if draw.random() < 0.3:
                return pack_parts([pack_part(-1, encode_int(-2), -2) for _ in kinds])
            return pack_parts(
                [
                    pack_part(15, pack_bytes(b"/a") + stat) if kind not in bodies else pack_part(kind, bodies[kind])
                    for kind in kinds
                ]
            )
    return b""


def _check_reply(random: random.Random, raw: bytes) -> None:
    request = _a_request(random)
    with contextlib.suppress(JuteError):
        decode_result(request, Decoder(raw))
    encode = compiled_module("encode")
    if encode is not None and isinstance(request, rq.Multi):
        opcodes = bytes(operation.opcode for operation in request.operations)
        assert encode.all_applied(raw, 0, opcodes) == packed.all_applied(raw, 0, opcodes)


# -- bulk reads -------------------------------------------------------------------------------------------------------


def _check_data(random: random.Random, raw: bytes) -> None:
    agree_on_data(compiled_module("bulk") or bulk_plain, asked(random), raw)


def _check_children(random: random.Random, raw: bytes) -> None:
    agree_on_children(compiled_module("bulk") or bulk_plain, asked(random), raw, frozenset({b"/a", b"/a/b", b"/b/a"}))


def _acl_question(random: random.Random) -> tuple[Asked, tuple[array[int], array[int]], list[Stat]]:
    column = asked(random)
    stats = [a_stat(random) for _ in range(len(column.offsets) - 1)]
    return column, (array("q", (s.czxid for s in stats)), array("i", (s.aversion for s in stats))), stats


def _make_acls(random: random.Random, draw: random.Random) -> bytes:
    column, _, stats = _acl_question(random)
    return b"".join(acl_reply(draw, 1 + n, stats[node]) for n, node in enumerate(column.nodes))


def _check_acls(random: random.Random, raw: bytes) -> None:
    column, pins, _ = _acl_question(random)
    agree_on_acls(compiled_module("bulk") or bulk_plain, column, raw, pins)
    compiled = compiled_module("bulk") or bulk_plain
    for start in {0, min(1, len(raw)), len(raw)}:
        assert compiled.take_frames(raw, start, 1, 9) == bulk_plain.take_frames(raw, start, 1, 9)


# -- the session ------------------------------------------------------------------------------------------------------


def _submitted(random: random.Random) -> list[rq.Read | rq.Write | rq.Bulk]:
    requests: list[rq.Read | rq.Write | rq.Bulk] = []
    for _ in range(random.randint(0, 4)):
        column = asked(random, nodes_min=1)
        requests.append(
            random.choice((rq.GetAclMany(*column), rq.ReadMany(*column, rq.OP_GET_DATA), _a_request(random)))
        )
    return requests


def _make_stream(random: random.Random, draw: random.Random) -> bytes:
    xid, frames = 1, [pack_welcome(7, draw.choice((4_000, 4_000, 4_000, 0)))]
    for request in _submitted(_again(random.getrandbits(32))):
        if draw.random() < 0.2:
            frames.append(pack_reply(-1, -1, 0, struct.pack(">ii", 3, 3) + pack_bytes(b"/a")))
        if isinstance(request, rq.GetAclMany):
            frames += [acl_reply(draw, xid + n) for n in range(len(request.nodes))]
            xid += len(request.nodes)
            continue
        if isinstance(request, rq.ReadMany):
            body = data_reply(draw, Asked(bytes(request.paths), request.offsets, request.nodes))[16:]
        else:
            body = _a_body(request, draw)
        frames.append(pack_reply(xid, draw.randint(0, 99), draw.choice((0, 0, 0, -101, -112)), body))
        xid += 1
    return b"".join(frames)


def _events(codec: ModuleType, seed: int, raw: bytes, size: int) -> tuple[list[str], int]:
    # What a session makes of a stream that comes in pieces of this size, and how many requests are left.
    def chosen() -> ModuleType:  # a mock would take longer than the rest
        return codec

    with mock.patch.object(session_module, "codec", chosen), mock.patch.object(rq, "codec", chosen):
        session = Session(timeout_ms=10_000)
        session.open()
        welcome = len(pack_welcome(7, 0))
        events = session.feed(raw[:welcome])
        if session.state is State.CONNECTED:
            for request in _submitted(_again(seed)):
                session.submit(request)
            session.ping()
        events += [event for at in range(welcome, len(raw), size) for event in session.feed(raw[at : at + size])]
        assert not any(isinstance(event, Broken) for event in events[:-1])
        return [_told(event) for event in events], len(session.end())


def _told(event: Event) -> str:
    # Requests of many nodes are equal only to themselves; the zxid of their answer is that of the piece that came last.
    if isinstance(event, Answered):
        return repr((event.request.operation, event.reply._replace(zxid=0)))
    return repr(event)


def _check_session(random: random.Random, raw: bytes) -> None:
    seed, compiled = random.getrandbits(32), compiled_module("bulk") or bulk_plain
    whole = _events(bulk_plain, seed, raw, len(raw) or 1)
    for codec, size in ((compiled, len(raw) or 1), (compiled, 61), (bulk_plain, 61), (compiled, 7)):
        assert _events(codec, seed, raw, size) == whole


def _again(seed: int) -> random.Random:
    return random.Random(seed)


TARGETS = {
    "reply": Target(lambda random, draw: _a_body(_a_request(random), draw), _check_reply),
    "bulk data": Target(lambda random, draw: data_reply(draw, asked(random)), _check_data),
    "bulk children": Target(lambda random, draw: children_reply(draw, asked(random)), _check_children),
    "bulk ACLs and frames": Target(_make_acls, _check_acls),
    "session": Target(_make_stream, _check_session),
}
