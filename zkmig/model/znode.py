"""Znode: one node as a value, made on demand from a snapshot's columns."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from zkmig.model.acl import AclList
from zkmig.model.stat import Stat


class Kind(Enum):
    """What sort of node. A live read shows containers and TTL nodes as persistent [zookeeper-facts: node kinds]."""

    PERSISTENT = 0
    CONTAINER = 1
    TTL = 2
    EPHEMERAL = 3


class Znode(NamedTuple):
    """data is None (null on the wire) or bytes; the two differ. ttl_ms is 0 unless kind is TTL."""

    path: str
    data: bytes | None
    acl: AclList
    stat: Stat
    kind: Kind
    ttl_ms: int = 0

    @property
    def counter(self) -> int:
        """Number of the next sequential child."""
        return self.stat.counter

    @property
    def ephemeral_owner(self) -> int:
        """Session id that owns an ephemeral, else 0."""
        return self.stat.ephemeral_owner
