"""The journal of one attempt: the pre-image of all it touches, from which readers and rollback work.

It is uploaded whole, before the scope leaves STABLE, below ``epochs/<n>-<attempt>/``: undo chunks (msgpack), then the
manifest (JSON) that lists the hash of each. The record pins the manifest by its own hash. A chunk holds nodes of one
READ set and carries that set, so that undo never publishes what an ACL protected. Digest ids are among that: a server
shows them only to whoever has ADMIN on the node, so full ACLs lie in private chunks for just those, and the others hold
them masked as the server would.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

import msgpack

from zkmig.epoch.control import AttemptPaths
from zkmig.epoch.created import Created
from zkmig.errors import NotPermitted, Refused, UnknownFormat
from zkmig.model.acl import ADMIN, ALL, READ, WORLD, Acl, AclList, Identity, acl_of_plain, grants, masked
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind, Znode
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.replies import DataResult
from zkmig.wire.requests import GetData

FORMAT = 1
PAGED_FORMAT = 2  # of the node that names a manifest's pages, which older readers cannot put together
CHUNK_BYTES_MAX = 60 * 1024  # payload; with its guarded head a chunk stays below a frame of 64 KiB [zookeeper-facts 37]
READ_DEPTH = 16
NO_BATCH = -1  # an entry that belongs to no batch: parents touched, ACLs changed outside multis


class Action(Enum):
    """What the migration does to a path; so what its pre-image means."""

    CREATED = "created"  # was absent
    WRITTEN = "written"  # data replaced
    DELETED = "deleted"
    ACL = "acl"  # only the ACL of an existing node changes
    TOUCHED = "touched"  # children come or go, or the counter is raised: only its Stat differs


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of the plan and what was there before. before is None exactly for CREATED.

    batch: the batch that writes it, NO_BATCH for ACL and TOUCHED; entries are in the order of the plan. kind, ttl_ms:
    of CREATED alone, as what: no server will tell [zookeeper-facts 18].
    """

    action: Action
    path: str
    batch: int
    before: Znode | None
    kind: Kind = Kind.PERSISTENT
    ttl_ms: int = 0


@dataclass(frozen=True, slots=True)
class AclEntry:
    """An ACL set outside multis. tighten: before the data, None for nothing to take away; final: after the commit.

    aversion: of the node when the attempt began, 0 for one that it creates.
    """

    path: str
    tighten: AclList | None
    final: AclList
    aversion: int
    created: bool

    @property
    def is_pending_after_commit(self) -> bool:
        return self.tighten != self.final

    @property
    def aversion_before_final(self) -> int:
        return self.aversion + (self.tighten is not None)


@dataclass(frozen=True, slots=True)
class Journal:
    """All entries in the order of the plan, and the ACL steps."""

    entries: tuple[Entry, ...]
    acls: tuple[AclEntry, ...] = ()

    def by_path(self) -> dict[str, Entry]:
        """Entry of each path. A path that is touched besides being written keeps its written entry."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.action is not Action.TOUCHED or entry.path not in found:
                found[entry.path] = entry
        return found


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an attempt is about, and the hash of each undo chunk in order (BLAKE2b-256, hex).

    private: indexes of chunks that a reader may lack the permission to read; a migrator needs them all. quotas: path
    and limits of each that is set after the commit.
    """

    incarnation: str
    epoch: int
    attempt: str
    root: str
    plan_hash: str
    batches: int
    frame_bytes: int
    chunks: tuple[str, ...]
    private: tuple[int, ...]
    journal_bytes: int
    format: int = FORMAT
    quotas: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()

    def nodes(self, attempt: AttemptPaths) -> list[tuple[str, bytes]]:
        """Path and data of each node to write, in order; the last is the one whose hash pins them all.

        One that has grown large, by many READ sets, say, goes in pages: no frame is larger than those of chunks.
        """
        whole = self.encode()
        if len(whole) <= CHUNK_BYTES_MAX:
            return [(attempt.manifest, whole)]
        pages = [whole[start : start + CHUNK_BYTES_MAX] for start in range(0, len(whole), CHUNK_BYTES_MAX)]
        head = json.dumps({"format": PAGED_FORMAT, "pages": [digest(page) for page in pages]}).encode()
        return [*((attempt.manifest_page(index), page) for index, page in enumerate(pages)), (attempt.manifest, head)]

    @classmethod
    def decode(cls, data: bytes | None, path: str) -> Manifest:
        try:
            fields = json.loads(data or b"")
            if fields["format"] != FORMAT:
                hint = "upgrade, or use the zkmig that wrote it"
                raise UnknownFormat(f"journal of format {fields['format']}", path, hint)
            fields["chunks"] = tuple(fields["chunks"])
            fields["private"] = tuple(fields["private"])
            fields["quotas"] = tuple((path, text) for path, text in fields.get("quotas", ()))
            return cls(**fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnknownFormat("this is not a journal's manifest", path, "run zkmig status") from error


def digest(data: bytes) -> str:
    """BLAKE2b-256, hex: the hash that pins manifests and chunks."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of one undo node and the ACL it is created with."""

    payload: bytes
    acl: AclList
    is_private: bool


ReadSet = frozenset[Identity]

_EVERYBODY: ReadSet = frozenset({WORLD})


def read_set(acl: AclList) -> ReadSet:
    """Who may READ a node with this ACL: everybody alone, whoever else is named. An empty list lets everybody."""
    holders = _holders(acl, READ) if acl else _EVERYBODY
    return _EVERYBODY if WORLD in holders else holders


def _holders(acl: AclList, perm: int) -> ReadSet:
    return frozenset(Identity(a.scheme, a.id) for a in acl if a.perms & perm)


def make_chunks(
    journal: Journal,
    read_sets: dict[str, ReadSet],
    admins: Sequence[Identity],
    own: Sequence[Identity],
    payload_bytes_max: int = CHUNK_BYTES_MAX,
    created: Created | None = None,
) -> Iterator[Chunk]:
    """Cut the journal into chunks, each for one set of identities.

    read_sets: of every path in the journal (for a created path, that of its parent: its name is what there is to
    protect). own: identities of the migrator, which keep access where the admin is everybody. created: entries
    that come before those of the journal.
    """
    first = 0
    if created is not None:
        first = len(created)
        for group, payload in created.payloads(payload_bytes_max):
            yield Chunk(payload, _chunk_acl(group, admins, own), False)
    packers: dict[tuple[ReadSet, bool], _ChunkPacker] = {}

    def packer(group: ReadSet, is_private: bool) -> _ChunkPacker:
        return packers.setdefault(
            (group, is_private), _ChunkPacker(_chunk_acl(group, admins, own), is_private, payload_bytes_max)
        )

    for position, entry in enumerate(journal.entries, first):
        shown = _as_readers_see_it(entry)
        yield from packer(read_sets[entry.path], False).add(["e", position, *_pack_entry(shown)])
        if entry.before is None and entry.kind is not Kind.PERSISTENT:
            yield from packer(read_sets[entry.path], False).add(["k", position, entry.kind.value, entry.ttl_ms])
        if shown is not entry and entry.before is not None:
            acl = entry.before.acl
            yield from packer(_holders(acl, ADMIN), True).add(["f", position, [list(each) for each in acl]])
    for position, step in enumerate(journal.acls):
        yield from packer(frozenset(), True).add(["a", position, *_pack_acl_entry(step)])
    for each in packers.values():
        yield from each.flush()


def _as_readers_see_it(entry: Entry) -> Entry:
    """The entry with its ACL masked, unless everybody has ADMIN or there is nothing to mask."""
    if entry.before is None or grants(entry.before.acl, ()) & ADMIN or masked(entry.before.acl) == entry.before.acl:
        return entry
    return dataclasses.replace(entry, before=entry.before._replace(acl=masked(entry.before.acl)))


def _chunk_acl(group: ReadSet, admins: Sequence[Identity], own: Sequence[Identity]) -> AclList:
    keepers = list(admins)
    if WORLD in keepers and WORLD not in group:
        # Everybody is admin of this control plane, yet not everybody may read these nodes. The migrator may: as whom
        # the nodes let in; else as whom it alone is, since an address is shared by all on its host.
        selves = [identity for identity in own if identity != WORLD]
        digests = [identity for identity in selves if identity.scheme == "digest"]
        keepers = [identity for identity in selves if identity in group] or digests or selves or [WORLD]
    entries = [Acl(ALL, *identity) for identity in keepers]
    entries += [Acl(READ, *identity) for identity in sorted(group) if identity not in keepers]
    return tuple(entries)


class _ChunkPacker:
    """Gathers the items of one set of identities until the next would overflow the chunk."""

    def __init__(self, acl: AclList, is_private: bool, payload_bytes_max: int) -> None:
        self._acl = acl
        self._is_private = is_private
        self._max = payload_bytes_max
        self._items: list[bytes] = []
        self._size = 0

    def add(self, item: list[Any]) -> Iterator[Chunk]:
        packed = msgpack.packb(item)
        if self._items and self._size + len(packed) > self._max:
            yield from self.flush()
        self._items.append(packed)
        self._size += len(packed)

    def flush(self) -> Iterator[Chunk]:
        if self._items:
            yield Chunk(b"".join(self._items), self._acl, self._is_private)
        self._items, self._size = [], 0


def entry_bytes(entry: Entry) -> int:
    """Bytes that the entry takes in a chunk, for planning what the journal weighs."""
    return len(msgpack.packb(["e", 1 << 30, *_pack_entry(entry)]))


def deleted_sizes(
    path_offsets: Sequence[int],
    data_offsets: Sequence[int],
    nulls: bytes,
    acl_ids: Sequence[int],
    acl_table: Sequence[AclList],
    stats: Iterable[tuple[int, ...]],
    ttls: Mapping[int, int],
) -> list[int]:
    """What `entry_bytes` gives for the entry of each node that is deleted, from columns: there may be a million.

    acl_ids, stats: of each. ttls: milliseconds by index, of those of kind TTL.
    """
    pack = msgpack.Packer().pack
    acl_sizes = [len(pack([list(each) for each in acl])) for acl in acl_table]
    bare = Entry(Action.DELETED, "", 0, Znode("", b"", (), _ZERO, Kind.PERSISTENT))
    fixed = entry_bytes(bare) - len(pack("")) - len(pack(b"")) - len(pack([])) - len(pack(_ZERO))
    lengths = zip(pairwise(path_offsets), pairwise(data_offsets), nulls, acl_ids, stats, strict=True)
    sizes = [
        fixed
        + (size := stop - start)
        + (1 if size < 32 else 2 if size < 0x100 else 3 if size < 0x10000 else 5)
        + (1 if is_null else (data := last - first) + (2 if data < 0x100 else 3 if data < 0x10000 else 5))
        + acl_sizes[acl_id]
        + len(pack(stat))
        for (start, stop), (first, last), is_null, acl_id, stat in lengths
    ]
    for index, ttl_ms in ttls.items():
        sizes[index] += len(pack(ttl_ms)) - len(pack(0))
    return sizes


_ZERO = Stat(*[0] * len(Stat._fields))


def _pack_entry(entry: Entry) -> list[Any]:
    if entry.before is None:
        return [entry.action.value, entry.path, entry.batch]
    node = entry.before
    return [
        entry.action.value,
        entry.path,
        entry.batch,
        node.data,
        [list(acl) for acl in node.acl],
        list(node.stat),
        node.kind.value,
        node.ttl_ms,
    ]


def _pack_acl_entry(step: AclEntry) -> list[Any]:
    tighten = None if step.tighten is None else [list(acl) for acl in step.tighten]
    return [step.path, tighten, [list(acl) for acl in step.final], step.aversion, step.created]


# -- reading ----------------------------------------------------------------------------------------------------------


def load(
    client: Client, attempt: AttemptPaths, manifest_hash: str, for_reader: bool = False
) -> tuple[Manifest, Journal]:
    """The attempt's manifest and journal, each byte checked against the hash that the record pins.

    for_reader: private chunks that may not be read are done without: the ACLs in them stay masked, and there are no ACL
    steps. Raises JournalMissing when a node of it is gone (read the record again: the attempt may have ended
    meanwhile), and NotPermitted when an undo chunk may not be read.
    """
    (manifest_data,) = _read(client, [attempt.manifest])
    assert manifest_data is not None
    if digest(manifest_data) != manifest_hash:
        raise JournalMissing("the manifest is not the one that the record names", attempt.manifest)
    manifest = Manifest.decode(_whole(client, attempt, manifest_data), attempt.manifest)
    optional = {attempt.chunk(index) for index in manifest.private} if for_reader else set()
    chunks = _read(client, [attempt.chunk(index) for index in range(len(manifest.chunks))], optional)
    payloads = []
    for index, (payload, expected) in enumerate(zip(chunks, manifest.chunks, strict=True)):
        if payload is None:
            continue
        if digest(payload) != expected:
            raise UnknownFormat("an undo chunk was altered", attempt.chunk(index), "do not go on; restore it")
        payloads.append(payload)
    return manifest, unpack(payloads, attempt.undo)


def _whole(client: Client, attempt: AttemptPaths, head: bytes) -> bytes:
    """The manifest from its node, and its pages if it has any."""
    try:
        fields = json.loads(head)
        hashes = fields["pages"] if fields["format"] == PAGED_FORMAT else ()
        places = [attempt.manifest_page(index) for index in range(len(hashes))]
    except (ValueError, KeyError, TypeError, RecursionError):
        return head  # for decode to say what is wrong with it
    pages = [page or b"" for page in _read(client, places)]
    for place, page, expected in zip(places, pages, hashes, strict=True):
        if digest(page) != expected:
            raise UnknownFormat("a page of the manifest was altered", place, "do not go on; restore it")
    return b"".join(pages) or head


class JournalMissing(Refused):
    """A journal node that the record promises is not there: the record has to be read again."""


def _read(client: Client, journal_paths: list[str], optional: Set[str] = frozenset()) -> list[bytes | None]:
    """Data of each node; None for one of `optional` that may not be read."""
    found: list[bytes | None] = []
    for path, reply in zip(
        journal_paths, client.pipeline((GetData(path) for path in journal_paths), READ_DEPTH), strict=True
    ):
        if reply.error == Code.NO_NODE:
            raise JournalMissing("a part of the journal is missing", path)
        if reply.error == Code.NO_AUTH and path in optional:
            found.append(None)
            continue
        if reply.error == Code.NO_AUTH:
            raise NotPermitted("not permitted to read undo", path, "its nodes are protected from this identity")
        if reply.error:
            raise error_for(reply.error, path, "getData")
        assert isinstance(reply.result, DataResult)
        found.append(reply.result.data or b"")
    return found


def unpack(payloads: Iterable[bytes], where: str) -> Journal:
    """The journal from its chunks, in any order of chunks."""
    entries: dict[int, Entry] = {}
    acls: dict[int, AclEntry] = {}
    full: dict[int, AclList] = {}
    kinds: dict[int, tuple[Kind, int]] = {}
    try:
        for payload in payloads:
            unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=0)
            unpacker.feed(payload)
            for tag, position, *fields in unpacker:
                if tag == "e":
                    entries[position] = _unpack_entry(fields)
                elif tag == "f":
                    full[position] = acl_of_plain(fields[0])
                elif tag == "k":
                    kinds[position] = Kind(fields[0]), int(fields[1])
                elif tag == "a":
                    acls[position] = _unpack_acl_entry(fields)
                else:
                    raise ValueError(f"unknown item {tag!r}")
        has_gaps = sorted(entries) != list(range(len(entries))) or sorted(acls) != list(range(len(acls)))
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise UnknownFormat(f"damaged undo: {error}", where, "do not go on; restore it") from error
    if has_gaps:
        raise UnknownFormat("undo has gaps", where, "do not go on; restore it")
    for position, acl in full.items():
        entry = entries.get(position)
        if entry is not None and entry.before is not None:
            entries[position] = dataclasses.replace(entry, before=entry.before._replace(acl=acl))
    for position, (kind, ttl_ms) in kinds.items():
        if position in entries and entries[position].before is None:
            entries[position] = dataclasses.replace(entries[position], kind=kind, ttl_ms=ttl_ms)
    return Journal(
        tuple(entries[position] for position in range(len(entries))),
        tuple(acls[position] for position in range(len(acls))),
    )


def _unpack_entry(fields: list[Any]) -> Entry:
    action, path, batch, *before = fields
    if not before:
        return Entry(Action(action), path, batch, None)
    data, acl, stat, kind, ttl_ms = before
    node = Znode(path, data, acl_of_plain(acl), Stat(*stat), Kind(kind), ttl_ms)
    return Entry(Action(action), path, batch, node)


def _unpack_acl_entry(fields: list[Any]) -> AclEntry:
    path, tighten, final, aversion, created = fields
    return AclEntry(path, None if tighten is None else acl_of_plain(tighten), acl_of_plain(final), aversion, created)
