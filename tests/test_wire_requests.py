"""Requests: their sizes are exact without encoding, and their bytes are those that ZooKeeper's clients send.

Method: generated requests, compared with kazoo's encoder, which is independent of ours, where kazoo has the request.
"""

from __future__ import annotations

import importlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kazoo.security import ACL, Id

from tests.wire_values import ACLS, DATA, INT, MULTI_READS, MULTIS, PATHS, REQUESTS, WRITE_OPS
from zkmig.model.acl import OPEN_ACL, AclList
from zkmig.wire import requests as rq

kazoo = importlib.import_module("kazoo.protocol.serialization")


@given(REQUESTS, st.integers(1, 2**31 - 1))
def test_frame_sizes_are_exact(request_: rq.Read | rq.Write, xid: int) -> None:
    """frame_size equals the length of the encoded frame, which begins with it, the xid and the opcode."""
    frame = rq.encode(request_, xid)
    assert rq.frame_size(request_) == len(frame) - 4
    assert struct.unpack_from(">iii", frame) == (len(frame) - 4, xid, request_.opcode)


@given(MULTIS | MULTI_READS)
def test_a_multi_is_its_parts_and_the_overhead(multi: rq.Multi | rq.MultiRead) -> None:
    """What a batch is cut by: each part's size, and MULTI_OVERHEAD once."""
    parts = multi.operations if isinstance(multi, rq.Multi) else multi.reads
    assert rq.frame_size(multi) == rq.MULTI_OVERHEAD + sum(rq.operation_size(part) for part in parts)


@given(PATHS, DATA)
def test_the_published_size_formulas_hold(path: str, data: bytes | None) -> None:
    """create 48, setData 21, delete and check 17, each with path and data; the frame 17 (world:anyone ACL)."""
    size = len(path.encode()) + len(data or b"")
    assert rq.MULTI_OVERHEAD == 17
    assert rq.operation_size(rq.Create(path, data, OPEN_ACL)) == 48 + size
    assert rq.operation_size(rq.CreateContainer(path, data, OPEN_ACL)) == 48 + size
    assert rq.operation_size(rq.CreateTtl(path, data, OPEN_ACL, 1)) == 56 + size
    assert rq.operation_size(rq.SetData(path, data, 0)) == 21 + size
    assert rq.operation_size(rq.Delete(path, 0)) == rq.operation_size(rq.Check(path, 0)) == 17 + len(path.encode())


@given(PATHS, DATA, ACLS, INT)
def test_records_are_those_of_kazoo(path: str, data: bytes | None, acl: AclList, number: int) -> None:
    """Every request that kazoo knows has the same record there."""
    kazoo_acl = [ACL(one.perms, Id(one.scheme, one.id)) for one in acl]
    pairs: list[tuple[rq.Request, object]] = [
        (rq.Create(path, data, acl, number), kazoo.Create(path, data, kazoo_acl, number)),
        (rq.Create2(path, data, acl, number), kazoo.Create2(path, data, kazoo_acl, number)),
        (rq.Delete(path, number), kazoo.Delete(path, number)),
        (rq.SetData(path, data, number), kazoo.SetData(path, data, number)),
        (rq.SetAcl(path, acl, number), kazoo.SetACL(path, kazoo_acl, number)),
        (rq.GetData(path, True), kazoo.GetData(path, True)),
        (rq.Exists(path), kazoo.Exists(path, None)),
        (rq.GetChildren(path), kazoo.GetChildren(path, None)),
        (rq.GetChildren2(path), kazoo.GetChildren2(path, None)),
        (rq.GetAcl(path), kazoo.GetACL(path)),
        (rq.Sync(path), kazoo.Sync(path)),
        (rq.Auth("digest", b"me:pw"), kazoo.Auth(0, "digest", "me:pw")),
        (rq.Ping(), kazoo.PingInstance),
        (rq.CloseSession(), kazoo.CloseInstance),
    ]
    for ours, theirs in pairs:
        assert ours.record() == bytes(theirs.serialize())  # type: ignore[attr-defined]  # kazoo is untyped here
        assert ours.opcode == theirs.type  # type: ignore[attr-defined]  # kazoo is untyped here


@given(st.lists(WRITE_OPS, max_size=5))
def test_multis_are_those_of_kazoo(operations: list[rq.WriteOp]) -> None:
    """A multi of the operations that kazoo knows is the same there."""
    known = [op for op in operations if not isinstance(op, rq.CreateContainer | rq.CreateTtl)]
    assert rq.Multi(tuple(known)).record() == bytes(kazoo.Transaction([_of_kazoo(op) for op in known]).serialize())


def _of_kazoo(operation: rq.WriteOp) -> object:
    match operation:
        case rq.Create(path, data, acl, flags) | rq.Create2(path, data, acl, flags):
            entries = [ACL(one.perms, Id(one.scheme, one.id)) for one in acl]
            return (kazoo.Create if isinstance(operation, rq.Create) else kazoo.Create2)(path, data, entries, flags)
        case rq.SetData(path, data, version):
            return kazoo.SetData(path, data, version)
        case rq.Delete(path, version):
            return kazoo.Delete(path, version)
        case rq.Check(path, version):
            return kazoo.CheckVersion(path, version)
        case _:
            raise AssertionError(operation)


def test_container_and_ttl_records() -> None:
    """What kazoo lacks, by hand: flags 4 and 5, and the TTL as a long at the end (zookeeper.jute)."""
    start = struct.pack(">i2si", 2, b"/c", -1) + struct.pack(">iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
    assert rq.CreateContainer("/c", None, OPEN_ACL).record() == start + struct.pack(">i", 4)
    assert rq.CreateTtl("/c", None, OPEN_ACL, 60_000).record() == start + struct.pack(">iq", 5, 60_000)
    assert (rq.CreateContainer.opcode, rq.CreateTtl.opcode) == (19, 21)


def test_requests_of_two_kinds_are_never_equal() -> None:
    """The same fields in another request are another request: a delete is no check."""
    same_fields: list[rq.Request | rq.Check] = [rq.Delete("/a", 1), rq.Check("/a", 1)]
    assert same_fields[0] != same_fields[1]
    assert len({*same_fields, rq.Delete("/a", 1)}) == 2


def test_only_what_changes_the_tree_counts_as_a_write() -> None:
    """`writes` decides whether a lost answer means an unknown outcome."""
    assert rq.Multi(()).writes
    assert rq.SetAcl("/", OPEN_ACL, 0).writes
    assert not rq.MultiRead(()).writes
    assert not rq.Sync("/").writes


@pytest.mark.parametrize("show", [repr, str])
def test_a_secret_is_not_shown(show: object) -> None:
    """An auth request in a log or a traceback does not tell the password."""
    assert callable(show)
    assert "hunter2" not in show(rq.Auth("digest", b"me:hunter2"))
