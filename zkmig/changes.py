"""Changes: what a diff says, as values in tree order.

A diff keeps codes and pairs of indices, and makes a change, with its znodes, when asked for it: a million changes are
three arrays. Paths are relative to the roots: "" is the root itself, else "/...", as `model.path.join` takes them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar, overload

from zkmig.counted import counted
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Znode


@dataclass(frozen=True, slots=True)
class ComparePolicy:
    """Which aspects are compared. Kinds are compared only if both snapshots know them (`Snapshot.kinds_known`)."""

    data: bool = True
    acl: bool = True
    kind: bool = True
    counter: bool = True


DEFAULT_POLICY = ComparePolicy()


@dataclass(frozen=True, slots=True)
class Add:
    """A node that only the source has. znode: as the source has it, its counter included."""

    path: str
    znode: Znode


@dataclass(frozen=True, slots=True)
class ChangeData:
    """Data that differs. before: the target's znode; after: the source's."""

    path: str
    before: Znode
    after: Znode


@dataclass(frozen=True, slots=True)
class ChangeAcl:
    """An ACL that differs, order included. before: the target's znode; after: the source's."""

    path: str
    before: Znode
    after: Znode


@dataclass(frozen=True, slots=True)
class ChangeKind:
    """A kind or time to live that differs; only a new node can have another."""

    path: str
    before: Znode
    after: Znode


@dataclass(frozen=True, slots=True)
class ChangeCounter:
    """A sequence counter that must rise. before: the target's; after: the source's, higher."""

    path: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Delete:
    """A node that only the target has."""

    path: str
    before: Znode


Change = Add | ChangeData | ChangeAcl | ChangeKind | ChangeCounter | Delete


@dataclass(frozen=True, slots=True)
class CounterHigher:
    """A note: the target's counter is the higher one, and nothing lowers it [fact 19]."""

    path: str
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class EphemeralInTheWay:
    """The target has an ephemeral where a node is to be added, or below one to be deleted."""

    path: str


@dataclass(frozen=True, slots=True)
class ExcludedInTheWay:
    """The target has an excluded node below one to be deleted."""

    path: str


InTheWay = EphemeralInTheWay | ExcludedInTheWay


class Counts(NamedTuple):
    """How many changes of each sort; a node with new data and a new ACL counts in both."""

    add: int
    data: int
    acl: int
    kind: int
    counter: int
    delete: int


class Code(IntEnum):
    """What an entry of a Log stands for."""

    ADD = 0
    DATA = 1
    ACL = 2
    KIND = 3
    COUNTER = 4
    DELETE = 5
    COUNTER_HIGHER = 6
    EPHEMERAL_IN_THE_WAY = 7
    EXCLUDED_IN_THE_WAY = 8


_T = TypeVar("_T")


class Log(Sequence[_T], Generic[_T]):
    """Entries (code, source index, target index) and how to show them as values; -1 where a side has no node."""

    def __init__(self, show: Callable[[int, int, int], _T]) -> None:
        self.codes = bytearray()
        self._sources = array("i")
        self._targets = array("i")
        self._show = show

    def append(self, code: Code, source: int, target: int) -> None:
        self.codes.append(code)
        self._sources.append(source)
        self._targets.append(target)

    def sources_of(self, code: Code) -> array[int]:
        """Source indices of the entries of one code, in order."""
        if self.codes.count(code) == len(self.codes):
            return self._sources
        return array("i", [source for each, source in zip(self.codes, self._sources, strict=True) if each == code])

    def targets_of(self, code: Code) -> array[int]:
        """Target indices of the entries of one code, in order."""
        return array("i", [target for each, target in zip(self.codes, self._targets, strict=True) if each == code])

    def without(self, *codes: Code) -> Iterator[_T]:
        """The values of the entries of all other codes."""
        return (self[position] for position, each in enumerate(self.codes) if each not in codes)

    def extend(self, entries: tuple[bytearray, array[int], array[int]]) -> None:
        """Append entries that come as three columns."""
        codes, sources, targets = entries
        self.codes += codes
        self._sources += sources
        self._targets += targets

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[_T]:
        # Not the inherited one, which would take an IndexError from a snapshot for the end.
        return map(self._show, self.codes, self._sources, self._targets)

    @overload
    def __getitem__(self, position: int) -> _T: ...
    @overload
    def __getitem__(self, position: slice) -> list[_T]: ...
    def __getitem__(self, position: int | slice) -> _T | list[_T]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        return self._show(self.codes[position], self._sources[position], self._targets[position])


class Diff:
    """The changes from target to source; iteration gives them in tree order, those of one node in the order of Counts.

    source, target: the snapshots (target None: nothing is there yet). compared: names of the aspects looked at.
    excluded: relative paths that the scope of either side leaves out. changes, notes, in_the_way: sequences whose
    values are made on access. A plan is not possible while something is in the way.
    """

    def __init__(
        self, source: Snapshot, target: Snapshot | None, compared: tuple[str, ...], excluded: tuple[str, ...]
    ) -> None:
        self.source = source
        self.target = target
        self.compared = compared
        self.excluded = excluded
        self.changes: Log[Change] = Log(self._change)
        self.notes: Log[CounterHigher] = Log(self._note)
        self.in_the_way: Log[InTheWay] = Log(self._obstacle)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to change. Counters that are higher on the target are notes, not changes."""
        return not self.changes

    def differs(self, exact_counters: bool = False) -> bool:
        """Whether the two sides differ; with exact_counters a counter that is higher on the target counts too."""
        return bool(self.changes) or (exact_counters and bool(self.notes))

    @property
    def counts(self) -> Counts:
        """Number of changes by sort."""
        return Counts(*(self.changes.codes.count(code) for code in list(Code)[: len(Counts._fields)]))

    @property
    def ephemerals_source(self) -> int:
        """Ephemerals of the source, left out."""
        return self.source.ephemerals

    @property
    def ephemerals_target(self) -> int:
        """Ephemerals of the target, left out."""
        return self.target.ephemerals if self.target is not None else 0

    def summary(self) -> str:
        """One line: the counts, what was compared, what was left out."""
        parts = [f"{count} {name}" for name, count in zip(_SORTS, self.counts, strict=True) if count]
        text = ", ".join(parts) or "no differences"
        if self.notes:
            text += f"; {counted(len(self.notes), 'counter')} higher on the target"
        if self.in_the_way:
            text += f"; {counted(len(self.in_the_way), 'node')} in the way"
        left_out = "no ephemerals"
        if self.ephemerals_source or self.ephemerals_target:
            of_source = counted(self.ephemerals_source, "ephemeral")
            left_out = f"left out: {of_source} of the source, {self.ephemerals_target} of the target"
        return f"{text} (compared: {', '.join(self.compared)}; {left_out})"

    def _relative(self, source: int, target: int) -> str:
        if source >= 0:
            return paths.relative_to(self.source.path_at(source), self.source.root)
        held = self._held()
        return paths.relative_to(held.path_at(target), held.root)

    def _held(self) -> Snapshot:
        assert self.target is not None  # an entry with a target index needs one
        return self.target

    def _change(self, code: int, source: int, target: int) -> Change:
        path = self._relative(source, target)
        match Code(code):
            case Code.ADD:
                return Add(path, self.source.znode_at(source))
            case Code.DELETE:
                return Delete(path, self._held().znode_at(target))
            case Code.DATA:
                return ChangeData(path, self._held().znode_at(target), self.source.znode_at(source))
            case Code.ACL:
                return ChangeAcl(path, self._held().znode_at(target), self.source.znode_at(source))
            case Code.KIND:
                return ChangeKind(path, self._held().znode_at(target), self.source.znode_at(source))
            case Code.COUNTER:
                return ChangeCounter(path, self._held().counter_at(target), self.source.counter_at(source))
            case other:
                raise AssertionError(f"{other.name} is not a change")

    def _note(self, _code: int, source: int, target: int) -> CounterHigher:
        path = self._relative(source, target)
        return CounterHigher(path, self.source.counter_at(source), self._held().counter_at(target))

    def _obstacle(self, code: int, source: int, target: int) -> InTheWay:
        path = self._relative(source, target)
        return EphemeralInTheWay(path) if code == Code.EPHEMERAL_IN_THE_WAY else ExcludedInTheWay(path)


_SORTS = ("added", "with other data", "with another ACL", "of another kind", "with a counter to raise", "deleted")
