"""The compiled walk along two trees equals its plain twin: the same changes, notes and obstacles in the same order.

Method: pairs of made-up trees with ephemerals, exclusions, other roots, with and without hashes, under every choice of
aspects and of how runs of equal siblings are passed, go through both.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import EPHEMERAL, REAL_TREES, Node, Tree, load_real, neighbours, snapshot_of, tree_of, trees
from zkmig import diff_plain, treehash
from zkmig.changes import DEFAULT_POLICY, ComparePolicy
from zkmig.diff_plain import EntryColumns, Runs, Side
from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot

if find_spec("zkmig._fast.diff") is None:
    pytest.skip("compiled modules were not built", allow_module_level=True)

from zkmig._fast import diff as compiled

DIFF = import_module("zkmig.diff")  # the package has a function of that name
ROOTS = st.sampled_from((("/app", "/app"), ("/app", "/moved/app"), ("/app", "/"), ("/", "/app"), ("/", "/")))
RUNS = (diff_plain.RUNS, Runs(1, 1, 2), Runs(2, 3, 2))
POLICIES = st.builds(ComparePolicy, st.booleans(), st.booleans(), st.booleans(), st.booleans())

Logs = tuple[EntryColumns, ...]


def walked(backend: object, source: Snapshot, target: Snapshot | None, policy: ComparePolicy, runs: Runs) -> Logs:
    """What `diff` got from a backend, as columns."""
    with mock.patch.multiple(DIFF, _backend=lambda: backend, _RUNS=runs):
        found = DIFF.diff(source, target, policy)
    return tuple((log.codes, log._sources, log._targets) for log in (found.changes, found.notes, found.in_the_way))


def agree(source: Snapshot, target: Snapshot | None, policy: ComparePolicy = DEFAULT_POLICY) -> Logs:
    """Both backends, with each choice of runs; what they say."""
    found = walked(diff_plain, source, target, policy, RUNS[0])
    for runs in RUNS:
        assert walked(diff_plain, source, target, policy, runs) == found
        assert walked(compiled, source, target, policy, runs) == found
    return found


def excluding(snapshot: Snapshot, excluded: Sequence[str]) -> Snapshot:
    """The same columns, with a scope that leaves paths out after the fact."""
    scope = Scope(snapshot.root, tuple(paths.join(snapshot.root, path) for path in excluded))
    return Snapshot(snapshot.columns, scope, snapshot.provenance, snapshot.consistency)


@given(neighbours(), ROOTS, POLICIES, st.data())
def test_neighbours(
    pair: tuple[Tree, Tree], roots: tuple[str, str], policy: ComparePolicy, choice: st.DataObject
) -> None:
    source, target = (snapshot_of(tree, root) for tree, root in zip(pair, roots, strict=True))
    if choice.draw(st.booleans()):
        below = sorted(set(pair[0]) | set(pair[1]) - {""})
        excluded = choice.draw(st.lists(st.sampled_from(below), max_size=3, unique=True))
        source, target = excluding(source, [path for path in excluded if path]), excluding(target, [])
    agree(source, target, policy)
    treehash.hashes(source)
    agree(source, target, policy)
    treehash.hashes(target)
    agree(source, target, policy)


@given(trees(), trees(), ROOTS)
def test_trees_that_have_little_in_common(one: Tree, other: Tree, roots: tuple[str, str]) -> None:
    agree(snapshot_of(one, roots[0]), snapshot_of(other, roots[1]))
    agree(snapshot_of(one, roots[0]), None)


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees(name: str) -> None:
    """Nodes of a real tree are changed, removed and turned into ephemerals, a few and many."""
    source = load_real(name)
    tree = tree_of(source)
    leaves = [path for path in tree if path and not source.children(path)]
    for changes in (3, 30, 300):
        changed = dict(tree)
        for number, path in enumerate(random.Random(changes).sample(leaves, changes)):
            match number % 3:
                case 0:
                    changed[path] = changed[path]._replace(data=b"changed")
                case 1:
                    del changed[path]
                case _:
                    changed[path] = EPHEMERAL
        target = snapshot_of(changed, "/")
        plain = agree(source, target)
        treehash.hashes(source)
        treehash.hashes(target)
        assert agree(source, target) == plain
        agree(target, source)
        source.hashes = None


def test_a_wide_parent_and_a_deep_path() -> None:
    """More entries and levels than there is room for at first."""
    tree: Tree = {"": Node(), **{f"/n{number:04d}": Node() for number in range(1500)}}
    tree |= {"/d" * depth: Node(counter=depth) for depth in range(1, 120)}
    other = {path: node._replace(data=b"other", counter=0) for path, node in tree.items() if not path.endswith("7")}
    one, two = snapshot_of(tree), snapshot_of(other)
    changes = agree(one, two)[0]
    assert len(changes[0]) > 1500
    treehash.hashes(one)
    treehash.hashes(two)
    assert agree(one, two)[0] == changes
    agree(two, one)


@pytest.mark.parametrize("column", [name for name in Side._fields if name not in ("acls", "left_out")])
def test_columns_of_unequal_length_are_refused(column: str) -> None:
    """One column at a time is too short; the compiled walk reads none of it."""
    snapshot = snapshot_of({"": Node(b"r"), "/a": Node(b"1"), "/b": Node()})
    treehash.hashes(snapshot)
    side = DIFF._side(snapshot, (), {}, True)
    aspects = diff_plain.Aspects(True, True, True, True, True)
    compiled.walk(side, side, aspects, diff_plain.RUNS)
    held = getattr(side, column)
    spoiled = side._replace(**{column: held[:-1] if held else held + type(held)(held.typecode, [0])})
    for pair in ((spoiled, side), (side, spoiled)):
        with pytest.raises(ValueError, match="not of one length"):
            compiled.walk(*pair, aspects, diff_plain.RUNS)
