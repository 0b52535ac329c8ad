"""Plans whose order references and groups make: what they hold, and that servers and the journal take them.

Method: plans between made-up trees without a server; the same carried out on a real one in batches of two operations,
stopped after each of them, led on and back by others, seen by kazoo and by a reader. What the order has to fulfil at
each boundary is tests/test_batch_boundaries.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import networkx as nx
import pytest
from kazoo.exceptions import NoAuthError

import zkmig
from tests.conftest import KazooClientFactory
from tests.migrator_process import kill, migrator_at
from tests.scopes import ME, MINE, MINE_BUT_READABLE, MY_IDENTITY, Image, Site, assert_is, assert_went_back, settled
from tests.trees import Node, Tree, snapshot_of
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Applied, Options
from zkmig.dev import Server
from zkmig.epoch.owner import TakeOver
from zkmig.model.znode import Kind
from zkmig.plan import planfile
from zkmig.plan.batches import BlockTooLarge, NodeTooLarge
from zkmig.plan.creates import Creates, Operations
from zkmig.plan.dependency import Ties, order
from zkmig.plan.make import make_plan
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan
from zkmig.plan.preflight import warnings_of
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.policy import Policy
from zkmig.policy.rules import MinChildren, NeverEmpty, Reference, Rules, Together

TWO = Limits(batch_ops_max=2)


def reference(root: str, name: str, source: str, target: str, json_path: str | None = None) -> Reference:
    pattern = CapturePattern.parse(root + source)
    return Reference(name, pattern, Template.parse(root + target, pattern.names), json_path)


def together(root: str, name: str, *patterns: str) -> Together:
    return Together(name, tuple(CapturePattern.parse(root + each) for each in patterns))


def policy(root: str) -> Policy:
    """Services name pools, pools name hosts and one another; a service's entries change at once."""
    return Policy(
        rules=Rules(
            references=(
                reference(root, "active", "/services/{svc}/active", "/pools/{value}"),
                reference(root, "hosts", "/pools/{pool}", "/hosts/{value}", "$.hosts[*]"),
                reference(root, "peers", "/pools/{pool}", "/pools/{value}", "$.peers[*]"),
            ),
            guardrails=(
                NeverEmpty("pools", CapturePattern.parse(f"{root}/pools")),
                MinChildren("replicas", CapturePattern.parse(f"{root}/hosts/*"), 2),
            ),
            together=(together(root, "service", "/services/{svc}/active", "/services/{svc}/conf"),),
        )
    )


def pool(hosts: str, peers: str = "") -> Node:
    return Node(json.dumps({"hosts": hosts.split(), "peers": peers.split()}).encode())


def hosts(*names: str) -> Tree:
    return {path: Node() for name in names for path in (f"/hosts/{name}", f"/hosts/{name}/r1", f"/hosts/{name}/r2")}


BEFORE: Tree = settled(
    {
        "": Node(),
        "/hosts": Node(counter=3),
        **hosts("a", "b"),
        "/pools": Node(),
        "/pools/old": pool("a b"),
        "/services": Node(),
        "/services/web": Node(),
        "/services/web/active": Node(b"old"),
    }
)
# The pools name one another, so that they come at once; the service's new entry, with all that lies below it, has to
# wait for the write of the other.
AFTER: Tree = settled(
    {
        "": Node(),
        "/hosts": Node(counter=6),
        **hosts("b", "c", "d"),
        "/pools": Node(),
        "/pools/new": pool("b c", "newer"),
        "/pools/newer": pool("c d", "new"),
        "/services": Node(),
        "/services/web": Node(),
        "/services/web/active": Node(b"new"),
        "/services/web/conf": Node(b"", counter=3),
        "/services/web/conf/hers": Node(b"", MINE, counter=2),
        "/services/web/conf/hers/secret": Node(None, MINE),
        "/services/web/conf/open": Node(b"", MINE_BUT_READABLE),
        "/services/zzz": Node(b"untied"),
    }
)


def make(before: Tree, after: Tree, rules: Rules, limits: Limits = TWO) -> Plan:
    return make_plan(snapshot_of(after), snapshot_of(before), policy=Policy(rules=rules), limits=limits)


def planned(declared: Policy) -> Plan:
    """From BEFORE to AFTER."""
    before, after = snapshot_of(BEFORE), snapshot_of(AFTER)
    return make_plan(after, before, policy=declared, limits=TWO, identities=[MY_IDENTITY])


def line(operation: Operation) -> str:
    verb = {CreateNode: "+", WriteData: "=", DeleteNode: "-", RaiseCounter: "^"}[type(operation)]
    return verb + operation.path.removeprefix("/app")


def lines(plan: Plan) -> list[list[str]]:
    return [[line(operation) for operation in batch] for batch in plan.batches()]


# -- without a server -------------------------------------------------------------------------------------------------


def test_a_plan_as_it_is_read() -> None:
    """Referents first, circles and groups at once though a batch holds two; what needs the service's new entry comes
    behind the write that it goes with; what nothing ties stays where it stood."""
    plan = make_plan(
        snapshot_of(AFTER), snapshot_of(BEFORE), policy=policy("/app"), limits=TWO, identities=[MY_IDENTITY]
    )
    assert lines(plan) == [
        ["+/hosts/c", "+/hosts/c/r1", "+/hosts/c/r2"],
        ["+/hosts/d", "+/hosts/d/r1", "+/hosts/d/r2"],
        ["+/pools/new", "+/pools/newer"],
        ["+/services/zzz"],
        ["+/services/web/conf", "=/services/web/active"],
        ["+/services/web/conf/hers", "+/services/web/conf/hers/secret"],
        ["+/services/web/conf/open"],
        ["^/hosts"],
        ["^/services/web/conf"],
        ["^/services/web/conf/hers"],
        ["-/pools/old"],
        ["-/hosts/a/r2", "-/hosts/a/r1", "-/hosts/a"],
    ]


def test_a_plan_without_ties_is_in_the_usual_order() -> None:
    """The operations are the same ones, whatever their order; rules that tie nothing change nothing."""
    plain = planned(Policy())
    idle = Rules(references=(reference("/app", "none", "/nobody/{x}", "/pools/{value}"),))
    tied = planned(policy("/app"))
    assert planned(Policy(rules=idle)).operations == plain.operations
    assert list(tied.operations) != list(plain.operations)
    assert sorted(map(line, tied.operations)) == sorted(map(line, plain.operations))


def test_the_graph_holds_only_what_is_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand hosts come and two are named: the graph has the two, and who names them; a parent that must not run
    short adds one point."""
    sizes: list[int] = []
    sort = nx.topological_sort

    def counting(graph: nx.DiGraph[int]) -> Iterator[int]:
        sizes.append(len(graph))
        return sort(graph)

    monkeypatch.setattr(nx, "topological_sort", counting)
    many = {f"/hosts/{number:05}": Node() for number in range(10_000)}
    before: Tree = {"": Node(), "/hosts": Node(), "/hosts/x": Node(), "/a": pool("x")}
    after: Tree = {"": Node(), "/hosts": Node(), "/a": pool("00003 09999"), **many}
    rules = Rules(references=(reference("/app", "a", "/a", "/hosts/{value}", "$.hosts[*]"),))
    make(before, after, rules)
    assert sizes == []  # the usual order is right
    more = Rules((*rules.references, reference("/app", "b", "/b", "/hosts/{value}", "$.hosts[*]")))
    make(before, {**after, "/b": pool("00007")}, more)
    assert sizes == [6]  # x, 00003, 00007, 09999, /a, /b


def test_members_are_kept_with_what_lies_between_them() -> None:
    """A group of a node and one three levels below it takes along what lies between; deletes likewise."""
    tree: Tree = {"": Node(), "/t": Node(), "/t/u": Node(), "/t/u/v": Node(), "/t/u/v/w": Node(), "/t/u/x": Node()}
    rules = Rules(together=(together("/app", "both", "/t", "/t/u/v/w"),))
    assert lines(make({"": Node()}, tree, rules)) == [["+/t", "+/t/u", "+/t/u/v", "+/t/u/v/w"], ["+/t/u/x"]]
    assert lines(make(tree, {"": Node()}, rules)) == [["-/t/u/x"], ["-/t/u/v/w", "-/t/u/v", "-/t/u", "-/t"]]


def test_ties_to_what_does_not_change_are_none() -> None:
    """Nor is one of a path to itself."""
    creates = Creates.of([CreateNode("/a", b"", ()), CreateNode("/b", b"", ())])
    ties = Ties(before=(("/b", "/b"), ("/b", "/gone"), ("/b", "/a")))
    ordered = order(creates, creates.parents(), (), ties)
    assert list(ordered.creates or ()) == [1, 0]
    assert ordered.blocks == ()


def test_creates_in_any_order_know_their_parents() -> None:
    nodes = [CreateNode(path, b"", ()) for path in ("/b", "/b/c-d", "/a", "/b/c", "/a/x", "/b/c/y", "/z/q")]
    assert list(Creates.of(nodes).parents()) == [-1, 0, -1, 0, 2, 3, -1]


def test_all_creates_are_looked_at_before_the_first_write() -> None:
    """A container that comes late and has a child is not empty; one without is warned of, and so is a short life."""
    nodes = (
        CreateNode("/app/late", b"", (), Kind.CONTAINER),
        CreateNode("/app/late/child", b"", (), Kind.TTL, 1),
        CreateNode("/app/empty", None, (), Kind.CONTAINER),
    )
    operations = Operations(
        Creates.of([CreateNode("/app", b"x", MINE)]), (WriteData("/w", b"", Pin(1, 2, 3), 0), *nodes)
    )
    assert list(operations.all_creates()) == [operations.creates[0], *nodes]
    assert Operations(operations.creates).all_creates() is operations.creates
    plan = dataclasses.replace(planned(Policy()), operations=operations)
    assert [(each.code, each.path) for each in warnings_of(plan, ())] == [
        ("container_empty", "/app/empty"),
        ("ttl_short", "/app/late/child"),
    ]


# -- more than a frame ------------------------------------------------------------------------------------------------

GROUPED = Rules(together=(together("/app", "whole set", "/set/*", "/other"),))


def grown(count: int, size: int) -> Tree:
    return {"": Node(), "/set": Node(), **{f"/set/{number:02}": Node(bytes(size + number)) for number in range(count)}}


@pytest.mark.parametrize("how", ["created", "written", "deleted"])
def test_what_no_transaction_can_hold_is_refused_by_name(how: str) -> None:
    """The error names the rule, the members with their bytes, the heaviest first, and what a frame takes. Deletes weigh
    what it takes to bring them back."""
    small, large = grown(8, 0), grown(8, 100_000)
    before, after = {
        "created": (grown(0, 0), large),
        "written": (small, large),
        "deleted": (large, grown(0, 0)),
    }[how]
    limits = Limits(frame_bytes_max=500_000)
    with pytest.raises(BlockTooLarge, match=r"8 changes have to be one transaction \(whole set\) of 80\d{4} bytes, the "
                       r"servers take 500000") as caught:  # fmt: skip
        make(before, after, GROUPED, limits)
    assert re.match(r"/app/set/07 \(100\d{3} bytes\), /app/set/06 ", caught.value.where)
    assert caught.value.where.endswith("and 3 more")
    assert [note.split()[1] for note in caught.value.__notes__] == ["/app/set/02", "/app/set/01", "/app/set/00"]
    assert len(make(before, after, GROUPED, Limits(frame_bytes_max=caught.value.frame_bytes)).batch_ends) >= 1
    with pytest.raises(BlockTooLarge):
        make(before, after, GROUPED, Limits(frame_bytes_max=caught.value.frame_bytes - 1))


def test_all_that_is_too_large_is_named_at_once() -> None:
    """Blocks and nodes; the heaviest decides what the servers are asked about."""
    after = {**grown(8, 100_000), "/huge": Node(bytes(600_000))}
    with pytest.raises(BlockTooLarge) as caught:
        make(grown(0, 0), after, GROUPED, Limits(frame_bytes_max=500_000))
    assert any("/app/huge: this node needs" in note for note in caught.value.__notes__)
    with pytest.raises(NodeTooLarge) as other:
        make(grown(0, 0), {**after, "/huge": Node(bytes(900_000))}, GROUPED, Limits(frame_bytes_max=500_000))
    assert any("whole set" in note for note in other.value.__notes__)


@pytest.mark.parametrize(("limit_bytes", "set_bytes"), [(200_000, 400_000), (3_000_000, 1_600_000)])
def test_the_servers_are_asked_what_they_take(
    tree_root: str, kazoo_client: KazooClientFactory, limit_bytes: int, set_bytes: int
) -> None:
    """A server that takes less than usual: refused, with what it does take. One that takes more: planned, applied."""
    with Server(jute_maxbuffer=limit_bytes) as server:
        kazoo_client(server).create(tree_root)
        here = f"zk://{server.hosts}{tree_root}"
        zkmig.init(here, "big")
        source = snapshot_of(grown(8, set_bytes // 8), tree_root)
        rules = Rules(together=(together(tree_root, "whole set", "/set/*", "/other"),))
        if limit_bytes < set_bytes:
            with pytest.raises(BlockTooLarge, match=f"whole set.* the servers take {limit_bytes}"):
                zkmig.make_plan(source, here, policy=Policy(rules=rules))
            assert zkmig.apply(zkmig.make_plan(source, here), epoch=1, single_shot="never").batches > 4
            return
        plan = zkmig.make_plan(source, here, policy=Policy(rules=rules))
        zkmig.apply(plan, epoch=1, single_shot="never")
        assert zkmig.read(here).tree_hash == source.tree_hash


# -- on a server ------------------------------------------------------------------------------------------------------


def dangling(image: Image) -> list[str]:
    """Names that lead nowhere, as kazoo sees the tree."""
    found = []
    for path, seen in image.items():
        if path.startswith("/pools/"):
            named = json.loads(seen.data or b"")
            found += [f"/hosts/{name}" for name in named["hosts"]] + [f"/pools/{name}" for name in named["peers"]]
        elif path.endswith("/active"):
            found.append(f"/pools/{(seen.data or b'').decode()}")
    return [path for path in found if path not in image]


def test_at_every_boundary_it_leads_back_and_on(site: Site) -> None:
    """Stopped after each batch: no name leads nowhere, a reader sees the old tree; rolled back, or resumed, others find
    exactly the old or the new tree. The rules are those of the plan all along."""
    site.init(BEFORE)
    first, epoch = site.look(), 1
    for batches in range(10):
        for leads_on in (False, True):
            sealed = site.plan(AFTER, limits=TWO, policy=policy(site.root))
            assert 9 <= len(sealed.plan.batch_ends) <= 12  # counters need not be raised twice
            site.leave_open(sealed, batches, epoch)
            image = site.look()
            assert dangling(image) == []
            assert {f"/hosts/{name}" for name in ("a", "b", "c", "d")} & image.keys() <= {
                path.removesuffix("/r2") for path in image if path.endswith("/r2")
            }
            assert ("/services/web/conf" in image) == (image["/services/web/active"].data == b"new")
            with zkmig.Reader(site.server.hosts, site.names.scope, auth=[ME]) as reader:
                assert {path.removeprefix(site.root) for path in reader.view()} == first.keys()
            if not leads_on:
                site.rollback()
                assert_went_back(first, site.look())
                continue
            assert isinstance(site.resume(sealed), Applied)
            assert_is(site.look(), AFTER)
            epoch += 1
            site.apply(site.plan(BEFORE, limits=TWO, policy=policy(site.root)), epoch)
            assert_is(site.look(), {path: node._replace(counter=0) for path, node in BEFORE.items()})
            epoch += 1


def test_a_killed_migrator_is_followed_by_its_plan_file(site: Site, tmp_path: Path) -> None:
    """The file keeps order, batches and rules; SIGKILL in the midst of the batches, then resume by that file; then the
    epoch is taken back."""
    site.init(BEFORE)
    before = site.look()
    sealed = site.plan(AFTER, limits=TWO, policy=policy(site.root))
    file = tmp_path / "p.zkplan"
    planfile.write(sealed.plan, str(file))
    again, seal = planfile.read(str(file))
    assert (seal, again.batch_ends, again.soundness) == (sealed.hash, sealed.plan.batch_ends, sealed.plan.soundness)
    assert again.operations == sealed.plan.operations
    with migrator_at(site, "apply", "write", 5, file) as process:
        kill(process)
    assert isinstance(site.resume(SealedPlan(again, seal), how=TakeOver(steal=True)), Applied)
    assert_is(site.look(), AFTER)
    zkmig.revert(f"zk://{site.server.hosts}", 1, site.names.scope, auth=[ME], plan_file=str(tmp_path / "back.zkplan"))
    assert_went_back(before, site.look())


def test_in_a_single_shot(site: Site) -> None:
    """All in one transaction, where the order does not matter and still is one that the server takes."""
    site.init(BEFORE)
    result = site.apply(site.plan(AFTER, limits=TWO, policy=policy(site.root)), options=Options(single_shot="require"))
    assert result.single_shot
    assert_is(site.look(), AFTER)


def test_a_late_create_that_others_have_made_is_stale(site: Site) -> None:
    """What comes behind a write is looked at before the first write like all that is created."""
    site.init(BEFORE)
    sealed = site.plan(AFTER, limits=TWO, policy=policy(site.root))
    site.kazoo.create(site.path("/services/web/conf"), b"somebody else's")
    with pytest.raises(zkmig.StalePlan, match="/services/web/conf"):
        site.apply(sealed)
    assert site.record().epoch == 0


def test_names_below_a_late_create_are_as_private_as_it(site: Site) -> None:
    """Of what the journal keeps, somebody without credentials reads the names below open nodes, and not those below a
    node that only its owner may read, though both come behind a write."""
    site.init(BEFORE)
    site.leave_open(site.plan(AFTER, limits=TWO, policy=policy(site.root)), 3)
    stranger = site.open_kazoo()
    seen = b""
    waiting = [site.names.home]
    while waiting:
        place = waiting.pop()
        try:
            seen += stranger.get(place)[0] or b""
            waiting += [f"{place}/{name}" for name in stranger.get_children(place)]
        except NoAuthError:
            continue
    assert b"/services/web/conf/hers" in seen
    assert b"/services/web/conf/hers/secret" not in seen


@pytest.mark.parametrize("backend", ["python", "cython"])
def test_both_backends_give_the_same_plan(backend: str) -> None:
    """Permuted creates among it, by the hash that names the plan."""
    if backend == "cython" and find_spec("zkmig._fast.order") is None:
        pytest.skip("compiled modules were not built")
    code = (
        "from tests.test_dependency import planfile, planned, policy; from zkmig import backend\n"
        "print(backend.name(), planfile.plan_hash(planned(policy('/app'))))"
    )
    environ = {**os.environ, "ZKMIG_BACKEND": backend}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [backend, planfile.plan_hash(planned(policy("/app")))]
