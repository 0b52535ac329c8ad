"""Operations: what a migration does to the target, as values that can be printed, journaled, sized and sent.

Every path is absolute on the target. Each operation knows the write it becomes on the wire, the bytes that takes in a
multi, and the bytes its undo takes, so that a batch can be cut such that both it and its undo fit one frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from zkmig.model.acl import OPEN_ACL, AclList
from zkmig.model.path import join
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind
from zkmig.wire.jute import utf8_size
from zkmig.wire.requests import (
    Create,
    CreateContainer,
    CreateTtl,
    Delete,
    SetData,
    WriteOp,
    operation_size,
)

# A sequence counter has no setter: it goes up by one with each child that is created [zookeeper-facts 19]. The child
# lives only inside one multi, so no reader ever sees it.
COUNTER_CHILD = "/zkmig.counter"


class Pin(NamedTuple):
    """What a target node was when the plan was made. The plan is stale once any of the three differs."""

    czxid: int
    version: int
    aversion: int

    @classmethod
    def of(cls, stat: Stat) -> Pin:
        return cls(stat.czxid, stat.version, stat.aversion)


@dataclass(frozen=True, slots=True)
class CreateNode:
    """Create a node that is not there. `acl` is what it is created with; a later AclStep may narrow it."""

    path: str
    data: bytes | None
    acl: AclList
    kind: Kind = Kind.PERSISTENT
    ttl_ms: int = 0

    def write(self) -> WriteOp:
        match self.kind:
            case Kind.PERSISTENT:
                return Create(self.path, self.data, self.acl)
            case Kind.CONTAINER:
                return CreateContainer(self.path, self.data, self.acl)
            case Kind.TTL:
                return CreateTtl(self.path, self.data, self.acl, self.ttl_ms)
            case Kind.EPHEMERAL:
                raise AssertionError("ephemerals are never planned")

    def undo_size(self) -> int:
        return operation_size(Delete(self.path, 0))


@dataclass(frozen=True, slots=True)
class WriteData:
    """Replace a node's data, conditional on the version it had when planned. before_size: bytes of the old data."""

    path: str
    data: bytes | None
    pin: Pin
    before_size: int

    def write(self) -> WriteOp:
        return SetData(self.path, self.data, self.pin.version)

    def undo_size(self) -> int:
        return operation_size(SetData(self.path, b"", 0)) + self.before_size


class DeleteNode(NamedTuple):  # there may be a million, and a tuple is made in a third of the time of a dataclass
    """Delete a node, conditional on its version. before_size: bytes its re-creation takes in a multi. kind, ttl_ms: as
    what undo creates it again, as far as the plan could know: servers do not tell [zookeeper-facts 18]."""

    path: str
    pin: Pin
    before_size: int
    kind: Kind = Kind.PERSISTENT
    ttl_ms: int = 0

    def write(self) -> WriteOp:
        return Delete(self.path, self.pin.version)

    def undo_size(self) -> int:
        return self.before_size


RAISED_BY_MAX = 5_000_000  # what scripts may ask for and rehearsals do; each is a create and a delete: some minutes


@dataclass(frozen=True, slots=True)
class RaiseCounter:
    """Raise the sequence counter of `path` by `pairs` creates of a child that is deleted in the same multi.

    to: the counter in the end. The pairs sent are recomputed from the live counter, since somebody else's creates
    raise it too; `pairs` is their maximum in this operation, which is what the batch was sized for.
    """

    path: str
    pairs: int
    to: int

    def writes(self, pairs: int) -> Iterator[WriteOp]:
        child = join(self.path, COUNTER_CHILD)
        for _ in range(pairs):
            yield Create(child, b"", OPEN_ACL)
            yield Delete(child, 0)

    @staticmethod
    def pair_size(path: str) -> int:
        child = join(path, COUNTER_CHILD)
        return operation_size(Create(child, b"", OPEN_ACL)) + operation_size(Delete(child, 0))

    def undo_size(self) -> int:
        return 0  # a counter never goes down


_DELETE_BYTES = operation_size(Delete("", 0)) - utf8_size("")
Operation = CreateNode | WriteData | DeleteNode | RaiseCounter


def forward_size(operation: Operation) -> int:
    """Bytes that the operation adds to a multi."""
    if isinstance(operation, DeleteNode):  # a request for each of a million would take longer than all else here
        return _DELETE_BYTES + utf8_size(operation.path)
    if isinstance(operation, RaiseCounter):
        return operation.pairs * RaiseCounter.pair_size(operation.path)
    return operation_size(operation.write())


@dataclass(frozen=True, slots=True)
class AclStep:
    """An ACL that a create cannot set, or that an existing node is to get. setACL is refused in a multi [facts 10].

    tighten: the ACL before any data is written, None when nothing has to be taken away first; it grants no more than
    both the old and the final one do, plus the migrator. final: the ACL after the commit. pin: None when the node is
    created by this plan (with a temporary ACL that lets the migrator work below it).
    """

    path: str
    tighten: AclList | None
    final: AclList
    pin: Pin | None

    @property
    def is_pending_after_commit(self) -> bool:
        return self.tighten != self.final
