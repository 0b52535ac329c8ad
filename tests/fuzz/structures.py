"""Files and records whose envelope is sound and whose content is not: values changed inside, then sealed again.

A sealed file is refused for any changed byte before its content is looked at. So content is spoiled before it is
sealed, or sealed again afterwards, as somebody could who knows the format.
"""

from __future__ import annotations

import random
import struct
from io import BytesIO
from typing import Any

import msgpack

from tests.bulk_values import EXTREMES
from zkmig.sealed import CHECK_BYTES, SEAL_BYTES, Format, Writer

START_BYTES = 8
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 1.5, "", "x", "/", "/a/../b", "\ud7ff", b"", b"\0" * 8,
    b"\xff" * 12, [], {}, [[]], {"format": 1}, [None], 4_000_000_000,
)  # fmt: skip


def spoiled_value(random: random.Random, value: Any, odd: tuple[Any, ...] = ODD_VALUES) -> Any:
    """A copy in which one value, somewhere inside, is another, is gone, or is there twice."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        changed = dict(value)
        key = random.choice(list(changed))
        match random.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[random.choice(("x", "format", "nodes"))] = random.choice(odd)
            case _:
                changed[key] = spoiled_value(random, changed[key], odd)
        return changed
    if isinstance(value, list | tuple) and value and random.random() < 0.9:
        items = list(value)
        at = random.randrange(len(items))
        match random.randrange(8):
            case 0:
                del items[at]
            case 1:
                items.insert(at, items[at])
            case _:
                items[at] = spoiled_value(random, items[at], odd)
        return items
    if isinstance(value, bytes) and len(value) >= 4 and random.random() < 0.7:
        at = random.randrange(0, len(value) - 3, random.choice((1, 4, 8)))
        number = struct.pack(random.choice("<>") + "i", random.choice(EXTREMES))
        return value[:at] + number + value[at + 4 :]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.5:
        return value + random.choice((-1, 1, 2**31, -(2**40)))
    return random.choice(odd)


def blocks_of(raw: bytes) -> list[bytes]:
    """Payloads of the blocks of a sealed file, as far as their lengths lead."""
    found: list[bytes] = []
    at = START_BYTES
    while at + 4 <= len(raw):
        length = int.from_bytes(raw[at : at + 4])
        if length == 0 or at + 4 + length > len(raw) - SEAL_BYTES:
            break
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length + CHECK_BYTES
    return found


def sealed_again(form: Format, payloads: list[bytes]) -> bytes:
    """A sound sealed file around payloads of any kind."""
    sink = BytesIO()
    writer = Writer(sink, form)
    for payload in payloads:
        if payload:
            writer._put(struct.pack(">I", len(payload)))
            writer._put(payload)
            writer._put(writer._hash.digest()[:CHECK_BYTES])
    writer.seal()
    return sink.getvalue()


def spoiled_inside(random: random.Random, form: Format, raw: bytes) -> bytes:
    """The file with one value of one block changed, and sealed again."""
    payloads = blocks_of(raw)
    at = random.randrange(len(payloads))
    match random.randrange(8):
        case 0:
            payloads.insert(at, payloads[random.randrange(len(payloads))])
        case 1:
            del payloads[at]
        case _:
            value = spoiled_value(random, msgpack.unpackb(payloads[at], strict_map_key=False))
            payloads[at] = msgpack.packb(value)
    return sealed_again(form, payloads)
