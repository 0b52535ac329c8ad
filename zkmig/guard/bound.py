"""Bound: a write that is carried out on the connection on which its node was read, or fails.

A setData is conditional on a version, and that of a node which was deleted and created anew begins at 0 once more. So a
version tells something only as long as the node is known to be the same, and kazoo keeps what it is given while there
is no connection, and sends it on the next one, however much later. Bound to a connection, a write whose time is over
goes out with a version that no node has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kazoo.protocol.serialization import SetData

NO_VERSION: Final = -2
"""-1 is any version; nodes count from 0."""


class NoAnswerError(Exception):
    """What was asked may have been done, or may yet be."""


class BoundSetData:
    """An operation for a kazoo transaction. is_current: asked when it goes out, by the thread that sends it."""

    type = SetData.type

    def __init__(self, path: str, data: bytes, version: int, is_current: Callable[[], bool]) -> None:
        self._path = path
        self._data = data
        self._version = version
        self._is_current = is_current

    def serialize(self) -> bytearray:
        """As kazoo sends it."""
        version = self._version if self._is_current() else NO_VERSION
        return SetData(self._path, self._data, version).serialize()
