"""A snapshot file gives back exactly what was written, or is refused with the offset: never a partial snapshot.

Method: made-up and real trees through a file and back; every byte of a small file flipped, every truncation, things
appended; sealed files with senseless content; the file system's own surprises.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.trees import EPHEMERAL, REAL_TREES, Node, Tree, load_real, snapshot_of, trees
from zkmig import sealed
from zkmig.errors import BadInput, DamagedFile
from zkmig.model.acl import Acl
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.source import zks

SMALL: Tree = {
    "": Node(None, counter=2),
    "/a": Node(b"data", (Acl(31, "digest", "me:x"),)),
    "/a-b": Node(b"", kind=Kind.TTL, ttl_ms=5),
    "/队列": EPHEMERAL,
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    zks.write(snapshot_of(SMALL), path)
    return path


def assert_same(one: Snapshot, other: Snapshot) -> None:
    assert one.columns.acl_table == other.columns.acl_table
    for field in one.columns.__slots__:
        assert getattr(one.columns, field) == getattr(other.columns, field), field
    for field in ("scope", "provenance", "consistency", "tree_hash", "counter_hash"):
        assert getattr(one, field) == getattr(other, field), field


@given(trees())
def test_reads_back_what_was_written(tree: Tree) -> None:
    snapshot = snapshot_of(tree)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tree.zks")
        zks.write(snapshot, path)
        assert_same(zks.read(path), snapshot)
        assert_same(zks.read(path, verify_hash=False), snapshot)


@pytest.mark.parametrize("name", REAL_TREES)
def test_real_trees_in_many_blocks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 nodes or 5,000 bytes stand for large trees."""
    snapshot = load_real(name)
    zks.write(snapshot, tmp_path / "one")
    monkeypatch.setattr(zks, "NODES_PER_BLOCK", 100)
    monkeypatch.setattr(zks, "BYTES_PER_BLOCK", 5_000)
    monkeypatch.setattr(zks, "ACLS_PER_BLOCK", 2)
    zks.write(snapshot, tmp_path / "many")
    blocks = [sum(1 for _ in sealed.read(tmp_path / path, zks.FORMAT)) for path in ("one", "many")]
    assert blocks[0] == 4
    assert blocks[1] > 22
    for path in ("one", "many"):
        assert_same(zks.read(tmp_path / path), snapshot)


def test_the_seal_can_be_checked_without_zkmig(small: Path) -> None:
    content = small.read_bytes()
    assert blake2b(content[:-32], digest_size=32).digest() == content[-32:]
    output = subprocess.run(["b2sum", "-l", "256"], input=content[:-32], capture_output=True, check=True).stdout
    assert output.split()[0].decode() == content[-32:].hex()


# -- damage -----------------------------------------------------------------------------------------------------------


def refused(path: Path, content: bytes) -> DamagedFile:
    """`content` must be refused by an error that names the file and an offset inside or at the end of it."""
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as caught:
        zks.read(path)
    assert caught.value.where == str(path)
    assert 0 <= caught.value.offset <= len(content)
    assert f"at byte {caught.value.offset}" in str(caught.value)
    return caught.value


def test_every_flipped_byte_is_refused_near_where_it_is(small: Path) -> None:
    content = small.read_bytes()
    for offset in range(len(content)):
        for bits in (0x01, 0x80, 0xFF):
            altered = bytearray(content)
            altered[offset] ^= bits
            assert refused(small, bytes(altered)).offset <= offset + sealed.CHECK_BYTES


def test_every_truncation_is_refused(small: Path) -> None:
    content = small.read_bytes()
    for length in range(len(content)):
        refused(small, content[:length])


@pytest.mark.parametrize("more", [b"\0", b"\n", b"zksnap"])
def test_what_follows_the_seal_is_refused(small: Path, more: bytes) -> None:
    content = small.read_bytes()
    assert refused(small, content + more).offset == len(content)


def test_two_files_one_after_the_other_are_refused(small: Path) -> None:
    refused(small, small.read_bytes() * 2)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, sealed.BLOCK_BYTES_MAX, sealed.BLOCK_BYTES_MAX + 1])
def test_a_hostile_length_reserves_no_memory(small: Path, length: int) -> None:
    content = small.read_bytes()
    tracemalloc.start()
    try:
        error = refused(small, content[:8] + length.to_bytes(4, "big") + content[12:])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert error.offset == 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a snapshot file"),
        (b"PK\3\4" + bytes(100), "not a snapshot file"),
        (b"zksnap\0\2" + bytes(100), "format version 2, made by a newer zkmig"),
        (b"zksnap\0\0" + bytes(100), "format version 0"),
    ],
)
def test_other_files_and_versions_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in str(refused(tmp_path / "other", content))


def reseal(path: Path, change: Callable[[list[Any]], object]) -> bytes:
    """The file with its blocks changed and every check right: what only a faulty or hostile writer makes."""
    values = [block.value for block in sealed.read(path, zks.FORMAT)]
    change(values)
    forged = path.with_suffix(".forged")
    with sealed.create(forged, zks.FORMAT, force=True) as writer:
        for value in values:
            writer.block(value)
        writer.seal()
    return forged.read_bytes()


def test_resealing_changes_nothing_by_itself(small: Path) -> None:
    assert reseal(small, list) == small.read_bytes()


HEADER, ACLS, NODES, TRAILER = range(4)

FORGERIES: dict[str, Callable[[list[Any]], object]] = {
    "no blocks": lambda v: v.clear(),
    "no trailer": lambda v: v.pop(),
    "no nodes": lambda v: v.pop(NODES),
    "no header": lambda v: v.pop(HEADER),
    "a block after the trailer": lambda v: v.append({}),
    "nodes twice": lambda v: v.insert(NODES, v[NODES]),
    "header is a number": lambda v: v.__setitem__(HEADER, 5),
    "nodes are a number": lambda v: v.__setitem__(NODES, 5),
    "a count that is off": lambda v: v[HEADER].update(nodes=5),
    "an unknown field": lambda v: v[HEADER]["provenance"].update(password="x"),
    "another root": lambda v: v[HEADER]["scope"].update(root="/other"),
    "an ACL of two members": lambda v: v[ACLS].update(acls=[[[1, "world"]]]),
    "an ACL id out of range": lambda v: v[ACLS].update(acls=v[ACLS]["acls"][:1]),
    "another hash": lambda v: v[TRAILER].update(tree_hash="0" * 64),
    "another counter hash": lambda v: v[TRAILER].update(counter_hash="0" * 64),
    "no hash": lambda v: v[TRAILER].pop("tree_hash"),
    "another path": lambda v: v[NODES].update(paths=v[NODES]["paths"].replace(b"a-b", b"a/b")),
    "a path that is not UTF-8": lambda v: v[NODES].update(paths=v[NODES]["paths"].replace(b"a-b", b"a\xffb")),
    "a control character": lambda v: v[NODES].update(paths=v[NODES]["paths"].replace(b"a-b", b"a\nb")),
    "a column missing": lambda v: v[NODES].pop("mzxid"),
    "a column too short": lambda v: v[NODES].update(mzxid=v[NODES]["mzxid"][8:]),
    "half a number": lambda v: v[NODES].update(mzxid=v[NODES]["mzxid"][1:]),
    "a column of text": lambda v: v[NODES].update(mzxid="x"),
    "a length below -1": lambda v: v[NODES].update(data_lengths=b"\xfe\xff\xff\xff" * 4),
    "lengths beyond the data": lambda v: v[NODES].update(data_lengths=b"\xff\xff\xff\x7f" * 4),
    "an unknown kind": lambda v: v[NODES].update(kinds=b"\0\0\x09\3"),
    "a TTL node without a time": lambda v: v[NODES].update(ttl_nodes=b"", ttl_values=b""),
    "a time without a node": lambda v: v[NODES].update(ttl_values=b""),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_sealed_nonsense_is_refused(small: Path, forgery: str) -> None:
    refused(small, reseal(small, FORGERIES[forgery]))


def test_the_stated_hash_is_believed_only_when_asked_to(small: Path) -> None:
    small.write_bytes(reseal(small, FORGERIES["another hash"]))
    assert zks.read(small, verify_hash=False).tree_hash == snapshot_of(SMALL).tree_hash


def test_payload_that_is_not_msgpack(tmp_path: Path) -> None:
    """Nesting and counts that msgpack refuses, under right checks."""
    for payload in (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\x01\x02", b"\xdb\xff\xff\xff\xff"):
        body = zks.FORMAT.start + len(payload).to_bytes(4, "big") + payload
        body += blake2b(body, digest_size=32).digest()[: sealed.CHECK_BYTES] + bytes(4)
        error = refused(tmp_path / "file", body + blake2b(body, digest_size=32).digest())
        assert error.offset == 8


# -- the file system --------------------------------------------------------------------------------------------------


def test_magic_decides_not_the_name(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zks"
    other.write_bytes(b"zkplan\0\1")
    assert zks.is_zks(small)
    assert not any(map(zks.is_zks, (other, tmp_path, tmp_path / "absent")))


def test_an_existing_file_stays_unless_forced(small: Path) -> None:
    before = small.read_bytes()
    other = snapshot_of({"": Node(b"other")})
    with pytest.raises(BadInput, match=r"the file exists.*--force"):
        zks.write(other, small)
    assert small.read_bytes() == before
    zks.write(other, small, force=True)
    assert zks.read(small)["/app"].data == b"other"


def create_while(path: Path, meanwhile: Callable[[], object]) -> None:
    """Write a file while something else happens in the folder."""
    with sealed.create(path, zks.FORMAT) as writer:
        meanwhile()
        writer.seal()


def test_a_file_that_comes_in_between_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(BadInput, match="the file exists"):
        create_while(path, lambda: path.write_bytes(b"came first"))
    assert path.read_bytes() == b"came first"
    assert os.listdir(tmp_path) == ["file"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems such as FAT refuse os.link; the file still appears, and still overwrites nothing."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    zks.write(snapshot_of(SMALL), path)
    assert_same(zks.read(path), snapshot_of(SMALL))
    with pytest.raises(BadInput, match="the file exists"):
        create_while(tmp_path / "new", (tmp_path / "new").touch)
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt() -> None:
        assert len(os.listdir(tmp_path)) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_while(tmp_path / "file", interrupt)
    assert os.listdir(tmp_path) == []


def test_others_cannot_read_the_file(small: Path) -> None:
    assert stat.S_IMODE(small.stat().st_mode) == 0o600


def test_places_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, force in ((tmp_path / "no" / "folder", False), (tmp_path, True), (pipe, True), (Path("/dev/null"), True)):
        with pytest.raises(BadInput):
            zks.write(snapshot_of(SMALL), path, force)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(BadInput, match="cannot be read") as caught:
            zks.read(path)
        assert not isinstance(caught.value, DamagedFile)


def test_memory_stays_near_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a tree of 2 MB in blocks of 64 KiB takes less than a quarter of it; reading, less than twice."""
    monkeypatch.setattr(zks, "BYTES_PER_BLOCK", 1 << 16)
    snapshot = snapshot_of({"": Node(), **{f"/n{number:04d}": Node(bytes(1000)) for number in range(2000)}})
    assert snapshot.tree_hash
    path = tmp_path / "file"
    tracemalloc.start()
    try:
        zks.write(snapshot, path)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
        tracemalloc.reset_peak()
        zks.read(path, verify_hash=False)
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size
    finally:
        tracemalloc.stop()
