"""Guards without ZooKeeper (tests/guard_process.py), and a yard around them that nothing leaves.

Whatever starts in a Yard has its mark in the environment. When the yard closes, also after a failure, it ends all that
has the mark or is below one that has, by pid, and fails the test that left something.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from zkmig.guard.descendants import all_processes, below, look_at

REPOSITORY = Path(__file__).parent.parent
MARK = "ZKMIG_TEST_YARD"
PATIENCE_S = 30.0

Told = dict[str, Any]


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Until it holds; fails the test when it does not in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether this pid is a process that still can do something."""
    process = look_at(pid)
    return process is not None and process.runs


class Guarded:
    """A stand-in guard in a process of its own."""

    def __init__(self, yard: Yard, argv: Sequence[str], settings: Told, popen: Told) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        self.instance = settings.setdefault("instance", uuid.uuid4().hex)
        self.keeper = 0
        self.command = 0
        self._channel = ours
        self._lines = b""
        os.set_inheritable(theirs.fileno(), True)
        try:
            prefix = popen.pop("prefix", [])
            environment = {**os.environ, MARK: yard.mark, "PYTHONPATH": str(REPOSITORY), **popen.pop("env", {})}
            start = [*prefix, sys.executable, "-m", "tests.guard_process", str(theirs.fileno())]
            text = json.dumps({"argv": list(argv), **settings})
            options: dict[str, Any] = {"close_fds": False, "env": environment, **popen}
            self.process: subprocess.Popen[bytes] = subprocess.Popen([*start, text], **options)
        finally:
            theirs.close()

    def start(self, argv: Sequence[str] | None = None) -> Self:
        """CMD runs when this returns."""
        self.tell(do="start", argv=argv)
        self.command = self.expect("Started")["pid"]
        return self

    def tell(self, **order: object) -> None:
        self._channel.sendall(json.dumps(order).encode() + b"\n")

    def stop(self, grace_s: float) -> None:
        self.tell(do="stop", grace_s=grace_s)

    def next_event(self) -> Told:
        while b"\n" not in self._lines:
            data = self._channel.recv(65536)
            assert data, "the stand-in guard has ended"
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        told: Told = json.loads(line)
        self.keeper = told["keeper"] or self.keeper
        return told

    def expect(self, name: str) -> Told:
        told = self.next_event()
        assert told["event"] == name, told
        return told

    def quiet(self, for_s: float) -> bool:
        """Whether nothing is told for so long."""
        return not self._lines and not select.select([self._channel], [], [], for_s)[0]

    def close(self) -> None:
        """Let it go: it tells its keeper by closing its end, and ends."""
        self._channel.shutdown(socket.SHUT_WR)
        self.process.wait(PATIENCE_S)

    def forget(self) -> None:
        """What is left to do for whoever made it."""
        self._channel.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                _close_quietly(stream)


def _close_quietly(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return


class Yard:
    """A context manager around guards. folder: where commands may leave files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self._guards: list[Guarded] = []

    def guard(self, argv: Sequence[str], *, popen: Told | None = None, **settings: object) -> Guarded:
        """A stand-in guard for this command, not started. settings: see guard_process. popen: for its own process."""
        made = Guarded(self, argv, settings, popen or {})
        self._guards.append(made)
        return made

    def pid_from(self, name: str) -> int:
        """The pid that a command writes into a file of the folder, once it has."""
        file = self.folder / name
        wait_for(lambda: file.exists() and file.read_text().endswith("\n"), f"a pid in {name}")
        return int(file.read_text().splitlines()[0])

    def inhabitants(self) -> set[int]:
        """Who has the mark, and who is below them."""
        processes = all_processes()
        found = set()
        for pid, process in processes.items():
            if process.runs and _has_mark(pid, self.mark):
                found |= {pid, *(each.pid for each in below(pid, processes) if each.runs)}
        return found - {os.getpid()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left: set[int] = set()
        if kind is None:
            for guard in self._guards:
                if guard.process.poll() is None:
                    guard.close()
            left = self.inhabitants()
        self.sweep()
        for guard in self._guards:
            guard.process.wait(PATIENCE_S)
            guard.forget()
        assert not left, f"the test left processes: {left}"

    def sweep(self) -> None:
        """End all inhabitants, in a test that leaves some on purpose."""
        wait_for(self._sweep, "an end of all that the test started")

    def _sweep(self) -> bool:
        found = self.inhabitants()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody forks on
            for pid in found:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        return not found


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
