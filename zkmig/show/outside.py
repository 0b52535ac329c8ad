"""Outside: what of a plan is not part of the atomic commit, and when it happens instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zkmig.counted import counted
from zkmig.plan.plan import Plan

NAMED_MAX = 5

BEFORE = "before the commit"
AFTER = "after the commit"
NEVER = "not at all"


@dataclass(frozen=True, slots=True)
class Outside:
    """when: BEFORE, AFTER or NEVER. what: in a few words. count: of what it is. paths: the first of them."""

    when: str
    what: str
    count: int
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = self.count - len(self.paths)
        named = ", ".join(self.paths) + (f" and {more} more" if more > 0 and self.paths else "")
        return f"{self.when}: {self.what}{f': {named}' if named else ''}"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def outside_of(plan: Plan) -> Iterator[Outside]:
    """All that there is, in the order of time. What is left out says `LeftOut`."""
    tightened = [step.path for step in plan.acl_steps if step.tighten is not None]
    if tightened:
        what = counted(len(tightened), "ACL that takes something away is set", "ACLs that take something away are set")
        yield _told(BEFORE, f"{what}, before any data", tightened)
    if plan.why_not_single_shot() is not None and plan.batch_ends:
        count = len(plan.batch_ends)
        land = "1 batch lands" if count == 1 else f"{count} batches land, one after the other,"
        yield Outside(BEFORE, f"{land} for who reads without zkmig", count)
    pending = [step.path for step in plan.acl_steps if step.is_pending_after_commit]
    if pending:
        what = counted(len(pending), "ACL that gives something is set", "ACLs that give something are set")
        yield _told(AFTER, what, pending)
    if plan.quotas:
        what = counted(len(plan.quotas), "quota is set", "quotas are set")
        yield _told(AFTER, what, [quota.path for quota in plan.quotas])
    if plan.ephemerals_target:
        stay = counted(plan.ephemerals_target, "ephemeral of the target stays", "ephemerals of the target stay")
        yield Outside(NEVER, stay, plan.ephemerals_target)


def _told(when: str, what: str, paths: Sequence[str]) -> Outside:
    return Outside(when, what, len(paths), tuple(paths[:NAMED_MAX]))
