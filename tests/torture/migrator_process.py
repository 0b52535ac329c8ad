"""A migrator in a process of its own that can stand still (SIGSTOP) just before it sends a chosen write.

    python -m tests.torture.migrator_process JSON

JSON: command (apply, resume, rollback, prune), at, scope, plan, epoch, session_timeout_s, steal, throttle,
single_shot, drain_timeout_s, off: mechanisms to do without, of OFF, for negative controls; and stop: null or
{"kind": "batch" | "undo" | "acl" | "journal" | "delete" | "to-STATE", "number": N}: before the Nth write of that kind,
from 0, the process says `standing` and stops itself; what it sends once it is continued is what a process sends that
was paused there. One JSON line on standard output says what came of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import zkmig
from zkmig.api import access
from zkmig.apply.drain import Drain
from zkmig.errors import ZkmigError
from zkmig.wire.client import Client
from zkmig.wire.replies import Reply
from zkmig.wire.requests import Create, Delete, Multi, Read, SetAcl, SetData, Write

STANDING = "standing"
SECRET = "me:hunter2"


def kinds_of(request: Read | Write) -> set[str]:
    """What a request is to a migration: batch, undo, acl, journal, delete (of its own nodes), to-STATE."""
    if isinstance(request, SetAcl):
        return {"acl"}
    if not isinstance(request, Multi):
        return set()
    found: set[str] = set()
    for op in request.operations:
        match op:
            case SetData(path=path) if path.endswith("/cursor"):
                found.add("batch")
            case SetData(path=path) if path.endswith("/rcursor"):
                found.add("undo")
            case SetData(path=path, data=bytes(data)) if path.endswith("/epoch"):
                found.add(f"to-{json.loads(data)['state']}")
            case Create(path=path) if "/epochs/" in path:
                found.add("journal")
            case Delete(path=path) if "/epochs/" in path:
                found.add("delete")
    return found


class Standing:
    """Counts the writes of a kind, and stops the process before one of them."""

    def __init__(self, stop: dict[str, Any] | None) -> None:
        self._stop = stop
        self._seen = 0

    def before(self, request: Read | Write) -> None:
        if self._stop is None or self._stop["kind"] not in kinds_of(request):
            return
        self._seen += 1
        if self._seen == self._stop["number"] + 1:
            os.write(2, f"{STANDING}\n".encode())
            os.kill(os.getpid(), signal.SIGSTOP)


def watched(before: Callable[[Read | Write], None]) -> type[Client]:
    """The engine's client, which asks before each request."""

    class WatchedClient(Client):
        def call_reply(self, request: Read | Write) -> Reply:
            before(request)
            return super().call_reply(request)

        def pipeline(
            self, requests: Iterable[Read | Write], depth: int | Callable[[], int]
        ) -> Generator[Reply, None, None]:
            def asked() -> Iterator[Read | Write]:
                for request in requests:
                    before(request)
                    yield request

            return super().pipeline(asked(), depth)

    return WatchedClient


def _wait_for_nothing(drain: Drain) -> None:
    """Whatever is admitted or runs."""
    del drain


OFF: dict[str, Callable[[], None]] = {"drain": lambda: setattr(Drain, "wait", _wait_for_nothing)}


def run(order: dict[str, Any]) -> Any:
    """Do what was asked; the result as JSON holds it."""
    session: dict[str, Any] = {
        "auth": [("digest", SECRET)],
        "session_timeout_s": order.get("session_timeout_s"),
        "scope": order["scope"],
        "steal": order.get("steal", False),
        "throttle": order.get("throttle"),
        "say": lambda sentence: os.write(2, f"{sentence}\n".encode()),
    }
    match order["command"]:
        case "apply":
            return zkmig.apply(
                order["plan"],
                order["at"],
                epoch=order["epoch"],
                single_shot=order.get("single_shot", "never"),
                drain_timeout_s=order.get("drain_timeout_s", 20.0),
                **session,
            )
        case "resume":
            return zkmig.resume(order["plan"], order["at"], single_shot=order.get("single_shot", "never"), **session)
        case "prune":
            return zkmig.prune(order["at"], keep=0, **{name: session[name] for name in session if name != "throttle"})
        case "rollback":
            return zkmig.rollback(order["at"], **session)
    raise ValueError(order["command"])


def main() -> int:
    """See the module. The exit code is the program's own for the same failure."""
    order = json.loads(sys.argv[1])
    for mechanism in order.get("off", ()):
        OFF[mechanism]()
    access.Client = watched(Standing(order.get("stop")).before)  # type: ignore[attr-defined]  # only in this process
    try:
        result = run(order)
    except ZkmigError as error:
        line = {"error": type(error).__name__, "what": error.what, "where": error.where, "outcome": error.outcome.name}
        os.write(1, (json.dumps(line) + "\n").encode())
        return error.exit_code
    deviations = [deviation.path for deviation in getattr(result, "deviations", ())]
    os.write(1, (json.dumps({"result": type(result).__name__, "deviations": deviations}) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
