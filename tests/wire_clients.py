"""Clients of the data plane that let a test see, and step into, what goes to a real server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

from zkmig.dev import Ensemble, Server
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.replies import Reply
from zkmig.wire.requests import GetAcl, MultiRead, Read, Write


class NotingClient(Client):
    """Notes what goes through `pipeline`: the requests, and how many were ahead of the replies handed out.

    before: called with each of these requests just before it may be sent.
    """

    def __init__(self, server: Server | Ensemble, auth: tuple[Credential, ...] = ()) -> None:
        super().__init__(parse_hosts(server.hosts), auth=auth)
        self.requests: list[Read | Write] = []
        self.ahead_max = 0
        self.before: Callable[[Read | Write], None] = lambda _: None

    def pipeline(self, requests: Iterable[Read | Write], depth: int) -> Generator[Reply, None, None]:
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

    @property
    def acl_paths(self) -> list[str]:
        return [request.path for request in self.requests if isinstance(request, GetAcl)]


class SingleClient(NotingClient):
    """As if the server did not know multiRead: what it is asked then, every server knows."""

    has_multi_read = False


class SlowClient(NotingClient):
    """One request at a time."""

    def pipeline(self, requests: Iterable[Read | Write], depth: int) -> Generator[Reply, None, None]:  # noqa: ARG002
        return super().pipeline(requests, 1)
