"""pytest fixtures that give tests of migrations a real ZooKeeper server (docs/rehearse.md).

pytest loads this in every environment that has zkmig installed: so nothing of zkmig is imported before a test asks.
"""

from __future__ import annotations

import itertools
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
    from zkmig.wire.credential import Credential

_numbers = itertools.count(1)


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
    """A tree and a scope of this test's own, on `zkmig_server`; not there until `load`. No other test sees it."""
    with ExitStack() as stack:
        number = next(_numbers)
        yield TestTree(zkmig_throw_away, f"/test-{number}", f"test-{number}", stack)


@dataclass
class TestTree:
    """A tree on a real server, below `root`, in scope `scope`."""

    __test__ = False  # its name is not that of a test

    throw_away: ThrowAway
    root: str
    scope: str
    stack: ExitStack = field(repr=False)
    is_loaded: bool = False

    @property
    def location(self) -> str:
        """As every command and function of zkmig takes it: zk://127.0.0.1:PORT/test-1."""
        return f"zk://{self.throw_away.server.hosts}{self.root}"

    def load(self, tree: Mapping[str, Any] | Snapshot | str | os.PathLike[str], *, epoch: int = 0) -> Snapshot:
        """Put a tree there, once, and make the scope over it, STABLE at `epoch`; the tree as it is then.

        tree: a dict from relative paths to data (bytes, text, None, or anything that JSON holds); or a snapshot, or its
        file, whatever its root is. Its ephemerals live until the test ends. epoch: the committed one, as the scripts
        before the one that is tested would have left it.
        """
        import zkmig
        from zkmig.apply.options import Options
        from zkmig.errors import BadInput
        from zkmig.rehearse import handmade
        from zkmig.rehearse.copies import copy_of, identities_in, relocated
        from zkmig.rehearse.loading import load, stand_ins_for
        from zkmig.rehearse.stage_server import SESSION_TIMEOUT_MS
        from zkmig.source.location import parse_hosts
        from zkmig.stop import StopRequest
        from zkmig.wire.client import Client

        if self.is_loaded:
            raise BadInput("a tree was loaded already", self.root, "one test, one tree; or ask for another fixture")
        self.is_loaded = True
        if isinstance(tree, Mapping) and not isinstance(tree, zkmig.Snapshot):
            found = handmade.snapshot_of(tree, self.root)
        else:
            found = relocated(tree if isinstance(tree, zkmig.Snapshot) else zkmig.read(os.fspath(tree)), self.root)
        client = Client(
            parse_hosts(self.throw_away.server.hosts),
            auth=(self.throw_away.super_user,),
            session_timeout_ms=SESSION_TIMEOUT_MS,
        )
        self.stack.enter_context(client)
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
        return {path.removeprefix(self.root): node.data for path, node in self.read().items()}

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


def _make_scope(client: Any, scope: str, root: str, epoch: int) -> None:
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
