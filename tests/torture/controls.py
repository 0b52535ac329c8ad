"""Negative controls: each mechanism that a property rests on is switched off, and the property's check must notice.

A control is a scenario with a check in it. With everything on it passes; with its one mechanism off it must raise
Violation. Mechanisms are switched off here, by replacing them for a while, never by a switch of the engine's own.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unittest.mock import patch

from kazoo.client import KazooClient, TransactionRequest
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.interruptions import at, when_said
from tests.scopes import ME, MY_IDENTITY, Site
from tests.torture.crashpoints import Late, Moment
from tests.torture.crashpoints_client import Died, Fate, MortalClient
from tests.torture.crashpoints_scenarios import (
    LIMITS,
    NEVER,
    NEW,
    OLD,
    STEAL,
    Place,
    Violation,
    apply,
    mortal,
    plan_to,
    resume,
)
from tests.torture.crashpoints_scenarios import roll_back as take_back
from tests.torture.crashpoints_watch import Watcher, judge
from tests.trees import Node, Tree
from zkmig.apply import aclsteps, forward, rollback, verify
from zkmig.apply.aclsteps import AclWrite, Born
from zkmig.apply.batches import BatchWriter
from zkmig.apply.drain import Drain, DrainTimeout
from zkmig.apply.options import Options
from zkmig.apply.rollback import RolledBack
from zkmig.apply.verify import REPLACED, Deviation
from zkmig.dev import Server
from zkmig.epoch import journal as journals
from zkmig.epoch.control import Roles
from zkmig.epoch.journal import AclEntry, Journal
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import Migrator
from zkmig.epoch.transitions import State
from zkmig.errors import ActingRefused, Conflict, OutcomeUnknown, StalePlan, UnknownFormat, ZkmigError
from zkmig.model.acl import OPEN_ACL, WORLD
from zkmig.model.znode import Znode
from zkmig.plan.operations import COUNTER_CHILD
from zkmig.reader import Reader
from zkmig.reader import admission as admissions
from zkmig.reader.overlay import Overlay
from zkmig.reader.part import Part
from zkmig.reader.view import RecordSeen
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.replies import Reply
from zkmig.wire.requests import Check, Create, Multi, SetData, WriteOp

Off = Callable[[], Any]  # makes a context in which a mechanism is off


class Arena:
    """One fresh scope over OLD, with the plan to NEW. checked: how often a check was made so far."""

    def __init__(self, server: Server, eyes: KazooClient, root: str) -> None:
        self.site = Place(server, root, eyes)
        self.checked = 0

    def __enter__(self) -> Arena:
        self.site.__enter__()
        self.site.init(OLD, Roles((MY_IDENTITY,), (WORLD,)))
        self.sealed = plan_to(self.site, NEW)
        return self

    def __exit__(self, *_: object) -> None:
        self.site.__exit__(None, None, None)

    def expect(self, holds: bool, rule: str) -> None:
        """One check."""
        self.checked += 1
        if not holds:
            raise Violation(rule)

    @contextmanager
    def watched(self, reader_class: type[Reader] = Reader) -> Iterator[Watcher]:
        """A reader that has seen the old tree."""
        with reader_class(self.site.kazoo, self.site.names.scope, control=self.site.names.control) as reader:
            watcher = Watcher(reader, self.site, (OLD, NEW))
            watcher.look()
            yield watcher

    def look(self, watcher: Watcher) -> None:
        self.checked += 1
        watcher.look()


@dataclass(frozen=True)
class Control:
    """mechanism: what is switched off. rule: what then must be found broken, by the check inside the scenario.

    tested_in: the usual test that switches the same off already, as module:function.
    """

    mechanism: str
    rule: str
    scenario: Callable[[Arena], object]
    off: Off
    tested_in: str = ""


# -- what readers see -------------------------------------------------------------------------------------------------


def _views_through_an_epoch(arena: Arena) -> None:
    with arena.watched() as watcher, mortal(arena.site) as client:
        client.watch = lambda _: arena.look(watcher)
        apply(arena.site, client, arena.sealed)
        arena.look(watcher)


class _Disturbed(Reader):
    """An epoch is committed between its first read of the record and the tree."""

    disturbance: Callable[[], object] | None = None

    def _read_tree(self, client: Client, part: Part, overlay: Overlay) -> dict[str, Znode]:
        disturbance, self.disturbance = self.disturbance, None
        if disturbance is not None:
            disturbance()
        return super()._read_tree(client, part, overlay)


def _commit_amid_a_view(arena: Arena) -> None:
    with arena.watched(_Disturbed) as watcher, mortal(arena.site) as client:
        reader = watcher.reader
        assert isinstance(reader, _Disturbed)
        reader.disturbance = lambda: apply(arena.site, client, arena.sealed)
        arena.look(watcher)


def _two_attempts_of_one_number(arena: Arena) -> None:
    """The first is taken back; the second has another plan; one reader through both."""
    with arena.watched() as watcher:
        other: Tree = {**OLD, "/other": Node(b""), "/a": Node(b"other")}
        arena.site.leave_open(arena.site.plan(other, limits=LIMITS), 1)
        arena.look(watcher)
        with mortal(arena.site) as client:
            take_back(arena.site, client)
        arena.look(watcher)
        _leave_open(arena, 4)
        arena.look(watcher)


_overlay = Reader._overlay


def _by_number(reader: Reader, client: Client, seen: RecordSeen, part: Part) -> Overlay:
    """Undo kept by the number of the epoch alone."""
    kept: dict[int, Overlay] = reader.__dict__.setdefault("_by_number", {})
    epoch = seen.record.target_epoch
    if seen.record.state is not State.OPEN or epoch is None:
        return _overlay(reader, client, seen, part)
    if epoch not in kept:
        kept[epoch] = _overlay(reader, client, seen, part)
    return kept[epoch]


# -- one writer -------------------------------------------------------------------------------------------------------


def _leave_open(arena: Arena, batches: int) -> None:
    arena.site.leave_open(plan_to(arena.site, NEW), batches)


def _late_batch(arena: Arena) -> None:
    """A batch arrives after another process has taken the scope over."""
    with mortal(arena.site) as first, mortal(arena.site) as second:
        _die_late(arena, first, "_write_batches", 2)
        late = Late(first, Moment.TAKEN)
        second.watch = lambda _: late.at(Moment.TAKEN) if len(second.writes) == 1 else None
        arena.checked += len(first.late)
        resume(arena.site, second, arena.sealed)
        judge(arena.site, NEW)


def _die_late(arena: Arena, client: MortalClient, asker: str, count: int) -> None:
    seen = itertools.count()

    def watch(_: object) -> None:
        if client.askers[-1].endswith(asker) and next(seen) == count:
            client.condemn(len(client.writes), Fate.LATE)

    client.watch = watch
    with suppress(Died):
        apply(arena.site, client, arena.sealed)
    assert client.late


def _unguarded(which: Callable[[Migrator], str]) -> Off:
    """One check of the guard's head replaced by one that always holds; its place is kept."""

    @contextmanager
    def off() -> Iterator[None]:
        head = Migrator.head

        def weakened(self: Migrator) -> tuple[WriteOp, ...]:
            path = which(self)
            return tuple(Check(self.names.registry, -1) if op.path == path else op for op in head(self))

        with patch.object(Migrator, "head", weakened):
            yield

    return off


def _write_after_a_new_beginning(arena: Arena) -> None:
    """The scope is deleted and created again, and taken as often: record and token have the same versions as before."""
    site = arena.site
    with mortal(site) as one, mortal(site) as another:
        first = Migrator.take(one, site.names, STEAL, StopRequest())
        site.forget()
        site.init()
        second = Migrator.take(another, site.names, STEAL, StopRequest())
        assert (second.token, second.record_version) == (first.token, first.record_version)
        stray = f"{site.names.home}/stray"
        with suppress(ZkmigError):
            first.write([Create(stray, b"", OPEN_ACL)])
        arena.expect(not site.kazoo.exists(stray), "a write under a dead incarnation")


class _LosesAnAnswer(Client):
    """The answer to the first of some writes is lost with its connection, once."""

    is_it: Callable[[Any], bool]
    has_lost = False

    def pipeline(self, requests: Any, depth: Any) -> Generator[Reply, None, None]:
        under_way: deque[Any] = deque()

        def noted() -> Iterator[Any]:
            for request in requests:
                under_way.append(request)
                yield request

        for reply in super().pipeline(noted(), depth):
            if not self.has_lost and self.is_it(under_way.popleft()):
                self.has_lost = True
                with self._lock:
                    self._link.lose("a test has cut it")
                raise OutcomeUnknown("a test has cut the connection", "", "send it again")
            yield reply


@contextmanager
def _losing(arena: Arena, path: str) -> Iterator[_LosesAnAnswer]:
    """The answer that is lost: to the first multi with an operation on that path."""
    with _LosesAnAnswer(parse_hosts(arena.site.server.hosts), auth=(ME,)) as client:
        client.is_it = lambda request: isinstance(request, Multi) and any(op.path == path for op in request.operations)
        yield client
    assert client.has_lost


def _batch_without_an_answer(arena: Arena) -> None:
    """The answer to a batch that raises a counter is lost, and it is sent again: counters tell how often it applied."""
    with _losing(arena, arena.site.path(f"/q{COUNTER_CHILD}")) as client, suppress(ZkmigError):
        apply(arena.site, client, arena.sealed)
    counter = arena.site.look()["/q"].counter
    arena.expect(counter == NEW["/q"].counter, f"each batch exactly once: a counter of {counter}")
    judge(arena.site, NEW)


def _undo_without_an_answer(arena: Arena) -> None:
    """The same on the way back: each batch is undone once, and is not met again as somebody else's work."""
    _leave_open(arena, len(arena.sealed.plan.batch_ends))
    record = arena.site.record()
    assert record.attempt is not None
    cursor = arena.site.names.attempt(1, record.attempt).rcursor
    undo = rollback._Undo._undo
    batches = 0

    def counted(self: Any, attempt: Any, asked: Sequence[Any], pacing: Any) -> None:
        nonlocal batches
        batches = len(asked)
        undo(self, attempt, asked, pacing)

    failure, done = "", None
    with _losing(arena, arena.site.path("/g0")) as client, patch.object(rollback._Undo, "_undo", counted):
        try:
            done = take_back(arena.site, client)
        except Conflict as error:
            failure = error.what
    undone = arena.site.kazoo.get(cursor)[1].version
    arena.expect(undone == batches, f"each batch undone exactly once: {undone} of {batches}")
    arena.expect(not failure, f"a rollback that nobody disturbs comes to its end: {failure}")
    assert isinstance(done, RolledBack)
    arena.expect(done.deviations == (), f"nobody else has written: {done.deviations}")
    judge(arena.site, OLD)


def _blind_cursor(batches: type[BatchWriter] = BatchWriter) -> AbstractContextManager[object]:
    """Batches no longer expect the cursor where their forerunner has left it."""
    operations = batches.operations

    def blind(self: BatchWriter, index: int) -> list[WriteOp]:
        cursor, *rest = operations(self, index)
        assert isinstance(cursor, SetData)
        return [SetData(cursor.path, None, -1), *rest]

    return patch.object(batches, "operations", blind)


def _blind_undo_cursor() -> AbstractContextManager[object]:
    head = rollback._Undo._head

    def blind(self: Any, *arguments: Any) -> list[WriteOp]:
        cursor, *rest = head(self, *arguments)
        return [SetData(cursor.path, None, -1), *rest]

    return patch.object(rollback._Undo, "_head", blind)


# -- setACL, which no guard can hold ----------------------------------------------------------------------------------


def _late_tightening(arena: Arena) -> None:
    """A setACL arrives when another process has taken everything back."""
    with mortal(arena.site) as first, mortal(arena.site) as second:
        _die_late(arena, first, "_tighten", 0)
        take_back(arena.site, second)
        arena.checked += len(first.late)
        Late(first, Moment.ENDED).at(Moment.ENDED)
        judge(arena.site, OLD)


def _no_fence() -> AbstractContextManager[object]:
    """A rollback restores only what it finds tightened."""
    restores = rollback._acl_restores

    def unfenced(client: Client, journal: Journal) -> tuple[list[AclWrite], list[Deviation]]:
        writes, foreign = restores(client, journal)
        return [write for write in writes if not write.is_fence], foreign

    return patch.object(rollback, "_acl_restores", unfenced)


ALICE_TOO = [*OPEN_ACL_UNSAFE, make_digest_acl("alice", "wonder", all=True)]


def _foreign_acl(arena: Arena) -> None:
    """Somebody changes an ACL just before it is tightened."""
    site = arena.site
    with mortal(site) as client:

        def meddle(_: object) -> None:
            if client.askers[-1].endswith("_tighten") and not arena.checked:
                arena.checked += 1
                site.kazoo.set_acls(site.path("/a"), ALICE_TOO)

        client.watch = meddle
        with suppress(Conflict):
            apply(site, client, arena.sealed)
    arena.expect(site.kazoo.get_acls(site.path("/a"))[0] == ALICE_TOO, "a foreign ACL stands")


def _unconditional() -> AbstractContextManager[object]:
    def blind(acls: Sequence[AclEntry], born: Mapping[str, Born]) -> list[AclWrite]:
        return [replace(write, aversion=-1) for write in aclsteps.tightenings(acls, born)]

    return patch.object(forward, "tightenings", blind)


# -- nobody else's write is overwritten -------------------------------------------------------------------------------


def _replace(site: Place, relative: str) -> None:
    """Another node of the same version in the place of the old one."""
    path = site.path(relative)
    acl = site.kazoo.get_acls(path)[0]
    site.kazoo.delete(path)
    site.kazoo.create(path, b"foreign", acl)


def _expect_a_report(arena: Arena, options: Options, relative: str) -> None:
    """Apply, with somebody else's write in it: an error that names the path, or their value still there."""
    told = ""
    with mortal(arena.site) as client:
        try:
            apply(arena.site, client, arena.sealed, options)
        except (Conflict, StalePlan) as error:
            told = str(error)
    arena.expect(arena.site.path(relative) in told, f"a foreign write of {relative} is not lost without a report")


def _replaced_before_its_batch(arena: Arena) -> None:
    report = at("write", 1, lambda: _replace(arena.site, "/b"))
    _expect_a_report(arena, replace(NEVER, report=report), "/b")


def _replaced_while_draining(arena: Arena) -> None:
    """A node that the plan deletes."""
    say = when_said("draining", lambda: _replace(arena.site, "/d/one"))
    _expect_a_report(arena, replace(NEVER, say=say), "/d/one")


def _acl_changed_before_the_commit(arena: Arena) -> None:
    say = when_said("verifying", lambda: arena.site.kazoo.set_acls(arena.site.path("/g0"), ALICE_TOO))
    _expect_a_report(arena, replace(NEVER, say=say), "/g0")


def _without_czxids() -> AbstractContextManager[object]:
    """Nodes are known by their versions alone, which repeat."""
    find = verify.find_deviations

    def by_version(*arguments: Any) -> list[Deviation]:
        return [deviation for deviation in find(*arguments) if deviation.reason != REPLACED]

    return patch.object(forward, "find_deviations", by_version)


# -- journals ---------------------------------------------------------------------------------------------------------


def _altered_undo(arena: Arena) -> None:
    """Somebody alters the journal; nothing of that may get into the tree."""
    site = arena.site
    _leave_open(arena, len(arena.sealed.plan.batch_ends))
    record = site.record()
    assert record.attempt is not None
    undo = site.names.attempt(1, record.attempt).undo
    altered = 0
    for name in site.kazoo.get_children(undo):
        data, _ = site.kazoo.get(f"{undo}/{name}")
        if data is not None and b"mine" in data:
            site.kazoo.set(f"{undo}/{name}", data.replace(b"mine", b"MINE"))
            altered += 1
    assert altered
    with mortal(site) as client, suppress(UnknownFormat):
        take_back(site, client)
    arena.expect(site.kazoo.get(site.path("/b"))[0] != b"MINE", "undo that was altered is not put into the tree")


class _Same(str):
    __slots__ = ()
    __hash__ = str.__hash__

    def __ne__(self, _: object) -> bool:
        return False

    def __eq__(self, _: object) -> bool:
        return True


# -- actions ----------------------------------------------------------------------------------------------------------


def _lease_alive(arena: Arena) -> None:
    """An action is under way and stays so: nothing may be written."""
    site = arena.site
    site.kazoo.create(f"{site.names.acting}/one", Lease("scaler", 60_000).encode())
    with mortal(site) as client, suppress(DrainTimeout):
        apply(site, client, arena.sealed, replace(NEVER, drain_timeout_s=0.2))
    arena.expect(site.record().epoch == 0, "no lease is alive at the first write")
    judge(site, OLD)


def _action_on_a_stale_view(arena: Arena) -> None:
    """The epoch is over that the view is of."""
    with arena.watched() as watcher, mortal(arena.site) as client:
        view = watcher.reader.view()
        apply(arena.site, client, arena.sealed)
        is_admitted = False
        with suppress(ActingRefused), watcher.reader.acting(view):
            is_admitted = True
        arena.expect(not is_admitted, "no action on a stale view")


def _no_record_check() -> AbstractContextManager[object]:
    check = TransactionRequest.check

    def blind(self: TransactionRequest, path: str, version: int) -> None:
        if not path.endswith("/epoch"):
            check(self, path, version)

    return patch.object(TransactionRequest, "check", blind)


def _admission_lost_and_late(arena: Arena) -> None:
    """An admission is lost and settled; then the lost transaction arrives, and nobody acts under its lease."""
    site = arena.site
    with arena.watched() as watcher:
        admission = watcher.reader._admission
        node = admissions._LeaseNode(admission._new_path(), None, OPEN_ACL)
        late = site.kazoo.transaction()
        late.check(site.names.record, watcher.reader.view().record_version)
        admission._take_lease(late, node, 20_000)
        admission._doubtful.append(node)
        admission.settle()
        late.commit()
        data = site.kazoo.get(node.path)[0] if site.kazoo.exists(node.path) else None
        lease = Lease.decode(data) if data is not None else None
        arena.expect(lease is None or lease.released, "a lost admission has no effect once it is settled")


# -- the table --------------------------------------------------------------------------------------------------------


def _nothing(*_: Any, **__: Any) -> None:
    return None


CONTROLS = (
    Control(
        "overlay",
        "no torn view",
        _views_through_an_epoch,
        lambda: patch.object(Reader, "_shows_undo", False),
        "test_reader:test_without_the_overlay_such_a_view_is_torn",
    ),
    Control(
        "second read of the record",
        "no torn view",
        _commit_amid_a_view,
        lambda: patch.object(Reader, "_confirms_record", False),
        "test_reader:test_without_the_second_record_read_another_image_would_be_shown",
    ),
    Control(
        "attempt in the key of undo",
        "no torn view",
        _two_attempts_of_one_number,
        lambda: patch.object(Reader, "_overlay", _by_number),
        "test_reader:test_undo_is_known_by_its_attempt_not_by_its_number",
    ),
    Control(
        "owner check",
        "no write under a dead token",
        _late_batch,
        _unguarded(lambda migrator: migrator.names.owner),
    ),
    Control(
        "incarnation check",
        "no write under a dead incarnation",
        _write_after_a_new_beginning,
        _unguarded(lambda migrator: migrator.names.incarnation(migrator.record.incarnation)),
        "test_owner:test_without_the_incarnation_check_a_write_survives_it",
    ),
    Control(
        "cursor",
        "each batch exactly once",
        _batch_without_an_answer,
        _blind_cursor,
        "test_lost_connection:test_without_the_cursors_compare_and_set_a_batch_applies_twice",
    ),
    Control("undo cursor", "each batch undone exactly once", _undo_without_an_answer, _blind_undo_cursor),
    Control(
        "drain",
        "no lease alive at the first write",
        _lease_alive,
        lambda: patch.object(Drain, "wait", _nothing),
        "test_acting:test_no_migration_writes_while_an_action_runs",
    ),
    Control(
        "check of the record in an admission", "no action on a stale view", _action_on_a_stale_view, _no_record_check
    ),
    Control(
        "release of a lost admission's lease",
        "no lease that nobody acts under",
        _admission_lost_and_late,
        lambda: patch.object(admissions.Admission, "_release_node", lambda *_: True),
    ),
    Control(
        "fence of setACL",
        "no setACL of the dead",
        _late_tightening,
        _no_fence,
        "test_owner:test_without_the_touch_of_every_acl_it_lands",
    ),
    Control("aversion of setACL", "no foreign ACL overwritten", _foreign_acl, _unconditional),
    Control("comparison of czxids", "no foreign write lost silently", _replaced_before_its_batch, _without_czxids),
    Control(
        "look at the plan's paths before OPEN",
        "no foreign write lost silently",
        _replaced_while_draining,
        lambda: patch.object(forward, "recheck", _nothing),
    ),
    Control(
        "verification before the commit",
        "no foreign write lost silently",
        _acl_changed_before_the_commit,
        lambda: patch.object(forward, "find_deviations", lambda *_: []),
    ),
    Control(
        "hashes of the journal",
        "undo is what was uploaded",
        _altered_undo,
        lambda: patch.object(journals, "digest", lambda _: _Same()),
    ),
)


class Row(NamedTuple):
    """What a control has come to. after: checks until it was caught; 0 when it was not. found: as the check told it."""

    mechanism: str
    rule: str
    after: int
    found: str

    def __str__(self) -> str:
        caught = f"caught after {self.after}: {self.found}" if self.after else "NOT CAUGHT"
        return f"{self.mechanism} off -> {self.rule}: {caught}"


_numbers = itertools.count(1)


def run_control(control: Control, server: Server, eyes: KazooClient) -> Row:
    """The scenario with everything on, which must pass, and with the mechanism off. Violation if it does not pass."""
    with Arena(server, eyes, f"/control-{next(_numbers)}") as arena:
        control.scenario(arena)
        assert arena.checked
    with Arena(server, eyes, f"/control-{next(_numbers)}") as arena:
        try:
            with control.off():
                control.scenario(arena)
        except Violation as violation:
            return Row(control.mechanism, control.rule, max(arena.checked, 1), str(violation))
        return Row(control.mechanism, control.rule, 0, "")


def run(seed: int, server: Server) -> list[Row]:
    """All controls on one server. seed: there is no chance in them."""
    del seed
    with Site(server, "/") as everywhere:
        return [run_control(control, server, everywhere.kazoo) for control in CONTROLS]
