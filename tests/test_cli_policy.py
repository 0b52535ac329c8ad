"""What an operator declares on the command line is what arrives, and what is left out is said.

Method: the real program on two real servers, whole migrations; kazoo looks at what came of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kazoo.client import KazooClient
from kazoo.security import ACL, Id, make_digest_acl

from tests.conftest import KazooClientFactory, ServerPair
from tests.program import Program, Ran, location
from zkmig.model.acl import digest_id

AUTH = {"ZKMIG_AUTH": "digest:me:hunter2"}
LOCKED = [make_digest_acl("alice", "wonder", all=True)]


class Places:
    """A root on two servers, and clients of them."""

    def __init__(self, pair: ServerPair, root: str, connect: KazooClientFactory, program: Program) -> None:
        self.root = root
        self.ours, self.theirs = connect(pair.source), connect(pair.target)
        self.source, self.target = location(pair.source.hosts, root), location(pair.target.hosts, root)
        self._program = program

    def grow(self, client: KazooClient, *relatives: str, data: bytes = b"x") -> None:
        for relative in relatives:
            client.create(self.root + relative, data, makepath=True)

    def run(self, *arguments: object) -> Ran:
        return self._program(*arguments, env=AUTH)

    def plan(self, *options: object, force: bool = False) -> Ran:
        return self.run(
            "plan", "--from", self.source, "--to", self.target, "-o", "p.zkplan", "--json",
            *(["--force"] if force else []), *options,
        )  # fmt: skip

    def below(self, client: KazooClient) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        stack = [self.root]
        while stack:
            path = stack.pop()
            found[path[len(self.root) :]] = client.get(path)[0]
            stack += [f"{path}/{name}" for name in client.get_children(path)]
        return found


@pytest.fixture
def places(zk_pair: ServerPair, tree_root: str, kazoo_client: KazooClientFactory, program: Program) -> Places:
    return Places(zk_pair, tree_root, kazoo_client, program)


def test_only_what_is_included_is_read_compared_and_written(places: Places) -> None:
    """Beside it lies what this session may not even read, on both sides; above it a node with data of its own."""
    root = places.root
    places.grow(places.ours, "/teams/web/a", "/teams/web/b", "/other/x", data=b"new")
    places.grow(places.theirs, "/teams/web/a", "/teams/web/old", "/mine", data=b"own")
    places.theirs.set(f"{root}/teams", b"the target's own")
    for client in (places.ours, places.theirs):
        client.create(f"{root}/teams/secret", b"", acl=LOCKED)
    include = ("--include", f"{root}/teams/web")
    places.run("diff", places.source, places.target).failed(6, "secret")
    ran = places.run("diff", places.source, places.target, *include, "--json")
    assert ran.code == 1
    assert {(each["change"], each["path"]) for each in ran.document["changes"]} == {
        ("data", "/teams/web/a"), ("add", "/teams/web/b"), ("delete", "/teams/web/old"),
    }  # fmt: skip
    assert ran.document["not_carried"]["included"] == [f"{root}/teams/web"]

    assert places.run("snapshot", places.source, *include, "-o", "part.zks").code == 0
    places.run("init", places.target, "--scope", root[1:]).succeeded()
    # The file alone says what is meant.
    places.run("plan", "--from", "part.zks", "--to", places.target, "-o", "p.zkplan").succeeded()
    places.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    assert places.run("verify", places.source, places.target, *include).code == 0
    assert places.run("verify", "part.zks", places.target).code == 0
    places.theirs.add_auth("digest", "alice:wonder")
    assert places.below(places.theirs) == {
        "": b"", "/mine": b"own", "/teams": b"the target's own", "/teams/secret": b"",
        "/teams/web": b"", "/teams/web/a": b"new", "/teams/web/b": b"new",
    }  # fmt: skip


def test_a_tree_arrives_elsewhere_under_other_names(places: Places) -> None:
    """Paths, identities, kinds and quotas at once; the report says what was declared and what was left out."""
    root = places.root
    places.grow(places.ours, "/app/x", "/app/locks/one", "/stays", data=b"d")
    bob = make_digest_acl("bob", "b", read=True)
    places.ours.set_acls(f"{root}/app/x", [bob, ACL(31, Id("world", "anyone"))])
    places.ours.create(f"{root}/leader", b"", ephemeral=True)
    for path, text in ((f"{root}/app", b"count=100,bytes=-1"), (root, b"count=-1,bytes=5000")):
        place = f"/zookeeper/quota{path}"
        places.ours.ensure_path(place)
        places.ours.create(f"{place}/zookeeper_limits", text)
        places.ours.create(f"{place}/zookeeper_stats", b"count=0,bytes=0")
    places.run("init", places.target, "--scope", root[1:], "--allow-empty").succeeded()
    declared = (
        "--map-path", f"{root}/app=/{root[1:]}/moved/here",
        "--map-acl", f"digest:{digest_id('bob', 'b')}=digest:me",
        "--kind", f"container:{root}/app/locks", "--kind", f"ttl=90000000:{root}/none/**",
    )  # fmt: skip
    without = places.plan(*declared).succeeded().document
    assert without["not_carried"]["quotas"] == [root, f"{root}/app"]
    made = places.plan(*declared, "--quotas", force=True).succeeded().document
    assert made["preflight"] == []
    assert made["quotas"] == [
        {"path": root, "limits": "count=-1,bytes=5000"}, {"path": f"{root}/moved/here", "limits": "count=100,bytes=-1"},
    ]  # fmt: skip
    left = made["not_carried"]
    assert (left["ephemerals"], left["ephemerals_first"]) == (1, [f"{root}/leader"])
    assert (left["kinds_known"], left["quotas"]) == (False, [])
    assert [use["nodes"] for use in left["kinds"]] == [1, 0]
    assert "czxid" in left["never"]
    assert any("no node of the source matches --kind" in note for note in made["notes"])

    assert "; 2 quotas set\n" in places.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded().stdout
    assert places.below(places.theirs) == {
        "": b"", "/stays": b"d", "/moved": b"", "/moved/here": b"", "/moved/here/x": b"d",
        "/moved/here/locks": b"", "/moved/here/locks/one": b"d",
    }  # fmt: skip
    me = ACL(1, Id("digest", digest_id("me", "hunter2")))
    assert places.theirs.get_acls(f"{root}/moved/here/x")[0] == [me, ACL(31, Id("world", "anyone"))]
    assert places.theirs.get(f"/zookeeper/quota{root}/moved/here/zookeeper_limits")[0] == b"count=100,bytes=-1"
    mapped = declared[:4]
    assert places.run("verify", places.source, places.target, *mapped).code == 0
    assert places.run("verify", places.source, places.target).code == 1


def test_acls_that_were_set_are_told_beside_the_writes(places: Places) -> None:
    """An epoch that sets ACLs alone has not done nothing, for people and for --json."""
    root = places.root
    for client in (places.ours, places.theirs):
        places.grow(client, "/a", "/b")
    places.run("init", places.target, "--scope", root[1:]).succeeded()
    more = [ACL(31, Id("world", "anyone")), make_digest_acl("bob", "b", read=True)]
    for name in ("a", "b"):
        places.ours.set_acls(f"{root}/{name}", more)
    places.plan().succeeded()
    told = places.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded().stdout
    assert told.startswith("epoch 1 is committed: 0 writes in one transaction; 2 ACLs set\n")
    places.ours.set_acls(f"{root}/a", more[:1])
    places.plan(force=True).succeeded()
    document = places.run("apply", "--epoch", 2, "p.zkplan", "--yes", "--json").succeeded().document
    assert (document["writes"], document["acls_set"], document["quotas_set"]) == (0, 1, 0)


def test_what_the_target_will_refuse_is_said_by_plan_and_refused_by_apply(places: Places) -> None:
    root = places.root
    places.grow(places.ours, "/a")
    places.ours.set_acls(f"{root}/a", [ACL(31, Id("world", "anyone")), ACL(1, Id("ip", "10.0.0.1"))])
    places.grow(places.theirs, "")
    places.run("init", places.target, "--scope", root[1:], "--allow-empty").succeeded()
    mapped = ("--map-acl", "ip:10.0.0.1=sasl:bob")
    ran = places.plan(*mapped).succeeded()
    (finding,) = ran.document["preflight"]
    assert (finding["code"], finding["path"], finding["is_fatal"]) == ("scheme", f"{root}/a", True)
    assert "apply will refuse" in ran.stderr
    for options in (("--dry-run",), ("--yes",)):
        places.run("apply", "--epoch", 1, "p.zkplan", *options).failed(2, "sasl", f"{root}/a", "--map-acl")
    assert places.theirs.get_children(root) == []


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--include", lambda root: f"{root}/nothing", "included"),
        ("--include", lambda _: "relative", "absolute"),
        ("--map-path", lambda root: f"{root}/gone={root}/x", "no such node"),
        ("--map-path", lambda root: f"{root}/a", "one ="),
        ("--map-acl", lambda _: "digest:me:hunter2=digest:me", "hash"),
        ("--map-acl", lambda _: "sasl:a=world:anyone", "everybody"),
        ("--drop-acl", lambda _: "world:anyone", "empty"),
        ("--kind", lambda _: "ttl=0:/x", "time to live"),
        ("--kind", lambda _: "ephemeral:/x", "rule"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    places: Places, option: str, value: Callable[[str], str], word: str
) -> None:
    places.grow(places.ours, "/a")
    places.grow(places.theirs, "")
    line = places.plan(option, value(places.root)).failed(2, word)
    assert "hunter2" not in line


def test_quotas_of_a_file_are_not_made_up(places: Places) -> None:
    places.grow(places.ours, "/a")
    places.grow(places.theirs, "")
    places.run("snapshot", places.source, "-o", "a.zks").succeeded()
    places.run("plan", "--from", "a.zks", "--to", places.target, "-o", "p.zkplan", "--quotas").failed(2, "live source")
