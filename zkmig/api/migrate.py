"""make_plan, apply, resume and rollback: from two trees to a committed epoch, or back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Unpack

from zkmig.api.access import Access, Hosts, SessionOptions, covering_scope, ensemble, scope_at
from zkmig.api.frames import all_take, fit_to_servers
from zkmig.api.trees import (
    ReadProgress,
    Tree,
    read_options,
    scan_target,
    split_excludes,
    take,
    take_source,
    with_excludes,
)
from zkmig.apply import engine
from zkmig.apply.engine import SealedPlan, scope_of
from zkmig.apply.forward import DRAIN_TIMEOUT_S, Applied, Options, Progress
from zkmig.apply.options import quiet
from zkmig.apply.preflight import examine
from zkmig.apply.preview import Preview, preview_resume, preview_rollback
from zkmig.apply.rollback import RolledBack
from zkmig.epoch.attempts import read_note
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.owner import TakeOver, read_owner
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import BadInput, NotPermitted, Refused
from zkmig.model import path as paths
from zkmig.model.acl import Identity
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.quota import Quota
from zkmig.model.snapshot import Snapshot
from zkmig.plan import make, planfile
from zkmig.plan.make import TargetScope
from zkmig.plan.plan import Limits, Plan
from zkmig.plan.preflight import Finding
from zkmig.policy.carry import target_tops
from zkmig.policy.policy import AnyPolicy, Policy
from zkmig.source import zks
from zkmig.source.location import EnsembleLocation, parse, parse_hosts
from zkmig.source.quotas import read_quotas
from zkmig.source.read import consistent
from zkmig.stop import StopRequest
from zkmig.wire.client import Client

SingleShot = Literal["auto", "never", "require"]
AnyPlan = Plan | SealedPlan | str | os.PathLike[str]
Say = Callable[[str], None]
Report = Callable[[Progress], None]

WILL_BE_STALE = "this plan will be stale"  # so says `make_plan` while an epoch is under way
FRAME_BYTES_ANY = 1 << 30  # of a session that only sends what a plan was cut to


# -- planning ---------------------------------------------------------------------------------------------------------


def make_plan(
    source: Tree,
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
    """The plan that makes `target` equal to `source`.

    Either is a snapshot or a location. A target given as the location of an ensemble may not be there yet; its
    scope's incarnation and committed epoch are pinned in the plan, its servers asked who this session is and, for
    large nodes, what they take. A target given as a snapshot is not asked anything: what is unknown then, apply finds
    out. identities: who will apply, where the servers are not asked; None: the digest identities of `auth`.
    policy: what is meant, and as what it is to arrive; a ComparePolicy says which aspects count. Quotas are read from a
    live source. require_consistent: NotConsistent for a source that is fuzzy. excludes: absolute paths below either
    root, besides those of the policy. say: gets sentences for the operator.

    Raises PlanImpossible (an ephemeral in the way, a node over the frame limit, an ACL that would shut the migrator
    out), NotPermitted, and what `read` raises. Nothing is written.
    """
    access = Access.of(**session)
    limits = limits or Limits()
    declared = with_excludes(policy, excludes)
    for_source, for_target = split_excludes(declared.excludes, source, target)
    place = parse(target) if isinstance(target, str) else None
    ours = take_source(source, target, declared, read_options(access, for_source, control, progress), access)
    if require_consistent:
        consistent(ours)
    quotas = _quotas_of(access, source, declared)
    if isinstance(place, EnsembleLocation):
        live = _LiveTarget(access, place, scope, control, say)
        return live.plan(ours, declared, quotas, limits, for_target, identities, progress)
    theirs = take(target, read_options(access, for_target, control, progress))
    if identities is None:
        identities = [c.identity for c in access.auth if c.identity is not None] or None
    hosts = hosts_of(theirs)
    return make.make_plan(
        ours, theirs, policy=declared, limits=limits, hosts=hosts, identities=identities, quotas=quotas
    )


def _quotas_of(access: Access, source: Tree, policy: Policy) -> tuple[Quota, ...] | None:
    """The quotas of the source's scope; None where they cannot be known, and nobody asked for them."""
    place = parse(source) if isinstance(source, str) else None
    if not isinstance(place, EnsembleLocation):
        return None
    try:
        with access.client(place) as client:
            return read_quotas(client, place.path)
    except NotPermitted:
        if policy.quotas:
            raise
        return None


def hosts_of(snapshot: Snapshot) -> Hosts:
    """The servers that a snapshot was read from, as far as it tells."""
    with suppress(BadInput):  # a snapshot of something else than an ensemble: apply asks for --at
        return parse_hosts(",".join(snapshot.provenance.hosts))
    return ()


class _LiveTarget:
    """A target that can be asked: its tree, its scope, and who this session is there."""

    def __init__(self, access: Access, place: EnsembleLocation, scope: str | None, control: str, say: Say) -> None:
        self._access = access
        self._place = place
        self._scope = scope
        self._control = control
        self._say = say

    def plan(
        self,
        source: Snapshot,
        policy: Policy,
        quotas: tuple[Quota, ...] | None,
        limits: Limits,
        excludes: Sequence[str],
        identities: Iterable[Identity] | None,
        progress: ReadProgress | None,
    ) -> Plan:
        place = self._place
        with self._access.client(place) as client:
            scope = pin_scope(
                client, place, self._scope, self._control, self._say
            )  # before the tree: what changes in between makes the plan stale, not wrong
            # Rules may speak of what is not selected.
            tops = () if policy.rules else target_tops(policy, source, place.path)
            target = scan_target(self._access, place, client, excludes, self._control, progress, tops)
            if target is None and scope is not None:
                require_parent(client, place.path)
            who = tuple(client.identities if identities is None else identities)

        def with_limits(limits: Limits) -> Plan:
            made = make.make_plan(
                source,
                target,
                policy=policy,
                limits=limits,
                target_root=place.path,
                hosts=place.hosts,
                scope=scope,
                identities=who,
                quotas=quotas,
            )
            return dataclasses.replace(made, target=dataclasses.replace(made.target, tls=place.tls))

        return fit_to_servers(with_limits, limits, place.hosts, self._access.tls_for(place))


def require_parent(client: Client, path: str) -> None:
    """BadInput for a root to be that has no parent. Where no scope covers it yet, init creates what is missing."""
    if path != "/" and client.exists(paths.parent(path)) is None:
        raise BadInput("its parent does not exist", path, "an epoch writes only below the root: create the parent")


def pin_scope(client: Client, place: EnsembleLocation, scope: str | None, control: str, say: Say) -> TargetScope | None:
    """The scope that covers a place, as its record stands; None, which is said, where there is none.

    Refused where it is another than `scope`. An epoch under way is said: the plan will be stale.
    """
    found = covering_scope(client, place.path, None, control)
    if found is None:
        say(f"no scope covers {place.path} yet: run zkmig init before the plan is applied")
        return None
    if scope not in (None, found.scope):
        raise Refused(f"it belongs to scope {found.scope!r}, not {scope!r}", place.path, "check --scope")
    record, _ = read_record(client, ControlPaths(found.scope, control))
    if record.state in MIGRATING:
        say(f"scope {found.scope} is {record.state.value}: {WILL_BE_STALE}; resume or roll back first, then plan again")
    return TargetScope(found.scope, control, record.incarnation, record.epoch)


def preflight(
    plan: AnyPlan, target: str | None = None, *, ignore_quotas: bool = False, **session: Unpack[SessionOptions]
) -> tuple[Finding, ...]:
    """What the target says to a plan, asked without writing: all that `apply` would refuse for, and warnings.

    The permissions that ACLs of existing nodes give are looked at by `make_plan`, and again by `apply`. Raises what
    `read` raises.
    """
    access = Access.of(**session)
    sealed = _sealed(plan)
    with access.client(_plan_place(sealed.plan, target)) as client:
        return examine(client, sealed.plan, ignore_quotas=ignore_quotas)


def save_plan(plan: Plan, path: str, force: bool = False) -> SealedPlan:
    """Write a plan file, complete or not at all; the plan with the hash that names it.

    BadInput if the file exists (unless `force`) or cannot be written.
    """
    return SealedPlan(plan, planfile.write(plan, path, force), os.path.abspath(path))


def load_plan(path: str | os.PathLike[str]) -> SealedPlan:
    """A plan from its file. BadInput if there is none, DamagedFile if it is not whole and unaltered."""
    shown = os.fspath(path)
    if zks.is_zks(shown):
        raise BadInput("this is a snapshot file, and a plan is wanted", shown, "make one with zkmig plan")
    try:
        plan, digest = planfile.read(shown)
    except BadInput as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        hint = "name a plan, which zkmig plan makes, or, to apply, a directory of migration scripts"
        raise BadInput("there is no such file", shown, hint) from error
    return SealedPlan(plan, digest, os.path.abspath(shown))


def _sealed(plan: AnyPlan) -> SealedPlan:
    if isinstance(plan, SealedPlan):
        return plan
    if isinstance(plan, Plan):
        return SealedPlan(plan, planfile.plan_hash(plan))
    return load_plan(plan)


# -- acting on a scope ------------------------------------------------------------------------------------------------


def apply(
    plan: AnyPlan,
    target: str | None = None,
    *,
    epoch: int,
    scope: str | None = None,
    single_shot: SingleShot = "auto",
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    wait: bool = False,
    steal: bool = False,
    dry_run: bool = False,
    ignore_quotas: bool = False,
    throttle: float | None = None,
    evict: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    report: Report = quiet,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Applied:
    """Carry a plan out as migration epoch `epoch`, which must be the committed one plus 1.

    plan: a plan, or the name of its file. target: zk://... of the ensemble; None: the servers that the plan names.
    scope: None: the one that the plan names or that covers its root. single_shot: whether all goes into the one
    transaction that moves the record. wait: for a living owner, and for a hold, to end; steal: take over from an
    owner. dry_run: every check, no write. ignore_quotas: go on although hard quotas of the target would be passed,
    where the servers do not enforce them. throttle: writes a second at most (a single shot is one transaction all the
    same); None: as many as other clients can stand, which a session of its own measures. evict: leases and guards not
    to wait for before the first write, each by its exact name ("acting/NAME", "guards/NAME"); that is put on record.

    Applied the second time, and with nothing to do, nothing is written. Raises BadInput, and Refused with its kinds
    (StalePlan, WrongEpoch, Held, NotOwner, OtherIncarnation) before the first write; Conflict, OutcomeUnknown, Stopped
    afterwards, the state being recorded (`outcome` of the error tells): go on with `resume` or `rollback`.
    """
    access = Access.of(**session)
    sealed = _sealed(plan)
    place = _plan_place(sealed.plan, target)
    pace = pace_of(access, place, throttle)
    with access.client(place, sealed.plan.limits.frame_bytes_max) as client:
        return engine.apply_plan(
            client,
            scope_of(client, sealed.plan, scope, control),
            sealed,
            epoch,
            options=dataclasses.replace(
                pace,
                single_shot=single_shot,
                drain_timeout_s=drain_timeout_s,
                report=report,
                say=say,
                ignore_quotas=ignore_quotas,
                evict=tuple(evict),
            ),
            take_over=TakeOver(wait, steal, sealed.path),
            stop=access.stop,
            dry_run=dry_run,
        )


def pace_of(access: Access, place: EnsembleLocation, throttle: float | None) -> Options:
    """How fast to write: what measures it, what limits it, and what the members take."""
    if throttle is not None and not throttle > 0:
        raise BadInput(
            "nothing would ever be written", f"--throttle {throttle:g}", "allow at least some writes a second"
        )

    def open_probe(stop: StopRequest) -> Client:
        return dataclasses.replace(access, stop=stop).client(place)

    def takes(frame_bytes: int) -> bool:
        return all_take(place.hosts, frame_bytes, access.tls_for(place))

    return Options(writes_per_s=throttle, open_probe=open_probe, all_take=takes)


def _plan_place(plan: Plan, at: str | None) -> EnsembleLocation:
    if at is None:
        if not plan.target.hosts:
            raise BadInput("the plan names no servers", plan.target.root, "say where to apply it: --at zk://HOST")
        return EnsembleLocation(plan.target.hosts, plan.target.root, plan.target.tls)
    place = ensemble(at)
    if place.path not in ("/", plan.target.root):
        raise BadInput(f"the plan is for {plan.target.root}, not {place.path}", at, "check the plan and --at")
    return place


def resume(
    plan: AnyPlan | None = None,
    at: str | None = None,
    *,
    scope: str | None = None,
    single_shot: SingleShot = "auto",
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    wait: bool = True,
    steal: bool = False,
    throttle: float | None = None,
    evict: Sequence[str] = (),
    agreed: Preview | None = None,
    control: str = CONTROL_ROOT,
    report: Report = quiet,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Applied | RolledBack | None:
    """Go on from wherever the last migrator stopped: to the commit, or to the end of a rollback it had begun.

    None when there is nothing to go on with. plan: needed unless the file that was applied still lies where it did.
    at: zk://... of the ensemble; None: the servers that the plan names. agreed: what `preview` showed to somebody who
    then agreed; Refused where another attempt is under way by now. The rest, and errors, as for `apply`; a
    living owner is waited for, and taken over when it makes no progress for as long as its session lasts.
    """
    access = Access.of(**session)
    with _Begun.open(access, plan, at, scope, control) as begun:
        begun.find_plan(say)
        pace = pace_of(access, begun.place, throttle)
        return engine.resume(
            begun.client,
            begun.names,
            begun.sealed,
            options=dataclasses.replace(
                pace,
                single_shot=single_shot,
                drain_timeout_s=drain_timeout_s,
                report=report,
                say=say,
                evict=tuple(evict),
            ),
            take_over=TakeOver(wait, steal, begun.plan_path),
            stop=access.stop,
            agreed=agreed.record if agreed is not None else None,
        )


def rollback(
    at: str | None = None,
    *,
    plan: AnyPlan | None = None,
    scope: str | None = None,
    wait: bool = True,
    steal: bool = False,
    throttle: float | None = None,
    agreed: Preview | None = None,
    control: str = CONTROL_ROOT,
    report: Report = quiet,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> RolledBack:
    """Take an epoch back that is not committed, from what its journal holds.

    at: zk://... of the ensemble. plan: only tells where and which scope, when `at` is left out. agreed: as for
    `resume`. Paths that somebody
    else has written meanwhile keep their value and are named in the result's deviations. Refused when no epoch is
    under way; other errors as for `apply`.
    """
    access = Access.of(**session)
    with _Begun.open(access, plan, at, scope, control) as begun:
        pace = pace_of(access, begun.place, throttle)
        return engine.rollback(
            begun.client,
            begun.names,
            options=dataclasses.replace(pace, report=report, say=say),
            take_over=TakeOver(wait, steal, begun.plan_path),
            stop=access.stop,
            agreed=agreed.record if agreed is not None else None,
        )


def preview(
    action: Literal["resume", "rollback"],
    plan: AnyPlan | None = None,
    at: str | None = None,
    *,
    scope: str | None = None,
    control: str = CONTROL_ROOT,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Preview:
    """What `resume` or `rollback` would do now. Refused as they would be; a living owner is not looked for."""
    with _Begun.open(Access.of(**session), plan, at, scope, control) as begun:
        if action == "rollback":
            return preview_rollback(begun.client, begun.names)
        begun.find_plan(say)
        return preview_resume(begun.client, begun.names, begun.sealed)


@dataclass
class _Begun:
    """A migration that was begun: a session, its scope, and its plan as far as it is known."""

    client: Client
    place: EnsembleLocation
    names: ControlPaths
    sealed: SealedPlan | None = None

    @classmethod
    @contextmanager
    def open(
        cls, access: Access, plan: AnyPlan | None, at: str | None, scope: str | None, control: str
    ) -> Iterator[_Begun]:
        if plan is not None:
            sealed = _sealed(plan)
            place = _plan_place(sealed.plan, at)
            with access.client(place, FRAME_BYTES_ANY) as client:
                yield cls(client, place, scope_of(client, sealed.plan, scope, control), sealed)
            return
        if at is None:
            raise BadInput("no ensemble is given", "", "say --at zk://HOST, set ZKMIG_AT, or name the plan file")
        place = ensemble(at)
        with access.client(place, FRAME_BYTES_ANY) as client:
            yield cls(client, place, scope_at(client, place, scope, control))

    @property
    def plan_path(self) -> str:
        return self.sealed.path if self.sealed is not None else ""

    def find_plan(self, say: Say) -> None:
        """Without a plan: a file that one of its owners named, if it lies on this host too and is the very one."""
        if self.sealed is not None:
            return
        record, _ = read_record(self.client, self.names)
        if record.state not in (State.PREPARING, State.OPEN):
            return
        note, _ = read_note(self.client, self.names, record)
        owners = (read_owner(self.client, self.names).owner, record.owner, *reversed(note.owners))
        for path in dict.fromkeys(owner.plan_path for owner in owners if owner is not None and owner.plan_path):
            # Perhaps of another host: here it may be anything, and a pipe would keep us waiting for ever.
            with suppress(BadInput, OSError):
                sealed = load_plan(path) if os.path.isfile(path) else None
                if sealed is None:
                    continue
                if sealed.hash == record.plan_hash:
                    say(f"going on with the plan file {path}")
                    self.sealed = sealed
                    return
