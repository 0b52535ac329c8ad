"""The keeper: a small process between the guard and CMD, so that CMD never outlives the guard's word.

It is CMD's parent and its child subreaper (prctl(2)): whatever CMD starts, double-forked or in a new session, becomes
the keeper's child once its own parent is gone. So when waitpid says ECHILD, nothing of CMD is left: that is proof, and
only then the keeper says "gone". The guard has threads and sessions, which are not to be forked, and may be killed; the
keeper has neither, and outlives it by as long as it takes to end what it started.

- The guard dies: its end of the socket closes. The keeper ends all (TERM, the grace last told, KILL), then itself.
- The keeper dies: CMD is killed by the kernel (PDEATHSIG); the rest falls to the guard (`command`).
- Both die at once: what has left CMD is found by its environment (`leftovers`) by the next guard of that name.

Run as `python -m zkmig.guard.keeper FD [FD...]`: its end of a socketpair (`messages`), then descriptors that it only
holds, as long as it lives (the lock of the guard's name). Standard library only, and little of it: it is there as long
as CMD is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from zkmig.guard import messages
from zkmig.guard.descendants import all_processes, look_at, proc_is_ours
from zkmig.guard.ending import Ending
from zkmig.guard.prctl import become_subreaper, die_with_parent, set_name

TERMINAL = 0
WALL = 0x40000000  # __WALL of waitpid(2): children of every kind, also those that do not signal their end by SIGCHLD
RECEIVE_BYTES = 65536
GRACE_S = 10.0
TERMINAL_LOOK_MS = 1000

# What a terminal or a service manager sends to the whole group: the guard decides what it means, and tells.
IGNORED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGALRM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)


STOPPING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


class Keeper:
    """Runs CMD when told, one at a time, and ends all of it when told or when the guard is no more."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._guard_lives = True
        self._run = 0
        self._main: int | None = None  # CMD's own process, until it was waited for
        self._exec_errno: int | None = None  # the pipe that tells whether exec worked
        self._failed = False  # exec did not work: what ends is not CMD
        self._busy = False  # a run has begun and its "gone" was not yet said
        self._terminal = False  # it was given the terminal
        self._grace_s = GRACE_S
        self._ending: Ending | None = None
        self._group = os.getpgrp()
        self._scheduling = os.sched_getscheduler(0), os.sched_getparam(0)
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def serve(self) -> None:
        """Until the guard is gone and nothing that was started is left."""
        while self._guard_lives or self._busy:
            self._wait()
            self._reap()
            if self._ending is not None and time.monotonic() >= self._ending.next_at:
                self._ending.step(time.monotonic())
                if self._ending.still_alive:
                    alive = tuple((each.pid, each.name, each.state) for each in self._ending.still_alive)
                    self._say((messages.STILL_ALIVE, self._run, alive))
                self._reap()

    # -- hearing and saying ---------------------------------------------------------------------------------------

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._guard_lives:
            poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        if self._exec_errno is not None:
            poll.register(self._exec_errno, select.POLLIN)
        pause: float | None = None
        if self._ending is not None:
            pause = max(self._ending.next_at - time.monotonic(), 0) * 1000
        elif self._main is not None and self._terminal:
            pause = TERMINAL_LOOK_MS
        ready = dict(poll.poll(pause))
        if not ready and self._main is not None and self._ending is None and self._may_be_stopped(self._main):
            go_on(self._main)
        if self._wake in ready:
            os.read(self._wake, RECEIVE_BYTES)
        if self._exec_errno in ready:
            self._hear_of_exec()
        events = ready.get(self._channel, 0)
        if events & select.POLLOUT:
            self._flush()
        if events & ~select.POLLOUT:
            self._receive()

    def _may_be_stopped(self, main: int) -> bool:
        """Whether Ctrl-Z may have stopped it where waitpid does not tell us, or before exec, when we do not ask."""
        return self._exec_errno is not None or is_stuck(main)

    def _receive(self) -> None:
        try:
            data = os.read(self._channel, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._guard_lives = False
            self._outgoing.clear()
            if self._busy:
                self._end(self._grace_s)
            return
        self._incoming += data
        for message in messages.take(self._incoming):
            self._obey(message)

    def _obey(self, message: messages.Message) -> None:
        match message:
            case (messages.START, int(run), list(argv), dict(environment), bytes(ignored), float(grace_s)):
                self._grace_s = grace_s
                self._start(run, argv, environment, ignored)
            case (messages.STOP, float(grace_s)):
                self._grace_s = grace_s
                if self._busy:
                    self._end(grace_s)
                else:
                    self._say((messages.GONE, self._run))
            case (messages.SIGNAL, int(number)):
                if self._main is not None:
                    os.kill(self._main, number)  # ours, and not yet waited for
            case _:
                raise ValueError(f"not a message to the keeper: {message[:1]}")

    def _say(self, message: messages.Message) -> None:
        if self._guard_lives:
            self._outgoing += messages.encode(message)
            self._flush()

    def _flush(self) -> None:
        try:
            sent = os.write(self._channel, self._outgoing)
        except BlockingIOError:
            return
        except OSError:
            return  # the guard is gone: the next read says so
        del self._outgoing[:sent]

    # -- starting -------------------------------------------------------------------------------------------------

    def _start(self, run: int, argv: Sequence[bytes], environment: Mapping[bytes, bytes], ignored: bytes) -> None:
        if self._busy:
            raise ValueError("told to start a command while another one runs")
        self._run = run
        if not proc_is_ours():
            text = "/proc does not show this pid namespace: descendants could not be told from strangers"
            self._say((messages.NOT_STARTED, run, errno.ENOSYS, text))
            self._say((messages.GONE, run))
            return
        told, tell = os.pipe2(os.O_CLOEXEC)
        foreground = holds_terminal(self._group)
        keeper = os.getpid()
        # Until the child has its own dispositions it has ours, which ignore what it may be sent from now on. What is
        # blocked stays pending, ignored or not, so that a TERM right after the fork ends it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - STOPPING)
        try:
            pid = os.fork()
            if pid == 0:
                become_command(argv, environment, ignored, tell, keeper, foreground)
        except OSError as error:
            os.close(told)
            os.close(tell)
            self._say((messages.NOT_STARTED, run, error.errno or 0, os.strerror(error.errno or 0)))
            self._say((messages.GONE, run))
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(tell)
        self._main, self._exec_errno, self._busy, self._failed = pid, told, True, False
        self._terminal = foreground

    def _hear_of_exec(self) -> None:
        assert self._exec_errno is not None
        told = os.read(self._exec_errno, 16)
        os.close(self._exec_errno)
        self._exec_errno = None
        if told:
            self._failed = True
            self._say((messages.NOT_STARTED, self._run, int(told), os.strerror(int(told))))
        else:
            assert self._main is not None  # not reaped before this
            self._say((messages.STARTED, self._run, self._main))

    # -- ending ---------------------------------------------------------------------------------------------------

    def _end(self, grace_s: float) -> None:
        now = time.monotonic()
        if self._ending is None:
            self._ending = Ending(now, grace_s, group=self._main)
            set_urgent()
        else:
            self._ending.hasten(now, grace_s)

    def _reap(self) -> None:
        """Wait for every child that has ended. ECHILD is the proof that nothing is left."""
        while self._busy and self._exec_errno is None:  # Started is said before Exited
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | WALL)
            except ChildProcessError:
                self._busy = False
                if self._ending is not None:
                    with contextlib.suppress(OSError):
                        os.sched_setscheduler(0, *self._scheduling)
                self._ending = None
                self._say((messages.GONE, self._run))
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                if os.WSTOPSIG(status) == signal.SIGTSTP and self._ending is None:
                    go_on(pid)
            elif pid == self._main:
                self._main = None
                if self._ending is not None:
                    self._ending.group = None
                self._give_terminal_back(pid)
                if not self._failed:
                    self._say((messages.EXITED, self._run, os.waitstatus_to_exitcode(status)))

    def _give_terminal_back(self, group: int) -> None:
        if holds_terminal(group):
            set_terminal(self._group)


def holds_terminal(group: int) -> bool:
    """Whether stdin is a terminal with this group in its foreground."""
    try:
        return os.isatty(TERMINAL) and os.tcgetpgrp(TERMINAL) == group
    except OSError:
        return False


def set_urgent() -> None:
    """Run before what we end, while we end it: thousands of runnable processes leave a scan no time to get done.

    Needs CAP_SYS_NICE; without it, we go on as we are.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def set_terminal(group: int) -> None:
    """Make this group the foreground of the terminal at stdin. SIGTTOU is to be ignored or blocked."""
    try:
        os.tcsetpgrp(TERMINAL, group)
    except OSError:
        return  # the terminal is gone, or another session's


def is_stuck(pid: int) -> bool:
    """Whether CMD hangs in vfork (state D) because the child, not yet exec'd, was stopped by Ctrl-Z in its place.

    CMD itself then does not stop, so that waitpid has nothing to tell. Some shells vfork.
    """
    main = look_at(pid)
    if main is None or main.state != "D":
        return False
    return any(
        each.parent == pid and each.state == "T" and each.group == main.group for each in all_processes().values()
    )


def go_on(pid: int) -> None:
    """Continue CMD, stopped from its terminal (Ctrl-Z), with its group: a suspended one would hold up a drain."""
    try:
        group = os.getpgid(pid)
        if group == os.getpgrp():
            os.kill(pid, signal.SIGCONT)
        else:
            os.killpg(group, signal.SIGCONT)
    except OSError:
        return  # ended meanwhile


def become_command(
    argv: Sequence[bytes], environment: Mapping[bytes, bytes], ignored: bytes, tell: int, keeper: int, foreground: bool
) -> None:
    """In the forked child: become CMD, as if nobody stood between it and who started the guard. Never returns.

    Called with signals blocked: those that came since the fork take effect once their dispositions are CMD's. Not those
    of a terminal that stop a process: nobody would continue it here, so they stay ignored as long as possible.
    ignored: the signals that the guard was started to ignore. tell: where the errno goes if exec fails. keeper: the pid
    of the parent.
    """
    try:
        os.setpgid(0, 0)
        if foreground:
            set_terminal(os.getpid())  # SIGTTOU is still ignored here
        die_with_parent(signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)  # it died before we could ask to die with it
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        own = dict(environment)
        if b"LISTEN_PID" in own:  # the guard leaves it there when it was the guard's: sd_listen_fds(3) compares it
            own[b"LISTEN_PID"] = b"%d" % os.getpid()
        os.execvpe(argv[0], list(argv), own)
    except OSError as error:
        os.write(tell, b"%d" % (error.errno or errno.EINVAL))
    except BaseException:
        os.write(tell, b"%d" % errno.EINVAL)
        raise
    finally:
        os._exit(127)


def main(arguments: Sequence[str]) -> None:
    """Serve the guard at the other end of the descriptor that the first argument names."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    descriptors = [int(argument) for argument in arguments]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    set_name("zkmig-keeper")
    become_subreaper()
    os.set_blocking(descriptors[0], False)
    Keeper(descriptors[0]).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
