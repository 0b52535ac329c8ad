"""A hold keeps new epochs out; who says so waits for its release, everybody else is told.

Method: a hold is put into the record by kazoo, and released by it as soon as the engine says that it waits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import zkmig
from tests.scopes import AFTER, BEFORE, ME, Site, assert_is, assert_went_back
from tests.test_history import NEXT
from zkmig.apply.options import Options
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.record import Held as Hold
from zkmig.epoch.record import encode
from zkmig.errors import Held, Stopped
from zkmig.stop import StopRequest

HOLD = Hold("the disks are changed", "monday's shift", 1.5)


def set_hold(site: Site, hold: Hold | None) -> None:
    site.kazoo.set(site.names.record, encode(dataclasses.replace(site.record(), held=hold)))


def heard(act: Callable[[], object]) -> tuple[list[str], Callable[[str], None]]:
    """What was said of waiting, and a `say` that acts when it is."""
    said: list[str] = []

    def say(sentence: str) -> None:
        if sentence.startswith("waiting for the hold"):
            said.append(sentence)
            act()

    return said, say


def test_who_waits_goes_on_once_it_is_released(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    set_hold(site, HOLD)
    said, say = heard(lambda: set_hold(site, None))
    site.apply(sealed, options=Options("never", say=say), how=TakeOver(wait=True))
    assert_is(site.look(), NEXT)
    (sentence,) = said
    assert sentence.startswith("waiting for the hold of monday's shift to be released: the scope is held by")
    assert sentence.endswith(": the disks are changed")


def test_who_does_not_wait_is_refused(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    set_hold(site, HOLD)
    zxid = site.kazoo.get(site.names.owner)[1].mzxid
    for dry_run, how in ((False, TakeOver()), (True, TakeOver(wait=True))):
        with pytest.raises(Held, match="monday's shift") as caught:
            site.apply(sealed, how=how, dry_run=dry_run)
        assert caught.value.exit_code == 3
        assert "--wait" in caught.value.hint
    assert site.kazoo.get(site.names.owner)[1].mzxid == zxid


def test_one_hold_after_the_other_is_waited_for(site: Site) -> None:
    """The second is there as soon as the first is gone: it is told of, too."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    set_hold(site, HOLD)
    follows = iter([dataclasses.replace(HOLD, reason="and the fans"), None])
    said, say = heard(lambda: set_hold(site, next(follows)))
    site.apply(sealed, options=Options("never", say=say), how=TakeOver(wait=True))
    assert [sentence.rpartition(": ")[2] for sentence in said] == ["the disks are changed", "and the fans"]


def test_waiting_ends_when_asked_to_stop(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    set_hold(site, HOLD)
    stop = StopRequest()
    _, say = heard(lambda: stop.request("asked to", 143))
    with pytest.raises(Stopped):
        site.apply(sealed, options=Options("never", say=say), how=TakeOver(wait=True), stop=stop)
    assert site.record().epoch == 0


@pytest.mark.parametrize("wait", [False, True])
def test_a_revert_waits_too(site: Site, wait: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    site.init(BEFORE)
    before = site.look()
    site.apply(site.plan(NEXT))
    set_hold(site, HOLD)
    said, say = heard(lambda: set_hold(site, None))
    where = f"zk://{site.server.hosts}"
    if not wait:
        with pytest.raises(Held, match="monday's shift"):
            zkmig.revert(where, 1, site.names.scope, auth=[ME], say=say)
        return
    zkmig.revert(where, 1, site.names.scope, auth=[ME], wait=True, say=say)
    assert len(said) == 1
    assert_went_back(before, site.look())


@pytest.mark.parametrize("way", ["resume", "rollback"])
def test_who_goes_on_under_a_hold_is_told(site: Site, way: str) -> None:
    """An epoch that is under way has to end, but not without a word of whoever holds the scope."""
    site.init(BEFORE)
    plan = site.plan(AFTER)
    site.leave_open(plan, 5)
    set_hold(site, HOLD)
    said: list[str] = []
    options = Options("never", say=said.append)
    if way == "resume":
        site.resume(plan, options=options)
    else:
        site.rollback(options=options)
    assert [one for one in said if HOLD.told() in one and "goes on all the same" in one]
    assert site.record().held == HOLD
