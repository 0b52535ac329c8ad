"""What a checker finds: a rule, where it was broken, and what else must be known to look into it."""

from __future__ import annotations

from typing import NamedTuple


class Violation(NamedTuple):
    """rule: its name. zxid: of the state or transaction in question. who: a process, or a session in hexadecimal."""

    rule: str
    zxid: int
    what: str
    who: str = ""

    def __str__(self) -> str:
        return f"{self.rule} at {self.zxid:#x}{f' by {self.who}' if self.who else ''}: {self.what}"


class Findings:
    """Violations, and residues: what docs/protocol.md says is not promised, counted so that it does not hide."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.residues: list[Violation] = []
        self.figures: dict[str, int] = {}

    def violate(self, rule: str, zxid: int, what: str, who: str = "") -> None:
        self.violations.append(Violation(rule, zxid, what, who))

    def concede(self, rule: str, zxid: int, what: str, who: str = "") -> None:
        self.residues.append(Violation(rule, zxid, what, who))

    def count(self, what: str, number: int = 1) -> None:
        self.figures[what] = self.figures.get(what, 0) + number

    @property
    def rules(self) -> set[str]:
        """Names of the rules that were broken."""
        return {violation.rule for violation in self.violations}
