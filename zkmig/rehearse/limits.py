"""What a rehearsal says nothing about, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from zkmig.model import path as paths
from zkmig.model.acl import Identity
from zkmig.model.columns import KIND_PERSISTENT
from zkmig.model.path import CONTROL_ROOT, SYSTEM_ROOT
from zkmig.model.snapshot import Snapshot
from zkmig.plan.operations import RaiseCounter
from zkmig.plan.plan import Plan
from zkmig.rehearse.copies import Copy
from zkmig.rehearse.permission import unknown_to


def is_taken_back(plan: Plan) -> bool:
    """Whether anything of it can be taken back: counters are not, nor are quotas."""
    rest = plan.ordered.rest
    is_more = bool(len(plan.ordered.creates)) or any(not isinstance(operation, RaiseCounter) for operation in rest)
    return is_more or bool(plan.acl_steps)


def what_is_left(
    plan: Plan, target: Snapshot | None, copy: Copy | None, stand_ins: Collection[Identity], why_super: str
) -> Iterator[str]:
    """A sentence each. stand_ins: the ids that were stood in for. why_super: as `permission.why_super` says."""
    yield "how fast the target is: this was one server on this machine, without elections, followers or other load"
    yield "who else is there: readers and guards that would be waited for, holds, and others who write meanwhile"
    yield "the target's own servers: their versions, frame limits, quotas in force, and ids of sessions by address"
    reason = plan.why_not_single_shot()
    if reason is not None:
        yield f"one transaction for all of it, which is not possible: {reason}"
    if not plan.is_empty and not is_taken_back(plan):
        yield f"the way back: sequence counters and quotas are never taken back{'; nor one transaction' * (not reason)}"
    if why_super:
        yield f"permissions: {why_super}; all was written by a super user, whom no ACL keeps out"
    if stand_ins:
        yield f"ids that this server takes in no ACL, by scheme: {unknown_to(stand_ins)}; digests stood in for them"
    if target is not None:
        yield from _of_target(target, copy, plan.target.control or CONTROL_ROOT)
    if plan.quotas:
        yield f"{len(plan.quotas)} quotas of the plan were set, not enforced"


def _of_target(target: Snapshot, copy: Copy | None, control: str) -> Iterator[str]:
    if target.ephemerals:
        yield f"{target.ephemerals} ephemerals: one session held them all, none came or went"
    odd = len(target) - target.ephemerals - target.columns.kinds.count(KIND_PERSISTENT)
    if odd:
        yield f"{odd} containers and TTL nodes were plain nodes, which no server removes by itself"
    elif not target.kinds_known:
        yield "containers and TTL nodes, which a live read cannot tell: all were plain nodes"
    if copy is not None and copy.low:
        more = f" and {len(copy.low) - 1} more" if len(copy.low) > 1 else ""
        yield f"the sequence counter of {copy.low[0]}{more}: too high to be raised here in reasonable time"
    reserved = (SYSTEM_ROOT, control)
    kept_out = [path for path in target.scope.excludes if paths.contains(target.root, path) and path not in reserved]
    if kept_out:
        yield f"what was left out of the reading: {', '.join(kept_out[:5])}{' and more' if len(kept_out) > 5 else ''}"
    if target.is_fuzzy:
        yield "a target at rest: others wrote while it was read, so that the copy may be a mix of its states"
