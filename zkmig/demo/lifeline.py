"""How the demo's processes end: on SIGTERM, and when whoever started them is gone, however it went.

Each child's standard input is a pipe whose other end only its parent holds; the pipe ends with the parent, even when
that is killed outright.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

END_TIMEOUT_S = 10.0


def start_child(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one. What it prints goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in a terminal is for the demo, which then ends its children
        )


def end_children(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """End processes, politely first. Again: nothing."""
    children = list(children)
    for child in children:
        child.terminate()
    deadline = time.monotonic() + END_TIMEOUT_S
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin is not None:
            child.stdin.close()


def until_ended() -> threading.Event:
    """In a child: an event that is set when the child should end."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    threading.Thread(target=_await_parent, args=(over,), name="zkmig-demo-lifeline", daemon=True).start()
    return over


def _await_parent(over: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    over.set()
    # Nobody is left to insist, should the main thread be stuck on a server that went away as well.
    time.sleep(END_TIMEOUT_S)
    os._exit(1)
