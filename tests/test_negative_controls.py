"""Each mechanism that a property rests on, switched off, is noticed by the check of that property.

Method: tests/torture/controls.py; here those that no other module of the tests holds, all of them in `make torture`.
"""

from __future__ import annotations

import ast

import pytest
from kazoo.client import KazooClient

from tests.torture.controls import CONTROLS, Control, run_control
from zkmig.dev import Server


@pytest.mark.parametrize("control", [pytest.param(each, id=each.mechanism) for each in CONTROLS if not each.tested_in])
def test_a_mechanism_that_is_off_is_noticed(zk: Server, eyes: KazooClient, control: Control) -> None:
    row = run_control(control, zk, eyes)
    assert row.after > 0, row


def test_controls_that_are_tested_elsewhere_name_the_test(pytestconfig: pytest.Config) -> None:
    """It is there, of that very name, and says that it switches something off."""
    elsewhere = [control.tested_in for control in CONTROLS if control.tested_in]
    assert len(set(elsewhere)) == len(elsewhere)
    for place in elsewhere:
        module, name = place.split(":")
        text = (pytestconfig.rootpath / "tests" / f"{module}.py").read_text()
        test = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)
        assert name.startswith("test_without_") or "Negative control" in ast.unparse(test), place
