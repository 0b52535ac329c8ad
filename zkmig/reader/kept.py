"""The last view of a reader: kept while watches tell that it still is the image, mended where they tell it is not.

Two watches of the bulk session: one on the epoch record, one over the whole tree. Their events arrive before any answer
that reflects the change [zookeeper-facts 7]. So when an answer of the record's own state has come, stamped z, whatever
changed in the tree up to z has been told, and only that needs to be read again. An event of the record ends it: the
image may be another then. So does a lost connection, which takes the watches with it.

What fires no watch is not noticed: setACL, and changes of znodes that this session may not READ [3, 9].
`view(fresh=True)` asks for everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.znode import Kind, Znode
from zkmig.reader.part import Part
from zkmig.reader.view import View
from zkmig.source.acl_cache import AclCache
from zkmig.source.bulk import NodeAbsent, NodeRead, read_acls, read_nodes
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.requests import WATCH_PERSISTENT, WATCH_PERSISTENT_RECURSIVE, AddWatch, RemoveWatches
from zkmig.wire.session import WatchEvent

ROUNDS_MAX: Final = 8
CHANGES_PART: Final = 10
CHANGES_MIN: Final = 1_000
"""Rounds of reading again, and changes (at least so many, or one znode in so many), beyond which all is read anew."""

CREATED, DELETED = 1, 2  # Watcher.Event.EventType


class KeptView:
    """view: the last one. It is of the connection on which both watches were set before anything of it was read."""

    def __init__(self, client: Client, record: str, part: Part) -> None:
        """Sets the watches; `is_watched` tells whether the server knows them. Raises what the connection raises."""
        self.view: View | None = None
        self._nodes: dict[str, Znode] = {}
        self._client = client
        self._generation = 0
        self._record = record
        self._part = part
        self.is_watched = client.has_multi_read and all(
            client.call_reply(AddWatch(path, mode)).error == Code.OK
            for path, mode in ((record, WATCH_PERSISTENT), (part.root, WATCH_PERSISTENT_RECURSIVE))
        )
        if self.is_watched:
            client.take_watch_events()  # of what is read only now
        self._generation = client.watch_generation

    def keep(self, view: View, nodes: dict[str, Znode]) -> None:
        """`view`, of `nodes`, was read since the watches were set."""
        self.view, self._nodes = view, nodes

    def is_of(self, client: Client) -> bool:
        """Whether the watches still stand."""
        return client is self._client and client.watch_generation == self._generation

    def view_if_good_at(self, zxid_floor: int) -> View | None:
        """The view, if nothing has been told since and it is not older than zxid_floor; asks no server."""
        view = self.view
        is_good = view is not None and zxid_floor <= view.zxid and self.is_of(self._client) and self._client.is_quiet
        return view if is_good else None

    def end(self) -> None:
        """Remove the watches, so that a session which has no use for them is not told of every change."""
        if self.is_of(self._client) and self._client.is_connected:
            for path in (self._record, self._part.root):
                self._client.call_reply(RemoveWatches(path))
            self._client.take_watch_events()

    def renew(self, acls: AclCache, zxid_floor: int, confirm: Callable[[], int | None]) -> View | None:
        """The view as of now, reading again what changed; None: all has to be read anew.

        confirm: the zxid of a later state in which the record still is that of the view, or None.
        """
        assert self.view is not None
        nodes, changed = self._nodes, False
        for _ in range(ROUNDS_MAX):
            events = self._client.take_watch_events()
            if not self.is_of(self._client) or any(event.path == self._record for event in events):
                return None
            dirty = self._dirty(events)
            if dirty:
                if not changed:
                    nodes, changed = dict(nodes), True
                if not self._read_again(nodes, dirty, acls):
                    return None
            elif zxid_floor <= self.view.zxid and not changed:
                return self.view
            zxid = confirm()
            if zxid is None or zxid < zxid_floor:
                return None
            if self._client.is_quiet:
                self.keep(self.view.renewed(nodes if changed else None, zxid), nodes)
                return self.view
        return None

    def _dirty(self, events: Iterable[WatchEvent]) -> set[str]:
        dirty = set()
        for event in events:
            dirty.add(event.path)
            if event.type in (CREATED, DELETED) and event.path != "/":
                dirty.add(paths.parent(event.path))
        return set(filter(self._part.covers, dirty))

    def _read_again(self, nodes: dict[str, Znode], dirty: set[str], acls: AclCache) -> bool:
        """Bring `nodes` up to date; False if that is more than is worth it, or does not come to an end."""
        for _ in range(ROUNDS_MAX):
            if not dirty:
                return self._part.root in nodes
            if len(dirty) > max(CHANGES_MIN, len(nodes) // CHANGES_PART):
                return False
            unknown: list[NodeRead] = []
            again: set[str] = set()
            for node in read_nodes(self._client, sorted(dirty, key=paths.order_key), children=True):
                if isinstance(node, NodeAbsent):
                    nodes.pop(node.path, None)  # of what was below it the watch tells by itself
                    continue
                head = node.path.removesuffix("/") + "/"
                children = map(head.__add__, node.children or ())
                again.update(child for child in children if child not in nodes and self._part.covers(child))
                acl = acls.find(node.path, node.stat)
                if acl is None:
                    unknown.append(node)
                else:
                    nodes[node.path] = _shown(node, acl)
            for node, live in zip(unknown, read_acls(self._client, [each.path for each in unknown]), strict=True):
                if live is None or (live.stat.czxid, live.stat.aversion) != (node.stat.czxid, node.stat.aversion):
                    again.add(node.path)
                else:
                    acls.note(node.path, node.stat, live.acl)
                    nodes[node.path] = _shown(node, live.acl)
            if any(path != self._part.root and paths.parent(path) not in nodes for path in dirty if path in nodes):
                return False
            dirty = {path for path in again if path not in nodes or path in dirty}
        return False


def _shown(node: NodeRead, acl: AclList) -> Znode:
    kind = Kind.EPHEMERAL if node.stat.ephemeral_owner else Kind.PERSISTENT
    return Znode(node.path, node.data, acl, node.stat, kind)
