"""Wherever a migrator dies, another leads out, to exactly the old or exactly the new tree.

Method: tests/torture/crashpoints.py. Here one visit for three writes where a scenario begins anew, and fewer where it
goes on; fates, ways and moments take turns. `make torture` makes all of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.scopes import Site
from tests.torture.crashpoints import (
    VISITS_OF_A_WRITE,
    Enumeration,
    Figures,
    Moment,
    Point,
    Visit,
    Way,
    enumerate_all,
    first_level,
    sample,
)
from tests.torture.crashpoints_askers import asked_by_commands, askers
from tests.torture.crashpoints_client import Fate
from tests.torture.crashpoints_scenarios import SCENARIOS, Scenario
from tests.torture.deaths import merged, violations
from zkmig.apply import prune
from zkmig.apply.aclsteps import tightenings, write_acls
from zkmig.apply.forward import Forward
from zkmig.apply.pacing import Pacing
from zkmig.dev import Server
from zkmig.errors import Refused

COMMANDS = {"apply_plan", "resume", "rollback", "prune", "remove_scope"}  # revert is an apply_plan, and visited as one
# Commands and who might write on behalf of them, and why no process dies there here.
MEMORY = "zkmig.apply.conflicts:PutBacks.record_hidden"
BEAT = "zkmig.epoch.owner:Migrator.beat"
NOT_VISITED = {
    f"resume: {MEMORY}": "a memory that decides nothing, and is not missed",
    f"rollback: {MEMORY}": "the same",
    "resume: zkmig.apply.rollback:_begin": "not reached: it goes on only with a rollback that has begun",
    "remove_scope: zkmig.apply.evictions:record_evictions": "not reached: there evictions are on no record",
    **{f"{command}: {BEAT}": "when its time has come; by a scenario of its own" for command in COMMANDS},
}
# By init and hold, which take nothing over: there is no scope before the last transaction of the one, and the other
# has but one (tests/test_holding.py).
OF_NO_COMMAND = {
    "zkmig.apply.holding:_write",
    "zkmig.epoch.control:_add_budgets",
    "zkmig.epoch.control:_create_ancestors",
    "zkmig.epoch.control:_create_control_root",
    "zkmig.epoch.control:_create_scope",
}
pytestmark = pytest.mark.timeout(900)  # less than a minute on an idle machine; all is done in the fixture

EVERY = 3 * VISITS_OF_A_WRITE - 1
EVERY_LATER = 149


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(extended_types=True) as server:
        yield server


@pytest.fixture(scope="module")
def figures(server: Server) -> Figures:
    return enumerate_all(server, EVERY, EVERY_LATER, views_every=4)


def test_every_way_out_of_a_crash_leads_to_one_of_the_two_trees(figures: Figures) -> None:
    """No torn view on the way, nothing left to do, no late write of the dead, data, ACLs, counters and kinds exact."""
    assert figures.violations == []
    assert figures.too_many_unreached() == ""
    assert sum(figures.visits.values()) > 80
    assert figures.visits["second level"]
    assert set(figures.states) == {"EMPTY", "STABLE", "PREPARING", "OPEN", "ROLLING_BACK"}
    assert figures.tightened > 100
    assert figures.kinds_compared > 10 * sum(figures.visits.values())


def test_late_frames_came_at_every_moment(figures: Figures) -> None:
    for moment in Moment:
        assert figures.late.get(f"Multi refused, {moment.value}"), moment
    assert any(what.startswith("SetAcl refused") for what in figures.late)


def test_those_are_all_the_writes_that_there_are(figures: Figures) -> None:
    """Every write of the unharmed runs is in the server's log once, and whoever writes on behalf of a command did."""
    assert figures.writes_in_log == sum(figures.lengths.values())
    asked = asked_by_commands()
    assert {each.partition(": ")[0] for each in asked} == COMMANDS
    assert asked >= NOT_VISITED.keys()
    assert asked - NOT_VISITED.keys() == {each for each in figures.askers if not each.startswith(": ")}
    assert figures.askers[f": {BEAT}"]
    assert askers() - {each.partition(": ")[2] for each in asked} == OF_NO_COMMAND


def test_the_quick_sample_takes_turns() -> None:
    """A third of the writes of each scenario that begins anew, in any way and with either way out."""
    lengths = {scenario.name: 20 for scenario in SCENARIOS}
    visits = list(sample(first_level(lengths, goes_on=False), EVERY))
    anew = [scenario.name for scenario in SCENARIOS if not scenario.goes_on]
    writes = {(visit.scenario, visit.first.number) for visit in visits}
    assert all(sum(scenario == name for scenario, _ in writes) >= 6 for name in anew)
    assert {(visit.first.fate, visit.way) for visit in visits} == {(fate, way) for fate in Fate for way in Way}


@pytest.fixture
def points(server: Server, request: pytest.FixtureRequest) -> Iterator[Enumeration]:
    name = re.sub(r"\W|_", "-", request.node.name)
    with Site(server, "/") as everywhere, Enumeration(server, name, everywhere.kazoo, every=4) as enumeration:
        yield enumeration


def scenario_of(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


NEVER = 1_000  # no scenario has so many writes
NOT_REACHED = [
    *(Visit("prune", Point(NEVER, fate), Way.RESUME) for fate in (Fate.BEFORE, Fate.ASLEEP)),
    Visit("prune", Point(1, Fate.LANDED), Way.RESUME, second=Point(NEVER, Fate.LANDED)),
]


@pytest.mark.parametrize("visit", NOT_REACHED, ids=["first", "asleep", "second"])
def test_a_write_that_is_never_reached_is_no_visit(points: Enumeration, visit: Visit) -> None:
    """Of the first process or of the second; here, and where all shares of a long run are judged."""
    points.visit(visit._replace(first=Point(1, Fate.LANDED), second=None))
    assert points.figures.too_many_unreached() == ""
    points.visit(visit)
    assert points.figures.violations == []
    assert points.figures.too_many_unreached() == "1 of 2 visits came to their end before their write"
    assert violations({"crashpoints": merged([points.figures.plain()] * 2)}) == [
        "2 of 4 visits came to their end before their write"
    ]


def test_a_few_that_are_not_reached_are_borne() -> None:
    assert Figures(visits=Counter(a=100), unreached=Counter(a=2)).too_many_unreached() == ""
    assert Figures(visits=Counter(a=100), unreached=Counter(a=2, b=1)).too_many_unreached()


def test_without_tightening_before_the_batches(points: Enumeration, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ACLs of the end are the same; that they came too late is seen in the log alone."""
    write = Forward._write_batches

    def write_first(self: Forward, pacing: Pacing) -> None:
        write(self, pacing)
        write_acls(self.migrator, tightenings(self.journal.acls, {}))

    monkeypatch.setattr(Forward, "_tighten", lambda _: None)
    monkeypatch.setattr(Forward, "_write_batches", write_first)
    points.measure(scenario_of("apply in batches"))
    points.check_log()
    assert any(re.search("batch 0 before .*/a.* was tightened", each) for each in points.figures.violations)


def test_without_what_a_prune_keeps(points: Enumeration, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = prune.choose
    monkeypatch.setattr(prune, "choose", lambda attempts, record, _: choose(attempts, record, 0))
    with pytest.raises(Refused, match="pruned"):
        points.measure(scenario_of("prune but the last"))
