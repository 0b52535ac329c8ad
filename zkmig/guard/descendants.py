"""The process tree below a pid, read from /proc, and signals that reach the process meant or nobody.

A pid alone names nobody: it is given away again once its process was waited for. A process is named by its pid and by
the moment it started (in clock ticks since boot, field 22 of /proc/PID/stat), and where the kernel has pidfds (5.3),
a signal goes through one. A scan is a picture of a moment: processes vanish and appear while it is taken. Whoever needs
"none is left" asks waitpid, not a scan.

Standard library only, and little of it: the keeper loads this.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable

PROC = "/proc"
GONE_STATES = frozenset("ZXx")  # zombies and the dead: nothing of theirs runs any more


class Process:
    """One process as a scan saw it. started: clock ticks since boot. group: its process group. name: at most 15 bytes.

    A plain class: typing and dataclasses would be most of what the keeper loads.
    """

    __slots__ = ("group", "name", "parent", "pid", "started", "state")

    def __init__(self, pid: int, started: int, parent: int, group: int, state: str, name: str) -> None:
        self.pid = pid
        self.started = started
        self.parent = parent
        self.group = group
        self.state = state
        self.name = name

    @property
    def key(self) -> tuple[int, int]:
        """What names the process, also when its pid is given away again."""
        return self.pid, self.started

    @property
    def runs(self) -> bool:
        """Whether it can still do something; a zombie only waits to be reaped."""
        return self.state not in GONE_STATES


def proc_is_ours() -> bool:
    """Whether /proc shows the pid namespace that we are in. Pids of another one would name strangers.

    NSpid (Linux 4.1) lists our pids from the namespace of this /proc inwards: one number where they are the same.
    """
    try:
        with open(f"{PROC}/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    return line.split()[1:] == [b"%d" % os.getpid()]
        return os.readlink(f"{PROC}/self") == str(os.getpid())
    except OSError:
        return False


def look_at(pid: int) -> Process | None:
    """The process that has this pid now; None when none can be read: so None proves no end (see `read_process`)."""
    try:
        return read_process(pid)
    except OSError:
        return None


def read_process(pid: int) -> Process:
    """The process that has this pid now.

    OSError when it cannot be read: FileNotFoundError or ProcessLookupError when there is none, but also when /proc
    hides it (hidepid); anything else, such as want of rights or of descriptors, says nothing of it at all.
    """
    with open(f"{PROC}/{pid}/stat", "rb", buffering=0) as file:
        text = file.read(4096)
    # The name stands in parentheses and may hold any byte, ") R 1 " included: the last ")" ends it.
    opening, closing = text.find(b"("), text.rfind(b")")
    fields = text[closing + 1 :].split()
    if opening < 0 or len(fields) < 20:
        raise OSError(errno.EIO, os.strerror(errno.EIO), f"{PROC}/{pid}/stat")
    name = text[opening + 1 : closing].decode(errors="replace")
    return Process(pid, int(fields[19]), int(fields[1]), int(fields[2]), chr(fields[0][0]), name)


def all_processes(on_unread: Callable[[OSError], None] | None = None) -> dict[int, Process]:
    """Every process that /proc shows, by pid. on_unread: told of each that is there, but cannot be read."""
    found = {}
    for entry in os.listdir(PROC):
        if entry.isdecimal():
            try:
                process = read_process(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it was listed, and so it has ended since
            except OSError as error:
                if on_unread is not None:
                    on_unread(error)
                continue
            found[process.pid] = process
    return found


def hides_processes() -> bool:
    """Whether this /proc hides processes of other users (its option hidepid), or may.

    By its device number, since the same /proc may be mounted anywhere; the option belongs to all its mounts.
    """
    try:
        device = os.stat(PROC).st_dev
        number = b"%d:%d" % (os.major(device), os.minor(device))
        with open(f"{PROC}/self/mountinfo", "rb") as file:
            for line in file:
                words = line.split()
                if words[2] == number:
                    kind, _, options = words[words.index(b"-") + 1 :]
                    return kind != b"proc" or b",hidepid=" in b"," + options
    except (OSError, ValueError):
        return True
    return True


def below(root: int, processes: dict[int, Process]) -> list[Process]:
    """The descendants of `root` in `processes`, parents before their children; zombies are among them."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    seen = {root}
    waiting = [root]
    for parent in waiting:
        for child in children.get(parent, ()):
            if child.pid not in seen:  # a pid that was given away during the scan can close a circle
                seen.add(child.pid)
                found.append(child)
                waiting.append(child.pid)
    return found


def groups_of(members: Iterable[Process], processes: dict[int, Process]) -> set[int]:
    """The process groups that hold some of `members` and nobody else.

    A signal to a group is one step to the kernel: no fork gets past it, however fast its members fork.
    """
    wanted = {process.key for process in members}
    inside = {process.group for process in processes.values() if process.key in wanted}
    outside = {process.group for process in processes.values() if process.key not in wanted and process.runs}
    return {group for group in inside - outside if group > 1}


def direct_children() -> list[int] | None:
    """The pids of our own children, zombies included, with less work than a scan; None where the kernel does not tell.

    The list belongs to each thread; orphans come to the first that lives. It needs CONFIG_PROC_CHILDREN.
    """
    found: list[int] = []
    told = False
    for thread in os.listdir(f"{PROC}/self/task"):
        try:
            with open(f"{PROC}/self/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
                told = True
        except OSError:
            continue  # the thread has ended, or there are no such files
    return found if told else None


def send(process: Process, number: int) -> bool:
    """Send a signal to this process and to no other that has its pid now. False: it is gone, or we may not."""
    try:
        if process.parent == os.getpid():
            os.kill(process.pid, number)  # our child: its pid is not given away before we wait for it
            return True
        handle = _open(process.pid)
        if handle is None:
            return _kill_if_same(process, number)
        try:
            now = look_at(process.pid)
            if now is None or now.started != process.started:
                return False
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True


def send_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False: it has no member left, or none that may be signalled."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def _open(pid: int) -> int | None:
    """A pidfd; None where there are none (old kernels, filters of system calls). ProcessLookupError: it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


def _kill_if_same(process: Process, number: int) -> bool:
    now = look_at(process.pid)
    if now is None or now.started != process.started:
        return False
    os.kill(process.pid, number)
    return True
