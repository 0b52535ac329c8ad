"""Baseline: what the rules that speak of before and after need to know of the tree before, and no more.

It goes into the plan file, so that the tree as written is held against the one that was planned from, whatever others
have done meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zkmig.errors import BadInput
from zkmig.model.snapshot import Snapshot
from zkmig.policy.captures import CapturePattern
from zkmig.policy.rules import MaxDeletions, NeverEmpty, Rules, SameCount, Unchanged

MARK_BYTES = 16
_SEPARATOR = "\n"  # which no path can hold (PathUtils.validatePath)


@dataclass(frozen=True, slots=True)
class Before:
    """Of one rule: the paths that matched, in tree order; marks: MARK_BYTES each, of their data, ACL and kind, or
    nothing. count: how many they were, where that is all that matters."""

    paths: tuple[str, ...] = ()
    marks: bytes = b""
    count: int = 0

    def plain(self) -> list[Any]:
        """As the plan file keeps it."""
        return [_SEPARATOR.join(self.paths), self.marks, self.count]

    @classmethod
    def of_plain(cls, value: Any) -> Before:
        """ValueError or TypeError for what is none."""
        joined, marks, count = value
        found = tuple(joined.split(_SEPARATOR)) if joined else ()
        if not isinstance(marks, bytes) or not isinstance(count, int) or len(marks) not in (0, MARK_BYTES * len(found)):
            raise ValueError("a baseline does not fit together")
        return cls(found, marks, count)


@dataclass(frozen=True, slots=True)
class Baseline:
    """rules: by name, of those that speak of before. known: keys of the violations that were there before."""

    rules: Mapping[str, Before] = field(default_factory=dict)
    known: frozenset[tuple[str, str, str, str]] = frozenset()

    def __getitem__(self, rule: str) -> Before:
        """BadInput if it was made for other rules."""
        if rule not in self.rules:
            raise BadInput("what was there before is not known for this rule", rule, "plan again with this policy")
        return self.rules[rule]


def mark_of(snapshot: Snapshot, node: int) -> bytes:
    """What a node is: its data, ACL and kind. Kinds that nobody tells (containers, TTL) count as persistent."""
    data = snapshot.data_at(node)
    rest = (
        snapshot.acl_at(node),
        bool(snapshot.columns.stats.ephemeral_owner[node]),
        None if data is None else len(data),
    )
    hashed = hashlib.blake2b(repr(rest).encode(), digest_size=MARK_BYTES)
    hashed.update(data or b"")
    return hashed.digest()


def baseline_rules(rules: Rules, before: Snapshot | None) -> dict[str, Before]:
    """What of `before` the rules need. None: there was nothing."""
    found: dict[str, Before] = {}
    for rule in rules.guardrails:
        match rule:
            case MaxDeletions():
                found[rule.name] = Before(tuple(_paths(before, rule.pattern)))
            case NeverEmpty():
                found[rule.name] = Before(tuple(_filled(before, rule.pattern)))
            case Unchanged():
                found[rule.name] = _marked(before, rule.pattern)
            case SameCount():
                found[rule.name] = Before(count=sum(1 for _ in _paths(before, rule.pattern)))
            case _:
                pass
    return found


def _paths(before: Snapshot | None, pattern: CapturePattern) -> list[str]:
    return [before.path_at(node) for node, _ in pattern.find(before)] if before is not None else []


def _filled(before: Snapshot | None, pattern: CapturePattern) -> list[str]:
    if before is None:
        return []
    ends = before.columns.ends
    return [before.path_at(node) for node, _ in pattern.find(before) if ends[node] > node + 1]


def _marked(before: Snapshot | None, pattern: CapturePattern) -> Before:
    if before is None:
        return Before()
    nodes = [node for node, _ in pattern.find(before)]
    return Before(tuple(map(before.path_at, nodes)), b"".join(mark_of(before, node) for node in nodes))
