"""load_script, plan_script and apply_scripts: from migration scripts to committed epochs, one for each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, open_scope
from zkmig.api.due import Due, find_due
from zkmig.api.frames import fit_to_servers
from zkmig.api.migrate import Report, Say, SingleShot, apply, hosts_of, pin_scope, require_parent
from zkmig.api.planfiles import is_unused, save_under_free_name
from zkmig.api.trees import ReadProgress, Tree, read_options, scan_target, split_excludes, take, with_excludes
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import DRAIN_TIMEOUT_S, Applied, quiet
from zkmig.changes import DEFAULT_POLICY
from zkmig.errors import BadInput, Outcome, Refused, ZkmigError
from zkmig.model import path as paths
from zkmig.model.acl import Identity
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.patterns import parse_path
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.plan import make
from zkmig.plan.make import TargetScope
from zkmig.plan.plan import Limits, Plan
from zkmig.policy.policy import AnyPolicy, Policy, policy_of
from zkmig.script import load as loading
from zkmig.script.load import Script
from zkmig.script.proof import proven
from zkmig.source.location import EnsembleLocation, parse
from zkmig.source.read import consistent, make_scope
from zkmig.wire.client import Client

AnyScript = Script | str | os.PathLike[str]

PLANS_FOLDER = ".plans"
WILL_BE_REFUSED = "apply will refuse the plan"  # so says `plan_script` of a script whose turn it is not


def load_script(path: str | os.PathLike[str]) -> Script:
    """The migration script in a file NNNN_slug.py. Its top level is run, with all that this process may do.

    BadInput, naming file and line, for what is none: no Python, an exception, not exactly one migration, a number that
    is not its epoch.
    """
    return loading.load(os.fspath(path))


def _loaded(script: AnyScript) -> Script:
    return script if isinstance(script, Script) else load_script(script)


# -- planning ---------------------------------------------------------------------------------------------------------


def plan_script(
    script: AnyScript,
    target: Tree,
    *,
    policy: AnyPolicy = None,
    limits: Limits | None = None,
    scope: str | None = None,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    identities: Iterable[Identity] | None = None,
    require_consistent: bool = False,
    progress: ReadProgress | None = None,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Plan:
    """The plan that makes of `target` what the script makes of a draft of it.

    As `make_plan`, with the script in the place of a source. What a policy includes and excludes is what the script may
    look at; its rules are judged; all that the script changes is compared, whatever the policy compares. BadInput where
    it maps paths or ACLs, or gives kinds or quotas: a script does that itself. BadInput, too, for whatever the script
    raises, and where it does not come out the same each time (`zkmig.script.proof`). Refused where it is for another
    scope than the target's. Nothing is written.
    """
    access = Access.of(**session)
    script = _loaded(script)
    declared = _for_scripts(with_excludes(policy, excludes))
    limits = limits or Limits()
    place = parse(target) if isinstance(target, str) else None
    if scope is not None and script.pin.scope not in (None, scope):
        raise Refused(f"it is for scope {script.pin.scope!r}, not {scope!r}", script.path, "check --scope")
    if isinstance(place, EnsembleLocation):
        live = _Live.read(access, script, place, declared, limits, scope, control, progress, say)
        if live.base is not None and require_consistent:
            consistent(live.base)
        return live.planned(script, live.base, live.pin, identities)[0]
    _, left_out = split_excludes(declared.excludes, target, target)
    base = take(target, read_options(access, left_out, control, progress))
    if require_consistent:
        consistent(base)
    if identities is None:
        identities = [c.identity for c in access.auth if c.identity is not None] or None
    after = _run(script, base, base.scope, declared)
    made = make.make_plan(after, base, policy=declared, limits=limits, hosts=hosts_of(base), identities=identities)
    return dataclasses.replace(made, script=script.pin)


@dataclass(frozen=True, slots=True)
class _Live:
    """A target that was asked: its tree (base; None: its root is not there yet), its scope, who this session is."""

    access: Access
    place: EnsembleLocation
    policy: Policy
    limits: Limits
    scope: Scope
    base: Snapshot | None
    pin: TargetScope | None
    identities: tuple[Identity, ...]

    @classmethod
    def read(
        cls,
        access: Access,
        script: Script,
        place: EnsembleLocation,
        policy: Policy,
        limits: Limits,
        scope: str | None,
        control: str,
        progress: ReadProgress | None,
        say: Say,
    ) -> _Live:
        left_out, _ = split_excludes(policy.excludes, str(place), None)
        whole = make_scope(place.path, left_out, control)
        with access.client(place) as client:
            pin = _pin(client, script, place, scope, control, say)  # before the tree, as for any plan
            # Rules may speak of what is not selected.
            tops = () if policy.rules else _tops(policy, place.path)
            base = scan_target(access, place, client, left_out, control, progress, tops)
            if base is None and pin is not None:
                require_parent(client, place.path)
            return cls(access, place, policy, limits, whole, base, pin, tuple(client.identities))

    def planned(
        self,
        script: Script,
        base: Snapshot | None,
        pin: TargetScope | None,
        identities: Iterable[Identity] | None = None,
    ) -> tuple[Plan, Snapshot]:
        """The plan of a script for the tree as it is, or as it will be; and the tree that it leads to."""
        place = self.place
        after = _run(script, base, self.scope, self.policy)
        who = self.identities if identities is None else tuple(identities)

        def with_limits(limits: Limits) -> Plan:
            made = make.make_plan(
                after,
                base,
                policy=self.policy,
                limits=limits,
                target_root=place.path,
                hosts=place.hosts,
                scope=pin,
                identities=who,
            )
            return dataclasses.replace(made, script=script.pin, target=dataclasses.replace(made.target, tls=place.tls))

        plan = fit_to_servers(with_limits, self.limits, place.hosts, self.access.tls_for(place))
        # What the script may look at is less than what was read, of which the next one's rules may speak.
        read = base.scope if base is not None else self.scope
        return plan, Snapshot(after.columns, read, after.provenance, after.consistency)


def _pin(
    client: Client, script: Script, place: EnsembleLocation, scope: str | None, control: str, say: Say
) -> TargetScope | None:
    pin = pin_scope(client, place, scope, control, say)
    if pin is None:
        return None
    if script.pin.scope not in (None, pin.scope):
        what = f"it is for scope {script.pin.scope!r}, and {place.path} belongs to scope {pin.scope!r}"
        raise Refused(what, script.path, "check --to and the script")
    if pin.epoch + 1 != script.epoch:
        say(f"the committed epoch is {pin.epoch}, and the script is for epoch {script.epoch}: {WILL_BE_REFUSED}")
    return pin


def _for_scripts(policy: Policy) -> Policy:
    """The policy as a script may have it. BadInput for what a script says itself."""
    declared = {
        "paths": policy.map_paths,
        "ACLs": policy.map_acls,
        "kinds": policy.kinds,
        "quotas": policy.quotas,
    }
    for name, given in declared.items():
        if given:
            what = f"a policy that {'carries' if name == 'quotas' else 'maps'} {name} is not for scripts"
            raise BadInput(what, "", "leave that out: a script says itself what is to be where")
    return dataclasses.replace(policy, compare=DEFAULT_POLICY)


def _tops(policy: Policy, root: str) -> tuple[str, ...]:
    """What the policy includes, absolute on the target; () for all of it."""
    tops = tuple(parse_path(text, "--include") for text in policy.includes)
    for top in tops:
        if not paths.contains(root, top):
            raise BadInput("this include is not below the root", top, f"name paths below {root}")
    return () if root in tops else tops


def _run(script: Script, base: Snapshot | None, scope: Scope, policy: Policy) -> Snapshot:
    """What the script makes of the tree, of which it may look at what is included."""
    tops = _tops(policy, scope.root)
    if base is not None and tops:
        narrowed = dataclasses.replace(base.scope, includes=tops)
        base = Snapshot(base.columns, narrowed, base.provenance, base.consistency)
    return proven(script, base, dataclasses.replace(scope, includes=tops))


# -- applying ---------------------------------------------------------------------------------------------------------


def foresee(
    due: Due,
    *,
    policy: AnyPolicy = None,
    control: str = CONTROL_ROOT,
    progress: ReadProgress | None = None,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> tuple[Plan, ...]:
    """A plan for each script, the first of the tree as it is, each further one of the tree that those before lead to.

    So that what is wrong with a later script, or against the policy's rules, is told before the first write. Only the
    first plan can be applied.
    """
    access = Access.of(**session)
    if not due.scripts:
        return ()
    place = parse(due.target)
    assert isinstance(place, EnsembleLocation)
    declared = _for_scripts(policy_of(policy))
    live = _Live.read(access, due.scripts[0], place, declared, Limits(), due.scope, control, progress, say)
    plans: list[Plan] = []
    base = live.base
    for script in due.scripts:
        pin = None if live.pin is None else dataclasses.replace(live.pin, epoch=script.epoch - 1)
        plan, base = live.planned(script, base, pin)
        plans.append(plan)
    return tuple(plans)


@contextmanager
def kept_plan(
    plan: Plan,
    script: Script,
    due: Due,
    folder: str | None = None,
    *,
    control: str = CONTROL_ROOT,
    **session: Unpack[SessionOptions],
) -> Iterator[SealedPlan]:
    """The plan in a file of its own, for `resume`; the file goes again where an error says that nothing was written.

    folder: where; None: PLANS_FOLDER beside the scripts, which is made, and kept out of git: plans hold data.
    """
    sealed = _save(plan, script, due.scope, folder or os.path.join(due.folder, PLANS_FOLDER))
    try:
        yield sealed
    except ZkmigError as error:
        if error.outcome is Outcome.NOTHING_WRITTEN and _is_unused(sealed, due, control, session):
            os.unlink(sealed.path)
        raise


def _save(plan: Plan, script: Script, scope: str, folder: str) -> SealedPlan:
    hint = "say where plans are to be kept with --plans DIR; no server was written to"
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, mode=0o700)
            with open(os.path.join(folder, ".gitignore"), "x", encoding="utf-8") as ignored:
                ignored.write("*\n")
    except OSError as error:
        raise BadInput(
            f"plans, which resume would need, cannot be kept there: {error.strerror}", folder, hint
        ) from error
    stem = f"{scope}-{os.path.splitext(script.pin.file)[0]}"
    return save_under_free_name(plan, folder, stem, hint)


def _is_unused(sealed: SealedPlan, due: Due, control: str, session: SessionOptions) -> bool:
    """As `is_unused`, by a session of its own."""
    try:
        with open_scope(Access.of(**session), due.target, due.scope, control) as (client, names):
            return is_unused(client, names, sealed)
    except ZkmigError:
        return False


def apply_scripts(
    where: str | os.PathLike[str],
    at: str,
    *,
    epoch: int,
    scope: str | None = None,
    policy: AnyPolicy = None,
    plans: str | None = None,
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
    **session: Unpack[SessionOptions],
) -> tuple[Applied, ...]:
    """Plan and apply the scripts that lead from the committed epoch to `epoch`, one epoch each, in order.

    where: a directory of scripts, or one script. at: zk://... of the ensemble; what is planned is the whole tree of the
    scope. plans: where the plan of each is kept, for `resume`. All of them are planned before the first is applied
    (`foresee`). The rest as for `apply`; errors as for `find_due`, `plan_script` and `apply`. Those before the one that
    fails stay committed: called again, it goes on behind them. An empty tuple: all were applied before.
    """
    due = find_due(where, at, epoch=epoch, scope=scope, wait=wait, control=control, say=say, **session)
    if len(due.scripts) > 1:
        foresee(due, policy=policy, control=control, **session)
    done: list[Applied] = []
    for script in due.scripts:
        plan = plan_script(script, due.target, policy=policy, scope=due.scope, control=control, say=say, **session)
        with kept_plan(plan, script, due, plans, control=control, **session) as sealed:
            done.append(
                apply(
                    sealed,
                    epoch=script.epoch,
                    scope=due.scope,
                    single_shot=single_shot,
                    drain_timeout_s=drain_timeout_s,
                    wait=wait,
                    steal=steal,
                    ignore_quotas=ignore_quotas,
                    throttle=throttle,
                    evict=evict,
                    control=control,
                    report=report,
                    say=say,
                    **session,
                )
            )
    return tuple(done)
