"""ZooKeeper's transaction log as values: what every client has really changed, in the order of the zxids.

Independent of the engine: nothing but the standard library. A file `log.<zxid>` is a header (magic "ZKLG", version 2,
database id) and then entries: Adler-32 of the entry, its length, the entry itself (a header with session, cxid, zxid,
time and type; the transaction as jute; since ZooKeeper 3.6 a digest of the whole tree), and the byte "B". Zeros behind
the last entry were put there in advance; an entry that breaks off was being written when the server was killed.
(FileTxnLog, SerializeUtils and zookeeper.jute of ZooKeeper say so.)
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

MAGIC: Final = 0x5A4B4C47
VERSION: Final = 2
END_OF_ENTRY: Final = 0x42

ERROR, CREATE, DELETE, SET_DATA, SET_ACL = -1, 1, 2, 5, 7
CHECK, MULTI, CREATE2, RECONFIG = 13, 14, 15, 16
CREATE_CONTAINER, DELETE_CONTAINER, CREATE_TTL = 19, 20, 21
CREATE_SESSION, CLOSE_SESSION = -10, -11

CONTAINER_OWNER: Final = -(1 << 63)  # EphemeralType.CONTAINER
TTL_MASK: Final = -(1 << 56)  # the topmost byte set: EphemeralType.TTL

_FILE_HEADER = struct.Struct(">iiq")
_ENTRY_HEAD = struct.Struct(">qi")  # checksum, length
_TXN_HEADER = struct.Struct(">qiqqi")  # session, cxid, zxid, time, type
_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_DIGEST = struct.Struct(">iq")


class AclRow(NamedTuple):
    """One entry of an ACL."""

    perms: int
    scheme: str
    id: str


AclRows = tuple[AclRow, ...]


class Create(NamedTuple):
    """owner: the session of an ephemeral, CONTAINER_OWNER, TTL_MASK | ttl, or 0. parent_creates: the parent's counter
    of creates afterwards, -1 for one more than before."""

    path: str
    data: bytes | None
    acl: AclRows
    owner: int
    parent_creates: int


class Delete(NamedTuple):
    path: str


class SetData(NamedTuple):
    """version: what it is afterwards."""

    path: str
    data: bytes | None
    version: int


class SetAcl(NamedTuple):
    """aversion: what it is afterwards."""

    path: str
    acl: AclRows
    aversion: int


class Check(NamedTuple):
    """next_version: one more than the version that was found (the expected one is not kept)."""

    path: str
    next_version: int


class Failed(NamedTuple):
    """An operation, and with it its whole transaction, that was refused."""

    code: int


Operation = Create | Delete | SetData | SetAcl | Check | Failed


class Entry(NamedTuple):
    """One transaction. type: as in ZooKeeper's OpCode. operations: () for sessions that begin; deletes of a session's
    ephemerals for one that ends. digest: of the tree afterwards, None where there is none."""

    zxid: int
    session: int
    cxid: int
    time_ms: int
    type: int
    operations: tuple[Operation, ...]
    digest: int | None

    @property
    def failed(self) -> bool:
        """Whether it changed nothing because it was refused."""
        return any(type(operation) is Failed for operation in self.operations)


class DamagedLog(Exception):
    """A log file that is not as servers write it, other than by being cut off."""


def read_log(file: Path) -> Iterator[Entry]:
    """Entries of one file, in its order, up to its end or to where it breaks off."""
    raw = file.read_bytes()
    if len(raw) < _FILE_HEADER.size:
        return  # killed before the header was written
    magic, version, _ = _FILE_HEADER.unpack_from(raw)
    if (magic, version) != (MAGIC, VERSION):
        raise DamagedLog(f"{file}: not a transaction log of version {VERSION}")
    at = _FILE_HEADER.size
    while at + _ENTRY_HEAD.size <= len(raw):
        checksum, length = _ENTRY_HEAD.unpack_from(raw, at)
        at += _ENTRY_HEAD.size
        if length == 0:
            return  # zeros laid out in advance
        entry = raw[at : at + length]
        at += length + 1
        if length < 0 or at > len(raw) or raw[at - 1] != END_OF_ENTRY or zlib.adler32(entry) != checksum:
            return  # torn: the server was killed while it wrote
        yield parse_entry(entry)


def log_files(data_dir: Path) -> list[Path]:
    """All log files of a server, oldest first. data_dir: its dataDir."""
    return sorted((data_dir / "version-2").glob("log.*"), key=lambda file: int(file.suffix[1:], 16))


def read_logs(data_dir: Path) -> Iterator[Entry]:
    """Entries of all log files of one server. A zxid may come again, and one that was never committed may be there."""
    for file in log_files(data_dir):
        yield from read_log(file)


def parse_entry(raw: bytes) -> Entry:
    """An entry from its bytes, without checksum and end."""
    session, cxid, zxid, time_ms, kind = _TXN_HEADER.unpack_from(raw)
    jute = _Jute(raw, _TXN_HEADER.size)
    operations = _operations(kind, jute, session)
    return Entry(zxid, session, cxid, time_ms, kind, operations, jute.digest())


def _operations(kind: int, jute: _Jute, session: int) -> tuple[Operation, ...]:
    if kind == MULTI:
        return tuple(_part(jute, session) for _ in range(jute.number()))
    if kind == CREATE_SESSION:
        jute.number()
        return ()
    if kind == CLOSE_SESSION:
        # Servers from before 3.6 write no paths; whoever replays knows the session's ephemerals.
        return tuple(Delete(jute.text()) for _ in range(jute.number())) if jute.has_more else ()
    return (_operation(kind, jute, session),)


def _part(jute: _Jute, session: int) -> Operation:
    kind = jute.number()
    return _operation(kind, _Jute(jute.buffer() or b"", 0), session)


def _operation(kind: int, jute: _Jute, session: int) -> Operation:
    parser = _PARSERS.get(kind)
    if parser is None:
        raise DamagedLog(f"a transaction of type {kind}")
    return parser(jute, session)


def _create(jute: _Jute, session: int) -> Create:
    path, data, acl = jute.text(), jute.buffer(), jute.acl()
    owner = session if jute.flag() else 0
    return Create(path, data, acl, owner, jute.number() if jute.has_more else -1)


def _create_ttl(jute: _Jute, _: int) -> Create:
    path, data, acl, creates = jute.text(), jute.buffer(), jute.acl(), jute.number()
    return Create(path, data, acl, TTL_MASK | jute.long_number(), creates)


def _create_container(jute: _Jute, _: int) -> Create:
    return Create(jute.text(), jute.buffer(), jute.acl(), CONTAINER_OWNER, jute.number())


_PARSERS: dict[int, Callable[[_Jute, int], Operation]] = {
    CREATE: _create,
    CREATE2: _create,
    CREATE_TTL: _create_ttl,
    CREATE_CONTAINER: _create_container,
    DELETE: lambda jute, _: Delete(jute.text()),
    DELETE_CONTAINER: lambda jute, _: Delete(jute.text()),
    SET_DATA: lambda jute, _: SetData(jute.text(), jute.buffer(), jute.number()),
    RECONFIG: lambda jute, _: SetData(jute.text(), jute.buffer(), jute.number()),
    SET_ACL: lambda jute, _: SetAcl(jute.text(), jute.acl(), jute.number()),
    CHECK: lambda jute, _: Check(jute.text(), jute.number()),
    ERROR: lambda jute, _: Failed(jute.number()),
}


class _Jute:
    """Reads jute's types one after another."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw = raw
        self._at = at

    @property
    def has_more(self) -> bool:
        return self._at < len(self._raw)

    def flag(self) -> bool:
        self._at += 1
        return self._raw[self._at - 1] != 0

    def number(self) -> int:
        (value,) = _INT.unpack_from(self._raw, self._at)
        self._at += _INT.size
        return int(value)

    def long_number(self) -> int:
        (value,) = _LONG.unpack_from(self._raw, self._at)
        self._at += _LONG.size
        return int(value)

    def buffer(self) -> bytes | None:
        length = self.number()
        if length < 0:
            return None
        self._at += length
        return self._raw[self._at - length : self._at]

    def text(self) -> str:
        return (self.buffer() or b"").decode()

    def acl(self) -> AclRows:
        return tuple(AclRow(self.number(), self.text(), self.text()) for _ in range(max(self.number(), 0)))

    def digest(self) -> int | None:
        """The tree's digest at the entry's end, if there is one of the only version known (2)."""
        if len(self._raw) - self._at != _DIGEST.size:
            return None
        version, digest = _DIGEST.unpack_from(self._raw, self._at)
        return int(digest) if version == 2 else None
