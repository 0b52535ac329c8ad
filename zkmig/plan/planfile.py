"""The plan file: a plan as bytes, pinned by the hash it ends with.

Magic, then blocks (length, msgpack), then a block of length 0, then the BLAKE2b-256 of all before it. That hash names
the plan in the epoch record, so that a migration is gone on with only with the very file it was begun with. The file
holds data that ACLs may protect: it is created readable by its owner alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

from zkmig.errors import BadInput, DamagedFile
from zkmig.model.acl import Acl, AclList, Identity
from zkmig.model.znode import Kind
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan, SourcePin, TargetPin

MAGIC = b"zkplan\x00\x01"
FORMAT = 1
HASH_BYTES = 32
OPERATIONS_PER_BLOCK = 4096
_LENGTH = struct.Struct(">I")


def encode(plan: Plan) -> bytes:
    """The whole file. The same plan always gives the same bytes."""
    body = bytearray(MAGIC)
    for block in _blocks(plan):
        packed = msgpack.packb(block)
        body += _LENGTH.pack(len(packed)) + packed
    body += _LENGTH.pack(0)
    return bytes(body + hashlib.blake2b(body, digest_size=HASH_BYTES).digest())


def plan_hash(encoded: bytes) -> str:
    """The hash that names the plan: the last 32 bytes of its file, hex."""
    return encoded[-HASH_BYTES:].hex()


def is_planfile(path: str) -> bool:
    """Whether the file begins as a plan does; its name does not matter."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def write(plan: Plan, path: str, force: bool = False) -> str:
    """Write the file and return the plan's hash: complete under its name, or not there at all.

    Raises BadInput when the file exists (unless `force`) or cannot be written.
    """
    encoded = encode(plan)
    directory = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".zkmig-", dir=directory)  # readable by its owner alone
        with os.fdopen(descriptor, "wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename, a link never replaces a file that came in between
        _sync_directory(directory)
    except FileExistsError as error:
        raise BadInput("this file exists", path, "choose another name, or overwrite it with --force") from error
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", path, "choose another place for -o") from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    return plan_hash(encoded)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: str) -> tuple[Plan, str]:
    """The plan and its hash. DamagedFile, naming the byte, for anything but a whole and unaltered plan file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", path, "name a plan file made by zkmig plan") from error
    return decode(data, path), plan_hash(data)


def decode(data: bytes, path: str) -> Plan:
    """The plan from its bytes; see `read`."""
    if data[: len(MAGIC)] != MAGIC:
        raise DamagedFile("this is not a plan file", path, 0, "make one with zkmig plan")
    blocks, end = _split(data, path)
    if hashlib.blake2b(data[:end], digest_size=HASH_BYTES).digest() != data[end:]:
        raise DamagedFile("the file was altered: its hash does not match", path, end)
    try:
        return _build([msgpack.unpackb(block, strict_map_key=False) for block in blocks])
    except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise DamagedFile(f"this plan file cannot be understood ({error})", path, len(MAGIC)) from error


def _split(data: bytes, path: str) -> tuple[list[bytes], int]:
    """The blocks, and where the trailing hash begins."""
    blocks = []
    offset = len(MAGIC)
    while True:
        if offset + _LENGTH.size > len(data):
            raise DamagedFile("the file is truncated", path, len(data))
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if length == 0:
            break
        if offset + length > len(data):
            raise DamagedFile("the file is truncated or altered: a block reaches beyond its end", path, offset)
        blocks.append(data[offset : offset + length])
        offset += length
    if len(data) != offset + HASH_BYTES:
        raise DamagedFile("the file is truncated or has something behind its end", path, min(offset, len(data)))
    return blocks, offset


# -- values to and from msgpack ---------------------------------------------------------------------------------------

_CREATE, _WRITE, _DELETE, _RAISE = range(4)


def _blocks(plan: Plan) -> Iterator[Any]:
    fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    operations: tuple[Operation, ...] = fields.pop("operations")
    steps: tuple[AclStep, ...] = fields.pop("acl_steps")
    header = {name: _plain(value) for name, value in fields.items()}
    yield {"format": FORMAT, "operations": len(operations), "acl_steps": len(steps), **header}
    for start in range(0, len(operations), OPERATIONS_PER_BLOCK):
        yield [_pack_operation(operation) for operation in operations[start : start + OPERATIONS_PER_BLOCK]]
    for start in range(0, len(steps), OPERATIONS_PER_BLOCK):
        yield [_pack_step(step) for step in steps[start : start + OPERATIONS_PER_BLOCK]]


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _pack_operation(operation: Operation) -> list[Any]:
    match operation:
        case CreateNode(path, data, acl, kind, ttl_ms):
            return [_CREATE, path, data, acl, kind.value, ttl_ms]
        case WriteData(path, data, pin, before_size):
            return [_WRITE, path, data, pin, before_size]
        case DeleteNode(path, pin, before_size):
            return [_DELETE, path, pin, before_size]
        case RaiseCounter(path, pairs, to):
            return [_RAISE, path, pairs, to]


def _pack_step(step: AclStep) -> list[Any]:
    return [step.path, step.tighten, step.final, step.pin]


def _build(blocks: list[Any]) -> Plan:
    header, *rest = blocks
    if header.pop("format") != FORMAT:
        raise ValueError("made by a newer zkmig")
    operation_count, step_count = header.pop("operations"), header.pop("acl_steps")
    items = [item for block in rest for item in block]
    if len(items) != operation_count + step_count:
        raise ValueError("operations are missing")
    source = SourcePin(**header.pop("source"))
    target = header.pop("target")
    target["hosts"] = tuple((host, port) for host, port in target["hosts"])
    limits = Limits(**header.pop("limits"))
    identity = header.pop("identity")
    for name in ("batch_ends", "touched", "notes"):
        header[name] = tuple(header[name])
    return Plan(
        source=source,
        target=TargetPin(**target),
        operations=tuple(_unpack_operation(item) for item in items[:operation_count]),
        acl_steps=tuple(_unpack_step(item) for item in items[operation_count:]),
        limits=limits,
        identity=Identity(*identity) if identity else None,
        **header,
    )


def _unpack_operation(item: list[Any]) -> Operation:
    tag, path, *fields = item
    if tag == _CREATE:
        data, acl, kind, ttl_ms = fields
        return CreateNode(path, data, _acl(acl), Kind(kind), ttl_ms)
    if tag == _WRITE:
        data, pin, before_size = fields
        return WriteData(path, data, Pin(*pin), before_size)
    if tag == _DELETE:
        pin, before_size = fields
        return DeleteNode(path, Pin(*pin), before_size)
    if tag == _RAISE:
        return RaiseCounter(path, *fields)
    raise ValueError(f"unknown operation {tag!r}")


def _unpack_step(item: list[Any]) -> AclStep:
    path, tighten, final, pin = item
    return AclStep(path, None if tighten is None else _acl(tighten), _acl(final), Pin(*pin) if pin else None)


def _acl(entries: list[Any]) -> AclList:
    return tuple(Acl(*entry) for entry in entries)
