"""The commit point and its surroundings: what is checked in the very transaction, and what leads there by other ways.

Method: foreign writes and ends of sessions placed by callbacks right before chosen requests.
"""

from __future__ import annotations

import pytest
from kazoo.client import KazooClient

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import AFTER, BEFORE, Site, assert_is, assert_went_back, settled
from tests.trees import Node, Tree
from zkmig.apply.forward import Applied, Options
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, Outcome, StalePlan, ZkmigError
from zkmig.plan.plan import Limits
from zkmig.wire.client import Client
from zkmig.wire.requests import Multi, Read, SetData, Write

FLAT: Tree = settled({"": Node(b""), **{f"/{number}": Node(b"1") for number in range(9)}})
NEXT: Tree = {path: node._replace(data=b"2") for path, node in FLAT.items()}


def moves_record(site: Site, request: Read | Write) -> bool:
    """Whether the request is a transition."""
    return isinstance(request, Multi) and any(
        isinstance(operation, SetData) and operation.path == site.names.record for operation in request.operations
    )


@pytest.mark.parametrize("relative", ["", "/8"])
def test_a_foreign_write_between_verification_and_commit_prevents_it(site: Site, relative: str) -> None:
    """The commit itself checks as many paths as fit, so that P6 does not end with the last look."""
    site.init(FLAT)
    sealed = site.plan(NEXT, limits=Limits())
    before = site.look()
    client = site.client()

    def verified() -> None:
        client.before = lambda request: (
            site.kazoo.set(site.path(relative), b"foreign") if moves_record(site, request) else None
        )

    with pytest.raises(Conflict, match=f"{site.path(relative)}: changed just before the commit") as caught:
        site.apply(sealed, client=client, options=Options("never", say=when_said("verifying", verified)))
    assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    assert (site.record().state, site.record().epoch) == (State.OPEN, 0)
    client.before = lambda _: None
    site.rollback()
    before[relative] = before[relative]._replace(data=b"foreign")
    assert_went_back(before, site.look())


def test_a_single_shot_becomes_visible_at_one_zxid(site: Site) -> None:
    """P4, of a single shot: every node that it wrote carries the zxid of the record."""
    site.init(FLAT)
    site.apply(site.plan(NEXT, limits=Limits()), options=Options(single_shot="require"))
    written = [site.names.record, *map(site.path, NEXT)]
    assert len({site.kazoo.get(path)[1].mzxid for path in written}) == 1


# -- other ways there -------------------------------------------------------------------------------------------------


def test_a_single_shot_stopped_while_draining_is_gone_on_with_as_one(site: Site) -> None:
    site.init(FLAT)
    sealed = site.plan(NEXT, limits=Limits())
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options(say=when_said("draining", interrupt)))
    assert site.record().state is State.PREPARING
    result = site.resume(sealed, options=Options())
    assert isinstance(result, Applied)
    assert result.single_shot
    assert_is(site.look(), NEXT)


@pytest.mark.parametrize("single_shot", ["never", "auto"])
def test_a_plan_gone_stale_before_it_is_resumed_is_aborted(site: Site, single_shot: str) -> None:
    """Nothing was written, so there is nothing to decide: the scope is STABLE again."""
    site.init(FLAT)
    sealed = site.plan(NEXT, limits=Limits())
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options(single_shot, say=when_said("draining", interrupt)))
    site.kazoo.set(site.path("/3"), b"foreign")
    with pytest.raises(StalePlan, match="/3"):
        site.resume(sealed, options=Options(single_shot))
    assert (site.record().state, site.record().epoch) == (State.STABLE, 0)
    assert site.look()["/3"].data == b"foreign"


def expire(site: Site, client: Client) -> None:
    """End the client's session from elsewhere, as the server does when it was silent for too long."""
    thief = KazooClient(site.server.hosts, client_id=(client.session_id, client.session_password))
    thief.start()
    thief.stop()
    thief.close()


@pytest.mark.parametrize("end", ["resume", "rollback"])
def test_a_migrator_whose_session_has_expired_ends_with_it(site: Site, end: str) -> None:
    """It opens no other session to go on writing [zookeeper-facts 17]; its lock is gone, so the next need not wait."""
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(AFTER)
    client = site.client()
    report = at("write", 6, lambda: expire(site, client))
    with pytest.raises(ZkmigError) as caught:
        site.apply(sealed, client=client, options=Options("never", report=report))
    assert caught.value.outcome is not Outcome.NOTHING_WRITTEN
    assert site.record().state is State.OPEN
    if end == "resume":
        site.resume(sealed)
        assert_is(site.look(), AFTER)
    else:
        site.rollback()
        assert_went_back(before, site.look())
