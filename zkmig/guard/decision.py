"""Decision: what a guard does next, from what it has learned; no I/O, no clock, no threads.

Events come in one at a time with the time at which they are taken in; out come orders. The rules, which the tests hold
against events in any order:

- nothing is started but on the answer that its registration is in ZooKeeper, certified under the record that is
  STABLE and not held as far as this guard has seen;
- once the record was seen to be anything else, or the registration not to be ours, what runs is being ended;
- nothing is acknowledged before all that was started is gone.

Facts are remembered, and every event is followed by a look at all of them (`_settle`), so that the order in which they
came does not matter.
"""

from __future__ import annotations

import signal
from typing import Final, assert_never

from zkmig.epoch.leases import Down
from zkmig.errors import EXIT_BAD_INPUT, EXIT_INTERNAL, EXIT_NOT_STABLE
from zkmig.guard.committed import Committed, lapse, obstacle
from zkmig.guard.events import (
    PASSING,
    RESTING,
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
    Situation,
    Start,
    Started,
    StillAlive,
    Stop,
    Tick,
    TimeUp,
)

OVERRIDE: Final = "SIGUSR1 to the guard"
"""Why a command runs beyond its budget; there is no other way."""

LEAVE_WAIT_S: Final = 5.0
"""How long a guard that has nothing running any more waits for ZooKeeper to take that down, before it exits."""

RETRY_S: Final = 0.2
FORBIDDEN_RETRY_S: Final = 5.0
"""Before a registration is tried again that failed: for a record that has moved; for rights that are missing."""

SIGNAL_EXIT: Final = 128


class Decision:
    """One guard. `take` an event, carry out the orders in their order. Once it has left, nothing more comes out."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._now = now
        self.phase = Phase.LOOKING
        self._since = now
        self._why = "asking the servers"
        self._scope: Seen | NoRecord | None = None
        self._silent = ""
        self._entry: EntrySeen | None = None
        self._taking: str | None = None  # whose registration may be taken over, once; None: none was read yet
        self._ran: Committed | None = None  # the command, last
        self._down: Down | None = None
        self._under: Seen | None = None  # what is being registered, or runs
        self._role = Role.COMMAND
        self._pid: int | None = None
        self._hook_code: int | None = None
        self._cleared: Committed | None = None  # where the hook, or an operator, has said that the command may start
        self._overridden: Committed | None = None  # where an operator has said that it may start beyond its budget
        self._is_cut_off = False  # it ran on while a migration may have thought it gone
        self._ended_for = ""
        self._asked_to_end = 0
        self._blocked = ""  # why the next write has to wait for TimeUp
        self._is_forbidden = False  # the latest one, for want of rights
        self._is_unsettled = (
            False  # it could not be written that nothing runs, and what the registration says is not known
        )
        self._leaving: int | None = None
        self._leaving_error = ""
        self._orders: list[Order] = []

    @property
    def situation(self) -> Situation:
        """As of the last event."""
        scope = self._scope if isinstance(self._scope, Seen) else None
        since = self._down.since if self.phase is Phase.DOWN and self._down is not None else self._since
        epoch, held = (None, None) if scope is None else (scope.epoch, scope.held)
        is_passing = self.phase in PASSING and not self._silent and not self._is_forbidden
        return Situation(self.phase, since, self._words(), self._pid, epoch, held, is_passing)

    def take(self, event: Event, now: float) -> list[Order]:
        """What to do after this event. now: unix time in s."""
        self._now = now
        if self.phase is Phase.LEFT:
            return []
        self._orders = []
        self._learn(event)
        self._settle()
        return self._orders

    # -- learning -----------------------------------------------------------------------------------------------------

    def _learn(self, event: Event) -> None:
        match event:
            case Seen():
                self._silent = ""
                if not isinstance(self._scope, Seen) or event.zxid >= self._scope.zxid:
                    self._scope = event  # else from a server that lags
            case NoRecord():
                self._scope, self._silent = event, ""
            case Silent(why=why):
                self._silent = why
            case EntrySeen():
                self._learn_entry(event)
            case Registered() | NotRegistered() | Doubtful():
                if self.phase is Phase.REGISTERING:
                    self._learn_registration(event)
            case Acknowledged() | NotAcknowledged():
                if self.phase is Phase.ACKNOWLEDGING:
                    self._learn_acknowledgement(event)
            case Started(pid=pid):
                if self.phase in (Phase.RUNNING, Phase.HOOK):
                    self._pid = pid
            case NotStarted() | Exited() | StillAlive() | Gone() | Broken():
                if self.phase in (Phase.RUNNING, Phase.HOOK, Phase.ENDING):
                    self._learn_process(event)
            case Signalled(number=number):
                self._learn_signal(number)
            case Tick():
                pass
            case TimeUp():
                self._blocked, self._is_forbidden = "", False
                if self._leaving is not None and self.phase in (Phase.REGISTERING, Phase.ACKNOWLEDGING):
                    self._leave_unsettled()
            case _:
                assert_never(event)

    def _learn_entry(self, event: EntrySeen) -> None:
        if self.phase in (Phase.REGISTERING, Phase.ACKNOWLEDGING):
            return  # read before what is being written
        if self.phase not in RESTING:
            if self._entry is not None and event.holder is not Holder.OURS:
                self._entry = event
            return
        self._entry, self._is_unsettled = event, False
        if self._taking is None:  # said of what was found then, and of nobody who comes later
            self._taking = event.instance if self._settings.take_over and event.holder is Holder.ANOTHER else ""
        if event.holder in (Holder.STOPPED, Holder.GONE, Holder.ANOTHER, Holder.ALIVE):
            self._down = event.down
            if event.epoch is not None and (self._ran is None or self._ran.epoch != event.epoch):
                self._ran = Committed(None, event.epoch)

    def _learn_registration(self, event: Registered | NotRegistered | Doubtful) -> None:
        assert self._under is not None
        match event:
            case Registered(remark=remark):
                self._entry, self._is_forbidden = EntrySeen(Holder.OURS), False
                if self._leaving is not None or self._must_end():
                    self._ended_for = self._must_end() or "the guard is ending"
                    self._acknowledge(self._ended_for, not_begun=True)
                    return
                if self._role is Role.COMMAND:
                    self._down, self._is_cut_off, self._overridden = None, False, None
                    self._ran = Committed.of(self._under)
                self._start(remark)
            case NotRegistered(why=why, is_usage=True):
                self._leaving, self._leaving_error = EXIT_BAD_INPUT, why
                self._rest_again()
            case NotRegistered(why=why, is_over_budget=True):
                self._down = Down(self._under.epoch, why, self._now, over_budget=True)
                self._is_cut_off = False
                self._acknowledge("stays down: beyond its budget")
            case NotRegistered(why=why, is_forbidden=is_forbidden):
                self._entry = None
                self._block(why, is_forbidden)
                self._rest_again()
            case Doubtful():
                # Whatever it still does: what says "stopped" is written over it, and then it is asked for anew.
                self._acknowledge("the answer to a registration did not come", not_begun=True)
            case _:
                assert_never(event)

    def _learn_acknowledgement(self, event: Acknowledged | NotAcknowledged) -> None:
        match event:
            case Acknowledged():
                epoch = None if self._ran is None else self._ran.epoch
                self._entry, self._is_forbidden, self._taking = EntrySeen(Holder.STOPPED, epoch, self._down), False, ""
            case NotAcknowledged(why=why, is_forbidden=is_forbidden, is_ours=is_ours):
                self._entry, self._is_unsettled = None, is_ours
                if self._leaving is not None:
                    self._leaving_error = f"{self._leaving_error}; {why}".removeprefix("; ")
                    self._entry = EntrySeen(Holder.NOBODY)
                self._block(why, is_forbidden)
            case _:
                assert_never(event)
        self._rest_again()

    def _learn_process(self, event: NotStarted | Exited | StillAlive | Gone | Broken) -> None:
        match event:
            case NotStarted(code=code, why=why):
                if self._role is Role.HOOK:
                    self._hook_code = code
                else:
                    self._leaving, self._leaving_error = code, why
                self._end(why)
            case Exited(code=code):
                if self.phase is not Phase.ENDING:
                    if self._role is Role.HOOK:
                        self._hook_code = code
                    else:
                        self._leaving = code
                    what = "hook" if self._role is Role.HOOK else "command"
                    self._orders.append(Stop())  # what it has started may live on
                    self._end(f"the {what} has ended with {code}")
            case StillAlive(why=why):
                self._why = f"{self._ended_for}; {why}"
            case Broken(why=why):
                self._leaving, self._leaving_error = EXIT_INTERNAL, why
                self._end(why)
            case Gone():
                self._is_gone()
            case _:
                assert_never(event)

    def _learn_signal(self, number: int) -> None:
        match self.phase:
            case Phase.RUNNING:
                self._orders.append(Pass(number))
                if number == signal.SIGTERM:
                    self._asked_to_end = number
            case Phase.HOOK | Phase.ENDING | Phase.REGISTERING | Phase.ACKNOWLEDGING:
                if number in self._settings.ends_on:
                    self._leave_for(number)
            case Phase.LOOKING | Phase.CONTESTED | Phase.WAITING | Phase.DOWN:
                if number in self._settings.ends_on:
                    self._leave_for(number)
                elif number == signal.SIGUSR1 and self._down is not None:
                    self._let_up(self._down)
            case Phase.LEFT:
                pass
            case _:
                assert_never(self.phase)

    def _let_up(self, down: Down) -> None:
        """An operator has looked, and says that it may start: under what is committed now, and beyond its budget only
        where that is what it is kept down for now."""
        scope = self._scope if isinstance(self._scope, Seen) else None
        here = None if scope is None else Committed.of(scope)
        if down.over_budget and (self.phase is not Phase.DOWN or here is None):
            return
        self._overridden = here if down.over_budget else None
        self._down = None
        if here is not None:
            self._cleared = here

    def _leave_for(self, number: int) -> None:
        if self._leaving is None:
            self._leaving = SIGNAL_EXIT + number
        if self.phase in (Phase.REGISTERING, Phase.ACKNOWLEDGING):
            self._orders.append(Arm(LEAVE_WAIT_S))

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Go on as long as what is known leads to something else."""
        before = None
        while before is not self.phase:
            before = self.phase
            match self.phase:
                case Phase.LOOKING | Phase.CONTESTED | Phase.WAITING | Phase.DOWN:
                    self._rest()
                case Phase.RUNNING | Phase.HOOK:
                    if reason := self._must_end():
                        self._stop(reason)
                    elif self.phase is Phase.HOOK and self._leaving is not None:
                        self._stop("the guard is ending")
                case Phase.REGISTERING | Phase.ENDING | Phase.ACKNOWLEDGING | Phase.LEFT:
                    pass
                case _:
                    assert_never(self.phase)

    def _must_end(self) -> str:
        """Why what runs, or is about to, must not: "" if it may. Sees to it that what follows is as after a commit."""
        assert self._under is not None
        assert self._entry is not None
        scope, under = self._scope, self._under
        if isinstance(scope, Seen) and Committed.of(scope) != Committed.of(under):
            self._cut_off()  # whatever else it is by now
        if self._entry.holder is not Holder.OURS:
            self._cut_off()
            return "the registration is not there any more: evicted, or taken over"
        return lapse(scope, under, self._now)

    def _cut_off(self) -> None:
        self._is_cut_off, self._cleared = True, None

    def _rest(self) -> None:
        """Nothing runs. Find out what is to be next."""
        entry, scope = self._entry, self._scope
        if self._leaving is not None:
            if entry is not None and entry.holder in (Holder.OURS, Holder.GONE):
                self._acknowledge(self._ended_for or "the guard is ending")
            elif self._is_unsettled:
                self._leave_unsettled()
            else:
                self._leave()
        elif self._silent and (entry is None or entry.holder is not Holder.OURS):
            self._wait(Phase.LOOKING, self._silent)
        elif self._blocked:
            self._wait(Phase.LOOKING, self._blocked, is_final=self._is_forbidden)
        elif entry is None or scope is None:
            self._wait(Phase.LOOKING, "asking the servers", is_final=False)
        elif entry.holder is Holder.ANOTHER and entry.instance and entry.instance == self._taking:
            self._acknowledge(f"taken over from {entry.who}", entry.instance)
        elif entry.holder in (Holder.ANOTHER, Holder.ALIVE):
            self._wait(Phase.CONTESTED, f"the registration says that it runs: {entry.who}")
        elif entry.holder in (Holder.OURS, Holder.GONE):
            self._acknowledge("what ran before is gone" if entry.holder is Holder.GONE else self._ended_for)
        elif isinstance(scope, NoRecord):
            self._wait(Phase.WAITING, scope.why)
        else:
            self._rest_beside(entry, scope)

    def _rest_beside(self, entry: EntrySeen, scope: Seen) -> None:
        """Nothing runs, nobody else has the registration, and the record is known."""
        if self._down != entry.down:
            self._acknowledge("stays down" if self._down is not None else "no longer to stay down")
        elif not scope.admits:
            self._wait(Phase.WAITING, obstacle(scope, self._now))
        elif self._down is not None and (not self._down.over_budget or self._down.epoch == scope.epoch):
            self._wait(Phase.DOWN, self._down.why)  # of another epoch the budget has not judged yet
        elif not self._is_after_commit(scope) or self._cleared == Committed.of(scope):
            self._register(scope, Role.COMMAND)
        else:
            self._follow(scope)

    def _follow(self, scope: Seen) -> None:
        """An epoch was committed since the command ran last."""
        match self._settings.after_commit:
            case AfterCommit.RESTART:
                self._register(scope, Role.COMMAND)
            case AfterCommit.STAY_DOWN:
                self._down = Down(scope.epoch, f"epoch {scope.epoch} was committed, and it is to stay down", self._now)
                self._is_cut_off = False
                self._acknowledge("stays down after a commit")
            case AfterCommit.HOOK:
                self._register(scope, Role.HOOK)
            case _:
                assert_never(self._settings.after_commit)

    def _is_after_commit(self, scope: Seen) -> bool:
        """Whether the command, if it ever ran, ran last under another epoch than is committed now."""
        if self._is_cut_off:
            return True
        return self._ran is not None and not self._ran.is_for(scope)

    # -- from phase to phase ------------------------------------------------------------------------------------------

    def _wait(self, phase: Phase, why: str, *, is_final: bool = True) -> None:
        """is_final: what is waited for is known, so that a guard that may not wait leaves."""
        if not self._settings.may_wait and is_final:
            self._leaving, self._leaving_error = EXIT_NOT_STABLE, why
            self._leave(without_record=isinstance(self._scope, NoRecord))
        else:
            self._go(phase, why)

    def _register(self, under: Seen, role: Role) -> None:
        self._under, self._role = under, role
        ran = None if self._ran is None else self._ran.epoch
        if role is Role.COMMAND:
            self._go(Phase.REGISTERING, f"under epoch {under.epoch}")
            override = OVERRIDE if self._overridden == Committed.of(under) else None
            self._orders.append(Register(under, under.epoch, "runs", override=override))
        else:
            self._go(Phase.REGISTERING, f"for the hook, under epoch {under.epoch}")
            self._orders.append(Register(under, ran, "runs the hook", is_command=False))

    def _start(self, remark: str = "") -> None:
        assert self._under is not None
        epoch, self._ended_for, self._hook_code = self._under.epoch, "", None
        if self._role is Role.COMMAND:
            self._go(Phase.RUNNING, f"under epoch {epoch}" + (f"; {remark}" if remark else ""))
            self._orders.append(Start(Role.COMMAND, epoch))
        else:
            before = None if self._ran is None else self._ran.epoch
            self._go(Phase.HOOK, f"epoch {epoch} was committed: the hook decides")
            self._orders.append(Start(Role.HOOK, epoch, before))

    def _stop(self, why: str) -> None:
        self._orders.append(Stop())
        if self._asked_to_end and self._leaving is None:
            self._leaving = SIGNAL_EXIT + self._asked_to_end
        self._end(why)

    def _end(self, why: str) -> None:
        self._ended_for = self._ended_for or why
        self._go(Phase.ENDING, why)

    def _is_gone(self) -> None:
        """Nothing runs any more."""
        self._pid = None
        self._ended_for = self._ended_for or "it has ended"
        hook_code, self._hook_code = self._hook_code, None
        assert self._under is not None
        if self._role is Role.HOOK and hook_code is not None:
            under = self._under
            if hook_code == 0:
                self._cleared = Committed.of(under)
                if not self._must_end() and self._leaving is None and isinstance(self._scope, Seen):
                    self._register(self._scope, Role.COMMAND)
                    return
            else:
                self._down = Down(under.epoch, f"the hook said no to epoch {under.epoch}: {hook_code}", self._now)
                self._is_cut_off = False
        self._rest_again()

    def _rest_again(self) -> None:
        self._go(Phase.LOOKING, "asking the servers")
        self._orders.append(Look())

    def _acknowledge(self, why: str, taking: str = "", *, not_begun: bool = False) -> None:
        self._go(Phase.ACKNOWLEDGING, why)
        if self._leaving is not None:
            self._orders.append(Arm(LEAVE_WAIT_S))
        ran = None if self._ran is None else self._ran.epoch
        self._orders.append(Acknowledge(why, ran, self._down, taking, not_begun))

    def _block(self, why: str, is_forbidden: bool) -> None:
        self._blocked, self._is_forbidden = why, is_forbidden
        if self._leaving is None:
            self._orders.append(Arm(FORBIDDEN_RETRY_S if is_forbidden else RETRY_S))

    def _leave(self, *, without_record: bool = False) -> None:
        assert self._leaving is not None
        self._go(Phase.LEFT, self._leaving_error or f"with {self._leaving}")
        self._orders.append(Leave(self._leaving, self._leaving_error, without_record))

    def _leave_unsettled(self) -> None:
        unsettled = (
            "ZooKeeper did not take down in time that nothing runs any more: its registration may still say that it "
            "does, and hold up migrations, until a guard of this name is started here or it is evicted"
        )
        self._leaving_error = f"{self._leaving_error}; {unsettled}".removeprefix("; ")
        self._leave()

    def _go(self, phase: Phase, why: str) -> None:
        if phase is not self.phase:
            self._since = self._now
        self.phase, self._why = phase, why

    def _words(self) -> str:
        """Why, with what has become of it since."""
        if self.phase in (Phase.RUNNING, Phase.HOOK, Phase.REGISTERING, Phase.ACKNOWLEDGING) and self._silent:
            return f"{self._why}; {self._silent}"
        return self._why
