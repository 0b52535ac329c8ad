"""ACL changes never open a door: what is set in between grants no more than both ends, plus the migrator.

Method: the laws of `meet` over made-up lists, judged by what sessions of every mixture of identities may do; then the
steps that the planner derives from them.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkmig.model.acl import (
    ADMIN,
    ALL,
    CREATE,
    DELETE,
    OPEN_ACL,
    READ,
    WORLD,
    WRITE,
    Acl,
    AclList,
    Identity,
    grants,
)
from zkmig.plan.acls import AclPlanner, meet, same_grants
from zkmig.plan.operations import Pin

ME = Identity("digest", "me:m")
ALICE = Identity("digest", "alice:a")
HOST = Identity("ip", "10.0.0.1")
PEOPLE = (WORLD, ME, ALICE, HOST)
SESSIONS = [combination for size in range(4) for combination in itertools.combinations(PEOPLE[1:], size)]
PIN = Pin(1, 2, 3)

entries = st.builds(lambda perms, who: Acl(perms, *who), st.integers(0, ALL), st.sampled_from(PEOPLE))
# A server stores no empty list; one that says nothing for anybody is "world:anyone" with no bits at all.
acls = st.lists(entries, min_size=1, max_size=4).map(tuple)


def may(acl: AclList, session: tuple[Identity, ...]) -> int:
    return grants(acl, session)


# -- meet -------------------------------------------------------------------------------------------------------------


@given(acls, acls)
def test_a_meet_never_grants_anybody_more_than_either_side(one: AclList, other: AclList) -> None:
    both = meet(one, other)
    for session in SESSIONS:
        assert may(both, session) & ~(may(one, session) & may(other, session)) == 0


@given(acls, acls)
def test_a_meet_grants_a_single_identity_all_that_both_sides_do(one: AclList, other: AclList) -> None:
    """Nothing is taken away needlessly: readers go on reading while a migration is open."""
    both = meet(one, other)
    for who in PEOPLE:
        assert may(both, (who,)) == may(one, (who,)) & may(other, (who,))


@given(acls, acls)
def test_a_meet_can_be_stored(one: AclList, other: AclList) -> None:
    """A server refuses an empty list, and treats one that it finds as open to all: the opposite of granting nothing."""
    assert meet(one, other)


@given(acls, acls, acls)
def test_meet_is_commutative_associative_and_idempotent_in_what_it_grants(a: AclList, b: AclList, c: AclList) -> None:
    assert same_grants(meet(a, b), meet(b, a))
    assert same_grants(meet(meet(a, b), c), meet(a, meet(b, c)))
    assert same_grants(meet(a, a), a)


@given(acls, acls)
def test_same_grants_means_that_no_single_identity_can_tell_the_lists_apart(one: AclList, other: AclList) -> None:
    indistinguishable = all(may(one, (who,)) == may(other, (who,)) for who in PEOPLE)
    assert same_grants(one, other) == indistinguishable


@given(acls)
def test_an_empty_list_counts_as_open_to_all(acl: AclList) -> None:
    assert same_grants((), OPEN_ACL)
    assert same_grants(meet((), acl), acl)


# -- steps ------------------------------------------------------------------------------------------------------------


@given(acls, acls, st.integers(0, ALL))
def test_the_steps_of_an_existing_node(before: AclList, after: AclList, needed: int) -> None:
    """In between: no more than both ends plus the migrator, who keeps what its work and its undo need."""
    step = AclPlanner((ME, HOST)).for_existing("/app", before, after, needed, PIN)
    assert (step.final, step.pin) == (after, PIN)
    if step.tighten is None:
        assert all(may(before, session) & ~may(after, session) == 0 for session in SESSIONS)
        return
    assert step.tighten
    for session in SESSIONS:
        if ME not in session:
            assert may(step.tighten, session) & ~(may(before, session) & may(after, session)) == 0
    wanted = needed | READ | ADMIN
    assert may(step.tighten, (ME, HOST)) & wanted == wanted


@given(acls, acls)
def test_what_only_gives_waits_for_the_commit(before: AclList, after: AclList) -> None:
    step = AclPlanner((ME,)).for_existing("/app", before, after, 0, PIN)
    only_gives = all(may(before, (who,)) & ~may(after, (who,)) == 0 for who in PEOPLE)
    assert (step.tighten is None) == only_gives
    assert step.is_pending_after_commit or step.tighten == after


def test_two_lists_that_share_nothing_shut_everybody_out_but_the_migrator() -> None:
    """From alice's alone to the host's alone: meanwhile neither, and never everybody."""
    planner = AclPlanner((ME,))
    step = planner.for_existing("/app", (Acl(ALL, *ALICE),), (Acl(ALL, *HOST),), 0, PIN)
    assert step.tighten is not None
    assert may(step.tighten, ()) == may(step.tighten, (ALICE,)) == may(step.tighten, (HOST,)) == 0
    assert may(step.tighten, (ME,)) == ALL
    assert planner.identity_used == ME


@given(acls, st.booleans())
def test_a_created_node(final: AclList, works_below: bool) -> None:
    acl, step = AclPlanner((ME,)).for_created("/app", final, works_below)
    for session in SESSIONS:
        if ME not in session:
            assert may(acl, session) & ~may(final, session) == 0
    needed = READ | (CREATE | DELETE if works_below else 0)
    assert may(acl, (ME,)) & needed == needed
    assert (step is None) == (acl == final)
    if step is not None:
        assert (step.tighten, step.final, step.pin) == (None, final, None)


def test_a_parent_that_nobody_may_create_in_is_created_so_that_the_migrator_can() -> None:
    read_only = (Acl(READ, *WORLD),)
    assert AclPlanner((ME,)).for_created("/app", read_only, works_below=False) == (read_only, None)
    acl, step = AclPlanner((ME,)).for_created("/app", read_only, works_below=True)
    assert acl == (Acl(READ, *WORLD), Acl(ALL, *ME))
    assert step is not None
    assert step.final == read_only


@pytest.mark.parametrize("who", [(), (Identity("sasl", "me@EXAMPLE"),)])
def test_what_would_shut_its_migrator_out_is_named(who: tuple[Identity, ...]) -> None:
    """Without an identity that an ACL could name there is no temporary ACL that lets it finish or take back."""
    alices = (Acl(ALL, *ALICE),)
    planner = AclPlanner(who)
    planner.for_created("/app/new", alices, works_below=False)
    planner.for_existing("/app/old", OPEN_ACL, alices, WRITE, PIN)
    planner.for_created("/app/open", OPEN_ACL, works_below=True)
    assert list(planner.shut_out) == ["/app/new", "/app/old"]


def test_a_digest_is_preferred_to_an_address_that_others_may_share() -> None:
    planner = AclPlanner((HOST, ME))
    acl, _ = planner.for_created("/app", (Acl(ALL, *ALICE),), works_below=False)
    assert planner.identity_used == ME
    assert HOST not in {Identity(entry.scheme, entry.id) for entry in acl}
