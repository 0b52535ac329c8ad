"""docs/guard.md keeps up with the code. Method: look in it for every phase, exit code, field and option."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from zkmig.cli.guard import guard
from zkmig.epoch.leases import Down, GuardEntry
from zkmig.guard.events import AfterCommit, Phase

PAGE = (Path(__file__).parent.parent / "docs" / "guard.md").read_text()


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_explained_and_drawn(phase: Phase) -> None:
    assert f"| `{phase.value}` |" in PAGE
    assert f"--> {phase.value}" in PAGE


def test_every_field_of_a_registration_is_in_the_table() -> None:
    for field in json.loads(GuardEntry("unit", stopped=True).encode()):
        assert f"| `{field}` |" in PAGE
    for field in dataclasses.fields(Down):
        assert f"`{field.name}`" in PAGE


def test_options_of_its_own_and_exit_codes_are_named() -> None:
    for policy in AfterCommit:
        assert policy.value in PAGE
    for name in ("--name", "--grace", "--after-commit", "--no-wait", "--take-over", "--status-file", "--state-dir"):
        assert name in {option for param in guard.params for option in param.opts}
        assert name in PAGE
    for code in ("2", "3", "70", "75", "126", "127", "128"):
        assert code in (guard.epilog or "")
