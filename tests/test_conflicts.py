"""Somebody else's write to a path of the plan stops the migration, and neither going on nor going back overwrites it.

Method: kazoo writes while the epoch is open, before or behind the batches; then the record, the rollback, the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from kazoo.client import KazooClient
from kazoo.security import ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, Id, make_digest_acl

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import (
    AFTER,
    ALICE,
    ALICES,
    BEFORE,
    ME,
    MINE,
    MINE_BUT_READABLE,
    READ_ONLY,
    Image,
    Seen,
    Site,
    assert_went_back,
    settled,
)
from tests.trees import Node
from zkmig.apply.forward import Applied, Options
from zkmig.apply.verify import REPLACED
from zkmig.epoch.attempts import Fate, read_attempts
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, Outcome
from zkmig.model.acl import OPEN_ACL
from zkmig.wire.requests import SetAcl

ALICE_TOO = [*OPEN_ACL_UNSAFE, make_digest_acl("alice", "wonder", all=True)]


class Foreign(NamedTuple):
    """A write by somebody else. when: batches applied by then. path: what the conflict names. value: what must stand
    after the rollback, by relative path (None: nothing there). deviations: what the rollback could not take back."""

    when: int
    act: Callable[[KazooClient, str], object]
    path: str
    value: dict[str, Seen | None]
    deviations: tuple[str, ...] = ()


def replace(kazoo: KazooClient, path: str) -> None:
    """Another node of the same version in the place of the old one: the write itself cannot tell [facts 14]."""
    kazoo.delete(path)
    kazoo.create(path, b"foreign")


def fresh(data: bytes | None = b"") -> Seen:
    return Seen(data, OPEN_ACL, 0)


def create(name: str) -> Callable[[KazooClient, str], object]:
    return lambda kazoo, root: kazoo.create(root + name, b"foreign")


def write(name: str) -> Callable[[KazooClient, str], object]:
    return lambda kazoo, root: kazoo.set(root + name, b"foreign")


def delete(name: str) -> Callable[[KazooClient, str], object]:
    return lambda kazoo, root: kazoo.delete(root + name)


FOREIGN = fresh(b"foreign")
PARENT = FOREIGN._replace(counter=37)  # of children that came back below it
NEW = fresh()._replace(counter=60)
WITH_CHILD = fresh(bytes(41))._replace(counter=1)
LAST = 10_000  # after the last batch, before the verification
CASES = {
    # In the way of what is still to come: found by the write itself.
    "written before its batch": Foreign(0, write("/change/15"), "/change/15", {"/change/15": FOREIGN}),
    "gone before its batch": Foreign(0, delete("/change/15"), "/change/15", {"/change/15": None}),
    "created before its batch": Foreign(0, create("/new"), "/new", {"/new": FOREIGN}),
    "deleted before its batch": Foreign(0, delete("/gone/11"), "/gone/11", {"/gone/11": None}),
    "written before it is deleted": Foreign(0, write("/gone/11"), "/gone/11", {"/gone/11": FOREIGN}),
    "child below a node to be deleted": Foreign(
        0,
        create("/gone/11/child"),
        "/gone/11",
        {"/gone/11/child": FOREIGN, "/gone/11": WITH_CHILD},
    ),
    # Behind the batches: found by the verification.
    "replaced before its batch": Foreign(
        0, lambda kazoo, root: replace(kazoo, root + "/change/15"), "/change/15", {"/change/15": fresh(b"old" * 15)}
    ),
    "written after its batch": Foreign(
        LAST, write("/change/15"), "/change/15", {"/change/15": FOREIGN}, ("/change/15",)
    ),
    "created node, written": Foreign(
        LAST,
        write("/new/05"),
        "/new/05",
        {"/new/05": FOREIGN, "/new": NEW},
        ("/new/05", "/new"),
    ),
    "created node, gone": Foreign(LAST, delete("/new/05"), "/new/05", {}, ("/new/05",)),
    "deleted node, there again": Foreign(LAST, create("/gone"), "/gone", {"/gone": PARENT}, ("/gone",)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_foreign_write_stops_the_migration_and_stands(site: Site, case: str) -> None:
    """The conflict names the path, the record keeps it; after the rollback all but the foreign value is as before."""
    foreign = CASES[case]
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    before = site.look()
    when = min(foreign.when, len(sealed.plan.batch_ends))
    report = at("write", when, lambda: foreign.act(site.kazoo, site.root))
    with pytest.raises(Conflict, match=site.path(foreign.path)) as caught:
        site.apply(sealed, options=Options(single_shot="never", report=report))
    assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    record = site.record()
    assert record.state is State.OPEN
    assert record.conflict is not None
    assert record.conflict.path == site.path(foreign.path)
    result = site.rollback()
    assert_went_back(expected(before, foreign.value), site.look())
    assert [deviation.path for deviation in result.deviations] == [site.path(path) for path in foreign.deviations]
    record = site.record()
    assert (record.state, record.epoch, record.conflict) == (State.STABLE, 0, None)
    assert record.last is not None
    assert (record.last.outcome, record.last.deviations) == ("rolled_back", len(foreign.deviations))


def expected(before: Image, value: dict[str, Seen | None]) -> Image:
    image = {**before, **{path: seen for path, seen in value.items() if seen is not None}}
    return {path: seen for path, seen in image.items() if value.get(path, seen) is not None}


def test_a_child_below_a_created_node_keeps_its_line_of_parents(site: Site) -> None:
    """The rollback leaves it and all above it, says so, and takes back the rest: never stuck, never silent."""
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    site.kazoo.create(site.path("/new/05/child"), b"foreign")
    result = site.rollback()
    image = site.look()
    left = {path: seen for path, seen in image.items() if path.startswith("/new")}
    assert set(left) == {"/new", "/new/05", "/new/05/child"}
    assert_went_back(before, {path: seen for path, seen in image.items() if path not in left})
    assert {deviation.path: deviation.reason.rpartition(": ")[2] for deviation in result.deviations} == {
        site.path("/new"): "05",  # what keeps it is named, since that is what somebody has to look at
        site.path("/new/05"): "child",
    }
    assert site.record().state is State.STABLE


def test_deviations_outlive_the_process_that_met_them(site: Site) -> None:
    """Recorded in the very multi that passes them: interrupted right behind, the next process still tells."""
    site.init(BEFORE)
    site.leave_open(site.plan(AFTER), 12)
    for number in range(10):
        site.kazoo.create(site.path(f"/new/{number:02}/child"))
    with pytest.raises(Interrupted):
        site.rollback(options=Options(report=at("undo", 9, interrupt)))
    result = site.rollback()
    expected_paths = {site.path("/new"), *(site.path(f"/new/{number:02}") for number in range(10))}
    assert {deviation.path for deviation in result.deviations} == expected_paths


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'[["/a"]]', b'{"a": 1}', b"\xff"])
def test_a_damaged_note_of_deviations_stops_no_rollback(site: Site, data: bytes) -> None:
    """It is named itself; the tree comes back all the same."""
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    note = f"{site.names.epochs}/1-{site.record().attempt}/deviation-0"
    site.kazoo.create(note, data)
    result = site.rollback()
    assert_went_back(before, site.look())
    assert [deviation.path for deviation in result.deviations] == ([note] if data else [])


def test_a_subtree_that_somebody_else_removed_is_not_brought_back(site: Site) -> None:
    """Hundreds of undo operations that find nothing: each is passed, none is stuck."""
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    site.kazoo.delete(site.path("/new"), recursive=True)
    result = site.rollback()
    assert_went_back(before, site.look())
    assert {deviation.path for deviation in result.deviations} >= {site.path("/new"), site.path("/new/05")}


# -- nodes that look like ours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("relative", "prefix"), [("/new/00", "/new"), ("/change/01", "/change")])
def test_a_node_replaced_between_two_batches_survives_the_rollback(site: Site, relative: str, prefix: str) -> None:
    """Deleted and made again, up to the very version that undoing expects, while later batches are still to come."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    path = site.path(relative)
    batch = next(i for i, b in enumerate(sealed.plan.batches()) if path in {operation.path for operation in b}) + 1

    def put_another() -> None:
        version = site.kazoo.get(path)[1].version
        replace(site.kazoo, path)
        for _ in range(version):
            site.kazoo.set(path, b"foreign")

    replaced, stopped = at("write", batch, put_another), at("write", batch + 6, interrupt)
    with pytest.raises(Interrupted):
        site.apply(sealed, options=Options(single_shot="never", report=lambda told: (replaced(told), stopped(told))[0]))
    result = site.rollback()
    assert site.kazoo.get(path)[0] == b"foreign"
    assert path in {deviation.path for deviation in result.deviations}
    assert all(deviation.path.startswith(site.path(prefix)) for deviation in result.deviations)


@pytest.mark.parametrize("act", ["delete", "replace"])
def test_a_node_whose_counter_alone_is_raised_must_still_be_there(site: Site, act: str) -> None:
    """Goal: the next number of a queue is what the epoch has promised. Method: somebody deletes it once all is written,
    or makes it anew, which begins to count again."""
    tree = settled({"": Node(b""), "/k": Node(b"1"), "/queue": Node(b"", counter=3)})
    site.init(tree)
    path = site.path("/queue")

    def meddle() -> None:
        site.kazoo.delete(path) if act == "delete" else replace(site.kazoo, path)

    sealed = site.plan(settled({**tree, "/k": Node(b"2"), "/queue": Node(b"", counter=60)}))
    options = Options(single_shot="never", say=when_said("verifying", meddle))
    with pytest.raises(Conflict, match="gone" if act == "delete" else "its sequence counter is 0, not 60") as caught:
        site.apply(sealed, options=options)
    assert caught.value.where == path
    site.rollback()
    assert (site.record().state, site.look()["/k"].data) == (State.STABLE, b"1")


@pytest.mark.parametrize("is_resumed", [False, True])
def test_an_ephemeral_in_the_place_of_a_created_node_is_no_created_node(site: Site, is_resumed: bool) -> None:
    """Same data, version and ACL; yet it would go with its session, and the tree would not be what was committed."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    path = site.path("/new/00")

    def put_another() -> None:
        data, _ = site.kazoo.get(path)
        site.kazoo.delete(path)
        site.kazoo.create(path, data, ephemeral=True)
        if is_resumed:
            interrupt()

    options = Options(single_shot="never", report=at("write", len(sealed.plan.batch_ends), put_another))
    if is_resumed:
        with pytest.raises(Interrupted):
            site.apply(sealed, options=options)
    with pytest.raises(Conflict, match=path):
        site.resume(sealed) if is_resumed else site.apply(sealed, options=options)
    result = site.rollback()
    assert path in {deviation.path for deviation in result.deviations}
    assert site.kazoo.get(path)[1].ephemeralOwner


# -- ACLs -------------------------------------------------------------------------------------------------------------


def test_an_acl_changed_before_it_is_tightened_stands(site: Site) -> None:
    """Between the last look and the setACL; the rollback must not take it for the migration's own."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    before = site.look()
    client = site.client()

    def meddle(request: object) -> None:
        if isinstance(request, SetAcl) and request.path == site.path("/tightened"):
            site.kazoo.set_acls(site.path("/tightened"), ALICE_TOO)

    client.before = meddle
    with pytest.raises(Conflict, match="/tightened"):
        site.apply(sealed, client=client)
    result = site.rollback()
    assert_went_back(
        before | {"/tightened": before["/tightened"]._replace(acl=(*before["/keep"].acl, *ALICES))}, site.look()
    )
    assert [deviation.path for deviation in result.deviations] == [site.path("/tightened")]


@pytest.mark.parametrize("relative", ["/tightened", "/loosened", "/new/05"])
def test_an_acl_changed_while_the_epoch_is_open_stops_it(site: Site, relative: str) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    say = when_said("verifying", lambda: site.kazoo.set_acls(site.path(relative), ALICE_TOO))
    with pytest.raises(Conflict, match=relative):
        site.apply(sealed, options=Options(single_shot="never", say=say))
    site.rollback()
    assert site.record().state is State.STABLE
    image = site.look()
    if relative in image:
        assert image[relative].acl == (*OPEN_ACL, *ALICES)


def test_a_node_whose_acl_alone_changes_must_still_be_there(site: Site) -> None:
    """Gone while the epoch is open: a conflict, not a silent commit without it."""
    tree = {"": BEFORE[""], "/n": BEFORE["/keep"], "/w": BEFORE["/keep"]}
    site.init(tree)
    sealed = site.plan(
        {**tree, "/n": tree["/n"]._replace(acl=READ_ONLY[:1] + MINE), "/w": tree["/w"]._replace(data=b"")}
    )
    say = when_said("verifying", lambda: site.kazoo.delete(site.path("/n")))
    with pytest.raises(Conflict, match="/n"):
        site.apply(sealed, options=Options(single_shot="never", say=say))


def test_an_acl_changed_before_it_is_loosened_stands(site: Site) -> None:
    """After the commit there is no way back: the foreign ACL is left, and told."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    client = site.client()

    def meddle(request: object) -> None:
        if isinstance(request, SetAcl) and request.path == site.path("/loosened"):
            site.kazoo.set_acls(site.path("/loosened"), [*READ_ACL_UNSAFE, ALICE_TOO[1]])

    client.before = meddle
    result = site.apply(sealed, client=client)
    assert [deviation.path for deviation in result.deviations] == [site.path("/loosened")]
    assert site.look()["/loosened"].acl == (*READ_ONLY, *ALICES)
    record = site.record()
    assert (record.state, record.epoch, record.pending) == (State.STABLE, 1, None)
    assert record.last is not None
    assert record.last.deviations == 1


@pytest.mark.parametrize("relative", ["/deleted", "/written"])
def test_a_node_replaced_before_resume_is_neither_deleted_nor_written(site: Site, relative: str) -> None:
    """Goal: versions repeat, and after a crash there is time: what somebody has put there since is not the plan's.
    Method: a node of a batch to come is deleted and made again, at version 0 as before; then resume, and back."""
    first = {"": Node(b""), **{f"/{number}": Node(bytes(900)) for number in range(4)}}
    site.init(settled({**first, "/deleted": Node(b"old"), "/written": Node(b"old")}))
    changed = {path: node._replace(data=node.data + b"1") for path, node in first.items() if node.data}
    sealed = site.plan(settled({**first, **changed, "/written": Node(b"new")}))
    site.leave_open(sealed, 1)
    replace(site.kazoo, site.path(relative))
    with pytest.raises(Conflict, match=REPLACED) as caught:
        site.resume(sealed)
    assert caught.value.where == site.path(relative)
    conflict = site.record().conflict
    assert conflict is not None
    assert not conflict.may_go_on
    assert site.rollback().deviations == ()
    data = {path: seen.data for path, seen in site.look().items()}
    assert data == {path: node.data for path, node in first.items()} | {
        "/deleted": b"old",
        "/written": b"old",
        relative: b"foreign",
    }


def test_a_conflict_that_was_passed_is_told_no_more(site: Site) -> None:
    """Goal: nobody is told to remove by hand what the epoch itself has put there. Method: what stood in the way is
    removed, and who resumes is killed behind it; where it still stands, the conflict is told again."""
    site.init(settled({"": Node(b"")}), allow_empty=True)
    sealed = site.plan(settled({"": Node(b""), **{f"/{number}": Node(bytes(900)) for number in range(6)}}))
    site.leave_open(sealed, 1)
    path = site.path("/5")
    site.kazoo.create(path, b"foreign")
    for _ in range(2):
        with pytest.raises(Conflict, match=path):
            site.resume(sealed)
        conflict = site.record().conflict
        assert conflict is not None
        assert (conflict.path, conflict.may_go_on) == (path, True)
    site.kazoo.delete(path)
    with pytest.raises(Interrupted):
        site.resume(sealed, options=Options(single_shot="never", report=at("write", 6, interrupt)))
    assert (site.record().state, site.record().conflict) == (State.OPEN, None)
    (attempt,) = read_attempts(site.client(), site.names, site.record())
    assert attempt.fate is Fate.UNDER_WAY
    assert attempt.note.conflict is not None  # the last one met
    assert isinstance(site.resume(sealed), Applied)


ALICES_ALONE = [make_digest_acl("alice", "wonder", all=True)]
SECRET = b"a secret of alice"


def put_a_secret(site: Site, relative: str) -> None:
    site.kazoo.delete(site.path(relative))
    site.kazoo.create(site.path(relative), SECRET, ALICES_ALONE)


def assert_secret(site: Site, relative: str) -> None:
    path = site.path(relative)
    assert (site.kazoo.get(path)[0], site.kazoo.get_acls(path)[0]) == (SECRET, ALICES_ALONE)


@pytest.mark.parametrize("single_shot", ["never", "require"])
@pytest.mark.parametrize("relative", ["/new", "/old"])
def test_a_node_replaced_while_acls_are_pending_keeps_its_own(site: Site, relative: str, single_shot: str) -> None:
    """Goal: whoever goes on opens nobody's secret. Method: killed before the first ACL after the commit; somebody makes
    a node of the epoch anew, with an aversion of 0 again, and one who may do everything resumes."""
    site.kazoo.create(site.root)
    acl = [ACL(entry.perms, Id(entry.scheme, entry.id)) for entry in MINE]
    site.kazoo.create(site.path("/old"), b"", acl)  # with its ACL, so that nobody has set one
    site.init()
    acls = {"/old": MINE_BUT_READABLE, "/new": READ_ONLY}
    wanted = {"": Node(None), **{path: Node(b"", acl) for path, acl in acls.items()}, "/new/c": Node(b"")}
    client = site.client()
    client.before = lambda request: interrupt() if isinstance(request, SetAcl) else None
    with pytest.raises(Interrupted):
        site.apply(site.plan(settled(wanted)), client=client, options=Options(single_shot=single_shot))
    pending = site.record().pending
    assert pending is not None
    assert pending.acls == 2
    site.kazoo.delete(site.path("/new/c"))
    put_a_secret(site, relative)
    result = site.resume(None, client=site.client(ME, ALICE), how=TakeOver(steal=True))
    assert isinstance(result, Applied)
    assert [(one.path, one.reason) for one in result.deviations] == [(site.path(relative), REPLACED)]
    assert_secret(site, relative)
    (other,) = acls.keys() - {relative}
    assert site.look()[other].acl == acls[other]
    assert site.record().pending is None


def test_a_node_replaced_before_it_is_tightened_keeps_its_acl(site: Site) -> None:
    """Killed in the opened epoch, before the first ACL; the node made anew is not touched, and the only way is back."""
    site.kazoo.create(site.root)
    site.kazoo.create(site.path("/old"), b"")
    site.init()
    sealed = site.plan(settled({"": Node(None), "/old": Node(b"", MINE), "/new": Node(b"")}))
    client = site.client()
    client.before = lambda request: interrupt() if isinstance(request, SetAcl) else None
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client, options=Options(single_shot="never"))
    put_a_secret(site, "/old")
    both = site.client(ME, ALICE)
    with pytest.raises(Conflict, match=REPLACED):
        site.resume(sealed, client=both, how=TakeOver(steal=True))
    site.rollback(client=both)
    assert_secret(site, "/old")
    assert site.record().state is State.STABLE
