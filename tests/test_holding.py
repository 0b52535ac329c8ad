"""`hold` and `release`: set and cleared beside any state and owner, waited for, lost, interrupted, expired.

Method: the API and the program against a real server; what came of it is read from the record by kazoo, and losses are
made by a proxy of real sockets.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

import zkmig
from tests.program import Program, location
from tests.proxy import WRITES, Fate, Proxy
from tests.scopes import AFTER, ALICE, BEFORE, ME, Site, assert_is
from tests.test_acting import prepare
from tests.test_drain import MINUTE, guard
from tests.test_owner import take
from zkmig.api.holding import default_holder
from zkmig.apply import blocking
from zkmig.cli.durations import as_seconds, as_seconds_or_none_at_all, duration_s
from zkmig.cli.holding import moment
from zkmig.dev import Server
from zkmig.epoch.leases import Lease
from zkmig.epoch.record import Held
from zkmig.errors import BadInput, NotPermitted, NotStable
from zkmig.stop import StopRequest
from zkmig.wire.requests import OP_GET_CHILDREN

AUTH = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}"}
EXPIRED = Held("the disks are changed", "monday's shift", 1_470_927_600.0, 1_470_931_200.0)  # in the past


def where(site: Site) -> str:
    return location(site.server.hosts)


def fields_of(site: Site) -> dict[str, Any]:
    """The record as any program would read it."""
    fields: dict[str, Any] = json.loads(site.kazoo.get(site.names.record)[0] or b"")
    return fields


def held(site: Site) -> Any:
    return fields_of(site)["held"]


def hold(site: Site, hosts: str | None = None, **options: Any) -> zkmig.Holding:
    options = {"reason": "disks", "holder": "ops", **options}
    return zkmig.hold(location(hosts or site.server.hosts), site.names.scope, auth=[ME], **options)


def release(site: Site, hosts: str | None = None, holder: str | None = "ops") -> zkmig.Holding:
    return zkmig.release(location(hosts or site.server.hosts), site.names.scope, auth=[ME], holder=holder)


@pytest.fixture
def proxy(zk: Server) -> Iterator[Proxy]:
    with Proxy(zk.port) as one:
        yield one


# -- set, renewed, replaced, released ---------------------------------------------------------------------------------


def test_a_hold_is_set_renewed_and_released_by_its_holder(site: Site) -> None:
    site.init(BEFORE)
    began = time.time()
    first = hold(site, until=began + 3600)
    assert (first.before, first.changed, first.blocking) == (None, True, ())
    told = held(site)
    assert began <= told.pop("since") <= time.time()
    assert told == {"reason": "disks", "holder": "ops", "deadline": began + 3600}
    renewed = hold(site, reason="and fans", until=began + 7200)
    assert (renewed.before, renewed.changed) == (first.record.held, True)
    assert first.record.held is not None
    assert held(site) == {
        "reason": "and fans",
        "holder": "ops",
        "deadline": began + 7200,
        "since": first.record.held.since,
    }
    version = site.kazoo.get(site.names.record)[1].version
    assert not hold(site, reason="and fans", until=began + 7200).changed
    assert site.kazoo.get(site.names.record)[1].version == version
    assert release(site).before == renewed.record.held
    assert held(site) is None
    assert (release(site).before, release(site).changed) == (None, False)
    assert site.kazoo.get(site.names.record)[1].version == version + 1


def test_a_hold_of_somebody_else_stands(site: Site) -> None:
    """Unless it is named: to release it, or to take its place."""
    site.init(BEFORE)
    hold(site, holder="night shift", reason="move of rack 3")
    acts: list[Callable[[], object]] = [
        lambda: hold(site),
        lambda: hold(site, dry_run=True),
        lambda: release(site),
        lambda: release(site, holder=None),
    ]
    for act in acts:
        with pytest.raises(zkmig.Held, match=r"held by night shift since .*: move of rack 3") as caught:
            act()
        assert (caught.value.exit_code, caught.value.outcome) == (3, zkmig.Outcome.NOTHING_WRITTEN)
    replaced = hold(site, replace=True)
    assert replaced.before is not None
    assert (replaced.before.holder, held(site)["holder"]) == ("night shift", "ops")
    assert release(site).changed
    assert default_holder().count("@") == 1


def test_in_every_state_and_beside_every_owner(site: Site) -> None:
    """Nothing else of the record changes, and the owner's node is not touched."""
    site.init(BEFORE)
    migrator = take(site)
    for state in ("STABLE", "PREPARING", "OPEN"):
        if state == "PREPARING":
            migrator.release()
            prepare(site)
        if state == "OPEN":
            site.rollback()
            site.leave_open(site.plan(AFTER), 2)
        fields, owner = fields_of(site), site.kazoo.get(site.names.owner)[1].mzxid
        assert hold(site).record.state.value == state
        assert {**fields_of(site), "held": None} == fields
        release(site)
        assert fields_of(site) == fields
        assert site.kazoo.get(site.names.owner)[1].mzxid == owner


def test_what_a_later_version_has_put_into_the_record_is_kept(site: Site) -> None:
    site.init(BEFORE)
    fields = fields_of(site)
    fields = {
        **fields,
        "later": [1],
        "last": {**(fields["last"] or {}), "epoch": 0, "attempt": "a", "outcome": "x", "at": 1.0, "new": 2},
    }
    site.kazoo.set(site.names.record, json.dumps(fields).encode())
    hold(site)
    release(site)
    assert fields_of(site) == fields


def test_who_is_no_admin_holds_nothing(site: Site) -> None:
    site.init(BEFORE)
    with pytest.raises(NotPermitted):
        zkmig.hold(where(site), site.names.scope, auth=[ALICE], reason="disks")
    assert held(site) is None


@pytest.mark.parametrize(
    "options", [{"reason": " "}, {"holder": ""}, {"reason": "x" * 2000}, {"reason": "列" * 300}, {"until": 5.0}]
)
def test_what_is_no_hold_is_refused_before_anything_is_written(site: Site, options: dict[str, Any]) -> None:
    site.init(BEFORE)
    with pytest.raises(BadInput):
        hold(site, **options)
    assert held(site) is None


# -- lost answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.TORN, Fate.UNANSWERED])
@pytest.mark.parametrize("meanwhile", ["nothing", "the record moves"])
def test_the_outcome_is_told_though_its_answer_is_lost(site: Site, proxy: Proxy, fate: Fate, meanwhile: str) -> None:
    """Sent again. It was one's own that landed, also where a migrator has moved the record since."""
    site.init(BEFORE)
    migrator = take(site)

    def judge(opcode: int, seen: int) -> Fate:
        if opcode in WRITES and seen == first + 1 and meanwhile != "nothing":
            migrator.transition(migrator.record.updated(conflict=None))
        return fate if opcode in WRITES and seen == first else Fate.PASS

    first = 0
    proxy.judge = judge
    done = hold(site, proxy.hosts)
    assert (done.changed, done.before) == (True, None)
    assert held(site)["holder"] == "ops"
    assert proxy.writes == 2 + (meanwhile != "nothing" and fate is not Fate.UNANSWERED)
    first = proxy.writes
    undone = release(site, proxy.hosts)
    assert (undone.changed, undone.before) == (True, done.record.held)
    assert held(site) is None


def test_a_hold_that_came_first_is_not_taken_for_ones_own(site: Site, proxy: Proxy) -> None:
    """Lost, and before it is sent again somebody else holds: refused, and the outcome said to be unknown."""
    site.init(BEFORE)

    def judge(opcode: int, seen: int) -> Fate:
        if opcode in WRITES and seen == 1:
            hold(site, holder="night shift")
        return Fate.LOST if opcode in WRITES and seen == 0 else Fate.PASS

    proxy.judge = judge
    with pytest.raises(zkmig.Held, match="night shift") as caught:
        hold(site, proxy.hosts)
    assert caught.value.outcome is zkmig.Outcome.UNKNOWN
    assert held(site)["holder"] == "night shift"


def test_a_hold_does_not_come_upon_a_record_made_anew(site: Site, proxy: Proxy) -> None:
    """Between reading and writing the scope is deleted and created again, with a record of the same version."""
    site.init(BEFORE)

    def judge(opcode: int, seen: int) -> Fate:
        if opcode in WRITES and seen == 0:
            site.forget()
            site.init()
        return Fate.PASS

    proxy.judge = judge
    with pytest.raises(zkmig.OtherIncarnation):
        hold(site, proxy.hosts)
    assert held(site) is None


# -- waiting ----------------------------------------------------------------------------------------------------------


def assert_in_place(error: zkmig.ZkmigError) -> None:
    """It says that the hold is in place, and nothing of the steps of a migration, which this is none."""
    assert error.outcome is zkmig.Outcome.HOLD_IN_PLACE
    assert str(error).endswith(" [the hold is in place, and stays until it is released]")
    assert zkmig.Outcome.PARTLY_WRITTEN.value not in str(error)


def test_what_still_acts_is_named_and_waited_for(site: Site) -> None:
    """A lease until it is released, a guard until it has stopped; what came under the hold was admitted by nobody."""
    site.init(BEFORE)
    lease, unit = f"{site.names.acting}/scaler-1", f"{site.names.guards}/host.unit"
    site.kazoo.create(lease, MINUTE.encode())
    site.kazoo.create(unit, guard(stopped=False))
    found = hold(site)
    assert [one.path for one in found.blocking] == [lease, unit]
    site.kazoo.create(f"{site.names.acting}/late", MINUTE.encode())
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if "acting/scaler-1" in sentence:
            site.kazoo.set(lease, Lease("scaler", 60_000, released=True).encode())
        if "guards/host.unit" in sentence:
            site.kazoo.set(unit, guard(stopped=True))

    waited = hold(site, wait=True, say=say)
    assert waited.blocking == ()
    assert [one.split()[0] for one in said] == ["waiting", "waiting"]
    assert held(site)["holder"] == "ops"


def test_past_its_time_the_hold_stays_and_that_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do about a guard that was killed: once it should have ended its command, and in the end."""
    monkeypatch.setattr(blocking, "GUARD_ENDS_S", 0.2)
    site.init(BEFORE)
    site.kazoo.create(f"{site.names.guards}/host.unit", guard(stopped=False))
    said: list[str] = []
    with pytest.raises(zkmig.StillActing, match=r"host\.unit.*start a guard that was killed again") as caught:
        hold(site, wait=True, drain_timeout_s=1.0, say=said.append)
    assert said.count(blocking.KILLED_GUARD) == 1
    assert caught.value.exit_code == 3
    assert_in_place(caught.value)
    assert held(site)["holder"] == "ops"
    assert hold(site, wait=True, evict=["host.unit"]).blocking == ()


def ended_by(site: Site, act: Callable[[], object], stop: StopRequest | None = None) -> zkmig.ZkmigError:
    """What a waiting hold ends with when `act` is done in the midst of it."""
    site.init(BEFORE)
    site.kazoo.create(f"{site.names.guards}/host.unit", guard(stopped=False))
    with pytest.raises(zkmig.ZkmigError) as caught:
        hold(site, wait=True, say=lambda _: act(), stop=stop)
    return caught.value


def test_released_while_it_waits(site: Site) -> None:
    """Then nothing holds the scope, and whoever waits is not told that all is quiet."""
    error = ended_by(site, lambda: release(site))
    assert isinstance(error, zkmig.Refused)
    assert "released by somebody else" in str(error)
    assert "in place" not in str(error)


def test_replaced_while_it_waits(site: Site) -> None:
    error = ended_by(site, lambda: hold(site, holder="night shift", replace=True))
    assert "held by night shift" in str(error)


def test_interrupted_the_hold_stays_and_that_is_said(site: Site) -> None:
    stop = StopRequest()
    error = ended_by(site, lambda: stop.request("interrupted", 130), stop)
    assert error.exit_code == 130
    assert_in_place(error)
    assert held(site)["holder"] == "ops"


def test_cut_off_when_it_was_set_it_says_that_it_is_in_place(site: Site, proxy: Proxy) -> None:
    """Nobody answers any more from then on: the exit code is not that of nothing written."""
    site.init(BEFORE)

    def judge(opcode: int, _: int) -> Fate:
        return Fate.LOST if opcode == OP_GET_CHILDREN and held(site) is not None else Fate.PASS

    proxy.judge = judge
    for wait in (False, True):
        with pytest.raises(zkmig.ZkmigError) as caught:
            hold(site, proxy.hosts, wait=wait)
        assert caught.value.exit_code == 5
        assert_in_place(caught.value)
        assert held(site)["holder"] == "ops"
        release(site)


# -- expired ----------------------------------------------------------------------------------------------------------


def test_an_expired_hold_is_told_everywhere_and_stays_in_force(
    site: Site, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """By whom and since when: status, epoch, apply, remove, readers; it ends by a release alone."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.hold(EXPIRED)
    words = ("monday's shift", "EXPIRED since 2016-08-11", "the disks are changed")
    scope = ("--at", where(site), "--scope", site.names.scope)
    env = {**AUTH, "TZ": "UTC"}
    shown = program("status", *scope, env=env).succeeded().stdout
    assert all(word in shown for word in words)
    assert "zkmig hold --for" in shown
    assert "zkmig release --holder" in shown
    for command in ("status", "epoch"):
        document = program(command, *scope, "--json", env=env).succeeded().document
        assert document["held"]["expired"] is True
    assert all(word in program("epoch", *scope, env=env).succeeded().stderr for word in words)
    program("epoch", *scope, "--require-stable", "--json", env=env)
    line = program("epoch", *scope, "--require-stable", env=env).stderr
    assert all(word in line for word in words)
    with pytest.raises(NotStable, match="EXPIRED"):
        zkmig.committed(where(site), site.names.scope, auth=[ME]).require_stable()
    for act in (
        lambda: site.apply(sealed),
        lambda: zkmig.remove(where(site), site.names.scope, auth=[ME]),
        lambda: hold(site),
    ):
        with pytest.raises(zkmig.Held, match="EXPIRED since") as caught:
            act()
        assert "monday's shift" in str(caught.value)
    with (
        caplog.at_level(logging.WARNING, "zkmig"),
        zkmig.Reader(site.server.hosts, site.names.scope, auth=[ME]) as reader,
    ):
        for _ in range(3):
            view = reader.view(fresh=True)
        with pytest.raises(zkmig.ActingRefused, match="EXPIRED since"), reader.acting(view):
            pass
    assert len([one for one in caplog.records if "EXPIRED" in one.getMessage()]) == 1
    assert zkmig.release(where(site), site.names.scope, auth=[ME], holder="monday's shift").changed
    site.apply(sealed)
    assert_is(site.look(), AFTER)


def test_a_hold_in_time_or_without_end_is_not_told_as_expired() -> None:
    assert not Held("disks", "ops", 1.0).is_expired()
    assert not Held("disks", "ops", 1.0, 100.0).is_expired(99.0)
    assert Held("disks", "ops", 1.0, 100.0).is_expired(101.0)
    assert "until" not in Held("disks", "ops", 1.0).told()
    assert "until" in Held("disks", "ops", 1.0, 100.0).told(99.0)
    assert Held("disks", "ops", 1e300, -1e300).told()  # whatever others have written


def test_a_hold_that_is_none_makes_it_no_record(site: Site) -> None:
    """Fail closed: what cannot be told is not taken for released."""
    site.init(BEFORE)
    fields = fields_of(site)
    wrongs: list[Any] = [
        {"reason": "r", "holder": "h", "since": "now"},
        {"reason": 1, "holder": "h", "since": 1},
        [],
        "yes",
    ]
    for wrong in wrongs:
        site.kazoo.set(site.names.record, json.dumps({**fields, "held": wrong}).encode())
        with pytest.raises(zkmig.UnknownFormat):
            site.record()


# -- the program ------------------------------------------------------------------------------------------------------


def test_the_program_holds_and_releases(site: Site, program: Program) -> None:
    site.init(BEFORE)
    scope = ("--at", where(site), "--scope", site.names.scope)
    dry = program("hold", *scope, "--reason", "disks", "--for", "2h", "--dry-run", "--json", env=AUTH).succeeded()
    assert dry.document["outcome"] == "dry run"
    assert held(site) is None
    shown = program("hold", *scope, "--reason", "disks", "--for", "2h", "--wait", env=AUTH).succeeded().stdout
    assert "nothing acts" in shown
    assert held(site)["holder"] == default_holder()
    assert held(site)["deadline"] - time.time() == pytest.approx(7200, abs=60)
    document = program("hold", *scope, "--reason", "fans", "--json", env=AUTH).succeeded().document
    assert (document["outcome"], document["changed"]) == ("renewed", True)
    assert document["held"]["deadline"] == held(site)["deadline"]  # which a renewal without a time keeps
    assert held(site)["deadline"] - time.time() == pytest.approx(7200, abs=60)
    program("hold", *scope, "--reason", "x", "--holder", "other", env=AUTH).failed(3, default_holder(), "fans", "since")
    assert program("release", *scope, "--dry-run", "--json", env=AUTH).succeeded().document["outcome"] == "dry run"
    assert held(site) is not None
    program("release", *scope, "--holder", "other", env=AUTH).failed(3, default_holder(), "--holder")
    assert program("release", *scope, "--json", env=AUTH).succeeded().document["outcome"] == "released"
    assert "is not held" in program("release", *scope, env=AUTH).succeeded().stdout
    program("hold", *scope, "--reason", "x", "--for", "soon", env=AUTH).failed(2, "--for")
    for reason in ("f\udcfcr Platten", "two\nlines"):  # bytes that are no UTF-8, as a Latin-1 terminal sends them
        program("hold", *scope, "--reason", reason, env=AUTH).failed(2, "--reason")
    program("hold", *scope, "--reason", "x", "--for", "9" * 400, env=AUTH).failed(2, "--for")
    program("hold", *scope, "--reason", "x", "--for", "2h", "--until", "17:00", env=AUTH).failed(2, "--until")


def test_a_signal_ends_the_waiting_and_not_the_hold(site: Site, program: Program) -> None:
    site.init(BEFORE)
    site.kazoo.create(f"{site.names.guards}/host.unit", guard(stopped=False))
    is_there = threading.Event()
    site.kazoo.exists(site.names.record, watch=lambda _: is_there.set())
    process = program.start(
        "hold", "--at", where(site), "--scope", site.names.scope, "--reason", "disks", "--wait", env=AUTH
    )
    try:
        assert is_there.wait(30)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "[the hold is in place, and stays until it is released]" in stderr
    assert "earlier steps" not in stderr
    assert held(site)["holder"] == default_holder()


ARABIC_THREE = "\N{ARABIC-INDIC DIGIT THREE}"
NO_DURATIONS = ("", " ", "h", "-2", "-2h", "2h1d", "soon", "nan", "inf", "1_0", "1e3", "5.", "+5", "9" * 21)


def test_durations() -> None:
    """Zero is one, however it is written; digits are ASCII's, and a number is no Python."""
    told = ("90m", "2h", "1d12h", "45s", "1H30M", "90", "0.5", ".25", " 5 ", "0", "0s", "0m", "0h0m")
    assert [duration_s(text) for text in told] == [5400, 7200, 129_600, 45, 5400, 90, 0.5, 0.25, 5, 0, 0, 0, 0]
    for text in (*NO_DURATIONS, ARABIC_THREE, f"{ARABIC_THREE}m"):
        assert duration_s(text) is None, text


@pytest.mark.parametrize("text", ["0", "0s", "0m"])
def test_none_at_all_is_a_grace_and_no_length_of_a_hold(text: str) -> None:
    """`guard --grace 0s` kills at once; `hold --for 0s` and `watch --for 0s` would mean nothing."""
    command = click.Command("zkmig")
    context, option = click.Context(command), click.Option(["--for"])
    assert as_seconds_or_none_at_all(context, option, text) == 0
    with pytest.raises(click.BadParameter, match="no time at all"):
        as_seconds(context, option, text)
    for convert in (as_seconds, as_seconds_or_none_at_all):
        for other in ("1_0", "1e3", ARABIC_THREE):
            with pytest.raises(click.BadParameter, match="is not a duration"):
                convert(context, option, other)


def test_times() -> None:
    now = time.mktime((2016, 8, 11, 15, 0, 0, 0, 0, -1))
    assert moment("17:30", now) == now + 2.5 * 3600
    assert moment("2016-08-11 15:10", now) == now + 600
    assert moment("2016-08-11T15:10:00+00:00", now) == 1_470_928_200
    assert time.localtime(moment("14:00", now)).tm_mday == 12
    for text in ("", "25:00", "noon", "2016-13-01"):
        with pytest.raises(BadInput):
            moment(text, now)
