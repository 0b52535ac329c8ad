"""Columns of paths, the replies that a server could give to bulk reads of them, and ways to spoil bytes.

Everything is drawn from a random.Random: hypothesis gives one that it can shrink, the fuzzer one with a seed. Bytes are
put together with struct alone, apart from the code under test.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.wire_values import pack_acl, pack_bytes, pack_part, pack_parts, pack_reply, pack_stat
from zkmig.model.acl import OPEN_ACL, Acl, AclList
from zkmig.model.columns import STAT_TYPECODES
from zkmig.model.stat import Stat

NO_NODE, NO_AUTH, EXPIRED = -101, -102, -112
NAMES = ("a", "b", "node-0000000001", "x" * 40, "é", "中文", " ", ".")
EXTREMES = (-(2**31), -2, -1, 0, 1, 2, 15, 16, 255, 2**16, 2**30 - 1, 2**30, 2**30 + 1, 2**31 - 1)
INT32, INT64 = (-(2**31), -7, -1, 0, 1, 6, 2**31 - 1), (-(2**63), -1, 0, 1, 0x500000001, 2**63 - 1)
ACLS: tuple[AclList, ...] = (
    OPEN_ACL, (), (Acl(1, "world", "anyone"), Acl(31, "digest", "me:é")), (Acl(-1, "ip", "10.0.0.0/8"),),
)  # fmt: skip


class Asked(NamedTuple):
    """A column of paths and which of its nodes are read."""

    paths: bytes
    offsets: array[int]
    nodes: array[int]

    def path(self, node: int) -> bytes:
        return self.paths[self.offsets[node] : self.offsets[node + 1]]


def a_path(random: random.Random) -> bytes:
    """The root now and then."""
    depth = random.choice((0, 1, 1, 2, 3))
    return "".join("/" + random.choice(NAMES) for _ in range(depth)).encode() or b"/"


def asked(random: random.Random, nodes_min: int = 0) -> Asked:
    """Up to a dozen paths, of which some are read, in any order, one perhaps twice."""
    paths = [a_path(random) for _ in range(random.randint(max(1, nodes_min), 12))]
    offsets = array("Q", (0,))
    for path in paths:
        offsets.append(offsets[-1] + len(path))
    nodes = array("i", (random.randrange(len(paths)) for _ in range(random.randint(nodes_min, 8))))
    return Asked(b"".join(paths), offsets, nodes)


def a_stat(random: random.Random) -> Stat:
    return Stat(*(random.choice(INT64 if code == "q" else INT32) for code in STAT_TYPECODES))


def some_data(random: random.Random) -> bytes | None:
    return random.choice((None, b"", b"x", b"/", bytes(40), b"data" * 20))


def header(random: random.Random, xid: int = 1, error: int = 0) -> bytes:
    """A reply header, without the length before it."""
    return struct.pack(">iqi", xid, random.choice(INT64), error)


def _code(random: random.Random, refusals: bool) -> int:
    # Of a part that failed; 0 of one that did not.
    draw = random.random()
    return 0 if draw < 0.75 else NO_NODE if draw < 0.93 or not refusals else random.choice((NO_AUTH, -4, 0))


def _multi_read_reply(
    random: random.Random, asked: Asked, opcode: int, body: Callable[[], bytes], refusals: bool
) -> bytes:
    parts = []
    for _ in asked.nodes:
        code = _code(random, refusals)
        parts.append(pack_part(-1, struct.pack(">i", code), code) if code else pack_part(opcode, body()))
    return header(random) + pack_parts(parts)


def data_reply(random: random.Random, asked: Asked, refusals: bool = True) -> bytes:
    """The frame (without its length) that answers a multiRead of getData."""
    return _multi_read_reply(
        random, asked, 4, lambda: pack_bytes(some_data(random)) + pack_stat(a_stat(random)), refusals
    )


def children_reply(random: random.Random, asked: Asked, refusals: bool = True) -> bytes:
    """The frame (without its length) that answers a multiRead of getChildren."""

    def names() -> bytes:
        found = random.choices(NAMES, k=random.choice((0, 1, 2, 5)))
        return struct.pack(">i", len(found)) + b"".join(pack_bytes(name.encode()) for name in found)

    return _multi_read_reply(random, asked, 8, names, refusals)


def acl_reply(random: random.Random, xid: int, stat: Stat | None = None, refusals: bool = True) -> bytes:
    """The whole frame that answers a getACL."""
    code = _code(random, refusals)
    body = b"" if code else pack_acl(random.choice(ACLS)) + pack_stat(stat or a_stat(random))
    return pack_reply(xid, random.randint(0, 99), code, body)


def stats_columns(rows: Sequence[Stat] = ()) -> list[array[int]]:
    """The eleven Stat columns."""
    return [array(code, (row[field] for row in rows)) for field, code in enumerate(STAT_TYPECODES)]


def spoiled(random: random.Random, raw: bytes, times_max: int = 3) -> bytes:
    """Bits flipped, pieces cut out, put in, doubled; numbers of four bytes set to what a length should never be."""
    spoilt = bytearray(raw)
    for _ in range(random.randint(1, times_max)):
        at = random.randint(0, len(spoilt))
        length = random.choice((1, 2, 4, 9, 40))
        match random.randrange(7):
            case 0 if at < len(spoilt):
                spoilt[at] ^= 1 << random.randrange(8)
            case 1:
                del spoilt[at:]
            case 2:
                del spoilt[at : at + length]
            case 3:
                spoilt[at:at] = random.randbytes(length)
            case 4:
                spoilt[at:at] = spoilt[at : at + length]
            case 5 if at < len(spoilt):
                spoilt[at] = random.choice((0, 1, 2, 255, 128))
            case _:
                spoilt[at : at + 4] = struct.pack(">i", random.choice((*EXTREMES, len(spoilt), len(spoilt) - at - 4)))
    return bytes(spoilt)


class Fault(Exception):
    """What a decoder under test is given to raise."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what, offset)


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What comes of it: the result, or what was raised and where."""
    try:
        return function(*arguments)
    except Fault as fault:
        return ("raised", *fault.args)
