"""Scans of a realistic tree against the raw floor and against a walk by kazoo.

The first scan reads data, Stats, children and ACLs. A rescan knows the ACLs and asks for those that moved, here none.
"""

from __future__ import annotations

from kazoo.client import KazooClient

from benchmarks import kazoo_walk
from benchmarks.conftest import Site
from benchmarks.pairs import Baseline, Contest, timed
from benchmarks.raw_floor import ACL_CONNECTIONS, ACL_DEPTH, READ_DEPTH, Floor, acl_requests, data_requests
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.source.ensemble import scan

SCAN_BAR = 1.6


def test_first_scan(site: Site, tree: Snapshot, kazoo: KazooClient, contest: Contest) -> None:
    assert scan(site.client, Scope(tree.root)).tree_hash == tree.tree_hash
    data = Floor(site.address, data_requests(tree), READ_DEPTH, auth=OWNER)
    acls = Floor(site.address, acl_requests(tree), ACL_DEPTH, ACL_CONNECTIONS, auth=OWNER)
    sample = min(SIZE.kazoo_sample, len(tree))
    contest.run(
        "first scan, with ACLs",
        len(tree),
        timed(lambda: scan(site.client, Scope(tree.root))),
        [
            Baseline("raw floor", lambda: data.run() + acls.run(), len(tree), SCAN_BAR),
            Baseline("kazoo walk", lambda: kazoo_walk.walk(kazoo, tree.root, sample, with_acls=True), sample),
        ],
    )


def test_rescan(site: Site, tree: Snapshot, kazoo: KazooClient, contest: Contest) -> None:
    known = scan(site.client, Scope(tree.root))
    data = Floor(site.address, data_requests(tree), READ_DEPTH, auth=OWNER)
    sample = min(SIZE.kazoo_sample, len(tree))
    contest.run(
        "rescan, ACLs known",
        len(tree),
        timed(lambda: scan(site.client, Scope(tree.root), known=known)),
        [
            Baseline("raw floor", data.run, len(tree), SCAN_BAR),
            Baseline("kazoo walk", lambda: kazoo_walk.walk(kazoo, tree.root, sample, with_acls=False), sample),
        ],
    )
