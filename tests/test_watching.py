"""A watch tells what others do while they do it, is not deceived by the epochs and holds of migrations, and misses
nothing while the connection is away.

Method: epochs on real servers, kazoo as the configuration management that knows better, the watch in a thread;
connections cut and partitioned by a proxy. With the look at all paths after a loss switched off, the test of the loss
fails: that is tried too.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE

from tests.proxy import Proxy
from tests.scopes import BEFORE, Site
from tests.test_history import NEXT
from tests.trees import Node
from tests.watches import WAIT_S, Follower, committed, following, once, told
from zkmig.apply.options import Options
from zkmig.apply.watched import Watched
from zkmig.apply.watching import Sighting, Watching
from zkmig.epoch.record import Held, Record, data_hash
from zkmig.errors import Refused, Unreachable
from zkmig.source.treewatch import TreeWatch

# -- as it happens ----------------------------------------------------------------------------------------------------


def test_a_configuration_management_that_loops_is_counted_as_it_goes_on(site: Site) -> None:
    committed(site)
    path, old = site.path("/change/15"), BEFORE["/change/15"].data or b""
    with following(site) as follower:
        for _ in range(40):
            site.kazoo.set(path, old)
        last = follower.until("put_back", path, count=40)
        assert last.count == 40
        first = follower.until("put_back", path)
        assert last.first_seen == first.first_seen
        assert (last.last_seen or 0) >= (first.last_seen or 0)
        assert last.data_hash == data_hash(old)
        site.kazoo.set(path, NEXT["/change/15"].data or b"")  # somebody puts it right
        follower.until("changed", path)
        site.kazoo.set(path, old)
        assert follower.until("put_back", path, count=41).count == 41
        assert follower.paths("put_back") == {path}


def test_a_new_value_of_others_is_named_but_not_put_back(site: Site) -> None:
    committed(site)
    with following(site) as follower:
        site.kazoo.set(site.path("/change/15"), b"a new one")
        one = follower.until("changed", site.path("/change/15"))
        assert one.data_hash == data_hash(b"a new one")
        site.kazoo.delete(site.path("/new/02"))
        follower.until("put_back", site.path("/new/02"))
        assert follower.paths("put_back") == {site.path("/new/02")}


def test_control_a_watch_that_dies_would_be_noticed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all that the test has waited for; and one that does not end as expected."""
    committed(site)
    tell, has_died = Watching._tell_state, threading.Event()

    def tell_once(watching: Watching, record: Record) -> Iterator[Sighting]:
        if watching._told_state:
            has_died.set()
            raise KeyError("a bug")
        yield from tell(watching, record)

    with pytest.raises(AssertionError, match="has not ended with Refused"), following(site, expects=Refused):
        pass
    monkeypatch.setattr(Watching, "_tell_state", tell_once)
    with pytest.raises(AssertionError, match="the watch has died") as caught, following(site):
        assert has_died.wait(WAIT_S)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_acl_that_fires_no_watch_is_found_by_looking(site: Site) -> None:
    committed(site)
    with following(site, interval_s=0.3) as follower:
        site.kazoo.set_acls(site.path("/tightened"), OPEN_ACL_UNSAFE)
        assert follower.until("put_back", site.path("/tightened")).kind == "acl"


def test_without_a_watch_it_polls(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on servers before 3.6."""
    monkeypatch.setattr(TreeWatch, "begin", lambda _: None)
    committed(site)
    with following(site, interval_s=0.3) as follower:
        site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
        follower.until("put_back", site.path("/change/15"))


def test_nothing_is_written(site: Site) -> None:
    committed(site)
    site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    with following(site, interval_s=0.1) as follower:
        before = site.kazoo.last_zxid
        for _ in range(3):
            follower.until("heartbeat", after=len(follower.seen))
    site.kazoo.sync(site.root)
    # Sessions begin and end in transactions of their own; no znode has moved.
    for path in (site.names.home, site.names.record, site.names.owner, site.root, site.path("/change/15")):
        stat = site.kazoo.exists(path)
        assert stat is not None
        assert max(stat.mzxid, stat.pzxid) <= before


# -- epochs and holds -------------------------------------------------------------------------------------------------


def test_a_migration_s_own_writes_are_not_counted_and_the_next_epoch_is_followed(site: Site) -> None:
    """Epoch 2 writes the very values of before epoch 1; epoch 3 is rolled back. Then one is put back to before 2."""
    committed(site)
    with following(site) as follower:
        site.apply(site.plan(BEFORE), 2)
        follower.until("superseded")
        assert follower.until("following", after=1).epoch == 2
        follower.until("heartbeat", after=len(follower.seen) - 1)
        site.leave_open(site.plan(NEXT), 4, 3)
        follower.until("paused", after=len(follower.seen) - 1)
        before = len(follower.seen)
        site.rollback()
        follower.until("resumed", after=before)
        follower.until("heartbeat", after=before)
        assert follower.paths("put_back") == follower.paths("changed") == set()
        site.kazoo.set(site.path("/change/15"), NEXT["/change/15"].data or b"")
        one = follower.until("put_back", site.path("/change/15"))
        assert (one.epoch, one.count) == (2, 1)
        assert follower.paths("changed") == set()


def during_each_look(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """After the paths were read, and before the record is read again."""
    moved = Watched.moved

    def read(watched: Watched, *where: Any) -> Any:
        found = moved(watched, *where)
        what()
        return found

    monkeypatch.setattr(Watched, "moved", read)


def test_a_hold_that_comes_and_goes_during_every_look_blinds_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(site)
    site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    turns = itertools.count()
    hold = Held("disks", "ops@zk1", 1.0)
    during_each_look(monkeypatch, lambda: site.hold(hold if next(turns) % 2 == 0 else None))
    assert told(once(site)) == {site.path("/change/15"): ("put_back", "data", 1)}


@pytest.mark.parametrize("options", [{"once": True}, {"for_s": 1.0}])
def test_a_record_that_moves_during_every_look_is_said_and_no_clean_end(
    site: Site, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    committed(site)
    turns = itertools.count()

    def move() -> None:
        data, _ = site.kazoo.get(site.names.record)
        site.kazoo.set(site.names.record, json.dumps({**json.loads(data or b""), "later": next(turns)}).encode())

    during_each_look(monkeypatch, move)
    with Follower(site.server.hosts, site, expects=Unreachable, **options) as follower:
        follower.until("blind")
        follower.join()
    assert "not known" in str(follower.error)
    assert [one.event for one in follower.seen] == ["following", "blind", "ended"]


def test_an_end_while_an_epoch_is_open_is_no_clean_one(site: Site) -> None:
    committed(site)
    with following(site, expects=Unreachable, for_s=2) as follower:
        site.leave_open(site.plan(BEFORE), 4, 2)
        follower.join()
    assert "no last look" in str(follower.error)
    with pytest.raises(Refused, match="under way"):
        once(site)


def test_a_hold_is_told_with_its_holder_and_again_once_it_is_expired(site: Site) -> None:
    committed(site)
    now = time.time()
    with following(site) as follower:
        site.hold(Held("disks", "ops@zk1", now))
        first = follower.until("held")
        assert "by ops@zk1" in first.text
        assert "EXPIRED" not in first.text
        site.hold(Held("disks", "dba@zk2", now, time.time() + 5))
        second = follower.until("held", after=follower.seen.index(first) + 1)
        assert "by dba@zk2" in second.text
        third = follower.until("held", after=follower.seen.index(second) + 1)
        assert "EXPIRED" in third.text
        site.hold(None)
        follower.until("released")


def test_one_that_stays_with_an_epoch_ends_with_it(site: Site) -> None:
    committed(site)
    with following(site, epoch=1) as follower:
        site.apply(site.plan({**NEXT, "/one-more": Node(b"x")}), 2, options=Options("require"))
        follower.join()
        assert [one.event for one in follower.seen][-2:] == ["superseded", "ended"]


def test_a_scope_that_was_made_anew_ends_it(site: Site) -> None:
    committed(site)
    with following(site, expects=Refused) as follower:
        site.forget()
        site.init()
        follower.join()


# -- losses -----------------------------------------------------------------------------------------------------------


def lose_and_find(site: Site, away: Callable[[Proxy], object]) -> None:
    """Put back while the connection is away; it is found although no watch told, and no look was due."""
    committed(site)
    old = BEFORE["/change/15"].data or b""
    with (
        Proxy(int(site.server.hosts.rpartition(":")[2])) as proxy,
        following(site, proxy.hosts, session_timeout_s=4) as follower,
    ):
        proxy.partition()  # what is on the way stays there
        away(proxy)
        for _ in range(3):
            site.kazoo.set(site.path("/change/15"), old)
        follower.until("lost")
        proxy.cut_all()
        proxy.heal()
        follower.until("back")
        found = follower.until("put_back", site.path("/change/15"), count=3)
        assert found.count == 3


def test_a_session_that_has_ended_is_followed_by_another(site: Site) -> None:
    """Somebody who knows its password closes it, while the connection is away."""
    committed(site)
    with (
        Proxy(int(site.server.hosts.rpartition(":")[2])) as proxy,
        following(site, proxy.hosts, session_timeout_s=20) as follower,
    ):
        client = follower.client
        proxy.partition()
        proxy.cut_all()
        follower.until("lost")
        other = KazooClient(site.server.hosts, client_id=(client.session_id, client.session_password))
        other.start()
        other.stop()
        other.close()
        site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
        proxy.heal()
        follower.until("back")
        follower.until("put_back", site.path("/change/15"))
        assert follower.client is not client


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_what_happens_while_the_connection_is_away_is_found(site: Site, how: str) -> None:
    """Cut at once; or silent, until the session's time-out says so."""
    lose_and_find(site, Proxy.cut_all if how == "cut" else lambda _: None)


def test_control_a_watch_that_was_lost_and_is_not_followed_by_a_look_would_be_noticed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new watch tells of what comes; what has been is known to nobody."""
    monkeypatch.setattr(Watching, "_forget", lambda _: None)
    monkeypatch.setattr("tests.watches.WAIT_S", 8.0)
    with pytest.raises(AssertionError, match="put_back"):
        lose_and_find(site, Proxy.cut_all)


def test_not_connected_when_the_time_is_over_is_no_clean_end(site: Site) -> None:
    committed(site)
    with (
        Proxy(int(site.server.hosts.rpartition(":")[2])) as proxy,
        following(site, proxy.hosts, session_timeout_s=4, expects=Unreachable, for_s=3) as follower,
    ):
        proxy.partition()
        proxy.cut_all()
        follower.join()
        proxy.heal()
        assert "not known" in str(follower.error)
