"""Hypothesis strategies for requests and the replies that a server could give them, with the bytes it would send.

The bytes are put together here with struct alone, apart from the code under test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st

from zkmig.model.acl import OPEN_ACL, Acl, AclList, Identity
from zkmig.model.stat import Stat
from zkmig.wire import replies as rp
from zkmig.wire import requests as rq

INT = st.integers(-(2**31), 2**31 - 1)
LONG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PATHS = TEXT.map(lambda text: "/" + text)
DATA = st.none() | st.binary(max_size=40)
STATS = st.builds(Stat, LONG, LONG, LONG, LONG, INT, INT, INT, LONG, INT, INT, LONG)
WORDS = TEXT.filter(bool)  # an ACL never holds an empty scheme, and kazoo writes an empty string as null
ACLS: st.SearchStrategy[AclList] = st.just(OPEN_ACL) | st.lists(st.builds(Acl, INT, WORDS, WORDS), max_size=3).map(
    tuple
)

WRITE_OPS: st.SearchStrategy[rq.WriteOp] = st.one_of(
    st.builds(rq.Create, PATHS, DATA, ACLS, INT),
    st.builds(rq.Create2, PATHS, DATA, ACLS, INT),
    st.builds(rq.CreateContainer, PATHS, DATA, ACLS),
    st.builds(rq.CreateTtl, PATHS, DATA, ACLS, LONG),
    st.builds(rq.Delete, PATHS, INT),
    st.builds(rq.SetData, PATHS, DATA, INT),
    st.builds(rq.Check, PATHS, INT),
)
PART_READS: st.SearchStrategy[rq.GetData | rq.GetChildren] = st.builds(rq.GetData, PATHS) | st.builds(
    rq.GetChildren, PATHS
)
MULTIS = st.lists(WRITE_OPS, max_size=5).map(lambda ops: rq.Multi(tuple(ops)))
MULTI_READS = st.lists(PART_READS, max_size=5).map(lambda reads: rq.MultiRead(tuple(reads)))
REQUESTS: st.SearchStrategy[rq.Read | rq.Write] = st.one_of(
    st.builds(rq.GetData, PATHS, st.booleans()),
    st.builds(rq.Exists, PATHS, st.booleans()),
    st.builds(rq.GetChildren, PATHS, st.booleans()),
    st.builds(rq.GetChildren2, PATHS, st.booleans()),
    st.builds(rq.GetAcl, PATHS),
    st.builds(rq.Sync, PATHS),
    st.builds(rq.AddWatch, PATHS, st.integers(0, 1)),
    st.builds(rq.RemoveWatches, PATHS),
    st.builds(rq.GetAllChildrenNumber, PATHS),
    st.builds(rq.WhoAmI),
    st.builds(rq.SetAcl, PATHS, ACLS, INT),
    WRITE_OPS.filter(lambda op: not isinstance(op, rq.Check)),
    MULTIS,
    MULTI_READS,
)


class Exchange(NamedTuple):
    """A request, the result it gets, and the bytes of that result after the reply header."""

    request: rq.Read | rq.Write
    result: rp.Result
    body: bytes


def pack_bytes(data: bytes | None) -> bytes:
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def pack_text(text: str) -> bytes:
    return pack_bytes(text.encode())


def pack_texts(texts: list[str]) -> bytes:
    return struct.pack(">i", len(texts)) + b"".join(map(pack_text, texts))


def pack_stat(stat: Stat) -> bytes:
    return struct.pack(">qqqqiiiqiiq", *stat)


def pack_acl(acl: AclList) -> bytes:
    entries = [struct.pack(">i", one.perms) + pack_text(one.scheme) + pack_text(one.id) for one in acl]
    return struct.pack(">i", len(acl)) + b"".join(entries)


def pack_part(kind: int, body: bytes, error: int = 0) -> bytes:
    return struct.pack(">i?i", kind, False, error) + body


def pack_parts(parts: list[bytes]) -> bytes:
    return b"".join(parts) + struct.pack(">i?i", -1, True, -1)


def pack_reply(xid: int, zxid: int, error: int, body: bytes) -> bytes:
    """A whole frame, with its length."""
    return struct.pack(">iiqi", 16 + len(body), xid, zxid, error) + body


def pack_welcome(session_id: int, timeout_ms: int, password: bytes = b"p" * 16, tail: bytes = b"\0") -> bytes:
    """The server's first frame; tail: its readOnly byte."""
    body = struct.pack(">iiq", 0, timeout_ms, session_id) + pack_bytes(password) + tail
    return struct.pack(">i", len(body)) + body


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """A request and an answer without error code (parts of a multiRead may have one; a multi may have failed)."""
    request = draw(REQUESTS)
    result, body = _answer(draw, request)
    return Exchange(request, result, body)


def _answer(draw: st.DrawFn, request: rq.Read | rq.Write) -> tuple[rp.Result, bytes]:
    match request:
        case rq.GetData():
            return _data(draw)
        case rq.GetChildren():
            return _children(draw)
        case rq.GetChildren2():
            children, stat = draw(st.lists(TEXT, max_size=4)), draw(STATS)
            return rp.Children2Result(children, stat), pack_texts(children) + pack_stat(stat)
        case rq.GetAcl():
            acl, stat = draw(ACLS), draw(STATS)
            return rp.AclResult(acl, stat), pack_acl(acl) + pack_stat(stat)
        case rq.Exists() | rq.SetData() | rq.SetAcl():
            stat = draw(STATS)
            return rp.StatResult(stat), pack_stat(stat)
        case rq.Sync():
            path = draw(PATHS)
            return rp.PathResult(path), pack_text(path)
        case rq.AddWatch():
            return rp.DONE, struct.pack(">i", 0)
        case rq.GetAllChildrenNumber():
            count = draw(INT)
            return rp.CountResult(count), struct.pack(">i", count)
        case rq.RemoveWatches():
            return rp.DONE, b""
        case rq.WhoAmI():
            names = draw(st.lists(st.builds(Identity, TEXT, TEXT), max_size=3))
            packed = [pack_text(one.scheme) + pack_text(one.id) for one in names]
            return rp.IdentitiesResult(tuple(names)), struct.pack(">i", len(names)) + b"".join(packed)
        case rq.Create():
            path = draw(PATHS)
            return rp.CreateResult(path), pack_text(path)
        case rq.Create2() | rq.CreateContainer() | rq.CreateTtl():
            path, stat = draw(PATHS), draw(STATS)
            return rp.CreateResult(path, stat), pack_text(path) + pack_stat(stat)
        case rq.Delete():
            return rp.DONE, b""
        case rq.Multi(operations):
            fails = bool(operations) and draw(st.booleans())
            return _failed_multi(draw, tuple(operations)) if fails else _multi(draw, tuple(operations))
        case rq.MultiRead(reads):
            return _multi_read(draw, reads)


def _data(draw: st.DrawFn) -> tuple[rp.DataResult, bytes]:
    data, stat = draw(DATA), draw(STATS)
    return rp.DataResult(data, stat), pack_bytes(data) + pack_stat(stat)


def _children(draw: st.DrawFn) -> tuple[rp.ChildrenResult, bytes]:
    children = draw(st.lists(TEXT, max_size=4))
    return rp.ChildrenResult(children), pack_texts(children)


def _multi(draw: st.DrawFn, operations: tuple[rq.WriteOp, ...]) -> tuple[rp.MultiResult, bytes]:
    results: list[rp.OperationResult] = []
    parts: list[bytes] = []
    for operation in operations:
        path, stat = draw(PATHS), draw(STATS)
        match operation:
            case rq.Create():
                results.append(rp.CreateResult(path))
                parts.append(pack_part(1, pack_text(path)))
            case rq.Create2() | rq.CreateContainer() | rq.CreateTtl():
                results.append(rp.CreateResult(path, stat))
                parts.append(pack_part(15, pack_text(path) + pack_stat(stat)))
            case rq.SetData():
                results.append(rp.StatResult(stat))
                parts.append(pack_part(5, pack_stat(stat)))
            case rq.Delete() | rq.Check():
                results.append(rp.DONE)
                parts.append(pack_part(operation.opcode, b""))
    return rp.MultiResult(tuple(results)), pack_parts(parts)


def _failed_multi(draw: st.DrawFn, operations: tuple[rq.WriteOp, ...]) -> tuple[rp.MultiResult, bytes]:
    failed = draw(st.integers(0, len(operations) - 1))
    code = draw(st.sampled_from([-101, -103, -110, -111, -999]))
    codes = [0] * failed + [code] + [-2] * (len(operations) - failed - 1)
    parts = [pack_part(-1, struct.pack(">i", each), each) for each in codes]
    return rp.MultiResult(tuple(map(rp.SubError, codes))), pack_parts(parts)


def _multi_read(draw: st.DrawFn, reads: tuple[rq.GetData | rq.GetChildren, ...]) -> tuple[rp.MultiReadResult, bytes]:
    results: list[rp.ReadResult] = []
    parts: list[bytes] = []
    for read in reads:
        answer: Callable[[st.DrawFn], tuple[rp.DataResult | rp.ChildrenResult, bytes]]
        answer = _data if isinstance(read, rq.GetData) else _children
        if draw(st.booleans()):
            result, body = answer(draw)
            results.append(result)
            parts.append(pack_part(read.opcode, body))
        else:
            results.append(rp.SubError(-101))
            parts.append(pack_part(-1, struct.pack(">i", -101), -101))
    return rp.MultiReadResult(tuple(results)), pack_parts(parts)
