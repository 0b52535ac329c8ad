"""Documentation that is drawn from code must equal it: compare docs/protocol.md with the transition table."""

from __future__ import annotations

from pathlib import Path

from zkmig.epoch.transitions import IMAGES, diagram, table

DOCS = Path(__file__).parent.parent / "docs"


def test_protocol_page_shows_the_table_and_diagram_that_the_code_uses() -> None:
    """Goal: the page cannot drift from the code. Method: look for the generated table and diagram in it, verbatim."""
    page = (DOCS / "protocol.md").read_text()
    assert table() in page
    assert diagram() in page


def test_protocol_page_names_the_image_shown_in_every_state() -> None:
    """Goal: no state without a documented view. Method: one row for each entry of IMAGES."""
    page = (DOCS / "protocol.md").read_text()
    for state, image in IMAGES.items():
        assert f"| {state.value} | {image.value} |" in page
