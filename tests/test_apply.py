"""Applying a plan gives exactly the planned tree, once, under the epoch that was asked for; or nothing at all.

Method: trees grown by kazoo, migrated on a real server in one transaction and in many, compared by kazoo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.scopes import AFTER, ALICE, ALICES, BEFORE, READ_ONLY, Site, assert_is, assert_went_back, settled
from tests.trees import Node, Tree
from zkmig.apply.forward import Options, Progress
from zkmig.dev import Server
from zkmig.epoch import record as records
from zkmig.epoch.record import Held as Hold
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, Held, NotPermitted, Refused, StalePlan, WrongEpoch
from zkmig.model.acl import OPEN_ACL, AclList
from zkmig.model.quota import Quota
from zkmig.model.znode import Kind
from zkmig.plan.operations import CreateNode, DeleteNode, Pin
from zkmig.plan.plan import Limits
from zkmig.wire.requests import CreateContainer, CreateTtl, Multi, Read, Write

SINGLE_SHOT = Options(single_shot="require")
BATCHES = Options(single_shot="never")
# One that a single transaction can hold: nothing has to be tightened before the data.
GENTLE = {**AFTER, "/tightened": BEFORE["/tightened"], "/tightened/child": BEFORE["/tightened/child"],
          "/turned": BEFORE["/turned"]}  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "options"), [(GENTLE, SINGLE_SHOT), (GENTLE, BATCHES), (AFTER, BATCHES), (AFTER, Options())]
)
def test_the_planned_tree_is_what_kazoo_reads(site: Site, tree: Tree, options: Options) -> None:
    """Data (null apart from empty), ACLs, counters: as planned, or as high as the creates that it took."""
    site.init(BEFORE)
    sealed = site.plan(tree)
    result = site.apply(sealed, options=options)
    image = site.look()
    assert_is(image, tree)
    higher = {path for path, seen in image.items() if seen.counter > tree[path].counter}
    assert higher == {""}  # two children more than it lost, and it is said
    assert any("counter will be 1 higher" in note for note in sealed.plan.notes)
    assert result.single_shot == (options is SINGLE_SHOT)
    assert result.batches == (0 if options is SINGLE_SHOT else len(sealed.plan.batch_ends))
    record = site.record()
    assert (record.state, record.epoch, record.pending, record.owner) == (State.STABLE, 1, None, None)
    assert record.last is not None
    assert (record.last.outcome, record.last.epoch) == ("committed", 1)


def test_there_and_back_again(site: Site) -> None:
    """Two epochs: the second plan is made from what the first one left, and leads back."""
    site.init(BEFORE)
    there = {path: node for path, node in AFTER.items() if not path.startswith("/read-only")}
    site.apply(site.plan(there))
    site.apply(site.plan(BEFORE), 2)
    assert_is(site.look(), BEFORE)
    assert site.record().epoch == 2


def test_the_first_epoch_of_an_empty_scope_creates_its_root(site: Site) -> None:
    site.init()
    assert site.record().state is State.EMPTY
    assert not site.kazoo.exists(site.root)
    site.apply(site.plan(AFTER))
    assert_is(site.look(), AFTER)
    assert (site.record().state, site.record().base) == (State.STABLE, State.STABLE)


def test_an_empty_scope_becomes_stable_even_if_there_is_nothing_to_write(site: Site) -> None:
    site.grow({"": Node(b"")})
    site.init()
    assert site.record().state is State.EMPTY
    result = site.apply(site.plan({"": Node(b"")}), options=Options())
    assert (result.epoch, result.writes, site.record().state) == (1, 0, State.STABLE)


def test_containers_and_ttl_nodes_are_created_as_such(site: Site) -> None:
    """No client can read a kind, so what is looked at is what is sent, and that the server takes it."""
    kinds = {"/c": Node(b"c", kind=Kind.CONTAINER), "/t": Node(None, kind=Kind.TTL, ttl_ms=10**8)}
    tree = settled({"": Node(b""), **kinds})
    site.init({"": Node(b""), "/x": Node(b"")})
    sealed = site.plan(tree)
    assert {type(operation.write()) for operation in sealed.plan.operations if isinstance(operation, CreateNode)} == {
        CreateContainer,
        CreateTtl,
    }
    site.apply(sealed)
    assert_is(site.look(), tree)


# -- nothing is written -----------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(fresh_zk: Server) -> Site:
    return Site(fresh_zk, "/quiet")


def zxid_moves(server: Server, act: Callable[[], object]) -> int:
    before = server.zxid()
    act()
    return server.zxid() - before


def test_nothing_to_do_already_applied_and_dry_runs_write_nothing(quiet: Site) -> None:
    """The server's own count of transactions stands still: not even a token is taken."""
    with quiet as site:
        site.init(BEFORE)
        client = site.client()
        empty, sealed = site.plan(BEFORE, client=client), site.plan(AFTER, client=client)
        server = site.server
        assert empty.plan.is_empty
        assert zxid_moves(server, lambda: site.apply(empty, client=client)) == 0
        assert zxid_moves(server, lambda: site.apply(sealed, client=client, dry_run=True)) == 0
        assert zxid_moves(server, lambda: site.plan(AFTER, client=client)) == 0
        assert zxid_moves(server, lambda: site.apply(sealed, client=client)) > 0
        again = site.apply(sealed, client=client)
        assert (again.already, again.epoch, again.writes) == (True, 1, 0)
        assert zxid_moves(server, lambda: site.apply(sealed, client=client)) == 0
        before = server.zxid()
        with pytest.raises(WrongEpoch):
            site.apply(sealed, 3, client=client)
        assert server.zxid() == before


def test_a_dry_run_says_what_the_real_one_would(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    said = site.apply(sealed, dry_run=True)
    assert (said.writes, said.batches) == (sealed.plan.writes, len(sealed.plan.batch_ends))
    site.kazoo.set(site.path("/null"), b"foreign")
    with pytest.raises(StalePlan, match="/null"):
        site.apply(sealed, dry_run=True)


# -- who may begin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [0, 2, 7])
def test_another_epoch_than_the_next_is_refused(site: Site, epoch: int) -> None:
    site.init(BEFORE)
    with pytest.raises(WrongEpoch, match=f"not {epoch}"):
        site.apply(site.plan(AFTER), epoch)
    assert_is(site.look(), BEFORE)


def test_a_held_scope_is_refused_until_it_is_released(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    held = site.record().updated(held=Hold("upgrade of the racks", "operator", 0.0))
    site.kazoo.set(site.names.record, records.encode(held))
    with pytest.raises(Held, match="racks"):
        site.apply(sealed)
    site.kazoo.set(site.names.record, records.encode(held.updated(held=None)))
    site.apply(sealed)
    assert_is(site.look(), AFTER)


def test_while_an_epoch_is_open_no_other_plan_begins(site: Site) -> None:
    site.init(BEFORE)
    first, other = site.plan(AFTER), site.plan(GENTLE)
    site.leave_open(first, 3)
    for sealed in (first, other):
        with pytest.raises(Refused, match="OPEN"):
            site.apply(sealed)
    with pytest.raises(Refused, match="not the plan of epoch 1"):
        site.resume(other)
    with pytest.raises(Refused, match="needs its plan file"):
        site.resume(None)


def test_a_plan_for_another_root_is_refused(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    elsewhere = dataclasses.replace(sealed.plan, target=dataclasses.replace(sealed.plan.target, root="/elsewhere"))
    with pytest.raises(Refused, match="/elsewhere"):
        site.apply(dataclasses.replace(sealed, plan=elsewhere))


@pytest.mark.parametrize("what", ["create", "delete", "quota"])
@pytest.mark.parametrize("place", ["{root}-else", "{record}/x", "/"])
def test_a_plan_that_would_write_outside_its_root_is_refused(site: Site, place: str, what: str) -> None:
    """A plan file is sealed, which does not say that its operations are what a planner would have made."""
    site.init(BEFORE)
    path = place.format(root=site.root, record=site.names.record)
    sealed = site.plan(AFTER)
    operations = tuple(sealed.plan.operations)
    quotas: tuple[Quota, ...] = ()
    match what:
        case "create":
            operations = (CreateNode(path, b"", OPEN_ACL), *operations[1:])
        case "delete":
            operations = (*operations[:-1], DeleteNode(path, Pin(1, 0, 0), 9))
        case "quota":
            quotas = (Quota(path, "count=1,bytes=-1"),)
    plan = dataclasses.replace(sealed.plan, operations=operations, quotas=quotas)
    with pytest.raises(Refused, match="outside") as caught:
        site.apply(dataclasses.replace(sealed, plan=plan))
    assert caught.value.where == path
    assert_is(site.look(), BEFORE)
    assert site.record().state is State.STABLE


def test_a_plan_whose_temporary_acls_let_in_somebody_else_is_refused(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with pytest.raises(NotPermitted, match="which this session is not"):
        site.apply(sealed, client=site.client(ALICE))


def test_a_single_shot_that_cannot_be_is_refused_before_anything_is_written(site: Site) -> None:
    site.init(BEFORE)
    with pytest.raises(Refused, match="tightened"):
        site.apply(site.plan(AFTER), options=SINGLE_SHOT)
    few = Limits(single_shot_ops_max=10)
    with pytest.raises(Refused, match="writes are more than 10"):
        site.apply(site.plan(GENTLE, limits=few), options=SINGLE_SHOT)
    assert site.record().state is State.STABLE
    site.apply(site.plan(GENTLE, limits=few), options=Options())
    assert_is(site.look(), GENTLE)


# -- parents that nobody may create in --------------------------------------------------------------------------------


@pytest.mark.parametrize("parent_acl", [READ_ONLY, ALICES])
@pytest.mark.parametrize("options", [SINGLE_SHOT, BATCHES])
def test_children_below_a_parent_that_shuts_the_migrator_out(site: Site, parent_acl: AclList, options: Options) -> None:
    """Created with an ACL that lets the migrator in, narrowed after the commit: [zookeeper-facts 16]."""
    tree = settled({"": Node(b""), "/p": Node(b"", parent_acl, 9), "/p/c": Node(b"", parent_acl), "/p/c/d": Node(b"")})
    site.init({"": Node(b""), "/x": Node(b"")})
    site.apply(site.plan(tree), options=options)
    assert_is(site.look(), tree)
    assert site.record().pending is None


# -- what is reported -------------------------------------------------------------------------------------------------


def test_progress_never_goes_back_and_ends_at_the_total(site: Site) -> None:
    site.init(BEFORE)
    seen: dict[str, list[Progress]] = {}

    def report(progress: Progress) -> None:
        seen.setdefault(progress.phase, []).append(progress)

    site.apply(site.plan(AFTER), options=Options(single_shot="never", report=report))
    assert set(seen) == {"journal", "write", "ACLs"}
    for steps in seen.values():
        done = [progress.done for progress in steps]
        assert done == sorted(done)
        assert done[-1] == steps[-1].total


def test_a_failed_single_shot_leaves_no_trace_in_the_tree(site: Site) -> None:
    """A foreign write between the last look and the transaction: refused as a whole, and the scope is STABLE again."""
    site.init(BEFORE)
    sealed = site.plan(GENTLE)
    image = site.look()
    client = site.client()

    def meddle(request: Read | Write) -> None:
        if isinstance(request, Multi) and len(request.operations) > 100:
            site.kazoo.set(site.path("/null"), b"foreign")

    client.before = meddle
    with pytest.raises(Conflict, match="nothing was written"):
        site.apply(sealed, client=client, options=SINGLE_SHOT)
    image["/null"] = image["/null"]._replace(data=b"foreign")
    assert_went_back(image, site.look())
    assert (site.record().state, site.record().epoch) == (State.STABLE, 0)
