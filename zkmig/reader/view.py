"""View: one committed image of a scope, as a mapping from absolute path to znode."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import NamedTuple

from zkmig.epoch.control import ControlPaths
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING
from zkmig.model import path as paths
from zkmig.model.stat import Stat
from zkmig.model.znode import Znode
from zkmig.reader.overlay import Overlay


class RecordSeen(NamedTuple):
    """The epoch record as one read showed it. zxid: of the state that it was read from."""

    record: Record
    stat: Stat
    zxid: int

    @property
    def identity(self) -> tuple[int, int]:
        """(czxid, mzxid): equal exactly while nobody has written or re-created the record."""
        return self.stat.czxid, self.stat.mzxid


class View(Mapping[str, Znode]):
    """The whole image of one epoch, never a mix of two. Immutable; lookups are those of a dict.

    Iteration is in tree order, parents before children, the root of the scope first. What the reader's `paths` leave
    out is not in it; the nodes above them are, up to the root. A znode's Stat is the server's own; what it says of
    children also counts those that the view leaves out.
    """

    __slots__ = ("_children", "_image", "_is_ordered", "_names", "_nodes", "_overlay", "_seen", "zxid")

    def __init__(
        self, nodes: dict[str, Znode], names: ControlPaths, seen: RecordSeen, overlay: Overlay, zxid: int
    ) -> None:
        """nodes: of the image, in any order, each with its parent up to the root. zxid: of the state in which the
        record was still the one in `seen`."""
        self._nodes = nodes
        self._is_ordered = False
        self._children: dict[str, list[str]] | None = None
        self._image = object()
        self._names = names
        self._seen = seen
        self._overlay = overlay
        self.zxid = zxid

    def renewed(self, nodes: dict[str, Znode] | None, zxid: int) -> View:
        """The view of the same record at a later zxid; nodes: None if they are the same."""
        later = View(self._nodes if nodes is None else nodes, self._names, self._seen, self._overlay, zxid)
        if nodes is None:
            later._is_ordered, later._children, later._image = self._is_ordered, self._children, self._image
        return later

    # -- the mapping ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, path: str) -> Znode:
        return self._nodes[path]

    def __contains__(self, path: object) -> bool:
        return path in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._ordered())

    def items(self) -> ItemsView[str, Znode]:
        """(path, znode) in tree order."""
        return self._ordered().items()

    def values(self) -> ValuesView[Znode]:
        """Znodes in tree order."""
        return self._ordered().values()

    def children(self, path: str) -> list[str]:
        """Names of the children of `path` in the view, by UTF-8 bytes; KeyError if it is not there."""
        if self._children is None:
            found: dict[str, list[str]] = {}
            for child in self._ordered():
                head, _, name = child.rpartition("/")
                if name:
                    found.setdefault(head or "/", []).append(name)
            self._children = found
        self._nodes[path]
        return list(self._children.get(path, ()))

    def unordered(self) -> ValuesView[Znode]:
        """Znodes in no order, without the time that sorting them takes."""
        return self._nodes.values()

    @property
    def image(self) -> object:
        """The same for views whose znodes are known to be the same, so that what was made of them need not be again."""
        return self._image

    def __repr__(self) -> str:
        return f"<View of {self.root} at epoch {self.epoch} ({self.state}): {len(self)} znodes>"

    def _ordered(self) -> dict[str, Znode]:
        # Sorted when first iterated: many readers only look up.
        if not self._is_ordered:
            self._nodes = {path: self._nodes[path] for path in sorted(self._nodes, key=paths.order_key)}
            self._is_ordered = True
        return self._nodes

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def scope(self) -> str:
        """Name of the scope."""
        return self._names.scope

    @property
    def root(self) -> str:
        """Root of the scope, an absolute path."""
        return self._seen.record.root

    @property
    def epoch(self) -> int:
        """The epoch of the image shown: the committed one."""
        return self._seen.record.epoch

    @property
    def state(self) -> str:
        """State of the scope: STABLE, PREPARING, OPEN or ROLLING_BACK."""
        return self._seen.record.state.value

    @property
    def migrating(self) -> bool:
        """Whether a migration to the next epoch is under way."""
        return self._seen.record.state in MIGRATING

    @property
    def held(self) -> bool:
        """Whether the scope carries a maintenance hold."""
        return self._seen.record.held is not None

    @property
    def incarnation(self) -> str:
        """Which control plane said so: another one after `remove` and `init`."""
        return self._seen.record.incarnation

    @property
    def record_version(self) -> int:
        """dataVersion of the epoch record that the view was read under; `acting` checks it."""
        return self._seen.stat.version

    @property
    def seen(self) -> RecordSeen:
        """The record that the view was read under."""
        return self._seen

    @property
    def names(self) -> ControlPaths:
        """Where the scope's control plane lies."""
        return self._names

    @property
    def overlaid(self) -> int:
        """Number of paths shown as undo has them (those that a migration creates are not shown); else 0.

        A write of somebody else to one of them is not seen until the epoch ends (`is_overlaid`).
        """
        return len(self._overlay)

    def is_overlaid(self, path: str) -> bool:
        """Whether `path` is one that the migration under way writes, and so shown from undo and not live."""
        return path in self._overlay
