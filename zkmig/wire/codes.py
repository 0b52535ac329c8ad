"""Server error codes, and the errors they become.

A code that this table does not know keeps its number: `code_name(-999)` is "error -999", never a guess.
"""

from __future__ import annotations

from enum import IntEnum

from zkmig.errors import EXIT_REFUSED, EXIT_UNREACHABLE, NotPermitted, ZkmigError


class Code(IntEnum):
    """KeeperException.Code in ZooKeeper's source."""

    OK = 0
    SYSTEM_ERROR = -1
    RUNTIME_INCONSISTENCY = -2  # in a failed multi: not tried, since an operation before it failed
    DATA_INCONSISTENCY = -3
    CONNECTION_LOSS = -4
    MARSHALLING_ERROR = -5
    UNIMPLEMENTED = -6
    OPERATION_TIMEOUT = -7
    BAD_ARGUMENTS = -8
    UNKNOWN_SESSION = -12
    NEW_CONFIG_NO_QUORUM = -13
    RECONFIG_IN_PROGRESS = -14
    API_ERROR = -100
    NO_NODE = -101
    NO_AUTH = -102
    BAD_VERSION = -103
    NO_CHILDREN_FOR_EPHEMERALS = -108
    NODE_EXISTS = -110
    NOT_EMPTY = -111
    SESSION_EXPIRED = -112
    INVALID_CALLBACK = -113
    INVALID_ACL = -114
    AUTH_FAILED = -115
    SESSION_MOVED = -118
    NOT_READ_ONLY = -119
    EPHEMERAL_ON_LOCAL_SESSION = -120
    NO_WATCHER = -121
    REQUEST_TIMEOUT = -122
    RECONFIG_DISABLED = -123
    SESSION_CLOSED_REQUIRE_SASL_AUTH = -124
    QUOTA_EXCEEDED = -125
    THROTTLED_OP = -127


# As ZooKeeper's manual and logs spell them: NO_NODE is NoNode, INVALID_ACL is InvalidACL.
_NAMES = {int(code): "".join(map(str.capitalize, code.name.split("_"))).replace("Acl", "ACL") for code in Code}

_HINTS = {
    Code.NO_NODE: "check the path",
    Code.NO_AUTH: "check the credentials and the znode's ACL",
    Code.BAD_VERSION: "somebody else wrote it in the meantime",
    Code.NODE_EXISTS: "somebody else created it",
    Code.NOT_EMPTY: "it has children",
    Code.NO_CHILDREN_FOR_EPHEMERALS: "its parent is an ephemeral",
    Code.INVALID_ACL: "the server knows no such scheme or id",
    Code.AUTH_FAILED: "check the scheme and the secret",
    Code.QUOTA_EXCEEDED: "a quota on this path or above it is used up",
    Code.THROTTLED_OP: "the server is overloaded; try again later",
    Code.UNIMPLEMENTED: "the server is too old, or has the feature switched off",
    Code.NOT_READ_ONLY: "the server is cut off from its quorum and serves reads only",
}


def code_name(code: int) -> str:
    """The name of a code, or "error <number>" for one unknown here."""
    return _NAMES.get(code, f"error {code}")


class ServerError(ZkmigError):
    """The server answered with an error code: this request changed nothing.

    code: the number as sent (compare with `Code`). path: the path asked for. operation: its name ("setData"). index:
    within a multi, which operation failed, from 0; None otherwise.
    """

    exit_code = EXIT_REFUSED

    def __init__(self, code: int, path: str, operation: str, index: int | None = None) -> None:
        place = "" if index is None else f" (operation {index} of a multi)"
        hint = _HINTS[Code(code)] if code in _HINTS else ""
        super().__init__(f"{operation}{place} refused: {code_name(code)}", path, hint)
        self.code = code
        self.path = path
        self.operation = operation
        self.index = index


class NoPermission(ServerError, NotPermitted):
    """ServerError for NoAuth and AuthFailed: caught as either."""

    exit_code = EXIT_UNREACHABLE


_FORBIDDING = frozenset({Code.NO_AUTH, Code.AUTH_FAILED, Code.SESSION_CLOSED_REQUIRE_SASL_AUTH})


def error_for(code: int, path: str, operation: str, index: int | None = None) -> ServerError:
    """The error for a code other than 0; NoAuth and AuthFailed give one that is a NotPermitted too."""
    kind = NoPermission if code in _FORBIDDING else ServerError
    return kind(code, path, operation, index)
