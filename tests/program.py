"""The `zkmig` program as its users see it: a process, its output, its exit code, and the files it leaves."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.forked_program import Forks

PROGRAM = str(Path(sys.executable).with_name("zkmig"))
RUN_TIMEOUT_S = 100.0

# What the surroundings of the test run say must not decide what the program does.
_FOREIGN = {
    *("ZKMIG_AT", "ZKMIG_SCOPE", "ZKMIG_AUTH", "ZKMIG_CONTROL", "ZKMIG_DEBUG", "ZKMIG_PROFILE", "ZKMIG_PROFILES"),
    *("ZKMIG_TLS_CA", "ZKMIG_TLS_CERT", "ZKMIG_TLS_KEY"),
}


@functools.cache
def _forks() -> Forks:
    return Forks()


class Ran(NamedTuple):
    """One run of the program."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """What --json printed: exactly one document on stdout."""
        assert self.stdout.count("\n") == 1, self
        return json.loads(self.stdout)

    def failed(self, code: int, *words: str) -> str:
        """Assert a failure as users must see it: its code, one line, all `words` in it; returns the line."""
        assert self.code == code, self
        assert self.stdout == "", self
        assert self.stderr.startswith("zkmig: "), self
        assert self.stderr.count("\n") == 1, self
        for word in words:
            assert word in self.stderr, self
        return self.stderr

    def succeeded(self) -> Ran:
        """Assert exit code 0 and return itself."""
        assert self.code == 0, self
        assert "Traceback" not in self.stderr, self
        return self


class Program:
    """Runs zkmig in a folder of its own, without a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object, env: Mapping[str, str] | None = None) -> Ran:
        """One run, to its end: forked off a process that has it loaded, where that is the same."""
        environment = self.environment(env)
        if os.environ.get("ZKMIG_TEST_FORKS") != "0" and (forks := _forks()).heeds(environment):
            argv = [PROGRAM, *map(str, arguments)]
            return Ran(*forks.run(argv, self.folder, environment, RUN_TIMEOUT_S))
        process = self.start(*arguments, env=env)
        try:
            stdout, stderr = process.communicate(timeout=RUN_TIMEOUT_S)
        finally:
            process.kill()
        return Ran(process.returncode, stdout, stderr)

    def start(self, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin a run, of the program as it is installed; the caller ends it."""
        return subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a run."""
        kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        return {**kept, **(more or {})}

    @property
    def files(self) -> set[str]:
        """Names of all that lies in the folder, hidden or not."""
        return {path.name for path in self.folder.iterdir()}


def location(hosts: str, path: str = "") -> str:
    """As an operator writes it."""
    return f"zk://{hosts}{path}"
