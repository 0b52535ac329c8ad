"""Nothing that others leave in a control plane keeps its admin from removing the scope, but what servers forbid him.

Method: kazoo as a reader who may only create leaves nodes of every kind below acting, guards and readers; kazoo looks
what is left when the scope was to go.
"""

from __future__ import annotations

import threading

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.security import OPEN_ACL_UNSAFE

from tests.scopes import MY_IDENTITY, Site, settled
from tests.test_drain import MINUTE, guard
from tests.test_entries import EVE, EVES, EVES_BUT_READABLE
from tests.test_prune import attempts, remove
from tests.trees import Node
from zkmig.apply.drain import DrainTimeout
from zkmig.epoch.control import Roles
from zkmig.epoch.leases import Lease
from zkmig.errors import NotPermitted, Refused
from zkmig.model.acl import WORLD

TREE = settled({"": Node(b""), "/a": Node(b"1")})


@pytest.fixture
def eve(site: Site) -> KazooClient:
    """A reader of the scope, who may create entries and nothing else; an epoch was committed here."""
    site.init(TREE, Roles((MY_IDENTITY,), (WORLD,)))
    site.apply(site.plan(TREE | {"/a": Node(b"2")}))
    return site.open_kazoo(EVE)


def is_whole(site: Site) -> bool:
    """With its record, and the undo of its epoch."""
    return site.record().epoch == 1 and [attempt.is_kept for attempt in attempts(site)] == [True]


def test_what_blocks_nobody_goes_along(site: Site, eve: KazooClient) -> None:
    """Unreadable, malformed, large, of long names, with children that everybody may delete; guards that have stopped
    their process."""
    names = site.names
    for number, acl in enumerate((EVES, EVES_BUT_READABLE, OPEN_ACL_UNSAFE)):
        eve.create(f"{names.readers}/{number}", b"junk", acl=acl)
        eve.create(f"{names.guards}/malformed-{number}", bytes(20_000 if number else 3), acl=EVES_BUT_READABLE)
        eve.create(f"{names.guards}/stopped-{number}", guard(stopped=True))
        eve.create(f"{names.acting}/over-{number}", Lease("eve", 60_000, released=True).encode())
        for above in (names.acting, names.guards, names.readers, names.budgets):
            eve.create(f"{above}/{number}{'x' * 10_000}", MINUTE.encode(), acl=acl)
            eve.create(f"{above}/parent-{number}/child/deep", b"", acl=OPEN_ACL_UNSAFE, makepath=True)
    foreseen = remove(site, dry_run=True)
    assert foreseen.nodes > 50
    assert remove(site).nodes == foreseen.nodes
    assert not site.kazoo.exists(names.home)


def test_who_blocks_can_be_evicted(site: Site, eve: KazooClient) -> None:
    """Named, or by the word for all that may not be read; the others are waited for, and until then nothing is gone."""
    names = site.names
    eve.create(f"{names.guards}/one", guard(stopped=False))
    eve.create(f"{names.guards}/two", b"", acl=EVES)
    eve.create(f"{names.acting}/three", MINUTE.encode())
    eve.create(f"{names.acting}/four", MINUTE.encode(), acl=EVES)
    with pytest.raises(Refused, match="guards/one, guards/two") as caught:
        remove(site)
    assert "--evict" in str(caught.value)
    with pytest.raises(Refused, match="registered: guards/two;"):
        remove(site, evict=("one",))
    with pytest.raises(Refused, match="no lease or guard 'thre'"):
        remove(site, evict=("thre",))
    with pytest.raises(DrainTimeout, match="acting/three"):
        remove(site, evict=("one", "unreadable"), drain_s=0.2)
    assert is_whole(site)
    assert len(site.kazoo.get_children(names.guards)) == 2
    remove(site, evict=("guards/one", "unreadable", f"{names.acting}/three"), drain_s=0.2)
    assert not site.kazoo.exists(names.home)


@pytest.mark.parametrize("directory", ["acting", "guards", "readers", "budgets"])
def test_what_the_servers_forbid_is_met_before_anything_of_worth_is_gone(
    site: Site, eve: KazooClient, directory: str
) -> None:
    """A child below somebody else's node: its path is told, and who can remove it. Then it goes."""
    path = f"{site.names.home}/{directory}/one"
    eve.create(path, Lease("eve", 1, released=True).encode(), acl=EVES)
    eve.create(path + "/child", b"", acl=EVES)
    evict = () if directory in ("readers", "budgets") else ("unreadable",)
    with pytest.raises(NotPermitted, match=f"{path}.*super user"):
        remove(site, evict=evict)
    assert is_whole(site)
    eve.delete(path + "/child")
    remove(site, evict=evict)
    assert not site.kazoo.exists(site.names.home)


def test_readers_that_come_all_the_while_do_not_keep_it(site: Site, eve: KazooClient) -> None:
    """They register again as long as there is a scope: what is there goes in the transaction with which the scope
    goes."""
    over, has_come = threading.Event(), threading.Event()
    came: list[int] = []

    def come() -> None:
        while not over.wait(0.01):
            try:
                eve.create(f"{site.names.readers}/{len(came)}", b"", ephemeral=True)
            except KazooException:
                return
            came.append(1)
            has_come.set()

    thread = threading.Thread(target=come)
    thread.start()
    try:
        assert has_come.wait(10)
        remove(site)
    finally:
        over.set()
        thread.join()
    assert not site.kazoo.exists(site.names.home)
