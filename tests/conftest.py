"""Fixtures that give tests real ZooKeeper servers, a subtree of their own, and kazoo as independent eyes."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
from hypothesis import settings
from kazoo.client import KazooClient

from tests.guards import Guarded
from tests.program import Program
from tests.scopes import Site
from zkmig.dev import Ensemble, Server
from zkmig.epoch.control import REGISTRY_FORMAT

# No time limit for a single example: on a machine that also runs servers, a pause says nothing about the code.
settings.register_profile("zkmig", deadline=None)
settings.load_profile("zkmig")

# Where the tests run in the background or under nohup these are ignored, and would be by all that the tests start.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)

_root_numbers = itertools.count(1)


class ServerPair(NamedTuple):
    """Two servers that know nothing of each other."""

    source: Server
    target: Server


class KazooClientFactory(Protocol):
    """Makes a started client of a server, an ensemble or a connect string; it is closed when the test ends."""

    def __call__(self, where: Server | Ensemble | str, *, timeout: float = 10.0) -> KazooClient: ...


def open_control_root(server: Server) -> None:
    """A registry of scopes that every test may add to, whoever it authenticates as.

    Otherwise the first test that runs init decides, for all later ones, who may.
    """
    client = KazooClient(server.hosts)
    client.start()
    client.create("/zkmig/scopes", json.dumps({"format": REGISTRY_FORMAT, "scopes": {}}).encode(), makepath=True)
    client.stop()
    client.close()


@pytest.fixture(scope="session")
def zk() -> Iterator[Server]:
    """One server for the whole run: stay below `tree_root`. TTL nodes are admitted, and everybody's scopes.

    With ZKMIG_TEST_ENSEMBLE=1 it is a follower of an ensemble of three, so that every write goes by way of a leader.
    """
    if os.environ.get("ZKMIG_TEST_ENSEMBLE") == "1":
        with Ensemble(extended_types=True) as three:
            follower = three.followers()[0]
            open_control_root(follower)
            yield follower
        return
    with Server(extended_types=True) as server:
        open_control_root(server)
        yield server


@pytest.fixture(scope="session")
def zk_pair() -> Iterator[ServerPair]:
    """A source and a target for the whole run, neither of them `zk`: stay below `tree_root`. TTL nodes are admitted."""
    with Server(extended_types=True) as source, Server(extended_types=True) as target:
        open_control_root(source)
        open_control_root(target)
        yield ServerPair(source, target)


@pytest.fixture
def fresh_zk() -> Iterator[Server]:
    """A server for this test alone, to be hurt, or to be looked at as a whole."""
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    """Three servers with a leader, for this module alone."""
    with Ensemble() as three:
        yield three


@pytest.fixture
def tree_root() -> str:
    """An absolute path that no other test of the run uses. The test creates it."""
    return f"/t-{next(_root_numbers)}"


@pytest.fixture(scope="session")
def eyes(zk: Server) -> Iterator[KazooClient]:
    """A plain client of `zk` with all identities that the scopes' trees know, for the whole run."""
    with Site(zk, "/") as everything:
        yield everything.kazoo


@pytest.fixture
def site(zk: Server, eyes: KazooClient, tree_root: str) -> Iterator[Site]:
    """A scope of `zk` over `tree_root`, named like it; the test grows the tree and inits it."""
    with Site(zk, tree_root, eyes=eyes) as one:
        yield one


@pytest.fixture
def guarded(site: Site, tmp_path: Path) -> Iterator[Guarded]:
    """Guards of `site`, none of which is left behind."""
    with Guarded(site.server.hosts, site.names, tmp_path) as one:
        yield one


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The real `zkmig`, run in an empty folder."""
    return Program(tmp_path)


@pytest.fixture
def kazoo_client() -> Iterator[KazooClientFactory]:
    """A factory of plain kazoo clients (see KazooClientFactory)."""
    clients: list[KazooClient] = []

    def connect(where: Server | Ensemble | str, *, timeout: float = 10.0) -> KazooClient:
        client = KazooClient(hosts=where if isinstance(where, str) else where.hosts, timeout=timeout)
        clients.append(client)
        client.start(timeout=timeout)
        return client

    yield connect
    for client in clients:
        client.stop()
        client.close()
