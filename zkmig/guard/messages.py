"""What the guard and the keeper say to each other: tuples, marshalled, each after its length in four bytes.

marshal, because both ends are the same interpreter and the keeper then has nothing to load for it.

To the keeper: (START, run, argv, environment, ignored, grace_s), (STOP, grace_s), (SIGNAL, number). ignored: the
signals that CMD is to ignore, a byte for each.
From it: (STARTED, run, pid), (NOT_STARTED, run, errno, text), (EXITED, run, code or -signal), (GONE, run),
(STILL_ALIVE, run, ((pid, name, state), ...)).
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator

START, STOP, SIGNAL = "start", "stop", "signal"
STARTED, NOT_STARTED, EXITED, GONE, STILL_ALIVE = "started", "not-started", "exited", "gone", "still-alive"

LENGTH_BYTES = 4
Value = str | bytes | int | float | list[bytes] | dict[bytes, bytes] | tuple[tuple[int, str, str], ...]
Message = tuple[Value, ...]


def encode(message: Message) -> bytes:
    """One message as it goes through the socket."""
    body = marshal.dumps(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def take(buffer: bytearray) -> Iterator[Message]:
    """The whole messages at the beginning of `buffer`, which are removed from it."""
    while len(buffer) >= LENGTH_BYTES:
        end = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
        if len(buffer) < end:
            return
        message: Message = marshal.loads(bytes(buffer[LENGTH_BYTES:end]))
        del buffer[:end]
        yield message
