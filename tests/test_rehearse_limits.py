"""What a rehearsal says that it cannot tell, as far as no server is needed for that: an empty plan starts none."""

from __future__ import annotations

from pathlib import Path

import zkmig
from tests.trees import Node, snapshot_of


def test_of_a_snapshot_the_scope_is_not_known() -> None:
    """So nobody takes for proven that the plan's epoch is the next, or that nothing holds the scope."""
    tree = snapshot_of({"": Node(), "/a": Node(b"1")})
    found = zkmig.rehearse(zkmig.make_plan(tree, tree), tree)
    assert not found.stages
    assert any("epoch and holds, of which a snapshot does not tell" in sentence for sentence in found.not_rehearsed)


def test_of_an_empty_plan_nothing_is_kept(tmp_path: Path) -> None:
    """Nor is it said: no server was started, so that there are no files of it."""
    tree = snapshot_of({"": Node(), "/a": Node(b"1")})
    found = zkmig.rehearse(zkmig.make_plan(tree, tree), tree, keep=tmp_path / "kept")
    assert found.kept == ""
    assert not (tmp_path / "kept").exists()
