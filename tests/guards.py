"""Guards as their users run them: the program with a command behind it, its status file, and its end.

Whatever a test does, nothing that a guard has started is left behind: what still runs at the end is ended, and a guard
that left anything fails the test.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.program import PROGRAM, Program
from tests.scopes import Site
from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.record import Held
from zkmig.guard.leftovers import end_leftovers, find_leftovers

TIMEOUT_S = 30.0

# Says "up" and its pid, and waits; TERM ends it with 3.
SLEEPER = ("sh", "-c", "trap 'exit 3' TERM; echo up $$; while :; do sleep 0.05; done")

HELD = Held("rack move", "ops", 1.0)


def until(what: Callable[[], object], why: str = "") -> None:
    """Wait for it, or fail."""
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline, why or "it does not come about"
        time.sleep(0.02)


class Guarded:
    """Guards of one scope in one folder; several may run one after the other, or beside each other."""

    def __init__(self, hosts: str, names: ControlPaths, folder: Path) -> None:
        self.hosts = hosts
        self.names = names
        self.folder = folder
        self._running: list[subprocess.Popen[str]] = []
        self._instances: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr, process.stdin):
                if stream is not None:
                    stream.close()
        for claim in self.folder.glob("state*/guard.*.lock"):
            self._instances |= {holder["instance"] for holder in json.loads(claim.read_text())["holders"]}
        # A keeper whose guard was killed needs its time.
        left = [one for one in self._instances if end_leftovers(one, grace_s=0.0, timeout_s=10.0).left]
        assert not left

    def argv(self, *options: object, command: Sequence[str] = SLEEPER, hosts: str | None = None) -> list[str]:
        """How it is called."""
        own = ["--at", f"zk://{hosts or self.hosts}", "--scope", self.names.scope, "--control", self.names.control]
        state = ["--state-dir", str(self.folder / "state"), "--status-file", str(self.status_file)]
        return ["guard", *own, *state, "--name", "unit", "--grace", "0.5", *map(str, options), "--", *command]

    def start(
        self,
        *options: object,
        command: Sequence[str] = SLEEPER,
        hosts: str | None = None,
        program: Sequence[str] = (PROGRAM,),
        environment: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> subprocess.Popen[str]:
        """Begin; the options override those that are always given. stdout and stderr are files in the folder."""
        self.status_file.unlink(missing_ok=True)
        with open(self.folder / "stdout", "a") as out, open(self.folder / "stderr", "a") as err:
            process = subprocess.Popen(
                [*program, *self.argv(*options, command=command, hosts=hosts)],
                cwd=self.folder,
                env=Program.environment(environment),
                text=True,
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **popen},
            )
        self._running.append(process)
        return process

    @property
    def status_file(self) -> Path:
        return self.folder / "status.json"

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def status(self) -> dict[str, Any]:
        """What the status file says, {} while there is none."""
        try:
            found: dict[str, Any] = json.loads(self.status_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    def is_in(self, phase: str, why: str = "") -> bool:
        now = self.status()
        return now.get("phase") == phase and why in str(now["why"])

    def await_phase(self, phase: str, why: str = "") -> dict[str, Any]:
        """Wait until it is in the phase, for a reason that has these words in it."""
        until(lambda: self.is_in(phase, why), f"{phase} {why}: {self.status()} {self.stderr}")
        return self.status()

    def await_running(self) -> int:
        """The pid of the command, once it runs."""
        pid = 0
        deadline = time.monotonic() + TIMEOUT_S
        while not pid:
            now = self.status()
            pid = int(now["pid"] or 0) if now.get("phase") == "running" else 0
            assert time.monotonic() < deadline, f"{now} {self.stderr}"
            time.sleep(0.02)
        return pid

    def await_up(self) -> int:
        """The pid of SLEEPER, once TERM ends it with 3."""
        pid = self.await_running()
        until(lambda: f"up {pid}\n" in self.stdout)
        return pid

    def end(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code."""
        process.send_signal(number)
        return process.wait(TIMEOUT_S)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def leftovers(instance: str) -> list[int]:
    """Pids of all that a guard has started and that still runs."""
    return [process.pid for process in find_leftovers(instance).processes]


def entry_of(data: bytes | None) -> GuardEntry:
    """What a registration says."""
    entry = GuardEntry.decode(data)
    assert entry is not None
    return entry


def registration(site: Site) -> GuardEntry:
    """That of the guard `unit`."""
    return entry_of(site.kazoo.get(f"{site.names.guards}/unit")[0])


def hold(site: Site, held: Held | None) -> None:
    """Hold, or release, as an admin does."""
    record, stat = site.record(), site.kazoo.get(site.names.record)[1]
    site.kazoo.set(site.names.record, records.encode(record.updated(held=held)), stat.version)


def python(code: str) -> tuple[str, ...]:
    """A command that runs this."""
    return (sys.executable, "-c", code)
