"""The night of 2016 as an example: with the guard the unchanged autoscaler sees nothing, without it there is an outage.

Method: the example's own program, small, in both variants side by side; its counts are judged here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.program import Program

REPOSITORY = Path(__file__).parent.parent
SMALL = ("--servers", "200", "--seconds", "3", "--json")
TIMEOUT_S = 200.0


@pytest.mark.timeout(TIMEOUT_S + 20)
def test_the_guarded_autoscaler_never_acts_on_half_a_registry_and_the_bare_one_does() -> None:
    runs = [_begin(), _begin("--without-guard"), _begin("--lost")]
    try:
        (guarded, code), (bare, bare_code), (lost, lost_code) = [_end(run) for run in runs]
    finally:
        for run in runs:
            run.kill()

    assert code == 0
    assert guarded["starts"] >= 3  # again and again
    assert guarded["views_while_open"] == guarded["torn"] == guarded["terminated_before_the_commit"] == 0
    assert guarded["views_after_the_commit"] >= 2  # it came back by itself
    assert len(guarded["wanted"]) == 3
    assert guarded["terminated"] == guarded["wanted"]  # and acted, within what the new registry asks for

    assert not guarded["stays_down"]
    assert lost_code == 0
    assert lost["stays_down"]  # whole, committed, and too far from what it knew
    assert not lost["terminated"]
    assert lost["views_after_the_commit"] == 0

    assert bare_code == 1
    assert bare["torn"] > 0
    assert bare["terminated_before_the_commit"] > 0


def _begin(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.autoscaler_2016", *SMALL, *options],
        cwd=REPOSITORY,
        env=Program.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(run: subprocess.Popen[str]) -> tuple[dict[str, Any], int]:
    stdout, stderr = run.communicate(timeout=TIMEOUT_S)
    assert stdout, stderr
    return json.loads(stdout), run.returncode
