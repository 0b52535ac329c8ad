"""Upload: the journal of a new attempt, whole and hashed before the scope leaves STABLE: services wait for less."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zkmig.apply.options import Options, Progress
from zkmig.apply.pacing import Pacing
from zkmig.apply.preimage import Preimage
from zkmig.epoch.attempts import AttemptNote, ScriptNote, user_name
from zkmig.epoch.control import ATTEMPT_CHARS, AttemptPaths, Roles
from zkmig.epoch.journal import CHUNK_BYTES_MAX, Chunk, Manifest, digest, make_chunks
from zkmig.epoch.owner import Migrator
from zkmig.errors import Conflict, NotPermitted, PlanImpossible
from zkmig.model.acl import WORLD
from zkmig.plan.plan import Plan
from zkmig.wire.codes import Code, code_name
from zkmig.wire.requests import Create, frame_size


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A journal that is there. attempt: its random name. manifest_hash: what the record pins it by."""

    attempt: str
    manifest_hash: str


def upload(
    migrator: Migrator,
    plan: Plan,
    plan_hash: str,
    preimage: Preimage,
    epoch: int,
    options: Options,
    pacing: Pacing,
    takes: Callable[[int], bool],
) -> Uploaded:
    """Home with its note, undo chunks, cursors, and last the manifest. No record names it yet.

    takes: whether every server takes a frame of so many bytes.
    """
    name = secrets.token_hex(ATTEMPT_CHARS // 2)
    attempt = migrator.names.attempt(epoch, name)
    acl = migrator.control_acl
    roles = Roles.of_record(acl)
    own = [*migrator.client.identities, WORLD]
    chunks = []
    for chunk in make_chunks(preimage.journal, preimage.read_sets, roles.admin, own, created=preimage.created):
        chunks.append(chunk)
        migrator.beat()  # packing asks no server anything, and a large journal takes its time
    _refuse_too_large(
        migrator, attempt, chunks, preimage, lambda size: size <= plan.limits.frame_bytes_max and takes(size)
    )
    note = AttemptNote(
        epoch,
        name,
        plan_hash,
        time.time(),
        base=migrator.record.state.value,
        plan_path=migrator.owner.plan_path if migrator.owner is not None else "",
        writes=plan.writes,
        batches=len(plan.batch_ends),
        journal_bytes=sum(len(chunk.payload) for chunk in chunks),
        chunks=len(chunks),
        reverts=options.reverts,
        script=ScriptNote(plan.script.name, plan.script.file, plan.script.sha256) if plan.script else None,
        counts=plan.counts,
        user=user_name(),
        masks=plan.masks,
    ).worked_on_by(migrator.owner)
    places = [
        Create(attempt.home, note.encode(), acl),
        *(Create(path, None, acl) for path in (attempt.undo, attempt.cursor, attempt.rcursor)),
    ]
    migrator.write_all(places, "begin a journal", witness=0)
    _upload_chunks(migrator, attempt, chunks, options, pacing)
    manifest = Manifest(
        incarnation=migrator.record.incarnation,
        epoch=epoch,
        attempt=name,
        root=migrator.record.root,
        plan_hash=plan_hash,
        batches=note.batches,
        frame_bytes=plan.limits.batch_bytes_max,
        chunks=tuple(digest(chunk.payload) for chunk in chunks),
        private=tuple(index for index, chunk in enumerate(chunks) if chunk.is_private),
        journal_bytes=note.journal_bytes,
        quotas=tuple((quota.path, quota.text) for quota in plan.quotas),
    )
    for path, data in manifest.nodes(attempt):
        migrator.write_all([Create(path, data, acl)], "write the manifest", witness=0)
    return Uploaded(name, digest(data))


def _refuse_too_large(
    migrator: Migrator,
    attempt: AttemptPaths,
    chunks: Sequence[Chunk],
    preimage: Preimage,
    takes: Callable[[int], bool],
) -> None:
    """PlanImpossible, before anything is written, for a chunk that a server would only drop the connection for.

    One that holds a single large pre-image, with its Stat and its ACL twice, takes more than the batch that undoes it.
    """
    sizes = (
        frame_size(migrator.guarded([Create(attempt.chunk(index), chunk.payload, chunk.acl)]))
        for index, chunk in enumerate(chunks)
        if len(chunk.payload) > CHUNK_BYTES_MAX
    )
    largest = max(sizes, default=0)
    if largest and not takes(largest):
        held = [entry.before for entry in preimage.journal.entries if entry.before is not None]
        raise PlanImpossible(
            f"to put its undo on the servers takes a transaction of {largest} bytes, more than one of them accepts",
            max(held, key=lambda node: len(node.data or b"")).path,
            "raise jute.maxbuffer on every server of the target, or leave the node as it is",
        )


def _upload_chunks(
    migrator: Migrator, attempt: AttemptPaths, chunks: Sequence[Chunk], options: Options, pacing: Pacing
) -> None:
    failure = migrator.write_series(
        lambda index: (Create(attempt.chunk(index), chunks[index].payload, chunks[index].acl),),
        0,
        len(chunks),
        witness=0,
        pace=pacing,
        progress=lambda done: options.report(Progress("journal", done, len(chunks), *pacing.now())),
    )
    if failure:
        where = attempt.chunk(failure.index)
        if failure.result.code == Code.NO_AUTH:
            raise NotPermitted("not permitted to write undo", where, "authenticate as the scope's admin")
        raise Conflict(f"could not write undo: {code_name(failure.result.code)}", where, "apply again")
