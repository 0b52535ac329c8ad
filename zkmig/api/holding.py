"""hold and release: the maintenance flag of a scope, beside whatever state it is in."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, open_scope
from zkmig.apply import holding as holds
from zkmig.apply.holding import Holding
from zkmig.apply.options import DRAIN_TIMEOUT_S
from zkmig.epoch.attempts import user_name
from zkmig.epoch.record import Held
from zkmig.model.path import CONTROL_ROOT


def default_holder() -> str:
    """Who holds unless told otherwise: user@host."""
    return f"{user_name()}@{platform.node()}"


def hold(
    at: str,
    scope: str | None = None,
    *,
    reason: str,
    holder: str | None = None,
    until: float | None = None,
    replace: bool = False,
    wait: bool = False,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    evict: Sequence[str] = (),
    dry_run: bool = False,
    control: str = CONTROL_ROOT,
    say: Callable[[str], None] = lambda _: None,
    **session: Unpack[SessionOptions],
) -> Holding:
    """Hold a scope: no action is admitted and no epoch begins until it is released. Nothing is ended by it.

    It works in every state; a migration that is under way, were it only preparing, goes on, and ends under the hold.
    holder: default user@host; the same one may renew its hold, with another reason, or time (None keeps the one that
    it has). until: Unix seconds by which it is meant to be released; past it the hold stays, and is told as expired.
    Held, a Refused, when somebody else holds the scope, unless `replace`.

    What was admitted before may still act, for as long as its lease lasts, and guarded processes until their guards
    have stopped them: `blocking` of the result names it. wait: return once nothing does; past drain_timeout_s it is
    StillActing, a Refused, and the hold stays; so it does whatever else ends the waiting. evict: leases and guards not
    to wait for, as for `apply`.
    """
    access = Access.of(**session)
    now = time.time()
    held = Held(reason, default_holder() if holder is None else holder, now, until)
    holds.check_hold(held, now)
    with open_scope(access, at, scope, control) as (client, names):
        ignored = holds.passed_over(client, names, evict)
        found, zxid = holds.hold_scope(client, names, held, replace=replace, stop=access.stop, dry_run=dry_run)
        if not wait or dry_run:
            return holds.look_once(client, names, found, zxid, ignored)
        return holds.wait_until_quiet(
            client,
            names,
            found,
            zxid,
            ignored=ignored,
            timeout_s=drain_timeout_s,
            stop=access.stop,
            say=say,
        )


def release(
    at: str,
    scope: str | None = None,
    *,
    holder: str | None = None,
    dry_run: bool = False,
    control: str = CONTROL_ROOT,
    **session: Unpack[SessionOptions],
) -> Holding:
    """Release the hold of a scope; where there is none nothing is written (`before` of the result is None).

    holder: whose; default user@host. Held, a Refused, when it is somebody else's.
    """
    access = Access.of(**session)
    name = default_holder() if holder is None else holder
    with open_scope(access, at, scope, control) as (client, names):
        return holds.release_scope(client, names, name, stop=access.stop, dry_run=dry_run)
