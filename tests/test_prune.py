"""Journals that nobody needs go, those that somebody may need stay, whoever stops where; and scopes go as a whole.

Method: attempts of every sort on a real server; stopped before each write in turn; looked at by plain kazoo.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import zkmig
from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import ALICE, BEFORE, ME, Site, WatchedClient, assert_went_back
from tests.test_drain import guard
from tests.test_history import NEXT
from zkmig.apply import prune as pruning
from zkmig.apply import remove as removing
from zkmig.apply.options import Options
from zkmig.apply.prune import Pruned
from zkmig.apply.remove import Removed
from zkmig.apply.status import read_status
from zkmig.dev import Server
from zkmig.epoch import record as records
from zkmig.epoch.attempts import Attempt, Fate, read_attempts
from zkmig.epoch.control import read_registry
from zkmig.epoch.journal import JournalMissing, load
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import HEAD_LENGTH, Migrator, TakeOver
from zkmig.epoch.record import Held as Hold
from zkmig.errors import Held, NotOwner, NotPermitted, Refused, Stopped
from zkmig.reader import Reader
from zkmig.stop import EXIT_SIGTERM, StopRequest
from zkmig.wire.requests import Multi, Read, SetAcl, Write


def prune(
    site: Site,
    keep: int = 1,
    *,
    client: WatchedClient | None = None,
    how: TakeOver | None = None,
    stop: StopRequest | None = None,
    dry_run: bool = False,
) -> Pruned:
    return pruning.prune(
        client or site.client(),
        site.names,
        keep,
        options=Options(),
        take_over=how or TakeOver(),
        stop=stop or StopRequest(),
        dry_run=dry_run,
    )


def remove(
    site: Site,
    *,
    client: WatchedClient | None = None,
    drain_s: float = 10.0,
    dry_run: bool = False,
    evict: tuple[str, ...] = (),
) -> Removed:
    return removing.remove_scope(
        client or site.client(),
        site.names,
        options=Options(drain_timeout_s=drain_s, evict=evict),
        take_over=TakeOver(),
        stop=StopRequest(),
        dry_run=dry_run,
    )


def attempts(site: Site) -> list[Attempt]:
    return read_attempts(site.client(), site.names, site.record(), is_owner=True)


def below(site: Site, path: str) -> list[str]:
    found: list[str] = []
    stack = [path]
    while stack:
        here = stack.pop()
        children = [f"{here}/{name}" for name in site.kazoo.get_children(here)]
        found += children
        stack += children
    return found


def live_a_while(site: Site) -> None:
    """A scope with an attempt of every sort: rolled back, aborted, abandoned, and three that were committed."""
    site.init(BEFORE)
    site.leave_open(site.plan(NEXT), 5)
    site.rollback()
    with pytest.raises(Interrupted):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", say=when_said("draining", interrupt)))
    site.rollback()
    with pytest.raises(Interrupted):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", report=at("journal", 2, interrupt)))
    site.apply(site.plan(NEXT))
    site.apply(site.plan({**NEXT, "/second": BEFORE["/keep"]}), 2)
    site.apply(site.plan({**NEXT, "/third": BEFORE["/keep"]}), 3)
    assert [a.fate for a in attempts(site)] == [
        Fate.ROLLED_BACK, Fate.ABORTED, Fate.ABANDONED, Fate.COMMITTED, Fate.COMMITTED, Fate.COMMITTED,
    ]  # fmt: skip


@pytest.mark.parametrize("keep", [0, 1, 2, 9])
def test_only_the_undo_of_the_last_committed_ones_stays(site: Site, keep: int) -> None:
    """And all notes; the tree is not touched."""
    live_a_while(site)
    image, before = site.look(), attempts(site)
    kept = max(0, 3 - keep)
    foreseen = prune(site, keep, dry_run=True)
    assert len(below(site, site.names.epochs)) == sum(1 + len(below(site, home(site, a))) for a in before)
    result = prune(site, keep)
    after = attempts(site)
    assert [a.fate for a in after] == [a.fate for a in before]
    assert [a.is_kept for a in after] == [False] * (3 + kept) + [True] * (3 - kept)
    assert [a.note.attempt for a in result.pruned] == [a.note.attempt for a in before[: 3 + kept]]
    assert [a.note.attempt for a in foreseen.pruned] == [a.note.attempt for a in result.pruned]
    assert result.nodes == foreseen.nodes > 0
    for one in after[: 3 + kept]:
        assert below(site, home(site, one)) == []
    for one in after[3 + kept :]:
        manifest_hash = None
        with pytest.raises(JournalMissing, match="not the one"):
            load(site.client(), site.names.attempt(one.note.epoch, one.note.attempt), str(manifest_hash))
        assert len(site.kazoo.get_children(home(site, one) + "/undo")) == one.note.chunks
    assert site.look() == image
    assert prune(site, keep).pruned == ()


def test_what_a_revert_reads_beside_the_undo_stays_as_long_as_that(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt at 2 that was rolled back has moved the versions that epoch 1 has left: its journal tells so. It
    stays until another epoch is committed, or the undo of epoch 1 goes itself."""
    monkeypatch.chdir(tmp_path)  # where revert saves its plan
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(NEXT), 5)
    site.rollback()
    site.apply(site.plan(NEXT))
    for _ in range(2):
        sealed = site.plan(BEFORE)
        site.leave_open(sealed, len(sealed.plan.batch_ends), epoch=2)
        site.rollback()
    foreseen = read_status(site.client(), site.names)
    result = prune(site, 1)
    earlier, committed, *since = attempts(site)
    assert [one.note.attempt for one in foreseen.prunable] == [earlier.note.attempt]
    assert foreseen.revertible is not None
    assert [one.note.attempt for one in result.pruned] == [earlier.note.attempt]
    assert [one.note.attempt for one in result.kept] == [one.note.attempt for one in (committed, *since)]
    zkmig.revert(f"zk://{site.server.hosts}", 1, site.names.scope, auth=[ME])
    assert_went_back(before, site.look())
    assert site.record().epoch == 2
    assert len(prune(site, 1).pruned) == 3
    assert [one.is_kept for one in attempts(site)] == [False] * 4 + [True]


def test_without_the_undo_they_go_too(site: Site) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    site.leave_open(site.plan(BEFORE), 3, epoch=2)
    site.rollback()
    assert len(prune(site, 0).pruned) == 2


def test_what_was_pruned_is_told_as_it_is_since(site: Site) -> None:
    """Whereas a dry run tells of what is still there; the bytes of undo are the same."""
    live_a_while(site)
    foreseen = prune(site, dry_run=True)
    result = prune(site)
    assert any(one.is_kept for one in foreseen.pruned)
    assert all(one.note.pruned is None for one in foreseen.pruned)
    assert [one.is_kept for one in result.pruned] == [False] * 5
    assert all(one.note.pruned is not None for one in result.pruned)
    assert result.journal_bytes == foreseen.journal_bytes > 1_000


def home(site: Site, attempt: Attempt) -> str:
    return f"{site.names.epochs}/{attempt.note.epoch}-{attempt.note.attempt}"


def test_an_epoch_under_way_is_refused_and_loses_nothing(site: Site) -> None:
    """Whichever state it is in; and also a migrator that is alive while nothing is under way yet."""
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 5)
    for how in (TakeOver(), TakeOver(steal=True)):
        with pytest.raises(Refused, match="epoch 1 is OPEN"):
            prune(site, 0, how=how)
    with pytest.raises(Interrupted):
        site.rollback(options=Options(report=at("undo", 1, interrupt)))
    with pytest.raises(Refused, match="epoch 1 is ROLLING_BACK"):
        prune(site, 0)
    site.rollback()
    assert_went_back(before, site.look())
    refused: list[str] = []

    def while_the_journal_goes_up() -> None:
        for dry_run in (False, True):
            with pytest.raises(NotOwner) as caught:
                prune(site, 0, dry_run=dry_run)
            refused.append(str(caught.value))

    site.apply(
        site.plan(NEXT),
        options=Options(single_shot="never", report=at("journal", 1, while_the_journal_goes_up)),
    )
    assert len(refused) == 2
    assert site.record().epoch == 1


def test_a_stolen_scope_costs_the_migrator_its_epoch_not_its_tree(site: Site) -> None:
    """Its journal was still going up: it is abandoned, so it goes, and its migrator writes nothing any more."""
    site.init(BEFORE)
    before = site.look()

    def steal() -> None:
        prune(site, 0, how=TakeOver(steal=True))

    with pytest.raises(NotOwner):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", report=at("journal", 2, steal)))
    (attempt,) = attempts(site)
    assert attempt.fate is Fate.ABANDONED
    assert attempt.children == ()
    assert site.look() == before


def test_what_is_pending_is_kept(site: Site) -> None:
    """Stopped after the commit, before the ACLs that give: the journal says which they are."""
    site.init(BEFORE)
    client = site.client()

    def stop_at_loosening(request: Read | Write) -> None:
        if isinstance(request, SetAcl) and request.path == site.path("/loosened"):
            interrupt()

    client.before = stop_at_loosening
    sealed = site.plan(NEXT)
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client)
    assert site.record().pending is not None
    assert prune(site, 0).pruned == ()
    site.resume(None)
    assert len(prune(site, 0).pruned) == 1


def one_write_alone(client: WatchedClient) -> None:
    """The client's second guarded write is not sent: its process ends there."""
    writes: list[Multi] = []

    def crash(request: Read | Write) -> None:
        if isinstance(request, Multi) and len(request.operations) > HEAD_LENGTH:
            writes.append(request)
            if len(writes) == 2:
                interrupt()

    client.before = crash


@pytest.mark.parametrize("keep", [0, 1])
def test_stopped_before_each_write_it_is_gone_on_with(site: Site, keep: int) -> None:
    """One crash point after the other; none leaves a journal that looks whole and is not; the last run ends it."""
    live_a_while(site)
    before = attempts(site)
    image = site.look()
    for crashes in itertools.count():  # noqa: B007 - how many there were is looked at below
        client = site.client()
        one_write_alone(client)
        try:
            prune(site, keep, client=client)
            break
        except Interrupted:
            pass
        for one in attempts(site):
            if one.is_kept:
                assert len(site.kazoo.get_children(home(site, one) + "/undo")) == one.note.chunks
    assert crashes > 5
    after = attempts(site)
    assert [a.fate for a in after] == [a.fate for a in before]
    assert [bool(a.children) for a in after] == [False] * (6 - keep) + [True] * keep
    assert site.look() == image


def test_a_zombie_pruner_removes_nothing(site: Site) -> None:
    """It stands still with a write in its hand, another takes the scope; awake again, it is refused, write by write."""
    live_a_while(site)
    client = site.client()
    waking: list[int] = []

    def pause(request: Read | Write) -> None:
        if isinstance(request, Multi) and len(request.operations) > HEAD_LENGTH and not waking:
            is_prune = any("/epochs/" in op.path for op in request.operations)
            if is_prune:
                Migrator.take(site.client(), site.names, TakeOver(steal=True), StopRequest())
                waking.append(len(below(site, site.names.epochs)))

    client.before = pause
    with pytest.raises(NotOwner):
        prune(site, 0, client=client)
    assert waking == [len(below(site, site.names.epochs))]


def test_the_guard_is_what_stops_the_zombie(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with a pruner that checks no owner, the test above would see journals go."""
    monkeypatch.setattr(Migrator, "guarded", lambda _self, operations: Multi(tuple(operations)))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_zombie_pruner_removes_nothing(site)


def test_asked_to_stop_it_stops_between_two_writes(site: Site) -> None:
    live_a_while(site)
    stop = StopRequest()
    client = site.client(stop=stop)

    def ask(request: Read | Write) -> None:
        if isinstance(request, Multi) and any("/undo" in op.path for op in request.operations):
            stop.request("terminated", EXIT_SIGTERM)

    client.before = ask
    with pytest.raises(Stopped) as caught:
        prune(site, 0, client=client, stop=stop)
    assert caught.value.exit_code == EXIT_SIGTERM
    assert len(prune(site, 0).pruned) > 0


def test_frames_stay_small_however_large_the_journal(site: Site) -> None:
    """Thousands of nodes below one home, some of them somebody else's and nested: all go, in multis of bounded size."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    (attempt,) = attempts(site)
    transaction = site.kazoo.transaction()
    for number in range(1_200):
        transaction.create(f"{home(site, attempt)}/undo/x{number:0200}")
    transaction.commit()
    site.kazoo.create(f"{home(site, attempt)}/a/b/c", makepath=True)
    client = site.client()
    sizes: list[int] = []

    def weigh(request: Read | Write) -> None:
        if isinstance(request, Multi):
            sizes.append(sum(len(op.path) for op in request.operations))
            assert len(request.operations) <= HEAD_LENGTH + pruning.DELETES_MAX

    client.before = weigh
    prune(site, 0, client=client)
    assert max(sizes) < pruning.FRAME_BYTES_MAX
    assert below(site, home(site, attempt)) == []


def test_released_leases_go_along_and_no_other(site: Site) -> None:
    site.init(BEFORE)
    for name, data in (
        ("done", Lease("a", 60_000, released=True).encode()),
        ("busy", Lease("b", 60_000).encode()),
        ("odd", b"?"),
    ):
        site.kazoo.create(f"{site.names.acting}/{name}", data)
    assert prune(site).leases == 1
    assert sorted(site.kazoo.get_children(site.names.acting)) == ["busy", "odd"]


# -- readers ----------------------------------------------------------------------------------------------------------


def test_a_reader_that_still_loads_pruned_undo_reads_the_record_again(site: Site) -> None:
    """It has seen OPEN; before it loads the undo, the epoch is committed and pruned: it shows the new tree, whole."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 5)
    missing: list[str] = []
    with Reader(site.server.hosts, site.names.scope, auth=[ME, ALICE]) as reader:
        original = reader._overlay

        def late(*arguments: object) -> object:
            if not missing:
                site.resume(sealed)
                prune(site, 0)
            try:
                return original(*arguments)  # type: ignore[arg-type]
            except JournalMissing as error:
                missing.append(str(error))
                raise

        reader._overlay = late  # type: ignore[assignment,method-assign]
        view = reader.view()
    assert len(missing) == 1
    assert view.epoch == 1
    assert {path.removeprefix(site.root): znode.data for path, znode in view.items()} == {
        path: node.data for path, node in NEXT.items()
    }


# -- a scope goes -----------------------------------------------------------------------------------------------------


def scopes(site: Site) -> set[str]:
    return {one.scope for one in read_registry(site.client(), site.names.control)[0]}


def test_a_scope_goes_as_a_whole_and_its_tree_stays(site: Site) -> None:
    live_a_while(site)
    image = site.look()
    foreseen = remove(site, dry_run=True)
    assert site.names.scope in scopes(site)
    result = remove(site)
    assert result.nodes >= foreseen.nodes > 20
    assert site.names.scope not in scopes(site)
    assert site.kazoo.exists(site.names.home) is None
    assert site.look() == image
    site.init()
    assert site.record().epoch == 0
    assert attempts(site) == []


def test_the_last_scope_takes_the_control_root_along(fresh_zk: Server) -> None:
    """Not before; and not while something else lies in it."""
    with Site(fresh_zk, "/one") as one, Site(fresh_zk, "/two", eyes=one.kazoo) as two:
        one.init(BEFORE)
        two.init(BEFORE)
        assert not remove(one).control_removed
        one.kazoo.create("/zkmig/notes", b"mine")
        result = remove(two)
        assert not result.control_removed
        assert "something else" in result.kept
        assert sorted(one.kazoo.get_children("/zkmig")) == ["notes", "scopes"]
        one.kazoo.delete("/zkmig/notes")
        one.init()
        assert remove(one).control_removed
        assert sorted(one.kazoo.get_children("/")) == ["one", "two", "zookeeper"]


def test_what_keeps_a_scope(site: Site) -> None:
    """An epoch under way, a guard, something pending: refused, and nothing is gone."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 5)
    with pytest.raises(Refused, match="epoch 1 is OPEN"):
        remove(site)
    site.rollback()
    site.kazoo.create(f"{site.names.guards}/web1.autoscaler", guard(stopped=False))
    with pytest.raises(Refused, match=r"guards are registered: guards/web1\.autoscaler"):
        remove(site)
    assert len(attempts(site)) == 1
    assert attempts(site)[0].is_kept


def test_an_admitted_action_is_waited_for(site: Site) -> None:
    """A lease of an hour: refused after the time given; released: gone with the scope."""
    site.init(BEFORE)
    path = f"{site.names.acting}/someone"
    site.kazoo.create(path, Lease("someone", 3_600_000).encode())
    with pytest.raises(Refused, match="someone"):
        remove(site, drain_s=0.3)
    assert site.record().epoch == 0
    site.kazoo.set(path, Lease("someone", 3_600_000, released=True).encode())
    remove(site)
    assert site.names.scope not in scopes(site)


def test_an_action_admitted_in_the_last_moment_keeps_the_scope(site: Site) -> None:
    """Between the drain and the transaction in which the scope goes: that fails, and the action is waited for."""
    site.init(BEFORE)
    path = f"{site.names.acting}/late"
    client = site.client()
    tries: list[float] = []

    def admit(request: Read | Write) -> None:
        if isinstance(request, Multi) and any(op.path == site.names.registry for op in request.operations):
            tries.append(time.monotonic())
            if len(tries) == 1:
                site.kazoo.create(path, Lease("late", 60_000).encode())
                released.start()

    released = threading.Timer(1.0, lambda: site.kazoo.set(path, Lease("late", 60_000, released=True).encode()))
    client.before = admit
    remove(site, client=client)
    first, last = tries
    assert last - first >= 1.0
    assert site.names.scope not in scopes(site)


def test_stopped_before_each_write_the_scope_is_whole_or_gone(site: Site) -> None:
    live_a_while(site)
    image = site.look()
    for crashes in itertools.count():  # noqa: B007 - how many there were is looked at below
        client = site.client()
        one_write_alone(client)
        try:
            remove(site, client=client)
            break
        except Interrupted:
            assert site.record().epoch == 3
    assert crashes > 5
    assert site.kazoo.exists(site.names.home) is None
    assert site.look() == image


def test_an_empty_scope_goes_too(site: Site) -> None:
    site.kazoo.create(site.root)
    site.init()
    remove(site)
    assert site.names.scope not in scopes(site)
    assert site.kazoo.exists(site.root)


@pytest.mark.parametrize("work", [prune, remove])
def test_who_is_not_its_admin_removes_nothing(site: Site, work: Callable[..., object]) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    before = below(site, site.names.home)
    with pytest.raises(NotPermitted, match="not permitted"):
        work(site, client=site.client(ALICE), **({"keep": 0} if work is prune else {}))
    assert below(site, site.names.home) == before


def test_a_held_scope_is_not_removed(site: Site) -> None:
    site.init(BEFORE)
    held = site.record().updated(held=Hold("maintenance", "ops", 1.0))
    site.kazoo.set(site.names.record, records.encode(held))
    with pytest.raises(Held):
        remove(site)
