"""A controller that puts a path back whenever it changes is recognised, counted over attempts, and named.

Method: a real client in a thread of its own that compares and writes as configuration management does; attempts against
it until it is stopped. What conflicts say of data is looked at byte by byte: never data, and no hash where not
everybody who reads the record may read the node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.interruptions import at, when_said
from tests.scopes import (
    BEFORE,
    MINE,
    MINE_BUT_READABLE,
    Site,
    WatchedClient,
    assert_is,
    assert_went_back,
    settled,
)
from tests.test_history import NEXT
from tests.trees import Node
from zkmig.api.migrate import SingleShot
from zkmig.apply.aclsteps import FOREIGN_ACL
from zkmig.apply.conflicts import Found, is_rewritten, sentence, times_put_back
from zkmig.apply.options import Options
from zkmig.apply.verify import Deviation
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.journal import Action, Entry
from zkmig.epoch.record import ConflictNote, data_hash
from zkmig.errors import Conflict, StalePlan
from zkmig.model.acl import OPEN_ACL
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import AnyPolicy, Policy
from zkmig.wire.requests import Multi, SetData

OLD = b"old" * 15  # of BEFORE's /change/15


class Controller:
    """Puts `path` back to `wanted` (None: not there) whenever it finds something else, as often as it looks."""

    def __init__(self, kazoo: KazooClient, path: str, wanted: bytes | None) -> None:
        self._kazoo = kazoo
        self._path = path
        self._wanted = wanted
        self._ended = threading.Event()
        self._again = threading.Condition()
        self.times = 0
        self._thread = threading.Thread(target=self._loop)

    def __enter__(self) -> Controller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def await_times(self, times: int) -> None:
        """Return once it has put the path back that often."""
        with self._again:
            assert self._again.wait_for(lambda: self.times >= times, 20)

    def _loop(self) -> None:
        while not self._ended.is_set():
            if self._put_back():
                with self._again:
                    self.times += 1
                    self._again.notify_all()
            self._ended.wait(0.01)

    def _put_back(self) -> bool:
        try:
            data, stat = self._kazoo.get(self._path)
            if self._wanted is None:
                self._kazoo.delete(self._path)
                return True
            if data != self._wanted:
                self._kazoo.set(self._path, self._wanted, version=stat.version)
                return True
        except NoNodeError:
            if self._wanted is not None:
                self._kazoo.create(self._path, self._wanted)
                return True
        except (BadVersionError, NodeExistsError):
            pass
        return False


@contextmanager
def controller(site: Site, relative: str, wanted: bytes | None) -> Iterator[Controller]:
    with Controller(site.open_kazoo(), site.path(relative), wanted) as one:
        yield one


def attempt(site: Site, one: Controller, times: int) -> Conflict:
    """Apply in batches, and let the controller do its work before the verification."""
    sealed = site.plan(NEXT)
    report = at("write", len(sealed.plan.batch_ends), lambda: one.await_times(times))
    with pytest.raises(Conflict) as caught:
        site.apply(sealed, options=Options(single_shot="never", report=report))
    return caught.value


CASES: dict[str, tuple[str, bytes | None]] = {
    "written back": ("/change/15", OLD),
    "deleted again": ("/new/05", None),
    "created again": ("/empty-one", b"here"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_second_attempt_names_it_with_a_count(site: Site, case: str) -> None:
    """Once may be a chance; at the second attempt the counts of both are told, and so does the rollback."""
    relative, wanted = CASES[case]
    site.init({**BEFORE, "/empty-one": BEFORE["/keep"]._replace(data=b"here")})
    path = site.path(relative)
    with controller(site, relative, wanted) as one:
        first = attempt(site, one, 1)
        assert first.where == path
        assert "put back to its old value once: perhaps by a controller that reverts" in str(first)
        result = site.rollback()
        assert any(
            deviation.path == path and "put back to its old value" in deviation.reason
            for deviation in result.deviations
        )
        second = attempt(site, one, 2)
        assert "put back to its old value 2 times: looks like a controller that reverts" in str(second)
        assert "stop it or change its source first" in str(second)
        conflict = site.record().conflict
        assert conflict is not None
        assert (conflict.put_back, conflict.attempts) == (2, 2)
        result = site.rollback()
        (told,) = [deviation for deviation in result.deviations if deviation.path == path]
        assert "2 times" in told.reason
    noted = [found.note.put_back for found in read_attempts(site.client(), site.names, site.record())]
    assert [[(put.path, put.times) for put in puts] for puts in noted] == [[(path, 1)], [(path, 1)]]
    site.apply(site.plan(NEXT))
    assert_is(site.look(), NEXT)


def test_one_that_never_stops_writing_is_counted_by_versions(site: Site) -> None:
    """It writes the old value three times over after the last batch, without looking."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    end = len(sealed.plan.batch_ends)

    def write_over() -> None:
        for _ in range(3):
            site.kazoo.set(site.path("/change/15"), OLD)

    with pytest.raises(Conflict, match="put back to its old value 3 times"):
        site.apply(sealed, options=Options(single_shot="never", report=at("write", end, write_over)))
    before = site.look()
    site.rollback()
    assert site.look()["/change/15"] == before["/change/15"]


def test_a_foreign_value_is_no_old_value(site: Site) -> None:
    """Negative control: another value, however often written, is somebody's work and is not called reverting."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)

    def write() -> None:
        for number in range(3):
            site.kazoo.set(site.path("/change/15"), b"foreign %d" % number)

    for _ in range(2):
        report = at("write", len(sealed.plan.batch_ends), write)
        with pytest.raises(Conflict) as caught:
            site.apply(sealed, options=Options(single_shot="never", report=report))
        assert "old value" not in str(caught.value)
        assert all("old value" not in deviation.reason for deviation in site.rollback().deviations)
        site.kazoo.set(site.path("/change/15"), OLD)
        sealed = site.plan(NEXT)


def meddle_before_the_write(site: Site, client: WatchedClient, path: str) -> None:
    """Write its old value three times, just before the migrator's own write to it is sent."""

    def meddle(request: object) -> None:
        if isinstance(request, Multi) and any(isinstance(op, SetData) and op.path == path for op in request.operations):
            client.before = lambda _: None
            for _ in range(3):
                site.kazoo.set(path, OLD)

    client.before = meddle


@pytest.mark.parametrize("single_shot", ["require", "never"])
def test_who_renews_a_value_before_it_was_changed_puts_nothing_back(site: Site, single_shot: SingleShot) -> None:
    """Somebody writes the same value now and then, as a heartbeat does: a conflict, but nobody is called reverting."""
    site.init(BEFORE)
    sealed = site.plan({**BEFORE, "/change/15": BEFORE["/keep"]})
    client = site.client()
    meddle_before_the_write(site, client, site.path("/change/15"))
    with pytest.raises(Conflict, match="written again with the value that it had") as caught:
        site.apply(sealed, client=client, options=Options(single_shot=single_shot))
    assert "reverts" not in str(caught.value)
    if single_shot == "never":
        site.rollback()
    (found,) = read_attempts(site.client(), site.names, site.record())
    assert found.note.put_back == ()
    if single_shot == "require":
        assert "written again with the value that it had" in found.note.reason
        assert found.note.conflict is not None
        assert found.note.conflict.found_version == 3


def test_undo_itself_puts_nothing_back(site: Site) -> None:
    """Somebody has changed an ACL alone; the old value of the data is what undoing has written."""
    tree = settled({"": Node(b"r"), "/a": Node(b"old", MINE_BUT_READABLE), "/b": Node(b"1")})
    site.init(tree)
    theirs = [make_digest_acl("me", "hunter2", all=True), make_digest_acl("alice", "wonder", all=True)]
    sealed = site.plan({**tree, "/a": Node(b"new", MINE), "/b": Node(b"2")})
    say = when_said("verifying", lambda: site.kazoo.set_acls(site.path("/a"), theirs))
    with pytest.raises(Conflict):
        site.apply(sealed, options=Options(single_shot="never", say=say))
    (deviation,) = site.rollback().deviations
    assert deviation == Deviation(site.path("/a"), FOREIGN_ACL)
    assert site.kazoo.get(site.path("/a"))[0] == b"old"
    (attempt,) = read_attempts(site.client(), site.names, site.record())
    assert attempt.note.put_back == ()


def test_what_only_a_rollback_finds_put_back_is_named_to_admins_alone(site: Site) -> None:
    """Paths that no conflict has named may lie below what others may not look into; they are counted all the same."""
    site.init(BEFORE)
    path = site.path("/change/15")
    for times in (1, 2):
        sealed = site.plan(NEXT)
        site.leave_open(sealed, len(sealed.plan.batch_ends))
        site.kazoo.set(path, OLD)
        (deviation,) = site.rollback().deviations
        assert deviation.path == path
        assert deviation.reason.endswith(sentence(times))
    others = site.open_kazoo()
    for attempt in read_attempts(site.client(), site.names, site.record()):
        home = site.names.attempt(1, attempt.note.attempt).home
        assert path.encode() not in (others.get(home)[0] or b"")
        with pytest.raises(NoAuthError):
            others.get(f"{home}/put-back")


@pytest.mark.parametrize("said", [b'[["/a", Infinity]]', b"[" * 100_000, b'[["/a", []]]', b"7"])
def test_a_memory_that_is_none_holds_up_no_rollback(site: Site, said: bytes) -> None:
    """Goal: what was put back in an earlier attempt informs alone. Method: kazoo writes over it before the next."""
    site.init(BEFORE)
    for _ in range(2):
        sealed = site.plan(NEXT)
        site.leave_open(sealed, len(sealed.plan.batch_ends))
        site.kazoo.set(site.path("/change/15"), OLD)
        (deviation,) = site.rollback().deviations
        assert deviation.reason.endswith(sentence(1))
        for home in site.kazoo.get_children(site.names.epochs):
            site.kazoo.set(f"{site.names.epochs}/{home}/put-back", said)


# -- what a conflict says of data -------------------------------------------------------------------------------------


def conflict_of(site: Site, act: Callable[[], object], when: int, policy: AnyPolicy = None) -> ConflictNote:
    sealed = site.plan(NEXT, policy=policy)
    with pytest.raises(Conflict):
        site.apply(
            sealed,
            options=Options(single_shot="never", report=at("write", min(when, len(sealed.plan.batch_ends)), act)),
        )
    found = site.record().conflict
    assert found is not None
    return found


def test_a_conflict_tells_versions_and_hashes_never_data(site: Site) -> None:
    site.init(BEFORE)
    path = site.path("/change/15")
    before = site.kazoo.exists(path)
    assert before is not None
    found = conflict_of(site, lambda: site.kazoo.set(path, b"foreign secret"), 10_000)
    assert (found.operation, found.path) == ("verify", path)
    assert (found.expected_version, found.found_version) == (1, 2)
    assert (found.expected_czxid, found.found_czxid) == (before.czxid, before.czxid)
    assert (found.expected_hash, found.found_hash) == (data_hash(b"new" * 15), data_hash(b"foreign secret"))
    for place in (site.names.record, f"{site.names.epochs}/1-{site.record().attempt}"):
        data = site.kazoo.get(place)[0]
        assert data is not None
        assert b"foreign secret" not in data
        assert b"newnew" not in data


def test_before_its_batch_it_tells_what_the_plan_expected(site: Site) -> None:
    site.init(BEFORE)
    path = site.path("/change/15")
    found = conflict_of(site, lambda: site.kazoo.set(path, b"foreign"), 0)
    assert (found.operation, found.expected_version, found.found_version) == ("write", 0, 1)
    assert found.expected_hash == data_hash(OLD)
    site.rollback()
    site.kazoo.set(path, OLD)
    gone = conflict_of(site, lambda: site.kazoo.delete(path), 0)
    assert (gone.found_version, gone.found_czxid, gone.found_hash) == (None, None, None)


def test_no_hash_of_what_not_everybody_may_read(site: Site) -> None:
    """The record is world-readable, the node is mine: a hash of few possible values would tell it."""
    site.init(BEFORE)
    path = site.path("/gone/mine")
    found = conflict_of(site, lambda: site.kazoo.set(path, b"foreign"), 0)
    assert found.path == path
    assert (found.expected_hash, found.found_hash) == (None, None)
    assert (found.expected_version, found.found_version) == (0, 1)


@pytest.mark.parametrize(("when", "masked"), [(0, "/change/*"), (10_000, "/change/*"), (10_000, "/elsewhere/*")])
def test_no_hash_of_what_a_policy_masks(site: Site, when: int, masked: str) -> None:
    """Before its batch and behind it; what the mask does not cover is told as ever."""
    site.init(BEFORE)
    policy = Policy(masks=(CapturePattern.parse(site.path(masked)),))
    path = site.path("/change/15")
    found = conflict_of(site, lambda: site.kazoo.set(path, b"foreign"), when, policy)
    assert found.path == path
    assert (found.found_version, found.expected_version) == (when // 10_000 + 1, when // 10_000)
    told = (found.expected_hash, found.found_hash)
    assert told == ((None, None) if "change" in masked else (data_hash(b"new" * 15), data_hash(b"foreign")))


@pytest.mark.parametrize("way", ["created", "tightened"])
def test_no_hash_of_what_the_plan_keeps_from_others(site: Site, way: str) -> None:
    """The plan's own ACL shuts others out; by now the node is gone, or somebody has opened it."""
    tree = settled({"": Node(b"r"), "/a": Node(b"1"), "/a/k": Node(b"")})
    site.init(tree)
    secret = "/secret" if way == "created" else "/a"
    sealed = site.plan({**tree, secret: Node(b"pin-1234", MINE)})

    def meddle() -> None:
        if way == "created":
            site.kazoo.delete(site.path(secret))
        else:
            site.kazoo.set_acls(site.path(secret), OPEN_ACL_UNSAFE)
            site.kazoo.set(site.path(secret), b"x")

    with pytest.raises(Conflict, match=secret):
        site.apply(sealed, options=Options(single_shot="never", say=when_said("verifying", meddle)))
    conflict = site.record().conflict
    assert conflict is not None
    assert (conflict.expected_hash, conflict.found_hash) == (None, None)


# -- counting, pure ---------------------------------------------------------------------------------------------------


def stat(version: int, czxid: int = 5) -> Stat:
    return Stat(czxid, 9, 0, 0, version, 0, 0, 0, 0, 0, 0)


def entry(action: Action) -> Entry:
    return Entry(action, "/n", 3, Znode("/n", b"old", OPEN_ACL, stat(4), Kind.PERSISTENT))


@pytest.mark.parametrize(
    ("before", "found", "times"),
    [
        (entry(Action.WRITTEN), Found("/n", b"new", stat(5)), 0),  # as we left it
        (entry(Action.WRITTEN), Found("/n", b"old", stat(6)), 1),
        (entry(Action.WRITTEN), Found("/n", b"old", stat(9)), 4),
        (entry(Action.WRITTEN), Found("/n", b"other", stat(9)), 0),
        (entry(Action.WRITTEN), Found("/n", None, stat(9)), 0),  # null is not empty, nor anything else
        (entry(Action.WRITTEN), Found("/n", b"old", stat(2, czxid=8)), 3),  # created and written twice
        (entry(Action.WRITTEN), Found("/n"), 0),
        (entry(Action.DELETED), Found("/n", b"old", stat(0, czxid=8)), 1),
        (entry(Action.DELETED), Found("/n", b"old", stat(4)), 0),
        (None, Found("/n"), 1),  # it was not there before, and is not there again
        (None, Found("/n", b"", stat(0)), 0),
        (entry(Action.WRITTEN), Found("/n", None, stat(9), is_readable=False), 0),
    ],
)
def test_times_are_told_by_versions(before: Entry | None, found: Found, times: int) -> None:
    assert times_put_back(before, found) == times


@pytest.mark.parametrize(
    ("before", "found", "is_it"),
    [
        (entry(Action.WRITTEN), Found("/n", b"old", stat(4)), False),  # as it was
        (entry(Action.WRITTEN), Found("/n", b"old", stat(6)), True),
        (entry(Action.DELETED), Found("/n", b"old", stat(0, czxid=8)), True),
        (entry(Action.WRITTEN), Found("/n", b"other", stat(6)), False),
        (entry(Action.WRITTEN), Found("/n", None, stat(6), is_readable=False), False),
        (entry(Action.WRITTEN), Found("/n"), False),
        (None, Found("/n"), False),
        (None, Found("/n", b"", stat(0)), False),
    ],
)
def test_a_value_is_rewritten_if_it_is_the_same_of_another_version(
    before: Entry | None, found: Found, is_it: bool
) -> None:
    assert is_rewritten(before, found) is is_it


def test_one_time_is_not_times() -> None:
    assert "once" in sentence(1)
    assert "7 times" in sentence(7)


def test_a_plan_that_the_controller_made_stale_is_stale(site: Site) -> None:
    """Written over with its old value after planning, before applying: refused as any other change."""
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(NEXT)
    site.kazoo.set(site.path("/change/15"), OLD)
    with pytest.raises(StalePlan, match="/change/15"):
        site.apply(sealed)
    assert_went_back(before, site.look())
