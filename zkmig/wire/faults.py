"""What can go wrong between client and server, apart from error codes (those are in `zkmig.wire.codes`).

A write that was sent and never answered is `zkmig.errors.OutcomeUnknown`, whatever ended the connection.
"""

from __future__ import annotations

from zkmig.errors import BadInput, Unreachable


class ConnectionLost(Unreachable):
    """The connection ended or fell silent. The session may live on: reconnect() takes it up again."""


class SessionExpired(Unreachable):
    """The server has ended the session: its ephemerals and watches are gone, and it cannot be taken up again."""


class ProtocolFault(Unreachable):
    """The peer sent bytes that are no ZooKeeper reply, or a reply out of order. The connection is not used further."""


class FrameTooLarge(BadInput):
    """A request above the frame limit, refused before a byte of it was sent. size, limit: bytes after the prefix."""

    def __init__(self, operation: str, path: str, size: int, limit: int) -> None:
        super().__init__(
            f"{operation} needs a frame of {size} bytes, above the limit of {limit}",
            path,
            "send less at once, or raise jute.maxbuffer on every server and the frame limit here",
        )
        self.size = size
        self.limit = limit
