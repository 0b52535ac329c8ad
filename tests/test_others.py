"""Whether others write is told from zxids: ours are never taken for theirs, and theirs never go unseen for long.

Method: a made-up ensemble that gives out zxids to our pipelines, our probe and to others in any order that can happen,
against a plain count of who wrote what; then a real server, with and without another writer. Negative controls: a count
that forgets what is under way, or what the probe itself sends, fails the same measure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kazoo.client import KazooClient

from tests.scopes import AFTER, BEFORE, ME, Site, assert_is
from zkmig.apply import pacing
from zkmig.apply.forward import Options
from zkmig.apply.others import SLACK, YIELD_S, YIELD_WRITES_PER_S, Others
from zkmig.apply.tempo import TempoSeen, Throttle
from zkmig.cli.applying import _say_tempo as say_tempo
from zkmig.cli.run import Run
from zkmig.dev import Ensemble, Server
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client

# "send": a batch of ours leaves; "order": the oldest of ours under way gets its zxid; "probe": sent, ordered, answered;
# "other": somebody else's transaction.
events = st.lists(st.sampled_from(["send", "order", "probe", "other"]), max_size=200)


class Zxids:
    """Gives zxids. sees: told (zxid, ours) with each probe's answer."""

    def __init__(self, sees: Callable[[int, int], None]) -> None:
        self.zxid = 7 << 32
        self.sent = self.under_way = self.probes = self.others = 0
        self._sees = sees

    def happens(self, event: str) -> None:
        if event == "send":
            self.sent += 1
            self.under_way += 1
        elif event == "other" or (event == "order" and self.under_way):
            self.zxid += 1
            self.others += event == "other"
            self.under_way -= event == "order"
        elif event == "probe":
            self.zxid += 1
            self.probes += 1
            self._sees(self.zxid, self.sent + self.probes)


@given(events)
def test_never_more_than_there_were_and_all_of_them_once_nothing_is_under_way(happening: list[str]) -> None:
    others = Others()
    given_out = Zxids(lambda zxid, ours: others.saw(zxid, ours, 0.0))
    others.begin(given_out.zxid, 0)
    for event in happening:
        given_out.happens(event)
        assert others.transactions <= given_out.others
    for event in ["order"] * given_out.under_way + ["probe"]:
        given_out.happens(event)
    assert others.transactions == given_out.others


@pytest.mark.parametrize("forgets", ["what is under way", "its probes"])
def test_control_a_forgetful_count_takes_ours_for_theirs(forgets: str) -> None:
    others = Others()

    def sees(zxid: int, ours: int) -> None:
        others.saw(zxid, ours - (given_out.sent if forgets == "what is under way" else given_out.probes), 0.0)

    given_out = Zxids(sees)
    others.begin(given_out.zxid, 0)
    for event in ["probe", "send", "order", "probe"] * 3:
        given_out.happens(event)
    assert given_out.others == 0
    assert others.transactions > 0


@given(events, events)
def test_after_a_loss_ours_are_not_taken_for_theirs(before: list[str], after: list[str]) -> None:
    """Whatever was under way at the loss, or at the first answer, as long as a pipeline is no deeper than SLACK."""
    others = Others()
    given_out = Zxids(lambda zxid, ours: others.saw(zxid, ours, 0.0))
    for event in before:
        if event != "send" or given_out.under_way < SLACK:
            given_out.happens(event)
    assert others.transactions <= given_out.others
    others.lost()
    given_out.probes = 0  # another session counts anew
    for event in after:
        given_out.happens(event)
        assert others.transactions <= given_out.others


def test_it_is_over_a_while_after_the_last() -> None:
    others = Others()
    others.begin(100, 1)
    assert not others.write(10.0)
    others.saw(102, 2, 11.0)
    assert others.write(11.0)
    others.saw(103, 3, 11.0 + YIELD_S / 2)
    assert others.write(10.9 + YIELD_S)
    assert not others.write(11.1 + YIELD_S)
    assert others.transactions == 1


def test_they_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    for others, told in ((0, []), (1, ["at least 1 transaction"]), (2, ["at least 2 transactions"])):
        say_tempo(Run(False, None), TempoSeen(2.0, 2.0, 1.0, 1.0, 1.0, 99, others=others))
        assert [line.partition(", ")[2] for line in capsys.readouterr().err.splitlines()[1:]] == told


def test_where_nothing_is_told_somebody_may_write() -> None:
    """A probe that never connects; one that is lost in quiet times is another matter."""
    unheard, quiet = Others(), Others()
    unheard.unseen(10.0)
    assert unheard.write(10.0)
    quiet.begin(100, 1)
    quiet.unseen(10.0)
    assert not quiet.write(10.0)


# -- on a server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet() -> Iterator[Server]:
    """A server that nobody else has to do with."""
    with Server() as server:
        yield server


@pytest.fixture
def site(quiet: Server, tree_root: str) -> Iterator[Site]:
    with Site(quiet, tree_root) as site:
        yield site


@pytest.fixture
def among_three(ensemble: Ensemble, tree_root: str) -> Iterator[Site]:
    """By way of a follower."""
    with Site(ensemble.followers()[0], tree_root) as site:
        yield site


class KeptTo(Throttle):
    """Notes what was sent at which rate."""

    noted: ClassVar[list[tuple[float, int]]] = []

    def sent(self, writes: int) -> None:
        super().sent(writes)
        self.noted.append((self._writes_per_s, writes))


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """(writes a second, writes) of each batch that was made to keep to a rate; also in small plans."""
    monkeypatch.setattr(pacing, "PROBED_FROM", 2)
    monkeypatch.setattr(pacing, "Throttle", KeptTo)
    monkeypatch.setattr(KeptTo, "noted", [])
    return KeptTo.noted


@contextmanager
def somebody_writes(client: KazooClient) -> Iterator[None]:
    """Another client changes a node as often as it gets an answer; it has begun."""
    begun, over = threading.Event(), threading.Event()
    client.ensure_path("/somebody")

    def go_on() -> None:
        while not over.is_set():
            client.set("/somebody", b"was here")
            begun.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert begun.wait(30)
        yield
    finally:
        over.set()
        thread.join()


def apply(site: Site, throttle: float | None = None, probed: Server | None = None) -> TempoSeen:
    """probed: the member that the probe is connected to, another than the migrator's."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    options = Options(
        single_shot="never",
        writes_per_s=throttle,
        open_probe=lambda stop: Client(
            parse_hosts((probed or site.server).hosts), auth=[ME], session_timeout_ms=4_000, check_stop=stop.check
        ),
    )
    applied = site.apply(sealed, options=options)
    assert_is(site.look(), AFTER)
    assert applied.tempo is not None
    return applied.tempo


def test_alone_it_keeps_to_no_rate(site: Site, noted: list[tuple[float, int]]) -> None:
    """The migration's own sessions, beats, probes and transitions are not taken for somebody else's."""
    assert apply(site).others == 0
    assert noted == []


def test_alone_it_keeps_to_no_rate_with_the_probe_on_another_member(
    among_three: Site, ensemble: Ensemble, noted: list[tuple[float, int]]
) -> None:
    """Members that lag behind each other tell older zxids, never such as nobody has taken."""
    elsewhere = ensemble.followers()[1]
    assert apply(among_three, probed=elsewhere).others == 0
    assert noted == []


def test_while_others_write_it_keeps_to_a_rate(site: Site, noted: list[tuple[float, int]]) -> None:
    with somebody_writes(site.kazoo):
        assert apply(site).others > 0
    assert {rate for rate, _ in noted} == {YIELD_WRITES_PER_S}
    assert len(noted) > 10  # from the first batch on, since the count begins with the idle value


def test_the_operators_throttle_is_taken_at_its_word(site: Site, noted: list[tuple[float, int]]) -> None:
    """Also where it is higher than what others would need."""
    with somebody_writes(site.kazoo):
        assert apply(site, throttle=1_000_000).others > 0
    assert {rate for rate, _ in noted} == {1_000_000}


def test_control_without_the_count_others_are_not_spared(
    site: Site, noted: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Others, "write", lambda _, __: False)
    with somebody_writes(site.kazoo):
        assert apply(site).others > 0
    assert noted == []
