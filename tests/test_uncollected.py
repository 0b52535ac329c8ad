"""The cycle collector is off inside, and afterwards as it was: whatever is raised, nested, or in several threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from zkmig.uncollected import uncollected


@pytest.fixture(autouse=True, params=[True, False], ids=["was on", "was off"])
def before(request: pytest.FixtureRequest) -> Iterator[bool]:
    """How the process had it, for each test both ways; and as it was, in the end."""
    was_enabled = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was_enabled else gc.disable)()


def test_it_is_off_inside_and_then_as_it_was(before: bool) -> None:
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the inner one turned it on for the outer"
    assert gc.isenabled() == before


def test_an_error_leaves_it_as_it_was(before: bool) -> None:
    with pytest.raises(ZeroDivisionError), uncollected():
        raise ZeroDivisionError
    assert gc.isenabled() == before


def test_threads_that_overlap(before: bool) -> None:
    """Method: another thread comes in while this one is inside, and leaves last."""
    is_inside, may_leave = threading.Event(), threading.Event()

    def other() -> None:
        with uncollected():
            is_inside.set()
            assert may_leave.wait(10)

    thread = threading.Thread(target=other)
    with uncollected():
        thread.start()
        assert is_inside.wait(10)
    still_off = not gc.isenabled()
    may_leave.set()
    thread.join(10)
    assert still_off, "who left first turned it on for the other"
    assert gc.isenabled() == before
