"""A migrator as a process of its own, which says when it begins to wait for somebody and otherwise goes its way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.interruptions import when_said
from tests.migrator_process import ARRIVED, SECRET
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
    from tests.scopes import Site


@contextmanager
def migrator_draining(site: Site, plan_path: Path, session_timeout_ms: int) -> Iterator[subprocess.Popen[str]]:
    """The process once it waits for a lease or a guard; killed in the end, if it has not ended by then."""
    arguments = [site.server.hosts, site.names.scope, str(plan_path), str(session_timeout_ms)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.draining_process", *arguments],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == ARRIVED
            yield process
        finally:
            process.kill()


def main(hosts: str, scope: str, path: str, session_timeout_ms: str) -> None:
    """Apply the plan."""
    say = when_said("waiting for", lambda: os.write(1, f"{ARRIVED}\n".encode()))
    auth = (Credential("digest", SECRET.encode()),)
    with Client(parse_hosts(hosts), auth=auth, session_timeout_ms=int(session_timeout_ms)) as client:
        engine.apply_plan(
            client,
            ControlPaths(scope),
            SealedPlan(*planfile.read(path)),
            1,
            options=Options("never", say=say),
            take_over=TakeOver(),
            stop=StopRequest(),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
