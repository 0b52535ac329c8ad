"""apply, resume and rollback on an open connection: who may begin what, then the work itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

from zkmig.apply.drain import refuse_unknown
from zkmig.apply.earlier import explain_stale, refuse_ended
from zkmig.apply.forward import Forward, finish_pending
from zkmig.apply.judging import Rulings
from zkmig.apply.options import Applied, Options
from zkmig.apply.preflight import examine
from zkmig.apply.preimage import take_preimage
from zkmig.apply.quotas import quotas_set
from zkmig.apply.rollback import RolledBack, roll_back
from zkmig.epoch.attempts import Fate, noting, read_attempts, revertible
from zkmig.epoch.control import ControlPaths, find_scope, read_record
from zkmig.epoch.journal import load
from zkmig.epoch.owner import Migrator, OwnerView, TakeOver, read_owner
from zkmig.epoch.record import Held as Hold
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import (
    EXIT_OUTCOME_UNKNOWN,
    EXIT_UNREACHABLE,
    Held,
    NotOwner,
    NotPermitted,
    OtherIncarnation,
    Outcome,
    Refused,
    StalePlan,
    WrongEpoch,
    ZkmigError,
)
from zkmig.model import path as paths
from zkmig.model.quota import Quota
from zkmig.plan.plan import Plan
from zkmig.plan.preflight import refuse
from zkmig.stop import StopRequest
from zkmig.wire.client import Client

HOLD_POLL_S = 0.5
WAIT_FOR_HOLD = "release the hold first, or wait for it with --wait"


@dataclass(frozen=True, slots=True)
class SealedPlan:
    """A plan with the hash of its file, which the record pins it by. path: the file, absolute; "" if it has none."""

    plan: Plan
    hash: str
    path: str = ""


def scope_of(client: Client, plan: Plan, scope: str | None, control: str) -> ControlPaths:
    """The scope that the plan names, or the one asked for, or the one that covers its root."""
    if scope is not None and plan.target.scope not in (None, scope):
        raise Refused(f"the plan is for scope {plan.target.scope!r}, not {scope!r}", hint="plan again for that scope")
    return find_scope(client, plan.target.root, scope or plan.target.scope, plan.target.control or control)


def apply_plan(
    client: Client,
    names: ControlPaths,
    sealed: SealedPlan,
    epoch: int,
    *,
    options: Options,
    take_over: TakeOver,
    stop: StopRequest,
    dry_run: bool = False,
) -> Applied:
    """Carry the plan out as migration epoch `epoch`, from the checks to the commit.

    Nothing is written when there is nothing to do, when the plan was applied before, and on a dry run. Raises the
    Refused family before the first write; Conflict, OutcomeUnknown or Stopped after it, with the state recorded.
    """
    while True:
        try:
            return _apply(client, names, sealed, epoch, options, take_over, stop, dry_run)
        except Held:  # raised by admission alone, so before anything is written
            if dry_run or not take_over.wait:
                raise
        except StalePlan as error:
            explain_stale(error, client, names, sealed.plan, sealed.hash)
            raise
        await_release(client, names, stop, options.say)


def await_release(client: Client, names: ControlPaths, stop: StopRequest, say: Callable[[str], None]) -> None:
    """Return once the scope is not held."""
    said: Hold | None = None
    while True:
        stop.check()
        record, _ = read_record(client, names)
        if record.held is None:
            return
        if record.held != said:
            said = record.held
            say(f"waiting for the hold of {said.holder} to be released: the scope is {said.told()}")
        time.sleep(HOLD_POLL_S)


def _apply(
    client: Client,
    names: ControlPaths,
    sealed: SealedPlan,
    epoch: int,
    options: Options,
    take_over: TakeOver,
    stop: StopRequest,
    dry_run: bool,
) -> Applied:
    plan = sealed.plan
    record, _ = read_record(client, names)
    if _is_applied(record, sealed, epoch):
        return _already(record)
    _check_script(names, plan, epoch)
    owner = read_owner(client, names) if record.state in MIGRATING else None
    if owner is None or not owner.alive:
        _check_admission(record, names, plan, epoch)
    else:
        _refuse_or_wait(record, owner, names, options, is_waiting=take_over.wait and not dry_run)
    _check_paths(names, plan)
    _check_identity(client, plan)
    # The epoch of a script that finds nothing to do is committed all the same: those of later scripts follow it.
    if plan.is_empty and plan.script is None and record.state is not State.EMPTY:
        return Applied(record.epoch, record.committed_attempt, 0, 0, False, nothing_to_do=True)
    refuse_unknown(client, names, record, options.evict)
    if dry_run:
        findings = examine(client, plan, take_preimage(client, plan, record.root), ignore_quotas=options.ignore_quotas)
        refuse(findings)
        for finding in findings:
            options.say(f"warning: {finding}")
        Rulings(client, plan, names.control, options.say, stop.check).predicted()
        return Applied(record.epoch, None, plan.writes, len(plan.batch_ends), plan.why_not_single_shot() is None)

    def admit(record: Record) -> None:
        if _is_applied(record, sealed, epoch):
            raise _AppliedMeanwhile(record)
        _check_admission(record, names, plan, epoch)

    try:
        migrator = Migrator.take(client, names, take_over, stop, options.say, admit)
    except _AppliedMeanwhile as meanwhile:
        return _already(meanwhile.record)
    with owning(migrator):
        if _is_applied(migrator.record, sealed, epoch):
            return _already(migrator.record)
        _check_admission(migrator.record, names, plan, epoch)
        return _saying_if_unlimited(Forward(migrator, plan, sealed.hash, options).run(epoch), options)


def _saying_if_unlimited(applied: Applied, options: Options) -> Applied:
    """The same; one transaction cannot be sent piece by piece, whatever rate was asked for."""
    if applied.single_shot and options.writes_per_s is not None:
        options.say("note: all was written in one transaction, to which --throttle does not apply")
    return applied


def _refuse_or_wait(
    record: Record, owner: OwnerView, names: ControlPaths, options: Options, *, is_waiting: bool
) -> None:
    """Say what waiting for the owner of an epoch is good for. It only seems alive for a while after a kill."""
    under_way = f"epoch {record.target_epoch} is {record.state.value}"
    lasts = f"up to {owner.session_timeout_ms / 1000:g} s, after a kill too"
    lives = f"the session of its migrator at {owner.who} lives (as it does, {lasts})"
    if not is_waiting:
        raise NotOwner(
            f"{under_way}, and {lives}",
            names.record,
            "wait for it with --wait; or, if it is dead, run zkmig resume or rollback, with --steal at once",
        )
    options.say(
        f"{under_way}, and {lives}; waiting does not carry that epoch on: if its migrator is dead, run zkmig resume or "
        "rollback instead"
    )


def resume(
    client: Client,
    names: ControlPaths,
    sealed: SealedPlan | None,
    *,
    options: Options,
    take_over: TakeOver,
    stop: StopRequest,
    agreed: Record | None = None,
) -> Applied | RolledBack | None:
    """Go on from wherever the last migrator stopped. None when there is nothing to go on with.

    agreed: the record of the attempt that somebody has agreed to, where that was asked.
    sealed: needed in PREPARING and OPEN; a rollback and pending ACLs go on without it. Refused when it is given and is
    neither under way nor the plan committed last; and when, by the time that the scope is ours, something else is under
    way.
    """

    def admit(record: Record) -> None:
        if sealed is not None:
            refuse_ended(client, names, record, sealed.plan, sealed.hash)
        check_plan_given(record, names, sealed)

    record, _ = read_record(client, names)
    _refuse_another(names, agreed or record, record)
    admit(record)
    if record.state not in MIGRATING and record.pending is None:
        return None
    if record.state is State.PREPARING:
        refuse_unknown(client, names, record, options.evict)
    elif options.evict:
        options.say(f"nobody is evicted: the scope is {record.state.value}, and nothing is waited for any more")
    migrator = _take_as_seen(client, names, record, admit, take_over, stop, options.say)
    with owning(migrator):
        record = migrator.record
        if record.state is State.ROLLING_BACK:
            _note_owner(migrator)
            return roll_back(migrator, options)
        if record.state in MIGRATING:
            assert sealed is not None
            _check_identity(client, sealed.plan)
            _note_owner(migrator)
            return _saying_if_unlimited(Forward(migrator, sealed.plan, sealed.hash, options).resume(), options)
        return _finish_pending(migrator, options)


def rollback(
    client: Client,
    names: ControlPaths,
    *,
    options: Options,
    take_over: TakeOver,
    stop: StopRequest,
    agreed: Record | None = None,
) -> RolledBack:
    """Take back the epoch that is under way. The plan is not needed. agreed: as for `resume`.

    Refused when there is none, and when it has come to its end by the time that the scope is ours, whatever is under
    way then: that is somebody else's work, which nobody has asked to take back.
    """
    record, _ = read_record(client, names)
    _refuse_another(names, agreed or record, record)
    refuse_at_rest(client, names, record)
    owner = read_owner(client, names)
    if owner.alive and take_over.wait and not take_over.steal and record.state is not State.ROLLING_BACK:
        options.say(
            f"the migrator at {owner.who} may go on meanwhile, and commit epoch {record.target_epoch}; to take it back "
            "for certain, stop that one first, or take over with --steal"
        )

    def admit(now: Record) -> None:
        refuse_at_rest(client, names, now, waited_for=record.target_epoch)

    migrator = _take_as_seen(client, names, record, admit, take_over, stop, options.say)
    with owning(migrator):
        _note_owner(migrator)
        return roll_back(migrator, options)


def _take_as_seen(
    client: Client,
    names: ControlPaths,
    seen: Record,
    admit: Callable[[Record], None],
    take_over: TakeOver,
    stop: StopRequest,
    say: Callable[[str], None],
) -> Migrator:
    """Become the owner of a scope in which the same attempt is under way, or pending, as in `seen`, or none any more.

    Refused otherwise, and where `admit` refuses; then nothing was written. Owners are waited for one after another: an
    attempt may end meanwhile, and the next begin.
    """

    def check(now: Record) -> None:
        _refuse_another(names, seen, now)
        admit(now)

    # Before the token is taken, so that the owner of another attempt keeps it; and after, since only then it is final.
    migrator = Migrator.take(client, names, take_over, stop, say, check)
    try:
        check(migrator.record)
    except BaseException:
        with suppress(ZkmigError):
            migrator.release()
        raise
    return migrator


def _work(record: Record) -> tuple[int, str] | None:
    """Epoch and name of the attempt that is under way, or of which ACLs or quotas are pending."""
    if record.state in MIGRATING:
        assert record.target_epoch is not None
        assert record.attempt is not None
        return record.target_epoch, record.attempt
    return None if record.pending is None else (record.pending.epoch, record.pending.attempt)


def _refuse_another(names: ControlPaths, seen: Record, now: Record) -> None:
    """Refused where another attempt is under way, or pending, than before."""
    before, found = _work(seen), _work(now)
    if before is None or found is None or found == before:
        return
    became = "was committed" if now.epoch >= before[0] > seen.epoch else "came to its end"
    stands = f"is {now.state.value}" if now.state in MIGRATING else "has ACLs or quotas pending"
    raise Refused(
        f"epoch {before[0]} (attempt {before[1]}) {became} meanwhile, and now epoch {found[0]} (attempt {found[1]}) "
        f"{stands}: nothing was done to that one",
        names.record,
        "run zkmig status; if that one is meant now, run the command again",
    )


def refuse_at_rest(client: Client, names: ControlPaths, record: Record, waited_for: int | None = None) -> None:
    """Refused unless an epoch is under way; a committed one is named, with the way back from it, if there is one.

    waited_for: the epoch that was under way before its migrator was waited for.
    """
    if record.state in MIGRATING:
        return
    what = f"there is nothing to roll back: the scope is {record.state.value} at epoch {record.epoch}"
    if waited_for is not None:
        became = "was committed" if record.epoch == waited_for else "came to its end"
        what = f"epoch {waited_for} {became} meanwhile; {what}"
    hint, last = "", record.last
    if last is not None and (last.epoch, last.outcome) == (record.epoch, Fate.COMMITTED.value):  # it is what was meant
        attempts = read_attempts(client, names, record, epoch=record.epoch)
        if revertible(attempts, record) is not None:
            hint = f"a committed epoch is taken back with zkmig revert --epoch {record.epoch}"
    raise Refused(what, names.record, hint)


def _note_owner(migrator: Migrator) -> None:
    """Add this owner to those that the attempt's note names; a note that cannot be written stops nothing."""
    migrator.write(noting(migrator, migrator.record), witness=0)


def _finish_pending(migrator: Migrator, options: Options) -> Applied | None:
    pending = migrator.record.pending
    if pending is None:
        return None
    attempt = migrator.names.attempt(pending.epoch, pending.attempt)
    manifest, journal = load(migrator.client, attempt, pending.manifest_hash)
    quotas = [Quota(path, text) for path, text in manifest.quotas]
    deviations = finish_pending(migrator, journal, quotas, options)
    done = quotas_set(quotas, deviations)
    return Applied(migrator.record.epoch, pending.attempt, 0, 0, False, deviations=tuple(deviations), quotas=done)


@contextmanager
def owning(migrator: Migrator) -> Iterator[None]:
    """Give the lock back in the end; an error that leaves work behind says that something was written."""
    try:
        yield
    except ZkmigError as error:
        is_unfinished = migrator.record.state in MIGRATING or migrator.record.pending is not None
        if error.outcome is Outcome.NOTHING_WRITTEN and is_unfinished:
            error.outcome = Outcome.PARTLY_WRITTEN  # so it was raised while reading, but not before the first write
        if error.outcome is not Outcome.NOTHING_WRITTEN and error.exit_code == EXIT_UNREACHABLE:
            error.exit_code = EXIT_OUTCOME_UNKNOWN  # to a script, the code of Unreachable says: nothing was written
        raise
    finally:
        with suppress(ZkmigError):  # without it the lock goes with the session, and an error on its way says more
            migrator.release()


class _AppliedMeanwhile(Exception):
    """Somebody else has committed the very plan while this process waited for its turn."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record


def _already(record: Record) -> Applied:
    return Applied(record.epoch, record.committed_attempt, 0, 0, False, already=True)


def _is_applied(record: Record, sealed: SealedPlan, epoch: int) -> bool:
    is_committed = record.epoch == epoch and record.committed_plan_hash == sealed.hash
    # With ACLs still pending it is not done: to say so would hide temporary ones that let the migrator in.
    return is_committed and record.state is State.STABLE and record.pending is None


def _check_admission(record: Record, names: ControlPaths, plan: Plan, epoch: int) -> None:
    where = names.record
    if plan.target.incarnation not in (None, record.incarnation):
        raise OtherIncarnation("the scope was deleted and created again since the plan was made", where, "plan again")
    if record.state in MIGRATING:
        raise Refused(
            f"epoch {record.target_epoch} is {record.state.value}", where, "run zkmig status, then resume or rollback"
        )
    if record.state not in (State.STABLE, State.EMPTY):
        raise Refused(f"the scope is {record.state.value}", where, "run zkmig status")
    if record.held is not None:
        raise Held(f"the scope is {record.held.told()}", where, WAIT_FOR_HOLD)
    if record.pending is not None:
        raise Refused(f"{record.pending} are pending", where, "run resume")
    is_old = plan.target.epoch not in (None, record.epoch)
    made = f"the plan was made at epoch {plan.target.epoch}"
    if epoch != record.epoch + 1:
        use = f"use --epoch {record.epoch + 1}"
        raise WrongEpoch(
            f"the committed epoch is {record.epoch}, so the next is {record.epoch + 1}, not {epoch}",
            where,
            f"{made}, too: plan again, then {use}" if is_old else f"{use} if that is what you mean",
        )
    if is_old:
        raise StalePlan(f"{made}, the scope is at {record.epoch}", where, "plan again")
    if not paths.contains(record.root, plan.target.root):
        raise Refused(f"scope {names.scope!r} covers {record.root}, not {plan.target.root}", where, "plan again")


def _check_script(names: ControlPaths, plan: Plan, epoch: int) -> None:
    """A plan that a script has made is applied as the epoch, and to the scope, that the script says."""
    script = plan.script
    if script is None:
        return
    if script.epoch != epoch:
        raise WrongEpoch(
            f"the plan was made by {script.file}, which is for epoch {script.epoch}, not {epoch}",
            names.record,
            f"use --epoch {script.epoch}, or give the script another number and plan again",
        )
    if script.scope not in (None, names.scope):
        raise Refused(f"{script.file}, which the plan was made by, is for scope {script.scope!r}", names.record)


def _check_paths(names: ControlPaths, plan: Plan) -> None:
    """A plan file is sealed, not proven: whatever it holds, nothing outside its root, or of zkmig's own, is written."""
    reserved = (names.control, paths.CONTROL_ROOT, paths.SYSTEM_ROOT)
    rest = (*(operation.path for operation in plan.ordered.rest), *(step.path for step in plan.acl_steps))
    limited = (quota.path for quota in plan.quotas)
    for path in chain(_suspect_creates(plan, reserved), rest, limited):
        if not paths.contains(plan.target.root, path) or any(paths.contains(each, path) for each in reserved):
            raise Refused(f"the plan for {plan.target.root} would write outside it", path, "plan again")


def _suspect_creates(plan: Plan, reserved: Sequence[str]) -> Iterator[str]:
    """Paths of the creates that a look at their first bytes does not clear; for a sound plan hardly any."""
    root = plan.target.root.encode()
    inside = root if root == b"/" else root + b"/"
    starts = tuple(path.encode() for path in reserved)
    for path in plan.ordered.creates.path_column():
        if not path.startswith(inside) or path.startswith(starts):
            yield path.decode()


def _check_identity(client: Client, plan: Plan) -> None:
    if plan.identity is not None and plan.identity not in client.identities:
        raise NotPermitted(
            f"the plan's temporary ACLs let in {plan.identity.scheme}:{plan.identity.id}, which this session is not",
            plan.target.root,
            "authenticate as when the plan was made, or plan again",
        )


def check_plan_given(record: Record, names: ControlPaths, sealed: SealedPlan | None) -> None:
    """Refused unless `sealed` is the plan of the epoch under way; in a rollback and without an epoch none is needed.

    A plan that is given where nothing is under way must be the one committed last: who names a plan wants it done.
    """
    if record.state not in (State.PREPARING, State.OPEN):
        if sealed is not None and record.state not in MIGRATING and sealed.hash != record.committed_plan_hash:
            raise Refused(
                f"this plan was neither begun nor committed: the scope is {record.state.value} at epoch {record.epoch}",
                names.record,
                f"begin it with zkmig apply --epoch {record.epoch + 1}",
            )
        return
    if sealed is None:
        raise Refused(
            f"epoch {record.target_epoch} is {record.state.value}: going on needs its plan file",
            names.record,
            f"zkmig resume PLAN.zkplan{_where_it_lay(record)}, or take it back with zkmig rollback",
        )
    if sealed.hash != record.plan_hash:
        raise Refused(
            f"this is not the plan of epoch {record.target_epoch} (that one is {str(record.plan_hash)[:12]}...)",
            names.record,
            "give that plan file, or take the epoch back with zkmig rollback",
        )


def _where_it_lay(record: Record) -> str:
    owner = record.owner
    return f" (it was {owner.plan_path} on {owner.host})" if owner is not None and owner.plan_path else ""
