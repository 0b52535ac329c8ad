"""The tree hash is what docs/treehash.md says, in both backends, and sees every difference that it should.

Method: the vectors and the Python code are read from the document itself and held against both backends, on made-up
and real trees; then columns are spoiled one value at a time, and both must give the same result or the same error.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from array import array
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, REAL_TREES, Node, Tree, load_real, neighbours, snapshot_of, tree_of, trees
from zkmig import treehash, treehash_plain
from zkmig.model.acl import Acl
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind

DOCUMENT = (Path(__file__).parent.parent / "docs" / "treehash.md").read_text(encoding="utf-8")
BACKENDS: dict[str, treehash.HashColumns] = {"python": treehash_plain.hash_columns}
if is_built := find_spec("zkmig._fast.treehash") is not None:
    from zkmig._fast import treehash as compiled

    BACKENDS["cython"] = compiled.hash_columns
needs_compiled = pytest.mark.skipif(not is_built, reason="compiled modules were not built")
each_backend = pytest.mark.parametrize("hash_columns", BACKENDS.values(), ids=BACKENDS.keys())
ROOTS = st.sampled_from(("/", "/app", "/zookeeper", "/a/队列"))


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found
    return found[1]


DOCUMENTED: dict[str, Any] = {}
exec(block("python"), DOCUMENTED)
VECTORS = json.loads(block("json"))


def flatten(member: dict[str, Any], path: str = "") -> Tree:
    """A vector's nested tree as a Tree."""
    data = bytes.fromhex(member.get("data") or "")
    tree = {
        path: Node(
            None if "data" in member and member["data"] is None else data,
            tuple(Acl(*entry) for entry in member.get("acl", [[31, "world", "anyone"]])),
            member.get("counter", 0),
            Kind[member.get("kind", "persistent").upper()],
            member.get("ttl_ms", 0),
        )
    }
    for name, child in member.get("children", {}).items():
        tree |= flatten(child, f"{path}/{name}")
    return tree


def nested(tree: Tree) -> dict[str, Any]:
    """A Tree as the document's code takes it."""
    members: dict[str, dict[str, Any]] = {
        path: {
            "data": node.data,
            "acl": node.acl,
            "kind": node.kind.name.lower(),
            "ttl_ms": node.ttl_ms,
            "counter": node.counter,
            "children": {},
        }
        for path, node in tree.items()
    }
    for path, member in members.items():
        if path:
            parent, _, name = path.rpartition("/")
            members[parent]["children"][name] = member
    return members[""]


def documented(tree: Tree, root: str) -> tuple[bytes, bytes]:
    node = nested(tree)
    return DOCUMENTED["tree_hash"](node), DOCUMENTED["counter_hash"](node, root)


def top(snapshot: Snapshot, hash_columns: treehash.HashColumns) -> tuple[bytes, bytes]:
    columns = treehash.compute(snapshot, hash_columns)
    return columns.tree[:32], columns.counter[:32]


@each_backend
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any], hash_columns: treehash.HashColumns) -> None:
    snapshot = snapshot_of(flatten(vector["tree"]), vector.get("root", "/app"))
    expected = bytes.fromhex(vector["tree_hash"]), bytes.fromhex(vector["counter_hash"])
    assert top(snapshot, hash_columns) == expected
    assert (snapshot.tree_hash, snapshot.counter_hash) == (vector["tree_hash"], vector["counter_hash"])


@each_backend
@given(tree=trees(), root=ROOTS)
def test_backends_equal_the_documented_code(tree: Tree, root: str, hash_columns: treehash.HashColumns) -> None:
    assert top(snapshot_of(tree, root), hash_columns) == documented(tree, root)


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees(name: str) -> None:
    snapshot = load_real(name)
    by_backend = [treehash.compute(snapshot, hash_columns) for hash_columns in BACKENDS.values()]
    assert by_backend[0] == by_backend[-1]
    assert (by_backend[0].tree[:32], by_backend[0].counter[:32]) == documented(tree_of(snapshot), "/")


@given(trees(), ROOTS)
def test_every_node_carries_the_hash_of_its_own_subtree(tree: Tree, root: str) -> None:
    """A subtree taken out of its place hashes as it did there, but for counters of the server's own nodes."""
    snapshot = snapshot_of(tree, root)
    hashes = treehash.hashes(snapshot)
    assert treehash.hashes(snapshot) is hashes
    for index, path in enumerate(snapshot):
        part = snapshot.subtree(path)
        here = slice(32 * index, 32 * index + 32)
        assert hashes.tree[here].hex() == part.tree_hash
        assert hashes.counter[here].hex() == part.counter_hash


@given(neighbours())
def test_hashes_are_equal_exactly_when_the_trees_are(pair: tuple[Tree, Tree]) -> None:
    """Two trees at different roots; tree_hash must see all but counters and ephemerals, counter_hash only those."""
    kept = [{path: node for path, node in tree.items() if node.kind is not Kind.EPHEMERAL} for tree in pair]
    one, other = (snapshot_of(tree, root) for tree, root in zip(pair, ("/app", "/moved/app"), strict=True))
    same_tree = len({frozenset((p, node._replace(counter=0)) for p, node in tree.items()) for tree in kept}) == 1
    same_counters = (
        len({frozenset((p, node.counter) for p, node in tree.items() if node.counter) for tree in kept}) == 1
    )
    assert (one.tree_hash == other.tree_hash) == same_tree
    assert (one.counter_hash == other.counter_hash) == same_counters


def spoil(arguments: list[Any], choice: st.DataObject) -> None:
    """Change one entry of one column, or its length, or an offset pair."""
    position = choice.draw(st.integers(0, len(arguments) - 1))
    column = arguments[position]
    match column:
        case int():
            arguments[position] = choice.draw(st.integers(-1, 9))
            return
        case bytes():
            spoiled: Any = bytearray(column)
            values = st.integers(0, 255)
        case _:
            spoiled = column[:]
            low, high = {"Q": (0, 2**64 - 1), "I": (0, 2**32 - 1), "i": (-(2**31), 2**31 - 1)}.get(
                column.typecode, (-(2**63), 2**63 - 1)
            )
            values = st.integers(max(low, -2), 40) | st.integers(low, high)
    if not spoiled or choice.draw(st.integers(0, 5)) == 0:
        spoiled = spoiled[:-1] if spoiled and choice.draw(st.booleans()) else spoiled + spoiled[:1] * 2
    else:
        spoiled[choice.draw(st.integers(0, len(spoiled) - 1))] = choice.draw(values)
    arguments[position] = bytes(spoiled) if isinstance(column, bytes) else spoiled


@needs_compiled
@given(trees(nodes_max=8), st.integers(0, 3), st.data())
def test_spoiled_columns_give_the_same_result_or_error(tree: Tree, times: int, choice: st.DataObject) -> None:
    arguments = list(treehash.column_arguments(snapshot_of(tree)))
    for _ in range(times):
        spoil(arguments, choice)

    def outcome(hash_columns: treehash.HashColumns) -> object:
        try:
            return hash_columns(*arguments)
        except ValueError as error:
            return str(error)

    assert outcome(treehash_plain.hash_columns) == outcome(compiled.hash_columns)


@pytest.mark.parametrize(
    ("spoiled", "error"),
    [
        ({"path_offsets": array("Q", (0, 1, 0, 5))}, "path 1 has a length out of range"),
        ({"data_offsets": array("Q", (0, 1, 2, 3))}, "data offsets do not divide their bytes"),
        ({"acl_offsets": array("Q")}, "ACL offsets do not divide their bytes"),
        ({"nulls": b"\0"}, "columns are not of one length"),
        ({"ends": array("i", (3, 1, 3))}, "end of node 1 is out of range"),
        ({"ends": array("i", (2, 3, 3)), "path_offsets": array("Q", (0, 1, 2, 5))}, "end of node 1 is out of range"),
        ({"ends": array("i", (4, 2, 3))}, "end of node 0 is out of range"),
        ({"kinds": b"\0\0\4"}, "kind of node 2 is unknown"),
        ({"kinds": b"\0\2\0"}, "time to live of node 1 is missing"),
        ({"acl_ids": array("I", (0, 1, 0))}, "ACL of node 1 is out of range"),
        ({"path_offsets": array("Q", (0, 1, 2, 5))}, "path of node 1 is not below its parent's"),
    ],
    ids=str,
)
@each_backend
def test_each_check_of_columns(spoiled: dict[str, Any], error: str, hash_columns: treehash.HashColumns) -> None:
    names = treehash_plain.hash_columns.__code__.co_varnames[:16]
    sound = dict(
        zip(names, treehash.column_arguments(snapshot_of({"": Node(), "/a": Node(), "/b": Node()}, "/")), strict=True)
    )
    hash_columns(**sound)
    with pytest.raises(ValueError, match=error):
        hash_columns(**{**sound, **spoiled})


@needs_compiled
def test_compiled_blake2b_equals_hashlib() -> None:
    """All lengths to 1,100 and of person to 16, fed whole, in blocks and in pieces across their edges."""
    content = random.Random(7693).randbytes(1100)
    for length in range(1101):
        person = b"zkmig.tree.v1.xy"[: length % 17]
        expected = hashlib.blake2b(content[:length], digest_size=32, person=person).digest()
        for piece_bytes in (1100, 128, 127, 1 + length % 131):
            assert compiled.blake2b(content[:length], person, piece_bytes) == expected


@each_backend
def test_large_values(hash_columns: treehash.HashColumns) -> None:
    """A megabyte of data, a parent of 3,000 children, 200 levels."""
    tree = {"": Node(b"\xff" * 1_048_000)}
    tree |= {f"/n{number}": Node(str(number).encode(), counter=number % 2) for number in range(3000)}
    tree |= {"/d" * depth: Node(counter=depth) for depth in range(1, 200)}
    assert top(snapshot_of(tree), hash_columns) == documented(tree, "/app")


def test_a_root_that_is_an_ephemeral_hashes_to_nothing() -> None:
    assert snapshot_of({"": EPHEMERAL}).tree_hash == "0" * 64
