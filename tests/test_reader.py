"""A Reader's view is one committed image, whole, whatever state the scope is in, and says so when there is none.

Method: scopes on real servers are put into every state by the engine itself, stopped where a test wants it; what a view
should be is read by plain kazoo, every Stat included. Where the overlay, the second read of the record or the attempt
in the cache's key are switched off, the same comparison must fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.conftest import KazooClientFactory
from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.scopes import AFTER, ALICE, BEFORE, ME, MY_IDENTITY, Site, settled
from tests.trees import Node, Tree
from tests.wire_clients import NotingClient, SingleClient
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options, Progress
from zkmig.dev import Ensemble, Server
from zkmig.epoch.control import Roles
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.record import Held
from zkmig.errors import BadInput, Forbidden, NotReady, Unavailable
from zkmig.model import path as paths
from zkmig.model.acl import ALL, CREATE, OPEN_ACL, READ, WORLD, Acl, AclList, Identity
from zkmig.model.znode import Kind, Znode
from zkmig.plan.plan import Limits
from zkmig.reader import Reader, View
from zkmig.reader import tree as reader_tree
from zkmig.reader.overlay import NO_OVERLAY, Overlay
from zkmig.reader.part import Part, part_of
from zkmig.reader.tree import read_tree
from zkmig.reader.view import RecordSeen
from zkmig.source.acl_cache import AclCache
from zkmig.source.bulk import read_acls
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.replies import AclResult
from zkmig.wire.requests import GetData, SetAcl
from zkmig.wire.tls import Tls

BOB = Credential("digest", b"bob:builder")


class Seen(NamedTuple):
    """A znode as it is compared."""

    data: bytes | None
    acl: AclList
    stat: tuple[int, ...]
    children: tuple[str, ...]


Image = dict[str, Seen]


def image_of(kazoo: KazooClient, root: str) -> Image:
    """The whole tree, node by node, by kazoo."""
    image: Image = {}
    waiting = [root]
    while waiting:
        path = waiting.pop()
        data, stat = kazoo.get(path)
        acl = tuple(Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in kazoo.get_acls(path)[0])
        names = tuple(sorted(kazoo.get_children(path), key=str.encode))
        image[path] = Seen(data, acl, tuple(stat), names)
        waiting += [paths.join(path, "/" + name) for name in names]
    return image


def shown(view: View) -> Image:
    """The view in the same terms."""
    return {path: Seen(n.data, n.acl, tuple(n.stat), tuple(view.children(path))) for path, n in view.items()}


@contextmanager
def reader_of(site: Site, kind: type[Reader] = Reader, **options: Any) -> Iterator[Reader]:
    """A reader that may read everything."""
    with kind(site.server.hosts, site.names.scope, auth=[ME, ALICE], **options) as reader:
        yield reader


def look(site: Site, kind: type[Reader] = Reader, **options: Any) -> View:
    """One view by a reader that starts now."""
    with reader_of(site, kind, **options) as reader:
        return reader.view()


def leave_open(site: Site, tree: Tree = AFTER, epoch: int = 1) -> SealedPlan:
    """The scope in OPEN, about half of the batches applied."""
    sealed = site.plan(tree)
    site.leave_open(sealed, len(sealed.plan.batch_ends) // 2, epoch)
    assert site.record().state.value == "OPEN"
    return sealed


def leave_rolling_back(site: Site) -> None:
    """The scope in ROLLING_BACK, some of the applied batches undone."""
    leave_open(site)
    with pytest.raises(Interrupted):
        site.rollback(options=Options(report=at("undo", 3, interrupt)), how=TakeOver(steal=True))
    assert site.record().state.value == "ROLLING_BACK"


def leave_preparing(site: Site, tree: Tree = AFTER) -> None:
    """The scope in PREPARING: nothing was written yet."""
    with pytest.raises(Interrupted):
        site.apply(site.plan(tree), options=Options(single_shot="never", say=when_said("draining", interrupt)))
    assert site.record().state.value == "PREPARING"


class ReaderWithoutOverlay(Reader):
    """Negative control: shows live nodes whatever the record says."""

    _shows_undo = False


# -- every state ------------------------------------------------------------------------------------------------------


def test_a_view_of_a_stable_scope_is_what_kazoo_reads(site: Site) -> None:
    """Data (null apart from empty), ACLs, Stats, children, ephemerals; the mapping is in tree order, root first."""
    site.init({**BEFORE, "/队列 %41": Node(None), "/keep-": Node(b""), "/keep/a": Node(b"")})
    site.kazoo.create(site.path("/keep/session"), b"e", ephemeral=True)
    view = look(site)
    assert shown(view) == image_of(site.kazoo, site.root)
    assert list(view) == sorted(view, key=paths.order_key)
    assert next(iter(view)) == site.root
    assert [znode.path for znode in view.values()] == list(view)
    assert (view.epoch, view.state, view.migrating, view.held, view.overlaid) == (0, "STABLE", False, False, 0)
    assert (view.root, view.scope, view.incarnation) == (site.root, site.names.scope, site.record().incarnation)
    assert view[site.path("/keep/session")].kind is Kind.EPHEMERAL
    assert site.root in view
    assert site.path("/absent") not in view
    for ask in (view.__getitem__, view.children):
        with pytest.raises(KeyError):
            ask(site.path("/absent"))


@pytest.mark.parametrize("leave", [leave_preparing, leave_open, leave_rolling_back])
def test_a_reader_that_starts_in_a_migration_sees_the_committed_image(
    site: Site, leave: Callable[[Site], object]
) -> None:
    """And so does one that was there before; and again afterwards, when the migration was taken back."""
    site.init(BEFORE)
    before = image_of(site.kazoo, site.root)
    with reader_of(site) as early:
        early.view()
        leave(site)
        for view in (look(site), early.view(), early.view()):
            assert shown(view) == before
            assert (view.epoch, view.state, view.migrating) == (0, site.record().state.value, True)
        site.rollback(how=TakeOver(steal=True))
        for view in (look(site), early.view()):
            assert shown(view) == image_of(site.kazoo, site.root)
            assert (view.epoch, view.state, view.overlaid) == (0, "STABLE", 0)


@pytest.mark.parametrize("leave", [leave_open, leave_rolling_back])
def test_without_the_overlay_such_a_view_is_torn(site: Site, leave: Callable[[Site], object]) -> None:
    """Negative control of the test above."""
    site.init(BEFORE)
    before = image_of(site.kazoo, site.root)
    leave(site)
    torn = {path: node.data for path, node in look(site, ReaderWithoutOverlay).items()}
    assert torn != {path: seen.data for path, seen in before.items()}
    assert torn != {site.path(relative): node.data for relative, node in AFTER.items()}


def test_from_open_to_the_next_epoch(site: Site) -> None:
    """One reader through a whole epoch: image 0 until the commit, image 1 after it."""
    site.init(BEFORE)
    before = image_of(site.kazoo, site.root)
    with reader_of(site) as reader:
        sealed = leave_open(site)
        view = reader.view()
        assert shown(view) == before
        assert view.overlaid > len(sealed.plan.operations) // 2
        assert view.is_overlaid(site.path("/change/01"))
        assert view.is_overlaid(site.path("/new/01"))
        assert not view.is_overlaid(site.path("/keep"))
        site.resume(sealed, how=TakeOver(steal=True))
        after = reader.view()
        assert shown(after) == image_of(site.kazoo, site.root)
        assert (after.epoch, after.state) == (1, "STABLE")
        assert after.zxid > view.zxid


def test_undo_is_known_by_its_attempt_not_by_its_number(site: Site) -> None:
    """An epoch is rolled back and tried again with another plan; a reader that kept the first undo would mix them."""

    class ReaderByNumber(Reader):
        """Negative control: keeps undo by the number of the epoch."""

        kept: Overlay | None = None

        def _overlay(self, client: Client, seen: RecordSeen, part: Part) -> Overlay:
            if seen.record.state.value == "OPEN" and self.kept is None:
                self.kept = super()._overlay(client, seen, part)
            return self.kept or super()._overlay(client, seen, part)

    site.init(BEFORE)
    with reader_of(site) as reader, reader_of(site, ReaderByNumber) as forgetful:
        leave_open(site, {**BEFORE, "/new": Node(b""), "/keep": Node(b"kept no longer")})
        for each in (reader, forgetful):
            each.view()
        site.rollback(how=TakeOver(steal=True))
        before = image_of(site.kazoo, site.root)
        leave_open(site, {path: node for path, node in AFTER.items() if path != "/keep"})
        assert shown(reader.view()) == before
        assert shown(forgetful.view()) != before


# -- transitions while it reads ---------------------------------------------------------------------------------------


class DisturbedReader(Reader):
    """Lets a test act between the first read of the record and the tree, once."""

    disturbance: Callable[[], object] | None = None
    tries = 0

    def _read_tree(self, client: Client, part: Part, overlay: Overlay) -> dict[str, Znode]:
        self.tries += 1
        disturbance, self.disturbance = self.disturbance, None
        if disturbance is not None:
            disturbance()
        return super()._read_tree(client, part, overlay)


class TrustingReader(DisturbedReader):
    """Negative control: does not read the record again after the tree."""

    _confirms_record = False


def commit(site: Site) -> None:
    site.apply(site.plan(AFTER))


def hold(site: Site) -> None:
    """Set a maintenance hold."""
    site.hold(Held("disks are changed", "me", time.time()))


@pytest.mark.parametrize(("act", "epoch"), [(commit, 1), (leave_open, 0), (leave_preparing, 0), (hold, 0)])
def test_a_record_that_moves_while_the_tree_is_read_means_once_more(
    site: Site, act: Callable[[Site], object], epoch: int
) -> None:
    """What is shown in the end belongs to the record that is shown with it, and took exactly two tries."""
    site.init(BEFORE)
    before = image_of(site.kazoo, site.root)
    with reader_of(site, DisturbedReader) as reader:
        assert isinstance(reader, DisturbedReader)
        reader.disturbance = lambda: act(site)
        view = reader.view()
        assert reader.tries == 2
        assert shown(view) == (before if epoch == 0 else image_of(site.kazoo, site.root))
        assert (view.epoch, view.held) == (epoch, act is hold)


@pytest.mark.parametrize("act", [commit, leave_open])
def test_without_the_second_record_read_another_image_would_be_shown(site: Site, act: Callable[[Site], object]) -> None:
    """Negative control of the test above: the view claims epoch 0 and is not its image."""
    site.init(BEFORE)
    before = image_of(site.kazoo, site.root)
    with reader_of(site, TrustingReader) as reader:
        assert isinstance(reader, TrustingReader)
        reader.disturbance = lambda: act(site)
        view = reader.view()
        assert view.epoch == 0
        assert shown(view) != before


def test_views_of_several_threads_while_epochs_come_and_go(site: Site) -> None:
    """Threads share a reader through six epochs, single shots and batches: each view is the image of its epoch.

    The migrator waits after each batch until another view was taken, so that there are views of every moment.
    """
    trees = [settled({"": Node(b""), **{f"/n{i:02}": Node(b"%d" % epoch) for i in range(40)}}) for epoch in range(7)]
    site.init(trees[0])
    over = threading.Event()
    taken = threading.Semaphore(0)
    wrong: list[View] = []
    states: Counter[str] = Counter()

    def watch(reader: Reader) -> None:
        while not over.is_set():
            view = reader.view()
            states[view.state] += 1
            if {znode.data for znode in view.values() if znode.path != site.root} != {b"%d" % view.epoch}:
                wrong.append(view)
            taken.release()

    def await_view(progress: Progress) -> None:
        if progress.phase == "write":
            while taken.acquire(blocking=False):
                pass
            assert taken.acquire(timeout=30)

    with reader_of(site) as reader:
        threads = [threading.Thread(target=watch, args=(reader,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for epoch in range(1, 7):
                options = Options(single_shot="require" if epoch % 3 == 0 else "never", report=await_view)
                site.apply(site.plan(trees[epoch], limits=Limits(batch_bytes_max=1_000)), epoch, options=options)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert wrong == []
    assert states["OPEN"] > 10


def test_a_node_that_is_replaced_while_being_read_is_never_missing(site: Site) -> None:
    """Somebody renames a node by one transaction, again and again: every view has it exactly once, under some name.

    It lies deep, so that whole subtrees vanish between the read that lists them and the read of what is in them.
    """
    site.init({"": Node(b""), **{f"/s{i:03}": Node(b"") for i in range(150)}, "/a": Node(b""), "/a/member": Node(b"m")})
    over = threading.Event()

    def rename() -> None:
        old, new = site.path("/a"), site.path("/b")
        while not over.is_set():
            transaction = site.kazoo.transaction()
            transaction.create(new, b"")
            transaction.create(f"{new}/member", b"m")
            transaction.delete(f"{old}/member")
            transaction.delete(old)
            transaction.commit()
            old, new = new, old
            time.sleep(0.003)

    thread = threading.Thread(target=rename)
    with reader_of(site) as reader:
        thread.start()
        views = [reader.view() for _ in range(40)]
        over.set()
        thread.join()
    for view in views:
        assert sum(path.endswith("/member") for path in view) == 1
        assert all(path == site.root or paths.parent(path) in view for path in view)


# -- foreign writers in an open epoch ---------------------------------------------------------------------------------


def test_foreign_writes_in_an_open_epoch(site: Site) -> None:
    """To a path of the plan: its pre-image until the epoch ends. To others: live. Below a created node: not shown."""
    site.init(BEFORE)
    before = image_of(site.kazoo, site.root)
    leave_open(site)
    kazoo, path = site.kazoo, site.path
    kazoo.set(path("/change/01"), b"foreign")  # written by the plan
    kazoo.set(path("/keep"), b"foreign")  # not in the plan
    kazoo.set(path("/queue"), b"foreign")  # only its counter is raised by the plan
    kazoo.create(path("/new/00/foreign"), b"")
    kazoo.create(path("/gone/11/foreign"), b"f")
    kazoo.create(path("/queue/q-"), b"f", ephemeral=True, sequence=True)
    view = look(site)
    assert view[path("/change/01")].data == before[path("/change/01")].data
    assert tuple(view[path("/change/01")].stat) == before[path("/change/01")].stat
    assert view[path("/keep")].data == b"foreign"
    assert path("/new/00/foreign") not in view
    assert view[path("/gone/11/foreign")].data == b"f"
    assert view.children(path("/gone/11")) == ["foreign"]
    queue = view[path("/queue")]
    assert (queue.data, queue.stat.version) == (b"foreign", 1)
    assert tuple(queue.stat)[5:] == (*before[path("/queue")].stat[5:8], 7, *before[path("/queue")].stat[9:])
    assert len(view.children(path("/queue"))) == 2
    assert not view.is_overlaid(path("/keep"))


def test_a_parent_that_somebody_deletes_takes_its_plan_paths_out_of_the_view(site: Site) -> None:
    """It is not a path of the plan, so it is shown as it is: gone; no node of a view is without its parent."""
    before = settled({"": Node(b""), "/a": Node(b""), "/a/b": Node(b""), "/a/b/c": Node(b"1"), "/z": Node(b"1")})
    site.init(before)
    sealed = site.plan({**before, "/a/b/c": Node(b"2"), "/z": Node(b"2")}, limits=Limits(batch_bytes_max=500))
    site.leave_open(sealed, 1)
    site.kazoo.delete(site.path("/a"), recursive=True)
    assert set(look(site)) == {site.root, site.path("/z")}


def test_what_a_plan_deletes_is_shown_though_its_parent_is_gone_too(site: Site) -> None:
    """Whole subtrees, all batches applied but the last: restored from undo with their children in order."""
    before = settled({"": Node(b""), **{f"/d{i}{below}": Node(b"x") for i in range(8) for below in ("", "/e", "/e/f")}})
    site.init(before)
    image = image_of(site.kazoo, site.root)
    sealed = site.plan({"": Node(b"")}, limits=Limits(batch_bytes_max=500))
    site.leave_open(sealed, len(sealed.plan.batch_ends) - 1)
    assert len(site.look()) < len(before) // 2
    assert shown(look(site)) == image


# -- no image ---------------------------------------------------------------------------------------------------------


def test_an_empty_scope_is_not_ready_until_its_first_epoch_is_committed(site: Site) -> None:
    """Also while that epoch is being written, and after it was taken back: absence proves nothing yet."""
    site.init()
    with reader_of(site) as reader:

        def refused(state: str) -> None:
            with pytest.raises(NotReady, match=state):
                reader.view()

        refused("EMPTY")
        leave_preparing(site)
        refused("PREPARING")
        site.rollback(how=TakeOver(steal=True))
        leave_open(site)
        refused("OPEN")
        with pytest.raises(Interrupted):
            site.rollback(options=Options(report=at("undo", 3, interrupt)), how=TakeOver(steal=True))
        refused("ROLLING_BACK")
        site.rollback(how=TakeOver(steal=True))
        refused("EMPTY")
        site.apply(site.plan(AFTER))
        assert shown(reader.view()) == image_of(site.kazoo, site.root)


def test_no_record_no_root_and_a_record_of_another_format_are_not_ready(site: Site) -> None:
    with reader_of(site) as reader:
        with pytest.raises(NotReady, match="no scope"):
            reader.view()
        site.init(allow_empty=True)
        with pytest.raises(NotReady, match="root"):
            reader.view()
        site.kazoo.create(site.root, b"")
        assert list(reader.view()) == [site.root]
        record, _ = site.kazoo.get(site.names.record)
        assert record is not None
        fields = json.loads(record)
        strange: object
        for strange in ({**fields, "format": 99, "min_reader": 99}, {**fields, "state": "DREAMING"}, []):
            site.kazoo.set(site.names.record, json.dumps(strange).encode())
            with pytest.raises(NotReady):
                reader.view()
        newer = {**fields, "format": 2, "min_reader": 1, "of_the_future": True}
        site.kazoo.set(site.names.record, json.dumps(newer).encode())
        assert list(reader.view()) == [site.root]


@pytest.mark.parametrize("state", ["BUILDING", "SEALED", "MOVED", "ABORTED"])
def test_states_of_migrations_across_ensembles_are_not_ready(site: Site, state: str) -> None:
    site.init(BEFORE)
    record, _ = site.kazoo.get(site.names.record)
    assert record is not None
    site.kazoo.set(site.names.record, json.dumps({**json.loads(record), "state": state}).encode())
    with pytest.raises(NotReady, match=state):
        look(site)


def undo_paths(site: Site) -> list[str]:
    record = site.record()
    assert record.target_epoch is not None
    assert record.attempt is not None
    undo = site.names.attempt(record.target_epoch, record.attempt).undo
    return [f"{undo}/{name}" for name in site.kazoo.get_children(undo)]


def test_missing_undo_is_never_taken_for_no_pre_image(site: Site) -> None:
    """A chunk is gone: no view, until the record has moved on and none is needed."""
    site.init(BEFORE)
    sealed = leave_open(site)
    chunk = undo_paths(site)[0]
    data, _ = site.kazoo.get(chunk)
    with reader_of(site, timeout_s=0.7) as reader:
        site.kazoo.delete(chunk)
        with pytest.raises(Unavailable, match=r"within 0.7 s.*missing"):
            reader.view()
        site.kazoo.create(chunk, b"altered " + (data or b""))
        with pytest.raises(NotReady, match="altered"):
            reader.view()
        site.kazoo.set(chunk, data)
        assert reader.view().state == "OPEN"
    with reader_of(site, DisturbedReader) as late:
        site.kazoo.delete(chunk)

        def bring_back_and_commit() -> None:
            time.sleep(0.3)
            site.kazoo.create(chunk, data)
            site.resume(sealed, how=TakeOver(steal=True))

        thread = threading.Thread(target=bring_back_and_commit)
        thread.start()
        view = late.view()
        thread.join()
        assert (view.epoch, view.state) in ((0, "OPEN"), (1, "STABLE"))


# -- permissions ------------------------------------------------------------------------------------------------------


def protect(site: Site, path: str, *acl: Acl) -> None:
    """Give a node of the control plane or the tree another ACL, by setACL."""
    site.client(ME, ALICE).call(SetAcl(path, acl, -1))


def test_what_may_not_be_read_is_forbidden_and_never_left_out(site: Site) -> None:
    """The record, a node of the tree, or undo."""
    mine = Acl(ALL, *MY_IDENTITY)
    everybody = (Acl(READ, *WORLD), mine)
    site.init(settled({"": Node(b""), "/a": Node(b""), "/a/b": Node(b"1")}))
    with Reader(site.server.hosts, site.names.scope, auth=[BOB]) as bobs:
        assert len(bobs.view()) == 3
        for path in (site.path("/a/b"), site.path("/a"), site.root, site.names.record):
            protect(site, path, mine)
            with pytest.raises(Forbidden, match=path):
                bobs.view(fresh=True)  # setACL fires no watch
            protect(site, path, *everybody)
            assert len(bobs.view()) == 3
        sealed = site.plan({"": Node(b"2", everybody), "/a": Node(b"2", everybody)}, limits=Limits(batch_bytes_max=500))
        site.leave_open(sealed, 1)
        acls = {path: site.kazoo.get_acls(path)[0] for path in undo_paths(site)}
        (chunk,) = (path for path, acl in acls.items() if any(each.id.scheme == "world" for each in acl))
        protect(site, chunk, mine)
        with pytest.raises(Forbidden, match=chunk):
            bobs.view()
        site.kazoo.set_acls(chunk, acls[chunk])
        assert len(bobs.view()) == 3


def test_a_new_node_that_a_reader_may_not_read_does_not_keep_it_from_the_old_image(site: Site) -> None:
    """What a plan creates is not even asked for before the commit; afterwards it is Forbidden, honestly."""
    tree = settled({"": Node(b""), "/a": Node(b"1")})
    site.init(tree)
    last = {f"/z{number}": Node(bytes(200)) for number in range(9)}
    secret = settled({**tree, "/m": Node(b"", (Acl(ALL, *MY_IDENTITY),)), **last})
    sealed = site.plan(secret, limits=Limits(batch_bytes_max=500))
    with Reader(site.server.hosts, site.names.scope, auth=[BOB]) as bobs:
        site.leave_open(sealed, len(sealed.plan.batch_ends) - 1)
        assert site.kazoo.exists(site.path("/m"))
        assert set(bobs.view()) == {site.root, site.path("/a")}
        site.resume(sealed, how=TakeOver(steal=True))
        with pytest.raises(Forbidden, match="/m"):
            bobs.view()


def test_acls_are_shown_alike_before_and_in_a_migration_to_a_reader_without_admin(site: Site) -> None:
    """The server masks digest ids for it; undo holds them whole."""
    acl = (Acl(READ, *WORLD), Acl(ALL, *MY_IDENTITY))
    site.init(settled({"": Node(b""), "/a": Node(b"1", acl), "/b": Node(b"1", acl)}))
    sealed = site.plan(
        settled({"": Node(b""), "/a": Node(b"2", acl), "/b": Node(b"2", acl)}), limits=Limits(batch_bytes_max=450)
    )
    with Reader(site.server.hosts, site.names.scope) as anonymous:
        live = shown(anonymous.view())
        assert live[site.path("/a")].acl == (Acl(READ, *WORLD), Acl(ALL, "digest", "me:x"))
        site.leave_open(sealed, 1)
        assert shown(anonymous.view()) == live
    with Reader(site.server.hosts, site.names.scope, auth=[ME]) as mine:
        assert mine.view()[site.path("/a")].acl == acl


def test_acls_are_asked_for_only_where_they_moved(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Method: the paths of getACL are noted on their way to the server. What is gone from the tree is forgotten."""
    asked: list[str] = []

    def noting(client: Client, wanted: list[str]) -> Iterator[AclResult | None]:
        asked.extend(wanted)
        return read_acls(client, wanted)

    monkeypatch.setattr(reader_tree, "read_acls", noting)
    site.init(BEFORE)
    with reader_of(site) as reader:
        assert len(reader.view()) == len(asked) == len(BEFORE)
        asked.clear()
        site.kazoo.set(site.path("/keep"), b"written")
        reader.view(fresh=True)
        assert asked == []
        protect(site, site.path("/keep"), *OPEN_ACL, Acl(READ, "ip", "10.0.0.1"))
        site.kazoo.delete(site.path("/null"))
        site.kazoo.create(site.path("/null"), b"")
        assert shown(reader.view(fresh=True)) == image_of(site.kazoo, site.root)
        assert sorted(asked) == [site.path("/keep"), site.path("/null")]
        asked.clear()
        site.kazoo.delete(site.path("/null"))
        reader.view(fresh=True)
        assert site.path("/null") not in reader._acls._known
        assert len(reader._acls._known) == len(BEFORE) - 1


# -- how it is asked for ----------------------------------------------------------------------------------------------


def test_a_server_without_multi_read_is_read_all_the_same(site: Site) -> None:
    site.init(BEFORE)
    with SingleClient(site.server, (ME, ALICE)) as client:
        part = part_of(site.record(), site.names.control, None)
        nodes = read_tree(client, part, NO_OVERLAY, AclCache())
    image = image_of(site.kazoo, site.root)
    assert {path: (n.data, n.acl, tuple(n.stat)) for path, n in nodes.items()} == {p: image[p][:3] for p in image}


def test_no_reply_is_asked_for_that_would_be_a_burden_to_the_server(site: Site) -> None:
    """A thousand small nodes, then two hundred large ones: no request asks for many of those at once."""
    small = {f"/a/{number:04}": Node(b"s") for number in range(1_000)}
    large = {f"/b/{number:04}": Node(bytes(60_000)) for number in range(200)}
    site.init(settled({"": Node(b""), "/a": Node(b""), "/b": Node(b""), **small, **large}))
    with NotingClient(site.server, (ME,)) as client:
        part = part_of(site.record(), site.names.control, None)
        nodes = read_tree(client, part, NO_OVERLAY, AclCache())
        asked = [[read.path for read in request.reads if isinstance(read, GetData)] for request in client.multi_reads]
    assert len(nodes) == 1_203
    assert max(sum(nodes[path].stat.data_length for path in paths_asked) for paths_asked in asked) < 1_500_000
    assert len(asked) < 80


# -- parts ------------------------------------------------------------------------------------------------------------


PARTS = settled(
    {
        "": Node(b"root"),
        **{f"/{name}{below}": Node(b"1") for name in ("app", "app-2", "other") for below in ("", "/x", "/x/y", "/z")},
    }
)


def test_only_the_wanted_subtrees_are_in_the_view_with_what_lies_above_them(site: Site) -> None:
    """Whole components; nested paths count once; a path that is not there is just not in the view."""
    site.init(PARTS)
    path = site.path
    view = look(site, paths=[path("/app"), path("/other/x"), path("/other/x/y"), path("/absent")])
    assert list(view) == [
        site.root,
        *map(path, ("/app", "/app/x", "/app/x/y", "/app/z", "/other", "/other/x", "/other/x/y")),
    ]
    whole = image_of(site.kazoo, site.root)
    assert {p: (s.data, s.acl, s.stat) for p, s in shown(view).items()} == {p: whole[p][:3] for p in view}
    assert view.children(path("/other")) == ["x"]
    assert len(look(site, paths=["/"])) == len(look(site, paths=[site.root])) == len(PARTS)


def test_a_part_of_an_open_epoch_is_that_part_of_the_old_image(site: Site) -> None:
    site.init(PARTS)
    path = site.path
    wanted = [path("/app/x"), path("/other"), path("/new")]
    before = shown(look(site, paths=wanted))
    target: Tree = {p: n._replace(data=b"2") for p, n in PARTS.items() if not p.startswith("/other/x")}
    sealed = site.plan(settled({**target, "/new": Node(b""), "/new/a": Node(b"")}), limits=Limits(batch_bytes_max=450))
    site.leave_open(sealed, len(sealed.plan.batch_ends) - 1)
    assert shown(look(site, paths=wanted)) == before
    assert shown(look(site, ReaderWithoutOverlay, paths=wanted)) != before


def test_a_path_outside_the_scope_is_not_ready(site: Site) -> None:
    site.init(PARTS)
    for outside in (site.root + "-2", "/elsewhere", "/zkmig/scopes"):
        with pytest.raises(NotReady, match="not part of the scope"):
            look(site, paths=[site.root + "/app", outside])


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_site(fresh_zk: Server) -> Iterator[Site]:
    with Site(fresh_zk, "/app") as one:
        yield one


def test_no_server_is_unavailable_and_a_server_that_comes_back_is_used_again(fresh_site: Site) -> None:
    """The deadline is kept; a short loss is bridged within it, in the same reader."""
    site = fresh_site
    site.init(BEFORE)
    with reader_of(site, timeout_s=1.0) as reader, reader_of(site) as patient:
        first, _ = reader.view(), patient.view()
        site.server.stop()
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="within 1 s; last: ") as caught:
            reader.view()
        assert str(caught.value).count("; check") == 1  # what to do is said once
        assert time.monotonic() - begun < 5
        results: list[View] = []
        thread = threading.Thread(target=lambda: results.append(patient.view()))
        thread.start()
        site.server.restart()
        thread.join()
        assert shown(results[0]) == shown(first)
        assert shown(reader.view()) == shown(first)


def test_an_expired_session_is_replaced_by_one_that_has_seen_as_much(site: Site) -> None:
    """Method: another client takes up the reader's session and closes it, which is what expiry looks like."""
    site.init(BEFORE)
    with reader_of(site) as reader:
        first = reader.view()
        client = reader._session._client
        assert client is not None
        thief = KazooClient(site.server.hosts, client_id=(client.session_id, client.session_password))
        thief.start()
        thief.stop()
        thief.close()
        site.kazoo.set(site.path("/keep"), b"since")
        second = reader.view()
        assert second[site.path("/keep")].data == b"since"
        assert reader._session._client is not client
        assert second.zxid > first.zxid


def test_no_view_is_older_than_what_the_callers_own_client_has_seen(ensemble: Ensemble, tree_root: str) -> None:
    """The reader's member is stopped while an epoch is committed; kazoo has seen it; so must the next view."""
    with Site(ensemble.leader(), tree_root) as site:
        site.init(settled({"": Node(b""), "/a": Node(b"0")}))
        follower = next(m for m in ensemble.members if m.pid != ensemble.leader().pid)
        kazoo = KazooClient(ensemble.hosts, auth_data=[("digest", "me:hunter2")], timeout=4.0)
        kazoo.start()
        try:
            with Reader(kazoo, site.names.scope) as reader:
                hosts = reader._session._hosts
                hosts.sort(key=lambda host: f"{host[0]}:{host[1]}" != follower.hosts)
                assert reader.view().epoch == 0
                assert reader._session._client is not None
                assert f"127.0.0.1:{reader._session._client.server[1]}" == follower.hosts
                follower.pause()
                site.apply(site.plan(settled({"": Node(b""), "/a": Node(b"1")})))
                while kazoo.retry(kazoo.get, f"{tree_root}/a")[0] != b"1":
                    pass
                threading.Timer(0.5, follower.unpause).start()
                view = reader.view()
                assert (view.epoch, view[f"{tree_root}/a"].data) == (1, b"1")
        finally:
            follower.unpause()
            kazoo.stop()
            kazoo.close()


# -- registration, life, arguments ------------------------------------------------------------------------------------


def children_soon(client: KazooClient, path: str, count: int) -> list[str]:
    """Names of the children of `path` once there are `count`, or what there is after some seconds."""
    deadline = time.monotonic() + 5
    while len(names := client.get_children(path)) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return names


def test_a_reader_is_registered_as_long_as_it_lives(site: Site) -> None:
    """It says who it is and which record it has seen; the registration goes with its session."""
    site.init(BEFORE)
    with reader_of(site, name="autoscaler") as reader:
        reader.view()
        (name,) = children_soon(site.kazoo, site.names.readers, 1)
        assert name.startswith("autoscaler-")
        data, stat = site.kazoo.get(f"{site.names.readers}/{name}")
        told = json.loads(data or b"")
        assert (told["reader"], told["epoch"], told["state"], told["record_version"]) == ("autoscaler", 0, "STABLE", 0)
        assert stat.ephemeralOwner
    assert children_soon(site.kazoo, site.names.readers, 0) == []


def test_a_reader_that_may_not_register_still_reads(site: Site) -> None:
    everybody = Acl(READ, *WORLD)
    site.init(BEFORE, Roles((MY_IDENTITY,), (Identity("digest", "nobody:x"), WORLD)))
    protect(site, site.names.readers, everybody, Acl(ALL, *MY_IDENTITY))
    with Reader(site.server.hosts, site.names.scope, [site.path("/keep")], auth=[BOB]) as bobs:
        for _ in range(3):
            assert len(bobs.view()) == 2
    assert site.kazoo.get_children(site.names.readers) == []
    protect(site, site.names.readers, Acl(READ | CREATE, *WORLD), Acl(ALL, *MY_IDENTITY))


def test_a_client_that_is_handed_in_goes_on_after_the_reader(site: Site) -> None:
    """And brings its own credentials, also such as it gets later."""
    site.init({"": Node(b""), "/mine": Node(b"", (Acl(ALL, *MY_IDENTITY),))})
    kazoo = site.open_kazoo()
    with Reader(kazoo, site.names.scope) as reader:
        with pytest.raises(Forbidden):
            reader.view()
        kazoo.add_auth("digest", "me:hunter2")
        view = reader.view()
        assert view[site.path("/mine")].acl == (Acl(ALL, *MY_IDENTITY),)
    assert kazoo.connected
    with pytest.raises(Unavailable, match="closed"):
        reader.view()
    assert len(view) == 2


def test_what_cannot_be_read_with_is_refused_at_once(fresh_zk: Server, kazoo_client: KazooClientFactory) -> None:
    hosts = fresh_zk.hosts
    below = kazoo_client(fresh_zk)
    below.chroot = "/below"
    refused: list[tuple[str, Callable[[], Reader]]] = [
        ("chroot", lambda: Reader(below, "s")),
        ("without a path", lambda: Reader(f"{hosts}/below", "s")),
        ("without a path", lambda: Reader(f"zks://{hosts}/below", "s")),
        ("does not verify", lambda: Reader(KazooClient(hosts, use_ssl=True, verify_certs=False), "s")),
        ("goes with hosts", lambda: Reader(KazooClient(hosts), "s", tls=Tls())),
        ("zks://", lambda: Reader(f"zk://{hosts}", "s", tls=Tls())),
        ("absent.pem: the TLS", lambda: Reader(hosts, "s", tls=Tls(ca="absent.pem"))),
        ("no host", lambda: Reader("", "s")),
        ("scope name", lambda: Reader(hosts, "a/b")),
        ("goes with hosts", lambda: Reader(kazoo_client(fresh_zk), "s", auth=[ME])),
        ("user:password", lambda: Reader(hosts, "s", auth=[("digest", "nopassword")])),
        ("list of paths", lambda: Reader(hosts, "s", "/app")),
        ("no path", lambda: Reader(hosts, "s", [])),
        ("must start with", lambda: Reader(hosts, "s", ["app"])),
        ("path of its own", lambda: Reader(hosts, "s", control="/")),
        ("reader's name", lambda: Reader(hosts, "s", name="a/b")),
    ]
    for what, make in refused:
        with pytest.raises(BadInput, match=what):
            make()


def test_a_control_plane_elsewhere(zk: Server, tree_root: str) -> None:
    """It may even lie inside the scope; it is never part of a view."""
    with Site(zk, tree_root, f"{tree_root}/ops") as site:
        site.kazoo.create(site.root, b"")
        site.init({"/a": Node(b"")})
        with Reader(zk.hosts, site.names.scope, control=f"{tree_root}/ops") as reader:
            assert list(reader.view()) == [site.root, site.path("/a")]


def test_a_service_that_only_reads_does_not_load_the_planner() -> None:
    """Method: a fresh interpreter imports the reader and lists what came with it."""
    code = "import sys, zkmig.reader; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    loaded = done.stdout.split()
    heavy = ("networkx", "rich", "click", "zkmig.plan", "zkmig.apply", "zkmig.diff", "zkmig.dev", "zkmig.cli")
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_nodes_vanish_by_kazoo_too(site: Site) -> None:
    """The eyes of these tests can fail: a node that is gone is an error, not an empty image."""
    with pytest.raises(NoNodeError):
        image_of(site.kazoo, site.root)
