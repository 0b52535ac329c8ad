"""A draft is the tree that its changes lead to, whatever of it stays columns, and refuses what could not be meant.

Method: against a model, a dict that is changed in the plain way; then the odd cases one by one. No server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, Node, Tree, names, snapshot_of, tree_of, trees
from zkmig.errors import BadInput
from zkmig.model.acl import ALL, OPEN_ACL, Acl, Identity
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.plan.make import make_plan
from zkmig.plan.operations import RAISED_BY_MAX, RaiseCounter
from zkmig.plan.predict import predict
from zkmig.policy.captures import CapturePattern
from zkmig.script.draft import COUNTER_MAX, Draft

MORE = settings(max_examples=100)
MINE = (Acl(ALL, "digest", "me:vlUvLnd8MlacsE80rDuu6ONESbM="),)


def below(tree: Tree, path: str) -> list[str]:
    return [other for other in tree if other == path or other.startswith(path + "/")]


@st.composite
def changes(draw: st.DrawFn) -> tuple[Tree, list[tuple[str, ...]]]:
    """A tree, and steps at it: what each does, and two places, of which some are made up."""
    tree = draw(trees())
    known = sorted(tree)
    place = st.sampled_from(known) | st.builds(lambda top, name: f"{top}/{name}", st.sampled_from(known), names)
    step = st.tuples(st.sampled_from(("set", "create", "delete", "move", "copy", "cut", "acl")), place, place)
    return tree, draw(st.lists(step, max_size=12))


class Model:
    """The same steps on a dict. Each returns whether it can be done."""

    def __init__(self, tree: Tree) -> None:
        self.tree = dict(tree)

    def _is_free(self, path: str) -> bool:
        parent = path.rpartition("/")[0]
        return path not in self.tree and parent in self.tree and self.tree[parent].kind is not Kind.EPHEMERAL

    def _is_bound(self, path: str) -> bool:
        return path not in self.tree or any(self.tree[each].kind is Kind.EPHEMERAL for each in below(self.tree, path))

    def set(self, path: str, _: str) -> bool:
        if path not in self.tree or self.tree[path].kind is Kind.EPHEMERAL:
            return False
        self.tree[path] = self.tree[path]._replace(data=b"set")
        return True

    def acl(self, path: str, _: str) -> bool:
        if path not in self.tree or self.tree[path].kind is Kind.EPHEMERAL:
            return False
        self.tree[path] = self.tree[path]._replace(acl=MINE)
        return True

    def create(self, path: str, _: str) -> bool:
        if not self._is_free(path):
            return False
        self.tree[path] = Node(b"made", self.tree[path.rpartition("/")[0]].acl or OPEN_ACL)
        return True

    def delete(self, path: str, _: str) -> bool:
        if path == "" or self._is_bound(path) or len(below(self.tree, path)) > 1:
            return False
        del self.tree[path]
        return True

    def cut(self, path: str, _: str) -> bool:
        if path == "" or self._is_bound(path):
            return False
        for each in below(self.tree, path):
            del self.tree[each]
        return True

    def copy(self, path: str, other: str) -> bool:
        if self._is_bound(path) or not self._is_free(other) or f"{other}/".startswith(f"{path}/"):
            return False
        for each in below(self.tree, path):
            self.tree[other + each[len(path) :]] = self.tree[each]
        return True

    def move(self, path: str, other: str) -> bool:
        return path != "" and self.copy(path, other) and self.cut(path, "")


def take(draft: Draft, step: tuple[str, ...]) -> bool:
    """One step on the draft; False if it was refused."""
    what, path, other = step[0], f"/app{step[1]}", f"/app{step[2]}"
    do: dict[str, Callable[[], Any]] = {
        "set": lambda: draft.set(path, b"set"),
        "acl": lambda: draft.set_acl(path, MINE),
        "create": lambda: draft.create(path, b"made"),
        "delete": lambda: draft.delete(path),
        "cut": lambda: draft.delete(path, recursive=True),
        "move": lambda: draft.move(path, other),
        "copy": lambda: draft.copy(path, other),
    }
    try:
        do[what]()
    except BadInput:
        return False
    return True


def plain(tree: Tree) -> dict[str, Node]:
    """Without counters, which are looked at apart."""
    return {path: node._replace(counter=0) for path, node in tree.items()}


@MORE
@given(changes())
def test_it_is_the_tree_that_plain_changes_lead_to(case: tuple[Tree, list[tuple[str, ...]]]) -> None:
    """Refused are exactly the steps that cannot be done; all ways of looking show the same tree."""
    tree, steps = case
    base = snapshot_of(tree)
    draft, model = Draft(base), Model(tree)
    for step in steps:
        assert take(draft, step) is getattr(model, step[0])(step[1], step[2]), step
    after = draft.snapshot()
    assert plain(tree_of(after)) == plain(model.tree)
    assert draft.walk() == list(after)
    assert [draft.get(path) for path in draft.walk()] == list(after.values())
    assert all(draft.children(path) == after.children(path) for path in after)
    for pattern in ("/app/**", "/app/{a}/*", "/{top}/a", "/app/a-{b}/**", "/app", "/*/**/a"):
        there = [after.path_at(index) for index, _ in CapturePattern.parse(pattern).find(after)]
        assert [found.path for found in draft.find(pattern)] == there


@MORE
@given(changes())
def test_the_plan_leads_there_and_raises_no_more_counters_than_it_has_to(
    case: tuple[Tree, list[tuple[str, ...]]],
) -> None:
    """The tree that the plan predicts is the draft's; of what stays where it was, no counter is raised by pairs."""
    tree, steps = case
    for path, node in tree.items():  # an empty ACL is none that a plan could set, and large counters take long
        kind = Kind.EPHEMERAL if node.kind is Kind.EPHEMERAL else Kind.PERSISTENT
        tree[path] = Node(node.data, node.acl or OPEN_ACL, min(node.counter, 3), kind)
    base = snapshot_of(tree)
    draft = Draft(base)
    moved = [step for step in steps if take(draft, step) and step[0] in ("move", "copy")]
    after = draft.snapshot()
    plan = make_plan(after, base, identities=[Identity("super", "")])
    assert predict(base, "/app", plan.ordered, plan.acl_steps).tree_hash == after.tree_hash
    if not moved:
        assert not [op for op in plan.ordered.rest if isinstance(op, RaiseCounter)]


BASE: Tree = {
    "": Node(b"root", counter=5),
    "/a": Node(b"1", MINE, counter=7),
    "/a/x": Node(None),
    "/a/y": Node(b"", counter=3),
    "/json": Node(b'{"b": 1, "a": [1, 2]}'),
    "/busy": Node(counter=2),
    "/busy/lock": EPHEMERAL,
}


@pytest.fixture
def draft() -> Draft:
    return Draft(snapshot_of(BASE))


def test_a_subtree_moves_with_its_acls_null_data_and_counters(draft: Draft) -> None:
    draft.move("/app/a", "/app/new/place", makepath=True)
    draft.create("/app/new/place/z")
    after = tree_of(draft.snapshot())
    assert {path: after[path] for path in below(after, "/new")} == {
        "/new": Node(b"", counter=1),
        "/new/place": Node(b"1", MINE, counter=7),
        "/new/place/x": Node(None),
        "/new/place/y": Node(b"", counter=3),
        "/new/place/z": Node(b"", MINE),
    }
    assert not below(after, "/a")
    assert after[""].counter == 6  # the root has had one child created


def test_what_is_changed_back_is_no_change(draft: Draft) -> None:
    draft.move("/app/a", "/app/b")
    draft.move("/app/b", "/app/a")
    draft.set("/app/a/x", b"other")
    draft.set("/app/a/x", None)
    draft.create("/app/tmp")
    draft.delete("/app/tmp")
    draft.delete("/app/json")
    draft.create("/app/json", BASE["/json"].data)
    assert make_plan(draft.snapshot(), snapshot_of(BASE)).is_empty


def test_a_copy_is_apart_from_what_it_was_copied_from(draft: Draft) -> None:
    draft.set("/app/a/x", b"before")
    draft.copy("/app/a", "/app/b")
    draft.set("/app/a/x", b"behind")
    draft.create("/app/b/only")
    assert (draft.data("/app/b/x"), draft.data("/app/a/x")) == (b"before", b"behind")
    assert not draft.exists("/app/a/only")


def test_ephemerals_are_seen_and_never_changed(draft: Draft) -> None:
    """Each way of changing one, or what it stands in the way of, names it; a copy has to say that it goes without."""
    lock = "/app/busy/lock"
    assert draft.get(lock) is not None
    assert draft.children("/app/busy") == ["lock"]
    changes: tuple[Callable[[], object], ...] = (
        lambda: draft.set(lock, b""), lambda: draft.set_acl(lock, OPEN_ACL), lambda: draft.delete(lock),
        lambda: draft.move(lock, "/app/l"), lambda: draft.copy(lock, "/app/l"), lambda: draft.create(f"{lock}/below"),
        lambda: draft.delete("/app/busy", recursive=True), lambda: draft.move("/app/busy", "/app/b"),
        lambda: draft.copy("/app/busy", "/app/b"), lambda: draft.copy(lock, "/app/l", without_ephemerals=True),
    )  # fmt: skip
    for change in changes:
        with pytest.raises(BadInput, match="ephemeral"):
            change()
    assert make_plan(draft.snapshot(), snapshot_of(BASE)).is_empty
    draft.copy("/app/busy", "/app/b", without_ephemerals=True)
    assert tree_of(draft.snapshot())["/b"] == Node(counter=2)
    assert draft.children("/app/b") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree.set("/app/none", b""), "there is no such znode"),
        (lambda tree: tree.data("/app/none"), "there is no such znode"),
        (lambda tree: tree.children("/app/none"), "there is no such znode"),
        (lambda tree: tree.walk("/app/none"), "there is no such znode"),
        (lambda tree: tree.create("/app/a"), "it is there already"),
        (lambda tree: tree.create("/app/no/where"), "its parent is not there"),
        (lambda tree: tree.delete("/app"), "the root of the tree cannot be deleted"),
        (lambda tree: tree.move("/app", "/app/b"), "the root of the tree cannot be moved"),
        (lambda tree: tree.delete("/app/a"), "it has children"),
        (lambda tree: tree.move("/app/a", "/app/a/x/deeper"), "cannot be moved into itself"),
        (lambda tree: tree.copy("/app/a", "/app/a/b"), "cannot be copied into itself"),
        (lambda tree: tree.move("/app/a", "/app/json"), "it is there already"),
        (lambda tree: tree.exists("/apple"), "not inside /app"),
        (lambda tree: tree.exists("app"), "not a znode path"),
        (lambda tree: tree.create("/app/x/../y", makepath=True), "not a znode path"),
        (lambda tree: tree.get(7), "a path is a str, not int"),
        (lambda tree: tree.set("/app/a", "text"), "data is bytes or None, not str"),
        (lambda tree: tree.set("/app/a", b"", acl=[]), "an ACL without an entry"),
        (lambda tree: tree.set_acl("/app/a", [(31, "auth", "")]), "no server stores"),
        (lambda tree: tree.set_acl("/app/a", [(0, "world", "anyone")]), "perms"),
        (lambda tree: tree.set_acl("/app/a", "world"), "no ACL"),
        (lambda tree: tree.create("/app/e", kind=Kind.EPHEMERAL), "Kind.PERSISTENT"),
        (lambda tree: tree.create("/app/e", kind=Kind.TTL), "ttl_ms"),
        (lambda tree: tree.create("/app/e", ttl_ms=5), "ttl_ms"),
        (lambda tree: tree.get_json("/app/a/x"), "no JSON"),
        (lambda tree: tree.set_json("/app/a", float("nan")), "cannot be written as JSON"),
        (lambda tree: tree.set_json("/app/a", {"x": b""}), "cannot be written as JSON"),
        (lambda tree: tree.update_json("/app/a", {"x": 1}), "no object"),
        (lambda tree: tree.raise_counter("/app/a", COUNTER_MAX + 1), "a counter is"),
        (lambda tree: tree.raise_counter("/app/a", True), "a counter is"),
        (lambda tree: tree.find("/app/{x}{y}"), "two captures side by side"),
        (lambda tree: tree.find(None), "a pattern is a str, not NoneType"),
        (lambda tree: tree.update_json("/app/json", None), "NoneType is no change"),
        (lambda tree: tree.set_acl("/app/a", iter(())), "an ACL without an entry"),
        (lambda tree: tree.set_acl("/app/a", [(31, "digest", "\ud800")]), "an ACL entry is"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    draft: Draft, change: Callable[[Any], object], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        change(draft)
    assert make_plan(draft.snapshot(), snapshot_of(BASE)).is_empty


def test_an_acl_may_come_from_a_generator(draft: Draft) -> None:
    """It is gone through once: the second time it would be empty, which no server takes, as the window would show."""
    acl = [Acl(31, "world", "anyone"), Acl(1, "ip", "10.0.0.1")]
    given: Any = [(each for each in acl) for _ in range(3)]  # which the types do not allow
    draft.set_acl("/app/a", given[0])
    draft.create("/app/made", b"", given[1])
    draft.set("/app/json", b"{}", given[2])
    assert [draft.acl(path) for path in ("/app/a", "/app/made", "/app/json")] == [tuple(acl)] * 3


def test_json_is_written_in_one_way_and_only_where_its_value_changes(draft: Draft) -> None:
    draft.update_json("/app/json", {"b": 1})
    assert draft.data("/app/json") == BASE["/json"].data
    draft.update_json("/app/json", lambda value: value["a"].append("é"))
    assert draft.data("/app/json") == '{"a":[1,2,"é"],"b":1}'.encode()
    draft.update_json("/app/json", lambda value: value["a"])
    assert draft.get_json("/app/json") == [1, 2, "é"]
    draft.update_json("/app/json", lambda _: True)  # equal to 1 in Python, another value in JSON
    draft.update_json("/app/json", lambda _: 1)
    assert draft.data("/app/json") == b"1"
    draft.set("/app/json", b'{"twice": 1, "twice": 2}')
    with pytest.raises(BadInput, match="a key twice") as caught:
        draft.update_json("/app/json", {})
    assert '"twice"' not in str(caught.value)


@pytest.mark.parametrize(
    "number",
    [
        "3.14159265358979323846",
        "12345678901234567.89",
        "1e400",
        "-1e400",
        "1e-400",
        "1E99999999999999999999",
        "0.1" + "0" * 30 + "1",
    ],
)
def test_json_numbers_that_no_float_holds_are_refused(draft: Draft, number: str) -> None:
    """Else a field that nobody has changed would be written back as another number."""
    written = f'{{"number":{number},"other":1}}'.encode()
    draft.set("/app/json", written)
    with pytest.raises(BadInput, match="more digits than a float") as caught:
        draft.update_json("/app/json", {"other": 2})
    assert number not in str(caught.value)
    assert draft.data("/app/json") == written


@pytest.mark.parametrize(
    "number",
    [
        "1.10",
        "0.1",
        "0.30000000000000004",
        "-0.0",
        "1e3",
        "1E+22",
        "5e-324",
        "0.10000000000000000555",
        "0.333333",
        "9" * 40,
    ],
)
def test_json_numbers_that_stay_what_they_are(draft: Draft, number: str) -> None:
    """Also those that a program has printed of a float with more digits, or with fewer, than tell it apart."""
    draft.set("/app/json", f'{{"number":{number},"other":1}}'.encode())
    draft.update_json("/app/json", {"other": 2})
    assert draft.get_json("/app/json") == {"number": float(number) if "9" not in number else int(number), "other": 2}


def test_what_was_not_read_is_not_taken_for_absent() -> None:
    """Excluded, or not included: no answer, rather than a wrong one; nor goes what holds it."""
    read = snapshot_of(BASE)
    narrow = Snapshot(read.columns, Scope("/app", ("/app/a/secret",)), read.provenance, read.consistency)
    draft = Draft(narrow)
    for change in (
        lambda: draft.exists("/app/a/secret"), lambda: draft.create("/app/a/secret/x", makepath=True),
        lambda: draft.delete("/app/a", recursive=True), lambda: draft.move("/app/a", "/app/b"),
        lambda: draft.copy("/app/a", "/app/b"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match="left out of what was read"):
            change()
    scope = Scope("/app", (), includes=("/app/a",))
    draft = Draft(Snapshot(read.columns, scope, read.provenance, read.consistency))
    with pytest.raises(BadInput, match="not among what is included"):
        draft.get("/app/json")
    with pytest.raises(BadInput, match="only leads to what is included"):
        draft.set("/app", b"")
    draft.set("/app/a/x", b"fine")


def test_a_tree_that_is_not_there_yet_is_made_from_its_root() -> None:
    draft = Draft(None, Scope("/app"))
    assert not draft.exists("/app")
    with pytest.raises(BadInput, match="no root"):
        draft.snapshot()
    draft.create("/app/pools/web", b"w", makepath=True)
    after = draft.snapshot()
    assert tree_of(after) == {"": Node(counter=1), "/pools": Node(counter=1), "/pools/web": Node(b"w")}
    plan = make_plan(after, None, target_root="/app")
    assert (plan.counts["create"], plan.counts["raise_counter"], plan.notes) == (3, 0, ())


def test_kinds_are_made_and_kept_but_not_changed_in_place() -> None:
    base = snapshot_of({"": Node(), "/locks": Node(kind=Kind.CONTAINER), "/t": Node(b"t", kind=Kind.TTL, ttl_ms=9)})
    draft = Draft(base)
    draft.copy("/app/locks", "/app/more")
    draft.move("/app/t", "/app/u")
    draft.create("/app/v", b"", kind=Kind.TTL, ttl_ms=60_000)
    after = tree_of(draft.snapshot())
    assert after["/more"].kind is Kind.CONTAINER
    assert (after["/u"].kind, after["/u"].ttl_ms) == (Kind.TTL, 9)
    assert after["/v"].ttl_ms == 60_000
    draft.delete("/app/locks")
    with pytest.raises(BadInput, match="no write changes its kind"):
        draft.create("/app/locks", kind=Kind.TTL, ttl_ms=1)


def test_the_numbers_of_a_queue_go_on_where_they_were() -> None:
    """Goal: no sequential child gets a number that was given before. Method: move and recreate, then read counters."""
    base = snapshot_of({"": Node(counter=1), "/q": Node(counter=37), "/q/n-0000000036": Node(b"job")})
    draft = Draft(base)
    draft.move("/app/q", "/app/queue")
    draft.create("/app/queue/n-0000000037")
    assert tree_of(draft.snapshot())["/queue"].counter == 37
    draft.raise_counter("/app/queue", 38)
    draft.raise_counter("/app/queue", 5)
    assert tree_of(draft.snapshot())["/queue"].counter == 38
    draft = Draft(base)
    draft.delete("/app/q", recursive=True)
    draft.create("/app/q/new", makepath=True)
    assert tree_of(draft.snapshot())["/q"].counter == 38  # its own, and the child that is created


def test_walks_show_the_tree_as_it_was_when_they_were_asked_for(draft: Draft) -> None:
    for path in draft.walk():
        if path != "/app/busy/lock":
            draft.create(f"{path}/more")
    assert len(draft.walk()) == 2 * len(BASE) - 1


def test_a_large_tree_is_not_made_into_objects() -> None:
    """A hundred thousand nodes are moved, copied and cut out of by a handful of Nodes: those in the overlay."""
    count = 100_000
    base = snapshot_of({"": Node(), "/big": Node(), **{f"/big/{number:06}": Node() for number in range(count)}})
    draft = Draft(base)
    draft.move("/app/big", "/app/moved")
    draft.copy("/app/moved", "/app/again")
    draft.delete("/app/again/000007")
    draft.set("/app/moved/000008", b"x")
    made = 0
    todo = [draft._tree.top]
    while todo:
        node = todo.pop()
        if node is not None:
            made += 1
            todo += node.below.values()
    assert made < 10
    after = draft.snapshot()
    assert len(after) == 2 * count + 2
    assert after["/app/moved/000008"].data == b"x"
    assert "/app/again/000007" not in after


def test_a_counter_is_raised_by_no_more_than_can_be_written(draft: Draft) -> None:
    """By what is there now on the servers, whatever was raised before; a plan of a billion creates is never made."""
    now = snapshot_of(BASE)["/app/a"].counter
    draft.raise_counter("/app/a", now + RAISED_BY_MAX)
    for to in (now + RAISED_BY_MAX + 1, COUNTER_MAX):
        with pytest.raises(BadInput, match=f"to raise it to {to} takes more than 5000000 creates"):
            draft.raise_counter("/app/a", to)
    draft.create("/app/new")
    with pytest.raises(BadInput, match="its counter is at 0"):
        draft.raise_counter("/app/new", RAISED_BY_MAX + 1)
