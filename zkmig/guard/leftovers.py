"""What a guard left behind that was killed together with its keeper, found by the marker in its environment.

Every process below a keeper inherits ZKMIG_GUARD=<instance of the guard>; a guard inside a guard adds its own after a
colon. /proc/PID/environ shows the environment that a process was started with, to the same user and to root.

Not found is: who cleared the environment on exec (`env -i`), who wrote over it (some servers put their title there),
and who belongs to another user, unless we are root; of the last, `Leftovers.unreadable` says how many there are.
What such a process started is found where it is below one that is.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from zkmig.errors import BadInput
from zkmig.guard.descendants import PROC, Process, all_processes, below, look_at, proc_is_ours, send
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
    began no earlier than the instance and whose environment we may not read; any of them might be one.
    """

    processes: tuple[Process, ...]
    unreadable: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What was ended, and what is left: left is empty, or names what KILL has not ended in the time given."""

    ended: int
    left: tuple[Process, ...]
    unreadable: int


def find_leftovers(instance: str, started_after: int = 0) -> Leftovers:
    """Look for what `instance` left. started_after: when the instance began (clock ticks since boot), 0 if unknown.

    We ourselves, and those above us, are never among them: an outer guard's marker is in our environment too.
    BadInput where /proc is another pid namespace's: its pids are not ours to signal.
    """
    if not proc_is_ours():
        raise BadInput("does not show this pid namespace", PROC, "mount proc inside the namespace (--mount-proc)")
    processes = all_processes()
    above = _above(os.getpid(), processes)
    found: dict[int, Process] = {}
    unreadable = 0
    for process in processes.values():
        if process.pid in above or not process.runs or process.started < started_after:
            continue
        carries = _carries(process, instance)
        if carries is None:
            unreadable += 1
        elif carries:
            found[process.pid] = process
    for process in list(found.values()):
        for each in below(process.pid, processes):
            if each.pid not in above and each.runs:
                found[each.pid] = each
    return Leftovers(tuple(found.values()), unreadable)


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
            return Swept(len(seen) - len(look.processes), look.processes, look.unreadable)
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


def _carries(process: Process, instance: str) -> bool | None:
    """Whether the marker in its environment names `instance`; None if we may not look."""
    try:
        with open(f"{PROC}/{process.pid}/environ", "rb") as file:
            environment = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        now = look_at(process.pid)
        return None if now is not None and now.key == process.key and now.runs else False
    prefix = f"{MARKER}=".encode()
    wanted = instance.encode()
    for setting in environment.split(b"\0"):
        if setting.startswith(prefix) and wanted in setting[len(prefix) :].split(SEPARATOR.encode()):
            return True
    return False


def _above(pid: int, processes: dict[int, Process]) -> set[int]:
    """This process and its ancestors."""
    above: set[int] = set()
    while pid and pid not in above:
        above.add(pid)
        process = processes.get(pid)
        pid = 0 if process is None else process.parent
    return above
