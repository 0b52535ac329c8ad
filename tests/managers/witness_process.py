"""A service that knows nothing of epochs, and writes down that it runs: what a migration must never meet.

    python -m tests.managers.witness_process --hosts HOSTS --path PATH --record FILE [--linger SECONDS] [--child]

It looks at a znode again and again, after sync, so that the servers' zxid at that moment is known, too; and beside
that, whatever the servers do, it writes a line every 20 ms. linger: it goes on for so long after SIGTERM. child: it
has one that has left its session and its parent, and does the same.

A line: pid, role (main or child), t (monotonic clock, seconds), wall (seconds since 1970), what ("began", "runs",
"saw" with zxid, "told to end").
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

BEAT_S = 0.02
MAIN, CHILD = "main", "child"
BEGAN, RUNS, SAW, TOLD = "began", "runs", "saw", "told to end"


class Diary:
    """Lines, each appended by one write."""

    def __init__(self, file: Path, role: str) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._role = role

    def write(self, what: str, **fields: object) -> None:
        line = {"pid": os.getpid(), "role": self._role, "t": time.monotonic(), "wall": time.time(), "what": what}
        os.write(self._descriptor, json.dumps({**line, **fields}).encode() + b"\n")


def beat(diary: Diary) -> None:
    """For ever."""
    while True:
        diary.write(RUNS)
        time.sleep(BEAT_S)


def look(diary: Diary, hosts: str, path: str) -> None:
    """For ever."""
    from kazoo.client import KazooClient  # only now: the diary is to begin as soon as the process does
    from kazoo.exceptions import KazooException

    client = KazooClient(hosts)
    client.start_async()
    while True:
        with contextlib.suppress(KazooException):
            client.sync(path)
            client.get(path)
            diary.write(SAW, zxid=client.last_zxid)
        time.sleep(BEAT_S)


def leave_home() -> bool:
    """Fork twice, with a new session in between, as daemons do; whether this is the child that has left."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            return True
        os._exit(0)
    os.wait()
    return False


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--linger", type=float, default=0.0)
    parser.add_argument("--child", action="store_true")
    arguments = parser.parse_args()
    role = CHILD if arguments.child and leave_home() else MAIN
    diary = Diary(arguments.record, role)
    diary.write(BEGAN)

    def end(number: int, _: object) -> None:
        diary.write(TOLD)
        deadline = time.monotonic() + arguments.linger
        while time.monotonic() < deadline:
            time.sleep(BEAT_S)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=beat, args=(diary,), daemon=True).start()
    look(diary, arguments.hosts, arguments.path)


if __name__ == "__main__":
    main()
