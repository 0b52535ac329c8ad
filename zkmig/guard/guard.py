"""Guard: the loop between ZooKeeper, the processes and the signals. What to do is decided in `decision`.

One thread waits for all three: signals by their wakeup descriptor, the keeper by its socket, what the registration's
thread has found by a byte in the same pipe. It never waits for a server.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from kazoo.client import KazooClient

from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import GuardEntry
from zkmig.errors import EXIT_NOT_STABLE, EXIT_REFUSED, Stopped
from zkmig.guard import command as commands
from zkmig.guard import events
from zkmig.guard.claim import Claim, Verdict, claim, judge
from zkmig.guard.claim import Holder as Predecessor
from zkmig.guard.command import Command
from zkmig.guard.decision import SIGNAL_EXIT, Decision
from zkmig.guard.leftovers import Swept, end_leftovers
from zkmig.guard.machine import ProcessIdentity, this_process
from zkmig.guard.notify import VARIABLES, Notifier
from zkmig.guard.reach import Reach
from zkmig.guard.registration import SILENT, Me, Registration
from zkmig.guard.report import Report
from zkmig.model.acl import Identity
from zkmig.reader.budget import Budget

TICK_S: Final = 1.0
"""So often at least the loop goes round: orphans are reaped, and a hold that expires is said to have."""

LEFTOVERS_TIMEOUT_S: Final = 5.0
"""Beyond the grace: so long at a stretch what a predecessor left is being ended, before that is said."""

INSTANCE_BYTES: Final = 8

_KEPT = {"SIGKILL", "SIGSTOP", "SIGCHLD", "SIGCONT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGPIPE", "SIGXFSZ"}
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"}
_NEWS = b"\0"  # in the wakeup pipe, where a signal leaves its number

_MAY_BE_LEFT: Final = "what it had started may not be, and is not to be seen by this user; --take-over if it is over"

_logger = logging.getLogger("zkmig.guard")


@dataclass(frozen=True, slots=True)
class Options:
    """What a guard is to do. argv: of the command; it is told to nobody. hook: path of a program.

    client: a kazoo client that is not started yet. who: the identities of its session, as ACLs name them; may ask the
    servers. session_timeout_s: of the client. grace_s: between TERM and KILL. folder: where names are claimed. budgets:
    how far an epoch may move the tree before the command runs again. unreached: why no server can be reached, "" if one
    can. missing: that there is no such scope, in words, "" if there is or it cannot be told; both ask the servers.
    """

    names: ControlPaths
    unit: str
    argv: Sequence[str]
    client: KazooClient
    who: Callable[[], Sequence[Identity]]
    session_timeout_s: float
    grace_s: float
    settings: events.Settings
    hook: str = ""
    folder: Path | None = None
    status_file: Path | None = None
    out: int | None = None
    budgets: Sequence[Budget] = ()
    unreached: Callable[[], str] = str
    missing: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class Left:
    """How a guard ended. error: what is to be told beside the code."""

    code: int
    error: str = ""


def run(options: Options, environment: Mapping[str, str]) -> Left:
    """Be a guard until it is over. To be called in the main thread. Refused: the name is taken on this machine."""
    instance = secrets.token_hex(INSTANCE_BYTES)
    notifier = Notifier(environment)
    of_command = {name: value for name, value in environment.items() if name not in VARIABLES}
    report = Report(
        options.unit,
        options.names.scope,
        out=options.out,
        status_file=options.status_file,
        notifier=notifier,
        pid=os.getpid(),
    )
    with _signals() as wakeup, closing(notifier):
        claimed = _claim(options, instance, wakeup, report, notifier)
        command = Command(
            options.argv, instance=instance, environment=of_command, hold=[claimed.fileno()], grace_s=options.grace_s
        )
        loop = _Loop(options, instance, claimed, command, report, notifier, wakeup)
        try:
            return loop.run()
        finally:
            command.close()  # were anything left, the keeper would end it
            claimed.close()


class _Loop:
    def __init__(
        self,
        options: Options,
        instance: str,
        claimed: Claim,
        command: Command,
        report: Report,
        notifier: Notifier,
        wakeup: _Wakeup,
    ) -> None:
        self._options = options
        self._command = command
        self._report = report
        self._notifier = notifier
        self._wakeup = wakeup
        self._news: deque[events.Event] = deque()
        self._decision = Decision(options.settings, time.time())
        self._armed: float | None = None
        self._left: Left | None = None
        self._passed = ""  # what the command was told that ends it, in words
        here = this_process()
        client = options.client
        servers = ",".join(f"{host}:{port}" for host, port in client.hosts)
        self._reach = Reach(servers, lambda: client.connected, options.unreached, wakeup.news)
        self._registration = Registration(
            options.client,
            options.names,
            Me(options.unit, instance, here.to_json()),
            lambda: _clean(claimed.earlier, here, options.grace_s),
            lambda entry: _judged(entry, here, claimed.earlier, options.grace_s),
            options.who,
            self._post,
            poll_s=options.session_timeout_s / 2,
            budgets=options.budgets,
        )

    def run(self) -> Left:
        """Until the decision is to leave."""
        self._registration.start()
        self._reach.start()
        self._take(events.Tick())
        with selectors.DefaultSelector() as selector:
            selector.register(self._command.fileno(), selectors.EVENT_READ)
            selector.register(self._wakeup.fileno(), selectors.EVENT_READ)
            while self._left is None:
                self._registration.check()
                selector.select(self._pause_s())
                for number in self._wakeup.signals():
                    self._take(events.Signalled(number))
                for event in self._command.receive():
                    for translated in self._translated(event):
                        self._take(translated)
                while self._news:
                    self._take(self._news.popleft())
                if self._armed is not None and time.monotonic() >= self._armed:
                    self._armed = None
                    self._take(events.TimeUp())
                self._take(events.Tick())
                self._notifier.alive_if_due()
        self._reach.close()
        self._registration.close()
        return self._left

    def _pause_s(self) -> float:
        until = [TICK_S]
        if self._news:
            until.append(0.0)
        if self._armed is not None:
            until.append(max(0.0, self._armed - time.monotonic()))
        if self._notifier.watchdog_s is not None:
            until.append(self._notifier.watchdog_s / 2)
        return min(until)

    def _post(self, event: events.Event) -> None:
        """From other threads."""
        if isinstance(event, events.Silent) and event.why.startswith(SILENT) and (why := self._reach.why):
            event = events.Silent(f"{event.why}; tried for {self._reach.for_s:.0f} s: {why}")
            self._reach.close()
        self._news.append(event)
        self._wakeup.news()

    def _take(self, event: events.Event) -> None:
        if self._left is not None:
            return
        now = time.time()
        for order in self._decision.take(event, now):
            self._carry_out(order)
        self._report.tell(self._situation(), now, self._code())

    def _situation(self) -> events.Situation:
        """As the decision has it; and early, why it cannot know more yet; and that the command was told to end."""
        situation = self._decision.situation
        if situation.phase is events.Phase.LOOKING and situation.is_passing and (why := self._reach.why):
            return situation._replace(why=f"cannot connect yet: {why}; it goes on trying", is_passing=False)
        if situation.phase is events.Phase.RUNNING and self._passed:
            return situation._replace(why=f"{situation.why}; {self._passed}")
        return situation

    def _code(self) -> int | None:
        return None if self._left is None else self._left.code

    def _carry_out(self, order: events.Order) -> None:
        match order:
            case events.Look():
                self._registration.look()
            case events.Register() | events.Acknowledge():
                self._registration.carry_out(order)
            case events.Start():
                self._start(order)
            case events.Stop():
                self._command.stop(self._options.grace_s)
            case events.Pass(number=number):
                self._command.signal(number)
                if number in self._options.settings.ends_on:
                    self._passed = f"{signal.Signals(number).name} passed on to the command"
            case events.Arm(seconds=seconds):
                self._armed = time.monotonic() + seconds
            case events.Leave():
                self._left = self._leave(order)
            case _:
                assert_never(order)

    def _leave(self, order: events.Leave) -> Left:
        """Who may not wait for a scope is told if there is none of that name: it may well be mistyped."""
        if order.without_record and (missing := self._options.missing()):  # nothing runs that asking could hold up
            return Left(EXIT_REFUSED, missing)
        return Left(order.code, order.error)

    def _start(self, order: events.Start) -> None:
        self._passed = ""
        argv, more = None, {}
        if order.role is events.Role.HOOK:
            argv = [self._options.hook]
            more = {
                "ZKMIG_SCOPE": self._options.names.scope,
                "ZKMIG_EPOCH": str(order.epoch),
                "ZKMIG_EPOCH_BEFORE": "" if order.epoch_before is None else str(order.epoch_before),
            }
        try:
            self._command.start(argv, more)
        except OSError as error:  # no process more to be had, or no memory
            self._news.append(events.NotStarted(commands.EXIT_NOT_EXECUTABLE, f"cannot be started: {error.strerror}"))
            self._news.append(events.Gone())

    def _translated(self, event: commands.Event) -> Iterator[events.Event]:
        match event:
            case commands.Started(pid=pid):
                yield events.Started(pid)
            case commands.NotStarted(text=text):
                yield events.NotStarted(event.exit_code, f"cannot be started: {text}")
            case commands.Exited():
                yield events.Exited(event.exit_code)
            case commands.StillAlive(processes=processes):
                which = ", ".join(f"{one.pid} ({one.name}, state {one.state})" for one in processes)
                yield events.StillAlive(f"KILL has not ended {which or 'what is left'} yet")
            case commands.KeeperSilent():
                yield events.StillAlive("the keeper of the processes does not answer: it may be stopped")
            case commands.KeeperDied(status=status, running=running):
                if running:
                    yield events.Broken(f"the keeper of the processes has died ({status}); what it kept was ended")
                else:
                    _logger.warning("the keeper of the processes has died (%d); the next start has another", status)
            case commands.Gone():
                yield events.Gone()
            case _:
                assert_never(event)


# -- predecessors -----------------------------------------------------------------------------------------------------


def _claim(options: Options, instance: str, wakeup: _Wakeup, report: Report, notifier: Notifier) -> Claim:
    """The name; waits while a dead guard's keeper ends what it kept, and says so.

    Stopped: by a signal meanwhile, or because this guard is not to wait.
    """
    began = time.time()

    def tell(phase: events.Phase, why: str, code: int | None = None) -> None:
        report.tell(events.Situation(phase, began, why, None, None, None, False), time.time(), code)

    def leave(why: str, code: int) -> Stopped:
        tell(events.Phase.LEFT, why, code)
        stopped = Stopped(why)
        stopped.exit_code = code
        return stopped

    def check() -> None:
        notifier.alive_if_due()
        for number in wakeup.signals():
            if number in options.settings.ends_on:
                raise leave(f"stopped: {signal.Signals(number).name}", SIGNAL_EXIT + number)

    def say(holder: Predecessor) -> None:
        why = f"what the guard before, pid {holder.process.pid}, has left is being ended"
        if not options.settings.may_wait:
            raise leave(why, EXIT_NOT_STABLE)
        _logger.warning("waiting: %s", why)
        tell(events.Phase.LOOKING, why)

    within = (options.names.control, options.names.scope)
    return claim(options.unit, instance, within=within, folder=options.folder, on_wait=say, check=check)


def _clean(earlier: Sequence[Predecessor], here: ProcessIdentity, grace_s: float) -> str:
    """End what guards have left that held the name before and are dead with their keepers: "" when nothing is found.

    Whether that proves anything is asked only of the registration that still says "running": see `_judged`.
    """
    for one in earlier:
        if one.process.shares_pids_with(here):
            swept = _end_leftovers(one.instance, one.process, grace_s)
            if swept.left:
                return _left_by(one.process, swept)
    return ""


def _judged(
    entry: GuardEntry, here: ProcessIdentity, earlier: Sequence[Predecessor], grace_s: float
) -> tuple[events.Holder, str]:
    try:
        process = ProcessIdentity.from_json(entry.process)
    except ValueError:
        return events.Holder.ANOTHER, "whoever wrote it does not say who it is"
    who = f"{process.host} pid {process.pid}"
    match judge(entry.instance, process, here, earlier):
        case Verdict.OVER:
            return events.Holder.GONE, who
        case Verdict.LEFTOVERS:
            swept = _end_leftovers(entry.instance, process, grace_s)
            if swept.left:
                return events.Holder.ALIVE, _left_by(process, swept)
            if swept.sees_all or (swept.sees_own and process.is_same_user_as(here)):
                return events.Holder.GONE, who
            return events.Holder.ANOTHER, f"{who}, which is gone; {_MAY_BE_LEFT}"
        case Verdict.ALIVE:
            return events.Holder.ALIVE, f"{who}, which runs on this machine with another --state-dir"
        case Verdict.UNKNOWN:
            where = "not to be seen by this user" if process.shares_pids_with(here) else "another machine or container"
            return events.Holder.ANOTHER, f"{who}, {where}; --take-over if it is over"
        case never:
            assert_never(never)


def _end_leftovers(instance: str, process: ProcessIdentity, grace_s: float) -> Swept:
    timeout_s = grace_s + LEFTOVERS_TIMEOUT_S
    swept = end_leftovers(instance, grace_s=grace_s, timeout_s=timeout_s, started_after=process.started)
    if swept.ended:
        _logger.warning("ended %d processes that the guard before, pid %d, had left", swept.ended, process.pid)
    return swept


def _left_by(process: ProcessIdentity, swept: Swept) -> str:
    which = ", ".join(f"{one.pid} ({one.name})" for one in swept.left)
    return f"what the guard before, pid {process.pid}, has left does not end: {which}"


# -- signals ----------------------------------------------------------------------------------------------------------


class _Wakeup:
    """A pipe into which signals leave their numbers, and other threads that there is news."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._reading

    @property
    def writing(self) -> int:
        return self._writing

    def news(self) -> None:
        with suppress(OSError):  # full: it will be read anyway; closed: the guard is over
            os.write(self._writing, _NEWS)

    def signals(self) -> Iterator[int]:
        """Those that have come since the last time."""
        with suppress(BlockingIOError):
            while data := os.read(self._reading, 4096):
                yield from (number for number in data if number != _NEWS[0])

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


def known_signals() -> list[signal.Signals]:
    """Those that a guard takes: all but what cannot be caught, stops a process for a while, or reports an error of it;
    and but those that it was told to ignore, as by nohup."""
    not_ours = {getattr(signal, name) for name in _KEPT | _FAULTS}
    return [one for one in signal.valid_signals() - not_ours if signal.getsignal(one) is not signal.SIG_IGN]


@contextmanager
def _signals() -> Iterator[_Wakeup]:
    """Inside, signals only leave their numbers in the pipe."""
    wakeup = _Wakeup()
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in known_signals()}
    fd_before = signal.set_wakeup_fd(wakeup.writing, warn_on_full_buffer=False)
    try:
        yield wakeup
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        wakeup.close()
