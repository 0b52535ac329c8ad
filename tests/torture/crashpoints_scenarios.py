"""What processes die in: pieces of a migrator's work, the trees that they lead between, and what lies in their way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.security import ACL, Id

from tests.interruptions import when_said
from tests.scopes import (
    ALICE,
    ALICES,
    ALICES_IDENTITY,
    ME,
    MINE,
    MINE_BUT_READABLE,
    MY_IDENTITY,
    READ_ONLY,
    Site,
    settled,
)
from tests.torture.crashpoints_client import Died, Fate, MortalClient
from tests.trees import Node, Tree
from zkmig.apply import engine
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Options
from zkmig.apply.prune import prune
from zkmig.apply.remove import remove_scope
from zkmig.apply.revert import Images, images
from zkmig.dev import Server
from zkmig.epoch.control import Roles, init_scope
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import Migrator, TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, AclList
from zkmig.model.quota import Quota
from zkmig.model.znode import Kind
from zkmig.plan import planfile
from zkmig.plan.make import make_plan
from zkmig.plan.plan import Limits
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.requests import Write

STEAL = TakeOver(steal=True)
HOURS = 3_600_000
LIMITS = Limits(batch_bytes_max=1_000)
NEVER = Options(single_shot="never", drain_timeout_s=5.0)
QUOTA_TEXT = "count=1000,bytes=-1"

# Of everything something: journal chunks of several READ sets, ACLs tightened, loosened and turned, counters that must
# rise, before and when a parent comes back, nodes of each kind.
OLD: Tree = settled(
    {
        "": Node(b""),
        "/a": Node(b"open"),
        "/b": Node(b"mine", MINE),
        "/c": Node(b"readable", MINE_BUT_READABLE),
        "/d": Node(b"", counter=5),
        "/d/one": Node(bytes(200)),
        "/d/two": Node(b"secret", MINE),
        "/q": Node(b"", counter=3),
        "/turned": Node(b"", (Acl(ALL, *ALICES_IDENTITY), Acl(ALL, *MY_IDENTITY))),
    }
)
NEW: Tree = settled(
    {
        "": Node(b"new"),
        "/a": Node(b"closed", MINE),
        "/b": Node(b"mine 2", MINE),
        "/c": Node(b"opened"),
        "/e": Node(b"", READ_ONLY, 7),
        "/e/f": Node(None, ALICES),
        **{f"/g{number}": Node(bytes(250)) for number in range(3)},
        "/k": Node(b"", kind=Kind.CONTAINER),
        "/l": Node(b"", kind=Kind.TTL, ttl_ms=HOURS),
        "/q": Node(b"", counter=9),
        "/turned": Node(b"", (Acl(ALL, *MY_IDENTITY), Acl(READ, "ip", "10.9.8.7"))),
    }
)
# The same without ACLs to take away, which no single transaction can hold.
NEW_AT_ONCE: Tree = {**NEW, "/a": Node(b"closed"), "/turned": OLD["/turned"]}

# And one that ME alone can take back.
NEW_OF_MINE: Tree = {**NEW, "/e": NEW["/e"]._replace(acl=OPEN_ACL), "/e/f": Node(None, MINE)}


# -- scenarios --------------------------------------------------------------------------------------------------------


def next_of(tree: Tree) -> Tree:
    """What the following epoch makes of the new tree: every ACL that an epoch has set is set again."""
    return {
        **{path: node for path, node in tree.items() if path not in ("/g0", "/k")},
        "/a": Node(b"reopened"),
        "/b": Node(b"mine 3", MINE_BUT_READABLE),
        "/c": Node(b"closed again", MINE),
        "/turned": tree["/turned"]._replace(acl=MINE),
    }


class Violation(AssertionError):
    """A property does not hold."""


class Place(Site):
    """foreign, foreign_acls: what somebody else has set on paths of the plan, by relative path.

    sessions: of its migrators. plans: all that were carried out here, by hash.
    """

    def __init__(self, server: Server, root: str, eyes: KazooClient) -> None:
        super().__init__(server, root, f"{root}-control", eyes)
        self.foreign: dict[str, bytes] = {}
        self.foreign_acls: dict[str, AclList] = {}
        self.sessions: set[int] = set()
        self.plans: dict[str, SealedPlan] = {}
        self.replan: Callable[[], SealedPlan]


def plan_to(site: Place, tree: Tree, limits: Limits = LIMITS, client: Client | None = None) -> SealedPlan:
    """From what is there to the tree and a quota on its root."""
    plan = site.plan(tree, limits=limits, client=client).plan
    plan = replace(plan, quotas=(Quota(site.root, QUOTA_TEXT),))
    return SealedPlan(plan, planfile.plan_hash(plan))


@contextmanager
def mortal(site: Place, *auth: Credential) -> Iterator[MortalClient]:
    """A process of its own, as far as the servers can tell; ME unless told otherwise."""
    with MortalClient(parse_hosts(site.server.hosts), auth=auth or (ME,)) as client:
        site.sessions.add(client.session_id)
        yield client


@dataclass(frozen=True)
class Scenario:
    """A piece of work that processes die in.

    command: of the engine, that it is a run of; "" for what any of them does. epoch: the committed one in the end.
    lay: what is in the scope before it, and the plan if it is another one then; clear: what is taken away before
    another process leads out. rest: the state that it ends in when it is let through. goes_on: from where another
    process has died. afterwards: what can be done in the end, wherever a process has died. old: {} for no tree yet.
    third: the tree of epoch 2. again: what the next process does where no epoch is under way; None: there is nothing
    to do, and it must be told so. revive: makes what is gone anew, where the work was to take it away.
    """

    name: str
    command: str
    new: Tree
    work: Callable[[Place, Client, SealedPlan], object]
    epoch: int
    lay: Callable[[Place, SealedPlan], object] = lambda _site, _sealed: None
    clear: Callable[[Place], object] = lambda _: None
    rest: State = State.STABLE
    goes_on: bool = False
    afterwards: Callable[[Place], object] = lambda _: None
    old: Tree = field(default_factory=lambda: OLD)
    third: Tree | None = None
    again: Callable[[Place, Client], object] | None = None
    revive: Callable[[Place], object] = lambda _: None

    @property
    def trees(self) -> tuple[Tree, Tree, Tree, Tree]:
        """By epoch."""
        return self.old, self.new, self.third or next_of(self.new), self.new


def apply(site: Place, client: Client, sealed: SealedPlan, options: Options = NEVER) -> object:
    epoch = site.record().epoch + 1
    site.plans[sealed.hash] = sealed
    return engine.apply_plan(client, site.names, sealed, epoch, options=options, take_over=STEAL, stop=StopRequest())


def resume(site: Place, client: Client, sealed: SealedPlan, options: Options = NEVER) -> object:
    return engine.resume(client, site.names, sealed, options=options, take_over=STEAL, stop=StopRequest())


def roll_back(site: Place, client: Client, _: SealedPlan | None = None) -> object:
    return engine.rollback(client, site.names, options=Options(), take_over=STEAL, stop=StopRequest())


def _apply_at_once(site: Place, client: Client, sealed: SealedPlan) -> object:
    return apply(site, client, sealed, Options(single_shot="require"))


def _apply_and_give_up(site: Place, client: Client, sealed: SealedPlan) -> None:
    with suppress(DrainTimeout):
        apply(site, client, sealed, Options(single_shot="never", drain_timeout_s=0.0))


def _resume_and_give_up(site: Place, client: Client, sealed: SealedPlan) -> None:
    with suppress(DrainTimeout):
        resume(site, client, sealed, Options(single_shot="never", drain_timeout_s=0.0))


def _lease(site: Place, _: SealedPlan) -> None:
    """One that its holder has released: the drain takes it away."""
    site.kazoo.create(f"{site.names.acting}/done", Lease("scaler", 60_000, released=True).encode())


def _guard(site: Place, _: SealedPlan) -> None:
    site.kazoo.create(f"{site.names.guards}/host.scaler", b'{"format": 1, "unit": "scaler", "stopped": false}')


def _no_guard(site: Place) -> None:
    with suppress(NoNodeError):
        site.kazoo.delete(f"{site.names.guards}/host.scaler")


def _stop_at(asker: str, count: int = 0) -> Callable[[Place, SealedPlan], None]:
    """A process dies when the write of that kind has landed, the count-th: where the scenario begins."""

    def lay(site: Place, sealed: SealedPlan) -> None:
        with mortal(site) as client:
            seen = itertools.count()

            def watch(_: object) -> None:
                if client.askers[-1].endswith(asker) and next(seen) == count:
                    client.condemn(len(client.writes), Fate.LANDED)

            client.watch = watch
            with suppress(Died):
                apply(site, client, sealed)
                raise AssertionError(f"{asker} has not written that often")
            client.vanish()

    return lay


def _all_batches(site: Place, sealed: SealedPlan) -> None:
    """A process dies before it verifies."""

    def die() -> None:
        raise Died

    with mortal(site) as client:
        with suppress(Died):
            apply(site, client, sealed, Options(single_shot="never", say=when_said("verifying", die)))
        client.vanish()


def _foreign(lay: Callable[[Place, SealedPlan], object]) -> Callable[[Place, SealedPlan], None]:
    """And then somebody writes a path of the plan."""

    def lay_and_write(site: Place, sealed: SealedPlan) -> None:
        lay(site, sealed)
        _write_b(site)

    return lay_and_write


def _write_b(site: Place) -> None:
    site.kazoo.set(site.path("/b"), b"foreign")
    site.foreign["/b"] = b"foreign"


def _all_batches_and_a_foreign_acl(site: Place, sealed: SealedPlan) -> None:
    """On a node whose ACL was tightened."""
    _all_batches(site, sealed)
    acl = (*OPEN_ACL, *ALICES)
    site.kazoo.set_acls(site.path("/a"), [ACL(entry.perms, Id(entry.scheme, entry.id)) for entry in acl])
    site.foreign_acls["/a"] = acl


def _resume_until_conflict(site: Place, client: Client, sealed: SealedPlan) -> None:
    with suppress(Conflict):
        resume(site, client, sealed)


def _after_a_conflict(site: Place, sealed: SealedPlan) -> None:
    """Somebody was in the way, and is not any more; the record still tells of it."""
    _stop_at("Forward._write_batches")(site, sealed)
    site.kazoo.create(site.path("/g2"))
    with mortal(site) as client:
        try:
            resume(site, client, sealed)
        except Conflict:
            site.kazoo.delete(site.path("/g2"))
        else:
            raise AssertionError("there was no conflict")


def _resume_at_once(site: Place, client: Client, sealed: SealedPlan) -> object:
    return resume(site, client, sealed, Options(single_shot="require"))


def _resume_and_evict(site: Place, client: Client, sealed: SealedPlan) -> object:
    return resume(site, client, sealed, Options(single_shot="never", evict=("host.scaler",)))


def _rolling_back(site: Place, sealed: SealedPlan) -> None:
    """A rollback has died once it had begun."""
    _stop_at("Forward._write_batches", 3)(site, sealed)
    _die_rolling_back(site)


def _rolling_back_past_others(site: Place, sealed: SealedPlan) -> None:
    _foreign(_all_batches_and_a_foreign_acl)(site, sealed)
    _die_rolling_back(site)


def _die_rolling_back(site: Place) -> None:
    with mortal(site) as client:

        def watch(_: object) -> None:
            if client.askers[-1].endswith(":_begin"):
                client.condemn(len(client.writes), Fate.LANDED)

        client.watch = watch
        with suppress(Died):
            roll_back(site, client)
            raise AssertionError("it has not begun")
        client.vanish()


def _apply_until_conflict(site: Place, client: Client, sealed: SealedPlan) -> None:
    """Somebody writes a path of the plan just before its batches."""
    assert isinstance(client, MortalClient)
    watch = client.watch

    def write_before(request: Write) -> None:
        if client.askers[-1].endswith("_tighten") and "/b" not in site.foreign:
            _write_b(site)
        watch(request)

    client.watch = write_before
    with suppress(Conflict):
        apply(site, client, sealed)


def _apply_at_once_and_be_refused(site: Place, client: Client, sealed: SealedPlan) -> None:
    """Somebody writes a path of the plan just before the one transaction."""
    assert isinstance(client, MortalClient)
    watch = client.watch

    def write_before(request: Write) -> None:
        if client.askers[-1].endswith("_commit_single_shot"):
            _write_b(site)
        watch(request)

    client.watch = write_before
    with suppress(Conflict):
        _apply_at_once(site, client, sealed)


def _apply_and_evict(site: Place, client: Client, sealed: SealedPlan) -> object:
    return apply(site, client, sealed, Options(single_shot="never", evict=("host.scaler",)))


def _applied(site: Place, sealed: SealedPlan) -> None:
    """An epoch is taken back, and then committed."""
    _stop_at("Forward._write_batches")(site, sealed)
    with mortal(site) as client:
        roll_back(site, client)
        apply(site, client, site.replan())
    _lease(site, sealed)


def _prune(site: Place, client: Client, _: SealedPlan | None = None) -> object:
    return prune(client, site.names, 0, options=Options(), take_over=STEAL, stop=StopRequest())


def _prune_but_one(site: Place, client: Client, _: SealedPlan) -> object:
    return prune(client, site.names, 1, options=Options(), take_over=STEAL, stop=StopRequest())


def _can_be_reverted(site: Place) -> None:
    """The undo of the last epoch was to be kept: what it brings back is the tree before it."""
    with mortal(site, ME, ALICE) as client:
        before = _way_back(site, client).before
    for relative, node in OLD.items():
        path = site.path(relative)
        if path in before and (before[path].data, before[path].acl) != (node.data, node.acl):
            raise Violation(f"kept undo brings back something else: {relative}")
    if missing := {"/a", "/b", "/d/one"} - {path.removeprefix(site.root) for path in before}:
        raise Violation(f"kept undo does not bring back {missing}")


def _way_back(site: Place, client: Client) -> Images:
    return images(client, site.names, 1, f"zk://{site.server.hosts}")


def _committed(site: Place, sealed: SealedPlan) -> SealedPlan:
    """An epoch is committed; the plan that takes it back."""
    with mortal(site, ME, ALICE) as client:
        apply(site, client, sealed)
        found = _way_back(site, client)
        plan = make_plan(
            found.before,
            found.now,
            limits=LIMITS,
            hosts=tuple(parse_hosts(site.server.hosts)),
            scope=found.scope,
            identities=client.identities,
        )
    return SealedPlan(plan, planfile.plan_hash(plan))


def _revert(site: Place, client: Client, sealed: SealedPlan) -> object:
    return apply(site, client, sealed, replace(NEVER, reverts=1))


def _taken_back(site: Place, sealed: SealedPlan) -> None:
    """An epoch is taken back, and others leave things in the control plane."""
    _stop_at("Forward._write_batches")(site, sealed)
    with mortal(site) as client:
        roll_back(site, client)
    _lease(site, sealed)
    for above in (site.names.acting, site.names.guards, site.names.readers):
        site.kazoo.create(f"{above}/junk", b"junk")


def _remove(site: Place, client: Client, _: SealedPlan | None = None) -> object:
    return remove_scope(client, site.names, options=Options(), take_over=STEAL, stop=StopRequest())


def _remove_again(site: Place, client: Client) -> None:
    _remove(site, client)
    if site.kazoo.exists(site.names.control):
        raise Violation("the control plane is still there")
    _init_again(site)


def _init_again(site: Place) -> None:
    """Wholly there, or wholly gone: then a new scope begins, in which nobody of the old one has a say."""
    if site.kazoo.exists(site.names.control):
        site.record()
        return
    assert site._looker is not None
    init_scope(site._looker, site.names, site.root, Roles((MY_IDENTITY,), (WORLD,)))


def _prune_the_rest(site: Place) -> None:
    """What is left is taken by the next prune, and nothing but the notes of attempts stays."""
    with mortal(site) as client:
        _prune(site, client)
    for attempt in site.kazoo.get_children(site.names.epochs):
        if site.kazoo.get_children(f"{site.names.epochs}/{attempt}"):
            raise Violation(f"a journal is left: {attempt}")


def _beat(site: Place, client: Client, _: SealedPlan) -> None:
    """Of a migrator that has been at work for a while; it beats where its time has come, which no test can wait for."""
    migrator = Migrator.take(client, site.names, STEAL, StopRequest())
    migrator._beat_at = -math.inf
    migrator.beat()
    migrator.release()


def _guarded_preparing(site: Place, sealed: SealedPlan) -> None:
    _guard(site, sealed)
    _stop_at("Forward._prepare")(site, sealed)


SCENARIOS = (
    Scenario("apply in batches", "apply_plan", NEW, apply, 1, _lease),
    Scenario("apply at once", "apply_plan", NEW_AT_ONCE, _apply_at_once, 1),
    Scenario("drain that is given up", "apply_plan", NEW, _apply_and_give_up, 0, _guard, _no_guard),
    Scenario("apply over nothing", "apply_plan", NEW, apply, 1, old={}),
    Scenario("resume of PREPARING", "resume", NEW, resume, 1, _stop_at("Forward._prepare"), goes_on=True),
    Scenario(
        "resume of PREPARING at once",
        "resume",
        NEW_AT_ONCE,
        _resume_at_once,
        1,
        _stop_at("Forward._prepare"),
        goes_on=True,
    ),
    Scenario(
        "resume of PREPARING that is given up",
        "resume",
        NEW,
        _resume_and_give_up,
        0,
        _guarded_preparing,
        _no_guard,
        goes_on=True,
    ),
    Scenario(
        "resume past a guard that is evicted",
        "resume",
        NEW,
        _resume_and_evict,
        1,
        _guarded_preparing,
        _no_guard,
        goes_on=True,
    ),
    Scenario("resume among the tightenings", "resume", NEW, resume, 1, _stop_at("Forward._tighten", 1), goes_on=True),
    Scenario("resume among the batches", "resume", NEW, resume, 1, _stop_at("Forward._write_batches", 3), goes_on=True),
    Scenario("resume past a conflict", "resume", NEW, resume, 1, _after_a_conflict, goes_on=True),
    Scenario("resume of what is pending", "resume", NEW, resume, 1, _stop_at(":finish_pending", 1), goes_on=True),
    Scenario("resume of a rollback", "resume", NEW, resume, 0, _rolling_back, goes_on=True),
    Scenario("rollback of PREPARING", "rollback", NEW, roll_back, 0, _stop_at("Forward._prepare"), goes_on=True),
    Scenario(
        "rollback among the tightenings", "rollback", NEW, roll_back, 0, _stop_at("Forward._tighten", 1), goes_on=True
    ),
    Scenario(
        "rollback among the batches", "rollback", NEW, roll_back, 0, _stop_at("Forward._write_batches", 3), goes_on=True
    ),
    Scenario("rollback of all batches", "rollback", NEW, roll_back, 0, _all_batches, goes_on=True),
    Scenario(
        "rollback to nothing", "rollback", NEW, roll_back, 0, _all_batches, rest=State.EMPTY, goes_on=True, old={}
    ),
    Scenario(
        "rollback past a foreign ACL", "rollback", NEW, roll_back, 0, _all_batches_and_a_foreign_acl, goes_on=True
    ),
    Scenario("rollback past a foreign write", "rollback", NEW, roll_back, 0, _foreign(_all_batches), goes_on=True),
    Scenario(
        "resume of a rollback past foreign ones", "resume", NEW, resume, 0, _rolling_back_past_others, goes_on=True
    ),
    Scenario(
        "resume until a conflict",
        "resume",
        NEW,
        _resume_until_conflict,
        0,
        _foreign(_stop_at("Forward._write_batches")),
        rest=State.OPEN,
        goes_on=True,
    ),
    Scenario("apply until a conflict", "apply_plan", NEW, _apply_until_conflict, 0, rest=State.OPEN),
    Scenario("apply past a guard that is evicted", "apply_plan", NEW, _apply_and_evict, 1, _guard, _no_guard),
    Scenario("revert", "apply_plan", NEW_OF_MINE, _revert, 2, _committed, third=OLD),
    Scenario("prune", "prune", NEW, _prune, 1, _applied, afterwards=_prune_the_rest),
    Scenario("prune but the last", "prune", NEW, _prune_but_one, 1, _applied, afterwards=_can_be_reverted),
    Scenario("remove", "remove_scope", NEW, _remove, 0, _taken_back, again=_remove_again, revive=_init_again),
    Scenario("beat", "", NEW, _beat, 0),
    Scenario("apply at once and be refused", "apply_plan", NEW_AT_ONCE, _apply_at_once_and_be_refused, 0),
)
