"""A migration of nothing but creates, in batches, against the raw floor of its frames and kazoo's transactions.

The floor sends the same batches: they check the same three nodes of a control plane and move a cursor by one each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import pytest
from kazoo.client import KazooClient

import zkmig
from benchmarks import kazoo_walk, realistic
from benchmarks.conftest import Site
from benchmarks.pairs import Baseline, Contest
from benchmarks.raw_floor import Floor
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.epoch.control import INCARNATION_CHARS, ControlPaths
from zkmig.model.acl import OPEN_ACL
from zkmig.model.snapshot import Snapshot
from zkmig.plan.make import make_plan
from zkmig.plan.operations import Operation, RaiseCounter
from zkmig.plan.plan import Plan
from zkmig.wire.requests import Check, Create, Delete, Multi, SetData, WriteOp

FLOOR_DEPTH = 4
FLOOR_CONTROL = "/floor"  # as long as the default, /zkmig: frames have the same size
BAR = 1.25


@pytest.fixture(params=SIZE.on_servers, ids="{:_}".format)
def wanted(request: pytest.FixtureRequest) -> Snapshot:
    """The tree that is to be created."""
    return realistic.without_ephemerals(realistic.make(request.param), f"/copy-{request.param}")


def test_creates(site: Site, kazoo: KazooClient, contest: Contest, wanted: Snapshot) -> None:
    job = _Job(site, wanted)
    floor = FloorBatches(job)
    sample = list(wanted.values())[: SIZE.kazoo_sample]

    def kazoo_run() -> float:
        seconds = kazoo_walk.create(kazoo, sample)
        job.clear(len(sample))
        return seconds

    baselines = [
        Baseline("raw floor", floor.run, len(wanted), BAR),
        Baseline("kazoo transactions", kazoo_run, len(sample)),
    ]
    contest.run("apply, its batches", len(wanted), job.run, baselines)
    for baseline in baselines:
        unbarred = Baseline(baseline.name, baseline.run, baseline.znodes)
        contest.add("apply, checks to commit", len(wanted), job.wholes[-SIZE.rounds :], unbarred)
    job.clear()


class _Job:
    """One plan, applied as one epoch after the other; whoever is next clears what it has written.

    wholes: seconds of each apply, with its checks, journal, verification and commit.
    """

    def __init__(self, site: Site, wanted: Snapshot) -> None:
        self.site = site
        self.names = ControlPaths(f"copy-{len(wanted)}")
        self.wholes: list[float] = []
        self._paths = list(wanted)
        self._epoch = 0
        self._target = f"zk://{site.server.hosts}{wanted.root}"
        self.plan = make_plan(
            wanted, None, target_root=wanted.root, hosts=(site.address,), identities=site.client.identities
        )
        assert not self.plan.acl_steps
        zkmig.init(self._target, self.names.scope, allow_empty=True, auth=[OWNER])

    def run(self) -> float:
        """Seconds from the first batch to the last answer."""
        seen: list[float] = []

        def report(progress: zkmig.Progress) -> None:
            if progress.phase == "write":
                seen.append(time.perf_counter())

        self._epoch += 1
        start = time.perf_counter()
        applied = zkmig.apply(
            self.plan,
            self._target,
            epoch=self._epoch,
            scope=self.names.scope,
            single_shot="never",
            auth=[OWNER],
            report=report,
        )
        self.wholes.append(time.perf_counter() - start)
        assert len(seen) == applied.batches + 1
        return seen[-1] - seen[0]

    def clear(self, znodes: int | None = None) -> None:
        """Delete the tree, or the first so many znodes of it, if it is there."""
        if self.site.client.exists(self._paths[0]) is not None:
            realistic.uproot(self.site.client, self._paths[:znodes])


class Clearable(Protocol):
    """A plan that is applied again and again. names: of its scope."""

    site: Site
    names: ControlPaths
    plan: Plan

    def clear(self) -> None:
        """Delete what it has written, if it is there."""


class FloorBatches:
    """The batches of the same plan, behind a control plane that nobody else uses."""

    def __init__(self, job: Clearable) -> None:
        self._job = job
        self._names = ControlPaths(job.names.scope, FLOOR_CONTROL)
        self._incarnation = self._names.incarnation("f" * INCARNATION_CHARS)
        self._cursor = self._names.attempt(1, "ffffffff").cursor
        requests = [Multi((*self._head(index), *_writes(batch))) for index, batch in enumerate(job.plan.batches())]
        self._batches = len(requests)
        self._floor = Floor(job.site.address, requests, FLOOR_DEPTH, auth=OWNER)
        for path in (self._incarnation, self._names.record, self._names.owner, self._cursor):
            _ensure(job.site, path)

    def _head(self, index: int) -> Sequence[WriteOp]:
        return (
            Check(self._incarnation, -1),
            Check(self._names.record, 0),
            Check(self._names.owner, 0),
            SetData(self._cursor, None, index),
        )

    def run(self) -> float:
        """Seconds from the first batch to the last answer."""
        self._job.clear()
        client = self._job.site.client
        client.call(Multi((Delete(self._cursor, -1), Create(self._cursor, None, OPEN_ACL))))  # -1: at any position
        seconds = self._floor.run()
        cursor = client.exists(self._cursor)
        assert cursor is not None
        assert cursor.version == self._batches
        self._job.clear()
        return seconds


def _writes(batch: Sequence[Operation]) -> Iterator[WriteOp]:
    for operation in batch:
        if isinstance(operation, RaiseCounter):
            yield from operation.writes(operation.pairs)
        else:
            yield operation.write()


def _ensure(site: Site, path: str) -> None:
    if path and site.client.exists(path) is None:
        _ensure(site, path.rpartition("/")[0])
        site.client.call(Create(path, b"", OPEN_ACL))
