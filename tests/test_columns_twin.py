"""Compiled order, shape and soundness of columns equal their plain twins: the same results, the same faults.

Method: paths of made-up trees in any order, some of them spoiled, and columns changed one value at a time, go through
both; whatever one gives or raises, the other must.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.trees import REAL_TREES, Tree, load_real, names, snapshot_of, trees
from zkmig.model import columns_plain, order_plain

if find_spec("zkmig._fast.columns") is None:
    pytest.skip("compiled modules were not built", allow_module_level=True)

from zkmig._fast import columns as compiled_columns
from zkmig._fast import order as compiled_order


def blob_of(paths: Iterable[bytes]) -> tuple[bytes, array[int]]:
    offsets = array("Q", (0,))
    blob = bytearray()
    for path in paths:
        blob += path
        offsets.append(len(blob))
    return bytes(blob), offsets


def outcome(function: Callable[..., Any], *arguments: Any) -> object:
    try:
        return function(*arguments)
    except ValueError as error:
        return str(error)


def agree_on_paths(blob: bytes, offsets: array[int]) -> array[int] | None:
    """Both sides order, then check and shape what came out; returns the order."""
    with (
        mock.patch.object(order_plain, "_SORT_RUN_NODES", 7),
        mock.patch.object(columns_plain, "_COPY_NODES", 3),
    ):
        order = order_plain.tree_order(blob, offsets)
        compiled = compiled_order.tree_order(blob, offsets)
        assert compiled == order
        assert compiled is None or compiled.typecode == "i"
        if order is not None:
            plain = columns_plain.reordered_blob(blob, offsets, order)
            assert compiled_columns.reordered_blob(bytearray(blob), offsets, order) == plain
            for each in ((blob, offsets), plain):
                agree_on_shape(*each)
        agree_on_shape(blob, offsets)
    paths = [blob[start:stop] for start, stop in pairwise(offsets)]
    for path in {*paths, *(path + b"x" for path in paths), *(path[:-1] for path in paths), b"/", b""}:
        found = compiled_order.find(blob, offsets, path)
        assert found == order_plain.find(blob, offsets, path)
        if order is None and b"\0" not in blob + path:  # which counts as "/"; a path may be there twice
            assert (found >= 0) == (path in paths)
            assert found < 0 or paths[found] == path
    return order


def agree_on_shape(blob: bytes, offsets: array[int]) -> None:
    assert compiled_columns.shape(blob, offsets) == columns_plain.shape(blob, offsets)
    assert compiled_columns.first_refused(blob, offsets) == columns_plain.first_refused(blob, offsets)


# Components that are refused, edges of what paths may hold, and broken UTF-8.
PIECES = (
    b"/", b"//", b".", b"..", b"a", b"b", b"\0", b"\x1f", b"\x7f", b"\xc2\x80", b"\xc2\xa0", b"\xc3", b"\xa0",
    b"\xe0\x9f\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xee\x80\x80", b"\xef\xa3\xbf",
    b"\xef\xa4\x80", b"\xef\xbf\xaf", b"\xef\xbf\xb0", b"\xf0\x9f\x98\x80", b"\xc1\x81", b"\xff", b"12345678",
)  # fmt: skip
odd_paths = st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join)
spoiled_paths = st.one_of(odd_paths, odd_paths.map(b"/".__add__), st.binary(max_size=4))


@given(trees(nodes_max=40), st.lists(spoiled_paths, max_size=3), st.randoms(use_true_random=False), st.booleans())
def test_paths_in_any_order(tree: Tree, spoiled: list[bytes], shuffle: random.Random, is_whole: bool) -> None:
    """Trees with and without strange paths, orphans and duplicates among them."""
    root = "/app" if shuffle.random() < 0.5 else ""
    paths = [(root + relative).encode() or b"/" for relative in tree]
    if not is_whole:
        paths.remove(shuffle.choice(paths))
        paths += shuffle.choices(paths, k=2) if paths else []
    paths += spoiled
    shuffle.shuffle(paths)
    agree_on_paths(*blob_of(paths))


@given(trees(nodes_max=60), st.lists(spoiled_paths, max_size=2), st.data())
def test_few_nodes_that_come_late(tree: Tree, spoiled: list[bytes], choice: st.DataObject) -> None:
    """All but a few are in order, as when an earlier snapshot is put together with what was read again."""
    whole = [relative.encode() or b"/" for relative in tree]
    late = choice.draw(st.sets(st.sampled_from(whole), max_size=5))
    paths = sorted((path for path in whole if path not in late), key=order_plain.sort_key)
    agree_on_paths(*blob_of([*paths, *late, *spoiled]))


@given(st.lists(spoiled_paths, max_size=8))
@example([b"/", b"/a", b"//a"])
@example([b"/", b"//a", b"/a", b"/b"])
@example([b"/a", b"/a/b", b"/a\0b", b"/a/c"])
@example([b"/", b"/b", b"/a", b"/b"])
@example([b"/", b"/"])
@example([b"", b""])
@example([b"/a/.", b"b"])
@example([b"/\xc3", b"\xa0"])
@example([])
def test_paths_that_are_none(paths: list[bytes]) -> None:
    agree_on_paths(*blob_of(paths))


@given(st.lists(names | names.map(lambda name: "same-beginning-of-" + name), min_size=1, max_size=60), st.data())
def test_many_siblings(children: list[str], choice: st.DataObject) -> None:
    """More than are sorted by insertion, alike for long or short, some of them twice."""
    paths = [b"/", *(f"/{name}".encode() for name in children)]
    agree_on_paths(*blob_of(choice.draw(st.permutations(paths))))


def test_names_that_are_alike_for_very_long() -> None:
    """Every name begins with the one before it, so that each word tells only one of them apart."""
    paths = [b"/", *(b"/" + b"x" * 9 * length for length in range(1, 200))]
    shuffled = random.Random(3).sample(paths, len(paths))
    order = agree_on_paths(*blob_of(shuffled))
    assert order is not None
    assert [shuffled[index] for index in order] == paths


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees_in_scrambled_order(name: str) -> None:
    whole = load_real(name).columns
    indices = array("i", random.Random(5).sample(range(len(whole)), len(whole)))
    blob, offsets = columns_plain.reordered_blob(whole.paths_blob, whole.path_offsets, indices)
    order = compiled_order.tree_order(blob, offsets)
    assert order is not None
    assert compiled_columns.reordered_blob(blob, offsets, order) == (whole.paths_blob, whole.path_offsets)
    assert (
        compiled_columns.reordered(compiled_columns.reordered(whole.stats.czxid, indices), order) == whole.stats.czxid
    )
    assert compiled_columns.shape(whole.paths_blob, whole.path_offsets) == (whole.parents, whole.ends, 0, -1)
    assert compiled_columns.first_refused(whole.paths_blob, whole.path_offsets) == -1


# -- single columns ---------------------------------------------------------------------------------------------------

small = st.integers(-2, 6)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=6), st.sampled_from("qiIQ"), st.lists(small, max_size=6))
def test_reordering_one_column(values: list[int], typecode: str, order: list[int]) -> None:
    column, indices = array(typecode, values), array("i", order)
    assert outcome(compiled_columns.reordered, column, indices) == outcome(columns_plain.reordered, column, indices)
    octets = bytes(value & 255 for value in values)
    expected = outcome(columns_plain.reordered_bytes, octets, indices)
    assert outcome(compiled_columns.reordered_bytes, octets, indices) == expected
    offsets = array("Q", range(len(octets) + 1))
    expected = outcome(columns_plain.reordered_blob, octets, offsets, indices)
    assert outcome(compiled_columns.reordered_blob, octets, offsets, indices) == expected


@given(st.lists(st.integers(0, 9), max_size=6), small, small, small)
def test_pieces_of_columns(values: list[int], start: int, stop: int, by: int) -> None:
    for column in (array("Q", (value + 2 for value in values)), array("i", values)):
        expected = outcome(columns_plain.shifted, column, start, stop, by)
        assert outcome(compiled_columns.shifted, column, start, stop, by) == expected
    ids, table = array("I", values), array("I", (7, 5, 3, 0, 9, 2, 4))
    expected = outcome(columns_plain.translated, ids, start, stop, table)
    assert outcome(compiled_columns.translated, ids, start, stop, table) == expected
    owners = array("q", (value - 5 for value in values))
    assert outcome(compiled_columns.kinds_of, owners, start) == outcome(columns_plain.kinds_of, owners, start)


@given(st.lists(st.integers(0, 3) | st.integers(0, 2**64 - 1), max_size=5), st.integers(0, 4))
def test_offsets(values: list[int], blob_bytes: int) -> None:
    offsets, blob = array("Q", values), bytes(blob_bytes)
    assert compiled_columns.divides(offsets, blob_bytes) == columns_plain.divides(offsets, blob_bytes)
    for one, other in (
        (compiled_columns.shape, columns_plain.shape),
        (compiled_columns.first_refused, columns_plain.first_refused),
        (compiled_order.tree_order, order_plain.tree_order),
    ):
        assert outcome(one, blob, offsets) == outcome(other, blob, offsets)
    expected = outcome(order_plain.find, blob, offsets, blob)
    assert outcome(compiled_order.find, blob, offsets, blob) == expected


@given(trees(nodes_max=8), st.integers(0, 3), st.data())
def test_spoiled_values_have_the_same_fault(tree: Tree, times: int, choice: st.DataObject) -> None:
    """Values of sound columns are changed, and columns cut; the fault and its node are the same."""
    columns = snapshot_of(tree).columns
    arguments: list[Any] = [
        columns.acl_ids, len(columns.acl_table), bytearray(columns.kinds), bytearray(columns.nulls),
        columns.data_offsets, array("q", sorted(columns.ttls)), columns.stats.ephemeral_owner, columns.ends,
    ]  # fmt: skip
    for _ in range(times):
        position = choice.draw(st.integers(0, len(arguments) - 1))
        column = arguments[position]
        if isinstance(column, int):
            arguments[position] = choice.draw(st.integers(0, 3))
        elif column and choice.draw(st.integers(0, 9)):
            column[choice.draw(st.integers(0, len(column) - 1))] = choice.draw(st.integers(0, 5))
        else:
            arguments[position] = column[:-1]
    arguments[2:4] = map(bytes, arguments[2:4])
    arguments[5] = array("q", sorted(arguments[5]))
    expected = outcome(columns_plain.first_unsound, *arguments)
    assert outcome(compiled_columns.first_unsound, *arguments) == expected


@given(st.lists(st.integers(-1, 5) | st.integers(-(2**31), 2**31 - 1), max_size=6), st.integers(0, 2**40))
def test_lengths_and_back(lengths: list[int], first: int) -> None:
    """Slices of any lengths, null ones among them; from lengths to offsets and back gives the same."""
    column = array("i", lengths)
    expected = outcome(columns_plain.cuts, column, first)
    assert outcome(compiled_columns.cuts, column, first) == expected
    if isinstance(expected, tuple):
        ends, nulls = expected
        offsets = array("Q", [first, *ends])
        for marks in (nulls, b""):
            plain = columns_plain.lengths(offsets, marks, 0, len(lengths))
            assert compiled_columns.lengths(offsets, marks, 0, len(lengths)) == plain
        assert compiled_columns.lengths(offsets, nulls, 0, len(lengths)) == column


@given(st.lists(st.integers(0, 4) | st.integers(0, 2**40), max_size=5), st.binary(max_size=4), small, small)
def test_lengths_of_any_offsets(values: list[int], nulls: bytes, start: int, stop: int) -> None:
    offsets = array("Q", values)
    expected = outcome(columns_plain.lengths, offsets, nulls, start, stop)
    assert outcome(compiled_columns.lengths, offsets, nulls, start, stop) == expected
