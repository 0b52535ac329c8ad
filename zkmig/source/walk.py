"""A walk: everything below a root read into columns, as fast as the server answers.

Three kinds of requests are under way at once. Data and Stat of znodes, by multiRead; most znodes are leaves, and a leaf
is whole with that. Then the names of the children of those that have any, by multiRead too. And ACLs, which come
singly, over as many connections as they need. Whatever is found is asked for at once, so no level waits for another.

What was read at different moments need not fit together. A walk says what does not: paths that vanished, whose ACL
moved, or whose children are not as many as their Stat says. `source.settle` reads those again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.path import SYSTEM_ROOT
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import Staging
from zkmig.source.bulk import READ_DEPTH, REPLY_BYTES_AIM, REQUEST_BYTES_MAX, NodeAbsent, Pace, read_nodes, refusal
from zkmig.source.frontier import LARGE_BYTES, SAMPLE_CHILDREN, WIDE_CHILDREN
from zkmig.source.orphans import without_orphans
from zkmig.wire.bulk import codec
from zkmig.wire.codes import error_for
from zkmig.wire.faults import ProtocolFault
from zkmig.wire.fleet import LEAD, Arrival, Fleet
from zkmig.wire.jute import JuteError, decode_acl, encode_acl
from zkmig.wire.replies import RawResult, Reply
from zkmig.wire.requests import OP_GET_CHILDREN, OP_GET_DATA, GetAcl, GetAclMany, GetChildren, GetData, ReadMany

ACL_BURST: Final = 128
"""getACLs that are sent together and answered together."""

ACL_DEPTH: Final = 2
"""Bursts under way on each connection: one that is answered, one that waits in the server."""

LANES_MAX: Final = 8
LANE_NODES: Final = 1_000
"""Connections beside the leading one, and the ACLs that have to wait for each before it is worth opening."""

NAME_BYTES: Final = 32
"""What a child's name is taken to need in a reply, its length included."""

LISTS_WAITING: Final = 256
"""Child lists that are asked for together, unless there is nothing else to do."""

Admit = Callable[[AclList, str], None]


@dataclass(slots=True, eq=False)
class _Run:
    """Nodes of a column of paths whose data is to be read. at: how many have been asked for.

    mean: bytes of data to expect of each, 0 where that is not known. Of wide parents only a sample is among the nodes,
    from sample_from on; wide has the children of each, in the order of the column, sample_bytes what their samples had.
    is_known: the column is that of an earlier snapshot.
    """

    column: bytes | bytearray
    offsets: array[int]
    nodes: array[int]
    at: int = 0
    answered: int = 0
    mean: int = 0
    sample_from: int = 0
    wide: tuple[Sequence[int], ...] = ()
    sample_bytes: list[int] | None = None
    is_known: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _DataOf(ReadMany):
    run: _Run
    first: int  # position in run.nodes of the first


class Walk:
    """vanished: paths that a parent lists, or that were read, and that were gone when asked for again. moved: paths
    whose ACL was of another (czxid, aversion) than their data. left_out: children that the scope leaves out, by parent.
    change_last: newest mzxid or pzxid read. stamp_first, stamp_last: lowest and highest zxid that data was read at.

    known: an earlier snapshot of the same scope and ensemble. Its znodes are asked for at once; their ACLs are read
    only where czxid or aversion moved, their child lists only where pzxid did.
    """

    def __init__(
        self,
        fleet: Fleet,
        scope: Scope,
        admit: Admit,
        progress: Callable[[int], None] | None = None,
        known: Snapshot | None = None,
    ) -> None:
        self.vanished: set[str] = set()
        self.moved: set[str] = set()
        self.left_out: dict[str, int] = {}
        self.change_last = 0
        self.stamp_first = 0
        self.stamp_last = 0
        self._fleet = fleet
        self._scope = scope
        self._admit = admit
        self._progress = progress
        self._codec = codec()
        self._excludes = frozenset(exclude.encode() for exclude in scope.excludes if exclude != "/")
        self._exclude_parents = frozenset(paths.parent(each).encode() for each in scope.excludes if each != "/")
        self._staging = Staging()
        self._origins = array("i")
        self._runs: list[_Run] = []
        self._lists = array("i")
        self._lists_at = 0
        self._reads = 0  # multiReads under way
        self._acl_nodes = array("i")
        self._acls_at = 0
        self._acl_ids: dict[bytes, int] = {}  # by encoded ACL; columns hold these until the end
        self._acls: list[AclList] = []
        self._can_widen = True
        self._data_pace = Pace()
        self._list_pace = Pace()
        self._known = known
        self._known_acls = array("I")
        self._known_indices: dict[int, int] = {}  # of nodes whose child list moved
        self._forced: frozenset[int] = frozenset()  # known indices of nodes that are listed in any case

    def run(self) -> None:
        """Read everything."""
        if self._known is not None:
            self._begin_with(self._known)
        else:
            root = self._scope.root.encode()
            self._runs.append(_Run(root, array("Q", (0, len(root))), array("i", (0,))))
        if not self._fleet.lead.has_multi_read:
            self._read_singly(self._scope.root)
        while self._post():
            for arrival in self._fleet.arrivals():
                self._take(arrival)

    def build(self, provenance: Provenance, consistency: Consistency) -> Snapshot | None:
        """What was read, as far as it hangs together; None if the root was not there. To be called once."""
        staging = self._staging
        if self._scope.root.encode() not in self._first_path():
            return None
        if not self._acls:
            self._acls.append(())  # what did not get its ACL is among `moved` or `vanished`, and is read again
        positions = array("I", map(staging.acl_id, self._acls))
        if positions != array("I", range(len(positions))):
            staging.acl_ids = array("I", map(positions.__getitem__, staging.acl_ids))
        # As a rule there is none: a look at every path costs a second and 100 MB in a million.
        if any(map(self._has_left_children, self.vanished)):
            staging = without_orphans(staging, self.vanished)
        return staging.build(self._scope, provenance, consistency)

    def miscounted(self, snapshot: Snapshot) -> Iterator[str]:
        """Paths that have another number of children in `snapshot` than their Stat says."""
        return miscounted(snapshot, self.left_out)

    # -- what to ask next ---------------------------------------------------------------------------------------------

    def _post(self) -> bool:
        """Send what there is room for; whether anything is under way."""
        fleet = self._fleet
        while self._reads < READ_DEPTH and (self._post_lists() or self._post_data()):
            self._reads += 1
        while self._acls_at < len(self._acl_nodes):
            lane = self._lane_for_acls()
            if lane is None:
                break
            nodes = self._acl_nodes[self._acls_at : self._acls_at + ACL_BURST]
            self._acls_at += len(nodes)
            fleet.post(lane, GetAclMany(self._staging.paths, self._staging.path_offsets, nodes))
        return any(map(fleet.under_way, (LEAD, *fleet.others)))

    def _lane_for_acls(self) -> int | None:
        fleet = self._fleet
        for lane in fleet.others:
            if fleet.under_way(lane) < ACL_DEPTH:
                return lane
        waiting, lanes = len(self._acl_nodes) - self._acls_at, len(fleet.others)
        if self._can_widen and lanes < LANES_MAX and waiting > LANE_NODES * (lanes + 1):
            self._can_widen = fleet.widen()
            return self._lane_for_acls()
        is_free = not lanes or not (self._reads or self._runs or self._lists_at < len(self._lists))
        return LEAD if is_free and fleet.under_way(LEAD) < READ_DEPTH + ACL_DEPTH else None

    def _post_data(self) -> bool:
        while self._runs:
            run = self._runs[-1]
            nodes = self._fitting(run)
            if not nodes:
                self._runs.pop()
                continue
            request = _DataOf(run.column, run.offsets, nodes, OP_GET_DATA, run, run.at)
            run.at += len(nodes)
            self._fleet.post(LEAD, request)
            return True
        return False

    def _fitting(self, run: _Run) -> array[int]:
        """The next nodes of a run, as many as the pace, and the bytes of request and reply admit; at least one."""
        count = self._data_pace.nodes
        if run.mean:
            count = min(count, max(1, REPLY_BYTES_AIM // run.mean))
        elif run.is_known and self._known is not None:
            # Most will be as large as they were, and of these no sample is read.
            ends = self._known.columns.data_offsets
            fits = bisect_right(ends, ends[run.at] + REPLY_BYTES_AIM, run.at + 1, min(run.at + count + 1, len(ends)))
            count = max(1, fits - run.at - 1)
        nodes = run.nodes[run.at : run.at + count]
        return nodes[: self._codec.fitting(run.offsets, nodes, REQUEST_BYTES_MAX)]

    def _post_lists(self) -> bool:
        waiting = len(self._lists) - self._lists_at
        if not waiting or (waiting < LISTS_WAITING and (self._runs or self._reads)):
            return False
        nodes, offsets = (
            self._lists[self._lists_at : self._lists_at + self._list_pace.nodes],
            self._staging.path_offsets,
        )
        reply_bytes, column = 0, self._staging.stats.num_children
        for count, node in enumerate(nodes):
            reply_bytes += NAME_BYTES * column[node]
            if reply_bytes > REPLY_BYTES_AIM and count:
                nodes = nodes[:count]
                break
        nodes = nodes[: self._codec.fitting(offsets, nodes, REQUEST_BYTES_MAX)]
        self._lists_at += len(nodes)
        self._fleet.post(LEAD, ReadMany(self._staging.paths, offsets, nodes, OP_GET_CHILDREN))
        return True

    # -- what was answered --------------------------------------------------------------------------------------------

    def _take(self, arrival: Arrival) -> None:
        request, reply = arrival.request, arrival.reply
        try:
            if isinstance(request, _DataOf):
                self._reads -= 1
                self._take_data(request, reply, _raw(request, reply))
            elif isinstance(request, ReadMany):
                self._reads -= 1
                self._take_lists(request, _raw(request, reply))
            else:
                assert isinstance(request, GetAclMany)
                self._take_acls(request, _raw(request, reply))
        except JuteError as fault:
            what = f"malformed reply to {request.operation}: {fault.what} at byte {fault.offset}"
            raise ProtocolFault(what, request.path, "is this a ZooKeeper server?") from None

    def _take_data(self, request: _DataOf, reply: Reply, raw: bytes) -> None:
        staging, run = self._staging, request.run
        first = len(staging)
        columns = (staging.paths, staging.path_offsets, staging.data, staging.data_offsets, staging.nulls)
        absent, refused = self._codec.decode_data(
            raw, request.nodes, (request.paths, request.offsets), columns, staging.stats, self._origins, JuteError
        )
        if refused is not None:
            raise refusal(refused[1], request.path_of(refused[0]), GetData.operation)
        self.vanished.update(map(request.path_of, absent))
        self._data_pace.saw(len(request.nodes), len(raw))
        self._survey(first, reply.zxid, run.is_known)
        run.answered += len(request.nodes)
        if run.wide:
            self._take_samples(run, request, first)
        if self._progress is not None:
            self._progress(len(staging))

    def _survey(self, first: int, zxid: int, is_known: bool) -> None:
        """Note what has to be asked of the nodes from `first` on, and what they say of the state of the tree."""
        staging = self._staging
        inner, odd, newest = self._codec.survey(staging.stats, first)
        for node in odd:
            path = self._path(node)
            if path != "/" and not paths.contains(SYSTEM_ROOT, path):  # set up by the server itself [34]
                raise BadInput(
                    "the sequence counter is not one of Apache ZooKeeper",
                    path,
                    "ClickHouse Keeper and other servers that count differently are not supported",
                )
        self.change_last = max(self.change_last, newest)
        self.stamp_first = min(self.stamp_first or zxid, zxid)
        self.stamp_last = max(self.stamp_last, zxid)
        staging.acl_ids.frombytes(bytes(4 * (len(staging) - first)))
        if is_known:
            self._match(first, inner)
        else:
            self._lists += inner
            self._acl_nodes.extend(range(first, len(staging)))

    def _take_samples(self, run: _Run, request: _DataOf, first: int) -> None:
        if request.first + len(request.nodes) > run.sample_from:
            starts = [children[0] for children in run.wide]
            offsets, sums = self._staging.data_offsets, run.sample_bytes
            assert sums is not None
            for node in range(first, len(self._staging)):
                number = bisect_right(starts, self._origins[node]) - 1
                if number >= 0 and self._origins[node] <= run.wide[number][SAMPLE_CHILDREN - 1]:
                    sums[number] += offsets[node + 1] - offsets[node]
        if run.answered == len(run.nodes):
            self._push_rest(run)

    def _push_rest(self, run: _Run) -> None:
        """The other children of wide parents, whose samples have all been read."""
        small = array("i")
        assert run.sample_bytes is not None
        for children, sample_bytes in zip(run.wide, run.sample_bytes, strict=True):
            rest = children[SAMPLE_CHILDREN:]
            mean = sample_bytes // SAMPLE_CHILDREN
            if mean > LARGE_BYTES:
                self._runs.append(_Run(run.column, run.offsets, array("i", rest), mean=mean))
            else:
                small.extend(rest)
        if small:
            self._runs.append(_Run(run.column, run.offsets, small))

    def _take_lists(self, request: ReadMany, raw: bytes) -> None:
        column, offsets, counts = bytearray(), array("Q", (0,)), array("i")
        absent, refused = self._codec.decode_children(
            raw,
            request.nodes,
            (request.paths, request.offsets),
            (self._excludes, self._exclude_parents),
            (column, offsets),
            counts,
            JuteError,
        )
        if refused is not None:
            raise refusal(refused[1], request.path_of(refused[0]), GetChildren.operation)
        self.vanished.update(map(request.path_of, absent))
        self._list_pace.saw(len(request.nodes), len(raw))
        nodes, samples = array("i"), array("i")
        wide: list[Sequence[int]] = []
        at = 0
        for number, node in enumerate(request.nodes):
            stretch = range(at, at + counts[2 * number])
            at = stretch.stop
            if counts[2 * number + 1]:
                self.left_out[self._path(node)] = counts[2 * number + 1]
            children: Sequence[int] = stretch
            if node in self._known_indices:
                children = array("i", self._unknown(self._known_indices[node], column, offsets, stretch))
            if len(children) > WIDE_CHILDREN:
                wide.append(children)
                samples.extend(children[:SAMPLE_CHILDREN])
            else:
                nodes.extend(children)
        if nodes or samples:
            run = _Run(column, offsets, nodes + samples, sample_from=len(nodes), wide=tuple(wide))
            run.sample_bytes = [0] * len(wide)
            self._runs.append(run)

    def _take_acls(self, request: GetAclMany, raw: bytes) -> None:
        staging = self._staging
        pins = (staging.stats.czxid, staging.stats.aversion)
        absent, moved, refused, new = self._codec.decode_acls(
            raw, request.nodes, pins, staging.acl_ids, self._acl_ids, JuteError
        )
        if refused is not None:
            raise refusal(refused[1], request.path_of(refused[0]), GetAcl.operation)
        self.vanished.update(map(request.path_of, absent))
        self.moved.update(map(request.path_of, moved))
        for encoded in new:
            acl = decode_acl(encoded)
            position = self._acl_ids[encoded]
            self._admit(acl, next(self._path(node) for node in request.nodes if staging.acl_ids[node] == position))
            self._acls.append(acl)

    # -- an earlier snapshot ------------------------------------------------------------------------------------------

    def _begin_with(self, known: Snapshot) -> None:
        columns = known.columns
        for acl in columns.acl_table:
            encoded = encode_acl(acl)
            if encoded not in self._acl_ids:
                self._admit(acl, known.root)
                self._acl_ids[encoded] = len(self._acls)
                self._acls.append(acl)
            self._known_acls.append(self._acl_ids[encoded])
        self._forced = frozenset(
            known.index(path) for path in map(bytes.decode, self._exclude_parents) if path in known
        )
        nodes = array("i", range(len(known)))
        self._runs.append(_Run(columns.paths_blob, columns.path_offsets, nodes, is_known=True))

    def _match(self, first: int, inner: array[int]) -> None:
        known, staging = self._known, self._staging
        assert known is not None
        acls, lists = self._codec.match_known(
            first,
            self._origins,
            staging.stats,
            known.columns.stats,
            staging.acl_ids,
            known.columns.acl_ids,
            self._known_acls,
        )
        self._acl_nodes += acls
        if known.is_fuzzy:
            lists = inner  # its lists and Stats need not belong together
        elif self._forced:
            lists = array("i", sorted({*lists, *(node for node in inner if self._origins[node] in self._forced)}))
        self._known_indices.update((node, self._origins[node]) for node in lists)
        self._lists += lists

    def _unknown(self, index: int, column: bytearray, offsets: array[int], stretch: range) -> Iterator[int]:
        """Of the children in `stretch` those that the earlier snapshot did not have: nobody has asked for them."""
        assert self._known is not None
        columns = self._known.columns
        known = {columns.path_bytes(child) for child in self._known.children_at(index)}
        return (child for child in stretch if bytes(column[offsets[child] : offsets[child + 1]]) not in known)

    def _has_left_children(self, path: str) -> bool:
        # Only what is known is asked for without a look at what is above it.
        known = self._known
        if known is None or path not in known:
            return False
        below = islice(known.subtree_indices(path), 1, None)
        return any(known.path_at(node) not in self.vanished for node in below)

    # -- without multiRead --------------------------------------------------------------------------------------------

    def _read_singly(self, root: str) -> None:
        """Data and children by single requests, a level after another; ACLs follow as ever."""
        self._runs.clear()
        level = [root]
        while level:
            below: list[str] = []
            for node in read_nodes(self._fleet.lead, level, children=True):
                if isinstance(node, NodeAbsent):
                    self.vanished.add(node.path)
                    continue
                first = len(self._staging)
                self._staging.add(node.path, node.data, (), node.stat)
                self._staging.acl_ids.pop()
                self._staging.acl_table.clear()
                self._origins.append(first)
                self._survey(first, node.zxid, is_known=False)
                children = [paths.join(node.path, "/" + name) for name in node.children or ()]
                kept = [child for child in children if child not in self._scope.excludes]
                if len(kept) < len(children):
                    self.left_out[node.path] = len(children) - len(kept)
                below += kept
            level = below
            if self._progress is not None:
                self._progress(len(self._staging))
        self._lists_at = len(self._lists)

    # -- names --------------------------------------------------------------------------------------------------------

    def _path(self, node: int) -> str:
        staging = self._staging
        column = staging.paths[staging.path_offsets[node] : staging.path_offsets[node + 1]]
        return column.decode(errors="replace")

    def _first_path(self) -> set[bytes]:
        # The root is asked for first, and answered first: it is node 0, or it is nowhere.
        return {bytes(self._staging.paths[: self._staging.path_offsets[1]])} if len(self._staging) else set()


def miscounted(snapshot: Snapshot, left_out: dict[str, int]) -> Iterator[str]:
    """Paths that have another number of children than their Stat says, those that the scope leaves out not counted."""
    columns = snapshot.columns
    for node in codec().miscounted(columns.parents, columns.stats.num_children):
        path = snapshot.path_at(node)
        there = sum(1 for _ in snapshot.children_at(node))
        if there + left_out.get(path, 0) != columns.stats.num_children[node]:
            yield path


def _raw(request: ReadMany | GetAclMany, reply: Reply) -> bytes:
    if isinstance(reply.result, RawResult):
        return reply.result.received
    raise error_for(reply.error, request.path, request.operation)
