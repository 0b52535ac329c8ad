"""What was evicted holds up no later epoch; what has come to life again under the new one does.

Method: between the commit and the settling of what was evicted, where a migrator may be paused for any time, the
evicted holder goes on under the new epoch; settling by czxid alone, which the holder keeps, must be noticed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

import zkmig
from tests.guards import Guarded, registration
from tests.scopes import AFTER, BEFORE, ME, Site
from zkmig.apply import forward
from zkmig.apply.drain import settle_evicted
from zkmig.apply.forward import Options
from zkmig.apply.holding import StillActing
from zkmig.epoch.owner import Migrator
from zkmig.errors import Refused

ALL_OF_THAT_BIRTH = 2**62  # a zxid that none has reached


def apply_evicting(site: Site, *names: str) -> None:
    site.apply(site.plan(AFTER), options=Options("never", evict=names))


def with_a_pause(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None], *, by_birth_alone: bool) -> None:
    """Between the commit and the settling this happens."""

    def settle(migrator: Migrator, before_commit: int) -> None:
        meanwhile()
        settle_evicted(migrator, ALL_OF_THAT_BIRTH if by_birth_alone else before_commit)

    monkeypatch.setattr(forward, "settle_evicted", settle)


@pytest.mark.parametrize("by_birth_alone", [False, True])
def test_an_action_admitted_after_the_commit_keeps_its_lease(
    site: Site, monkeypatch: pytest.MonkeyPatch, by_birth_alone: bool
) -> None:
    """Readers use their leases' nodes again."""
    site.init(BEFORE)
    part = [site.path("/change")]  # the rest is not all for this reader's eyes
    with zkmig.Reader(site.server.hosts, site.names.scope, part, control=site.names.control, auth=[ME]) as reader:
        first = reader.acting(reader.view(), max_seconds=60)
        first.__enter__()
        second: list[str] = []

        def meanwhile() -> None:
            first.__exit__(None, None, None)
            second.append(acting.enter_context(reader.acting(reader.view(fresh=True), max_seconds=60)).lease)

        with ExitStack() as acting:
            with_a_pause(monkeypatch, meanwhile, by_birth_alone=by_birth_alone)
            apply_evicting(site, *(f"acting/{name}" for name in site.kazoo.get_children(site.names.acting)))
            assert (site.kazoo.exists(second[0]) is None) == by_birth_alone


@pytest.mark.parametrize("by_birth_alone", [False, True])
def test_a_guard_that_runs_again_keeps_its_registration(
    site: Site, guarded: Guarded, monkeypatch: pytest.MonkeyPatch, by_birth_alone: bool
) -> None:
    site.init(BEFORE)
    guarded.start()
    guarded.await_up()

    def meanwhile() -> None:
        guarded.await_phase("running", "under epoch 1")

    with_a_pause(monkeypatch, meanwhile, by_birth_alone=by_birth_alone)
    apply_evicting(site, "guards/unit")
    if by_birth_alone:
        guarded.await_phase("running")  # robbed of its registration it ends its command, and registers anew
    else:
        assert not registration(site).stopped
        with pytest.raises((Refused, StillActing)):
            zkmig.remove(f"zk://{site.server.hosts}", site.names.scope, auth=[ME])


def test_a_dead_guard_that_was_evicted_is_remembered(site: Site, guarded: Guarded) -> None:
    """It holds up nobody any more, and the next guard of its name knows that an epoch was committed since it ran."""
    site.init(BEFORE)
    process = guarded.start("--after-commit", "stay-down")
    guarded.await_up()
    process.kill()
    process.wait()
    apply_evicting(site, "guards/unit")
    left = registration(site)
    assert (left.stopped, left.epoch) == (True, 0)
    assert "evicted" in left.why
    process = guarded.start("--after-commit", "stay-down")
    guarded.await_phase("down", "epoch 1 was committed")
    process.send_signal(signal.SIGUSR1)
    guarded.await_running()
