"""Overlay: image n of every path of a plan, from the attempt's journal, to be laid over the live tree while it moves.

Which paths are overlaid depends on the journal alone, never on a cursor, so every reader shows the same image, whenever
it starts. A path that is created is hidden with all below it; one that is written, deleted or given another ACL shows
its pre-image, whole Stat included, so that a compare-and-set on it fails as it should; one that only gains or loses
children keeps its own data and ACL, and shows what its Stat said of its children.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zkmig.epoch.journal import Action, Journal
from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, Acl, AclList, Identity, grants
from zkmig.model.znode import Znode
from zkmig.reader.part import Part


@dataclass(frozen=True, slots=True)
class Overlay:
    """hidden: created paths. before: pre-images of written and deleted paths, and of those given another ACL, in tree
    order. touched: pre-images of nodes of which only the Stat moves. anchors: parents of these two inside the scope
    that are in neither."""

    hidden: frozenset[str] = frozenset()
    before: Mapping[str, Znode] = field(default_factory=dict)
    touched: Mapping[str, Znode] = field(default_factory=dict)
    anchors: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.hidden) + len(self.before) + len(self.touched)

    def __contains__(self, path: object) -> bool:
        return path in self.before or path in self.touched or path in self.hidden

    def hides(self, path: str) -> bool:
        """Whether `path` or something above it is created by the plan."""
        while path not in self.hidden:
            if path == "/":
                return False
            path = paths.parent(path)
        return True

    def lay_over(self, nodes: dict[str, Znode]) -> None:
        """Turn live nodes, in which nothing hidden was read, into image n. The order of `nodes` is not kept."""
        nodes.update(self.before)
        for path, before in self.touched.items():
            live = nodes.get(path)
            nodes[path] = before if live is None else _with_children_of(live, before)
        if any(anchor not in nodes for anchor in self.anchors):
            self._drop_orphans(nodes)

    def _drop_orphans(self, nodes: dict[str, Znode]) -> None:
        # Somebody deleted a parent that the plan does not touch: that is live, so what was below it cannot be shown.
        gone = {anchor for anchor in self.anchors if anchor not in nodes}
        for path in sorted((*self.before, *self.touched), key=paths.order_key):
            if paths.parent(path) in gone:
                gone.add(path)
                nodes.pop(path, None)


NO_OVERLAY = Overlay()


def overlay_of(journal: Journal, part: Part, identities: Iterable[Identity]) -> Overlay:
    """The overlay for a reader of `part`. identities: the reader's, to show ACLs as the server shows them to it."""
    entries = {path: entry for path, entry in journal.by_path().items() if part.covers(path)}
    mask = _AclMask(identities)
    before: dict[str, Znode] = {}
    touched: dict[str, Znode] = {}
    for path in sorted(entries, key=paths.order_key):
        entry = entries[path]
        if entry.before is not None:
            shown = touched if entry.action is Action.TOUCHED else before
            shown[path] = entry.before._replace(acl=mask(entry.before.acl))
    hidden = frozenset(path for path, entry in entries.items() if entry.before is None)
    parents = {paths.parent(path) for path in (*before, *touched) if path != part.root}
    return Overlay(hidden, before, touched, frozenset(parents - before.keys() - touched.keys()))


def _with_children_of(live: Znode, before: Znode) -> Znode:
    # The same node: its data and ACL are nobody's business but its owner's. Another one: somebody deleted it since.
    if live.stat.czxid != before.stat.czxid:
        return before
    was = before.stat
    stat = live.stat._replace(cversion=was.cversion, num_children=was.num_children, pzxid=was.pzxid)
    return live._replace(stat=stat)


class _AclMask:
    """Shows an ACL as the server does: without ADMIN, what follows the first colon of a digest id is "x".

    (FinalRequestProcessor, getACL.) Otherwise a view of the pre-image would differ from a view of the same node live.
    """

    def __init__(self, identities: Iterable[Identity]) -> None:
        self._identities = tuple(identities)
        self._shown: dict[AclList, AclList] = {}

    def __call__(self, acl: AclList) -> AclList:
        if acl not in self._shown:
            self._shown[acl] = acl if grants(acl, self._identities) & ADMIN else tuple(map(_masked, acl))
        return self._shown[acl]


def _masked(entry: Acl) -> Acl:
    return entry._replace(id=entry.id.partition(":")[0] + ":x") if entry.scheme == "digest" else entry
