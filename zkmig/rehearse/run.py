"""The rehearsal: load, apply, compare, revert, compare; once in batches, and once in a single shot where that fits.

Only the throw-away server is written to. Each stage is timed, and followed by a look at the whole tree, by a session of
its own that no ACL keeps out: what is compared is what is there, not what the stage says that it did.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from zkmig.apply import engine
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Options, Progress
from zkmig.apply.revert import images
from zkmig.epoch.control import ControlPaths, init_scope, read_record
from zkmig.epoch.owner import TakeOver
from zkmig.errors import EXIT_CONFLICT, EXIT_OUTCOME_UNKNOWN, NotPermitted, NotProven, Outcome, Stopped, ZkmigError
from zkmig.model import path as paths
from zkmig.model.acl import Identity
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.snapshot import Snapshot
from zkmig.plan import planfile
from zkmig.plan.make import make_plan
from zkmig.plan.operations import AclStep, CreateNode, RaiseCounter
from zkmig.plan.plan import Plan, TargetPin
from zkmig.rehearse.compare import counters_higher, difference, predicted
from zkmig.rehearse.copies import Copy, acl_with_ids, copy_of, identities_in, refuse_long
from zkmig.rehearse.limits import is_taken_back, what_is_left
from zkmig.rehearse.loading import EVERYBODY, load, make_ancestors, stand_ins_for
from zkmig.rehearse.permission import why_super
from zkmig.rehearse.repin import refuse_stale, repinned, same_but_pins, stale_paths
from zkmig.rehearse.result import Rehearsal, Stage
from zkmig.rehearse.stage_server import SESSION_TIMEOUT_MS, frame_bytes_max, running
from zkmig.rules.judge import baseline_of
from zkmig.source.ensemble import scan_or_none
from zkmig.source.read import make_scope
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential

SCOPE_OF_NONE = "rehearsal"  # where the plan names no scope
SUPER = Identity("super", "")  # as a server calls whoever has authenticated as its super user
START, LOAD, APPLY, APPLY_AT_ONCE, REVERT = "start", "load", "apply in batches", "apply at once", "revert"

SingleShot = Literal["never", "require"]
After = Callable[[str, str], None]


def _nothing(_stage: str, _hosts: str) -> None:
    pass


def rehearse(
    sealed: SealedPlan,
    target: Snapshot | None,
    *,
    auth: Sequence[Credential] = (),
    why_super: str = "",
    options: Options | None = None,
    stop: StopRequest | None = None,
    keep: str = "",
    notes: Iterable[str] = (),
    begun: Callable[[str], object] = lambda _: None,
    after: After = _nothing,
) -> Rehearsal:
    """Rehearse a plan on a copy of its target. target: as it is now; None: its root is not there.

    auth: of whoever will apply it. why_super: why no ACL of the target keeps them out, "" for whoever may be. options:
    `report` and `say` alone count. keep: a folder to leave the server's files in, which must not be there yet. notes:
    what else cannot be rehearsed. begun: called with the name of each stage. after: called with that and the server's
    address once the stage's work is done and before anything is compared: for tests that tamper with the tree. An empty
    plan needs no server: that it fits is all there is to say.

    StalePlan where the plan does not fit the target. NotProven, naming the stage, where one fails or leaves another
    tree than it has to: its exit code is that of what has failed. Stopped goes through as it is.
    """
    where = target.provenance.location if target is not None else sealed.plan.target.location
    refuse_stale(stale_paths(sealed.plan, target), where or sealed.plan.target.root)
    refuse_long(sealed.plan)
    options = options or Options()
    with ExitStack() as stack:
        one = _Rehearsing(
            sealed, target, tuple(auth), options, stop or StopRequest(), begun, after, stack, why_super=why_super
        )
        if not sealed.plan.is_empty:
            one.run(keep)
        return one.result(where, tuple(notes), keep)


@dataclass
class _Rehearsing:
    sealed: SealedPlan
    target: Snapshot | None
    auth: tuple[Credential, ...]
    options: Options
    stop: StopRequest
    begun: Callable[[str], object]
    after: After
    stack: ExitStack
    stages: list[Stage] = field(default_factory=list)
    copy: Copy | None = None
    stand_ins: dict[Identity, Identity] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seen: Snapshot | None = None  # the tree as it was looked at last
    why_super: str = ""
    version: str = ""

    @property
    def plan(self) -> Plan:
        return self.sealed.plan

    def run(self, keep: str) -> None:
        with self._stage(START) as stage:
            server, self._super = self.stack.enter_context(running(self.plan, self.target, keep))
            self.version = server.srvr().get("Zookeeper version", "").partition(",")[0].partition("-")[0]
            self._server = server
            self._looker = self._client((self._super,))
            stage.proven = f"ZooKeeper {self.version} on {server.address}" if self.version else ""
        self._load()
        self._take_place()
        self._there_and_back("never")
        if self.plan.why_not_single_shot() is None and is_taken_back(self.plan):
            self._there_and_back("require")

    def result(self, where: str, notes: tuple[str, ...], keep: str) -> Rehearsal:
        plan = self.plan
        return Rehearsal(
            plan_hash=self.sealed.hash,
            target=where,
            root=plan.target.root,
            tree_hash=self.target.tree_hash if self.target is not None else None,
            server=self.version,
            writes=plan.writes,
            batches=len(plan.batch_ends),
            stages=tuple(self.stages),
            warnings=tuple(self.warnings),
            not_rehearsed=(*notes, *what_is_left(plan, self.target, self.copy, self.stand_ins, self.why_super)),
            as_super=bool(self.why_super),
            kept=keep if self.stages else "",
        )

    # -- stages -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, name: str) -> Iterator[_Open]:
        """Around a stage: its time, and its name on whatever ends it."""
        one = _Open(name)
        self._name = name
        self.begun(name)
        with _blamed_on(name):
            yield one
        self.stages.append(one.done())

    def _load(self) -> None:
        with self._stage(LOAD) as stage:
            if self.target is None:
                make_ancestors(self._looker, paths.parent(self.plan.target.root))
                self._look_after(stage, None, "there is nothing to load: the root is not there yet")
                return
            ids = identities_in(self.target) | {
                Identity(entry.scheme, entry.id): 0 for _, acl in self.plan.acls() for entry in acl
            }
            self.stand_ins = stand_ins_for(self._looker, ids)
            raised = {op.path for op in self.plan.ordered.rest if isinstance(op, RaiseCounter)}
            self.copy = copy_of(self.target, self.stand_ins, raised)
            load(self._looker, self.copy, self._options("never"), self.stop)
            what = "tree_hash and counter_hash are the target's"
            if self.stand_ins or self.copy.low or self.copy.tree.tree_hash != self.target.tree_hash:
                what = "every node is as the target's, but for what cannot be rehearsed"
            self._look_after(stage, self.copy.tree, what)

    def _take_place(self) -> None:
        """A scope over the root, or over its parent where the root is yet to be created: else nothing leads back."""
        plan = self.plan
        root = plan.target.root
        self.names = ControlPaths(plan.target.scope or SCOPE_OF_NONE, plan.target.control or CONTROL_ROOT)
        over = paths.parent(root) if self.target is None and root != "/" else root
        digests = [one.identity for one in self.auth if one.identity is not None]
        self.why_super = self.why_super or why_super(plan, self.target, digests)
        with _blamed_on(LOAD):
            init_scope(self._looker, self.names, over, EVERYBODY, allow_empty=True)
            self._actor = self._client((*self.auth, self._super) if self.why_super else self.auth)

    def _there_and_back(self, how: SingleShot) -> None:
        base = self.seen
        self._apply(base, how)
        if is_taken_back(self.plan):
            self._revert(base, how)

    def _apply(self, base: Snapshot | None, how: SingleShot) -> None:
        with self._stage(APPLY if how == "never" else APPLY_AT_ONCE) as stage:
            plan = self._plan_for(base)
            wanted = predicted(base, plan)
            record, _ = read_record(self._actor, self.names)
            stage.began = time.monotonic()  # what comes before, no migration does
            applied = engine.apply_plan(
                self._actor,
                self.names,
                SealedPlan(plan, planfile.plan_hash(plan)),
                record.epoch + 1,
                options=self._options(how),
                take_over=TakeOver(),
                stop=self.stop,
            )
            if applied.deviations:
                first = applied.deviations[0]
                raise _failed(stage.name, ZkmigError(first.reason, first.path))
            rules = ", and every rule of the plan holds" if plan.soundness.rules else ""
            self._look_after(stage, wanted, f"tree_hash and counter_hash are those that the plan foretells{rules}")

    def _revert(self, base: Snapshot | None, how: SingleShot) -> None:
        with self._stage(REVERT) as stage:
            try:
                self._take_back(self._actor, how)
            except NotPermitted as error:
                # The ACLs that came with the commit keep out whoever has applied it. That is how it would be on the
                # target, and no reason not to look whether somebody else could take it back.
                if self.why_super or error.outcome is not Outcome.NOTHING_WRITTEN:
                    raise
                self._warn(f"once it is committed, these credentials could not revert it: {error.where}: {error.what}")
                self._take_back(self._client((*self.auth, self._super)), how, SUPER)
            now = self._look_after(stage, base, "tree_hash is the target's again", counters_may_be_higher=True)
            higher = counters_higher(base, now)
            if higher:
                stage.proven += f"; {higher} sequence counters stay higher, as nothing lowers them"

    def _take_back(self, client: Client, how: SingleShot, *more: Identity) -> None:
        """Revert the last epoch, as `api.revert` does."""
        record, _ = read_record(client, self.names)
        found = images(client, self.names, record.epoch, self._server.address)
        plan = make_plan(
            found.before,
            found.now,
            limits=dataclasses.replace(self.plan.limits, frame_bytes_max=frame_bytes_max(self.plan, self.target)),
            hosts=(client.server,),
            scope=found.scope,
            identities=(*client.identities, *((SUPER,) if self.why_super else ()), *more),
        )
        fits = plan.why_not_single_shot() is None
        engine.apply_plan(
            client,
            self.names,
            SealedPlan(plan, planfile.plan_hash(plan)),
            record.epoch + 1,
            options=dataclasses.replace(self._options(how if fits else "never"), reverts=record.epoch),
            take_over=TakeOver(),
            stop=self.stop,
        )

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    # -- what is there ------------------------------------------------------------------------------------------------

    def _look_after(
        self, stage: _Open, wanted: Snapshot | None, proven: str, *, counters_may_be_higher: bool = False
    ) -> Snapshot | None:
        self.after(stage.name, self._server.address)
        stage.worked = time.monotonic()
        found = self.seen = self._look()
        differs = difference(wanted, found, counters_may_be_higher=counters_may_be_higher)
        if differs is not None:
            raise _not_proven(stage.name, f"the tree is not what it has to be: {differs}")
        stage.proven = proven
        if found is not None:
            stage.nodes, stage.tree_hash, stage.counter_hash = len(found), found.tree_hash, found.counter_hash
        return found

    def _look(self) -> Snapshot | None:
        return scan_or_none(
            self._looker, make_scope(self.plan.target.root, (), self.plan.target.control or CONTROL_ROOT)
        )

    def _plan_for(self, base: Snapshot | None) -> Plan:
        """The plan for the tree that is there now. NotProven, were anything but its pins another."""
        plan = self._with_stand_ins()
        record, _ = read_record(self._looker, self.names)
        place = TargetPin(
            location=f"zk://{self._server.address}{plan.target.root}",
            hosts=(self._actor.server,),
            root=plan.target.root,
            tree_hash=base.tree_hash if base is not None else None,
            counter_hash=base.counter_hash if base is not None else None,
            zxid_last=base.zxid_last if base is not None else 0,
            scope=self.names.scope,
            control=self.names.control,
            incarnation=record.incarnation,
            epoch=record.epoch,
        )
        made = repinned(plan, base, place, keeps_identity=not self.why_super)
        if differs := same_but_pins(plan, made):
            raise _not_proven(self._name, f"the plan for the copy is not the plan that was given: {differs} differs")
        return made

    def _with_stand_ins(self) -> Plan:
        """The plan with the ids that this server takes. Rules then have to hold against the copy, too."""
        plan, ids = self.plan, self.stand_ins
        # A script's epoch is not that of this scope; the history of what was applied is not what is rehearsed.
        plan = dataclasses.replace(plan, script=None)
        if not ids:
            return plan
        creates = plan.ordered.creates
        table = tuple(acl_with_ids(acl, ids) for acl in creates.acl_table)
        rest = tuple(
            dataclasses.replace(op, acl=acl_with_ids(op.acl, ids)) if isinstance(op, CreateNode) else op
            for op in plan.ordered.rest
        )
        steps = tuple(_step_with_ids(step, ids) for step in plan.acl_steps)
        soundness = plan.soundness
        if soundness.rules and self.copy is not None:
            soundness = dataclasses.replace(soundness, baseline=baseline_of(soundness.rules, self.copy.tree))
        operations = dataclasses.replace(plan.ordered, creates=dataclasses.replace(creates, acl_table=table), rest=rest)
        return dataclasses.replace(plan, operations=operations, acl_steps=steps, soundness=soundness)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _client(self, auth: Sequence[Credential]) -> Client:
        host, _, port = self._server.address.rpartition(":")
        client = Client(
            ((host, int(port)),),
            auth=auth,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            check_stop=self.stop.check,
            frame_bytes_max=frame_bytes_max(self.plan, self.target),
        )
        return self.stack.enter_context(client)

    def _options(self, how: SingleShot) -> Options:
        name = self._name

        def report(step: Progress) -> None:
            self.options.report(dataclasses.replace(step, phase=f"{name}: {step.phase}"))

        def say(text: str) -> None:
            self.options.say(f"{name}: {text}")

        # What quotas would refuse stands in no copy: none is loaded.
        return Options(single_shot=how, report=report, say=say, ignore_quotas=True)


@dataclass
class _Open:
    """A stage that is under way."""

    name: str
    began: float = field(default_factory=time.monotonic)
    worked: float | None = None  # when its work was done, and the comparing began
    proven: str = ""
    nodes: int = 0
    tree_hash: str | None = None
    counter_hash: str | None = None

    def done(self) -> Stage:
        ended = time.monotonic()
        worked = self.worked or ended
        hashes = self.tree_hash, self.counter_hash
        return Stage(self.name, worked - self.began, ended - worked, self.proven, self.nodes, *hashes)


@contextmanager
def _blamed_on(stage: str) -> Iterator[None]:
    """Inside, whatever fails becomes NotProven of that stage; Stopped stays what it is."""
    try:
        yield
    except Stopped as stopped:
        stopped.outcome = Outcome.NOTHING_WRITTEN  # to the target
        raise
    except NotProven:
        raise
    except ZkmigError as error:
        raise _failed(stage, error) from error


def _step_with_ids(step: AclStep, ids: dict[Identity, Identity]) -> AclStep:
    tighten = None if step.tighten is None else acl_with_ids(step.tighten, ids)
    return dataclasses.replace(step, tighten=tighten, final=acl_with_ids(step.final, ids))


def _failed(stage: str, error: ZkmigError) -> NotProven:
    """What a stage failed with. Its ways on are for a scope that somebody keeps: this one is gone."""
    text = f"{error.where}: {error.what}" if error.where else error.what
    hint = error.hint if error.outcome is Outcome.NOTHING_WRITTEN else ""
    found = _not_proven(stage, text, hint)
    # 5 would send operators to look at what became of their target, which was not written to.
    found.exit_code = EXIT_CONFLICT if error.exit_code == EXIT_OUTCOME_UNKNOWN else error.exit_code
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    return found


def _not_proven(stage: str, what: str, hint: str = "") -> NotProven:
    found = NotProven(f"the rehearsal failed at {stage!r}: {what}", "", hint or "the target was only read")
    found.stage = stage
    return found
