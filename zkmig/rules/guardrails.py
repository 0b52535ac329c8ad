"""Guardrails, judged: what may not go missing, run empty, change, grow, or lose its form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, assert_never

from zkmig.counted import counted
from zkmig.model.snapshot import Snapshot
from zkmig.policy.jsondata import NotJson, parsed
from zkmig.policy.rules import (
    Guardrail,
    JsonData,
    MaxDeletions,
    MaxSize,
    MinChildren,
    NeverEmpty,
    SameCount,
    Unchanged,
)
from zkmig.policy.schema import validator_of
from zkmig.rules.baseline import MARK_BYTES, Before, mark_of
from zkmig.rules.violation import Violation, told

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

NAMED_MAX = 3  # paths named in one violation


def speaks_of_before(rule: Guardrail) -> bool:
    """Whether a tree alone cannot tell."""
    return isinstance(rule, MaxDeletions | NeverEmpty | Unchanged | SameCount)


def judged(rule: Guardrail, after: Snapshot, before: Before) -> Iterator[Violation]:
    """What is against the tree. before: of this rule, empty for those that do not speak of it."""
    match rule:
        case MaxDeletions():
            yield from _max_deletions(rule, after, before)
        case MinChildren():
            yield from _min_children(rule, after)
        case NeverEmpty():
            yield from _never_empty(rule, after, before)
        case Unchanged():
            yield from _unchanged(rule, after, before)
        case MaxSize():
            yield from _max_size(rule, after)
        case JsonData():
            yield from _json_data(rule, after)
        case SameCount():
            yield from _same_count(rule, after, before)
        case _:
            assert_never(rule)


def deletions_allowed(rule: MaxDeletions, before: int) -> int:
    """How many of so many may go. A share is rounded down: 10 % of 9 hosts is none of them."""
    if rule.count is not None:
        return rule.count
    assert rule.share is not None
    # Shares are written with a few decimals; 0.1 * 30 is 3.0000000000000004 and 0.29 * 100 is 28.999999999999996.
    return int(round(rule.share * before, 9))


def _max_deletions(rule: MaxDeletions, after: Snapshot, before: Before) -> Iterator[Violation]:
    gone = [path for path in before.paths if path not in after]
    if len(gone) > deletions_allowed(rule, len(before.paths)):
        yield Violation(rule.name, str(rule.pattern), gone_text(rule, gone, len(before.paths)))


def gone_text(rule: MaxDeletions, gone: Sequence[str], before: int) -> str:
    """As in "3 of 9 are gone (/hosts/a, /hosts/b, /hosts/c), at most 0 (10 %) may go". gone: the first are named."""
    limit = f"at most {deletions_allowed(rule, before)}"
    if rule.share is not None:
        limit += f" ({rule.share * 100:g} %)"
    return f"{len(gone)} of {before} {'is' if len(gone) == 1 else 'are'} gone ({_named(gone)}), {limit} may go"


def _min_children(rule: MinChildren, after: Snapshot) -> Iterator[Violation]:
    for node, _ in rule.pattern.find(after):
        count = sum(1 for _ in after.children_at(node))
        if count < rule.count:
            yield Violation(rule.name, after.path_at(node), f"it has {_children(count)}, at least {rule.count} wanted")


def _never_empty(rule: NeverEmpty, after: Snapshot, before: Before) -> Iterator[Violation]:
    for path in before.paths:
        if path not in after:
            yield Violation(rule.name, path, "it had children, and is gone")
            continue
        node = after.index(path)
        if after.columns.ends[node] == node + 1:
            yield Violation(rule.name, path, "it had children, and has none")


def _unchanged(rule: Unchanged, after: Snapshot, before: Before) -> Iterator[Violation]:
    left = dict(zip(before.paths, _cut(before.marks), strict=True))
    for node, _ in rule.pattern.find(after):
        path = after.path_at(node)
        mark = left.pop(path, None)
        if mark is None:
            yield Violation(rule.name, path, "it is new, and nothing may change here", told(after.data_at(node)))
        elif mark != mark_of(after, node):
            yield Violation(rule.name, path, "it has changed, and nothing may change here", told(after.data_at(node)))
    for path in left:
        yield Violation(rule.name, path, "it is gone, and nothing may change here")


def _cut(marks: bytes) -> Iterator[bytes]:
    return (marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES))


def _max_size(rule: MaxSize, after: Snapshot) -> Iterator[Violation]:
    for node, _ in rule.pattern.find(after):
        data = after.data_at(node)
        if len(data or b"") > rule.size:
            yield Violation(rule.name, after.path_at(node), f"more than {rule.size} bytes", told(data))


def _json_data(rule: JsonData, after: Snapshot) -> Iterator[Violation]:
    validator = validator_of(rule.schema) if rule.schema is not None else None
    for node, _ in rule.pattern.find(after):
        data = after.data_at(node)
        try:
            value = parsed(data)
            what = _misfit(validator, value) if validator is not None else ""
        except NotJson as error:
            what = str(error)
        if what:
            yield Violation(rule.name, after.path_at(node), what, told(data))


def _misfit(validator: Validator, value: Any) -> str:
    """Where it does not fit, "" if it does."""
    try:
        fault = next(iter(validator.iter_errors(value)), None)
    except Exception as error:  # noqa: BLE001 - whatever a library trips over, it was not found to fit
        return f"its data cannot be held against the schema ({type(error).__name__})"
    if fault is None:
        return ""
    # The message and the path in the value would tell what the data holds; the path in the schema does not.
    return f"its data does not fit the schema at {'/'.join(map(str, fault.absolute_schema_path))}"


def _same_count(rule: SameCount, after: Snapshot, before: Before) -> Iterator[Violation]:
    count = sum(1 for _ in rule.pattern.find(after))
    if count != before.count:
        yield Violation(rule.name, str(rule.pattern), f"{count} match, there were {before.count} before")


def _children(count: int) -> str:
    return counted(count, "child", "children") if count else "no children"


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED_MAX} more" if len(paths) > NAMED_MAX else ""
    return ", ".join(paths[:NAMED_MAX]) + more
