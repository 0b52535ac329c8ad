"""P1, no torn view: readers in processes of their own look without pause while a migration is written in batches.

Method: plain kazoo reads both whole images, with every Stat; each reader writes down a digest of each view; a checker
that shares no code with the engine finds each view equal to the image of its epoch. Half of the readers start when the
migration is half-way. The migration waits after each batch until views have been taken, so that they are spread over
all of it. Negative control: with the overlay switched off, the same checker finds torn views.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from kazoo.client import KazooClient

import zkmig
from tests.conftest import KazooClientFactory
from tests.image_digest import Row, digest
from zkmig.apply.forward import Progress
from zkmig.dev import Server

REPOSITORY = Path(__file__).parent.parent
WAIT_S = 600.0
_numbers = itertools.count()


@dataclass(frozen=True)
class Size:
    """How much of everything. changes: a third each are added, written and deleted."""

    changes: int
    batch_bytes: int
    readers_early: int
    readers_late: int
    views_open: int
    views_late: int


QUICK = Size(1_200, 8 * 1024, 2, 2, 60, 12)
FULL = Size(20_000, 64 * 1024, 4, 4, 1_000, 100)


@dataclass
class Recorder:
    """One reader process and what it has written down so far."""

    process: subprocess.Popen[bytes]
    file: Path
    seen: list[dict[str, Any]] = field(default_factory=list)
    position: int = 0

    def look(self) -> list[dict[str, Any]]:
        """All its views so far; the test fails if it has died."""
        assert self.process.poll() is None, "a reader died"
        if self.file.exists():
            with self.file.open() as file:
                file.seek(self.position)
                for line in file:
                    if not line.endswith("\n"):
                        break
                    self.position += len(line)
                    self.seen.append(json.loads(line))
        return self.seen

    def open_views(self) -> int:
        return sum(view["state"] == "OPEN" for view in (self.seen if self.has_ended else self.look()))

    @property
    def has_ended(self) -> bool:
        return self.process.stdin is not None and self.process.stdin.closed


class Fleet:
    """Reader processes, ended with the block; what they wrote stays."""

    def __init__(self, server: Server, scope: str, folder: Path, options: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "tests.view_recorder", server.hosts, scope]
        self._folder = folder
        self._options = options
        self.recorders: list[Recorder] = []

    def start(self, count: int) -> None:
        """Start `count` readers; they are not waited for."""
        for _ in range(count):
            path = self._folder / f"views-{next(_numbers)}"
            command = [*self._command, str(path), *self._options]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY)
            self.recorders.append(Recorder(process, path))

    def open_views(self) -> int:
        return sum(recorder.open_views() for recorder in self.recorders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for recorder in self.recorders:
            assert recorder.process.stdin is not None
            recorder.process.stdin.close()
        for recorder in self.recorders:
            recorder.process.wait(60)


def await_true(condition: Callable[[], bool]) -> None:
    """Look until it holds; fail loudly rather than hang."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the readers took too long"
        time.sleep(0.01)


def image(client: KazooClient, root: str) -> str:
    """Digest of the whole tree as plain kazoo reads it."""
    rows = []
    level = [root]
    while level:
        asked = [(p, client.get_async(p), client.get_acls_async(p), client.get_children_async(p)) for p in level]
        level = []
        for path, node, acls, children in asked:
            data, stat = node.get()
            acl = tuple((a.perms, a.id.scheme, a.id.id) for a in acls.get()[0])
            names = tuple(sorted(children.get()))
            rows.append(Row(path, data, acl, tuple(stat), names))
            level += [f"{path}/{name}" for name in names]
    return digest(rows)


def trees(changes: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Relative paths and data of the image before and the image after."""
    third = changes // 3
    services = [f"/services/s{number}" for number in range(20)]
    stay = dict.fromkeys(["", "/services", *services], b"")
    before, after = dict(stay), dict(stay)
    for number in range(third):
        service = services[number % len(services)]
        before[f"{service}/gone-{number}"] = b"host %d" % number
        after[f"{service}/new-{number}"] = b"host %d" % number
        before[f"{service}/kept-{number}"], after[f"{service}/kept-{number}"] = b"old", b"new %d" % number
    return before, after


def put(client: KazooClient, root: str, tree: dict[str, bytes]) -> None:
    """Create the tree, parents first (as the mapping is)."""
    for created in [client.create_async(root + path, data) for path, data in tree.items()]:
        created.get()


def migrate(size: Size, server: Server, client: KazooClient, root: str, folder: Path, *options: str) -> History:
    """Migrate `root` from the first to the second tree while readers look, and until each has seen the new one."""
    scope = root.strip("/")
    old, new = trees(size.changes)
    put(client, root, old)
    put(client, f"{root}-source", new)
    here = f"zk://{server.hosts}{root}"
    zkmig.init(here, scope)
    limits = zkmig.Limits(batch_bytes_max=size.batch_bytes)
    plan = zkmig.make_plan(f"{here}-source", here, limits=limits)
    assert sum(plan.counts.values()) >= size.changes - 3
    before = image(client, root)
    early, late = Fleet(server, scope, folder, options), Fleet(server, scope, folder, options)
    with early, late:
        early.start(size.readers_early)
        await_true(lambda: all(recorder.look() for recorder in early.recorders))

        def pace(progress: Progress) -> None:
            """Hold the next batches back until the views taken so far are this migration's share of all wanted."""
            if progress.phase != "write" or not progress.done:
                return
            share = progress.done / progress.total
            if share >= 0.5 and not late.recorders:
                late.start(size.readers_late)
            await_true(lambda: early.open_views() + late.open_views() >= size.views_open * share)
            if share >= 0.75:
                await_true(lambda: late.open_views() >= size.views_late)

        zkmig.apply(plan, here, scope=scope, epoch=1, single_shot="never", report=pace)
        recorders = early.recorders + late.recorders  # of which the last may not have taken a view yet
        await_true(lambda: all((views := r.look()) and views[-1]["epoch"] == 1 for r in recorders))
    return History(before, image(client, root), early.recorders, late.recorders)


# -- the checker ------------------------------------------------------------------------------------------------------


@dataclass
class History:
    """Digests of the two whole images, and what every reader saw."""

    before: str
    after: str
    early: list[Recorder]
    late: list[Recorder]

    @property
    def views(self) -> list[dict[str, Any]]:
        return [view for recorder in self.early + self.late for view in recorder.seen]

    def torn(self) -> list[dict[str, Any]]:
        """Views that are not the image of the epoch that they claim."""
        return [view for view in self.views if view["digest"] != (self.before, self.after)[view["epoch"]]]

    def older_than_before(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Views of one reader that are older than its view before."""
        pairs = [pair for r in self.early + self.late for pair in itertools.pairwise(r.seen)]
        return [(one, two) for one, two in pairs if (two["epoch"], two["zxid"]) < (one["epoch"], one["zxid"])]

    def open_views(self, recorders: list[Recorder]) -> int:
        return sum(recorder.open_views() for recorder in recorders)


@pytest.mark.parametrize(
    "size", [pytest.param(QUICK, id="quick"), pytest.param(FULL, id="full", marks=pytest.mark.nightly)]
)
def test_every_view_is_one_of_the_two_images(
    size: Size, fresh_zk: Server, kazoo_client: KazooClientFactory, tree_root: str, tmp_path: Path
) -> None:
    """Goal: P1 for readers that run before, through and from the middle of a migration. Method: see the module."""
    history = migrate(size, fresh_zk, kazoo_client(fresh_zk), tree_root, tmp_path)
    assert history.before != history.after
    assert history.torn() == []
    assert history.older_than_before() == []
    assert history.open_views(history.early + history.late) >= size.views_open
    assert history.late[0].seen[0]["state"] == "OPEN"
    assert history.open_views(history.late) >= size.views_late


def test_without_the_overlay_the_checker_finds_torn_views(
    fresh_zk: Server, kazoo_client: KazooClientFactory, tree_root: str, tmp_path: Path
) -> None:
    """Goal: the test above can fail. Method: the same with readers that show live nodes whatever the record says."""
    history = migrate(QUICK, fresh_zk, kazoo_client(fresh_zk), tree_root, tmp_path, "--no-overlay")
    torn = history.torn()
    assert torn
    assert {view["state"] for view in torn} == {"OPEN"}
