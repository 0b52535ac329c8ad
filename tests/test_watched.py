"""What a watch knows of the paths of a committed epoch: what the epoch has left there, and what others have done since.

Method: epochs on real servers, kazoo as the configuration management that knows better; one look, or a watch that is
told of nothing, so that it has to look back. With the look back switched off, the test of it fails: that is tried too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.program import Program
from tests.scopes import BEFORE, MINE, MY_IDENTITY, Site, settled
from tests.test_history import NEXT
from tests.test_prune import prune
from tests.test_watch import AUTH, arguments
from tests.trees import Node
from tests.watches import WAIT_S, Follower, committed, following, once, told
from zkmig.apply.options import Options
from zkmig.apply.watching import Sighting, Watching
from zkmig.epoch.record import data_hash
from zkmig.errors import Refused
from zkmig.model.acl import ALL, READ, WORLD, Acl, AclList
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import Policy
from zkmig.source.treewatch import TreeWatch
from zkmig.wire.credential import Credential

# -- one look ---------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_an_epoch_that_is_left_alone(site: Site) -> None:
    committed(site)
    seen = once(site)
    assert told(seen) == {}
    assert [one.event for one in seen] == ["following", "heartbeat", "ended"]
    assert (seen[0].epoch, seen[0].paths) == (1, seen[-1].paths)
    assert (seen[-1].put_back, seen[-1].times, seen[-1].changed) == (0, 0, 0)


def test_every_way_to_put_back_is_told_from_other_changes(site: Site) -> None:
    """Old data, a created node deleted, a deleted one created again, an old ACL; against new values of others."""
    committed(site)
    kazoo = site.kazoo
    for _ in range(3):
        kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
    kazoo.set(site.path("/change/14"), b"of others")
    kazoo.delete(site.path("/new/01"))
    kazoo.create(site.path("/null/child"), b"")  # of its own, not a path of the epoch
    kazoo.create(site.path("/gone"), BEFORE["/gone"].data or b"")
    kazoo.create(site.path("/gone/01"), BEFORE["/gone/01"].data or b"")
    kazoo.create(site.path("/gone/02"), b"something else")
    kazoo.delete(site.path("/change/13"))
    kazoo.set_acls(site.path("/tightened"), OPEN_ACL_UNSAFE)
    kazoo.set_acls(site.path("/turned"), [*OPEN_ACL_UNSAFE, make_digest_acl("alice", "wonder", all=True)])
    seen = once(site)
    assert told(seen) == {
        site.path("/change/15"): ("put_back", "data", 3),
        site.path("/new/01"): ("put_back", "deleted", 1),
        site.path("/gone"): ("put_back", "created", 1),
        site.path("/gone/01"): ("put_back", "created", 1),
        site.path("/tightened"): ("put_back", "acl", 1),
        site.path("/change/14"): ("changed", None, None),
        site.path("/change/13"): ("changed", None, None),
        site.path("/gone/02"): ("changed", None, None),
        site.path("/turned"): ("changed", None, None),
    }
    (again,) = (one for one in seen if one.path == site.path("/change/15"))
    assert again.data_hash == data_hash(BEFORE["/change/15"].data)
    assert again.written_at is not None
    assert (seen[-1].put_back, seen[-1].times, seen[-1].now, seen[-1].changed) == (5, 7, 5, 4)


def test_of_what_the_policy_masks_no_hash_is_told(site: Site, program: Program) -> None:
    """Put back and changed, in JSON and in text; of nodes beside it there is a hash."""
    site.init(BEFORE)
    masks = (CapturePattern.parse(site.path("/change/15")), CapturePattern.parse(site.path("/new/{name}")))
    site.apply(site.plan(NEXT, policy=Policy(masks=masks)))
    for name in ("14", "15"):
        site.kazoo.set(site.path(f"/change/{name}"), BEFORE[f"/change/{name}"].data or b"")
    site.kazoo.set(site.path("/new/01"), b"of others")
    hashes = {one.path: one.data_hash for one in once(site) if one.path is not None}
    shown = data_hash(BEFORE["/change/14"].data)
    assert hashes == {site.path("/change/14"): shown, site.path("/change/15"): None, site.path("/new/01"): None}
    for options in ((), ("--json",)):
        ran = program(*arguments(site), "--once", *options, env=AUTH)
        assert ran.code == 4
        assert shown in ran.stdout
        assert site.path("/change/15") in ran.stdout
        assert data_hash(BEFORE["/change/15"].data) not in ran.stdout
        assert data_hash(b"of others") not in ran.stdout


def test_what_the_policy_masks_is_known_though_a_note_was_lost(site: Site) -> None:
    """The attempt's note is damaged while its epoch is open; who goes on with the plan knows its masks."""
    site.init(BEFORE)
    masks = (CapturePattern.parse(site.path("/change/15")),)
    sealed = site.plan(NEXT, policy=Policy(masks=masks))
    site.leave_open(sealed, 3)
    (home,) = site.kazoo.get_children(site.names.epochs)
    site.kazoo.set(f"{site.names.epochs}/{home}", b"{")
    site.resume(sealed)
    for name in ("14", "15"):
        site.kazoo.set(site.path(f"/change/{name}"), BEFORE[f"/change/{name}"].data or b"")
    hashes = {one.path: one.data_hash for one in once(site) if one.path is not None}
    shown = data_hash(BEFORE["/change/14"].data)
    assert hashes == {site.path("/change/14"): shown, site.path("/change/15"): None}


def test_what_cannot_be_watched_is_refused(site: Site) -> None:
    site.init(BEFORE)
    with pytest.raises(Refused, match="no epoch has been committed"):
        once(site)
    site.apply(site.plan(NEXT))
    for epoch in (2, 7):
        with pytest.raises(Refused, match="not the last committed one"):
            once(site, epoch=epoch)
    assert once(site, epoch=1)
    prune(site, 0)
    with pytest.raises(Refused, match="undo of epoch 1 is not kept"):
        once(site)
    site.apply(site.plan(BEFORE), 2)
    with pytest.raises(Refused, match="not the last committed one"):
        once(site, epoch=1)


def test_what_may_not_be_read_is_told_by_its_versions(site: Site) -> None:
    tree = settled({"": Node(b""), "/a": Node(b"1"), "/mine": Node(b"1", MINE)})
    site.init(tree)
    site.apply(site.plan({**tree, "/a": Node(b"2"), "/mine": Node(b"2", MINE)}))
    site.kazoo.set(site.path("/mine"), b"1")
    site.kazoo.set(site.path("/a"), b"1")
    seen = once(site)
    assert told(seen)[site.path("/mine")] == ("put_back", "data", 1)


# -- those who may not know all ---------------------------------------------------------------------------------------

READER = Credential("digest", b"reader:only")
SHOWN: AclList = (Acl(READ, *WORLD), Acl(ALL, *MY_IDENTITY))
NAMES = [*"abc", *(f"n{number:02}" for number in range(40))]
OPEN_TREE = settled({"": Node(b""), **{f"/{name}": Node(b"1") for name in NAMES}})
SECOND = {path: node._replace(data=b"2" if path else b"") for path, node in OPEN_TREE.items()}
THIRD = {path: node._replace(data=b"3" if path else b"") for path, node in OPEN_TREE.items()}


def rolled_back_with_a_deviation(site: Site) -> None:
    """Epoch 1 is committed; an attempt at epoch 2 is rolled back, but for what others have written to /a meanwhile."""
    site.init(OPEN_TREE)
    site.apply(site.plan(SECOND))
    attempt_with_a_deviation(site)


def attempt_with_a_deviation(site: Site) -> None:
    sealed = site.plan(THIRD)
    site.leave_open(sealed, len(sealed.plan.batch_ends) - 1, 2)
    site.kazoo.set(site.path("/a"), b"foreign")
    assert site.path("/a") in {one.path for one in site.rollback().deviations}


def test_a_reader_may_not_know_what_a_rollback_has_left_and_goes_on(site: Site) -> None:
    """What that attempt has touched is not told as changed; old values there are, and so is what is written after."""
    rolled_back_with_a_deviation(site)
    site.kazoo.set(site.path("/b"), b"1")
    for seen in (once(site, auth=[READER]), once(site, auth=[READER])):
        assert told(seen) == {site.path("/b"): ("put_back", "data", 1)}
        (said,) = (one.text for one in seen if one.event == "unjudged")
        assert "may not be read" in said
    assert told(once(site)) == {
        site.path("/a"): ("changed", None, None),
        site.path("/b"): ("put_back", "data", 1),
    }


def test_a_reader_who_follows_lives_through_a_rollback_with_deviations(site: Site) -> None:
    site.init(OPEN_TREE)
    site.apply(site.plan(SECOND))
    with following(site, auth=[READER]) as follower:
        attempt_with_a_deviation(site)
        follower.until("unjudged")
        before = len(follower.seen)
        follower.until("heartbeat", after=before - 1)
        site.kazoo.set(site.path("/c"), b"1")
        assert follower.until("put_back", site.path("/c")).count == 1
    assert len([one for one in follower.seen if one.event == "unjudged"]) == 1


def test_a_reader_is_told_of_data_where_acls_are_hidden(site: Site) -> None:
    """The ACL steps lie in a private chunk: it is said once that ACLs are not judged."""
    site.init(OPEN_TREE)
    site.apply(site.plan({**SECOND, "/b": Node(b"2", SHOWN)}))
    site.kazoo.set(site.path("/a"), b"1")
    site.kazoo.set_acls(site.path("/b"), OPEN_ACL_UNSAFE)
    seen = once(site, auth=[READER])
    assert told(seen) == {site.path("/a"): ("put_back", "data", 1)}
    assert [one.text[:21] for one in seen if one.event == "unjudged"] == ["ACLs of epoch 1 are n"]
    seen = once(site)
    assert told(seen)[site.path("/b")] == ("put_back", "acl", 1)
    assert not [one for one in seen if one.event == "unjudged"]


# -- looking back -----------------------------------------------------------------------------------------------------


def put_back_just_before(site: Site, **options: Any) -> Follower:
    """The watch is told of nothing, and looks once: a path that the next epoch writes and one that it does not are put
    back; then the next is committed."""
    committed(site)
    with following(site, **options) as follower:
        site.kazoo.set(site.path("/change/15"), BEFORE["/change/15"].data or b"")
        site.kazoo.set(site.path("/change/14"), BEFORE["/change/14"].data or b"")
        live = {**NEXT, "/change/14": BEFORE["/change/14"], "/change/15": Node(b"15")}
        site.apply(site.plan(live), 2, options=Options("require"))
        follower.until("superseded")
    return follower


@pytest.mark.parametrize("options", [{}, {"epoch": 1}])
def test_what_was_put_back_just_before_the_next_epoch_is_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    deaf_and_slow(monkeypatch)
    follower = put_back_just_before(site, **options)
    assert told(follower.seen) == {
        site.path("/change/15"): ("put_back", "data", 1),
        site.path("/change/14"): ("put_back", "data", 1),
    }
    assert {one.epoch for one in follower.seen if one.event == "put_back"} == {1}
    assert follower.until("superseded").times == 2


def test_control_without_the_look_back_it_would_be_missed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf_and_slow(monkeypatch)
    monkeypatch.setattr(Watching, "_look_back", lambda *_: iter(()))
    assert told(put_back_just_before(site).seen) == {}


def deaf_and_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No watch tells, and no look is due: as if all came to pass between two looks."""
    monkeypatch.setattr(TreeWatch, "begin", lambda _: None)


def test_counts_are_those_of_one_epoch(site: Site) -> None:
    committed(site)
    path = site.path("/change/15")
    with following(site) as follower:
        site.kazoo.set(path, BEFORE["/change/15"].data or b"")
        follower.until("put_back", path)
        site.apply(site.plan({**NEXT, "/change/15": Node(b"15")}), 2)
        ended = follower.until("superseded")
        assert (ended.epoch, ended.put_back, ended.times) == (1, 1, 1)
        after = len(follower.seen) - 1
        follower.until("following", after=1)
        follower.until("heartbeat", after=after)
        site.kazoo.set(path, BEFORE["/change/15"].data or b"")
        one = follower.until("put_back", path, after=after)
        assert (one.epoch, one.count, one.times) == (2, 1, 1)


def test_a_known_path_put_back_again_after_a_rollback_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known as put back; an attempt writes it and takes that back, which is no putting back; then others do."""
    deaf_and_slow(monkeypatch)
    committed(site)
    path, old = site.path("/change/15"), BEFORE["/change/15"].data or b""
    site.kazoo.set(path, old)
    with following(site) as follower:
        assert follower.until("put_back", path).count == 1
        for times in (1, 2):
            before = len(follower.seen)
            sealed = site.plan({**NEXT, "/change/15": Node(b"15")})
            site.leave_open(sealed, len(sealed.plan.batch_ends) - 1, 2)
            follower.until("paused", after=before)
            # From here on nothing is looked at until the record tells of the rollback.
            with paused_looks(monkeypatch) as looks:
                site.rollback()
                if times == 2:
                    site.kazoo.set(path, old)
                looks.set()
                follower.until("heartbeat", after=before)
            assert max(one.count or 0 for one in follower.seen) == times


@contextmanager
def paused_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    may, look = threading.Event(), Watching._look

    def waiting(watching: Watching, is_all: bool) -> Iterator[Sighting]:
        assert may.wait(WAIT_S)
        yield from look(watching, is_all)

    with monkeypatch.context() as patch:
        patch.setattr(Watching, "_look", waiting)
        yield may
