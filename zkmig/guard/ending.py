"""How all that is left of a tree is ended: TERM, a grace, then KILL, until somebody else has proof that none is left.

The processes ended do not cooperate: they ignore TERM, are stopped, leave their session, start others. So a step is
repeated, and what it does depends on what is there now:

- TERM, and CONT for those that are stopped, to every descendant. What appears later may be what a handler of TERM runs
  to clean up: it is told after `NEWCOMER_S`.
- After the grace, STOP to all until a scan finds nobody new, then KILL to all. Stopped first, because those that are
  killed make room for others to be forked; groups first, because a signal to a group cannot be outrun by forks.

The caller reaps its children and decides when all is over (waitpid says ECHILD). Standard library only: the keeper
loads this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from zkmig.guard.descendants import Process, all_processes, below, direct_children, groups_of, look_at, send, send_group

AT_ONCE_S = 0.1  # what is seen this soon after the beginning was there when it began
NEWCOMER_S = 1.0
LOOK_INTERVAL_S = 0.1
KILL_INTERVAL_MIN_S = 0.01
KILL_INTERVAL_MAX_S = 1.0
STOP_ROUNDS_MAX = 50
CHILDREN_ROUNDS_MAX = 50
STILL_ALIVE_AFTER_S = 5.0
STILL_ALIVE_INTERVAL_S = 60.0

Spared = Callable[[Process], bool]


class Ending:
    """One ending of all descendants of this process. `step` when `next_at` has come (seconds of time.monotonic).

    spared: children of ours that are to live, with all that is below them. group: a process group that is all theirs,
    led by a child that was not yet waited for.
    """

    def __init__(self, now: float, grace_s: float, spared: Spared | None = None, group: int | None = None) -> None:
        self.next_at = now
        self.still_alive: list[Process] | None = None
        self._began = now
        self._kill_at = now + grace_s
        self._spared = spared
        self.group = group
        self._seen: dict[tuple[int, int], float] = {}
        self._told: set[tuple[int, int]] = set()
        self._interval = KILL_INTERVAL_MIN_S
        self._left: set[tuple[int, int]] = set()
        self._complain_at = self._kill_at + STILL_ALIVE_AFTER_S

    def hasten(self, now: float, grace_s: float) -> None:
        """Asked again: the shorter grace holds."""
        self._kill_at = min(self._kill_at, now + grace_s)
        self._complain_at = min(self._complain_at, self._kill_at + STILL_ALIVE_AFTER_S)
        self.next_at = min(self.next_at, self._kill_at)

    def step(self, now: float) -> list[Process]:
        """Do what is due. Returns those that still run; sets `still_alive` when it is time to complain of them."""
        if now < self._kill_at:
            found = self._tell(now)
            self.next_at = min(self._kill_at, now + LOOK_INTERVAL_S)
            return found
        found = self._kill()
        left = {process.key for process in found}
        self._interval = min(self._interval * 2, KILL_INTERVAL_MAX_S) if left == self._left else KILL_INTERVAL_MIN_S
        self._left = left
        self.next_at = now + self._interval
        self.still_alive = None
        if now >= self._complain_at:
            self._complain_at = now + STILL_ALIVE_INTERVAL_S
            self.still_alive = found
        return found

    def _find(self) -> tuple[list[Process], dict[int, Process]]:
        processes = all_processes()
        me = os.getpid()
        if self._spared is None:
            return [process for process in below(me, processes) if process.runs], processes
        found = []
        for child in [process for process in processes.values() if process.parent == me]:
            if not self._spared(child):
                found += [child, *below(child.pid, processes)]
        return [process for process in found if process.runs], processes

    def _tell(self, now: float) -> list[Process]:
        found, _ = self._find()
        for process in found:
            first_seen = self._seen.setdefault(process.key, now)
            at_once = first_seen - self._began <= AT_ONCE_S
            if process.key not in self._told and (at_once or now - first_seen >= NEWCOMER_S):
                self._told.add(process.key)
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)
        return found

    def _kill(self) -> list[Process]:
        if self.group is not None:
            send_group(self.group, signal.SIGSTOP)  # before the first scan: a scan of very many takes its time
        halted: set[tuple[int, int]] = set()
        for _ in range(STOP_ROUNDS_MAX):
            found, processes = self._find()
            fresh = [process for process in found if process.key not in halted]
            if not fresh:
                break
            signal_all(fresh, processes, signal.SIGSTOP)
            halted.update(process.key for process in fresh)
        signal_all(found, processes, signal.SIGKILL)
        _kill_children(self._spared)
        return found


def signal_all(members: list[Process], processes: dict[int, Process], number: int) -> None:
    """Send a signal to `members` out of `processes`, by whole groups first where nobody else is in them."""
    for group in groups_of(members, processes):
        send_group(group, number)
    for process in members:
        send(process, number)


def _kill_children(spared: Spared | None) -> None:
    """KILL to our own children as fast as we can name them, while there are new ones.

    A process that forks and ends, again and again, has another pid whenever a scan is done, and leaves its group each
    time. But its orphans are our children, and their list is one small file.
    """
    seen: set[int] = set()
    for _ in range(CHILDREN_ROUNDS_MAX):
        fresh = set(direct_children() or ()) - seen
        if not fresh:
            return
        for pid in fresh:
            if spared is not None:
                child = look_at(pid)
                if child is None or spared(child):
                    continue
            try:
                os.kill(pid, signal.SIGKILL)  # ours, and not yet waited for: its pid is not given away
            except OSError:
                continue
        seen |= fresh
