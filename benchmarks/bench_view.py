"""What a reader's view costs: the first one of a reader, with all ACLs, and the next ones, which know them.

Nobody else offers a view to compare with; the raw floor of its reads is what the server alone would take.
"""

from __future__ import annotations

import time

import pytest

import zkmig
from benchmarks.conftest import Site
from benchmarks.pairs import Baseline, Contest, timed
from benchmarks.raw_floor import ACL_CONNECTIONS, ACL_DEPTH, READ_DEPTH, Floor, acl_requests, data_requests
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.model.snapshot import Snapshot
from zkmig.reader import Reader

pytestmark = pytest.mark.skipif(SIZE.name == "huge", reason="a view is an object for each znode, meant for services")


def _scope(site: Site, tree: Snapshot) -> str:
    """The scope over the tree, initialised."""
    scope = tree.root.removeprefix("/")
    zkmig.init(f"zk://{site.server.hosts}{tree.root}", scope, auth=[OWNER])
    return scope


def test_first_view(site: Site, tree: Snapshot, contest: Contest) -> None:
    scope = _scope(site, tree)

    def view() -> float:
        with Reader(site.server.hosts, scope, auth=[OWNER]) as reader:
            start = time.perf_counter()
            assert len(reader.view()) == len(tree)
            return time.perf_counter() - start

    data = Floor(site.address, data_requests(tree), READ_DEPTH, auth=OWNER)
    acls = Floor(site.address, acl_requests(tree), ACL_DEPTH, ACL_CONNECTIONS, auth=OWNER)
    floor = Baseline("raw floor", lambda: data.run() + acls.run(), len(tree))
    contest.run("view(), the first", len(tree), view, [floor])


def test_next_view(site: Site, tree: Snapshot, contest: Contest) -> None:
    data = Floor(site.address, data_requests(tree), READ_DEPTH, auth=OWNER)
    with Reader(site.server.hosts, _scope(site, tree), auth=[OWNER]) as reader:
        assert len(reader.view()) == len(tree)
        contest.run("view(), the next", len(tree), timed(reader.view), [Baseline("raw floor", data.run, len(tree))])
