"""The notes of attempts tell what happened and decide nothing: one that cannot be read or written stops no transition.

Method: the connection is dropped just before a note is read for a transition; homes of attempts are taken away from the
migrator by their ACLs. Each time the transition lands all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from kazoo.security import ACL, make_acl, make_digest_acl

import zkmig
from tests.interruptions import Interrupted, interrupt, when_said
from tests.scopes import BEFORE, ME, Site, WatchedClient, assert_is, assert_went_back
from tests.test_history import NEXT
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.forward import Options
from zkmig.apply.status import read_status
from zkmig.epoch.attempts import Fate, read_attempts
from zkmig.epoch.transitions import State
from zkmig.wire.requests import GetChildren, GetData, MultiRead, Read, Write

OTHERS_ALONE = [make_digest_acl("alice", "wonder", all=True)]
NOT_WRITABLE = [*OTHERS_ALONE, make_acl("world", "anyone", read=True, create=True, delete=True)]


def home(site: Site) -> str:
    (name,) = site.kazoo.get_children(site.names.epochs)
    return f"{site.names.epochs}/{name}"


def lose_before_a_note(client: WatchedClient, site: Site) -> tuple[Callable[[], object], list[object]]:
    """Calling the first arms the client: the connection goes down when the next note is about to be read. The second
    has something in it as soon as that has happened."""

    def before(request: Read | Write) -> None:
        parts = request.reads if isinstance(request, MultiRead) else (request,)
        homes = [part for part in parts if isinstance(part, GetData | GetChildren) and is_home(part.path)]
        if homes:
            lost.append(homes)
            client.before = lambda _: None
            client._link.lose("the connection was dropped by the test")

    def is_home(path: str) -> bool:
        return path.startswith(site.names.epochs + "/") and "/" not in path.removeprefix(site.names.epochs + "/")

    lost: list[object] = []
    return lambda: setattr(client, "before", before), lost


def test_a_connection_lost_before_the_note_of_a_commit(site: Site) -> None:
    site.init(BEFORE)
    client = site.client()
    arm, lost = lose_before_a_note(client, site)
    site.apply(site.plan(NEXT), client=client, options=Options("never", say=when_said("verifying", arm)))
    assert lost
    assert_is(site.look(), NEXT)
    (attempt,) = read_attempts(site.client(), site.names, site.record())
    assert attempt.note.fate is Fate.COMMITTED


def test_a_connection_lost_before_the_note_of_an_abort(site: Site) -> None:
    """Else the scope would be left in PREPARING, where no action is admitted, over nothing."""
    site.init(BEFORE)
    guard = f"{site.names.guards}/host.unit"
    site.kazoo.create(guard, json.dumps({"format": 1, "unit": "unit", "stopped": False}).encode())
    client = site.client()
    arm, lost = lose_before_a_note(client, site)
    options = Options("never", drain_timeout_s=0.3, say=when_said("waiting", arm))
    with pytest.raises(DrainTimeout):
        site.apply(site.plan(NEXT), client=client, options=options)
    assert lost
    assert site.record().state is State.STABLE
    (attempt,) = read_attempts(site.client(), site.names, site.record())
    assert attempt.note.fate is Fate.ABORTED


def test_an_old_note_that_may_not_be_read_is_unknown_and_stops_nobody(site: Site) -> None:
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(NEXT), 1)
    site.rollback()
    old = home(site)
    site.leave_open(site.plan(NEXT), 1)
    site.rollback()
    site.leave_open(site.plan(NEXT), 1)
    site.kazoo.set_acls(old, OTHERS_ALONE)
    client = site.client()
    attempts = read_status(client, site.names).attempts
    assert [attempt.fate for attempt in attempts] == [Fate.UNKNOWN, Fate.ROLLED_BACK, Fate.UNDER_WAY]
    site.rollback()
    assert_went_back(before, site.look())
    site.apply(site.plan(NEXT))


@pytest.mark.parametrize("acl", [OTHERS_ALONE, NOT_WRITABLE], ids=["unreadable", "not writable"])
@pytest.mark.parametrize("way", ["forward", "back"])
def test_a_note_of_ones_own_that_cannot_be_written_is_left_out(site: Site, acl: list[ACL], way: str) -> None:
    """The record tells how it ended; what it created is not known then, so it cannot be taken back later."""
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 1)
    site.kazoo.set_acls(home(site), acl)
    if way == "back":
        site.rollback()
        assert_went_back(before, site.look())
    else:
        site.resume(sealed)
        assert_is(site.look(), NEXT)
    assert site.record().state is State.STABLE
    (attempt,) = read_attempts(site.client(), site.names, site.record())
    assert attempt.fate is (Fate.ROLLED_BACK if way == "back" else Fate.COMMITTED)
    if way == "forward":
        with pytest.raises(zkmig.Refused, match=r"could not be noted|cannot be read"):
            zkmig.plan_revert(f"zk://{site.server.hosts}", 1, site.names.scope, auth=[ME])


def test_an_abort_without_its_note(site: Site) -> None:
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(NEXT)
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options("never", say=when_said("draining", interrupt)))
    assert site.record().state is State.PREPARING
    site.kazoo.set_acls(home(site), NOT_WRITABLE)
    site.rollback()
    assert site.record().state is State.STABLE
    assert site.look() == before
