"""Crash points by enumeration: every write that a migrator sends is the last of its process, in each possible way.

A scenario is run once unharmed, which tells how many writes it sends. Then, for each of them and each fate: a fresh
scope, a process that ends there, and another that takes over, to go on or to take back, which is killed in its turn at
each of its own. A reader looks all the while. What came of it is judged by plain kazoo: exactly the old or exactly the
new tree; and by the server's own log: the count of writes, who wrote, and the kinds of nodes.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple, Self

from kazoo.client import KazooClient

from tests.scopes import ALICE, ME, MY_IDENTITY, Site
from tests.torture.crashpoints_client import Died, Fate, MortalClient
from tests.torture.crashpoints_scenarios import (
    SCENARIOS,
    STEAL,
    Place,
    Scenario,
    Violation,
    apply,
    mortal,
    plan_to,
    resume,
    roll_back,
)
from tests.torture.crashpoints_watch import Log, Watcher, judge
from tests.trees import Tree
from zkmig.apply.engine import SealedPlan
from zkmig.dev import Server
from zkmig.epoch.control import Roles, init_scope
from zkmig.epoch.owner import Migrator
from zkmig.epoch.transitions import MIGRATING
from zkmig.errors import Conflict, Refused, StalePlan, ZkmigError
from zkmig.model.acl import WORLD, AclList
from zkmig.reader import Reader
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import Check, Delete, Multi, Read, Write

VISITS_OF_A_WRITE = 16  # four fates, and four moments of another, with two ways out of each
UNREACHED_MAX = 0.02  # of the visits
_runs = itertools.count(1)


class Way(Enum):
    """How another process leads out."""

    RESUME = "resume"
    ROLLBACK = "rollback"


class Moment(Enum):
    """When a frame that was held back arrives."""

    TAKEN = "after the bump of the next owner"
    MIDST = "in the midst of the next owner's work"
    ENDED = "after the end of the next owner's work"
    AGAIN = "in the midst of the next attempt, or of the next epoch"


# -- a visit ----------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """Where a process dies, and how."""

    number: int
    fate: Fate


class Visit(NamedTuple):
    """One run: the scenario dies at `first`, `way` leads out, unless it dies at `second`; then the `last` way does."""

    scenario: str
    first: Point
    way: Way
    moment: Moment | None = None
    second: Point | None = None
    last: Way = Way.RESUME

    @property
    def level(self) -> str:
        """Of which it is one: by what happens at the first write, or the second level."""
        return "second level" if self.second is not None else self.first.fate.value

    def __str__(self) -> str:
        """As one line that says it all, for whoever wants to see it again."""
        parts = [self.scenario, f"write {self.first.number} {self.first.fate.value}"]
        parts += [self.moment.value] if self.moment else []
        parts += [self.way.value]
        if self.second is not None:
            parts += [f"write {self.second.number} {self.second.fate.value}", self.last.value]
        return "; ".join(parts)


@dataclass
class Figures:
    """What was visited. askers: who in the engine wrote, as "command: asker"; lengths: writes of each scenario when
    unharmed. tightened: batches in the log before which every ACL that its plan tightens was looked at.

    states: of the record as processes died. late: frames that arrived late, by what came of them.
    visits and unreached: by level; unreached: those that came to their end before one of their writes: how many batches
    are sent behind one that fails depends on when its answer comes. seconds: that visits took. writes_in_log: of the
    unharmed runs. kinds_compared: nodes.
    """

    visits: Counter[str] = field(default_factory=Counter)
    unreached: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    askers: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    writes_in_log: int = 0
    kinds_compared: int = 0
    tightened: int = 0
    seconds: float = 0.0

    def too_many_unreached(self) -> str:
        """Says so if so many visits came to nothing that the others may not stand for all, else ""."""
        visits, unreached = self.visits.total(), self.unreached.total()
        is_too_many = unreached > UNREACHED_MAX * visits
        return f"{unreached} of {visits} visits came to their end before their write" if is_too_many else ""

    def plain(self) -> dict[str, Any]:
        """As plain values, to be written down."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


class Enumeration:
    """Visits on one server. every: a view before each write that is that many after the last, while ways lead out."""

    def __init__(self, server: Server, label: str, eyes: KazooClient, every: int = 1) -> None:
        self.server = server
        self.figures = Figures()
        self._label = label
        self._eyes = eyes
        self._every = every
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._home: Client
        self._trees: dict[str, Tree] = {}  # by root, as it was left
        self._known: set[int] = set()  # sessions that may write
        self._measured: dict[int, int] = {}  # writes by session
        self._plans: dict[str, dict[str, AclList]] = {}  # what each tightens, by its hash
        self._zxid_before = 0

    def __enter__(self) -> Self:
        self._home = self._stack.enter_context(Client(parse_hosts(self.server.hosts), auth=(ME,)))
        self._zxid_before = self._home.last_zxid
        kazoo_session = self._eyes.client_id
        assert kazoo_session is not None
        self._known |= {self._home.session_id, kazoo_session[0]}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- a scope ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _place(self, scenario: Scenario) -> Iterator[tuple[Place, SealedPlan, Watcher]]:
        root = f"/{self._label}-{next(self._numbers)}"
        with Place(self.server, root, self._eyes) as site:
            site._looker = self._home
            site.grow(scenario.old)
            init_scope(self._home, site.names, root, Roles((MY_IDENTITY,), (WORLD,)))
            site.replan = lambda: plan_to(site, scenario.new, client=self._home)
            sealed = site.replan()
            with Reader(self._eyes, site.names.scope, control=site.names.control) as reader:
                watcher = Watcher(reader, site, scenario.trees)
                watcher.look()
                laid = scenario.lay(site, sealed)
                watcher.look()
                try:
                    yield site, laid if isinstance(laid, SealedPlan) else sealed, watcher
                finally:
                    self.figures.views += watcher.states
                    self._known |= site.sessions
                    self._plans |= {name: _tightens(plan) for name, plan in site.plans.items()}

    def measure(self, scenario: Scenario) -> int:
        """Run it unharmed; the number of its writes."""
        with self._place(scenario) as (site, sealed, watcher), mortal(site) as client:
            client.watch = lambda _: watcher.look() if len(client.writes) % self._every == 0 else None
            scenario.work(site, client, sealed)
            scenario.revive(site)
            watcher.look()
            if (site.record().state, site.record().epoch) != (scenario.rest, scenario.epoch):
                raise Violation(f"{scenario.name}: it ended in {site.record().state}, epoch {site.record().epoch}")
            if scenario.rest not in MIGRATING:
                scenario.afterwards(site)
                self._judge(site, scenario)
            self.figures.askers.update(f"{scenario.command}: {asker}" for asker in client.askers)
            self.figures.lengths[scenario.name] = self._measured[client.session_id] = len(client.writes)
            return len(client.writes)

    def _judge(self, site: Place, scenario: Scenario) -> None:
        tree = scenario.trees[site.record().epoch]
        judge(site, tree)
        self._trees[site.root] = tree

    # -- a visit ------------------------------------------------------------------------------------------------------

    def visit(self, visit: Visit) -> int:
        """The number of writes of the first way out. A violation is kept in the figures."""
        scenario = next(each for each in SCENARIOS if each.name == visit.scenario)
        began = time.monotonic()
        try:
            if visit.first.fate is Fate.ASLEEP:
                return self._visit_asleep(visit, scenario)
            return self._visit(visit, scenario)
        except Exception as error:  # noqa: BLE001 - whatever it is, the enumeration goes on and tells of it
            self.figures.violations.append(f"{visit}: {type(error).__name__}: {error}")
            return 0
        finally:
            self.figures.visits[visit.level] += 1
            self.figures.seconds += time.monotonic() - began

    def _visit(self, visit: Visit, scenario: Scenario) -> int:
        with self._place(scenario) as (site, sealed, watcher), mortal(site) as first, mortal(site) as second:
            first.condemn(*visit.first)
            with suppress(Died):
                scenario.work(site, first, sealed)
            has_reached = first.is_dying
            late = Late(first, visit.moment)
            if not late.is_waiting:
                first.vanish()
            scenario.revive(site)
            self._died(site, watcher)
            scenario.clear(site)
            if visit.second is not None:
                second.condemn(*visit.second)
            second.watch = lambda _: self._between(late, second, watcher)
            with suppress(Died):
                self._lead_out(site, second, sealed, visit.way, scenario)
            has_reached &= visit.second is None or second.is_dying
            self.figures.unreached[visit.level] += not has_reached
            if visit.second is not None:
                second.vanish()
                scenario.revive(site)
                self._died(site, watcher)
                with mortal(site) as third:
                    third.watch = lambda _: self._between(late, third, watcher)
                    self._lead_out(site, third, sealed, visit.last, scenario)
            if second.writes:  # else nobody has taken the scope, and the first one may still write
                late.at(Moment.ENDED)
            self._conclude(site, scenario, watcher, late)
            self.figures.late.update(late.outcomes)
            return len(second.writes)

    def _died(self, site: Place, watcher: Watcher) -> None:
        self.figures.states[site.record().state.value] += 1
        watcher.look()

    def _between(self, late: Late, client: MortalClient, watcher: Watcher) -> None:
        if len(client.writes) == 1:
            late.at(Moment.TAKEN)
        if len(client.writes) == 4:
            late.at(Moment.MIDST)
        if len(client.writes) % self._every == 0:
            watcher.look()

    def _lead_out(self, site: Place, client: MortalClient, sealed: SealedPlan, way: Way, scenario: Scenario) -> None:
        """As an operator does who sees the state."""
        record = site.record()
        if way is Way.ROLLBACK and record.state in MIGRATING:
            roll_back(site, client)
        elif record.state in MIGRATING or record.pending is not None:
            self._go_on(site, client, sealed)
        elif scenario.again is not None and way is Way.RESUME:
            scenario.again(site, client)
        else:
            for act in (roll_back,) if record.epoch else (roll_back, resume):
                with suppress(Refused):
                    act(site, client, sealed)
                    raise Violation("something was found to do where there is nothing")

    def _go_on(self, site: Place, client: MortalClient, sealed: SealedPlan) -> None:
        try:
            resume(site, client, sealed)
        except (Conflict, StalePlan):
            if not site.foreign and not site.foreign_acls:
                raise
            if site.record().state in MIGRATING:
                with mortal(site) as another:
                    roll_back(site, another)

    def _conclude(self, site: Place, scenario: Scenario, watcher: Watcher, late: Late) -> None:
        """The tree is what the record says; the next attempt, or the next epoch, is safe from what is late."""
        watcher.look()
        scenario.afterwards(site)
        self._judge(site, scenario)
        if late.is_waiting:
            self._go_further(site, scenario, watcher, late)
            self._judge(site, scenario)

    def _go_further(self, site: Place, scenario: Scenario, watcher: Watcher, late: Late) -> None:
        """The same epoch once more, if it was taken back; else the next."""
        with mortal(site, ME, ALICE) as client:  # the new tree holds nodes that are hers
            sealed = plan_to(site, scenario.trees[site.record().epoch + 1], client=client)
            site.foreign.clear()
            site.foreign_acls.clear()

            def watch(_: Write) -> None:
                if client.askers[-1].endswith(("_write_batches", "_commit_single_shot")):
                    late.at(Moment.AGAIN)
                    watcher.look()

            client.watch = watch
            apply(site, client, sealed)
        watcher.look()

    # -- one that sleeps ----------------------------------------------------------------------------------------------

    def _visit_asleep(self, visit: Visit, scenario: Scenario) -> int:
        """Before the write it falls asleep, others lead out, and it goes on as if nothing had happened."""
        with self._place(scenario) as (site, sealed, watcher), mortal(site) as first:
            left: list[object] = []
            has_come = False

            def sleep(_: Write) -> None:
                nonlocal has_come
                if len(first.writes) == visit.first.number and not has_come:
                    has_come = True
                    scenario.revive(site)
                    self._died(site, watcher)
                    self._others(site, scenario, sealed, visit.way)
                    left.extend((site.look(), site.record()))

            first.watch = sleep
            with suppress(ZkmigError):
                scenario.work(site, first, sealed)
            if has_come and not left:
                raise Violation("others found no way out")
            if not has_come:
                self.figures.unreached[visit.level] += 1
                scenario.revive(site)
                self._others(site, scenario, sealed, visit.way)
                left.extend((site.look(), site.record()))
            scenario.revive(site)
            watcher.look()
            if [site.look(), site.record()] != left:
                raise Violation("one that woke up has changed something")
            self._conclude(site, scenario, watcher, Late(first, None))
            return len(first.writes)

    def _others(self, site: Place, scenario: Scenario, sealed: SealedPlan, way: Way) -> None:
        scenario.clear(site)
        with mortal(site) as client:
            self._lead_out(site, client, sealed, way, scenario)
            if client.writes:
                return
            if site.record().epoch == 0 and way is Way.RESUME and not (site.foreign or site.foreign_acls):
                with suppress(StalePlan):  # after a rollback, which has moved versions: then the scope is only taken
                    apply(site, client, sealed)
                    return
            Migrator.take(client, site.names, STEAL, StopRequest()).release()

    # -- what the server's own log says -------------------------------------------------------------------------------

    def check_log(self) -> None:
        """Every write of the unharmed runs was counted, nobody unknown has written, and all nodes are of their kind."""
        log = Log(self.server.data_dir, self._zxid_before)
        for session, writes in self._measured.items():
            self.figures.writes_in_log += log.writes[session]
            if log.writes[session] != writes:
                self.figures.violations.append(f"{log.writes[session]} writes in the log, {writes} crash points")
        strangers = {session: n for session, n in log.writes.items() if session not in self._known}
        if strangers:
            self.figures.violations.append(f"writes of sessions that nobody knows: {strangers}")
        self.figures.violations += log.wrong_kinds(self._trees)
        self.figures.tightened, untightened = log.untightened_batches(self._plans)
        self.figures.violations += untightened
        self.figures.kinds_compared = sum(map(len, self._trees.values()))


class Late:
    """What a dead process has sent and the server has not seen yet; it arrives once, at its moment."""

    def __init__(self, client: MortalClient, moment: Moment | None) -> None:
        self._client = client
        self._moment = moment if client.late else None
        self.outcomes: Counter[str] = Counter()

    @property
    def is_waiting(self) -> bool:
        return self._moment is not None

    def at(self, moment: Moment) -> None:
        """Deliver it if this is its moment, or its moment has passed."""
        is_over = self._moment in (Moment.TAKEN, Moment.MIDST) and moment in (Moment.ENDED, Moment.AGAIN)
        if self._moment is None or not (is_over or moment is self._moment or moment is Moment.AGAIN):
            return
        self._moment = None
        for request, reply in zip(self._client.late, self._client.deliver(), strict=True):
            what = type(request).__name__
            self.outcomes[f"{what} {'refused' if reply.error else 'applied'}, {moment.value}"] += 1
            if reply.error or _is_harmless(request, moment):
                continue
            raise Violation(f"a late {what} of {self._client.askers[-1]} on {request.path} applied {moment.value}")


def _is_harmless(request: Read | Write, moment: Moment) -> bool:
    """The release of a lock names a token that nobody else has. A setACL is fenced once the next owner comes to it."""
    if isinstance(request, Multi):
        return all("/lock-" in each.path for each in request.operations if isinstance(each, Delete)) and all(
            isinstance(each, Check | Delete) for each in request.operations
        )
    return moment in (Moment.TAKEN, Moment.MIDST)


# -- all of them ------------------------------------------------------------------------------------------------------


def first_level(lengths: dict[str, int], goes_on: bool) -> Iterator[Visit]:
    """Every write of each scenario that begins anew, or that goes on: in every way, at every moment, both ways out."""
    for name, length in ((s.name, lengths[s.name]) for s in SCENARIOS if s.goes_on is goes_on):
        for number, fate, way in itertools.product(range(length), Fate, Way):
            if fate is Fate.ASLEEP and number == 0:
                continue  # it owns nothing yet, and may well take the scope when it wakes up
            for moment in Moment if fate is Fate.LATE else (None,):
                yield Visit(name, Point(number, fate), way, moment)


def second_level(visit: Visit, writes: int) -> Iterator[Visit]:
    """The same once more, the next process dying at each write of its way out; the ways out of that take turns.

    States as they are after each write of the first: its other fates lead to the same. And with its frames to come once
    both are gone, at some writes of the second.
    """
    is_late = visit.first.fate is Fate.LATE and visit.moment is Moment.ENDED
    if not is_late and visit.first.fate is not Fate.LANDED:
        return
    for number in range(0, writes, 4 if is_late else 1):
        last = list(Way)[(visit.first.number + number) % 2]
        yield visit._replace(second=Point(number, Fate.LANDED), last=last)


def sample(visits: Iterator[Visit], every: int, start: int = 0) -> Iterator[Visit]:
    """One of that many."""
    return itertools.islice(visits, start, None, every)


def _tightens(sealed: SealedPlan) -> dict[str, AclList]:
    """By path, the ACL that has to be in force before any data is written."""
    return {step.path: step.tighten for step in sealed.plan.acl_steps if step.tighten is not None and step.pin}


def enumerate_all(
    server: Server, every: int = 1, every_later: int = 1, views_every: int = 1, shard: tuple[int, int] = (0, 1)
) -> Figures:
    """Visit the crash points of all scenarios on one server, whose log is looked into: it has to run on this machine.

    every: visit but one of so many; below VISITS_OF_A_WRITE each write still has its turn. every_later: the same where
    another process has died before. shard: number and count, to share them among several servers.
    """
    number, count = shard
    with (
        Site(server, "/") as everywhere,
        Enumeration(server, f"crash-{next(_runs)}", everywhere.kazoo, every=views_every) as points,
    ):
        for scenario in SCENARIOS:
            points.measure(scenario)
        lengths = points.figures.lengths
        for visit in sample(first_level(lengths, goes_on=False), every * count, number):
            writes = points.visit(visit)
            for again in sample(second_level(visit, writes), every_later):
                points.visit(again)
        for visit in sample(first_level(lengths, goes_on=True), every_later * count, number):
            points.visit(visit)
        points.check_log()
        return points.figures


def run(seed: int, server: Server, shard: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """As `enumerate_all`; figures as plain values, violations among them. seed: there is no chance in it."""
    del seed
    return enumerate_all(server, shard=shard).plain()
