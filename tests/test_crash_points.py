"""Wherever a migrator dies, another leads out, to exactly the old or exactly the new tree.

Method: tests/torture/crashpoints.py. Here one visit of VISITS_OF_A_WRITE - 1, so that each write is visited, and fates,
ways and moments take turns; `make torture` makes all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.torture.crashpoints import (
    VISITS_OF_A_WRITE,
    Figures,
    Moment,
    Way,
    enumerate_all,
    first_level,
    sample,
)
from tests.torture.crashpoints_askers import askers
from tests.torture.crashpoints_client import Fate
from tests.torture.crashpoints_scenarios import SCENARIOS
from zkmig.dev import Server

# Places in the sources that write, and why no process dies at them here.
NOT_VISITED = {
    "zkmig.epoch.control:_create_ancestors": "init: before there is a scope",
    "zkmig.epoch.control:_create_control_root": "init",
    "zkmig.epoch.control:_create_scope": "init: one transaction",
    "zkmig.apply.remove:_write_last": "the scope goes in one transaction; nothing is left to lead out of",
    "zkmig.apply.remove:_delete_all": "the same",
    "zkmig.apply.conflicts:PutBacks.record_hidden": "a memory that decides nothing, and is not missed",
}
pytestmark = pytest.mark.timeout(400)  # some 40 s on an idle machine; all is done in the fixture

EVERY = VISITS_OF_A_WRITE - 1
EVERY_LATER = 47


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    with Server(extended_types=True) as server:
        yield enumerate_all(server, EVERY, EVERY_LATER, views_every=4)


def test_every_way_out_of_a_crash_leads_to_one_of_the_two_trees(figures: Figures) -> None:
    """No torn view on the way, nothing left to do, no late write of the dead, data, ACLs, counters and kinds exact."""
    assert figures.violations == []
    assert sum(figures.visits.values()) > 150
    assert figures.visits["second level"]
    assert set(figures.states) == {"STABLE", "PREPARING", "OPEN", "ROLLING_BACK"}
    assert figures.kinds_compared > 10 * sum(figures.visits.values())


def test_late_frames_came_at_every_moment(figures: Figures) -> None:
    for moment in Moment:
        assert figures.late.get(f"Multi refused, {moment.value}"), moment
    assert any(what.startswith("SetAcl refused") for what in figures.late)


def test_those_are_all_the_writes_that_there_are(figures: Figures) -> None:
    """Every write of the unharmed runs is in the server's log once, and every place in the sources was visited."""
    assert figures.writes_in_log == sum(figures.lengths.values())
    assert askers() - NOT_VISITED.keys() == set(figures.askers)


def test_the_quick_sample_leaves_no_write_out() -> None:
    lengths = {scenario.name: 7 for scenario in SCENARIOS}
    visits = list(sample(first_level(lengths, goes_on=False), EVERY))
    assert {(visit.scenario, visit.first.number) for visit in visits} == {
        (scenario.name, number) for scenario in SCENARIOS if not scenario.goes_on for number in range(7)
    }
    assert {(visit.first.fate, visit.way) for visit in visits} == {(fate, way) for fate in Fate for way in Way}
