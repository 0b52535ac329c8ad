"""A stubborn service manager: it keeps services running, and takes one that was stopped by hand for a fault.

    python -m zkmig.demo.service_manager --services FILE --events FILE --patience SECONDS

In 2016 this was the package management system, which noticed a manual change and reverted it. It knows nothing of
migrations. It runs, and its services with it, until it is told to end (see `lifeline`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from zkmig.demo.lifeline import end_children, start_child, until_ended
from zkmig.demo.lines import append

LOOK_INTERVAL_S = 0.1

STARTED = "started"
ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """What the manager did or noticed. what: STARTED or ENDED. at_s: on the monotonic clock."""

    service: str
    what: str
    pid: int
    at_s: float


@dataclass
class Service:
    """A service that is to run. process: the last one started; down_since_s: None while it runs."""

    name: str
    argv: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    down_since_s: float | None = None


class ServiceManager:
    """Starts each service at once, and again whenever it has been down for `patience_s`."""

    def __init__(self, services: Sequence[Service], events: Path, patience_s: float) -> None:
        self._services = services
        self._events = events
        self._patience_s = patience_s

    def run(self, over: threading.Event) -> None:
        """Look after the services until `over`, then end them."""
        try:
            while True:
                for service in self._services:
                    self._look_after(service)
                if over.wait(LOOK_INTERVAL_S):
                    return
        finally:
            end_children(service.process for service in self._services if service.process is not None)

    def _look_after(self, service: Service) -> None:
        now_s = time.monotonic()
        if service.process is None:
            self._start(service)
        elif service.process.poll() is None:
            return
        elif service.down_since_s is None:
            service.down_since_s = now_s
            self._note(service, ENDED)
        elif now_s - service.down_since_s >= self._patience_s:
            self._start(service)

    def _start(self, service: Service) -> None:
        service.process = start_child(service.argv, service.log)
        service.down_since_s = None
        self._note(service, STARTED)

    def _note(self, service: Service, what: str) -> None:
        assert service.process is not None
        append(self._events, asdict(Event(service.name, what, service.process.pid, time.monotonic())))


def main() -> None:
    """The process. The services file holds {name: argv}; each service's output goes to NAME.log beside it."""
    parser = argparse.ArgumentParser(description="The service manager of the demo.")
    parser.add_argument("--services", type=Path, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--patience", type=float, required=True, help="seconds that a service may be down")
    arguments = parser.parse_args()
    over = until_ended()
    wanted = json.loads(arguments.services.read_text())
    services = [Service(name, argv, arguments.services.with_name(f"{name}.log")) for name, argv in wanted.items()]
    ServiceManager(services, arguments.events, arguments.patience).run(over)


if __name__ == "__main__":
    main()
