"""A guarded witness over a scope that is migrated to and fro, and what may be said of it afterwards."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.managers import judge, witness_process
from tests.managers.judge import Span
from tests.managers.waiting import wait_for
from tests.program import PROGRAM
from tests.scopes import Site
from tests.trees import Node, Tree
from zkmig.apply.forward import Options, Progress
from zkmig.stop import StopRequest

MARK = "ZKMIG_TEST_SCENE"

NODES = 120


def tree(name: str) -> Tree:
    """Every tree has the same nodes, and in each node another value; a dozen batches from one to the other."""
    nodes = {f"/n{number:03}": Node(f"{name} {number} ".encode() * 12) for number in range(NODES)}
    return {"": Node(b"", counter=NODES), **nodes}


TREES: Final = (tree("old"), tree("new"))


class Scene:
    """site: a scope that is not there yet; it gets the first tree. grace_s: of the guard. program: zkmig, or what is
    to be caught in its place."""

    def __init__(self, site: Site, folder: Path, grace_s: float = 1.0, program: Sequence[str] = (PROGRAM,)) -> None:
        self.site = site
        self.folder = folder
        self.diary_file = folder / "diary"
        self.service = f"witness-{site.names.scope}"
        self._grace_s = grace_s
        self._program = program
        self._mark = os.urandom(8).hex()
        site.init(TREES[0])
        self.epochs = 0  # committed

    # -- the service --------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells every process of this scene from all others."""
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        return {MARK: self._mark, "PATH": path}

    def witness(self, *options: object) -> list[str]:
        """The service's own command line."""
        command = [sys.executable, witness_process.__file__, "--hosts", self.site.server.hosts]
        command += ["--path", self.site.names.record, "--record", str(self.diary_file)]
        return [*command, *map(str, options)]

    def guard(self, command: Sequence[str], *options: object) -> list[str]:
        """The same under a guard."""
        place = ["--at", f"zk://{self.site.server.hosts}", "--scope", self.site.names.scope]
        keeping = ["--name", self.service, "--state-dir", str(self.folder / "state"), "--grace", f"{self._grace_s:g}"]
        return [*self._program, "guard", *place, *keeping, *map(str, options), "--", *command]

    @property
    def entry_path(self) -> str:
        """The guard's registration."""
        return f"{self.site.names.home}/guards/{self.service}"

    def is_stopped(self) -> bool | None:
        """What the registration says; None while there is none."""
        changes = [each for each in self.changes() if each.path == self.entry_path]
        return bool(changes[-1].fields["stopped"]) if changes else None

    def processes(self) -> dict[int, str]:
        """All that live of the service, guard and keeper included: pid -> command line."""
        found = {}
        mark = f"{MARK}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
        return found

    def wait_over(self) -> None:
        """Until nothing of the service is left."""
        wait_for(lambda: not self.processes(), lambda: f"left: {self.processes()}")

    # -- its diary ----------------------------------------------------------------------------------------------------

    def diary(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return judge.read_diary(self.diary_file)

    def wait_running(self, output: Callable[[str], str]) -> None:
        """Until the service has read from ZooKeeper once more."""
        moment = time.time()

        def has_seen() -> bool:
            return any(line["what"] == witness_process.SAW and line["wall"] > moment for line in self.diary()[-200:])

        wait_for(has_seen, lambda: f"no line of the service; it said: {output(self.service)[-2000:]}")

    # -- migrations ---------------------------------------------------------------------------------------------------

    def migrate(self, moments: Mapping[int, Callable[[], object]]) -> int:
        """One epoch in batches, to the other tree. moments: what to do once so many batches were sent.

        Returns how many batches there were.
        """
        left = dict(sorted(moments.items()))

        def report(progress: Progress) -> None:
            while progress.phase == "write" and left and progress.done >= next(iter(left)):
                left.pop(next(iter(left)))()

        batches = self.apply(report)
        assert not left, f"there were only {batches} batches"
        return batches

    def apply(self, report: Callable[[Progress], None], stop: StopRequest | None = None) -> int:
        """One epoch in batches, to the other tree; how many there were. Stopped when it was asked to."""
        plan = self.site.plan(TREES[(self.epochs + 1) % 2])
        options = Options(single_shot="never", report=report)
        applied = self.site.apply(plan, self.epochs + 1, options=options, stop=stop)
        self.epochs += 1
        return applied.batches

    # -- the verdict --------------------------------------------------------------------------------------------------

    def changes(self) -> list[judge.Change]:
        """What the server's log has of the record and of the registrations, so far."""
        return judge.log_changes(self.site.server.data_dir, self.site.names.home)

    def spans(self) -> list[Span]:
        """Where nothing of the service may run."""
        return judge.spans_of(self.changes(), self.site.names.home)

    def faults(self, spans: Sequence[Span] = ()) -> list[str]:
        """What must not have been, also in further spans. A scene without a span, or without a diary, is one, too."""
        forbidden = [*self.spans(), *spans]
        diary = self.diary()
        if not forbidden or not any(line["what"] == witness_process.SAW for line in diary):
            return ["nothing has happened"]
        passed_over = judge.registered_as_running(self.changes(), self.site.names.home)
        return judge.broken_spans(diary, forbidden) + passed_over
