"""A location in, a snapshot out: what `zkmig.read` and every command that takes a location go through."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict, Unpack

from zkmig.errors import BadInput, NotConsistent
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT, SYSTEM_ROOT
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.source import ensemble, zks
from zkmig.source.location import EnsembleLocation, FileLocation, Location, parse
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.tls import Tls

CONNECT_TIMEOUT_S = 10.0
SESSION_TIMEOUT_MS = 30_000

PLAN_MAGIC = b"zkplan"  # of `plan.planfile`, which lies above this layer

_FORGOTTEN_SCHEME = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}(,[^/]*)?(/.*)?")


class ReadOptions(TypedDict, total=False):
    """How to read; a file heeds only excludes and control.

    auth: credentials of the session. tls: how, where a location says zks://. excludes: absolute paths below the root,
    left out with all below them; the server's own tree and the control plane always are. control: root of the control
    plane. progress: called now and then with the number of znodes read so far. check_stop: called twice a second while
    waiting; what it raises ends the read. known: an earlier snapshot of the same scope of
    the same ensemble, so that only what moved since is read in full.
    connect_timeout_s: for all hosts together. session_timeout_ms: asked of the server.
    """

    auth: Sequence[Credential]
    tls: Tls
    excludes: Iterable[str]
    control: str
    progress: Callable[[int], None] | None
    check_stop: Callable[[], None] | None
    known: Snapshot | None
    connect_timeout_s: float
    session_timeout_ms: int


def read(location: str | Location, **options: Unpack[ReadOptions]) -> Snapshot:
    """The tree at `location`: an ensemble is scanned, a snapshot file is read.

    Raises BadInput (SourceAbsent where an ensemble has no such root, DamagedFile), Unreachable, NotPermitted (no znode
    is ever left out for want of permission). Nothing is written.
    """
    snapshot = read_or_none(location, **options)
    if snapshot is None:
        raise ensemble.absent(str(location))
    return snapshot


def read_or_none(location: str | Location, **options: Unpack[ReadOptions]) -> Snapshot | None:
    """As `read`, but None where an ensemble has no such root: a target may be yet to come."""
    if isinstance(location, str):
        location = parse(location)
    excludes, control = options.get("excludes", ()), options.get("control", CONTROL_ROOT)
    if isinstance(location, FileLocation):
        return _read_file(location.path, excludes, control)
    scope = make_scope(location.path, excludes, control)
    client = Client(
        location.hosts,
        auth=options.get("auth", ()),
        connect_timeout_s=options.get("connect_timeout_s", CONNECT_TIMEOUT_S),
        session_timeout_ms=options.get("session_timeout_ms", SESSION_TIMEOUT_MS),
        check_stop=options.get("check_stop"),
        tls=options.get("tls", Tls()) if location.tls else None,
    )
    with client:
        return ensemble.scan_or_none(
            client,
            scope,
            progress=options.get("progress"),
            known=options.get("known"),
            provenance=provenance_of(location),
        )


def consistent(snapshot: Snapshot) -> Snapshot:
    """`snapshot` if it is one state of the tree; raises NotConsistent if it is not known to be."""
    if not snapshot.is_fuzzy:
        return snapshot
    seen = f"zxids {snapshot.zxid_first:#x} to {snapshot.zxid_last:#x}"
    raise NotConsistent(
        f"it is fuzzy, of {seen}: {snapshot.consistency.reason}",
        snapshot.provenance.location,
        "try again when fewer write, or leave out with --exclude what never rests",
    )


def provenance_of(location: EnsembleLocation) -> Provenance:
    """What a snapshot of a live ensemble, taken now, says of where it comes from."""
    return Provenance(
        location.text or str(location),
        tuple(location.hosts_text.split(",")),
        time.time_ns() // 1_000_000,
        tool_version(),
    )


def tool_version() -> str:
    """The version of the installed package; "" where there is none."""
    try:
        return version("zkmig")
    except PackageNotFoundError:
        return ""


def make_scope(root: str, excludes: Iterable[str] = (), control: str = CONTROL_ROOT) -> Scope:
    """The scope of `root` less `excludes`, the server's own tree and the control plane.

    BadInput for an exclude that is not below the root (it would leave out nothing, or everything), and for a root
    inside one.
    """
    paths.validate(root)
    for kept_out in (SYSTEM_ROOT, paths.validate(control)):
        if paths.contains(kept_out, root):
            what = "the server's own tree" if kept_out == SYSTEM_ROOT else "zkmig's control plane"
            raise BadInput(f"this is {what}, which is never read or migrated", root, "name another root")
    narrowed: dict[str, None] = dict.fromkeys((SYSTEM_ROOT, control))
    for exclude in excludes:
        exclude = paths.validate(exclude.removesuffix("/") or "/")
        if paths.contains(exclude, root):
            raise BadInput("this exclude leaves out everything", exclude, f"name paths below {root}")
        if not paths.contains(root, exclude):
            raise BadInput(f"this exclude is not below {root}", exclude, "excludes are absolute paths on the server")
        narrowed[exclude] = None
    return Scope(root, tuple(narrowed))


# -- files ------------------------------------------------------------------------------------------------------------


def _read_file(path: Path, excludes: Iterable[str], control: str) -> Snapshot:
    start = _start_of(path)
    if start.startswith(PLAN_MAGIC):
        raise BadInput(
            "this is a plan file, and a snapshot is wanted", str(path), "zkmig apply --dry-run tells what a plan does"
        )
    snapshot = zks.read(path)
    wanted = make_scope(snapshot.root, excludes, control)
    return narrow(snapshot, tuple(dict.fromkeys((*snapshot.scope.excludes, *wanted.excludes))))


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(PLAN_MAGIC))
    except FileNotFoundError:
        forgotten = _FORGOTTEN_SCHEME.fullmatch(str(path))
        hint = f"an ensemble is written zk://{path}" if forgotten else "check the name; ensembles are written zk://..."
        raise BadInput("there is no such file", str(path), hint) from None
    except OSError:
        return b""  # what is wrong with it is told where it is read


def narrow(snapshot: Snapshot, excludes: tuple[str, ...]) -> Snapshot:
    """`snapshot` less the subtrees of `excludes`."""
    scope, gone = Scope(snapshot.root, excludes, snapshot.scope.includes), set(excludes)
    if scope == snapshot.scope:
        return snapshot
    if not any(exclude in snapshot for exclude in gone):
        same = Snapshot(snapshot.columns, scope, snapshot.provenance, snapshot.consistency)
        same.hashes = snapshot.hashes
        return same
    builder = SnapshotBuilder()
    columns, index = snapshot.columns, 0
    while index < len(snapshot):
        znode = snapshot.znode_at(index)
        if znode.path in gone:
            index = columns.ends[index]
        else:
            builder.add(znode.path, znode.data, znode.acl, znode.stat, znode.kind, znode.ttl_ms)
            index += 1
    return builder.build(scope, snapshot.provenance, snapshot.consistency)
