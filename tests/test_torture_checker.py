"""The checker of the torture runs finds what it must, and nothing else.

Method: histories made by hand. For each rule one that breaks it, and a near miss that does not.
"""

from __future__ import annotations

import json

import pytest

from tests.torture.made import (
    APART,
    ATTEMPT,
    FOREIGN,
    HOME,
    MIGRATOR,
    OPEN_ACL,
    OPERATOR,
    READER,
    RIVAL,
    TIGHT_ACL,
    WRITER,
    Story,
)
from tests.torture.txnlog import CONTAINER_OWNER, AclRow, AclRows, Check, Create, Delete
from tests.torture.violation import Findings


@pytest.fixture
def story() -> Story:
    return Story()


def only(findings: Findings, rule: str) -> None:
    assert findings.rules == {rule}, findings.violations


def test_a_sound_migration_breaks_nothing(story: Story) -> None:
    story.view()
    story.plan()
    story.prepare()
    story.view()
    before = story.image()
    story.open()
    story.first_batch()
    story.view(before)
    story.second_batch()
    story.view(before)
    story.commit()
    story.view()
    found = story.check()
    assert found.violations == []
    assert found.residues == []
    assert found.figures.items() >= {
        "views": 5, "views of an open epoch": 2, "batches": 2, "commits": 1, "migration transactions": 8,
        "guards": 8, "znodes judged at a commit": 5, "ACLs judged after a commit": 5, "ACLs of creates judged": 1,
        "paths of a plan that a commit checked": 0,
    }.items()  # fmt: skip


# -- views ------------------------------------------------------------------------------------------------------------


def test_a_view_of_live_nodes_while_the_epoch_is_open(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.view()
    only(story.check(), "torn-view")


def test_a_view_that_mixes_one_node(story: Story) -> None:
    before = story.image()
    story.prepare()
    story.open()
    story.first_batch()
    story.view({**before, "/app/a": story.image()["/app/a"]})
    only(story.check(), "torn-view")


def test_a_view_before_the_batch_that_shows_what_will_be(story: Story) -> None:
    """What the attempt changes later counts from its beginning."""
    before = story.image()
    story.prepare()
    story.open()
    moved = {**before, "/app/gone": before["/app/gone"]._replace(data=b"other")}
    story.view(moved)
    story.first_batch()
    story.second_batch()
    story.commit()
    only(story.check(), "torn-view")


def test_a_parent_that_shows_children_that_came_with_a_batch(story: Story) -> None:
    before = story.image()
    story.prepare()
    story.open()
    story.first_batch()
    story.view({**before, "/app": story.image()["/app"]})
    only(story.check(), "torn-view")


def test_a_foreign_change_beside_the_plan_may_be_seen_or_not_within_the_window(story: Story) -> None:
    before = story.image()
    story.plan()
    story.prepare()
    first = story.open()
    story.first_batch()
    story.txn(FOREIGN, story.write("/app/b", b"foreign"))
    live = story.image()
    story.view({**before, "/app/b": live["/app/b"]}, who="late")
    story.view(before, zxid_first=first, who="early")
    assert story.rules() == set()
    story.view(before, who="stale")
    only(story.check(), "torn-view")


def test_a_foreign_change_in_stable_must_be_seen_after_the_window(story: Story) -> None:
    before, first = story.image(), story.tree.zxid
    story.txn(FOREIGN, story.write("/app/b", b"foreign"))
    story.view(before, zxid_first=first, who="early")
    assert story.rules() == set()
    story.view(before, who="stale")
    only(story.check(), "torn-view")


def test_the_old_image_after_the_commit(story: Story) -> None:
    before = story.image()
    story.migrate()
    story.view(before)
    only(story.check(), "torn-view")


def test_churn_is_told_row_by_row(story: Story) -> None:
    before, first = story.image(), story.tree.zxid
    story.txn(FOREIGN, story.write(f"{APART}/n", b"1"))
    story.view(before, zxid_first=first, who="early")
    assert story.rules() == set()
    story.view(before, who="stale")
    only(story.check(), "torn-view")


def test_a_kept_view_begins_where_the_one_before_ended(story: Story) -> None:
    first, before = story.tree.zxid, story.image()
    story.txn(FOREIGN, story.write("/app/b", b"1"))
    story.view(zxid_first=first)
    story.txn(FOREIGN, story.write("/app/a", b"1"))
    story.view({**story.image(), "/app/b": before["/app/b"]}, zxid_first=first)
    only(story.check(), "torn-view")


def test_an_older_view(story: Story) -> None:
    story.view(zxid=story.tree.zxid)
    story.view(zxid=story.tree.zxid - 1, zxid_first=story.tree.zxid - 1)
    assert "older-view" in story.rules()


def test_an_older_epoch(story: Story) -> None:
    story.migrate()
    story.view()
    story.view(epoch=0)
    assert story.rules() == {"older-view", "record-mismatch"}


def test_an_older_view_of_another_reader_is_none(story: Story) -> None:
    story.view(who="one")
    zxid, image = story.tree.zxid, story.image()
    story.txn(FOREIGN, story.write("/app/b", b"1"))
    story.view(who="one")
    story.view(image, who="other", zxid=zxid, zxid_first=zxid)
    assert story.rules() == set()


def test_a_view_of_a_record_that_was_not_there(story: Story) -> None:
    story.view(record_version=7)
    only(story.check(), "record-mismatch")


def test_a_view_of_an_empty_scope(story: Story) -> None:
    story.move(OPERATOR, state="EMPTY")
    story.view()
    assert "view-without-image" in story.rules()


# -- writes -----------------------------------------------------------------------------------------------------------


def test_a_batch_after_the_token_was_bumped(story: Story) -> None:
    story.prepare()
    story.open()
    story.take(RIVAL)
    story.first_batch(MIGRATOR)
    only(story.check(), "dead-token")


def test_a_batch_before_the_token_was_bumped(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch(MIGRATOR)
    story.take(RIVAL)
    story.second_batch(RIVAL)
    story.commit(RIVAL)
    assert story.rules() == set()


@pytest.mark.parametrize("name", ["epochs/1-aaaa/undo", "acting/x"])
def test_a_journal_or_a_drain_under_a_dead_token(story: Story, name: str) -> None:
    story.take(MIGRATOR)
    story.txn(MIGRATOR, story.create(ATTEMPT))
    story.take(RIVAL)
    story.txn(MIGRATOR, story.create(f"{HOME}/{name}"))
    only(story.check(), "dead-token")


def test_a_lock_is_given_back_after_the_token_was_bumped(story: Story) -> None:
    story.take(MIGRATOR)
    story.take(RIVAL)
    story.txn(MIGRATOR, Delete(f"{HOME}/lock-1"))
    assert story.rules() == set()


def test_a_zombie_of_a_control_plane_that_was_created_again(story: Story) -> None:
    story.prepare()
    story.open()
    for path in sorted(path for path in story.tree.below(HOME) if path in story.tree.now)[::-1]:
        story.txn(OPERATOR, Delete(path))
    story.begin_scope("inc2")
    for path in (ATTEMPT, f"{ATTEMPT}/cursor"):
        story.txn(OPERATOR, story.create(path))
    story.first_batch()
    assert "dead-token" in story.rules()


def test_a_token_of_another_incarnation(story: Story) -> None:
    """The owner's node survived, the record is another one."""
    story.take(MIGRATOR)
    story.move(OPERATOR, incarnation="inc2")
    story.txn(MIGRATOR, story.create(f"{HOME}/epochs/1-bbbb"))
    assert "dead-incarnation" in story.rules()


def test_somebody_else_writes_the_record(story: Story) -> None:
    story.move(FOREIGN, state="STABLE")
    only(story.check(), "unowned-write")


def test_somebody_else_deletes_the_control_plane(story: Story) -> None:
    """That is an operator's right."""
    story.txn(OPERATOR, Delete(f"{HOME}/epoch"))
    assert story.rules() == set()


def test_a_late_set_acl_is_conceded_until_the_next_owner_was_there(story: Story) -> None:
    story.prepare()
    story.open()
    story.take(RIVAL)
    story.txn(MIGRATOR, story.set_acl("/app/acl"))
    found = story.check()
    assert (found.rules, [residue.rule for residue in found.residues]) == (set(), ["late-set-acl"])
    story.txn(RIVAL, story.set_acl("/app/acl"))
    story.txn(MIGRATOR, story.set_acl("/app/acl"))
    only(story.check(), "dead-token")


def test_a_late_set_acl_after_the_epoch(story: Story) -> None:
    story.prepare()
    story.open()
    story.take(RIVAL)
    story.move(RIVAL, state="ROLLING_BACK", cursor=0)
    story.move(RIVAL, state="STABLE", attempt=None)
    story.txn(MIGRATOR, story.set_acl("/app/acl"))
    only(story.check(), "dead-token")


@pytest.mark.parametrize("others_were_there", [False, True])
def test_a_late_set_acl_of_a_control_plane_that_is_gone(story: Story, others_were_there: bool) -> None:
    """Conceded until somebody else has set that ACL."""
    story.take(MIGRATOR)
    for path in sorted(path for path in story.tree.below(HOME) if path in story.tree.now)[::-1]:
        story.txn(OPERATOR, Delete(path))
    story.begin_scope("inc2")
    if others_were_there:
        story.txn(FOREIGN, story.set_acl("/app/acl"))
    story.txn(MIGRATOR, story.set_acl("/app/acl"))
    assert story.rules() == ({"dead-token"} if others_were_there else set())
    assert story.residues() == (set() if others_were_there else {"late-set-acl"})


def test_a_write_before_the_epoch_is_open(story: Story) -> None:
    story.prepare()
    story.first_batch()
    only(story.check(), "write-outside-epoch")


def test_a_single_shot_is_a_write_in_the_transaction_that_commits(story: Story) -> None:
    story.plan()
    story.prepare()
    ops = (story.write("/app/a", b"new"), story.create("/app/new", b"born"), Delete("/app/gone"))
    story.move(MIGRATOR, *ops, state="STABLE", epoch=1, attempt=None)
    assert story.rules() == set()


def test_a_batch_that_moves_no_cursor(story: Story) -> None:
    story.prepare()
    story.open()
    story.txn(MIGRATOR, story.write("/app/a", b"new"), story.create("/app/new"))
    only(story.check(), "batch-without-cursor")


def test_an_undo_that_moves_no_cursor(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.txn(MIGRATOR, story.write("/app/a", b"/app/a"), Delete("/app/new"))
    story.move(MIGRATOR, state="STABLE", attempt=None)
    only(story.check(), "undo-without-cursor")


def test_a_batch_that_moves_the_cursor_of_another_attempt(story: Story) -> None:
    story.prepare()
    story.open()
    other = f"{HOME}/epochs/1-bbbb"
    for path in (other, f"{other}/cursor"):
        story.txn(MIGRATOR, story.create(path))
    ops = (story.write(f"{other}/cursor", None), story.write(f"{ATTEMPT}/cursor", None), story.write("/app/a", b"new"))
    story.txn(MIGRATOR, *ops)
    only(story.check(), "other-attempt")


def test_a_path_in_two_batches(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.batch(MIGRATOR, story.write("/app/a", b"newer"))
    only(story.check(), "path-written-twice")


def test_a_batch_that_is_not_the_one_planned(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.second_batch()
    only(story.check(), "batch-other-than-planned")


def test_a_counter_that_is_raised_is_no_path_of_a_batch(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    raising = (story.create("/app/b/x"), Delete("/app/b/x"))
    story.batch(MIGRATOR, story.write("/app/a", b"new"), story.create("/app/new", b"born"), *raising)
    story.second_batch()
    story.commit()
    assert story.rules() == set()


def test_a_commit_before_the_last_batch(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.commit()
    only(story.check(), "commit-before-the-end")


@pytest.mark.parametrize(
    "fields", [{"state": "OPEN"}, {"epoch": 1}, {"state": "ROLLING_BACK"}, {"state": "STABLE", "epoch": -1}]
)
def test_a_step_that_the_table_does_not_have(story: Story, fields: dict[str, object]) -> None:
    story.take(MIGRATOR)
    story.move(MIGRATOR, **fields)
    only(story.check(), "transition")


def test_a_note_in_the_record_is_no_step(story: Story) -> None:
    story.take(MIGRATOR)
    story.move(MIGRATOR, conflict={"reason": "maintenance"})
    assert story.rules() == set()


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_write_behind_no_guard(story: Story, is_guarded: bool) -> None:
    """A second token of the same session: only the guard tells that a batch is not of the first."""
    story.prepare()
    story.open()
    story.take(MIGRATOR)
    story.txn(MIGRATOR, story.write(f"{ATTEMPT}/cursor", None), story.write("/app/a", b"new"), is_guarded=is_guarded)
    assert story.rules() == (set() if is_guarded else {"unguarded-write"})


@pytest.mark.parametrize("stray", [False, True])
def test_a_single_shot_of_other_paths_than_planned(story: Story, stray: bool) -> None:
    story.plan()
    story.prepare()
    ops = (story.write("/app/a", b"new"), story.create("/app/new", b"born"), Delete("/app/gone"))
    further = (story.write("/app/b", b"stray"),) if stray else ()
    story.move(MIGRATOR, *ops, *further, state="STABLE", epoch=1, attempt=None)
    assert story.rules() == ({"batch-other-than-planned", "not-the-wanted-tree"} if stray else set())


@pytest.mark.parametrize("again", ["/app/a", "/app/acl"])
def test_an_undo_of_what_is_not_to_be_undone(story: Story, again: str) -> None:
    """Of one path twice, or of a path that no batch has touched; with the data that it has anyway."""
    story.prepare()
    story.open()
    story.first_batch()
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.batch(MIGRATOR, story.write("/app/a", b"/app/a"), Delete("/app/new"), cursor="rcursor")
    assert story.rules() == set()
    story.batch(MIGRATOR, story.write(again, again.encode()), cursor="rcursor")
    only(story.check(), "undone-twice" if again == "/app/a" else "undo-of-nothing")


@pytest.mark.parametrize("when", ["open", "pending", "over", "of another attempt"])
def test_a_journal_is_deleted(story: Story, when: str) -> None:
    other = f"{HOME}/epochs/0-before"
    story.prepare()
    story.txn(MIGRATOR, story.create(other))
    story.open()
    story.first_batch()
    if when in ("pending", "over"):
        story.second_batch()
        pending = {"epoch": 1, "attempt": "aaaa", "acls": 1} if when == "pending" else None
        story.move(MIGRATOR, state="STABLE", epoch=1, attempt=None, pending=pending)
    story.txn(MIGRATOR, Delete(other if when == "of another attempt" else f"{ATTEMPT}/rcursor"))
    assert story.rules() == ({"journal-deleted"} if when in ("open", "pending") else set())


# -- actions ----------------------------------------------------------------------------------------------------------


def test_a_lease_that_lives_when_the_epoch_opens(story: Story) -> None:
    story.lease()
    story.prepare()
    story.open()
    only(story.check(), "lease-alive")


def test_a_lease_that_lives_at_a_single_shot(story: Story) -> None:
    story.lease()
    story.prepare()
    story.move(MIGRATOR, story.write("/app/a", b"new"), state="STABLE", epoch=1, attempt=None)
    only(story.check(), "lease-alive")


@pytest.mark.parametrize("how", ["released", "over", "evicted", "aborted"])
def test_a_lease_that_does_not_count(story: Story, how: str) -> None:
    story.lease()
    story.prepare()
    if how == "released":
        story.lease(released=True)
    if how == "over":
        story.time_ms += 1_000
    if how == "evicted":
        story.txn(MIGRATOR, story.create(f"{ATTEMPT}/evicted-1", EVICTED))
    if how == "aborted":
        story.move(MIGRATOR, state="STABLE", attempt=None)
    else:
        story.open()
    assert story.rules() == set()


def test_a_lease_that_is_removed_while_it_lives(story: Story) -> None:
    story.lease()
    story.prepare()
    story.txn(MIGRATOR, Delete(f"{HOME}/acting/l1"))
    only(story.check(), "lease-removed-alive")


EVICTED = json.dumps({"format": 1, "evicted": [{"entry": "acting/l1"}]}).encode()


def test_a_lease_that_another_attempt_has_evicted(story: Story) -> None:
    """That came to nothing, and its eviction with it."""
    story.lease()
    story.prepare()
    other = f"{HOME}/epochs/1-other"
    story.txn(MIGRATOR, story.create(other, b""), story.create(f"{other}/evicted-1", EVICTED))
    story.open()
    only(story.check(), "lease-alive")


@pytest.mark.parametrize("when", ["while under way", "once committed"])
def test_an_evicted_lease_is_removed(story: Story, when: str) -> None:
    story.lease()
    story.prepare()
    story.txn(MIGRATOR, story.create(f"{ATTEMPT}/evicted-1", EVICTED))
    removal = Delete(f"{HOME}/acting/l1")
    if when == "while under way":
        story.txn(MIGRATOR, removal)
        only(story.check(), "lease-removed-alive")
    else:
        write = story.write("/app/a", b"new")
        name = ATTEMPT.rpartition("-")[2]
        story.move(MIGRATOR, write, state="STABLE", epoch=1, attempt=None, committed_attempt=name)
        story.txn(MIGRATOR, removal)
        assert story.rules() == set()


def test_a_released_lease_is_removed(story: Story) -> None:
    story.lease(released=True)
    story.prepare()
    story.txn(MIGRATOR, Delete(f"{HOME}/acting/l1"))
    assert story.rules() == set()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_guarded_process_when_the_epoch_opens(story: Story, stopped: bool) -> None:
    entry = json.dumps({"format": 1, "unit": "u", "stopped": stopped}).encode()
    story.txn(READER, story.create(f"{HOME}/guards/host.u", entry))
    story.prepare()
    story.open()
    assert story.rules() == (set() if stopped else {"guard-running"})


@pytest.mark.parametrize("in_time", [False, True])
def test_an_admission(story: Story, in_time: bool) -> None:
    if not in_time:
        story.prepare()
    token = story.lease()
    story.event("action", "reader", phase="admitted", token=token, epoch=0, lease=f"{HOME}/acting/l1", deadline_t=0.0)
    assert story.rules() == (set() if in_time else {"admitted-outside-stable"})


def test_an_effect_while_the_epoch_is_open(story: Story) -> None:
    token = story.lease(released=True)
    story.prepare()
    story.effect(0, token)
    assert story.rules() == set()
    story.open()
    story.effect(0, token)
    only(story.check(), "effect-during-migration")


def test_an_effect_under_a_view_of_the_epoch_before(story: Story) -> None:
    token = story.lease(released=True)
    story.migrate()
    story.effect(0, token)
    only(story.check(), "effect-under-another-epoch")


def test_an_effect_that_was_paused_after_the_token_was_asked(story: Story) -> None:
    token = story.lease(released=True)
    story.migrate()
    story.effect(0, token, late_ms=5_000)
    assert story.rules() == set()
    assert story.residues() == {"paused-before-effect"}


# -- foreign writes ---------------------------------------------------------------------------------------------------


def test_a_batch_over_a_foreign_value(story: Story) -> None:
    story.plan()
    story.txn(FOREIGN, story.write("/app/a", b"foreign"))
    story.prepare()
    story.open()
    story.first_batch()
    story.second_batch()
    story.commit()
    assert {"overwrote-foreign", "foreign-write-lost"} <= story.rules()


def test_a_foreign_value_from_before_the_plan(story: Story) -> None:
    story.txn(FOREIGN, story.write("/app/a", b"foreign"))
    story.migrate()
    assert story.rules() == set()


def test_a_foreign_value_that_stays_and_is_reported(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.first_batch()
    story.txn(FOREIGN, story.write("/app/a", b"foreign"))
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    note = json.dumps([["/app/a", "written by somebody else"]]).encode()
    deviation = story.create(f"{ATTEMPT}/deviation-0", note)
    story.batch(MIGRATOR, Delete("/app/new"), deviation, cursor="rcursor")
    story.move(MIGRATOR, state="STABLE", attempt=None)
    assert story.rules() == set()


def test_an_undo_over_a_foreign_value(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.txn(FOREIGN, story.write("/app/a", b"foreign"))
    story.roll_back()
    assert story.rules() == {"overwrote-foreign", "foreign-write-lost"}


def test_a_foreign_delete_that_is_undone_in_silence(story: Story) -> None:
    story.prepare()
    story.open()
    story.txn(FOREIGN, Delete("/app/gone"))
    story.batch(MIGRATOR, story.create("/app/gone", b"back"))
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=0)
    story.move(MIGRATOR, state="STABLE", attempt=None)
    assert "foreign-write-lost" in story.rules()


def test_a_node_replaced_at_the_same_version_is_conceded_if_it_is_reported(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.txn(FOREIGN, Delete("/app/a"))
    story.txn(FOREIGN, story.create("/app/a", b"foreign"))
    story.first_batch()
    assert {"overwrote-foreign"} <= story.rules()
    story.move(MIGRATOR, conflict={"path": "/app/a"})
    story.roll_back()
    assert story.rules() == set()
    assert story.residues() == {"version-repeated"}


def test_a_rollback_that_leaves_something_out(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.batch(MIGRATOR, Delete("/app/new"), cursor="rcursor")
    story.move(MIGRATOR, state="STABLE", attempt=None)
    only(story.check(), "undo-incomplete")


def test_a_rollback_that_leaves_nothing_out(story: Story) -> None:
    story.prepare()
    story.open()
    story.first_batch()
    story.roll_back()
    assert story.rules() == set()


def test_a_rollback_that_brings_a_node_back_with_another_acl(story: Story) -> None:
    story.prepare()
    story.open()
    story.txn(MIGRATOR, story.set_acl("/app/acl"))
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=0)
    story.move(MIGRATOR, state="STABLE", attempt=None)
    only(story.check(), "undo-incomplete")


def test_a_counter_that_is_lower_after_a_rollback(story: Story) -> None:
    story.txn(FOREIGN, story.create("/app/gone/x"), Delete("/app/gone/x"))
    story.prepare()
    story.open()
    story.batch(MIGRATOR, Delete("/app/gone"))
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.batch(MIGRATOR, story.create("/app/gone", b"/app/gone"), cursor="rcursor")
    story.move(MIGRATOR, state="STABLE", attempt=None)
    only(story.check(), "counter-lowered")


def test_a_tree_that_is_not_the_planned_one(story: Story) -> None:
    story.plan(a="another digest")
    story.prepare()
    story.open()
    story.first_batch()
    story.second_batch()
    story.commit()
    only(story.check(), "not-the-planned-tree")


@pytest.mark.parametrize("when", ["never", "before", "within"])
def test_an_undo_that_leaves_a_path_out_is_not_excused_by_a_report(story: Story, when: str) -> None:
    """Nobody else was there, so that there was nothing to report."""
    if when == "before":
        story.began()
        story.reported("/app/a")
    story.plan()
    story.began(2)
    story.prepare()
    story.open()
    story.first_batch()
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.batch(MIGRATOR, Delete("/app/new"), cursor="rcursor")
    if when == "within":
        story.reported("/app/a", 2)
    story.move(MIGRATOR, state="STABLE", attempt=None)
    only(story.check(), "undo-incomplete")


def test_an_undo_that_somebody_elses_child_was_in_the_way_of(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.first_batch()
    story.txn(FOREIGN, story.create("/app/new/child"))
    story.began()
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=1)
    story.batch(MIGRATOR, story.write("/app/a", b"/app/a"), cursor="rcursor")
    story.move(MIGRATOR, state="STABLE", attempt=None)
    only(story.check(), "undo-incomplete")
    story.reported("/app/new")
    found = story.check()
    assert found.rules == set()
    assert found.figures["paths left by a rollback, reported"] == 1


@pytest.mark.parametrize("when", ["before the plan", "within", "after the end"])
def test_a_foreign_value_that_is_lost_and_a_report(story: Story, when: str) -> None:
    """Only the report of a migrator that can have met it says anything."""
    if when == "before the plan":
        story.began()
        story.reported("/app/gone")
    story.plan()
    story.prepare()
    story.open()
    if when == "within":
        story.began()
    story.txn(FOREIGN, Delete("/app/gone"))
    story.batch(MIGRATOR, story.create("/app/gone", b"back"))
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=0)
    story.move(MIGRATOR, state="STABLE", attempt=None)
    if when == "after the end":
        story.time_ms += 100
        story.began()
    if when != "before the plan":
        story.reported("/app/gone")
    assert ("foreign-write-lost" in story.rules()) is (when != "within")


@pytest.mark.parametrize("path", ["/app/a", "/app/gone"])
def test_a_commit_over_what_somebody_has_written_behind_a_batch(story: Story, path: str) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.first_batch()
    if path == "/app/gone":
        story.second_batch()
        story.txn(FOREIGN, story.create(path, b"again"))
        story.take(RIVAL)
    else:
        story.txn(FOREIGN, story.write(path, b"foreign"))
        story.second_batch()
    story.commit(RIVAL if path == "/app/gone" else MIGRATOR)
    only(story.check(), "committed-over-foreign")


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_commit_over_what_somebody_has_written_after_the_last_batch(story: Story, is_checked: bool) -> None:
    """Perhaps behind the verification; but not behind a check of the commit."""
    story.plan()
    story.prepare()
    story.open()
    story.first_batch()
    story.second_batch()
    story.txn(FOREIGN, story.write("/app/a", b"foreign"))
    checks = [Check("/app/a", 1)] if is_checked else []
    story.move(MIGRATOR, *checks, state="STABLE", epoch=1, attempt=None)
    assert story.rules() == ({"committed-over-foreign"} if is_checked else set())
    assert story.residues() == (set() if is_checked else {"late-foreign-write"})


# -- the wanted tree, and ACLs ----------------------------------------------------------------------------------------

BOTH_ACL = (*TIGHT_ACL, AclRow(31, *WRITER))
PENDING = {"epoch": 1, "attempt": "aaaa", "acls": 1}


def end_of(story: Story, *late: AclRows) -> None:
    """Both batches, the commit with ACLs pending, these ACLs, and nothing pending any more."""
    story.first_batch()
    story.second_batch()
    story.move(MIGRATOR, state="STABLE", epoch=1, attempt=None, pending=PENDING)
    for acl in late:
        story.txn(MIGRATOR, story.set_acl("/app/acl", acl))
    story.move(MIGRATOR, pending=None)


@pytest.mark.parametrize("is_set", [False, True])
def test_an_acl_that_is_wider_after_the_commit(story: Story, is_set: bool) -> None:
    """The one change of an ACL that nothing but the tree itself tells of once it is no longer pending."""
    story.txn(OPERATOR, story.set_acl("/app/acl", TIGHT_ACL))
    story.plan(acls={"/app/acl": OPEN_ACL})
    story.prepare()
    story.open()
    end_of(story, *([OPEN_ACL] if is_set else []))
    found = story.check()
    assert found.rules == (set() if is_set else {"acl-not-final"})
    assert found.figures["changed ACLs judged after a commit"] == 1


def test_an_acl_that_is_not_yet_final(story: Story) -> None:
    """As long as it is pending."""
    story.txn(OPERATOR, story.set_acl("/app/acl", TIGHT_ACL))
    story.plan(acls={"/app/acl": OPEN_ACL})
    story.prepare()
    story.open()
    story.first_batch()
    story.second_batch()
    story.move(MIGRATOR, state="STABLE", epoch=1, attempt=None, pending=PENDING)
    assert story.rules() == set()


def test_a_pending_acl_that_is_another_one(story: Story) -> None:
    story.txn(OPERATOR, story.set_acl("/app/acl", TIGHT_ACL))
    story.plan(acls={"/app/acl": OPEN_ACL})
    story.prepare()
    story.open()
    end_of(story, BOTH_ACL)
    assert story.rules() == {"acl-not-planned", "acl-not-final"}


@pytest.mark.parametrize("when", ["before", "between", "behind"])
def test_an_acl_that_is_narrowed_before_the_first_batch(story: Story, when: str) -> None:
    story.plan(acls={"/app/acl": TIGHT_ACL})
    story.prepare()
    story.open()
    for moment, act in (("before", story.first_batch), ("between", story.second_batch), ("behind", story.commit)):
        if when == moment:
            story.txn(MIGRATOR, story.set_acl("/app/acl"))
        act()
    found = story.check()
    assert found.rules == (set() if when == "before" else {"acl-too-wide"})
    assert found.figures["changed ACLs judged at batches"] == 2


@pytest.mark.parametrize("acl", [OPEN_ACL, TIGHT_ACL, BOTH_ACL])
def test_an_acl_that_lets_the_migrator_in_meanwhile(story: Story, acl: AclRows) -> None:
    story.txn(OPERATOR, story.set_acl("/app/acl", (AclRow(3, "world", "anyone"),)))
    story.plan(acls={"/app/acl": (AclRow(5, "world", "anyone"),)})
    story.prepare()
    story.open()
    story.txn(MIGRATOR, story.set_acl("/app/acl", acl))
    end_of(story, (AclRow(5, "world", "anyone"),))
    assert story.rules() == ({"acl-too-wide"} if acl == OPEN_ACL else set())


@pytest.mark.parametrize("acl", [OPEN_ACL, TIGHT_ACL])
def test_a_node_that_is_created_with_more_than_it_is_to_grant(story: Story, acl: AclRows) -> None:
    story.plan(acls={"/app/new": TIGHT_ACL})
    story.prepare()
    story.open()
    story.batch(MIGRATOR, story.write("/app/a", b"new"), story.create("/app/new", b"born", acl=acl))
    story.second_batch()
    story.commit()
    assert story.rules() == (set() if acl == TIGHT_ACL else {"acl-too-wide", "acl-not-final"})


def test_an_acl_that_was_to_stay(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.txn(MIGRATOR, story.set_acl("/app/b"))
    end_of(story)
    assert story.rules() == {"acl-not-planned", "acl-not-final"}


@pytest.mark.parametrize("acl", [OPEN_ACL, BOTH_ACL])
def test_a_rollback_gives_back_an_acl(story: Story, acl: AclRows) -> None:
    story.plan(acls={"/app/acl": TIGHT_ACL})
    story.prepare()
    story.open()
    story.txn(MIGRATOR, story.set_acl("/app/acl"))
    story.move(MIGRATOR, state="ROLLING_BACK", cursor=0)
    story.txn(MIGRATOR, story.set_acl("/app/acl", acl))
    story.move(MIGRATOR, state="STABLE", attempt=None)
    assert story.rules() == (set() if acl == OPEN_ACL else {"acl-not-planned", "undo-incomplete"})


def test_an_acl_that_somebody_else_has_set_is_not_judged(story: Story) -> None:
    story.plan(acls={"/app/acl": TIGHT_ACL})
    story.prepare()
    story.open()
    story.txn(FOREIGN, story.set_acl("/app/acl", (AclRow(31, "digest", "foreign"),)))
    end_of(story)
    assert story.rules() == set()


def test_a_node_of_another_kind(story: Story) -> None:
    story.plan()
    story.prepare()
    story.open()
    story.batch(MIGRATOR, story.write("/app/a", b"new"), story.create("/app/new", b"born", CONTAINER_OWNER))
    story.second_batch()
    story.commit()
    only(story.check(), "not-the-wanted-tree")


@pytest.mark.parametrize("raised", [1, 2])
def test_a_counter_that_is_lower_than_wanted(story: Story, raised: int) -> None:
    story.plan()
    story.events[-1]["wanted"]["/app/b"][-1] = 2
    story.prepare()
    story.open()
    pairs = [op for n in range(raised) for op in (story.create(f"/app/b/{n}"), Delete(f"/app/b/{n}"))]
    story.batch(MIGRATOR, story.write("/app/a", b"new"), story.create("/app/new", b"born"), *pairs)
    story.second_batch()
    story.commit()
    assert story.rules() == ({"not-the-wanted-tree"} if raised == 1 else set())


@pytest.mark.parametrize("path", ["/app/b", "/app/further"])
def test_what_the_plan_itself_has_left_out(story: Story, path: str) -> None:
    """A change that was wanted, or a node; all batches were as planned."""
    story.plan()
    story.events[-1]["wanted"][path] = story.events[-1]["wanted"]["/app/a"]
    story.prepare()
    story.open()
    story.first_batch()
    story.second_batch()
    story.commit()
    only(story.check(), "not-the-wanted-tree")


def test_a_single_shot_that_creates_with_more_than_it_is_to_grant(story: Story) -> None:
    story.plan(acls={"/app/new": TIGHT_ACL})
    story.prepare()
    ops = (story.write("/app/a", b"new"), Create("/app/new", b"born", OPEN_ACL, 0, -1), Delete("/app/gone"))
    story.move(MIGRATOR, *ops, state="STABLE", epoch=1, attempt=None)
    assert story.rules() == {"acl-too-wide", "acl-not-final"}
