"""Left out: what a comparison or a migration did not carry, as a value, in sentences, and for --json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from zkmig.changes import Diff
from zkmig.counted import counted
from zkmig.model import path as paths
from zkmig.model.columns import KIND_EPHEMERAL
from zkmig.model.snapshot import Snapshot
from zkmig.policy.carry import Prepared
from zkmig.policy.kinds import RuleUse

# Set by the server alone: no client can carry them [zookeeper-facts 15]. Sequence counters are carried all the same.
NEVER = ("czxid", "mzxid", "pzxid", "ctime", "mtime", "version", "aversion")
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Paths are absolute: of the source for ephemerals and quotas, of the target for the rest; the first NAMED_MAX.

    kinds_known: whether the source tells containers and TTL nodes. kinds: what --kind rules did. counters_higher:
    sequence counters that the target has higher. quotas: subtrees of the source whose quotas are not carried; None
    where nobody looked. excluded, included: in full.
    """

    ephemerals: int = 0
    ephemerals_first: tuple[str, ...] = ()
    kinds_known: bool = True
    kinds: tuple[RuleUse, ...] = ()
    counters_higher: int = 0
    counters_first: tuple[str, ...] = ()
    quotas: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    included: tuple[str, ...] = ()

    @classmethod
    def of_plain(cls, fields: dict[str, Any]) -> LeftOut:
        """The inverse of dataclasses.asdict, from a file."""
        kinds = tuple(RuleUse(**use) for use in fields.pop("kinds"))
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(kinds=kinds, **plain)

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {**dataclasses.asdict(self), "never": list(NEVER)}

    def sentences(self) -> Iterator[str]:
        """For people: only what there is to say."""
        if self.ephemerals:
            first = _named(self.ephemerals_first, self.ephemerals)
            yield f"{counted(self.ephemerals, 'ephemeral')} of the source: {first}"
        if not self.kinds_known:
            yield "container and TTL kinds, which a live read cannot see"
        for use in self.kinds:
            if use.nodes:
                yield f"--kind {use.rule} is taken on trust for {counted(use.nodes, 'node')}, the first {use.first}"
        if self.counters_higher:
            higher = _named(self.counters_first, self.counters_higher)
            yield f"{counted(self.counters_higher, 'sequence counter')} higher on the target: {higher}"
        if self.quotas:
            yield f"quotas of the source on {_named(self.quotas[:NAMED_MAX], len(self.quotas))} (--quotas)"
        if self.excluded:
            yield f"excluded: {_named(self.excluded[:NAMED_MAX], len(self.excluded))}"
        if self.included:
            yield f"all but {_named(self.included[:NAMED_MAX], len(self.included))}"


def left_out(ready: Prepared, found: Diff | None, target_root: str) -> LeftOut:
    """What the comparison of `ready` leaves out. found: its diff; None where hashes were equal."""
    notes = found.notes if found is not None else ()
    return LeftOut(
        ephemerals=ready.source.ephemerals,
        ephemerals_first=tuple(_ephemerals(ready.source)),
        kinds_known=ready.source.kinds_known,
        kinds=ready.kinds,
        counters_higher=len(notes),
        counters_first=tuple(paths.join(target_root, note.path) for note in notes[:NAMED_MAX]),
        excluded=tuple(_excluded(ready, target_root)),
        included=tuple(paths.join(target_root, each) for each in ready.includes),
    )


def _ephemerals(snapshot: Snapshot) -> Iterator[str]:
    kinds = snapshot.columns.kinds
    index = -1
    for _ in range(NAMED_MAX):
        index = kinds.find(KIND_EPHEMERAL, index + 1)
        if index < 0:
            return
        yield snapshot.path_at(index)


def _excluded(ready: Prepared, target_root: str) -> Iterator[str]:
    seen: set[str] = set()
    for side in (ready.source, ready.target):
        for exclude in side.scope.excludes if side is not None else ():
            if exclude in (paths.SYSTEM_ROOT, paths.CONTROL_ROOT):
                continue  # never part of any scope
            if side is not None and paths.contains(side.root, exclude):
                seen.add(paths.join(target_root, paths.relative_to(exclude, side.root)))
    yield from sorted(seen, key=paths.order_key)


def _named(first: Sequence[str], count: int) -> str:
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return ", ".join(first) + more
