"""Documentation that is drawn from code must equal it: compare docs/protocol.md with the transition table."""

from __future__ import annotations

from pathlib import Path

from zkmig.epoch.transitions import IMAGES, diagram, table
from zkmig.plan import preflight
from zkmig.policy.leftout import NEVER

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


def test_fidelity_page_names_every_finding_and_what_is_never_carried() -> None:
    """Goal: no code of a finding without an explanation. Method: each is a string constant of the module, in a row."""
    page = (DOCS / "fidelity.md").read_text()
    codes = [value for name, value in vars(preflight).items() if name.isupper() and isinstance(value, str)]
    assert len(codes) > 10
    for code in codes:
        assert f"`{code}`" in page
    assert ", ".join(NEVER[:2]) in page
    for name in NEVER:
        assert name in page
