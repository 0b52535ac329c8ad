"""A committed epoch taken back ends in exactly the tree before it; nobody else's write since is overwritten.

Method: apply, revert through the public functions, and compare by kazoo; foreign writes of every sort in between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

import zkmig
from tests.interruptions import Interrupted, at, interrupt
from tests.scopes import (
    ALICE,
    ALICES_IDENTITY,
    BEFORE,
    ME,
    MINE,
    MINE_BUT_READABLE,
    MY_IDENTITY,
    Site,
    WatchedClient,
    assert_went_back,
    settled,
)
from tests.test_history import NEXT
from tests.test_prune import attempts, prune
from tests.trees import Node
from zkmig.api import access
from zkmig.api.migrate import SingleShot
from zkmig.api.revert import Reverted
from zkmig.apply import revert as reverting
from zkmig.apply.engine import SealedPlan
from zkmig.apply.revert import WrittenSince, images
from zkmig.apply.rollback import read_deviations
from zkmig.apply.status import read_status
from zkmig.cli.main import main
from zkmig.epoch.attempts import Fate, home_of
from zkmig.epoch.control import Roles
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput, Refused
from zkmig.model.acl import ADMIN, ALL, CREATE, READ, WORLD, Acl
from zkmig.model.znode import Kind
from zkmig.plan import planfile
from zkmig.plan.plan import Limits
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import Policy
from zkmig.show.changes import change_tree
from zkmig.show.page import write_page
from zkmig.show.values import Masks
from zkmig.wire.requests import Create, CreateContainer, CreateTtl, GetAcl, Multi, SetAcl, SetData

ALICE_TOO = [*OPEN_ACL_UNSAFE, make_digest_acl("alice", "wonder", all=True)]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def where(site: Site) -> str:
    return f"zk://{site.server.hosts}"


def revert(site: Site, epoch: int = 1, single_shot: SingleShot = "never", **more: Any) -> Reverted:
    return zkmig.revert(
        where(site),
        epoch,
        site.names.scope,
        single_shot=single_shot,
        auth=[ME],
        **more,
    )


@pytest.mark.parametrize("tree", ["every sort of change", "adds only", "deletes only"])
def test_the_tree_is_as_before(site: Site, tree: str) -> None:
    """Data, ACLs, kinds; counters no lower. And it is an epoch of its own, in the history as what it is."""
    after = {
        "every sort of change": NEXT,
        "adds only": {**BEFORE, "/x": Node(b"x"), "/x/y": Node(None), "/gone/more": Node(b"")},
        "deletes only": {path: node for path, node in BEFORE.items() if not path.startswith(("/gone", "/null"))},
    }[tree]
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(after))
    result = revert(site)
    assert_went_back(before, site.look())
    assert (result.epoch, result.applied.epoch) == (1, 2)
    assert (site.record().epoch, site.record().state) == (2, State.STABLE)
    first, second = attempts(site)
    assert (first.fate, second.fate) == (Fate.COMMITTED, Fate.COMMITTED)
    assert (first.note.reverts, second.note.reverts) == (None, 1)


def test_a_revert_is_taken_back_by_the_next(site: Site) -> None:
    """Back and forth; each is made from the undo of the one before."""
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(NEXT))
    after = site.look()
    revert(site, 1)
    revert(site, 2)
    assert_went_back(after, site.look())
    revert(site, 3)
    assert_went_back(before, site.look())
    assert site.record().epoch == 4


def test_what_was_masked_stays_masked(site: Site, tmp_path: Path) -> None:
    """The plan that takes an epoch back masks what that epoch's policy did, and so does the one after it; an attempt of
    an older zkmig, whose note has no masks, is taken back all the same."""
    site.init(BEFORE)
    masks = (CapturePattern.parse(site.path("/null")),)
    site.apply(site.plan({**BEFORE, "/null": Node(b"tweety")}, policy=Policy(masks=masks)))
    texts = tuple(map(str, masks))
    assert revert(site, 1).plan.masks == texts
    plan = zkmig.plan_revert(where(site), 2, site.names.scope, auth=[ME])
    assert plan.masks == texts
    made = tmp_path / "p.html"
    write_page(str(made), plan, "0" * 64, change_tree(plan), Masks.of(plan.masks), True)
    assert "tweety" not in made.read_text()
    write_page(str(made), plan, "0" * 64, change_tree(plan), Masks(), True, force=True)
    assert "tweety" in made.read_text()  # there is something to mask
    home = home_of(site.names, attempts(site)[1].note).home
    note = json.loads(site.kazoo.get(home)[0] or b"")
    del note["masks"]
    site.kazoo.set(home, json.dumps(note).encode())
    assert revert(site, 2).plan.masks == ()


def test_in_a_single_shot_where_it_fits(site: Site) -> None:
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan({**BEFORE, "/x": Node(b"x"), "/null": Node(b"y")}))
    assert revert(site, single_shot="require").applied.single_shot
    assert_went_back(before, site.look())


def test_it_can_be_rolled_back_and_resumed(site: Site, tmp_path: Path) -> None:
    """Stopped in the middle: the plan file is where it was saved, and leads on; the journal leads back."""
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(NEXT))
    after = site.look()
    small = Limits(batch_bytes_max=1_300)
    plan = zkmig.plan_revert(where(site), 1, site.names.scope, limits=small, auth=[ME])
    for is_resumed in (False, True):
        with pytest.raises(Interrupted):
            revert(site, plan=plan, report=at("write", 4, interrupt))
        assert site.record().state is State.OPEN
        if is_resumed:
            (file,) = [one for one in tmp_path.glob("*.zkplan") if zkmig.load_plan(one).hash == site.record().plan_hash]
            zkmig.resume(None, where(site), scope=site.names.scope, auth=[ME])
            assert_went_back(before, site.look())
            assert file.name.startswith(f"revert-{site.names.scope}-1")
        else:
            zkmig.rollback(where(site), scope=site.names.scope, auth=[ME])
            assert_went_back(after, site.look())
            plan = zkmig.plan_revert(where(site), 1, site.names.scope, limits=small, auth=[ME])
    assert site.record().epoch == 2


KINDS = settled(
    {
        "": Node(b"r"),
        "/keep": Node(b""),
        "/locks": Node(b"c", kind=Kind.CONTAINER),
        "/locks/k": Node(b"k"),
        "/lease": Node(b"t", kind=Kind.TTL, ttl_ms=3_600_000),
        **{f"/n{number}": Node(b"x" * 900) for number in range(4)},
    }
)


class Sent:
    """Creates that a client sends, by the name of their request, for the paths of KINDS that are not persistent."""

    def __init__(self, site: Site, client: WatchedClient) -> None:
        self._of = {site.path(relative): relative for relative in ("/locks", "/lease")}
        self.seen: dict[str, str] = {}
        client.before = self._look

    def _look(self, request: object) -> None:
        for operation in request.operations if isinstance(request, Multi) else ():
            if operation.path in self._of and isinstance(operation, Create | CreateContainer | CreateTtl):
                self.seen[self._of[operation.path]] = type(operation).__name__


AS_THEY_WERE = {"/locks": "CreateContainer", "/lease": "CreateTtl"}


def test_containers_and_ttl_nodes_come_back_as_such(site: Site) -> None:
    """Of what the epoch itself has created the kind is known, though no server tells: when its revert is rolled back,
    and when it is reverted in turn."""
    site.init({path: KINDS[path] for path in ("", "/keep")})
    before = site.look()
    site.apply(site.plan(KINDS))
    after = site.look()
    plan = zkmig.plan_revert(where(site), 1, site.names.scope, limits=Limits(batch_bytes_max=1_300), auth=[ME])
    site.leave_open(SealedPlan(plan, planfile.plan_hash(plan)), len(plan.batch_ends), epoch=2)
    assert_went_back(before, site.look())
    client = site.client()
    rolled_back = Sent(site, client)
    assert site.rollback(client=client).deviations == ()
    assert rolled_back.seen == AS_THEY_WERE
    assert_went_back(after, site.look())
    revert(site, 1)
    plan = zkmig.plan_revert(where(site), 2, site.names.scope, auth=[ME])
    client = site.client()
    reverted = Sent(site, client)
    site.apply(SealedPlan(plan, planfile.plan_hash(plan)), 3, client=client)
    assert reverted.seen == AS_THEY_WERE
    assert_went_back(after, site.look())


# -- what others have written -----------------------------------------------------------------------------------------


def replaced(kazoo: KazooClient, path: str) -> None:
    """Another node, of the same data and up to the same version."""
    data, stat = kazoo.get(path)
    kazoo.delete(path)
    kazoo.create(path, data)
    for _ in range(stat.version):
        kazoo.set(path, data)


FOREIGN: dict[str, tuple[Callable[[KazooClient, str], object], str]] = {
    "written": (lambda kazoo, root: kazoo.set(root + "/change/01", b"x"), "/change/01 .written"),
    "written to what it had": (lambda kazoo, root: kazoo.set(root + "/change/01", b"new"), "/change/01 .written"),
    "deleted": (lambda kazoo, root: kazoo.delete(root + "/change/01"), "/change/01 .deleted"),
    "replaced": (lambda kazoo, root: replaced(kazoo, root + "/change/01"), "/change/01 .deleted and created again"),
    "created one written": (lambda kazoo, root: kazoo.set(root + "/new/05", b"x"), "/new/05 .written"),
    "created one replaced": (lambda kazoo, root: replaced(kazoo, root + "/new/05"), "/new/05 .deleted and created"),
    "created one gone": (lambda kazoo, root: kazoo.delete(root + "/new/05"), "/new/05 .deleted"),
    "child of a created one": (lambda kazoo, root: kazoo.create(root + "/new/05/x"), "/new/05 .has gained a child: x"),
    "deleted one again": (lambda kazoo, root: kazoo.create(root + "/gone", b"x"), "/gone .created again"),
    "ACL of a written one": (lambda kazoo, root: kazoo.set_acls(root + "/change/01", ALICE_TOO), "/change/01 .its ACL"),
    "ACL of a created one": (lambda kazoo, root: kazoo.set_acls(root + "/new/05", ALICE_TOO), "/new/05 .its ACL"),
    "ACL it tightened": (lambda kazoo, root: kazoo.set_acls(root + "/tightened", ALICE_TOO), "/tightened .its ACL"),
    "ACL it loosened": (lambda kazoo, root: kazoo.set_acls(root + "/loosened", ALICE_TOO), "/loosened .its ACL"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_where_others_have_written_nothing_is(site: Site, case: str) -> None:
    act, named = FOREIGN[case]
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    act(site.kazoo, site.root)
    image = site.look()
    zxid = site.kazoo.get(site.names.record)[1].mzxid
    with pytest.raises(WrittenSince, match=site.root + named) as caught:
        revert(site)
    assert caught.value.exit_code == 3
    assert len(caught.value.paths) == 1
    assert site.look() == image
    assert site.kazoo.get(site.names.record)[1].mzxid == zxid
    assert list(Path.cwd().iterdir()) == []


def test_a_write_between_planning_and_applying_is_not_overwritten(site: Site) -> None:
    """Negative control of the comparison: it alone would not be enough; the plan's pins see the rest."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    plan = zkmig.plan_revert(where(site), 1, site.names.scope, auth=[ME])
    site.kazoo.set(site.path("/change/01"), b"x")
    with pytest.raises(zkmig.StalePlan, match="/change/01"):
        revert(site, plan=plan)
    assert site.kazoo.get(site.path("/change/01"))[0] == b"x"


def test_without_the_comparison_a_foreign_write_would_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the pins alone do not do it, since the plan is made of what is there now."""
    monkeypatch.setattr(reverting, "_refuse_foreign", lambda *_: None)
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    site.kazoo.set(site.path("/change/01"), b"x")
    revert(site)
    assert site.kazoo.get(site.path("/change/01"))[0] == b"old"


def test_elsewhere_others_may_have_written(site: Site) -> None:
    """Paths that the epoch has not touched, children of nodes that were there before: they stay as they are."""
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(NEXT))
    site.kazoo.set(site.path("/keep"), b"foreign")
    site.kazoo.create(site.path("/keep/child"), b"foreign")
    site.kazoo.create(site.path("/child"), b"foreign")
    revert(site)
    image = site.look()
    assert {path for path in image if path not in before} == {"/keep/child", "/child"}
    assert image["/keep"].data == b"foreign"
    assert_went_back({**before, "/keep": image["/keep"]}, {path: image[path] for path in before})


def test_the_ways_on_name_the_plan_file_that_it_has_saved(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody was asked for a name; who goes on from elsewhere needs it. Method: the program, in this process, with a
    write of somebody else just before its own."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    path = site.path("/change/01")

    class Meddled(WatchedClient):
        @staticmethod
        def before(request: object) -> None:
            if isinstance(request, Multi) and any(
                isinstance(o, SetData) and o.path == path for o in request.operations
            ):
                site.kazoo.set(path, b"foreign")

    secrets = tmp_path / "secrets"
    secrets.touch(0o600)
    secrets.write_text("digest:me:hunter2\n")
    monkeypatch.setattr(access, "Client", Meddled)
    words = ["--at", where(site), "--scope", site.names.scope, "--auth-file", str(secrets), "--single-shot", "never"]
    monkeypatch.setattr(sys, "argv", ["zkmig", "revert", "--epoch", "1", "--yes", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 4
    assert f"zkmig rollback revert-{site.names.scope}-1.zkplan --at" in capsys.readouterr().err
    assert (tmp_path / f"revert-{site.names.scope}-1.zkplan").exists()


def test_a_folder_that_takes_no_file_is_told_with_the_way_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has named the file, so the error has to say what it is, and that the servers are as they were."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    record = site.record()
    monkeypatch.chdir("/proc")  # where nobody can create a file
    with pytest.raises(BadInput, match=r"which resume would need,.* cannot be written.* -o FILE; no server"):
        zkmig.revert(where(site), 1, site.names.scope, auth=[ME])
    assert site.record() == record


# -- attempts in between ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [0, 4, 12, 10_000])
def test_an_attempt_that_was_rolled_back_in_between_is_nobody_else(site: Site, batches: int) -> None:
    """It has moved versions, and put back nodes under new czxids; what it has left is the epoch's all the same."""
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(NEXT))
    sealed = site.plan({**BEFORE, "/loosened": Node(b"x"), "/tightened": BEFORE["/loosened"]})
    site.leave_open(sealed, min(batches, len(sealed.plan.batch_ends)), epoch=2)
    site.rollback()
    revert(site)
    assert_went_back(before, site.look())


def test_nor_does_it_hide_a_foreign_write(site: Site) -> None:
    """Written after that rollback, or left by it as a deviation."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    sealed = site.plan(BEFORE)
    site.leave_open(sealed, len(sealed.plan.batch_ends), epoch=2)
    site.kazoo.set(site.path("/change/01"), b"while it was open")
    site.rollback()
    site.kazoo.set(site.path("/change/02"), b"afterwards")
    with pytest.raises(WrittenSince) as caught:
        revert(site)
    assert {path for path, _ in caught.value.paths} == {site.path("/change/01"), site.path("/change/02")}


def test_once_that_attempts_journal_is_gone_it_counts_as_others(site: Site) -> None:
    """No prune takes it while the epoch's own is kept, but an operator may."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    site.leave_open(site.plan(BEFORE), 3, epoch=2)
    site.rollback()
    place = site.names.attempt(2, attempts(site)[-1].note.attempt)
    site.kazoo.delete(f"{place.home}/manifest")
    with pytest.raises(WrittenSince, match="rolled back since counts as others here"):
        revert(site)


# -- ACLs that an attempt in between was to tighten -------------------------------------------------------------------

TREE = settled({"": Node(b"r"), "/a": Node(b"0"), "/b": Node(b"1")})
LENT = (Acl(ALL, *MY_IDENTITY), Acl(ALL & ~ADMIN, *WORLD))


def leave_at_a_setacl(site: Site, sealed: SealedPlan) -> None:
    """Epoch 2 is open, and none of its ACLs is set."""

    def interrupt_it(request: object) -> None:
        if isinstance(request, SetAcl):
            raise Interrupted

    client = site.client()
    client.before = interrupt_it
    with pytest.raises(Interrupted):
        site.apply(sealed, 2, client=client)
    client.close()


def test_a_foreign_acl_that_such_an_attempt_met_stands(site: Site) -> None:
    """Its aversion is what moving it on, as a rollback does, would have left: the ACL tells that it was somebody else.
    And the rollback has recorded it."""
    site.init(TREE)
    site.apply(site.plan({**TREE, "/a": Node(b"0", MINE_BUT_READABLE)}))
    leave_at_a_setacl(site, site.plan({**TREE, "/a": Node(b"0", MINE), "/b": Node(b"2")}))
    site.kazoo.set_acls(site.path("/a"), [make_digest_acl("me", "hunter2", all=True), ALICE_TOO[-1]])
    foreign = site.kazoo.get_acls(site.path("/a"))[0]
    (told,) = site.rollback().deviations
    with pytest.raises(WrittenSince, match=r"/a .its ACL was changed"):
        revert(site)
    assert site.kazoo.get_acls(site.path("/a"))[0] == foreign
    place = site.names.attempt(2, attempts(site)[-1].note.attempt)
    assert read_deviations(site.client(), place) == [told]


def test_an_acl_that_could_not_be_moved_on_is_nobody_elses(site: Site) -> None:
    """The rollback had no right to set it, and left it at its aversion."""
    tree = {**TREE, "/a": Node(b"0", LENT)}
    site.init(tree, Roles((MY_IDENTITY, ALICES_IDENTITY), (WORLD,)))
    before = site.look()
    site.apply(site.plan({**tree, "/a": Node(b"1", LENT)}))
    leave_at_a_setacl(site, site.plan({**tree, "/a": Node(b"1", MINE_BUT_READABLE), "/b": Node(b"2")}))
    site.rollback(client=site.client(ALICE))
    assert site.kazoo.get(site.path("/a"))[1].aversion == 1
    revert(site)
    assert_went_back(before, site.look())


def test_an_acl_that_moves_while_it_is_looked_at_is_read_again(site: Site) -> None:
    """The node is there: nobody is told that it was deleted."""
    site.init(TREE)
    site.apply(site.plan({**TREE, "/a": Node(b"2")}))
    client = site.client()

    def move_it(request: object) -> None:
        if isinstance(request, GetAcl) and request.path == site.path("/a"):
            site.kazoo.set_acls(request.path, ALICE_TOO)
            client.before = lambda _: None

    client.before = move_it
    with pytest.raises(WrittenSince, match=r"/a .its ACL was changed"):
        images(client, site.names, 1, "")


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_only_the_last_committed_epoch(site: Site) -> None:
    site.init(BEFORE)
    with pytest.raises(Refused, match="no epoch has been committed yet"):
        revert(site)
    site.apply(site.plan(NEXT))
    site.apply(site.plan({**NEXT, "/x": Node(b"")}), 2)
    with pytest.raises(Refused, match="epoch 1 is not the last committed one, which is 2;"):
        revert(site)
    revert(site, 2)
    with pytest.raises(Refused, match="epoch 2 is not the last committed one, which is 3, which took it back"):
        revert(site, 2)


def test_undo_that_was_pruned(site: Site) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    prune(site, 0)
    with pytest.raises(Refused, match="the undo of epoch 1 was pruned"):
        revert(site)


def test_one_of_an_older_zkmig(site: Site) -> None:
    """It noted nothing in the home. Gone on with by this one, all that is needed is in the record."""
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 3)
    (attempt,) = attempts(site)
    home = site.names.attempt(1, attempt.note.attempt).home
    site.kazoo.set(home, b"")
    site.resume(sealed)
    noted, _ = site.kazoo.get(home)
    site.kazoo.set(home, b"")
    with pytest.raises(Refused, match="committed by an older zkmig"):
        revert(site)
    assert read_status(site.client(), site.names).revertible is None
    site.kazoo.set(home, noted)
    revert(site)
    assert_went_back(before, site.look())


def test_counters_alone(site: Site) -> None:
    """Nothing lowers them: refused, and no plan file is left behind."""
    site.init({"": Node(b"r"), "/q": Node(b"1", counter=3)})
    site.apply(site.plan({"": Node(b"r"), "/q": Node(b"1", counter=30)}))
    with pytest.raises(Refused, match="epoch 1 has changed nothing that undo could bring back"):
        revert(site)
    assert site.record().epoch == 1
    assert list(Path.cwd().iterdir()) == []


def test_while_something_is_under_way(site: Site) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    site.leave_open(site.plan(BEFORE), 3, epoch=2)
    with pytest.raises(Refused, match="epoch 2 is OPEN"):
        revert(site)


def test_the_first_epoch_of_an_empty_scope(site: Site) -> None:
    """There was no tree: a committed empty one would tell readers that nothing is there."""
    site.kazoo.create(site.root, b"")
    site.init()
    assert site.record().state is State.EMPTY
    site.apply(site.plan(BEFORE))
    with pytest.raises(Refused, match="before epoch 1 there was no tree"):
        revert(site)


def test_an_acl_that_does_not_let_it_be_taken_back(site: Site) -> None:
    """What the epoch has left shuts everybody out of deleting: named before anything is written."""
    site.init(BEFORE)
    site.apply(site.plan({**NEXT, "/ro": Node(b"", (Acl(READ | ADMIN | CREATE, *WORLD),)), "/ro/x": Node(b"")}))
    with pytest.raises(zkmig.NotPermitted, match="/ro"):
        revert(site)
    assert site.record().epoch == 1


def test_a_dry_run_writes_nothing(site: Site) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    site.kazoo.sync("/")
    zxid = site.server.zxid()
    result = revert(site, dry_run=True)
    assert result.applied.writes == result.plan.writes > 0
    assert site.server.zxid() - zxid <= 4  # two sessions came and went
    assert list(Path.cwd().iterdir()) == []


def test_its_undo_is_what_the_record_pinned(site: Site) -> None:
    """A chunk that was altered on the servers is not taken for undo."""
    site.init(BEFORE)
    site.apply(site.plan(NEXT))
    (attempt,) = attempts(site)
    chunk = f"{site.names.epochs}/1-{attempt.note.attempt}/undo/0"
    site.kazoo.set(chunk, (site.kazoo.get(chunk)[0] or b"")[:-1] + b"\xff")
    with pytest.raises(Refused, match="altered"):
        revert(site)
