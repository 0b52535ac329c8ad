"""A short torture of a guard by a stubborn manager, and what its judge notices.

Method: tests/torture/managers.py, which `make torture` runs for minutes (docs/reliability.md); for the judge, lines
that were made up.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.managers.judge import Change, Span, broken_spans, drains_of, registered_as_running, spans_of
from tests.torture.managers import CONTROLS, KINDS, Figures, run

HOME = "/zkmig/scopes/s"

pytestmark = pytest.mark.timeout(240)


def test_whatever_befalls_a_guard_its_service_runs_in_no_epoch() -> None:
    figures, wrong = run("plain", 8, 2, seed=11)
    assert wrong == []
    assert figures.committed == 2
    assert figures.starts >= 3
    assert figures.befell.total() >= 2


@pytest.mark.parametrize("control", CONTROLS)
def test_a_mechanism_that_is_switched_off_is_noticed(control: str) -> None:
    """Negative controls: a drain that passes guards over; a guard that acknowledges when it has sent TERM."""
    _, wrong = run("plain", 0, 1, seed=11, control=control, is_calm=True)
    assert any(each.startswith("epoch 1, committed: ") for each in wrong)


def line(wall: float, what: str = "runs", **fields: object) -> dict[str, Any]:
    return {"wall": wall, "what": what, **fields}


def test_the_judge_knows_when_a_line_lies_in_a_span() -> None:
    span = Span("epoch 1", 10, 100.0, 20, 110.0)
    before_and_after = [line(99.99), line(110.01), line(99.9, "saw", zxid=9), line(110.1, "saw", zxid=20)]
    assert broken_spans(before_and_after, [span]) == []
    for inside in (line(100.5), line(99.9, "saw", zxid=10), line(110.1, "saw", zxid=19)):
        assert len(broken_spans([inside], [span])) == 1


def change(zxid: int, node: str, **fields: object) -> Change:
    return Change(zxid, float(zxid), f"{HOME}/{node}", fields)


def test_the_judge_reads_spans_and_registrations_from_the_log() -> None:
    """An epoch that is committed and one that is rolled back; the guard is passed over in the second."""
    committed, rolled_back = {"outcome": "committed"}, {"outcome": "rolled_back"}
    log = [
        change(1, "epoch", state="STABLE"),
        change(2, "guards/a", stopped=False),
        change(3, "epoch", state="PREPARING"),
        change(4, "guards/a", stopped=True),
        change(5, "epoch", state="OPEN", target_epoch=1),
        change(6, "epoch", state="STABLE", last=committed),
        change(7, "guards/a", stopped=False),
        change(8, "epoch", state="PREPARING"),
        change(9, "epoch", state="OPEN", target_epoch=2),
        change(10, "epoch", state="ROLLING_BACK"),
        change(11, "epoch", state="STABLE", last=rolled_back),
    ]
    assert spans_of(log, HOME) == [
        Span("epoch 1, committed", 5, 5.0, 6, 6.0),
        Span("epoch 2, rolled_back", 9, 9.0, 11, 11.0),
    ]
    assert drains_of(log, HOME) == [(3.0, 5.0), (8.0, 9.0)]
    assert registered_as_running(log, HOME) == [f"epoch 2: {HOME}/guards/a"]


def test_a_run_in_which_too_little_happened_fails() -> None:
    figures = Figures(
        starts=1000, seconds_running=1000, committed=100, rolled_back=50, holds=50, in_drains=50, in_epochs=50
    )
    figures.befell.update(dict.fromkeys(KINDS, 50))
    assert figures.short_of(1.0) == []
    figures.befell[KINDS[3]] = 0
    assert len(figures.short_of(0.01)) == 1
