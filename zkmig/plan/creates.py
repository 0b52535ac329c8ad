"""Creates: nodes that a plan creates, as columns, so that a million of them are ten objects.

They come first among a plan's operations, parents before children. A CreateNode is made when one is asked for;
sizes and frames are computed from the columns, by the backend in use.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, overload

from zkmig import backend
from zkmig.errors import BadInput
from zkmig.model.acl import AclList
from zkmig.model.znode import Kind
from zkmig.plan import creates_plain
from zkmig.plan.operations import CreateNode, Operation
from zkmig.wire.jute import encode_acl

_KINDS = tuple(Kind)  # by value
_KIND_BYTES = bytes(kind.value for kind in Kind if kind is not Kind.EPHEMERAL)
_SLASH = ord("/")
_DELETE_BYTES = 17  # that undoing a create adds to a multi beside the path: header, length, version


@dataclass(frozen=True, slots=True, eq=False)
class Creates(Sequence[CreateNode]):
    """n creates. Offsets have n + 1 entries into their blob; every other column has n. Not to be written to.

    paths_blob: absolute UTF-8 paths. nulls: 1 where data is null. acl_ids: positions in acl_table, the ACLs to create
    with. kinds: Kind values, never EPHEMERAL. ttls: milliseconds by index, for exactly the nodes of kind TTL.
    """

    paths_blob: bytes
    path_offsets: array[int]  # Q
    data_blob: bytes
    data_offsets: array[int]  # Q
    nulls: bytes
    acl_ids: array[int]  # I
    acl_table: tuple[AclList, ...]
    kinds: bytes
    ttls: Mapping[int, int]

    @classmethod
    def of(cls, nodes: Iterable[CreateNode]) -> Creates:
        """Columns of some values."""
        paths, datas = bytearray(), bytearray()
        path_offsets, data_offsets = array("Q", (0,)), array("Q", (0,))
        nulls, kinds, acl_ids = bytearray(), bytearray(), array("I")
        table: dict[AclList, int] = {}
        ttls: dict[int, int] = {}
        for index, node in enumerate(nodes):
            paths += node.path.encode()
            datas += node.data or b""
            path_offsets.append(len(paths))
            data_offsets.append(len(datas))
            nulls.append(node.data is None)
            acl_ids.append(table.setdefault(node.acl, len(table)))
            kinds.append(node.kind.value)
            if node.kind is Kind.TTL:
                ttls[index] = node.ttl_ms
        return cls(
            bytes(paths),
            path_offsets,
            bytes(datas),
            data_offsets,
            bytes(nulls),
            acl_ids,
            tuple(table),
            bytes(kinds),
            ttls,
        )

    def check(self) -> None:
        """Establish the invariant where columns come from a file. BadInput says what is wrong with them."""
        count = len(self.kinds)
        for offsets, blob in ((self.path_offsets, self.paths_blob), (self.data_offsets, self.data_blob)):
            is_sound = len(offsets) == count + 1 and offsets[0] == 0 and offsets[-1] == len(blob)
            if not is_sound or any(map(int.__gt__, offsets, offsets[1:])):
                raise BadInput("offsets of creates are not in order")
        if len(self.nulls) != count or len(self.acl_ids) != count:
            raise BadInput("columns of creates are not of one length")
        if self.kinds.translate(None, _KIND_BYTES) or self.nulls.translate(None, b"\0\1"):
            raise BadInput("a kind or null marker of a create has a value of no meaning")
        if count and max(self.acl_ids) >= len(self.acl_table):
            raise BadInput("an ACL id of a create points outside the ACL table")
        if self.ttls.keys() != {index for index, kind in enumerate(self.kinds) if kind == Kind.TTL.value}:
            raise BadInput("times to live are not those of the creates of kind TTL")
        self.paths_blob.decode()  # a ValueError unless it is UTF-8; where "/" stands a character begins
        starts, size = self.path_offsets[:-1], len(self.paths_blob)
        if any(start == size or self.paths_blob[start] != _SLASH for start in starts):
            raise BadInput("a path of a create does not begin with /")

    # -- the sequence -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.kinds)

    @overload
    def __getitem__(self, index: int) -> CreateNode: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[CreateNode, ...]: ...
    def __getitem__(self, index: int | slice) -> CreateNode | tuple[CreateNode, ...]:
        if isinstance(index, slice):
            return tuple(map(self._at, range(*index.indices(len(self)))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._at(index % len(self))

    def __iter__(self) -> Iterator[CreateNode]:
        return map(self._at, range(len(self)))

    def _at(self, index: int) -> CreateNode:
        return CreateNode(
            self.path_at(index),
            self.data_at(index),
            self.acl_table[self.acl_ids[index]],
            _KINDS[self.kinds[index]],
            self.ttls.get(index, 0),
        )

    # -- by index -----------------------------------------------------------------------------------------------------

    def path_bytes(self, index: int) -> bytes:
        """Absolute path of a node, UTF-8."""
        return self.paths_blob[self.path_offsets[index] : self.path_offsets[index + 1]]

    def path_at(self, index: int) -> str:
        """Absolute path of a node."""
        return self.path_bytes(index).decode()

    def data_at(self, index: int) -> bytes | None:
        """Data of a node; None is null."""
        if self.nulls[index]:
            return None
        return self.data_blob[self.data_offsets[index] : self.data_offsets[index + 1]]

    def paths(self) -> Iterator[str]:
        """Every path, in order."""
        return map(self.path_at, range(len(self)))

    def path_column(self) -> Iterator[bytes]:
        """Every path, UTF-8, in order."""
        blob = self.paths_blob
        return (blob[start:end] for start, end in pairwise(self.path_offsets))

    def parents(self) -> array[int]:
        """Of each, the index of its parent among them, -1 where that is none of them."""
        if not self._is_in_tree_order():
            places = {path: index for index, path in enumerate(self.path_column())}
            return array("i", [places.get(path.rpartition(b"/")[0], -1) for path in self.path_column()])
        found = array("i")
        open_paths: list[bytes] = []  # the ancestors, innermost last, of what comes next
        open_indices: list[int] = []
        blob, offsets = self.paths_blob, self.path_offsets
        for index in range(len(self)):
            path = blob[offsets[index] : offsets[index + 1]]
            parent = path[: path.rfind(b"/")]
            while open_paths and open_paths[-1] != parent:
                open_paths.pop()
                open_indices.pop()
            found.append(open_indices[-1] if open_indices else -1)
            open_paths.append(path)
            open_indices.append(index)
        return found

    def _is_in_tree_order(self) -> bool:
        keyed = self.paths_blob.replace(b"/", b"\0")
        offsets = self.path_offsets
        keys = (keyed[start:end] for start, end in pairwise(offsets))
        return all(one < other for one, other in pairwise(keys))

    def followed_by(self, nodes: Sequence[CreateNode]) -> Creates:
        """All of them, and those behind."""
        if not nodes:
            return self
        more = Creates.of(nodes)
        first, paths_bytes, data_bytes, acls = len(self), len(self.paths_blob), len(self.data_blob), len(self.acl_table)
        return Creates(
            paths_blob=self.paths_blob + more.paths_blob,
            path_offsets=self.path_offsets + array("Q", [paths_bytes + offset for offset in more.path_offsets[1:]]),
            data_blob=self.data_blob + more.data_blob,
            data_offsets=self.data_offsets + array("Q", [data_bytes + offset for offset in more.data_offsets[1:]]),
            nulls=self.nulls + more.nulls,
            acl_ids=self.acl_ids + array("I", [acls + acl_id for acl_id in more.acl_ids]),
            acl_table=(*self.acl_table, *more.acl_table),
            kinds=self.kinds + more.kinds,
            ttls={**self.ttls, **{first + index: ttl for index, ttl in more.ttls.items()}},
        )

    def picked(self, nodes: array[int]) -> Creates:
        """Those at these indices, in their order."""
        backend = columns_backend()
        paths_blob, path_offsets = backend.gather(self.paths_blob, self.path_offsets, nodes)
        data_blob, data_offsets = backend.gather(self.data_blob, self.data_offsets, nodes)
        return Creates(
            paths_blob=paths_blob,
            path_offsets=path_offsets,
            data_blob=data_blob,
            data_offsets=data_offsets,
            nulls=bytes(map(self.nulls.__getitem__, nodes)),
            acl_ids=array("I", map(self.acl_ids.__getitem__, nodes)),
            acl_table=self.acl_table,
            kinds=bytes(map(self.kinds.__getitem__, nodes)),
            ttls={at: self.ttls[node] for at, node in enumerate(nodes) if node in self.ttls} if self.ttls else {},
        )

    # -- on the wire --------------------------------------------------------------------------------------------------

    def sizes(self) -> array[int]:
        """Bytes that each adds to a multi (`forward_size`)."""
        sizes: array[int] = columns_backend().create_sizes(
            self.path_offsets, self.data_offsets, self.acl_ids, self._acls()[1], self.kinds
        )
        return sizes

    def undo_sizes(self) -> array[int]:
        """Bytes that taking each back adds to a multi (`CreateNode.undo_size`)."""
        offsets = self.path_offsets
        return array("I", [end - start + _DELETE_BYTES for start, end in pairwise(offsets)])

    def encoder(self) -> CreateEncoder:
        """What encodes them."""
        return CreateEncoder(self)

    def _acls(self) -> tuple[bytes, array[int]]:
        encoded = [encode_acl(acl) for acl in self.acl_table]
        offsets = array("Q", (0,))
        for piece in encoded:
            offsets.append(offsets[-1] + len(piece))
        return b"".join(encoded), offsets


class CreateEncoder:
    """Encodes ranges of creates as parts of a multi."""

    def __init__(self, creates: Creates) -> None:
        acl_blob, acl_offsets = creates._acls()
        self._encode = columns_backend().encode_creates
        self._columns = (
            creates.paths_blob,
            creates.path_offsets,
            creates.data_blob,
            creates.data_offsets,
            creates.nulls,
            creates.acl_ids,
            acl_blob,
            acl_offsets,
            creates.kinds,
            creates.ttls,
        )
        self._kinds = creates.kinds

    def parts(self, start: int, stop: int) -> bytes:
        """Headers and records of creates start..stop-1."""
        encoded: bytes = self._encode(*self._columns, start, stop)
        return encoded

    def opcodes(self, start: int, stop: int) -> bytes:
        """Their opcodes, a byte each."""
        return self._kinds[start:stop].translate(_OPCODES)


_OPCODES = bytes((*creates_plain.OPCODES, *range(len(creates_plain.OPCODES), 256)))


def columns_backend() -> Any:
    """The module that works on columns of creates: zkmig._fast.encode, or its twin creates_plain."""
    if backend.name() == "cython":
        from zkmig._fast import encode as compiled

        return compiled
    return creates_plain


@dataclass(frozen=True, slots=True, eq=False)
class Operations(Sequence[Operation]):
    """A plan's operations in order: creates as columns, then the rest as values. Equal to any sequence of the same."""

    creates: Creates
    rest: tuple[Operation, ...] = ()

    @classmethod
    def of(cls, operations: Iterable[Operation]) -> Operations:
        """Those creates that come first go into columns."""
        values = tuple(operations)
        count = next((i for i, op in enumerate(values) if not isinstance(op, CreateNode)), len(values))
        return cls(Creates.of(op for op in values[:count] if isinstance(op, CreateNode)), values[count:])

    def all_creates(self) -> Creates:
        """Those in `rest` behind the others. They are there because something else has to be done with them."""
        return self.creates.followed_by([operation for operation in self.rest if isinstance(operation, CreateNode)])

    def __len__(self) -> int:
        return len(self.creates) + len(self.rest)

    @overload
    def __getitem__(self, index: int) -> Operation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Operation, ...]: ...
    def __getitem__(self, index: int | slice) -> Operation | tuple[Operation, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        count = len(self.creates)
        return self.creates[index] if index < count else self.rest[index - count]

    def __iter__(self) -> Iterator[Operation]:
        return chain(self.creates, self.rest)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Operations | tuple | list):
            return len(self) == len(other) and all(map(_same, self, other))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))


def _same(one: Operation, other: object) -> bool:
    return one == other
