"""Selection: only these subtrees are meant, by whole components; what lies above them counts only as being there.

A node above an included subtree, or made up on the way to a relocated one, is a waypoint: created where it is missing,
with what the source has there; never deleted, and neither its data nor its ACL nor its counter compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zkmig.model import path as paths
from zkmig.model.columns import KIND_EPHEMERAL
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.znode import Znode


def merged(includes: Iterable[str]) -> tuple[str, ...]:
    """The same subtrees, none of them inside another, in tree order."""
    found: list[str] = []
    for include in sorted(set(includes), key=_order):
        if not found or not _contains(found[-1], include):
            found.append(include)
    return tuple(found)


def common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """What both select; () selects everything."""
    if not one or not other:
        return merged(one or other)
    return merged(
        deeper
        for here in one
        for there in other
        for deeper in ([there] if _contains(here, there) else [here] if _contains(there, here) else [])
    )


def waypoints(subtrees: Iterable[str]) -> set[str]:
    """The relative paths above the tops of subtrees, "" among them."""
    found: set[str] = set()
    for top in subtrees:
        while top:
            top = top.rpartition("/")[0]
            found.add(top)
    return found


def only(snapshot: Snapshot, includes: tuple[str, ...]) -> Snapshot:
    """The snapshot less all that is neither in nor above the included subtrees (relative paths; () includes all).

    Its scope remembers them, so that what was left out is never taken for absent.
    """
    if not includes or "" in includes:
        return snapshot
    root = snapshot.root
    kept: set[int] = set()
    for relative in (*waypoints(includes), *includes):
        path = paths.join(root, relative)
        if path in snapshot:
            kept.add(snapshot.index(path))
    tops = {snapshot.index(path) for path in (paths.join(root, each) for each in includes) if path in snapshot}
    ends = snapshot.columns.ends
    builder = SnapshotBuilder()
    builder.extend(snapshot.columns, [(node, ends[node] if node in tops else node + 1) for node in sorted(kept)])
    absolute = tuple(paths.join(root, include) for include in includes)
    scope = Scope(root, snapshot.scope.excludes, absolute)
    return builder.build(scope, snapshot.provenance, snapshot.consistency)


def settled(source: Snapshot, target: Snapshot | None, points: Iterable[str], tops: Iterable[str]) -> Snapshot:
    """The source, its waypoints made such that a diff finds nothing to change on them but to create them.

    points: relative paths of the waypoints. tops: of what is carried; a waypoint that nothing carried lies below, and
    that the target does not have, goes.
    """
    wanted = set(points)
    held = {top for top in tops if paths.join(source.root, top) in source}
    needed = {"", *waypoints(held)}
    builder = SnapshotBuilder()
    for relative in sorted(wanted, key=_order):
        ours = _find(source, relative)
        theirs = _find(target, relative)
        if theirs is not None and theirs.kind.value == KIND_EPHEMERAL:
            theirs = None  # it is in the way of whatever the source has there, which the diff says
        if theirs is not None:
            _add(builder, theirs._replace(path=paths.join(source.root, relative)))
        elif ours is not None and relative in needed:
            _add(builder, ours)
    builder.extend(source.columns, _between(source, wanted))
    return builder.build(source.scope, source.provenance, source.consistency)


def _between(snapshot: Snapshot, left: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Ranges of all nodes but those at these relative paths."""
    here = (paths.join(snapshot.root, relative) for relative in left)
    start = 0
    for node in sorted(snapshot.index(path) for path in here if path in snapshot):
        yield start, node
        start = node + 1
    yield start, len(snapshot)


def _find(snapshot: Snapshot | None, relative: str) -> Znode | None:
    if snapshot is None:
        return None
    return snapshot.get(paths.join(snapshot.root, relative))


def _add(builder: SnapshotBuilder, znode: Znode) -> None:
    builder.add(znode.path, znode.data, znode.acl, znode.stat, znode.kind, znode.ttl_ms)


def _contains(top: str, path: str) -> bool:
    return path == top or path.startswith(top + "/")


def _order(relative: str) -> bytes:
    return paths.order_key(relative or "/")
