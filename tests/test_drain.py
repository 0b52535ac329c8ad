"""Before its first write a migration waits for whatever was admitted, and gives up in good order when that takes too
long.

Method: leases and registrations written by kazoo as readers and guards would; the tree looked at while the drain waits.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
from kazoo.security import make_digest_acl

from tests.interruptions import when_said
from tests.scopes import AFTER, BEFORE, Site, assert_is
from zkmig.apply.drain import DrainTimeout
from zkmig.apply.options import Options
from zkmig.apply.remove import remove_scope
from zkmig.epoch.leases import Lease
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.transitions import State
from zkmig.errors import Outcome
from zkmig.reader import Reader
from zkmig.stop import StopRequest
from zkmig.wire.requests import Multi, Read, Write

MINUTE = Lease("scaler", 60_000)


def guard(stopped: bool) -> bytes:
    return json.dumps({"format": 1, "unit": "scaler.service", "stopped": stopped}).encode()


def test_it_waits_for_a_lease_until_it_is_released(site: Site) -> None:
    """Meanwhile the scope is PREPARING and its tree untouched; afterwards the lease is removed."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    lease = site.names.acting + "/one"
    site.kazoo.create(lease, MINUTE.encode())
    waited: list[State] = []

    def release() -> None:
        assert_is(site.look(), BEFORE)
        waited.append(site.record().state)
        site.kazoo.set(lease, Lease("scaler", 60_000, released=True).encode())

    site.apply(sealed, options=Options("never", say=when_said("waiting for acting/one", release)))
    assert waited == [State.PREPARING]
    assert_is(site.look(), AFTER)
    assert not site.kazoo.exists(lease)


def test_it_waits_for_a_guard_until_its_process_is_down(site: Site) -> None:
    site.init(BEFORE)
    registration = site.names.guards + "/host.scaler"
    site.kazoo.create(registration, guard(stopped=False))

    def stop() -> None:
        site.kazoo.set(registration, guard(stopped=True))

    site.apply(site.plan(AFTER), options=Options("never", say=when_said("waiting for guards/host.scaler", stop)))
    assert_is(site.look(), AFTER)
    assert site.kazoo.exists(registration)


@pytest.mark.parametrize("single_shot", ["never", "auto"])
@pytest.mark.parametrize("blocker", ["lease", "guard", "lease that may not be read"])
def test_past_its_deadline_it_aborts(site: Site, blocker: str, single_shot: str) -> None:
    """Nothing was written, the scope is STABLE again and the blocker named; it is left as it is."""
    site.init(BEFORE)
    sealed = site.plan(BEFORE | {"/keep": AFTER["/null"]})
    path = site.names.guards + "/host.scaler" if blocker == "guard" else site.names.acting + "/one"
    acl = [make_digest_acl("eve", "drops", all=True)] if "may not" in blocker else None
    data = guard(stopped=False) if blocker == "guard" else MINUTE.encode()
    site.kazoo.create(path, data, acl=acl)
    with pytest.raises(DrainTimeout, match=f": {path.removeprefix(site.names.home)[1:]} ") as caught:
        site.apply(sealed, options=Options(single_shot, drain_timeout_s=0.2))
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert site.kazoo.exists(path)
    assert_is(site.look(), BEFORE)
    record = site.record()
    assert (record.state, record.epoch, record.attempt) == (State.STABLE, 0, None)
    assert record.last is not None
    assert record.last.outcome == "aborted"
    site.kazoo.add_auth("digest", "eve:drops")
    site.kazoo.delete(path)
    site.apply(sealed, options=Options(single_shot))
    assert site.record().epoch == 1


@pytest.mark.parametrize("directory", ["acting", "guards"])
def test_what_a_newer_zkmig_has_left_blocks(site: Site, directory: str) -> None:
    """It may well be an action or a process, whatever else it says."""
    site.init(BEFORE)
    path = f"{site.names.home}/{directory}/newer"
    site.kazoo.create(path, b'{"format": 9}')
    with pytest.raises(DrainTimeout, match=f"{directory}/"):
        site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2))


def test_what_is_no_lease_does_not_block(site: Site) -> None:
    """Only direct, well-formed children count: junk must not hold up a migration for ever."""
    site.init(BEFORE)
    for number, data in enumerate(
        (b"", b"junk", b"[]", b'{"format": 1}', b'{"format": 0, "max_ms": 5, "reader": "x"}')
    ):
        site.kazoo.create(f"{site.names.acting}/{number}", data)
        site.kazoo.create(f"{site.names.guards}/{number}", data)
    site.kazoo.create(f"{site.names.acting}/0/nested", MINUTE.encode())
    site.apply(site.plan(AFTER), options=Options("never", drain_timeout_s=0.2))
    assert_is(site.look(), AFTER)


def test_a_lease_that_is_taken_up_again_holds_up_the_end_of_a_scope(site: Site) -> None:
    """Actions are admitted until the scope is gone. Method: a reader takes its released lease again just before it is
    removed along with the scope; the removal then waits for that action, and the scope stays."""
    site.init(BEFORE)
    client = site.client()
    remove = partial(
        remove_scope, client, site.names, options=Options(drain_timeout_s=0.2), take_over=TakeOver(), stop=StopRequest()
    )
    with Reader(site.kazoo, site.names.scope) as reader:
        with reader.acting(reader.view()) as token:
            lease = token.lease
        again = reader.acting(reader.view())

        def act(request: Read | Write) -> None:
            deleted = [each.path for each in request.operations] if isinstance(request, Multi) else []
            if lease in deleted and client.before is act:
                client.before = lambda _: None
                assert again.__enter__().lease == lease

        client.before = act
        with pytest.raises(DrainTimeout, match=lease.removeprefix(site.names.home)[1:]):
            remove()
        assert site.record().state is State.STABLE
        again.__exit__(None, None, None)
    remove()
    assert not site.kazoo.exists(site.names.home)
