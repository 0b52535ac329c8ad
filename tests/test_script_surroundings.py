"""What a script does to the process it runs in stays with it: its files, its directory, its threads, its end.

Method: scripts that read, print, move about, and never end; in this process, and in the program, whose processes
hold the pipe that tells of their end.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import PROGRAM, Program
from tests.test_scripts import BASE, script
from zkmig.model.snapshot import Snapshot
from zkmig.script.apart import apart
from zkmig.script.load import load
from zkmig.script.proof import proven
from zkmig.source import zks

WAIT_MS = 60_000


def made_by(folder: Path, body: str, head: str = "") -> Snapshot:
    return proven(load(script(folder, body, head=head)), BASE)


def test_processes_that_a_script_starts_read_nothing_and_spare_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both descriptors are replaced, not only Python's files; afterwards they are what they were."""
    reading, writing = os.pipe()
    stdin = os.dup(0)
    try:
        os.dup2(reading, 0)
        os.write(writing, b"yes\n")
        run = "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'cat; echo said'], check=True)"
        made_by(tmp_path, run, head=run)
        assert os.read(0, 10) == b"yes\n"
    finally:
        os.dup2(stdin, 0)
        for each in (stdin, reading, writing):
            os.close(each)
    os.write(1, b"afterwards")
    told = capfd.readouterr()
    assert told.out == "afterwards"
    assert told.err == "said\n" * 2


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_who_was_started_without_a_file_stays_without(closed: int) -> None:
    """In a process of its own, which closes one of the three."""
    program = (
        "import os\nfrom zkmig.script.apart import apart\n"
        f"os.close({closed})\nwith apart():\n    print('x', flush=True)\n    assert os.read(0, 1) == b''\n"
        f"try:\n    os.fstat({closed})\nexcept OSError:\n    os._exit(7)\n"
    )
    argv = [sys.executable, "-c", program]
    ended = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (7, b"")


def test_a_script_that_changes_the_directory_leaves_it_as_it_was(tmp_path: Path, program: Program) -> None:
    """Else a plan would be written, or the next script looked for, somewhere else. Also where the script fails."""
    here = os.getcwd()
    assert made_by(tmp_path, "import os\nos.chdir('/')\ntree.set('/app/a/x', os.getcwd().encode())")["/app/a/x"].data
    assert os.getcwd() == here
    zks.write(BASE, str(program.folder / "t.zks"))
    path = script(program.folder, "import os\nos.chdir('/')\ntree.set('/app/a/x', b'1')")
    program("plan", os.path.basename(path), "--to", "t.zks", "-o", "p.zkplan").succeeded()
    assert (program.folder / "p.zkplan").is_file()


def test_a_deleted_directory_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with apart():
        os.chdir("/")


def test_threads_that_a_script_leaves_do_not_keep_the_proof(tmp_path: Path) -> None:
    """One in each run, which ends once this test says so: after the proof."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    body = f"import threading\nthreading.Thread(target=lambda: open({str(gate)!r}).close()).start()"
    before = threading.active_count()
    made_by(tmp_path, body)
    with open(gate, "w"):
        for thread in threading.enumerate()[before:]:
            thread.join()


@pytest.fixture
def endless(program: Program) -> Iterator[tuple[Path, int]]:
    """A script that never ends, in the run that ENDLESS names, and what tells of it: some bytes once it runs, and the
    end of file once no process of it is left."""
    pipe = program.folder / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    body = (
        "import os, subprocess\n"
        "again = os.environ['PYTHONHASHSEED'] != '0'\n"
        "if again == (os.environ['ENDLESS'] == 'again'):\n"
        f"    file = os.open({str(pipe)!r}, os.O_WRONLY)\n"
        "    os.write(file, b'here')\n"
        "    while True: pass\n"
    )
    zks.write(BASE, str(program.folder / "t.zks"))
    try:
        yield Path(script(program.folder, body)), reading
    finally:
        os.close(reading)


def happens(reading: int, event: int) -> bool:
    poll = select.poll()
    poll.register(reading, event)
    return bool(poll.poll(WAIT_MS))


@pytest.mark.parametrize("run", ["first", "again"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_script_that_never_ends_ends_with_the_program(
    program: Program, endless: tuple[Path, int], run: str, number: signal.Signals, code: int
) -> None:
    """SIGINT goes to all of the group, as from a terminal. What comes after a SIGKILL is the kernel's."""
    if number is signal.SIGKILL and sys.platform != "linux":
        pytest.skip("parents' deaths are told by Linux alone")
    path, reading = endless
    process = subprocess.Popen(
        [PROGRAM, "plan", str(path), "--to", "t.zks", "-o", "p.zkplan"],
        cwd=program.folder,
        env=program.environment({"PYTHONHASHSEED": "0", "ENDLESS": run}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert happens(reading, select.POLLIN)
        assert os.read(reading, 10) == b"here"
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        told = process.communicate(timeout=WAIT_MS / 1000)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, told
    assert "Traceback" not in told[1]
    assert told[1].count("\n") <= 1
    assert happens(reading, select.POLLHUP)
    assert not (program.folder / "p.zkplan").exists()
