"""Jute: ZooKeeper's record encoding, its primitives and the two structures every reply carries (Stat, ACL).

Everything is big-endian. A string is its UTF-8 length and bytes; a buffer the same, or length -1 for null; a vector a
count and its elements (zookeeper.jute, BinaryInputArchive). A field that does not decode raises JuteError with the
offset at which that field begins; this module is the specification that a compiled twin must equal, errors included.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from zkmig.errors import BadInput
from zkmig.model.acl import Acl, AclList
from zkmig.model.stat import Stat

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_STAT = struct.Struct(">qqqqiiiqiiq")
_MULTI_HEADER = struct.Struct(">i?i")
_REPLY_HEADER = struct.Struct(">iqi")

STAT_BYTES = _STAT.size
MULTI_HEADER_BYTES = _MULTI_HEADER.size

NULL = _INT.pack(-1)
FALSE, TRUE = b"\0", b"\1"

_ACL_BYTES_MIN = 12  # perms, and the lengths of scheme and id
_ACL_LISTS_KEPT = 4096  # a tree has few distinct ACL lists (ReferenceCountedACLCache rests on the same)


class JuteError(ValueError):
    """A buffer is not the record it should be. offset: where in the buffer the bad field begins."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what} at byte {offset}")
        self.what = what
        self.offset = offset


class Decoder:
    """Reads fields one after another from `buffer`. offset: where the next field begins."""

    __slots__ = ("buffer", "end", "offset")

    def __init__(self, buffer: bytes | bytearray | memoryview, offset: int = 0) -> None:
        # Slices of bytes are bytes: one copy here spares one per field.
        self.buffer = buffer if type(buffer) is bytes else bytes(buffer)
        self.offset = offset
        self.end = len(self.buffer)

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return self.end - self.offset

    def read_int(self) -> int:
        """A signed 32-bit integer."""
        offset = self.offset
        if self.end - offset < 4:
            raise JuteError("truncated int", offset)
        self.offset = offset + 4
        value: int = _INT.unpack_from(self.buffer, offset)[0]
        return value

    def read_long(self) -> int:
        """A signed 64-bit integer."""
        offset = self.offset
        if self.end - offset < 8:
            raise JuteError("truncated long", offset)
        self.offset = offset + 8
        value: int = _LONG.unpack_from(self.buffer, offset)[0]
        return value

    def read_bool(self) -> bool:
        """One byte, 0 or 1."""
        offset = self.offset
        if self.end - offset < 1:
            raise JuteError("truncated boolean", offset)
        value = self.buffer[offset]
        if value > 1:
            raise JuteError(f"boolean is {value}", offset)
        self.offset = offset + 1
        return value == 1

    def read_buffer(self) -> bytes | None:
        """Bytes, or None where the length is -1: null and empty differ."""
        offset = self.offset
        if self.end - offset < 4:
            raise JuteError("truncated buffer length", offset)
        length: int = _INT.unpack_from(self.buffer, offset)[0]
        if length == -1:
            self.offset = offset + 4
            return None
        stop = offset + 4 + length
        if length < 0 or stop > self.end:
            raise JuteError(f"buffer of {length} bytes where {self.end - offset - 4} are left", offset)
        self.offset = stop
        return self.buffer[offset + 4 : stop]

    def read_string(self) -> str:
        """A string; null is an error, since no reply that is read here carries a null string."""
        offset = self.offset
        if self.end - offset < 4:
            raise JuteError("truncated string length", offset)
        length: int = _INT.unpack_from(self.buffer, offset)[0]
        stop = offset + 4 + length
        if length < 0 or stop > self.end:
            raise JuteError(f"string of {length} bytes where {self.end - offset - 4} are left", offset)
        self.offset = stop
        try:
            return self.buffer[offset + 4 : stop].decode()
        except UnicodeDecodeError:
            return _decode_cesu8(self.buffer[offset + 4 : stop], offset)

    def read_count(self, element: str, element_bytes_min: int) -> int:
        """The count of a vector, refused where so many elements cannot be left."""
        offset = self.offset
        count = self.read_int()
        if count < 0 or count * element_bytes_min > self.end - self.offset:
            left = self.end - self.offset
            self.offset = offset
            raise JuteError(f"vector of {count} {element} where {left} bytes are left", offset)
        return count

    def read_strings(self) -> list[str]:
        """A vector of strings."""
        read = self.read_string
        return [read() for _ in range(self.read_count("strings", 4))]

    def read_stat(self) -> Stat:
        """The 68 bytes of a Stat."""
        offset = self.offset
        if self.end - offset < 68:
            raise JuteError("truncated stat", offset)
        self.offset = offset + 68
        return Stat._make(_STAT.unpack_from(self.buffer, offset))

    def read_acl(self) -> AclList:
        """A vector of ACL entries."""
        count = self.read_count("ACL entries", _ACL_BYTES_MIN)
        return tuple([Acl(self.read_int(), self.read_string(), self.read_string()) for _ in range(count)])

    def read_acl_before(self, tail_bytes: int) -> AclList:
        """A vector of ACL entries up to so many bytes before the end. Equal ones are decoded once and are one object:
        a scan reads one for each znode, and a tree has few that differ."""
        stop = self.end - tail_bytes
        try:
            acl = decode_acl(self.buffer[self.offset : max(stop, 0)])
        except JuteError:
            return self.read_acl()  # its error tells the place, and the rest may make up for it
        self.offset = stop
        return acl

    def read_multi_header(self) -> tuple[int, bool, int]:
        """(type, done, error) in front of each part of a multi's reply."""
        offset = self.offset
        if self.end - offset < 9:
            raise JuteError("truncated multi header", offset)
        if self.buffer[offset + 4] > 1:
            raise JuteError(f"boolean is {self.buffer[offset + 4]}", offset + 4)
        self.offset = offset + 9
        header: tuple[int, bool, int] = _MULTI_HEADER.unpack_from(self.buffer, offset)
        return header

    def read_reply_header(self) -> tuple[int, int, int]:
        """(xid, zxid, error) in front of every reply but the first."""
        offset = self.offset
        if self.end - offset < 16:
            raise JuteError("truncated reply header", offset)
        self.offset = offset + 16
        header: tuple[int, int, int] = _REPLY_HEADER.unpack_from(self.buffer, offset)
        return header

    def expect_end(self) -> None:
        """Refuse bytes that no field accounts for: a reply read by the wrong layout must not pass."""
        if self.offset != self.end:
            raise JuteError(f"{self.end - self.offset} bytes left over", self.offset)


def _decode_cesu8(raw: bytes, offset: int) -> str:
    # The server writes a character beyond the BMP as its two surrogates, three bytes each (BinaryOutputArchive.
    # stringToByteBuffer), though it reads true UTF-8. Paths cannot hold such characters, ACL ids can.
    try:
        return raw.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeError:
        raise JuteError("string is not UTF-8", offset) from None


@lru_cache(maxsize=_ACL_LISTS_KEPT)
def decode_acl(raw: bytes) -> AclList:
    """A vector of ACL entries, and nothing else. Raises JuteError."""
    decoder = Decoder(raw)
    acl = decoder.read_acl()
    decoder.expect_end()
    return acl


def encode_int(value: int) -> bytes:
    """A signed 32-bit integer."""
    return _INT.pack(value)


def encode_long(value: int) -> bytes:
    """A signed 64-bit integer."""
    return _LONG.pack(value)


def encode_bool(value: bool) -> bytes:
    """One byte."""
    return TRUE if value else FALSE


def encode_string(text: str) -> bytes:
    """Length and UTF-8 bytes. Raises BadInput for a lone surrogate, which has no UTF-8 form."""
    raw = utf8(text)
    return _INT.pack(len(raw)) + raw


def encode_buffer(data: bytes | None) -> bytes:
    """Length and bytes; None is length -1."""
    return NULL if data is None else _INT.pack(len(data)) + data


@lru_cache(maxsize=_ACL_LISTS_KEPT)
def encode_acl(acl: AclList) -> bytes:
    """A vector of ACL entries."""
    parts = [_INT.pack(len(acl))]
    for entry in acl:
        parts += (_INT.pack(entry.perms), encode_string(entry.scheme), encode_string(entry.id))
    return b"".join(parts)


def encode_stat(stat: Stat) -> bytes:
    """The 68 bytes of a Stat."""
    return _STAT.pack(*stat)


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of `text`."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadInput("not valid Unicode text", repr(text), "a lone surrogate cannot be sent to ZooKeeper") from None


def utf8_size(text: str) -> int:
    """len(utf8(text)) without the bytes, where that is known without encoding."""
    return len(text) if text.isascii() else len(utf8(text))
