"""After a commit, whatever somebody puts back to its old value is named and counted; new values of others are named,
but are not put back; and nothing is missed while the connection is away.

Method: epochs on real servers, kazoo as the configuration management that knows better, the watch in a thread or as the
real program; connections cut and partitioned by a proxy. With the look at all paths after a loss switched off, the test
of the loss fails: that is tried too.
"""

from __future__ import annotations

import inspect
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

import zkmig
from tests.program import Program
from tests.proxy import Proxy
from tests.scopes import ALICE, BEFORE, ME, MINE, MY_IDENTITY, Site, settled
from tests.test_history import NEXT
from tests.test_prune import prune
from tests.trees import Node
from zkmig.apply.options import Options
from zkmig.apply.watched import Watched
from zkmig.apply.watching import Sighting, Watching
from zkmig.epoch.record import Held, data_hash
from zkmig.errors import OtherIncarnation, Refused, Stopped, Unreachable
from zkmig.model.acl import ALL, READ, WORLD, Acl, AclList
from zkmig.source.treewatch import TreeWatch
from zkmig.stop import EXIT_SIGINT, StopRequest
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential

WAIT_S = 30.0


class Follower:
    """A watch in a thread of its own. seen: everything so far; error: what ended it."""

    def __init__(self, hosts: str, site: Site, **options: Any) -> None:
        self.seen: list[Sighting] = []
        self.error: Exception | None = None
        self._more = threading.Condition()
        self._stop = StopRequest()
        where = (f"zk://{hosts}", site.names.scope)
        self._sightings = zkmig.watch(*where, **{"auth": [ME, ALICE], "stop": self._stop, "interval_s": 300, **options})
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.request("the test is over", EXIT_SIGINT)
        self.join()

    @property
    def client(self) -> Client:
        """That of the watch, just now."""
        client = inspect.getgeneratorlocals(self._sightings)["self"]._client
        assert isinstance(client, Client)
        return client

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for one in self._sightings:
                self._add(one)
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error
        self._add(None)

    def _add(self, one: Sighting | None) -> None:
        with self._more:
            self.seen += [one] if one is not None else []
            self._more.notify_all()

    def until(self, event: str, path: str | None = None, count: int = 1, after: int = 0) -> Sighting:
        """The first such sighting, of that count at least, after so many of any kind."""

        def found() -> Sighting | None:
            for one in self.seen[after:]:
                if one.event == event and (path is None or one.path == path) and (one.count or count) >= count:
                    return one
            return None

        with self._more:
            assert self._more.wait_for(found, WAIT_S), (event, path, self.seen, self.error)
        result = found()
        assert result is not None
        return result

    def paths(self, event: str) -> set[str | None]:
        return {one.path for one in self.seen if one.event == event}


@contextmanager
def following(site: Site, hosts: str | None = None, **options: Any) -> Iterator[Follower]:
    """A watch that has looked once."""
    with Follower(hosts or site.server.hosts, site, **options) as follower:
        follower.until("heartbeat")
        yield follower


def committed(site: Site) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))


def once(site: Site, **options: Any) -> list[Sighting]:
    where = (f"zk://{site.server.hosts}", site.names.scope)
    return list(zkmig.watch(*where, **{"once": True, "auth": [ME, ALICE], **options}))


def told(sightings: list[Sighting]) -> dict[str, tuple[str, str | None, int | None]]:
    return {
        one.path: (one.event, one.kind, one.count)
        for one in sightings
        if one.event in ("put_back", "changed") and one.path is not None
    }


# -- one look ---------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_an_epoch_that_is_left_alone(site: Site) -> None:
    committed(site)
    seen = once(site)
    assert told(seen) == {}
    assert [one.event for one in seen] == ["following", "heartbeat", "ended"]
    assert (seen[0].epoch, seen[0].paths) == (1, seen[-1].paths)
    assert (seen[-1].put_back, seen[-1].times, seen[-1].changed) == (0, 0, 0)


def test_every_way_to_put_back_is_told_from_other_changes(site: Site) -> None:
    """Old data, a created node deleted, a deleted one created again, an old ACL; against new values of others."""
    committed(site)
    kazoo = site.kazoo
    for _ in range(3):
        kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    kazoo.set(site.path("/change/14"), b"of others")
    kazoo.delete(site.path("/new/01"))
    kazoo.create(site.path("/null/child"), b"")  # of its own, not a path of the epoch
    kazoo.create(site.path("/gone"), BEFORE["/gone"].data or b"")
    kazoo.create(site.path("/gone/01"), BEFORE["/gone/01"].data or b"")
    kazoo.create(site.path("/gone/02"), b"something else")
    kazoo.delete(site.path("/change/13"))
    kazoo.set_acls(site.path("/tightened"), OPEN_ACL_UNSAFE)
    kazoo.set_acls(site.path("/turned"), [*OPEN_ACL_UNSAFE, make_digest_acl("alice", "wonder", all=True)])
    seen = once(site)
    assert told(seen) == {
        site.path("/change/15"): ("put_back", "data", 3),
        site.path("/new/01"): ("put_back", "deleted", 1),
        site.path("/gone"): ("put_back", "created", 1),
        site.path("/gone/01"): ("put_back", "created", 1),
        site.path("/tightened"): ("put_back", "acl", 1),
        site.path("/change/14"): ("changed", None, None),
        site.path("/change/13"): ("changed", None, None),
        site.path("/gone/02"): ("changed", None, None),
        site.path("/turned"): ("changed", None, None),
    }
    (again,) = (one for one in seen if one.path == site.path("/change/15"))
    assert again.data_hash == data_hash(BEFORE["/change/15"].data)
    assert again.written_at is not None
    assert (seen[-1].put_back, seen[-1].times, seen[-1].now, seen[-1].changed) == (5, 7, 5, 4)


def test_what_cannot_be_watched_is_refused(site: Site) -> None:
    site.init(BEFORE)
    with pytest.raises(Refused, match="no epoch has been committed"):
        once(site)
    site.apply(site.plan(NEXT))
    for epoch in (2, 7):
        with pytest.raises(Refused, match="not the last committed one"):
            once(site, epoch=epoch)
    assert once(site, epoch=1)
    prune(site, 0)
    with pytest.raises(Refused, match="undo of epoch 1 is not kept"):
        once(site)
    site.apply(site.plan(BEFORE), 2)
    with pytest.raises(Refused, match="not the last committed one"):
        once(site, epoch=1)


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


def test_what_may_not_be_read_is_told_by_its_versions(site: Site) -> None:
    tree = settled({"": Node(b""), "/a": Node(b"1"), "/mine": Node(b"1", MINE)})
    site.init(tree)
    site.apply(site.plan({**tree, "/a": Node(b"2"), "/mine": Node(b"2", MINE)}))
    site.kazoo.set(site.path("/mine"), b"1")
    site.kazoo.set(site.path("/a"), b"1")
    seen = once(site)
    assert told(seen)[site.path("/mine")] == ("put_back", "data", 1)


# -- those who may not know all ---------------------------------------------------------------------------------------

READER = Credential("digest", b"reader:only")
SHOWN: AclList = (Acl(READ, *WORLD), Acl(ALL, *MY_IDENTITY))
NAMES = [*"abc", *(f"n{number:02}" for number in range(40))]
OPEN_TREE = settled({"": Node(b""), **{f"/{name}": Node(b"1") for name in NAMES}})
SECOND = {path: node._replace(data=b"2" if path else b"") for path, node in OPEN_TREE.items()}
THIRD = {path: node._replace(data=b"3" if path else b"") for path, node in OPEN_TREE.items()}


def rolled_back_with_a_deviation(site: Site) -> None:
    """Epoch 1 is committed; an attempt at epoch 2 is rolled back, but for what others have written to /a meanwhile."""
    site.init(OPEN_TREE)
    site.apply(site.plan(SECOND))
    attempt_with_a_deviation(site)


def attempt_with_a_deviation(site: Site) -> None:
    sealed = site.plan(THIRD)
    site.leave_open(sealed, len(sealed.plan.batch_ends) - 1, 2)
    site.kazoo.set(site.path("/a"), b"foreign")
    assert site.path("/a") in {one.path for one in site.rollback().deviations}


def test_a_reader_may_not_know_what_a_rollback_has_left_and_goes_on(site: Site) -> None:
    """What that attempt has touched is not told as changed; old values there are, and so is what is written after."""
    rolled_back_with_a_deviation(site)
    site.kazoo.set(site.path("/b"), b"1")
    for seen in (once(site, auth=[READER]), once(site, auth=[READER])):
        assert told(seen) == {site.path("/b"): ("put_back", "data", 1)}
        (said,) = (one.text for one in seen if one.event == "unjudged")
        assert "may not be read" in said
    assert told(once(site)) == {
        site.path("/a"): ("changed", None, None),
        site.path("/b"): ("put_back", "data", 1),
    }


def test_a_reader_who_follows_lives_through_a_rollback_with_deviations(site: Site) -> None:
    site.init(OPEN_TREE)
    site.apply(site.plan(SECOND))
    with following(site, auth=[READER]) as follower:
        attempt_with_a_deviation(site)
        follower.until("unjudged")
        before = len(follower.seen)
        follower.until("heartbeat", after=before - 1)
        site.kazoo.set(site.path("/c"), b"1")
        assert follower.until("put_back", site.path("/c")).count == 1
    assert follower.error is None
    assert len([one for one in follower.seen if one.event == "unjudged"]) == 1


def test_a_reader_is_told_of_data_where_acls_are_hidden(site: Site) -> None:
    """The ACL steps lie in a private chunk: it is said once that ACLs are not judged."""
    site.init(OPEN_TREE)
    site.apply(site.plan({**SECOND, "/b": Node(b"2", SHOWN)}))
    site.kazoo.set(site.path("/a"), b"1")
    site.kazoo.set_acls(site.path("/b"), OPEN_ACL_UNSAFE)
    seen = once(site, auth=[READER])
    assert told(seen) == {site.path("/a"): ("put_back", "data", 1)}
    assert [one.text[:21] for one in seen if one.event == "unjudged"] == ["ACLs of epoch 1 are n"]
    seen = once(site)
    assert told(seen)[site.path("/b")] == ("put_back", "acl", 1)
    assert not [one for one in seen if one.event == "unjudged"]


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


def put_back_just_before(site: Site, **options: Any) -> Follower:
    """The watch is told of nothing, and looks once: a path that the next epoch writes and one that it does not are put
    back; then the next is committed."""
    committed(site)
    with following(site, **options) as follower:
        site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
        site.kazoo.set(site.path("/change/14"), BEFORE["/change/14"].data or b"")
        live = {**NEXT, "/change/14": BEFORE["/change/14"], "/change/15": Node(b"15")}
        site.apply(site.plan(live), 2, options=Options("require"))
        follower.until("superseded")
    return follower


@pytest.mark.parametrize("options", [{}, {"epoch": 1}])
def test_what_was_put_back_just_before_the_next_epoch_is_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    deaf_and_slow(monkeypatch)
    follower = put_back_just_before(site, **options)
    assert told(follower.seen) == {
        site.path("/change/15"): ("put_back", "data", 1),
        site.path("/change/14"): ("put_back", "data", 1),
    }
    assert {one.epoch for one in follower.seen if one.event == "put_back"} == {1}
    assert follower.until("superseded").times == 2


def test_control_without_the_look_back_it_would_be_missed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf_and_slow(monkeypatch)
    monkeypatch.setattr(Watching, "_look_back", lambda *_: iter(()))
    assert told(put_back_just_before(site).seen) == {}


def deaf_and_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No watch tells, and no look is due: as if all came to pass between two looks."""
    monkeypatch.setattr(TreeWatch, "begin", lambda _: None)


def test_counts_are_those_of_one_epoch(site: Site) -> None:
    committed(site)
    path = site.path("/change/15")
    with following(site) as follower:
        site.kazoo.set(path, BEFORE["/change/15"].data or b"")
        follower.until("put_back", path)
        site.apply(site.plan({**NEXT, "/change/15": Node(b"15")}), 2)
        ended = follower.until("superseded")
        assert (ended.epoch, ended.put_back, ended.times) == (1, 1, 1)
        after = len(follower.seen) - 1
        follower.until("following", after=1)
        follower.until("heartbeat", after=after)
        site.kazoo.set(path, BEFORE["/change/15"].data or b"")
        one = follower.until("put_back", path, after=after)
        assert (one.epoch, one.count, one.times) == (2, 1, 1)


def test_a_known_path_put_back_again_after_a_rollback_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known as put back; an attempt writes it and takes that back, which is no putting back; then others do."""
    deaf_and_slow(monkeypatch)
    committed(site)
    path, old = site.path("/change/15"), BEFORE["/change/15"].data or b""
    site.kazoo.set(path, old)
    with following(site) as follower:
        assert follower.until("put_back", path).count == 1
        for times in (1, 2):
            before = len(follower.seen)
            sealed = site.plan({**NEXT, "/change/15": Node(b"15")})
            site.leave_open(sealed, len(sealed.plan.batch_ends) - 1, 2)
            follower.until("paused", after=before)
            # From here on nothing is looked at until the record tells of the rollback.
            with paused_looks(monkeypatch) as looks:
                site.rollback()
                if times == 2:
                    site.kazoo.set(path, old)
                looks.set()
                follower.until("heartbeat", after=before)
            assert max(one.count or 0 for one in follower.seen) == times
    assert follower.error is None


@contextmanager
def paused_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    may, look = threading.Event(), Watching._look

    def waiting(watching: Watching, is_all: bool) -> Iterator[Sighting]:
        assert may.wait(WAIT_S)
        yield from look(watching, is_all)

    with monkeypatch.context() as patch:
        patch.setattr(Watching, "_look", waiting)
        yield may


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
    with Follower(site.server.hosts, site, **options) as follower:
        follower.until("blind")
        follower.join()
    assert isinstance(follower.error, Unreachable)
    assert "not known" in str(follower.error)
    assert [one.event for one in follower.seen] == ["following", "blind", "ended"]


def test_an_end_while_an_epoch_is_open_is_no_clean_one(site: Site) -> None:
    committed(site)
    with following(site, for_s=2) as follower:
        site.leave_open(site.plan(BEFORE), 4, 2)
        follower.join()
    assert isinstance(follower.error, Unreachable)
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
        assert follower.error is None


def test_a_scope_that_was_made_anew_ends_it(site: Site) -> None:
    committed(site)
    with following(site) as follower:
        site.forget()
        site.init()
        follower.join()
        assert isinstance(follower.error, OtherIncarnation | Refused)


# -- losses -----------------------------------------------------------------------------------------------------------


def lose_and_find(site: Site, away: Callable[[Proxy], object]) -> Follower:
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
    return follower


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
    follower = lose_and_find(site, Proxy.cut_all if how == "cut" else lambda _: None)
    assert follower.error is None


def test_control_a_watch_that_was_lost_and_is_not_followed_by_a_look_would_be_noticed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new watch tells of what comes; what has been is known to nobody."""
    monkeypatch.setattr(Watching, "_forget", lambda _: None)
    monkeypatch.setattr("tests.test_watch.WAIT_S", 8.0)
    with pytest.raises(AssertionError, match="put_back"):
        lose_and_find(site, Proxy.cut_all)


def test_not_connected_when_the_time_is_over_is_no_clean_end(site: Site) -> None:
    committed(site)
    with (
        Proxy(int(site.server.hosts.rpartition(":")[2])) as proxy,
        following(site, proxy.hosts, session_timeout_s=4, for_s=3) as follower,
    ):
        proxy.partition()
        proxy.cut_all()
        follower.join()
        proxy.heal()
        assert isinstance(follower.error, Unreachable)
        assert "not known" in str(follower.error)


# -- the program ------------------------------------------------------------------------------------------------------


def arguments(site: Site) -> tuple[str, ...]:
    return ("watch", "--at", f"zk://{site.server.hosts}", "--scope", site.names.scope)


AUTH = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}\ndigest:{ALICE.secret.decode()}"}


def test_the_program_says_what_it_saw_and_its_code_tells(site: Site, program: Program) -> None:
    site.init(BEFORE)
    assert program(*arguments(site), "--once", env=AUTH).code == 3
    site.apply(site.plan(NEXT))
    clean = program(*arguments(site), "--for", "1", env=AUTH).succeeded()
    assert "epoch 1: 0 paths put back, 0 times" in clean.stdout
    site.kazoo.set(site.path("/change/14"), b"of others")
    assert program(*arguments(site), "--once", env=AUTH).code == 0
    site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    ran = program(*arguments(site), "--once", env=AUTH)
    assert ran.code == 4
    assert f"put back  {site.path('/change/15')}: its old data again" in ran.stdout
    assert f"changed   {site.path('/change/14')}: written" in ran.stdout
    assert "1 paths put back, 1 times, 1 changed by others" in ran.stdout
    assert "oldold" not in ran.stdout + ran.stderr
    assert program(*arguments(site), "--exit-on-first", env=AUTH).code == 4


def test_the_end_at_the_first_sums_up_too(site: Site, program: Program) -> None:
    committed(site)
    site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    ran = program(*arguments(site), "--exit-on-first", "--json", env=AUTH)
    assert ran.code == 4
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["event"] for one in events] == ["following", "put_back", "ended"]
    assert {name: events[-1][name] for name in ("put_back", "times", "now", "changed")} == {
        "put_back": 1,
        "times": 1,
        "now": 1,
        "changed": 0,
    }
    assert events[-1]["paths"] == events[0]["paths"]


def test_open_at_the_end_is_6_and_at_the_only_look_3(site: Site, program: Program) -> None:
    committed(site)
    site.leave_open(site.plan(BEFORE), 4, 2)
    assert program(*arguments(site), "--for", "1", env=AUTH).code == 6
    assert program(*arguments(site), "--once", env=AUTH).code == 3


def test_names_cannot_move_the_cursor(site: Site, program: Program) -> None:
    tree = settled({"": Node(b""), "/a\u202eb": Node(b"1")})
    site.init(tree)
    site.apply(site.plan({path: node._replace(data=b"2") for path, node in tree.items()}))
    site.kazoo.set(site.path("/a\u202eb"), b"1")
    ran = program(*arguments(site), "--once", env=AUTH)
    assert ran.code == 4
    assert "/a\\u202eb: its old data" in ran.stdout
    assert "\u202e" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("is_put_back", [False, True])
def test_the_stream_is_told_at_once_and_a_signal_ends_it(site: Site, program: Program, is_put_back: bool) -> None:
    """One object a line, while it runs. Stopped by a signal: 143, or 4 if something was put back."""
    committed(site)
    process = program.start(*arguments(site), "--json", env=AUTH)
    assert process.stdout is not None
    try:
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [one["event"] for one in events] == ["following", "heartbeat"]
        assert events[1]["put_back"] == 0
        if is_put_back:
            site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
            one = json.loads(process.stdout.readline())
            assert (one["event"], one["kind"], one["count"]) == ("put_back", "data", 1)
            assert {"path", "first_seen", "last_seen", "data_hash", "at", "epoch"} <= one.keys()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=WAIT_S)
        (ended,) = map(json.loads, rest.splitlines())
        assert ended["event"] == "ended"
        sums = (ended["put_back"], ended["times"], ended["now"], ended["changed"])
        assert sums == ((1, 1, 1, 0) if is_put_back else (0, 0, 0, 0))
        assert ended["paths"] == events[0]["paths"]
        assert process.returncode == (4 if is_put_back else 143)
    finally:
        process.kill()
        process.wait()
