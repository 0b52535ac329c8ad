"""What a reader's view costs: the first one of a reader, with all ACLs, and the next ones, which know what was read.

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
from zkmig.wire.requests import SetData

UNCHANGED_VIEWS = 2_000

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


def test_fresh_view(site: Site, tree: Snapshot, contest: Contest) -> None:
    """All data again, ACLs known."""
    data = Floor(site.address, data_requests(tree), READ_DEPTH, auth=OWNER)
    with Reader(site.server.hosts, _scope(site, tree), auth=[OWNER]) as reader:
        assert len(reader.view()) == len(tree)
        floor = Baseline("raw floor", data.run, len(tree))
        contest.run("view(fresh=True)", len(tree), timed(lambda: reader.view(fresh=True)), [floor])


def test_unchanged_view(site: Site, tree: Snapshot, contest: Contest) -> None:
    """Nothing has happened since the last one; the mean of many."""
    with Reader(site.server.hosts, _scope(site, tree), auth=[OWNER]) as reader:

        def views() -> float:
            reader.view()  # registration and heartbeats have been seen to
            start = time.perf_counter()
            for _ in range(UNCHANGED_VIEWS):
                reader.view()
            return (time.perf_counter() - start) / UNCHANGED_VIEWS

        contest.run("view(), unchanged", 1, views, [])


def test_view_after_one_change(site: Site, tree: Snapshot, contest: Contest) -> None:
    """Somebody else has written one znode; beside it what one round trip takes."""
    leaf = next(path for path, znode in tree.items() if not znode.ephemeral_owner and not znode.stat.num_children)

    def round_trip() -> float:
        start = time.perf_counter()
        site.client.exists(leaf)
        return time.perf_counter() - start

    with Reader(site.server.hosts, _scope(site, tree), auth=[OWNER]) as reader:
        reader.view()

        def changed() -> float:
            data = str(time.perf_counter_ns()).encode()
            site.client.call(SetData(leaf, data, -1))  # -1: nobody else writes here
            while True:
                start = time.perf_counter()
                view = reader.view()
                seconds = time.perf_counter() - start
                if view[leaf].data == data:
                    return seconds

        contest.run("view(), after one change", 1, changed, [Baseline("round trip", round_trip, 1)], rounds=25)
    site.client.call(SetData(leaf, tree[leaf].data, -1))  # -1: nobody else writes here
