"""Batches keep to the throttle and to what the probe measures, stop at once, and do without the probe when it is lost.

Method: the pacing on a clock that the test moves; the probe, and whole migrations, on a real server behind a proxy that
cuts connections; what was sent is told by the server's zxids, and what came of it by kazoo.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner
from kazoo.client import KazooClient

from tests.kazoo_eyes import last_zxid
from tests.proxy import Fate, Proxy, cut_at
from tests.scopes import AFTER, BEFORE, ME, Site, assert_is, assert_went_back
from zkmig.apply import pacing, probe
from zkmig.apply.forward import Applied, Options, Progress
from zkmig.apply.others import SLACK, YIELD_S, YIELD_WRITES_PER_S
from zkmig.apply.pacing import Pacing
from zkmig.apply.probe import IDLE_PROBES, LatencyProbe, Measured, OpenProbe, Stamp
from zkmig.apply.tempo import IN_FLIGHT_MIN, Throttle
from zkmig.cli.options import throttle_option
from zkmig.dev import Server
from zkmig.epoch.owner import Migrator, TakeOver
from zkmig.epoch.pace import Steady
from zkmig.epoch.transitions import State
from zkmig.errors import Outcome, Stopped
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import Create, Delete, SetData, WriteOp

FINAL = "the test stops it"


class Clock:
    """Time that passes only in sleep()."""

    def __init__(self) -> None:
        self.now = 500.0
        self.slept: list[float] = []
        self.when_slept: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.when_slept()


def throttled(clock: Clock, writes_per_s: float, stop: StopRequest | None = None) -> Pacing:
    return Pacing(stop or StopRequest(), None, Throttle(writes_per_s, clock), clock, clock.sleep)


# -- on a made-up clock -----------------------------------------------------------------------------------------------


def test_batches_keep_to_the_throttle() -> None:
    """Each goes as soon as those before it have been paid for, and is alone under way until the next may go."""
    clock = Clock()
    one = throttled(clock, 100)
    sent: list[float] = []
    for writes in (50, 10, 200, 1):
        one.wait_for_turn(writes)
        sent.append(clock.now - 500)
        assert one.depth() == 1
        one.answered()
    assert sent == pytest.approx([0, 0.5, 0.6, 2.6])
    screen = CliRunner().invoke(throttle_option(click.Command("apply")), ["--help"]).stdout
    assert "a batch goes out whole, and then its time is waited for" in " ".join(screen.split())


def test_a_stop_ends_the_longest_wait_within_a_slice() -> None:
    """A wait of a day; the stop comes in its third slice, and nothing is slept after it."""
    clock, stop = Clock(), StopRequest()
    one = throttled(clock, 1, stop)
    one.wait_for_turn(86_400)
    clock.when_slept = lambda: stop.request(FINAL, 143) if len(clock.slept) == 3 else None
    one.wait_for_turn(1)
    assert len(clock.slept) == 3
    assert max(clock.slept) <= pacing.SLICE_S


def test_without_probe_and_throttle_there_is_no_waiting() -> None:
    clock = Clock()
    one = Pacing(StopRequest(), None, None, clock, clock.sleep)
    for _ in range(100):
        assert one.depth() == pacing.DEPTH_UNPROBED
        one.wait_for_turn(10_000)
        one.answered()
    assert (clock.slept, one.seen(), one.now()) == ([], None, (None, None))


class MadeUp(LatencyProbe):
    """Stamps as a test has them; nothing is sent. ours: writes of the migration, which are answered at once."""

    def __init__(self) -> None:
        super().__init__(opener("127.0.0.1:1"), "/")
        self.zxid, self.ours = 7 << 32, 0
        self.stamp = self.first = Stamp(self.zxid, 1, 0)
        self.is_away = False

    def idle(self, _stop: StopRequest) -> list[float]:
        return [0.001] * IDLE_PROBES

    def take(self) -> Measured:
        return Measured([], 0.0, self.is_away, None if self.is_away else self.stamp)

    def happen(self, *, ours: int = 0, others: int = 0) -> None:
        """So many transactions, and then a probe."""
        self.ours += ours
        self.zxid += ours + others + 1
        self.stamp = Stamp(self.zxid, self.stamp.probes + 1, self.stamp.losses)

    def come_back(self) -> None:
        """Another session, which counts its probes anew; one of ours went by while there was none."""
        self.happen(ours=1)
        self.losses += 1
        self.stamp = Stamp(self.zxid, 1, self.losses)

    def pacing(self, clock: Clock, stop: StopRequest | None = None) -> Pacing:
        return Pacing(stop or StopRequest(), self, None, clock, clock.sleep, lambda: self.ours)


def test_a_rate_is_kept_to_while_others_write_and_no_longer() -> None:
    """Batch by batch, with beats while it waits; a transaction of our own changes nothing."""
    clock, made_up, beats = Clock(), MadeUp(), []
    one = made_up.pacing(clock)

    def waits_s(writes: int) -> float:
        begun = clock.now
        one.wait_for_turn(writes, lambda: beats.append(clock.now))
        one.answered()
        return clock.now - begun

    for _ in range(50):
        made_up.happen(ours=1)
        assert waits_s(YIELD_WRITES_PER_S) == 0
        assert one.depth() > 1
    made_up.happen(ours=1, others=1)
    assert waits_s(YIELD_WRITES_PER_S // 2) == 0  # the first goes at once
    assert one.depth() == 1
    made_up.happen(ours=1)
    assert waits_s(250) == pytest.approx(0.5)
    assert len(beats) >= 0.5 / pacing.SLICE_S
    clock.now += YIELD_S
    assert one.depth() > 1
    assert [waits_s(YIELD_WRITES_PER_S) for _ in range(3)] == [0, 0, 0]


def test_a_stop_ends_the_wait_for_the_sake_of_others() -> None:
    clock, stop, made_up = Clock(), StopRequest(), MadeUp()
    one = made_up.pacing(clock, stop)
    made_up.happen(others=1)
    one.wait_for_turn(YIELD_WRITES_PER_S * 3_600)
    clock.when_slept = lambda: stop.request(FINAL, 143)
    one.wait_for_turn(1)
    assert clock.slept == [pacing.SLICE_S]


@pytest.mark.parametrize("do_they_write", [True, False])
def test_while_the_probe_is_away_others_are_taken_to_go_on(do_they_write: bool) -> None:
    """The lowest tempo alone can be more than the rate, where servers are fast; who did not write has no rate kept."""
    clock, made_up = Clock(), MadeUp()
    one = made_up.pacing(clock)
    made_up.happen(others=int(do_they_write))
    one.depth()
    made_up.is_away = True
    for _ in range(100):
        one.wait_for_turn(YIELD_WRITES_PER_S // 4)
        one.answered()
    assert clock.now - 500 == pytest.approx(99 / 4 if do_they_write else 0)
    made_up.is_away = False
    made_up.come_back()
    one.depth()
    clock.now += YIELD_S
    for _ in range(3):
        one.wait_for_turn(YIELD_WRITES_PER_S)
    assert clock.now - 500 == pytest.approx(YIELD_S + (99 / 4 if do_they_write else 0))


def test_a_probe_that_comes_back_does_not_take_ours_for_theirs() -> None:
    """Its own count begins anew, and so does that of others; what was counted before stays."""
    clock, made_up = Clock(), MadeUp()
    one = made_up.pacing(clock)
    for _ in range(3):
        for _ in range(50):
            made_up.happen(ours=1)
            assert one.depth() > 1
        made_up.come_back()
    seen = one.seen()
    assert seen is not None
    assert (seen.others, seen.losses) == (0, 3)
    one.depth()
    made_up.happen(others=SLACK + 2)
    one.depth()
    made_up.come_back()
    one.depth()
    seen = one.seen()
    assert seen is not None
    assert seen.others == 2


# -- the probe on a server --------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(zk: Server) -> Iterator[Proxy]:
    with Proxy(zk.port) as one:
        yield one


def opener(hosts: str) -> OpenProbe:
    return lambda stop: Client(
        parse_hosts(hosts), auth=[ME], session_timeout_ms=4_000, connect_timeout_s=1, check_stop=stop.check
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_probe_goes_the_way_of_a_write(zk: Server, eyes: KazooClient) -> None:
    """Each one takes a zxid of its own: it was agreed upon by the quorum, not read from one server's memory."""
    before = last_zxid(eyes)
    with LatencyProbe(opener(zk.hosts), "/") as one:
        idle = one.idle(StopRequest())
        assert len(idle) >= IDLE_PROBES
        assert all(latency > 0 for latency in idle)
        wait_until(lambda: len(one.take().latencies) > 0)
    assert last_zxid(eyes) - before >= IDLE_PROBES


def test_a_lost_probe_says_so_and_comes_back(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "RETRY_S", 0.05)
    with LatencyProbe(opener(proxy.hosts), "/") as one:
        assert one.idle(StopRequest())
        proxy.judge = lambda _, __: Fate.LOST
        wait_until(lambda: one.take().is_lost)
        proxy.judge = lambda _, __: Fate.PASS
        wait_until(lambda: not one.take().is_lost)
        wait_until(lambda: len(one.take().latencies) > 0)
        assert one.losses >= 1


def test_where_nobody_listens_there_is_no_idle_value_and_no_waiting_for_it() -> None:
    with LatencyProbe(opener("127.0.0.1:1"), "/") as one:
        assert one.idle(StopRequest()) == []
        assert one.take().is_lost


def test_a_stop_request_ends_the_wait_for_the_idle_value(zk: Server) -> None:
    stop = StopRequest()
    stop.request(FINAL, 143)
    with LatencyProbe(opener(zk.hosts), "/nowhere") as one:
        assert len(one.idle(stop)) < IDLE_PROBES


# -- migrations -------------------------------------------------------------------------------------------------------


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the small plans of these tests."""
    monkeypatch.setattr(pacing, "PROBED_FROM", 2)


@pytest.mark.usefixtures("probed")
def test_a_migration_tells_what_others_felt(site: Site) -> None:
    site.init(BEFORE)
    seen: list[Progress] = []
    options = Options(single_shot="never", report=seen.append, open_probe=opener(site.server.hosts))
    applied = site.apply(site.plan(AFTER), options=options)
    assert_is(site.look(), AFTER)
    assert applied.tempo is not None
    assert applied.tempo.idle_ms is not None
    assert applied.tempo.losses == 0
    assert IN_FLIGHT_MIN <= applied.tempo.in_flight_min <= applied.tempo.in_flight_max
    assert {step.in_flight for step in seen if step.phase == "write"} != {None}


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize("end", ["apply", "rollback"])
def test_a_migration_goes_on_without_its_probe(site: Site, proxy: Proxy, end: str) -> None:
    """The probe's every write is cut off, from the first or in the middle: the lowest tempo, and the same result."""
    site.init(BEFORE)
    proxy.judge = (
        (lambda _, __: Fate.LOST) if end == "apply" else (lambda _, seen: Fate.LOST if seen > 40 else Fate.PASS)
    )
    sealed, image = site.plan(AFTER), site.look()
    options = Options(single_shot="never", open_probe=opener(proxy.hosts))
    if end == "apply":
        result: object = site.apply(sealed, options=options)
        assert_is(site.look(), AFTER)
        assert isinstance(result, Applied)
        assert result.tempo is not None
        assert result.tempo.in_flight_min == IN_FLIGHT_MIN
        assert result.tempo.probes == 0
    else:
        site.leave_open(sealed, len(sealed.plan.batch_ends) // 2)
        site.rollback(options=options)
        assert_went_back(image, site.look())
    assert site.record().state is State.STABLE


def test_a_throttled_migration_keeps_to_its_rate_and_stops_at_once(site: Site) -> None:
    """One write a second would take minutes: the stop comes after the first batch, and the next has not been sent."""
    site.init(BEFORE)
    sealed, stop = site.plan(AFTER), StopRequest()

    def report(progress: Progress) -> None:
        if progress.phase == "write" and progress.done == 1:
            stop.request(FINAL, 143)

    # Chunks of the journal are writes too: as many may go at once as there are, then the first batch waits for them.
    with pytest.raises(Stopped) as caught:
        site.apply(sealed, options=Options(single_shot="never", report=report, writes_per_s=2), stop=stop)
    assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    record = site.record()
    assert record.state is State.OPEN
    cursor = site.kazoo.exists(site.names.attempt(1, str(record.attempt)).cursor)
    assert cursor is not None
    assert cursor.version == 1
    site.resume(sealed, options=Options(single_shot="never", writes_per_s=100_000))
    assert_is(site.look(), AFTER)


def test_a_stop_while_the_journal_goes_up_leaves_nothing_to_go_on_with(site: Site) -> None:
    """No record names that journal, so resume and rollback would refuse: whoever stopped must not be sent there."""
    site.init(BEFORE)
    sealed, stop = site.plan(AFTER), StopRequest()

    def report(progress: Progress) -> None:
        if progress.phase == "journal":
            stop.request(FINAL, 143)

    with pytest.raises(Stopped) as caught:
        site.apply(sealed, options=Options(single_shot="never", report=report, writes_per_s=2), stop=stop)
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert site.record().state is State.STABLE
    site.apply(sealed)
    assert_is(site.look(), AFTER)


# -- a loss in the middle of a deep pipeline --------------------------------------------------------------------------


class Counted(Steady):
    """Notes the depths that were asked for."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.asked = 0

    def depth(self) -> int:
        self.asked += 1
        return super().depth()


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.TORN, Fate.UNANSWERED])
@pytest.mark.parametrize("number", [3, 5, 9])
def test_a_deep_pipeline_that_is_lost_applies_each_multi_once(
    site: Site, proxy: Proxy, fate: Fate, number: int
) -> None:
    """Eight under way: what became of each is learned from its compare-and-set; afterwards it goes on as deep."""
    site.init(BEFORE)
    total, home = 30, site.names.home
    migrator = Migrator.take(site.client(hosts=proxy.hosts), site.names, TakeOver(), StopRequest())
    migrator.write([Create(f"{home}/counted", None, migrator.control_acl)])
    proxy.judge = cut_at(proxy.writes + number, fate)
    landed: dict[int, int] = {}
    pace = Counted(8)

    def operations(index: int) -> list[WriteOp]:
        # A create and delete of one name: twice would raise the counter twice.
        child = f"{home}/counted/{index}"
        return [SetData(f"{home}/counted", b"", index), Create(child, None, migrator.control_acl), Delete(child, 0)]

    asked: list[int] = []
    failure = migrator.write_series(
        operations,
        0,
        total,
        witness=0,
        pace=pace,
        landed=landed.__setitem__,
        progress=lambda _: asked.append(pace.asked),
    )
    assert failure is None
    assert proxy.cuts == 1
    stat = site.kazoo.exists(f"{home}/counted")
    assert stat is not None
    assert (stat.version, stat.cversion) == (total, 2 * total)
    assert asked[-1] > asked[number + 9]  # not one by one to the end
    zxids = [landed[index] for index in sorted(landed)]
    assert zxids == sorted(set(zxids))
    unknown = set(range(total)) - landed.keys()
    assert len(unknown) <= 8
    assert unknown or fate is not Fate.UNANSWERED
