"""What each role may do in a control plane, node by node: the admin all, a reader what it needs, others nothing.

Method: a scope with named roles; kazoo as admin, as reader and as nobody tries every right on every node, in a scope at
rest and in one whose epoch is open, and the servers say what is permitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.security import make_acl, make_digest_acl

from tests.program import Program, location
from tests.scopes import AFTER, ALICE, ALICES_IDENTITY, BEFORE, ME, MY_IDENTITY, Site, assert_is
from tests.test_drain import MINUTE
from tests.trees import Node
from zkmig.apply.forward import Options
from zkmig.apply.status import read_status
from zkmig.dev import Server
from zkmig.epoch.control import Roles
from zkmig.errors import Forbidden, NotPermitted
from zkmig.model.acl import Identity, digest_id
from zkmig.reader import Reader
from zkmig.wire.credential import Credential

EVE = Credential("digest", b"eve:drops")
EVES_IDENTITY = Identity("digest", digest_id("eve", "drops"))
ROLES = Roles((MY_IDENTITY,), (ALICES_IDENTITY,))

Try = Callable[[KazooClient, str], object]


def _read(client: KazooClient, path: str) -> object:
    return client.get(path), client.get_children(path)


def _write(client: KazooClient, path: str) -> object:
    return client.set(path, client.get(path)[0] if _may(client, "read", path) else b"")


def _create(client: KazooClient, path: str) -> object:
    return client.create(f"{path}/tried", b"")


def _delete_child(client: KazooClient, path: str) -> object:
    return client.delete(f"{path}/tried")


def _set_acl(client: KazooClient, path: str) -> object:
    return client.set_acls(path, [make_acl("world", "anyone", all=True)])


TRIES: dict[str, Try] = {
    "read": _read,
    "write": _write,
    "create": _create,
    "delete": _delete_child,
    "setACL": _set_acl,
}


def _may(client: KazooClient, what: str, path: str) -> bool:
    try:
        TRIES[what](client, path)
    except NoAuthError:
        return False
    return True


@pytest.fixture
def lone_site(zk: Server, tree_root: str) -> Iterator[Site]:
    """A scope with a control plane of its own: all of it has the roles."""
    with Site(zk, tree_root, f"{tree_root}-control") as one:
        yield one


def places(site: Site) -> dict[str, set[str]]:
    """Every node of the control plane by what a reader may do on it."""
    names = site.names
    record = site.record()
    rest = {names.registry, names.home, names.incarnation(record.incarnation), names.owner, names.epochs, names.record}
    if record.attempt is not None:
        attempt = names.attempt(1, record.attempt)
        rest |= {attempt.home, attempt.manifest, attempt.undo, attempt.cursor, attempt.rcursor}
    joined = {names.acting, names.guards, names.readers, names.budgets}
    return {path: {"read"} for path in rest} | {path: {"read", "create"} for path in joined}


@pytest.mark.parametrize("is_open", [False, True])
def test_a_reader_reads_and_leaves_entries_and_others_do_nothing(lone_site: Site, is_open: bool) -> None:
    """Every right on every node. What the admin itself may do is what migrations show."""
    site = lone_site
    site.init(BEFORE, ROLES)
    if is_open:
        site.leave_open(site.plan(AFTER), 5)
    alice, eve, mine = site.open_kazoo(ALICE), site.open_kazoo(EVE), site.open_kazoo(ME)
    for path, permitted in places(site).items():
        assert {what for what in TRIES if what != "delete" and _may(alice, what, path)} == permitted, path
        assert {what for what in TRIES if what != "delete" and _may(eve, what, path)} == set(), path
        if "create" in permitted:
            assert not _may(alice, "delete", path)  # her own entry, even
            assert not _may(eve, "delete", path)
            assert _may(mine, "delete", path)


def test_a_reader_has_no_say_over_the_entries_of_others(lone_site: Site) -> None:
    """Neither can she write or delete the lease of another, nor take its name while it is there."""
    site = lone_site
    site.init({"": Node(b""), "/a": Node(b"")}, Roles((MY_IDENTITY,), (ALICES_IDENTITY, EVES_IDENTITY)))
    control = site.names.control
    eve = site.open_kazoo(EVE)
    with (
        Reader(site.server.hosts, site.names.scope, auth=[ALICE], control=control) as reader,
        reader.acting(reader.view()) as token,
    ):
        for directory, data in ((token.lease, b""), (token.lease, MINUTE.encode())):
            with pytest.raises(NoAuthError):
                eve.set(directory, data)
        with pytest.raises(NoAuthError):
            eve.delete(token.lease)
        with pytest.raises(NoAuthError):
            eve.create(token.lease + "/below")
        with pytest.raises(NoAuthError):
            eve.set_acls(token.lease, [make_acl("world", "anyone", all=True)])
        (registered,) = eve.get_children(site.names.readers)
        with pytest.raises(NoAuthError):
            eve.set(f"{site.names.readers}/{registered}", b"")
        with pytest.raises(NoAuthError):
            eve.delete(f"{site.names.readers}/{registered}")


def test_who_has_no_role_is_told_so(lone_site: Site) -> None:
    """A migrator, a reader and a status without rights: each is refused, by name, before anything is written."""
    site = lone_site
    site.init(BEFORE, ROLES)
    sealed = site.plan(AFTER)
    for who in (ALICE, EVE):
        with pytest.raises(NotPermitted):
            site.apply(sealed, client=site.client(who))
    with pytest.raises(NotPermitted):
        read_status(site.client(EVE), site.names)
    assert read_status(site.client(ALICE), site.names).record == site.record()
    with (
        Reader(site.server.hosts, site.names.scope, auth=[EVE], control=site.names.control) as reader,
        pytest.raises(Forbidden),
    ):
        reader.view()
    assert_is(site.look(), BEFORE)


def test_an_admin_without_rights_on_the_tree_begins_nothing(lone_site: Site) -> None:
    """To be admin of the control plane gives no right on nodes: refused before the first write, and nothing left."""
    site = lone_site
    theirs = [make_digest_acl("alice", "wonder", all=True), make_acl("world", "anyone", read=True)]
    site.init(BEFORE, ROLES)
    site.kazoo.set_acls(site.path("/keep"), theirs)
    changed = {**BEFORE, "/keep": BEFORE["/keep"]._replace(data=b"changed")}
    both = site.client(ME, ALICE)
    changed["/keep"] = changed["/keep"]._replace(acl=site.look()["/keep"].acl)
    sealed = site.plan(changed, client=both)
    before = site.look()
    with pytest.raises(NotPermitted):
        site.apply(sealed)
    assert site.look() == before
    record = site.record()
    assert (record.state.value, record.attempt) == ("STABLE", None)
    site.apply(sealed, client=both, options=Options("never"))


def test_init_takes_the_roles_from_the_command_line(program: Program, lone_site: Site, tree_root: str) -> None:
    """--admin and --reader, of which nobody runs init: they are the record's ACL, and nobody else is in it."""
    site = lone_site
    site.grow(BEFORE)
    where = location(site.server.hosts, tree_root)
    control = site.names.control
    me, alice = (f"digest:{identity.id}" for identity in (MY_IDENTITY, ALICES_IDENTITY))
    arguments = ("--scope", site.names.scope, "--control", control, "--admin", me, "--reader", alice)
    program("init", where, *arguments, env={"ZKMIG_AUTH": f"digest:{ME.secret.decode()}"}).succeeded()
    acl, _ = site.open_kazoo(ME).get_acls(site.names.record)
    assert {(entry.id.id, entry.perms) for entry in acl} == {(MY_IDENTITY.id, 31), (ALICES_IDENTITY.id, 1)}
    program("status", "--at", where, "--control", control, env={"ZKMIG_AUTH": f"digest:{EVE.secret.decode()}"}).failed(
        6, "NoAuth"
    )
