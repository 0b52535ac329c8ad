"""Undo never publishes what an ACL protected.

Method: cut made-up journals into chunks and look, for each identity, at all that the ACLs of the chunks let it read;
then put the readable chunks together again as a reader does, and all of them as a migrator does.
"""

from __future__ import annotations

import pytest

from zkmig.epoch.journal import AclEntry, Action, Chunk, Entry, Journal, make_chunks, read_set, unpack
from zkmig.model.acl import ALL, OPEN_ACL, READ, WORLD, Acl, AclList, Identity, grants, masked
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode

OPS = Identity("digest", "ops:u4HtJNyQ0eAJqR8VpSC3nJpxCfE=")
TEAM = Identity("digest", "team:dGVhbQ==")
SHOWN: AclList = (Acl(READ, *WORLD), Acl(ALL, *OPS))
SECRET: AclList = (Acl(ALL, *OPS), Acl(READ, *TEAM))
STAT = Stat(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1)


def entry(path: str, acl: AclList, data: bytes = b"data of ") -> Entry:
    return Entry(Action.WRITTEN, path, 0, Znode(path, data + path.encode(), acl, STAT, Kind.PERSISTENT))


JOURNAL = Journal(
    (
        entry("/open", OPEN_ACL),
        entry("/shown", SHOWN),
        entry("/secret", SECRET),
        Entry(Action.CREATED, "/new", 0, None),
        Entry(Action.CREATED, "/new/locks", 0, None, Kind.CONTAINER),
        Entry(Action.CREATED, "/new/lease", 0, None, Kind.TTL, 60_000),
    ),
    (AclEntry("/shown", None, SECRET, 0, False),),
)


def chunks(admin: Identity) -> list[Chunk]:
    sets = {e.path: read_set(e.before.acl) if e.before else frozenset({WORLD}) for e in JOURNAL.entries}
    return list(make_chunks(JOURNAL, sets, [admin], [OPS, WORLD]))


def readable(admin: Identity, who: Identity) -> list[Chunk]:
    return [chunk for chunk in chunks(admin) if grants(chunk.acl, [who]) & READ]


@pytest.mark.parametrize("admin", [OPS, WORLD], ids=["ops is admin", "everybody is admin"])
@pytest.mark.parametrize(
    ("who", "data", "hashes"),
    [(WORLD, {"/open", "/shown"}, False), (TEAM, {"/open", "/shown", "/secret"}, False), (OPS, {"all"}, True)],
    ids=["anyone", "team", "ops"],
)
def test_nobody_reads_in_undo_what_the_nodes_kept_from_them(
    admin: Identity, who: Identity, data: set[str], hashes: bool
) -> None:
    """Goal: neither data without READ nor digest ids without ADMIN. Method: search the bytes that each may read."""
    seen = b"".join(chunk.payload for chunk in readable(admin, who))
    for path in ("/open", "/shown", "/secret"):
        assert (b"data of " + path.encode() in seen) == (path in data or "all" in data)
    assert (OPS.id.encode() in seen) == hashes


@pytest.mark.parametrize("admin", [OPS, WORLD], ids=["ops is admin", "everybody is admin"])
def test_a_migrator_gets_every_byte_back_and_a_reader_masked_acls(admin: Identity) -> None:
    """Goal: rollback restores full ACLs; a reader needs only what is public. Method: unpack all, then the public."""
    assert unpack([chunk.payload for chunk in chunks(admin)], "undo") == JOURNAL
    public = unpack([chunk.payload for chunk in chunks(admin) if not chunk.is_private], "undo")
    before = public.by_path()["/shown"].before
    assert before is not None
    assert before.acl == masked(SHOWN)
    assert before.data == b"data of /shown"
    assert public.acls == ()


def test_what_everybody_may_read_is_one_chunk_whoever_owns_it() -> None:
    """Each of 50 users has a node of their own. As many undo nodes would be a write each; what only the owner may read
    needs one, the control of this."""

    def shared(*others: Acl) -> int:
        acls = [(*others, Acl(READ, "digest", f"user{number}:hash")) for number in range(50)]
        journal = Journal(tuple(entry(f"/{number}", acl) for number, acl in enumerate(acls)), ())
        sets = {e.path: read_set(e.before.acl) for e in journal.entries if e.before is not None}
        return sum(not chunk.is_private for chunk in make_chunks(journal, sets, [OPS], [OPS]))

    assert shared(Acl(READ, *WORLD)) == 1
    assert shared() == 50
