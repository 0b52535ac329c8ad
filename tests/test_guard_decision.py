"""What a guard decides, whatever comes in which order: nothing runs without a certified registration, nothing runs on
once the scope was seen to be anything but STABLE, nothing is acknowledged while something runs.

Method: generated events, arbitrary ones among fitting answers, taken by a Decision beside a watcher that knows the
rules alone; decisions with one rule broken, each of which the watcher has to catch; and single stories.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkmig.epoch.leases import Down
from zkmig.epoch.record import Held
from zkmig.epoch.transitions import State
from zkmig.errors import EXIT_INTERNAL, EXIT_NOT_STABLE
from zkmig.guard.decision import LEAVE_WAIT_S, Decision
from zkmig.guard.events import (
    Acknowledge,
    Acknowledged,
    AfterCommit,
    Arm,
    Broken,
    Doubtful,
    EntrySeen,
    Event,
    Exited,
    Gone,
    Holder,
    Leave,
    Look,
    NoRecord,
    NotAcknowledged,
    NotRegistered,
    NotStarted,
    Order,
    Pass,
    Phase,
    Register,
    Registered,
    Role,
    Seen,
    Settings,
    Signalled,
    Silent,
    Start,
    Started,
    StillAlive,
    Stop,
    Tick,
    TimeUp,
)

HELD = Held("rack move", "ops", 100.0, 200.0)
NOBODY = EntrySeen(Holder.NOBODY)
STOPPED = EntrySeen(Holder.STOPPED, 3)


def seen(zxid: int, state: State = State.STABLE, epoch: int = 3, held: Held | None = None) -> Seen:
    return Seen("inc", zxid, zxid, state, epoch, held, epoch + 1 if state is not State.STABLE else None)


class Watcher:
    """Knows what must hold of events and orders, and nothing of how it is decided."""

    def __init__(self) -> None:
        self.runs = False
        self.is_being_ended = False
        self.asked: Register | None = None
        self.certified: Seen | None = None
        self.record: Seen | NoRecord | None = None
        self.is_ours = False
        self.has_left = False

    def event(self, event: Event) -> None:
        match event:
            case Seen():
                self.record = event
            case NoRecord():
                self.record = event
            case Registered() if self.asked is not None:
                self.certified, self.is_ours, self.asked = self.asked.under, True, None
            case NotRegistered() | Doubtful() if self.asked is not None:
                self.asked = None
            case EntrySeen(holder=holder) if self.runs and holder is not Holder.OURS:
                self.is_ours = False
            case NotStarted() | Broken() if self.runs:
                self.is_being_ended = True
            case Gone():
                self.runs = False

    def order(self, order: Order) -> None:
        assert not self.has_left, "an order after the end"
        match order:
            case Register(under=under):
                assert self.asked is None, "two registrations at once"
                assert not self.runs
                assert under == self.record, "not the record that was read last"
                assert under.admits
                self.asked = order
            case Start(epoch=epoch):
                assert not self.runs, "two at once"
                assert self.certified is not None, "started without a certified registration"
                assert self.certified.epoch == epoch
                assert self.record == self.certified or (isinstance(self.record, Seen) and self.record.admits)
                self.runs, self.is_being_ended, self.certified = True, False, None
            case Stop():
                assert self.runs
                self.is_being_ended = True
            case Acknowledge():
                assert not self.runs, "acknowledged before all was gone"
                assert self.asked is None, "acknowledged beside a registration under way"
                self.certified = None
            case Leave():
                assert not self.runs, "left with a process running"
                self.has_left = True
            case Pass():
                assert self.runs

    def after(self) -> None:
        """What holds once the orders are carried out."""
        if self.runs and not self.is_being_ended:
            assert isinstance(self.record, Seen), "it runs on without a record"
            assert self.record.admits, "it runs on though the scope does not admit it"
            assert self.is_ours, "it runs on without its registration"


class Run:
    """A decision and its watcher; what was ordered by the last event."""

    def __init__(self, settings: Settings | None = None, make: type[Decision] = Decision) -> None:
        self.decision = make(settings or Settings(), 0.0)
        self.watcher = Watcher()
        self.now = 0.0
        self.ordered: list[Order] = []

    def take(self, *events: Event) -> list[Order]:
        for event in events:
            self.now += 1.0
            self.watcher.event(event)
            self.ordered = self.decision.take(event, self.now)
            for order in self.ordered:
                self.watcher.order(order)
            self.watcher.after()
        return self.ordered

    @property
    def phase(self) -> Phase:
        return self.decision.phase

    def is_in(self, phase: Phase) -> bool:
        return self.decision.phase is phase

    def started(self) -> Run:
        """The command runs, under epoch 3 and the record of zxid 1."""
        self.take(seen(1), NOBODY, Registered(), Started(4711))
        assert self.is_in(Phase.RUNNING)
        return self

    def ordered_one(self, kind: type[Order]) -> Order:
        return next(order for order in self.ordered if isinstance(order, kind))


# -- any order --------------------------------------------------------------------------------------------------------

EPOCHS = st.integers(3, 5)
STATES = st.sampled_from([State.STABLE] * 4 + [State.PREPARING, State.OPEN, State.ROLLING_BACK, State.EMPTY])
DOWNS = st.sampled_from([None, None, Down(3, "hook", 1.0)])
ENTRIES = st.builds(
    EntrySeen,
    st.sampled_from(Holder),
    st.sampled_from([None, 3, 4]),
    DOWNS,
    st.just("elsewhere"),
    st.sampled_from(["", "a"]),
)
ANY: st.SearchStrategy[Event | str] = st.one_of(
    st.builds(
        lambda state, epoch, held: seen(0, state, epoch, held), STATES, EPOCHS, st.sampled_from([None, None, HELD])
    ),
    ENTRIES,
    st.sampled_from(
        [
            *(NoRecord("gone"), Silent("away"), Registered(), NotRegistered("moved"), NotRegistered("no", True)),
            *(Doubtful(), Acknowledged(), NotAcknowledged("lost"), Started(7), NotStarted(127, "no file")),
            *(Exited(0), Exited(1), StillAlive("D"), Gone(), Broken("keeper"), Tick(), TimeUp()),
            *map(Signalled, (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)),
        ]
    ),
    *[st.just("fitting")] * 3,
)
SETTINGS = st.builds(Settings, st.sampled_from(AfterCommit), st.booleans(), st.booleans())


def fitting(run: Run) -> Event:
    """What would come next where all goes well."""
    match run.phase:
        case Phase.LOOKING | Phase.CONTESTED | Phase.WAITING | Phase.DOWN | Phase.LEFT:
            return seen(0)
        case Phase.REGISTERING:
            return Registered()
        case Phase.ACKNOWLEDGING:
            return Acknowledged()
        case Phase.HOOK:
            return Exited(0)
        case Phase.RUNNING:
            return Started(7)
        case Phase.ENDING:
            return Gone()


def go_through(events: list[Event | str], settings: Settings, make: type[Decision] = Decision) -> Run:
    run = Run(settings, make)
    for zxid, event in enumerate(events, 1):
        taken = fitting(run) if isinstance(event, str) else event
        if isinstance(taken, Seen):
            taken = dataclasses.replace(taken, zxid=zxid, version=zxid)
        run.take(taken)
    return run


@given(st.lists(ANY, max_size=60), SETTINGS)
def test_the_rules_hold_whatever_comes(events: list[Event | str], settings: Settings) -> None:
    go_through(events, settings)


@given(st.lists(ANY, max_size=60), SETTINGS)
def test_a_way_leads_on_from_everywhere(events: list[Event | str], settings: Settings) -> None:
    """However it came there, where all goes well from then on it runs, stays down on purpose, or has left."""
    run = go_through(events, settings)
    taken = [order for order in run.ordered if isinstance(order, Look)]
    for zxid in range(1_000, 1_040):
        if run.phase in (Phase.RUNNING, Phase.DOWN, Phase.LEFT):
            break
        at_rest = run.phase in (Phase.LOOKING, Phase.CONTESTED, Phase.WAITING)
        run.take(*((TimeUp(), seen(zxid, epoch=6), STOPPED) if at_rest else (fitting(run),)))
    assert run.phase in (Phase.RUNNING, Phase.DOWN, Phase.LEFT), (run.decision.situation, taken)


class AcknowledgesEarly(Decision):
    """Says that all is gone once it has told it to end."""

    def _end(self, why: str) -> None:
        super()._end(why)
        self._acknowledge(why)


class RunsOn(Decision):
    """Does not look at the record once it runs."""

    def _must_end(self) -> str:
        return ""


class StartsUncertified(Decision):
    """Starts when it has asked to be registered."""

    def _register(self, under: Seen, role: Role) -> None:
        super()._register(under, role)
        self._start()


@pytest.mark.parametrize("broken", [AcknowledgesEarly, RunsOn, StartsUncertified])
def test_a_decision_that_breaks_a_rule_is_caught(broken: type[Decision]) -> None:
    """The story in which each rule matters: a migration begins while the command runs."""
    run = Run(make=broken)
    with pytest.raises(AssertionError):
        run.take(seen(1), NOBODY, Registered(), Started(4711), seen(2, State.PREPARING), Gone(), Acknowledged())


# -- single stories ---------------------------------------------------------------------------------------------------


def test_a_migration_from_its_beginning_to_its_commit() -> None:
    run = Run().started()
    assert run.take(seen(2, State.PREPARING)) == [Stop()]
    assert run.decision.situation.why == "the scope is PREPARING, on the way to epoch 4"
    assert run.take(seen(3, State.OPEN), Exited(143)) == []
    run.take(Gone())
    assert isinstance(run.ordered_one(Acknowledge), Acknowledge)
    assert run.take(Acknowledged()) == [Look()]
    assert run.is_in(Phase.WAITING)
    run.take(seen(4, epoch=4))
    assert run.ordered == [Register(seen(4, epoch=4), 4, "runs")]
    assert run.take(Registered()) == [Start(Role.COMMAND, 4)]


@pytest.mark.parametrize(
    ("moved", "why"),
    [
        (seen(2, epoch=4), "epoch 4 was committed meanwhile"),
        (dataclasses.replace(seen(2), incarnation="other"), "the scope was deleted and created again"),
        (dataclasses.replace(seen(2), last=(4, "a", "rolled back")), "a migration was begun and taken back meanwhile"),
        (NoRecord("there is no scope"), "there is no scope"),
    ],
)
def test_what_has_gone_by_unseen_ends_the_command_too(moved: Seen | NoRecord, why: str) -> None:
    """The record admits again, or is gone, by the time that it is read: a drain may have thought the command gone."""
    run = Run().started()
    assert run.take(dataclasses.replace(seen(2), version=7)) == []
    assert run.take(moved) == [Stop()]
    assert run.decision.situation.why == why


@pytest.mark.parametrize("policy", AfterCommit)
def test_an_epoch_that_came_to_nothing_leads_to_a_start_whatever_follows_commits(policy: AfterCommit) -> None:
    run = Run(Settings(policy)).started()
    run.take(seen(2, State.PREPARING), Gone(), Acknowledged(), STOPPED, seen(3))
    assert run.take(Registered()) == [Start(Role.COMMAND, 3)]


def test_stay_down_is_written_and_lasts_until_usr1() -> None:
    run = Run(Settings(AfterCommit.STAY_DOWN)).started()
    run.take(seen(2, State.PREPARING), Gone(), Acknowledged(), STOPPED, seen(3, epoch=4))
    written = run.ordered_one(Acknowledge)
    assert isinstance(written, Acknowledge)
    assert written.down is not None
    run.take(Acknowledged())
    assert run.is_in(Phase.DOWN)
    run.take(seen(4, State.PREPARING, 4), seen(5, epoch=5))
    assert run.is_in(Phase.DOWN)
    run.take(Signalled(signal.SIGUSR1), Acknowledged())
    assert run.take(Registered()) == [Start(Role.COMMAND, 5)]


def test_stay_down_is_found_by_the_next_guard() -> None:
    run = Run(Settings(AfterCommit.RESTART))
    run.take(seen(1, epoch=4), EntrySeen(Holder.STOPPED, 3, Down(4, "told so", 7.0)))
    assert (run.phase, run.decision.situation.since) == (Phase.DOWN, 7.0)


def test_the_hook_runs_registered_and_its_yes_starts_the_command() -> None:
    run = Run(Settings(AfterCommit.HOOK))
    run.take(seen(1, epoch=4), STOPPED)
    assert run.ordered == [Register(seen(1, epoch=4), 3, "runs the hook", is_command=False)]
    assert run.take(Registered()) == [Start(Role.HOOK, 4, 3)]
    assert run.take(Started(8), Exited(0), Gone()) == [Register(seen(1, epoch=4), 4, "runs")]
    assert run.take(Registered()) == [Start(Role.COMMAND, 4)]


def test_the_hook_says_no() -> None:
    run = Run(Settings(AfterCommit.HOOK))
    run.take(seen(1, epoch=4), STOPPED, Registered(), Exited(3), Gone(), Acknowledged())
    assert run.is_in(Phase.DOWN)
    assert "said no to epoch 4: 3" in run.decision.situation.why


def test_a_hook_is_ended_too_and_asked_again() -> None:
    run = Run(Settings(AfterCommit.HOOK))
    assert run.take(seen(1, epoch=4), STOPPED, Registered(), seen(2, State.PREPARING, 4)) == [Stop()]
    run.take(Exited(143), Gone(), Acknowledged(), STOPPED, seen(3, epoch=5))
    assert run.take(Registered()) == [Start(Role.HOOK, 5, 3)]


def test_a_registration_without_an_answer_is_written_over_before_the_next() -> None:
    run = Run()
    run.take(seen(1), NOBODY, Doubtful())
    assert isinstance(run.ordered_one(Acknowledge), Acknowledge)
    run.take(Acknowledged(), STOPPED)
    assert run.is_in(Phase.REGISTERING)


def test_the_record_moves_between_registration_and_start() -> None:
    run = Run()
    run.take(seen(1), NOBODY, seen(2, State.PREPARING))
    run.take(Registered())
    assert isinstance(run.ordered_one(Acknowledge), Acknowledge)


@pytest.mark.parametrize("policy", [AfterCommit.RESTART, AfterCommit.STAY_DOWN])
def test_an_evicted_guard_ends_its_command_and_goes_on_as_after_a_commit(policy: AfterCommit) -> None:
    run = Run(Settings(policy)).started()
    assert run.take(NOBODY) == [Stop()]
    run.take(Gone(), NOBODY, seen(2))
    assert run.is_in(Phase.REGISTERING if policy is AfterCommit.RESTART else Phase.ACKNOWLEDGING)


def test_cut_off_over_a_rollback_it_is_started_anew() -> None:
    """The record is STABLE again at the same epoch, but what ran meanwhile has met half a tree."""
    run = Run().started()
    run.take(Silent("the servers do not answer"))
    assert run.is_in(Phase.RUNNING)
    assert run.take(dataclasses.replace(seen(9), last=(4, "a", "rolled_back"))) == [Stop()]


def test_an_outage_ends_nothing() -> None:
    run = Run().started()
    assert run.take(Silent("the servers do not answer"), seen(1), EntrySeen(Holder.OURS)) == []
    assert run.is_in(Phase.RUNNING)


@pytest.mark.parametrize("code", [0, 7, 137])
def test_the_commands_code_is_the_guards(code: int) -> None:
    run = Run().started()
    assert run.take(Exited(code)) == [Stop()]
    run.take(Gone())
    assert run.is_in(Phase.ACKNOWLEDGING)
    assert run.take(Acknowledged())[-1] == Leave(code)


def test_a_guard_that_cannot_acknowledge_leaves_and_says_so() -> None:
    run = Run().started()
    run.take(Silent("away"), Exited(5), Gone())
    assert Arm(LEAVE_WAIT_S) in run.ordered
    (left,) = run.take(TimeUp())
    assert isinstance(left, Leave)
    assert left.code == 5
    assert "did not take down in time" in left.error


def test_a_command_that_was_told_to_end_when_a_migration_begins_is_not_started_again() -> None:
    run = Run().started()
    assert run.take(Signalled(signal.SIGTERM)) == [Pass(signal.SIGTERM)]
    assert run.take(seen(2, State.PREPARING), Exited(143), Gone(), Acknowledged())[-1] == Leave(143)


def test_signals_end_a_guard_that_waits() -> None:
    run = Run()
    run.take(seen(1, State.OPEN), STOPPED)
    assert run.take(Signalled(signal.SIGHUP)) == []
    assert run.take(Signalled(signal.SIGINT)) == [Leave(130)]


@pytest.mark.parametrize(
    "why", [seen(1, State.EMPTY), seen(1, held=HELD), NoRecord("there is no such scope"), Silent("no answer")]
)
def test_without_leave_to_wait_it_ends_with_75(why: Event) -> None:
    run = Run(Settings(may_wait=False))
    left = (run.take(why) or run.take(STOPPED))[-1]
    assert isinstance(left, Leave)
    assert left.code == EXIT_NOT_STABLE
    assert left.error
    assert left.without_record == isinstance(why, NoRecord)


@pytest.mark.parametrize("may_wait", [True, False])
def test_a_75_of_the_commands_own_is_not_taken_for_a_scope_that_is_missing(may_wait: bool) -> None:
    """Though the scope was deleted meanwhile, so that "stopped" could not be written, and that is said."""
    run = Run(Settings(may_wait=may_wait)).started()
    run.take(Exited(EXIT_NOT_STABLE), Gone(), NoRecord("there is no such scope"))
    assert run.is_in(Phase.ACKNOWLEDGING)
    left = run.take(NotAcknowledged("there is no scope any more"))[-1]
    assert isinstance(left, Leave)
    assert (left.code, left.without_record) == (EXIT_NOT_STABLE, False)
    assert "there is no scope any more" in left.error


def test_a_hold_that_has_expired_is_said_to_be() -> None:
    run = Run()
    run.take(seen(1, held=HELD), STOPPED)
    assert "EXPIRED" not in run.decision.situation.why
    assert "rack move" in run.decision.situation.why
    run.decision.take(Tick(), 201.0)
    assert "EXPIRED" in run.decision.situation.why
    assert run.is_in(Phase.WAITING)


def test_a_registration_of_somebody_who_may_live_is_left_alone() -> None:
    run = Run()
    run.take(seen(1), EntrySeen(Holder.ANOTHER, 3, None, "zk9 pid 7"))
    assert run.is_in(Phase.CONTESTED)
    assert "zk9 pid 7" in run.decision.situation.why
    run.take(NOBODY)  # evicted
    assert run.is_in(Phase.REGISTERING)


def test_unless_it_is_to_be_taken_over() -> None:
    run = Run(Settings(take_over=True))
    run.take(seen(1), EntrySeen(Holder.ANOTHER, 3, None, "zk9 pid 7", "a"))
    written = run.ordered_one(Acknowledge)
    assert isinstance(written, Acknowledge)
    assert written.why == "taken over from zk9 pid 7"


@pytest.mark.parametrize("first", [NOBODY, STOPPED, EntrySeen(Holder.ANOTHER, 3, None, "zk9 pid 7", "a")])
def test_who_comes_later_is_not_taken_over(first: EntrySeen) -> None:
    """--take-over is said of what is there when it is said, by somebody who has looked at that."""
    run = Run(Settings(take_over=True))
    run.take(seen(1), first)
    while not run.is_in(Phase.RUNNING):
        run.take(Acknowledged() if run.is_in(Phase.ACKNOWLEDGING) else STOPPED)
        run.take(*((Registered(),) if run.is_in(Phase.REGISTERING) else ()))
    for later in (EntrySeen(Holder.ANOTHER, 3, None, "zk5 pid 8", "b"), first):
        if later.holder is Holder.ANOTHER:
            run.take(later, *((Gone(), later) if run.is_in(Phase.RUNNING) or run.is_in(Phase.ENDING) else ()))
            assert run.is_in(Phase.CONTESTED), later


def test_who_is_known_to_live_is_never_taken_over() -> None:
    run = Run(Settings(take_over=True))
    run.take(seen(1), EntrySeen(Holder.ALIVE, 3, None, "pid 7, which runs on this machine", "a"))
    assert run.is_in(Phase.CONTESTED)


def test_who_may_not_be_read_is_never_taken_over() -> None:
    run = Run(Settings(take_over=True))
    run.take(seen(1), EntrySeen(Holder.ANOTHER, who="may not be read"))
    assert run.is_in(Phase.CONTESTED)


OVER = Down(4, "9 changed", 1.0, over_budget=True)


def registered_beyond(run: Run) -> str | None:
    while not run.is_in(Phase.REGISTERING):
        assert run.is_in(Phase.ACKNOWLEDGING) or run.is_in(Phase.LOOKING)
        run.take(*((Acknowledged(),) if run.is_in(Phase.ACKNOWLEDGING) else (TimeUp(), STOPPED)))
    order = run.ordered_one(Register)
    assert isinstance(order, Register)
    return order.override


def test_an_override_is_of_the_epoch_that_is_there_when_it_is_said() -> None:
    run = Run()
    run.take(seen(1, epoch=4), EntrySeen(Holder.STOPPED, 3, OVER))
    assert run.is_in(Phase.DOWN)
    run.take(Signalled(signal.SIGUSR1))
    assert registered_beyond(run) == "SIGUSR1 to the guard"
    # It lasts until the command starts, and for no other epoch.
    run.take(NotRegistered("the record has moved"), STOPPED, seen(2, epoch=4), TimeUp())
    assert registered_beyond(run) == "SIGUSR1 to the guard"
    run.take(NotRegistered("the record has moved"), STOPPED, seen(3, epoch=5), TimeUp())
    assert registered_beyond(run) is None


def test_who_is_not_down_cannot_be_told_to_go_beyond_the_budget() -> None:
    """Nobody has looked at what the migration under way will make of it; the budget judges that anew."""
    run = Run()
    run.take(seen(1, State.PREPARING, 4), EntrySeen(Holder.STOPPED, 3, OVER))
    run.take(Signalled(signal.SIGUSR1))
    assert run.is_in(Phase.WAITING)
    run.take(seen(2, epoch=5))
    assert registered_beyond(run) is None


def test_an_override_outlives_a_registration_that_was_no_start() -> None:
    run = Run()
    run.take(seen(1, epoch=4), EntrySeen(Holder.STOPPED, 3, OVER))
    run.take(Signalled(signal.SIGUSR1), Acknowledged())
    run.take(seen(2, epoch=4, held=HELD), Registered(), Acknowledged(), STOPPED, seen(3, epoch=4))
    assert registered_beyond(run) == "SIGUSR1 to the guard"


def test_who_could_not_say_that_nothing_runs_says_that_it_could_not() -> None:
    run = Run().started()
    run.take(seen(2, State.PREPARING), Gone(), NotAcknowledged("not permitted to write", is_forbidden=True))
    (left,) = run.take(Signalled(signal.SIGTERM))
    assert isinstance(left, Leave)
    assert "may still say that it does" in left.error


def test_what_watches_over_the_processes_fails() -> None:
    run = Run().started()
    run.take(Broken("the keeper is gone"), Gone())
    assert run.take(Acknowledged())[-1] == Leave(EXIT_INTERNAL, "the keeper is gone")


@pytest.mark.parametrize("answer", [NotRegistered("the record has moved"), NotRegistered("not permitted", True)])
def test_what_fails_is_not_tried_again_at_once(answer: Event) -> None:
    run = Run()
    run.take(seen(1), NOBODY, answer)
    run.take(seen(2), NOBODY)
    assert run.is_in(Phase.LOOKING)
    run.take(TimeUp())
    assert run.is_in(Phase.REGISTERING)


def test_events_are_all_known_to_the_generator() -> None:
    """A new kind of event is to be among those that come in any order."""
    import typing

    from zkmig.guard import events

    kinds = set(typing.get_args(events.Event))
    tried: set[Callable[..., object]] = {Seen, EntrySeen, Signalled}
    tried |= {NoRecord, Silent, Registered, NotRegistered, Doubtful, Acknowledged, NotAcknowledged, Started}
    tried |= {NotStarted, Exited, StillAlive, Gone, Broken, Tick, TimeUp}
    assert kinds == tried
