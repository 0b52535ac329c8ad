"""The model of the protocol, its runner and docs/protocol.md agree with the transition table.

Method: labels, switches and lines are looked up in the texts. That the model holds, and that each negative control is
caught, is shown by `make model`, which takes minutes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zkmig.epoch.transitions import TRANSITIONS, Transition

TOP = Path(__file__).parent.parent
MODEL = (TOP / "docs" / "model" / "epoch.pml").read_text()
PAGE = (TOP / "docs" / "protocol.md").read_text()
RUNNER = (TOP / "scripts" / "model.py").read_text()


def label_of(row: Transition) -> str:
    return f"{row.event}_{row.source.value if row.source else 'ABSENT'}_{row.target.value}"


@pytest.mark.parametrize("row", TRANSITIONS, ids=label_of)
def test_each_transition_has_its_label_and_the_page_names_its_line(row: Transition) -> None:
    """Exactly one line of the model is that label, and the page links to that very line beside the row's event."""
    lines = [number for number, line in enumerate(MODEL.splitlines(), 1) if line == f"{label_of(row)}:"]
    assert len(lines) == 1
    source = row.source.value if row.source else "(absent)"
    assert f"| `{row.event}` | {source} | {row.target.value} | [{lines[0]}](model/epoch.pml#L{lines[0]}) |" in PAGE


def test_the_model_moves_the_record_along_the_table_only() -> None:
    """No further label of that form; and whatever sets the record's state stands right behind one of them."""
    labels = re.findall(r"^([a-z_]+_(?:[A-Z]+_)+[A-Z]+):$", MODEL, re.MULTILINE)
    assert sorted(labels) == sorted(map(label_of, TRANSITIONS))
    moves = re.findall(r"^(.*)\n *set_record\((\w+)\)", MODEL, re.MULTILINE)
    assert all(before.endswith(f"_{state}:") for before, state in moves)
    assert len(moves) == len(TRANSITIONS) - 2  # init makes the record


def test_each_negative_control_is_a_switch_of_the_model_and_on_the_page() -> None:
    """A control whose macro the model did not know would be caught by nothing; each is an #ifdef or #ifndef of it."""
    controls = set(re.findall(r'"([A-Z_]{6,})"\),?$', RUNNER, re.MULTILINE))
    switches = set(re.findall(r"^#ifn?def (\w+)$", MODEL, re.MULTILINE))
    assert len(controls) >= 12
    assert controls <= switches
    assert all(f"`{control}`" in PAGE for control in controls)
