"""The tempo yields to others and comes back, and the throttle holds its rate: no clock is read, no server asked.

Method: made-up latencies into the controller; a model of a server whose latency follows what is in flight; a clock that
the test moves. The last test is the negative control: a controller that does not listen fails the very same measure.
"""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkmig.apply import tempo
from zkmig.apply.tempo import (
    DEAF_AFTER_DECREASE,
    DECREASE,
    IDLE_MS_MIN,
    IDLE_MS_UNKNOWN,
    IN_FLIGHT_FIRST,
    IN_FLIGHT_MAX,
    IN_FLIGHT_MIN,
    INCREASE,
    INCREASE_PART_MAX,
    LATENCY_RATIO_MAX,
    PAUSE_S_MAX,
    SLOW_MAX,
    WINDOW,
    Tempo,
    Throttle,
)

IDLE_S = 0.002
GOOD_S = IDLE_S
BAD_S = IDLE_S * LATENCY_RATIO_MAX * 1.1

latencies = st.lists(st.floats(0, 60, allow_nan=False), max_size=200)


@given(latencies, latencies)
def test_it_stays_within_its_bounds_whatever_is_measured(idle: list[float], seen: list[float]) -> None:
    one = Tempo(idle)
    for latency in seen:
        one.saw(latency)
        one.waits(latency)
        assert IN_FLIGHT_MIN <= one.in_flight <= IN_FLIGHT_MAX
        assert 1 <= one.depth <= IN_FLIGHT_MAX
        assert 0 <= one.pause_s(latency) <= PAUSE_S_MAX
    told = one.seen()
    assert told.probes == len(seen)
    assert IN_FLIGHT_MIN <= told.in_flight_min <= one.in_flight <= told.in_flight_max <= IN_FLIGHT_MAX


def test_it_rises_by_steps_while_others_are_well() -> None:
    one = Tempo([IDLE_S])
    depths = [one.in_flight]
    while depths[-1] < IN_FLIGHT_MAX:
        for _ in range(WINDOW):
            assert one.in_flight == depths[-1]
            one.saw(GOOD_S)
        depths.append(one.in_flight)
    assert {after - before for before, after in itertools.pairwise(depths)} == {INCREASE}
    for _ in range(2 * WINDOW):
        one.saw(GOOD_S)
    assert one.in_flight == IN_FLIGHT_MAX


def test_a_few_slow_writes_mean_nothing_and_one_more_lowers_it_by_a_factor() -> None:
    one = Tempo([IDLE_S])
    for latency in [BAD_S] * SLOW_MAX + [GOOD_S] * (WINDOW - SLOW_MAX):
        one.saw(latency)
    assert one.in_flight == IN_FLIGHT_FIRST + INCREASE
    for _ in range(SLOW_MAX + 1):
        one.saw(BAD_S)
    assert one.in_flight == (IN_FLIGHT_FIRST + INCREASE) * DECREASE


def test_what_was_under_way_at_a_decrease_does_not_count() -> None:
    one = Tempo([IDLE_S])
    for _ in range(SLOW_MAX + 1 + DEAF_AFTER_DECREASE + SLOW_MAX):
        one.saw(BAD_S)
    assert one.in_flight == IN_FLIGHT_FIRST * DECREASE
    one.saw(BAD_S)
    assert one.in_flight == IN_FLIGHT_FIRST * DECREASE**2
    for _ in range(100):
        one.saw(BAD_S)
    assert one.in_flight == IN_FLIGHT_MIN


def test_a_write_that_is_not_answered_counts_once_its_time_is_over() -> None:
    """A server that answers nobody must not be taken for one that is well."""
    one = Tempo([IDLE_S])
    for _ in range(SLOW_MAX + 1):
        assert one.in_flight == IN_FLIGHT_FIRST
        one.waits(GOOD_S)
        one.waits(BAD_S)
        one.waits(BAD_S)  # the same one, looked at again
        one.saw(BAD_S)  # and its answer
    assert one.in_flight == IN_FLIGHT_FIRST * DECREASE


def test_the_median_of_the_idle_latencies_is_the_measure_but_not_a_tiny_one() -> None:
    assert Tempo([0.003, 0.004, 9.0]).limit_s == pytest.approx(0.004 * LATENCY_RATIO_MAX)
    assert Tempo([0.00001]).limit_s == pytest.approx(IDLE_MS_MIN * LATENCY_RATIO_MAX / 1000)


def test_without_an_idle_value_and_without_a_probe_it_is_the_lowest() -> None:
    one = Tempo([])
    assert one.in_flight == IN_FLIGHT_MIN
    assert one.limit_s == pytest.approx(IDLE_MS_UNKNOWN * LATENCY_RATIO_MAX / 1000)
    other = Tempo([IDLE_S])
    other.lost()
    assert other.in_flight == IN_FLIGHT_MIN
    for _ in range(WINDOW):
        other.saw(GOOD_S)
    assert other.in_flight == IN_FLIGHT_MIN * (1 + INCREASE_PART_MAX)  # it is measured again, so it goes on


@given(st.floats(IN_FLIGHT_MIN, 0.999), st.floats(0.0001, 0.1))
def test_pauses_bring_the_mean_down_to_what_it_should_be(in_flight: float, round_trip_s: float) -> None:
    """One batch for its round trip, then a pause: the share of time with one under way is the mean."""
    one = Tempo([IDLE_S])
    one.in_flight = in_flight
    pause_s = one.pause_s(round_trip_s)
    assert round_trip_s / (round_trip_s + pause_s) == pytest.approx(in_flight)
    one.in_flight = 1.0
    assert one.pause_s(round_trip_s) == 0


# -- against a model of a server --------------------------------------------------------------------------------------


OTHERS_MAX = 5  # times their idle latency: what the 99th percentile of others is to stay below


def share_of_bad(one: Tempo, batch_s: float, probes: int) -> float:
    """The part of others' writes that take too long, where each waits for what is in flight on an average."""
    bad = 0
    for _ in range(probes):
        latency_s = IDLE_S + one.in_flight * batch_s
        bad += latency_s > OTHERS_MAX * IDLE_S
        one.saw(latency_s)
    return bad / probes


@pytest.mark.parametrize("batch_s", [0.0001, 0.001, 0.003, 0.005, 0.01, 0.03])
def test_hardly_any_of_the_others_writes_are_slow_however_slow_the_server(batch_s: float) -> None:
    assert share_of_bad(Tempo([IDLE_S]), batch_s, 5_000) < 0.01


def test_it_comes_back_when_the_server_gets_faster() -> None:
    """Also after many decreases, which have made it wary."""
    one = Tempo([IDLE_S])
    share_of_bad(one, 0.01, 5_000)
    assert one.in_flight < 1
    share_of_bad(one, 0.0001, 5_000)
    assert one.in_flight == IN_FLIGHT_MAX


def test_a_fast_server_is_used() -> None:
    one = Tempo([IDLE_S])
    share_of_bad(one, 0.0001, 1_000)
    assert one.in_flight == IN_FLIGHT_MAX


def test_pauses_that_are_nobodys_fault_do_not_stop_it() -> None:
    """One write in five takes 40 ms, whatever is in flight, on a server that could take all."""
    rng = random.Random(1)
    one = Tempo([IDLE_S])
    found = []
    for _ in range(5_000):
        one.saw(0.04 if rng.random() < 0.2 else GOOD_S)
        found.append(one.in_flight)
    assert statistics.median(found) > IN_FLIGHT_MAX / 2


def test_without_listening_most_would_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the same model and measure, with the decrease switched off."""
    monkeypatch.setattr(tempo, "DECREASE", 1.0)
    assert share_of_bad(Tempo([IDLE_S]), 0.01, 5_000) > 0.5


# -- the throttle -----------------------------------------------------------------------------------------------------


class Clock:
    """Seconds, as far as the test has moved them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@given(st.floats(1, 1e6), st.lists(st.tuples(st.integers(1, 5_000), st.floats(0, 2)), min_size=2, max_size=60))
def test_over_any_stretch_no_more_than_the_rate_and_one_batch(rate: float, batches: list[tuple[int, float]]) -> None:
    """Batches sent as early as the throttle lets them, with delays of their own in between."""
    clock = Clock()
    throttle = Throttle(rate, clock)
    sent: list[tuple[float, int]] = []
    for writes, delay_s in batches:
        clock.now += delay_s
        clock.now += throttle.wait_s()
        throttle.sent(writes)
        sent.append((clock.now, writes))
    for first, last in itertools.combinations(range(len(sent)), 2):
        before_last = sum(writes for _, writes in sent[first:last])
        assert before_last <= rate * (sent[last][0] - sent[first][0]) * (1 + 1e-6) + 1e-3


def test_it_does_not_wait_longer_than_it_must() -> None:
    clock = Clock()
    throttle = Throttle(500, clock)
    assert throttle.wait_s() == 0
    throttle.sent(250)
    assert throttle.wait_s() == pytest.approx(0.5)
    clock.now += 0.2
    assert throttle.wait_s() == pytest.approx(0.3)
    clock.now += 10
    throttle.sent(250)
    assert throttle.wait_s() == pytest.approx(0.5)  # idle time is not saved up
