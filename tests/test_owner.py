"""One writer: of any number of migrators at most one can write, whoever sleeps, is robbed, or outlives the scope.

Method: the old migrator is kept, and let go on after another has taken the scope; a checker compares tree and cursor,
read by kazoo, before and after. With a guard switched off, the same checker must find the violation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.interruptions import at, when_said
from tests.scopes import AFTER, BEFORE, Site, assert_is, assert_went_back
from tests.trees import Node
from zkmig.apply import rollback as rollbacks
from zkmig.apply.aclsteps import AclWrite
from zkmig.apply.following import next_commands
from zkmig.apply.forward import Options
from zkmig.apply.status import read_status
from zkmig.apply.verify import Deviation
from zkmig.cli.status import screen
from zkmig.epoch.journal import Journal
from zkmig.epoch.owner import Migrator, TakeOver, read_owner
from zkmig.epoch.pace import Steady
from zkmig.epoch.transitions import State
from zkmig.errors import NotOwner, NotPermitted, OtherIncarnation, Refused, ZkmigError
from zkmig.model.acl import OPEN_ACL
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.requests import Check, Create, Read, SetAcl, Write, WriteOp

STEAL = TakeOver(steal=True)


def take(site: Site, how: TakeOver | None = None, session_timeout_ms: int = 30_000) -> Migrator:
    client = site.client(session_timeout_ms=session_timeout_ms)
    return Migrator.take(client, site.names, how or TakeOver(), StopRequest())


# -- taking -----------------------------------------------------------------------------------------------------------


def test_while_one_lives_the_next_is_refused(site: Site) -> None:
    """It is told who that is; once the lock is given back, the scope is free."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    first = take(site)
    assert first.owner is not None
    for go_on in (lambda: site.apply(sealed), lambda: take(site)):
        with pytest.raises(NotOwner, match=str(first.owner.pid)):
            go_on()
    view = read_owner(site.client(), site.names)
    assert (view.alive, view.token, view.owner) == (True, first.token, first.owner)
    first.release()
    assert not read_owner(site.client(), site.names).alive
    site.apply(sealed)
    assert_is(site.look(), AFTER)


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"[" * 100_000,
        {"plan_path": [1]},
        {"plan_path": 1 << 70},
        {"since": []},
        {"since": 10**400},
        {"session_timeout_ms": math.inf},
        {"session_timeout_ms": 10**400},
    ],
)
def test_what_the_owner_says_of_itself_stops_nobody(site: Site, said: bytes | dict[str, object]) -> None:
    """Goal: it informs, so that what is none of it is not known, and all else goes on. Method: kazoo writes it."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    site.leave_open(sealed, 2)
    if isinstance(said, dict):
        fields = json.loads(site.kazoo.get(site.names.owner)[0] or b"")
        said = json.dumps(fields | said).encode()
    site.kazoo.set(site.names.owner, said)
    status = read_status(site.client(), site.names)
    assert 0 < status.owner.session_timeout_ms <= 30_000
    assert screen(status, next_commands(status, "zk://h"), time.time())
    site.resume(sealed)
    assert_is(site.look(), AFTER)


def test_the_lock_goes_with_the_session(site: Site) -> None:
    site.init(BEFORE)
    first = take(site)
    assert site.kazoo.exists(site.names.lock(first.token))
    first.client.close()
    assert not site.kazoo.exists(site.names.lock(first.token))
    assert take(site).token == first.token + 1


def test_whoever_waits_comes_when_the_first_is_done(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    first = take(site)
    options = Options("never", say=when_said("waiting for the migrator", first.release))
    site.apply(sealed, how=TakeOver(wait=True), options=options)
    assert_is(site.look(), AFTER)


def test_whoever_waits_takes_over_from_one_that_has_fallen_silent(site: Site) -> None:
    """Alive, but without progress for as long as its session lasts: the token makes it safe, not the lock."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    first = take(site, session_timeout_ms=1_000)
    said: list[str] = []
    site.apply(sealed, how=TakeOver(wait=True), options=Options("never", say=said.append))
    assert any("no progress" in sentence for sentence in said)
    with pytest.raises(NotOwner):
        first.write([])


def test_nothing_is_taken_over_only_to_be_refused(site: Site) -> None:
    """The silent one has begun an epoch meanwhile: the waiting apply is refused, and the scope left to its owner."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    first = take(site, session_timeout_ms=1_000)
    prepared = first.record.moved(
        "prepare", State.PREPARING, target_epoch=1, attempt="0badcafe", plan_hash="p", manifest_hash="m"
    )
    options = Options("never", say=when_said("waiting for the migrator", lambda: first.transition(prepared)))
    with pytest.raises(Refused, match="PREPARING"):
        site.apply(sealed, how=TakeOver(wait=True), options=options)
    assert first.write([]).failed_index is None


def test_stealing_does_not_wait_and_changes_nothing_but_the_token(site: Site) -> None:
    site.init(BEFORE)
    first = take(site)
    second = take(site, STEAL)
    assert second.token == first.token + 1
    assert second.record == first.record
    assert site.kazoo.exists(site.names.lock(first.token))


# -- the one that was robbed ------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Migrator], object]] = {
    "a write": lambda migrator: migrator.write([Create(migrator.names.home + "/stray", b"", OPEN_ACL)]),
    "an empty write": lambda migrator: migrator.write([]),
    "a transition": lambda migrator: migrator.transition(migrator.record.updated(epoch=7)),
    "a series": lambda migrator: migrator.write_series(
        lambda index: [Create(f"{migrator.names.home}/stray-{index}", b"", OPEN_ACL)], 0, 9, witness=0, pace=Steady(4)
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_no_write_of_the_robbed_one_lands(site: Site, write: Callable[[Migrator], object]) -> None:
    site.init(BEFORE)
    first = take(site)
    take(site, STEAL)
    before = site.kazoo.get_children(site.names.home), site.kazoo.get(site.names.record)
    with pytest.raises(NotOwner):
        write(first)
    assert (site.kazoo.get_children(site.names.home), site.kazoo.get(site.names.record)) == before


@pytest.mark.parametrize("end", ["resume", "rollback"])
@pytest.mark.parametrize("place", ["draining", 0, 9, "verifying"])
def test_a_migrator_that_wakes_up_after_another_has_finished_its_work(site: Site, place: str | int, end: str) -> None:
    """In the midst of its run everything is done by somebody else; it then stops at its first write."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    before = site.look()

    def finish() -> None:
        site.resume(sealed, how=STEAL) if end == "resume" else site.rollback(how=STEAL)

    if isinstance(place, int):
        options = Options("never", report=at("write", place, finish))
    else:
        options = Options("never", say=when_said(place, finish))
    with pytest.raises((NotOwner, NotPermitted)):  # what the others have left may shut it out even of looking
        site.apply(sealed, options=options)
    if end == "resume":
        assert_is(site.look(), AFTER)
    else:
        assert_went_back(before, site.look())
    assert (site.record().state, site.record().epoch) == (State.STABLE, int(end == "resume"))


def test_a_migrator_robbed_while_it_uploads_its_journal(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with pytest.raises(NotOwner):
        site.apply(sealed, options=Options("never", report=at("journal", 1, lambda: site.apply(sealed, how=STEAL))))
    assert_is(site.look(), AFTER)
    assert site.record().epoch == 1


def test_a_rollback_that_was_robbed(site: Site) -> None:
    site.init(BEFORE)
    before = site.look()
    site.leave_open(site.plan(AFTER), 12)
    with pytest.raises(NotOwner):
        site.rollback(options=Options(report=at("undo", 3, lambda: site.rollback(how=STEAL))))
    assert_went_back(before, site.look())


def test_an_epoch_that_came_meanwhile_is_safe_from_the_robbed_one(site: Site) -> None:
    """The same number again under another attempt: nothing of the first attempt reaches into it."""
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    other = BEFORE | {"/keep": Node(b"other")}

    def begin_anew() -> None:
        site.rollback(how=STEAL)
        site.apply(site.plan(other))

    with pytest.raises(NotOwner):
        site.apply(sealed, options=Options("never", report=at("write", 9, begin_anew)))
    assert_is(site.look(), other)
    assert site.record().epoch == 1


# -- checkers, and what they find with a guard switched off -----------------------------------------------------------


@contextmanager
def nothing_lands(site: Site) -> Iterator[None]:
    """The checker: whatever happens inside changes neither the tree, nor the record, nor any cursor."""

    def everything() -> object:
        applied = read_status(site.client(), site.names).batches_applied
        names = {name for name in site.kazoo.get_children(site.names.home) if not name.startswith("lock-")}
        return site.look(), site.kazoo.get(site.names.record), names, applied

    before = everything()
    yield
    assert everything() == before


def go_on_after_a_theft(site: Site) -> None:
    """A migrator is robbed between two batches, and the thief has read how far it came; then it goes on."""
    site.init(BEFORE)
    checks = nothing_lands(site)

    def rob() -> None:
        take(site, STEAL)
        checks.__enter__()

    try:
        site.apply(site.plan(AFTER), options=Options("never", report=at("write", 6, rob)))
    except ZkmigError:
        checks.__exit__(None, None, None)
        raise
    checks.__exit__(None, None, None)


def test_what_a_new_owner_has_read_is_final(site: Site) -> None:
    with pytest.raises(NotOwner):
        go_on_after_a_theft(site)


def test_without_the_owner_check_the_robbed_one_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: nothing else would have stopped it, and the checker sees it."""
    unguarded(monkeypatch, lambda names, _: names.owner)
    with pytest.raises(AssertionError):
        go_on_after_a_theft(site)


def unguarded(monkeypatch: pytest.MonkeyPatch, which: Callable[..., str]) -> None:
    """Replace one check of the guard's head by one that always holds; its place is kept."""
    head = Migrator.head

    def weakened(self: Migrator) -> tuple[WriteOp, ...]:
        path = which(self.names, self.record)
        return tuple(
            Check(self.names.registry, -1) if operation.path == path else operation for operation in head(self)
        )

    monkeypatch.setattr(Migrator, "head", weakened)


def write_after_a_new_beginning(site: Site) -> None:
    """The scope is deleted and created again, and taken as often: record and token have the same versions as before."""
    site.init(BEFORE)
    first = take(site)
    site.forget()
    site.init()
    second = take(site)
    assert (second.token, second.record_version) == (first.token, first.record_version)
    with nothing_lands(site):
        first.write([Create(site.names.home + "/stray", b"", OPEN_ACL)])


def test_nothing_survives_a_new_beginning(site: Site) -> None:
    with pytest.raises(OtherIncarnation):
        write_after_a_new_beginning(site)
    assert not site.kazoo.exists(site.names.home + "/stray")


def test_a_release_leaves_the_lock_of_a_new_beginning(site: Site) -> None:
    """Its name is the same, for tokens are counted anew: without the lock a living owner would look dead."""
    site.init(BEFORE)
    first = take(site)
    site.forget()
    site.init()
    second = take(site)
    assert second.token == first.token
    first.release()
    assert read_owner(site.client(), site.names).alive


def test_without_the_incarnation_check_a_write_survives_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: versions repeat within seconds [zookeeper-facts 14]."""
    unguarded(monkeypatch, lambda names, record: names.incarnation(record.incarnation))
    with pytest.raises(AssertionError):
        write_after_a_new_beginning(site)


def test_a_deleted_scope_stops_its_migrator(site: Site) -> None:
    site.init(BEFORE)
    sealed = site.plan(AFTER)
    with pytest.raises(OtherIncarnation):
        site.apply(sealed, options=Options("never", report=at("write", 3, site.forget)))


# -- setACL, which no guard can hold ----------------------------------------------------------------------------------


def tighten_after_a_theft(site: Site) -> None:
    """Just before its first setACL a migrator falls asleep; another takes everything back; then it wakes up."""
    site.init(BEFORE)
    before = site.look()
    client = site.client()

    def sleep(request: Read | Write) -> None:
        if isinstance(request, SetAcl):
            client.before = lambda _: None
            site.rollback(how=STEAL)

    client.before = sleep
    with pytest.raises(NotOwner):
        site.apply(site.plan(AFTER), client=client)
    assert_went_back(before, site.look())


def test_a_tightening_that_comes_too_late_fails(site: Site) -> None:
    tighten_after_a_theft(site)


def test_without_the_touch_of_every_acl_it_lands(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a rollback that restores only what it finds tightened leaves the door to the late one."""
    restores = rollbacks._acl_restores

    def only_tightened(client: Client, journal: Journal) -> tuple[list[AclWrite], list[Deviation]]:
        writes, foreign = restores(client, journal)
        untouched = {step.path for step in journal.acls}
        return [write for write in writes if write.path not in untouched], foreign

    monkeypatch.setattr(rollbacks, "_acl_restores", only_tightened)
    with pytest.raises(AssertionError):
        tighten_after_a_theft(site)
