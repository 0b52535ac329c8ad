"""Servers with realistic trees for the benchmarks, and what they measured: a table in the end, and JSON files."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from benchmarks import kazoo_walk, realistic
from benchmarks.pairs import Benchmark, Contest, Row
from benchmarks.size import SIZE
from benchmarks.table import lines
from zkmig import backend
from zkmig.dev import Server
from zkmig.model.snapshot import Snapshot
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client

RESULTS = Path(__file__).parent / "results"

_ROWS = pytest.StashKey[dict[str, list[Row]]]()
_LOAD = pytest.StashKey[float]()


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and a session on it that may write everywhere."""

    server: Server
    client: Client

    @property
    def address(self) -> tuple[str, int]:
        return parse_hosts(self.server.hosts)[0]

    def open(self) -> Client:
        """A further session of the same identity, not connected yet."""
        return Client([self.address], auth=[realistic.OWNER], session_timeout_ms=60_000)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """One server for the whole run."""
    with Server(heap_mb=SIZE.heap_mb) as server:
        site = Site(server, Client(parse_hosts(server.hosts), auth=[realistic.OWNER], session_timeout_ms=60_000))
        with site.client:
            yield site


@pytest.fixture(scope="session")
def kazoo(site: Site) -> Iterator[KazooClient]:
    """A plain client of the server."""
    client = kazoo_walk.connect(site.server.hosts, realistic.OWNER)
    yield client
    client.stop()
    client.close()


@pytest.fixture(scope="session", params=SIZE.on_servers, ids="{:_}".format)
def tree(request: pytest.FixtureRequest, site: Site) -> Iterator[Snapshot]:
    """A realistic tree that is on the server, ephemerals and all."""
    made = realistic.make(request.param, f"/bench-{request.param}")
    realistic.plant(site.client, made)
    yield made
    realistic.uproot(site.client, list(made))


@pytest.fixture(scope="session", params=SIZE.in_memory, ids="{:_}".format)
def tree_in_memory(request: pytest.FixtureRequest) -> Snapshot:
    """A realistic tree that is nowhere else."""
    return realistic.make(request.param)


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """What this benchmark's module has measured; the benchmark adds to it."""
    return request.config.stash[_ROWS].setdefault(request.path.stem.removeprefix("bench_"), [])


@pytest.fixture
def contest(benchmark: Benchmark, rows: list[Row]) -> Contest:
    """Compares zkmig with others, and keeps what came of it."""
    return Contest(benchmark, rows)


# -- what was measured ------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Begin without a row."""
    config.stash[_ROWS] = {}
    config.stash[_LOAD] = os.getloadavg()[0]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write a file for each module that measured something."""
    rows = session.config.stash[_ROWS]
    machine = _machine(session.config.stash[_LOAD]) if rows else {}
    for module, measured in rows.items():
        text = json.dumps({"machine": machine, "rows": [row.as_json() for row in measured]}, indent=1)
        (RESULTS / f"{SIZE.name}-{module}.json").write_text(text + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print all rows."""
    rows: list[Row] = [row for measured in config.stash[_ROWS].values() for row in measured]
    if rows:
        terminalreporter.section(f"zkmig, {SIZE.name} sizes, load {config.stash[_LOAD]:.1f} at the beginning")
        for line in lines(rows):
            terminalreporter.write_line(line)


def _machine(load_before: float) -> dict[str, str | int | float]:
    return {
        "cores": os.cpu_count() or 0,
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "backend": backend.name(),
        "load_before": round(load_before, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
