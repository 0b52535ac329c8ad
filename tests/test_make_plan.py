"""A plan, carried out, gives the source: in an order in which no operation is ever in another's way.

Method: made-up neighbouring trees; the operations carried out on a dict that is as strict as a server; then what must
be refused before anything is tried: permissions, lock-outs, nodes in the way or too large.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import pytest
from hypothesis import assume, given, settings

from tests.trees import EPHEMERAL, Node, Tree, neighbours, snapshot_of, trees
from zkmig.diff import diff
from zkmig.epoch.control import head_size_max
from zkmig.errors import NotPermitted, PlanImpossible, ZkmigError
from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, ALL, CREATE, DELETE, OPEN_ACL, READ, WORLD, WRITE, Acl, AclList, Identity
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.plan.make import TargetScope, make_plan
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan
from zkmig.policy.policy import Policy
from zkmig.wire.requests import operation_size

ALMIGHTY = (Identity("super", ""),)
ME = Identity("digest", "me:m")
BOB = Identity("digest", "bob:b")
MINE: AclList = (Acl(ALL, *ME),)
BOBS: AclList = (Acl(ALL, *BOB),)
READ_ONLY: AclList = (Acl(READ, *WORLD),)
FEWER = settings(max_examples=25)


def low(tree: Tree) -> Tree:
    """The tree with counters that do not take a million creates, and no empty ACLs, which no server stores."""
    return {
        path: node._replace(counter=node.counter % 40 + len(tree), acl=node.acl or OPEN_ACL)
        if node.kind is not Kind.EPHEMERAL
        else node
        for path, node in tree.items()
    }


def plan(source: Tree, target: Tree | None, *, limits: Limits | None = None, who: tuple[Identity, ...] = (ME,)) -> Plan:
    return make_plan(
        snapshot_of(source, "/source"),
        None if target is None else snapshot_of(target, "/t"),
        limits=limits,
        target_root="/t",
        identities=who,
    )


@dataclass
class Target:
    """Nodes by path, changed by operations under a server's own rules."""

    nodes: dict[str, Node]
    versions: dict[str, int]

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> Target:
        if snapshot is None:
            return cls({"/": Node()}, {})
        nodes = {path: Node(z.data, z.acl, z.counter, z.kind, z.ttl_ms) for path, z in snapshot.items()}
        return cls({"/": Node(), **nodes}, {path: znode.stat.version for path, znode in snapshot.items()})

    def children(self, path: str) -> list[str]:
        return [other for other in self.nodes if other != "/" and other != path and paths.parent(other) == path]

    def carry_out(self, operation: Operation) -> None:
        path = operation.path
        match operation:
            case CreateNode(data=data, acl=acl, kind=kind, ttl_ms=ttl_ms):
                assert path not in self.nodes
                parent = self.nodes[paths.parent(path)]
                assert parent.kind is not Kind.EPHEMERAL
                self.nodes[paths.parent(path)] = parent._replace(counter=parent.counter + 1)
                self.nodes[path] = Node(data, acl, 0, kind, ttl_ms)
            case WriteData(data=data, pin=pin):
                assert self.versions[path] == pin.version
                self.nodes[path] = self.nodes[path]._replace(data=data)
            case DeleteNode(pin=pin):
                assert self.versions[path] == pin.version
                assert not self.children(path)
                del self.nodes[path]
            case RaiseCounter(pairs=pairs):
                self.nodes[path] = self.nodes[path]._replace(counter=self.nodes[path].counter + pairs)


@FEWER
@given(neighbours())
def test_carried_out_it_gives_the_source(pair: tuple[Tree, Tree]) -> None:
    """Data, ACLs, kinds; counters exactly, or as high as the target's were and the creates it took."""
    source_tree, target_tree = low(pair[0]), low(pair[1])
    source, target = snapshot_of(source_tree, "/source"), snapshot_of(target_tree, "/t")
    found = diff(source, target)
    assume(not found.in_the_way and not found.counts.kind and not unplannable(target_tree, source_tree))
    made = make_plan(source, target, limits=Limits(4_000, 1_500), identities=ALMIGHTY)
    model = Target.of(target)
    creates: dict[str, int] = {}
    for operation in made.operations:
        model.carry_out(operation)
        if isinstance(operation, CreateNode):
            parent = paths.parent(operation.path)
            creates[parent] = creates.get(parent, 0) + 1
    for step in made.acl_steps:
        model.nodes[step.path] = model.nodes[step.path]._replace(acl=step.final)
    expected = {"/t" + path: node for path, node in source_tree.items() if node.kind is not Kind.EPHEMERAL}
    for path, node in target_tree.items():
        if node.kind is Kind.EPHEMERAL and "/t" + path not in expected:
            expected["/t" + path] = node  # somebody's session, left alone
    for path, node in expected.items():
        if node.kind is not Kind.EPHEMERAL:
            before = target_tree[path[2:]].counter if path[2:] in target_tree else 0
            expected[path] = node._replace(counter=max(node.counter, before + creates.get(path, 0)))
    assert {path: node for path, node in model.nodes.items() if path != "/"} == expected


def unplannable(target: Tree, source: Tree) -> bool:
    """Whether the target has containers or TTL nodes to delete, which undo could not bring back as they were."""
    lasting = {path for path, node in source.items() if node.kind is not Kind.EPHEMERAL}
    return any(node.kind in (Kind.CONTAINER, Kind.TTL) and path not in lasting for path, node in target.items())


@FEWER
@given(trees())
def test_over_an_absent_root_everything_is_created(tree: Tree) -> None:
    source = low(tree)
    made = plan(source, None, who=ALMIGHTY)
    model = Target.of(None)
    for operation in made.operations:
        model.carry_out(operation)
    lasting = {path: node for path, node in source.items() if node.kind is not Kind.EPHEMERAL}
    assert {path: node for path, node in model.nodes.items() if path != "/"} == {
        "/t" + path: node for path, node in lasting.items()
    }
    assert made.touched == ()
    assert made.ephemerals_source == len(source) - len(lasting)


@FEWER
@given(trees())
def test_equal_trees_need_nothing(tree: Tree) -> None:
    assert plan(low(tree), low(tree)).is_empty


@FEWER
@given(neighbours())
def test_adds_come_before_changes_before_deletes(pair: tuple[Tree, Tree]) -> None:
    """An unaware reader finds what replaces a thing before the thing goes; touched parents are none of the written."""
    try:
        made = plan(low(pair[0]), low(pair[1]), who=ALMIGHTY)
    except PlanImpossible:
        assume(False)
    rank = {CreateNode: 0, WriteData: 1, RaiseCounter: 2, DeleteNode: 3}
    ranks = [rank[type(operation)] for operation in made.operations]
    assert ranks == sorted(ranks)
    created = [paths.order_key(op.path) for op in made.operations if isinstance(op, CreateNode)]
    deleted = [paths.order_key(op.path) for op in made.operations if isinstance(op, DeleteNode)]
    assert created == sorted(created)
    assert deleted == sorted(deleted, reverse=True)
    assert not {op.path for op in made.operations if isinstance(op, CreateNode | DeleteNode)} & set(made.touched)


# -- counters ---------------------------------------------------------------------------------------------------------


def raises(made: Plan) -> dict[str, tuple[int, int]]:
    return {op.path: (op.pairs, op.to) for op in made.operations if isinstance(op, RaiseCounter)}


def test_counters_are_raised_by_what_the_creates_leave_missing() -> None:
    """[zookeeper-facts 19]: each create raises the parent's by one."""
    source = {
        "": Node(counter=3),
        "/new": Node(counter=9),
        "/new/a": Node(),
        "/new/b": Node(),
        "/old": Node(counter=20),
        "/old/c": Node(),
    }
    made = plan(source, {"": Node(counter=2), "/old": Node(counter=15)})
    assert raises(made) == {"/t/new": (7, 9), "/t/old": (4, 20)}
    assert made.notes == ()


def test_a_counter_that_is_or_becomes_higher_is_a_note() -> None:
    source = {"": Node(counter=5), "/a": Node(counter=1), "/b": Node()}
    made = plan(source, {"": Node(counter=5), "/a": Node(counter=7)})
    assert raises(made) == {}
    assert any("/t/a" in note and "cannot be lowered" in note for note in made.notes)


def test_the_cost_of_raising_counters_far_is_stated() -> None:
    """A create and a delete for each number: hours for some counters, which nobody should find out by waiting."""
    made = plan({"": Node(counter=3_000_000)}, {"": Node()})
    assert any("3000000" in note and "counter" in note for note in made.notes)


# -- in the way -------------------------------------------------------------------------------------------------------


def refused(kind: type[ZkmigError], source: Tree, target: Tree | None, who: tuple[Identity, ...] = (ME,)) -> ZkmigError:
    with pytest.raises(kind) as caught:
        plan(source, target, who=who)
    return caught.value


def test_ephemerals_are_never_planned_and_counted() -> None:
    source = {"": Node(counter=2), "/a": Node(counter=1), "/a/session": EPHEMERAL}
    made = plan(source, {"": Node(), "/other": EPHEMERAL})
    assert [operation.path for operation in made.operations if not isinstance(operation, RaiseCounter)] == ["/t/a"]
    assert (made.ephemerals_source, made.ephemerals_target) == (1, 1)


def test_an_ephemeral_in_the_way_is_refused_by_name() -> None:
    """Where a node is to be created, and below one that is to be deleted."""
    assert "/t/a" in str(refused(PlanImpossible, {"": Node(), "/a": Node()}, {"": Node(), "/a": EPHEMERAL}))
    gone = {"": Node(), "/gone": Node(), "/gone/session": EPHEMERAL}
    assert "/t/gone/session" in str(refused(PlanImpossible, {"": Node()}, gone))


@pytest.mark.parametrize("node", [Node(kind=Kind.CONTAINER), Node(kind=Kind.TTL, ttl_ms=5)])
def test_what_is_deleted_comes_back_as_what_it_was_where_that_is_known(node: Node) -> None:
    """No client can read a kind [zookeeper-facts 18], so a pre-image that is read live has it from the plan; the room
    that bringing it back takes is counted in."""
    made = plan({"": Node()}, {"": Node(), "/a": node})
    (delete,) = [operation for operation in made.operations if isinstance(operation, DeleteNode)]
    again = CreateNode("/t/a", node.data, node.acl, node.kind, node.ttl_ms)
    assert (delete.kind, delete.ttl_ms, delete.before_size) == (node.kind, node.ttl_ms, operation_size(again.write()))


def test_another_kind_is_refused() -> None:
    error = refused(PlanImpossible, {"": Node(), "/a": Node(kind=Kind.CONTAINER)}, {"": Node(), "/a": Node()})
    assert error.where == "/t/a"


# -- permissions ------------------------------------------------------------------------------------------------------


def only(perms: int) -> AclList:
    """An ACL that gives ME just these bits."""
    return (Acl(ALL, *BOB), Acl(perms, *ME))


KEEP = Node(b"1", BOBS)
QUEUE = Node(b"", BOBS, 9)
DENIED: dict[str, tuple[Tree, Tree, str, int]] = {
    "create below": ({"": KEEP, "/new": Node(b"", MINE)}, {"": KEEP}, "", CREATE | DELETE),
    "take back what was created below": ({"": KEEP, "/new": Node(b"", MINE)}, {"": KEEP}, "", CREATE),
    "write": ({"": KEEP, "/a": Node(b"2", BOBS)}, {"": KEEP, "/a": Node(b"1", BOBS)}, "/a", WRITE),
    "change the ACL": ({"": KEEP, "/a": Node(b"", MINE)}, {"": KEEP, "/a": Node(b"", BOBS)}, "/a", ADMIN),
    "delete below": ({"": KEEP}, {"": KEEP, "/old": Node(b"", MINE)}, "", CREATE | DELETE),
    "raise the counter": (
        {"": KEEP, "/a": Node(b"", BOBS, 9)},
        {"": KEEP, "/a": Node(b"", BOBS)},
        "/a",
        CREATE | DELETE,
    ),
}


@pytest.mark.parametrize("case", DENIED)
def test_what_acls_deny_is_refused_before_it_is_tried(case: str) -> None:
    """By name; and it is planned as soon as the bits that it takes are there."""
    source, target, relative, bits = deepcopy(DENIED[case])
    assert refused(NotPermitted, source, target).where == "/t" + relative
    if case.startswith("take back"):
        bits = CREATE | DELETE
    allowed = only(bits | READ)
    source = {
        path: node._replace(acl=allowed) if path == relative and node.acl == BOBS else node
        for path, node in source.items()
    }
    target = {path: node._replace(acl=allowed) if path == relative else node for path, node in target.items()}
    assert not plan(source, target).is_empty


def test_half_of_the_bits_that_a_create_takes_are_not_enough() -> None:
    """CREATE without DELETE: what is created could not be taken back."""
    for perms in (CREATE, DELETE):
        parent = Node(b"", only(perms | READ))
        refused(NotPermitted, {"": parent, "/new": Node(b"", MINE)}, {"": parent})


@pytest.mark.parametrize(
    "entry", [Acl(ALL, "sasl", "me@EXAMPLE"), Acl(ALL, "ip", "10.0.0.0/8"), Acl(ALL, "x509", "CN=me")]
)
def test_what_only_the_server_can_judge_is_left_to_it(entry: Acl) -> None:
    parent = Node(b"", (*BOBS, entry))
    assert not plan({"": parent, "/new": Node(b"", MINE)}, {"": parent}).is_empty


def test_without_identities_permissions_are_left_to_the_server() -> None:
    source, target = snapshot_of({"": KEEP, "/new": Node()}), snapshot_of({"": KEEP})
    assert not make_plan(source, target).is_empty


def test_many_denied_nodes_are_named_together() -> None:
    target = {"": Node(b"", MINE), **{f"/{number}": Node(b"1", BOBS) for number in range(9)}}
    source = {path: node._replace(data=b"2") for path, node in target.items()}
    message = str(refused(NotPermitted, source, target))
    assert "9 node(s)" in message
    assert "and 4 more" in message


# -- ACLs -------------------------------------------------------------------------------------------------------------


def test_a_created_parent_lets_the_migrator_work_below_it_until_the_commit() -> None:
    made = plan({"": Node(), "/p": Node(b"", READ_ONLY, 1), "/p/c": Node(b"", BOBS)}, {"": Node()})
    created = {op.path: op.acl for op in made.operations if isinstance(op, CreateNode)}
    assert created == {"/t/p": (*READ_ONLY, *MINE), "/t/p/c": (*BOBS, *MINE)}
    assert [(step.path, step.tighten, step.final) for step in made.acl_steps] == [
        ("/t/p", None, READ_ONLY),
        ("/t/p/c", None, BOBS),
    ]
    assert made.identity == ME


def test_an_existing_parent_is_tightened_only_as_far_as_the_work_below_allows() -> None:
    target = {"": Node(), "/p": Node(b"", OPEN_ACL)}
    made = plan({"": Node(), "/p": Node(b"", READ_ONLY, 1), "/p/c": Node()}, target)
    (step,) = made.acl_steps
    assert (step.tighten, step.final) == ((*READ_ONLY, *MINE), READ_ONLY)
    assert made.touched == ("/t/p",)


def test_a_plan_that_would_shut_its_migrator_out_is_refused() -> None:
    """Nobody to name in a temporary ACL: no digest, no address."""
    assert refused(PlanImpossible, {"": Node(), "/a": Node(b"", BOBS)}, {"": Node()}, who=()).where == "/t/a"
    assert refused(PlanImpossible, {"": Node(b"", BOBS)}, {"": Node()}, who=()).where == "/t"


# -- sizes ------------------------------------------------------------------------------------------------------------

TIGHT = Limits(frame_bytes_max=10_000, batch_bytes_max=2_000)


def test_a_node_too_large_for_a_guarded_transaction_is_refused() -> None:
    """To create, to write, to delete (its undo creates it again) and to remember."""
    large = bytes(9_900)
    for source, target in (
        ({"": Node(), "/a": Node(large)}, {"": Node()}),
        ({"": Node(large)}, {"": Node()}),
        ({"": Node()}, {"": Node(large)}),
        ({"": Node()}, {"": Node(), "/a": Node(large)}),
    ):
        with pytest.raises(PlanImpossible, match="10000"):
            plan(source, target, limits=TIGHT)


def test_a_journal_above_its_limit_is_refused() -> None:
    target = {"": Node(), **{f"/{number}": Node(bytes(1_000)) for number in range(20)}}
    made = plan({"": Node()}, target)
    assert 20_000 < made.journal_bytes < 25_000
    with pytest.raises(PlanImpossible, match="journal-max"):
        plan({"": Node()}, target, limits=Limits(journal_bytes_max=19_000))


# -- pins -------------------------------------------------------------------------------------------------------------


def test_a_plan_pins_what_it_was_made_from_and_for() -> None:
    source, target = snapshot_of({"": Node(b"1")}, "/source"), snapshot_of({"": Node(b"2")}, "/t")
    scope = TargetScope("prod", "/zkmig", "0" * 16, 4)
    made = make_plan(source, target, hosts=(("zk1", 2181),), scope=scope, identities=(ME,))
    assert (made.source.tree_hash, made.target.tree_hash) == (source.tree_hash, target.tree_hash)
    assert (made.target.root, made.target.hosts) == ("/t", (("zk1", 2181),))
    assert (made.target.scope, made.target.incarnation, made.target.epoch) == ("prod", "0" * 16, 4)
    assert made.head_bytes == head_size_max("prod", "/zkmig")
    (write,) = made.operations
    assert isinstance(write, WriteData)
    stat = target["/t"].stat
    assert write.pin == (stat.czxid, stat.version, stat.aversion)


def test_without_a_scope_the_longest_head_is_assumed() -> None:
    made = plan({"": Node(b"1")}, {"": Node(b"2")})
    assert made.head_bytes == head_size_max(None)
    assert (made.target.scope, made.target.epoch) == (None, None)


@pytest.mark.parametrize("is_there", [True, False])
def test_what_the_target_leaves_out_keeps_the_node_above_it(is_there: bool) -> None:
    """The target's snapshot does not hold what its scope excludes; its parent's Stat tells that it is there. Planned
    all the same, it would be refused as gone stale, however often it were planned again."""
    held = {"": Node(), "/old": Node(), "/old/gone": Node(), **({"/old/left": Node()} if is_there else {})}
    source, target = snapshot_of({"": Node()}, "/source"), snapshot_of(held, "/t")
    policy = Policy(excludes=("/t/old/left",))
    if is_there:
        with pytest.raises(PlanImpossible, match="left out, but below a node") as caught:
            make_plan(source, target, policy=policy, identities=(ME,))
        assert caught.value.where == "/t/old/left"
    else:
        made = make_plan(source, target, policy=policy, identities=(ME,))
        assert [operation.path for operation in made.operations] == ["/t/old/gone", "/t/old"]
