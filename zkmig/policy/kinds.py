"""Kinds by rule: which nodes are to be containers or TTL nodes, since a live read cannot tell [zookeeper-facts 18]."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import takewhile

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.columns import KIND_PERSISTENT
from zkmig.model.patterns import MANY, ONE, Pattern
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind

TTL_MS_MAX = 0x00FF_FFFF_FFFF  # EphemeralType.TTL: the five low bytes of ephemeralOwner
_FORM = "write container:/app/locks/* or ttl=60000:/app/leases/**"


@dataclass(frozen=True, slots=True)
class KindRule:
    """Nodes of the source that match are created as this kind. ttl_ms: milliseconds, for Kind.TTL only."""

    kind: Kind
    pattern: Pattern
    ttl_ms: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (Kind.CONTAINER, Kind.TTL):
            raise BadInput("a rule makes containers or TTL nodes", str(self.pattern), _FORM)
        if self.kind is Kind.TTL and not 0 < self.ttl_ms <= TTL_MS_MAX:
            raise BadInput(
                f"a time to live of {self.ttl_ms} ms is not one that a server takes",
                str(self.pattern),
                f"give 1 to {TTL_MS_MAX} milliseconds",
            )

    @classmethod
    def parse(cls, text: str) -> KindRule:
        """container:PATTERN or ttl=MILLISECONDS:PATTERN."""
        name, colon, pattern = text.partition(":")
        if not colon:
            raise BadInput("not a rule for kinds", repr(text), _FORM)
        if name == "container":
            return cls(Kind.CONTAINER, Pattern.parse(pattern))
        sort, equals, number = name.partition("=")
        if sort != "ttl" or not equals or not (number.isascii() and number.isdigit()):
            raise BadInput("not a rule for kinds", repr(text), _FORM)
        return cls(Kind.TTL, Pattern.parse(pattern), int(number))

    def __str__(self) -> str:
        name = "container" if self.kind is Kind.CONTAINER else f"ttl={self.ttl_ms}"
        return f"{name}:{self.pattern}"


@dataclass(frozen=True, slots=True)
class RuleUse:
    """How many nodes a rule has given their kind, and the first of them ("" if none)."""

    rule: str
    nodes: int
    first: str = ""


def _candidates(snapshot: Snapshot, pattern: Pattern) -> range:
    """The nodes that a pattern may match: those below the names that it begins with."""
    names = [*takewhile(lambda name: name not in (ONE, MANY), pattern.components)]
    top = "/" + "/".join(names)
    if paths.contains(top, snapshot.root):
        return range(len(snapshot))
    return snapshot.subtree_indices(top) if top in snapshot else range(0)


def with_kinds(snapshot: Snapshot, rules: tuple[KindRule, ...]) -> tuple[Snapshot, tuple[RuleUse, ...]]:
    """The snapshot with kinds as the rules say, the first that matches. Only what reads as persistent changes."""
    if not rules:
        return snapshot, ()
    columns = snapshot.columns
    kinds, ttls = bytearray(columns.kinds), dict(columns.ttls)
    found: dict[KindRule, list[int]] = {rule: [] for rule in rules}
    for index in sorted({index for rule in rules for index in _candidates(snapshot, rule.pattern)}):
        if columns.kinds[index] != KIND_PERSISTENT:
            continue
        path = snapshot.path_at(index)
        rule = next((rule for rule in rules if rule.pattern.matches(path)), None)
        if rule is not None:
            kinds[index] = rule.kind.value
            if rule.kind is Kind.TTL:
                ttls[index] = rule.ttl_ms
            found[rule].append(index)
    uses = tuple(
        RuleUse(str(rule), len(nodes), snapshot.path_at(nodes[0]) if nodes else "") for rule, nodes in found.items()
    )
    if not any(use.nodes for use in uses):
        return snapshot, uses
    ruled = dataclasses.replace(columns, kinds=bytes(kinds), ttls=ttls)
    return Snapshot(ruled, snapshot.scope, snapshot.provenance, snapshot.consistency), uses
