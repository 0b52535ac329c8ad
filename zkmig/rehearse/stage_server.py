"""The throw-away server: a real one, that takes what the target has, and a user whom no ACL keeps out."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zkmig.dev import Server
from zkmig.errors import BadInput
from zkmig.model.acl import digest_id
from zkmig.model.snapshot import Snapshot
from zkmig.plan.plan import SERVER_FRAME_BYTES_MAX, Plan
from zkmig.rehearse.loading import frame_bytes_for
from zkmig.wire.credential import Credential

SESSION_TIMEOUT_MS = 3_600_000  # ephemerals stay, even where a long computation keeps Python from pinging
HEAP_MB = 512
HEAP_BYTES_PER_NODE = 1_600  # a znode with its Stat, names and its journal's entry, some of them twice
HEAP_PART_OF_DATA = 3
SUPER_USER = "super"

# Providers of ids that servers can check without anybody having to log in [zookeeper-facts 21].
_PROVIDERS: dict[str, str | int] = {
    "authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
    "authProvider.x509": "org.apache.zookeeper.server.auth.X509AuthenticationProvider",
}


def frame_bytes_max(plan: Plan, target: Snapshot | None) -> int:
    """What the server has to take: the plan's largest transaction, and the target's largest node."""
    return max(SERVER_FRAME_BYTES_MAX, plan.limits.frame_bytes_max, frame_bytes_for(target))


def heap_mb(plan: Plan, target: Snapshot | None) -> int:
    """Of Java's heap, in MiB; more is only taken where it is needed."""
    count = (len(target) if target is not None else 0) + len(plan.operations)
    data = (target.columns.data_offsets[-1] if target is not None else 0) + plan.ordered.creates.data_offsets[-1]
    return HEAP_MB + (count * HEAP_BYTES_PER_NODE + data * HEAP_PART_OF_DATA + 3 * plan.journal_bytes) // (1 << 20)


def make_server(*, heap_mb: int = HEAP_MB, frame_bytes_max: int = SERVER_FRAME_BYTES_MAX) -> tuple[Server, Credential]:
    """A server, not started yet, that takes odd nodes and long sessions; and the credential of its super user."""
    password = secrets.token_urlsafe(24)
    server = Server(
        heap_mb=heap_mb,
        jute_maxbuffer=frame_bytes_max,
        extended_types=True,
        config={"maxSessionTimeout": SESSION_TIMEOUT_MS, **_PROVIDERS},
        java_options=(
            f"-Dzookeeper.DigestAuthenticationProvider.superDigest={digest_id(SUPER_USER, password)}",
            "-Dznode.container.checkIntervalMs=86400000",  # nothing that is loaded may go by itself
        ),
    )
    return server, Credential("digest", f"{SUPER_USER}:{password}".encode())


@contextmanager
def running(plan: Plan, target: Snapshot | None, keep: str) -> Iterator[tuple[Server, Credential]]:
    """A server for a rehearsal, started, and the credential of its super user. keep: folder to copy its files to, ""
    for none.

    However it ends, its process ends, and its own folder goes.
    """
    server, credential = make_server(heap_mb=heap_mb(plan, target), frame_bytes_max=frame_bytes_max(plan, target))
    with server:
        try:
            yield server, credential
        except BaseException as error:
            try:
                _kept(server, keep)
            except BadInput as other:  # what has ended the rehearsal says more
                error.add_note(f"  also: {other}")
            raise
        _kept(server, keep)


def _kept(server: Server, keep: str) -> None:
    if keep:
        server.stop()
        _keep(server.log_path.parent, keep)


def _keep(folder: Path, keep: str) -> None:
    """A copy of a server's files, complete or not at all; for its owner alone from the start, not only once all is
    there: ACLs guard no files."""
    try:
        os.mkdir(keep, 0o700)
    except OSError as error:
        raise BadInput(
            f"the server's files could not be kept there: {error.strerror}", keep, "name another folder"
        ) from error
    try:
        shutil.copytree(folder, keep, ignore=shutil.ignore_patterns("pid"), dirs_exist_ok=True)
    except OSError as error:  # shutil.Error is one, without a reason of its own
        shutil.rmtree(keep, ignore_errors=True)
        reason = error.strerror or "not all of them"
        raise BadInput(f"the server's files could not be kept there: {reason}", keep, "name another folder") from error
