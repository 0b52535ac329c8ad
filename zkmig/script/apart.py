"""Apart: what surrounds a script while it runs, so that it neither reads nor writes where its caller does.

Its stdin is empty and its stdout is stderr, for the processes that it starts as well, and the working directory is
afterwards what it was: the names of plans and further scripts may be relative to it. All of this belongs to the whole
process: one script runs at a time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

STDIN, STDOUT, STDERR = range(3)

_one_at_a_time = threading.RLock()  # a script may load another one


@contextmanager
def apart() -> Iterator[None]:
    """Around the run of a script: nothing to read, stdout spared, the directory kept."""
    with _one_at_a_time, ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull, "r+", encoding="utf-8"))
        _flush()  # what was said before goes where it was meant to
        stack.enter_context(_pointed(STDIN, nothing.fileno()))
        stack.enter_context(_pointed(STDOUT, STDERR if _is_open(STDERR) else nothing.fileno()))
        stack.callback(_flush)
        stack.enter_context(_same_directory())
        stack.enter_context(redirect_stdout(sys.stderr))
        stdin, sys.stdin = sys.stdin, nothing
        try:
            yield
        finally:
            sys.stdin = stdin


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            with suppress(OSError, ValueError):  # nobody reads it any more, or it was closed
                stream.flush()


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@contextmanager
def _pointed(number: int, to: int) -> Iterator[None]:
    """Inside, the file of this number is that of another; what was closed is closed again."""
    kept = os.dup(number) if _is_open(number) else None
    os.dup2(to, number)
    try:
        yield
    finally:
        if kept is None:
            os.close(number)
        else:
            os.dup2(kept, number)
            os.close(kept)


@contextmanager
def _same_directory() -> Iterator[None]:
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was deleted: nothing leads back, and nothing relative is there
        yield
        return
    try:
        yield
    finally:
        os.chdir(here)
