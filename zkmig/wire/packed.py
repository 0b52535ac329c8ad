"""PackedOperations: operations of a multi that are encoded already, so that sending thousands makes no object for each.

A sequence of operations all the same: whoever looks at one (for the path of the one that failed) has the values made.
`all_applied` is the specification of the compiled function of that name in zkmig/_fast/encode.pyx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from struct import Struct
from typing import Generic, Protocol, TypeVar, overload

from zkmig import backend

_HEADER = Struct(">i?i")  # opcode, done, error
_INT = Struct(">i")
_STAT_BYTES = 68
_CREATE, _DELETE, _SET_DATA, _CHECK, _CREATE2, _CREATE_CONTAINER, _CREATE_TTL = 1, 2, 5, 13, 15, 19, 21
_CREATIONS = frozenset({_CREATE, _CREATE2, _CREATE_CONTAINER, _CREATE_TTL})


class Operation(Protocol):
    """What is known here of an operation."""

    @property
    def opcode(self) -> int: ...


_O = TypeVar("_O", bound=Operation)


class PackedOperations(Sequence[_O], Generic[_O]):
    """parts: each operation's header and record, one after another. opcodes: theirs, a byte each.

    make: gives the same operations as values.
    """

    __slots__ = ("_made", "_make", "opcodes", "parts")

    def __init__(self, parts: bytes, opcodes: bytes, make: Callable[[], Sequence[_O]]) -> None:
        self.parts = parts
        self.opcodes = opcodes
        self._make = make
        self._made: tuple[_O, ...] | None = None

    def behind(self, head: Sequence[_O], head_parts: bytes) -> PackedOperations[_O]:
        """The same behind some others, whose headers and records are `head_parts`."""
        opcodes = bytes(operation.opcode for operation in head) + self.opcodes
        return PackedOperations(head_parts + self.parts, opcodes, lambda: (*head, *self._values()))

    def _values(self) -> tuple[_O, ...]:
        if self._made is None:
            self._made = tuple(self._make())
        return self._made

    def __len__(self) -> int:
        return len(self.opcodes)

    @overload
    def __getitem__(self, index: int) -> _O: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[_O, ...]: ...
    def __getitem__(self, index: int | slice) -> _O | tuple[_O, ...]:
        return self._values()[index]

    def __iter__(self) -> Iterator[_O]:
        return iter(self._values())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedOperations):
            return self.parts == other.parts
        return self._values() == other

    def __hash__(self) -> int:
        return hash(self.parts)


def all_applied(reply: bytes, position: int, opcodes: bytes) -> bool:
    """Whether what stands in a reply from `position` on answers these operations, each as applied, and nothing else.

    False for anything else: that an operation failed, or that it is no such reply, the decoder of replies tells.
    """
    end = len(reply)
    if position < 0:
        return False
    for asked in opcodes:
        if end - position < _HEADER.size or reply[position + 4]:
            return False
        kind = _HEADER.unpack_from(reply, position)[0]
        position += _HEADER.size
        if asked in _CREATIONS:
            if kind not in (_CREATE, _CREATE2) or end - position < _INT.size:
                return False
            length = _INT.unpack_from(reply, position)[0]
            position += _INT.size
            if length < 0 or end - position < length:
                return False
            position += length + (_STAT_BYTES if kind == _CREATE2 else 0)
        elif asked == _SET_DATA:
            if kind != _SET_DATA:
                return False
            position += _STAT_BYTES
        elif asked not in (_DELETE, _CHECK) or kind != asked:
            return False
        if position > end:
            return False
    return end - position == _HEADER.size and bool(reply[position + 4])


@cache
def judge() -> Callable[[bytes, int, bytes], bool]:
    """`all_applied` of the backend in use."""
    if backend.name() == "cython":
        from zkmig._fast import encode as compiled

        compiled_judge: Callable[[bytes, int, bytes], bool] = compiled.all_applied
        return compiled_judge
    return all_applied
