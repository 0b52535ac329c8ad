"""diagnose: what an ensemble, its members and a scope are like, before anything is migrated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, ensemble
from zkmig.doctor import diagnose as room
from zkmig.doctor.finding import Diagnosis
from zkmig.doctor.members import Asking
from zkmig.model.path import CONTROL_ROOT, validate


def diagnose(
    location: str,
    *,
    control: str = CONTROL_ROOT,
    reads_only: bool = False,
    progress: Callable[[int], None] | None = None,
    **session: Unpack[SessionOptions],
) -> Diagnosis:
    """Everything that can be found out about the ensemble and the tree of `location`, as findings.

    No znode is created, changed or deleted. Sessions take a zxid each, and so do three transactions that cannot
    succeed, which ask the leader about ACLs, TTL and container nodes; reads_only leaves those out, and says "unknown".
    progress: called now and then with the number of znodes whose ACL was looked at. A check that cannot be made is a
    finding, too. Raises BadInput (no live ensemble; TLS files), Unreachable where no member takes a session,
    NotPermitted where a credential is refused, Stopped.
    """
    access = Access.of(**session)
    place = ensemble(location)
    asking = Asking(access.auth, access.tls_for(place), access.stop.check)
    client = access.client(place)
    try:
        return room.diagnose(
            place,
            client,
            asking,
            session_ms=access.session_timeout_ms,
            control=validate(control),
            reads_only=reads_only,
            progress=progress,
        )
    finally:
        client.close()
