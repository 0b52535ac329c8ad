"""An owner at work looks alive, whatever it is doing; one that is stopped, stuck or dead is taken over from within its
session's time-out; and one that was taken over notices at its next beat.

Method: real processes, stopped by SIGSTOP, stuck in the midst of their work with their session alive, or killed; and
migrators that drain for longer than their session lasts. Negative control: without beats, one at work is robbed.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.draining_process import migrator_draining
from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.migrator_process import migrator_at
from tests.scopes import AFTER, ALICE, BEFORE, ME, Site, assert_is
from tests.test_drain import MINUTE
from tests.trees import Node
from zkmig.api import migrate
from zkmig.apply import forward
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.epoch import owner as owners
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import Migrator, TakeOver, read_owner
from zkmig.epoch.transitions import State
from zkmig.errors import NotOwner, Outcome, Refused, Stopped, ZkmigError
from zkmig.plan import planfile
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import GetData, Read, Write

SESSION_MS = 1_000
WAIT = TakeOver(wait=True)
STEAL = TakeOver(steal=True)


@contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[list[ZkmigError | None]]:
    """The work besides; what came of it is in the list once the block has ended."""
    ended: list[ZkmigError | None] = []

    def run() -> None:
        try:
            work()
            ended.append(None)
        except ZkmigError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield ended
    thread.join()


def drain_for_long(site: Site, while_draining: Callable[[], object]) -> list[ZkmigError | None]:
    """A migrator with a short session drains for three times as long as that lasts; what came of it."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    lease = site.names.acting + "/one"
    site.kazoo.create(lease, MINUTE.encode())
    drains = threading.Event()
    options = Options("never", drain_timeout_s=60, say=when_said("waiting for", drains.set))
    client = site.client(session_timeout_ms=SESSION_MS)
    assert client.session_timeout_ms < 3_000
    with in_a_thread(lambda: site.apply(sealed, client=client, options=options)) as ended:
        assert drains.wait(20)
        while_draining()
        site.kazoo.set(lease, Lease("x", 1, released=True).encode())
    return ended


def wait_for(site: Site, seconds: float) -> Callable[[], None]:
    """Another migrator that waits for the scope, but not for longer than that."""

    def wait() -> None:
        said: list[str] = []
        with pytest.raises(Stopped):
            Migrator.take(site.client(), site.names, WAIT, StopRequest(seconds), said.append)
        assert any("waiting for the migrator" in sentence for sentence in said)

    return wait


@contextmanager
def at_work_until(
    site: Site, sealed: SealedPlan, goes_on: threading.Event, afterwards: Callable[[], object] = lambda: None
) -> Iterator[list[ZkmigError | None]]:
    """A migrator that has begun epoch 1 and does nothing before `goes_on`; what came of it and of `afterwards`."""
    drains = threading.Event()

    def pause(sentence: str) -> None:
        if sentence == "draining":
            drains.set()
            goes_on.wait(20)

    def work() -> None:
        site.apply(sealed, options=Options("never", say=pause))
        afterwards()

    with in_a_thread(work) as ended:
        assert drains.wait(20)
        yield ended


def going_on(goes_on: threading.Event, said: list[str]) -> Options:
    """What is said goes to `said`; the migrator goes on once somebody waits for it."""

    def say(sentence: str) -> None:
        said.append(sentence)
        if sentence.startswith("waiting for the migrator"):
            goes_on.set()

    return Options("never", say=say)


def test_what_a_rollback_waits_for_may_commit(site: Site) -> None:
    """That is said beforehand; then which epoch was committed, and what takes it back."""
    site.init(BEFORE)
    goes_on, said = threading.Event(), list[str]()
    with (
        at_work_until(site, site.plan(AFTER), goes_on) as ended,
        pytest.raises(Refused, match=r"epoch 1 was committed meanwhile; .*zkmig revert --epoch 1"),
    ):
        site.rollback(how=WAIT, options=going_on(goes_on, said))
    assert ended == [None]
    assert "may go on meanwhile, and commit epoch 1;" in said[0]
    assert_is(site.look(), AFTER)


def go_on(
    site: Site, command: str, sealed: SealedPlan, client: Client | None = None, options: Options | None = None
) -> object:
    """Run the command, which waits for whoever is at work."""
    if command == "rollback":
        return site.rollback(client=client, how=WAIT, options=options)
    return site.resume(sealed, client=client, how=WAIT, options=options)


def leave_another(site: Site, is_going_back: bool) -> None:
    """Epoch 2, begun by a migrator that is interrupted in the midst of it, or of taking it back."""
    changes = {relative: Node(bytes(400)) for relative in AFTER if relative.startswith("/change/")}
    site.leave_open(site.plan(AFTER | changes, client=site.client(ME, ALICE)), 3, epoch=2)
    if is_going_back:
        with pytest.raises(Interrupted):
            site.rollback(options=Options(report=at("undo", 1, interrupt)))


def assert_left_alone(site: Site, error: ZkmigError, state: State) -> None:
    """Epoch 2 is as it was left, and the error says of which epoch it is not."""
    assert re.search(r"epoch 1 \(attempt \w+\) was committed meanwhile, and now epoch 2 \(attempt", str(error))
    assert error.outcome is Outcome.NOTHING_WRITTEN
    assert (site.record().state, site.record().target_epoch) == (state, 2)
    assert not read_owner(site.client(), site.names).alive


GOING_ON = {"rollback": State.OPEN, "resume": State.ROLLING_BACK}  # what the next epoch is left in, for each command


@pytest.mark.parametrize("command", GOING_ON)
def test_the_epoch_after_the_one_that_was_waited_for_is_left_alone(site: Site, command: str) -> None:
    """Goal: a command about one epoch takes back, or goes on with, no other. Method: the migrator that is waited for
    commits, and the next one begins and dies, before the scope is looked at again."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    goes_on, left = threading.Event(), threading.Event()

    tokens: list[int] = []

    def begin_the_next() -> None:
        leave_another(site, is_going_back=GOING_ON[command] is State.ROLLING_BACK)
        tokens.append(read_owner(site.client(), site.names).token)
        left.set()

    def say(sentence: str) -> None:
        if sentence.startswith("waiting for the migrator"):
            goes_on.set()
            assert left.wait(20)

    options = Options("never", say=say)
    with at_work_until(site, sealed, goes_on, begin_the_next) as ended, pytest.raises(Refused) as refused:
        go_on(site, command, sealed, options=options)
    assert ended == [None]
    assert_left_alone(site, refused.value, GOING_ON[command])
    assert [read_owner(site.client(), site.names).token] == tokens  # its owner was not even disturbed


@pytest.mark.parametrize("command", GOING_ON)
def test_the_epoch_that_comes_just_before_the_token_is_taken_is_left_alone(site: Site, command: str) -> None:
    """The same without waiting: all of it happens after the record was read, just before it is asked whose it is."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.leave_open(sealed, 3)
    client = site.client()
    looks = {"rollback": 2, "resume": 1}[command]  # at the owner; the last one is that of the take-over

    def others_work(request: Read | Write) -> None:
        nonlocal looks
        looks -= isinstance(request, GetData) and request.path == site.names.owner
        if looks == 0 and client.before is others_work:
            client.before = lambda _: None
            site.resume(sealed)
            leave_another(site, is_going_back=GOING_ON[command] is State.ROLLING_BACK)

    client.before = others_work
    with pytest.raises(Refused) as refused:
        go_on(site, command, sealed, client)
    assert_left_alone(site, refused.value, GOING_ON[command])


def test_a_resume_does_not_end_well_when_what_it_waited_for_was_given_up(site: Site) -> None:
    """`resume PLAN` that exits with 0 says that the plan is done. Method: its migrator is stopped while waited for."""
    site.init(BEFORE)
    sealed, stop = site.plan(AFTER), StopRequest()
    lease = site.names.acting + "/one"
    site.kazoo.create(lease, MINUTE.encode())
    drains, said = threading.Event(), list[str]()
    options = Options("never", drain_timeout_s=60, say=when_said("waiting for", drains.set))

    def say(sentence: str) -> None:
        said.append(sentence)
        stop.request("the test stops it", 143)

    with in_a_thread(lambda: site.apply(sealed, options=options, stop=stop)) as ended:
        assert drains.wait(20)
        with pytest.raises(Refused, match=r"epoch 1 was begun with this plan and given up before anything"):
            site.resume(sealed, how=WAIT, options=Options("never", say=say))
    assert isinstance(ended[0], Stopped)
    assert said[0].startswith("waiting for the migrator")
    assert_is(site.look(), BEFORE)


def test_an_apply_that_waits_says_that_it_does_not_carry_the_epoch_on(site: Site) -> None:
    """Beforehand, since whoever was killed seems alive for a while; without --wait it is refused in the same words."""
    site.init(BEFORE)
    goes_on, said = threading.Event(), list[str]()
    with at_work_until(site, site.plan(AFTER), goes_on) as ended:
        other = site.plan(BEFORE | {"/keep": Node(b"other")})
        with pytest.raises(NotOwner, match=r"epoch 1 is PREPARING, .* up to 30 s, after a kill too"):
            site.apply(other)
        with pytest.raises(Refused, match="the committed epoch is 1"):
            site.apply(other, how=WAIT, options=going_on(goes_on, said))
    assert ended == [None]
    assert "waiting does not carry that epoch on: if its migrator is dead, run zkmig resume" in said[0]


def test_one_that_drains_is_not_taken_for_dead(site: Site) -> None:
    """Three times as long as its session lasts; whoever waits goes on waiting, and sees it at work."""
    beats: list[int] = []

    def look() -> None:
        for _ in range(2):
            beats.append(read_owner(site.client(), site.names).beats)
            wait_for(site, 1.6 * SESSION_MS / 1000)()

    assert drain_for_long(site, look) == [None]
    assert beats[1] > beats[0]
    assert_is(site.look(), AFTER)


def test_without_beats_it_would_be(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(Migrator, "beat", lambda _: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        drain_for_long(site, wait_for(site, 4 * SESSION_MS / 1000))


def throttle_for_long(site: Site, while_waiting: Callable[[], object]) -> list[ZkmigError | None]:
    """A migrator with a short session waits for its turn for longer than that lasts, then is told to stop."""
    site.init(BEFORE)
    sealed, stop = site.plan(AFTER), StopRequest()
    options = Options("never", writes_per_s=0.5)  # what the journal took has to be paid for before the first batch
    client = site.client(session_timeout_ms=SESSION_MS)
    with in_a_thread(lambda: site.apply(sealed, client=client, options=options, stop=stop)) as ended:
        deadline = time.monotonic() + 20
        while site.record().state is not State.OPEN:
            assert time.monotonic() < deadline
        try:
            while_waiting()
        finally:
            stop.request("the test stops it", 143)
    site.resume(sealed)
    return ended


def test_one_that_is_throttled_is_not_taken_for_dead(site: Site) -> None:
    """It does nothing but wait for its turn, as it was told to: whoever waits for the scope goes on waiting."""
    (ended,) = throttle_for_long(site, wait_for(site, 4 * SESSION_MS / 1000))
    assert isinstance(ended, Stopped)
    assert_is(site.look(), AFTER)


@pytest.mark.parametrize("phase", ["take_preimage", "find_deviations", "recheck"])
def test_reading_counts_as_progress(site: Site, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-image, verification: for as long as the servers answer, in whatever room it happens."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    client = site.client(session_timeout_ms=SESSION_MS)
    work = getattr(forward, phase)
    seen: list[int] = []

    def slowly(reader: Client, *arguments: object) -> object:
        before = read_owner(site.client(), site.names).beats
        until = time.monotonic() + SESSION_MS / 1000
        while time.monotonic() < until:
            result = work(reader, *arguments)
        seen.append(read_owner(site.client(), site.names).beats - before)
        return result

    monkeypatch.setattr(forward, phase, slowly)
    site.apply(sealed, client=client)
    assert seen[0] >= 3
    assert_is(site.look(), AFTER)


def test_one_that_was_robbed_notices_while_it_only_reads(site: Site) -> None:
    """It drains, and writes nothing; its next beat stops it, long before its drain is over."""

    def rob() -> None:
        site.rollback(how=STEAL)
        time.sleep(SESSION_MS / 1000)

    ended = drain_for_long(site, rob)
    assert isinstance(ended[0], NotOwner)
    assert_is(site.look(), BEFORE)
    assert site.record().state is State.STABLE


@pytest.mark.parametrize("place", [("draining", 0), ("write", 9), ("verifying", 0)])
def test_one_that_is_stuck_is_taken_over_though_its_session_lives(
    site: Site, tmp_path: Path, place: tuple[str, int]
) -> None:
    """A real process whose working thread stands still while another keeps the session: alive by its lock, but without
    progress for as long as its session lasts. Nobody has to steal."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    planfile.write(sealed.plan, str(tmp_path / "plan"))
    said: list[str] = []
    with migrator_at(site, "apply", *place, tmp_path / "plan", session_timeout_ms=SESSION_MS) as process:
        before = read_owner(site.client(), site.names)
        assert before.alive
        assert before.progress_at is not None
        site.resume(sealed, how=WAIT, options=Options("never", say=said.append))
        assert process.poll() is None
        assert site.kazoo.exists(site.names.lock(before.token))  # its session lives on
    assert any("no progress" in sentence for sentence in said)
    assert_is(site.look(), AFTER)


def test_one_that_is_stopped_wakes_up_as_a_zombie(site: Site, tmp_path: Path) -> None:
    """SIGSTOP in the midst of its drain for longer than its session lasts; another finishes; SIGCONT: it ends by
    itself, refused, and nothing has changed."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    path = tmp_path / "plan"
    planfile.write(sealed.plan, str(path))
    lease = site.names.acting + "/one"
    site.kazoo.create(lease, MINUTE.encode())
    with migrator_draining(site, path, SESSION_MS) as process:
        os.kill(process.pid, signal.SIGSTOP)
        site.kazoo.set(lease, Lease("x", 1, released=True).encode())
        begun = time.monotonic()
        site.resume(sealed, how=WAIT)
        assert time.monotonic() - begun < 20
        image, record = site.look(), site.kazoo.get(site.names.record)
        assert_is(image, AFTER)
        os.kill(process.pid, signal.SIGCONT)
        _, error = process.communicate(timeout=20)
    assert "NotOwner" in error or "SessionExpired" in error
    assert (site.look(), site.kazoo.get(site.names.record)) == (image, record)


def test_a_beat_that_is_lost_or_comes_too_often_changes_nothing(site: Site) -> None:
    """Not more than six in a session's time-out; after a lost connection the pipeline whose it is finds out."""
    site.init(BEFORE)
    migrator = Migrator.take(site.client(session_timeout_ms=30_000), site.names, TakeOver(), StopRequest())
    for _ in range(100):
        migrator.beat()
    assert read_owner(site.client(), site.names).beats == 0
    migrator._beat_at = 0.0
    migrator.client._link.lose("for the test")
    migrator.beat()
    migrator.client.reconnect()
    migrator._beat_at = 0.0
    migrator.beat()
    assert read_owner(site.client(), site.names).beats == 1
    site.kazoo.delete(site.names.lock(migrator.token))
    migrator._beat_at = 0.0
    migrator.beat()  # the lock is for others to look at; the token counts
    assert migrator.write([]).failed_index is None
    migrator.release()


def test_a_beat_in_the_midst_of_batches_does_not_hide_what_was_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Robbed between two batches, with others in flight: NotOwner, from a batch or from a beat, and nothing of it is
    called unwritten."""
    monkeypatch.setattr(owners, "BEAT_PART", 0.0)  # a beat at every turn
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with pytest.raises(ZkmigError) as caught:
        site.apply(sealed, options=Options("never", report=at("write", 4, lambda: site.rollback(how=STEAL))))
    assert isinstance(caught.value, NotOwner)
    assert caught.value.outcome is not Outcome.NOTHING_WRITTEN
    assert_is(site.look(), BEFORE)
    site.apply(site.plan(AFTER))
    assert_is(site.look(), AFTER)


@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("action", ["rollback", "resume"])
def test_an_answer_that_comes_late_is_about_what_was_asked(site: Site, action: str, is_asked: bool) -> None:
    """Method: what is shown is an attempt that has ended by the time of the answer, and another one is under way; who
    was not asked means whatever is."""
    site.init(BEFORE)
    site.leave_open(site.plan(AFTER), 3)
    at, scope = f"zk://{site.server.hosts}", site.names.scope
    shown = migrate.preview("rollback", at=at, scope=scope, auth=[ME])
    site.rollback()
    sealed = site.plan(AFTER)
    site.leave_open(sealed, 3)
    agreed = shown if is_asked else None

    def answered() -> object:
        if action == "rollback":
            return migrate.rollback(at, agreed=agreed, scope=scope, auth=[ME])
        return migrate.resume(sealed, at, agreed=agreed, scope=scope, auth=[ME])

    if is_asked:
        with pytest.raises(Refused, match=r"came to its end meanwhile.*nothing was done to that one"):
            answered()
        assert site.record().state is State.OPEN
    else:
        answered()
        assert site.record().state is State.STABLE
