"""setACL cannot be guarded; one of a former owner that arrives after a take-over fails all the same, since the new
owner has moved the aversion of every path that it could be meant for.

Method: a proxy holds back the setACLs of a migrator until another has finished the work, or taken it back; then they
are delivered, on a session that lives. Negative controls: the rollback without its fence, and setACLs on no condition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from kazoo.exceptions import NoAuthError
from kazoo.security import make_acl, make_digest_acl

from tests.proxy import Fate, Proxy
from tests.scopes import (
    AFTER,
    ALICE,
    ALICES_IDENTITY,
    BEFORE,
    ME,
    MINE,
    MY_IDENTITY,
    Site,
    assert_is,
    assert_went_back,
)
from tests.trees import Node
from zkmig.apply import aclsteps
from zkmig.apply import rollback as rollbacks
from zkmig.apply.aclsteps import AclWrite
from zkmig.apply.engine import SealedPlan
from zkmig.apply.verify import Deviation
from zkmig.epoch.control import Roles
from zkmig.epoch.journal import Journal
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import NotPermitted, ZkmigError
from zkmig.model.acl import ADMIN, ALL, WORLD, Acl
from zkmig.wire.client import Client
from zkmig.wire.requests import OP_SET_ACL, SetAcl

STEAL = TakeOver(steal=True)


@contextmanager
def setacls_held_back(site: Site, sealed: SealedPlan, first: int) -> Iterator[Callable[[], None]]:
    """A migrator applies the plan; its setACLs are on their way from number `first` on. Calling delivers them, and
    returns when that migrator has met its end."""
    ended: list[ZkmigError | None] = []
    seen = [0]

    def judge(opcode: int, _: int) -> Fate:
        seen[0] += opcode == OP_SET_ACL
        return Fate.HELD if seen[0] > first else Fate.PASS

    with Proxy(site.server.port) as proxy:
        client = site.client(ME, hosts=proxy.hosts)
        proxy.judge = judge

        def work() -> None:
            try:
                site.apply(sealed, client=client)
                ended.append(None)
            except ZkmigError as error:
                ended.append(error)

        thread = threading.Thread(target=work)
        thread.start()

        def deliver() -> None:
            assert site.kazoo.exists(site.names.lock(1))  # its session lives: the servers would take what it sends
            proxy.release()
            thread.join()
            assert isinstance(ended[0], ZkmigError)

        try:
            while not proxy.held:
                assert thread.is_alive(), ended
                thread.join(0.01)
            yield deliver
        finally:
            proxy.release()
            thread.join()


def count_tightenings(sealed: SealedPlan) -> int:
    return sum(step.tighten is not None for step in sealed.plan.acl_steps)


def take_back_before_it_arrives(site: Site) -> None:
    """The first setACL of an epoch is on its way while the epoch is rolled back: it must not arrive after that."""
    site.init(BEFORE)
    before = site.look()
    with setacls_held_back(site, site.plan(AFTER), 0) as deliver:
        site.rollback(how=STEAL)
        deliver()
    assert_went_back(before, site.look())


def test_a_rollback_fences_off_what_was_never_reached(site: Site) -> None:
    take_back_before_it_arrives(site)


def test_without_the_fence_it_arrives(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    restores = rollbacks._acl_restores

    def without(client: Client, journal: Journal) -> tuple[list[AclWrite], list[Deviation]]:
        writes, foreign = restores(client, journal)
        return [write for write in writes if not write.is_fence], foreign

    monkeypatch.setattr(rollbacks, "_acl_restores", without)
    with pytest.raises(AssertionError):
        take_back_before_it_arrives(site)


def finish_before_it_arrives(site: Site) -> None:
    """The same, but the epoch is finished: the loosened, the tightened and the created nodes have their final ACLs."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with setacls_held_back(site, sealed, 0) as deliver:
        site.resume(sealed, how=STEAL)
        deliver()
    assert_is(site.look(), AFTER)


def change_after_the_commit_before_it_arrives(site: Site) -> None:
    """The epoch is committed; its final ACLs are on their way while somebody else finishes them, and then all those
    nodes, those that the epoch has created among them, get yet another ACL: theirs stands."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    paths = [step.path for step in sealed.plan.acl_steps if step.is_pending_after_commit]
    created = {create.path for create in sealed.plan.ordered.creates}
    assert created & set(paths)
    with setacls_held_back(site, sealed, count_tightenings(sealed)) as deliver:
        assert site.record().pending is not None
        site.resume(None, how=STEAL)
        assert site.record().pending is None
        theirs = [make_digest_acl("me", "hunter2", all=True), make_acl("ip", "10.0.0.1", read=True)]
        eyes = site.open_kazoo(ME, ALICE)
        changed = set()
        for path in paths:
            with suppress(NoAuthError):  # the final ACL of some lets nobody set another
                eyes.set_acls(path, theirs)
                changed.add(path)
        assert changed & created
        image = site.look()
        deliver()
    assert site.look() == image


SCENARIOS = {"tightenings": finish_before_it_arrives, "finals": change_after_the_commit_before_it_arrives}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_whoever_finishes_leaves_no_way_to_what_comes_late(site: Site, scenario: Callable[[Site], None]) -> None:
    scenario(site)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_without_a_condition_it_arrives(
    site: Site, scenario: Callable[[Site], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: setACL at any aversion."""
    monkeypatch.setattr(aclsteps, "SetAcl", lambda path, acl, _: SetAcl(path, acl, -1))
    with pytest.raises(AssertionError):
        scenario(site)


def test_who_may_not_fence_waits_for_the_end_of_the_former_session(site: Site) -> None:
    """A rollback by an identity without ADMIN on a node that is to be tightened: refused while the setACL may still be
    on its way. It is: had the rollback ended, the epoch that was taken back would have left its ACL behind."""
    shared = (Acl(ALL & ~ADMIN, *WORLD), *MINE)
    site.init(
        {"": Node(b""), "/a": Node(b"", shared), "/b": Node(b"")}, Roles((MY_IDENTITY, ALICES_IDENTITY), (WORLD,))
    )
    before = site.look()
    sealed = site.plan({"": Node(b"2"), "/a": Node(b"", MINE), "/b": Node(b"")})
    with setacls_held_back(site, sealed, 0) as deliver:
        with pytest.raises(NotPermitted, match="former owner's session"):
            site.rollback(client=site.client(ALICE), how=STEAL)
        assert site.record().state is State.ROLLING_BACK
        deliver()
    assert not site.kazoo.exists(site.names.lock(1))
    site.rollback()  # by then it has arrived: only who has ADMIN can give the ACL back
    assert_went_back(before, site.look())
