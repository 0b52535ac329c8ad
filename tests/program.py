"""The program as its users run it: a process of its own, judged by exit code, stdout and stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = str(Path(sys.executable).parent / "zkmig")
TIMEOUT_S = 120


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `zkmig` to its end, without a terminal."""
    return subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )


def zkmig(*arguments: str, exit_code: int = 0) -> str:
    """Standard output of a run that ends as expected; the test fails, showing stderr, if it does not."""
    done = run(*arguments)
    assert done.returncode == exit_code, f"zkmig {' '.join(arguments)}\nexit {done.returncode}\n{done.stderr}"
    return done.stdout
