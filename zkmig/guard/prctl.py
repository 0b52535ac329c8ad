"""The three calls of prctl(2) that a parent of strangers needs. Standard library only: the keeper loads this."""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, argument, zero, zero, zero) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def become_subreaper() -> None:
    """From now on orphans among our descendants become our children, not those of PID 1."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int) -> None:
    """Be sent this signal when the thread that forked us ends. Lost with a change of credentials, kept through exec."""
    _prctl(PR_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """What ps, top and pstree show for us; at most 15 bytes."""
    _prctl(PR_SET_NAME, name.encode())
