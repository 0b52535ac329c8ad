"""The transition table: which states a scope can be in and what leads from one to the next.

Code, tests and docs/protocol.md draw from this one table. A transition replaces the head's check of the record by a
compare-and-set of it, so a record only ever changes along a row of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from zkmig.errors import Refused


class State(Enum):
    """State of a scope. BUILDING, SEALED, MOVED and ABORTED belong to migrations across ensembles, a later format."""

    EMPTY = "EMPTY"
    STABLE = "STABLE"
    PREPARING = "PREPARING"
    OPEN = "OPEN"
    ROLLING_BACK = "ROLLING_BACK"
    BUILDING = "BUILDING"
    SEALED = "SEALED"
    MOVED = "MOVED"
    ABORTED = "ABORTED"


class Image(Enum):
    """What an aware reader is shown in a state."""

    NONE = "nothing: NotReady"
    LIVE = "the live nodes, which are image n"
    OVERLAID = "plan paths from undo, the rest live: image n"


IMAGES: dict[State, Image] = {
    State.EMPTY: Image.NONE,
    State.STABLE: Image.LIVE,
    State.PREPARING: Image.LIVE,
    State.OPEN: Image.OVERLAID,
    State.ROLLING_BACK: Image.OVERLAID,
    State.BUILDING: Image.NONE,
    State.SEALED: Image.NONE,
    State.MOVED: Image.NONE,
    State.ABORTED: Image.NONE,
}

# States in which a migrator works on this scope; from each of them `resume` and `rollback` lead out.
MIGRATING = frozenset({State.PREPARING, State.OPEN, State.ROLLING_BACK})


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: the event, the states it leads between, and what must hold. source None: there is no record yet."""

    event: str
    source: State | None
    target: State
    condition: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition("init_empty", None, State.EMPTY, "the root is absent or childless; views and actions are refused"),
    Transition("init_stable", None, State.STABLE, "the root has a tree, or --allow-empty; epoch 0"),
    Transition("prepare", State.STABLE, State.PREPARING, "owner; journal and manifest of the attempt are uploaded"),
    Transition("prepare", State.EMPTY, State.PREPARING, "the same, for the first epoch of an empty scope"),
    Transition("abort", State.PREPARING, State.STABLE, "nothing was written"),
    Transition("abort", State.PREPARING, State.EMPTY, "nothing was written; the scope began EMPTY"),
    Transition("commit_single_shot", State.PREPARING, State.STABLE, "drained; every operation is in this multi"),
    Transition("open", State.PREPARING, State.OPEN, "drained; plan paths re-verified; manifest checked"),
    Transition("commit", State.OPEN, State.STABLE, "verified by rescan; the cursor is at the end"),
    Transition("begin_rollback", State.OPEN, State.ROLLING_BACK, "the cursor is at c; c goes into the record"),
    Transition("end_rollback", State.ROLLING_BACK, State.STABLE, "cursor = c and the undo cursor is at its end"),
    Transition("end_rollback", State.ROLLING_BACK, State.EMPTY, "the same, for a scope that began EMPTY"),
)


def check_transition(event: str, source: State | None, target: State) -> Transition:
    """The row for this event, or Refused: nothing outside the table is ever written."""
    for row in TRANSITIONS:
        if (row.event, row.source, row.target) == (event, source, target):
            return row
    came_from = source.value if source else "(absent)"
    raise Refused(f"{event} does not lead from {came_from} to {target.value}", hint="run zkmig status")


def diagram() -> str:
    """The table as a Mermaid state diagram, for docs/protocol.md."""
    lines = ["stateDiagram-v2"]
    for row in TRANSITIONS:
        start = row.source.value if row.source else "[*]"
        lines.append(f"    {start} --> {row.target.value}: {row.event}")
    return "\n".join(lines)


def table() -> str:
    """The table in Markdown, for docs/protocol.md."""
    lines = ["| event | from | to | condition |", "|---|---|---|---|"]
    for row in TRANSITIONS:
        start = row.source.value if row.source else "(absent)"
        lines.append(f"| `{row.event}` | {start} | {row.target.value} | {row.condition} |")
    return "\n".join(lines)
