"""What `zkmig show` tells of a plan is what the plan does: every change counted once, watches as servers trigger them,
no data that is masked.

Method: counts of made-up plans against naive ones; the real program on plan files; a real server and kazoo's watches.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import stat
from collections.abc import Mapping

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from kazoo.protocol.states import EventType, WatchedEvent
from kazoo.security import make_digest_acl

from tests.plan_values import Step, plan_of, stat_of, steps
from tests.program import Program, location
from tests.scopes import AFTER, BEFORE, Site
from tests.trees import Node, snapshot_of
from zkmig.cli.show import show
from zkmig.epoch.control import head_size_max
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import ALL, OPEN_ACL, READ, Acl, digest_id
from zkmig.model.quota import Quota
from zkmig.model.znode import Kind
from zkmig.plan import planfile
from zkmig.plan.batches import cut
from zkmig.plan.make import make_plan
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan
from zkmig.plan.scriptpin import ScriptPin
from zkmig.policy.policy import Policy
from zkmig.show.changes import SORTS, change_tree
from zkmig.show.facts import facts_of
from zkmig.show.page import FAULTS_MAX
from zkmig.show.text import LINES_MAX, tree_lines
from zkmig.show.values import Masks, Sight
from zkmig.show.watches import watches_of
from zkmig.source import zks

HEAD = head_size_max("prod")
PIN = Pin.of(stat_of())
UNSEEN = Sight(Masks(), False, None)


def plan_for(*operations: Operation, limits: Limits | None = None) -> Plan:
    limits = limits or Limits()
    ordered, ends = cut(operations, HEAD, limits)
    return dataclasses.replace(plan_of(ordered, ends, limits, HEAD), acl_steps=(), quotas=())


def plan_between(source: Mapping[str, Node], target: Mapping[str, Node], policy: Policy | None = None) -> Plan:
    return make_plan(snapshot_of(source), snapshot_of(target), policy=policy)


# -- the tree of changes ----------------------------------------------------------------------------------------------

_SORT_OF = {CreateNode: "create", WriteData: "write", DeleteNode: "delete", RaiseCounter: "raise_counter"}


@settings(max_examples=60)
@given(steps())
def test_each_node_counts_what_is_done_below_it(made: list[Step]) -> None:
    """Against a naive count over all operations, whole and below one path; and each change has its batches."""
    plan = dataclasses.replace(plan_for(*(step.operation for step in made), limits=Limits(4_000, 1_500)), acl_steps=(
        AclStep("/app/n", None, OPEN_ACL, PIN), AclStep(made[0].operation.path, None, OPEN_ACL, None),
    ))  # fmt: skip
    done = {(_SORT_OF[type(operation)], operation.path) for operation in plan.operations}
    done |= {("set_acl", step.path) for step in plan.acl_steps}
    for below in ("/", "/app", paths.parent(made[0].operation.path), made[-1].operation.path, "/app/none"):
        tree = change_tree(plan, below)
        for node in range(len(tree)):
            top = tree.path_at(node)
            inside = [sort for sort, path in done if paths.contains(top, path) and paths.contains(below, path)]
            assert tree.count_text(node) == {sort: inside.count(sort) for sort in SORTS if sort in inside}
        changes = list(tree.changes())
        wanted = {path for _, path in done if paths.contains(below, path)}
        assert [change.path for change in changes] == sorted(wanted, key=paths.order_key)
        for change in changes:
            assert {(sort, change.path) for sort in change.sorts} == {each for each in done if each[1] == change.path}
            held = {
                number
                for number, batch in enumerate(plan.batches(), 1)
                if any(operation.path == change.path for operation in batch)
            }
            assert set(change.batches) == held
        assert change_tree(plan, "/appl").changed == 0


def test_a_small_plan_is_shown_whole() -> None:
    """Each sort of change in words, in tree order."""
    plan = plan_for(
        CreateNode("/app/a", b"data", OPEN_ACL),
        CreateNode("/app/a/b", None, (Acl(ALL, "digest", digest_id("me", "x")), Acl(READ, "world", "anyone"))),
        CreateNode("/app/a/t", b"", OPEN_ACL, Kind.TTL, 500),
        WriteData("/app/pools/web", b"12345", PIN, 3),
        WriteData("/app/pools/null", None, PIN, 3),
        RaiseCounter("/app/pools", 2, 9),
        DeleteNode("/app/old/x", PIN, 60),
        DeleteNode("/app/old", PIN, 60),
    )
    plan = dataclasses.replace(plan, acl_steps=(AclStep("/app/pools", (Acl(READ, "world", "anyone"),), OPEN_ACL, PIN),))
    assert list(tree_lines(change_tree(plan), UNSEEN)) == [
        "  /app/  below: 3 to create, 2 to write, 2 to delete, 1 counter to raise, 1 ACL to set",
        "+   a/  4 bytes; all of it created: 3 nodes, 4 bytes",
        "+     b  null; acl digest:me:x:rwcda,world:anyone:r",
        "+     t  0 bytes; TTL 500 ms",
        "-   old/  all of it deleted: 2 nodes",
        "-     x",
        "~   pools/  counter to 9; acl before the commit world:anyone:r; acl after the commit world:anyone:rwcda; "
        "below: 2 to write",
        "~     null  data 3 -> null",
        "~     web  data 3 -> 5 bytes",
    ]


def test_what_a_plan_is_as_a_whole_is_told() -> None:
    """Where it comes from and goes to, by what script, why not at once, and what is outside of the atomic commit."""
    limits = Limits(single_shot_ops_max=2)
    operations, ends = cut([CreateNode(f"/app/{name}", b"", OPEN_ACL) for name in "abc"], HEAD, limits)
    plan = dataclasses.replace(
        plan_of(operations, ends, limits, HEAD),
        acl_steps=(AclStep("/app/n", OPEN_ACL[:1], OPEN_ACL, PIN), AclStep("/app/m", (), OPEN_ACL, PIN)),
        quotas=(Quota("/app/a", "count=3,bytes=-1"),),
        script=ScriptPin("split_pools", "0005_split_pools.py", "d" * 64, 5),
    )
    told = {(fact.about, fact.text) for fact in facts_of(plan, "e" * 64, Masks.of(["/app/*"]))}
    assert told >= {
        ("plan", "e" * 64),
        ("script", f"0005_split_pools.py, split_pools, sha256 {'d' * 16}; for epoch 5 of any scope"),
        ("from", "zk://a:2181/app (fuzzy, a mix of states)"),
        ("scope", f"prod at epoch 4, incarnation {'0' * 16}"),
        ("changes", "3 to create, 2 ACLs to set"),
        ("at once", "no: 3 writes are more than 2 in one transaction"),
        ("batches", "3 writes in 1 batch"),
        ("undo", "about 77 bytes of journal on the servers, until it is pruned"),
        ("watches", "would fire if set: exists watches of 3 created, child watches of 1 parent (3 events)"),
        ("outside", "before the commit: 2 ACLs that take something away are set, before any data: /app/n, /app/m"),
        ("outside", "before the commit: 1 batch lands for who reads without zkmig"),
        ("outside", "after the commit: 1 ACL that gives something is set: /app/m"),
        ("outside", "after the commit: 1 quota is set: /app/a"),
        ("outside", "not at all: 2 ephemerals of the target stay"),
        ("masked", "/app/*"),
        ("note", "a note"),
    }


def test_a_large_plan_is_folded_up_and_nothing_of_it_is_lost(program: Program) -> None:
    """20,000 changes in few lines whose counts add up to all; --all has a line for each."""
    source = {"": Node()} | {f"/{top}": Node() for top in "abc"}
    source |= {f"/{top}/n{number:04}": Node(b"x") for top in "abc" for number in range(5_000)}
    target = {"": Node()} | {f"/{top}": Node() for top in "bcd"}
    target |= {f"/{top}/n{number:04}": Node(b"y") for top in "bd" for number in range(4_999)}
    plan = plan_between(source, target)
    planfile.write(plan, str(program.folder / "p"))
    shown = program("show", "p").succeeded().stdout.splitlines()
    assert len(shown) < LINES_MAX
    assert "  /app/  below: 10002 to create, 4999 to write, 5000 to delete" in shown
    assert [line for line in shown if line[2:].startswith("  ")][-4:] == [
        "+   a/  0 bytes; all of it created: 5001 nodes, 5000 bytes",
        "    b/  below: 1 to create, 4999 to write",
        "    c/  below: 5000 to create",
        "-   d/  all of it deleted: 5000 nodes",
    ]
    every = program("show", "p", "--all").succeeded().stdout.splitlines()
    assert len([line for line in every if line[:3] in ("+ /", "~ /", "- /")]) == 20_001
    assert "+ /app/b/n4999  1 byte" in every
    part = program("show", "p", "--path", "/app/b").succeeded().stdout.splitlines()
    assert part[-1] == "    ... and 4988 more, with 1 to create, 4987 to write"
    document = program("show", "p", "--path", "/app/b", "--json").succeeded().document
    assert len(document["changes"]) == document["changed"] == 5_000
    assert document["counts"]["create"] == 10_002  # of the whole plan
    assert len(document["batch_list"]) == document["batches"] == len(plan.batch_ends)
    assert sum(batch["operations"] for batch in document["batch_list"]) == 20_001


# -- data -------------------------------------------------------------------------------------------------------------

CANARY = "tweetytweety"
POLICY = """
format = 1
existing = "report"
mask = ["/app/secrets/**", "/app/users/{name}/password"]

[[references]]
name = "which"
from = "/app/secrets/{any}"
to = "/app/{value}"
required = false

[[checks]]
name = "chatty"
call = "chatty.py:check"
"""
CHATTY = """
def check(tree):
    yield "/app/secrets/same", "it holds " + tree["/app/secrets/same"].data.decode()
"""


def forms(canary: str) -> list[str]:
    """The canary as it would stand in an output that takes it for bytes."""
    raw = canary.encode()
    return [canary, raw.hex(), *(base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in range(3))]


def outputs(program: Program, *options: str) -> dict[str, str]:
    before = ("--before", "before.zks", *options)
    ran = {
        "text": program("show", "p", "--data", "--all", *before).succeeded(),
        "tree": program("show", "p", "--data", *before).succeeded(),
        "json": program("show", "p", "--data", "--json", *before).succeeded(),
        "page": program("show", "p", "--html", "p.html", "--force", *before).succeeded(),
    }
    found = {name: each.stdout + each.stderr for name, each in ran.items()}
    found["page"] += (program.folder / "p.html").read_text()
    return found


def test_masked_data_is_in_no_output(program: Program) -> None:
    """A canary in data of before and after, in what a node names, and in what a check in Python says; the same plan
    without its masks is the negative control."""
    secret = Node(CANARY.encode())
    target = {"": Node(), "/secrets": Node(), "/users": Node(), "/users/a": Node(), "/secrets/same": secret}
    source = dict(target) | {"/open": Node(b"shown"), "/secrets/new": secret, "/users/a/password": secret}
    source |= {"/secrets/set": Node(CANARY.encode() * 2), "/secrets/bytes": Node(b"\xff" + CANARY.encode())}
    target |= {"/secrets/set": secret, "/secrets/bytes": secret, "/secrets/gone": secret}
    target |= {"/users/a/password": Node(CANARY.encode() * 3)}
    zks.write(snapshot_of(source), str(program.folder / "after.zks"))
    zks.write(snapshot_of(target), str(program.folder / "before.zks"))
    (program.folder / "policy.toml").write_text(POLICY)
    (program.folder / "chatty.py").write_text(CHATTY)
    trees = ("--from", "after.zks", "--to", "before.zks", "--policy", "policy.toml")
    program("plan", *trees, "-o", "p").succeeded()
    found = outputs(program)
    for name, output in found.items():
        for form in forms(CANARY):
            assert form not in output, name
        assert "shown" in output, name
        assert "chatty" in output, name
        assert "masked" in output, name
    document = json.loads(found["json"])
    assert document["masks"] == ["/app/secrets/**", "/app/users/{name}/password"]
    assert (document["references"]["hidden"], document["references"]["links"]) == (4, [])
    assert [each["path"] for each in document["rules"]["violations"]] == ["/app/secrets/same"]

    plan, _ = planfile.read(str(program.folder / "p"))
    planfile.write(dataclasses.replace(plan, masks=()), str(program.folder / "p"), True)
    for name, output in outputs(program).items():
        assert CANARY in output, name
    named = program("show", "p", "--data", "--json").succeeded().document["references"]
    counted = program("show", "p", "--json").succeeded().document["references"]
    assert len(named["links"]) == named["count"] == counted["count"] == 2
    assert counted["links"] is None
    assert CANARY not in program("show", "p", "--data", "--json", "--mask", "/app/**").succeeded().stdout


def test_what_all_values_may_take_is_what_they_take_in_json() -> None:
    """Bytes that JSON writes as six each do not make a page six times as large as it may be."""
    sight = Sight(Masks(), True, None, bytes_max=100)
    assert sight.value("/a", bytes(30)) == {"is": "left out", "bytes": 30}
    assert sight.value("/b", b"x" * 30)["text"] == "x" * 30
    assert sight.value("/c", b"\xff" * 30)["is"] == "base64"
    assert sight.value("/d", b"x" * 30)["is"] == "left out"
    assert sight.beyond == 2


def test_data_is_shown_only_when_asked_for(program: Program) -> None:
    """Without --data there is none in text and JSON; with it, what is not for terminals is escaped, and long is cut."""
    source = {"": Node(), "/a": Node(b"\x1b[31mscarlet\nline"), "/b": Node(b"\xff\x00"), "/c": Node(b"y" * 5_000)}
    planfile.write(plan_between(source | {"/n": Node(None)}, {"": Node()}), str(program.folder / "p"))
    assert "scarlet" not in program("show", "p", "--all").succeeded().stdout
    assert "scarlet" not in program("show", "p", "--json").succeeded().stdout
    shown = program("show", "p", "--data").succeeded().stdout
    assert 'after:  "\\x1b[31mscarlet\\nline"' in shown
    assert "after:  base64 /wA=" in shown
    assert "after:  null" in shown
    assert f'after:  "{"y" * 200}" (the begin of 5000 bytes)' in shown
    changes = program("show", "p", "--data", "--json").succeeded().document["changes"]
    assert [change["data"]["is"] for change in changes] == ["text", "base64", "text", "null"]
    assert changes[2]["data"]["text"] == "y" * 5_000


def test_what_stands_there_now_is_told_from_what_was_planned_for(program: Program) -> None:
    """--before shows data of before only where the node is still the one that the plan was made for; each that is not
    is named in text, JSON and page, data asked for or not."""
    source = {"": Node(), "/a": Node(b"new"), "/b": Node(b"new"), "/c": Node(b"new")}
    target = {"": Node(), "/a": Node(b"old"), "/b": Node(b"old"), "/x": Node(b"old")}
    before = snapshot_of(target)
    planfile.write(make_plan(snapshot_of(source), before), str(program.folder / "p"))
    later = {"": Node(), "/x": Node(b"old"), "/a": Node(b"later"), "/c": Node(b"theirs")}  # other czxids, and one gone
    for name, tree in (("now", before), ("later", snapshot_of(later)), ("other", snapshot_of(target, "/elsewhere"))):
        zks.write(tree, str(program.folder / f"{name}.zks"))

    def told(name: str) -> dict[str, object]:
        changes = program("show", "p", "--before", f"{name}.zks", "--data", "--json").succeeded().document["changes"]
        return {change["path"]: change["before"] for change in changes}

    assert {path: each["data"]["text"] for path, each in told("now").items() if isinstance(each, dict)} == {
        "/app/a": "old", "/app/b": "old", "/app/x": "old",
    }  # fmt: skip
    assert told("later") == {
        "/app/a": {"fault": "it has been written since the plan was made"},
        "/app/b": {"fault": "it is not there any more"},
        "/app/c": {"fault": "it is there already, and the plan creates it"},
        "/app/x": {"fault": "it has been written since the plan was made"},
    }
    program("show", "p", "--before", "other.zks").failed(2, "/elsewhere", "/app")

    lines = program("show", "p", "--before", "now.zks").succeeded().stdout.splitlines()
    assert [line for line in lines if line.startswith("before")] == [
        "before    as the plan was made for: 4 of 4 changed nodes"
    ]
    lines = program("show", "p", "--before", "later.zks", "--path", "/app").succeeded().stdout.splitlines()
    assert [line for line in lines if line.startswith("before")] == [
        "before    as the plan was made for: 0 of 4 changed nodes",
        "before    /app/a: it has been written since the plan was made",
        "before    /app/b: it is not there any more",
        "before    /app/c: it is there already, and the plan creates it",
        "before    /app/x: it has been written since the plan was made",
    ]
    program("show", "p", "--before", "later.zks", "--html", "x.html").succeeded()
    page = (program.folder / "x.html").read_text()
    assert '["before","/app/c: it is there already, and the plan creates it"]' in page


# -- the program ------------------------------------------------------------------------------------------------------


def test_hostile_names_do_not_reach_a_terminal(program: Program) -> None:
    """A plan file may hold names that no server admits; they are shown escaped, one line each."""
    names = ["/app/\x1b[2J", "/app/two\nlines", "/app/\u202egnp", "/app//empty", "/other/../up"]
    planfile.write(plan_for(*(CreateNode(name, b"", OPEN_ACL) for name in names)), str(program.folder / "p"))
    for options in ((), ("--all",)):
        ran = program("show", "p", *options).succeeded()
        assert not any(char in ran.stdout for char in "\x1b\u202e")
        assert "two\\nlines" in ran.stdout
        assert "\\u202egnp" in ran.stdout
    assert {change["path"] for change in program("show", "p", "--json").succeeded().document["changes"]} == set(names)


def test_nothing_to_do_and_nothing_there(program: Program) -> None:
    """An empty plan is shown as one, in every form; a part without changes says so."""
    planfile.write(plan_between({"": Node()}, {"": Node()}), str(program.folder / "empty"))
    assert "none: there is nothing to do" in program("show", "empty").succeeded().stdout
    assert program("show", "empty", "--json").succeeded().document["changes"] == []
    assert program("show", "empty", "--html", "e.html").succeeded().stdout.startswith("e.html: 0 changes")
    planfile.write(plan_between({"": Node(), "/a": Node()}, {"": Node()}), str(program.folder / "p"))
    assert "nothing changes at or below /app/none" in program("show", "p", "--path", "/app/none").succeeded().stdout


def test_bad_input_is_refused_in_a_line(program: Program) -> None:
    """Wrong files, paths, patterns and combinations; a page is written whole, for its owner alone, and never over
    another file unasked."""
    zks.write(snapshot_of({"": Node()}), str(program.folder / "s.zks"))
    planfile.write(plan_between({"": Node(), "/a": Node()}, {"": Node()}), str(program.folder / "p"))
    (program.folder / "cut").write_bytes((program.folder / "p").read_bytes()[:-5])
    program("show", "s.zks").failed(2, "this is a snapshot file")
    program("show", "cut").failed(2, "cut", "truncated")
    program("show", "p", "--path", "/apple").failed(2, "/apple", "/app")
    program("show", "p", "--mask", "/a/**/**").failed(2, "/a/**/**")
    program("show", "p", "--before", "p").failed(2, "p")
    program("show", "p", "--html", "x.html", "--before", "none.zks").failed(2, "none.zks")
    assert "-o" not in program("show", "p", "--html", ".").failed(2, "this is a directory")
    assert program("show", "p", "--html", "x.html", "--all").code == 2
    assert program("show", "p", "--force").code == 2
    assert program.files == {"s.zks", "p", "cut"}
    made = program.folder / "x.html"
    made.write_text("mine")
    program("show", "p", "--html", "x.html").failed(2, "x.html", "exists")
    assert made.read_text() == "mine"
    assert program("show", "p", "--html", "x.html", "--force", "--json").succeeded().document["changes"] == 1
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert made.read_text().endswith("</html>\n")


def test_of_many_nodes_that_have_moved_on_a_page_names_some(program: Program) -> None:
    """As text names some, and all with --all; the page has what there is to say beside each node too."""
    source = {"": Node()} | {f"/n{number:03}": Node() for number in range(FAULTS_MAX + 3)}
    planfile.write(plan_between(source, {"": Node()}), str(program.folder / "p"))
    zks.write(snapshot_of(source), str(program.folder / "now.zks"))
    program("show", "p", "--before", "now.zks", "--html", "x.html").succeeded()
    made = (program.folder / "x.html").read_text()
    facts = json.loads(made.partition('"facts":')[2].partition(',"links"')[0])
    assert [text for about, text in facts if about == "before"][-2:] == [
        f"/app/n{FAULTS_MAX - 1:03}: it is there already, and the plan creates it",
        "and 3 more, as each of them says",
    ]
    assert made.count('"fault":') == FAULTS_MAX + 3
    few = program("show", "p", "--before", "now.zks").succeeded().stdout
    assert f"before    and {FAULTS_MAX + 4 - 20} more (--all)" in few
    every = program("show", "p", "--before", "now.zks", "--all").succeeded().stdout
    assert every.count("it is there already") == FAULTS_MAX + 3


def test_a_page_of_too_many_nodes_is_refused_before_their_tree_is_made(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is known without it; and with --path only by what is below."""
    monkeypatch.setattr("zkmig.show.page.NODES_MAX", 3)
    source = {"": Node(), "/a": Node(), **{f"/a/{name}": Node() for name in "xyz"}, "/b": Node(b"after")}
    planfile.write(plan_between(source, {"": Node(), "/b": Node()}), str(program.folder / "p"))
    monkeypatch.chdir(program.folder)
    with monkeypatch.context() as unmade:
        unmade.delattr("zkmig.cli.show.change_tree")
        ran = CliRunner().invoke(show, ["p", "--html", "x.html"])
        assert isinstance(ran.exception, BadInput)
        assert "4 nodes are more than the 3 that a page can hold" in str(ran.exception)
        ran = CliRunner().invoke(show, ["p", "--html", "x.html", "--path", "/app/a"])
        assert isinstance(ran.exception, BadInput)
    ran = CliRunner().invoke(show, ["p", "--html", "x.html", "--path", "/app/b"], catch_exceptions=False)
    assert ran.exit_code == 0


# -- a real server ----------------------------------------------------------------------------------------------------


def test_the_watches_that_fire_are_those_that_are_told(site: Site) -> None:
    """kazoo sets every watch that there can be, on what is there and on what will be; then the plan is applied."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    told = watches_of(sealed.plan.ordered)
    fired: list[tuple[str, WatchedEvent]] = []
    existing = {site.path(relative) for relative in BEFORE}
    for path in existing | {site.path(relative) for relative in AFTER}:
        site.kazoo.exists(path, watch=lambda event: fired.append(("data", event)))
        if path in existing:
            site.kazoo.get_children(path, watch=lambda event: fired.append(("children", event)))
    site.apply(sealed)
    site.kazoo.sync(site.root)
    site.kazoo.exists(site.root)  # its answer comes behind all events that were before it

    def paths_of(kind: str, *types: str) -> set[str]:
        return {event.path or "" for which, event in fired if which == kind and event.type in types}

    operations = list(sealed.plan.operations)
    assert paths_of("data", EventType.CREATED) == {each.path for each in operations if isinstance(each, CreateNode)}
    assert len(paths_of("data", EventType.CREATED)) == told.created
    assert len(paths_of("data", EventType.CHANGED)) == told.written
    deleted = paths_of("data", EventType.DELETED)
    assert len(deleted) == told.deleted
    assert paths_of("children", EventType.CHILD, EventType.DELETED) == (set(told.children) & existing) | deleted


def test_a_live_target_is_asked_for_the_nodes_concerned_alone(site: Site, program: Program) -> None:
    """Data and ACLs of before are those that are there; who may not read one of them is told which; what the plan
    leaves alone need not be readable."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    planfile.write(sealed.plan, str(program.folder / "p"))
    site.kazoo.create(site.path("/keep/shut"), b"", acl=[make_digest_acl("nobody", "knows", all=True)])
    asked = ("show", "p", "--before", location(site.server.hosts, site.root), "--data", "--json")
    program(*asked).failed(6, site.path("/gone/mine"))
    profiles = program.folder / "profiles.toml"
    profiles.touch(0o600)
    profiles.write_text(f'[lab]\nat = "{location(site.server.hosts, site.root)}"\nauth = ["digest:me:hunter2"]\n')
    by_profile = ("show", "p", "--before", "@lab", "--profiles", "profiles.toml", "--data", "--json")
    changes = program(*by_profile).succeeded().document["changes"]
    found = {change["path"]: change["before"] for change in changes}
    assert not any(each and "fault" in each for each in found.values())
    assert found[site.path("/gone")]["data"]["text"] == "queue"
    assert found[site.path("/gone/mine")]["acl"] == ["digest:me:x:rwcda"]
    assert found[site.path("/null")]["data"]["is"] == "null"
    assert found[site.path("/new")] is None
    program("show", "p", "--before", location(site.server.hosts, "/elsewhere")).failed(2, "/elsewhere")
