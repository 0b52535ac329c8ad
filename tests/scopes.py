"""A scope to migrate: a tree that plain kazoo has put there, its control plane, plans to other trees, and eyes.

A tree is a dict from relative path to Node (tests/trees.py). What came of a migration is told by kazoo alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

from kazoo.client import KazooClient
from kazoo.security import ACL, Id

from tests.interruptions import Interrupted, at, interrupt
from tests.trees import Node, Tree, snapshot_of
from zkmig.apply import engine
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Applied, Options
from zkmig.apply.holding import hold_scope, release_scope
from zkmig.apply.rollback import RolledBack
from zkmig.dev import Server
from zkmig.epoch.control import ControlPaths, Roles, init_scope, read_record
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.record import Held, Record
from zkmig.model import path as paths
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, AclList, Identity, digest_id
from zkmig.model.scope import Scope
from zkmig.plan import planfile
from zkmig.plan.make import TargetScope, make_plan
from zkmig.plan.plan import Limits
from zkmig.policy.policy import AnyPolicy
from zkmig.source.ensemble import scan_or_none
from zkmig.source.location import parse_hosts
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.replies import Reply
from zkmig.wire.requests import Read, Write

ME = Credential("digest", b"me:hunter2")
ALICE = Credential("digest", b"alice:wonder")
MY_IDENTITY = Identity("digest", digest_id("me", "hunter2"))
ALICES_IDENTITY = Identity("digest", digest_id("alice", "wonder"))
MINE: AclList = (Acl(ALL, *MY_IDENTITY),)
ALICES: AclList = (Acl(ALL, *ALICES_IDENTITY),)
READ_ONLY: AclList = (Acl(READ, *WORLD),)
MINE_BUT_READABLE: AclList = (Acl(READ, *WORLD), Acl(ALL, *MY_IDENTITY))

SMALL_BATCHES = Limits(batch_bytes_max=1_300)


def _all(asked: list[Any]) -> list[Any]:
    """What each of the answers brings, or the error of the first that failed."""
    return [one.get() for one in asked]


def _count_children(tree: Tree, relative: str) -> int:
    return sum(1 for path in tree if path and path.rpartition("/")[0] == relative)


def settled(tree: Mapping[str, Node]) -> Tree:
    """The tree with every counter at least as high as the creates it took."""
    counted = dict(tree)
    return {
        relative: node._replace(counter=max(node.counter, _count_children(counted, relative)))
        for relative, node in sorted(tree.items(), key=lambda item: item[0].replace("/", "\0"))
    }


# Every sort of change, in some dozen small batches: see `AFTER`.
BEFORE: Tree = settled(
    {
        "": Node(b"root"),
        "/keep": Node(b"kept"),
        **{f"/change/{number:02}": Node(b"old" * number) for number in range(1, 16)},
        "/change": Node(b""),
        "/null": Node(None),
        "/empty": Node(b""),
        "/gone": Node(b"queue", counter=37),
        **{f"/gone/{number:02}": Node(bytes(30 + number)) for number in range(12)},
        "/gone/mine": Node(b"secret", MINE, counter=3),
        "/gone/mine/deeper": Node(None, MINE_BUT_READABLE),
        "/queue": Node(b"", counter=20),
        "/queue/q-0000000019": Node(b"job"),
        "/tightened": Node(b"open"),
        "/tightened/child": Node(b"c"),
        "/loosened": Node(b"closed", MINE_BUT_READABLE),
        "/loosened/child": Node(b"c"),
        "/turned": Node(b"other", (Acl(ALL, *ALICES_IDENTITY), Acl(ALL, *MY_IDENTITY))),
    }
)
AFTER: Tree = settled(
    {
        "": Node(b"new root"),
        "/keep": BEFORE["/keep"],
        **{f"/change/{number:02}": Node(b"new" * number) for number in range(1, 16)},
        "/change": Node(b""),
        "/null": Node(b""),
        "/empty": Node(None),
        "/new": Node(b"", counter=60),
        **{f"/new/{number:02}": Node(bytes(20 + 5 * number)) for number in range(20)},
        "/new/队列 %41": Node(None),
        "/read-only": Node(b"", READ_ONLY),
        "/read-only/child": Node(b"c", READ_ONLY),
        "/read-only/child/alices": Node(b"hers", ALICES),
        "/read-only/child/alices/own": Node(b"hers too", ALICES),
        "/queue": Node(b"", counter=90),
        "/queue/q-0000000019": Node(b"job"),
        "/tightened": Node(b"closed", MINE_BUT_READABLE),
        "/tightened/child": Node(b"c", MINE),
        "/loosened": Node(b"opened"),
        "/loosened/child": Node(b"c2"),
        "/turned": Node(b"other", (Acl(ALL, *MY_IDENTITY), Acl(READ, "ip", "10.9.8.7"))),
    }
)


class Seen(NamedTuple):
    """A znode as kazoo reads it; counter: the number that its next sequential child gets."""

    data: bytes | None
    acl: AclList
    counter: int


Image = dict[str, Seen]


class WatchedClient(Client):
    """before: called with every request just before it may be sent; what it raises keeps it from being sent."""

    before: Callable[[Read | Write], object] = staticmethod(lambda _: None)

    def call_reply(self, request: Read | Write) -> Reply:
        self.before(request)
        return super().call_reply(request)

    def pipeline(
        self, requests: Iterable[Read | Write], depth: int | Callable[[], int]
    ) -> Generator[Reply, None, None]:
        def watched() -> Iterator[Read | Write]:
            for request in requests:
                self.before(request)
                yield request

        return super().pipeline(watched(), depth)


class Site:
    """One scope of a server; its name is that of its root. Everything that it opens is closed with it.

    eyes: a kazoo client with the identities of ME and ALICE, if there is one already; it stays open.
    """

    def __init__(
        self, server: Server, root: str, control: str = paths.CONTROL_ROOT, eyes: KazooClient | None = None
    ) -> None:
        self.server = server
        self.root = root
        self._eyes = eyes
        self.names = ControlPaths(root.strip("/").replace("/", "-") or "all", control)
        self._stack = ExitStack()
        self._looker: Client | None = None
        self._holder: Client | None = None

    def __enter__(self) -> Self:
        self.kazoo = self._eyes or self.open_kazoo(ME, ALICE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- who looks and writes -----------------------------------------------------------------------------------------

    def open_kazoo(self, *auth: Credential) -> KazooClient:
        """A plain client with these identities."""
        client = KazooClient(self.server.hosts, auth_data=[(one.scheme, one.secret.decode()) for one in auth])
        self._stack.callback(client.close)
        self._stack.callback(client.stop)
        client.start()
        return client

    def client(
        self,
        *auth: Credential,
        hosts: str | None = None,
        session_timeout_ms: int = 30_000,
        stop: StopRequest | None = None,
    ) -> WatchedClient:
        """A connected data client; ME unless told otherwise."""
        return self._stack.enter_context(
            WatchedClient(
                parse_hosts(hosts or self.server.hosts),
                auth=auth or (ME,),
                session_timeout_ms=session_timeout_ms,
                check_stop=stop.check if stop else None,
            )
        )

    # -- the tree -----------------------------------------------------------------------------------------------------

    def path(self, relative: str) -> str:
        return paths.join(self.root, relative)

    def grow(self, tree: Tree) -> None:
        """Put the tree there: data, counters, and last the ACLs, children first."""
        _all([self.kazoo.create_async(self.path(relative), node.data) for relative, node in tree.items()])
        for relative, node in tree.items():
            self.raise_counter(relative, node.counter - _count_children(tree, relative))
        _all(
            [
                self.kazoo.set_acls_async(self.path(relative), [ACL(a.perms, Id(a.scheme, a.id)) for a in node.acl])
                for relative, node in reversed(tree.items())
                if node.acl != OPEN_ACL
            ]
        )

    def raise_counter(self, relative: str, by: int) -> None:
        """By creating and deleting a child as often as it takes."""
        if by <= 0:
            return
        transaction = self.kazoo.transaction()
        for _ in range(by):
            transaction.create(f"{self.path(relative)}/x")
            transaction.delete(f"{self.path(relative)}/x")
        assert not any(isinstance(result, Exception) for result in transaction.commit())

    def look(self) -> Image:
        """Everything below the root by relative path, {} if the root is not there."""
        seen: Image = {}
        level = [""] if self.kazoo.exists(self.root) else []
        while level:
            places = [self.path(relative) for relative in level]
            data, acls, names = (
                [ask(place) for place in places]
                for ask in (self.kazoo.get_async, self.kazoo.get_acls_async, self.kazoo.get_children_async)
            )
            below: list[str] = []
            for relative, (value, stat), (acl, _), children in zip(
                level, _all(data), _all(acls), _all(names), strict=True
            ):
                counter = (stat.cversion + stat.numChildren) // 2
                seen[relative] = Seen(
                    value, tuple(Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in acl), counter
                )
                below += [f"{relative}/{name}" for name in children]
            level = below
        return seen

    # -- the scope ----------------------------------------------------------------------------------------------------

    def init(self, tree: Tree | None = None, roles: Roles | None = None, allow_empty: bool = False) -> Record:
        """Grow the tree, if one is given, and create the scope over it."""
        if tree is not None:
            self.grow(tree)
        roles = roles or Roles((MY_IDENTITY,), (WORLD,))
        return init_scope(self.client(), self.names, self.root, roles, allow_empty=allow_empty).record

    def hold(self, held: Held | None) -> None:
        """Put this hold into the record, or take off the one that is there, as an admin does beside any owner."""
        self._holder = self._holder or self.client()
        if held is not None:
            hold_scope(self._holder, self.names, held, replace=True, stop=StopRequest())
        elif (found := read_record(self._holder, self.names)[0].held) is not None:
            release_scope(self._holder, self.names, found.holder, stop=StopRequest())

    def forget(self) -> None:
        """Delete the scope with all that belongs to it, as an operator would who wants to begin anew."""
        registry, stat = self.kazoo.get(self.names.registry)
        fields = json.loads(registry or b"")
        del fields["scopes"][self.names.scope]
        self.kazoo.delete(self.names.home, recursive=True)
        self.kazoo.set(self.names.registry, json.dumps(fields).encode(), version=stat.version)

    def record(self) -> Record:
        """The record as it is now."""
        self._looker = self._looker or self.client()
        return read_record(self._looker, self.names)[0]

    def plan(
        self,
        tree: Tree,
        *,
        limits: Limits = SMALL_BATCHES,
        client: Client | None = None,
        pinned: bool = True,
        policy: AnyPolicy = None,
    ) -> SealedPlan:
        """The plan that turns what is there into `tree`, for the epoch after the committed one."""
        client = client or self.client()
        record, _ = read_record(client, self.names)
        scope = TargetScope(self.names.scope, self.names.control, record.incarnation, record.epoch)
        plan = make_plan(
            snapshot_of(tree, self.root),
            scan_or_none(client, Scope(self.root)),
            policy=policy,
            limits=limits,
            target_root=self.root,
            hosts=tuple(parse_hosts(self.server.hosts)),
            scope=scope if pinned else None,
            identities=client.identities,
        )
        return SealedPlan(plan, planfile.plan_hash(plan))

    def apply(
        self,
        sealed: SealedPlan,
        epoch: int = 1,
        *,
        client: Client | None = None,
        options: Options | None = None,
        how: TakeOver | None = None,
        stop: StopRequest | None = None,
        dry_run: bool = False,
    ) -> Applied:
        """As `engine.apply_plan`, in batches unless the options say otherwise."""
        return engine.apply_plan(
            client or self.client(),
            self.names,
            sealed,
            epoch,
            options=options or Options(single_shot="never"),
            take_over=how or TakeOver(),
            stop=stop or StopRequest(),
            dry_run=dry_run,
        )

    def resume(
        self,
        sealed: SealedPlan | None,
        *,
        client: Client | None = None,
        options: Options | None = None,
        how: TakeOver | None = None,
    ) -> Applied | RolledBack | None:
        """As `engine.resume`."""
        return engine.resume(
            client or self.client(),
            self.names,
            sealed,
            options=options or Options(single_shot="never"),
            take_over=how or TakeOver(),
            stop=StopRequest(),
        )

    def rollback(
        self, *, client: Client | None = None, options: Options | None = None, how: TakeOver | None = None
    ) -> RolledBack:
        """As `engine.rollback`."""
        return engine.rollback(
            client or self.client(),
            self.names,
            options=options or Options(),
            take_over=how or TakeOver(),
            stop=StopRequest(),
        )

    def leave_open(self, sealed: SealedPlan, batches: int, epoch: int = 1) -> None:
        """Apply, and be interrupted once that many batches have been applied (a few more may have been sent)."""
        report = at("write", batches, interrupt)
        try:
            self.apply(sealed, epoch, options=Options(single_shot="never", report=report))
        except Interrupted:
            return
        raise AssertionError(f"the plan has no more than {batches} batches")


# -- what must hold ---------------------------------------------------------------------------------------------------


def assert_is(image: Image, tree: Tree) -> None:
    """The image has exactly the tree's nodes, data and ACLs, and no counter is lower."""
    assert {path: (seen.data, seen.acl) for path, seen in image.items()} == {
        path: (node.data, node.acl) for path, node in tree.items()
    }
    assert {path: seen.counter for path, seen in image.items() if seen.counter < tree[path].counter} == {}


def assert_went_back(before: Image, after: Image) -> None:
    """Exactly the old nodes, data and ACLs, and no counter is lower."""
    assert_is(after, {path: Node(*seen) for path, seen in before.items()})
