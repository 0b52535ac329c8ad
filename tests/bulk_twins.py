"""The compiled codec of bulk reads beside its specification: each call goes to both, and what comes of it must agree.

What comes of a call is its result or its error, and the columns afterwards: those of both sides alike, and after an
error or a refusal the columns that were there before.
"""

from __future__ import annotations

import copy
from array import array
from types import ModuleType
from typing import Any

from tests.bulk_values import Asked, Fault, outcome, stats_columns
from zkmig.model.stat import Stat
from zkmig.wire import bulk_plain

BEFORE = Stat(*range(1, 12))  # of the node that columns hold at first: a decoder must append, not overwrite


def frozen(columns: Any) -> Any:
    """The values of columns, types of arrays among them, in a form that later changes do not reach."""
    if isinstance(columns, array):
        return columns.typecode, columns.tolist()
    if isinstance(columns, list | tuple):
        return tuple(map(frozen, columns))
    return bytes(columns) if isinstance(columns, bytearray) else copy.copy(columns)


def agree(compiled: ModuleType, name: str, columns: tuple[Any, ...], *arguments: Any) -> Any:
    """Call both with `columns` at the end of their arguments, before the error; what came of it."""
    mine, other = copy.deepcopy(columns), copy.deepcopy(columns)
    expected = outcome(getattr(bulk_plain, name), *arguments, *mine, Fault)
    assert outcome(getattr(compiled, name), *arguments, *other, Fault) == expected
    assert frozen(other) == frozen(mine)
    is_error = expected[0] == "raised"
    refusal = None if is_error else expected[2] if name == "decode_acls" else expected[1]
    if is_error or refusal is not None:
        assert frozen(mine) == frozen(columns)
    return mine, expected


def agree_on_data(compiled: ModuleType, asked: Asked, frame: bytes) -> Any:
    """(columns, stats, origins), and what came of it."""
    columns = bytearray(b"/was"), array("Q", (0, 4)), bytearray(b"old"), array("Q", (0, 3)), bytearray(b"\0")
    held = columns, stats_columns([BEFORE]), array("i", (0,))
    return agree(compiled, "decode_data", held, frame, asked.nodes, asked[:2])


def agree_on_children(
    compiled: ModuleType, asked: Asked, frame: bytes, left_out: frozenset[bytes] = frozenset()
) -> Any:
    """(columns, counts), and what came of it."""
    parents = frozenset(path.rpartition(b"/")[0] or b"/" for path in left_out)
    held = (bytearray(b"/was"), array("Q", (0, 4))), array("i", (1, 0))
    return agree(compiled, "decode_children", held, frame, asked.nodes, asked[:2], (left_out, parents))


def agree_on_acls(compiled: ModuleType, asked: Asked, frames: bytes, pins: tuple[array[int], array[int]]) -> Any:
    """(acl_ids, known), and what came of it."""
    held = array("I", [9]) * (len(asked.offsets) - 1), {b"\0\0\0\0": 0}
    return agree(compiled, "decode_acls", held, frames, asked.nodes, pins)
