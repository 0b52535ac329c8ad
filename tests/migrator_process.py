"""A migrator in a process of its own, for tests that kill it: `python -m tests.migrator_process WHAT ...`.

It says on stdout when it has come to the place asked for, and then stands still until it is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.interruptions import at, when_said
from zkmig.apply import engine
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.owner import TakeOver
from zkmig.plan import planfile
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential

if TYPE_CHECKING:
    from tests.scopes import Site  # not in the process itself: it would wait for kazoo and hypothesis to be loaded

ARRIVED = "arrived"
SECRET = "me:hunter2"  # of the trees' ME


@contextmanager
def migrator_at(
    site: Site, what: str, place: str, done: int, planfile_path: Path, session_timeout_ms: int = 30_000
) -> Iterator[subprocess.Popen[str]]:
    """A process that applies the plan (what: "apply") or rolls back ("rollback"), standing still at `place`.

    place: a phase, once `done` units of it are done, or the beginning of a sentence that is said. The process is
    killed in the end, if the test has not done so.
    """
    scope = [site.server.hosts, site.names.scope, SECRET]
    work = [what, place, str(done), str(planfile_path), str(session_timeout_ms)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.migrator_process", *scope, *work],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == ARRIVED
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def _stand_still() -> NoReturn:
    os.write(1, f"{ARRIVED}\n".encode())
    while True:
        signal.pause()


def main(
    hosts: str, scope: str, secret: str, what: str, place: str, done: str, path: str, session_timeout_ms: str
) -> None:
    """Work until the place is reached."""
    options = Options(
        single_shot="never", report=at(place, int(done), _stand_still), say=when_said(place, _stand_still)
    )
    names, stop = ControlPaths(scope), StopRequest()
    with Client(
        parse_hosts(hosts), auth=(Credential("digest", secret.encode()),), session_timeout_ms=int(session_timeout_ms)
    ) as client:
        if what == "rollback":
            engine.rollback(client, names, options=options, take_over=TakeOver(steal=True), stop=stop)
        else:
            sealed = SealedPlan(*planfile.read(path))
            engine.apply_plan(client, names, sealed, 1, options=options, take_over=TakeOver(), stop=stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
