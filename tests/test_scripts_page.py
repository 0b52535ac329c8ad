"""The examples of docs/scripts.md, run as they stand there on a real server; only its address is put in.

Method: each block behind an `<!-- example: NAME -->` is taken out of the page; kazoo looks at what came of it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.conftest import KazooClientFactory
from tests.program import Program, location
from zkmig.dev import Server

TOP = Path(__file__).parent.parent
PAGE = (TOP / "docs" / "scripts.md").read_text()
SCRIPTS = TOP / "examples" / "migrations"
ADDRESS = "zk://zk1:2181"

pytestmark = pytest.mark.timeout(300)


def example(name: str) -> str:
    found: dict[str, str] = dict(re.findall(r"<!-- example: (\w+) -->\n```\w*\n(.*?)```", PAGE, re.DOTALL))
    return found[name]


@pytest.fixture
def eyes(fresh_zk: Server, kazoo_client: KazooClientFactory) -> KazooClient:
    """A client of the server, on which the tree of the examples grows."""
    client = kazoo_client(fresh_zk)
    for path, value in {
        "/app/pools/web": {"hosts": ["h1", "h2", "h3", "h4"]},
        "/app/pools/db": {"hosts": ["h5"]},
        "/app/services/shop/pools": ["web", "db"],
        "/app/services/shop/queue/n-": "a job",
    }.items():
        client.create(path, json.dumps(value).encode(), makepath=True, sequence=path.endswith("-"))
    client.delete("/app/services/shop/queue/n-0000000000")
    client.create("/app/services/shop/queue/n-", b"a job", sequence=True)
    return client


@pytest.fixture
def run(program: Program, fresh_zk: Server, eyes: KazooClient) -> Callable[[str], list[str]]:
    """Runs a block of commands; what each of them has printed. The scope is there."""
    del eyes
    program("init", location(fresh_zk.hosts, "/app"), "--scope", "prod").succeeded()

    def run(name: str) -> list[str]:
        lines = example(name).replace(ADDRESS, location(fresh_zk.hosts)).splitlines()
        return [program(*shlex.split(line)[1:]).succeeded().stdout for line in lines]

    return run


def test_every_example_of_the_page_is_run() -> None:
    """Goal: none can be added without a test. Method: their names occur in this file, and every block has one."""
    names = re.findall(r"<!-- example: (\w+) -->", PAGE)
    assert len(names) == len(re.findall(r"^```\w+\n", PAGE, re.MULTILINE))
    source = Path(__file__).read_text()
    assert {name for name in names if f'("{name}")' not in source} == set()
    assert example("split_pools") == (SCRIPTS / "0001_split_pools.py").read_text()


def test_from_a_title_to_two_epochs(run: Callable[[str], list[str]], program: Program, eyes: KazooClient) -> None:
    """The commands of the page in their order; the second script's queue goes on with its numbers."""
    assert run("new") == ["migrations/0001_split_pools.py\n"]
    shutil.copytree(SCRIPTS, program.folder / "migrations", dirs_exist_ok=True)
    policy = 'format = 1\n[[guardrails]]\npattern = "/app/pools"\nmin_children = 1\n'
    (program.folder / "policy.toml").write_text(policy)
    run("plan")
    assert sorted(eyes.get_children("/app/pools")) == ["db", "web-a", "web-b"]
    assert json.loads(eyes.get("/app/services/shop/pools")[0] or b"") == ["web-a", "web-b", "db"]
    _, applied, history = run("directory")
    assert applied.startswith("epoch 2 is committed: ")
    assert "from 0001_split_pools.py (split_pools), sha256 " in history
    assert "from 0002_move_queues.py (move_queues), sha256 " in history
    assert eyes.create("/app/queues/shop/n-", b"", sequence=True) == "/app/queues/shop/n-0000000002"


def test_the_same_from_python(
    run: Callable[[str], list[str]],
    program: Program,
    fresh_zk: Server,
    eyes: KazooClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del run
    monkeypatch.chdir(program.folder)
    shutil.copytree(SCRIPTS, "migrations")
    program("snapshot", location(fresh_zk.hosts, "/app"), "-o", "before.zks").succeeded()
    for text in (example("test"), example("library")):
        names: dict[str, Any] = {}
        exec(text.replace(ADDRESS, location(fresh_zk.hosts)), names)
    assert sorted(eyes.get_children("/app/pools")) == ["db", "web-a", "web-b"]
    assert eyes.exists("/app/queues/shop") is not None
