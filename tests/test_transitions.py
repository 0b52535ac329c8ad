"""The transition table is sound, and nothing outside it is ever written.

Method: walks over the table as a graph, and every (event, from, to) that is not a row tried against it.
"""

from __future__ import annotations

import itertools

import pytest

from zkmig.epoch.record import LastOutcome, Record
from zkmig.epoch.transitions import (
    IMAGES,
    MIGRATING,
    TRANSITIONS,
    Image,
    State,
    check_transition,
    diagram,
)
from zkmig.errors import Refused

UNDER_WAY = sorted(MIGRATING, key=lambda state: state.value)
AT_REST = {State.STABLE, State.EMPTY}
ROWS = {(row.event, row.source, row.target) for row in TRANSITIONS}
EVENTS = sorted({row.event for row in TRANSITIONS})
SOURCES: list[State | None] = [None, *State]


def record_in(state: State) -> Record:
    return Record("0" * 16, state, 4, "/app")


@pytest.mark.parametrize("state", UNDER_WAY)
def test_every_migrating_state_has_a_way_back_to_rest(state: State) -> None:
    """P5: by itself, without help from a state that some other process would first have to reach."""
    seen = {state}
    reachable = [state]
    for at in reachable:
        onward = {row.target for row in TRANSITIONS if row.source is at} - seen
        seen |= onward
        reachable += onward
    assert seen & AT_REST


@pytest.mark.parametrize("state", UNDER_WAY)
def test_taking_back_is_possible_from_every_migrating_state(state: State) -> None:
    """A walk over abort, begin_rollback and end_rollback alone ends at rest: a lost plan never strands a scope."""
    backward = {"abort", "begin_rollback", "end_rollback"}
    while state not in AT_REST:
        onward = {row.target for row in TRANSITIONS if row.source is state and row.event in backward}
        assert len(onward - AT_REST) <= 1
        assert onward
        state = min(onward, key=lambda target: target in AT_REST) if onward - AT_REST else onward.pop()


def test_only_the_commit_events_lead_to_a_new_epoch() -> None:
    """From a state that may have written, the only way to STABLE beside the rollback is `commit`."""
    into_stable = {(row.event, row.source) for row in TRANSITIONS if row.target is State.STABLE}
    assert into_stable == {
        ("init_stable", None),
        ("abort", State.PREPARING),
        ("commit_single_shot", State.PREPARING),
        ("commit", State.OPEN),
        ("end_rollback", State.ROLLING_BACK),
    }


def test_rows_are_unique_and_complete() -> None:
    assert len(ROWS) == len(TRANSITIONS)
    assert all(row.condition for row in TRANSITIONS)
    assert set(IMAGES) == set(State)
    assert {state for state, image in IMAGES.items() if image is Image.OVERLAID} == {State.OPEN, State.ROLLING_BACK}


@pytest.mark.parametrize("event", EVENTS)
def test_what_is_not_a_row_is_refused(event: str) -> None:
    for source, target in itertools.product(SOURCES, State):
        if (event, source, target) in ROWS:
            assert check_transition(event, source, target).condition
            continue
        with pytest.raises(Refused, match=event):
            check_transition(event, source, target)


def test_a_record_moves_only_along_the_table() -> None:
    """`moved` and `closed` go through the same check, for every state, event and target."""
    outcome = LastOutcome(5, "0badcafe", "committed", 0.0)
    for event, source, target in itertools.product(EVENTS, State, State):
        record = record_in(source)
        if (event, source, target) in ROWS:
            assert record.moved(event, target).state is target
            assert record.closed(event, target, outcome).state is target
            continue
        with pytest.raises(Refused):
            record.moved(event, target)
        with pytest.raises(Refused):
            record.closed(event, target, outcome)


def test_the_diagram_has_every_row() -> None:
    lines = diagram().splitlines()[1:]
    assert len(lines) == len(TRANSITIONS)
    assert "    [*] --> EMPTY: init_empty" in lines
    assert "    OPEN --> STABLE: commit" in lines
