"""rehearse: a plan, or a script, tried on a throw-away server before its window, or in CI."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

from zkmig.api.access import Access, SessionOptions, covering_scope
from zkmig.api.migrate import AnyPlan, Report, Say, load_plan
from zkmig.api.scopes import committed
from zkmig.api.scripts import AnyScript, plan_script
from zkmig.api.trees import ReadProgress, Tree, read_options, scan_target, split_excludes, take_or_none
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Options, quiet
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import BadInput, OtherIncarnation, Refused, StalePlan, WrongEpoch
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.snapshot import Snapshot
from zkmig.plan import planfile
from zkmig.plan.plan import Plan
from zkmig.policy.policy import AnyPolicy
from zkmig.rehearse.result import Rehearsal
from zkmig.rehearse.run import SUPER
from zkmig.rehearse.run import rehearse as run
from zkmig.script.load import Script
from zkmig.source.location import EnsembleLocation, parse
from zkmig.wire.client import Client

if TYPE_CHECKING:
    from typing_extensions import TypeIs

EMPTY = "the way back: the scope is EMPTY, and its first epoch cannot be reverted; here a scope above it was, which can"

NO_SCOPE = "the scope: its state, epoch and holds, of which a snapshot does not tell; apply looks at them"

SUPER_ON_TARGET = "these credentials are those of the target's super user"


def rehearse(
    plan: AnyPlan | AnyScript,
    target: Tree | None = None,
    *,
    policy: AnyPolicy = None,
    scope: str | None = None,
    control: str = CONTROL_ROOT,
    excludes: Sequence[str] = (),
    keep: str | os.PathLike[str] | None = None,
    progress: ReadProgress | None = None,
    report: Report = quiet,
    say: Say = quiet,
    stage: Callable[[str], object] = quiet,
    **session: Unpack[SessionOptions],
) -> Rehearsal:
    """Carry a plan out, and take it back, on a throw-away server that holds a copy of its target. The target is only
    read.

    plan: a plan, or the name of its file; or a migration script, or the name of its file NNNN_slug.py, which is planned
    for the target first, under `policy`. target: the tree that it is for: a location, a snapshot or its file; None:
    read from the servers that the plan names. scope, control: of a script's target, where its location does not say it
    all: without a path, the root of the scope is meant. excludes: absolute paths of the target not to read, which the
    plan must leave alone. keep: a folder, not there yet, to leave the server's files in, with all data of the target.
    auth (see `SessionOptions`): of whoever will apply the plan; without it, trees whose ACLs keep others out are
    rehearsed as a super user, and the result says so.

    What is compared, after each stage, is the whole tree, data, ACLs and counters: as loaded with the target, as
    applied with what the plan foretells, as reverted with the target again; then once more in a single shot where one
    fits. The rules of the plan's policy are judged as by `apply`.

    Of a script only the trees are rehearsed: its place in the history, and that its epoch is the next, `apply` looks
    at; where the target is live, WrongEpoch tells of the latter here too.

    Raises StalePlan and Refused where the target is not, or not any more, what the plan was made for; NotProven, naming
    the stage and the first path that differs; what reading the target raises; BadInput where no ZooKeeper is installed
    here. Whatever happens, the server is ended and its folder removed.
    """
    access = Access.of(**session)
    kept = _free_folder(keep)
    if is_script(plan):
        target = _target_of_script(target, scope, control, session)
        plan = plan_script(
            plan, target, policy=policy, scope=scope, control=control, excludes=excludes, progress=progress, **session
        )
    elif policy is not None or scope is not None:
        raise BadInput("policy and scope are for scripts, and here is a plan", "", "leave them out: a plan has its own")
    sealed = _sealed(plan)
    notes: list[str] = []
    tree, why_super = _target_of(access, sealed.plan, target, excludes, progress, notes)
    return run(
        sealed,
        tree,
        auth=access.auth,
        why_super=why_super,
        options=Options(report=report, say=say),
        stop=access.stop,
        keep=kept,
        notes=notes,
        begun=stage,
    )


def is_script(given: AnyPlan | AnyScript) -> TypeIs[AnyScript]:
    """Whether it is a script, or is named as one. A plan file is known by its magic."""
    if isinstance(given, Script):
        return True
    if isinstance(given, Plan | SealedPlan):
        return False
    name = os.fspath(given)
    return name.endswith(".py") and not (os.path.isfile(name) and planfile.is_planfile(name))


def _target_of_script(target: Tree | None, scope: str | None, control: str, session: SessionOptions) -> Tree:
    if target is None:
        raise BadInput(
            "a script names no servers", "", "say where its target is: --at zk://HOST/PATH, or --target FILE"
        )
    place = parse(target) if isinstance(target, str) else None
    if not isinstance(place, EnsembleLocation) or place.path != "/":
        return target
    found = committed(str(place), scope, control=control, **session)
    return str(EnsembleLocation(place.hosts, found.record.root, place.tls))


def _sealed(plan: AnyPlan) -> SealedPlan:
    if isinstance(plan, SealedPlan):
        return plan
    return SealedPlan(plan, planfile.plan_hash(plan)) if isinstance(plan, Plan) else load_plan(plan)


def _free_folder(keep: str | os.PathLike[str] | None) -> str:
    """Refused before minutes of work rather than after them."""
    if keep is None:
        return ""
    folder = os.path.abspath(keep)
    if os.path.lexists(folder):
        raise BadInput("there is something of that name already", os.fspath(keep), "name another folder with --keep")
    if not os.access(os.path.dirname(folder), os.W_OK):
        raise BadInput("the folder above it is not there, or not to be written", os.fspath(keep), "name another one")
    return folder


def _target_of(
    access: Access,
    plan: Plan,
    target: Tree | None,
    excludes: Sequence[str],
    progress: ReadProgress | None,
    notes: list[str],
) -> tuple[Snapshot | None, str]:
    """The tree that the plan is for, as it is now; None where its root is not there. notes: gets what is odd of it.

    And why whoever applies the plan is kept out by no ACL, "" for whoever may be.
    """
    root, control = plan.target.root, plan.target.control or CONTROL_ROOT
    place = parse(target) if isinstance(target, str) else None
    if target is None:
        if not plan.target.hosts:
            hint = "say where its target is: --at zk://HOST, or --target FILE.zks"
            raise BadInput("the plan names no servers", root, hint)
        place = EnsembleLocation(plan.target.hosts, root, plan.target.tls)
    if isinstance(place, EnsembleLocation):
        if place.path not in ("/", root):
            raise BadInput(f"the plan is for {root}, not {place.path}", str(place), "check the plan and --at")
        place = EnsembleLocation(place.hosts, root, place.tls)
        split_excludes(excludes, str(place), None)
        with access.client(place) as client:
            _check_scope(client, plan, control, notes)
            is_super = any(each.scheme == SUPER.scheme for each in client.identities)
            tree = scan_target(access, place, client, excludes, control, progress)
            return tree, SUPER_ON_TARGET if is_super else ""
    assert target is not None
    found = take_or_none(target, read_options(access, excludes, control, progress), access)
    if found is None or root not in found:
        raise BadInput(
            f"the plan is for {root}, which it does not hold", str(place or "the snapshot"), "give the target"
        )
    notes.append(NO_SCOPE)
    return found.subtree(root), ""


def _check_scope(client: Client, plan: Plan, control: str, notes: list[str]) -> None:
    """Refused where the scope has moved on since the plan was made, as `apply` would."""
    root, planned = plan.target.root, plan.target
    found = covering_scope(client, root, None, control)
    if found is None:
        if planned.scope is not None:
            raise Refused(f"scope {planned.scope!r}, which the plan is for, is not there", root, "plan again")
        notes.append("the scope: none covers the root yet; zkmig init has to come before the plan is applied")
        return
    if planned.scope not in (None, found.scope):
        raise Refused(f"it belongs to scope {found.scope!r}, not {planned.scope!r}", root, "plan again")
    names = ControlPaths(found.scope, control)
    record, _ = read_record(client, names)
    if planned.incarnation not in (None, record.incarnation):
        what = "the scope was deleted and created again since the plan was made"
        raise OtherIncarnation(what, names.record, "plan again")
    if planned.epoch not in (None, record.epoch):
        what = f"the plan was made at epoch {planned.epoch}, the scope is at {record.epoch}"
        raise StalePlan(what, names.record, "plan again")
    if record.state in MIGRATING:
        what = f"epoch {record.target_epoch} is {record.state.value}: the target is neither old nor new"
        raise Refused(what, names.record, "rehearse once that has ended")
    script = plan.script
    if script is not None and script.epoch != record.epoch + 1:
        what = f"{script.file} is for epoch {script.epoch}, and the next one is {record.epoch + 1}"
        raise WrongEpoch(what, names.record, "apply what comes before it, or give it another number")
    if record.held is not None:
        notes.append(f"the hold: the scope is {record.held.told()}, and nothing begins before it is released")
    if record.state is State.EMPTY and paths.contains(root, record.root):
        notes.append(EMPTY)
