"""A stubborn service manager, a guard that is killed all the time, and epochs: the guarded service must not run in any.

    python -m tests.torture.managers [--manager systemd|supervisor|plain|all] [--seconds 300] [--epochs 20] [--seed N]

The manager starts the guard again a second after it has ended (supervisord at once). Every few seconds something
befalls it: SIGKILL to the guard, its keeper, both, or the service; SIGTERM; SIGSTOP to guard or keeper for a while,
also for longer than the guard's session lasts; a restart by the manager. Meanwhile the scope is migrated in batches,
over and over; every fifth epoch is rolled back half-way, and there are holds. The service goes on for a while after
SIGTERM, has a child that has left its session, and keeps a diary.

What must hold is judged by the server's transaction log and that diary (tests/managers/judge.py): no line of it lies
between the opening of an epoch and its end, or in a hold, by its time or by the zxid it saw; no guard said that it runs
when an epoch was opened; in the end nothing is left. --control breaks the drain or the guard, and must be noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from tests.managers import hasty_guard, judge, witness_process
from tests.managers.judge import Span
from tests.managers.scene import Scene
from tests.managers.services import Services, UnderPlain, UnderSupervisor, UnderSystemd
from tests.managers.systemd import NamespacesForbidden, why_not
from tests.managers.waiting import wait_for
from tests.program import PROGRAM, Program
from tests.scopes import Site
from zkmig.apply.entries import Entry
from zkmig.apply.forward import Progress
from zkmig.apply.rollback import RolledBack
from zkmig.dev import Server
from zkmig.epoch.leases import GuardEntry
from zkmig.errors import Stopped, ZkmigError
from zkmig.stop import EXIT_SIGINT, StopRequest

SECONDS: Final = 300.0
EPOCHS: Final = 20
GRACE_S: Final = 1.0
LINGER_S: Final = 0.5
SESSION_S: Final = 4.0
LULL_S: Final = (0.2, 2.5)  # between two things that befall the guard
DRAIN_S: Final = 0.8  # at most, from when a drain is about to begin to what befalls the guard then
STOPPED_S: Final = (0.3, 6.0)
BATCH_S: Final = 0.4  # between two batches at most
HOLD_S: Final = 2.0
RUNNING_TIMEOUT_S: Final = 120.0
ROLLED_BACK_OF: Final = 5
HELD_OF: Final = 4

GUARD, KEEPER, BOTH, SERVICE = "guard killed", "keeper killed", "guard and keeper killed", "service killed"
TERMINATED, RESTARTED = "guard terminated", "restarted"
GUARD_STOPPED, KEEPER_STOPPED = "guard stopped", "keeper stopped"
KINDS: Final = (GUARD, KEEPER, BOTH, SERVICE, TERMINATED, RESTARTED, GUARD_STOPPED, KEEPER_STOPPED)

DRAIN, ACKNOWLEDGE = "drain", "acknowledge"
CONTROLS: Final = (DRAIN, ACKNOWLEDGE)

FLOORS: Final = {
    "starts": 25,
    "seconds_running": 30,
    "committed": 12,
    "rolled_back": 3,
    "holds": 3,
    "of_each_kind": 4,
    "in_drains": 4,
    "in_epochs": 8,
}
"""Of `SECONDS` and `EPOCHS`; of a shorter run in proportion, and 1 at least."""


@dataclass
class Figures:
    """What has happened. starts, seconds_running: of the service. in_drains, in_epochs: of what befell the guard, so
    much while a drain waited for it, and while an epoch was open."""

    starts: int = 0
    seconds_running: float = 0.0
    committed: int = 0
    rolled_back: int = 0
    holds: int = 0
    batches: int = 0
    befell: Counter[str] = field(default_factory=Counter)
    in_drains: int = 0
    in_epochs: int = 0

    def short_of(self, share: float) -> list[str]:
        """Where it is too little to conclude anything."""
        found: dict[str, float] = {name: getattr(self, name, 0) for name in FLOORS}
        found["of_each_kind"] = min(self.befell[kind] for kind in KINDS)
        floors = {name: max(1, floor * share) for name, floor in FLOORS.items()}
        return [
            f"too little has happened: {name} {found[name]:.0f} of {floor:.0f}"
            for name, floor in floors.items()
            if found[name] < floor
        ]


# -- what befalls the guard -------------------------------------------------------------------------------------------


class Fate(threading.Thread):
    """Strikes until it is told to end. Counts what has really hit something."""

    def __init__(self, manager: Services, scene: Scene, dice: random.Random, befell: Counter[str]) -> None:
        super().__init__(name="fate", daemon=True)
        self._manager, self._scene = manager, scene
        self._dice, self._befell = dice, befell
        self._over = threading.Event()
        self._bell = threading.Event()
        self.struck: list[float] = []
        """When, by the wall clock."""
        self.error = ""

    def run(self) -> None:
        """The thread."""
        kinds: list[str] = []
        try:
            while self._lull():
                kinds = kinds or self._dice.sample(KINDS, len(KINDS))  # each as often as any
                moment = time.time()
                if self._strike(kinds[-1]):
                    self.struck.append(moment)
                    self._befell[kinds.pop()] += 1
        except Exception as error:  # noqa: BLE001  (whatever it is, the run is void, and has to say so)
            self.error = repr(error)

    def hasten(self) -> None:
        """A drain is about to begin."""
        self._bell.set()

    def _lull(self) -> bool:
        """Wait a while; whether to go on."""
        if self._bell.wait(self._dice.uniform(*LULL_S)):
            self._bell.clear()
            self._over.wait(self._dice.uniform(0, DRAIN_S))
        return not self._over.is_set()

    def end(self) -> None:
        """Returns when nothing more can befall anybody, and nobody stands still."""
        self._over.set()
        self._bell.set()
        if self.is_alive():
            self.join()

    def _strike(self, kind: str) -> bool:
        guard = self._manager.pid(self._scene.service)
        if guard is None:
            return False
        if kind == RESTARTED:
            self._manager.restart(self._scene.service)
            return True
        keeper = child_of(guard)
        match kind:
            case "guard killed":
                return send(guard, signal.SIGKILL)
            case "guard terminated":
                return send(guard, signal.SIGTERM)
            case "guard stopped":
                return self._halt(guard)
        if keeper is None:
            return False  # it has not started anything yet
        match kind:
            case "keeper killed":
                return send(keeper, signal.SIGKILL)
            case "guard and keeper killed":
                return send(guard, signal.SIGKILL) & send(keeper, signal.SIGKILL)
            case "keeper stopped":
                return self._halt(keeper)
        service = child_of(keeper)
        return service is not None and send(service, signal.SIGKILL)

    def _halt(self, pid: int) -> bool:
        if not send(pid, signal.SIGSTOP):
            return False
        try:
            self._over.wait(self._dice.uniform(*STOPPED_S))
        finally:
            send(pid, signal.SIGCONT)
        return True


def send(pid: int, number: int) -> bool:
    """Whether there was somebody to send it to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def child_of(parent: int) -> int | None:
    """The oldest child of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent and fields[0] != "Z":
                    found.append((int(fields[19]), int(entry.name)))
    return min(found)[1] if found else None


# -- what is done to the scope ----------------------------------------------------------------------------------------


class Operator:
    """Migrates, rolls back, holds."""

    def __init__(self, manager: Services, scene: Scene, dice: random.Random, figures: Figures, fate: Fate) -> None:
        self._manager, self._scene = manager, scene
        self._dice, self._figures, self._fate = dice, figures, fate
        self._program = Program(scene.folder)
        self.holds: list[Span] = []

    def work(self, seconds: float, epochs: int) -> None:
        """All epochs, spread over the time."""
        began = time.monotonic()
        for number in range(epochs):
            time.sleep(max(0.0, began + seconds * number / epochs - time.monotonic()))
            self.wait_running()
            if number % HELD_OF == HELD_OF - 1:
                self._hold()
                self.wait_running()
            if number % ROLLED_BACK_OF == ROLLED_BACK_OF - 2:
                self._roll_back()
            else:
                self._figures.batches += self._scene.apply(self._pause)
                self._figures.committed += 1
        self.wait_running()
        time.sleep(max(0.0, began + seconds - time.monotonic()))

    def wait_running(self) -> None:
        """Until it has been seen at work after this moment."""
        moment = time.time()
        wait_for(
            lambda: any(line["wall"] > moment and line["what"] == witness_process.SAW for line in self._latest()),
            lambda: f"the service does not come back: {self._manager.output(self._scene.service)[-3000:]}",
            RUNNING_TIMEOUT_S,
        )

    def _latest(self) -> list[dict[str, Any]]:
        return judge.read_diary(self._scene.diary_file, last_bytes=20_000)

    def _pause(self, progress: Progress) -> None:
        if progress.phase == "journal" and progress.done == progress.total:
            self._fate.hasten()
        if progress.phase in {"write", "undo"}:
            time.sleep(self._dice.uniform(0, BATCH_S))

    def _roll_back(self) -> None:
        stop = StopRequest()

        def report(progress: Progress) -> None:
            self._pause(progress)
            if progress.phase == "write" and progress.done >= progress.total // 2:
                stop.request("enough", EXIT_SIGINT)

        with contextlib.suppress(Stopped):
            self._scene.apply(report, stop)
            raise AssertionError("an epoch that was to be stopped was committed")
        undone: RolledBack = self._scene.site.rollback()
        self._figures.batches += undone.batches_undone
        self._figures.rolled_back += 1

    def _hold(self) -> None:
        place = ("--at", f"zk://{self._scene.site.server.hosts}", "--scope", self._scene.site.names.scope)
        rights = {"ZKMIG_AUTH": "digest:me:hunter2"}
        self._program("hold", *place, "--reason", "torture", "--wait", env=rights).succeeded()
        zxid, wall = self._scene.site.server.zxid(), time.time()
        time.sleep(self._dice.uniform(0, HOLD_S))
        self._program("release", *place, env=rights).succeeded()
        released = next(
            change
            for change in self._scene.changes()
            if change.zxid > zxid and change.path == self._scene.site.names.record and change.fields["held"] is None
        )
        self.holds.append(Span("hold", zxid, wall, released.zxid, released.wall))
        self._figures.holds += 1


# -- a run ------------------------------------------------------------------------------------------------------------


def opened(kind: str, folder: Path) -> Services:
    """A manager that is not up yet."""
    match kind:
        case "systemd":
            return UnderSystemd(folder)
        case "supervisor":
            return UnderSupervisor(folder)
    return UnderPlain(folder)


@contextlib.contextmanager
def broken(control: str) -> Iterator[list[str]]:
    """What is to be caught; the program to run as zkmig."""
    program = [sys.executable, hasty_guard.__file__] if control == ACKNOWLEDGE else [PROGRAM]
    if control != DRAIN:
        yield program
        return
    blocks_ms: Any = vars(Entry)["blocks_ms"]

    def blind(entry: Entry) -> Any:
        return 0 if isinstance(entry.content, GuardEntry) else blocks_ms.fget(entry)

    with mock.patch.object(Entry, "blocks_ms", property(blind)):
        yield program


def run(
    kind: str, seconds: float, epochs: int, seed: int, control: str = "", *, is_calm: bool = False
) -> tuple[Figures, list[str]]:
    """One manager: (what has happened, what must not have). is_calm: nothing befalls the guard."""
    figures = Figures()
    folder = Path(tempfile.mkdtemp(prefix="zkmig-managers-"))
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server())
        site = stack.enter_context(Site(server, "/tree"))
        scene = Scene(site, folder, GRACE_S, stack.enter_context(broken(control)))
        manager = stack.enter_context(opened(kind, folder / "manager"))
        service = scene.guard(scene.witness("--linger", LINGER_S, "--child"), "--session-timeout", SESSION_S)
        manager.start(scene.service, service, scene.environment)
        fate = Fate(manager, scene, random.Random(-seed - 1), figures.befell)
        operator = Operator(manager, scene, random.Random(seed), figures, fate)
        if not is_calm:
            fate.start()
        try:
            operator.work(seconds, epochs)
        except (AssertionError, ZkmigError) as error:
            wrong.append(f"no way on: {error}")
        finally:
            fate.end()
        wrong += [f"void: {fate.error}"] if fate.error else []
        try:
            operator.wait_running()  # one killed just now, and not started again, could not say that it stopped
        except AssertionError as error:
            wrong.append(f"it does not come back: {error}")
        manager.stop(scene.service)
        try:
            scene.wait_over()
        except AssertionError as error:
            wrong.append(f"orphans: {error}")
        if not scene.is_stopped():
            wrong.append("in the end the registration says that the service runs")
        if "Traceback (most recent call last)" in manager.output(scene.service):
            wrong.append("a traceback in the output")
        wrong += scene.faults(operator.holds)
        tell_running(scene.diary(), figures)
        drains = judge.drains_of(scene.changes(), site.names.home)
        figures.in_drains = sum(first < moment < end for moment in fate.struck for first, end in drains)
        epochs_open = scene.spans()
        figures.in_epochs = sum(s.wall_first < moment < s.wall_end for moment in fate.struck for s in epochs_open)
    if wrong and not control:
        wrong.append(f"diary and output are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return figures, wrong


def tell_running(diary: list[dict[str, Any]], figures: Figures) -> None:
    """How often the service was started, and how long it ran in all."""
    last: dict[int, float] = {}
    for line in diary:
        if line["role"] == witness_process.MAIN:
            figures.starts += line["what"] == witness_process.BEGAN
            gap = line["t"] - last.get(line["pid"], line["t"])
            figures.seconds_running += gap if gap < 1 else 0
            last[line["pid"]] = line["t"]


def available() -> tuple[list[str], str]:
    """Managers that can be had here, and why one cannot."""
    reason = why_not()
    if not reason:
        with tempfile.TemporaryDirectory(prefix="zkmig-managers-") as folder:
            try:
                with UnderSystemd(Path(folder) / "trial"):
                    pass
            except NamespacesForbidden as error:
                reason = str(error)
    return (["supervisor", "plain"] if reason else ["systemd", "supervisor", "plain"]), reason


def told(kind: str, figures: Figures) -> str:
    """A line for people."""
    befell = ", ".join(f"{figures.befell[name]} {name}" for name in KINDS)
    return (
        f"{kind}: {figures.committed} epochs committed, {figures.rolled_back} rolled back, {figures.holds} holds, "
        f"{figures.batches} batches; the service was started {figures.starts} times and ran for "
        f"{figures.seconds_running:.0f} s; {befell}; {figures.in_drains} of it in drains, {figures.in_epochs} in epochs"
    )


def say(line: str) -> None:
    """At once: a run takes minutes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.managers")
    parser.add_argument("--manager", choices=("systemd", "supervisor", "plain", "all"), default="all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each manager")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="for each manager")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--control", choices=CONTROLS, default="", help="break this; it must be noticed")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    say(f"seed {options.seed}")
    kinds, reason = available()
    if options.manager != "all":
        kinds = [options.manager]
    elif reason:
        say(f"without systemd: {reason}")
    found: dict[str, Mapping[str, Any]] = {}
    failed = False
    for kind in kinds:
        figures, wrong = run(kind, options.seconds, options.epochs, options.seed, options.control)
        short = figures.short_of(min(options.seconds / SECONDS, options.epochs / EPOCHS))
        say(told(kind, figures))
        for each in [*wrong[:20], *short]:
            say(f"VIOLATION {each}")
        say(f"{kind}: {len(wrong)} violations")
        failed |= not wrong if options.control else bool(wrong or short)
        found[kind] = {**vars(figures), "violations": wrong}
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
