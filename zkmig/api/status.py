"""status: what a scope is doing."""

from __future__ import annotations

from zkmig.api.access import Access, Auth, ensemble, scope_at
from zkmig.apply.status import Status, read_status
from zkmig.model.path import CONTROL_ROOT
from zkmig.stop import StopRequest


def status(
    at: str,
    scope: str | None = None,
    *,
    control: str = CONTROL_ROOT,
    auth: Auth | None = None,
    stop: StopRequest | None = None,
) -> Status:
    """What a scope is doing. scope may be left out where only one lies at the path of `at`."""
    access = Access.of(auth, stop)
    place = ensemble(at)
    with access.client(place.hosts) as client:
        return read_status(client, scope_at(client, place.path, scope, control))
