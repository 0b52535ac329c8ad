"""A journal of any number of chunks can be named by its manifest: one that is large goes in pages, each pinned.

Method: nodes that each have readers of their own, so that each takes a chunk of its own; taken to their new state and
back on a real server, with a reader looking while the epoch is open. Of 16,000 the hashes would fit no frame.
"""

from __future__ import annotations

import json

import pytest

from tests.scopes import ME, MY_IDENTITY, Site, assert_is, assert_went_back, settled
from tests.trees import Node, Tree
from zkmig.epoch.control import Roles
from zkmig.epoch.journal import CHUNK_BYTES_MAX, JournalMissing, Manifest, digest, load
from zkmig.epoch.owner import TakeOver
from zkmig.errors import UnknownFormat
from zkmig.model.acl import ALL, READ, WORLD, Acl
from zkmig.plan.plan import Limits
from zkmig.reader import Reader


def _tree(data: bytes, count: int) -> Tree:
    def acl(number: int) -> tuple[Acl, ...]:
        return Acl(ALL, *MY_IDENTITY), Acl(READ, "ip", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    return settled({"": Node(b""), **{f"/n{number:05}": Node(data, acl(number)) for number in range(count)}})


@pytest.mark.parametrize("count", [1_000, pytest.param(16_000, marks=pytest.mark.nightly)])
def test_as_many_read_sets_as_there_are(site: Site, count: int) -> None:
    """Pages there are, none of them larger than a chunk; readers, resume and rollback read through them."""
    before, after = _tree(b"old", count), _tree(b"new", count)
    site.init(before, Roles((MY_IDENTITY,), (WORLD,)))
    image = site.look()
    site.leave_open(site.plan(after, limits=Limits()), 1)
    record = site.record()
    attempt = site.names.attempt(1, str(record.attempt))
    pages = [name for name in site.kazoo.get_children(attempt.home) if name.startswith("manifest-")]
    assert pages
    for name in (*pages, "manifest"):
        assert len(site.kazoo.get(f"{attempt.home}/{name}")[0] or b"") <= CHUNK_BYTES_MAX
    assert len(site.kazoo.get_children(attempt.undo)) > count
    with Reader(site.server.hosts, site.names.scope, auth=[ME]) as reader:
        view = reader.view()
        assert {view[site.path(path)].data for path in before if path} == {b"old"}
    assert site.rollback().deviations == ()
    assert_went_back(image, site.look())
    again = site.plan(after, limits=Limits())
    site.leave_open(again, 1)
    site.resume(again, how=TakeOver(steal=True))
    assert_is(site.look(), after)


def test_a_page_that_was_altered_or_is_gone_is_noticed(site: Site) -> None:
    """Each is pinned by the node that the record pins."""
    site.init({"": Node(b""), "/a": Node(b"")}, Roles((MY_IDENTITY,), (WORLD,)))
    manifest = Manifest(
        "inc", 1, "a77e3b7c", site.root, "hash", 0, 65_536, ("0" * 64,) * 3_000, tuple(range(1_000)), 0, quotas=()
    )
    attempt = site.names.attempt(1, manifest.attempt)
    site.kazoo.create(attempt.home, b"")
    nodes = manifest.nodes(attempt)
    assert len(nodes) > 3
    for path, data in nodes:
        site.kazoo.create(path, data)
    pinned = digest(nodes[-1][1])
    client = site.client()
    assert json.loads(nodes[-1][1])["format"] != json.loads(manifest.encode())["format"]
    with pytest.raises(UnknownFormat, match="journal of format 2") as caught:
        Manifest.decode(nodes[-1][1], attempt.manifest)  # as one does who knows of no pages
    assert "upgrade" in str(caught.value)
    with pytest.raises(JournalMissing, match="undo/0"):  # so the manifest was read: its chunks are not there
        load(client, attempt, pinned)
    path, data = nodes[1]
    site.kazoo.set(path, data[:-1] + b"x")
    with pytest.raises(UnknownFormat, match="page of the manifest"):
        load(client, attempt, pinned)
    site.kazoo.delete(path)
    with pytest.raises(JournalMissing, match="manifest-1"):
        load(client, attempt, pinned)
    small = Manifest("inc", 1, "a77e3b7c", site.root, "hash", 0, 65_536, (), (), 0)
    assert small.nodes(attempt) == [(attempt.manifest, small.encode())]
