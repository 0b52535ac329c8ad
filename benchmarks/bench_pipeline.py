"""The program as users run it: snapshot, plan, apply, verify, a process each, with the peak of its memory.

Every stage goes through files, as in a maintenance window; `verify` reads both ensembles again. The peak is what the
kernel saw of the process (ru_maxrss), Python itself included (see `rusage`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.conftest import Site
from benchmarks.pairs import Row
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.dev import Server
from zkmig.model.snapshot import Snapshot

PROGRAM = str(Path(sys.executable).with_name("zkmig"))


@pytest.fixture(scope="module")
def target() -> Iterator[Server]:
    """The second ensemble."""
    with Server(heap_mb=SIZE.heap_mb) as server:
        yield server


def test_pipeline(site: Site, target: Server, tree: Snapshot, rows: list[Row], tmp_path: Path) -> None:
    root = f"{tree.root}-arrived"
    source, wanted = f"zk://{site.server.hosts}{tree.root}", f"zk://{target.hosts}{root}"
    auth = tmp_path / "auth"
    auth.write_text(f"{OWNER.scheme}:{OWNER.secret.decode()}\n")
    auth.chmod(0o600)
    scope = tree.root.removeprefix("/")
    snapshot, plan = str(tmp_path / "source.zks"), str(tmp_path / "copy.zkplan")
    stages = {
        "init": ("init", wanted, "--scope", scope, "--allow-empty"),
        "snapshot": ("snapshot", source, "-o", snapshot),
        "plan": ("plan", "--from", snapshot, "--to", wanted, "-o", plan),
        "apply": ("apply", "--epoch", "1", "--yes", plan),
        "verify": ("verify", source, wanted),
    }
    for stage, arguments in stages.items():
        seconds, peak_bytes = run(arguments, auth)
        if stage != "init":
            rows.append(Row(f"zkmig {stage}", len(tree), seconds))
            rows.append(Row(f"zkmig {stage}, peak memory", len(tree), peak_bytes, unit="B"))


def run(arguments: tuple[str, ...], auth: Path) -> tuple[float, int]:
    """Seconds and peak bytes of one run of the program, which must succeed."""
    command = [sys.executable, "-m", "benchmarks.rusage", PROGRAM, *arguments, "--auth-file", str(auth)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    taken = json.loads(done.stdout)
    return taken["seconds"], taken["peak_bytes"]
