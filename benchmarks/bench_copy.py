"""A whole copy to a second ensemble, from the snapshot to the verified commit, against the sum of its raw floors.

The floors: data, Stats and children of the source, its ACLs, the batches that create the tree on the target, and one
more read of what was created.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import zkmig
from benchmarks import realistic
from benchmarks.bench_apply import FloorBatches
from benchmarks.conftest import Site
from benchmarks.pairs import Baseline, Contest
from benchmarks.raw_floor import ACL_CONNECTIONS, ACL_DEPTH, READ_DEPTH, Floor, acl_requests, data_requests
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.dev import Server
from zkmig.epoch.control import ControlPaths
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.source.ensemble import scan
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client

BAR = 1.6


@pytest.fixture(scope="module")
def target() -> Iterator[Site]:
    """The second ensemble."""
    with Server(heap_mb=SIZE.heap_mb) as server:
        client = Client(parse_hosts(server.hosts), auth=[OWNER], session_timeout_ms=60_000)
        with client:
            yield Site(server, client)


def test_copy(site: Site, target: Site, tree: Snapshot, contest: Contest) -> None:
    job = _Copy(site, target, tree)
    reads = Floor(site.address, data_requests(tree), READ_DEPTH, auth=OWNER)
    acls = Floor(site.address, acl_requests(tree), ACL_DEPTH, ACL_CONNECTIONS, auth=OWNER)
    creates = FloorBatches(job)

    def floor() -> float:
        # Of the target, what was just created is read by the same requests: that of the source takes as long.
        return reads.run() + acls.run() + creates.run() + reads.run()

    contest.run("copy, snapshot to commit", len(tree), job.run, [Baseline("raw floors", floor, len(tree), BAR)])
    copied = scan(target.client, Scope(tree.root))
    assert copied.tree_hash == realistic.without_ephemerals(tree, tree.root).tree_hash
    job.clear()


class _Copy:
    """One epoch of the target after the other, each the same copy of the tree."""

    def __init__(self, source: Site, target: Site, tree: Snapshot) -> None:
        self.site = target
        self.names = ControlPaths(f"copy-{len(tree)}")
        self._source = f"zk://{source.server.hosts}{tree.root}"
        self._target = f"zk://{target.server.hosts}{tree.root}"
        self._paths = list(realistic.without_ephemerals(tree, tree.root))
        self._epoch = 0
        zkmig.init(self._target, self.names.scope, allow_empty=True, auth=[OWNER])
        self.plan = self._plan()

    def _plan(self) -> zkmig.Plan:
        return zkmig.make_plan(zkmig.read(self._source, auth=[OWNER]), self._target, auth=[OWNER])

    def run(self) -> float:
        """Seconds from the first request to the source to the commit on the target."""
        self.clear()
        self._epoch += 1
        start = time.perf_counter()
        applied = zkmig.apply(self._plan(), epoch=self._epoch, single_shot="never", auth=[OWNER])
        seconds = time.perf_counter() - start
        assert applied.epoch == self._epoch
        return seconds

    def clear(self) -> None:
        """Delete the copy, if it is there."""
        if self.site.client.exists(self._paths[0]) is not None:
            realistic.uproot(self.site.client, self._paths)
