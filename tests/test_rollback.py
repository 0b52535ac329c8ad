"""Whatever an interrupted migration has done is taken back exactly: nodes, data, ACLs, and no counter is lower.

Method: migrations interrupted after some batch, or the rollback itself after some undo batch; taken back by a fresh
client without the plan; compared by kazoo. Then the journal altered: the rollback must refuse to work from it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kazoo.client import KazooClient

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import AFTER, BEFORE, MINE_BUT_READABLE, Site, assert_is, assert_went_back, settled
from tests.trees import Node, Tree
from zkmig.apply.following import advice
from zkmig.apply.forward import Options
from zkmig.apply.preview import preview_resume, preview_rollback
from zkmig.apply.rollback import RolledBack
from zkmig.apply.status import read_status
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.control import AttemptPaths
from zkmig.epoch.transitions import State
from zkmig.errors import Outcome, Refused, StalePlan
from zkmig.wire.requests import GetData, Read, Write

# Of some 20 batches: none, in the creates, in the counters and writes, in the deletes, all.
BATCHES = (0, 1, 7, 12, 10_000)


def open_attempt(site: Site) -> AttemptPaths:
    record = site.record()
    assert record.target_epoch is not None
    assert record.attempt is not None
    return site.names.attempt(record.target_epoch, record.attempt)


@pytest.mark.parametrize("batches", BATCHES)
def test_after_any_number_of_batches(site: Site, batches: int) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    before = site.look()
    site.leave_open(sealed, min(batches, len(sealed.plan.batch_ends)))
    assert site.record().state is State.OPEN
    result = site.rollback()
    assert_went_back(before, site.look())
    assert result.deviations == ()
    assert result.batches_undone >= min(batches, len(sealed.plan.batch_ends))
    record = site.record()
    assert (record.state, record.epoch, record.attempt, record.owner) == (State.STABLE, 0, None, None)
    assert record.last is not None
    assert (record.last.outcome, record.last.epoch) == ("rolled_back", 1)


def test_before_the_epoch_was_open(site: Site) -> None:
    """From PREPARING it is an abort: nothing was written."""
    site.init(BEFORE)
    with pytest.raises(Interrupted):
        site.apply(site.plan(AFTER), options=Options(single_shot="never", say=when_said("draining", interrupt)))
    assert site.record().state is State.PREPARING
    assert site.rollback().batches_undone == 0
    assert_is(site.look(), BEFORE)
    assert site.record().state is State.STABLE


def test_between_the_last_batch_and_the_commit(site: Site) -> None:
    site.init(BEFORE)
    before = site.look()
    with pytest.raises(Interrupted):
        site.apply(site.plan(AFTER), options=Options(single_shot="never", say=when_said("verifying", interrupt)))
    site.rollback()
    assert_went_back(before, site.look())


@pytest.mark.parametrize("undone", [1, 4, 8])
def test_a_rollback_interrupted_is_gone_on_with(site: Site, undone: int) -> None:
    """By `rollback` and by `resume` alike, without the plan; what was undone once is not undone twice."""
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    with pytest.raises(Interrupted):
        site.rollback(options=Options(report=at("undo", undone, interrupt)))
    assert site.record().state is State.ROLLING_BACK
    with pytest.raises(Interrupted):
        site.rollback(options=Options(report=at("undo", undone + 2, interrupt)))
    result = site.resume(None)
    assert isinstance(result, RolledBack)
    assert result.deviations == ()
    assert_went_back(before, site.look())
    assert site.record().state is State.STABLE


def test_a_number_taken_back_is_tried_again_under_another_attempt(site: Site) -> None:
    """The same epoch number, by a new plan and by the old one: versions have moved, so the old one is stale."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.leave_open(sealed, 18)
    first = open_attempt(site)
    site.rollback()
    with pytest.raises(Refused, match=r"begun with this plan and rolled back.*changed since the plan") as stale:
        site.apply(sealed)
    assert stale.value.where.startswith(f"{site.names.home} at ")
    with pytest.raises(Refused, match=r"epoch 1 was begun with this plan and rolled back.*make the plan again"):
        site.resume(sealed)
    assert "after the rollback of epoch 1 its plan may be stale" in advice(read_status(site.client(), site.names))[0]
    site.leave_open(site.plan(AFTER), 3)
    assert open_attempt(site) != first
    site.rollback()
    site.apply(site.plan(AFTER))
    assert_is(site.look(), AFTER)
    assert site.record().epoch == 1


def test_what_has_come_of_a_plan_is_told_to_who_comes_with_it_again(site: Site) -> None:
    """Given up unwritten it may be applied as it is; a foreign write is not put down to a rollback of nothing."""
    site.init(BEFORE)
    sealed = site.plan({"": Node(b"new root"), "/keep": Node(b"kept")})
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options(single_shot="never", say=when_said("draining", interrupt)))
    site.rollback()
    with pytest.raises(Refused, match=r"given up before .*begin it again with zkmig apply --epoch 1"):
        site.resume(sealed)
    assert advice(read_status(site.client(), site.names)) == []
    site.kazoo.set(site.path(""), b"theirs")
    with pytest.raises(Refused, match="the target has changed") as stale:
        site.apply(sealed)
    assert "rolled back" not in str(stale.value)
    first = site.plan({"": Node(b"1")})
    site.apply(first)
    site.apply(site.plan({"": Node(b"2")}), 2)
    with pytest.raises(Refused, match=r"this plan was committed as epoch 1; .* at epoch 2; make the plan again"):
        site.resume(first)


CREATES: Tree = {f"/z{number:02}": Node(bytes(100)) for number in range(40)}
CHANGED: Tree = {"/keep": Node(b"other")}  # in the last batch
TIGHTENED: Tree = {"/tightened": Node(b"open", MINE_BUT_READABLE)}  # before the first


@pytest.mark.parametrize(
    ("changes", "batches", "has_moved"),
    [({}, 10_000, False), (CHANGED, 1, False), (CHANGED, 10_000, True), (TIGHTENED, 1, True)],
    ids=["creates alone", "no change yet", "a change", "a tightened ACL"],
)
def test_a_rollback_is_blamed_for_the_versions_that_it_has_moved_and_for_no_others(
    site: Site, changes: Tree, batches: int, has_moved: bool
) -> None:
    """Goal: a plan that somebody else has made stale is not put down to its rollback. Method: one of the nodes to be
    created is there already; once it is gone again the plan can be applied, unless the rollback has moved versions."""
    site.init(BEFORE)
    sealed = site.plan(BEFORE | changes | CREATES)
    batches_total = len(sealed.plan.batch_ends)
    site.leave_open(sealed, min(batches, batches_total))
    site.rollback()
    applied = read_attempts(site.client(), site.names, site.record())[0].note.applied
    assert (applied == batches_total) == (batches > batches_total)
    with pytest.raises(Refused, match="begun with this plan and rolled back") as refused:
        site.resume(sealed)
    assert ("new versions" in str(refused.value), "begin it again with" in str(refused.value)) == (
        has_moved,
        not has_moved,
    )
    site.kazoo.create(site.path("/z05"), b"theirs")
    with pytest.raises(StalePlan, match="exists already") as stale:
        site.apply(sealed)
    assert ("rolled back, which itself has moved versions" in str(stale.value)) == has_moved
    site.kazoo.delete(site.path("/z05"))
    if has_moved:
        with pytest.raises(StalePlan, match="moved versions"):
            site.apply(sealed)
    else:
        assert site.apply(sealed).epoch == 1


def test_the_first_epoch_of_an_empty_scope(site: Site) -> None:
    """Its root goes again, and the scope is EMPTY as before: nothing there must not look like an empty tree."""
    site.init()
    sealed = site.plan(AFTER)
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    site.rollback()
    assert site.look() == {}
    assert site.record().state is State.EMPTY


def test_counters_of_deleted_parents_are_raised_again(site: Site) -> None:
    """A parent of many creates, deleted and brought back: its next sequential child continues the numbering."""
    tree = settled({"": Node(b""), "/queue": Node(b"", counter=450), "/queue/q-0000000449": Node(b"job")})
    site.init(tree)
    sealed = site.plan({"": Node(b""), "/new": Node(b"")})
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    assert set(site.look()) == {"", "/new"}
    site.rollback()
    assert_is(site.look(), tree)
    assert site.kazoo.create(site.path("/queue/q-"), sequence=True) == site.path("/queue/q-0000000450")


def test_there_is_nothing_to_take_back_at_rest(site: Site) -> None:
    site.init(BEFORE)
    for epoch in range(2):
        with pytest.raises(Refused, match="nothing to roll back") as refused:
            site.rollback()
        assert ("zkmig revert --epoch 1" in str(refused.value)) == (epoch == 1)  # a commit is not taken back by this
        if site.record().epoch == 0:
            site.apply(site.plan(AFTER))
    assert_is(site.look(), AFTER)


def test_a_preview_refuses_in_the_same_words_and_reads_the_record_once(site: Site) -> None:
    """At rest, before any epoch and after a commit, and with plans that have come to their end."""
    site.init(BEFORE)
    client = site.client()
    reads: list[str] = []

    def watch(request: Read | Write) -> None:
        if isinstance(request, GetData) and request.path == site.names.record:
            reads.append(request.path)

    client.before = watch

    def assert_same(work: Callable[[], object], foresee: Callable[[], object]) -> None:
        with pytest.raises(Refused) as refused:
            work()
        reads.clear()
        with pytest.raises(Refused) as foreseen:
            foresee()
        assert str(foreseen.value) == str(refused.value)
        assert len(reads) == 1

    assert_same(site.rollback, lambda: preview_rollback(client, site.names))
    taken_back, committed = site.plan(BEFORE | {"/keep": Node(b"1")}), site.plan(BEFORE | {"/keep": Node(b"2")})
    site.leave_open(taken_back, 1)
    site.rollback()
    assert_same(lambda: site.resume(taken_back), lambda: preview_resume(client, site.names, taken_back))
    assert_same(lambda: site.resume(committed), lambda: preview_resume(client, site.names, committed))  # not begun
    site.apply(site.plan(AFTER))
    assert_same(site.rollback, lambda: preview_rollback(client, site.names))


# -- a journal that is not what was written ---------------------------------------------------------------------------


def alter(kazoo: KazooClient, path: str) -> None:
    data, _ = kazoo.get(path)
    assert data is not None
    kazoo.set(path, data[:-1] + bytes((data[-1] ^ 1,)))


def empty(kazoo: KazooClient, path: str) -> None:
    kazoo.set(path, b"")


def remove(kazoo: KazooClient, path: str) -> None:
    kazoo.delete(path)


@pytest.mark.parametrize("harm", [alter, empty, remove])
@pytest.mark.parametrize("part", ["manifest", "chunk"])
def test_an_altered_journal_is_refused_and_nothing_is_undone(
    site: Site, harm: Callable[[KazooClient, str], None], part: str
) -> None:
    """Each byte is pinned by the record; a missing chunk is never taken for "no pre-image"."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.leave_open(sealed, 12)
    attempt = open_attempt(site)
    image = site.look()
    path = attempt.manifest if part == "manifest" else attempt.chunk(0)
    harm(site.kazoo, path)
    ways_on: tuple[Callable[[], object], ...] = (site.rollback, lambda: site.resume(sealed))
    for go_on in ways_on:
        with pytest.raises(Refused) as caught:
            go_on()
        assert caught.value.where == path
        assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    assert site.look() == image
    assert site.record().state is State.OPEN
