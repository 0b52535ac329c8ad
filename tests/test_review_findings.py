"""States from which neither going on nor going back would lead out, and foreign or protected things lost on the way.

Method: each test brings about, on a real server, one situation that a review of the engine has found; kazoo looks.
"""

from __future__ import annotations

import pytest

from tests.interruptions import Interrupted, at, interrupt
from tests.scopes import (
    ALICE,
    ALICES_IDENTITY,
    MINE,
    MINE_BUT_READABLE,
    MY_IDENTITY,
    READ_ONLY,
    SMALL_BATCHES,
    Site,
    assert_is,
    assert_went_back,
    settled,
)
from tests.trees import Node, Tree, snapshot_of
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Forward, Options
from zkmig.apply.obstacles import NOTHING_ABOVE
from zkmig.apply.verify import REPLACED
from zkmig.epoch.control import Roles
from zkmig.epoch.transitions import State
from zkmig.errors import (
    EXIT_OUTCOME_UNKNOWN,
    Conflict,
    NotPermitted,
    Outcome,
    PlanImpossible,
    Refused,
    StalePlan,
)
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, WRITE, Acl, Identity, digest_id
from zkmig.plan import planfile
from zkmig.plan.make import TargetScope, make_plan
from zkmig.plan.plan import Limits
from zkmig.reader import Reader
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.requests import Multi, Read, SetAcl, Write

NEW_ME = Credential("digest", b"me:new")
MY_NEW_IDENTITY = Identity("digest", digest_id("me", "new"))
MANY: Tree = {f"/n{number}": Node(b"y" * 200) for number in range(10)}


def stop_before_set_acl(site: Site, number: int) -> Client:
    """A client that is taken off its feet before its setACL of that number, from 1."""
    client = site.client()
    seen: list[Read | Write] = []

    def before(request: Read | Write) -> None:
        seen.extend([request] if isinstance(request, SetAcl) else [])
        if len(seen) == number:
            raise Interrupted

    client.before = before
    return client


def sealed_for(site: Site, tree: Tree, root: str) -> SealedPlan:
    """A plan that creates `root`, inside the scope, with the tree."""
    record = site.record()
    scope = TargetScope(site.names.scope, site.names.control, record.incarnation, record.epoch)
    identities = site.client().identities
    source = snapshot_of(tree, root)
    plan = make_plan(source, None, limits=SMALL_BATCHES, target_root=root, scope=scope, identities=identities)
    return SealedPlan(plan, planfile.plan_hash(plan))


# -- dead ends --------------------------------------------------------------------------------------------------------


def test_a_counter_that_nobody_may_raise_does_not_hold_up_a_rollback(site: Site) -> None:
    """The node comes back with its ACL, which lets nobody create below it: that is reported, and the rollback ends."""
    site.init(settled({"": Node(), "/locked": Node(b"x", READ_ONLY, counter=5)}))
    before = site.look()
    sealed = site.plan(settled({"": Node(), **MANY}))
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    result = site.rollback()
    assert [deviation.path for deviation in result.deviations] == [site.path("/locked")]
    assert site.record().state is State.STABLE
    after = site.look()
    assert_went_back({**before, "/locked": before["/locked"]._replace(counter=0)}, after)


def test_ids_that_the_target_does_not_know_are_refused_before_anything_is_written(site: Site) -> None:
    """The ACL would be set only after the commit: the epoch would wait for it forever."""
    site.init({"": Node(), "/a": Node(b"x", MINE)})
    before = site.look()
    sealed = site.plan({"": Node(), "/a": Node(b"x", (*MINE, Acl(READ, "sasl", "bob")))})
    with pytest.raises(PlanImpossible, match="sasl") as caught:
        site.apply(sealed)
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert (site.record().state, site.record().epoch) == (State.STABLE, 0)
    assert site.look() == before


def test_an_acl_that_cannot_be_set_after_the_commit_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scheme was known when the epoch began, and is not any more: the epoch ends, and says what it left."""
    monkeypatch.setattr(Forward, "_preflight", lambda *_: None)
    site.init({"": Node(), "/a": Node(b"x", MINE)})
    result = site.apply(site.plan({"": Node(), "/a": Node(b"x", (*MINE, Acl(READ, "sasl", "bob")))}))
    assert [deviation.path for deviation in result.deviations] == [site.path("/a")]
    record = site.record()
    assert (record.state, record.epoch, record.pending) == (State.STABLE, 1, None)
    assert site.look()["/a"].acl == MINE


# -- ACLs that were never set -----------------------------------------------------------------------------------------


def test_a_changed_password_is_not_taken_for_set(site: Site) -> None:
    """Without ADMIN the old ACL reads as the new one does. Whoever goes on with it is told, and the work is kept."""
    roles = Roles((MY_IDENTITY, MY_NEW_IDENTITY), (WORLD,))
    site.init({"": Node(), "/a": Node(b"x", MINE_BUT_READABLE)}, roles)
    final = (Acl(READ, *WORLD), Acl(ALL, *MY_NEW_IDENTITY))
    sealed = site.plan({"": Node(), "/a": Node(b"x", final)})
    client = stop_before_set_acl(site, 2)
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client)
    assert site.record().pending is not None
    client.close()
    with pytest.raises(NotPermitted, match=site.path("/a")) as caught:
        site.resume(None, client=site.client(NEW_ME))
    assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    assert caught.value.exit_code == EXIT_OUTCOME_UNKNOWN
    assert site.record().pending is not None
    site.resume(None)
    assert site.record().pending is None
    shown, _ = site.open_kazoo(NEW_ME).get_acls(site.path("/a"))
    assert [entry.id.id for entry in shown] == ["anyone", MY_NEW_IDENTITY.id]


def test_a_rollback_that_may_not_give_an_acl_back_waits_for_somebody_who_may(site: Site) -> None:
    """It is not a foreign ACL: the scope stays in the rollback until the one who has tightened it goes on."""
    wide = (Acl(READ | WRITE, *WORLD), Acl(ALL, *MY_IDENTITY))
    site.init(settled({"": Node(), "/a": Node(b"x", wide)}), Roles((MY_IDENTITY, ALICES_IDENTITY), (WORLD,)))
    before = site.look()
    site.leave_open(site.plan(settled({"": Node(), "/a": Node(b"x", MINE_BUT_READABLE), **MANY})), 2)
    with pytest.raises(NotPermitted, match=site.path("/a")) as caught:
        site.rollback(client=site.client(ALICE))
    assert caught.value.exit_code == EXIT_OUTCOME_UNKNOWN
    assert site.record().state is State.ROLLING_BACK
    assert site.rollback().deviations == ()
    assert_went_back(before, site.look())


def test_what_was_never_tightened_needs_no_right_to_be_taken_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity without ADMIN cannot tighten an ACL, and is told so; nor must it, to go back. As it is when the right
    is lost between preflight and work."""
    monkeypatch.setattr(Forward, "_preflight", lambda *_: None)
    svc = Identity("digest", digest_id("svc", "old"))
    site.init(settled({"": Node(), "/a": Node(b"x", (Acl(READ, *WORLD), Acl(ALL, *svc)))}))
    planner = site.client(Credential("digest", b"me:hunter2"), Credential("digest", b"svc:old"))
    sealed = site.plan(settled({"": Node(), "/a": Node(b"x", READ_ONLY), **MANY}), client=planner)
    with pytest.raises(NotPermitted, match=site.path("/a")):
        site.apply(sealed)
    assert site.record().state is State.OPEN
    assert site.record().conflict is None
    assert site.rollback().deviations == ()
    assert site.record().state is State.STABLE


def test_a_plan_whose_acls_are_pending_is_not_yet_applied(site: Site) -> None:
    """Said to be done, nobody would look for temporary ACLs that are still in force."""
    site.init({"": Node(), "/a": Node(b"x", MINE)})
    sealed = site.plan({"": Node(), "/a": Node(b"x", OPEN_ACL)})
    client = stop_before_set_acl(site, 1)
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client)
    client.close()
    with pytest.raises(Refused, match="pending"):
        site.apply(sealed)
    site.resume(None)
    assert site.apply(sealed).already


# -- other people's nodes ---------------------------------------------------------------------------------------------


def test_nodes_replaced_after_the_last_batch_survive_a_rollback(site: Site) -> None:
    """Deleted and made again up to the very version that undoing expects: only their czxid tells."""
    site.init(settled({"": Node(), "/written": Node(b"old")}))
    sealed = site.plan(settled({"": Node(), "/written": Node(b"new"), **MANY}))
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    for name in ("/n3", "/written"):
        site.kazoo.delete(site.path(name))
        site.kazoo.create(site.path(name), b"foreign")
    site.kazoo.set(site.path("/written"), b"foreign")
    result = site.rollback()
    left = {"/n3", "/written"}
    assert {(deviation.path, deviation.reason) for deviation in result.deviations} == {
        (site.path(name), REPLACED) for name in left
    }
    assert {path: seen.data for path, seen in site.look().items() if path} == dict.fromkeys(left, b"foreign")
    assert site.record().state is State.STABLE


@pytest.mark.parametrize("is_ephemeral", [True, False])
def test_a_node_replaced_between_two_batches_survives_a_rollback(site: Site, is_ephemeral: bool) -> None:
    """Goal: no batch dates it, since it is all that is left of the only node of one; yet no plan creates an ephemeral,
    and what has stopped the epoch is known. Method: replaced before the next batch goes out, at the same version."""
    site.init(settled({"": Node(), "/k": Node()}))
    sealed = site.plan(settled({"": Node(), "/k": Node(), **{f"/{number}": Node(bytes(900)) for number in range(4)}}))
    assert len(sealed.plan.batch_ends) == 4
    theirs = site.open_kazoo()
    client = site.client()

    def replace(request: Read | Write) -> None:
        if isinstance(request, Multi) and any(op.path == site.path("/1") for op in request.operations):
            client.before = lambda _: None
            while not theirs.exists(site.path("/0")):  # its batch is under way
                theirs.sync(site.root)
            theirs.delete(site.path("/0"))
            theirs.create(site.path("/0"), b"theirs", ephemeral=is_ephemeral)

    client.before = replace
    with pytest.raises(Conflict, match=REPLACED):
        site.apply(sealed, client=client)
    result = site.rollback()
    assert [(one.path, one.reason) for one in result.deviations] == [(site.path("/0"), REPLACED)]
    assert {path: seen.data for path, seen in site.look().items() if path} == {"/k": b"", "/0": b"theirs"}
    assert site.record().state is State.STABLE


def test_what_was_above_is_gone_costs_a_rollback_no_multi_for_each_node(site: Site) -> None:
    """Nothing can be brought back below a node that somebody has deleted; that is said, of each."""
    above = {"": Node(), "/k": Node(), "/k/a": Node()}
    site.init(settled({**above, **{f"/k/a{name}": node for name, node in MANY.items()}, "/k/a/n1/x": Node()}))
    sealed = site.plan(settled({"": Node(), "/k": Node()}), limits=Limits())
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    site.kazoo.delete(site.path("/k"))
    client = site.client()
    sent: list[Read | Write] = []
    client.before = lambda request: sent.extend([request] if isinstance(request, Multi) else [])
    result = site.rollback(client=client)
    assert {one.reason for one in result.deviations} >= {NOTHING_ABOVE}
    assert len({one.path for one in result.deviations}) == len(MANY) + 2
    assert len(sent) <= 9, len(sent)
    assert site.record().state is State.STABLE


def test_a_subtree_that_somebody_removed_costs_a_rollback_no_multi_for_each_node(site: Site) -> None:
    """A failed multi names one operation only; hundreds of thousands of nodes gone would be as many of them."""
    site.init(settled({"": Node(), "/k": Node()}))
    sealed = site.plan(settled({"": Node(), "/k": Node(), **MANY}), limits=Limits())
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    for name in MANY:
        site.kazoo.delete(site.path(name))
    client = site.client()
    sent: list[Read | Write] = []
    client.before = lambda request: sent.extend([request] if isinstance(request, Multi) else [])
    assert len(site.rollback(client=client).deviations) == len(MANY)
    # Token, note, into the rollback, the batch that fails, what is left of it, what was put back, the end, the lock.
    assert len(sent) <= 8


# -- a plan for a part of the scope -----------------------------------------------------------------------------------


def test_above_a_root_that_the_plan_creates_readers_see_the_old_stat(site: Site) -> None:
    """The parent gains a child, though no snapshot of the target has shown it to the planner."""
    site.init(settled({"": Node(), "/k": Node()}))
    sealed = sealed_for(site, {"": Node(b"r"), "/q": Node(b"s")}, site.path("/part"))
    with Reader(site.server.hosts, site.names.scope) as reader:
        before = reader.view()
        with pytest.raises(Interrupted):
            site.apply(sealed, options=Options(single_shot="never", report=at("write", 1, interrupt)))
        view = reader.view()
    assert view.state == "OPEN"
    assert dict(view) == dict(before)
    site.rollback()


def test_a_root_without_a_parent_is_refused_before_the_epoch(site: Site) -> None:
    """Creating it could only fail once the epoch is open."""
    site.init(settled({"": Node(), "/k": Node()}))
    with pytest.raises(StalePlan, match=site.path("/x")):
        site.apply(sealed_for(site, {"": Node(b"r")}, site.path("/x/y")))
    assert site.record().state is State.STABLE
    tree = settled({"": Node(b"r"), "/q": Node(b"s")})
    site.apply(sealed_for(site, tree, site.path("/x")))
    assert_is(site.look(), settled({"": Node(), "/k": Node(), **{"/x" + path: node for path, node in tree.items()}}))
