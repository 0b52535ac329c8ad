"""One service under any of several managers, each of which starts it again whenever it has ended.

    with UnderSystemd(folder) as manager:
        manager.start("app", ["zkmig", "guard", ..., "--", "app"])

They differ in what they do besides: systemd waits a second and ends what a dead main process has left; supervisord
starts at once and leaves alone what its child has left; the plain one is the package management of the demo, which does
the same after a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.managers.supervisor import Supervisor
from tests.managers.systemd import Systemd, SystemdFailed
from zkmig.demo.lifeline import end_children, start_child
from zkmig.demo.lines import Tail
from zkmig.demo.service_manager import STARTED

RESTART_S = 1.0
STOP_TIMEOUT_S = 30.0


class Services(Protocol):
    """A manager. Every pid is as this process sees it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self, name: str, argv: list[str], environment: Mapping[str, str]) -> None:
        """Define a service that is always to run, and start it."""

    def stop(self, name: str) -> None:
        """Have it stay down. Returns when its main process has ended."""

    def restart(self, name: str) -> None:
        """As an operator does who thinks that it hangs."""

    def pid(self, name: str) -> int | None:
        """Its main process; None while there is none."""

    def output(self, name: str) -> str:
        """What it has printed so far."""


def unit_text(argv: list[str], environment: Mapping[str, str], notify: bool = True) -> str:
    """A unit that is always to run."""
    settings = "".join(f"Environment={_unit_word(f'{key}={value}')}\n" for key, value in environment.items())
    return (
        "[Unit]\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType={'notify' if notify else 'exec'}\nExecStart={' '.join(map(_unit_word, argv))}\n{settings}"
        f"Restart=always\nRestartSec={RESTART_S:g}\nTimeoutStopSec={STOP_TIMEOUT_S:g}\n"
        "SuccessExitStatus=143\n"
    )


def _unit_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


class UnderSystemd:
    """systemd as PID 1 of namespaces of its own. notify: services say when they are up, as `zkmig guard` does."""

    def __init__(self, folder: Path, notify: bool = True) -> None:
        self.systemd = Systemd(folder)
        self._notify = notify

    def __enter__(self) -> Self:
        self.systemd.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.systemd.close()

    def start(self, name: str, argv: list[str], environment: Mapping[str, str]) -> None:
        self.systemd.add(f"{name}.service", unit_text(argv, environment, self._notify))
        # Not waited for: one that is killed while it starts is started again, and systemctl has nothing to tell.
        self.systemd.ctl("start", "--no-block", f"{name}.service")

    def stop(self, name: str) -> None:
        self.systemd.ctl("stop", f"{name}.service")

    def restart(self, name: str) -> None:
        self.systemd.ctl("restart", "--no-block", f"{name}.service")

    def pid(self, name: str) -> int | None:
        try:
            return self.systemd.main_pid(f"{name}.service")
        except SystemdFailed:
            return None

    def output(self, name: str) -> str:
        return self.systemd.output(f"{name}.service")


class UnderSupervisor:
    """supervisord."""

    def __init__(self, folder: Path) -> None:
        self._supervisor = Supervisor(folder)

    def __enter__(self) -> Self:
        self._supervisor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._supervisor.close()

    def start(self, name: str, argv: list[str], environment: Mapping[str, str]) -> None:
        words = ",".join(f'{key}="{_ini(value)}"' for key, value in environment.items())
        self._supervisor.add(
            name,
            f"command={_ini(shlex.join(argv))}\nenvironment={words}\nautorestart=true\nstartsecs=0\n"
            f"startretries=1000000\nstopwaitsecs={STOP_TIMEOUT_S:g}\nstopsignal=TERM\n",
        )

    def stop(self, name: str) -> None:
        self._supervisor.ctl("stop", name)

    def restart(self, name: str) -> None:
        self._supervisor.ctl("restart", name)

    def pid(self, name: str) -> int | None:
        return self._supervisor.pid(name)

    def output(self, name: str) -> str:
        return self._supervisor.output(name)


def _ini(text: str) -> str:
    return text.replace("%", "%%")


class UnderPlain:
    """The package management of the demo, with one service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manager: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._manager is not None:
            end_children([self._manager])

    def start(self, name: str, argv: list[str], environment: Mapping[str, str]) -> None:
        services = self._folder / "services.json"
        settings = [f"{key}={value}" for key, value in environment.items()]
        services.write_text(json.dumps({name: ["/usr/bin/env", *settings, *argv]}))
        command = [sys.executable, "-m", "zkmig.demo.service_manager", "--services", str(services)]
        command += ["--events", str(self._folder / "events"), "--patience", str(RESTART_S)]
        self._manager = start_child(command, self._folder / "manager.log")

    def stop(self, name: str) -> None:
        """There is no such thing: it keeps services running as long as it runs itself."""
        del name
        assert self._manager is not None
        end_children([self._manager])

    def restart(self, name: str) -> None:
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def pid(self, name: str) -> int | None:
        events = [event for event in Tail(self._folder / "events").new() if event["service"] == name]
        return int(events[-1]["pid"]) if events and events[-1]["what"] == STARTED else None

    def output(self, name: str) -> str:
        log = self._folder / f"{name}.log"
        return log.read_text(errors="replace") if log.exists() else ""
