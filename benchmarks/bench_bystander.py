"""What another client feels of a migration: its writes while batches go in, against its writes a moment before.

The bar is on the 99th percentile: 5 times its idle value, in the same run. A round is some seconds of idleness, then
one epoch of nothing but creates; what is answered between the first batch and the last is told apart from all of the
command, preflight, journal and verification included. Of the tail a good
part is the server's collector of garbage, which stops it once for every few thousand znodes that are created, however
they come: so fewer a second bring it down, not smaller batches (docs/performance.md). The default keeps to a rate as
long as others write; beside it the same plan with that rate lifted by an explicit throttle shows what it is for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from typing import Final

import pytest

import zkmig
from benchmarks import realistic
from benchmarks.bystander import Bystander, quantile
from benchmarks.conftest import Site
from benchmarks.pairs import Baseline, Contest
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.model.snapshot import Snapshot
from zkmig.plan.make import make_plan

BAR: Final = 5.0
LIFTED: Final = 1_000_000  # writes a second: no limit, so that only the median of others' latency is looked at
ROUNDS: Final = max(SIZE.rounds, 5) if SIZE.name != "small" else SIZE.rounds
IDLE_S: Final = 3.0 if SIZE.name != "small" else 0.5
SETTLED_S: Final = 0.5  # after a tree was cleared away
MEDIAN, TAIL = 0.5, 0.99


@pytest.fixture(scope="module")
def bystander(site: Site) -> Iterator[Bystander]:
    with Bystander(site.server.hosts) as one:
        yield one


@pytest.mark.timeout(ROUNDS * 120)
@pytest.mark.parametrize("throttle", [None, LIFTED], ids=["default", "lifted"])
@pytest.mark.parametrize("znodes", SIZE.on_servers, ids="{:_}".format)
def test_writes_of_others(
    site: Site, bystander: Bystander, contest: Contest, znodes: int, throttle: int | None
) -> None:
    wanted = realistic.without_ephemerals(realistic.make(znodes), f"/felt-{znodes}-{throttle or 0}")
    job = _Job(site, bystander, wanted, throttle)
    named = "no rate kept to" if throttle else "default"
    tail = Baseline("p99 idle", job.idle, len(wanted), None if throttle else BAR)
    contest.run(f"p99 of others, {named}", len(wanted), job.run, [tail], ROUNDS)
    contest.times["median idle"] = job.medians_idle[-ROUNDS:]
    middle = Baseline("median idle", job.idle, len(wanted))
    contest.add(f"median of others, {named}", len(wanted), job.medians[-ROUNDS:], middle)
    contest.add(f"p99 of others, all of apply, {named}", len(wanted), job.tails_of_all[-ROUNDS:], tail)
    contest.add(f"p99 of others, {named}", len(wanted), contest.times[""], middle)


class _Job:
    """One plan, applied as one epoch after the other. medians: of others' writes in each; medians_idle: before it.

    tails_of_all: the 99th percentile from the beginning of the command to its end.
    """

    def __init__(self, site: Site, bystander: Bystander, wanted: Snapshot, throttle: int | None) -> None:
        self.medians: list[float] = []
        self.medians_idle: list[float] = []
        self.tails_of_all: list[float] = []
        self._site = site
        self._bystander = bystander
        self._throttle = throttle
        self._paths = list(wanted)
        self._scope = wanted.root.removeprefix("/")
        self._target = f"zk://{site.server.hosts}{wanted.root}"
        self._epoch = 0
        self._plan = make_plan(
            wanted, None, target_root=wanted.root, hosts=(site.address,), identities=site.client.identities
        )
        zkmig.init(self._target, self._scope, allow_empty=True, auth=[OWNER])

    def idle(self) -> float:
        """The 99th percentile while nothing else goes on."""
        time.sleep(SETTLED_S)
        self._bystander.latencies()
        time.sleep(IDLE_S)
        found = self._bystander.latencies()
        self.medians_idle.append(quantile(found, MEDIAN))
        return quantile(found, TAIL)

    def run(self) -> float:
        """The 99th percentile from the first batch to the last answer."""
        felt: list[list[float]] = []  # before the first batch, in the batches, after the last
        self._bystander.latencies()

        def report(progress: zkmig.Progress) -> None:
            if progress.phase == "write" and progress.done in (0, progress.total):
                felt.append(self._bystander.latencies())

        self._epoch += 1
        zkmig.apply(
            self._plan,
            self._target,
            epoch=self._epoch,
            scope=self._scope,
            single_shot="never",
            throttle=self._throttle,
            auth=[OWNER],
            report=report,
        )
        felt.append(self._bystander.latencies())
        realistic.uproot(self._site.client, self._paths)
        _, found, _ = felt
        self.tails_of_all.append(quantile(sorted(chain(*felt)), TAIL))
        self.medians.append(quantile(found, MEDIAN))
        return quantile(found, TAIL)
