"""A run that was forked is a run of the program. Method: the same words both ways; what only one way could show."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.forked_program import Forks
from tests.program import PROGRAM, Program, Ran


@pytest.mark.parametrize(
    "words",
    [("--version",), ("plan", "--help"), ("no-such",), ("show", "missing.zkplan"), ("epoch", "--at", "zk://h/")],
)
def test_both_ways_are_the_same(program: Program, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Code and both outputs, of what succeeds and of what fails."""
    forked = program(*words)
    monkeypatch.setenv("ZKMIG_TEST_FORKS", "0")
    assert program(*words) == forked


def test_each_has_its_own_environment_and_folder(tmp_path: Path) -> None:
    """Nothing is left of a run for the next."""
    (tmp_path / "here").mkdir()
    program = Program(tmp_path / "here")
    program("epoch", env={"ZKMIG_AT": "no location"}).failed(2, "no location")
    program("epoch").failed(2, "no ensemble is given")
    (tmp_path / "here" / "p.zkplan").write_bytes(b"nothing")
    assert "no such" not in program("show", "p.zkplan").stderr.lower()
    assert "no such" in Program(tmp_path)("show", "p.zkplan").stderr.lower()


def test_what_is_read_before_a_fork_takes_a_start(tmp_path: Path) -> None:
    """What the interpreter or an import reads cannot be heeded afterwards; all else can."""
    forks = Forks()
    assert forks.heeds({**os.environ, "ZKMIG_AT": "zk://h", "TMPDIR": str(tmp_path)})
    assert not forks.heeds({**os.environ, "ZKMIG_BACKEND": "other"})
    assert not forks.heeds({**os.environ, "LC_ALL": "other"})
    assert not forks.heeds({**os.environ, "PYTHONUTF8": "other"})


def test_they_go_on_side_by_side_and_end_in_time(program: Program) -> None:
    """One that waits for a server keeps no other one waiting; after its time it is killed."""
    forks, environment = Forks(), program.environment()
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        words = [PROGRAM, "epoch", "--at", f"zk://127.0.0.1:{silent.getsockname()[1]}/"]
        waiting = pool.submit(forks.run, words, program.folder, environment, 1.5)
        assert Ran(*forks.run([PROGRAM, "--version"], program.folder, environment, 60.0)).code == 0
        assert not waiting.done()
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.result()
