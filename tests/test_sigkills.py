"""A SIGKILL at any moment of `zkmig apply` leaves what `resume` or `rollback` lead out of, to one of the two trees.

Method: tests/torture/sigkills.py, with a few kills; `make torture` makes 200.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.sigkills import kill_all
from zkmig.dev import Server

KILLS = 8


@pytest.mark.timeout(400)  # some 30 s on an idle machine
def test_kills_spread_over_a_whole_run(tmp_path: Path) -> None:
    with Server(extended_types=True) as server:
        figures = kill_all(server, KILLS, tmp_path)
    assert figures.violations == []
    assert sum(figures.hits.values()) == KILLS
    assert set(figures.hits) - {"STABLE before"}
    assert sum(figures.trees.values()) == KILLS + len(figures.durations_s)
