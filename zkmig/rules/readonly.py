"""ReadOnlyTree: what a check in Python is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Znode
from zkmig.policy.captures import CapturePattern, Captures
from zkmig.policy.jsondata import parsed


class ReadOnlyTree(Mapping[str, Znode]):
    """A mapping from absolute path to znode, in tree order; ephemerals are in it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __getitem__(self, path: str) -> Znode:
        return self._snapshot[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshot)

    def __len__(self) -> int:
        return len(self._snapshot)

    def __contains__(self, path: object) -> bool:
        return path in self._snapshot

    @property
    def root(self) -> str:
        """Absolute path of the node at the top."""
        return self._snapshot.root

    def children(self, path: str) -> list[str]:
        """Names of the children, by UTF-8 bytes; KeyError if it is not there."""
        return self._snapshot.children(path)

    def json(self, path: str) -> Any:
        """The data as JSON. KeyError if it is not there, ValueError if it is none."""
        return parsed(self._snapshot[path].data)

    def find(self, pattern: str) -> Iterator[tuple[str, Captures]]:
        """Path and captures of each node that fits a pattern as a policy has it: /pools/{pool}, /hosts/**."""
        for node, captures in CapturePattern.parse(pattern).find(self._snapshot):
            yield self._snapshot.path_at(node), captures
