"""Bulk reads over one session: many znodes a request, several requests under way, answers in input order.

A multiRead costs the server about 2 us a part where a single request costs 40 [zookeeper-facts 26], and is answered
from one state of the tree [1]. Data and children of a znode always share a multiRead, so they are of one state. How
many znodes a request asks for follows the replies seen: a server must not be made to build a giant reply in its heap,
and a request counts against jute.maxbuffer as well [38].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from zkmig.errors import NotPermitted, Unreachable
from zkmig.model.path import parent
from zkmig.model.stat import Stat
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, ServerError, error_for
from zkmig.wire.jute import MULTI_HEADER_BYTES, utf8_size
from zkmig.wire.replies import AclResult, Children2Result, ChildrenResult, DataResult, MultiReadResult, Reply, SubError
from zkmig.wire.requests import GetAcl, GetChildren, GetChildren2, GetData, MultiRead, Read

READ_DEPTH: Final = 4
"""multiReads under way: enough that the server never waits, measured 3 to 4 on loopback."""

NODES_FIRST: Final = 64
NODES_MAX: Final = 1_000
"""Znodes in the first request of a run, and in any."""

REQUEST_BYTES_MAX: Final = 256 * 1024
"""Bytes of a multiRead's frame: a quarter of the default jute.maxbuffer, since an ensemble's own may be lower."""

REPLY_BYTES_AIM: Final = 512 * 1024
"""Bytes of a reply that the number of znodes is steered to."""

ACL_DEPTH: Final = 128
"""getACLs under way: their requests are small, the server answers one after another."""

SINGLE_DEPTH: Final = 64
SINGLE_NODES: Final = 256
SINGLE_TRIES_MAX: Final = 10
"""For servers without multiRead: requests under way, znodes in a group, tries until data and children agree."""

PART_BYTES = MULTI_HEADER_BYTES + 5  # of a request's part beside the path: header, length, watch
_NODE_REPLY_BYTES = MULTI_HEADER_BYTES + 72  # of a reply's part beside the data: header, length, Stat
_HINT = "give credentials that may read it (--auth-file), or leave it out with --exclude"


class NodeRead(NamedTuple):
    """A znode as read from one state, zxid. data: None is null. children: names in no order; None if not asked for."""

    path: str
    data: bytes | None
    stat: Stat
    children: tuple[str, ...] | None
    zxid: int


class NodeAbsent(NamedTuple):
    """There was no such znode in state zxid."""

    path: str
    zxid: int


class Pace:
    """How many znodes a request asks for. Given from one run to the next, it carries over what replies have taught.

    nodes: at most so many. expected: mean bytes of data of the children of a path, where the caller knows that they
    are large; requests for them are then cut in advance, not only once the first replies have come.
    """

    def __init__(self) -> None:
        self.nodes = NODES_FIRST
        self.expected: dict[str, int] = {}

    def saw(self, nodes: int, reply_bytes: int) -> None:
        """A reply of so many bytes came for so many znodes. Down at once, up by doubling."""
        fitting = REPLY_BYTES_AIM * nodes // max(reply_bytes, 1)
        self.nodes = max(1, min(fitting, 2 * self.nodes, NODES_MAX))


def read_nodes(
    client: Client, paths: Iterable[str], *, children: bool = False, pace: Pace | None = None
) -> Iterator[NodeRead | NodeAbsent]:
    """Read each of `paths`: its data, Stat and, if `children`, its child names. In input order.

    `paths` is drawn on as requests are made up, a few ahead of what is yielded, so it may grow while it is read; once
    it has ended it is not asked again. NotPermitted names the path that may not be read.
    """
    if client.has_multi_read:
        return _read_bulk(client, paths, children, pace or Pace())
    return _read_singly(client, paths, children)


def read_together(
    client: Client, paths: Sequence[str], others: Sequence[Read]
) -> tuple[list[NodeRead | NodeAbsent], list[Reply]]:
    """Data and children of `paths` by one multiRead, with `others` right behind it, so that both may meet one state."""
    request = MultiRead(tuple([part for path in paths for part in (GetData(path), GetChildren(path))]))
    first, *rest = client.pipeline((request, *others), 1 + len(others))
    return _with_children(first, list(paths)), rest


def read_acls(client: Client, paths: Iterable[str]) -> Iterator[AclResult | None]:
    """The ACL, and the Stat it belongs to, of each of `paths`, in input order; None where there is no such znode.

    multiRead does not take getACL, so these are single requests, pipelined. NotPermitted names the path whose ACL may
    not be read (READ or ADMIN is needed).
    """
    sent: deque[str] = deque()

    def requests() -> Iterator[Read]:
        for path in paths:
            sent.append(path)
            yield GetAcl(path)

    for reply in client.pipeline(requests(), ACL_DEPTH):
        path = sent.popleft()
        if type(reply.result) is AclResult:
            yield reply.result
        elif reply.error == Code.NO_NODE:
            yield None
        else:
            raise refusal(reply.error, path, GetAcl.operation)


def refusal(code: int, path: str, operation: str) -> NotPermitted | ServerError:
    """The error for a code with which a read was answered: NotPermitted says what to do."""
    if code == Code.NO_AUTH:
        return NotPermitted(f"{operation} is not permitted to this session", path, _HINT)
    return error_for(code, path, operation)


# -- by multiRead -----------------------------------------------------------------------------------------------------


def _take(paths: Iterator[str], pace: Pace, parts: int) -> list[str]:
    """The paths of the next request: as many as the pace, and its bytes and those of the reply admit; [] at the end."""
    batch: list[str] = []
    request_bytes = reply_bytes = 0
    for path in islice(paths, pace.nodes):
        batch.append(path)
        request_bytes += parts * (PART_BYTES + utf8_size(path))
        if pace.expected:
            reply_bytes += pace.expected.get(parent(path), 0)
        if request_bytes >= REQUEST_BYTES_MAX or reply_bytes >= REPLY_BYTES_AIM:
            break
    return batch


def _read_bulk(client: Client, paths: Iterable[str], children: bool, pace: Pace) -> Iterator[NodeRead | NodeAbsent]:
    source = iter(paths)
    sent: deque[list[str]] = deque()

    def requests() -> Iterator[Read]:
        while batch := _take(source, pace, 2 if children else 1):
            sent.append(batch)
            if children:
                yield MultiRead(tuple([part for path in batch for part in (GetData(path), GetChildren(path))]))
            else:
                yield MultiRead(tuple(map(GetData, batch)))

    for reply in client.pipeline(requests(), READ_DEPTH):
        batch = sent.popleft()
        nodes = _with_children(reply, batch) if children else _data_only(reply, batch)
        pace.saw(len(batch), sum(map(_reply_bytes, nodes)))
        yield from nodes


def _reply_bytes(node: NodeRead | NodeAbsent) -> int:
    if isinstance(node, NodeAbsent):
        return MULTI_HEADER_BYTES
    names = node.children
    return _NODE_REPLY_BYTES + node.stat.data_length + (4 * len(names) + sum(map(len, names)) if names else 0)


def _with_children(reply: Reply, batch: list[str]) -> list[NodeRead | NodeAbsent]:
    results = _parts(reply, batch)
    zxid = reply.zxid
    nodes: list[NodeRead | NodeAbsent] = []
    for path, data, names in zip(batch, results[::2], results[1::2], strict=True):
        if type(data) is DataResult and type(names) is ChildrenResult:
            nodes.append(NodeRead(path, data.data, data.stat, tuple(names.children), zxid))
        else:
            nodes.append(_absent(path, zxid, data, names))
    return nodes


def _data_only(reply: Reply, batch: list[str]) -> list[NodeRead | NodeAbsent]:
    zxid = reply.zxid
    return [
        NodeRead(path, data.data, data.stat, None, zxid) if type(data) is DataResult else _absent(path, zxid, data)
        for path, data in zip(batch, _parts(reply, batch), strict=True)
    ]


def _parts(reply: Reply, batch: list[str]) -> tuple[DataResult | ChildrenResult | SubError, ...]:
    if isinstance(reply.result, MultiReadResult):
        return reply.result.results
    raise error_for(reply.error, batch[0], MultiRead.operation)


def _absent(path: str, zxid: int, *results: DataResult | ChildrenResult | SubError) -> NodeAbsent:
    """NodeAbsent if that is what the failed parts say; else their error is raised."""
    codes = [result.code for result in results if isinstance(result, SubError)]
    if codes.count(Code.NO_NODE) == len(results):
        return NodeAbsent(path, zxid)
    raise refusal(next(code for code in codes if code != Code.NO_NODE), path, GetData.operation)


# -- one by one -------------------------------------------------------------------------------------------------------


def _read_singly(client: Client, paths: Iterable[str], children: bool) -> Iterator[NodeRead | NodeAbsent]:
    """Without multiRead: getData and getChildren as a pair, again until both show the same Stat.

    Equal Stats mean that neither data nor children moved in between, so the pair is of the state of the later reply.
    """
    source = iter(paths)
    while group := list(islice(source, SINGLE_NODES)):
        nodes: dict[str, NodeRead | NodeAbsent] = {}
        open_paths = list(dict.fromkeys(group))
        for _ in range(SINGLE_TRIES_MAX):
            nodes.update(_agreeing_pairs(client, open_paths, children))
            open_paths = [path for path in open_paths if path not in nodes]
            if not open_paths:
                break
        else:
            what = f"data and children never agreed in {SINGLE_TRIES_MAX} tries"
            raise Unreachable(what, open_paths[0], "try again when it is quieter")
        yield from map(nodes.__getitem__, group)


def _agreeing_pairs(client: Client, paths: list[str], children: bool) -> Iterator[tuple[str, NodeRead | NodeAbsent]]:
    requests: list[Read] = []
    for path in paths:
        requests.append(GetData(path))
        if children:
            requests.append(GetChildren2(path))
    replies = list(client.pipeline(requests, SINGLE_DEPTH))
    if not children:
        for path, reply in zip(paths, replies, strict=True):
            if _is_there(reply, path) and isinstance(reply.result, DataResult):
                yield path, NodeRead(path, reply.result.data, reply.result.stat, None, reply.zxid)
            else:
                yield path, NodeAbsent(path, reply.zxid)
        return
    for path, first, second in zip(paths, replies[::2], replies[1::2], strict=True):
        there = (_is_there(first, path), _is_there(second, path))
        if there == (False, False):
            yield path, NodeAbsent(path, second.zxid)
        elif isinstance(first.result, DataResult) and isinstance(second.result, Children2Result):
            (data, stat), (names, stat_after) = first.result, second.result
            if stat == stat_after:
                yield path, NodeRead(path, data, stat, tuple(names), second.zxid)


def _is_there(reply: Reply, path: str) -> bool:
    if reply.error == Code.NO_NODE:
        return False
    if reply.error:
        raise refusal(reply.error, path, GetData.operation)
    return True
