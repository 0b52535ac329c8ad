"""The outage as a policy, as an example: what is unsound is neither planned nor committed.

Method: the example's own program; what it saw is judged here. Negative control: with a policy that forbids nothing
everything passes, and the program says so by its code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import examples.outage_policy.__main__ as example


def test_what_is_unsound_is_neither_planned_nor_committed() -> None:
    said: list[str] = []
    outcome = example.run(said.append)
    assert outcome == example.WANTED
    told = "\n".join(said)
    assert "/site/sets/web: it had children, and has none" in told
    assert "5 of 40 are gone" in told
    assert "/site/sets/spare: it had children, and has none; others have changed the tree" in told


def test_without_rules_it_all_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    lax = tmp_path / "policy.toml"
    lax.write_text("format = 1\n")
    monkeypatch.setattr(example, "POLICY", lax)
    said: list[str] = []
    outcome = example.run(said.append)
    assert (outcome["emptied"], outcome["removed"], outcome["stopped"]) == (0, 0, 0)
    assert outcome != example.WANTED
