"""Dependency order: a referent before its referrer, a referrer gone before its referent, groups in one transaction.

The default order (creates in tree order, data, counters, deletes with children first) is right for all that nothing
ties together. An operation that a tie asks for earlier is pulled to the front, together with all that it needs itself;
nothing is ever put off, so that what has no tie stands where it stood or earlier than it has to.

The graph holds only what ties name, at any size of plan. Paths between touched nodes through others need no nodes of
their own: they lead up the tree, so that the nearest touched ancestor stands for them. What is tied in a circle, and
what is to be written together, is one strongly connected component, and goes into one transaction.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import networkx as nx

from zkmig.model import path as paths
from zkmig.plan.creates import Creates
from zkmig.plan.operations import DeleteNode, Operation, RaiseCounter


@dataclass(frozen=True, slots=True)
class Ties:
    """What ties operations together, by the paths that they are about; a path without one plays no part.

    before: (first, then): the operation at `first` goes before, or into the same transaction as, the one at `then`.
    groups: paths that change in one transaction, by the name of the rule that says so. filled: parents that must not
    run short of children: creates below them go before any deletes.
    """

    before: Sequence[tuple[str, str]] = ()
    groups: Sequence[tuple[str, Sequence[str]]] = ()
    filled: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.before or self.groups)


@dataclass(frozen=True, slots=True)
class Block:
    """Operations [start, stop) of the order, which one transaction has to hold. why: what ties them."""

    start: int
    stop: int
    why: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """creates: indices of those that come first, in order, None for all as they were. rest: all that comes behind, late
    creates among them. blocks: in order, counted from the first create."""

    creates: array[int] | None
    rest: tuple[Operation, ...]
    blocks: tuple[Block, ...] = ()


def order(creates: Creates, parents: Sequence[int], rest: Sequence[Operation], ties: Ties) -> Ordered:
    """The operations in an order that all ties allow. parents: of each create, the index of its parent among them, -1
    where that is none of them. rest: what comes behind them by default; a RaiseCounter is tied to nothing."""
    if not ties:
        return Ordered(None, tuple(rest))
    return _Orderer(creates, parents, rest, ties).ordered()


class _Orderer:
    """Operations are numbered in the default order: creates from 0, the rest behind them."""

    def __init__(self, creates: Creates, parents: Sequence[int], rest: Sequence[Operation], ties: Ties) -> None:
        self._creates = creates
        self._parents = parents
        self._rest = rest
        self._ties = ties
        self._count = len(creates)
        self._number = dict(self._numbered())
        self._components: nx.DiGraph[int] = nx.DiGraph()
        self._topological: dict[int, int] = {}  # place of each component
        self._component_of: Mapping[int, int] = {}  # by the number of an operation that something ties
        self._tied: dict[int, list[int]] = {}  # members, ascending, of each component that has several
        self._finished: set[int] = set()  # components that are out
        self._done = bytearray(self._count + len(rest))
        self._blocks: list[Block] = []
        self._out: list[int] = []
        self._rules: dict[int, str] = {}  # of members of groups: what groups them

    def ordered(self) -> Ordered:
        number = self._number
        if not self._ties.groups and all(
            number[first] < number[then] for first, then in self._ties.before if first in number and then in number
        ):
            return Ordered(None, tuple(self._rest))  # the default order is right, as it mostly is
        self._contract(self._graph())
        late = self._late()
        self._emit_all(range(self._count), late)
        first = len(self._out)
        self._emit_all(range(0 if late else self._count, len(self._done)), b"")
        rest = tuple(self._operation(number) for number in self._out[first:])
        in_front = array("i", self._out[:first])
        is_as_it_was = first == self._count and all(map(int.__eq__, in_front, range(first)))
        return Ordered(None if is_as_it_was else in_front, rest, tuple(self._blocks))

    # -- the graph ----------------------------------------------------------------------------------------------------

    def _numbered(self) -> Iterator[tuple[str, int]]:
        """Path and number of every operation that a tie names, and of creates that have to go before one of those."""
        ties = self._ties
        named = set(chain.from_iterable(ties.before))
        named.update(*(group for _, group in ties.groups))
        parents: set[str] = set()  # that lose children, and must not run short of them
        for number, operation in enumerate(self._rest, self._count):
            path = operation.path
            if path in named and not isinstance(operation, RaiseCounter):
                yield path, number
                if isinstance(operation, DeleteNode) and path != "/" and (parent := paths.parent(path)) in ties.filled:
                    parents.add(parent)
        wanted, below = {path.encode() for path in named}, {path.encode().rstrip(b"/") for path in parents}
        for number, raw in enumerate(self._creates.path_column()):
            if raw in wanted or (below and raw.rpartition(b"/")[0] in below):
                yield raw.decode(), number

    def _graph(self) -> nx.DiGraph[int]:
        """Who goes before whom: operations by number; below zero, points that creates and deletes meet at."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_edges_from(self._edges_of_ties())
        graph.add_edges_from(self._edges_of_filled())
        graph.add_edges_from(self._edges_of_tree())
        return graph

    def _edges_of_ties(self) -> Iterator[tuple[int, int]]:
        number = self._number
        for first, then in self._ties.before:
            one, other = number.get(first), number.get(then)
            if one is not None and other is not None and one != other:
                yield one, other
        for rule, group in self._ties.groups:
            members = sorted({number[path] for path in group if path in number})
            if len(members) > 1:
                self._rules |= dict.fromkeys(members, rule)
                yield from zip(members, (*members[1:], members[0]), strict=True)  # a circle, so one component

    def _edges_of_filled(self) -> Iterator[tuple[int, int]]:
        points = {parent: -1 - place for place, parent in enumerate(self._ties.filled)}
        for path, number in self._number.items():
            point = points.get(paths.parent(path)) if path != "/" else None
            if point is None:
                continue
            if number < self._count:
                yield number, point
            elif isinstance(self._rest[number - self._count], DeleteNode):
                yield point, number

    def _edges_of_tree(self) -> Iterator[tuple[int, int]]:
        """From the nearest touched create above each create, and to the nearest touched delete above each delete."""
        touched = set(self._number.values())
        for path, number in self._number.items():
            if number < self._count:
                above = next((each for each in self._above(number) if each in touched), None)
                if above is not None:
                    yield above, number
            elif self._is_delete(number):
                above = self._touched_delete_above(path)
                if above is not None:
                    yield number, above

    def _touched_delete_above(self, path: str) -> int | None:
        """The nearest one. All that lies between the two is deleted too."""
        while path != "/":
            path = paths.parent(path)
            number = self._number.get(path)
            if number is not None:
                return number if self._is_delete(number) else None
        return None

    # -- units --------------------------------------------------------------------------------------------------------

    def _contract(self, graph: nx.DiGraph[int]) -> None:
        try:
            self._topological = {number: place for place, number in enumerate(nx.topological_sort(graph))}
        except nx.NetworkXUnfeasible:
            pass
        else:  # without a circle each is a component by itself
            self._components = graph
            self._component_of = dict(zip(graph, graph, strict=True))
            return
        self._components = nx.condensation(graph)
        self._topological = {each: place for place, each in enumerate(nx.topological_sort(self._components))}
        component_of: dict[int, int] = {}
        for component, tied in self._components.nodes(data="members"):
            members = [number for number in tied if number >= 0]
            self._tied[component] = sorted({*members, *self._between(members)})
            component_of.update(dict.fromkeys(self._tied[component], component))
        self._component_of = component_of

    def _members(self, component: int) -> Sequence[int]:
        """What goes at once: operations by number, ascending; none for a point where others meet."""
        if self._tied:
            return self._tied[component]
        return (component,) if component >= 0 else ()

    def _between(self, members: list[int]) -> Iterator[int]:
        """What lies between two members on a way up the tree: it can go neither before the one nor after the other."""
        inside = set(members)
        for number in members:
            if number >= self._count and not self._is_delete(number):
                continue
            way: list[int] = []
            for above in self._above(number) if number < self._count else self._deletes_above(self._path(number)):
                if above in inside:
                    yield from way
                way.append(above)

    def _late(self) -> bytearray:
        """1 for each create that cannot go with the others at the front: what is in one transaction with something
        else than creates, and all that needs it. Nothing at all if there are none."""
        mixed = [
            component
            for component, members in self._tied.items()
            if members and members[0] < self._count <= members[-1]
        ]
        if not mixed:
            return bytearray()
        late = bytearray(self._count)
        components = set(mixed).union(*(nx.descendants(self._components, component) for component in mixed))
        for component in components:
            for number in self._members(component):
                if number < self._count:
                    late[number] = 1
        for number, parent in enumerate(self._parents):  # in tree order: what is above is known already
            if parent >= 0 and late[parent]:
                late[number] = 1
        return late

    # -- the order ----------------------------------------------------------------------------------------------------

    def _emit_all(self, numbers: range, passed_over: bytes | bytearray) -> None:
        """Operations whose place has come, and before each all that it needs and that is not out yet.

        passed_over: 1 for each that is to come later, by number; empty for none.
        """
        done, out, component_of = self._done, self._out, self._component_of
        for number in numbers:
            if done[number] or (passed_over and passed_over[number]):
                continue
            component = component_of.get(number)
            if component is None:
                done[number] = 1
                out.append(number)
                continue
            needed = self._needed(component)
            for each in sorted(needed, key=self._topological.__getitem__) if len(needed) > 1 else needed:
                self._emit_component(each)

    def _needed(self, component: int) -> Collection[int]:
        """The component and those before it that are not out yet."""
        finished, predecessors = self._finished, self._components.predecessors
        if finished.issuperset(predecessors(component)):
            return (component,)
        found = {component}
        waiting = [component]
        while waiting:
            for before in predecessors(waiting.pop()):
                if before not in found and before not in finished:
                    found.add(before)
                    waiting.append(before)
        return found

    def _emit_component(self, component: int) -> None:
        members = self._members(component)
        inside = members if len(members) == 1 else set(members)
        for number in members:
            for needed in self._needed_of_tree(number):
                if needed not in inside:
                    self._put(needed)
        start = len(self._out)
        for number in members:
            self._put(number)
        self._finished.add(component)
        if len(self._out) - start > 1:
            self._blocks.append(Block(start, len(self._out), self._why(members)))

    def _needed_of_tree(self, number: int) -> list[int]:
        """What has to go first and is not out yet: creates above a create, deletes below a delete."""
        if number < self._count:
            parent = self._parents[number]
            if parent < 0 or self._done[parent]:  # whatever is above one that is out is out
                return []
            return [each for each in self._above(number) if not self._done[each]][::-1]
        if self._is_delete(number):
            return [each for each in self._deletes_below(number) if not self._done[each]]
        return []

    def _put(self, number: int) -> None:
        if not self._done[number]:
            self._done[number] = 1
            self._out.append(number)

    def _why(self, members: Sequence[int]) -> str:
        rules = dict.fromkeys(self._rules[number] for number in members if number in self._rules)
        return ", ".join(rules) or "references in a circle"

    # -- operations ---------------------------------------------------------------------------------------------------

    def _operation(self, number: int) -> Operation:
        return self._creates[number] if number < self._count else self._rest[number - self._count]

    def _path(self, number: int) -> str:
        return self._creates.path_at(number) if number < self._count else self._rest[number - self._count].path

    def _is_delete(self, number: int) -> bool:
        return number >= self._count and isinstance(self._rest[number - self._count], DeleteNode)

    def _above(self, number: int) -> Iterator[int]:
        """The creates above a create, nearest first."""
        number = self._parents[number]
        while number >= 0:
            yield number
            number = self._parents[number]

    @cached_property
    def _deletes(self) -> dict[str, int]:
        return {
            operation.path: number
            for number, operation in enumerate(self._rest, self._count)
            if isinstance(operation, DeleteNode)
        }

    def _deletes_above(self, path: str) -> Iterator[int]:
        """The deletes above a delete, nearest first."""
        while path != "/":
            path = paths.parent(path)
            if path not in self._deletes:
                return
            yield self._deletes[path]

    def _deletes_below(self, number: int) -> range:
        """Deletes below a delete, in order: they stand right before it, since children go first."""
        rest, count = self._rest, self._count
        below = rest[number - count].path + "/"
        first = number - count
        while first > 0 and isinstance(other := rest[first - 1], DeleteNode) and other.path.startswith(below):
            first -= 1
        return range(first + count, number)
