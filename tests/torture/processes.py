"""Child processes of a run: readers, churn and migrators, each started, stopped and ended by its own process id."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.program import PROGRAM, Program
from tests.torture.history import Log
from tests.torture.migrator_process import SECRET, STANDING
from tests.torture.reader_process import ADMITTED

REPOSITORY: Final = Path(__file__).parent.parent.parent
END_TIMEOUT_S: Final = 30.0
MIGRATOR_TIMEOUT_S: Final = 90.0
EXIT_INTERNAL: Final = 70
TIMED_OUT: Final = -99
TRACEBACK: Final = "Traceback (most recent call last)"


class Child:
    """A process that ends when its standard input closes."""

    def __init__(self, module: str, *arguments: object, errors: Path) -> None:
        self._errors = errors.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"tests.torture.{module}", *map(str, arguments)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=Program.environment(),
            bufsize=0,  # a line that was read ahead is one that select() does not see
        )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """SIGSTOP; returns when it stands still."""
        stop(self.process)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def hear(self, timeout_s: float) -> str:
        """The next line that it says; "" if there is none within the time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        return self.process.stdout.readline().decode().strip() if ready else ""

    def end(self) -> int:
        """Let it end; its exit code."""
        self.go_on()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            return self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._errors.close()


class ReaderChild(Child):
    """A reader. name: under which it writes its events."""

    def __init__(self, folder: Path, name: str, hosts: str, scope: str, apart: str, *options: str) -> None:
        self.name = name
        super().__init__(
            "reader_process", folder, name, hosts, scope, apart, *options, errors=folder / f"stderr-{name}"
        )

    def act(self, seconds: float, timeout_s: float = 20.0) -> bool:
        """Begin an action; whether it was admitted."""
        while self.hear(0.0):
            pass  # what it said of the action before
        self.tell(f"act {seconds}")
        return self.hear(timeout_s) == ADMITTED


class Migrator:
    """A migrator's process, from its start to its report, written down as events."""

    def __init__(self, log: Log, number: int, command: list[str], shown: dict[str, Any], errors: Path) -> None:
        self._log = log
        self.number = number
        self.shown = shown
        self._errors_path = errors
        self._errors = errors.open("wb")
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=Program.environment({"ZKMIG_AUTH": f"digest:{SECRET}"}),
        )
        self._has_ended = False
        self.exit = -1
        self.report: Any = None
        self._note("began")

    @classmethod
    def of_program(cls, log: Log, number: int, arguments: list[object], folder: Path) -> Migrator:
        """The real program."""
        words = [str(argument) for argument in arguments]
        shown = {"command": words[0], "arguments": words[1:]}
        return cls(log, number, [PROGRAM, *words, "--json"], shown, folder / f"stderr-migrator-{number}")

    @classmethod
    def of_order(cls, log: Log, number: int, order: dict[str, Any], folder: Path) -> Migrator:
        """`tests.torture.migrator_process`."""
        command = [sys.executable, "-m", "tests.torture.migrator_process", json.dumps(order)]
        return cls(log, number, command, order, folder / f"stderr-migrator-{number}")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def broken(self) -> str:
        """How it ended as no migrator may, whatever befalls it; "" if it did not."""
        if not self._has_ended:
            return ""
        which = f"migrator {self.number} ({self.shown['command']}): "
        if self.exit == TIMED_OUT:
            return f"{which}was still at work after {MIGRATOR_TIMEOUT_S:.0f} s"
        if self.exit == EXIT_INTERNAL or TRACEBACK in self.said:
            return f"{which}exit {self.exit}: {self.said.strip()[-600:]}"
        return ""

    @property
    def said(self) -> str:
        """What it has printed for people so far."""
        return self._errors_path.read_text(errors="replace")

    def wait_standing(self, timeout_s: float = MIGRATOR_TIMEOUT_S) -> bool:
        """Whether it came to stand at the place that its order names; False when it ended before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if STANDING in self.said:
                state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if state is not None:
                    return state.si_code == os.CLD_STOPPED
            elif not self.is_alive:
                return False
            time.sleep(0.005)
        return False

    def stop(self) -> bool:
        """SIGSTOP; whether it was still there to be stopped."""
        if not self.is_alive:
            return False
        self._note("stopped")
        return stop(self.process)

    def go_on(self) -> None:
        if self.is_alive:
            self._note("continued")
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> bool:
        """SIGKILL; whether it was still there."""
        was_alive = self.is_alive
        if was_alive:
            self._note("killed")
            self.process.kill()
        self.wait()
        return was_alive

    def wait(self, timeout_s: float = MIGRATOR_TIMEOUT_S) -> int:
        """Its exit code, negative for a signal; -99 when it had to be killed after the time-out."""
        if self._has_ended:
            return self.exit
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
            self.exit = self.process.returncode
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
            self.exit = TIMED_OUT
        self._has_ended = True
        self._errors.close()
        lines = output.decode(errors="replace").splitlines()
        try:
            self.report = json.loads(lines[-1]) if lines else None
        except ValueError:
            self.report = {"text": lines[-1]}
        self._note("ended", exit=self.exit, outcome=self.said.strip().rpartition("\n")[2], report=self.report)
        return self.exit

    def _note(self, phase: str, **fields: Any) -> None:
        self._log.write("migrator", phase=phase, number=self.number, **self.shown, **fields)


def stop(process: subprocess.Popen[bytes]) -> bool:
    """SIGSTOP by process id; whether it stands still (False: it has ended)."""
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGSTOP)
    # The signal is on its way when kill() returns; the kernel reports when the last thread has stopped.
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return state is not None and state.si_code == os.CLD_STOPPED
