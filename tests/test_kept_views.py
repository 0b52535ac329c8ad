"""Views that are kept: asked for again they cost nothing while nothing happens, and never hide what did.

Method: a reader over a kazoo client whose own reads set how new a view has to be, so that a view may be compared with
the tree at once; requests of the bulk session are counted on their way out. Negative control: with events thrown away
the same comparison fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.conftest import KazooClientFactory
from tests.scopes import ME, Site, settled
from tests.test_reader import image_of, shown
from tests.trees import Node
from zkmig.dev import Server
from zkmig.epoch.owner import TakeOver
from zkmig.errors import NotReady
from zkmig.reader import Reader
from zkmig.reader.kept import KeptView
from zkmig.wire import link
from zkmig.wire.session import Session

TREE = settled({"": Node(b""), **{f"/p{number}": Node(b"x") for number in range(20)}, "/p0/c": Node(b"y")})


@pytest.fixture
def site(zk: Server, tree_root: str) -> Iterator[Site]:
    """A scope over a small tree."""
    with Site(zk, tree_root) as one:
        one.init(TREE)
        yield one


@pytest.fixture
def kazoo(zk: Server, kazoo_client: KazooClientFactory) -> KazooClient:
    """The client that the reader is given: what it has seen, no view may be older than."""
    client = kazoo_client(zk)
    client.add_auth(ME.scheme, ME.secret.decode())
    return client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operations of every request of the data plane's sessions in this process."""
    noted: list[str] = []
    submit = Session.submit

    def noting(session: Session, request: Any) -> int:
        noted.append(request.operation)
        return submit(session, request)

    monkeypatch.setattr(Session, "submit", noting)
    return noted


def caught_up(kazoo: KazooClient, site: Site) -> None:
    """Let the reader's kazoo session see all that has been written."""
    kazoo.sync(site.root)
    kazoo.exists(site.root)


def test_while_nothing_happens_it_is_the_same_view_and_nobody_is_asked(
    site: Site, kazoo: KazooClient, sent: list[str]
) -> None:
    with Reader(kazoo, site.names.scope) as reader:
        reader.view()
        caught_up(kazoo, site)  # the reader's own registration is a write, too
        first = reader.view()
        sent.clear()
        assert all(reader.view() is first for _ in range(100))
        assert sent == []
        fresh = reader.view(fresh=True)
        assert sent
        assert shown(fresh) == shown(first) == image_of(site.kazoo, site.root)


def test_after_a_change_only_what_changed_is_read(site: Site, kazoo: KazooClient, sent: list[str]) -> None:
    with Reader(kazoo, site.names.scope) as reader:
        before = reader.view()
        site.kazoo.set(site.path("/p7"), b"changed")
        caught_up(kazoo, site)
        sent.clear()
        view = reader.view()
        assert set(sent) <= {"multiRead", "exists"}
        assert len(sent) <= 3
        assert view[site.path("/p7")].data == b"changed"
        assert before[site.path("/p7")].data == b"x"  # a view is a value
        assert shown(view) == image_of(site.kazoo, site.root)
        assert view.zxid > before.zxid


def mutate(rng: random.Random, kazoo: KazooClient, there: list[str], ephemerals: KazooClient) -> None:
    """One change of any kind but setACL."""
    path = rng.choice(there)
    match rng.randrange(5):
        case 0:
            kazoo.set(path, rng.randbytes(5))
        case 1:
            there.append(kazoo.create(f"{path}/n", sequence=True))
        case 2:
            ephemerals.create(f"{path}/e", ephemeral=True, sequence=True)
        case 3 if len(there) > 10 and path != there[0]:
            kazoo.delete(path, recursive=True)
            there[:] = [each for each in there if each != path and not each.startswith(path + "/")]
        case _:
            subtree = f"{path}/s{rng.randrange(10**9)}/t/u"
            kazoo.create(subtree, makepath=True)
            there += [subtree.removesuffix("/t/u"), subtree.removesuffix("/u"), subtree]


def walk_with_changes(site: Site, kazoo: KazooClient, ephemerals: KazooClient, steps: int) -> Iterator[bool]:
    """After each step of a random walk: whether the view is the tree."""
    rng = random.Random(17)
    there = [site.root, *(site.path(f"/p{number}") for number in range(20))]
    with Reader(kazoo, site.names.scope) as reader:
        reader.view()
        for _ in range(steps):
            for _ in range(rng.choice([0, 1, 1, 2, 8])):
                mutate(rng, site.kazoo, there, ephemerals)
            caught_up(kazoo, site)
            yield shown(reader.view()) == image_of(site.kazoo, site.root)


def test_every_view_is_the_tree_as_it_is_whatever_changes(
    site: Site, zk: Server, kazoo: KazooClient, kazoo_client: KazooClientFactory
) -> None:
    """Data, nodes, subtrees and ephemerals come and go; at the end a session ends with all of its ephemerals."""
    ephemerals = kazoo_client(zk)
    assert all(walk_with_changes(site, kazoo, ephemerals, 60))
    with Reader(kazoo, site.names.scope) as reader:
        assert any(znode.ephemeral_owner for znode in reader.view().values())
        ephemerals.stop()
        caught_up(kazoo, site)
        view = reader.view()
        assert not any(znode.ephemeral_owner for znode in view.values())
        assert shown(view) == image_of(site.kazoo, site.root)


def test_a_view_that_does_not_listen_is_found_out(
    site: Site,
    zk: Server,
    kazoo: KazooClient,
    kazoo_client: KazooClientFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: events of the tree are thrown away."""
    monkeypatch.setattr(KeptView, "_dirty", lambda *_: set())
    assert not all(walk_with_changes(site, kazoo, kazoo_client(zk), 20))


def test_a_kept_view_gives_way_to_a_migration(site: Site, kazoo: KazooClient) -> None:
    """Before, in the midst of it and after the commit, each view is whole, and of its epoch."""
    wanted = settled({**TREE, **{f"/p{number}": Node(bytes(200)) for number in range(20)}})
    with Reader(kazoo, site.names.scope) as reader:
        before = shown(reader.view())
        sealed = site.plan(wanted)
        site.leave_open(sealed, len(sealed.plan.batch_ends) // 2)
        caught_up(kazoo, site)
        view = reader.view()
        assert (view.state, view.epoch, shown(view)) == ("OPEN", 0, before)
        site.resume(sealed, how=TakeOver(steal=True))
        caught_up(kazoo, site)
        view = reader.view()
        assert (view.state, view.epoch) == ("STABLE", 1)
        assert shown(view) == image_of(site.kazoo, site.root)
        site.kazoo.set(site.path("/p3"), b"later")
        caught_up(kazoo, site)
        assert reader.view()[site.path("/p3")].data == b"later"


def test_a_lost_connection_ends_what_was_kept(site: Site, kazoo: KazooClient) -> None:
    """What changes while the bulk session is cut off fires no watch for it."""
    with Reader(kazoo, site.names.scope) as reader:
        reader.view()
        client = reader._session._client
        assert client is not None
        client._link.lose("cut by the test")
        site.kazoo.set(site.path("/p1"), b"unheard")
        caught_up(kazoo, site)
        view = reader.view()
        assert view[site.path("/p1")].data == b"unheard"
        assert shown(view) == image_of(site.kazoo, site.root)


def test_more_events_than_are_worth_keeping_end_what_was_kept(
    site: Site, kazoo: KazooClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "WATCH_EVENTS_MAX", 10)
    with Reader(kazoo, site.names.scope) as reader:
        reader.view()
        for number in range(60):
            site.kazoo.set(site.path(f"/p{number % 20}"), str(number).encode())
        caught_up(kazoo, site)
        assert shown(reader.view()) == image_of(site.kazoo, site.root)


def test_a_root_that_goes_is_not_kept(site: Site, kazoo: KazooClient) -> None:
    with Reader(kazoo, site.names.scope) as reader:
        reader.view()
        site.kazoo.delete(site.root, recursive=True)
        caught_up(kazoo, site)
        with pytest.raises(NotReady, match="not there"):
            reader.view()
