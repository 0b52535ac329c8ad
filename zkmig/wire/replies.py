"""Replies as values, decoded by the request that they answer: a reply's bytes do not say what they are.

A Reply pairs the stamp (zxid of the state it was read from) with an error code or a result. In the reply to a multi
every part names its own type, which must be the one that its operation calls for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zkmig.model.acl import AclList, Identity
from zkmig.model.stat import Stat
from zkmig.wire import requests as rq
from zkmig.wire.codes import Code, ServerError, error_for
from zkmig.wire.jute import STAT_BYTES, Decoder, JuteError
from zkmig.wire.packed import PackedOperations, judge


class DataResult(NamedTuple):
    """data: None where the node's data is null."""

    data: bytes | None
    stat: Stat


class ChildrenResult(NamedTuple):
    """children: names, in no order."""

    children: list[str]


class Children2Result(NamedTuple):
    """children: names, in no order; stat: the parent's."""

    children: list[str]
    stat: Stat


class CountResult(NamedTuple):
    """Of getAllChildrenNumber."""

    number: int


class AclResult(NamedTuple):
    """acl and aversion (in stat) belong together."""

    acl: AclList
    stat: Stat


class StatResult(NamedTuple):
    """Of exists, setData and setACL."""

    stat: Stat


class CreateResult(NamedTuple):
    """path: as created, number included; stat: None where the server sends none (create; in a multi also create2)."""

    path: str
    stat: Stat | None = None


class PathResult(NamedTuple):
    """Of sync."""

    path: str


class IdentitiesResult(NamedTuple):
    """Of whoAmI. For digest, `id` is the user's name alone."""

    identities: tuple[Identity, ...]


class RawResult(NamedTuple):
    """Of a bulk read, as it came. ReadMany: its frame without the length. GetAclMany: all frames, with lengths."""

    received: bytes


class SubError(NamedTuple):
    """A part that failed, or was not tried (RuntimeInconsistency), or was undone since a later one failed (Ok)."""

    code: int


@dataclass(frozen=True, slots=True)
class Done:
    """Answers that carry nothing: delete, check, addWatch, closeSession. (No tuple: an empty one would be falsy.)"""


DONE = Done()

OperationResult = CreateResult | StatResult | Done | SubError
ReadResult = DataResult | ChildrenResult | SubError


class MultiResult(NamedTuple):
    """One result for each operation. If one failed, all are SubErrors: nothing was applied.

    Of PackedOperations that were applied there are no results.
    """

    results: tuple[OperationResult, ...]

    @property
    def failed_index(self) -> int | None:
        """Which operation failed, from 0; None when all were applied."""
        return next((i for i, r in enumerate(self.results) if isinstance(r, SubError) and r.code != Code.OK), None)

    @property
    def code(self) -> int:
        """The code of the operation that failed; 0 when all were applied."""
        return next((r.code for r in self.results if isinstance(r, SubError) and r.code != Code.OK), 0)


class MultiReadResult(NamedTuple):
    """One result for each read; a SubError concerns that part alone."""

    results: tuple[ReadResult, ...]


Result = (
    DataResult
    | ChildrenResult
    | Children2Result
    | CountResult
    | AclResult
    | StatResult
    | CreateResult
    | PathResult
    | IdentitiesResult
    | Done
    | MultiResult
    | MultiReadResult
    | RawResult
)


class Reply(NamedTuple):
    """The answer to one request.

    zxid: of the state that the answer was read from. error: 0, or the server's code; for a multi whose operations
    failed, that of the failed operation, so that ``error == 0`` always means that the request was carried out.
    result: None on error, but a failed multi keeps its MultiResult.
    """

    xid: int
    zxid: int
    error: int
    result: Result | None


def failure(request: rq.Request | rq.Bulk, reply: Reply) -> ServerError | None:
    """The error that a reply carries, naming path and operation; None if it carries none."""
    if reply.error == Code.OK:
        return None
    if isinstance(request, rq.Multi) and isinstance(reply.result, MultiResult):
        index = reply.result.failed_index
        if index is not None:
            part = request.operations[index]
            return error_for(reply.error, part.path, part.operation, index)
    return error_for(reply.error, request.path, request.operation)


def decode_result(request: rq.Request | rq.ReadMany, decoder: Decoder) -> Result:
    """The result that follows a reply header without error. Raises JuteError, also for bytes left over."""
    if isinstance(request, rq.ReadMany):
        assert isinstance(decoder.buffer, bytes)
        return RawResult(decoder.buffer)
    result = _DECODERS[request.opcode](request, decoder)
    decoder.expect_end()
    return result


def _data(_: rq.Request, decoder: Decoder) -> DataResult:
    return DataResult(decoder.read_buffer(), decoder.read_stat())


def _children(_: rq.Request, decoder: Decoder) -> ChildrenResult:
    return ChildrenResult(decoder.read_strings())


def _children2(_: rq.Request, decoder: Decoder) -> Children2Result:
    return Children2Result(decoder.read_strings(), decoder.read_stat())


def _count(_: rq.Request, decoder: Decoder) -> CountResult:
    return CountResult(decoder.read_int())


def _acl(_: rq.Request, decoder: Decoder) -> AclResult:
    return AclResult(decoder.read_acl_before(STAT_BYTES), decoder.read_stat())


def _stat(_: rq.Request, decoder: Decoder) -> StatResult:
    return StatResult(decoder.read_stat())


def _created(_: rq.Request, decoder: Decoder) -> CreateResult:
    return CreateResult(decoder.read_string())


def _created2(_: rq.Request, decoder: Decoder) -> CreateResult:
    return CreateResult(decoder.read_string(), decoder.read_stat())


def _path(_: rq.Request, decoder: Decoder) -> PathResult:
    return PathResult(decoder.read_string())


def _identities(_: rq.Request, decoder: Decoder) -> IdentitiesResult:
    count = decoder.read_count("identities", 8)
    return IdentitiesResult(tuple([Identity(decoder.read_string(), decoder.read_string()) for _ in range(count)]))


def _nothing(_: rq.Request, __: Decoder) -> Done:
    return DONE


def _watch_added(_: rq.Request, decoder: Decoder) -> Done:
    offset = decoder.offset
    error = decoder.read_int()
    if error != Code.OK:  # addWatch answers with an ErrorResponse(0) when it worked
        raise JuteError(f"addWatch answered with error {error} in its body", offset)
    return DONE


# A create may be answered with or without a Stat, whichever kind was asked: 3.8 carries out a create2 in a multi as a
# create (MultiOperationRecord.deserialize), and the answers to container and TTL creates call themselves create2.
_CREATED = frozenset({rq.OP_CREATE, rq.OP_CREATE2})
_PART_TYPES = {
    rq.OP_CREATE: _CREATED,
    rq.OP_CREATE2: _CREATED,
    rq.OP_CREATE_CONTAINER: _CREATED,
    rq.OP_CREATE_TTL: _CREATED,
    rq.OP_DELETE: frozenset({rq.OP_DELETE}),
    rq.OP_SET_DATA: frozenset({rq.OP_SET_DATA}),
    rq.OP_CHECK: frozenset({rq.OP_CHECK}),
}


def _multi(request: rq.Request, decoder: Decoder) -> MultiResult:
    assert isinstance(request, rq.Multi)
    if isinstance(request.operations, PackedOperations):
        assert isinstance(decoder.buffer, bytes)
        if judge()(decoder.buffer, decoder.offset, request.operations.opcodes):
            decoder.offset = decoder.end
            return MultiResult(())
    results: list[OperationResult] = []
    for part in request.operations:
        offset = decoder.offset
        kind, done, _ = decoder.read_multi_header()
        if done:
            raise _short(len(results), request.operations, offset)
        if kind == rq.OP_ERROR:
            results.append(SubError(decoder.read_int()))
        elif kind not in _PART_TYPES[part.opcode]:
            raise JuteError(f"part of type {kind} answers {part.operation}", offset)
        elif kind == rq.OP_CREATE:
            results.append(CreateResult(decoder.read_string()))
        elif kind == rq.OP_CREATE2:
            results.append(CreateResult(decoder.read_string(), decoder.read_stat()))
        elif kind == rq.OP_SET_DATA:
            results.append(StatResult(decoder.read_stat()))
        else:
            results.append(DONE)
    _read_last_part(decoder)
    return MultiResult(tuple(results))


def _multi_read(request: rq.Request, decoder: Decoder) -> MultiReadResult:
    assert isinstance(request, rq.MultiRead)
    results: list[ReadResult] = []
    for part in request.reads:
        offset = decoder.offset
        kind, done, _ = decoder.read_multi_header()
        if done:
            raise _short(len(results), request.reads, offset)
        if kind == rq.OP_ERROR:
            results.append(SubError(decoder.read_int()))
        elif kind != part.opcode:
            raise JuteError(f"part of type {kind} answers {part.operation}", offset)
        elif kind == rq.OP_GET_DATA:
            results.append(DataResult(decoder.read_buffer(), decoder.read_stat()))
        else:
            results.append(ChildrenResult(decoder.read_strings()))
    _read_last_part(decoder)
    return MultiReadResult(tuple(results))


def _short(count: int, parts: Sequence[object], offset: int) -> JuteError:
    return JuteError(f"reply to {len(parts)} parts ends after {count}", offset)


def _read_last_part(decoder: Decoder) -> None:
    offset = decoder.offset
    if not decoder.read_multi_header()[1]:
        raise JuteError("reply has more parts than the request", offset)


_DECODERS: dict[int, Callable[[rq.Request, Decoder], Result]] = {
    rq.OP_CREATE: _created,
    rq.OP_CREATE2: _created2,
    rq.OP_CREATE_CONTAINER: _created2,
    rq.OP_CREATE_TTL: _created2,
    rq.OP_DELETE: _nothing,
    rq.OP_EXISTS: _stat,
    rq.OP_GET_DATA: _data,
    rq.OP_SET_DATA: _stat,
    rq.OP_GET_ACL: _acl,
    rq.OP_SET_ACL: _stat,
    rq.OP_GET_CHILDREN: _children,
    rq.OP_GET_CHILDREN2: _children2,
    rq.OP_GET_ALL_CHILDREN_NUMBER: _count,
    rq.OP_SYNC: _path,
    rq.OP_MULTI: _multi,
    rq.OP_MULTI_READ: _multi_read,
    rq.OP_ADD_WATCH: _watch_added,
    rq.OP_REMOVE_WATCHES: _nothing,
    rq.OP_WHO_AM_I: _identities,
    rq.OP_AUTH: _nothing,
    rq.OP_PING: _nothing,
    rq.OP_CLOSE_SESSION: _nothing,
}
