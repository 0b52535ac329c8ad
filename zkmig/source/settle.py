"""Settling: what a walk read, brought to one state of the tree by reading again whatever changed meanwhile.

A round reads all that is known to have changed, data and children of a znode together. Then it asks what the watch has
told up to the last reply, stamped z. If that names nothing, or only znodes that this very reply shows as they were at
z, the snapshot is exactly the state at z: what was not named has not changed since it was read, and what was named was
read at z. Znodes that changed once are read again in each round, since they are likely to change again; so a few that
never rest do not keep a large tree from coming to one state.

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
from zkmig.source.bulk import REPLY_BYTES_AIM, NodeAbsent, NodeRead, Pace, read_acls, read_nodes
from zkmig.source.treewatch import TreeWatch
from zkmig.source.walk import Admit
from zkmig.wire.client import Client
from zkmig.wire.requests import Exists

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
    be brought into agreement with the others. acls_unsettled: those of them whose ACL alone kept moving."""

    state: int | None = None
    rounds: int = 0
    unresolved: int = 0
    acls_unsettled: int = 0


class Settling:
    """base: what a walk read. dirty: paths to be read again. doubtful: those whose ACL in the base is not theirs.

    left_out: children that the scope leaves out, by parent; kept up to date. note: called with the znodes that were
    read again, a list a round.
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
    ) -> None:
        self._client = client
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
                # What the watch has told by the time of this answer is all that happened up to its stamp.
                stamp = self._stamp_of_now() if self._watch.is_set else None
                self._heat(self._watch.take())
                if not self._dirty:
                    result.state = stamp
                    return True
            result.rounds += 1
            read_last, stamp, events = self._round()
            if not self._is_there(root):
                return False
            if self._watch.is_set and not self._dirty and events <= read_last:
                result.state = stamp
                return True
            self._heat(events)
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

    def _stamp_of_now(self) -> int:
        return self._client.call_reply(Exists(self._base.root)).zxid

    def _heat(self, events: set[str]) -> None:
        self._dirty |= events
        self._hot |= events
        if len(self._hot) > TOGETHER_MAX:
            self._hot = set(events)

    def _round(self) -> tuple[set[str], int, set[str]]:
        """Read all that is dirty, and what was before.

        Returns (paths that were read at the last stamp, that stamp, what the watch has told up to that reply).
        """
        # What came while the last round was taken in: a child that is not known of yet costs another round.
        self._heat(self._watch.take())
        asked = sorted(self._dirty if len(self._dirty) > TOGETHER_MAX else self._dirty | self._hot)
        self._dirty = set()
        nodes = list(read_nodes(self._client, asked, children=True, pace=self._pace(asked)))
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
        return {node.path for node in nodes if node.zxid == stamp}, stamp, events

    def _pace(self, asked: list[str]) -> Pace:
        """All in one request, unless that would make a giant reply."""
        pace = Pace()
        if len(asked) <= TOGETHER_MAX and sum(map(self._data_bytes, asked)) <= REPLY_BYTES_AIM:
            pace.nodes = max(1, len(asked))
        return pace

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
