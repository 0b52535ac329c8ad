"""Tree order of columns, compiled; zkmig/model/order_plain.py is the specification."""

from array import array

def tree_order(blob: bytes | bytearray, offsets: array[int]) -> array[int] | None: ...
