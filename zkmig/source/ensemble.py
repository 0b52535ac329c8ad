"""A live ensemble as a source: one scan of a scope, and whether what it read is one state of the tree.

A scan sets a watch over the tree, walks it (`source.walk`), and reads again what changed meanwhile (`source.settle`).
That it is one state is known in one of two ways. By zxids: a reply's stamp is the zxid of the state that it was read
from, and a change of data or children leaves its zxid in mzxid or pzxid; if no znode read shows a change above the
lowest stamp, then everything read held at that stamp [zookeeper-facts 2]. Or by the watch: if up to a reply stamped z
no event has named a path that was not read since, then everything read is the state at z [7]. ACL changes leave no
zxid and fire no watch [3], so each ACL must come with the (czxid, aversion) that the data was read at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from zkmig.errors import BadInput, NotPermitted
from zkmig.model.acl import AclList, is_masked
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.source.bulk import NodeRead
from zkmig.source.location import EnsembleLocation
from zkmig.source.settle import Settled, Settling
from zkmig.source.treewatch import TreeWatch
from zkmig.source.walk import Walk, miscounted
from zkmig.wire.client import Client
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.fleet import Fleet
from zkmig.wire.requests import Sync

SCANS_MAX: Final = 4
"""Times that the tree is scanned, when the connection is lost in the midst and the watch with it."""

_FUZZY = Consistency(True, 0, 0, "not known yet")

_log = logging.getLogger("zkmig.source")


class SourceAbsent(BadInput):
    """The root of what should be read is not there."""


def absent(where: str) -> SourceAbsent:
    """The error for a root that is not there."""
    return SourceAbsent("there is no such znode", where, "check the path, chroot included")


def scan(
    client: Client,
    scope: Scope,
    *,
    progress: Callable[[int], None] | None = None,
    known: Snapshot | None = None,
    provenance: Provenance | None = None,
    masked_acls: bool = False,
    watched: bool = True,
) -> Snapshot:
    """Read everything that `scope` covers. As `scan_or_none`, but SourceAbsent where the root is not there."""
    snapshot = scan_or_none(
        client,
        scope,
        progress=progress,
        known=known,
        provenance=provenance,
        masked_acls=masked_acls,
        watched=watched,
    )
    if snapshot is None:
        raise absent(scope.root)
    return snapshot


def scan_or_none(
    client: Client,
    scope: Scope,
    *,
    progress: Callable[[int], None] | None = None,
    known: Snapshot | None = None,
    provenance: Provenance | None = None,
    masked_acls: bool = False,
    watched: bool = True,
) -> Snapshot | None:
    """Read everything that `scope` covers; None if its root is not there, or vanished meanwhile.

    progress: called now and then with the number of znodes read so far. known: an earlier snapshot of the same scope
    and the same ensemble, read as somebody of the same identities: ACLs are read only where czxid or aversion moved
    since, child lists only where pzxid did. masked_acls: take digest ids as the server shows them to a session without
    ADMIN ("user:x"); otherwise such an ACL is NotPermitted, since a copy of it would let nobody in. NotPermitted too
    where READ is missing: no znode is ever left out for want of permission. watched: whether to watch the tree while it
    is read; without, one state is found only where nobody writes. BadInput: the scope covers nothing, or the server's
    counters are not those of Apache ZooKeeper.
    """
    if not scope.covers(scope.root):
        raise BadInput("the root is left out of its own scope", scope.root, "the server's own tree and zkmig's are")
    if provenance is None:
        location = EnsembleLocation((client.server,), scope.root)
        provenance = Provenance(str(location), (location.hosts_text,), time.time_ns() // 1_000_000)
    if known is not None and known.scope != scope:
        known = None
    with Fleet(client) as fleet:
        return _Scan(fleet, scope, progress, provenance, masked_acls, watched).run(known)


class _Scan:
    def __init__(
        self,
        fleet: Fleet,
        scope: Scope,
        progress: Callable[[int], None] | None,
        provenance: Provenance,
        masked_acls: bool,
        watched: bool,
    ) -> None:
        self._fleet = fleet
        self._client = fleet.lead
        self._scope = scope
        self._progress = progress
        self._provenance = provenance
        self._masked_acls = masked_acls
        self._watched = watched
        self._watch = TreeWatch(self._client, scope)

    def run(self, known: Snapshot | None) -> Snapshot | None:
        """Scan until the watch holds from the first read to the last."""
        for scans_left in reversed(range(SCANS_MAX)):
            try:
                # Not a guarantee [4], but a follower that lags would otherwise show a tree of seconds ago.
                self._client.call(Sync(self._scope.root))
                if not self._masked_acls:
                    _ = self._client.identities  # an old server does not know the question, and hangs up
                if self._watched:
                    self._watch.begin()
                walk = Walk(self._fleet, self._scope, self._admit, self._report, known)
                walk.run()
                base = walk.build(self._provenance, _FUZZY)
                if base is None:
                    self._watch.end()
                    return None
                settling = self._settling(walk, base)
                is_there = settling.run()
                is_whole = self._watch.is_whole
                if (is_whole and not settling.result.hidden) or not scans_left or not self._watched:
                    self._watch.end()
                    return self._finished(walk, settling, is_whole) if is_there else None
                known = settling.snapshot(_FUZZY) if is_there else None
            except ConnectionLost as error:
                if not scans_left:
                    raise
                _log.warning("connection lost, taking the session up again: %s", error)
                self._client.reconnect()
            _log.info("events of the watch were lost, or there is more than it tells of: scanning again")
        raise AssertionError("the last scan returns or raises")

    def _settling(self, walk: Walk, base: Snapshot) -> Settling:
        doubtful = walk.vanished | walk.moved
        dirty = {path for path in walk.vanished if path not in base}
        dirty = {above for path in dirty for above in _ancestors(path, base)} | (doubtful - dirty)
        dirty.update(walk.miscounted(base))

        def note(nodes: list[NodeRead]) -> None:
            for node in nodes:
                walk.change_last = max(walk.change_last, node.stat.mzxid, node.stat.pzxid)
                walk.stamp_last = max(walk.stamp_last, node.zxid)

        return Settling(
            self._client,
            self._watch,
            base,
            dirty,
            doubtful,
            walk.left_out,
            self._admit,
            note,
            # Where zxids alone prove one state, nothing can be hidden: the parent's pzxid would tell.
            is_counted=lambda: walk.change_last > walk.stamp_first,
        )

    def _report(self, znodes: int) -> None:
        self._watch.note()
        if self._progress is not None:
            self._progress(znodes)

    def _finished(self, walk: Walk, settling: Settling, is_whole: bool) -> Snapshot:
        consistency = self._consistency(walk, settling.result, is_whole)
        snapshot = settling.snapshot(consistency)
        # Cannot happen where one state was found; a server that keeps no order of events would show here.
        wrong = next(miscounted(snapshot, walk.left_out), None) if not consistency.is_fuzzy else None
        if wrong is not None:
            reason = f"{wrong} has another number of children than its Stat says"
            snapshot.consistency = Consistency(True, walk.stamp_first, walk.stamp_last, reason)
        return snapshot

    def _consistency(self, walk: Walk, settled: Settled, is_whole: bool) -> Consistency:
        change, first, last = walk.change_last, walk.stamp_first, walk.stamp_last
        if settled.acls_unsettled:
            reason = (
                f"the ACLs of {settled.acls_unsettled} znodes moved between data and ACL, {settled.rounds} times over"
            )
        elif settled.unresolved:
            reason = f"{settled.unresolved} znodes changed faster than they could be read, {settled.rounds} times over"
        elif not self._client.has_multi_read:
            reason = "the server knows no multiRead: below 3.6 its pzxid is not to be relied on (ZOOKEEPER-3145)"
        elif change <= first:
            reason = f"the latest change in it is zxid {change:#x}, and every read saw zxid {first:#x} or later"
            return Consistency(False, change, first, reason)
        elif settled.hidden:
            reason = f"the server counts {settled.hidden:+} znodes beside those that it shows to this session"
        elif settled.state is not None and is_whole:
            reason = f"whatever changed up to zxid {settled.state:#x} was told by a watch and read again"
            return Consistency(False, settled.state, settled.state, reason)
        else:
            reason = f"a change at zxid {change:#x} came after the first read, which saw zxid {first:#x}"
        return Consistency(True, first, last, reason)

    def _admit(self, acl: AclList, path: str) -> None:
        """Refuse an ACL that is not the real one."""
        if not self._masked_acls and is_masked(acl, self._client.identities):
            raise NotPermitted(
                "its ACL shows only masked ids to a session without ADMIN",
                path,
                "give credentials that hold ADMIN (--auth-file), or leave it out with --exclude",
            )


def _ancestors(path: str, base: Snapshot) -> list[str]:
    """Those that were read: if a whole subtree went, one round finds where it was cut."""
    above = []
    while path != base.root:
        path = path.rpartition("/")[0] or "/"
        if path in base:
            above.append(path)
    return above
