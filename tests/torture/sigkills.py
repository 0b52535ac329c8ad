"""SIGKILLs spread over the whole duration of a migration, by the real program; another process then leads out.

The duration of an unkilled run, from the start of its process to its end, is measured first, and again now and then,
since machines are not equally fast all the time. Kills are spread over it evenly. `resume` and `rollback` take turns as
the way out, each in a process of its own, and some of these are killed too. A reader looks while the migrator runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient

from tests.program import RUN_TIMEOUT_S, Program
from tests.scopes import ME, MY_IDENTITY, Site, settled
from tests.torture.crashpoints import Way
from tests.torture.crashpoints_scenarios import NEW, OLD, Place, Violation, plan_to
from tests.torture.crashpoints_watch import Log, Watcher, judge
from tests.trees import Node, Tree
from zkmig.dev import Server
from zkmig.epoch.control import Roles
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.model.acl import WORLD
from zkmig.plan import planfile
from zkmig.plan.plan import Limits
from zkmig.reader import Reader

MANY = 70  # of each sort of change
WRITES_PER_S = 100  # so that an unkilled run takes some seconds, most of which it writes
LIMITS = Limits(batch_bytes_max=1_300)
MEASURED_AGAIN_AFTER = 10  # kills
KILLED_AGAIN_EVERY = 3  # ways out
STRIDE = 7
LOOK_S = 0.1  # shorter than that before a kill nobody looks

KILLS_OLD: Tree = settled(
    {
        **OLD,
        **{f"/changed{number:02}": Node(b"old") for number in range(MANY)},
        **{f"/gone{number:02}": Node(b"old") for number in range(MANY)},
    }
)
KILLS_NEW: Tree = settled(
    {
        **NEW,
        **{f"/changed{number:02}": Node(b"new") for number in range(MANY)},
        **{f"/new{number:02}": Node(b"new") for number in range(MANY)},
    }
)


@dataclass
class KillFigures:
    """hits: what a kill has hit, by the record; ended_before: processes that were faster than their kill. ways: what
    led out, by way and exit code. killed_again: ways out that were killed. durations_s: of unkilled runs."""

    hits: Counter[str] = field(default_factory=Counter)
    ended_before: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    killed_again: Counter[str] = field(default_factory=Counter)
    trees: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    durations_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As plain values, to be written down."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


_numbers = itertools.count(1)


class Kills:
    """Migrations on one server, which are killed."""

    def __init__(self, server: Server, folder: Path, eyes: KazooClient) -> None:
        self.figures = KillFigures()
        self._server = server
        self._folder = folder
        self._eyes = eyes
        self._trees: dict[str, Tree] = {}
        self._auth = folder / "auth"
        self._auth.write_text(f"{ME.scheme}:{ME.secret.decode()}\n")
        self._auth.chmod(0o600)

    def measure(self) -> float:
        """The duration of an unkilled run in s."""
        with self._place() as (site, plan, watcher):
            began = time.monotonic()
            process = self._start(site, "apply", plan, "--epoch", 1, "--single-shot", "never", *self._throttle)
            self._look_until(watcher, process, began + RUN_TIMEOUT_S)
            duration = time.monotonic() - began
            if self._end(process) != 0:
                raise Violation("an unkilled run has failed")
            self._judge(site, watcher)
            self.figures.durations_s.append(round(duration, 2))
            return duration

    def kill_one(self, after_s: float, way: Way, kill_again_after_s: float | None) -> None:
        """Kill an apply that long after its start, and lead out. A violation is kept in the figures."""
        try:
            with self._place() as (site, plan, watcher):
                self._apply_and_kill(site, plan, watcher, after_s)
                if kill_again_after_s is not None and self._is_unfinished(site):
                    process = self._lead(site, plan, way if site.record().state in MIGRATING else Way.RESUME)
                    was_over = self._kill(watcher, process, kill_again_after_s)
                    self.figures.killed_again[f"{way.value} in {self._state(site)}{', ended' if was_over else ''}"] += 1
                self._lead_out(site, plan, watcher, way)
                self._judge(site, watcher)
        except Exception as error:  # noqa: BLE001 - the other kills go on, and this one is told of
            what = f"killed after {after_s:.3f} s, {way.value}, again after {kill_again_after_s}"
            self.figures.violations.append(f"{what}: {type(error).__name__}: {error}")

    def check_kinds(self) -> None:
        """All nodes of all trees are of their kind, by the server's own log."""
        self.figures.violations += Log(self._server.data_dir).wrong_kinds(self._trees)

    # -- one migration ------------------------------------------------------------------------------------------------

    @contextmanager
    def _place(self) -> Iterator[tuple[Place, Path, Watcher]]:
        root = f"/kill-{next(_numbers)}"
        with Place(self._server, root, self._eyes) as site:
            site.init(KILLS_OLD, Roles((MY_IDENTITY,), (WORLD,)))
            file = self._folder / f"{root[1:]}.zkplan"
            planfile.write(plan_to(site, KILLS_NEW, LIMITS).plan, str(file))
            with Reader(self._eyes, site.names.scope, control=site.names.control) as reader:
                watcher = Watcher(reader, site, (KILLS_OLD, KILLS_NEW))
                watcher.look()
                try:
                    yield site, file, watcher
                finally:
                    self.figures.views += watcher.states

    @property
    def _throttle(self) -> tuple[object, ...]:
        return "--throttle", WRITES_PER_S

    def _start(self, site: Place, command: str, *arguments: object) -> subprocess.Popen[str]:
        options = ("--yes", "--auth-file", self._auth, "--control", site.names.control, "--scope", site.names.scope)
        return Program(self._folder).start(command, *arguments, *options)

    def _lead(self, site: Place, plan: Path, way: Way) -> subprocess.Popen[str]:
        if way is Way.ROLLBACK:
            return self._start(site, "rollback", "--steal", "--at", f"zk://{self._server.hosts}", *self._throttle)
        return self._start(site, "resume", plan, "--steal", "--single-shot", "never", *self._throttle)

    def _apply_and_kill(self, site: Place, plan: Path, watcher: Watcher, after_s: float) -> None:
        process = self._start(site, "apply", plan, "--epoch", 1, "--single-shot", "never", *self._throttle)
        self.figures.ended_before += self._kill(watcher, process, after_s)
        self.figures.hits[self._state(site)] += 1
        watcher.look()

    def _kill(self, watcher: Watcher, process: subprocess.Popen[str], after_s: float) -> bool:
        """SIGKILL at that time, however long the looking took; whether the process had ended by then."""
        at = time.monotonic() + after_s
        self._look_until(watcher, process, at)
        time.sleep(max(0.0, at - time.monotonic()))
        has_ended = process.poll() is not None
        process.kill()
        self._end(process)
        return has_ended

    def _look_until(self, watcher: Watcher, process: subprocess.Popen[str], deadline: float) -> None:
        while process.poll() is None and deadline - time.monotonic() > LOOK_S:
            watcher.look()
            time.sleep(LOOK_S / 2)

    def _end(self, process: subprocess.Popen[str]) -> int:
        try:
            _, told = process.communicate(timeout=RUN_TIMEOUT_S)
        finally:
            process.kill()
        if "Traceback" in told:
            raise Violation(told)
        return process.returncode

    def _state(self, site: Place) -> str:
        record = site.record()
        if record.pending is not None:
            return "committed, ACLs or quotas pending"
        if record.state is not State.STABLE or record.epoch:
            return "committed" if record.epoch else record.state.value
        return "STABLE before, journal begun" if site.kazoo.get_children(site.names.epochs) else "STABLE before"

    def _lead_out(self, site: Place, plan: Path, watcher: Watcher, way: Way) -> None:
        record = site.record()
        is_over = record.state not in MIGRATING
        if is_over and record.pending is not None:
            way = Way.RESUME
        process = self._lead(site, plan, way)
        self._look_until(watcher, process, time.monotonic() + RUN_TIMEOUT_S)
        code = self._end(process)
        has_something_to_do = not is_over or record.pending is not None or (way is Way.RESUME and record.epoch == 1)
        self.figures.ways[f"{way.value} from {record.state.value} {record.epoch}: exit code {code}"] += 1
        if code != (0 if has_something_to_do else 3):
            raise Violation(f"{way.value} of {record} ended with exit code {code}")
        if not is_over:
            is_new = way is Way.RESUME and record.state is not State.ROLLING_BACK
            if site.record().epoch != int(is_new):
                raise Violation(f"{way.value} has led to epoch {site.record().epoch}")

    @staticmethod
    def _is_unfinished(site: Place) -> bool:
        record = site.record()
        return record.state in MIGRATING or record.pending is not None

    def _judge(self, site: Place, watcher: Watcher) -> None:
        watcher.look()
        is_new = site.record().epoch > 0
        tree = KILLS_NEW if is_new else KILLS_OLD
        judge(site, tree)
        self._trees[site.root] = tree
        self.figures.trees["new" if is_new else "old"] += 1


def kill_all(server: Server, kills: int, folder: Path) -> KillFigures:
    """So many SIGKILLs, evenly spread over the duration of an unkilled run, on one server of this machine."""
    assert gcd(kills, STRIDE) == 1
    with Site(server, "/") as everywhere:
        work = Kills(server, folder, everywhere.kazoo)
        work.measure()  # the first one pays for what is not cached yet
        duration = work.measure()
        for number in range(kills):
            if number and number % MEASURED_AGAIN_AFTER == 0:
                duration = work.measure()
            # Through the whole duration again and again, so that a slow moment of the machine hits no part alone.
            place = (number * STRIDE % kills + 0.5) / kills
            tenths = number // KILLED_AGAIN_EVERY % 9 + 1
            again = duration * tenths / 10 if number % KILLED_AGAIN_EVERY == KILLED_AGAIN_EVERY - 1 else None
            work.kill_one(duration * place, list(Way)[number % 2], again)
        work.check_kinds()
        return work.figures


def run(seed: int, server: Server, kills: int = 200) -> dict[str, Any]:
    """As `kill_all`; figures as plain values. seed: there is no chance in it."""
    del seed
    with tempfile.TemporaryDirectory(prefix="zkmig-kills-") as folder:
        return kill_all(server, kills, Path(folder)).plain()
