"""The peak of memory while a server is scanned, above an idle process, against the bytes that a snapshot must hold.

Method: a process of its own scans and says what the kernel saw as its peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import realistic
from benchmarks.conftest import Site
from benchmarks.pairs import Row
from benchmarks.size import SIZE
from zkmig.model.snapshot import Snapshot
from zkmig.wire.jute import STAT_BYTES

BAR_FACTOR = 1.5
BAR_BYTES = 64 * 2**20


@pytest.fixture(params=SIZE.for_memory, ids="{:_}".format)
def planted(request: pytest.FixtureRequest, site: Site) -> Iterator[Snapshot]:
    """A tree that is on the server for this benchmark alone."""
    made = realistic.make(request.param, f"/memory-{request.param}")
    with site.open() as session:
        realistic.plant(session, made)
        yield made
        realistic.uproot(session, list(made))


def test_peak_of_a_scan(site: Site, planted: Snapshot, rows: list[Row]) -> None:
    command = [sys.executable, "-m", "benchmarks.memory_probe", site.server.hosts, planted.root]
    run = subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=True)
    seen = json.loads(run.stdout)
    assert seen["znodes"] == len(planted)
    columns = planted.columns
    needed = len(columns.paths_blob) + len(columns.data_blob) + STAT_BYTES * len(planted)
    above_idle = seen["peak"] - seen["idle"]
    rows.append(
        Row(
            "peak memory of a scan",
            len(planted),
            above_idle,
            unit="B",
            against="path + data + 68 B",
            theirs_znodes=len(planted),
            theirs=needed,
            ratio=above_idle / needed,
            bar=BAR_FACTOR + BAR_BYTES / needed,
        )
    )
