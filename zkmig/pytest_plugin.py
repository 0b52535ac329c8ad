"""pytest fixtures that give tests of migrations a real ZooKeeper server (docs/rehearse.md).

pytest loads this in every environment that has zkmig installed: so nothing of zkmig is imported before a test asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zkmig.api.migrate import AnyPlan
    from zkmig.api.scripts import AnyScript
    from zkmig.apply.options import Applied
    from zkmig.dev import Server
    from zkmig.model.snapshot import Snapshot
    from zkmig.plan.plan import Plan
    from zkmig.rehearse.result import Rehearsal
    from zkmig.wire.client import Client
    from zkmig.wire.credential import Credential

ROOT, SCOPE = "/app", "test"


@dataclass(frozen=True, slots=True)
class ThrowAway:
    """The server of a test run, and whom no ACL of it keeps out."""

    server: Server
    super_user: Credential


@pytest.fixture(scope="session")
def zkmig_throw_away() -> Iterator[ThrowAway]:
    """One server for the whole run, or for each worker of it; `zkmig_tree` makes room on it."""
    from zkmig.errors import BadInput
    from zkmig.rehearse.stage_server import make_server

    try:
        server, super_user = make_server()
    except BadInput as error:  # no ZooKeeper, or no Java: skipping would look like success
        pytest.fail(f"no ZooKeeper server can be started here: {error}", pytrace=False)
    with server:
        yield ThrowAway(server, super_user)


@pytest.fixture(scope="session")
def zkmig_server(zkmig_throw_away: ThrowAway) -> Server:
    """A real server on loopback: `zkmig_server.hosts` is what clients connect to."""
    return zkmig_throw_away.server


@pytest.fixture
def zkmig_tree(zkmig_throw_away: ThrowAway) -> Iterator[TestTree]:
    """A tree and its scope on `zkmig_server`, not there until `load`. Whatever is on the server goes with the test."""
    with ExitStack() as stack:
        stack.callback(_wipe, zkmig_throw_away)  # with or without `load`, and after its session
        yield TestTree(zkmig_throw_away, stack)


@dataclass
class TestTree:
    """A tree on a real server, below `root`, in scope `scope`: as `load` was told."""

    __test__ = False  # its name is not that of a test

    throw_away: ThrowAway
    stack: ExitStack = field(repr=False)
    root: str = ROOT
    scope: str = SCOPE
    is_loaded: bool = False

    @property
    def location(self) -> str:
        """As every command and function of zkmig takes it: zk://127.0.0.1:PORT/app."""
        return f"zk://{self.throw_away.server.hosts}{self.root}"

    def load(
        self,
        tree: Mapping[str, Any] | Snapshot | str | os.PathLike[str],
        *,
        root: str | None = None,
        scope: str = SCOPE,
        epoch: int = 0,
    ) -> Snapshot:
        """Put a tree there, once, and make the scope over it, STABLE at `epoch`; the tree as it is then.

        tree: a dict from relative paths to data (bytes, text, None, or anything that JSON holds); or a snapshot, or its
        file. root: where, since scripts name absolute paths; None: where a snapshot has it, and /app for a dict. Its
        ephemerals live until the test ends. epoch: the committed one, as the scripts before the one that is tested
        would have left it.
        """
        import zkmig
        from zkmig.apply.options import Options
        from zkmig.errors import BadInput
        from zkmig.rehearse import handmade
        from zkmig.rehearse.copies import copy_of, identities_in, relocated
        from zkmig.rehearse.loading import load, stand_ins_for
        from zkmig.stop import StopRequest

        if self.is_loaded:
            raise BadInput("a tree was loaded already", self.root, "one test, one tree")
        if isinstance(tree, Mapping) and not isinstance(tree, zkmig.Snapshot):
            found = handmade.snapshot_of(tree, root or ROOT)
        else:
            found = tree if isinstance(tree, zkmig.Snapshot) else zkmig.read(os.fspath(tree))
            found = relocated(found, root or found.root)
        self.root, self.scope, self.is_loaded = found.root, scope, True
        client = self.stack.enter_context(_client(self.throw_away))
        stand_ins = stand_ins_for(client, identities_in(found))
        load(client, copy_of(found, stand_ins, ()), Options(), StopRequest())
        _make_scope(client, self.scope, self.root, epoch)
        return self.read()

    def read(self) -> Snapshot:
        """The tree as it is now."""
        import zkmig

        return zkmig.read(self.location, auth=(self.throw_away.super_user,))

    def data(self) -> dict[str, bytes | None]:
        """Data by relative path, "" for the root, in tree order: what `load` takes, and what asserts like to see."""
        from zkmig.model import path as paths

        return {paths.relative_to(path, self.root): node.data for path, node in self.read().items()}

    def plan(self, script: AnyScript, **options: Any) -> Plan:
        """The plan of a migration script for this tree. options: as `zkmig.plan_script` takes them."""
        import zkmig

        return zkmig.plan_script(script, self.location, scope=self.scope, **options)

    def rehearse(self, what: AnyPlan | AnyScript, *, auth: Sequence[Credential] = (), **options: Any) -> Rehearsal:
        """Rehearse a plan or a script on a copy of this tree, which is not changed by that. options: as
        `zkmig.rehearse` takes them."""
        import zkmig
        from zkmig.api.rehearse import is_script

        if is_script(what):
            options["scope"] = self.scope
        return zkmig.rehearse(what, self.location, auth=auth, **options)

    def apply(self, what: AnyPlan | AnyScript, **options: Any) -> Applied:
        """Apply a plan or a script to this tree, as its next epoch. options: as `zkmig.apply` takes them."""
        import zkmig
        from zkmig.api.rehearse import is_script

        plan = self.plan(what) if is_script(what) else what
        epoch = zkmig.committed(self.location, self.scope).epoch + 1
        return zkmig.apply(plan, self.location, epoch=epoch, scope=self.scope, **options)


def _make_scope(client: Client, scope: str, root: str, epoch: int) -> None:
    """The scope, as if `epoch` epochs had been committed, and their history pruned."""
    import dataclasses

    from zkmig.epoch import record as records
    from zkmig.epoch.control import ControlPaths, init_scope
    from zkmig.rehearse.loading import EVERYBODY
    from zkmig.wire.requests import SetData

    names = ControlPaths(scope)
    made = init_scope(client, names, root, EVERYBODY, allow_empty=True).record
    if epoch:
        client.call(SetData(names.record, records.encode(dataclasses.replace(made, epoch=epoch)), 0))


def _client(throw_away: ThrowAway) -> Client:
    from zkmig.rehearse.stage_server import SESSION_TIMEOUT_MS
    from zkmig.source.location import parse_hosts
    from zkmig.wire.client import Client

    hosts = parse_hosts(throw_away.server.hosts)
    return Client(hosts, auth=(throw_away.super_user,), session_timeout_ms=SESSION_TIMEOUT_MS)


def _wipe(throw_away: ThrowAway) -> None:
    """Delete all that a test has left on the server, quotas and control planes with it."""
    with _client(throw_away) as client:
        _delete_all(client)


def _delete_all(client: Client) -> None:
    from zkmig.apply.prune import below
    from zkmig.model.path import SYSTEM_ROOT
    from zkmig.model.quota import QUOTA_ROOT
    from zkmig.wire.requests import Delete, GetChildren

    tops = [f"/{name}" for name in client.call(GetChildren("/")).children if f"/{name}" != SYSTEM_ROOT]
    left = [path for top in tops for path in (*below(client, top), top)]
    left += below(client, QUOTA_ROOT)
    for path, reply in zip(left, client.pipeline((Delete(path, -1) for path in left), 100), strict=True):
        if reply.error:  # -1: whatever version it has, all of it is a test's own
            raise RuntimeError(f"{path} of the test before could not be deleted: error {reply.error}")
