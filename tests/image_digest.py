"""One digest of a whole image, made the same way from what a Reader shows and from what plain kazoo reads.

It shares nothing with the engine's tree hash: SHA-256 over every path with its data, ACL, whole Stat and child names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One znode of an image. stat: the eleven fields in the order of ZooKeeper's Stat."""

    path: str
    data: bytes | None
    acl: tuple[tuple[int, str, str], ...]
    stat: tuple[int, ...]
    children: tuple[str, ...]


def digest(rows: Iterable[Row]) -> str:
    """Equal exactly when two images are."""
    found = hashlib.sha256()
    for row in sorted(rows):
        found.update(repr(tuple(row)).encode())
    return found.hexdigest()
