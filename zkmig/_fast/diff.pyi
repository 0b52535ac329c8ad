"""The walk along two trees, compiled; zkmig/diff_plain.py specifies it, and Side, Aspects and Runs are there."""

from array import array
from typing import Any, TypeAlias

Entries: TypeAlias = tuple[bytearray, array[int], array[int]]

def walk(source: Any, target: Any, aspects: Any, runs: Any) -> tuple[Entries, Entries, Entries]: ...
def add_all(source: Any) -> Entries: ...
