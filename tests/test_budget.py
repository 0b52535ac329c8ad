"""How far a view may move: limits, fingerprints, comparison, and what is kept, without a server.

Method: made-up trees against a naive comparison of dicts, and the refusals one by one.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import names as node_names
from zkmig.epoch.budgets import (
    NOTE_BYTES_MAX,
    OVERRIDES_MAX,
    BudgetNote,
    Counted,
    Difference,
    Override,
)
from zkmig.epoch.control import ControlPaths
from zkmig.errors import ActingRefused, BadInput, UnknownFormat
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, Identity
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode
from zkmig.reader.baseline import (
    Baseline,
    BudgetExceeded,
    Decision,
    Keeping,
    Section,
    Stored,
    check_hashes_may_be_told,
    decide,
    fingerprint,
    taken_back,
)
from zkmig.reader.budget import BUDGETS_MAX, Budget, Known, checked, compare, marks_of
from zkmig.wire.requests import Check, Create, SetData

HOSTS = "/app/hosts/*"
NAMES = ControlPaths("app")
BOB = Identity("digest", "bob:hash")
KEEPING = Keeping(NAMES, "scaler", (Acl(ALL, "digest", "me:hash"), Acl(READ, *WORLD)), (BOB,))

Values = dict[str, bytes | None]


def znodes(values: Values, above: str = "/app/hosts") -> list[Znode]:
    return [Znode(f"{above}/{name}", data, OPEN_ACL, Stat(*[0] * 11), Kind.PERSISTENT) for name, data in values.items()]


def hosts(count: int, data: bytes = b"") -> Values:
    return {f"h{number}": data for number in range(count)}


# -- comparison -------------------------------------------------------------------------------------------------------

trees = st.dictionaries(node_names, st.none() | st.binary(max_size=2), max_size=8)


@given(trees, trees)
def test_a_difference_is_that_of_the_trees(before: Values, now: Values) -> None:
    both = before.keys() & now.keys()
    assert compare(HOSTS, marks_of(znodes(before)), marks_of(znodes(now))) == Difference(
        HOSTS,
        len(before),
        len(now.keys() - both),
        len(before.keys() - both),
        sum(before[name] != now[name] for name in both),
    )


@given(st.lists(trees, max_size=4))
def test_what_was_hashed_before_makes_no_difference(views: list[Values]) -> None:
    known: Known = {}
    for view in views:
        assert marks_of(znodes(view), known) == marks_of(znodes(view))


def test_only_what_a_pattern_matches_counts() -> None:
    everything = [*znodes(hosts(3)), *znodes(hosts(2), "/app/pools"), *znodes({"deep": b""}, "/app/hosts/h1")]
    found = fingerprint(everything, [Budget(HOSTS, count=1), Budget("/app/**", count=1)])
    assert {pattern: len(marks) // 16 for pattern, marks in found.items()} == {HOSTS: 3, "/app/**": 6}


def test_null_is_not_empty() -> None:
    assert compare(HOSTS, marks_of(znodes({"a": None})), marks_of(znodes({"a": b""}))).changed == 1


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "nodes", "total", "is_allowed"),
    [
        (Budget(HOSTS, share=0.10), 100, 10, True),
        (Budget(HOSTS, share=0.10), 100, 11, False),
        (Budget(HOSTS, count=50), 10, 50, True),
        (Budget(HOSTS, count=50), 1_000_000, 51, False),
        (Budget(HOSTS, share=0.10, count=50), 100, 11, False),
        (Budget(HOSTS, share=0.10, count=50), 10_000, 51, False),
        (Budget(HOSTS, share=0.10, count=50), 10_000, 50, True),
        (Budget(HOSTS, share=0.10), 5, 1, False),
        (Budget(HOSTS, share=0.10), 0, 1, False),
        (Budget(HOSTS, share=0.10), 0, 0, True),
        (Budget(HOSTS, count=3), 0, 3, True),
        (Budget(HOSTS, share=0.0), 100, 0, True),
        (Budget(HOSTS, count=0), 100, 1, False),
        (Budget(HOSTS, share=2), 10, 20, True),
        (Budget(HOSTS, count=0), None, 100, True),
        (Budget(HOSTS, count=1_000, first="refuse"), None, 0, False),
    ],
)
def test_either_limit_refuses(budget: Budget, nodes: int | None, total: int, is_allowed: bool) -> None:
    """A share is of what there was; of nothing it is nothing, so whatever comes into an empty set is too much."""
    assert budget.allows(Difference(HOSTS, nodes, total, 0, 0)) is is_allowed


def test_an_emptied_set_is_all_of_it() -> None:
    difference = compare(HOSTS, marks_of(znodes(hosts(40))), b"")
    assert (difference.removed, difference.nodes) == (40, 40)
    assert not Budget(HOSTS, share=0.99).allows(difference)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("/app/hosts/*=50", Budget(HOSTS, count=50)),
        ("/app/hosts/*=10%", Budget(HOSTS, share=0.1)),
        ("/app/hosts/*=10%,50", Budget(HOSTS, share=0.1, count=50)),
        ("/app/hosts/*=50,10%", Budget(HOSTS, share=0.1, count=50)),
        ("/a=b/*/=0", Budget("/a=b/*", count=0)),
    ],
)
def test_a_budget_as_on_a_command_line(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "text", ["", "/app", "/app=", "=5", "app=5", "/app=x", "/app=5%5", "/app=1,2", "/app=-1", "/app=nan%", "/app=1%,2%"]
)
def test_what_is_no_budget_on_a_command_line(text: str) -> None:
    with pytest.raises(BadInput):
        Budget.parse(text)


def test_budgets_that_mean_nothing_are_refused() -> None:
    bad: list[dict[str, Any]] = [  # as somebody may write it
        {},
        {"share": -0.1},
        {"share": float("nan")},
        {"count": -1},
        {"count": 1.5},
        {"count": True},
        {"count": 1, "first": "whatever"},
    ]
    for arguments in bad:
        with pytest.raises(BadInput):
            Budget(HOSTS, **arguments)
    with pytest.raises(BadInput, match="two budgets for one pattern"):
        checked([Budget(HOSTS, count=1), Budget("/app/hosts/*/", share=0.1)])
    with pytest.raises(BadInput, match="at most"):
        checked(Budget(f"/app/{number}", count=1) for number in range(BUDGETS_MAX + 1))


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_a_baseline_comes_back_as_it_went() -> None:
    baseline = Baseline(b"12345678", {HOSTS: Section(7, 1.5, marks_of(znodes(hosts(9)))), "/x": Section(0, 0.0, b"")})
    assert Baseline.decode(baseline.encode(), "/seen") == baseline
    assert Baseline.decode(Baseline().encode(), "/seen") == Baseline()


@given(st.binary(max_size=200))
def test_what_is_no_baseline_is_told_so(junk: bytes) -> None:
    with pytest.raises(UnknownFormat):
        Baseline.decode(junk, "/seen")
    whole = Baseline(b"1", {HOSTS: Section(1, 1.0, bytes(32))}).encode()
    for length in range(len(whole)):
        with pytest.raises(UnknownFormat):
            Baseline.decode(whole[:length], "/seen")


def test_a_note_is_json_that_comes_back_and_stays_small() -> None:
    override = Override(1.0, "новый стенд", 3, (Difference(HOSTS, 10, 5, 0, 0), Difference("/x", None, 1, 0, 0)))
    note = BudgetNote("scaler", 4, 2.0, (Counted(HOSTS, 15, 5, 0, 0),))
    for _ in range(OVERRIDES_MAX + 5):
        note = note.with_override(override)
    assert len(note.overrides) == OVERRIDES_MAX
    assert BudgetNote.decode(note.encode()) == note
    fields = json.loads(note.encode())
    assert (fields["format"], fields["reader"], fields["epoch"], fields["patterns"][0]["nodes"]) == (1, "scaler", 4, 15)
    large = dataclasses.replace(override, why="\0" * 300, differed=tuple([Difference("/" + "х" * 500, 1, 1, 1, 1)] * 3))
    note = dataclasses.replace(note, overrides=(large,) * OVERRIDES_MAX)
    assert len(note.encode()) <= NOTE_BYTES_MAX
    assert BudgetNote.decode(note.encode()) is not None


@pytest.mark.parametrize(
    "junk", [None, b"", b"[]", b"{}", b'{"format":2}', b'{"format":1,"reader":1,"epoch":"x","at":1}', b"[" * 100_000]
)
def test_what_is_no_note_is_none(junk: bytes | None) -> None:
    assert BudgetNote.decode(junk) is None


# -- the verdict ------------------------------------------------------------------------------------------------------

BUDGET = Budget(HOSTS, share=0.10, count=50)


def verdict(values: Values, stored: Stored, *budgets: Budget, epoch: int = 1, override: str | None = None) -> Decision:
    wanted = budgets or (BUDGET,)
    return decide(KEEPING, wanted, fingerprint(znodes(values), wanted), epoch, stored, override)


def test_the_first_action_sets_the_baseline_and_the_same_view_only_checks_it() -> None:
    first = verdict(hosts(100), Stored())
    assert [type(operation) for operation in first.operations] == [Create, Create]
    note, seen = first.operations
    assert isinstance(note, Create)
    assert isinstance(seen, Create)
    assert (note.path, seen.path) == (NAMES.budget("scaler"), NAMES.seen("scaler"))
    assert seen.acl == (Acl(3, *BOB),)
    assert Acl(READ, *WORLD) in note.acl
    again = verdict(hosts(100), first.after, epoch=2)
    assert again.operations == (Check(note.path, 0), Check(seen.path, 0))
    assert not again.writes


def test_what_is_allowed_moves_the_baseline_and_what_is_not_leaves_it() -> None:
    first = verdict(hosts(100), Stored())
    second = verdict(hosts(95), first.after)
    assert second.operations == tuple(
        SetData(operation.path, operation.data, 0) for operation in second.operations if isinstance(operation, SetData)
    )
    with pytest.raises(BudgetExceeded) as caught:
        verdict(hosts(80), second.after)
    assert caught.value.differences == (Difference(HOSTS, 95, 0, 15, 0),)
    said = str(caught.value)
    for part in (
        "15 removed",
        HOSTS,
        "15.8 %",
        "of 95",
        "'scaler'",
        "epoch 1",
        "10 % or 50",
        "override",
        "budgets/scaler",
    ):
        assert part in said


def test_an_override_is_recorded_only_where_it_was_needed() -> None:
    first = verdict(hosts(100), Stored())
    within = verdict(hosts(99), first.after, override="needless")
    assert within.override is None
    beyond = verdict(hosts(10), within.after, override="half of the site is switched off", epoch=3)
    assert beyond.override is not None
    assert beyond.override.differed == (Difference(HOSTS, 99, 0, 89, 0),)
    assert beyond.after.note is not None
    assert beyond.after.note.overrides == (beyond.override,)
    assert verdict(hosts(10), beyond.after).override is None


def test_another_release_with_other_patterns_is_held_to_what_it_has_acted_on() -> None:
    """A pattern that is new counts as a first one; one that has gone is remembered for when it comes back."""
    pools = Budget("/app/pools/*", count=0)
    first = verdict(hosts(100), Stored())
    second = verdict({}, first.after, pools)
    assert set((second.after.baseline or Baseline()).sections) == {HOSTS, pools.pattern}
    with pytest.raises(BudgetExceeded, match="100 removed"):
        verdict({}, second.after)
    anew = verdict({}, second.after, override="moved")
    assert set((anew.after.baseline or Baseline()).sections) == {HOSTS}


def test_first_refuse_wants_an_override() -> None:
    strict = Budget(HOSTS, count=50, first="refuse")
    with pytest.raises(BudgetExceeded, match="has not acted yet"):
        verdict(hosts(3), Stored(), strict)
    allowed = verdict(hosts(3), Stored(), strict, override="new site")
    assert verdict(hosts(4), allowed.after, strict).writes


def test_what_cannot_be_read_admits_nothing_but_by_override() -> None:
    good = verdict(hosts(3), Stored()).after
    assert good.note is not None
    assert good.baseline is not None
    for seen in (None, (b"junk", 5), (b"", 0)):
        stored = Stored.of_nodes(NAMES, "scaler", (good.note.encode(), 7), seen)
        with pytest.raises(ActingRefused, match="not known"):
            verdict(hosts(3), stored)
        anew = verdict(hosts(3), stored, override="its baseline was damaged")
        assert anew.override is not None
        written = [operation.version for operation in anew.operations if isinstance(operation, SetData)]
        assert written == ([7] if seen is None else [7, seen[1]])


def test_a_move_whose_action_never_began_is_taken_back() -> None:
    first = verdict(hosts(100), Stored())
    moved = verdict(hosts(95), first.after)
    _, seen = taken_back(KEEPING, moved, moved.after)
    assert isinstance(seen, SetData)
    assert seen.version == 1
    assert first.after.baseline is not None
    assert Baseline.decode(seen.data, "").sections == first.after.baseline.sections
    assert taken_back(KEEPING, moved, first.after) == ()  # it never landed
    assert taken_back(KEEPING, moved, verdict(hosts(94), moved.after).after) == ()  # somebody has acted since
    never = taken_back(KEEPING, first, first.after)[1]
    assert isinstance(never, SetData)
    assert Baseline.decode(never.data, "").sections == {}


def test_no_hash_is_shown_to_who_may_not_read_the_node() -> None:
    """Without credentials the baseline is everybody's."""
    nodes = znodes(hosts(2))
    check_hashes_may_be_told(nodes, [BUDGET], [WORLD])
    hidden = [nodes[0], nodes[1]._replace(acl=(Acl(ALL, "ip", "10.0.0.1"),))]
    with pytest.raises(BadInput, match="everybody"):
        check_hashes_may_be_told(hidden, [BUDGET], [WORLD])
    check_hashes_may_be_told(hidden, [Budget("/app/pools/*", count=1)], [WORLD])
    check_hashes_may_be_told(hidden, [BUDGET], [BOB])
