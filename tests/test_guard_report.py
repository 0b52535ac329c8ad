"""What a guard tells: a line at each change, a status file that is always whole, and nothing that could hold it up."""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from zkmig.cli.status import _guard
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.record import Held
from zkmig.guard import reach
from zkmig.guard.events import Phase, Situation
from zkmig.guard.notify import Notifier
from zkmig.guard.report import Report


def situation(phase: Phase, why: str, since: float = 5.0, held: Held | None = None) -> Situation:
    return Situation(phase, since, why, 7, 3, held, phase in (Phase.LOOKING, Phase.ACKNOWLEDGING))


def report(out: int | None, status_file: Path | None = None) -> Report:
    return Report("unit", "prod", out=out, status_file=status_file, notifier=Notifier({}), pid=11)


def test_a_line_at_each_change() -> None:
    """What only passes is no change, and since when stays that of the phase."""
    reading, writing = os.pipe()
    one = report(writing)
    one.tell(situation(Phase.RUNNING, "a"), 9.0)
    one.tell(situation(Phase.RUNNING, "a"), 10.0)
    one.tell(situation(Phase.ACKNOWLEDGING, "b"), 11.0)
    one.tell(situation(Phase.WAITING, "c\x1b[2J"), 12.0)
    os.close(writing)
    lines = os.read(reading, 9_999).decode().splitlines()
    os.close(reading)
    assert [line.partition(" since ")[0] for line in lines] == ["guard unit: running", "guard unit: waiting"]
    assert lines[1].endswith(": c?[2J")


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("with 143", "by SIGTERM (143)"),
        ("with 162", "by SIGRTMIN (162)"),
        ("with 164", "by signal 36 (164)"),
        ("the command has ended with 137", "the command has ended by SIGKILL (137)"),
        ("the command has ended with 137; KILL has not", "the command has ended by SIGKILL (137); KILL has not"),
        ("the hook has ended with 130", "the hook has ended by SIGINT (130)"),
        ("with 0", "with 0"),
        ("with 75", "with 75"),
        ("with 255", "with 255"),
        ("the command has ended with 3", "the command has ended with 3"),
        ("held by ops: discs with 143", "held by ops: discs with 143"),
    ],
)
def test_a_signal_is_told_by_its_name(tmp_path: Path, why: str, told: str) -> None:
    """In the line, in the status file, and of a registration in `zkmig status`; what others worded is not touched."""
    reading, writing = os.pipe()
    report(writing, tmp_path / "status").tell(situation(Phase.LEFT, why), 9.0, 143)
    os.close(writing)
    assert os.read(reading, 9_999).decode().endswith(f": {told}\n")
    os.close(reading)
    assert json.loads((tmp_path / "status").read_text())["why"] == told
    assert _guard("unit", GuardEntry("unit", stopped=True, why=why), is_gone=False) == f"unit: stopped: {told}"


def full_pipe() -> tuple[int, int]:
    """The ends of a pipe that has no room for a byte; writing waits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)
    return reading, writing


def test_a_pipe_that_nobody_reads_holds_nothing_up() -> None:
    reading, writing = full_pipe()
    report(writing).tell(situation(Phase.RUNNING, "a"), 9.0)
    os.close(reading)
    report(writing).tell(situation(Phase.RUNNING, "a"), 9.0)
    os.close(writing)


def test_a_pipe_that_fills_up_after_it_was_looked_at_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes to it as well. A pipe that select says has room, always; and one that is read again later."""
    reading, writing = full_pipe()
    monkeypatch.setattr("select.select", lambda reads, writes, others, _timeout: (reads, writes, others))
    one = report(writing)
    one.tell(situation(Phase.RUNNING, "a"), 9.0)
    os.set_blocking(reading, False)
    with suppress(BlockingIOError):
        while os.read(reading, 65536):
            pass
    one.tell(situation(Phase.WAITING, "b"), 9.0)
    os.close(writing)
    assert os.read(reading, 9_999).startswith(b"guard unit: waiting")
    os.close(reading)


def test_the_status_file(tmp_path: Path) -> None:
    file, other = tmp_path / "status", tmp_path / "other"
    (tmp_path / ".status.11").symlink_to(other)
    held = Held("disks", "ops", 1.0, 8.0)
    report(None, file).tell(situation(Phase.WAITING, "c", held=held), 9.0)
    told = json.loads(file.read_text())
    assert (told["phase"], told["why"], told["since"], told["pid"], told["guard_pid"]) == ("waiting", "c", 5.0, 7, 11)
    assert (told["hold"]["reason"], told["hold"]["deadline"], told["hold"]["expired"]) == ("disks", 8.0, True)
    assert not other.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["status"]


def test_a_status_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report(None, tmp_path / "missing" / "status").tell(situation(Phase.RUNNING, "a"), 9.0)
    assert "cannot be written" in caplog.text


def test_what_is_no_utf_8_is_told_all_the_same(tmp_path: Path) -> None:
    """As bytes of another encoding come in from a command line: a guard that fails at them would never run again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        one = Report("unit", "prod", out=None, status_file=tmp_path / "status", notifier=notifier, pid=11)
        one.tell(situation(Phase.WAITING, "held: f\udcfcr Platten"), 9.0)
        assert b"waiting" in manager.recv(1_000)
        notifier.close()
    assert json.loads((tmp_path / "status").read_text())["phase"] == "waiting"


def test_why_it_is_not_connected_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for again while it fails, at once where asking takes long, and not told once it is connected or closed."""
    monkeypatch.setattr(reach, "FIRST_S", 0.0)
    monkeypatch.setattr(reach, "AGAIN_S", 0.0)
    answers: queue.Queue[str] = queue.Queue()
    news, connected = threading.Semaphore(0), threading.Event()
    one = reach.Reach("zk1:2181", connected.is_set, lambda: answers.get(timeout=30), news.release)
    one.start()
    assert one.why == ""
    monkeypatch.setattr(reach, "SLOW_S", 0.0)
    assert one.why == "no answer so far (zk1:2181)"
    for why in ("refused", "not known"):
        answers.put(why)
        assert news.acquire(timeout=30)
        assert one.why == why
    connected.set()
    assert one.why == ""
    connected.clear()  # lost later: that is for others to tell
    assert one.why == ""
    answers.put("")
    closed = reach.Reach("zk1:2181", lambda: False, lambda: "refused", news.release)
    closed.close()
    assert closed.why == ""
