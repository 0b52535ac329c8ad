"""What the doctor says: one sentence of fact, what it means, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class Severity(Enum):
    """In the order in which they are shown. UNKNOWN: the check could not be made; it says nothing for or against."""

    PROBLEM = "problem"
    WARNING = "warning"
    UNKNOWN = "unknown"
    NOTE = "note"
    OK = "ok"

    def counted(self, count: int) -> str:
        """As in "1 problem" or "3 notes"."""
        has_plural = count != 1 and self not in (Severity.UNKNOWN, Severity.OK)
        return f"{count} {self.value}{'s' if has_plural else ''}"


PROBLEM, WARNING, UNKNOWN, NOTE, OK = Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """code: stable, for scripts (docs/doctor.md lists all). where: a member, several, or a path; "" for this machine.

    what: the fact. means: what it does to a migration; "" where that is plain. todo: what to do; "" for nothing. None
    of them holds data of a znode or a secret.
    """

    code: str
    severity: Severity
    where: str
    what: str
    means: str = ""
    todo: str = ""

    def document(self) -> dict[str, str]:
        """For --json."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "where": self.where,
            "what": self.what,
            "means": self.means,
            "todo": self.todo,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings about one location, the gravest first. Nothing was written in order to find them."""

    location: str
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Severity, int]:
        """How many there are of each severity, in order."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in Severity}

    def of(self, code: str) -> tuple[Finding, ...]:
        """Those with this code."""
        return tuple(finding for finding in self.findings if finding.code == code)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first; those of one severity as they were found. What is the same of several members is one."""
    ranks = {severity: rank for rank, severity in enumerate(Severity)}
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(replace(finding, where=""), []).append(finding.where)
    merged = [replace(finding, where=some(dict.fromkeys(wheres))) for finding, wheres in places.items()]
    return tuple(sorted(merged, key=lambda finding: ranks[finding.severity]))


def some(names: Iterable[str], shown: int = 5) -> str:
    """As in "/a, /b and 7 more"."""
    listed = list(names)
    text = ", ".join(listed[:shown])
    return text if len(listed) <= shown else f"{text} and {len(listed) - shown} more"
