"""status: what a scope is doing."""

from __future__ import annotations

from typing import Unpack

from zkmig.api.access import Access, SessionOptions, open_scope
from zkmig.apply.status import Status, read_status
from zkmig.model.path import CONTROL_ROOT


def status(
    at: str,
    scope: str | None = None,
    *,
    control: str = CONTROL_ROOT,
    **session: Unpack[SessionOptions],
) -> Status:
    """What a scope is doing. scope may be left out where only one lies at the path of `at`."""
    with open_scope(Access.of(**session), at, scope, control) as (client, names):
        return read_status(client, names)
