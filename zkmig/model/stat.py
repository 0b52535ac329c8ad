"""Stat: the eleven fields ZooKeeper keeps for each znode, in wire order."""

from __future__ import annotations

from typing import NamedTuple


class Stat(NamedTuple):
    """A znode's Stat as a client reads it (zookeeper.jute, class Stat). Times are milliseconds since the Unix epoch."""

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    ephemeral_owner: int
    data_length: int
    num_children: int
    pzxid: int

    @property
    def counter(self) -> int:
        """The sequence counter C: the number the next sequential child gets.

        Clients see ``cversion = 2*C - numChildren`` (DataNode.copyStat in ZooKeeper's source), so C is exact.
        """
        return (self.cversion + self.num_children) // 2
