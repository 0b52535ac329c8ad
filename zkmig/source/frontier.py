"""The frontier of a scan: which paths are still to be read, and in what order.

The path pushed last is read first, so that few wait at any time, whatever the size of the tree. Of a parent with many
children a sample goes ahead: nothing says how large a znode is before it has been read, and a thousand of 1 MB in one
reply would end a server whose heap holds them but once. If the sample is large, requests for the rest are cut to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zkmig.model.path import parent
from zkmig.source.bulk import Pace

WIDE_CHILDREN: Final = 64
"""More children than this make a parent wide."""

SAMPLE_CHILDREN: Final = 8
"""Children of a wide parent that are read before the others are asked for."""

LARGE_BYTES: Final = 4_096
"""Mean bytes of a sample above which the other children are taken to be as large."""


@dataclass(slots=True)
class _Wide:
    """A parent whose sample is under way. held: its other children."""

    held: list[str]
    unseen: int = SAMPLE_CHILDREN
    sample_bytes: int = 0


class Frontier:
    """Paths still to be read; every path that `pop` gives out must come back by `saw`."""

    def __init__(self, paths: list[str], pace: Pace) -> None:
        self._stack = paths
        self._pace = pace
        self._wide: dict[str, _Wide] = {}

    def __bool__(self) -> bool:
        """Whether there is a path to give out now; while samples are under way more may follow."""
        return bool(self._stack)

    def push(self, path: str, children: list[str]) -> None:
        """`children`, paths, were found below `path`."""
        if len(children) > WIDE_CHILDREN:
            self._wide[path] = _Wide(children[SAMPLE_CHILDREN:])
            children = children[:SAMPLE_CHILDREN]
        self._stack += children

    def pop(self) -> str:
        """The path to read next."""
        return self._stack.pop()

    def saw(self, path: str, data_bytes: int) -> None:
        """`path` has been read and had so many bytes of data, or was gone and had none."""
        if not self._wide or path == "/":
            return
        head = parent(path)
        wide = self._wide.get(head)
        if wide is None:
            return
        wide.sample_bytes += data_bytes
        wide.unseen -= 1
        if not wide.unseen:
            mean_bytes = wide.sample_bytes // SAMPLE_CHILDREN
            if mean_bytes > LARGE_BYTES:
                self._pace.expected[head] = mean_bytes
            self._stack += wide.held
            del self._wide[head]
