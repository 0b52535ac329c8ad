"""The plan file: a sealed file whose seal names the plan.

    header    a map: the plan's single values (source, target, limits, ...), length of each section
    sections  [name, [item, ...]] blocks: acls (of creates), creates, operations (those behind them), acl_steps,
              batch_ends, touched, notes, quotas (to set), quotas_left (that are not carried), baseline (since version
              3: what the plan's rules need to know of the tree before)

An item of creates is columns of up to CREATES_PER_ITEM nodes: paths and data, each as lengths and a blob; null markers,
positions among the ACLs, kinds; times to live by position in the item. Integers in columns are little-endian. Before
version 4, ACLs and quotas were lists in the header, which had room for `sealed.SEQUENCE_MAX` of each.

The seal goes into the epoch record, so that a migration is gone on with only with the very file it was begun with.
"""

from __future__ import annotations

import dataclasses
import sys
from array import array
from bisect import bisect_right
from io import SEEK_END, BytesIO
from itertools import accumulate, islice, pairwise
from operator import sub
from typing import Any

from zkmig import sealed
from zkmig.errors import BadInput, DamagedFile
from zkmig.model.acl import AclList, Identity, acl_of_plain
from zkmig.model.quota import Quota
from zkmig.model.znode import Kind
from zkmig.plan.creates import Creates, Operations
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan, SourcePin, TargetPin
from zkmig.plan.scriptpin import ScriptPin
from zkmig.plan.soundfile import header_of, items_of, soundness_of
from zkmig.policy.captures import CapturePattern
from zkmig.policy.leftout import LeftOut

FORMAT = sealed.Format(b"zkplan\0", 4, "plan file", "zkmig plan", oldest=2)

ITEMS_PER_BLOCK = 1 << 12
BYTES_PER_BLOCK = 4 << 20  # of data and ACLs; a single item may exceed it
CREATES_PER_ITEM = 1 << 13
SECTIONS = (
    "acls",
    "creates",
    "operations",
    "acl_steps",
    "batch_ends",
    "touched",
    "notes",
    "quotas",
    "quotas_left",
    "baseline",
)


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
    except DamagedFile:
        raise
    except BadInput as error:
        if not header:  # nothing of it was looked at yet: it could not be read at all
            raise
        raise DamagedFile(f"a block is no part of a plan ({error})", path, block.offset, "plan again") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise DamagedFile(f"a block is no part of a plan ({error})", path, block.offset, "plan again") from error
    return plan, _seal_of(path)


def _seal_of(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(-sealed.SEAL_BYTES, SEEK_END)
        return file.read().hex()


# -- values to and from msgpack -------------------------------------------------------------------------------------


def _put(plan: Plan, writer: sealed.Writer) -> str:
    fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    creates, rest = plan.ordered.creates, plan.ordered.rest
    del fields["operations"]
    baseline = list(items_of(fields.pop("soundness")))
    ranges = _create_ranges(creates)
    packed = {
        "acls": iter(creates.acl_table),
        "creates": (_pack_creates(creates, start, stop) for start, stop in ranges),
        "operations": map(_pack_operation, rest),
        "acl_steps": map(_pack_step, fields.pop("acl_steps")),
        **{name: iter(fields.pop(name)) for name in ("batch_ends", "touched", "notes")},
        "quotas": ((quota.path, quota.text) for quota in fields.pop("quotas")),
        "quotas_left": iter(plan.left_out.quotas or ()),
        "baseline": iter(baseline),
    }
    lengths = {name: len(getattr(plan, name)) for name in ("acl_steps", "batch_ends", "touched", "notes")}
    lengths |= {"acls": len(creates.acl_table), "creates": len(ranges), "operations": len(rest)}
    lengths |= {"quotas": len(plan.quotas), "quotas_left": len(plan.left_out.quotas or ()), "baseline": len(baseline)}
    if plan.left_out.quotas is not None:
        fields["left_out"] = dataclasses.replace(plan.left_out, quotas=())
    header = {name: _plain(value) for name, value in fields.items()}
    header["soundness"] = header_of(plan.soundness)
    writer.block({**header, "lengths": lengths})
    for name in SECTIONS:
        items: list[Any] = []
        size = 0
        for item in packed[name]:
            items.append(item)
            size += _acl_size(item) if name == "acls" else _data_size(item)
            if len(items) == ITEMS_PER_BLOCK or size >= BYTES_PER_BLOCK:
                writer.block([name, items])
                items, size = [], 0
        if items:
            writer.block([name, items])
    return writer.seal().hex()


def _data_size(item: Any) -> int:
    if isinstance(item, dict):
        return BYTES_PER_BLOCK  # columns of creates, and pieces of the baseline, have blocks of their own
    return len(item[2]) if isinstance(item, list) and isinstance(item[2], bytes) else 0


def _acl_size(acl: AclList) -> int:
    return sum(len(entry.id) for entry in acl)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _create_ranges(creates: Creates) -> list[tuple[int, int]]:
    """Where one item ends and the next begins."""
    ranges: list[tuple[int, int]] = []
    start, count = 0, len(creates)
    while start < count:
        data_end = bisect_right(creates.data_offsets, creates.data_offsets[start] + BYTES_PER_BLOCK) - 1
        stop = min(count, start + CREATES_PER_ITEM, max(data_end, start + 1))
        ranges.append((start, stop))
        start = stop
    return ranges


def _pack_creates(creates: Creates, start: int, stop: int) -> dict[str, Any]:
    paths, datas = creates.path_offsets[start : stop + 1], creates.data_offsets[start : stop + 1]
    return {
        "paths": creates.paths_blob[paths[0] : paths[-1]],
        "path_lengths": _little(array("I", map(sub, paths[1:], paths))),
        "data": creates.data_blob[datas[0] : datas[-1]],
        "data_lengths": _little(array("I", map(sub, datas[1:], datas))),
        "nulls": creates.nulls[start:stop],
        "acl_ids": _little(creates.acl_ids[start:stop]),
        "kinds": creates.kinds[start:stop],
        "ttls": [[node - start, creates.ttls[node]] for node in range(start, stop) if node in creates.ttls]
        if creates.ttls
        else [],
    }


def _unpack_creates(items: list[dict[str, Any]], acl_table: list[Any]) -> Creates:
    """ValueError (BadInput, where columns do not fit together) for what is no creates."""
    path_offsets, data_offsets, acl_ids = array("Q", (0,)), array("Q", (0,)), array("I")
    ttls: dict[int, int] = {}
    for item in items:
        first = len(acl_ids)
        for name, offsets in (("path_lengths", path_offsets), ("data_lengths", data_offsets)):
            offsets.extend(islice(accumulate(_from_little(item[name]), initial=offsets[-1]), 1, None))
        acl_ids += _from_little(item["acl_ids"])
        ttls |= {first + node: ttl for node, ttl in item["ttls"]}
    blobs = {name: b"".join(item[name] for item in items) for name in ("paths", "data", "nulls", "kinds")}
    creates = Creates(
        paths_blob=blobs["paths"],
        path_offsets=path_offsets,
        data_blob=blobs["data"],
        data_offsets=data_offsets,
        nulls=blobs["nulls"],
        acl_ids=acl_ids,
        acl_table=tuple(map(acl_of_plain, acl_table)),
        kinds=blobs["kinds"],
        ttls=ttls,
    )
    creates.check()
    return creates


def _little(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _from_little(raw: bytes) -> array[int]:
    column = array("I")
    column.frombytes(raw)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _build(header: dict[str, Any], sections: dict[str, list[Any]]) -> Plan:
    lengths = header.pop("lengths")
    for name in SECTIONS:
        if len(sections[name]) != lengths.get(name, 0):  # earlier versions do not have them all
            raise ValueError(f"{name} are missing")
    ends = tuple(sections["batch_ends"])
    if any(type(end) is not int for end in ends) or any(end <= start for start, end in pairwise((0, *ends))):
        raise ValueError("batches are not in order")
    target = header.pop("target")
    target["hosts"] = tuple((host, port) for host, port in target["hosts"])
    identity = header.pop("identity")
    script = header.pop("script", None)
    left_out = LeftOut.of_plain(header.pop("left_out"))
    quotas_left = (*(left_out.quotas or ()), *sections["quotas_left"])  # before version 4 they were all in the header
    operations = Operations(
        _unpack_creates(sections["creates"], header.pop("acls", sections["acls"])),
        tuple(map(_unpack_operation, sections["operations"])),
    )
    if len(operations) != (ends[-1] if ends else 0):
        raise ValueError("batches do not hold every operation")  # one in none of them would never be carried out
    return Plan(
        source=SourcePin(**header.pop("source")),
        target=TargetPin(**target),
        operations=operations,
        batch_ends=ends,
        acl_steps=tuple(map(_unpack_step, sections["acl_steps"])),
        touched=tuple(sections["touched"]),
        limits=Limits(**header.pop("limits")),
        identity=Identity(*identity) if identity else None,
        notes=tuple(sections["notes"]),
        left_out=left_out if left_out.quotas is None else dataclasses.replace(left_out, quotas=quotas_left),
        quotas=tuple(Quota(path, text) for path, text in header.pop("quotas", sections["quotas"])),
        soundness=soundness_of(header.pop("soundness", None), sections["baseline"]),
        script=ScriptPin(**script) if script else None,
        masks=tuple(CapturePattern.parse(text).text for text in header.pop("masks", ())),  # none in version 2
        **header,
    )


_CREATE, _WRITE, _DELETE, _RAISE = range(4)


def _pack_operation(operation: Operation) -> list[Any]:
    match operation:
        case CreateNode(path, data, acl, kind, ttl_ms):
            return [_CREATE, path, data, acl, kind.value, ttl_ms]
        case WriteData(path, data, pin, before_size):
            return [_WRITE, path, data, pin, before_size]
        case DeleteNode(path, pin, before_size, Kind.PERSISTENT, _):
            return [_DELETE, path, pin, before_size]
        case DeleteNode(path, pin, before_size, kind, ttl_ms):
            return [_DELETE, path, pin, before_size, kind.value, ttl_ms]
        case RaiseCounter(path, pairs, to):
            return [_RAISE, path, pairs, to]


def _pack_step(step: AclStep) -> list[Any]:
    return [step.path, step.tighten, step.final, step.pin]


def _unpack_operation(item: list[Any]) -> Operation:
    tag, path, *fields = item
    if tag == _CREATE:
        data, acl, kind, ttl_ms = fields
        return CreateNode(path, data, acl_of_plain(acl), Kind(kind), ttl_ms)
    if tag == _WRITE:
        data, pin, before_size = fields
        return WriteData(path, data, Pin(*pin), before_size)
    if tag == _DELETE:
        pin, before_size, *known = fields
        kind, ttl_ms = known or (Kind.PERSISTENT.value, 0)
        return DeleteNode(path, Pin(*pin), before_size, Kind(kind), ttl_ms)
    if tag == _RAISE:
        return RaiseCounter(path, *fields)
    raise ValueError(f"unknown operation {tag!r}")


def _unpack_step(item: list[Any]) -> AclStep:
    path, tighten, final, pin = item
    return AclStep(
        path, None if tighten is None else acl_of_plain(tighten), acl_of_plain(final), Pin(*pin) if pin else None
    )
