"""What the demo plays on: two servers, a service manager and its two autoscalers, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from zkmig.demo.lifeline import end_children, start_child
from zkmig.demo.lines import Tail
from zkmig.demo.observations import Observation
from zkmig.demo.service_manager import ENDED, STARTED, Event
from zkmig.dev import Server
from zkmig.dev.folder import KeptFolder
from zkmig.errors import ZkmigError

PLAIN = "plain"
AWARE = "aware"
KINDS = (PLAIN, AWARE)

SCOPE = "registry"

WAIT_MAX_S = 90.0
WAIT_POLL_S = 0.1


class Stage:
    """Invariant: everything on it ends with the `with` block, and also when this process is killed outright.

    on_event, on_round: told what the service manager and the autoscalers have written, when it is looked at.
    """

    def __init__(self, on_event: Callable[[Event], None], on_round: Callable[[str, Observation], None]) -> None:
        self._on_event = on_event
        self._on_round = on_round
        self._stack = ExitStack()
        self.observations: dict[str, list[Observation]] = {kind: [] for kind in KINDS}
        self.events: list[Event] = []

    def __enter__(self) -> Self:
        try:
            self.source = self._stack.enter_context(Server())
            self.target = self._stack.enter_context(Server())
            kept = KeptFolder()
            self._stack.callback(kept.close)
            self._folder = kept.path
            self._events_tail = Tail(self._folder / "events")
            self._tails = {kind: Tail(self._folder / f"{kind}.rounds") for kind in KINDS}
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- processes ----------------------------------------------------------------------------------------------------

    def start_service_manager(self, running: Iterable[str], patience_s: float) -> None:
        """Start the manager, which starts both autoscalers. running: ids of servers, as the cloud would list them."""
        cloud = self._folder / "running.json"
        cloud.write_text(json.dumps(list(running)))
        wanted = {kind: self._autoscaler_argv(kind, cloud) for kind in KINDS}
        services = self._folder / "services.json"
        services.write_text(json.dumps(wanted))
        argv = [sys.executable, "-m", "zkmig.demo.service_manager", "--services", str(services)]
        argv += ["--events", str(self._folder / "events"), "--patience", str(patience_s)]
        manager = start_child(argv, self._folder / "service_manager.log")
        self._stack.callback(end_children, [manager])

    def _autoscaler_argv(self, kind: str, cloud: Path) -> list[str]:
        argv = [sys.executable, "-m", "zkmig.demo.autoscaler", "--reader", kind, "--hosts", self.target.hosts]
        argv += ["--scope", SCOPE, "--running", str(cloud), "--record", str(self._folder / f"{kind}.rounds")]
        return argv

    def pid(self, kind: str) -> int:
        """Of the autoscaler's latest process."""
        return next(event.pid for event in reversed(self.events) if event.service == kind and event.what == STARTED)

    def stop_autoscalers_by_hand(self) -> None:
        """What an operator does: SIGTERM to each, without a word to the service manager. Returns when they are gone."""
        pids = [self.pid(kind) for kind in KINDS]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        self.wait(lambda: set(pids) <= {event.pid for event in self.events if event.what == ENDED}, "end")

    # -- what they do -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Take in what was written since the last look: the manager's events, the autoscalers' rounds."""
        for fields in self._events_tail.new():
            self.events.append(Event(**fields))
            self._on_event(self.events[-1])
        for kind, tail in self._tails.items():
            for fields in tail.new():
                self.observations[kind].append(Observation.of(fields))
                self._on_round(kind, self.observations[kind][-1])

    def views_since(self, kind: str, since_s: float) -> int:
        """How many views an autoscaler has begun and ended since a moment of the monotonic clock."""
        return sum(each.begun_s >= since_s for each in self.observations[kind])

    def wait_for_views(self, count: int, since_s: float) -> None:
        """Wait until each autoscaler has taken `count` views since then."""
        self.wait(lambda: all(self.views_since(kind, since_s) >= count for kind in KINDS), f"read {count} times")

    def wait(self, is_done: Callable[[], bool], what: str) -> None:
        """Look until `is_done`; what the autoscalers failed to do, with the end of their logs, after WAIT_MAX_S."""
        deadline = time.monotonic() + WAIT_MAX_S
        while True:
            self.look()
            if is_done():
                return
            if time.monotonic() > deadline:
                raise ZkmigError(f"the autoscalers did not {what} within {WAIT_MAX_S:g} s", "", self._logs_end())
            time.sleep(WAIT_POLL_S)

    def _logs_end(self) -> str:
        ends = []
        for name in (*KINDS, "service_manager"):
            log = self._folder / f"{name}.log"
            lines = log.read_text(errors="replace").split("\n") if log.exists() else []
            ends.append(f"{name}: {next((line for line in reversed(lines) if line.strip()), 'no output')}")
        return "their logs end: " + "; ".join(ends)
