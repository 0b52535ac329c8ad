"""The checker accepts a hold beside any owner, and nothing else by that door; under a hold nothing is admitted.

Method: as in test_torture_checker.py, histories made by hand: for each rule one that breaks it, and a near miss.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture.hold_rules import HOLDS
from tests.torture.made import HOME, MIGRATOR, OPERATOR, Story

HOLD = {"reason": "disks", "holder": "ops", "since": 1.0, "deadline": None}
OTHER = {**HOLD, "since": 2.0}


@pytest.fixture
def story() -> Story:
    return Story()


def test_holds_that_come_and_go_in_every_state(story: Story) -> None:
    story.plan()
    story.hold(HOLD)
    story.hold({**HOLD, "reason": "and fans"})
    story.prepare()
    story.hold(None)
    story.open()
    story.first_batch()
    story.hold(HOLD)
    story.second_batch()
    story.commit()
    story.hold(None)
    found = story.check()
    assert found.violations == []
    assert found.figures[HOLDS] == 5
    assert found.figures["batches"] == 2


def test_holds_during_a_rollback(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.first_batch()
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.hold(HOLD)
    story.batch(MIGRATOR, story.write("/app/a", b"/app/a"), cursor="rcursor")
    assert "unowned-write" not in story.rules()


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": 1},
        {"state": "OPEN"},
        {"attempt": "bbbb"},
        {"pending": {"epoch": 1}},
        {"incarnation": "inc2"},
        {"new": 1},
    ],
)
def test_a_hold_that_changes_something_else_too(story: Story, fields: dict[str, Any]) -> None:
    story.hold(HOLD, **fields)
    assert "unowned-write" in story.rules()


def test_a_hold_without_a_check_of_the_incarnation(story: Story) -> None:
    story.hold(HOLD, checks=False)
    assert story.rules() == {"unowned-write"}


@pytest.mark.parametrize("beside", [f"{HOME}/inc-inc1", "/app/a", f"{HOME}/epochs"])
def test_a_hold_that_writes_something_beside(story: Story, beside: str) -> None:
    story.hold(HOLD, story.write(beside, b"x"))
    assert "unowned-write" in story.rules()


def test_a_record_that_is_written_as_it_was_is_no_wrong(story: Story) -> None:
    """Nothing has changed but its version."""
    story.hold(None)
    assert story.rules() == set()


@pytest.mark.parametrize(("before", "after"), [(None, HOLD), (HOLD, None), (HOLD, OTHER)])
def test_a_migrator_that_sets_or_takes_off_a_hold(story: Story, before: Any, after: Any) -> None:
    story.prepare()
    story.hold(before)
    story.move(MIGRATOR, state="OPEN", held=after)
    assert story.rules() == {"hold-lost"}


def test_a_migrator_that_carries_it(story: Story) -> None:
    story.prepare()
    story.hold(HOLD)
    story.move(MIGRATOR, state="OPEN", held=HOLD)
    assert story.rules() == set()


@pytest.mark.parametrize("when", ["before", "under", "after"])
def test_an_admission_under_a_hold(story: Story, when: str) -> None:
    if when != "before":
        story.hold(HOLD)
    if when == "after":
        story.hold(None)
    token = story.lease()
    story.event("action", "reader", phase="admitted", token=token, epoch=0, lease=f"{HOME}/acting/l1")
    if when == "before":
        story.hold(HOLD)
    assert story.rules() == ({"admitted-under-hold"} if when == "under" else set())


@pytest.mark.parametrize("when", ["before", "quiet", "released", "another hold"])
def test_an_effect_once_all_is_said_to_be_quiet(story: Story, when: str) -> None:
    """Between hold and quiet it is what the wait is for; after the release it is another story."""
    token = story.lease()
    story.hold(HOLD)
    if when == "before":
        effect(story, token)
    zxid = story.txn(OPERATOR, story.create("/quiet"))
    story.event("hold", "holder", phase="quiet", zxid=zxid)
    if when == "released":
        story.hold(None)
    if when == "another hold":
        story.hold(None)
        story.hold(OTHER)
    if when != "before":
        effect(story, token)
    assert story.rules() == ({"effect-after-quiet"} if when == "quiet" else set())


def effect(story: Story, token: int) -> None:
    zxid = story.effect(0, token)
    story.events[-1]["zxid"] = zxid
