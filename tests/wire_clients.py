"""Clients of the data plane that let a test see, and step into, what goes to a real server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace

from tests.proxy import Proxy
from zkmig.dev import Ensemble, Server
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.link import Submitted
from zkmig.wire.replies import RawResult, Reply
from zkmig.wire.requests import (
    OP_GET_CHILDREN,
    Bulk,
    GetAcl,
    GetAclMany,
    GetChildren,
    GetChildren2,
    GetData,
    MultiRead,
    Read,
    ReadMany,
    Write,
)


def paths_of(request: Read | Write | Bulk, kind: type[GetData | GetChildren | GetAcl] | None = None) -> list[str]:
    """The znodes that a request asks for, of whatever sort it is; of one kind of question only, if one is given."""
    if isinstance(request, MultiRead):
        return [part.path for part in request.reads if kind is None or isinstance(part, kind)]
    if isinstance(request, ReadMany):
        asks = GetChildren if request.part == OP_GET_CHILDREN else GetData
        return list(map(request.path_of, request.nodes)) if kind in (None, asks) else []
    if isinstance(request, GetAclMany):
        return list(map(request.path_of, request.nodes)) if kind in (None, GetAcl) else []
    asked = {GetData: GetData, GetChildren: GetChildren, GetChildren2: GetChildren, GetAcl: GetAcl}.get(type(request))
    return [request.path] if asked is not None and kind in (None, asked) else []


class NotingClient(Client):
    """Notes what goes through `pipeline` and `post`, and how many requests of `pipeline` were ahead of the replies.

    before: called with each of these requests just before it may be sent.
    """

    def __init__(self, server: Server | Ensemble | Proxy, auth: tuple[Credential, ...] = ()) -> None:
        super().__init__(parse_hosts(server.hosts), auth=auth)
        self.requests: list[Read | Write | Bulk] = []
        self.ahead_max = 0
        self.before: Callable[[Read | Write | Bulk], None] = lambda _: None

    def post(self, request: Read | Bulk) -> int:
        if isinstance(request, ReadMany | GetAclMany):
            # Its column is on its way to a snapshot, and will be empty when somebody looks.
            noted = replace(request, paths=bytes(request.paths), offsets=request.offsets[:])
            self.requests.append(noted)
        else:
            self.requests.append(request)
        self.before(request)
        return super().post(request)

    def pipeline(
        self, requests: Iterable[Read | Write], depth: int | Callable[[], int]
    ) -> Generator[Reply, None, None]:
        sent = answered = 0

        def noted() -> Iterator[Read | Write]:
            nonlocal sent
            for request in requests:
                sent += 1
                self.requests.append(request)
                self.ahead_max = max(self.ahead_max, sent - answered)
                self.before(request)
                yield request

        for reply in super().pipeline(noted(), depth):
            answered += 1
            yield reply

    @property
    def multi_reads(self) -> list[MultiRead]:
        return [request for request in self.requests if isinstance(request, MultiRead)]

    def asked(self, kind: type[GetData | GetChildren | GetAcl] | None = None) -> list[str]:
        """Znodes that were asked for, again and again if so; of one kind of question only, if one is given."""
        return [path for request in self.requests for path in paths_of(request, kind)]


class SingleClient(NotingClient):
    """As if the server did not know multiRead: what it is asked then, every server knows."""

    has_multi_read = False


class SlowClient(NotingClient):
    """One request at a time."""

    def pipeline(
        self,
        requests: Iterable[Read | Write],
        depth: int | Callable[[], int],  # noqa: ARG002
    ) -> Generator[Reply, None, None]:
        return super().pipeline(requests, 1)


class RewritingClient(NotingClient):
    """Changes the answers to bulk reads on their way in. rewrite: gets the bytes of one, with its request."""

    def __init__(self, server: Server | Ensemble | Proxy) -> None:
        super().__init__(server)
        self.rewrite: Callable[[Read | Write | Bulk, bytes], bytes] = lambda _, raw: raw

    def take(self, posted: deque[Submitted]) -> list[Reply]:
        asked = [request for _, request in posted]
        return [
            reply._replace(result=RawResult(self.rewrite(request, reply.result.received)))
            if isinstance(reply.result, RawResult)
            else reply
            for request, reply in zip(asked, super().take(posted), strict=False)
        ]
