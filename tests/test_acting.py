"""An action is admitted only on the committed image while no migration is about to write, and every migration waits
for it; what was not admitted for certain is not admitted.

Method: the engine brings scopes on real servers into every state; its own drain is asked whether it would wait; servers
are stopped (SIGSTOP) in the middle of admission and release, so that answers do not come.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from kazoo.exceptions import BadVersionError, NoAuthError

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import ME, MY_IDENTITY, Site, settled
from tests.trees import Node
from zkmig.apply.drain import Drain, DrainTimeout
from zkmig.apply.forward import Options
from zkmig.dev import Server
from zkmig.epoch.control import Roles
from zkmig.epoch.leases import LEASE_MARGIN_MS, LEASE_MAX_MS, Lease
from zkmig.epoch.owner import Migrator, TakeOver
from zkmig.epoch.record import Held
from zkmig.epoch.transitions import State
from zkmig.errors import ActingRefused, BadInput, Forbidden, Unavailable
from zkmig.model.acl import ALL, READ, WORLD, WRITE, Acl, Identity, digest_id
from zkmig.reader import Reader, View
from zkmig.reader import admission as admissions
from zkmig.reader.overlay import NO_OVERLAY
from zkmig.stop import StopRequest
from zkmig.wire.credential import Credential

BOB = Credential("digest", b"bob:builder")
BOBS_IDENTITY = Identity("digest", digest_id("bob", "builder"))
SMALL = settled({"": Node(b""), "/a": Node(b"1"), "/b": Node(b"1"), **{f"/z{i}": Node(bytes(200)) for i in range(9)}})
NEXT = {path: Node(b"2", node.acl, node.counter) for path, node in SMALL.items()}


@contextmanager
def reader_of(site: Site, auth: Credential = ME, name: str = "scaler") -> Iterator[Reader]:
    control = site.names.control
    with Reader(site.server.hosts, site.names.scope, auth=[auth], name=name, control=control) as reader:
        yield reader


@pytest.fixture
def lone_site(zk: Server, tree_root: str) -> Iterator[Site]:
    """A scope with a control plane of its own, which the test may delete."""
    with Site(zk, tree_root, f"{tree_root}-control") as one:
        yield one


def begin_again(site: Site) -> None:
    """Delete the whole control plane and create the scope again over the same tree."""
    site.kazoo.delete(site.names.control, recursive=True)
    site.init()


def leases(site: Site) -> dict[str, Lease | None]:
    """What lies under acting/ now, by path."""
    names = site.kazoo.get_children(site.names.acting)
    return {path: Lease.decode(site.kazoo.get(path)[0]) for path in (f"{site.names.acting}/{name}" for name in names)}


@contextmanager
def migrator_of(site: Site) -> Iterator[Migrator]:
    migrator = Migrator.take(site.client(), site.names, TakeOver(steal=True), StopRequest())
    yield migrator
    migrator.release()


def drain(migrator: Migrator, timeout_s: float) -> None:
    Drain(migrator, timeout_s, lambda _: None).wait()


def refused(reader: Reader, view: View, why: str, **options: object) -> None:
    """Not admitted, for this reason, and no lease is held."""
    with pytest.raises(ActingRefused, match=why), reader.acting(view, **options):  # type: ignore[arg-type] # decisive, as given
        raise AssertionError("admitted")


# -- admitted ---------------------------------------------------------------------------------------------------------


def test_an_admitted_action_is_what_a_drain_waits_for(site: Site) -> None:
    """While it runs; then its lease is released, and the drain takes it away; the next action finds its way."""
    site.init(SMALL)
    with reader_of(site) as reader, migrator_of(site) as migrator:
        view = reader.view()
        for _ in range(3):
            with reader.acting(view, max_seconds=20, decisive=[site.path("/a"), site.path("/b")]) as token:
                assert leases(site) == {token.lease: Lease("scaler", 20_000)}
                assert 19 < token.remaining() <= 20
                assert token.epoch == 0
                token.check()
                with pytest.raises(DrainTimeout, match=token.lease.removeprefix(site.names.home)[1:]):
                    drain(migrator, 0.2)
            assert leases(site) == {token.lease: Lease("scaler", 0, released=True)}
            drain(migrator, 5)
            assert leases(site) == {}


def test_leases_do_not_pile_up_where_nobody_migrates(site: Site) -> None:
    """A reader may not delete them, so it uses them again: as many nodes as actions ran at a time."""
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        for _ in range(20):
            with reader.acting(view), reader.acting(view):
                assert sum(lease is not None and not lease.released for lease in leases(site).values()) == 2
        assert len(leases(site)) == 2


def test_a_lease_that_is_not_released_runs_out(site: Site) -> None:
    """Its holder was killed: a drain waits for its maximum and the margin, not longer."""
    site.init(SMALL)
    with reader_of(site) as reader, migrator_of(site) as migrator, ExitStack() as never_left:
        never_left.enter_context(reader.acting(reader.view(), max_seconds=0.4))
        begun = time.monotonic()
        drain(migrator, 20)
        assert 0.4 + LEASE_MARGIN_MS / 1000 <= time.monotonic() - begun < 10
        assert leases(site) == {}


def test_the_time_of_an_action_is_counted_and_ends(site: Site) -> None:
    """By its own maximum, or with the block."""
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        with reader.acting(view, max_seconds=0.3) as token:
            token.check()
            while token.remaining():
                pass
            with pytest.raises(ActingRefused, match="over"):
                token.check()
        with reader.acting(view) as token:
            pass
        assert token.remaining() == 0.0
        with pytest.raises(ActingRefused, match="over"):
            token.check()


def test_an_error_in_the_block_releases_the_lease_and_passes(site: Site) -> None:
    site.init(SMALL)
    with reader_of(site) as reader:
        with pytest.raises(ZeroDivisionError), reader.acting(reader.view()):
            _ = 1 / 0
        assert [lease and lease.released for lease in leases(site).values()] == [True]


def test_fencing_tokens_grow_over_readers_and_incarnations(lone_site: Site) -> None:
    """Each admission's is higher than all before, so that a resource can turn down whoever comes too late."""
    site = lone_site
    site.init(SMALL)
    tokens = []
    for _ in range(2):
        with reader_of(site) as one, reader_of(site, BOB, "other") as other:
            for reader in (one, other, one, other):
                with reader.acting(reader.view()) as token:
                    tokens.append(token.fencing_token)
        begin_again(site)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 8


def test_no_migration_writes_while_an_action_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits, then gives up with nothing written. Negative control: with the drain switched off it writes."""
    site.init(SMALL)
    impatient = Options(single_shot="never", drain_timeout_s=0.3)
    with reader_of(site) as reader:
        with reader.acting(reader.view()):
            with pytest.raises(DrainTimeout):
                site.apply(site.plan(NEXT), options=impatient)
            assert site.kazoo.get(site.path("/a"))[0] == b"1"
        assert (site.record().state, site.record().epoch) == (State.STABLE, 0)
        with reader.acting(reader.view()):
            monkeypatch.setattr(Drain, "wait", lambda _: None)
            site.apply(site.plan(NEXT), options=impatient)
            assert site.kazoo.get(site.path("/a"))[0] == b"2"


def test_actions_and_migrations_never_overlap(site: Site) -> None:
    """Actors watch a value from admission to the end of their time, while epochs change it: it never moves for them."""
    site.init({"": Node(b""), "/v": Node(b"0")})
    over = threading.Event()
    acted: list[int] = []
    moved: list[tuple[bytes | None, bytes | None]] = []

    def act(reader: Reader) -> None:
        while not over.is_set():
            view = reader.view()
            try:
                with reader.acting(view, max_seconds=10, decisive=[site.path("/v")]):
                    seen = view[site.path("/v")].data
                    for _ in range(10):
                        now, _ = site.kazoo.get(site.path("/v"))
                        if now != seen:
                            moved.append((seen, now))
                acted.append(view.epoch)
            except ActingRefused:
                continue

    with reader_of(site) as one, reader_of(site, BOB) as other:
        threads = [threading.Thread(target=act, args=(reader,)) for reader in (one, other)]
        for thread in threads:
            thread.start()
        try:
            for epoch in range(1, 9):
                tree = {"": Node(b""), "/v": Node(b"%d" % epoch)}
                site.apply(site.plan(tree), epoch, options=Options(single_shot="never" if epoch % 2 else "require"))
                count = len(acted)
                while len(acted) < count + 2:
                    time.sleep(0.005)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert moved == []
    assert len(set(acted)) >= 8


# -- refused ----------------------------------------------------------------------------------------------------------


def prepare(site: Site) -> None:
    with pytest.raises(Interrupted):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", say=when_said("draining", interrupt)))


def open_epoch(site: Site) -> None:
    site.leave_open(site.plan(NEXT), 1)


def roll_back(site: Site) -> None:
    open_epoch(site)
    with pytest.raises(Interrupted):
        site.rollback(options=Options(report=at("undo", 1, interrupt)), how=TakeOver(steal=True))


def hold(site: Site) -> None:
    site.hold(Held("disks are changed", "me", time.time()))


def commit(site: Site) -> None:
    site.apply(site.plan(NEXT))


@pytest.mark.parametrize(
    ("leave", "why"), [(prepare, "PREPARING"), (open_epoch, "OPEN"), (roll_back, "ROLLING_BACK"), (hold, "disks")]
)
def test_refused_outside_stable_and_while_held(site: Site, leave: Callable[[Site], None], why: str) -> None:
    """By a view that knows it, and by one from before, which only the servers know to be stale."""
    site.init(SMALL)
    with reader_of(site) as reader:
        earlier = reader.view()
        leave(site)
        refused(reader, reader.view(), why)
        refused(reader, earlier, "record has moved")
        assert leases(site) == {}


def test_refused_with_a_view_of_an_earlier_epoch(site: Site) -> None:
    """The scope is STABLE and not held; only the image is another."""
    site.init(SMALL)
    with reader_of(site) as reader:
        earlier = reader.view()
        commit(site)
        refused(reader, earlier, "record has moved")
        with reader.acting(reader.view()) as token:
            assert token.epoch == 1


def test_refused_on_an_empty_scope(site: Site) -> None:
    """No view can be had of one; if there were, it could not be acted on."""
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        seen = view.seen._replace(record=view.seen.record.updated(state=State.EMPTY))
        refused(reader, View({}, view.names, seen, NO_OVERLAY, view.zxid), "EMPTY")


def test_refused_with_a_view_of_another_incarnation(lone_site: Site) -> None:
    """The control plane was deleted and created again: same names, same versions, and yet another scope."""
    site = lone_site
    site.init(SMALL)
    with reader_of(site) as reader:
        earlier = reader.view()
        begin_again(site)
        later = reader.view()
        assert later.record_version == earlier.record_version
        refused(reader, earlier, "deleted or created again")
        with reader.acting(later):
            pass


def test_refused_with_a_view_of_another_scope(zk: Server, tree_root: str) -> None:
    with Site(zk, f"{tree_root}-a") as one, Site(zk, f"{tree_root}-b") as other:
        one.init(SMALL)
        other.init(SMALL)
        with reader_of(one) as reader, reader_of(other) as others:
            refused(reader, others.view(), "view is of scope")


def test_refused_when_a_decisive_znode_has_changed(site: Site) -> None:
    """Others may change; a decisive path that is not in the view, or too many, are mistakes of the caller."""
    site.init(SMALL)
    a, b = site.path("/a"), site.path("/b")
    with reader_of(site) as reader:
        view = reader.view()
        site.kazoo.set(b, b"foreign")
        with reader.acting(view, decisive=[a]):
            pass
        refused(reader, view, "decisive", decisive=[a, b])
        site.kazoo.delete(b)
        refused(reader, view, "decisive", decisive=[b])
        with pytest.raises(BadInput, match="not in the view"), reader.acting(view, decisive=[site.path("/absent")]):
            pass
        assert all(lease is not None and lease.released for lease in leases(site).values())


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), LEASE_MAX_MS / 1000 + 1])
def test_a_time_that_no_lease_can_have_is_a_mistake(site: Site, seconds: float) -> None:
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        with pytest.raises(BadInput, match="up to 900 s"), reader.acting(view, max_seconds=seconds):
            pass


def test_who_may_not_take_a_lease_is_forbidden(site: Site) -> None:
    site.init(SMALL, Roles((MY_IDENTITY,), (MY_IDENTITY,)))
    with reader_of(site) as reader, reader_of(site, BOB) as bobs:
        view = reader.view()
        with pytest.raises(Forbidden), bobs.acting(view):
            pass


# -- whose lease ------------------------------------------------------------------------------------------------------


def test_a_lease_is_written_by_its_holder_alone_and_read_by_the_migrator(site: Site) -> None:
    """Its holder is not admin, and is shown the admin's id masked; the admin can read the lease all the same."""
    site.init(SMALL, Roles((MY_IDENTITY,), (BOBS_IDENTITY, WORLD)))
    mine, carols = site.open_kazoo(ME), site.open_kazoo(Credential("digest", b"carol:x"))
    with reader_of(site, BOB) as reader, migrator_of(site) as migrator:
        with reader.acting(reader.view(), max_seconds=20) as token:
            acl = {Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in mine.get_acls(token.lease)[0]}
            assert acl == {Acl(READ | WRITE, "digest", "bob:x"), Acl(READ, *WORLD)}
            for other in (mine, carols):
                with pytest.raises(NoAuthError):
                    other.set(token.lease, b"")
            assert Lease.decode(mine.get(token.lease)[0]) == Lease("scaler", 20_000)
            with pytest.raises(DrainTimeout):
                drain(migrator, 0.2)
        drain(migrator, 5)
    with reader_of(site) as admins, admins.acting(admins.view()) as token:
        acl = {Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in mine.get_acls(token.lease)[0]}
        assert acl == {Acl(ALL, *MY_IDENTITY), Acl(READ, *BOBS_IDENTITY), Acl(READ, *WORLD)}


def test_without_credentials_a_lease_belongs_to_the_address(site: Site) -> None:
    """Nothing else tells the session from others; it is released all the same."""
    site.init(SMALL, Roles((MY_IDENTITY,), (WORLD,)))
    with Reader(site.server.hosts, site.names.scope) as reader:
        with reader.acting(reader.view()) as token:
            acl = {Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in site.kazoo.get_acls(token.lease)[0]}
            assert acl == {Acl(READ | WRITE, "ip", "127.0.0.1"), Acl(READ, *WORLD)}
        assert [lease and lease.released for lease in leases(site).values()] == [True]


# -- answers that do not come -----------------------------------------------------------------------------------------


@pytest.fixture
def fresh_site(fresh_zk: Server) -> Iterator[Site]:
    with Site(fresh_zk, "/app") as one:
        yield one


def await_connected(reader: Reader, is_connected: bool = True) -> None:
    deadline = time.monotonic() + 20
    while reader._kazoo.connected != is_connected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader._kazoo.connected == is_connected


@pytest.mark.parametrize("used_before", [False, True])
def test_an_admission_without_an_answer_is_not_admitted_and_its_lease_goes(fresh_site: Site, used_before: bool) -> None:
    """The server stops before it answers and goes on later: the transaction lands late, the lease is found and released
    before the next action is admitted. The same for a lease node that is used again."""
    site = fresh_site
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        await_connected(reader)
        with reader.acting(view) if used_before else ExitStack():
            pass
        reader._admission._read_record_acl(view)
        site.server.pause()
        with pytest.raises(Unavailable, match="no answer"), reader.acting(view, max_seconds=0.3):
            raise AssertionError("admitted")
        (doubtful,) = (node.path for node in reader._admission._doubtful)
        site.server.unpause()
        with reader.acting(view) as token:
            held = {path for path, lease in leases(site).items() if lease is not None and not lease.released}
            assert held == {token.lease}
        assert doubtful in leases(site)
        assert all(lease is not None and lease.released for lease in leases(site).values())


def test_an_admission_that_never_landed_cannot_land_any_more(site: Site) -> None:
    """Method: the lost transaction is sent again, as it was, after its lease has been settled: it fails there."""
    site.init(SMALL)
    with reader_of(site) as reader, migrator_of(site) as migrator:
        view = reader.view()
        await_connected(reader)
        admission = reader._admission
        for version in (None, 0):
            node = admissions._LeaseNode(admission._new_path(), None, (Acl(ALL, *WORLD),))
            if version is not None:
                site.kazoo.create(node.path, Lease("scaler", 0, released=True).encode())
                node.version = version
            late = site.kazoo.transaction()
            late.check(site.names.record, view.record_version)
            admission._take_lease(late, node, 20_000)
            admission._doubtful.append(node)
            admission.settle()
            assert admission._doubtful == []
            assert any(isinstance(result, Exception) for result in late.commit())
        drain(migrator, 1)


def test_a_release_without_an_answer_is_sent_again(fresh_site: Site) -> None:
    """The block ends while the server stands still: nothing is raised, and the next view releases the lease."""
    site = fresh_site
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        with reader.acting(view, max_seconds=60) as token:
            site.server.pause()
        site.server.unpause()
        reader.view()
        await_connected(reader)
        reader.view()
        lease = leases(site)[token.lease]
        assert lease is not None
        assert lease.released


def test_an_answer_that_comes_too_late_is_no_admission(fresh_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers admit it, but the action's time is over by then: refused, and released."""
    site = fresh_site
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        await_connected(reader)
        reader._admission._read_record_acl(view)
        answer = admissions.Admission._answer

        def patient(self: admissions.Admission, result: object, timeout_s: float) -> object:
            return answer(self, result, timeout_s + 10)  # type: ignore[arg-type] # whatever the request gives

        monkeypatch.setattr(admissions.Admission, "_answer", patient)
        site.server.pause()
        threading.Timer(0.6, site.server.unpause).start()
        refused(reader, view, "longer than the action may", max_seconds=0.3)
        assert all(lease is not None and lease.released for lease in leases(site).values())


def test_without_a_connection_nothing_is_admitted(fresh_site: Site) -> None:
    site = fresh_site
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        await_connected(reader)
        site.server.stop()
        await_connected(reader, False)
        with pytest.raises(Unavailable, match="not connected"), reader.acting(view, max_seconds=0.2):
            raise AssertionError("admitted")


def test_many_decisive_paths_that_fit_no_transaction_are_a_mistake(site: Site) -> None:
    """The frame is computed before anything is sent: a server only drops the connection of a larger one."""
    site.init({"": Node(b""), **{f"/{'n' * 3_000}{number:03}": Node(b"") for number in range(400)}})
    with reader_of(site) as reader:
        view = reader.view()
        with reader.acting(view, decisive=list(view)[:300]):
            pass
        with pytest.raises(BadInput, match="do not fit"), reader.acting(view, decisive=list(view)):
            pass


# -- paused in the midst of it ----------------------------------------------------------------------------------------


@contextmanager
def actor(site: Site, max_seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that was admitted and waits for a line before it acts."""
    arguments = [site.server.hosts, site.names.scope, site.names.control, str(max_seconds), f"{site.root}-effect"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.acting_process", *arguments],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("admitted")
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_reader_that_was_paused_past_its_time_does_not_act(site: Site, is_paused: bool) -> None:
    """A real process, SIGSTOPped inside its action until an epoch was committed over it: its token refuses. One that is
    not paused acts, and the epoch is committed after that."""
    site.init(SMALL)
    effect = f"{site.root}-effect"
    with actor(site, 1.0 if is_paused else 30.0) as process:
        assert process.stdin is not None
        if is_paused:
            os.kill(process.pid, signal.SIGSTOP)
            site.apply(site.plan(NEXT))
            os.kill(process.pid, signal.SIGCONT)
        outcome, _ = process.communicate("\n", timeout=20)
    assert outcome == ("refused\n" if is_paused else "acted\n")
    assert bool(site.kazoo.exists(effect)) != is_paused
    if not is_paused:
        site.apply(site.plan(NEXT))
        assert site.kazoo.get(effect)[1].czxid < site.kazoo.get(site.path("/a"))[1].mzxid


def test_a_slow_clock_has_a_margin_that_grows_with_the_time() -> None:
    """A holder whose clock runs slower than the migrator's by a hundredth still ends before the drain does."""
    for max_ms in (1, 1_000, 60_000, LEASE_MAX_MS):
        holder_ends_ms = max_ms / 0.99  # by the migrator's clock
        assert Lease("x", max_ms).blocks_ms > holder_ends_ms


def test_actions_end_by_a_clock_that_goes_on_in_a_suspended_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_MONOTONIC stands still meanwhile. Method: a token at a time when only the other clock has moved."""
    token = admissions.Token(1, 0, "/lease", admissions.now_s() + 5)
    token.check()
    clock_gettime = time.clock_gettime
    later = {time.CLOCK_BOOTTIME: 60.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + later.get(clock, 0.0))
    with pytest.raises(ActingRefused):
        token.check()


def test_a_release_that_comes_late_does_not_end_a_later_action(site: Site) -> None:
    """A release that was sent, not answered, and sent again; then the lease is used for another action. The first one,
    arriving now, must not say that this is over. Method: it is sent as it was."""
    site.init(SMALL)
    with reader_of(site) as reader:
        view = reader.view()
        admission = reader._admission
        with reader.acting(view) as first:
            version = site.kazoo.get(first.lease)[1].version
        with reader.acting(view) as second:
            assert second.lease == first.lease
            with pytest.raises(BadVersionError):
                site.kazoo.set(first.lease, Lease("scaler", 0, released=True).encode(), version)
            lease = leases(site)[second.lease]
            assert lease is not None
            assert not lease.released
        assert admission._doubtful == []


@pytest.mark.parametrize("landed", [0, 1, 2])
def test_a_lease_is_released_whatever_of_it_has_landed(site: Site, landed: int) -> None:
    """What was sent without an answer, an admission and a release, may both have written the node since."""
    site.init(SMALL)
    with reader_of(site) as reader:
        with reader.acting(reader.view()) as token:
            pass
        admission = reader._admission
        (node,) = admission._free
        for _ in range(landed):
            site.kazoo.set(token.lease, Lease("scaler", 60_000).encode())
        admission._free.clear()
        admission._doubtful.append(node)
        admission.settle()
        assert admission._doubtful == []
        assert leases(site) == {token.lease: Lease("scaler", 0, released=True)}
        with reader.acting(reader.view()):
            pass
