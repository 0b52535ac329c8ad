"""The one switch from exceptions to a line and a code. Method: hand it work that fails, and read what it says."""

from __future__ import annotations

import errno

import click
import pytest

from zkmig.cli.failures import Interrupted, exit_code_of
from zkmig.cli.terminal import escape
from zkmig.errors import (
    BadInput,
    Conflict,
    DamagedFile,
    NotPermitted,
    NotStable,
    Outcome,
    OutcomeUnknown,
    Refused,
    Stopped,
    Unreachable,
    ZkmigError,
)


def fail(error: BaseException) -> int:
    """The exit code for work that ends with `error`."""

    def work() -> int:
        raise error

    return exit_code_of(work)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("no", "/app", "do"), 2),
        (DamagedFile("no", "s.zks", 7), 2),
        (Refused("no"), 3),
        (Conflict("no", outcome=Outcome.PARTLY_WRITTEN), 4),
        (OutcomeUnknown("no"), 5),
        (Unreachable("no"), 6),
        (NotPermitted("no"), 6),
        (ZkmigError("no"), 70),
        (NotStable("no"), 75),
        (Stopped("no"), 130),
    ],
)
def test_errors_on_purpose(error: ZkmigError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(error) == code
    assert capsys.readouterr().err == f"zkmig: {error}\n"


def test_notes_follow_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = Conflict("no")
    error.add_note("  go on with: this")
    fail(error)
    assert capsys.readouterr().err == "zkmig: no\n  go on with: this\n"


def test_bugs_show_their_place_and_nothing_they_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug's message may be data. It is shown only with the traceback, on demand."""
    monkeypatch.delenv("ZKMIG_DEBUG", raising=False)
    assert fail(KeyError("hunter2")) == 70
    line = capsys.readouterr().err
    assert line.startswith("zkmig: internal error: KeyError at test_cli_failures.py:")
    assert line.count("\n") == 1
    assert "hunter2" not in line
    monkeypatch.setenv("ZKMIG_DEBUG", "1")
    assert fail(KeyError("hunter2")) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (click.UsageError("No such option: --x\nand more."), 2, "No such option: --x and more; see zkmig --help"),
        (click.FileError("f", "gone"), 2, "Could not open file 'f': gone"),
        (click.Abort(), 2, "not confirmed: nothing was done"),
        (Interrupted(Stopped("stopped: interrupted")), 130, "stopped: interrupted"),
        (KeyboardInterrupt(), 130, "stopped: interrupted"),
        (OSError(errno.ENOSPC, "No space left"), 70, "the output could not be written: No space left"),
    ],
)
def test_other_ends(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(error) == code
    assert capsys.readouterr().err == f"zkmig: {line}\n"


def test_what_is_no_exception_is_told_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Foreign code raises sorts of its own, as checks in Python do: a traceback would show data."""

    class Odd(BaseException):
        pass

    assert fail(Odd("canary")) == 70
    told = capsys.readouterr().err
    assert told.startswith("zkmig: internal error: Odd at ")
    assert "canary" not in told


def test_a_reader_that_leaves_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 0
    assert exit_code_of(lambda: 1) == 1
    assert exit_code_of(lambda: None) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain /app", "plain /app"),
        ("/队列/é", "/队列/é"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\u202eb", "a\\u202eb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\udc80", "\\udc80"),
        ("\x85\u2028", "\\x85\\u2028"),
    ],
)
def test_what_terminals_would_obey_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown
