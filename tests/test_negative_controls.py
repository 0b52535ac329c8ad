"""Each mechanism that a property rests on, switched off, is noticed by the check of that property.

Method: tests/torture/controls.py; here those that no other module of the tests holds, all of them in `make torture`.
"""

from __future__ import annotations

import pytest
from kazoo.client import KazooClient

from tests.torture.controls import CONTROLS, Control, run_control
from zkmig.dev import Server


@pytest.mark.parametrize("control", [pytest.param(each, id=each.mechanism) for each in CONTROLS if not each.tested_in])
def test_a_mechanism_that_is_off_is_missed(zk: Server, eyes: KazooClient, control: Control) -> None:
    row = run_control(control, zk, eyes)
    assert row.after > 0, row


def test_controls_that_are_tested_elsewhere_name_the_module(pytestconfig: pytest.Config) -> None:
    for control in CONTROLS:
        for module in filter(None, control.tested_in.split(", ")):
            assert "def test_without_" in (pytestconfig.rootpath / "tests" / f"{module}.py").read_text(), control
