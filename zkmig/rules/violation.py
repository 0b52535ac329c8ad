"""Violation: one place where a tree is not what a rule says, without a byte of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

VIOLATIONS_NAMED_MAX = 100  # of one rule; the others are counted
DIGEST_CHARS = 12


def told(data: bytes | None) -> str:
    """A value as a report may name it: its length and the begin of its SHA-256."""
    if data is None:
        return "null"
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:DIGEST_CHARS]}"


@dataclass(frozen=True, slots=True)
class Violation:
    """rule: its name. path: the node that is wrong, absolute. what: how, in a few words. value: its data as `told` puts
    it, "" where data is no part of it. change: what the plan does there, "" for nothing. is_old: it was so before.
    target: of a reference, where it leads; for finding the change, never for showing: it tells the data.
    """

    rule: str
    path: str
    what: str
    value: str = ""
    change: str = ""
    is_old: bool = False
    target: str = field(default="", repr=False)

    def __str__(self) -> str:
        value = f" ({self.value})" if self.value else ""
        change = f"; {self.change}" if self.change else ""
        return f"{self.rule}: {self.path}{value}: {self.what}{change}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What is the same of one violation before and after a plan: also where a name leads, as a digest."""
        leads = f", to {hashlib.sha256(self.target.encode()).hexdigest()[:DIGEST_CHARS]}" if self.target else ""
        return self.rule, self.path, self.what, f"{self.value}{leads}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """violations: of each rule, in its order, as many as are named. more: of a rule's name, how many besides.
    judged: names of the rules that were. not_judged: rule and why, or of what it was not judged; one that met no node
    is there too. takes_old: what was so before a plan does not count."""

    violations: tuple[Violation, ...] = ()
    more: dict[str, int] = field(default_factory=dict)
    judged: tuple[str, ...] = ()
    not_judged: tuple[tuple[str, str], ...] = ()
    takes_old: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether nothing counts against the tree. What was not judged does not."""
        # Of what is not named there is only more of the same: new ones are named first.
        return all(each.is_old for each in self.violations) if self.takes_old else not self.violations

    @property
    def count(self) -> int:
        """Violations, those that are not named included."""
        return len(self.violations) + sum(self.more.values())

    def masked(self, hides: Callable[[str], bool]) -> Verdict:
        """The same, without what tells the data of nodes that a policy masks: a digest tells who can guess, and a path
        that is named in the data is data too. hides: whether the data of the node at a path is masked."""
        found = (
            replace(each, value=each.value.partition(", sha256")[0], change="", target="") if hides(each.path) else each
            for each in self.violations
        )
        return replace(self, violations=tuple(found))

    def caused(self, change_of: Callable[[Violation], str]) -> Verdict:
        """The same, each with the change that causes it."""
        found = (replace(each, change=each.change or change_of(each)) for each in self.violations)
        return replace(self, violations=tuple(found))


def gathered(found: Iterable[Violation]) -> tuple[tuple[Violation, ...], dict[str, int]]:
    """As many of each rule as are named, new ones first, and how many more there are. They come rule by rule."""
    named: list[Violation] = []
    more: dict[str, int] = {}
    for rule, violations in groupby(found, key=lambda violation: violation.rule):
        new: list[Violation] = []
        old: list[Violation] = []
        for violation in violations:
            kept = old if violation.is_old else new
            if len(kept) < VIOLATIONS_NAMED_MAX:
                kept.append(violation)
            else:
                more[rule] = more.get(rule, 0) + 1
        both = new + old
        named += both[:VIOLATIONS_NAMED_MAX]
        more[rule] = more.get(rule, 0) + len(both[VIOLATIONS_NAMED_MAX:])
    return tuple(named), {rule: count for rule, count in more.items() if count}


def sentences(verdict: Verdict, most: int) -> Iterator[str]:
    """A line for each violation, at most so many, then how many there are besides."""
    for violation in verdict.violations[:most]:
        yield str(violation)
    if verdict.count > most:
        yield f"and {verdict.count - most} more"
