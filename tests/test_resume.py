"""A migration stopped anywhere is finished by another process, to exactly the planned tree.

Method: stopped before each of its writes in turn, by exceptions and by SIGKILL; then resumed, or rolled back, by a
fresh client; compared by kazoo.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.migrator_process import kill, migrator_at
from tests.scopes import (
    AFTER,
    ALICE,
    ALICES,
    BEFORE,
    ME,
    MINE,
    MINE_BUT_READABLE,
    READ_ONLY,
    Site,
    assert_is,
    assert_went_back,
    settled,
)
from tests.trees import Node, Tree
from zkmig.apply.following import next_commands
from zkmig.apply.forward import Applied, Options
from zkmig.apply.status import read_status
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import NotOwner, Outcome, Refused, Stopped
from zkmig.plan import planfile
from zkmig.plan.plan import Limits
from zkmig.stop import EXIT_SIGTERM, StopRequest
from zkmig.wire.requests import Multi, Read, SetAcl, Write


@pytest.mark.parametrize("batches", [0, 1, 7, 12, 10_000])
def test_after_any_number_of_batches(site: Site, batches: int) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.leave_open(sealed, min(batches, len(sealed.plan.batch_ends)))
    result = site.resume(sealed)
    assert isinstance(result, Applied)
    assert result.epoch == 1
    image = site.look()
    assert_is(image, AFTER)
    assert {path for path, seen in image.items() if seen.counter > AFTER[path].counter} <= {""}
    assert (site.record().state, site.record().pending) == (State.STABLE, None)
    assert site.resume(sealed) is None


# -- every write, one after the other ---------------------------------------------------------------------------------

# Small, but with everything that is written outside batches: journal chunks of three READ sets, private chunks, and
# ACLs before and after.
SMALL_BEFORE: Tree = settled(
    {
        "": Node(b""),
        "/a": Node(b"open"),
        "/b": Node(b"mine", MINE),
        "/c": Node(b"readable", MINE_BUT_READABLE),
        **{f"/d{number}": Node(bytes(300)) for number in range(4)},
    }
)
SMALL_AFTER: Tree = settled(
    {
        "": Node(b"new"),
        "/a": Node(b"closed", MINE),
        "/b": Node(b"mine 2", MINE),
        "/c": Node(b"opened"),
        "/e": Node(b"", READ_ONLY, 7),
        "/e/f": Node(None, ALICES),
        **{f"/g{number}": Node(bytes(300)) for number in range(4)},
    }
)
LIMITS = Limits(batch_bytes_max=1_000)
WRITES = 26  # guarded multis and setACLs of the way from SMALL_BEFORE to SMALL_AFTER, and a few more
UNDO_WRITES = 12  # the same of the way back, once all batches are written


class Countdown:
    """Interrupts just before the write of that number, from 0, is sent. What is sent after that is let through."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, request: Read | Write) -> None:
        if isinstance(request, Multi | SetAcl):
            self.left -= 1
            if self.left == -1:
                raise Interrupted


def test_those_are_all_writes_there_are(site: Site) -> None:
    """The release of the lock, which is not stopped, included."""
    site.init(SMALL_BEFORE)
    sealed = site.plan(SMALL_AFTER, limits=LIMITS)
    clients = [site.client() for _ in range(2)]
    counts = [Countdown(10_000) for _ in range(2)]
    for client, count in zip(clients, counts, strict=True):
        client.before = count
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    site.rollback(client=clients[0])
    site.apply(site.plan(SMALL_AFTER, limits=LIMITS), client=clients[1])
    undo_writes, writes = (10_000 - count.left for count in counts)
    assert 8 < undo_writes <= UNDO_WRITES
    assert 18 < writes <= WRITES
    assert_is(site.look(), SMALL_AFTER)


@pytest.mark.parametrize("number", range(WRITES))
def test_stopped_before_any_write_it_can_be_taken_back_and_finished(site: Site, number: int) -> None:
    """First taken back, where it is not committed yet; then begun anew, stopped at the same place, and finished."""
    site.init(SMALL_BEFORE)
    before = site.look()
    for way_on in ("rollback", "resume"):
        sealed = site.plan(SMALL_AFTER, limits=LIMITS)
        client = site.client()
        client.before = Countdown(number)
        with suppress(Interrupted):  # when there are fewer writes, or while the lock is given back, it is through
            site.apply(sealed, client=client)
        record = site.record()
        if record.epoch == 1:
            site.resume(None)  # committed: what is left needs no plan
            break
        if record.state is State.STABLE:
            with pytest.raises(Refused, match="neither begun"):
                site.resume(sealed)
            assert_went_back(before, site.look())
            site.apply(sealed)
            break
        if way_on == "rollback":
            assert site.rollback().deviations == ()
            assert_went_back(before, site.look())
        else:
            site.resume(sealed)
    assert_is(site.look(), SMALL_AFTER)
    assert (site.record().state, site.record().epoch, site.record().pending) == (State.STABLE, 1, None)


@pytest.mark.parametrize("number", range(UNDO_WRITES))
def test_a_rollback_stopped_before_any_write_can_be_gone_on_with(site: Site, number: int) -> None:
    site.init(SMALL_BEFORE)
    sealed = site.plan(SMALL_AFTER, limits=LIMITS)
    before = site.look()
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    client = site.client()
    client.before = Countdown(number)
    with suppress(Interrupted):
        site.rollback(client=client)
    if site.record().state is not State.STABLE:
        assert site.rollback(how=TakeOver(steal=True)).deviations == ()
    assert_went_back(before, site.look())


# -- killed -----------------------------------------------------------------------------------------------------------

PLACES = [("journal", 1), ("draining", 0), ("write", 0), ("write", 9), ("verifying", 0), ("ACLs", 2)]


@pytest.mark.parametrize(("place", "done"), PLACES)
def test_a_migrator_that_was_killed(site: Site, tmp_path: Path, place: str, done: int) -> None:
    """SIGKILL, with batches in flight and the lock still there: taken over at once, then finished or begun anew."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    planfile.write(sealed.plan, str(tmp_path / "plan"))
    with migrator_at(site, "apply", place, done, tmp_path / "plan") as process:
        with pytest.raises(NotOwner):
            site.apply(sealed) if place == "journal" else site.resume(sealed)
        kill(process)
    if place == "journal":
        site.apply(sealed, how=TakeOver(steal=True))
    else:
        site.resume(None if place == "ACLs" else sealed, how=TakeOver(steal=True))
    assert_is(site.look(), AFTER)
    assert (site.record().epoch, site.record().pending) == (1, None)


def test_a_rollback_that_was_killed(site: Site, tmp_path: Path) -> None:
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    with migrator_at(site, "rollback", "undo", 5, tmp_path / "none") as process:
        kill(process)
    site.rollback(how=TakeOver(steal=True))
    assert_went_back(before, site.look())


def test_whoever_waits_goes_on_when_the_killed_ones_session_is_over(site: Site, tmp_path: Path) -> None:
    """Without stealing: the lock goes with the session, here of a second; and it is said that it is waited for."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    planfile.write(sealed.plan, str(tmp_path / "plan"))
    said: list[str] = []
    with migrator_at(site, "apply", "write", 9, tmp_path / "plan", session_timeout_ms=1_000) as process:
        kill(process)
    site.resume(sealed, how=TakeOver(wait=True), options=Options(single_shot="never", say=said.append))
    assert_is(site.look(), AFTER)
    assert any(str(process.pid) in sentence for sentence in said)


# -- asked to stop ----------------------------------------------------------------------------------------------------


def test_a_stop_ends_the_work_after_the_batch_in_flight(site: Site) -> None:
    """What was sent is answered, so that the outcome is known; the error says how the scope stands."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    stop = StopRequest()
    client = site.client(stop=stop)
    report = at("write", 3, lambda: stop.request("SIGTERM", EXIT_SIGTERM))
    with pytest.raises(Stopped) as caught:
        site.apply(sealed, client=client, stop=stop, options=Options(single_shot="never", report=report))
    assert caught.value.exit_code == EXIT_SIGTERM
    assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    applied = read_status(site.client(), site.names).batches_applied
    assert 3 <= applied < len(sealed.plan.batch_ends)
    site.resume(sealed)
    assert_is(site.look(), AFTER)


def test_a_stop_while_draining_aborts(site: Site) -> None:
    site.init(BEFORE)
    stop = StopRequest()
    say = when_said("draining", lambda: stop.request("SIGINT", 130))
    with pytest.raises(Stopped) as caught:
        site.apply(site.plan(AFTER), client=site.client(stop=stop), stop=stop, options=Options("never", say=say))
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert site.record().state is State.STABLE


# -- ACLs that wait for the commit ------------------------------------------------------------------------------------


def test_pending_acls_are_finished_without_the_plan(site: Site) -> None:
    """Between commit and setACL: the epoch is committed, status names what is left, no other epoch begins before."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options("never", report=at("ACLs", 1, interrupt)))
    record = site.record()
    assert (record.state, record.epoch) == (State.STABLE, 1)
    assert record.pending is not None
    assert record.pending.acls == len([step for step in sealed.plan.acl_steps if step.is_pending_after_commit])
    assert next_commands(read_status(site.client(), site.names), "zk://here")[0].startswith("zkmig resume")
    both = site.client(ME, ALICE)
    with pytest.raises(Refused, match="pending"):
        site.apply(site.plan(AFTER | {"/keep": Node(b"2")}, client=both), 2, client=both)
    site.resume(None)
    assert site.record().pending is None
    assert_is(site.look(), AFTER)


def test_a_plan_that_was_never_begun_is_not_taken_for_done(site: Site) -> None:
    """Goal: `apply || resume` must not end well without the plan applied. Method: resume one that is not under way."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with pytest.raises(Refused, match="neither begun nor committed"):
        site.resume(sealed)
    site.apply(sealed)
    assert site.resume(sealed) is None
