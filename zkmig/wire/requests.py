"""Requests as values: each knows its opcode, its bytes and, without encoding, its exact size.

A frame is a length, a header (xid, opcode) and the record; a multi repeats (header, record) for each operation and ends
with a last header (zookeeper.jute, MultiOperationRecord). Sizes never count the four bytes of the length, just as the
server's jute.maxbuffer does not. Requests are not tuples, so that Delete("/a", 1) and Check("/a", 1) are never equal.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from zkmig.model.acl import AclList
from zkmig.wire import jute
from zkmig.wire.bulk import codec
from zkmig.wire.packed import PackedOperations

FRAME_BYTES_MAX_DEFAULT: Final = 0xFFFFF  # jute.maxbuffer unless configured (BinaryInputArchive.maxBuffer)

XID_WATCH: Final = -1  # ClientCnxn.NOTIFICATION_XID
XID_PING: Final = -2  # ClientCnxn.PING_XID
XID_AUTH: Final = -4  # ClientCnxn.AUTHPACKET_XID

OP_CREATE: Final = 1
OP_DELETE: Final = 2
OP_EXISTS: Final = 3
OP_GET_DATA: Final = 4
OP_SET_DATA: Final = 5
OP_GET_ACL: Final = 6
OP_SET_ACL: Final = 7
OP_GET_CHILDREN: Final = 8
OP_SYNC: Final = 9
OP_PING: Final = 11
OP_GET_CHILDREN2: Final = 12
OP_CHECK: Final = 13
OP_MULTI: Final = 14
OP_CREATE2: Final = 15
OP_CREATE_CONTAINER: Final = 19
OP_CREATE_TTL: Final = 21
OP_MULTI_READ: Final = 22
OP_AUTH: Final = 100
OP_REMOVE_WATCHES: Final = 18
OP_GET_ALL_CHILDREN_NUMBER: Final = 104
OP_ADD_WATCH: Final = 106
OP_WHO_AM_I: Final = 107
OP_CLOSE_SESSION: Final = -11
OP_ERROR: Final = -1  # type of a failed part in a multi's reply

FLAG_EPHEMERAL: Final = 1  # CreateMode in ZooKeeper's source; the two bits combine
FLAG_SEQUENTIAL: Final = 2
FLAGS_CONTAINER: Final = 4
FLAGS_TTL: Final = 5

WATCH_PERSISTENT: Final = 0  # AddWatchMode
WATCH_PERSISTENT_RECURSIVE: Final = 1
WATCHERS_OF_ANY_TYPE: Final = 3  # Watcher.WatcherType

REQUEST_HEADER_BYTES: Final = 8
MULTI_OVERHEAD: Final = REQUEST_HEADER_BYTES + jute.MULTI_HEADER_BYTES
"""Bytes of a multi's frame beside its operations: request header and closing header."""

_INT = struct.Struct(">i")
_FRAME_HEAD = struct.Struct(">iii")  # length, xid, opcode
_PART_HEADER = struct.Struct(">i?i")  # opcode, done, error
_NO_ERROR = -1  # what Java's client puts there
_LAST_PART = _PART_HEADER.pack(-1, True, _NO_ERROR)


class _Request:
    """What every request has. path: what an error names; "" where there is none."""

    __slots__ = ()

    opcode: ClassVar[int]
    operation: ClassVar[str]  # its name in ZooKeeper's manual
    writes: ClassVar[bool] = False  # whether its outcome is unknown when its answer is lost

    def record(self) -> bytes:
        """The record that follows the header."""
        raise NotImplementedError

    def record_size(self) -> int:
        """len(self.record()), without encoding."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Path(_Request):
    path: str

    def record(self) -> bytes:
        return jute.encode_string(self.path)

    def record_size(self) -> int:
        return 4 + jute.utf8_size(self.path)


@dataclass(frozen=True, slots=True)
class _PathWatch(_Request):
    path: str
    watch: bool = False

    def record(self) -> bytes:
        raw = jute.utf8(self.path)
        return b"".join((_INT.pack(len(raw)), raw, jute.TRUE if self.watch else jute.FALSE))

    def record_size(self) -> int:
        return 5 + jute.utf8_size(self.path)


@dataclass(frozen=True, slots=True)
class _PathVersion(_Request):
    path: str
    version: int

    def record(self) -> bytes:
        raw = jute.utf8(self.path)
        return b"".join((_INT.pack(len(raw)), raw, _INT.pack(self.version)))

    def record_size(self) -> int:
        return 8 + jute.utf8_size(self.path)


# -- reads ------------------------------------------------------------------------------------------------------------


class GetData(_PathWatch):
    """Data and Stat. In a MultiRead, `watch` stays False."""

    __slots__ = ()
    opcode = OP_GET_DATA
    operation = "getData"


class Exists(_PathWatch):
    """Stat, or the error NoNode."""

    __slots__ = ()
    opcode = OP_EXISTS
    operation = "exists"


class GetChildren(_PathWatch):
    """Names of the children, in no order."""

    __slots__ = ()
    opcode = OP_GET_CHILDREN
    operation = "getChildren"


class GetChildren2(_PathWatch):
    """Names of the children and Stat."""

    __slots__ = ()
    opcode = OP_GET_CHILDREN2
    operation = "getChildren"


class GetAcl(_Path):
    """ACL and Stat. A session without ADMIN on the node gets digest ids masked as "user:x" (FinalRequestProcessor)."""

    __slots__ = ()
    opcode = OP_GET_ACL
    operation = "getACL"


class Sync(_Path):
    """Wait until this server has caught up with what the leader had committed; not a quorum operation."""

    __slots__ = ()
    opcode = OP_SYNC
    operation = "sync"


class GetAllChildrenNumber(_Path):
    """How many znodes are below a path, at any depth, whoever may read them (server 3.6 or later)."""

    __slots__ = ()
    opcode = OP_GET_ALL_CHILDREN_NUMBER
    operation = "getAllChildrenNumber"


@dataclass(frozen=True, slots=True)
class MultiRead(_Request):
    """Any number of GetData and GetChildren, answered from one state of the tree (server 3.6 or later)."""

    opcode = OP_MULTI_READ
    operation = "multiRead"
    reads: tuple[GetData | GetChildren, ...]

    @property
    def path(self) -> str:
        """Of the first part."""
        return self.reads[0].path if self.reads else ""

    def record(self) -> bytes:
        return _parts(self.reads)

    def record_size(self) -> int:
        return sum(map(operation_size, self.reads)) + jute.MULTI_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class WhoAmI(_Request):
    """The session's identities as the server sees them (server 3.7 or later)."""

    opcode = OP_WHO_AM_I
    operation = "whoAmI"
    path: ClassVar[str] = ""

    def record(self) -> bytes:
        return b""

    def record_size(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class AddWatch(_Request):
    """A watch that survives triggering. mode: WATCH_PERSISTENT or WATCH_PERSISTENT_RECURSIVE (server 3.6 or later)."""

    opcode = OP_ADD_WATCH
    operation = "addWatch"
    path: str
    mode: int

    def record(self) -> bytes:
        return jute.encode_string(self.path) + jute.encode_int(self.mode)

    def record_size(self) -> int:
        return 8 + jute.utf8_size(self.path)


@dataclass(frozen=True, slots=True)
class RemoveWatches(_Request):
    """Remove the session's watches of any type from exactly this path; the error NoWatcher where there is none."""

    opcode = OP_REMOVE_WATCHES
    operation = "removeWatches"
    path: str

    def record(self) -> bytes:
        return jute.encode_string(self.path) + jute.encode_int(WATCHERS_OF_ANY_TYPE)

    def record_size(self) -> int:
        return 8 + jute.utf8_size(self.path)


# -- bulk reads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _OfNodes:
    """A read of many nodes of a column of paths; its answer is a RawResult, to be decoded by `wire.bulk`.

    paths: the column's bytes. offsets: one entry more than it has paths. nodes: indices into it. The column may grow
    until the request is sent, as bytes of the column in which nodes are collected do.
    """

    writes: ClassVar[bool] = False
    paths: bytes | bytearray
    offsets: array[int]
    nodes: array[int]

    @property
    def path(self) -> str:
        """Of the first node."""
        return self.path_of(self.nodes[0]) if self.nodes else ""

    def path_of(self, node: int) -> str:
        """Of a node of the column."""
        return bytes(self.paths[self.offsets[node] : self.offsets[node + 1]]).decode(errors="replace")


@dataclass(frozen=True, slots=True, eq=False)
class ReadMany(_OfNodes):
    """One multiRead of getData or getChildren of each node (server 3.6 or later)."""

    opcode: ClassVar[int] = OP_MULTI_READ
    operation: ClassVar[str] = "multiRead"
    part: int  # OP_GET_DATA or OP_GET_CHILDREN

    def frame(self, xid: int) -> bytes:
        """The whole frame, length prefix included."""
        frame: bytes = codec().encode_reads(self.paths, self.offsets, self.nodes, self.part, xid)
        return frame


@dataclass(frozen=True, slots=True, eq=False)
class GetAclMany(_OfNodes):
    """A getACL of each node: as many frames, with xids in a row; answered when all are. Never empty."""

    opcode: ClassVar[int] = OP_GET_ACL
    operation: ClassVar[str] = "getACL"

    def frames(self, xid: int) -> bytes:
        """All frames, length prefixes included."""
        frames: bytes = codec().encode_get_acls(self.paths, self.offsets, self.nodes, xid)
        return frames


Bulk = ReadMany | GetAclMany


# -- writes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Creation(_Request):
    path: str
    data: bytes | None
    acl: AclList
    flags: int = 0

    def record(self) -> bytes:
        raw, data = jute.utf8(self.path), self.data
        size = jute.NULL if data is None else _INT.pack(len(data))
        return b"".join((_INT.pack(len(raw)), raw, size, data or b"", jute.encode_acl(self.acl), _INT.pack(self.flags)))

    def record_size(self) -> int:
        acl_size = len(jute.encode_acl(self.acl))
        return 12 + jute.utf8_size(self.path) + (len(self.data) if self.data else 0) + acl_size


class Create(_Creation):
    """A new znode; its reply holds the path (a sequential one is numbered by the server). flags: FLAG_* combined."""

    __slots__ = ()
    opcode = OP_CREATE
    operation = "create"
    writes = True


class Create2(_Creation):
    """A new znode; its reply holds path and Stat."""

    __slots__ = ()
    opcode = OP_CREATE2
    operation = "create"
    writes = True


@dataclass(frozen=True, slots=True)
class CreateContainer(_Request):
    """A new container: the server removes it some time after its last child has gone."""

    opcode = OP_CREATE_CONTAINER
    operation = "createContainer"
    writes = True
    path: str
    data: bytes | None
    acl: AclList

    def record(self) -> bytes:
        return _Creation(self.path, self.data, self.acl, FLAGS_CONTAINER).record()

    def record_size(self) -> int:
        return _Creation(self.path, self.data, self.acl).record_size()


@dataclass(frozen=True, slots=True)
class CreateTtl(_Request):
    """A new znode that the server removes after ttl_ms without change or children (needs extendedTypesEnabled)."""

    opcode = OP_CREATE_TTL
    operation = "createTTL"
    writes = True
    path: str
    data: bytes | None
    acl: AclList
    ttl_ms: int

    def record(self) -> bytes:
        return _Creation(self.path, self.data, self.acl, FLAGS_TTL).record() + jute.encode_long(self.ttl_ms)

    def record_size(self) -> int:
        return _Creation(self.path, self.data, self.acl).record_size() + 8


class Delete(_PathVersion):
    """Remove a childless znode if its version matches (-1: any)."""

    __slots__ = ()
    opcode = OP_DELETE
    operation = "delete"
    writes = True


@dataclass(frozen=True, slots=True)
class SetData(_Request):
    """Replace data if the version matches (-1: any)."""

    opcode = OP_SET_DATA
    operation = "setData"
    writes = True
    path: str
    data: bytes | None
    version: int

    def record(self) -> bytes:
        raw, data = jute.utf8(self.path), self.data
        size = jute.NULL if data is None else _INT.pack(len(data))
        return b"".join((_INT.pack(len(raw)), raw, size, data or b"", _INT.pack(self.version)))

    def record_size(self) -> int:
        return 12 + jute.utf8_size(self.path) + (len(self.data) if self.data else 0)


class Check(_PathVersion):
    """Within a multi only: fail unless the version matches (-1: the znode exists)."""

    __slots__ = ()
    opcode = OP_CHECK
    operation = "check"
    writes = True


@dataclass(frozen=True, slots=True)
class SetAcl(_Request):
    """Replace the ACL if the node's aversion matches (-1: any). Servers refuse it within a multi."""

    opcode = OP_SET_ACL
    operation = "setACL"
    writes = True
    path: str
    acl: AclList
    version: int

    def record(self) -> bytes:
        return b"".join((jute.encode_string(self.path), jute.encode_acl(self.acl), jute.encode_int(self.version)))

    def record_size(self) -> int:
        return 8 + jute.utf8_size(self.path) + len(jute.encode_acl(self.acl))


WriteOp = Create | Create2 | CreateContainer | CreateTtl | Delete | SetData | Check
"""What a Multi may hold."""


@dataclass(frozen=True, slots=True)
class Multi(_Request):
    """Operations that apply wholly, in order, at one zxid, or not at all."""

    opcode = OP_MULTI
    operation = "multi"
    writes = True
    operations: tuple[WriteOp, ...] | PackedOperations[WriteOp]

    @property
    def path(self) -> str:
        """Of the first operation."""
        return self.operations[0].path if self.operations else ""

    def record(self) -> bytes:
        if isinstance(self.operations, PackedOperations):
            return self.operations.parts + _LAST_PART
        return _parts(self.operations)

    def record_size(self) -> int:
        if isinstance(self.operations, PackedOperations):
            return len(self.operations.parts) + jute.MULTI_HEADER_BYTES
        return sum(map(operation_size, self.operations)) + jute.MULTI_HEADER_BYTES


# -- session ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Auth(_Request):
    """Adds an identity to the session. secret: for digest, b"user:password"; never shown by repr."""

    opcode = OP_AUTH
    operation = "auth"
    path: ClassVar[str] = ""
    scheme: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Auth(scheme={self.scheme!r}, secret=...)"

    def record(self) -> bytes:
        return b"".join((jute.encode_int(0), jute.encode_string(self.scheme), jute.encode_buffer(self.secret)))

    def record_size(self) -> int:
        return 12 + jute.utf8_size(self.scheme) + len(self.secret)


@dataclass(frozen=True, slots=True)
class Ping(_Request):
    """Keeps a session alive."""

    opcode = OP_PING
    operation = "ping"
    path: ClassVar[str] = ""

    def record(self) -> bytes:
        return b""

    def record_size(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class CloseSession(_Request):
    """Ends the session at once, and removes its ephemerals in one zxid."""

    opcode = OP_CLOSE_SESSION
    operation = "closeSession"
    path: ClassVar[str] = ""

    def record(self) -> bytes:
        return b""

    def record_size(self) -> int:
        return 0


Read = (
    GetData
    | Exists
    | GetChildren
    | GetChildren2
    | GetAllChildrenNumber
    | GetAcl
    | Sync
    | MultiRead
    | WhoAmI
    | AddWatch
    | RemoveWatches
)
Write = Create | Create2 | CreateContainer | CreateTtl | Delete | SetData | SetAcl | Multi
Request = Read | Write | Auth | Ping | CloseSession


# -- frames -----------------------------------------------------------------------------------------------------------


def encode(request: Request, xid: int) -> bytes:
    """The whole frame, length prefix included."""
    record = request.record()
    return _FRAME_HEAD.pack(REQUEST_HEADER_BYTES + len(record), xid, request.opcode) + record


def frame_size(request: Request) -> int:
    """Bytes of the frame after its length prefix: what jute.maxbuffer limits. Exact, without encoding the data."""
    return REQUEST_HEADER_BYTES + request.record_size()


def operation_size(part: WriteOp | GetData | GetChildren) -> int:
    """Bytes that one part adds to a multi or multiRead; the frame has MULTI_OVERHEAD beside them."""
    return jute.MULTI_HEADER_BYTES + part.record_size()


def _parts(parts: tuple[WriteOp, ...] | tuple[GetData | GetChildren, ...]) -> bytes:
    return encode_parts(parts) + _LAST_PART


def encode_parts(parts: Iterable[WriteOp | GetData | GetChildren]) -> bytes:
    """Header and record of each, without the header that ends a multi."""
    pieces: list[bytes] = []
    for part in parts:
        pieces += (_PART_HEADER.pack(part.opcode, False, _NO_ERROR), part.record())
    return b"".join(pieces)
