"""Plan: operations in order, cut into batches, with what it was made from and for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from zkmig.counted import counted
from zkmig.model.acl import AclList, Identity
from zkmig.model.quota import Quota
from zkmig.plan.creates import Operations
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, RaiseCounter, WriteData, forward_size
from zkmig.plan.scriptpin import ScriptPin
from zkmig.plan.soundness import Soundness
from zkmig.policy.leftout import LeftOut
from zkmig.wire.requests import MULTI_OVERHEAD

SERVER_FRAME_BYTES_MAX = 1_048_575  # jute.maxbuffer's default, the length prefix not counted [zookeeper-facts 11]
BATCH_FRAME_BYTES_MAX = 64 * 1024  # each server keeps its last 500 transactions in heap [zookeeper-facts 37]
BATCH_OPS_MAX = 250  # others' writes wait behind a batch for as long as the server takes for it (docs/protocol.md)
SINGLE_SHOT_OPS_MAX = 5_000
JOURNAL_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of frames are counted without their length prefix; batch_ops_max and single_shot_ops_max count writes in
    one multi.
    """

    frame_bytes_max: int = SERVER_FRAME_BYTES_MAX
    batch_bytes_max: int = BATCH_FRAME_BYTES_MAX
    single_shot_ops_max: int = SINGLE_SHOT_OPS_MAX
    journal_bytes_max: int = JOURNAL_BYTES_MAX
    batch_ops_max: int = BATCH_OPS_MAX


@dataclass(frozen=True, slots=True)
class SourcePin:
    """The tree that the plan leads to. Hashes are hex; taken_at is Unix milliseconds, None when not known."""

    location: str
    root: str
    tree_hash: str
    counter_hash: str
    zxid_first: int
    zxid_last: int
    is_fuzzy: bool
    taken_at: int | None = None


@dataclass(frozen=True, slots=True)
class TargetPin:
    """The tree that the plan starts from. scope, incarnation and epoch are None when no scope covered it yet.

    tls: whether the servers are to be reached by TLS.
    """

    location: str
    hosts: tuple[tuple[str, int], ...]
    root: str
    tree_hash: str | None
    counter_hash: str | None
    zxid_last: int
    scope: str | None = None
    control: str | None = None
    incarnation: str | None = None
    epoch: int | None = None
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration will do.

    batch_ends: for each batch, the index one past its last operation. head_bytes: what each batch's guarded head was
    reckoned at. identity: who temporary ACLs let in, None when there are none. touched: existing parents whose Stat
    changes although they are not written. notes: sentences for the operator. operations: always `Operations`, whatever
    sequence is given. left_out: what is not carried. quotas: set after the commit, so that none is in force before.
    soundness: the rules that it was made under, which hold for the tree as written too. masks: patterns of the nodes
    whose data no output shows, as text.
    """

    source: SourcePin
    target: TargetPin
    operations: Sequence[Operation]
    batch_ends: tuple[int, ...]
    acl_steps: tuple[AclStep, ...]
    touched: tuple[str, ...]
    head_bytes: int
    journal_bytes: int
    limits: Limits = field(default_factory=Limits)
    identity: Identity | None = None
    ephemerals_source: int = 0
    ephemerals_target: int = 0
    notes: tuple[str, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    quotas: tuple[Quota, ...] = ()
    soundness: Soundness = field(default_factory=Soundness)
    script: ScriptPin | None = None
    masks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.operations, Operations):
            object.__setattr__(self, "operations", Operations.of(self.operations))

    @property
    def ordered(self) -> Operations:
        """The operations, with the creates that come first as columns."""
        assert isinstance(self.operations, Operations)
        return self.operations

    def batches(self) -> Iterator[Sequence[Operation]]:
        """The operations of each batch, in order."""
        return (self.operations[start:end] for start, end in self.batch_ranges())

    def batch_ranges(self) -> Iterator[tuple[int, int]]:
        """For each batch, the indices of its first operation and one past its last."""
        return pairwise((0, *self.batch_ends))

    def batch_sizes(self) -> Iterator[tuple[int, int]]:
        """For each batch, the bytes that its operations take in a multi, and those that undo them."""
        forward, undo = self.ordered.creates.sizes(), self.ordered.creates.undo_sizes()
        forward += array("I", map(forward_size, self.ordered.rest))
        undo += array("I", [operation.undo_size() for operation in self.ordered.rest])
        return ((sum(forward[start:end]), sum(undo[start:end])) for start, end in self.batch_ranges())

    def acls(self) -> Iterator[tuple[str, AclList]]:
        """Every ACL that the target will be asked to store, with a path that it is for; most of them once."""
        creates = self.ordered.creates
        # Looked up in one pass: a tree may have an ACL of its own for each user.
        firsts = dict(zip(reversed(creates.acl_ids), reversed(range(len(creates))), strict=True))
        for acl_id, acl in enumerate(creates.acl_table):
            if acl_id in firsts:
                yield creates.path_at(firsts[acl_id]), acl
        for operation in self.ordered.rest:
            if isinstance(operation, CreateNode):
                yield operation.path, operation.acl
        for step in self.acl_steps:
            yield step.path, step.final
            if step.tighten is not None:
                yield step.path, step.tighten

    @property
    def is_empty(self) -> bool:
        return not self.operations and not self.acl_steps and not self.quotas

    @property
    def counts(self) -> dict[str, int]:
        """How many operations of each kind."""
        kinds = {"create": CreateNode, "write": WriteData, "delete": DeleteNode, "raise_counter": RaiseCounter}
        found = {name: sum(isinstance(op, kind) for op in self.ordered.rest) for name, kind in kinds.items()}
        found["create"] += len(self.ordered.creates)
        return {**found, "set_acl": len(self.acl_steps)}

    @property
    def counts_text(self) -> str:
        """As in "3 to create, 1 ACL to set"."""
        return counts_text(self.counts) or ("nothing but quotas" if self.quotas else "nothing")

    @property
    def writes(self) -> int:
        """Operations on the wire: a counter is raised by two for each number."""
        rest = sum(2 * op.pairs if isinstance(op, RaiseCounter) else 1 for op in self.ordered.rest)
        return len(self.ordered.creates) + rest

    @property
    def single_shot_bytes(self) -> int:
        """Bytes of the one transaction that would hold all operations and move the record."""
        operations = sum(self.ordered.creates.sizes()) + sum(map(forward_size, self.ordered.rest))
        return MULTI_OVERHEAD + self.head_bytes + RECORD_BYTES_MAX + operations

    def why_not_single_shot(self) -> str | None:
        """None when all operations can go into the one multi that moves the record, else the reason."""
        if self.writes > self.limits.single_shot_ops_max:
            return f"{self.writes} writes are more than {self.limits.single_shot_ops_max} in one transaction"
        size = self.single_shot_bytes
        if size > self.limits.frame_bytes_max:
            return f"one transaction would take {size} bytes, the servers take {self.limits.frame_bytes_max}"
        if any(step.tighten is not None for step in self.acl_steps):
            return "ACLs have to be tightened before the data, which no transaction can hold"
        return None


_COUNTED = {
    "create": ("to create", "to create"),
    "write": ("to write", "to write"),
    "delete": ("to delete", "to delete"),
    "raise_counter": ("counter to raise", "counters to raise"),
    "set_acl": ("ACL to set", "ACLs to set"),
}


def counts_text(counts: Mapping[str, int]) -> str:
    """Of `Plan.counts`, or a part of it: as in "3 to create, 1 ACL to set"; "" for nothing."""
    return ", ".join(counted(counts[sort], *words) for sort, words in _COUNTED.items() if counts.get(sort))


RECORD_BYTES_MAX = 8192  # the record and the attempt's note as they stand in the multi of a transition
