"""What a plan file keeps of a plan's rules: the rules and the verdict in its header, the tree before in a section."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from zkmig.plan.soundness import Soundness
from zkmig.policy.packed import packed, unpacked
from zkmig.policy.rules import Unchanged
from zkmig.rules.baseline import MARK_BYTES, Baseline, Before
from zkmig.rules.violation import Verdict, Violation

PATHS_PER_ITEM = 1 << 14
KEYS_PER_ITEM = 1 << 12


def header_of(soundness: Soundness) -> list[Any] | None:
    """None if there are no rules."""
    if not soundness.rules:
        return None
    verdict = soundness.verdict
    violations = [dataclasses.astuple(violation) for violation in verdict.violations]
    return [packed(soundness.rules), [violations, verdict.more, verdict.judged, verdict.not_judged], soundness.excludes]


def items_of(soundness: Soundness) -> Iterator[dict[str, Any]]:
    """The baseline in pieces: of a rule, or of the violations that were there before."""
    for name, before in soundness.baseline.rules.items():
        for start in range(0, max(len(before.paths), 1), PATHS_PER_ITEM):
            stop = start + PATHS_PER_ITEM
            marks = before.marks[start * MARK_BYTES : stop * MARK_BYTES]
            yield {"rule": name, "before": Before(before.paths[start:stop], marks, before.count).plain()}
    known = sorted(soundness.baseline.known)
    for start in range(0, len(known), KEYS_PER_ITEM):
        yield {"known": known[start : start + KEYS_PER_ITEM]}


def soundness_of(header: Any, items: Iterable[dict[str, Any]]) -> Soundness:
    """The way back. ValueError, TypeError, KeyError or BadInput for what is none."""
    if header is None:
        return Soundness()
    rules, (violations, more, judged, not_judged), excludes = header
    found: dict[str, Before] = {}
    known: set[tuple[str, str, str, str]] = set()
    for item in items:
        if "known" in item:
            known |= {(rule, path, what, value) for rule, path, what, value in item["known"]}
            continue
        name = item["rule"]
        piece, so_far = Before.of_plain(item["before"]), found.get(name, Before())
        found[name] = Before(so_far.paths + piece.paths, so_far.marks + piece.marks, piece.count)
    held = unpacked(rules)
    for rule in held.guardrails:
        before = found.get(rule.name, Before())
        if isinstance(rule, Unchanged) and len(before.marks) != MARK_BYTES * len(before.paths):
            raise ValueError("what was there before is not known of every path")
    verdict = Verdict(
        tuple(Violation(*violation) for violation in violations),
        dict(more),
        tuple(judged),
        tuple((name, why) for name, why in not_judged),
        held.report_existing,
    )
    return Soundness(held, Baseline(found, frozenset(known)), verdict, tuple(excludes))
