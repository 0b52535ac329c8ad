"""A watch over a site, in a thread of its own or for one look, and what it has told."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import zkmig
from tests.scopes import ALICE, BEFORE, ME, Site
from tests.test_history import NEXT
from zkmig.apply.watching import Sighting
from zkmig.errors import Stopped
from zkmig.stop import EXIT_SIGINT, StopRequest
from zkmig.wire.client import Client

WAIT_S = 30.0


class Follower:
    """A watch in a thread of its own, which ends as expected, or fails the test when it is left.

    expects: what it raises, None if nothing. seen: everything so far; error: what ended it.
    """

    def __init__(self, hosts: str, site: Site, expects: type[Exception] | None = None, **options: Any) -> None:
        self.seen: list[Sighting] = []
        self.error: BaseException | None = None
        self._expects = expects
        self._more = threading.Condition()
        self._stop = StopRequest()
        where = (f"zk://{hosts}", site.names.scope)
        self._sightings = zkmig.watch(*where, **{"auth": [ME, ALICE], "stop": self._stop, "interval_s": 300, **options})
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.request("the test is over", EXIT_SIGINT)
        self.join()
        if kind is not None:
            return  # that is what the test fails of; `until` has said what ended the watch
        if self._expects is None and self.error is not None:
            raise AssertionError("the watch has died") from self.error
        if self._expects is not None and not isinstance(self.error, self._expects):
            raise AssertionError(f"the watch has not ended with {self._expects.__name__}") from self.error

    @property
    def client(self) -> Client:
        """That of the watch, just now."""
        client = inspect.getgeneratorlocals(self._sightings)["self"]._client
        assert isinstance(client, Client)
        return client

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for one in self._sightings:
                self._add(one)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where the test leaves the watch
            self.error = error
        self._add(None)

    def _add(self, one: Sighting | None) -> None:
        with self._more:
            self.seen += [one] if one is not None else []
            self._more.notify_all()

    def until(self, event: str, path: str | None = None, count: int = 1, after: int = 0) -> Sighting:
        """The first such sighting, of that count at least, after so many of any kind."""

        def found() -> Sighting | None:
            for one in self.seen[after:]:
                if one.event == event and (path is None or one.path == path) and (one.count or count) >= count:
                    return one
            return None

        with self._more:
            assert self._more.wait_for(found, WAIT_S), (event, path, self.seen, self.error)
        result = found()
        assert result is not None
        return result

    def paths(self, event: str) -> set[str | None]:
        return {one.path for one in self.seen if one.event == event}


@contextmanager
def following(site: Site, hosts: str | None = None, **options: Any) -> Iterator[Follower]:
    """A watch that has looked once. options: of Follower."""
    with Follower(hosts or site.server.hosts, site, **options) as follower:
        follower.until("heartbeat")
        yield follower


def committed(site: Site) -> None:
    site.init(BEFORE)
    site.apply(site.plan(NEXT))


def once(site: Site, **options: Any) -> list[Sighting]:
    where = (f"zk://{site.server.hosts}", site.names.scope)
    return list(zkmig.watch(*where, **{"once": True, "auth": [ME, ALICE], **options}))


def told(sightings: list[Sighting]) -> dict[str, tuple[str, str | None, int | None]]:
    return {
        one.path: (one.event, one.kind, one.count)
        for one in sightings
        if one.event in ("put_back", "changed") and one.path is not None
    }
