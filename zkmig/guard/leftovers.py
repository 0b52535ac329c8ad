"""What a guard left behind that was killed together with its keeper, found by the marker in its environment.

Every process below a keeper inherits ZKMIG_GUARD=<instance of the guard>; a guard inside a guard adds its own after a
colon. /proc/PID/environ shows the environment that a process was started with, to the same user and to root.

Not found is: who cleared the environment on exec (`env -i`), who wrote over it (some servers put their title there),
and who belongs to another user, unless we are root. What such a process started is found where it is below one that is.

So that nothing is found proves something only where we could look: into every process that there is (`sees_all`), or,
if the guard of before acted as the same user as we, into all of this user (`sees_own`): those are what it had started,
unless they changed their user or closed themselves to it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from zkmig.errors import BadInput
from zkmig.guard.descendants import (
    PROC,
    Process,
    all_processes,
    below,
    hides_processes,
    proc_is_ours,
    read_process,
    send,
)
from zkmig.guard.ending import signal_all

MARKER = "ZKMIG_GUARD"
SEPARATOR = ":"
POLL_INTERVAL_S = 0.1


def marked(outer: str, instance: str) -> str:
    """The marker's value inside a guard `instance` that itself runs with the value `outer` ("" outside of any)."""
    return f"{outer}{SEPARATOR}{instance}" if outer else instance


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a look at /proc found of one instance.

    processes: those that carry its marker, and all that is below them. unreadable: how many processes there are that
    began no earlier than the instance, as far as is known, and into which we may not look; any of them might be one.
    sees_own: nothing but rights kept us from looking: no want of descriptors, no error of /proc. sees_all: nothing did.
    """

    processes: tuple[Process, ...]
    unreadable: int
    sees_own: bool
    sees_all: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """What was ended, and what is left: left is empty, or names what KILL has not ended in the time given.

    sees_own, sees_all: of the last look, as in Leftovers: what it is worth that left is empty.
    """

    ended: int
    left: tuple[Process, ...]
    sees_own: bool
    sees_all: bool


def find_leftovers(instance: str, started_after: int = 0) -> Leftovers:
    """Look for what `instance` left. started_after: when the instance began (clock ticks since boot), 0 if unknown.

    We ourselves, and those above us, are never among them: an outer guard's marker is in our environment too.
    BadInput where /proc is another pid namespace's: its pids are not ours to signal.
    """
    if not proc_is_ours():
        raise BadInput("does not show this pid namespace", PROC, "mount proc inside the namespace (--mount-proc)")
    unread: list[OSError] = []
    processes = all_processes(unread.append)
    above = _above(os.getpid(), processes)
    found: dict[int, Process] = {}
    for process in processes.values():
        if process.pid in above or not process.runs or process.started < started_after:
            continue
        try:
            if _carries(process, instance):
                found[process.pid] = process
        except OSError as error:
            unread.append(error)
    for process in list(found.values()):
        for each in below(process.pid, processes):
            if each.pid not in above and each.runs:
                found[each.pid] = each
    forbidden = sum(isinstance(error, PermissionError) for error in unread)
    sees_own = forbidden == len(unread)
    return Leftovers(tuple(found.values()), forbidden, sees_own, not unread and not hides_processes())


def end_leftovers(instance: str, *, grace_s: float, timeout_s: float, started_after: int = 0) -> Swept:
    """End what `instance` left: TERM, KILL after the grace, again until a look finds nothing, at most `timeout_s` long.

    They are nobody's children of ours, so there is no proof as in a keeper: the last look found nothing, that is all.
    """
    began = time.monotonic()
    told: set[tuple[int, int]] = set()
    seen: set[tuple[int, int]] = set()
    while True:
        look = find_leftovers(instance, started_after)
        seen.update(process.key for process in look.processes)
        elapsed = time.monotonic() - began
        if not look.processes or elapsed >= timeout_s:
            return Swept(len(seen) - len(look.processes), look.processes, look.sees_own, look.sees_all)
        if elapsed < grace_s:
            fresh = [process for process in look.processes if process.key not in told]
            for process in fresh:
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)
            told.update(process.key for process in fresh)
        else:
            signal_all(list(look.processes), all_processes(), signal.SIGSTOP)
            signal_all(list(find_leftovers(instance, started_after).processes), all_processes(), signal.SIGKILL)
        time.sleep(POLL_INTERVAL_S)


def _carries(process: Process, instance: str) -> bool:
    """Whether the marker in its environment names `instance`. OSError when it runs, and we cannot look."""
    try:
        with open(f"{PROC}/{process.pid}/environ", "rb") as file:
            environment = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        if _has_ended(process):
            return False
        raise
    prefix = f"{MARKER}=".encode()
    wanted = instance.encode()
    for setting in environment.split(b"\0"):
        if setting.startswith(prefix) and wanted in setting[len(prefix) :].split(SEPARATOR.encode()):
            return True
    return False


def _has_ended(process: Process) -> bool:
    """Whether it has since it was read, and that is certain as far as /proc shows."""
    try:
        now = read_process(process.pid)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return now.key != process.key or not now.runs


def _above(pid: int, processes: dict[int, Process]) -> set[int]:
    """This process and its ancestors."""
    above: set[int] = set()
    while pid and pid not in above:
        above.add(pid)
        process = processes.get(pid)
        pid = 0 if process is None else process.parent
    return above
