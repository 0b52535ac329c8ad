"""Reading the live nodes of a reader's part: as few requests as they allow, nothing missed, nothing left half-read.

A level at a time: first data and Stat of all its nodes, then data and children once more of those that have any. So a
leaf costs one part of a multiRead instead of two, and most nodes are leaves. A node without children when it was read
is whole; of the others, data and children are of one state. A node that its parent lists and that is gone when its turn
comes is never passed over, since something may have replaced it: the parent is read again until both agree. Of many
children a sample is read first, so that no request asks for a thousand large ones (see `source.frontier`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from zkmig.errors import Unreachable
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.znode import Kind, Znode
from zkmig.reader.overlay import Overlay
from zkmig.reader.part import Part
from zkmig.source.acl_cache import AclCache
from zkmig.source.bulk import NodeAbsent, NodeRead, Pace, read_acls, read_nodes
from zkmig.source.frontier import LARGE_BYTES, SAMPLE_CHILDREN, WIDE_CHILDREN
from zkmig.wire.client import Client

SETTLE_ROUNDS_MAX: Final = 8
"""Times that what vanished, or got another ACL, between two requests is read again."""


class Unsettled(Unreachable):
    """Znodes came and went faster than they could be read."""


def read_tree(client: Client, part: Part, overlay: Overlay, acls: AclCache) -> dict[str, Znode]:
    """The live nodes of `part` by path, in no order, less those that the overlay hides, each with its ACL.

    A path that the overlay holds whole may be missing or of any state; its ACL is not read. Raises NotPermitted for a
    node that may not be read, Unsettled, and what the connection raises. `acls` is consulted, and replaced by what
    was seen.
    """
    return _Read(client, part, overlay, acls).run()


class _Read:
    def __init__(self, client: Client, part: Part, overlay: Overlay, acls: AclCache) -> None:
        self._client = client
        self._part = part
        self._overlay = overlay
        self._acls = acls
        self._skipped = part.excludes | overlay.hidden
        self._expected: dict[str, int] = {}
        self._nodes: dict[str, NodeRead] = {}
        self._known: dict[str, tuple[int, int, AclList]] = {}
        self._vanished: list[str] = []

    def run(self) -> dict[str, Znode]:
        part, overlay = self._part, self._overlay
        self._read_ancestors(path for path in part.ancestors if not overlay.hides(path))
        self._descend([[top] for top in part.tops if not overlay.hides(top)])
        self._settle()
        self._acls.replace(self._known)
        return self._shown()

    # -- data, Stats, children ----------------------------------------------------------------------------------------

    def _read_ancestors(self, above: Iterable[str]) -> None:
        # Of these only the nodes themselves are shown, so their children are not asked for.
        self._nodes.update((node.path, node) for node in self._present(read_nodes(self._client, above)))

    def _descend(self, level: list[list[str]]) -> None:
        """Read paths, grouped by parent, and all below them."""
        while level:
            inner = self._read_level([path for siblings in level for path in siblings[: _sampled(siblings)]])
            self._expect_large(level)
            inner += self._read_level([path for siblings in level for path in siblings[_sampled(siblings) :]])
            level = self._read_inner(inner)

    def _read_level(self, level: list[str]) -> list[str]:
        """Read nodes without their children; paths of those that have any."""
        inner: list[str] = []
        for node in self._present(read_nodes(self._client, level, pace=self._new_pace())):
            self._nodes[node.path] = node
            if node.stat.num_children:
                inner.append(node.path)
        return inner

    def _read_inner(self, level: Iterable[str]) -> list[list[str]]:
        """Read nodes with their children; of each the paths of children that were not read yet."""
        below: list[list[str]] = []
        nodes, skipped = self._nodes, self._skipped
        for node in self._present(read_nodes(self._client, level, children=True, pace=self._new_pace())):
            nodes[node.path] = node
            head = node.path.removesuffix("/") + "/"
            children = map(head.__add__, node.children or ())
            below.append([child for child in children if child not in skipped and child not in nodes])
        return below

    def _new_pace(self) -> Pace:
        # A level may be of quite another size than the one before, so each begins with small requests again.
        pace = Pace()
        pace.expected = self._expected
        return pace

    def _expect_large(self, level: list[list[str]]) -> None:
        """Let requests for the other children of a wide parent be cut to the size of its sample."""
        for siblings in level:
            if _sampled(siblings) < len(siblings):
                sample = [self._nodes[path] for path in siblings[:SAMPLE_CHILDREN] if path in self._nodes]
                mean_bytes = sum(node.stat.data_length for node in sample) // SAMPLE_CHILDREN
                if mean_bytes > LARGE_BYTES:
                    self._expected[paths.parent(siblings[0])] = mean_bytes

    def _present(self, nodes: Iterable[NodeRead | NodeAbsent]) -> Iterator[NodeRead]:
        for node in nodes:
            if isinstance(node, NodeRead):
                yield node
            else:
                self._nodes.pop(node.path, None)
                self._vanished.append(node.path)

    # -- ACLs, and what moved meanwhile -------------------------------------------------------------------------------

    def _settle(self) -> None:
        has_moved = False
        for _ in range(SETTLE_ROUNDS_MAX):
            moved = self._read_acls()
            moved.update(map(paths.parent, self._take_vanished()))
            if not moved:
                break
            has_moved = True
            above = moved.intersection(self._part.ancestors)
            self._read_ancestors(above)
            self._descend(self._read_inner(sorted(moved - above, key=paths.order_key)))
        else:
            raise Unsettled(
                f"znodes came and went faster than they could be read, {SETTLE_ROUNDS_MAX} times over",
                self._part.root,
                "try again when it is quieter",
            )
        if has_moved:
            self._drop_unlisted()

    def _take_vanished(self) -> list[str]:
        """Paths that are gone although their parent lists them. Those of the plan are shown from undo in any case."""
        vanished, self._vanished = self._vanished, []
        unlisted = {*self._part.tops, *self._part.ancestors}
        return [path for path in vanished if path not in unlisted and path not in self._overlay.before]

    def _read_acls(self) -> set[str]:
        """Complete what is known of ACLs; paths whose ACL or self has changed since their data was read."""
        known, find, before = self._known, self._acls.find, self._overlay.before
        unknown: list[NodeRead] = []
        for path, node in self._nodes.items():
            stat = node.stat
            at = known.get(path)
            if at is not None and at[0] == stat.czxid and at[1] == stat.aversion:
                continue
            acl = find(path, stat)
            if acl is not None:
                known[path] = (stat.czxid, stat.aversion, acl)
            elif path not in before:
                unknown.append(node)
        moved: set[str] = set()
        for node, result in zip(unknown, read_acls(self._client, [node.path for node in unknown]), strict=True):
            if result is None:
                del self._nodes[node.path]
                self._vanished.append(node.path)
            elif (result.stat.czxid, result.stat.aversion) == (node.stat.czxid, node.stat.aversion):
                known[node.path] = (node.stat.czxid, node.stat.aversion, result.acl)
            else:
                moved.add(node.path)
        return moved

    def _drop_unlisted(self) -> None:
        """Keep only what the latest read of its parent lists, down from the tops."""
        kept = {path: self._nodes[path] for path in self._part.ancestors if path in self._nodes}
        stack = [top for top in self._part.tops if top in self._nodes]
        while stack:
            path = stack.pop()
            node = kept[path] = self._nodes[path]
            head = path.removesuffix("/") + "/"
            stack.extend(child for child in map(head.__add__, node.children or ()) if child in self._nodes)
        self._nodes = kept
        self._known = {path: at for path, at in self._known.items() if path in kept}

    # -- the result ---------------------------------------------------------------------------------------------------

    def _shown(self) -> dict[str, Znode]:
        known, before = self._known, self._overlay.before
        plain, ephemeral = Kind.PERSISTENT, Kind.EPHEMERAL
        return {
            path: Znode(path, node.data, known[path][2], node.stat, ephemeral if node.stat.ephemeral_owner else plain)
            for path, node in self._nodes.items()
            if path not in before
        }


def _sampled(siblings: list[str]) -> int:
    """How many of these children of one parent are read before the others are asked for."""
    return SAMPLE_CHILDREN if len(siblings) > WIDE_CHILDREN else len(siblings)
