"""A watch over a whole tree: which paths have to be read again, because they changed since the watch was set.

The events of a change arrive before any reply that reflects it, within one session [zookeeper-facts 7]. So once a reply
stamped z has arrived, whatever changed up to z has been told. Persistent recursive watches exist since 3.6 [8]. They do
not tell of ACLs [3], and not of znodes that the session may not READ [9].
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.faults import ConnectionLost
from zkmig.wire.requests import WATCH_PERSISTENT_RECURSIVE, AddWatch, RemoveWatches
from zkmig.wire.session import WatchEvent

CREATED: Final = 1  # Watcher.Event.EventType
DELETED: Final = 2


class TreeWatch:
    """is_set: whether changes are being told of; a lost connection ends that, and an old server never begins.

    events: how many have been seen.
    """

    def __init__(self, client: Client, scope: Scope) -> None:
        self.is_set = False
        self.events = 0
        self._told: set[str] = set()
        self._generation = 0
        self._client = client
        self._scope = scope

    def begin(self) -> None:
        """Begin. Events of an earlier watch that nobody has taken are forgotten."""
        self.is_set = False
        if not self._client.has_multi_read:  # both came with 3.6, and to ask for this one would cost the connection
            return
        request = AddWatch(self._scope.root, WATCH_PERSISTENT_RECURSIVE)
        reply = self._client.call_reply(request)
        if reply.error == Code.UNIMPLEMENTED:
            self._client.reconnect()  # the server says so and hangs up
            return
        if reply.error != Code.OK:
            raise error_for(reply.error, request.path, request.operation)
        self._client.take_watch_events()
        self._generation = self._client.watch_generation
        self._told.clear()
        self.is_set = True

    @property
    def is_whole(self) -> bool:
        """Whether no event since `begin` was lost, with a connection or given up as too many; True of no watch."""
        return not self.is_set or self._client.watch_generation == self._generation

    def wait(self, timeout_s: float) -> None:
        """Until something is told, or the time is over; `take` gives it. Raises the loss."""
        if self.is_set:
            self._told |= self._dirty(self._client.take_watch_events(timeout_s))

    def note(self) -> None:
        """Look at the events that have come, so that they do not pile up during long work; `take` gives them too."""
        if self.is_set:
            self._told |= self._dirty(self._client.watch_events_at_hand())

    def take(self) -> set[str]:
        """Paths of the scope that changed, or whose children did, as far as events have arrived. Raises the loss."""
        if not self.is_set:
            return set()
        told, self._told = self._told | self._dirty(self._client.take_watch_events()), set()
        return told

    def take_at_hand(self) -> set[str]:
        """As `take`, but nothing more is received: all that was told up to the last reply, and little beyond it."""
        self.note()
        told, self._told = self._told, set()
        return told

    def end(self) -> None:
        """End it, so that a session that lives on is not told of every later change. A lost connection has ended it."""
        if self.is_set and self._client.is_connected:
            self.is_set = False
            with suppress(ConnectionLost):
                self._client.call_reply(RemoveWatches(self._scope.root))
                self._client.take_watch_events()

    def _dirty(self, events: Iterable[WatchEvent]) -> set[str]:
        scope, dirty = self._scope, set()
        for event in events:
            self.events += 1
            dirty.add(event.path)
            if event.type in (CREATED, DELETED) and event.path != scope.root:
                dirty.add(paths.parent(event.path))
        return {path for path in dirty if scope.covers(path)}
