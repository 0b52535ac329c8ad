"""Containers as far as tests need them: a pid namespace with a /proc of its own, where that is allowed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""What comes behind it is PID 1 there, and nothing of it outlives unshare, which ends with its code."""


def may_unshare() -> bool:
    """Whether that works here: it takes root, and not all that are root may."""
    if shutil.which(IN_A_CONTAINER[0]) is None:
        return False
    return subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True, check=False).returncode == 0


needs_unshare = pytest.mark.skipif(not may_unshare(), reason="`unshare --pid --mount-proc` is not allowed here")
