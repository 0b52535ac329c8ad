"""A live ensemble as a source: one scan of a scope, and whether what it read is one state of the tree.

How one state is recognised: a reply's stamp is the zxid of the state that it was read from, and a change of data or
children leaves its zxid in mzxid or pzxid. If no znode read shows a change above the lowest stamp, then everything
read held at that stamp [zookeeper-facts 2]. ACL changes leave no zxid [3], so each ACL must come with the (czxid,
aversion) that the data was read at. A znode listed by its parent and gone when its turn came is never passed over:
the parent is read again until both agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from zkmig.errors import BadInput, NotPermitted
from zkmig.model import path as paths
from zkmig.model.acl import AclList, is_masked
from zkmig.model.path import SYSTEM_ROOT
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.source.bulk import NodeAbsent, NodeRead, Pace, read_acls, read_nodes
from zkmig.source.frontier import Frontier
from zkmig.source.location import EnsembleLocation
from zkmig.wire.client import Client
from zkmig.wire.requests import Sync

GROUP_NODES: Final = 4_096
GROUP_BYTES: Final = 8 * 1024 * 1024
"""Znodes, and bytes of their data, that are read before their ACLs: what waits in memory outside the columns."""

ACL_TRIES_MAX: Final = 5
"""Times that a znode whose ACL moved between data and ACL is read again."""

SETTLE_ROUNDS_MAX: Final = 8
"""Times that the parents of vanished znodes are read again."""

_Whole = tuple[NodeRead, AclList]
_Known = tuple[int, int, AclList]  # czxid, aversion, and the ACL that they stand for


class SourceAbsent(BadInput):
    """The root of what should be read is not there."""


def absent(where: str) -> SourceAbsent:
    """The error for a root that is not there."""
    return SourceAbsent("there is no such znode", where, "check the path, chroot included")


class AclCache:
    """ACLs by path, each with the (czxid, aversion) it was read at, so that a rescan asks only for those that moved.

    Good for one scope, and for sessions of the same identities: who lacks ADMIN is shown masked ids.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    @classmethod
    def of(cls, snapshot: Snapshot) -> AclCache:
        """What an earlier snapshot of the same scope knows."""
        cache = cls()
        stats = snapshot.columns.stats
        for index, path in enumerate(snapshot):
            cache._known[path] = (stats.czxid[index], stats.aversion[index], snapshot.acl_at(index))
        return cache

    def find(self, path: str, stat: Stat) -> AclList | None:
        """The ACL of the znode that `stat` describes; None if it moved since, or was never read."""
        known = self._known.get(path)
        return known[2] if known is not None and known[0] == stat.czxid and known[1] == stat.aversion else None

    def replace(self, known: dict[str, _Known]) -> None:
        """Forget everything but `known`: what one whole scan has seen."""
        self._known = known


def scan(
    client: Client,
    scope: Scope,
    *,
    progress: Callable[[int], None] | None = None,
    acl_cache: AclCache | None = None,
    provenance: Provenance | None = None,
    masked_acls: bool = False,
) -> Snapshot:
    """Read everything that `scope` covers. As `scan_or_none`, but SourceAbsent where the root is not there."""
    snapshot = scan_or_none(
        client, scope, progress=progress, acl_cache=acl_cache, provenance=provenance, masked_acls=masked_acls
    )
    if snapshot is None:
        raise absent(scope.root)
    return snapshot


def scan_or_none(
    client: Client,
    scope: Scope,
    *,
    progress: Callable[[int], None] | None = None,
    acl_cache: AclCache | None = None,
    provenance: Provenance | None = None,
    masked_acls: bool = False,
) -> Snapshot | None:
    """Read everything that `scope` covers; None if its root is not there, or vanished meanwhile.

    progress: called now and then with the number of znodes read so far. acl_cache: consulted, and replaced by what
    was read. masked_acls: take digest ids as the server shows them to a session without ADMIN ("user:x"); otherwise
    such an ACL is NotPermitted, since a copy of it would let nobody in. NotPermitted too where READ is missing: no
    znode is ever left out for want of permission. BadInput: the scope covers nothing, or the server's counters are
    not those of Apache ZooKeeper.
    """
    if not scope.covers(scope.root):
        raise BadInput("the root is left out of its own scope", scope.root, "the server's own tree and zkmig's are")
    # Not a guarantee [4], but a follower that lags would otherwise show a tree of seconds ago.
    client.call(Sync(scope.root))
    if provenance is None:
        location = EnsembleLocation((client.server,), scope.root)
        provenance = Provenance(str(location), (location.hosts_text,), time.time_ns() // 1_000_000)
    found = _Scan(client, scope, progress, acl_cache, masked_acls)
    snapshot = found.run(provenance)
    if snapshot is not None and acl_cache is not None:
        acl_cache.replace(found.known)
    return snapshot


class _Scan:
    """Reads of one scan, and what they say together."""

    def __init__(
        self,
        client: Client,
        scope: Scope,
        progress: Callable[[int], None] | None,
        acl_cache: AclCache | None,
        masked_acls: bool,
    ) -> None:
        self._client = client
        self._scope = scope
        self._excludes = frozenset(scope.excludes)
        self._progress = progress
        self._acl_cache = acl_cache
        # Asked now: an old server that does not know the question costs a reconnect, in the midst of nothing.
        self._identities = None if masked_acls else client.identities
        self._pace = Pace()
        self._pace_inner = Pace()
        self._pace_inner.expected = self._pace.expected
        self._acls_seen: set[AclList] = set()
        self._nodes_read = 0
        self._change_last = 0
        self._stamp_first = 0
        self._stamp_last = 0
        self._acls_unsettled = 0
        self.known: dict[str, _Known] = {}
        self.vanished: list[str] = []

    def run(self, provenance: Provenance) -> Snapshot | None:
        """The whole scope; None if its root is not there."""
        builder = SnapshotBuilder()
        for node, acl in self.walk([self._scope.root]):
            builder.add(node.path, node.data, acl, node.stat)
        if self._scope.root in self.vanished:
            return None
        snapshot = builder.build(self._scope, provenance, self.consistency(len(self.vanished)))
        return _Settling(self, snapshot).run() if self.vanished else snapshot

    def walk(self, roots: list[str], known: Callable[[str], Collection[str]] | None = None) -> Iterator[_Whole]:
        """`roots` and all below them, parents first, as far as they are there; what is not goes to `vanished`.

        known: names of the children of a path that need not be read.
        """
        frontier = Frontier(roots, self._pace)
        while frontier:
            wholes = self._with_acls(self._read_group(frontier))
            self._note([node for node, _ in wholes])
            for node, _ in wholes:
                if node.children:
                    names = node.children if known is None else set(node.children).difference(known(node.path))
                    head = node.path.removesuffix("/") + "/"
                    children = [child for child in map(head.__add__, names) if child not in self._excludes]
                    frontier.push(node.path, children)
            if self._progress is not None:
                self._progress(self._nodes_read)
            yield from wholes

    def _read_group(self, frontier: Frontier) -> list[NodeRead]:
        """The next znodes: first data of all, then data and children of those that have any.

        Most znodes are leaves, and one read without children is whole: it costs one part of a multiRead, not two.
        """
        leaves: list[NodeRead] = []
        inner: list[str] = []
        group_bytes = 0

        def feed() -> Iterator[str]:
            for _ in range(GROUP_NODES):
                if not frontier or group_bytes > GROUP_BYTES:
                    return
                yield frontier.pop()

        for node in self._present(read_nodes(self._client, feed(), pace=self._pace), frontier.saw):
            group_bytes += node.stat.data_length
            if node.stat.num_children:
                inner.append(node.path)
            else:
                leaves.append(node)
        parents = read_nodes(self._client, inner, children=True, pace=self._pace_inner)
        return [*self._present(parents), *leaves]

    def _present(
        self, nodes: Iterable[NodeRead | NodeAbsent], saw: Callable[[str, int], None] | None = None
    ) -> Iterator[NodeRead]:
        for node in nodes:
            if saw is not None:
                saw(node.path, node.stat.data_length if isinstance(node, NodeRead) else 0)
            if isinstance(node, NodeRead):
                yield node
            else:
                self.vanished.append(node.path)

    def _note(self, nodes: list[NodeRead]) -> None:
        """What `consistency` needs of znodes that are kept."""
        if not nodes:
            return
        stats = [node.stat for node in nodes]
        for index, stat in enumerate(stats):
            if (stat.cversion + stat.num_children) & 1 and not _has_odd_counter(nodes[index].path):
                raise BadInput(
                    "the sequence counter is not one of Apache ZooKeeper",
                    nodes[index].path,
                    "ClickHouse Keeper and other servers that count differently are not supported",
                )
        stamps = {node.zxid for node in nodes}
        self._stamp_first = min(*stamps, self._stamp_first) if self._nodes_read else min(stamps)
        self._stamp_last = max(*stamps, self._stamp_last)
        self._change_last = max(self._change_last, *[stat.mzxid for stat in stats], *[stat.pzxid for stat in stats])
        self._nodes_read += len(nodes)

    # -- ACLs ----------------------------------------------------------------------------------------------------------

    def _with_acls(self, group: list[NodeRead]) -> list[_Whole]:
        """Each znode with the ACL that was read at the same czxid and aversion."""
        wholes: list[_Whole] = []
        unknown = group
        if self._acl_cache is not None:
            unknown = []
            find = self._acl_cache.find
            for node in group:
                acl = find(node.path, node.stat)
                if acl is None:
                    unknown.append(node)
                else:
                    wholes.append((node, acl))
        moved: list[str] = []
        results = read_acls(self._client, [node.path for node in unknown])
        for node, result in zip(unknown, results, strict=True):
            if result is None:
                self.vanished.append(node.path)
            elif result.stat.aversion == node.stat.aversion and result.stat.czxid == node.stat.czxid:
                wholes.append((node, result.acl))
            else:
                moved.append(node.path)
        wholes += filter(None, map(self._read_again, moved))
        self._admit(wholes)
        return wholes

    def _read_again(self, path: str) -> _Whole | None:
        for tries_left in reversed(range(ACL_TRIES_MAX)):
            (node,) = read_nodes(self._client, [path], children=True)
            (result,) = read_acls(self._client, [path])
            if isinstance(node, NodeAbsent) or result is None:
                break
            is_settled = (result.stat.czxid, result.stat.aversion) == (node.stat.czxid, node.stat.aversion)
            if is_settled or not tries_left:
                self._acls_unsettled += not is_settled
                return node, result.acl
        self.vanished.append(path)
        return None

    def _admit(self, wholes: list[_Whole]) -> None:
        """Refuse ACLs that are not the real ones; remember the others for the next scan."""
        for acl in {acl for _, acl in wholes} - self._acls_seen:
            self._acls_seen.add(acl)
            if self._identities is not None and is_masked(acl, self._identities):
                raise NotPermitted(
                    "its ACL shows only masked ids to a session without ADMIN",
                    next(node.path for node, shown in wholes if shown == acl),
                    "give credentials that hold ADMIN (--auth-file), or leave it out with --exclude",
                )
        if self._acl_cache is not None:
            self.known.update((node.path, (node.stat.czxid, node.stat.aversion, acl)) for node, acl in wholes)

    # -- the verdict ---------------------------------------------------------------------------------------------------

    def consistency(self, unresolved: int) -> Consistency:
        """Whether what was kept is one state. unresolved: paths that were listed but could never be read."""
        change, first, last = self._change_last, self._stamp_first, self._stamp_last
        if unresolved:
            reason = f"{unresolved} znodes came and went faster than they could be read, {SETTLE_ROUNDS_MAX} times over"
        elif self._acls_unsettled:
            reason = f"the ACLs of {self._acls_unsettled} znodes moved between data and ACL, {ACL_TRIES_MAX} times over"
        elif not self._client.has_multi_read:
            reason = "the server knows no multiRead: below 3.6 its pzxid is not to be relied on (ZOOKEEPER-3145)"
        elif change > first:
            reason = f"a change at zxid {change:#x} came after the first read, which saw zxid {first:#x}"
        else:
            reason = f"the latest change in it is zxid {change:#x}, and every read saw zxid {first:#x} or later"
            return Consistency(False, change, first, reason)
        return Consistency(True, first, last, reason)


def _has_odd_counter(path: str) -> bool:
    # These two are set up by the server itself, not by creates [34].
    return path == "/" or paths.contains(SYSTEM_ROOT, path)


# -- vanished znodes --------------------------------------------------------------------------------------------------


class _Settling:
    """Brings parents and children back together after a walk in which listed znodes were not there any more.

    `_base` is what the walk found. `_gone` are roots of its subtrees that are gone, `_fresh` what was read since; a
    path in `_fresh` counts, whatever `_gone` and `_base` say.
    """

    def __init__(self, found: _Scan, base: Snapshot) -> None:
        self._found = found
        self._base = base
        self._gone: set[str] = set()
        self._fresh: dict[str, _Whole] = {}

    def run(self) -> Snapshot | None:
        """The snapshot with everything settled, or fuzzy with what would not settle; None if the root vanished."""
        for _ in range(SETTLE_ROUNDS_MAX):
            vanished = self._take_vanished()
            if not vanished:
                break
            if self._base.root in vanished:
                return None
            # Every ancestor at once: if a whole subtree went, one round finds where it was cut.
            self._read_again({ancestor for path in vanished for ancestor in self._ancestors(path)})
        unresolved = self._take_vanished()
        return None if self._base.root in unresolved else self._merged(len(unresolved))

    def _take_vanished(self) -> list[str]:
        vanished, self._found.vanished = self._found.vanished, []
        self._drop(vanished)
        return vanished

    def _ancestors(self, path: str) -> Iterator[str]:
        while path != self._base.root:
            path = paths.parent(path)
            yield path

    def _read_again(self, parents: set[str]) -> None:
        for node, acl in self._found.walk(sorted(parents), self._children):
            missing = self._children(node.path).difference(node.children or ())
            self._drop([paths.join(node.path, "/" + name) for name in missing])
            self._fresh[node.path] = (node, acl)

    def _children(self, path: str) -> set[str]:
        """Names of the children of `path` that are there, as far as is known by now."""
        if path in self._fresh:
            names: Iterable[str] = self._fresh[path][0].children or ()
        elif path in self._base and path not in self._gone and self._gone.isdisjoint(self._ancestors(path)):
            names = self._base.children(path)
        else:
            return set()
        head = path.removesuffix("/") + "/"
        return {name for name in names if head + name in self._fresh or head + name not in self._gone}

    def _drop(self, gone: list[str]) -> None:
        self._gone.update(gone)
        if gone and self._fresh:
            roots = set(gone)
            for path in [path for path in self._fresh if path in roots or not roots.isdisjoint(self._ancestors(path))]:
                del self._fresh[path]

    def _merged(self, unresolved: int) -> Snapshot:
        base = self._base
        builder = SnapshotBuilder()
        index = 0
        while index < len(base):
            path = base.path_at(index)
            if path in self._gone:
                index = base.columns.ends[index]
                continue
            if path not in self._fresh:
                builder.add(path, base.data_at(index), base.acl_at(index), base.stat_at(index))
            index += 1
        for node, acl in self._fresh.values():
            builder.add(node.path, node.data, acl, node.stat)
        return builder.build(base.scope, base.provenance, self._found.consistency(unresolved))
