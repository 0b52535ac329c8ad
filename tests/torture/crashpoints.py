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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple, Self

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.interruptions import when_said
from tests.scopes import (
    ALICES,
    ALICES_IDENTITY,
    ME,
    MINE,
    MINE_BUT_READABLE,
    MY_IDENTITY,
    READ_ONLY,
    Site,
    settled,
)
from tests.torture import txnlog
from tests.torture.crashpoints_client import Died, Fate, MortalClient
from tests.torture.txnlog import read_logs
from tests.trees import Node, Tree
from zkmig.apply import engine
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.dev import Server
from zkmig.epoch.control import Roles, init_scope
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import Migrator, TakeOver
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import Conflict, Refused, StalePlan
from zkmig.model.acl import ALL, READ, WORLD, Acl
from zkmig.model.quota import Quota, limits_path
from zkmig.model.znode import Kind
from zkmig.plan import planfile
from zkmig.plan.plan import Limits
from zkmig.reader import Reader
from zkmig.reader.view import View
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import Delete, Multi, Read, Write

STEAL = TakeOver(steal=True)
VISITS_OF_A_WRITE = 14  # three fates and four moments, with two ways out of each
HOURS = 3_600_000
LIMITS = Limits(batch_bytes_max=1_000)
NEVER = Options(single_shot="never")
QUOTA_TEXT = "count=1000,bytes=-1"

# Of everything something: journal chunks of several READ sets, ACLs tightened, loosened and turned, counters that must
# rise, before and when a parent comes back, nodes of each kind.
OLD: Tree = settled(
    {
        "": Node(b""),
        "/a": Node(b"open"),
        "/b": Node(b"mine", MINE),
        "/c": Node(b"readable", MINE_BUT_READABLE),
        "/d": Node(b"", counter=5),
        "/d/one": Node(bytes(200)),
        "/d/two": Node(b"secret", MINE),
        "/q": Node(b"", counter=3),
        "/turned": Node(b"", (Acl(ALL, *ALICES_IDENTITY), Acl(ALL, *MY_IDENTITY))),
    }
)
NEW: Tree = settled(
    {
        "": Node(b"new"),
        "/a": Node(b"closed", MINE),
        "/b": Node(b"mine 2", MINE),
        "/c": Node(b"opened"),
        "/e": Node(b"", READ_ONLY, 7),
        "/e/f": Node(None, ALICES),
        **{f"/g{number}": Node(bytes(250)) for number in range(3)},
        "/k": Node(b"", kind=Kind.CONTAINER),
        "/l": Node(b"", kind=Kind.TTL, ttl_ms=HOURS),
        "/q": Node(b"", counter=9),
        "/turned": Node(b"", (Acl(ALL, *MY_IDENTITY), Acl(READ, "ip", "10.9.8.7"))),
    }
)
# The same without ACLs to take away, which no single transaction can hold.
NEW_AT_ONCE: Tree = {**NEW, "/a": Node(b"closed"), "/turned": OLD["/turned"]}


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


_runs = itertools.count(1)

# -- scenarios --------------------------------------------------------------------------------------------------------


class Violation(AssertionError):
    """A property does not hold."""


class Place(Site):
    """foreign: what somebody else has written on paths of the plan, by relative path. sessions: of its migrators."""

    def __init__(self, server: Server, root: str, eyes: KazooClient) -> None:
        super().__init__(server, root, f"{root}-control", eyes)
        self.foreign: dict[str, bytes] = {}
        self.sessions: set[int] = set()


@dataclass(frozen=True)
class Scenario:
    """A piece of work that processes die in.

    lay: what is in the scope before it; clear: what is taken away before another process leads out. rest: the state
    that it ends in when it is let through.
    """

    name: str
    new: Tree
    work: Callable[[Place, Client, SealedPlan], object]
    is_new_in_the_end: bool
    lay: Callable[[Place, SealedPlan], object] = lambda _site, _sealed: None
    clear: Callable[[Place], object] = lambda _: None
    rest: State = State.STABLE


def _apply(site: Place, client: Client, sealed: SealedPlan, options: Options = NEVER) -> object:
    return engine.apply_plan(client, site.names, sealed, 1, options=options, take_over=STEAL, stop=StopRequest())


def _resume(site: Place, client: Client, sealed: SealedPlan, options: Options = NEVER) -> object:
    return engine.resume(client, site.names, sealed, options=options, take_over=STEAL, stop=StopRequest())


def _rollback(site: Place, client: Client, _: SealedPlan | None = None) -> object:
    return engine.rollback(client, site.names, options=Options(), take_over=STEAL, stop=StopRequest())


def _apply_at_once(site: Place, client: Client, sealed: SealedPlan) -> object:
    return _apply(site, client, sealed, Options(single_shot="require"))


def _apply_and_give_up(site: Place, client: Client, sealed: SealedPlan) -> None:
    with suppress(DrainTimeout):
        _apply(site, client, sealed, Options(single_shot="never", drain_timeout_s=0.0))


def _resume_and_give_up(site: Place, client: Client, sealed: SealedPlan) -> None:
    with suppress(DrainTimeout):
        _resume(site, client, sealed, Options(single_shot="never", drain_timeout_s=0.0))


def _lease(site: Place, _: SealedPlan) -> None:
    """One that its holder has released: the drain takes it away."""
    site.kazoo.create(f"{site.names.acting}/done", Lease("scaler", 60_000, released=True).encode())


def _guard(site: Place, _: SealedPlan) -> None:
    site.kazoo.create(f"{site.names.guards}/host.scaler", b'{"format": 1, "unit": "scaler", "stopped": false}')


def _no_guard(site: Place) -> None:
    with suppress(NoNodeError):
        site.kazoo.delete(f"{site.names.guards}/host.scaler")


def _stop_at(asker: str, count: int = 0) -> Callable[[Place, SealedPlan], None]:
    """A process dies when the write of that kind has landed, the count-th: where the scenario begins."""

    def lay(site: Place, sealed: SealedPlan) -> None:
        with mortal(site) as client:
            seen = itertools.count()

            def watch(_: object) -> None:
                if client.askers[-1].endswith(asker) and next(seen) == count:
                    client.condemn(len(client.writes), Fate.LANDED)

            client.watch = watch
            with suppress(Died):
                _apply(site, client, sealed)
            client.vanish()

    return lay


def _all_batches(site: Place, sealed: SealedPlan) -> None:
    """A process dies before it verifies."""

    def die() -> None:
        raise Died

    with mortal(site) as client:
        with suppress(Died):
            _apply(site, client, sealed, Options(single_shot="never", say=when_said("verifying", die)))
        client.vanish()


def _foreign(lay: Callable[[Place, SealedPlan], object]) -> Callable[[Place, SealedPlan], None]:
    """And then somebody writes a path of the plan."""

    def lay_and_write(site: Place, sealed: SealedPlan) -> None:
        lay(site, sealed)
        _write_b(site)

    return lay_and_write


def _write_b(site: Place) -> None:
    site.kazoo.set(site.path("/b"), b"foreign")
    site.foreign["/b"] = b"foreign"


def _resume_until_conflict(site: Place, client: Client, sealed: SealedPlan) -> None:
    with suppress(Conflict):
        _resume(site, client, sealed)


def _apply_at_once_and_be_refused(site: Place, client: Client, sealed: SealedPlan) -> None:
    """Somebody writes a path of the plan just before the one transaction."""
    assert isinstance(client, MortalClient)
    watch = client.watch

    def write_before(request: Write) -> None:
        if client.askers[-1].endswith("_commit_single_shot"):
            _write_b(site)
        watch(request)

    client.watch = write_before
    with suppress(Conflict):
        _apply_at_once(site, client, sealed)


def _guarded_preparing(site: Place, sealed: SealedPlan) -> None:
    _stop_at("Forward._prepare")(site, sealed)
    _guard(site, sealed)


SCENARIOS = (
    Scenario("apply in batches", NEW, _apply, True, _lease),
    Scenario("apply at once", NEW_AT_ONCE, _apply_at_once, True),
    Scenario("drain that is given up", NEW, _apply_and_give_up, False, _guard, _no_guard),
    Scenario("resume of PREPARING", NEW, _resume, True, _stop_at("Forward._prepare")),
    Scenario("resume of PREPARING that is given up", NEW, _resume_and_give_up, False, _guarded_preparing, _no_guard),
    Scenario("resume among the tightenings", NEW, _resume, True, _stop_at("Forward._tighten", 1)),
    Scenario("resume among the batches", NEW, _resume, True, _stop_at("Forward._write_batches", 3)),
    Scenario("resume of what is pending", NEW, _resume, True, _stop_at(":finish_pending", 1)),
    Scenario("rollback among the tightenings", NEW, _rollback, False, _stop_at("Forward._tighten", 1)),
    Scenario("rollback among the batches", NEW, _rollback, False, _stop_at("Forward._write_batches", 3)),
    Scenario("rollback of all batches", NEW, _rollback, False, _all_batches),
    Scenario("rollback past a foreign write", NEW, _rollback, False, _foreign(_all_batches)),
    Scenario(
        "resume until a conflict",
        NEW,
        _resume_until_conflict,
        False,
        _foreign(_stop_at("Forward._write_batches")),
        rest=State.OPEN,
    ),
    Scenario("apply at once and be refused", NEW_AT_ONCE, _apply_at_once_and_be_refused, False),
)


# -- one scope, and those who look at it ------------------------------------------------------------------------------


@contextmanager
def mortal(site: Place) -> Iterator[MortalClient]:
    """A process of its own, as far as the servers can tell."""
    with MortalClient(parse_hosts(site.server.hosts), auth=(ME,)) as client:
        site.sessions.add(client.session_id)
        yield client


def rows(view: View) -> dict[str, tuple[object, ...]]:
    """A view as it is compared."""
    return {path: (node.data, node.acl, tuple(node.stat)) for path, node in view.items()}


class Watcher:
    """A reader of one scope, and what each of its views has to be. views: how many were checked."""

    def __init__(self, reader: Reader, site: Place, old: Tree, new: Tree) -> None:
        self._reader = reader
        self._site = site
        self._trees = [
            {site.path(relative): (node.data, node.acl) for relative, node in tree.items()} for tree in (old, new)
        ]
        self._before: dict[str, tuple[object, ...]] | None = None
        self._last = (0, 0)
        self.views = 0
        self.states: Counter[str] = Counter()

    def look(self) -> None:
        """One more view, checked."""
        view = self._reader.view(fresh=self.views % 4 != 3)
        self.views += 1
        self.states[view.state] += 1
        if (view.epoch, view.zxid) < self._last:
            raise Violation(f"a view of epoch {view.epoch} at {view.zxid:#x} after one at {self._last}")
        self._last = view.epoch, view.zxid
        seen = rows(view)
        if view.state == "STABLE":
            self._check_tree(view, seen)
            self._before = seen
        else:
            self._check_image(view, seen)

    def _check_image(self, view: View, seen: dict[str, tuple[object, ...]]) -> None:
        """To the last field of each Stat what it was before; where nothing is overlaid others' writes show."""
        differences = set(_differences(seen, self._before or {}))
        if view.state == "PREPARING":
            differences -= {self._site.path(relative) for relative in self._site.foreign}
        if differences:
            raise Violation(f"torn view in {view.state}: {sorted(differences)}")

    def _check_tree(self, view: View, seen: dict[str, tuple[object, ...]]) -> None:
        are_acls_pending = view.seen.record.pending is not None
        width = 1 if are_acls_pending else 2
        foreign = {self._site.path(relative) for relative in self._site.foreign}
        want = {path: row[:width] for path, row in self._trees[view.epoch].items() if path not in foreign}
        found = {path: row[:width] for path, row in seen.items() if path not in foreign}
        if want != found:
            raise Violation(f"torn view at epoch {view.epoch}: {_differences(found, want)}")


def _differences(found: dict[str, Any], want: dict[str, Any]) -> list[str]:
    return sorted(path for path in found.keys() | want.keys() if found.get(path) != want.get(path))[:5]


def judge(site: Place, tree: Tree) -> None:
    """What kazoo reads must be exactly the tree, but for foreign values; and nothing of the attempt is left to do."""
    image, record = site.look(), site.record()
    expected = {path: (node.data, node.acl) for path, node in tree.items()}
    for path, data in site.foreign.items():
        expected[path] = (data, tree[path].acl)
    found = {path: (seen.data, seen.acl) for path, seen in image.items()}
    if expected != found:
        raise Violation(f"not the tree: {_differences(found, expected)}")
    low = [path for path, seen in image.items() if seen.counter < tree[path].counter]
    if low:
        raise Violation(f"counters went down: {low}")
    if (record.state, record.attempt, record.pending, record.conflict) != (State.STABLE, None, None, None):
        raise Violation(f"left behind: {record}")
    is_new = record.epoch > 0
    if is_new != bool(site.kazoo.exists(limits_path(site.root))):
        raise Violation(f"the quota is {'missing' if is_new else 'there'}")


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
    """What was visited. askers: who in the engine wrote, of all scenarios; lengths: writes of each when unharmed.

    states: of the record as processes died. late: frames that arrived late, by what came of them.
    seconds: that they took. writes_in_log: of the unharmed runs. kinds_compared: nodes.
    """

    visits: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    askers: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    writes_in_log: int = 0
    kinds_compared: int = 0
    seconds: float = 0.0

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
            site.grow(OLD)
            init_scope(self._home, site.names, root, Roles((MY_IDENTITY,), (WORLD,)))
            sealed = self._plan(site, scenario)
            with Reader(self._eyes, site.names.scope, control=site.names.control) as reader:
                watcher = Watcher(reader, site, OLD, scenario.new)
                watcher.look()
                scenario.lay(site, sealed)
                try:
                    yield site, sealed, watcher
                finally:
                    self.figures.views += watcher.states
                    self._known |= site.sessions

    def _plan(self, site: Place, scenario: Scenario) -> SealedPlan:
        plan = site.plan(scenario.new, limits=LIMITS, client=self._home).plan
        plan = dataclasses.replace(plan, quotas=(Quota(site.root, QUOTA_TEXT),))
        return SealedPlan(plan, planfile.plan_hash(plan))

    def measure(self, scenario: Scenario) -> int:
        """Run it unharmed; the number of its writes. A view is taken before each of them."""
        with self._place(scenario) as (site, sealed, watcher), mortal(site) as client:
            client.watch = lambda _: watcher.look()
            scenario.work(site, client, sealed)
            watcher.look()
            if site.record().state is not scenario.rest:
                raise Violation(f"{scenario.name}: it ended in {site.record().state}")
            if scenario.rest is State.STABLE:
                self._judge(site, scenario)
                if bool(site.record().epoch) is not scenario.is_new_in_the_end:
                    raise Violation(f"{scenario.name}: it ended at epoch {site.record().epoch}")
            self.figures.askers.update(client.askers)
            self.figures.lengths[scenario.name] = self._measured[client.session_id] = len(client.writes)
            return len(client.writes)

    def _judge(self, site: Place, scenario: Scenario) -> None:
        tree = scenario.new if site.record().epoch else OLD
        judge(site, tree)
        self._trees[site.root] = tree

    # -- a visit ------------------------------------------------------------------------------------------------------

    def visit(self, visit: Visit) -> int:
        """The number of writes of the first way out. A violation is kept in the figures."""
        scenario = next(each for each in SCENARIOS if each.name == visit.scenario)
        began = time.monotonic()
        try:
            return self._visit(visit, scenario)
        except Exception as error:  # noqa: BLE001 - whatever it is, the enumeration goes on and tells of it
            self.figures.violations.append(f"{visit}: {type(error).__name__}: {error}")
            return 0
        finally:
            level = "second level" if visit.second is not None else visit.first.fate.value
            self.figures.visits[level] += 1
            self.figures.seconds += time.monotonic() - began

    def _visit(self, visit: Visit, scenario: Scenario) -> int:
        with self._place(scenario) as (site, sealed, watcher), mortal(site) as first, mortal(site) as second:
            first.condemn(*visit.first)
            with suppress(Died):
                scenario.work(site, first, sealed)
            late = Late(first, visit.moment)
            if not late.is_waiting:
                first.vanish()
            self._died(site, watcher)
            scenario.clear(site)
            if visit.second is not None:
                second.condemn(*visit.second)
            second.watch = lambda _: self._between(late, second, watcher)
            with suppress(Died):
                self._lead_out(site, second, sealed, visit.way)
            if visit.second is not None:
                second.vanish()
                self._died(site, watcher)
                with mortal(site) as third:
                    third.watch = lambda _: self._between(late, third, watcher)
                    self._lead_out(site, third, sealed, visit.last)
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

    def _lead_out(self, site: Place, client: MortalClient, sealed: SealedPlan, way: Way) -> None:
        """As an operator does who sees the state."""
        record = site.record()
        if way is Way.ROLLBACK and record.state in MIGRATING:
            _rollback(site, client)
        elif record.state in MIGRATING or record.pending is not None:
            self._go_on(site, client, sealed)
        else:
            for act in (_rollback,) if record.epoch else (_rollback, _resume):
                with suppress(Refused):
                    act(site, client, sealed)
                    raise Violation("something was found to do where there is nothing")

    def _go_on(self, site: Place, client: MortalClient, sealed: SealedPlan) -> None:
        try:
            _resume(site, client, sealed)
        except (Conflict, StalePlan):
            if not site.foreign:
                raise
            if site.record().state in MIGRATING:
                with mortal(site) as another:
                    _rollback(site, another)

    def _conclude(self, site: Place, scenario: Scenario, watcher: Watcher, late: Late) -> None:
        """The tree is the old or the new one, as the record says; the next attempt or epoch meets no late frame."""
        watcher.look()
        self._judge(site, scenario)
        if not late.is_waiting:
            return
        if site.record().epoch:
            with mortal(site) as client:
                Migrator.take(client, site.names, STEAL, StopRequest()).release()
            late.at(Moment.AGAIN)
        else:
            self._try_again(site, scenario, watcher, late)
        self._judge(site, scenario)

    def _try_again(self, site: Place, scenario: Scenario, watcher: Watcher, late: Late) -> None:
        sealed = self._plan(site, scenario)
        site.foreign.clear()
        with mortal(site) as client:

            def watch(_: Write) -> None:
                if client.askers[-1].endswith(("_write_batches", "_commit_single_shot")):
                    late.at(Moment.AGAIN)
                    watcher.look()

            client.watch = watch
            _apply(site, client, sealed, Options())
        watcher.look()

    # -- what the server's own log says -------------------------------------------------------------------------------

    def check_log(self) -> None:
        """Every write of the unharmed runs was counted, nobody unknown has written, and all nodes are of their kind."""
        counts: Counter[int] = Counter()
        owners: dict[str, int] = {}
        for entry in read_logs(self.server.data_dir):
            if entry.zxid > self._zxid_before and entry.type not in (txnlog.CREATE_SESSION, txnlog.CLOSE_SESSION):
                counts[entry.session] += 1
            for operation in () if entry.failed else entry.operations:
                match operation:
                    case txnlog.Create():
                        owners[operation.path] = operation.owner
                    case txnlog.Delete():
                        owners.pop(operation.path, None)
        for session, writes in self._measured.items():
            self.figures.writes_in_log += counts[session]
            if counts[session] != writes:
                self.figures.violations.append(f"{counts[session]} writes in the log, {writes} crash points")
        strangers = {session: n for session, n in counts.items() if session not in self._known}
        if strangers:
            self.figures.violations.append(f"writes of sessions that nobody knows: {strangers}")
        self._check_kinds(owners)

    def _check_kinds(self, owners: dict[str, int]) -> None:
        found: dict[str, dict[str, int]] = {root: {} for root in self._trees}
        for path, owner in owners.items():
            root = "/" + path.split("/", 2)[1]
            if root in found:
                found[root][path[len(root) :]] = owner
        for root, tree in self._trees.items():
            expected = {relative: _owner(node) for relative, node in tree.items()}
            self.figures.kinds_compared += len(expected)
            if found[root] != expected:
                self.figures.violations.append(f"{root}: kinds of {_differences(found[root], expected)}")


def _owner(node: Node) -> int:
    """What the log keeps of a node's kind."""
    if node.kind is Kind.CONTAINER:
        return txnlog.CONTAINER_OWNER
    return txnlog.TTL_MASK | node.ttl_ms if node.kind is Kind.TTL else 0


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
        return all(isinstance(each, Delete) and "/lock-" in each.path for each in request.operations)
    return moment in (Moment.TAKEN, Moment.MIDST)


# -- all of them ------------------------------------------------------------------------------------------------------


def first_level(lengths: dict[str, int]) -> Iterator[Visit]:
    """Every write of every scenario, in every way, with both ways out; what is late at every moment."""
    for name, length in lengths.items():
        for number, fate, way in itertools.product(range(length), Fate, Way):
            for moment in Moment if fate is Fate.LATE else (None,):
                yield Visit(name, Point(number, fate), way, moment)


def second_level(visit: Visit, writes: int) -> Iterator[Visit]:
    """The same once more, dying at each write of its way out; the ways out of that take turns."""
    for number in range(writes):
        last = list(Way)[(visit.first.number + number) % 2]
        yield visit._replace(second=Point(number, Fate.LANDED), last=last)


def sample(visits: Iterator[Visit], every: int, seed: int = 0) -> Iterator[Visit]:
    """One of that many."""
    return itertools.islice(visits, seed % every, None, every)


def enumerate_all(server: Server, every: int = 1, seed: int = 0, views_every: int = 1) -> Figures:
    """Visit the crash points of all scenarios on one server, which is looked into: it has to run on this machine.

    every: visit but one of so many; below VISITS_OF_A_WRITE each write still has its turn. seed: where it begins.
    """
    with (
        Site(server, "/") as everywhere,
        Enumeration(server, f"crash-{next(_runs)}", everywhere.kazoo, every=views_every) as points,
    ):
        for scenario in SCENARIOS:
            points.measure(scenario)
        for visit in sample(first_level(points.figures.lengths), every, seed):
            writes = points.visit(visit)
            if visit.first.fate is Fate.LANDED:
                for again in sample(second_level(visit, writes), every, seed):
                    points.visit(again)
        points.check_log()
        return points.figures


def run(seed: int, server: Server, every: int = 1) -> dict[str, Any]:
    """As `enumerate_all`; the figures as plain values, violations among them."""
    return enumerate_all(server, every, seed).plain()
