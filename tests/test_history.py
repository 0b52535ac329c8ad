"""Each attempt at an epoch is told of, whatever became of it and whoever worked on it, and by notes that no crash parts
from the record.

Method: attempts brought to every end there is, by the engine on a real server; then the history, and the notes' bytes.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.interruptions import Interrupted, at, interrupt, when_said
from tests.program import Program, location
from tests.scopes import AFTER, BEFORE, ME, Site, settled
from zkmig.apply.masking import kept_masks
from zkmig.apply.options import Applied, Options
from zkmig.epoch.attempts import NOTE_BYTES_MAX, Attempt, AttemptNote, Fate, PutBack, read_attempts
from zkmig.epoch.owner import TakeOver
from zkmig.epoch.record import ConflictNote, Owner
from zkmig.errors import Conflict, StalePlan
from zkmig.model.acl import OPEN_ACL
from zkmig.policy.captures import any_of
from zkmig.wire.requests import Multi, SetData

# What ME alone may read and write, before and after.
NEXT = settled({path: node for path, node in AFTER.items() if not path.startswith("/read-only")})
PLAIN = {path: node._replace(acl=OPEN_ACL) for path, node in BEFORE.items()}


def attempts(site: Site, is_owner: bool = False) -> list[Attempt]:
    return read_attempts(site.client(), site.names, site.record(), is_owner)


def fates(site: Site) -> list[Fate]:
    return [attempt.fate for attempt in attempts(site)]


def test_a_commit_in_batches_and_one_in_a_single_shot(site: Site) -> None:
    site.init(BEFORE)
    assert attempts(site) == []
    sealed = site.plan(NEXT)
    site.apply(sealed)
    site.apply(site.plan({**NEXT, "/one": BEFORE["/keep"]}), 2, options=Options(single_shot="require"))
    first, second = attempts(site)
    assert (first.fate, second.fate) == (Fate.COMMITTED, Fate.COMMITTED)
    assert (first.note.single_shot, second.note.single_shot) == (False, True)
    assert (first.note.epoch, first.note.attempt) != (second.note.epoch, second.note.attempt)
    assert first.note.plan_hash == sealed.hash
    assert (first.note.writes, first.note.batches) == (sealed.plan.writes, len(sealed.plan.batch_ends))
    assert first.note.journal_bytes > 1_000
    assert first.note.ended is not None
    assert first.note.ended >= first.note.began
    assert [owner.pid for owner in first.note.owners]
    assert first.is_kept


def test_a_rollback_and_its_number_tried_again(site: Site) -> None:
    """Two attempts at one number, apart by their random names; the first one's deviations are counted."""
    site.init(BEFORE)
    site.leave_open(site.plan(NEXT), 12)
    site.kazoo.set(site.path("/new/05"), b"foreign")
    site.rollback()
    site.kazoo.delete(site.path("/new"), recursive=True)
    site.apply(site.plan(NEXT))
    first, second = attempts(site)
    assert (first.note.epoch, second.note.epoch) == (1, 1)
    assert (first.fate, second.fate) == (Fate.ROLLED_BACK, Fate.COMMITTED)
    assert first.note.deviations == 2
    assert first.note.applied is not None
    assert 12 <= first.note.applied <= first.note.batches


def test_what_a_rollback_has_left_is_named_to_admins(site: Site, program: Program) -> None:
    """By the program, with the reason, until it is pruned. Others are told how many there are."""
    site.init(BEFORE)
    site.leave_open(site.plan(NEXT), 12)
    site.kazoo.set(site.path("/new/05"), b"foreign")
    left = site.rollback().deviations
    where = ("--at", location(site.server.hosts), "--scope", site.names.scope)
    auth = {"ZKMIG_AUTH": f"digest:{ME.secret.decode()}"}

    def shown(**env: str) -> tuple[int, list[str] | None, str]:
        (attempt,) = program("history", *where, "--json", env=env).succeeded().document["attempts"]
        named = attempt["left_as_found"]
        text = program("history", *where, env=env).succeeded().stdout
        return attempt["deviations"], named and sorted(one["path"] for one in named), text

    count, named, text = shown(**auth)
    assert (count, named) == (2, sorted(one.path for one in left))
    assert f"left as found: {site.path('/new')}" in text
    told_to_others = shown()
    program("prune", *where, env=auth).succeeded()
    for count, named, text in (told_to_others, shown(**auth)):
        assert (count, named) == (2, None)
        assert "2 paths left as found" in text
        assert "/new" not in text


def test_an_abort_says_why(site: Site) -> None:
    """A tree that changed while services were waited for; and a single shot that met somebody else's write."""
    site.init(BEFORE)
    say = when_said("draining", lambda: site.kazoo.set(site.path("/empty"), b"foreign"))
    with pytest.raises(StalePlan):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", say=say))
    sealed = site.plan({**BEFORE, "/change/01": BEFORE["/keep"]})
    client = site.client()

    def meddle(request: object) -> None:
        if isinstance(request, Multi) and any(op.path == site.path("/change/01") for op in request.operations):
            site.kazoo.set(site.path("/change/01"), b"foreign")

    client.before = meddle
    with pytest.raises(Conflict, match="/change/01"):
        site.apply(sealed, client=client, options=Options(single_shot="require"))
    stale, met = attempts(site)
    assert (stale.fate, met.fate) == (Fate.ABORTED, Fate.ABORTED)
    assert site.path("/empty") in stale.note.reason
    assert met.note.conflict is not None
    assert met.note.conflict.path == site.path("/change/01")
    last = site.record().last
    assert last is not None
    assert last.outcome == "aborted"
    assert site.path("/change/01") in last.reason


def test_under_way_then_a_conflict_then_every_owner(site: Site) -> None:
    """Begun by one, gone on with by a second, taken back by a third: all three are named, in this order."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 3)
    assert fates(site) == [Fate.UNDER_WAY]
    site.kazoo.set(site.path("/change/15"), b"foreign")
    with pytest.raises(Conflict):
        site.resume(sealed)
    (conflict,) = attempts(site)
    assert conflict.fate is Fate.CONFLICT
    assert conflict.note.conflict is not None
    site.rollback()
    (over,) = attempts(site)
    assert over.fate is Fate.ROLLED_BACK
    assert over.note.conflict == conflict.note.conflict
    assert [owner.token for owner in over.note.owners] == [1, 2, 3]


def test_a_journal_that_nobody_names_is_abandoned_once_its_owner_is_gone(site: Site) -> None:
    site.init(BEFORE)
    with pytest.raises(Interrupted):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", report=at("journal", 1, interrupt)))
    assert fates(site) == [Fate.JOURNAL]
    assert [attempt.fate for attempt in attempts(site, is_owner=True)] == [Fate.ABANDONED]
    site.apply(site.plan(NEXT))
    assert fates(site) == [Fate.ABANDONED, Fate.COMMITTED]


def closing(name: str) -> Callable[[Site], object]:
    return {
        "commit": lambda site: site.apply(site.plan(NEXT)),
        "single shot": lambda site: site.apply(
            site.plan({**PLAIN, "/one": BEFORE["/keep"]}), options=Options(single_shot="require")
        ),
        "rollback": lambda site: (site.leave_open(site.plan(NEXT), 3), site.rollback()),
        "abort": _left_preparing_and_given_up,
    }[name]


def _left_preparing_and_given_up(site: Site) -> None:
    with pytest.raises(Interrupted):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", say=when_said("draining", interrupt)))
    site.rollback()


@pytest.mark.parametrize("name", ["commit", "single shot", "rollback", "abort"])
def test_the_note_ends_in_the_very_transaction_that_ends_the_attempt(site: Site, name: str) -> None:
    """The home's mzxid is one at which the record was written too; so no crash can part the two."""
    site.init(PLAIN)
    seen: list[int] = []
    site.kazoo.DataWatch(site.names.record, lambda _data, stat: seen.append(stat.mzxid) if stat else None)
    closing(name)(site)
    (attempt,) = attempts(site)
    site.kazoo.sync(site.root)
    stats = [site.kazoo.exists(path) for path in (site.names.record, f"{site.names.epochs}/1-{attempt.note.attempt}")]
    record, home = [stat.mzxid for stat in stats if stat is not None]
    assert home in {*seen, record}
    assert attempt.fate in (Fate.COMMITTED, Fate.ROLLED_BACK, Fate.ABORTED)


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b'{"epoch": 1}', b'{"epoch": 1, "attempt": "x", "fate": 7}'])
def test_a_note_that_is_none_stops_nothing(site: Site, data: bytes | None) -> None:
    """As homes were before there were notes, or damaged: the record tells the end, and going on works."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 3)
    home = f"{site.names.epochs}/{site.kazoo.get_children(site.names.epochs)[0]}"
    site.kazoo.set(home, data)
    assert fates(site) == [Fate.UNDER_WAY]
    site.resume(sealed)
    site.kazoo.set(home, data)
    assert fates(site) == [Fate.COMMITTED]


def test_a_home_that_is_gone_does_not_keep_an_attempt_from_ending(site: Site) -> None:
    """In PREPARING, with its journal deleted by hand: it can still be given up."""
    site.init(BEFORE)
    with pytest.raises(Interrupted):
        site.apply(site.plan(NEXT), options=Options(single_shot="never", say=when_said("draining", interrupt)))
    home = f"{site.names.epochs}/{site.kazoo.get_children(site.names.epochs)[0]}"
    site.kazoo.delete(home, recursive=True)
    site.rollback()
    assert site.record().attempt is None
    assert attempts(site) == []


def test_a_plan_that_somebody_else_committed_meanwhile_is_already_applied(site: Site) -> None:
    """One migrator waits for its turn, while another commits the very plan: that is done, not the wrong epoch."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    waiting = threading.Event()
    results: list[Applied] = []

    def say(sentence: str) -> None:
        if sentence.startswith("waiting for the migrator"):
            waiting.set()

    options = Options(single_shot="never", say=say)
    other = threading.Thread(
        target=lambda: results.append(site.apply(sealed, how=TakeOver(wait=True), options=options))
    )

    def let_the_other_wait() -> None:
        other.start()
        assert waiting.wait(30)

    site.apply(sealed, options=Options(single_shot="never", report=at("write", 3, let_the_other_wait)))
    other.join(30)
    assert [result.already for result in results] == [True]
    assert fates(site) == [Fate.COMMITTED]


# -- the note as bytes ------------------------------------------------------------------------------------------------

NOTE = AttemptNote(3, "0badcafe", "a" * 64, 1.5, owners=(Owner(3, "host", 17, 1.5),), put_back=(PutBack("/a", 2),))


def test_a_note_comes_back_as_it_was_written() -> None:
    note = dataclasses.replace(
        NOTE, conflict=ConflictNote("/a", "verify", "why", 3, 1, 2, "f" * 32), fate=Fate.CONFLICT
    )
    assert AttemptNote.decode(note.encode()) == note
    fields = json.loads(note.encode()) | {"later": {"x": 1}}
    fields["owners"][0]["later"] = 1
    fields["conflict"]["later"] = 1
    assert AttemptNote.decode(json.dumps(fields).encode()) == note


def test_masks_of_a_note_mask_too_much_rather_than_too_little() -> None:
    """A note of an older zkmig has none; patterns that take too much room, or are none to us, mask every node."""
    some = ("/app/secrets/**", "/app/{name}/token")
    note = dataclasses.replace(NOTE, masks=some)
    back = AttemptNote.decode(note.encode())
    assert back == note
    assert kept_masks(back) == some
    fields = json.loads(note.encode())
    del fields["masks"]
    older = AttemptNote.decode(json.dumps(fields).encode())
    assert older is not None
    assert kept_masks(older) == ()
    many = AttemptNote.decode(dataclasses.replace(NOTE, masks=some * 20).encode())
    assert many is not None
    assert all(map(any_of(kept_masks(many)), ("/", "/app", "/anything/at/all")))
    assert kept_masks(dataclasses.replace(NOTE, masks=("/app/a", "/app/<later>/{"))) == ("/**",)


texts = st.text(max_size=3_000) | st.just("队" * 5_000) | st.just("\udcff" * 900)


@given(texts, texts, texts, texts, st.integers(0, 30), st.lists(texts, max_size=3))
def test_a_note_never_outgrows_its_room(
    path: str, reason: str, host: str, plan: str, owners: int, masks: list[str]
) -> None:
    note = dataclasses.replace(
        NOTE,
        plan_path=plan,
        reason=reason,
        conflict=ConflictNote(path, "verify", reason, 1),
        put_back=tuple(PutBack(path, number) for number in range(4)),
        masks=tuple(masks),
    )
    for token in range(owners):
        note = note.worked_on_by(Owner(token, host, 1, 0.0, plan))
    data = note.encode()
    assert len(data) <= NOTE_BYTES_MAX
    back = AttemptNote.decode(data)
    assert back is not None
    assert (back.epoch, back.attempt, back.plan_hash, back.fate) == (3, "0badcafe", "a" * 64, note.fate)
    assert back.owners[-1].token == note.owners[-1].token
    assert back.masks in (tuple(masks), ("/**",) if masks else ())


@given(st.binary(max_size=60))
def test_what_is_no_note_is_none(data: bytes) -> None:
    assert AttemptNote.decode(data) is None


def test_the_note_is_the_only_thing_that_a_take_over_adds(site: Site) -> None:
    """Nothing but its own home is written by who only takes an attempt over."""
    site.init(BEFORE)
    sealed = site.plan(NEXT)
    site.leave_open(sealed, 3)
    client = site.client()
    sent: list[str] = []

    def note(request: object) -> None:
        if isinstance(request, Multi):
            sent.extend(op.path for op in request.operations if isinstance(op, SetData))
            if any("/epochs/" in path and path.count("/") == 5 for path in sent):
                interrupt()

    client.before = note
    with pytest.raises(Interrupted):
        site.resume(sealed, client=client)
    assert [path.removeprefix(site.names.home).split("/")[1] for path in sent] == ["owner", "epochs"]
