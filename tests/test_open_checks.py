"""A view never goes back, also not over what others wrote between the last look at a plan's paths and the opening.

Method: a plain client writes at that very moment, and a reader looks before and after; what was shown once is shown on,
nothing was written by the migration, and the operator is told. Negative control: without the checks in the opening
multi the reader sees the older value again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.scopes import AFTER, BEFORE, Site
from zkmig.apply import forward
from zkmig.apply.forward import Forward
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict
from zkmig.plan.plan import Limits
from zkmig.reader import Reader
from zkmig.wire.requests import Check

FOREIGN = b"foreign"
WRITTEN, DELETED, OF_ACL = "/change/05", "/gone/03", "/turned"  # the last one's data is none of the plan's business


@pytest.fixture
def reader(site: Site) -> Iterator[Reader]:
    with Reader(site.kazoo, site.names.scope) as one:
        yield one


def looking(
    site: Site, reader: Reader, relative: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[tuple[State, bytes | None]]]:
    """Somebody writes to the path when the epoch is about to be opened; what the reader saw of it then and later."""
    path, seen = site.path(relative), list[tuple[State, bytes | None]]()
    open_epoch = Forward._open

    def look() -> None:
        view = reader.view(fresh=True)
        seen.append((view.seen.record.state, view[path].data))

    def open_late(self: Forward) -> None:
        site.kazoo.set(path, FOREIGN)
        look()
        open_epoch(self)
        look()

    monkeypatch.setattr(Forward, "_open", open_late)

    def all_seen() -> list[tuple[State, bytes | None]]:
        look()
        return seen

    return all_seen


@pytest.mark.parametrize("relative", [WRITTEN, DELETED, OF_ACL])
def test_a_late_foreign_write_is_shown_on(
    site: Site, reader: Reader, relative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opening is refused; the scope is at rest again as it was, with their value."""
    site.init(BEFORE)
    plan = site.plan(AFTER, limits=Limits())
    seen = looking(site, reader, relative, monkeypatch)
    with pytest.raises(Conflict, match="nothing was written") as caught:
        site.apply(plan)
    assert caught.value.where == site.path(relative)
    assert seen() == [(State.PREPARING, FOREIGN), (State.STABLE, FOREIGN)]
    last = site.record().last
    assert last is not None
    assert last.outcome == "aborted"


def test_without_the_checks_a_view_goes_back(site: Site, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the reader that has seen the foreign value is shown the older one while the epoch is open."""

    def none_fits(_checks: object, _room: int) -> list[Check]:
        return []

    site.init(BEFORE)
    plan = site.plan(AFTER, limits=Limits())
    monkeypatch.setattr(forward, "fitting", none_fits)
    seen = looking(site, reader, WRITTEN, monkeypatch)
    with pytest.raises(Conflict, match="stopped before batch"):
        site.apply(plan)
    first, second, *_ = seen()
    assert first == (State.PREPARING, FOREIGN)
    assert second == (State.OPEN, b"old" * 5)
