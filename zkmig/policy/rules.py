"""Rules: what a sound tree looks like, as values. Nothing is judged here (`zkmig.rules`).

Every path in a rule is absolute, on the tree that is judged: a plan's target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zkmig.errors import BadInput
from zkmig.policy.captures import CapturePattern, Template


@dataclass(frozen=True, slots=True)
class Reference:
    """What the data of one node names is another node: "the value of /services/{svc}/active names /pools/{value}".

    json: a JSONPath (RFC 9535) to the names within the data; None: the whole data is the name. required: a name that
    leads to no node is a violation, and so is a node without a name; not required, it only orders what is written.
    """

    name: str
    source: CapturePattern
    target: Template
    json: str | None = None
    required: bool = True
    strip: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MaxDeletions:
    """Of the nodes that match before, at most so many are gone after. share: 0 to 1. One of the two is None."""

    name: str
    pattern: CapturePattern
    count: int | None = None
    share: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MinChildren:
    """Each node that matches has at least so many children, ephemerals included."""

    name: str
    pattern: CapturePattern
    count: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NeverEmpty:
    """A node that matches and had children before has some after; it may not go as a whole either."""

    name: str
    pattern: CapturePattern
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The nodes that match are after what they were before: the same ones, their data, ACLs and kinds."""

    name: str
    pattern: CapturePattern
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MaxSize:
    """The data of each node that matches is no longer. size: bytes."""

    name: str
    pattern: CapturePattern
    size: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JsonData:
    """The data of each node that matches is JSON, and fits the JSON Schema if there is one."""

    name: str
    pattern: CapturePattern
    schema: Mapping[str, Any] | bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SameCount:
    """As many nodes match after as before."""

    name: str
    pattern: CapturePattern
    reason: str = ""


Guardrail = MaxDeletions | MinChildren | NeverEmpty | Unchanged | MaxSize | JsonData | SameCount


@dataclass(frozen=True, slots=True)
class Together:
    """Of the nodes that match and have equal captures, those that change do so in one transaction."""

    name: str
    patterns: tuple[CapturePattern, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PythonCheck:
    """A function over a read-only tree that yields violations.

    call: `package.module:function`, or `file.py:function`. file: absolute path of the file, "" for a module. sha256: of
    the source as it was when the policy was read, hex; a plan is not judged by a function that has changed since.
    """

    name: str
    call: str
    file: str = ""
    sha256: str = ""
    reason: str = ""


Rule = Reference | Guardrail | Together | PythonCheck


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a tree is held against. Names are unique among them.

    report_existing: what was wrong before a plan, and that it does not touch, is reported and does not refuse it.
    """

    references: tuple[Reference, ...] = ()
    guardrails: tuple[Guardrail, ...] = ()
    together: tuple[Together, ...] = ()
    checks: tuple[PythonCheck, ...] = ()
    report_existing: bool = False

    def __post_init__(self) -> None:
        # What was before is kept by name: one of two rules would be held against what the other knew.
        names = [rule.name for rule in self]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"two rules are named {twice!r}", "", "give each a name of its own")

    def __iter__(self) -> Iterator[Rule]:
        yield from self.references
        yield from self.guardrails
        yield from self.together
        yield from self.checks

    def __bool__(self) -> bool:
        return any(True for _ in self)


NO_RULES = Rules()
