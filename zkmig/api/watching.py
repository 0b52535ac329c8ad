"""watch: what others do to the paths of a committed epoch."""

from __future__ import annotations

from collections.abc import Generator
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, ensemble, scope_at
from zkmig.apply.watching import INTERVAL_S, Sighting, Watching
from zkmig.errors import BadInput
from zkmig.model.path import CONTROL_ROOT
from zkmig.wire.client import Client


def watch(
    at: str,
    scope: str | None = None,
    *,
    epoch: int | None = None,
    once: bool = False,
    for_s: float | None = None,
    interval_s: float = INTERVAL_S,
    control: str = CONTROL_ROOT,
    **session: Unpack[SessionOptions],
) -> Generator[Sighting, None, None]:
    """Follow the last committed epoch and yield, as it is seen, whatever others put back to its old value.

    epoch: stay with that one, and end once the next is committed; else that is followed then. once: look once and end.
    for_s: end then, with a last look. interval_s: between two looks at all paths, beside what a watch tells.
    Nothing is written. Leave the loop at any time; the session is closed when the iterator is.

    Raises Refused (no epoch was committed yet, `epoch` is not the last one, its undo is not kept), OtherIncarnation,
    Unreachable and NotPermitted before anything was seen, and Unreachable at the end where nothing could be looked at
    then (no connection, an open epoch, a record that moves all the time), so that what happened last is not known;
    Stopped. A connection that is lost in between is told, and waited for.
    """
    if interval_s <= 0 or (for_s is not None and for_s <= 0):
        raise BadInput("a time to watch has to be more than nothing", hint="give seconds")
    access = Access.of(**session)
    place = ensemble(at)

    def connect() -> Client:
        client = access.client(place)
        try:
            client.connect()
        except BaseException:
            client.close()
            raise
        return client

    watching = Watching(
        connect,
        lambda client: scope_at(client, place, scope, control),
        access.stop,
        epoch=epoch,
        interval_s=interval_s,
    )
    return watching.run(once=once, for_s=for_s)
