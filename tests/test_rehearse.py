"""A rehearsal proves what it says, on a real server, and says it of nothing else.

Method: plans of every sort rehearsed from live targets and from snapshots; then the same with somebody who tampers with
the throw-away tree behind each stage, which has to be named with its first path. The target itself is never written.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.security import ACL, Id

import zkmig
from tests.interruptions import at
from tests.program import location
from tests.rehearsed import SMALL, SMALL_AFTER, plan_between, sealed
from tests.scopes import AFTER, ALICE, BEFORE, ME, MINE, MY_IDENTITY, SMALL_BATCHES, Site, settled
from tests.test_history import NEXT
from tests.trees import EPHEMERAL, REAL_TREES, Node, Tree, load_real, snapshot_of
from zkmig.apply.options import Options
from zkmig.dev import Server
from zkmig.epoch.record import Held
from zkmig.errors import BadInput, NotProven, Refused, StalePlan
from zkmig.model.acl import ALL, OPEN_ACL, READ, Acl
from zkmig.model.quota import Quota
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.plan.make import make_plan
from zkmig.plan.operations import DeleteNode, Pin, WriteData
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import Policy
from zkmig.policy.rules import MinChildren, Rules
from zkmig.rehearse import copies
from zkmig.rehearse.copies import copy_of
from zkmig.rehearse.repin import repinned, same_but_pins, stale_paths
from zkmig.rehearse.run import APPLY, APPLY_AT_ONCE, LOAD, REVERT, START
from zkmig.rehearse.run import rehearse as run

# -- pure -------------------------------------------------------------------------------------------------------------


def test_only_pins_are_taken_from_the_copy() -> None:
    """The same operations in the same batches, and pins of the copy. Negative controls: what else may not differ."""
    plan, target = plan_between(BEFORE, AFTER, limits=SMALL_BATCHES, identities=[MY_IDENTITY])
    stats = target.columns.stats
    moved = dataclasses.replace(
        target.columns, stats=stats._replace(czxid=type(stats.czxid)("q", [7_000 + one for one in stats.czxid]))
    )
    copy = Snapshot(moved, target.scope, target.provenance, target.consistency)
    made = repinned(plan, copy, plan.target, keeps_identity=True)
    assert same_but_pins(plan, made) == ""
    pins = [op.pin for op in made.ordered.rest if isinstance(op, WriteData | DeleteNode)]
    assert pins
    assert all(pin.czxid > 7_000 for pin in pins)
    assert all(step.pin is None or step.pin.czxid > 7_000 for step in made.acl_steps)
    assert stale_paths(made, copy) == []
    assert stale_paths(plan, copy) != []

    rest = list(made.ordered.rest)
    number = next(i for i, op in enumerate(rest) if isinstance(op, WriteData))
    write = rest[number]
    assert isinstance(write, WriteData)
    rest[number] = dataclasses.replace(write, data=b"other")
    other_data = dataclasses.replace(made, operations=dataclasses.replace(made.ordered, rest=tuple(rest)))
    assert "operation on" in same_but_pins(plan, other_data)
    assert same_but_pins(plan, dataclasses.replace(made, batch_ends=made.batch_ends[:-1])) == "the batches"
    steps = (*made.acl_steps[:-1], dataclasses.replace(made.acl_steps[-1], final=OPEN_ACL))
    assert "operation on" in same_but_pins(plan, dataclasses.replace(made, acl_steps=steps))
    fewer = dataclasses.replace(made.ordered, creates=type(made.ordered.creates).of(made.ordered.creates[:-1]))
    assert same_but_pins(plan, dataclasses.replace(made, operations=fewer)) == "what is created"


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        (lambda tree: tree | {"/a": Node(b"1", counter=5)}, None, ""),  # its child list alone: not what it writes
        (lambda tree: tree | {"/c": Node(b"")}, "/app/c", "exists already"),
        (lambda tree: tree | {"/a/b/x": Node(b"")}, "/app/a/b", "has gained a child: x"),
        (lambda tree: {path: node for path, node in tree.items() if path != "/a/b"}, "/app/a/b", "gone"),
    ],
)
def test_what_is_stale_is_found_in_a_snapshot(change: Callable[[Tree], Tree], path: str | None, reason: str) -> None:
    """As `apply` finds it on servers (tests/test_stale.py): each path, and why."""
    plan, target = plan_between(SMALL, SMALL_AFTER)
    assert stale_paths(plan, target) == []
    changed = snapshot_of(change(SMALL))
    by_path = {name: target[name].stat for name in target}
    now = {name: by_path.get(name, changed[name].stat) for name in changed}
    stats = type(changed.columns.stats)(
        *(
            type(column)(column.typecode, values)
            for column, values in zip(changed.columns.stats, zip(*now.values(), strict=True), strict=True)
        )
    )
    same = Snapshot(
        dataclasses.replace(changed.columns, stats=stats), changed.scope, changed.provenance, changed.consistency
    )
    assert stale_paths(plan, same) == ([(path, reason)] if path else [])


def test_written_since_is_stale() -> None:
    plan, target = plan_between(SMALL, SMALL_AFTER)
    rest = tuple(
        dataclasses.replace(op, pin=Pin(op.pin.czxid, op.pin.version + 1, op.pin.aversion))
        if isinstance(op, WriteData)
        else op
        for op in plan.ordered.rest
    )
    other = dataclasses.replace(plan, operations=dataclasses.replace(plan.ordered, rest=rest))
    assert stale_paths(other, target) == [("/app/a", "written since")]
    assert {reason for _, reason in stale_paths(plan, None)} == {"gone"}


def test_counters_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ephemerals come last, and each raises its parent's counter; what would take too long is left low, unless the plan
    raises it."""
    tree = {"": Node(), "/e": Node(counter=7), "/e/1": EPHEMERAL, "/e/2": EPHEMERAL, "/e/p": Node(),
            "/high": Node(counter=90), "/higher": Node(counter=95)}  # fmt: skip
    target = snapshot_of(tree)
    copy = copy_of(target, {}, ())
    assert (copy.tree["/app/e"].counter, copy.durable["/app/e"].counter) == (7, 5)
    assert copy.low == ()
    monkeypatch.setattr(copies, "COUNTER_PAIRS_MAX", 94)
    copy = copy_of(target, {}, ("/app/higher",))
    assert copy.low == ()
    monkeypatch.setattr(copies, "COUNTER_PAIRS_MAX", 93)
    copy = copy_of(target, {}, ("/app/higher",))
    assert copy.low == ("/app/high",)
    assert (copy.tree["/app/high"].counter, copy.tree["/app/higher"].counter) == (0, 95)


# -- proven -----------------------------------------------------------------------------------------------------------


def test_a_counter_that_takes_hours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan raises it, so that the copy has to have it; a limit for each alone would not do. Nothing is started."""
    monkeypatch.setattr(copies, "RAISED_BY_MAX", 100)
    target = snapshot_of(settled({"": Node(), "/a": Node(counter=60), "/b": Node(counter=41)}), "/app")
    assert not copy_of(target, {}, ["/app/a"]).low
    with pytest.raises(Refused, match="a sequence counter that is at 60") as caught:
        copy_of(target, {}, ["/app/a", "/app/b"])
    assert caught.value.where == "/app/a"


def test_a_plan_that_raises_counters_for_hours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it raises in all, here a queue that is moved and one that goes on; nothing is started."""
    after = settled({"": Node(), "/moved": Node(counter=60), "/b": Node(counter=41)})
    plan, target = plan_between(settled({"": Node(), "/a": Node(counter=60), "/b": Node(counter=0)}), after)
    monkeypatch.setattr(copies, "RAISED_BY_MAX", 100)
    with pytest.raises(Refused, match="by 101 in all, to 60 here") as caught:
        run(sealed(plan), target)
    assert caught.value.where == "/app/moved"
    monkeypatch.setattr(copies, "RAISED_BY_MAX", 101)
    copies.refuse_long(plan)


def test_every_sort_of_change_from_a_live_target(site: Site) -> None:
    """Stages, hashes, and a target that was only read: as kazoo sees it, and its scope's record."""
    site.init(BEFORE)
    plan = site.plan(NEXT)
    before, record = site.look(), site.record()
    found = zkmig.rehearse(plan, auth=[ME])
    assert [stage.name for stage in found.stages] == [START, LOAD, APPLY, REVERT]  # ACLs have to be tightened: no shot
    target = zkmig.read(location(site.server.hosts, site.root), auth=[ME])
    wanted = snapshot_of({path: node._replace(counter=0) for path, node in NEXT.items()}, site.root)
    assert [stage.tree_hash for stage in found.stages] == [None, target.tree_hash, wanted.tree_hash, target.tree_hash]
    assert found.stages[1].counter_hash == target.counter_hash
    assert (found.tree_hash, found.writes, found.batches) == (
        target.tree_hash,
        plan.plan.writes,
        len(plan.plan.batch_ends),
    )
    assert not found.as_super
    assert found.warnings == ()
    assert site.look() == before
    assert site.record() == record


def test_a_small_plan_is_rehearsed_as_one_transaction_too(site: Site) -> None:
    site.init(SMALL)
    found = zkmig.rehearse(site.plan(SMALL_AFTER).plan, auth=[ME])
    assert [stage.name for stage in found.stages] == [START, LOAD, APPLY, REVERT, APPLY_AT_ONCE, REVERT]
    loaded, applied, *others = [stage.tree_hash for stage in found.stages[1:]]
    assert [loaded, *others] == [found.tree_hash, found.tree_hash, applied, found.tree_hash]


def test_who_applies_could_not_take_it_back(site: Site) -> None:
    """ACLs that come with the commit keep its author out: a warning, and the way back is rehearsed all the same."""
    site.init(BEFORE)
    found = zkmig.rehearse(site.plan(AFTER), auth=[ME])
    assert not found.as_super
    (warning,) = found.warnings
    assert f"{site.root}/read-only" in warning
    assert found.stages[-1].tree_hash == found.tree_hash


def test_without_credentials_a_super_user_writes(site: Site) -> None:
    """For CI: a snapshot of a tree whose ACLs let in others. It is said, and no hash of a password is."""
    site.init(BEFORE)
    plan = site.plan(AFTER)
    target = zkmig.read(location(site.server.hosts, site.root), auth=[ME])
    found = zkmig.rehearse(plan, target, auth=[])
    assert found.as_super
    told = " ".join(found.not_rehearsed)
    assert "digest:me" in told
    assert MY_IDENTITY.id not in told


def test_what_the_acls_refuse_is_refused_here_as_well(site: Site) -> None:
    """Negative control: the plan was made by somebody who may, and is rehearsed as somebody who may not."""
    site.init(settled({"": Node(b""), "/mine": Node(b"1", MINE)}))
    plan = site.plan(settled({"": Node(b""), "/mine": Node(b"2", MINE)}))
    target = zkmig.read(location(site.server.hosts, site.root), auth=[ME])
    with pytest.raises(NotProven, match=f"failed at 'apply in batches': .*{site.root}/mine") as caught:
        zkmig.rehearse(plan, target, auth=[ALICE])
    assert caught.value.exit_code == 6
    assert zkmig.rehearse(plan, target, auth=[ME]).stages


def test_a_root_that_is_not_there_yet(site: Site) -> None:
    """The scope is EMPTY: nothing to load, and a way back that its first epoch would not have, which is said."""
    site.init(allow_empty=False)
    found = zkmig.rehearse(site.plan(SMALL), auth=[ME])
    assert [stage.name for stage in found.stages] == [START, LOAD, APPLY, REVERT, APPLY_AT_ONCE, REVERT]
    assert [stage.nodes for stage in found.stages] == [0, 0, 4, 0, 4, 0]
    assert any("EMPTY" in sentence for sentence in found.not_rehearsed)


def test_a_whole_server(fresh_zk: Server) -> None:
    """A scope over "/": the server's own tree and the control plane stay out of everything."""
    with Site(fresh_zk, "/") as site:
        site.kazoo.create("/app/x", b"1", makepath=True)
        zkmig.init(location(fresh_zk.hosts, "/"), "all")
        target = zkmig.read(location(fresh_zk.hosts, "/"))
        after = snapshot_of(
            {"": Node(target["/"].data), "/app": Node(b""), "/app/x": Node(b"2"), "/new": Node(b"")}, "/"
        )
        found = zkmig.rehearse(zkmig.make_plan(after, location(fresh_zk.hosts, "/")))
        assert found.stages[-1].tree_hash == target.tree_hash


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees(name: str) -> None:
    """What real applications have left, ephemerals, odd counters and all, comes and goes."""
    target = load_real(name)
    top = next(path for path in target if path.count("/") == 1 and path not in ("/", "/zookeeper"))
    target = target.subtree(top)
    nodes = {path.removeprefix(top): Node(node.data, node.acl, node.counter) for path, node in target.items()}
    leaf = next(path for path in reversed(nodes) if target[f"{top}{path}"].kind is Kind.PERSISTENT)
    after = {**{path: node for path, node in nodes.items() if path != leaf}, "/zkmig-new": Node(b"x")}
    kept = {path: node for path, node in after.items() if target.get(f"{top}{path}") is None or
            target[f"{top}{path}"].kind is not Kind.EPHEMERAL}  # fmt: skip
    found = run(sealed(make_plan(snapshot_of(kept, top), target)), target)
    assert found.stages[-1].name == REVERT


ODD: Tree = settled(
    {
        "": Node(b"r"),
        "/queue": Node(b"", counter=40),
        "/queue/live": EPHEMERAL,
        "/sasl": Node(b"s", (Acl(ALL, "sasl", "ops@EXAMPLE.ORG"),)),
        "/x509": Node(b"s", (Acl(ALL, "x509", "CN=ops,O=example"),)),
        "/odd": Node(b"s", (Acl(ALL, "ourown", "secret"), Acl(READ, "world", "anyone"))),
        "/odder": Node(b"s", (Acl(ALL, "digest", "no-colon"),)),
        "/ip": Node(b"s", (Acl(ALL, "ip", "10.0.0.0/8"),)),
        "/empty-acl": Node(b"s", ()),
        "/null": Node(None),
        "/container": Node(b"", kind=Kind.CONTAINER),
        "/ttl": Node(b"", kind=Kind.TTL, ttl_ms=1),
        "/huge": Node(bytes(1_000_000)),
        "/队列 %41\u0301": Node(b""),
    }
)


def test_odd_nodes() -> None:
    """Ids of schemes that no server here knows, kinds, ephemerals, a node near the frame limit, odd ACLs and names."""
    after = {**ODD, "/odd": ODD["/odd"]._replace(data=b"t"), "/sasl": ODD["/sasl"]._replace(data=b"t")}
    del after["/queue/live"]
    after |= {"/odd/new": Node(b"", (Acl(ALL, "ourown", "other"),)), "/new-ttl": Node(b"", kind=Kind.TTL, ttl_ms=5)}
    plan, target = plan_between(ODD, after, identities=[MY_IDENTITY])
    found = run(sealed(plan), target)
    assert found.as_super
    told = "\n".join(found.not_rehearsed)
    for words in ("ourown (2)", "digest (1)", "1 ephemerals", "2 containers and TTL nodes"):
        assert words in told, told
    assert "sasl (" not in told  # known to the server, so kept as it is


def test_rules_are_judged_with_what_lives_on_the_target() -> None:
    """Ephemerals count for a minimum of children: they are loaded. Negative control: a target that has lost them."""
    policy = Policy(rules=Rules(guardrails=(MinChildren("members", CapturePattern.parse("/app/members"), 2),)))
    before = {"": Node(), "/members": Node(), "/members/1": EPHEMERAL, "/members/2": EPHEMERAL}
    plan, target = plan_between(before, {"": Node(b"new"), "/members": Node()}, policy=policy)
    assert "every rule" in run(sealed(plan), target).stages[2].proven
    lost = snapshot_of({path: node for path, node in before.items() if path != "/members/2"})
    with pytest.raises(NotProven, match=r"apply in batches.*members") as caught:
        run(sealed(plan), lost)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", ["quotas alone", "counters alone", "nothing"])
def test_what_cannot_be_taken_back_is_not_reverted(kind: str) -> None:
    plan, target = plan_between(SMALL, {**SMALL, "/q": Node(b"", counter=30 if kind == "counters alone" else 9)})
    if kind == "quotas alone":
        plan = dataclasses.replace(plan, quotas=(Quota("/app/a", "count=100,bytes=-1"),))
    found = run(sealed(plan), target)
    assert [stage.name for stage in found.stages] == ([] if kind == "nothing" else [START, LOAD, APPLY])
    assert any("the way back" in sentence for sentence in found.not_rehearsed) == (kind != "nothing")


# -- not proven -------------------------------------------------------------------------------------------------------


def tamper(client: KazooClient, how: str) -> str:
    """Change the tree at /app/keep in one way; the path that must be named."""
    match how:
        case "data":
            client.set("/app/keep", b"tampered")
        case "acl":
            client.set_acls("/app/keep", [ACL(1, Id("world", "anyone"))])
        case "a node more":
            client.create("/app/keep/more", b"")
            return "/app/keep"  # its counter; then the node
        case "a node less":
            client.delete("/app/keep")
        case "counter":
            client.create("/app/keep/x", b"")
            client.delete("/app/keep/x")
    return "/app/keep"


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        (LOAD, "data"),
        (LOAD, "a node less"),
        (APPLY, "acl"),
        (APPLY, "a node more"),
        (REVERT, "data"),
        (REVERT, "a node less"),  # a counter may be higher then
        (APPLY_AT_ONCE, "counter"),
    ],
)
def test_tampering_behind_a_stage_is_caught(stage: str, how: str) -> None:
    """At a path that the plan does not touch, so that only the comparison of whole trees can see it."""
    kept = {"/keep": Node(b"k")}
    plan, target = plan_between(settled({**SMALL, **kept}), settled({**SMALL_AFTER, **kept}))

    def after(name: str, hosts: str) -> None:
        if name == stage:
            client = KazooClient(hosts)
            client.start()
            tamper(client, how)
            client.stop()
            client.close()

    with pytest.raises(NotProven, match=f"failed at '{stage}': the tree is not what it has to be: /app/keep") as caught:
        run(sealed(plan), target, after=after)
    assert caught.value.exit_code == 4
    assert caught.value.stage == stage
    assert "tampered" not in str(caught.value)


def test_files_that_cannot_be_kept_do_not_hide_what_was_not_proven(tmp_path: Path) -> None:
    """Somebody takes the folder's name meanwhile. Where all was proven, that is the error."""
    plan, target = plan_between(SMALL, SMALL_AFTER)
    keep = tmp_path / "kept"

    def hinder(stage: str, hosts: str) -> None:
        keep.mkdir(exist_ok=True)
        if stage == wrong:
            client = KazooClient(hosts)
            client.start()
            client.delete("/app/a/b")
            client.stop()

    wrong = LOAD
    with pytest.raises(NotProven, match=rf"failed at '{LOAD}'") as caught:
        run(sealed(plan), target, keep=str(keep), after=hinder)
    assert "could not be kept" in caught.value.__notes__[0]
    wrong = ""
    with pytest.raises(BadInput, match="could not be kept"):
        run(sealed(plan), target, keep=str(keep), after=hinder)


def test_tampering_in_the_midst_of_a_stage_is_a_conflict() -> None:
    """With a path of the plan, while its batches are written: as on the target, and as little told of data."""
    plan, target = plan_between(BEFORE, AFTER, limits=SMALL_BATCHES, identities=[MY_IDENTITY])
    hosts: list[str] = []

    def write() -> None:
        client = KazooClient(hosts[0], auth_data=[("digest", "me:hunter2")])
        client.start()
        client.set("/app/change/15", b"tampered")
        client.stop()
        client.close()

    options = Options(report=at(f"{APPLY}: write", 1, write))
    with pytest.raises(NotProven, match=rf"failed at '{APPLY}': /app/change/15: ") as caught:
        run(sealed(plan), target, auth=[ME], options=options, after=lambda _, where: hosts.append(where))
    assert caught.value.exit_code == 4
    assert "rollback" not in str(caught.value)  # there is nothing to take back anywhere


def test_a_server_that_dies_is_told_with_its_stage() -> None:
    """Not as if the target had been unreachable without a word of where."""
    plan, target = plan_between(SMALL, SMALL_AFTER)

    def kill(stage: str, hosts: str) -> None:
        if stage == APPLY:
            port = int(hosts.rpartition(":")[2])
            (pid,) = [int(each.name) for each in Path("/proc").glob("[0-9]*") if serves(each, port)]
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(NotProven, match=rf"failed at '{APPLY}'") as caught:
        run(sealed(plan), target, after=kill)
    assert caught.value.exit_code == 6


def serves(process: Path, port: int) -> bool:
    """Whether it is the server that was started on this port, by the settings that its command line names."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return words[-2].endswith(b"zoo.cfg") and f"clientPort={port}\n" in Path(words[-2].decode()).read_text()
    except (OSError, IndexError):
        return False


def test_a_plan_that_its_target_has_left_behind(site: Site) -> None:
    """Stale paths, a committed epoch, another incarnation: refused before any server is started, with code 3."""
    site.init(SMALL)
    plan = site.plan(SMALL_AFTER)
    site.kazoo.set(f"{site.root}/q", b"elsewhere")  # the plan only raises its counter
    assert zkmig.rehearse(plan, auth=[ME]).stages
    site.kazoo.set(f"{site.root}/a", b"1")
    with pytest.raises(StalePlan, match=rf"{site.root}/a \(written since\)"):
        zkmig.rehearse(plan, auth=[ME])
    site.apply(site.plan(SMALL_AFTER))
    with pytest.raises(StalePlan, match="made at epoch 0, the scope is at 1"):
        zkmig.rehearse(plan, auth=[ME])
    site.forget()
    with pytest.raises(Refused, match="is not there"):
        zkmig.rehearse(plan, auth=[ME])
    site.init()
    with pytest.raises(Refused, match="deleted and created again"):
        zkmig.rehearse(plan, auth=[ME])


def test_an_epoch_under_way_and_a_hold(site: Site) -> None:
    site.init(BEFORE)
    plan = site.plan(AFTER)
    site.hold(Held("ops@host", "maintenance", time.time()))
    held = zkmig.rehearse(plan, auth=[ME])
    assert any("hold" in sentence for sentence in held.not_rehearsed)
    site.hold(None)
    site.leave_open(plan, 3)
    with pytest.raises(Refused, match="epoch 1 is OPEN"):
        zkmig.rehearse(plan, auth=[ME])


def test_bad_input(tmp_path: Path) -> None:
    """A plan without servers, a target of another root, a folder that is there: refused before the work."""
    plan, target = plan_between(SMALL, SMALL_AFTER)
    with pytest.raises(BadInput, match="names no servers"):
        zkmig.rehearse(plan)
    with pytest.raises(BadInput, match="the plan is for /app"):
        zkmig.rehearse(plan, snapshot_of(SMALL, "/other"))
    with pytest.raises(BadInput, match="something of that name"):
        zkmig.rehearse(plan, target, keep=tmp_path)
    with pytest.raises(BadInput, match="folder above"):
        zkmig.rehearse(plan, target, keep=tmp_path / "no" / "such")
