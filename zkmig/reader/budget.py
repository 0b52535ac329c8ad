"""Budget: how far a view may differ from the one last acted on. Pure: fingerprints of views, and their comparison.

A fingerprint is, for each znode that a pattern matches, a hash of its path and one of its data, eight bytes each,
sorted. It tells what was added, removed and changed without holding anything of the tree itself. What has the same path
and the same data is the same znode here, whoever wrote it, and with whatever ACL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from hashlib import blake2b
from typing import Final, Literal

from zkmig.epoch.budgets import Difference
from zkmig.errors import BadInput
from zkmig.model.patterns import Pattern
from zkmig.model.znode import Znode

HASH_BYTES: Final = 8
MARK_BYTES: Final = 2 * HASH_BYTES
"""Of one znode in a fingerprint."""

BUDGETS_MAX: Final = 16
PATTERN_CHARS_MAX: Final = 512
COUNT_MAX: Final = 2**31 - 1

_NULL_DATA: Final = bytes(HASH_BYTES)  # null is not empty


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may differ, from one action to the next, under one pattern.

    pattern: of absolute paths, `*` for one component, `**` for any number, as in "/app/hosts/*". What differs are
    znodes added, removed, and of other data. count: so many at most. share: at most that part (0.1 is a tenth) of the
    znodes that matched when last acted on; so of none it is none. With both, neither may be exceeded.

    first: what to do where nothing is known of what was last acted on under this pattern, as with a new reader's name:
    "accept" the view as it is, or "refuse" the action unless it is overridden.
    """

    pattern: str
    share: float | None = None
    count: int | None = None
    first: Literal["accept", "refuse"] = "accept"

    def __post_init__(self) -> None:
        """BadInput for what is no limit."""
        if len(self.pattern) > PATTERN_CHARS_MAX:
            raise BadInput(f"a budget's pattern has {PATTERN_CHARS_MAX} characters at most", self.pattern[:40])
        object.__setattr__(self, "pattern", str(Pattern.parse(self.pattern)))
        if self.share is None and self.count is None:
            raise BadInput("a budget without a limit", self.pattern, "give share=0.1, count=50, or both")
        if self.share is not None and (isinstance(self.share, bool) or not 0 <= self.share < float("inf")):
            raise BadInput(f"a share of {self.share}", self.pattern, "0.1 is a tenth")
        if self.count is not None and (type(self.count) is not int or not 0 <= self.count <= COUNT_MAX):
            raise BadInput(f"a count of {self.count}", self.pattern, "give a whole number of znodes")
        if self.first not in ("accept", "refuse"):
            raise BadInput(f"first={self.first!r}", self.pattern, 'say "accept" or "refuse"')

    @classmethod
    def parse(cls, text: str, first: Literal["accept", "refuse"] = "accept") -> Budget:
        """As on a command line: PATTERN=LIMIT, LIMIT as in 50, 10% or 10%,50."""
        pattern, has_limit, limits = text.rpartition("=")
        share: float | None = None
        count: int | None = None
        try:
            for limit in limits.split(",") if has_limit else ():
                if limit.endswith("%") and share is None:
                    share = float(Decimal(limit[:-1]) / 100)
                elif count is None:
                    count = int(limit)
                else:
                    raise ValueError
        except (ValueError, InvalidOperation):
            has_limit = ""
        if not has_limit:
            raise BadInput("not a budget", repr(text), "write it like /app/hosts/*=50, or =10%, or =10%,50")
        return cls(pattern, share, count, first)

    def allows(self, difference: Difference) -> bool:
        """Whether an action may follow on this."""
        if difference.nodes is None:
            return self.first == "accept"
        if self.count is not None and difference.total > self.count:
            return False
        # As it is written: 0.29 of a hundred are 29, which they are not in binary fractions.
        return self.share is None or difference.total <= Fraction(str(self.share)) * difference.nodes

    @property
    def limit(self) -> str:
        """In words: "10 % or 50"."""
        parts = [f"{100 * self.share:.3g} %"] if self.share is not None else []
        parts += [f"{self.count}"] if self.count is not None else []
        return " or ".join(parts)


def checked(budgets: Budget | Iterable[Budget]) -> tuple[Budget, ...]:
    """The budgets of one reader, each for a pattern of its own; BadInput otherwise."""
    found = (budgets,) if isinstance(budgets, Budget) else tuple(budgets)
    patterns = [budget.pattern for budget in found]
    if len(found) > BUDGETS_MAX:
        raise BadInput(f"{len(found)} budgets for one reader", hint=f"{BUDGETS_MAX} at most")
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            raise BadInput("two budgets for one pattern", pattern, "a budget takes share= and count= both")
    return found


# -- fingerprints -----------------------------------------------------------------------------------------------------

Marks = bytes
"""The fingerprint of what one pattern matches: MARK_BYTES for each znode, sorted."""


def matching(nodes: Iterable[Znode], pattern: str) -> list[Znode]:
    """Those that the pattern matches."""
    matches = Pattern.parse(pattern).matcher()
    return [node for node in nodes if matches(node.path)]


Known = dict[str, tuple[bytes | None, bytes]]
"""What was hashed before, by path: data and mark. Hashing again takes ten times as long as looking here."""


def marks_of(nodes: Iterable[Znode], known: Known | None = None) -> Marks:
    """The fingerprint of these nodes, in any order. known: consulted and added to."""
    found = {} if known is None else known
    marks: list[bytes] = []
    for node in nodes:
        at = found.get(node.path)
        if at is None or at[0] != node.data:
            at = found[node.path] = node.data, _mark(node)
        marks.append(at[1])
    marks.sort()
    return b"".join(marks)


def _mark(node: Znode) -> bytes:
    path = blake2b(node.path.encode(), digest_size=HASH_BYTES).digest()
    data = _NULL_DATA if node.data is None else blake2b(node.data, digest_size=HASH_BYTES).digest()
    return path + data


def compare(pattern: str, before: Marks | None, now: Marks) -> Difference:
    """What is not as it was. before None: nothing is known of that."""
    count = len(now) // MARK_BYTES
    if before is None:
        return Difference(pattern, None, count, 0, 0)
    nodes = len(before) // MARK_BYTES
    if before == now:
        return Difference(pattern, nodes, 0, 0, 0)
    was, now_is = _split(before), _split(now)
    gone, new = was - now_is, now_is - was
    # One that is in both by its path alone has other data.
    changed = len({mark[:HASH_BYTES] for mark in gone} & {mark[:HASH_BYTES] for mark in new})
    return Difference(pattern, nodes, len(new) - changed, len(gone) - changed, changed)


def _split(marks: Marks) -> set[bytes]:
    return {marks[start : start + MARK_BYTES] for start in range(0, len(marks), MARK_BYTES)}


def compare_all(
    budgets: Sequence[Budget], before: Mapping[str, Marks], now: Mapping[str, Marks]
) -> tuple[list[Difference], list[tuple[Budget, Difference]]]:
    """What differs under each pattern, and which of that its budget does not allow."""
    differences = [compare(budget.pattern, before.get(budget.pattern), now[budget.pattern]) for budget in budgets]
    exceeded = [pair for pair in zip(budgets, differences, strict=True) if not pair[0].allows(pair[1])]
    return differences, exceeded
