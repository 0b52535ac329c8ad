"""Where paths stand in a snapshot: many of them at once. Pure."""

from __future__ import annotations

from collections.abc import Collection

from zkmig.model.snapshot import Snapshot

_SEARCHES_PART = 20  # one search costs about as much as looking at so many paths in a row


def places(tree: Snapshot | None, wanted: Collection[str]) -> dict[str, int]:
    """The index of each path that is there. wanted: best a set or a dict; none: {}."""
    if tree is None:
        return {}
    if len(wanted) * _SEARCHES_PART < len(tree):
        return {path: tree.index(path) for path in wanted if path in tree}
    return {path: index for index, path in enumerate(tree) if path in wanted}
