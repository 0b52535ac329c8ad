"""Which of plain and compiled functions over columns run: `zkmig.backend` decides, these say what either must have."""

from __future__ import annotations

from array import array
from functools import cache
from typing import Protocol

from zkmig import backend
from zkmig.model import columns_plain, order_plain
from zkmig.model.columns_plain import Blob


class Order(Protocol):
    """zkmig/model/order_plain.py says what each does."""

    def tree_order(self, blob: Blob, offsets: array[int]) -> array[int] | None: ...
    def find(self, blob: Blob, offsets: array[int], path: bytes) -> int: ...


class ColumnFunctions(Protocol):
    """zkmig/model/columns_plain.py says what each does."""

    def reordered(self, column: array[int], order: array[int]) -> array[int]: ...
    def reordered_bytes(self, column: Blob, order: array[int]) -> bytes: ...
    def reordered_blob(self, blob: Blob, offsets: array[int], order: array[int]) -> tuple[bytes, array[int]]: ...
    def shifted(self, column: array[int], start: int, stop: int, by: int) -> array[int]: ...
    def translated(self, ids: array[int], start: int, stop: int, table: array[int]) -> array[int]: ...
    def kinds_of(self, owners: array[int], start: int) -> bytes: ...
    def lengths(self, offsets: array[int], nulls: Blob, start: int, stop: int) -> array[int]: ...
    def cuts(self, lengths: array[int], first: int) -> tuple[array[int], bytes]: ...
    def divides(self, offsets: array[int], blob_bytes: int) -> bool: ...
    def first_refused(self, blob: bytes, offsets: array[int]) -> int: ...
    def shape(self, blob: bytes, offsets: array[int]) -> tuple[array[int], array[int], int, int]: ...
    def first_unsound(
        self,
        acl_ids: array[int],
        acls: int,
        kinds: bytes,
        nulls: bytes,
        data_offsets: array[int],
        ttl_nodes: array[int],
        owners: array[int],
        ends: array[int],
    ) -> tuple[int, int]: ...


@cache
def order() -> Order:
    """Functions that put columns into tree order."""
    if backend.name() == "cython":
        from zkmig._fast import order as compiled

        return compiled
    return order_plain


@cache
def columns() -> ColumnFunctions:
    """Functions that check columns and take them apart."""
    if backend.name() == "cython":
        from zkmig._fast import columns as compiled

        return compiled
    return columns_plain
