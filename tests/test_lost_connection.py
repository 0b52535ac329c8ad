"""A connection lost at any write costs nothing: each batch applies exactly once, and the migration goes on.

Method: a proxy of real sockets cuts the connection at each write in turn, before the server has it, in the middle of
its frame, or after the server has carried it out and before its answer; then the tree, the counters and the cursor are
looked at by kazoo.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

import zkmig
from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.proxy import WRITES, Fate, Proxy, cut_at
from tests.scopes import (
    AFTER,
    BEFORE,
    ME,
    MINE,
    MINE_BUT_READABLE,
    Site,
    WatchedClient,
    assert_is,
    assert_went_back,
    settled,
)
from tests.test_drain import guard
from tests.trees import Node, Tree, snapshot_of
from zkmig.api import access
from zkmig.apply.batches import BatchWriter
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Applied, Options
from zkmig.dev import Server
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import EXIT_OUTCOME_UNKNOWN, Conflict, Outcome, OutcomeUnknown, PlanImpossible, Refused, Unreachable
from zkmig.model.acl import OPEN_ACL
from zkmig.plan.plan import Limits
from zkmig.wire.requests import (
    OP_GET_CHILDREN2,
    OP_GET_DATA,
    GetChildren2,
    GetData,
    Multi,
    Read,
    SetAcl,
    SetData,
    Write,
)

FATES = (Fate.LOST, Fate.TORN, Fate.UNANSWERED)


@pytest.fixture
def proxy(zk: Server) -> Iterator[Proxy]:
    with Proxy(zk.port) as one:
        yield one


def one_of_two(is_other: bool, counter: int) -> Tree:
    """Two trees between which one can go back and forth; the counter has to rise each time."""
    name, number = ("b", 2) if is_other else ("a", 1)
    return settled(
        {
            "": Node(b"%d" % number),
            "/changed": Node(b"%d" % number * 300),
            "/tightened": Node(b"", MINE if is_other else MINE_BUT_READABLE),
            "/loosened": Node(b"", MINE_BUT_READABLE if is_other else MINE),
            "/queue": Node(b"", counter=counter),
            **{f"/{name}{each}": Node(bytes(300)) for each in range(4)},
        }
    )


def applied_exactly_once(site: Site, sealed: SealedPlan, tree: Tree) -> None:
    """The tree, each counter to the unit, and a cursor that has counted every batch once."""
    image = site.look()
    assert_is(image, tree)
    assert image["/queue"].counter == tree["/queue"].counter
    record = site.record()
    assert (record.state, record.pending) == (State.STABLE, None)
    attempt = site.names.attempt(record.epoch, str(record.committed_attempt))
    cursor = site.kazoo.exists(attempt.cursor)
    assert cursor is not None
    assert cursor.version == len(sealed.plan.batch_ends)


@pytest.fixture(scope="module")
def swinging(zk: Server, eyes: KazooClient) -> Iterator[Site]:
    """A tree that each test migrates to the other of two."""
    with Site(zk, "/swinging", eyes=eyes) as site:
        site.init(one_of_two(False, 10))
        yield site


LIMITS = Limits(batch_bytes_max=1_000)
NUMBERS = range(26)  # of the writes, from the one that takes the token to the one that gives back the lock, and more


@pytest.mark.parametrize(
    ("number", "fate"),
    [(number, fate) for number in NUMBERS for fate in FATES if fate is not Fate.TORN or number % 7 == 3],
)
def test_a_connection_cut_at_any_write(swinging: Site, proxy: Proxy, number: int, fate: Fate) -> None:
    site = swinging
    record = site.record()
    tree = one_of_two(record.epoch % 2 == 0, 30 + 20 * record.epoch)
    sealed = site.plan(tree, limits=LIMITS)
    proxy.judge = cut_at(number, fate)
    # The lock of the test before, whose release was lost, may still be there.
    site.apply(sealed, record.epoch + 1, client=site.client(hosts=proxy.hosts), how=TakeOver(steal=True))
    assert proxy.cuts == (number < proxy.writes)
    applied_exactly_once(site, sealed, tree)


def test_those_are_all_writes_there_are(swinging: Site, proxy: Proxy) -> None:
    site = swinging
    record = site.record()
    tree = one_of_two(record.epoch % 2 == 0, 30 + 20 * record.epoch)
    with site.client(hosts=proxy.hosts) as client:
        site.apply(site.plan(tree, limits=LIMITS), record.epoch + 1, client=client, how=TakeOver(steal=True))
    assert 20 < proxy.writes <= len(NUMBERS)


def test_a_scope_that_cannot_be_taken_is_left(site: Site, proxy: Proxy) -> None:
    """Nobody knows whether the token was taken; nothing else was, and the next one takes it again."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    proxy.judge = lambda opcode, _: Fate.UNANSWERED if opcode in WRITES else Fate.PASS
    with pytest.raises(Unreachable, match="try again") as caught:
        site.apply(sealed, client=site.client(hosts=proxy.hosts))
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert (site.record().state, site.record().attempt) == (State.STABLE, None)
    site.apply(sealed, how=TakeOver(steal=True))
    assert_is(site.look(), AFTER)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
def test_every_batch_cut_once(site: Site, proxy: Proxy, fate: Fate) -> None:
    """Each write is lost when it is first sent: as long as there is progress, nobody gives up."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    proxy.judge = lambda opcode, seen: fate if opcode in WRITES and seen % 2 else Fate.PASS
    site.apply(sealed, client=site.client(hosts=proxy.hosts))
    assert proxy.cuts > len(sealed.plan.batch_ends)
    assert_is(site.look(), AFTER)
    assert site.look()["/new"].counter == AFTER["/new"].counter


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.UNANSWERED])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_rollback_cut_at_a_write(site: Site, proxy: Proxy, fate: Fate, number: int) -> None:
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    proxy.judge = cut_at(number, fate)
    assert site.rollback(client=site.client(hosts=proxy.hosts)).deviations == ()
    assert proxy.cuts == 1
    assert_went_back(before, site.look())


def test_a_single_shot_that_landed_unanswered_is_known_as_ones_own(site: Site, proxy: Proxy) -> None:
    """The record says so: the second sending finds it moved, by the very bytes that were sent."""
    site.init({"": Node(b""), "/a": Node(b"1")})
    sealed = site.plan({"": Node(b""), "/a": Node(b"2")})
    proxy.judge = lambda opcode, seen: Fate.UNANSWERED if opcode in WRITES and seen == 5 else Fate.PASS
    result = site.apply(sealed, client=site.client(hosts=proxy.hosts), options=Options(single_shot="require"))
    assert proxy.cuts == 1
    assert (result.epoch, result.single_shot) == (1, True)
    assert site.look()["/a"].data == b"2"


def test_a_write_that_is_lost_again_and_again_is_given_up(site: Site, proxy: Proxy) -> None:
    """No more than three sendings of one frame; the outcome is then unknown, and resume finds out."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)

    def fall_silent() -> None:
        proxy.judge = lambda opcode, _: Fate.UNANSWERED if opcode in WRITES else Fate.PASS

    options = Options("never", report=at("write", 3, fall_silent))
    with pytest.raises(OutcomeUnknown):
        site.apply(sealed, client=site.client(hosts=proxy.hosts), options=options)
    assert proxy.cuts == 3
    site.resume(sealed, how=TakeOver(steal=True))
    assert_is(site.look(), AFTER)


def test_a_frame_that_was_not_taken_in_the_end_may_have_landed_before(site: Site, proxy: Proxy) -> None:
    """Goal: who is told to plan smaller batches is not told that nothing landed. Method: a single shot lands, twice its
    answer is lost, and then so is the question whether the server takes such a frame."""
    site.init({"": Node(b""), "/a": Node(b"1")})
    sealed = site.plan({"": Node(b""), "/a": Node(b"2" * 1_000)})

    def judge(opcode: int, seen: int) -> Fate:
        if opcode in WRITES:
            return Fate.UNANSWERED if seen in (5, 6) else Fate.PASS
        return Fate.LOST if seen == 7 else Fate.PASS

    # Of what only asks, a path of thousands of bytes alone is judged.
    proxy.concerns = lambda frame: int.from_bytes(frame[8:12], "big") in WRITES or b"a" * 1_000 in frame
    proxy.judge = judge
    with pytest.raises(OutcomeUnknown, match=r"took no frame of .* raise jute\.maxbuffer") as caught:
        site.apply(sealed, client=site.client(hosts=proxy.hosts), options=Options(single_shot="require"))
    assert proxy.cuts == 3
    assert "a write may have landed" in str(caught.value)
    assert (site.record().epoch, site.look()["/a"].data) == (1, b"2" * 1_000)


@pytest.mark.parametrize("number", [0, 1, 5, 6, 7, 12, 16])
def test_a_connection_found_lost_before_a_write(swinging: Site, proxy: Proxy, number: int) -> None:
    """While nothing was under way: nothing is doubtful, and the session is simply taken up again."""
    site = swinging
    record = site.record()
    tree = one_of_two(record.epoch % 2 == 0, 30 + 20 * record.epoch)
    sealed = site.plan(tree, limits=LIMITS)
    client = site.client(hosts=proxy.hosts)
    proxy.judge = lambda opcode, _: Fate.LOST if opcode == OP_GET_CHILDREN2 else Fate.PASS
    seen = itertools.count()

    def lose(request: Read | Write) -> None:
        if isinstance(request, Multi | SetAcl) and next(seen) == number:
            with pytest.raises(Unreachable):
                client.call_reply(GetChildren2("/"))

    client.before = lose
    site.apply(sealed, record.epoch + 1, client=client, how=TakeOver(steal=True))
    assert proxy.cuts == 1
    applied_exactly_once(site, sealed, tree)


def lose_the_answer_and(reading_back: Fate, site: Site, proxy: Proxy, client: WatchedClient, times: int = 1) -> None:
    """The transition to PREPARING lands unanswered; sent again it fails, having landed. To learn that, the record is
    read; that reading is lost too, so many times."""
    sent: list[Multi] = []

    def before(request: Read | Write) -> None:
        proxy.judge = all_pass
        if isinstance(request, Multi) and _moves(request, site.names.record):
            sent.append(request)
            if len(sent) == 1:
                proxy.judge = lambda opcode, _: Fate.UNANSWERED if opcode in WRITES else Fate.PASS
        elif len(sent) == 2 and isinstance(request, GetData) and proxy.cuts <= times:
            proxy.judge = lambda opcode, _: reading_back if opcode == OP_GET_DATA else Fate.PASS

    client.before = before


def _moves(multi: Multi, record: str) -> bool:
    return any(isinstance(one, SetData) and one.path == record for one in multi.operations)


def all_pass(_opcode: int, _seen: int) -> Fate:
    return Fate.PASS


@pytest.mark.parametrize("reading_back", [Fate.LOST, Fate.UNANSWERED])
def test_a_transition_is_known_as_ones_own_over_another_loss(site: Site, proxy: Proxy, reading_back: Fate) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    client = site.client(hosts=proxy.hosts)
    lose_the_answer_and(reading_back, site, proxy, client, times=2)
    site.apply(sealed, client=client)
    assert proxy.cuts == 3
    assert_is(site.look(), AFTER)


def test_a_transition_that_cannot_be_recognised_is_of_unknown_outcome(site: Site, proxy: Proxy) -> None:
    """It has landed after all: nobody may be told that nothing was written."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    client = site.client(hosts=proxy.hosts)
    lose_the_answer_and(Fate.LOST, site, proxy, client, times=99)
    with pytest.raises(OutcomeUnknown) as caught:
        site.apply(sealed, client=client)
    assert caught.value.exit_code == EXIT_OUTCOME_UNKNOWN
    assert site.record().state is State.PREPARING
    site.resume(sealed, how=TakeOver(steal=True))
    assert_is(site.look(), AFTER)


def test_a_revert_of_unknown_outcome_keeps_the_plan_that_resume_needs(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that was refused leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    site.init(one_of_two(False, 10))
    image = site.look()
    site.apply(site.plan(one_of_two(True, 20)))

    def watched(*arguments: object, **more: object) -> WatchedClient:
        client = WatchedClient(*arguments, **more)  # type: ignore[arg-type] # as given
        lose_the_answer_and(Fate.LOST, site, proxy, client, times=99)
        return client

    def revert() -> None:
        zkmig.revert(f"zk://{proxy.hosts}", 1, site.names.scope, single_shot="never", auth=[ME], drain_timeout_s=0.2)

    registration = site.names.guards + "/host.unit"
    site.kazoo.create(registration, guard(stopped=False))
    with pytest.raises(DrainTimeout):
        revert()
    assert list(tmp_path.iterdir()) == []
    site.kazoo.delete(registration)
    with monkeypatch.context() as patch:
        patch.setattr(access, "Client", watched)
        with pytest.raises(OutcomeUnknown):
            revert()
    assert site.record().state is State.PREPARING
    (file,) = tmp_path.iterdir()
    proxy.judge = all_pass
    zkmig.resume(str(file), f"zk://{proxy.hosts}", scope=site.names.scope, auth=[ME], steal=True)
    assert_went_back(image, site.look())


# -- negative control -------------------------------------------------------------------------------------------------


def test_without_the_cursors_compare_and_set_a_batch_applies_twice(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the guard off, the same check that the tests above rely on finds the counter raised twice."""
    site.init(one_of_two(False, 10))
    tree = one_of_two(False, 110)
    sealed = site.plan(tree, limits=LIMITS)
    operations = BatchWriter.operations

    def blind(self: BatchWriter, index: int) -> list[object]:
        cursor, *rest = operations(self, index)
        assert isinstance(cursor, SetData)
        return [SetData(cursor.path, None, -1), *rest]

    monkeypatch.setattr(BatchWriter, "operations", blind)
    proxy.judge = cut_at(7, Fate.UNANSWERED)
    with pytest.raises(Conflict):
        site.apply(sealed, client=site.client(hosts=proxy.hosts))
    with pytest.raises(AssertionError):
        applied_exactly_once(site, sealed, tree)


# -- frames that a server does not take -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    """A server that takes a tenth of the usual frame."""
    with Server(jute_maxbuffer=100_000) as server:
        yield server


def test_a_frame_that_the_server_does_not_take(narrow: Server) -> None:
    """It would only drop the connection: asked first, so that nothing is begun that cannot be finished or undone."""
    with Site(narrow, "/narrow") as site:
        many = {f"/{number:03}": Node(bytes(900)) for number in range(200)}
        tree = settled({"": Node(b""), "/old": Node(bytes(9_000))})
        site.init(tree)
        plan = site.plan({**tree, "/big": Node(bytes(120_000), OPEN_ACL)}, limits=Limits())
        with pytest.raises(PlanImpossible, match="more than this server accepts"):
            site.apply(plan)
        plan = site.plan(settled({"": Node(b""), **many}), limits=Limits())
        assert plan.plan.why_not_single_shot() is None
        with pytest.raises(Refused, match="more than this server accepts"):
            site.apply(plan, options=Options(single_shot="require"))
        assert (site.record().state, site.record().last) == (State.STABLE, None)
        with pytest.raises(Interrupted):
            site.apply(plan, options=Options(say=when_said("draining", interrupt)))
        result = site.resume(plan, options=Options())  # that looks again: it may be another server
        assert isinstance(result, Applied)
        assert (result.single_shot, result.batches) == (False, len(plan.plan.batch_ends))
        assert_is(site.look(), settled({"": Node(b""), **many}))


def test_a_chunk_of_undo_that_the_server_does_not_take(narrow: Server) -> None:
    """Goal: nothing is sent that can only be dropped, nor called of unknown outcome. Method: a node that its batch, and
    what takes it back, can hold, but not with Stat, ACL and name of its chunk."""
    with Site(narrow, "/chunk") as site:
        tree = settled({"": Node(b""), "/k": Node(b""), "/big": Node(bytes(99_650))})
        site.init(tree)
        with pytest.raises(PlanImpossible, match="/chunk/big: to put its undo on the servers") as caught:
            site.apply(site.plan({**tree, "/big": Node(b"small")}, limits=Limits()))
        assert caught.value.outcome is Outcome.NOTHING_WRITTEN
        assert site.kazoo.get_children(site.names.epochs) == []


def test_a_chunk_larger_than_any_batch(narrow: Server) -> None:
    """Goal: where a single shot is too large for the servers, a chunk that they do take is not. Method: a node whose
    undo takes a few bytes more than the batch that writes it."""
    with Site(narrow, "/larger") as site:
        tree = settled({"": Node(b""), "/big": Node(bytes(90_000)), "/other": Node(bytes(20_000))})
        site.init(tree)
        after = {"": Node(b""), "/big": Node(b"1" * 90_000), "/other": Node(b"1" * 20_000)}
        plan = zkmig.make_plan(snapshot_of(after, site.root), f"zk://{narrow.hosts}{site.root}", auth=[ME])
        assert plan.limits.frame_bytes_max == 100_000
        assert not zkmig.apply(plan, epoch=1, auth=[ME]).single_shot
        assert site.look()["/big"].data == after["/big"].data


def test_an_undo_that_the_server_would_not_take(narrow: Server) -> None:
    """A node that a plain create has put there, and that a guarded one could not bring back."""
    with Site(narrow, "/undo") as site:
        site.init(settled({"": Node(b""), "/big": Node(bytes(99_800))}))
        with pytest.raises(PlanImpossible, match="more than this server accepts"):
            site.apply(site.plan({"": Node(b"")}, limits=Limits()))
        assert (site.record().state, site.record().last) == (State.STABLE, None)
