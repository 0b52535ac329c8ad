"""revert: a committed epoch taken back, as an epoch of its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, ensemble, scope_at
from zkmig.api.frames import fit_to_servers
from zkmig.api.migrate import FRAME_BYTES_ANY, Report, Say, SingleShot, pace_of, save_plan
from zkmig.api.planfiles import is_unused, save_under_free_name
from zkmig.apply import engine
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import DRAIN_TIMEOUT_S, Applied, quiet
from zkmig.apply.revert import NOTE, images
from zkmig.epoch.owner import TakeOver
from zkmig.errors import Outcome, ZkmigError
from zkmig.model.path import CONTROL_ROOT
from zkmig.plan import make, planfile
from zkmig.plan.plan import Limits, Plan

ELSEWHERE = "save it elsewhere with -o FILE; no server was written to"


@dataclass(frozen=True, slots=True)
class Reverted:
    """epoch: that was taken back. applied: what came of the epoch that did so. plan_path: where its plan is, "" for
    nowhere."""

    epoch: int
    applied: Applied
    plan: Plan
    plan_path: str


def plan_revert(
    at: str,
    epoch: int,
    scope: str | None = None,
    *,
    limits: Limits | None = None,
    wait: bool = False,
    control: str = CONTROL_ROOT,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Plan:
    """The plan that takes back `epoch`, which must be the last committed one, from the undo that is kept.

    It restores data, ACLs and kinds of every path that the epoch has written; sequence counters never go down. Refused
    where others have written such a path since, naming them, and where the undo was pruned. wait: until a hold is
    released. Nothing is written.
    """
    access = Access.of(**session)
    place = ensemble(at)
    with access.client(place, FRAME_BYTES_ANY) as client:
        names = scope_at(client, place, scope, control)
        if wait:
            engine.await_release(client, names, access.stop, say)
        found = images(client, names, epoch, str(place))
        identities = client.identities

    def with_limits(limits: Limits) -> Plan:
        made = make.make_plan(
            found.before, found.now, limits=limits, hosts=place.hosts, scope=found.scope, identities=identities
        )
        target = dataclasses.replace(made.target, tls=place.tls)
        notes = (f"it takes back epoch {epoch}", NOTE)
        return dataclasses.replace(made, target=target, notes=(*made.notes, *notes), masks=found.masks)

    return fit_to_servers(with_limits, limits or Limits(), place.hosts, access.tls_for(place))


def revert(
    at: str,
    epoch: int,
    scope: str | None = None,
    *,
    plan: Plan | None = None,
    plan_file: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    single_shot: SingleShot = "auto",
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    wait: bool = False,
    steal: bool = False,
    ignore_quotas: bool = False,
    throttle: float | None = None,
    evict: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    report: Report = quiet,
    say: Say = quiet,
    saved: Callable[[str], object] = quiet,
    **session: Unpack[SessionOptions],
) -> Reverted:
    """Take back committed epoch `epoch` as epoch `epoch` + 1; see `plan_revert` for what that does and when it may.

    plan: from `plan_revert`; None: it is made now. plan_file: where to save it, for `resume`; None: under a name of
    its own in the current folder, from where it goes again if nothing was written. saved: told where, before anything
    is written to the servers. The rest, and errors, as for
    `apply`: stopped in between, `resume` with that file goes on, and `rollback` takes it back.
    """
    made = plan or plan_revert(at, epoch, scope, wait=wait and not dry_run, control=control, say=say, **session)
    place = ensemble(at)
    access = Access.of(**session)
    pace = pace_of(access, place, throttle)
    with access.client(place, made.limits.frame_bytes_max) as client:
        names = scope_at(client, place, scope, control)
        if dry_run:
            sealed = SealedPlan(made, planfile.plan_hash(made))
        elif plan_file is not None:
            sealed = save_plan(made, plan_file, force)
        else:
            sealed = save_under_free_name(made, "", f"revert-{names.scope}-{epoch}", ELSEWHERE)
        if sealed.path:
            saved(plan_file or os.path.relpath(sealed.path))
        try:
            applied = engine.apply_plan(
                client,
                names,
                sealed,
                epoch + 1,
                options=dataclasses.replace(
                    pace,
                    single_shot=single_shot,
                    drain_timeout_s=drain_timeout_s,
                    report=report,
                    say=say,
                    ignore_quotas=ignore_quotas,
                    evict=tuple(evict),
                    reverts=epoch,
                ),
                take_over=TakeOver(wait, steal, sealed.path),
                stop=access.stop,
                dry_run=dry_run,
            )
        except ZkmigError as error:
            is_ours = plan_file is None and not dry_run
            if is_ours and error.outcome is Outcome.NOTHING_WRITTEN and is_unused(client, names, sealed):
                os.unlink(sealed.path)
            raise
    return Reverted(epoch, applied, made, sealed.path)
