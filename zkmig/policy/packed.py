"""Rules as plain values, for the plan file, and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from zkmig.policy import rules as values
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.rules import Reference, Rule, Rules, Together

_KINDS = {
    kind.__name__: kind
    for kind in (
        values.Reference,
        values.MaxDeletions,
        values.MinChildren,
        values.NeverEmpty,
        values.Unchanged,
        values.MaxSize,
        values.JsonData,
        values.SameCount,
        values.Together,
        values.PythonCheck,
    )
}


def packed(rules: Rules) -> list[Any]:
    """What `unpacked` makes the same rules of."""
    return [rules.report_existing, [[type(rule).__name__, _fields(rule)] for rule in rules]]


def unpacked(plain: Any) -> Rules:
    """The rules. ValueError, TypeError, KeyError or BadInput for what is none."""
    report_existing, listed = plain
    found: list[Rule] = [_rule(kind, dict(fields)) for kind, fields in listed]
    return Rules(
        references=tuple(rule for rule in found if isinstance(rule, Reference)),
        guardrails=tuple(rule for rule in found if not isinstance(rule, Reference | Together | values.PythonCheck)),
        together=tuple(rule for rule in found if isinstance(rule, Together)),
        checks=tuple(rule for rule in found if isinstance(rule, values.PythonCheck)),
        report_existing=bool(report_existing),
    )


def _fields(rule: Rule) -> dict[str, Any]:
    fields = {each.name: _plain(getattr(rule, each.name)) for each in dataclasses.fields(rule)}
    if fields.get("schema") is not None:
        fields["schema"] = json.dumps(fields["schema"])  # its numbers may be longer than msgpack has room for
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, CapturePattern | Template):
        return value.text
    return [each.text for each in value] if isinstance(value, tuple) else value


def _rule(kind: str, fields: dict[str, Any]) -> Rule:
    for name in ("source", "pattern"):
        if name in fields:
            fields[name] = CapturePattern.parse(fields[name])
    if "patterns" in fields:
        fields["patterns"] = tuple(map(CapturePattern.parse, fields["patterns"]))
    if "target" in fields:
        fields["target"] = Template.parse(fields["target"], fields["source"].names)
    if fields.get("schema") is not None:
        fields["schema"] = json.loads(fields["schema"])
    rule: Rule = _KINDS[kind](**fields)
    return rule
