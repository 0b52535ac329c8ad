import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.interfaces import IAsyncResult, IHandler
from kazoo.protocol.states import KazooState as KazooState
from kazoo.protocol.states import KeeperState as KeeperState
from kazoo.protocol.states import WatchedEvent, ZnodeStat
from kazoo.recipe.lock import Lock, ReadLock, WriteLock
from kazoo.recipe.watchers import ChildrenWatch, DataWatch
from kazoo.retry import KazooRetry
from kazoo.security import ACL

P = ParamSpec("P")
R = TypeVar("R")

Watch = Callable[[WatchedEvent], object]
# None is null data on the wire, b"" is empty data.
Data = bytes | None
# A listener that returns True is removed.
Listener = Callable[[str], bool | None]

class _DataWatchFactory(Protocol):
    def __call__(self, path: str, func: Callable[..., object] | None = None) -> DataWatch: ...

class _ChildrenWatchFactory(Protocol):
    def __call__(
        self,
        path: str,
        func: Callable[..., object] | None = None,
        allow_session_lost: bool = True,
        send_event: bool = False,
    ) -> ChildrenWatch: ...

class ConnectionHandler:
    sasl_options: dict[str, str] | None

class KazooClient:
    handler: IHandler
    hosts: list[tuple[str, int]]
    chroot: str | None
    auth_data: set[tuple[str, str]]
    use_ssl: bool
    verify_certs: bool
    check_hostname: bool
    ca: str | None
    certfile: str | None
    keyfile: str | None
    keyfile_password: str | None
    _connection: ConnectionHandler
    state: str
    state_listeners: set[Listener]
    last_zxid: int
    logger: logging.Logger
    default_acl: Sequence[ACL] | None
    read_only: bool | None
    retry: Callable[..., Any]
    DataWatch: _DataWatchFactory
    ChildrenWatch: _ChildrenWatchFactory
    Lock: Callable[..., Lock]
    ReadLock: Callable[..., ReadLock]
    WriteLock: Callable[..., WriteLock]

    def __init__(
        self,
        hosts: str | Iterable[str] = "127.0.0.1:2181",
        timeout: float = 10.0,
        client_id: tuple[int, bytes] | None = None,
        handler: SequentialThreadingHandler | None = None,
        default_acl: Sequence[ACL] | None = None,
        auth_data: Iterable[tuple[str, str]] | None = None,
        sasl_options: dict[str, str] | None = None,
        read_only: bool | None = None,
        randomize_hosts: bool = True,
        connection_retry: KazooRetry | dict[str, Any] | None = None,
        command_retry: KazooRetry | dict[str, Any] | None = None,
        logger: logging.Logger | None = None,
        keyfile: str | None = None,
        keyfile_password: str | None = None,
        certfile: str | None = None,
        ca: str | None = None,
        use_ssl: bool = False,
        verify_certs: bool = True,
        check_hostname: bool = False,
    ) -> None: ...
    @property
    def client_state(self) -> str: ...
    @property
    def client_id(self) -> tuple[int, bytes] | None: ...
    @property
    def connected(self) -> bool: ...
    def set_hosts(self, hosts: str | Iterable[str], randomize_hosts: bool | None = None) -> None: ...
    def add_listener(self, listener: Listener) -> None: ...
    def remove_listener(self, listener: Listener) -> None: ...
    def start(self, timeout: float = 15) -> None: ...
    def start_async(self) -> threading.Event: ...
    def stop(self) -> None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...
    def command(self, cmd: bytes = b"ruok") -> str: ...
    def server_version(self, retries: int = 3) -> tuple[int, ...]: ...
    def add_auth(self, scheme: str, credential: str) -> bool: ...
    def add_auth_async(self, scheme: str, credential: str) -> IAsyncResult[bool]: ...
    def unchroot(self, path: str) -> str: ...
    def sync(self, path: str) -> str: ...
    def sync_async(self, path: str) -> IAsyncResult[str]: ...
    @overload
    def create(
        self,
        path: str,
        value: Data = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        include_data: Literal[False] = False,
    ) -> str: ...
    @overload
    def create(
        self,
        path: str,
        value: Data = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
        *,
        include_data: Literal[True],
    ) -> tuple[str, ZnodeStat]: ...
    def create_async(
        self,
        path: str,
        value: Data = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
        makepath: bool = False,
    ) -> IAsyncResult[str]: ...
    def ensure_path(self, path: str, acl: Sequence[ACL] | None = None) -> bool | str: ...
    def ensure_path_async(self, path: str, acl: Sequence[ACL] | None = None) -> IAsyncResult[bool | str]: ...
    def exists(self, path: str, watch: Watch | None = None) -> ZnodeStat | None: ...
    def exists_async(self, path: str, watch: Watch | None = None) -> IAsyncResult[ZnodeStat | None]: ...
    def get(self, path: str, watch: Watch | None = None) -> tuple[Data, ZnodeStat]: ...
    def get_async(self, path: str, watch: Watch | None = None) -> IAsyncResult[tuple[Data, ZnodeStat]]: ...
    @overload
    def get_children(
        self, path: str, watch: Watch | None = None, include_data: Literal[False] = False
    ) -> list[str]: ...
    @overload
    def get_children(
        self, path: str, watch: Watch | None = None, *, include_data: Literal[True]
    ) -> tuple[list[str], ZnodeStat]: ...
    @overload
    def get_children_async(
        self, path: str, watch: Watch | None = None, include_data: Literal[False] = False
    ) -> IAsyncResult[list[str]]: ...
    @overload
    def get_children_async(
        self, path: str, watch: Watch | None = None, *, include_data: Literal[True]
    ) -> IAsyncResult[tuple[list[str], ZnodeStat]]: ...
    def get_acls(self, path: str) -> tuple[list[ACL], ZnodeStat]: ...
    def get_acls_async(self, path: str) -> IAsyncResult[tuple[list[ACL], ZnodeStat]]: ...
    def set_acls(self, path: str, acls: Sequence[ACL], version: int = -1) -> ZnodeStat: ...
    def set_acls_async(self, path: str, acls: Sequence[ACL], version: int = -1) -> IAsyncResult[ZnodeStat]: ...
    def set(self, path: str, value: Data, version: int = -1) -> ZnodeStat: ...
    def set_async(self, path: str, value: Data, version: int = -1) -> IAsyncResult[ZnodeStat]: ...
    def transaction(self) -> TransactionRequest: ...
    def delete(self, path: str, version: int = -1, recursive: bool = False) -> bool | None: ...
    def delete_async(self, path: str, version: int = -1) -> IAsyncResult[bool]: ...
    def reconfig(
        self, joining: str | None, leaving: str | None, new_members: str | None, from_config: int = -1
    ) -> tuple[bytes, ZnodeStat]: ...

class TransactionRequest:
    client: KazooClient
    operations: list[object]
    committed: bool
    def __init__(self, client: KazooClient) -> None: ...
    def create(
        self,
        path: str,
        value: bytes = b"",
        acl: Sequence[ACL] | None = None,
        ephemeral: bool = False,
        sequence: bool = False,
    ) -> None: ...
    def delete(self, path: str, version: int = -1) -> None: ...
    def set_data(self, path: str, value: bytes, version: int = -1) -> None: ...
    def check(self, path: str, version: int) -> None: ...
    def commit_async(self) -> IAsyncResult[list[Any]]: ...
    def commit(self) -> list[Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None: ...
