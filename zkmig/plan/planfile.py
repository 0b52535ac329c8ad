"""The plan file: a sealed file whose seal names the plan.

    header    a map: the plan's single values (source, target, limits, ...) and the length of each section
    sections  [name, [item, ...]] blocks: operations, acl_steps, batch_ends, touched, notes

The seal goes into the epoch record, so that a migration is gone on with only with the very file it was begun with.
"""

from __future__ import annotations

import dataclasses
from io import SEEK_END, BytesIO
from typing import Any

from zkmig import sealed
from zkmig.errors import DamagedFile
from zkmig.model.acl import Acl, AclList, Identity
from zkmig.model.znode import Kind
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan, SourcePin, TargetPin

FORMAT = sealed.Format(b"zkplan\0", 1, "plan file", "zkmig plan")

ITEMS_PER_BLOCK = 1 << 12
BYTES_PER_BLOCK = 4 << 20  # of data; a single item may exceed it
SECTIONS = ("operations", "acl_steps", "batch_ends", "touched", "notes")


def is_planfile(path: str) -> bool:
    """Whether the file begins as a plan does; its name does not matter."""
    return sealed.is_of(FORMAT, path)


def write(plan: Plan, path: str, force: bool = False) -> str:
    """Write the file, complete or not at all, and return the plan's hash.

    Raises BadInput when the file exists (unless `force`) or cannot be written.
    """
    with sealed.create(path, FORMAT, force) as writer:
        return _put(plan, writer)


def plan_hash(plan: Plan) -> str:
    """The hash that names the plan, hex: the seal of its file. The same plan always has the same."""
    return _put(plan, sealed.Writer(BytesIO(), FORMAT))


def read(path: str) -> tuple[Plan, str]:
    """The plan and its hash. DamagedFile, naming the byte, for anything but a whole and unaltered plan file."""
    header: dict[str, Any] = {}
    sections: dict[str, list[Any]] = {name: [] for name in SECTIONS}
    block = sealed.Block(0, None)
    try:
        for block in sealed.read(path, FORMAT):
            if not header:
                header = dict(block.value)
            else:
                name, items = block.value
                sections[name] += items
        plan = _build(header, sections)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedFile(f"a block is no part of a plan ({error})", path, block.offset, "plan again") from error
    return plan, _seal_of(path)


def _seal_of(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(-sealed.SEAL_BYTES, SEEK_END)
        return file.read().hex()


# -- values to and from msgpack -------------------------------------------------------------------------------------


def _put(plan: Plan, writer: sealed.Writer) -> str:
    fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    packed = {
        "operations": map(_pack_operation, fields.pop("operations")),
        "acl_steps": map(_pack_step, fields.pop("acl_steps")),
        **{name: iter(fields.pop(name)) for name in ("batch_ends", "touched", "notes")},
    }
    lengths = {name: len(getattr(plan, name)) for name in SECTIONS}
    writer.block({**{name: _plain(value) for name, value in fields.items()}, "lengths": lengths})
    for name in SECTIONS:
        items: list[Any] = []
        size = 0
        for item in packed[name]:
            items.append(item)
            size += _data_size(item)
            if len(items) == ITEMS_PER_BLOCK or size >= BYTES_PER_BLOCK:
                writer.block([name, items])
                items, size = [], 0
        if items:
            writer.block([name, items])
    return writer.seal().hex()


def _data_size(item: Any) -> int:
    return len(item[2]) if isinstance(item, list) and isinstance(item[2], bytes) else 0


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _build(header: dict[str, Any], sections: dict[str, list[Any]]) -> Plan:
    lengths = header.pop("lengths")
    for name in SECTIONS:
        if len(sections[name]) != lengths[name]:
            raise ValueError(f"{name} are missing")
    target = header.pop("target")
    target["hosts"] = tuple((host, port) for host, port in target["hosts"])
    identity = header.pop("identity")
    return Plan(
        source=SourcePin(**header.pop("source")),
        target=TargetPin(**target),
        operations=tuple(map(_unpack_operation, sections["operations"])),
        batch_ends=tuple(sections["batch_ends"]),
        acl_steps=tuple(map(_unpack_step, sections["acl_steps"])),
        touched=tuple(sections["touched"]),
        limits=Limits(**header.pop("limits")),
        identity=Identity(*identity) if identity else None,
        notes=tuple(sections["notes"]),
        **header,
    )


_CREATE, _WRITE, _DELETE, _RAISE = range(4)


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
