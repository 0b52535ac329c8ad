"""A short torture on a real server: readers, churn, actions, and one fault after another, all of it checked.

Method: tests/torture/chapter.py, with some of the faults that `make torture` repeats (docs/reliability.md). Negative
control: with readers that show live nodes, the same checker finds torn views.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.torture.__main__ import EACH_MIN, FAULTS_MIN, FLOORS, FULL, chapters_of, shortfalls
from tests.torture.chapter import NO_FAULT, Result, run_chapter, schedule
from tests.torture.faults import FAULTS
from tests.torture.figures import DISTINCT_AMID, GUARDS, LEASES, OPEN_VIEWS, REFUSED, VIEWS

SEED = 7
SHORT = (
    *("plain-epoch", "migrator-killed", "zombie-in-batches", "zombie-in-rollback", "zombie-in-set-acl", "late-frame"),
    *("old-value-put-back", "child-under-a-created-node", "control-plane-recreated", "mid-frame-reset"),
    *("reader-stopped-in-an-action", "guard-killed", "replaced-at-the-same-version"),
)
REQUIRED_BY_PROTOCOL = 21

pytestmark = pytest.mark.timeout(600)  # some 90 s on an idle machine


def test_no_rule_is_broken_whatever_befalls_a_migration(tmp_path: Path) -> None:
    result = run_chapter("one", SEED, list(SHORT), tmp_path, readers=(1, 1))
    assert result.problems == []
    assert result.violations == []
    assert len(result.faults) >= len(SHORT) - 2  # the moment for one or another may not come on a slow machine
    assert result.figures[VIEWS] > 100
    assert result.figures[OPEN_VIEWS] > 30
    assert result.figures[DISTINCT_AMID] > 5
    assert result.figures[LEASES] > 0
    assert result.figures[GUARDS] > 0
    assert result.figures[REFUSED] > 0
    assert result.figures["commits"] >= 2
    assert result.figures["rollbacks"] >= 1


def test_without_the_overlay_torn_views_are_found(tmp_path: Path) -> None:
    """Goal: the test above can fail. Method: an epoch left open and taken back, with readers that do without undo."""
    options = ("--no-overlay",)
    result = run_chapter("one", SEED, ["zombie-in-rollback"], tmp_path, readers=(1, 1), reader_options=options)
    assert result.problems == []
    assert result.violations
    assert all(violation.startswith("torn-view") for violation in result.violations)


@pytest.mark.parametrize(
    ("fault", "rule"), [("reader-stopped-in-an-action", "lease-alive"), ("guard-killed", "guard-running")]
)
def test_without_the_drain_writes_amid_actions_are_found(tmp_path: Path, fault: str, rule: str) -> None:
    """Goal: what a drain waits for is there to be waited for. Method: migrators whose drain returns at once."""
    result = run_chapter("one", SEED, [fault], tmp_path, readers=(1, 0), reader_options=("--idle",), off=("drain",))
    assert result.problems == []
    assert rule in {violation.split()[0] for violation in result.violations}


def test_a_run_in_which_too_little_happened_fails() -> None:
    """Goal: nothing passes for not having happened. Method: results that lack a fault, views, or everything."""
    whole = Result("one:1", 1, figures=dict(FLOORS), faults=dict.fromkeys(set(FAULTS) - {NO_FAULT}, 30))
    assert shortfalls([whole], is_full=True) == []
    assert shortfalls([], is_full=True)
    assert shortfalls([], is_full=False)
    assert shortfalls([], is_full=False, only="small-heap")
    for name in whole.faults:
        assert shortfalls([replace(whole, faults={**whole.faults, name: 19})], is_full=True) == [f"{name}: 19 of 20"]
    for what in FLOORS:
        assert shortfalls([replace(whole, figures={**whole.figures, what: 0})], is_full=True)
    missed = replace(whole, faults={**whole.faults, "rivals": 0}, missed={"rivals": 1})
    assert shortfalls([missed], is_full=False) == ["rivals: 0 of 1"]


def test_every_fault_comes_as_often_as_asked() -> None:
    """Goal: a full run leaves none out. Method: what the chapters of one hold, epochs without a fault aside."""
    planned = Counter[str]()
    for chapter in chapters_of(FULL, SEED):
        planned.update(schedule(chapter.kind, chapter.seed, chapter.each, "", chapter.members_each))
    assert planned.pop(NO_FAULT) > 0
    assert set(planned) == set(FAULTS) - {NO_FAULT}
    assert min(planned.values()) > EACH_MIN  # one or another moment does not come
    assert planned.total() > FAULTS_MIN
    assert len(planned) >= REQUIRED_BY_PROTOCOL
    assert schedule("one", SEED, 3) == schedule("one", SEED, 3)
    assert schedule("three", SEED, 2, members_each=5).count("leader-killed") == 5
