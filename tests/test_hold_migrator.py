"""A hold that comes or goes beside a working migrator changes nothing of what it does: it is adopted, and kept.

Method: a proxy of real sockets has a second session set or release a hold just before a chosen write of the migrator
reaches the server, at each write in turn, also where the write before has landed and its answer is lost; then kazoo
looks at tree, counters, cursor and record. Adoption switched off, and adoption of more than a hold, must be caught.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from kazoo.client import KazooClient

import zkmig
from tests.interruptions import at
from tests.proxy import WRITES, Fate, Judge, Proxy
from tests.scopes import AFTER, BEFORE, ME, SMALL_BATCHES, Site, assert_went_back
from tests.test_history import NEXT
from tests.test_lost_connection import LIMITS, NUMBERS, applied_exactly_once, one_of_two
from tests.test_owner import STEAL, take, unguarded
from tests.trees import Node, Tree
from zkmig.apply.forward import Options
from zkmig.dev import Server
from zkmig.epoch import owner as owners
from zkmig.epoch import record as records
from zkmig.epoch.owner import Migrator
from zkmig.epoch.pace import Steady
from zkmig.epoch.record import Held
from zkmig.epoch.series import Series
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, NotOwner, OtherIncarnation
from zkmig.errors import Held as HeldError
from zkmig.model.acl import OPEN_ACL
from zkmig.wire.requests import Create, Multi, SetData, WriteOp

HOLD = Held("the disks are changed", "monday's shift", 1.5)
FATES = (None, Fate.LOST, Fate.UNANSWERED)


def with_fates(*cases: tuple[int, ...]) -> list[ParameterSet]:
    """Each case with one fate of the write before, in turns; with the others in nightly runs."""
    return [
        pytest.param(*case, fate, marks=[] if at == number % len(FATES) else [pytest.mark.nightly])
        for number, case in enumerate(cases)
        for at, fate in enumerate(FATES)
    ]


@pytest.fixture
def proxy(zk: Server) -> Iterator[Proxy]:
    with Proxy(zk.port) as one:
        yield one


@pytest.fixture(scope="module")
def swinging(zk: Server, eyes: KazooClient) -> Iterator[Site]:
    """A tree that each test migrates to the other of two."""
    with Site(zk, "/held-while-swinging", eyes=eyes) as site:
        site.init(one_of_two(False, 10))
        yield site


def held_at(site: Site, number: int, *, released_at: int | None = None, fate: Fate | None = None) -> Judge:
    """The hold comes before write `number`, and goes before another. fate: of the write before the hold."""

    def judge(opcode: int, seen: int) -> Fate:
        if opcode not in WRITES:
            return Fate.PASS
        if seen == number:
            site.hold(HOLD)
        if seen == released_at:
            site.hold(None)
        return fate if fate is not None and seen == number - 1 else Fate.PASS

    return judge


def swing(site: Site, proxy: Proxy) -> None:
    """There and exactly once, with what is expected of the hold left to the caller."""
    record = site.record()
    tree = one_of_two(record.epoch % 2 == 0, 30 + 20 * record.epoch)
    sealed = site.plan(tree, limits=LIMITS)
    site.apply(sealed, record.epoch + 1, client=site.client(hosts=proxy.hosts), how=STEAL)
    applied_exactly_once(site, sealed, tree)


# -- at every write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "fate"), with_fates(*((number,) for number in NUMBERS[2:])))
def test_held_at_any_write_of_an_apply(swinging: Site, proxy: Proxy, number: int, fate: Fate | None) -> None:
    """From the first after the token on; also where the answer to the write before is lost: it is sent again."""
    proxy.judge = held_at(swinging, number, fate=fate)
    swing(swinging, proxy)
    assert swinging.record().held == (HOLD if number < proxy.writes else None)
    swinging.hold(None)


@pytest.mark.parametrize(
    ("number", "later", "fate"),
    with_fates(*((number, later) for later in (0, 1, 3) for number in (2, 5, 6, 7, 12, 17))),
)
def test_held_and_released_again(swinging: Site, proxy: Proxy, number: int, later: int, fate: Fate | None) -> None:
    """At once, when only the version tells of it, or some writes later."""
    proxy.judge = held_at(swinging, number, released_at=number + later, fate=fate)
    swing(swinging, proxy)
    assert swinging.record().held is None


@pytest.mark.parametrize("fate", FATES)
def test_one_hold_after_the_other(swinging: Site, proxy: Proxy, fate: Fate | None) -> None:
    """At every third write one comes or goes, and the write before is lost."""
    turns = itertools.cycle([HOLD, None])

    def judge(opcode: int, seen: int) -> Fate:
        if opcode not in WRITES or seen == 0:
            return Fate.PASS
        if seen % 3 == 0:
            swinging.hold(next(turns))
        return fate if fate is not None and seen % 3 == 2 else Fate.PASS

    proxy.judge = judge
    swing(swinging, proxy)
    swinging.hold(None)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_held_during_a_single_shot(site: Site, proxy: Proxy, number: int, fate: Fate | None) -> None:
    """The multi that moves the record: landed unanswered, it is known as one's own under the hold that came after."""
    site.init({"": Node(b""), "/changed": Node(b"1"), "/gone": Node(b"1")})
    after: Tree = {"": Node(b""), "/changed": Node(b"2"), "/new": Node(b"2")}
    proxy.judge = held_at(site, number, fate=fate)
    options = Options(single_shot="require")
    result = site.apply(site.plan(after), client=site.client(hosts=proxy.hosts), options=options)
    assert (result.epoch, result.single_shot) == (1, True)
    assert {path: seen.data for path, seen in site.look().items()} == {path: node.data for path, node in after.items()}
    assert site.kazoo.get(site.path("/changed"))[1].version == 1
    assert (site.record().held, site.record().state) == (HOLD if number < proxy.writes else None, State.STABLE)


@pytest.fixture(scope="module")
def returning(zk: Server, eyes: KazooClient) -> Iterator[Site]:
    """A tree that each test takes back to what it was."""
    with Site(zk, "/held-while-returning", eyes=eyes) as site:
        site.init(BEFORE)
        yield site


@pytest.mark.parametrize(("number", "fate"), with_fates(*((number,) for number in range(1, 22, 2))))
def test_held_at_any_write_of_a_rollback(returning: Site, proxy: Proxy, number: int, fate: Fate | None) -> None:
    site = returning
    before = site.look()
    site.leave_open(site.plan(AFTER), 9)
    proxy.judge = held_at(site, number, fate=fate)
    result = site.rollback(client=site.client(hosts=proxy.hosts), how=STEAL)
    assert result.deviations == ()
    assert_went_back(before, site.look())
    assert (site.record().held, site.record().state) == (HOLD if number < proxy.writes else None, State.STABLE)
    site.hold(None)


@pytest.mark.parametrize(("number", "fate"), with_fates(*((number,) for number in range(2, 24, 3))))
def test_held_at_any_write_of_a_revert_and_a_prune(
    site: Site, proxy: Proxy, number: int, fate: Fate | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(NEXT))
    proxy.judge = held_at(site, number, fate=fate)
    where = f"zk://{proxy.hosts}"
    plan = zkmig.plan_revert(where, 1, site.names.scope, limits=SMALL_BATCHES, auth=[ME])
    zkmig.revert(where, 1, site.names.scope, plan=plan, single_shot="never", auth=[ME])
    assert_went_back(before, site.look())
    assert (site.record().held, site.record().epoch) == (HOLD if number < proxy.writes else None, 2)
    site.hold(None)
    first = proxy.writes
    proxy.judge = held_at(site, first + number // 3 + 1, fate=fate)
    zkmig.prune(where, site.names.scope, keep=0, auth=[ME], steal=True)
    assert site.record().held == (HOLD if first + number // 3 + 1 < proxy.writes else None)
    assert all(not attempt.children for attempt in zkmig.history(where, site.names.scope, auth=[ME]))


def test_removing_a_scope_stops_at_a_hold(site: Site, proxy: Proxy) -> None:
    """Whoever was told that it is held does not find it gone, at whichever write the hold came."""
    site.init(BEFORE)
    site.apply(site.plan(AFTER))
    where = f"zk://{proxy.hosts}"
    for number in itertools.count(1):
        first = proxy.writes
        proxy.judge = held_at(site, first + number)
        try:
            zkmig.remove(where, site.names.scope, auth=[ME], steal=True)
        except HeldError:
            assert site.record().held == HOLD
            site.hold(None)
            continue
        break
    assert number > 3
    assert site.kazoo.exists(site.names.home) is None


# -- beats ------------------------------------------------------------------------------------------------------------


def test_beats_adopt_too(swinging: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat whenever there may be one, so that holds come before beats, with batches of the old head under way."""
    monkeypatch.setattr(owners, "BEAT_PART", 0)
    turns = itertools.cycle([HOLD, None])

    def judge(opcode: int, seen: int) -> Fate:
        if opcode not in WRITES or seen == 0:
            return Fate.PASS
        if seen % 5 == 0:
            swinging.hold(next(turns))
        return Fate.PASS

    proxy.judge = judge
    swing(swinging, proxy)
    swinging.hold(None)


def adopted_by_a_beat(site: Site, migrator: Migrator, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A series of creates: under way are some of an old head when a beat adopts. The number of each as it was made."""
    monkeypatch.setattr(owners, "BEAT_PART", 0)
    stray = f"{site.names.home}/stray"
    migrator.client.between = None  # beats only when told

    def operations(index: int) -> list[WriteOp]:
        if index == 3 and site.record().held is None:
            site.hold(HOLD)
        if index == 6:
            migrator.beat()
        return [Create(f"{stray}-{index}", b"", OPEN_ACL)]

    assert migrator.write_series(operations, 0, 12, witness=0, pace=Steady(12)) is None
    made = {index: site.kazoo.get(f"{stray}-{index}")[1] for index in range(12)}
    return sorted(made, key=lambda index: made[index].czxid)


def test_what_follows_a_beat_does_not_overtake_what_is_under_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.init(BEFORE)
    assert adopted_by_a_beat(site, take(site), monkeypatch) == list(range(12))


def test_without_that_it_would(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the one sent under the new head lands before its turn, and fails when its turn has come."""

    def heedless(self: Series) -> Iterator[Multi]:
        while self._sent < self.total and self._failure is None and self._moved is None:
            operations = self.operations_of(self._sent)
            self._sent += 1
            yield self.migrator.guarded(operations)

    monkeypatch.setattr(Series, "_requests", heedless)
    site.init(BEFORE)
    with pytest.raises(AssertionError):
        adopted_by_a_beat(site, take(site), monkeypatch)


def test_a_migrator_that_only_reads_goes_on_beating_under_a_hold(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would look stuck, and be taken over."""
    monkeypatch.setattr(owners, "BEAT_PART", 0)
    site.init(BEFORE)
    migrator = take(site)
    site.hold(HOLD)
    lock = site.names.lock(migrator.token)
    beats = site.kazoo.get(lock)[1].version
    migrator.beat()
    assert site.kazoo.get(lock)[1].version == beats + 1
    assert migrator.record.held == HOLD


# -- what is not adopted ----------------------------------------------------------------------------------------------


def test_with_adoption_off_a_hold_ends_the_apply(site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of all above."""
    monkeypatch.setattr(Migrator, "_adopt", lambda _self, _found: False)
    site.init(BEFORE)
    proxy.judge = held_at(site, 12)
    with pytest.raises(NotOwner):
        site.apply(site.plan(AFTER), client=site.client(hosts=proxy.hosts))


def stop_by_hand(site: Site) -> None:
    """Somebody writes the record as it was before the epoch: a backup, say, or an older tool."""
    record = site.record()
    changes = {"state": State.STABLE, "target_epoch": None, "attempt": None, "held": HOLD}
    site.kazoo.set(site.names.record, records.encode(record.updated(**changes)))


def writes_after(site: Site, change: Callable[[Site], None]) -> int:
    """Batches that a migrator applies after the record has become another; it has to end as NotOwner."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    at_change: list[tuple[str, int]] = []

    def act() -> None:
        record = site.record()
        cursor = site.names.attempt(1, str(record.attempt)).cursor
        change(site)
        at_change.append((cursor, site.kazoo.get(cursor)[1].version))

    with suppress(NotOwner):
        site.apply(sealed, options=Options("never", report=at("write", 3, act)))
    (cursor, before), *_ = at_change
    return site.kazoo.get(cursor)[1].version - before


def test_a_record_that_differs_in_more_than_the_hold_ends_it(site: Site) -> None:
    assert writes_after(site, stop_by_hand) == 0


def test_if_any_change_were_adopted_it_would_write_into_a_scope_at_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(owners, "is_same_but_for_hold", lambda _one, _other: True)
    with pytest.raises(AssertionError):
        assert writes_after(site, stop_by_hand) == 0


def rob_and_hold(site: Site) -> None:
    """Another takes the scope, and it is held besides: the record is the robbed one's own but for the hold."""
    take(site, STEAL)
    site.hold(HOLD)


def test_a_hold_does_not_give_back_what_another_has_taken(site: Site) -> None:
    assert writes_after(site, rob_and_hold) == 0


def test_without_the_owners_check_it_would(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: adoption alone does not see that the scope was taken."""
    unguarded(monkeypatch, lambda names, _: names.owner)
    with pytest.raises(AssertionError):
        assert writes_after(site, rob_and_hold) == 0


def test_nothing_is_adopted_of_another_attempt(site: Site) -> None:
    """The next one has rolled the epoch back and begun it anew, and it is held: that is another record."""

    def change(site: Site) -> None:
        site.rollback(how=STEAL)
        site.leave_open(site.plan(AFTER), 2)
        site.hold(HOLD)

    assert writes_after(site, change) == 0
    assert site.record().held == HOLD


def test_nothing_is_adopted_of_another_incarnation(site: Site) -> None:
    """The scope was made anew, taken as often, and is held: record and token have the very versions expected."""
    site.init(BEFORE)
    first = take(site)
    site.forget()
    site.init()
    second = take(site)
    site.hold(HOLD)
    assert second.token == first.token
    with pytest.raises(OtherIncarnation):
        first.write([Create(f"{site.names.home}/stray", b"", OPEN_ACL)])
    second.write([])
    assert second.record.held == HOLD


# -- transitions ------------------------------------------------------------------------------------------------------


def test_a_transition_takes_no_hold_off_and_sets_none(site: Site) -> None:
    """What the caller has made of the record before the hold came says nothing of it."""
    site.init(BEFORE)
    migrator = take(site)
    made = migrator.record.updated(conflict=None, last=None)
    site.hold(HOLD)
    migrator.transition(made)
    assert site.record().held == HOLD
    held = migrator.record
    site.hold(None)
    migrator.transition(held)
    assert site.record().held is None


def test_an_outcome_is_told_of_a_record_that_others_have_moved_on(site: Site, proxy: Proxy) -> None:
    """Sent and unanswered, and not there: it has not landed, and is sent again. By another hand: not one's own."""
    site.init(BEFORE)
    client = site.client(hosts=proxy.hosts)
    migrator = Migrator.take(client, site.names, STEAL, zkmig.StopRequest())
    moved = migrator.record.moved(
        "prepare", State.PREPARING, target_epoch=1, attempt="0badcafe", plan_hash="p", manifest_hash="m"
    )

    def other(opcode: int, seen: int) -> Fate:
        if opcode in WRITES and seen == first:
            return Fate.LOST
        if opcode in WRITES and seen == first + 1:
            stop = site.record().updated(epoch=7, held=HOLD)
            site.kazoo.set(site.names.record, records.encode(stop))
        return Fate.PASS

    first = proxy.writes
    proxy.judge = other
    with pytest.raises(NotOwner) as caught:
        migrator.transition(moved)
    assert caught.value.outcome is zkmig.Outcome.UNKNOWN
    assert site.record().epoch == 7


def test_a_write_without_a_witness_is_told_as_it_went(site: Site, proxy: Proxy) -> None:
    """Landed unanswered, then held: the second sending fails as it would have without the hold."""
    site.init(BEFORE)
    client = site.client(hosts=proxy.hosts)
    migrator = Migrator.take(client, site.names, STEAL, zkmig.StopRequest())
    proxy.judge = held_at(site, proxy.writes + 1, fate=Fate.UNANSWERED)
    stray = f"{site.names.home}/stray"
    result = migrator.write([Create(stray, b"", OPEN_ACL)])
    assert result.failed_index is not None
    assert site.kazoo.exists(stray)
    proxy.judge = held_at(site, proxy.writes + 1, released_at=proxy.writes + 1, fate=Fate.UNANSWERED)
    migrator.write_all([SetData(stray, b"1", 0)], "write it", witness=0)
    assert site.kazoo.get(stray)[1].version == 1
    proxy.judge = held_at(site, proxy.writes + 1, fate=Fate.LOST)
    with pytest.raises(Conflict):
        migrator.write_all([SetData(stray, b"1", 0)], "write it")


def test_holds_do_not_prolong_what_is_lost_again_and_again(site: Site) -> None:
    """A holder that writes all the time keeps a migrator from its write, not for ever from its end."""
    site.init(BEFORE)
    migrator = take(site)
    began = time.monotonic()
    turns = itertools.cycle([HOLD, None])
    client = migrator.client
    assert hasattr(client, "before")
    client.before = lambda request: site.hold(next(turns)) if isinstance(request, Multi) else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owners, "ADOPTIONS_MAX", 20)
        with pytest.raises(NotOwner):
            migrator.write([])
    assert time.monotonic() - began < 30
