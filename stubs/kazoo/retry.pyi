from collections.abc import Callable
from typing import ParamSpec, TypeVar

from kazoo.exceptions import KazooException

P = ParamSpec("P")
R = TypeVar("R")

class ForceRetryError(Exception): ...
class RetryFailedError(KazooException): ...
class InterruptedError(RetryFailedError): ...

class KazooRetry:
    def __init__(
        self,
        max_tries: int = 1,
        delay: float = 0.1,
        backoff: float = 2,
        max_jitter: float = 0.4,
        max_delay: float = 60.0,
        ignore_expire: bool = True,
        sleep_func: Callable[[float], object] = ...,
        deadline: float | None = None,
        interrupt: Callable[[], bool] | None = None,
    ) -> None: ...
    def reset(self) -> None: ...
    def copy(self) -> KazooRetry: ...
    def __call__(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
