"""What stands where a plan goes to work: of a snapshot, or of a live ensemble no more than the nodes concerned."""

from __future__ import annotations

from typing import Unpack

from zkmig.api.access import Access, SessionOptions
from zkmig.api.trees import ReadProgress, read_options, take
from zkmig.model.acl import AclList
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.scope import Scope
from zkmig.model.znode import Kind, Znode
from zkmig.show.before import Before
from zkmig.show.changes import ChangeTree
from zkmig.source.bulk import NodeRead, read_acls, read_nodes
from zkmig.source.location import EnsembleLocation, parse

_PROGRESS_EVERY = 1_000


def read_before(
    location: str,
    tree: ChangeTree,
    *,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Before:
    """The nodes that a plan changes as they are at a location. Those of a live ensemble may be of several states: each
    is held against the version that the plan expects of it.

    BadInput for a tree of somewhere else, Unreachable, NotPermitted. Nothing is written.
    """
    access = Access.of(**session)
    place = parse(location)
    if not isinstance(place, EnsembleLocation):
        snapshot = take(location, read_options(access, (), CONTROL_ROOT, progress))
        return Before.of(snapshot, snapshot.scope, tree.plan)
    nodes: dict[str, Znode] = {}
    before = Before.of(nodes, Scope(place.path), tree.plan)
    named = [change.path for change in tree.changes() if before.is_read(change.path)]
    with_acl = [
        change.path for change in tree.changes() if (change.step or change.delete) and before.is_read(change.path)
    ]
    with access.client(place) as client:
        acls: dict[str, AclList] = {}
        for path, result in zip(with_acl, read_acls(client, with_acl), strict=True):
            if result is not None:
                acls[path] = result.acl
        for count, found in enumerate(read_nodes(client, named), 1):
            if isinstance(found, NodeRead):
                kind = Kind.EPHEMERAL if found.stat.ephemeral_owner else Kind.PERSISTENT
                nodes[found.path] = Znode(found.path, found.data, acls.get(found.path, ()), found.stat, kind)
            if progress is not None and count % _PROGRESS_EVERY == 0:
                progress(count)
    return before
