"""Settling: what a walk read, brought to one state of the tree by reading again whatever changed meanwhile.

A round reads all that is known to have changed, data and children of a znode together. Then it asks what the watch has
told up to the last reply, stamped z. If that names nothing, or only znodes that this very reply shows as they were at
z, the snapshot is exactly the state at z: what was not named has not changed since it was read, and what was named was
read at z. Znodes that changed once are read again in each round, since they are likely to change again; so a few that
never rest do not keep a large tree from coming to one state. What no watch tells of, the census may: the server counts
znodes also where it does not show them.

Without a watch, rounds end when nothing is missing. Whether it is one state is then told by zxids alone, see
`source.ensemble`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.snapshot import Consistency, Snapshot
from zkmig.model.staging import Staging
from zkmig.source.bulk import (
    PART_BYTES,
    REPLY_BYTES_AIM,
    REQUEST_BYTES_MAX,
    NodeAbsent,
    NodeRead,
    Pace,
    read_acls,
    read_nodes,
    read_together,
)
from zkmig.source.census import Census
from zkmig.source.treewatch import TreeWatch
from zkmig.source.walk import Admit
from zkmig.wire.client import Client
from zkmig.wire.jute import utf8_size
from zkmig.wire.requests import Exists, GetAllChildrenNumber

ROUNDS_MIN: Final = 24
SECONDS_MIN: Final = 2.0
"""Rounds, and the time, before the tree is said to change faster than it can be read. Writers pause now and then."""

TOGETHER_MAX: Final = 1_000
"""Znodes that are read again by one request, so that their number does not keep them from being of one state."""


class _Whole(NamedTuple):
    """A znode as read again. is_settled: its ACL was read at the same czxid and aversion."""

    node: NodeRead
    acl: AclList
    is_settled: bool


@dataclass(slots=True)
class Settled:
    """state: the zxid that everything read is the state of, None if that is not known. unresolved: paths that could not
    be brought into agreement with the others. hidden: znodes more (or less) that the server counts in that state, but
    does not tell this session of. acls_unsettled: those of them whose ACL alone kept moving."""

    state: int | None = None
    hidden: int = 0
    rounds: int = 0
    unresolved: int = 0
    acls_unsettled: int = 0


class Settling:
    """base: what a walk read. dirty: paths to be read again. doubtful: those whose ACL in the base is not theirs.

    left_out: children that the scope leaves out, by parent; kept up to date. note: called with the znodes that were
    read again, a list a round. is_counted: whether it is of use to know that no znode is hidden.
    """

    def __init__(
        self,
        client: Client,
        watch: TreeWatch,
        base: Snapshot,
        dirty: set[str],
        doubtful: set[str],
        left_out: dict[str, int],
        admit: Admit,
        note: Callable[[list[NodeRead]], None],
        is_counted: Callable[[], bool],
    ) -> None:
        self._client = client
        self._is_counted = is_counted
        self._census = Census(base.scope, client.has_multi_read)
        self._watch = watch
        self._base = base
        self._dirty = dirty
        self._doubtful = doubtful
        self._left_out = left_out
        self._admit = admit
        self._note = note
        self._hot: set[str] = set()
        # The tree as it is known by now: the base, less the subtrees of what is gone, with what is fresh.
        self._gone: set[str] = set()
        self._fresh: dict[str, _Whole] = {}
        self._fresh_names: dict[str, set[str]] = {}  # of fresh znodes, by parent
        self._acls_seen: set[AclList] = set(base.columns.acl_table)
        self.result = Settled()

    def run(self) -> bool:
        """Read again until nothing is left to read, or it is of no use; False if the root is gone."""
        result, root = self.result, self._base.root
        give_up = time.monotonic() + SECONDS_MIN
        while result.rounds < ROUNDS_MIN or time.monotonic() < give_up:
            if not self._dirty:
                if not self._watch.is_set:
                    return True
                # What the watch has told by the time of this answer is all that happened up to its stamp.
                stamp, total = self._stamp_of_now()
                self._heat(self._watch.take())
                if not self._dirty:
                    if self._is_decided(stamp, total):
                        return True
                    result.rounds += 1
                    continue
            result.rounds += 1
            read_last, stamp, events, total = self._round()
            if not self._is_there(root):
                return False
            is_exact = self._watch.is_set and not self._dirty and events <= read_last
            if is_exact and self._is_decided(stamp, total):
                return True
            self._heat(events)
        # Their data was read, but never an ACL that is theirs: as of the last look they are gone.
        for path in self._doubtful:
            if path not in self._fresh and self._is_in_base(path):
                self._drop(path)
        if not self._is_there(root):
            return False
        result.unresolved = len(self._dirty)
        result.acls_unsettled = sum(not whole.is_settled for whole in self._fresh.values())
        return True

    def snapshot(self, consistency: Consistency) -> Snapshot:
        """The base with what was read since."""
        base = self._base
        if not self._fresh and not self._gone:
            return Snapshot(base.columns, base.scope, base.provenance, consistency)
        staging = Staging()
        staging.extend(base.columns, self._kept_ranges())
        for path in sorted(self._fresh, key=paths.order_key):
            if all(map(self._is_there, self._ancestors(path))):
                node, acl, _ = self._fresh[path]
                staging.add(path, node.data, acl, node.stat)
        return staging.build(base.scope, base.provenance, consistency)

    # -- a round ------------------------------------------------------------------------------------------------------

    def _is_decided(self, stamp: int, total: int | None) -> bool:
        """All that was told of is read, as at `stamp`: take that for the state, unless the server counts otherwise."""
        if self._counts:
            if total is None:
                return False  # counted in another state: somebody wrote in between
            self.result.hidden = total - self._size()
            if self.result.hidden:
                return True
        self.result.state = stamp
        return True

    @property
    def _counts(self) -> tuple[GetAllChildrenNumber, ...]:
        return self._census.requests if self._is_counted() else ()

    def _size(self) -> int:
        return sum(stop - start for start, stop in self._kept_ranges()) + len(self._fresh)

    def _stamp_of_now(self) -> tuple[int, int | None]:
        counts = self._counts
        now, *replies = self._client.pipeline((Exists(self._base.root), *counts), 1 + len(counts))
        return now.zxid, self._census.total(replies, now.zxid) if counts else None

    def _heat(self, events: set[str]) -> None:
        self._dirty |= events
        self._hot |= events
        if len(self._hot) > TOGETHER_MAX:
            self._hot = set(events)

    def _round(self) -> tuple[set[str], int, set[str], int | None]:
        """Read all that is dirty, and what was before.

        Returns (paths that were read at the last stamp, that stamp, what the watch has told up to that reply, how many
        znodes the server counted at that stamp or None).
        """
        # What came while the last round was taken in: a child that is not known of yet costs another round.
        self._heat(self._watch.take())
        asked = sorted(self._dirty if len(self._dirty) > TOGETHER_MAX else self._dirty | self._hot)
        self._dirty = set()
        nodes, total = self._read(asked)
        # Now, not once all is taken in: below a parent of many children more than one changes meanwhile.
        events = self._watch.take_at_hand()
        present = [node for node in nodes if isinstance(node, NodeRead)]
        missing: set[str] = set()
        for whole in self._with_acls(present):
            missing |= self._take(whole)
        self._dirty.update(path for path in missing if not self._is_there(path))  # most were read in this round, too
        self._take_absences(node.path for node in nodes if isinstance(node, NodeAbsent))
        self._note(present)
        stamp = nodes[-1].zxid
        return {node.path for node in nodes if node.zxid == stamp}, stamp, events, total

    def _read(self, asked: list[str]) -> tuple[list[NodeRead | NodeAbsent], int | None]:
        """By one request, unless that would make a giant of it or of its reply; and the count in the same state."""
        pace, counts = Pace(), self._counts
        if len(asked) <= TOGETHER_MAX and sum(map(self._data_bytes, asked)) <= REPLY_BYTES_AIM:
            pace.nodes = max(1, len(asked))
            if counts and 2 * sum(utf8_size(path) + PART_BYTES for path in asked) < REQUEST_BYTES_MAX:
                nodes, replies = read_together(self._client, asked, counts)
                return nodes, self._census.total(replies, nodes[-1].zxid)
        return list(read_nodes(self._client, asked, children=True, pace=pace)), None

    def _data_bytes(self, path: str) -> int:
        if path in self._fresh:
            return self._fresh[path].node.stat.data_length
        if path in self._base:
            return self._base.columns.stats.data_length[self._base.index(path)]
        return 0

    def _take(self, whole: _Whole) -> set[str]:
        """Take in what was read; paths of its children that are not there."""
        path, now = whole.node.path, set(whole.node.children or ())
        head = path.removesuffix("/") + "/"
        there = self._names(path)
        for name in there - now:
            self._drop(head + name)
        self._fresh[path] = whole
        if path != self._base.root:
            self._fresh_names.setdefault(paths.parent(path), set()).add(paths.name(path))
        missing = now - there
        covered = {head + name for name in missing if self._base.scope.covers(head + name)}
        self._left_out[path] = len(missing) - len(covered)
        if not whole.is_settled:
            self._dirty.add(path)
        return covered

    def _take_absences(self, absent: Iterable[str]) -> None:
        listed: dict[str, frozenset[str]] = {}
        for path in absent:
            self._drop(path)
            above = paths.parent(path)
            if path == self._base.root or not self._is_there(above):
                continue
            if above not in listed:
                names = self._fresh[above].node.children if above in self._fresh else self._base.children(above)
                listed[above] = frozenset(names or ())
            if paths.name(path) in listed[above]:
                self._dirty.add(above)

    # -- ACLs ---------------------------------------------------------------------------------------------------------

    def _with_acls(self, nodes: list[NodeRead]) -> Iterator[_Whole]:
        unknown: list[NodeRead] = []
        for node in nodes:
            acl = self._known_acl(node)
            if acl is None:
                unknown.append(node)
            else:
                yield _Whole(node, acl, is_settled=True)
        for node, live in zip(unknown, read_acls(self._client, [each.path for each in unknown]), strict=True):
            if live is None:  # gone since
                self._dirty.add(node.path)
                continue
            if live.acl not in self._acls_seen:
                self._admit(live.acl, node.path)
                self._acls_seen.add(live.acl)
            is_settled = (live.stat.czxid, live.stat.aversion) == (node.stat.czxid, node.stat.aversion)
            yield _Whole(node, live.acl, is_settled)

    def _known_acl(self, node: NodeRead) -> AclList | None:
        path, base = node.path, self._base
        if path in self._fresh:
            was, acl, is_settled = self._fresh[path]
            stat = was.stat
            if not is_settled:
                return None
        elif path in base and path not in self._doubtful:
            index = base.index(path)
            acl, stat = base.acl_at(index), base.stat_at(index)
        else:
            return None
        return acl if (stat.czxid, stat.aversion) == (node.stat.czxid, node.stat.aversion) else None

    # -- the tree as it is known by now -------------------------------------------------------------------------------

    def _is_there(self, path: str) -> bool:
        return path in self._fresh or self._is_in_base(path)

    def _is_in_base(self, path: str) -> bool:
        if path not in self._base or path in self._gone:
            return False
        return not self._gone or self._gone.isdisjoint(self._ancestors(path))

    def _names(self, path: str) -> set[str]:
        """Names of the children of `path` that are there."""
        names = set(self._fresh_names.get(path, ()))
        if self._is_in_base(path):
            head = path.removesuffix("/") + "/"
            names.update(name for name in self._base.children(path) if head + name not in self._gone)
        return names

    def _drop(self, path: str) -> None:
        """A znode and all below it are gone."""
        self._gone.add(path)
        dropped = [path]
        while dropped:
            each = dropped.pop()
            if self._fresh.pop(each, None) is not None and each != self._base.root:
                self._fresh_names[paths.parent(each)].discard(paths.name(each))
            head = each.removesuffix("/") + "/"
            dropped += [head + name for name in self._fresh_names.get(each, ())]

    def _ancestors(self, path: str) -> Iterator[str]:
        while path != self._base.root:
            path = paths.parent(path)
            yield path

    def _kept_ranges(self) -> Iterator[tuple[int, int]]:
        """Stretches of the base that still count."""
        base, ends = self._base, self._base.columns.ends
        gone = [base.index(path) for path in self._gone if path in base]
        cuts = [(index, ends[index]) for index in gone]
        cuts += [(index, index + 1) for index in (base.index(path) for path in self._fresh if path in base)]
        start = 0
        for cut_start, cut_stop in sorted(cuts):
            if cut_start > start:
                yield start, cut_start
            start = max(start, cut_stop)
        if start < len(base):
            yield start, len(base)
