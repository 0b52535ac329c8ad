"""What counts as put back, and how often, told from versions alone: no server.

Method: one node of an epoch in every state that others can leave it in; sequences of looks with writes in between.
"""

from __future__ import annotations

import pytest

from zkmig.apply.conflicts import Found
from zkmig.apply.left import Left, Shift
from zkmig.apply.putbacks import Expected, Known, Tally, Verdict, Versions, judge
from zkmig.epoch.journal import AclEntry, Action, Entry
from zkmig.epoch.record import data_hash
from zkmig.model.acl import OPEN_ACL, READ, WORLD, Acl, AclList
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode

READ_ONLY: AclList = (Acl(READ, *WORLD),)
OTHER: AclList = (Acl(READ, "ip", "10.1.1.1"),)


def stat(czxid: int = 10, version: int = 0, aversion: int = 0) -> Stat:
    return Stat(czxid, czxid, 0, 5_000, version, 0, aversion, 0, 0, 0, czxid)


def before(data: bytes | None = b"old", acl: AclList = OPEN_ACL) -> Znode:
    return Znode("/a", data, acl, stat(version=4), Kind.PERSISTENT)


# As apply/left.py tells of each: the epoch has written between zxids 20 and 30.
WRITTEN = Expected(Entry(Action.WRITTEN, "/a", 0, before()), Left(True, (10, 10), 5, {0: None}), None)
CREATED = Expected(Entry(Action.CREATED, "/a", 0, None), Left(True, (20, 30), 0, {0: None}), None)
DELETED = Expected(Entry(Action.DELETED, "/a", 0, before()), Left(False), None)
SET_ACL = Expected(
    Entry(Action.ACL, "/a", -1, before()),
    Left(True, (10, 10), 4, {1: READ_ONLY}),
    AclEntry("/a", READ_ONLY, READ_ONLY, 0, created=False),
)

AS_LEFT: list[tuple[str | None, int]] = []
CHANGED: list[tuple[str | None, int]] = [(None, 1)]


@pytest.mark.parametrize(
    ("expected", "data", "at", "acl", "verdict"),
    [
        (WRITTEN, b"new", stat(version=5), None, AS_LEFT),
        (WRITTEN, b"old", stat(version=6), None, [("data", 1)]),
        (WRITTEN, b"old", stat(version=105), None, [("data", 100)]),
        (WRITTEN, b"other", stat(version=6), None, CHANGED),
        (WRITTEN, b"new", stat(version=6), None, CHANGED),
        (WRITTEN, None, stat(version=6), None, CHANGED),
        (WRITTEN, b"", None, None, CHANGED),
        (WRITTEN, b"old", stat(czxid=40, version=0), None, [("data", 1)]),
        (WRITTEN, b"new", stat(version=5, aversion=1), OTHER, CHANGED),
        (CREATED, b"x", stat(czxid=25), None, AS_LEFT),
        (CREATED, b"", None, None, [("deleted", 1)]),
        (CREATED, b"x", stat(czxid=40), None, CHANGED),
        (CREATED, b"y", stat(czxid=25, version=1), None, CHANGED),
        (DELETED, b"", None, None, AS_LEFT),
        (DELETED, b"old", stat(czxid=40), None, [("created", 1)]),
        (DELETED, b"old", stat(czxid=40, version=2), None, [("created", 3)]),
        (DELETED, b"other", stat(czxid=40), None, CHANGED),
        (SET_ACL, b"old", stat(version=4, aversion=1), READ_ONLY, AS_LEFT),
        (SET_ACL, b"old", stat(version=4, aversion=1), None, AS_LEFT),
        (SET_ACL, b"old", stat(version=4, aversion=2), OPEN_ACL, [("acl", 1)]),
        (SET_ACL, b"old", stat(version=4, aversion=4), OPEN_ACL, [("acl", 3)]),
        (SET_ACL, b"old", stat(version=4, aversion=2), OTHER, CHANGED),
        (SET_ACL, b"old", stat(version=4, aversion=2), None, CHANGED),
        (SET_ACL, b"old", stat(version=9, aversion=1), READ_ONLY, CHANGED),
    ],
)
def test_a_verdict_on_each_state(
    expected: Expected, data: bytes | None, at: Stat | None, acl: AclList | None, verdict: list[tuple[str | None, int]]
) -> None:
    found = judge(expected, Found("/a", data if at else None, at), acl)
    assert [(one.kind, one.times) for one in found] == verdict
    for one in found:
        assert one.data_hash == (data_hash(data) if at else None)


def test_data_and_acl_are_put_back_both() -> None:
    both = Expected(
        WRITTEN.entry, Left(True, (10, 10), 5, {1: READ_ONLY}), AclEntry("/a", READ_ONLY, READ_ONLY, 0, created=False)
    )
    found = judge(both, Found("/a", b"old", stat(version=6, aversion=2)), OPEN_ACL)
    assert [(one.kind, one.times) for one in found] == [("data", 1), ("acl", 1)]


def test_versions_of_an_attempt_that_was_rolled_back_are_not_counted() -> None:
    """It has written and taken back, two versions more: one put-back is one."""
    later = Expected(WRITTEN.entry, WRITTEN.left._replace(version=7), None)
    assert judge(later, Found("/a", b"new", stat(version=7)), None) == []
    assert [one.times for one in judge(later, Found("/a", b"old", stat(version=8)), None)] == [1]


def test_what_may_not_be_read_has_no_hash_and_is_told_by_its_version() -> None:
    (one,) = judge(WRITTEN, Found("/a", None, stat(version=6), is_readable=False), None)
    assert (one.kind, one.data_hash) == (None, None)


def look(tally: Tally, version: int | None, was: int | None, *, data: bytes = b"old", first: bool = False) -> int:
    """One look, at which the node has this version (None: it is not there), and had that one at the last."""
    at = stat(version=version) if version is not None else None
    verdicts: list[Verdict] = judge(WRITTEN, Found("/a", data if at else None, at), None)
    now, before = (None if v is None else Versions(10, v, 0) for v in (version, was))
    if not verdicts:
        tally.saw_as_left("/a")
    return sum(tally.saw(one, before, now, first, 1.0) for one in verdicts)


def test_each_write_counts_once_over_many_looks() -> None:
    tally = Tally()
    assert look(tally, 7, None, first=True) == 2  # since the commit
    assert look(tally, 7, 7) == 0
    assert look(tally, 10, 7) == 3
    assert look(tally, 11, 10, data=b"of others") == 0
    assert (tally.now, tally.paths, tally.times, tally.changed) == (0, 1, 5, {"/a": "written, version 11"})
    assert look(tally, 12, 11) == 1
    assert (tally.now, tally.times, tally.changed) == (1, 6, {})


UNKNOWN = WRITTEN._replace(left=Left(True, (0, 1 << 60), is_known=False))


def test_where_an_attempt_may_have_written_a_path_only_its_value_counts() -> None:
    assert judge(UNKNOWN, Found("/a", b"new", stat(version=9)), None) == []
    assert judge(UNKNOWN, Found("/a", b"other", stat(czxid=40)), None) == []
    assert [one.times for one in judge(UNKNOWN, Found("/a", b"old", stat(version=9)), None)] == [1]


@pytest.mark.parametrize(
    ("known", "began", "born", "now", "writes"),
    [
        ((10, 6), (10, 6), None, (10, 8), 0),  # written and taken back
        ((10, 6), (10, 6), None, (10, 9), 1),  # by others after it
        ((10, 6), (10, 7), None, (10, 9), 1),  # before it
        ((10, 6), (10, 7), None, (10, 10), 2),  # before and after
        ((10, 6), (15, 0), None, (15, 3), 2),  # created again before it, written after it
        ((10, 6), (10, 6), (20, 30), (25, 0), 0),  # deleted and created again by it
        ((10, 6), (10, 7), (20, 30), (25, 2), 3),
    ],
)
def test_what_an_attempt_has_written_and_taken_back_is_counted_for_nobody(
    known: tuple[int, int], began: tuple[int, int], born: tuple[int, int] | None, now: tuple[int, int], writes: int
) -> None:
    """Two writes of the attempt, or a new node: what others have written before and after is left."""
    versions = Known()
    versions.saw("/a", Versions(*known, 0))
    versions.carry("/a", Shift(stat(*began), 2 if born is None else 0, 0, born))
    is_first, before = versions.saw("/a", Versions(*now, 0))
    assert not is_first
    assert before is not None
    assert (before.czxid, now[1] - before.version) == (now[0], writes)
