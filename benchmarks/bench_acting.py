"""What an action's admission costs under a budget, beside one without: where the view is the same, and where it moved.

Nobody else offers an admission to compare with, so it is compared with ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import zkmig
from benchmarks.conftest import Site
from benchmarks.pairs import Baseline, Contest
from benchmarks.realistic import OWNER
from benchmarks.size import SIZE
from zkmig.model.acl import OPEN_ACL
from zkmig.reader import Budget, Reader
from zkmig.wire.requests import Create, SetData

NODES = min(SIZE.on_servers[0], 10_000)
ROOT = "/acting"
DEPTH = 64
ACTIONS = 20
"""Of which one measurement is the mean."""


@pytest.fixture(scope="module")
def scope(site: Site) -> str:
    """A scope of so many hosts."""
    paths = [ROOT, f"{ROOT}/hosts", *(f"{ROOT}/hosts/h{number}" for number in range(NODES))]
    for _ in site.client.pipeline((Create(path, b"{}" * 50, OPEN_ACL) for path in paths), DEPTH):
        pass
    zkmig.init(f"zk://{site.server.hosts}{ROOT}", "acting", auth=[OWNER])
    return "acting"


@pytest.fixture
def readers(site: Site, scope: str) -> Iterator[tuple[Reader, Reader]]:
    """One without a budget, and one with."""
    budget = Budget(f"{ROOT}/hosts/*", share=0.1, count=50)
    with ExitStack() as stack:
        free = stack.enter_context(Reader(site.server.hosts, scope, auth=[OWNER], name="free"))
        held = stack.enter_context(Reader(site.server.hosts, scope, auth=[OWNER], name="held", budget=budget))
        for reader in (free, held):
            with reader.acting(reader.view()):
                pass
        yield free, held


def _mean(reader: Reader, site: Site, is_moving: bool) -> float:
    seconds = 0.0
    for number in range(ACTIONS):
        if is_moving:
            data = str(time.perf_counter_ns()).encode()
            site.client.call(SetData(f"{ROOT}/hosts/h{number}", data, -1))  # -1: nobody else writes here
        view = reader.view()
        while is_moving and view[f"{ROOT}/hosts/h{number}"].data != data:
            view = reader.view()
        start = time.perf_counter()
        with reader.acting(view):
            seconds += time.perf_counter() - start
    return seconds / ACTIONS


@pytest.mark.parametrize("is_moving", [False, True])
def test_admission_under_a_budget(
    site: Site, readers: tuple[Reader, Reader], contest: Contest, is_moving: bool
) -> None:
    free, held = readers
    baseline = Baseline("without a budget", lambda: _mean(free, site, is_moving), 1)
    what = "has moved by one" if is_moving else "is the same"
    contest.run(
        f"acting, {NODES:,} znodes under budget, view {what}", 1, lambda: _mean(held, site, is_moving), [baseline]
    )
