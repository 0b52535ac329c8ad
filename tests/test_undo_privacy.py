"""On a real server, what an ACL protected is not to be had from the journal: not by other identities, not on the
migrator's own host, not where everybody is admin of the control plane.

Method: an epoch left open; kazoo as somebody else reads all of the journal that the server gives it.
"""

from __future__ import annotations

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError

from tests.interruptions import Interrupted, interrupt, when_said
from tests.scopes import ALICE, ALICES, ME, MINE, MINE_BUT_READABLE, MY_IDENTITY, Site, assert_is, settled
from tests.trees import Node, Tree
from zkmig.apply.forward import Options
from zkmig.epoch.control import Roles
from zkmig.epoch.owner import Migrator
from zkmig.epoch.transitions import State
from zkmig.errors import NotPermitted
from zkmig.model.acl import ALL, READ, WORLD, Acl
from zkmig.wire.credential import Credential

EVE = Credential("digest", b"eve:drops")
OURS = (*ALICES, Acl(ALL, *MY_IDENTITY))
BEFORE: Tree = settled(
    {
        "": Node(b"public"),
        "/mine": Node(b"secret of mine", MINE),
        "/mine/hidden-name": Node(b"secret below mine", MINE),
        "/ours": Node(b"secret of ours", OURS),
        "/shown": Node(b"shown to all", MINE_BUT_READABLE),
        "/shown/deleted": Node(b"shown and deleted", MINE_BUT_READABLE),
        "/mine/deleted": Node(b"secret and deleted", MINE),
    }
)
AFTER: Tree = settled(
    {
        "": Node(b"public 2"),
        "/mine": Node(b"2", MINE),
        "/mine/hidden-name": Node(b"2", MINE),
        "/mine/new-hidden-name": Node(b"2", MINE),
        "/ours": Node(b"2", ALICES + MINE_BUT_READABLE),
        "/shown": Node(b"2", MINE),
    }
)
SECRETS = (b"secret", b"hidden-name", b"/mine/deleted")
ROLES = {
    "the migrator is admin": Roles((MY_IDENTITY,), (WORLD,)),
    "everybody is admin": Roles((WORLD,), (WORLD,)),
}


def leave_open(site: Site, roles: Roles, *auth: Credential) -> None:
    """At the moment between the journal's upload and the first write, when undo is all that there is."""
    site.init(BEFORE, roles)
    client = site.client(*(auth or (ME,)))
    sealed = site.plan(AFTER, client=client)
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client, options=Options("never", say=when_said("draining", interrupt)))


def all_readable(kazoo: KazooClient, path: str) -> dict[str, bytes]:
    """Whatever the server gives of the subtree."""
    try:
        found = {path: kazoo.get(path)[0] or b""}
        names = kazoo.get_children(path)
    except NoAuthError:
        return {}
    for name in names:
        found |= all_readable(kazoo, f"{path}/{name}")
    return found


@pytest.mark.parametrize("roles", ROLES.values(), ids=ROLES)
@pytest.mark.parametrize("who", [(), (EVE,)], ids=["nobody", "eve"])
def test_others_find_nothing_that_was_kept_from_them(site: Site, roles: Roles, who: tuple[Credential, ...]) -> None:
    """They are on the migrator's own host, too: its address lets them in nowhere."""
    leave_open(site, roles)
    others = site.open_kazoo(*who)
    seen = b"\n".join(all_readable(others, site.names.home).values())
    assert b"shown to all" in seen
    assert b"shown and deleted" in seen
    for secret in SECRETS:
        assert secret not in seen
    assert MY_IDENTITY.id.encode() not in seen  # hashes that getACL masks


@pytest.mark.parametrize("roles", ROLES.values(), ids=ROLES)
def test_who_was_let_in_finds_what_was_shown_to_her(site: Site, roles: Roles) -> None:
    """Alice reads the pre-image of what was open to her, and of nothing else."""
    leave_open(site, roles)
    seen = b"\n".join(all_readable(site.open_kazoo(ALICE), site.names.home).values())
    assert b"secret of ours" in seen
    assert b"secret of mine" not in seen


def test_a_migrator_without_credentials_still_protects_what_it_was_let_into(site: Site) -> None:
    """It is let in by its address: so are others of the host, but nobody else."""
    by_address = (Acl(ALL, "ip", "127.0.0.1"),)
    tree = settled({"": Node(b""), "/local": Node(b"local secret", by_address)})
    site.init(tree, ROLES["everybody is admin"])
    client = site.client(EVE)
    sealed = site.plan({**tree, "/local": Node(b"2", by_address)}, client=client)
    with pytest.raises(Interrupted):
        site.apply(sealed, client=client, options=Options("never", say=when_said("draining", interrupt)))
    record = site.record()
    undo = site.names.attempt(record.epoch + 1, str(record.attempt)).undo
    for name in site.kazoo.get_children(undo):
        data, _ = site.kazoo.get(f"{undo}/{name}")
        acl, _ = site.kazoo.get_acls(f"{undo}/{name}")
        if b"local secret" in (data or b""):
            assert [(entry.id.scheme, entry.id.id) for entry in acl] == [("ip", "127.0.0.1")]
            break
    else:
        raise AssertionError("the pre-image is nowhere")


def test_the_migrator_itself_can_take_back_where_everybody_is_admin(site: Site) -> None:
    leave_open(site, ROLES["everybody is admin"])
    site.rollback()
    assert_is(site.look(), BEFORE)


def test_what_could_not_be_brought_back_as_it_was_is_not_deleted(site: Site) -> None:
    """A plan made by who sees the whole ACL, applied by who is shown masked ids: undo would store those as they are."""
    site.init(settled({"": Node(b""), "/x": Node(b"", MINE_BUT_READABLE)}), ROLES["everybody is admin"])
    sealed = site.plan({"": Node(b"")})
    with pytest.raises(NotPermitted, match="could not be brought back"):
        site.apply(sealed, client=site.client(EVE))
    assert site.record().state is State.STABLE
    site.apply(sealed)
    assert_is(site.look(), {"": Node(b"")})


def test_a_created_node_whose_acl_is_shown_masked_is_no_conflict(site: Site) -> None:
    """READ for all, ADMIN for somebody else: verification must not take the mask for a foreign ACL."""
    acl = (Acl(1, *WORLD), *ALICES)
    tree = settled({"": Node(b""), "/a": Node(b""), "/a/b": Node(b"", acl)})
    site.init({"": Node(b""), "/a": Node(b"")})
    site.apply(site.plan(tree))
    assert_is(site.look(), tree)


# -- beside undo ------------------------------------------------------------------------------------------------------


def test_what_a_rollback_leaves_behind_names_no_hidden_node_to_others(site: Site) -> None:
    """Deviations list paths, also below what others may not look into: they are for admins. What is below a protected
    node is not in the child list that others get, nor in the journal, nor beside it."""
    site.init(BEFORE, ROLES["the migrator is admin"])
    sealed = site.plan(AFTER)
    site.leave_open(sealed, len(sealed.plan.batch_ends))
    for relative in ("/mine/hidden-name", "/mine/new-hidden-name", "/mine"):
        site.kazoo.set(site.path(relative), b"secret of theirs")
    result = site.rollback()
    assert {deviation.path for deviation in result.deviations} >= {site.path("/mine/hidden-name")}
    for who in ((), (EVE,), (ALICE,)):
        seen = all_readable(site.open_kazoo(*who), site.names.home)
        everything = b"\n".join([*seen.values(), *(path.encode() for path in seen)])
        for secret in SECRETS:
            assert secret not in everything.replace(b"secret of ours", b""), who
    ours = all_readable(site.open_kazoo(ME), site.names.home)
    assert any("/deviation-" in path and b"hidden-name" in data for path, data in ours.items())


def test_without_that_they_would_be_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with the ACL that the rest of the control plane has."""
    monkeypatch.setattr(Migrator, "private_acl", property(lambda self: self.control_acl))
    with pytest.raises(AssertionError):
        test_what_a_rollback_leaves_behind_names_no_hidden_node_to_others(site)


@pytest.mark.parametrize("roles", ROLES.values(), ids=ROLES)
def test_chunks_are_never_wider_than_the_nodes_in_them(site: Site, roles: Roles) -> None:
    """Chunk by chunk: whoever may read one could read every node in it, and see every created name in its parent's
    child list, before the epoch; parents that are only touched included."""
    leave_open(site, roles)
    record = site.record()
    undo = site.names.attempt(1, str(record.attempt)).undo
    mine = site.open_kazoo(ME)
    readable = {
        site.path(path): {(a.scheme, a.id) for a in node.acl if a.perms & READ} for path, node in BEFORE.items()
    }
    admins = {tuple(identity) for identity in roles.admin} | {tuple(MY_IDENTITY)}
    seen = set()
    for name in mine.get_children(undo):
        data, _ = mine.get(f"{undo}/{name}")
        acl, _ = mine.get_acls(f"{undo}/{name}")
        who = {(entry.id.scheme, entry.id.id) for entry in acl if entry.perms & READ} - admins
        for path, may in readable.items():
            if path != site.root and path.encode() in (data or b""):
                seen.add(path)
                parents = readable[path.rpartition("/")[0]]
                wide = {("world", "anyone")}
                assert not who or wide <= may or who <= may or wide <= parents or who <= parents, (path, who)
    assert seen >= {site.path("/mine"), site.path("/ours"), site.path("/mine/hidden-name")}
