"""Server error codes, and the errors they become.

A code that this table does not know keeps its number: `code_name(-999)` is "error -999", never a guess.
"""

from __future__ import annotations

from enum import IntEnum

from zkmig.errors import EXIT_REFUSED, EXIT_UNREACHABLE, NotPermitted, ZkmigError


class Code(IntEnum):
    """KeeperException.Code in ZooKeeper's source; the members keep the names that its manual and logs use."""

    Ok = 0
    SystemError = -1
    RuntimeInconsistency = -2  # in a failed multi: not tried, since an operation before it failed
    DataInconsistency = -3
    ConnectionLoss = -4
    MarshallingError = -5
    Unimplemented = -6
    OperationTimeout = -7
    BadArguments = -8
    UnknownSession = -12
    NewConfigNoQuorum = -13
    ReconfigInProgress = -14
    ApiError = -100
    NoNode = -101
    NoAuth = -102
    BadVersion = -103
    NoChildrenForEphemerals = -108
    NodeExists = -110
    NotEmpty = -111
    SessionExpired = -112
    InvalidCallback = -113
    InvalidACL = -114
    AuthFailed = -115
    SessionMoved = -118
    NotReadOnly = -119
    EphemeralOnLocalSession = -120
    NoWatcher = -121
    RequestTimeout = -122
    ReconfigDisabled = -123
    SessionClosedRequireSaslAuth = -124
    QuotaExceeded = -125
    ThrottledOp = -127


_NAMES = {int(code): code.name for code in Code}

_HINTS = {
    Code.NoNode: "check the path",
    Code.NoAuth: "check the credentials and the znode's ACL",
    Code.BadVersion: "somebody else wrote it in the meantime",
    Code.NodeExists: "somebody else created it",
    Code.NotEmpty: "it has children",
    Code.NoChildrenForEphemerals: "its parent is an ephemeral",
    Code.InvalidACL: "the server knows no such scheme or id",
    Code.AuthFailed: "check the scheme and the secret",
    Code.QuotaExceeded: "a quota on this path or above it is used up",
    Code.ThrottledOp: "the server is overloaded; try again later",
    Code.Unimplemented: "the server is too old, or has the feature switched off",
    Code.NotReadOnly: "the server is cut off from its quorum and serves reads only",
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


_FORBIDDING = frozenset({Code.NoAuth, Code.AuthFailed, Code.SessionClosedRequireSaslAuth})


def error_for(code: int, path: str, operation: str, index: int | None = None) -> ServerError:
    """The error for a code other than 0; NoAuth and AuthFailed give one that is a NotPermitted too."""
    kind = NoPermission if code in _FORBIDDING else ServerError
    return kind(code, path, operation, index)
