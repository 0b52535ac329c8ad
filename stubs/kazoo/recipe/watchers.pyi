from collections.abc import Callable
from typing import Any, TypeVar

from kazoo.client import KazooClient

F = TypeVar("F", bound=Callable[..., object])

class DataWatch:
    def __init__(
        self, client: KazooClient, path: str, func: Callable[..., object] | None = None, *args: Any, **kwargs: Any
    ) -> None: ...
    def __call__(self, func: F) -> F: ...

class ChildrenWatch:
    def __init__(
        self,
        client: KazooClient,
        path: str,
        func: Callable[..., object] | None = None,
        allow_session_lost: bool = True,
        send_event: bool = False,
    ) -> None: ...
    def __call__(self, func: F) -> F: ...
