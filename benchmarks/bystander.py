"""Another client of the server, in a process of its own: what its small writes take, all the time.

A process, since what is measured is the server: a thread would wait for the interpreter that the migration uses.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self

from zkmig.model.acl import OPEN_ACL
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.requests import Create, SetData

INTERVAL_S: Final = 0.003  # between an answer and the next write
NODE: Final = "/bystander"


class Bystander:
    """A context manager: writes from its beginning to its end."""

    def __init__(self, hosts: str) -> None:
        self._hosts = hosts
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with Client(parse_hosts(self._hosts)) as client:
            if client.exists(NODE) is None:
                client.call(Create(NODE, b"", OPEN_ACL))
        command = [sys.executable, "-m", "benchmarks.bystander", self._hosts]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def latencies(self) -> list[float]:
        """Seconds, ascending, of the writes answered since it was last asked, or since the beginning."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return sorted(map(float, process.stdout.readline().split()))


def quantile(ascending: list[float], part: float) -> float:
    """Of so large a part of them none is greater."""
    return ascending[min(len(ascending) - 1, int(part * len(ascending)))]


def _write_until_told(hosts: str) -> None:
    found: list[float] = []
    with Client(parse_hosts(hosts)) as client:
        while True:
            start = time.perf_counter()
            client.call(SetData(NODE, b"x", -1))  # -1: nobody else writes it
            found.append(time.perf_counter() - start)
            if select.select([sys.stdin], [], [], INTERVAL_S)[0]:
                if not sys.stdin.readline():
                    return
                sys.stdout.write(" ".join(f"{each:.6f}" for each in found) + "\n")
                sys.stdout.flush()
                found.clear()


if __name__ == "__main__":
    _write_until_told(sys.argv[1])
