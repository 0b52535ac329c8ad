"""Sealed files: blocks of msgpack under a magic, ending with a hash over everything before it.

    file  = magic, 7 bytes | format version, 1 byte | block ... | 0 u32 | seal, 32 bytes
    block = length of its payload u32, never 0 | payload, msgpack | check, 16 bytes

Integers are big-endian. The seal is the BLAKE2b-256 of all bytes before it (`head -c -32 FILE | b2sum -l 256`); a check
is the beginning of the same hash of all bytes before it, so damage is found, and told by its offset, before any
altered payload is unpacked. A file is complete under its name or not there at all, and readable by its owner alone,
because it may hold data that ACLs protect.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

import msgpack

from zkmig.errors import BadInput, DamagedFile

SEAL_BYTES = 32
CHECK_BYTES = 16
BLOCK_BYTES_MAX = 256 << 20
SEQUENCE_MAX = 1 << 16  # entries of a msgpack array or map; bounds what a forged header can make us reserve

_LENGTH = Struct(">I")
_LINK_UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of sealed file. magic: 7 bytes. noun: what messages call it. maker: the command that makes one.

    oldest: the first version that is still read, 0 for none but the present one.
    """

    magic: bytes
    version: int
    noun: str
    maker: str
    oldest: int = 0

    @property
    def start(self) -> bytes:
        """The first 8 bytes."""
        return self.magic + bytes((self.version,))


class Block(NamedTuple):
    """offset: where the block begins in the file, for errors about what it holds."""

    offset: int
    value: Any


def is_of(form: Format, path: str | os.PathLike[str]) -> bool:
    """Whether a file begins with the magic; its name and version do not matter. False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(form.magic)) == form.magic
    except OSError:
        return False


# -- writing ----------------------------------------------------------------------------------------------------------


class Writer:
    """Blocks on their way into a file."""

    def __init__(self, file: BinaryIO, form: Format) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=SEAL_BYTES)
        self._put(form.start)

    def block(self, value: object) -> None:
        """Append one block: anything msgpack takes, its arrays and maps of at most SEQUENCE_MAX entries."""
        payload = msgpack.packb(value)
        if len(payload) > BLOCK_BYTES_MAX:
            raise BadInput(
                f"a block of {len(payload)} bytes, the most is {BLOCK_BYTES_MAX}", hint="a znode is too large"
            )
        self._put(_LENGTH.pack(len(payload)))
        self._put(payload)
        self._put(self._hash.digest()[:CHECK_BYTES])

    def seal(self) -> bytes:
        """End the file; returns the seal."""
        self._put(_LENGTH.pack(0))
        seal = self._hash.digest()
        self._put(seal)
        return seal

    def _put(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._file.write(piece)


@contextmanager
def create(path: str | os.PathLike[str], form: Format, force: bool = False) -> Iterator[Writer]:
    """A Writer whose file gets its name when the block ends without an error; errors are those of `whole_file`."""
    with whole_file(path, force) as file:
        yield Writer(file, form)


@contextmanager
def whole_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[BinaryIO]:
    """A file that gets its name when the block ends without an error; until then nothing is to be seen. It is for its
    owner alone to read.

    Raises BadInput if the file exists (unless `force`), is not a regular file, or cannot be written.
    """
    shown, final = os.fspath(path), os.path.realpath(path)
    _refuse_existing(shown, final, force)
    folder = os.path.dirname(final)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".zkmig-", dir=folder)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, final)
        else:
            _rename_to_new(temporary, final)
        _sync_folder(folder)
    except FileExistsError as error:
        raise _exists(shown) from error
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", shown, "choose another place") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _refuse_existing(shown: str, final: str, force: bool) -> None:
    # Before the work rather than after it; `_rename_to_new` decides. A device or pipe would be replaced by a file.
    try:
        mode = os.stat(final).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise BadInput("it exists and is not a regular file", shown, "choose another name")
    if not force:
        raise _exists(shown)


def _exists(shown: str) -> BadInput:
    return BadInput("the file exists", shown, "choose another name, or overwrite it with --force")


def _rename_to_new(temporary: str, final: str) -> None:
    """Give the file its name unless the name is taken, without a moment between question and deed."""
    try:
        os.link(temporary, final)  # unlike a rename, never replaces a file
    except OSError as error:
        if error.errno not in _LINK_UNSUPPORTED:
            raise
        # FAT and some network file systems have no hard links: take the name with an empty file of our own first.
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(temporary, final)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- reading ----------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str], form: Format) -> Iterator[Block]:
    """The blocks of a file, one in memory at a time. The last step checks the seal, so use nothing before the end.

    Raises BadInput if the file cannot be opened, DamagedFile naming the offset if it is of another kind or version,
    truncated, altered, or goes on after its seal.
    """
    shown = os.fspath(path)
    try:
        with open(path, "rb") as file:
            yield from _Reader(file, shown, form).blocks()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", shown, f"{form.noun}s are made by {form.maker}") from error


def read_from(file: BinaryIO, shown: str, form: Format) -> Iterator[Block]:
    """The same of a file that is open, from its beginning, where it stands: an OSError of it goes through. shown: what
    messages call it."""
    return _Reader(file, shown, form).blocks()


class _Reader:
    def __init__(self, file: BinaryIO, shown: str, form: Format) -> None:
        self._file = file
        self._shown = shown
        self._form = form
        self._hash = hashlib.blake2b(digest_size=SEAL_BYTES)
        self._size = os.fstat(file.fileno()).st_size
        self._offset = 0

    def blocks(self) -> Iterator[Block]:
        self._check_start()
        while True:
            start = self._offset
            (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
            if length == 0:
                break
            if length > BLOCK_BYTES_MAX or length > self._size - self._offset:
                raise self._damaged("truncated or altered, a block reaches beyond its end", start)
            payload = self._take(length)
            if self._expected(CHECK_BYTES) != self._take(CHECK_BYTES):
                raise self._damaged("altered, a check does not match the block", start)
            yield Block(start, self._unpack(payload, start))
        seal_offset = self._offset
        if self._expected(SEAL_BYTES) != self._take(SEAL_BYTES):
            raise self._damaged("altered, the seal does not match", seal_offset)
        if self._file.read(1):
            raise self._damaged("altered, it goes on after its seal", self._offset)

    def _check_start(self) -> None:
        start = self._file.read(len(self._form.start))
        if start[:-1] != self._form.magic:
            raise self._damaged(f"not a {self._form.noun}", 0, f"make one with {self._form.maker}")
        if not (self._form.oldest or self._form.version) <= start[-1] <= self._form.version:
            age = "a newer" if start[-1] > self._form.version else "an older" if start[-1] else "no"
            hint = f"read it with the zkmig that made it, or make it again with {self._form.maker}"
            raise self._damaged(f"format version {start[-1]}, made by {age} zkmig", len(start) - 1, hint)
        self._hash.update(start)
        self._offset = len(start)

    def _take(self, size: int) -> bytes:
        piece = self._file.read(size)
        if len(piece) < size:
            raise self._damaged("truncated", self._offset + len(piece))
        self._hash.update(piece)
        self._offset += size
        return piece

    def _expected(self, size: int) -> bytes:
        return self._hash.digest()[:size]

    def _unpack(self, payload: bytes, start: int) -> Any:
        try:
            return msgpack.unpackb(payload, max_array_len=SEQUENCE_MAX, max_map_len=SEQUENCE_MAX)
        except (ValueError, msgpack.UnpackException, RecursionError):
            raise self._damaged("a block is not msgpack", start) from None

    def _damaged(self, what: str, offset: int, hint: str = "make the file again") -> DamagedFile:
        return DamagedFile(what, self._shown, offset, hint)
