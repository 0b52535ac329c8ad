"""What readers and guards leave below acting/ and guards/ cannot block an admin for ever, whatever it is: with time,
with --evict, or by being no well-formed direct child.

Method: kazoo as a reader who may only create leaves entries of every kind, on real servers; the drain is asked, with
shorter limits where a lease would last for minutes.
"""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_acl, make_digest_acl

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import AFTER, ALICE, BEFORE, ME, MY_IDENTITY, Site, assert_is
from tests.test_drain import MINUTE, guard
from tests.trees import Node
from zkmig.apply import blocking, entries, evictions
from zkmig.apply import drain as drains
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.entries import blocking_entries, on_host
from zkmig.apply.evictions import read_evictions
from zkmig.apply.forward import Options
from zkmig.apply.status import read_status
from zkmig.dev import Server
from zkmig.epoch import leases
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.control import Roles
from zkmig.epoch.leases import GuardEntry, Lease
from zkmig.epoch.owner import Migrator, TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput, NotOwner, NotPermitted, Outcome, Refused, UnknownFormat
from zkmig.model.acl import WORLD
from zkmig.wire.credential import Credential
from zkmig.wire.requests import Multi, Read, Write, frame_size

EVE = Credential("digest", b"eve:drops")
EVES = [make_digest_acl("eve", "drops", all=True)]
EVES_BUT_READABLE = [*EVES, make_acl("world", "anyone", read=True)]
IMPATIENT = Options("never", drain_timeout_s=0.2)
STEAL = TakeOver(steal=True)


@pytest.fixture
def eve(site: Site) -> KazooClient:
    """A reader of the scope, who may create entries and nothing else."""
    site.init(BEFORE, Roles((MY_IDENTITY,), (WORLD,)))
    return site.open_kazoo(EVE)


MAX_S = 0.8  # of a lease, in a test that waits for one to be over


@pytest.fixture
def short_leases() -> Iterator[Callable[[], None]]:
    """When called, no lease lasts longer than MAX_S, margin included."""
    with pytest.MonkeyPatch.context() as patch:

        def shorten() -> None:
            for module in (leases, entries):
                patch.setattr(module, "LEASE_MAX_MS", round(1_000 * MAX_S) - 100)
            patch.setattr(leases, "LEASE_MARGIN_MS", 100)

        yield shorten


# -- with time --------------------------------------------------------------------------------------------------------

HOSTILE = {
    "of enormous time": json.dumps({"format": 1, "max_ms": 10**30, "reader": "eve"}).encode(),
    "of a newer format": b'{"format": 99}',
    "unreadable": Lease("eve", 1).encode(),
    "unreadable and malformed": b"junk",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_no_lease_blocks_for_longer_than_any_lease_may(
    site: Site, eve: KazooClient, data: bytes, short_leases: Callable[[], None]
) -> None:
    """Nor is it there afterwards, to block the next. Before its time it does block, since it may be an action."""
    path = site.names.acting + "/one"
    eve.create(path, data, acl=EVES if data in (HOSTILE["unreadable"], b"junk") else None)
    with pytest.raises(DrainTimeout, match=path.removeprefix(site.names.home)[1:]):
        site.apply(site.plan(AFTER), options=IMPATIENT)
    short_leases()
    begun = time.monotonic()
    site.apply(site.plan(AFTER))
    assert MAX_S < time.monotonic() - begun
    assert not site.kazoo.exists(path)


def test_who_writes_a_lease_again_and_again_does_not_prolong_it(
    site: Site, eve: KazooClient, short_leases: Callable[[], None]
) -> None:
    """It was admitted once; its time is counted from the first sight of it. Nor by making others all the while."""
    path = site.names.acting + "/one"
    eve.create(path, MINUTE.encode(), acl=EVES_BUT_READABLE)
    short_leases()
    look_again = drains.Drain._look_again

    def renew(self: drains.Drain) -> None:
        eve.set(path, MINUTE.encode())
        eve.create(site.names.acting + "/more-", MINUTE.encode(), sequence=True)
        look_again(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drains.Drain, "_look_again", renew)
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=10 * MAX_S))
    assert_is(site.look(), AFTER)


def test_what_comes_after_the_scope_has_left_stable_holds_nothing_up(site: Site, eve: KazooClient) -> None:
    """Nobody is admitted by then: a lease or a registration that is younger cannot be one. What was there counts."""
    path = site.names.acting + "/one"
    eve.create(path, MINUTE.encode())

    def late() -> None:
        for directory, data in ((site.names.acting, MINUTE.encode()), (site.names.guards, guard(stopped=False))):
            eve.create(f"{directory}/late", data)
        site.kazoo.delete(path)
        eve.create(path, MINUTE.encode())

    site.apply(site.plan(AFTER), options=Options("never", 5.0, say=when_said("waiting for acting/", late)))
    assert_is(site.look(), AFTER)


def test_without_that_it_would_be_waited_for(site: Site, eve: KazooClient) -> None:
    """Negative control of the test before: the same entry, there before the epoch leaves STABLE, does block."""
    eve.create(site.names.guards + "/late", guard(stopped=False))
    with pytest.raises(DrainTimeout, match="late"):
        site.apply(site.plan(AFTER), options=IMPATIENT)


def test_children_of_an_entry_change_nothing(site: Site, eve: KazooClient) -> None:
    """Its owner may create below it, as deep as she likes; nobody else can delete that. Over, it blocks nobody."""
    path = site.names.acting + "/one"
    eve.create(path, Lease("eve", 60_000, released=True).encode(), acl=EVES_BUT_READABLE)
    eve.create(path + "/child/deep", MINUTE.encode(), acl=EVES, makepath=True)
    eve.create(site.names.acting + "/two/child", MINUTE.encode(), acl=EVES_BUT_READABLE, makepath=True)
    site.apply(site.plan(AFTER), options=IMPATIENT)
    assert_is(site.look(), AFTER)


def test_an_unreadable_guard_blocks_until_it_is_evicted(
    site: Site, eve: KazooClient, short_leases: Callable[[], None]
) -> None:
    """No time bounds a guarded process."""
    eve.create(site.names.guards + "/one", guard(stopped=False), acl=EVES)
    short_leases()
    with pytest.raises(DrainTimeout, match=r"guards/one \(not readable\)"):
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=2 * MAX_S))
    site.apply(site.plan(AFTER), options=Options("never", evict=("guards/one",)))
    assert_is(site.look(), AFTER)


def test_a_guard_that_waiting_does_not_end_is_named_with_its_host_and_what_to_do(
    site: Site, eve: KazooClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed stays registered as running. Named as --evict takes it; told once, and not of leases alone.
    Past the deadline it is told in any case."""
    monkeypatch.setattr(blocking, "GUARD_ENDS_S", 0.2)
    said: list[str] = []
    process = {"host": "web1", "pid": 4711}
    eve.create(site.names.guards + "/one", GuardEntry("one", stopped=False, process=process).encode())
    words = r"guards/one \(guarded process one, registered as running on web1 \(guard's pid 4711\)\)"
    with pytest.raises(DrainTimeout, match=f": {words}.*start a guard that was killed again where it ran"):
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=1.0, say=said.append))
    assert said.count(blocking.KILLED_GUARD) == 1
    site.kazoo.delete(site.names.guards + "/one")
    eve.create(site.names.acting + "/one", MINUTE.encode())
    said.clear()
    with pytest.raises(DrainTimeout, match=": acting/one"):
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=1.0, say=said.append))
    assert blocking.KILLED_GUARD not in said


def test_nobody_is_told_to_evict_a_guard_that_is_just_ending_its_command(site: Site, eve: KazooClient) -> None:
    """It takes its grace for that, in every drain: whoever evicts it then has both at work at once."""
    said: list[str] = []
    path = site.names.guards + "/one"
    eve.create(path, guard(stopped=False), acl=EVES_BUT_READABLE)
    timer = threading.Timer(2.0, lambda: eve.set(path, guard(stopped=True)))
    timer.start()
    site.apply(site.plan(AFTER), options=Options("never", say=said.append))
    timer.join()
    assert_is(site.look(), AFTER)
    assert any(sentence.startswith("waiting for guards/one") for sentence in said)
    assert not any("evict" in sentence for sentence in said)


@pytest.mark.parametrize(
    "process", [None, {}, {"host": 3}, {"host": "", "pid": 1}, {"host": "h" * 500, "pid": 10**999}]
)
def test_who_a_guard_says_that_it_is_may_be_anything(process: dict[str, object] | None) -> None:
    assert len(on_host(GuardEntry("one", stopped=False, process=process))) < 80


# -- by the operator --------------------------------------------------------------------------------------------------


def test_what_is_evicted_is_not_waited_for_and_on_record(site: Site, eve: KazooClient) -> None:
    """A lease, a guard, one that may not be read, one with children, one that is malformed: in every way to write a
    name. It is said, and the attempt tells it afterwards."""
    left = {
        "acting/lease": (MINUTE.encode(), None),
        "guards/guard": (guard(stopped=False), None),
        "acting/hidden": (MINUTE.encode(), EVES),
        "acting/parent": (MINUTE.encode(), EVES),
        "acting/junk": (b"junk", None),
    }
    for name, (data, acl) in left.items():
        eve.create(f"{site.names.home}/{name}", data, acl=acl)
    eve.create(f"{site.names.acting}/parent/child", MINUTE.encode(), acl=EVES)
    said: list[str] = []
    wanted = ("lease", f"{site.names.home}/guards/guard", "acting/hidden", "acting/parent", "junk")
    site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2, evict=wanted, say=said.append))
    assert_is(site.look(), AFTER)
    assert sum(sentence.startswith("evicted") for sentence in said) == 5
    record = site.record()
    recorded = read_evictions(site.client(), site.names.attempt(1, str(record.committed_attempt)))
    assert {eviction.entry for eviction in recorded} == set(left)
    assert {eviction.what for eviction in recorded if eviction.entry == "acting/hidden"} == {"not readable"}
    (attempt,) = read_attempts(site.client(), site.names, record)
    assert set(attempt.note.evicted) == set(left)
    # Gone, but for the one that the servers do not let the admin delete; a guard's says that it has stopped.
    there = [name for name in left if site.kazoo.exists(f"{site.names.home}/{name}")]
    assert there == ["guards/guard", "acting/parent"]
    assert_stopped(site, "guard")


def assert_stopped(site: Site, *names: str) -> None:
    """All that is registered there, and none of it blocks."""
    found = {name: GuardEntry.decode(site.kazoo.get(f"{site.names.guards}/{name}")[0]) for name in names}
    assert sorted(site.kazoo.get_children(site.names.guards)) == sorted(names)
    assert all(entry is not None and entry.stopped for entry in found.values())


@pytest.mark.parametrize("wanted", ["leas", "lease2", "acting", "acting/", "acting/leas", "guards/lease", "", "/", "*"])
def test_an_unknown_name_is_refused_before_anything_is_written(site: Site, eve: KazooClient, wanted: str) -> None:
    """Exactly the name, no beginning of it; the refusal tells which there are."""
    eve.create(site.names.acting + "/lease", MINUTE.encode())
    eve.create(site.names.acting + "/over", b"junk")
    home = site.kazoo.get_children(site.names.home), site.kazoo.get_children(site.names.epochs)
    for dry_run in (True, False):
        with pytest.raises(Refused, match=r"those that block: acting/lease$") as caught:
            site.apply(site.plan(AFTER), options=Options("never", evict=(wanted,)), dry_run=dry_run)
        assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert (site.kazoo.get_children(site.names.home), site.kazoo.get_children(site.names.epochs)) == home


def test_a_name_that_is_in_both_has_to_be_said_in_full(site: Site, eve: KazooClient) -> None:
    for directory in (site.names.acting, site.names.guards):
        eve.create(directory + "/one", MINUTE.encode())
    with pytest.raises(BadInput, match="acting/one or guards/one"):
        site.apply(site.plan(AFTER), options=Options("never", evict=("one",)))
    site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2, evict=("acting/one",)))


def test_others_are_waited_for_all_the_same(site: Site, eve: KazooClient) -> None:
    for name in ("one", "two"):
        eve.create(f"{site.names.acting}/{name}", MINUTE.encode())
    with pytest.raises(DrainTimeout, match="acting/two") as caught:
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2, evict=("one",)))
    assert "acting/one" not in str(caught.value)
    assert site.record().state is State.STABLE


def test_whoever_goes_on_heeds_what_was_evicted(site: Site, eve: KazooClient) -> None:
    """The one who evicted is gone, and the entry is not, having children: it stays evicted, and status says so. Another
    of the same name is another."""
    path = site.names.acting + "/one"
    eve.create(path, MINUTE.encode(), acl=EVES)
    eve.create(path + "/child", b"", acl=EVES)
    sealed = site.plan(AFTER)
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options("never", evict=("one",), say=when_said("evicted acting/one", interrupt)))
    assert site.record().state is State.PREPARING
    status = read_status(site.client(), site.names)
    assert [eviction.entry for eviction in status.evicted] == ["acting/one"]
    site.resume(sealed, options=Options("never", drain_timeout_s=0.2, evict=("one",)), how=STEAL)
    assert_is(site.look(), AFTER)


def test_resume_evicts_too(site: Site, eve: KazooClient) -> None:
    """Also a second owner of the same attempt; later than the drain it is of no effect, and that is said."""
    eve.create(site.names.acting + "/one", MINUTE.encode())
    sealed = site.plan(AFTER)
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options("never", say=when_said("waiting for", interrupt)))
    with pytest.raises(Refused, match="no lease or guard 'two'"):
        site.resume(sealed, options=Options("never", evict=("two",)), how=STEAL)
    options = Options("never", drain_timeout_s=0.2, evict=("one",), report=at("write", 3, interrupt))
    with pytest.raises(Interrupted):
        site.resume(sealed, options=options, how=STEAL)
    said: list[str] = []
    site.resume(sealed, options=Options("never", evict=("one",), say=said.append), how=STEAL)
    assert any(sentence.startswith("nobody is evicted") for sentence in said)
    assert_is(site.look(), AFTER)


def test_who_is_not_the_owner_evicts_nobody(site: Site, eve: KazooClient) -> None:
    """Robbed between its look and its eviction: nothing on record, the entry untouched."""
    eve.create(site.names.acting + "/one", MINUTE.encode())

    def robbed(migrator: Migrator, *arguments: object) -> object:
        site.rollback(how=STEAL)
        return evictions.record_evictions(migrator, *arguments)  # type: ignore[arg-type] # as given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drains, "record_evictions", robbed)
        with pytest.raises(NotOwner):
            site.apply(site.plan(AFTER), options=Options("never", evict=("one",)))
    assert site.kazoo.exists(site.names.acting + "/one")
    assert_is(site.look(), BEFORE)


def test_an_eviction_is_for_its_attempt_alone(site: Site, eve: KazooClient) -> None:
    """An attempt evicts an action and a guard, and comes to nothing, in its drain or later; both may still be at work,
    so the next attempt waits for them. Once an attempt that has evicted them is committed, nobody waits for them."""
    eve.create(site.names.acting + "/one", MINUTE.encode())
    eve.create(site.names.guards + "/one", guard(stopped=False))
    eve.create(site.names.guards + "/two", guard(stopped=False))
    sealed = site.plan(AFTER)
    evict = ("acting/one", "guards/one")
    with pytest.raises(DrainTimeout, match="guards/two"):
        site.apply(sealed, options=Options("never", drain_timeout_s=0.2, evict=evict))
    eve.set(site.names.guards + "/two", guard(stopped=True))
    waited_for = pytest.raises(DrainTimeout, match=r"acting/one .*guards/one ")
    with waited_for:
        site.apply(sealed, options=IMPATIENT)
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options("never", 0.2, evict=evict, report=at("write", 3, interrupt)))
    site.rollback()
    sealed = site.plan(AFTER)
    with waited_for:
        site.apply(sealed, options=IMPATIENT)
    site.apply(sealed, options=Options("never", 0.2, evict=evict))
    assert_is(site.look(), AFTER)
    assert site.kazoo.get_children(site.names.acting) == []
    assert_stopped(site, "one", "two")


def test_all_that_may_not_be_read_goes_by_one_word(site: Site, eve: KazooClient) -> None:
    """And nothing else, even if it has that name."""
    eve.create(site.names.guards + "/one", b"", acl=EVES)
    eve.create(site.names.acting + "/two", b"", acl=EVES)
    eve.create(site.names.guards + "/unreadable", guard(stopped=False))
    evicting = Options("never", drain_timeout_s=0.2, evict=("unreadable",))
    with pytest.raises(DrainTimeout, match=r"after 0 s: \S*guards/unreadable \([^)]*\);"):
        site.apply(site.plan(AFTER), options=evicting)
    site.kazoo.delete(site.names.guards + "/unreadable")
    site.apply(site.plan(AFTER), options=evicting)
    (_, attempt) = read_attempts(site.client(), site.names, site.record())
    assert set(attempt.note.evicted) == {"guards/one", "acting/two"}
    both = site.client(ME, ALICE)
    more = site.plan(AFTER | {"/keep": BEFORE["/empty"]}, client=both)
    site.apply(more, 2, client=both, options=evicting)  # there is none any more, which is no mistake


def test_any_number_can_be_evicted(site: Site, eve: KazooClient) -> None:
    """In frames of the usual size, each put on record; resumed in the midst of that, each only once."""
    count, home = 5_000, site.names.guards
    _flood(eve, home, guard(stopped=False), count, "host-.some-service-with-a-name-of-some-length.service")
    names = tuple(f"guards/{name}" for name in eve.get_children(home))
    sealed = site.plan(AFTER)
    client = site.client()
    frames: list[int] = []

    def stop_in_the_midst(request: Read | Write) -> None:
        if isinstance(request, Multi) and any("/evicted-" in op.path for op in request.operations):
            frames.append(frame_size(request))
            if len(frames) == 4:
                interrupt()

    client.before = stop_in_the_midst
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client, options=Options("never", 0.2, evict=names))
    client.close()
    site.resume(sealed, options=Options("never", 0.2, evict=names))
    assert_is(site.look(), AFTER)
    assert max(frames) <= 64 * 1024
    evictions = read_evictions(site.client(), site.names.attempt(1, str(site.record().committed_attempt)))
    assert sorted(eviction.entry for eviction in evictions) == sorted(names)
    assert_stopped(site, *eve.get_children(home))


@pytest.mark.parametrize("said", [{"at": "x"}, {"czxid": []}, {"entry": None}, [], 7])
def test_what_is_no_record_of_evictions_is_told_in_a_line(site: Site, said: object) -> None:
    """Goal: a field of another type is no traceback. Method: one sound eviction and one of kazoo's beside it."""
    site.init(BEFORE)
    site.leave_open(site.plan(AFTER), 1)
    attempt = site.names.attempt(1, str(site.record().attempt))
    sound = {"entry": "acting/a", "czxid": 1, "what": "w", "by": "h", "at": 1.0}
    evicted = [sound, sound | said if isinstance(said, dict) else said]
    site.kazoo.create(f"{attempt.home}/evicted-1", json.dumps({"format": 1, "evicted": evicted}).encode())
    with pytest.raises(UnknownFormat, match="not a record of evictions"):
        read_evictions(site.client(), attempt)


def test_whatever_goes_wrong_before_the_first_write_ends_the_attempt(site: Site) -> None:
    """A path of the plan that may not be read any more when the drain is over: nobody waits for a decision."""
    site.init(BEFORE)

    def hide() -> None:
        site.kazoo.set_acls(site.path("/gone/01"), [make_digest_acl("alice", "wonder", all=True)])

    with pytest.raises(NotPermitted, match="/gone/01") as caught:
        site.apply(site.plan(AFTER), options=Options("never", say=when_said("draining", hide)))
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert site.record().state is State.STABLE


# -- of any size ---

# -- of any size ------------------------------------------------------------------------------------------------------


def test_large_entries_cost_a_small_server_nothing() -> None:
    """A reader leaves 60 of a megabyte each, which a server of 400 MB holds. Whoever looks whether they block, by
    status or by a drain, asks for none of their data: its answers, under way together, would be the server's end."""
    count = 60
    with Server(heap_mb=400) as server, Site(server, "/small") as site:
        site.init({"": Node(b""), "/a": Node(b"1")}, Roles((MY_IDENTITY,), (WORLD,)))
        eve = site.open_kazoo(EVE)
        for number in range(count):
            acl = EVES if number % 2 else EVES_BUT_READABLE
            eve.create(f"{site.names.acting}/{number}", bytes(1_000_000), acl=acl)
        eve.create(f"{site.names.acting}/one", MINUTE.encode())
        pid = server.pid
        tracemalloc.start()
        status = read_status(site.client(), site.names)
        with pytest.raises(DrainTimeout, match="acting/one"):
            site.apply(site.plan({"": Node(b""), "/a": Node(b"2")}), options=IMPATIENT)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [entry.name for entry in status.blocking] == ["acting/one"]
        assert peak < 5e6
        assert server.pid == pid
        assert site.record().state is State.STABLE


def test_a_name_that_is_no_leases_blocks_nobody(site: Site, eve: KazooClient) -> None:
    """However long, and of whatever characters; a few hundred of them at once are not asked for in one frame."""
    long = "名" * 10_000
    for number in range(150):
        eve.create(f"{site.names.acting}/{number}{long}", MINUTE.encode())
        eve.create(f"{site.names.guards}/{number}{long}", guard(stopped=False), acl=EVES)
    eve.create(f"{site.names.guards}/{'g' * 1_024}", guard(stopped=False))
    with pytest.raises(DrainTimeout, match="ggg"):
        site.apply(site.plan(AFTER), options=IMPATIENT)
    site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2, evict=("guards/" + "g" * 1_024,)))
    assert_is(site.look(), AFTER)


# -- by the thousand --------------------------------------------------------------------------------------------------

COUNTS = [3_000, pytest.param(100_000, marks=pytest.mark.nightly)]


def _flood(client: KazooClient, directory: str, data: bytes, count: int, suffix: str = "") -> None:
    asked = []
    for number in range(0, count, 200):
        transaction = client.transaction()
        for each in range(number, min(number + 200, count)):
            transaction.create(f"{directory}/{each:07}{suffix}", data)
        asked.append(transaction.commit_async())
        if len(asked) > 20:
            asked.pop(0).get()
    for one in asked:
        one.get()


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_entries_and_readers_takes_bounded_memory_and_time(
    site: Site, eve: KazooClient, count: int
) -> None:
    """Junk and leases that are over hold nothing up; what blocks is told by a few names."""
    _flood(eve, site.names.acting, b"junk", count)
    _flood(eve, site.names.guards, Lease("eve", 1, released=True).encode(), count)
    _flood(eve, site.names.readers, b"junk", count)
    tracemalloc.start()
    begun = time.monotonic()
    status = read_status(site.client(), site.names)
    site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=60))
    took = time.monotonic() - begun
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_is(site.look(), AFTER)
    assert (len(status.readers), status.blocking) == (count, ())
    assert peak < 20e6 + count * 1_000
    assert took < 20 + count / 1_000
    assert len(site.kazoo.get_children(site.names.acting)) == max(0, count - drains.REMOVED_MAX)


@pytest.mark.parametrize("count", COUNTS)
def test_any_number_that_blocks_is_named_by_a_few_and_goes_with_time(
    site: Site, eve: KazooClient, count: int, short_leases: Callable[[], None]
) -> None:
    _flood(eve, site.names.acting, MINUTE.encode(), count)
    said: list[str] = []
    with pytest.raises(DrainTimeout, match=f"and {count - 5} more") as caught:
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2, say=said.append))
    assert len(str(caught.value)) < 1_500
    assert sum(sentence.startswith("waiting for") for sentence in said) == 6
    assert sum(1 for _ in blocking_entries(site.client(), site.names)) == count
    short_leases()
    site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=60 + count / 1_000))
    assert_is(site.look(), AFTER)


def test_a_migrator_in_its_drain_that_was_robbed_removes_nothing(site: Site, eve: KazooClient) -> None:
    """It wakes up when the scope is STABLE again and somebody was admitted under the very name of a lease it has seen
    released: its deletion fails at the guard. (And would at the version.)"""
    path = site.names.acting + "/one"
    eve.create(path, Lease("eve", 1, released=True).encode(), acl=EVES_BUT_READABLE)
    remove_dead = drains.Drain._remove_dead

    def slow(self: drains.Drain) -> None:
        site.rollback(how=STEAL)
        eve.set(path, MINUTE.encode())
        remove_dead(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drains.Drain, "_remove_dead", slow)
        with pytest.raises(NotOwner):
            site.apply(site.plan(AFTER))
    assert site.kazoo.get(path)[0] == MINUTE.encode()
