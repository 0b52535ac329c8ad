"""A scope begins over what is there, once, where it can be, and belongs to its admin.

Method: init over trees of several kinds on a real server; the control plane's ACLs tried out by kazoo as a reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from kazoo.exceptions import NoAuthError

from tests.scopes import MY_IDENTITY, Site, settled
from tests.trees import Node
from zkmig.dev import Server
from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths, Roles, default_roles, find_scope, init_scope, only_scope, read_registry
from zkmig.epoch.transitions import State
from zkmig.errors import BadInput, NotPermitted, Refused, UnknownFormat
from zkmig.model.acl import WORLD, Identity
from zkmig.wire.credential import Credential

TREE = settled({"": Node(b""), "/a": Node(b"")})
ROLES = Roles((MY_IDENTITY,), (WORLD,))
EVE = Credential("digest", b"eve:drops")


@pytest.fixture
def lone_site(zk: Server, tree_root: str) -> Iterator[Site]:
    """A scope with a control plane of its own, which the test may change."""
    with Site(zk, tree_root, f"{tree_root}-control") as one:
        yield one


def init(site: Site, scope: str, root: str, allow_empty: bool = False) -> State:
    names = ControlPaths(scope, site.names.control)
    return init_scope(site.client(), names, root, ROLES, allow_empty=allow_empty).record.state


# -- where it begins --------------------------------------------------------------------------------------------------


def test_over_a_tree_it_is_stable_at_epoch_0(site: Site) -> None:
    record = site.init(TREE)
    assert (record.state, record.epoch, record.root) == (State.STABLE, 0, site.root)
    assert records.decode(site.kazoo.get(site.names.record)[0], "") == record
    assert site.kazoo.exists(site.names.incarnation(record.incarnation))


def test_over_nothing_or_a_childless_root_it_is_empty(site: Site) -> None:
    """A tree that is not there yet looks like a tree with nothing in it [zookeeper-facts 31]; only --allow-empty says
    that it is one."""
    site.kazoo.create(site.root)
    assert init(site, f"{site.names.scope}-1", site.root + "/absent") is State.EMPTY
    site.kazoo.create(site.root + "/childless")
    assert init(site, f"{site.names.scope}-2", site.root + "/childless") is State.EMPTY
    site.kazoo.create(site.root + "/meant")
    assert init(site, f"{site.names.scope}-3", site.root + "/meant", allow_empty=True) is State.STABLE


def test_missing_ancestors_of_the_root_are_created_and_the_root_is_not(site: Site) -> None:
    names = ControlPaths(site.names.scope)
    result = init_scope(site.client(), names, f"{site.root}/b/c", ROLES)
    assert result.ancestors == (site.root, f"{site.root}/b")
    assert site.kazoo.exists(f"{site.root}/b")
    assert not site.kazoo.exists(f"{site.root}/b/c")


def test_a_dry_run_creates_nothing(site: Site) -> None:
    site.kazoo.create(site.root)
    result = init_scope(site.client(), site.names, f"{site.root}/b/c", ROLES, dry_run=True)
    assert (result.record.state, result.ancestors) == (State.EMPTY, (f"{site.root}/b",))
    assert site.kazoo.get_children(site.root) == []
    assert not site.kazoo.exists(site.names.home)


def test_again_over_the_same_root_it_is_what_it_was(site: Site) -> None:
    record = site.init(TREE)
    again = init_scope(site.client(), site.names, site.root, ROLES)
    assert (again.created, again.record) == (False, record)
    with pytest.raises(Refused, match="covers"):
        init_scope(site.client(), site.names, site.root + "/a", ROLES)


@pytest.mark.parametrize("other", ["", "/a", "/a/b"])
def test_roots_never_overlap(site: Site, other: str) -> None:
    """Neither above nor below nor the same; a name that only begins alike is another root."""
    site.init(TREE)
    with pytest.raises(Refused, match="overlaps"):
        init(site, f"{site.names.scope}-2", site.root + other)
    assert init(site, f"{site.names.scope}-3", f"{site.root}-alike") is State.EMPTY


@pytest.mark.parametrize("root", ["/zkmig", "/zkmig/scopes/x", "/zookeeper/quota", "relative", "/a/"])
def test_a_scope_cannot_lie_everywhere(site: Site, root: str) -> None:
    with pytest.raises(BadInput):
        init(site, "anywhere", root)


@pytest.mark.parametrize("name", ["", "a/b", ".", "a b", "x" * 65, "-a"])
def test_names_that_no_scope_can_have(site: Site, name: str) -> None:
    with pytest.raises(BadInput, match="scope name"):
        init(site, name, site.root)


# -- finding it -------------------------------------------------------------------------------------------------------


def test_a_scope_is_found_by_name_or_by_what_it_covers(site: Site) -> None:
    site.init(TREE)
    client = site.client()
    assert find_scope(client, site.root + "/a/deep", None).scope == site.names.scope
    assert find_scope(client, site.root, site.names.scope).scope == site.names.scope
    for path, scope in ((site.root + "-alike", None), (site.root, "another"), ("/elsewhere", site.names.scope)):
        with pytest.raises(Refused):
            find_scope(client, path, scope)


def test_the_only_scope_needs_no_name(lone_site: Site) -> None:
    site, control = lone_site, lone_site.names.control
    with pytest.raises(Refused, match="no scope here"):
        only_scope(site.client(), None, control)
    site.init(TREE)
    assert only_scope(site.client(), None, control).scope == site.names.scope
    init(site, "second", f"{site.root}-second")
    with pytest.raises(BadInput, match="several scopes"):
        only_scope(site.client(), None, control)


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", b"[]", b'{"format": 9, "scopes": {}}', b'{"format": 1}', b'{"format": 1, "scopes": {"a": 1}}'],
)
def test_a_registry_that_is_none_is_refused(lone_site: Site, data: bytes) -> None:
    lone_site.init(TREE)
    lone_site.kazoo.set(lone_site.names.registry, data)
    with pytest.raises(UnknownFormat):
        read_registry(lone_site.client(), lone_site.names.control)
    with pytest.raises(UnknownFormat):
        init(lone_site, "second", f"{lone_site.root}-second")


def test_a_record_that_is_none_stops_everybody(site: Site) -> None:
    """Missing or unknown where one is needed: fail closed."""
    site.init(TREE)
    sealed = site.plan({**TREE, "/a": Node(b"2")})
    data, _ = site.kazoo.get(site.names.record)
    newer = json.loads(data or b"") | {"format": 2, "min_reader": 2}
    for broken in (b"", b"junk", json.dumps(newer).encode()):
        site.kazoo.set(site.names.record, broken)
        with pytest.raises(UnknownFormat):
            site.apply(sealed)
        with pytest.raises(UnknownFormat):
            site.resume(sealed)
        with pytest.raises(UnknownFormat):
            site.rollback()
    site.kazoo.delete(site.names.record)
    with pytest.raises(Refused, match="no scope"):
        site.apply(sealed)
    assert site.look()["/a"].data == b""


# -- whose it is ------------------------------------------------------------------------------------------------------


def test_readers_read_and_leave_nodes_of_their_own_and_touch_nothing_else(lone_site: Site) -> None:
    site = lone_site
    site.init(TREE)
    reader = site.open_kazoo(EVE)
    names = site.names
    assert reader.get(names.record)[0]
    for directory in (names.acting, names.guards, names.readers, names.budgets):
        reader.create(f"{directory}/eve", b"")
        with pytest.raises(NoAuthError):
            reader.delete(f"{directory}/eve")
        with pytest.raises(NoAuthError):
            reader.set(directory, b"")
    for path in (names.home, names.record, names.owner, names.epochs, names.registry):
        with pytest.raises(NoAuthError):
            reader.set(path, b"")
        with pytest.raises(NoAuthError):
            reader.create(f"{path}/eve")
    with pytest.raises(NoAuthError):
        reader.delete(names.incarnation(site.record().incarnation))


def test_who_is_not_the_admin_begins_nothing(site: Site) -> None:
    site.init(TREE)
    sealed = site.plan({**TREE, "/a": Node(b"2")})
    before = site.kazoo.get_children(site.names.home)
    with pytest.raises(NotPermitted):
        site.apply(sealed, client=site.client(EVE))
    assert site.kazoo.get_children(site.names.home) == before
    assert site.look()["/a"].data == b""


def test_whoever_runs_init_is_admin_and_nobody_else_if_there_are_credentials() -> None:
    """Of an address, which others share, nobody is made admin; without credentials it is open to all."""
    host = Identity("ip", "127.0.0.1")
    assert default_roles((MY_IDENTITY, host)) == Roles((MY_IDENTITY,), (WORLD,))
    assert default_roles((host,)) == Roles((WORLD,), (WORLD,))


def test_the_roles_are_read_back_from_the_acl_of_the_record() -> None:
    roles = Roles((MY_IDENTITY,), (WORLD,))
    assert Roles.of_record(roles.read_acl) == roles
    several = Roles((MY_IDENTITY, Identity("sasl", "ops")), (Identity("digest", "app:a"),))
    assert Roles.of_record(several.read_acl) == several
