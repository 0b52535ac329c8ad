"""Reading a known column of paths again: data and Stats of a hundred thousand znodes, without an object for each.

What comes is columns as they are decoded, a request's nodes at a time, for the caller to compare with what it expects.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.model.columns import StatColumns
from zkmig.source.bulk import NODES_MAX, READ_DEPTH, REPLY_BYTES_AIM, REQUEST_BYTES_MAX, refusal
from zkmig.wire.bulk import codec
from zkmig.wire.client import Client
from zkmig.wire.codes import error_for
from zkmig.wire.faults import ProtocolFault
from zkmig.wire.fleet import LEAD, Fleet
from zkmig.wire.jute import JuteError
from zkmig.wire.replies import RawResult
from zkmig.wire.requests import OP_GET_DATA, GetData, ReadMany

_NODE_BYTES = 96  # of a node in request or reply beside its path and data, generously


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """What was read of nodes start..stop-1 of a column. origins: which of them are there; the columns are of those.

    data_offsets: one entry more. nulls: 1 where data is null. absent: the others, in order.
    """

    start: int
    stop: int
    origins: array[int]
    data: bytes
    data_offsets: array[int]
    nulls: bytes
    stats: StatColumns
    absent: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class _StretchOf(ReadMany):
    start: int
    stop: int


def read_column(client: Client, paths: bytes, path_offsets: array[int], data_offsets: array[int]) -> Iterator[Stretch]:
    """Read each path of a column. data_offsets: how much data is expected of each, so that replies stay moderate.

    For servers that have multiRead. A lost connection is taken up again. NotPermitted names what may not be read.
    """
    ranges = _ranges(path_offsets, data_offsets)
    with Fleet(client) as fleet:
        is_over = False
        while not is_over or fleet.under_way(LEAD):
            while not is_over and fleet.under_way(LEAD) < READ_DEPTH:
                bounds = next(ranges, None)
                if bounds is None:
                    is_over = True
                    break
                nodes = array("i", range(*bounds))
                fleet.post(LEAD, _StretchOf(paths, path_offsets, nodes, OP_GET_DATA, *bounds))
            for arrival in fleet.arrivals():
                assert isinstance(arrival.request, _StretchOf)
                if not isinstance(arrival.reply.result, RawResult):
                    raise error_for(arrival.reply.error, arrival.request.path, arrival.request.operation)
                yield _decoded(arrival.request, arrival.reply.result.received)


def _ranges(path_offsets: array[int], data_offsets: array[int]) -> Iterator[tuple[int, int]]:
    start, count = 0, len(path_offsets) - 1
    for node in range(count):
        nodes = node + 1 - start
        request_bytes = path_offsets[node + 1] - path_offsets[start] + _NODE_BYTES * nodes
        reply_bytes = data_offsets[node + 1] - data_offsets[start] + _NODE_BYTES * nodes
        if nodes > 1 and (request_bytes > REQUEST_BYTES_MAX or reply_bytes > REPLY_BYTES_AIM or nodes > NODES_MAX):
            yield start, node
            start = node
    if start < count:
        yield start, count


def _decoded(request: _StretchOf, received: bytes) -> Stretch:
    origins, data_offsets, stats = array("i"), array("Q", (0,)), StatColumns.empty()
    data, nulls = bytearray(), bytearray()
    try:
        absent, refused = codec().decode_data(
            received,
            request.nodes,
            (request.paths, request.offsets),
            (bytearray(), array("Q", (0,)), data, data_offsets, nulls),
            stats,
            origins,
            JuteError,
        )
    except JuteError as fault:
        what = f"malformed reply to {request.operation}: {fault.what} at byte {fault.offset}"
        raise ProtocolFault(what, request.path, "is this a ZooKeeper server?") from None
    if refused is not None:
        raise refusal(refused[1], request.path_of(refused[0]), GetData.operation)
    return Stretch(request.start, request.stop, origins, bytes(data), data_offsets, bytes(nulls), stats, absent)
