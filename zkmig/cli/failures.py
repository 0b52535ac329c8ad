"""From what went wrong to one line on stderr and an exit code: the one switch, at the top of the program."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from zkmig.cli.terminal import escape
from zkmig.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_INTERNAL, ZkmigError
from zkmig.stop import EXIT_SIGINT, Interruption

DEBUG_VARIABLE = "ZKMIG_DEBUG"

# What writing to stdout can fail with; any other error of the system is unforeseen.
_OF_OUTPUT = {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT}
_OF_CLICK = (click.ClickException, click.exceptions.Exit, click.Abort)


class Interrupted(Interruption):
    """A signal ended what could be ended at once. error: what is said of that."""

    def __init__(self, error: ZkmigError) -> None:
        super().__init__(str(error))
        self.error = error


def exit_code_of(work: Callable[[], int | None]) -> int:
    """Run the program and return its exit code; every failure has had its line by then."""
    try:
        code = work() or EXIT_DONE
    except Exception as error:  # noqa: BLE001 - the rim: whatever comes, a line and a code
        code = _report(error)
    except Interrupted as interrupted:
        code = _report(interrupted.error)
    except KeyboardInterrupt:
        code = _interrupted()
    except SystemExit:
        code = EXIT_DONE  # click ends so when the pipe it writes help to was closed
    except BaseException as error:  # noqa: BLE001 - as above, of foreign code's own, as asyncio's CancelledError is
        code = _report(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _report_output(error) or code
        # What is still buffered would fail once more, aloud, while the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _report(error: BaseException) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1" and not isinstance(error, _OF_CLICK):
        traceback.print_exception(error, file=sys.stderr)
    match error:
        case ZkmigError():
            _line(str(error))
            _notes(error)
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.ctx.get_help(), err=True)
            return EXIT_BAD_INPUT
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "zkmig"
            _line(f"{error.format_message().rstrip('.')}; see {command} --help")
            return EXIT_BAD_INPUT
        case click.ClickException():
            _line(error.format_message())
            return EXIT_BAD_INPUT
        case click.Abort() if isinstance(error.__cause__, KeyboardInterrupt):
            return _interrupted()
        case click.Abort():
            _line("not confirmed: nothing was done")
            return EXIT_BAD_INPUT
        case click.exceptions.Exit():
            return error.exit_code
        case OSError() if error.filename is None and error.errno in _OF_OUTPUT:
            return _report_output(error)
        case _:
            # The message of an unforeseen error may hold data, so only its kind and place are shown.
            _line(f"internal error: {type(error).__name__} at {_place(error)}; {DEBUG_VARIABLE}=1 shows the traceback")
            _notes(error)
            return EXIT_INTERNAL


def _report_output(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        return EXIT_DONE  # whoever read our output has seen enough
    _line(f"the output could not be written: {error.strerror}")
    return EXIT_INTERNAL


def _notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        click.echo(escape(note), err=True)


def _interrupted() -> int:
    _line("stopped: interrupted")
    return EXIT_SIGINT


def _line(text: str) -> None:
    click.echo(f"zkmig: {escape(text.replace(chr(10), ' '))}", err=True)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "zkmig" in Path(frame.filename).parts and frame.filename != __file__] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "an unknown place"
