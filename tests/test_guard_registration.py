"""The registration of a guard lands under a certified record or not at all, also where answers are lost, and what was
acknowledged stays so.

Method: the registration's thread against a real server, through a proxy that loses, keeps back or delays its requests;
the node looked at by plain kazoo. Each control leaves out what the test is about and must be noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, Queue
from typing import TypeVar

import pytest
from kazoo.client import KazooClient, TransactionRequest

from tests.proxy import WRITES, Fate, Proxy, cut_at
from tests.scopes import ALICE, BEFORE, ME, MY_IDENTITY, Site
from zkmig.epoch import record as records
from zkmig.epoch.control import Roles
from zkmig.epoch.leases import Down, GuardEntry
from zkmig.epoch.record import Held
from zkmig.epoch.transitions import State
from zkmig.guard.events import (
    Acknowledge,
    Acknowledged,
    Doubtful,
    EntrySeen,
    Event,
    Holder,
    NoRecord,
    NotAcknowledged,
    NotRegistered,
    Register,
    Registered,
    Seen,
    Silent,
)
from zkmig.guard.lookout import Lookout
from zkmig.guard.registration import Me, Registration
from zkmig.model.acl import Identity
from zkmig.reader.budget import Budget

TIMEOUT_S = 20.0
Kind = TypeVar("Kind")


class Bench:
    """One registration, its events, and its node as others see it."""

    def __init__(
        self,
        site: Site,
        hosts: str,
        *,
        make: type[Registration] = Registration,
        who: tuple[Identity, ...] = (),
        auth: tuple[tuple[str, str], ...] = (),
        instance: str = "me",
        timeout_s: float = 10.0,
        poll_s: float = 60.0,
        budgets: Sequence[Budget] = (),
    ) -> None:
        self.site = site
        self.events: Queue[Event] = Queue()
        self.judged: list[GuardEntry] = []
        retry = {"max_tries": -1, "delay": 0.05, "max_delay": 0.2}
        client = KazooClient(hosts, timeout=timeout_s, auth_data=auth, connection_retry=retry)
        self.registration = make(
            client,
            site.names,
            Me("unit", instance, {"host": "here"}),
            lambda: "",
            self._judge,
            lambda: who,
            self.events.put,
            poll_s=poll_s,
            answer_timeout_s=1.0,
            budgets=budgets,
        )
        self.path = self.registration.path

    def _judge(self, entry: GuardEntry) -> tuple[Holder, str]:
        self.judged.append(entry)
        return Holder.ANOTHER, "somebody"

    def wait(self, kind: type[Kind], such: Callable[[Kind], bool] = lambda _: True) -> Kind:
        """The next event of this kind; others are passed over."""
        while True:
            event = self.next_event()
            if isinstance(event, kind) and such(event):
                return event

    def next_event(self) -> Event:
        try:
            return self.events.get(timeout=TIMEOUT_S)
        except Empty:
            raise AssertionError("nothing comes any more") from None

    def answered(self, order: Register | Acknowledge) -> Event:
        """What came of the order."""
        self.registration.carry_out(order)
        while True:
            event = self.next_event()
            if isinstance(event, Registered | NotRegistered | Doubtful | Acknowledged | NotAcknowledged):
                return event

    def entry(self) -> GuardEntry | None:
        if not self.site.kazoo.exists(self.path):
            return None
        return GuardEntry.decode(self.site.kazoo.get(self.path)[0])

    def says(self) -> str:
        entry = self.entry()
        return "nothing" if entry is None else "stopped" if entry.stopped else "running"


Make = Callable[..., Bench]
STOPPED = Acknowledge("test", None, None)


@pytest.fixture
def bench(site: Site) -> Iterator[Make]:
    benches: list[Bench] = []

    def make(hosts: str | None = None, **options: object) -> Bench:
        one = Bench(site, hosts or site.server.hosts, **options)  # type: ignore[arg-type]
        benches.append(one)
        one.registration.start()
        return one

    yield make
    for one in benches:
        one.registration.close()


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    with Proxy(site.server.port) as one:
        yield one


def hold(site: Site) -> None:
    """As an operator does, without more ado."""
    record, stat = site.record(), site.kazoo.get(site.names.record)[1]
    site.kazoo.set(site.names.record, records.encode(record.updated(held=Held("r", "h", 1.0))), stat.version)


def test_it_registers_and_acknowledges(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    one = bench()
    assert one.wait(EntrySeen) == EntrySeen(Holder.NOBODY)
    seen = one.wait(Seen)
    assert (seen.state, seen.admits) == (State.STABLE, True)
    assert one.answered(Register(seen, 0, "runs")) == Registered()
    entry = one.entry()
    assert entry is not None
    assert (entry.unit, entry.stopped, entry.epoch, entry.instance) == ("unit", False, 0, "me")
    assert one.wait(EntrySeen).holder is Holder.OURS  # it looks once more, and watches what it has written
    down = Down(1, "told to", 5.0)
    assert one.answered(Acknowledge("held", 0, down)) == Acknowledged()
    entry = one.entry()
    assert entry is not None
    assert (entry.stopped, entry.why, entry.epoch, entry.down) == (True, "held", 0, down)
    assert one.answered(Register(seen, 0, "runs")) == Registered()


class Blind(Registration):
    """Registers whatever has become of the record."""

    def _check(self, transaction: TransactionRequest, under: Seen) -> None:
        transaction.check(self._names.incarnation(under.incarnation), -1)


def refused_under_a_record_that_has_moved(site: Site, one: Bench) -> None:
    seen = one.wait(Seen)
    hold(site)
    answer = one.answered(Register(seen, 0, "runs"))
    assert one.says() == "nothing", "registered although the scope is held"
    assert answer == NotRegistered("the record has moved")


def test_it_is_not_registered_under_a_record_that_has_moved(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    refused_under_a_record_that_has_moved(site, bench())


def test_without_the_check_of_the_record_it_would_be(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    with pytest.raises(AssertionError, match="although the scope is held"):
        refused_under_a_record_that_has_moved(site, bench(make=Blind))


def test_a_change_of_the_record_is_told_at_once(site: Site, bench: Make) -> None:
    """By a watch: the next look of its own accord is a minute off."""
    site.init(BEFORE)
    one = bench()
    one.wait(Seen)
    hold(site)
    assert not one.wait(Seen).admits


def test_a_watch_that_is_lost_costs_no_more_than_time(site: Site, bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site.init(BEFORE)
    monkeypatch.setattr(Lookout, "_on_watch", lambda _self, _event: None)
    one = bench(poll_s=0.2)
    one.wait(Seen)
    hold(site)
    assert not one.wait(Seen, lambda seen: not seen.admits).admits


@pytest.mark.parametrize("fate", [Fate.UNANSWERED, Fate.LOST, Fate.TORN])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_registration_without_an_answer_ends_as_stopped(
    site: Site, bench: Make, proxy: Proxy, fate: Fate, is_there: bool
) -> None:
    site.init(BEFORE)
    one = bench(proxy.hosts)
    seen = one.wait(Seen)
    if is_there:
        assert one.answered(STOPPED) == Acknowledged()
    proxy.judge = cut_at(proxy.writes, fate)
    assert one.answered(Register(seen, 0, "runs")) == Doubtful()
    if fate is Fate.UNANSWERED:
        assert one.says() == "running"
    assert one.answered(STOPPED) == Acknowledged()
    assert one.says() == "stopped"
    assert one.answered(Register(seen, 0, "runs")) == Registered()


def land_late(bench: Make, proxy: Proxy, *, acknowledge: bool) -> str:
    """What the node says once a registration has arrived that was on its way for long, in a session that still lives.

    The guard has a new session by then, which is a client of the same name here."""
    one = bench(proxy.hosts, timeout_s=20.0)
    seen = one.wait(Seen)
    again = bench()
    again.wait(Seen)
    proxy.judge = cut_at(proxy.writes, Fate.HELD)
    assert one.answered(Register(seen, 0, "runs")) == Doubtful()
    if acknowledge:
        assert again.answered(STOPPED) == Acknowledged()
    proxy.release()
    deadline = time.monotonic() + TIMEOUT_S
    while proxy.delivered == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.delivered == 1
    one.wait(EntrySeen, lambda event: event.holder is not Holder.NOBODY)  # asked behind it on the same connection
    return one.says()


def test_a_registration_that_lands_late_does_not_say_running(site: Site, bench: Make, proxy: Proxy) -> None:
    site.init(BEFORE)
    assert land_late(bench, proxy, acknowledge=True) == "stopped"


def test_were_it_not_written_over_it_would(site: Site, bench: Make, proxy: Proxy) -> None:
    site.init(BEFORE)
    assert land_late(bench, proxy, acknowledge=False) == "running"


@pytest.mark.parametrize("fate", [Fate.UNANSWERED, Fate.LOST])
def test_an_acknowledgement_is_sent_until_it_is_answered(site: Site, bench: Make, proxy: Proxy, fate: Fate) -> None:
    site.init(BEFORE)
    one = bench(proxy.hosts)
    assert one.answered(Register(one.wait(Seen), 0, "runs")) == Registered()
    proxy.judge = lambda opcode, _: fate if opcode in WRITES and not proxy.cuts else Fate.PASS
    assert one.answered(STOPPED) == Acknowledged()
    assert proxy.cuts == 1
    assert one.says() == "stopped"


def say_stopped_too_late(site: Site, bench: Make, proxy: Proxy, cut: Callable[[Bench], None]) -> None:
    """A guard wants to say "stopped" while it is cut off, and by the time that it can, its node was deleted by hand and
    another guard has registered: all versions are the same again."""
    one = bench(proxy.hosts, instance="one")
    assert one.answered(Register(one.wait(Seen), 0, "runs")) == Registered()
    one.wait(EntrySeen, lambda e: e.holder is Holder.OURS)
    cut(one)
    site.kazoo.delete(one.path)
    other = bench(instance="other")
    assert other.answered(Register(other.wait(Seen), 0, "runs")) == Registered()
    proxy.heal()
    proxy.release()
    answer = one.wait(object, lambda event: isinstance(event, Acknowledged | NotAcknowledged))
    entry = other.entry()
    assert entry is not None
    assert (entry.instance, entry.stopped) == ("other", False), "another guard's registration was written over"
    assert isinstance(answer, NotAcknowledged)


def ordered_while_cut_off(proxy: Proxy) -> Callable[[Bench], None]:
    def cut(one: Bench) -> None:
        proxy.partition()
        proxy.cut_all()
        one.wait(Silent)
        one.registration.carry_out(STOPPED)

    return cut


def trusting(monkeypatch: pytest.MonkeyPatch, cut: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """Goes by what it knew before it was cut off."""

    def cut_trusting(one: Bench) -> None:
        first = one.registration._lookout
        known = first.entry, first.version, first.czxid
        real = Lookout.load_before_write

        def load(self: Lookout) -> None:
            if self is not first:
                real(self)
                return
            self.read_on = self.connection
            self.entry, self.version, self.czxid = known

        monkeypatch.setattr(Lookout, "load_before_write", load)
        cut(one)

    return cut_trusting


def test_stopped_is_not_written_over_another_guards_registration(site: Site, bench: Make, proxy: Proxy) -> None:
    site.init(BEFORE)
    say_stopped_too_late(site, bench, proxy, ordered_while_cut_off(proxy))


def test_without_reading_anew_it_would_be(
    site: Site, bench: Make, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.init(BEFORE)
    with pytest.raises(AssertionError, match="written over"):
        say_stopped_too_late(site, bench, proxy, trusting(monkeypatch, ordered_while_cut_off(proxy)))


def queued_while_cut_off(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Callable[[Bench], None]:
    """The connection goes after the node was read and before the write was given to kazoo, which keeps it."""
    real = Lookout.load_before_write

    def load(self: Lookout) -> None:
        real(self)
        if proxy.cuts == 0:
            proxy.cuts = 1
            proxy.partition()
            proxy.cut_all()
            deadline = time.monotonic() + TIMEOUT_S
            while self._client.connected and time.monotonic() < deadline:
                time.sleep(0.01)

    def cut(one: Bench) -> None:
        monkeypatch.setattr(Lookout, "load_before_write", load)
        one.registration.carry_out(STOPPED)
        one.wait(Silent)

    return cut


def test_what_is_sent_on_the_next_connection_fails(
    site: Site, bench: Make, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.init(BEFORE)
    say_stopped_too_late(site, bench, proxy, queued_while_cut_off(proxy, monkeypatch))


def test_were_it_not_bound_it_would_land(
    site: Site, bench: Make, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.init(BEFORE)
    monkeypatch.setattr("zkmig.guard.bound.NO_VERSION", 0)
    with pytest.raises(AssertionError, match="written over"):
        say_stopped_too_late(site, bench, proxy, queued_while_cut_off(proxy, monkeypatch))


def test_an_outage_is_told_and_its_end(site: Site, bench: Make, proxy: Proxy) -> None:
    site.init(BEFORE)
    one = bench(proxy.hosts, timeout_s=4.0)
    one.wait(Seen)
    proxy.partition()
    proxy.cut_all()
    one.wait(Silent)
    hold(site)
    proxy.heal()
    assert not one.wait(Seen).admits


def test_an_evicted_registration_is_missed_at_once(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    one = bench()
    assert one.answered(Register(one.wait(Seen), 0, "runs")) == Registered()
    one.wait(EntrySeen, lambda e: e.holder is Holder.OURS)
    site.kazoo.delete(one.path)
    assert one.wait(EntrySeen, lambda e: e.holder is not Holder.OURS).holder is Holder.NOBODY
    assert one.answered(STOPPED) == Acknowledged()
    assert one.says() == "stopped"  # which holds up nobody


def test_a_registration_of_another_is_judged_and_left_alone(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    other = bench(instance="other")
    assert other.answered(Register(other.wait(Seen), 0, "runs")) == Registered()
    one = bench()
    assert one.wait(EntrySeen) == EntrySeen(Holder.ANOTHER, 0, None, "somebody", "other")
    assert [entry.instance for entry in one.judged] == ["other"]
    seen = one.wait(Seen)
    assert isinstance(one.answered(STOPPED), NotAcknowledged)
    assert isinstance(one.answered(Register(seen, 0, "runs")), NotRegistered)
    # Where it is taken over after all, the other finds out, and writes over it no more.
    assert one.answered(Acknowledge("taken over", 0, None, "other")) == Acknowledged()
    assert one.answered(Register(seen, 0, "runs")) == Registered()
    assert isinstance(other.answered(STOPPED), NotAcknowledged)
    assert one.says() == "running"
    entry = one.entry()
    assert entry is not None
    assert entry.instance == "me"


@pytest.mark.parametrize("data", [b'{"format": 99}', b'{"format": 1, "unit": "u", "stopped": false}'])
def test_a_registration_that_does_not_say_whose_it_is_can_be_taken_over_too(
    site: Site, bench: Make, data: bytes
) -> None:
    """As long as it is that very write: the name of its instance cannot tell."""
    site.init(BEFORE)
    path = f"{site.names.guards}/unit"
    site.kazoo.create(path, data)
    one = bench(poll_s=0.2)
    found = one.wait(EntrySeen)
    assert found.holder is Holder.ANOTHER
    site.kazoo.set(path, data)
    assert isinstance(one.answered(Acknowledge("taken over", 0, None, found.instance)), NotAcknowledged)
    found = one.wait(EntrySeen, lambda event: event.instance != found.instance)
    assert one.answered(Acknowledge("taken over", 0, None, found.instance)) == Acknowledged()
    assert one.says() == "stopped"


def test_a_scope_that_is_not_there_and_one_made_anew(site: Site, bench: Make) -> None:
    one = bench(poll_s=0.2)
    assert "there is no scope" in one.wait(NoRecord).why
    site.init(BEFORE)
    seen = one.wait(Seen)
    assert one.answered(Register(seen, 0, "runs")) == Registered()
    site.forget()
    one.wait(NoRecord)
    site.init()
    again = one.wait(Seen)
    assert again.incarnation != seen.incarnation
    assert one.answered(Register(seen, 0, "runs")) == NotRegistered("the scope was deleted or created again")
    assert one.says() == "nothing"


def test_rights_that_are_missing_are_named(site: Site, bench: Make) -> None:
    site.init(BEFORE, Roles((MY_IDENTITY,), (MY_IDENTITY,)))
    one = bench()
    assert "not permitted to read" in one.wait(NoRecord).why


def test_a_registration_of_another_identity_is_named(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    alices = Identity("digest", "alice:x")
    auth = ((ALICE.scheme, ALICE.secret.decode()),)
    hers = bench(auth=auth, who=(alices,), instance="other")
    assert hers.answered(STOPPED) == Acknowledged()
    one = bench()
    answer = one.answered(Register(one.wait(Seen), 0, "runs"))
    assert isinstance(answer, NotRegistered)
    assert answer.is_forbidden
    assert "made by another identity" in answer.why


def test_without_credentials_it_is_not_bound_to_an_address(site: Site, bench: Make) -> None:
    """A host with two, or with another tomorrow, could not say "stopped"."""
    site.init(BEFORE)
    one = bench(who=(Identity("ip", "192.0.2.7"),))
    assert one.answered(Register(one.wait(Seen), 0, "runs")) == Registered()
    assert one.answered(STOPPED) == Acknowledged()


def test_only_its_holder_and_admins_write_it(site: Site, bench: Make) -> None:
    site.init(BEFORE)
    one = bench(auth=((ME.scheme, ME.secret.decode()),), who=(MY_IDENTITY,))
    assert one.answered(Register(one.wait(Seen), 0, "runs")) == Registered()
    acl, _ = site.kazoo.get_acls(one.path)
    assert {entry.id.scheme: entry.perms for entry in acl}["digest"] & 2
    assert all(entry.perms == 1 for entry in acl if entry.id.scheme == "world")
