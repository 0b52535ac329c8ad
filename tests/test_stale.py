"""A plan is stale once what it writes, deletes, checks or creates is not what it was; nothing else makes it so.

Method: foreign writes by kazoo after planning, each of another sort, and at each of the two moments that the engine
looks: when it begins, and after the drain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from tests.interruptions import when_said
from tests.scopes import AFTER, BEFORE, Site, assert_is, assert_went_back
from tests.trees import Node
from zkmig.apply.forward import Options
from zkmig.dev import Server
from zkmig.epoch.transitions import State
from zkmig.errors import OtherIncarnation, StalePlan

Meddle = Callable[[KazooClient, str], object]
MY_ACL = make_digest_acl("me", "hunter2", all=True)


def is_planned(relative: str) -> bool:
    """Whether the plan from BEFORE to AFTER gives this path other data."""
    return relative in BEFORE and BEFORE[relative].data != AFTER[relative].data


def put_back(kazoo: KazooClient, path: str) -> None:
    """Another write, then the old value again: the data are those of the plan, the version is not."""
    old, _ = kazoo.get(path)
    kazoo.set(path, b"other")
    kazoo.set(path, old)


def replace(kazoo: KazooClient, path: str) -> None:
    """Delete and create: data and version are those of the plan, the czxid is not [zookeeper-facts 14]."""
    old, stat = kazoo.get(path)
    kazoo.delete(path)
    kazoo.create(path, old)
    now = kazoo.exists(path)
    assert now is not None
    assert now.version == stat.version


STALE: dict[str, tuple[str, Meddle]] = {
    "written path, written": ("/change/01", lambda kazoo, path: kazoo.set(path, b"foreign")),
    "written path, put back": ("/change/02", put_back),
    "written path, replaced": ("/change/03", replace),
    "written path, gone": ("/change/04", lambda kazoo, path: kazoo.delete(path)),
    "written path, ACL": ("/change/05", lambda kazoo, path: kazoo.set_acls(path, [*OPEN_ACL_UNSAFE, MY_ACL])),
    "path with another ACL to come, ACL": ("/tightened", lambda kazoo, path: kazoo.set_acls(path, [MY_ACL])),
    "path with another ACL to come, written": ("/turned", lambda kazoo, path: kazoo.set(path, b"foreign")),
    "path to be created": ("/new", lambda kazoo, path: kazoo.create(path)),
    "path to be deleted, written": ("/gone/03", lambda kazoo, path: kazoo.set(path, b"foreign")),
    "path to be deleted, gone": ("/gone/04", lambda kazoo, path: kazoo.delete(path)),
    "path to be deleted, with a child": ("/gone/05", lambda kazoo, path: kazoo.create(f"{path}/child")),
    "parent to be deleted, with another child": ("/gone", lambda kazoo, path: kazoo.create(f"{path}/child")),
    "parent to be deleted, with an ephemeral": (
        "/gone/mine",
        lambda kazoo, path: kazoo.create(f"{path}/child", ephemeral=True),
    ),
}
ELSEWHERE: dict[str, tuple[str, Meddle]] = {
    "untouched path, written": ("/keep", lambda kazoo, path: kazoo.set(path, b"foreign")),
    "untouched path, child": ("/keep", lambda kazoo, path: kazoo.create(f"{path}/child")),
    "touched parent, written": ("/change", lambda kazoo, path: kazoo.set(path, b"foreign")),
    "touched parent, sibling": ("/queue", lambda kazoo, path: kazoo.create(f"{path}/q-", sequence=True)),
    "root, new child": ("", lambda kazoo, path: kazoo.create(f"{path}/unplanned")),
    "written path, child": ("/change/05", lambda kazoo, path: kazoo.create(f"{path}/child")),
}


@pytest.fixture(scope="module")
def stale_site(zk: Server, eyes: KazooClient) -> Iterator[Site]:
    """One tree for all cases of STALE: each meddles with a path of its own, and plans anew before."""
    with Site(zk, "/stale", eyes=eyes) as site:
        site.init(BEFORE)
        yield site


@pytest.mark.parametrize("case", STALE)
def test_stale_before_it_begins(stale_site: Site, case: str) -> None:
    """Refused, naming the path; the scope was never left STABLE and the foreign value stands."""
    relative, meddle = STALE[case]
    site = stale_site
    sealed = site.plan(AFTER)
    meddle(site.kazoo, site.path(relative))
    image = site.look()
    with pytest.raises(StalePlan, match=site.path(relative)):
        site.apply(sealed)
    assert site.look() == image
    assert (site.record().state, site.record().last) == (State.STABLE, None)
    ephemeral = site.path(relative) + "/child"
    if "ephemeral" in case:
        site.kazoo.delete(ephemeral)  # no plan deletes its parent while it is there


@pytest.mark.parametrize("case", ["written path, put back", "written path, replaced", "path to be created"])
def test_stale_by_the_time_that_the_drain_is_over(site: Site, case: str) -> None:
    """After the journal was taken: the epoch is aborted, and readers find image n in STABLE again."""
    relative, meddle = STALE[case]
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    say = when_said("draining", lambda: meddle(site.kazoo, site.path(relative)))
    with pytest.raises(StalePlan, match=site.path(relative)):
        site.apply(sealed, options=Options(single_shot="never", say=say))
    record = site.record()
    assert (record.state, record.epoch, record.attempt) == (State.STABLE, 0, None)
    assert record.last is not None
    assert record.last.outcome == "aborted"


@pytest.mark.parametrize("case", ELSEWHERE)
def test_changes_elsewhere_do_not_make_it_stale(site: Site, case: str) -> None:
    """They stay as they are, and everything planned is written all the same."""
    relative, meddle = ELSEWHERE[case]
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    before = site.look()
    meddle(site.kazoo, site.path(relative))
    foreign = {
        path: seen for path, seen in site.look().items() if before.get(path, seen._replace(data=b"?"))[:2] != seen[:2]
    }
    site.apply(sealed)
    image = site.look()
    assert_is(image, AFTER | {path: Node(*seen) for path, seen in foreign.items()})


def test_a_counter_raised_meanwhile_is_raised_only_by_what_is_missing(site: Site) -> None:
    """Somebody's sequential children in between: the planned counter is reached, not exceeded."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.raise_counter("/queue", 51)
    site.apply(sealed)
    assert site.look()["/queue"].counter == AFTER["/queue"].counter


def test_stale_once_the_committed_epoch_has_moved(site: Site) -> None:
    """Two plans of one epoch: the second is refused, although no path of it has changed."""
    site.init(BEFORE)
    one = site.plan(BEFORE | {"/keep": Node(b"one")})
    other = site.plan(BEFORE | {"/null": Node(b"other")})
    site.apply(one)
    with pytest.raises(StalePlan, match="epoch 0"):
        site.apply(other, 2)
    assert_is(site.look(), BEFORE | {"/keep": Node(b"one")})


def test_stale_once_the_scope_is_another_one(site: Site) -> None:
    """Deleted and created again: same name, same root, same epoch, another incarnation."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.forget()
    site.init()
    with pytest.raises(OtherIncarnation):
        site.apply(sealed)
    assert_is(site.look(), BEFORE)


def test_several_reasons_are_named_together(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    for number in range(1, 9):
        site.kazoo.set(site.path(f"/change/0{number}"), b"foreign")
    image = site.look()
    with pytest.raises(StalePlan, match="and 3 more") as caught:
        site.apply(sealed)
    assert str(caught.value).count("written since") == 5
    assert_went_back(image, site.look())
