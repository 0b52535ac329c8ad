"""The guard's hand on CMD: starts the keeper, tells it what to do, and hears what became of it.

    command = Command(["autoscaler", "--loop"], instance=instance, hold=[claim.fileno()])
    command.start()                      # a keeper, and CMD below it
    selector.register(command.fileno(), EVENT_READ)
    ...
    for event in command.receive():      # never waits, but see below
        match event: ...

Every run ends in `Gone`, and only `Gone` says that nothing of it is left. The order is: Started or NotStarted; Exited
when CMD's own process has ended (its descendants may live on: `stop` ends them); StillAlive and KeeperSilent as often
as need be; Gone.

The guard is a child subreaper too. If the keeper dies, what was below it becomes the guard's: `receive` reports
KeeperDied, then ends all of that itself, a step at each call, until nothing is left (`Gone`). While it does, `fileno`
is always readable, and a call may take up to `SWEEP_PAUSE_S`. Orphans that are none of ours also fall to a guard that
is PID 1 of a container; `receive` reaps them, so it is to be called every few seconds whether or not there is news.

A guard runs one Command, from one thread. Children that it starts by other means are to be named in `own_children`:
they are not reaped and not ended. Hooks are better run by `start(argv=...)`, which ends their descendants as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zkmig.guard import messages
from zkmig.guard.descendants import Process, all_processes, direct_children, look_at
from zkmig.guard.ending import STILL_ALIVE_AFTER_S, STILL_ALIVE_INTERVAL_S, Ending
from zkmig.guard.keeper import GRACE_S, IGNORED, RECEIVE_BYTES, WALL
from zkmig.guard.leftovers import MARKER, marked
from zkmig.guard.prctl import become_subreaper

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_SIGNAL_BASE = 128
SWEEP_PAUSE_S = 0.05
CLOSE_WAIT_S = 5.0
PROGRAM_CHARS_MAX = 200
ANSWER_S = 2.0  # beyond the time at which a keeper complains of what is still alive

# Ignored by every Python; and what would let CMD's own children vanish before it could wait for them.
NOT_INHERITED = {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD}

# Without site (-S), and without running zkmig/__init__.py, the keeper starts in a third of the time and memory.
_BOOTSTRAP = (
    "import sys; root = sys.argv[1]; package = type(sys)('zkmig'); package.__path__ = [root]; "
    "sys.modules['zkmig'] = package; from zkmig.guard.keeper import main; main(sys.argv[2:])"
)


@dataclass(frozen=True, slots=True)
class Started:
    """CMD runs: exec has worked. It may have ended since; Exited follows then."""

    pid: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """CMD could not be started. error: the errno. text: the program, and what the system says to it."""

    error: int
    text: str

    @property
    def exit_code(self) -> int:
        """As a shell has it: 127 not found, 126 found but not to be executed."""
        return EXIT_NOT_FOUND if self.error in {errno.ENOENT, errno.ENOTDIR} else EXIT_NOT_EXECUTABLE


@dataclass(frozen=True, slots=True)
class Exited:
    """CMD's own process has ended, by itself with a code or by a signal. Its descendants may live on."""

    code: int | None
    signal: int | None

    @property
    def exit_code(self) -> int:
        """As a shell has it: the code, or 128 and the number of the signal."""
        if self.code is not None:
            return self.code
        assert self.signal is not None
        return EXIT_SIGNAL_BASE + self.signal


@dataclass(frozen=True, slots=True)
class Alive:
    """A process that KILL has not ended yet. state: as in proc(5); D waits for a device or a file server."""

    pid: int
    name: str
    state: str


@dataclass(frozen=True, slots=True)
class StillAlive:
    """KILL has not worked for some seconds. processes may be empty: something is left, but /proc does not show it."""

    processes: tuple[Alive, ...]


@dataclass(frozen=True, slots=True)
class KeeperSilent:
    """The keeper was told to end the run, and has neither said that it is gone nor what is left. It may be stopped."""


@dataclass(frozen=True, slots=True)
class KeeperDied:
    """The keeper has ended by itself, or was ended. Whatever was below it is being ended; Gone follows.

    status: its exit code, or minus the number of the signal. running: whether a run was under way.
    """

    status: int
    running: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of this run is left."""


Event = Started | NotStarted | Exited | StillAlive | KeeperSilent | KeeperDied | Gone


def look_for(program: str, environment: Mapping[str, str]) -> NotStarted | None:
    """What becomes of a program that is not there or may not be run, looked for as exec does; None: it can be tried."""
    folders = [""] if "/" in program else os.get_exec_path(environment)
    error = errno.ENOENT
    for place in (os.path.join(folder, program) for folder in folders):
        try:
            if stat.S_ISREG(os.stat(place).st_mode) and os.access(place, os.X_OK):
                return None
            error = errno.EACCES
        except PermissionError:
            error = errno.EACCES
        except OSError:
            continue  # not there, however
    return NotStarted(error, _named(program, os.strerror(error)))


def _named(program: str, text: str) -> str:
    """It may be a long path, and what is told goes into the registration, which has to stay small."""
    shown = program if len(program) <= PROGRAM_CHARS_MAX else f"{program[:PROGRAM_CHARS_MAX]}..."
    return f"{shown}: {text}"


class Command:
    """CMD, run by a keeper, again and again if need be; never twice at a time.

    argv: CMD and its arguments. environment: CMD's; ours unless given. Changes to it count from the next start; the
    marker (`leftovers`) is added to it then.
    instance: who this guard is, for the marker. hold: descriptors that a keeper also keeps open while it lives.
    grace_s: between TERM and KILL if this process dies without a word.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        instance: str,
        environment: Mapping[str, str] | None = None,
        hold: Sequence[int] = (),
        grace_s: float = GRACE_S,
    ) -> None:
        self.own_children: set[int] = set()
        self._argv = list(argv)
        self._program = ""
        self._instance = instance
        self.environment = dict(os.environ if environment is None else environment)
        self._hold = tuple(hold)
        self._grace_s = grace_s
        self._keeper: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._incoming = bytearray()
        self._run = 0
        self._busy = False
        self._answer_by: float | None = None  # when a keeper that was told to end a run has said something at last
        self._sweep: Ending | None = None
        self._strangers: set[tuple[int, int]] = set()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when `receive` has something to say or to do. The same number as long as this object lives."""
        return self._epoll.fileno()

    @property
    def running(self) -> bool:
        """Whether anything of a run may be left: from `start` until `receive` has returned Gone."""
        return self._busy

    @property
    def keeper_pid(self) -> int | None:
        """The keeper's pid while there is one."""
        return None if self._keeper is None else self._keeper.pid

    def start(self, argv: Sequence[str] | None = None, more: Mapping[str, str] | None = None) -> None:
        """Start CMD, or `argv` in its place (a hook). Only when nothing runs. more: added to the environment."""
        if self._busy:
            raise RuntimeError("start while a command runs")
        if self._keeper is None:
            self._start_keeper()
        self._run += 1
        self._busy = True
        words = self._argv if argv is None else argv
        self._program = words[0]
        arguments = [os.fsencode(argument) for argument in words]
        settings = {**self.environment, **(more or {})}
        environment = {os.fsencode(key): os.fsencode(value) for key, value in settings.items()}
        if environment.get(b"LISTEN_PID") != b"%d" % os.getpid():
            environment.pop(b"LISTEN_PID", None)  # meant for somebody else: to CMD it would be nobody's
        environment.pop(b"LISTEN_PIDFDID", None)  # names the guard beyond doubt (systemd 258); it may be left out
        outer = os.fsdecode(environment.get(MARKER.encode(), b""))
        environment[MARKER.encode()] = marked(outer, self._instance).encode()
        self._tell((messages.START, self._run, arguments, environment, _ignored(), float(self._grace_s)))

    def stop(self, grace_s: float) -> None:
        """TERM to all of it, KILL to what is left after the grace. Again with a shorter grace: that one holds."""
        self._grace_s = grace_s
        if self._sweep is not None:
            self._sweep.hasten(time.monotonic(), grace_s)
        elif self._busy:
            by = time.monotonic() + grace_s + STILL_ALIVE_AFTER_S + ANSWER_S
            self._answer_by = by if self._answer_by is None else min(by, self._answer_by)
            self._tell((messages.STOP, float(grace_s)))
            self._wake_keeper()

    def signal(self, number: int) -> None:
        """Send a signal to CMD's own process, if it still runs."""
        if self._busy and self._sweep is None:
            self._tell((messages.SIGNAL, int(number)))

    def receive(self) -> list[Event]:
        """What has happened since the last call, oldest first. Does not wait for anything to happen."""
        events: list[Event] = []
        if self._channel is not None:
            self._hear(events)
        if self._sweep is not None:
            self._end_step(events)
        else:
            self._reap_strangers()
            self._complain(events)
        return events

    def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """Let the keeper go. If something runs it ends that first, and takes its time, whether or not we live on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._keeper is not None:
            try:
                self._keeper.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._keeper.returncode = 0  # not ours to wait for any longer: no warning of a child left behind
            self._keeper = None
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake)

    # -- the keeper -----------------------------------------------------------------------------------------------

    def _start_keeper(self) -> None:
        become_subreaper()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        passed = (theirs.fileno(), *self._hold)
        try:
            # Inheritable for as long as it takes, instead of pass_fds: that would close what CMD is to inherit.
            for descriptor in passed:
                os.set_inheritable(descriptor, True)
            root = str(Path(__file__).parent.parent)  # the package, wherever it was loaded from
            arguments = [sys.executable, "-S", "-P", "-c", _BOOTSTRAP, root, *map(str, passed)]
            # Blocked until the keeper ignores them: a Ctrl-C while it loads must not end it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
            try:
                self._keeper = subprocess.Popen(arguments, close_fds=False, restore_signals=False)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:
            for descriptor in passed:
                os.set_inheritable(descriptor, False)
            theirs.close()
        ours.setblocking(True)
        self._channel = ours
        self._incoming.clear()
        self._epoll.register(ours, select.EPOLLIN)

    def _tell(self, message: messages.Message) -> None:
        assert self._channel is not None
        with contextlib.suppress(OSError):  # it has died: the next `receive` reads that
            self._channel.sendall(messages.encode(message))

    def _hear(self, events: list[Event]) -> None:
        assert self._channel is not None
        while True:
            try:
                data = self._channel.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._lose_keeper(events)
                return
            self._incoming += data
            for message in messages.take(self._incoming):
                event = self._event(message)
                if event is not None:
                    events.append(event)
            if len(data) < RECEIVE_BYTES:
                break

    def _complain(self, events: list[Event]) -> None:
        now = time.monotonic()
        if not self._busy:
            self._answer_by = None
        elif self._answer_by is not None and now >= self._answer_by:
            self._answer_by = now + STILL_ALIVE_INTERVAL_S + ANSWER_S
            self._wake_keeper()
            events.append(KeeperSilent())

    def _wake_keeper(self) -> None:
        """Somebody may have stopped it, perhaps with all that CMD is. A pid not yet waited for is not given away."""
        if self._keeper is not None:
            os.kill(self._keeper.pid, signal.SIGCONT)

    def _event(self, message: messages.Message) -> Event | None:
        if message[1] != self._run or not self._busy:
            return None  # of a run that is over
        match message:
            case (messages.STARTED, _, int(pid)):
                return Started(pid)
            case (messages.NOT_STARTED, _, int(error), str(text)):
                return NotStarted(error, _named(self._program, text))
            case (messages.EXITED, _, int(status)):
                return Exited(status, None) if status >= 0 else Exited(None, -status)
            case (messages.STILL_ALIVE, _, tuple(alive)):
                self._answer_by = time.monotonic() + STILL_ALIVE_INTERVAL_S + ANSWER_S
                return StillAlive(tuple(Alive(*each) for each in alive))
            case (messages.GONE, _):
                self._busy = False
                return Gone()
        raise ValueError(f"not a message from the keeper: {message[:1]}")

    def _lose_keeper(self, events: list[Event]) -> None:
        assert self._keeper is not None
        assert self._channel is not None
        self._epoll.unregister(self._channel)
        self._channel.close()
        self._channel = None
        # It has closed its end, so it has ended or is about to; and only its end gives us its children.
        self._keeper.kill()
        status = self._keeper.wait()
        self._keeper = None
        self._answer_by = None
        events.append(KeeperDied(status, self._busy))
        if self._busy:
            self._take_terminal_back()
            self._sweep = Ending(time.monotonic(), self._grace_s, self._is_spared)
            os.eventfd_write(self._wake, 1)

    def _take_terminal_back(self) -> None:
        """CMD's group had the terminal, if anybody of ours had; and it is dead or about to be."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            if os.isatty(0) and os.getsid(0) == os.getsid(os.getpid()):
                os.tcsetpgrp(0, os.getpgrp())
        except OSError:
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # -- what falls to us -----------------------------------------------------------------------------------------

    def _is_spared(self, child: Process) -> bool:
        return child.pid in self.own_children or child.key in self._strangers

    def _end_step(self, events: list[Event]) -> None:
        """A step of ending what the keeper left; over when no child of ours is left but those that are spared."""
        assert self._sweep is not None
        now = time.monotonic()
        gone = self._reap_fallen()
        if not gone and now >= self._sweep.next_at:
            self._sweep.step(now)
            if self._sweep.still_alive is not None:
                events.append(StillAlive(tuple(Alive(p.pid, p.name, p.state) for p in self._sweep.still_alive)))
            gone = self._reap_fallen()
        if gone:
            self._sweep = None
            self._busy = False
            os.eventfd_read(self._wake)
            events.append(Gone())
            return
        time.sleep(min(SWEEP_PAUSE_S, max(self._sweep.next_at - time.monotonic(), 0.001)))

    def _reap_fallen(self) -> bool:
        """Wait for what has ended. True is proof that no child is left but those that are spared.

        With nobody to spare it is that of the keeper: ECHILD. Else it is a scan that finds no other child, not even a
        zombie: only this thread reaps, so a child that is there when a scan begins is there as long as it lasts, and
        whatever is left has an ancestor that is our child. A scan that found one which was then reaped proves nothing:
        what that one had forked, after its neighbours were listed, has become ours meanwhile.
        """
        if not self.own_children and not self._strangers:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG | WALL)[0]:
                    pass
                return False
            return True
        found = [child for child in self._children() if not self._is_spared(child)]
        for child in found:
            _reaped(child.pid)
        return not found

    def _reap_strangers(self) -> None:
        """Note who falls to us while the keeper lives (then it is none of ours), and reap those of them that ended."""
        known = {self.keeper_pid, *self.own_children}
        listed = direct_children()
        found = [look_at(pid) for pid in listed if pid not in known] if listed is not None else self._children()
        if self._keeper is not None and _has_ended(self._keeper.pid):
            return  # what we have just listed may have been the keeper's: the kernel hands over all at once
        strangers = [process for process in found if process is not None and process.pid not in known]
        self._strangers = {stranger.key for stranger in strangers if not _reaped(stranger.pid)}

    def _children(self) -> list[Process]:
        me = os.getpid()
        return [process for process in all_processes().values() if process.parent == me]


def _ignored() -> bytes:
    """The signals that we were started to ignore, as by nohup, and CMD is to ignore as well."""
    numbers = signal.valid_signals() - NOT_INHERITED
    return bytes(sorted(number for number in numbers if signal.getsignal(number) is signal.SIG_IGN))


def _has_ended(child: int) -> bool:
    """Whether a child of ours is a zombie; it stays one."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG | WALL)[0] != 0
    except ChildProcessError:
        return True
