"""read, diff and verify: trees at rest, wherever they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Unpack

from zkmig.api.access import Access, SessionOptions
from zkmig.diff import DEFAULT_POLICY, ComparePolicy, Diff
from zkmig.diff import diff as compare
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.snapshot import Snapshot
from zkmig.source import ensemble as live
from zkmig.source import read as sources
from zkmig.source import zks
from zkmig.source.location import EnsembleLocation, Location, parse
from zkmig.wire.client import Client

_log = logging.getLogger("zkmig.api")

Tree = Snapshot | str  # a snapshot, or the location to read it from
ReadProgress = Callable[[int], None]  # gets the number of znodes read so far


def read(
    location: str,
    *,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Snapshot:
    """The tree at `location`: an ensemble is scanned, a snapshot file is read. Nothing is written.

    excludes: absolute paths left out with all below them. session: see `SessionOptions`. Raises BadInput (no such root
    or file, DamagedFile), Unreachable, NotPermitted (no znode is left out for want of permission).
    """
    return take(location, read_options(Access.of(**session), excludes, control, progress))


def save_snapshot(snapshot: Snapshot, path: str, force: bool = False) -> None:
    """Write a snapshot file, complete or not at all. BadInput if it exists (unless `force`) or cannot be written."""
    zks.write(snapshot, path, force)


def read_options(
    access: Access, excludes: Iterable[str], control: str, progress: ReadProgress | None
) -> sources.ReadOptions:
    """The same, as `zkmig.source.read` takes it."""
    return {
        "auth": access.auth,
        "tls": access.tls,
        "excludes": excludes,
        "control": control,
        "progress": progress,
        "check_stop": access.stop.check,
        "connect_timeout_s": access.connect_timeout_s,
        "session_timeout_ms": access.session_timeout_ms,
    }


def diff(
    source: Tree,
    target: Tree | None,
    *,
    policy: ComparePolicy | None = None,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    hash_first: bool = False,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Diff:
    """What to change on `target` so that it equals `source`; paths are relative to the roots.

    A target of None, or a location whose root is not there: everything is an add. A source that is not there is
    BadInput. excludes: absolute paths, below either root; what one side leaves out counts on neither.
    hash_first: compute hashes and pass over equal subtrees.
    """
    access = Access.of(**session)
    for_source, for_target = split_excludes(excludes, source, target)
    ours = take(source, read_options(access, for_source, control, progress))
    theirs = None if target is None else take_or_none(target, read_options(access, for_target, control, progress))
    return compare(ours, theirs, policy or DEFAULT_POLICY, hash_first)


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether two trees are the same. diff: None where their hashes, of everything, are equal."""

    source: Snapshot
    target: Snapshot | None
    diff: Diff | None

    def differs(self, exact_counters: bool = False) -> bool:
        """As `Diff.differs`: a counter that is higher on the target counts only with exact_counters."""
        return self.diff is not None and self.diff.differs(exact_counters)


def verify(
    source: Tree,
    target: Tree,
    *,
    policy: ComparePolicy | None = None,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Verification:
    """Compare two trees by hash, and node by node where the hashes differ. Arguments and errors as for `diff`."""
    access = Access.of(**session)
    for_source, for_target = split_excludes(excludes, source, target)
    ours = take(source, read_options(access, for_source, control, progress))
    theirs = take_or_none(target, read_options(access, for_target, control, progress))
    if theirs is not None and (ours.tree_hash, ours.counter_hash) == (theirs.tree_hash, theirs.counter_hash):
        return Verification(ours, theirs, None)
    return Verification(ours, theirs, compare(ours, theirs, policy or DEFAULT_POLICY))


def take(tree: Tree, options: sources.ReadOptions) -> Snapshot:
    """A snapshot less the excludes of the options, or the tree at a location. SourceAbsent if it is not there."""
    found = take_or_none(tree, options)
    if found is None:
        raise live.absent(str(tree))
    return found


def take_or_none(tree: Tree, options: sources.ReadOptions) -> Snapshot | None:
    """The same, None if the location's root is not there."""
    if isinstance(tree, str):
        _log.info("reading %s", parse(tree))  # parsed: what cannot be a location may hold a password
        return sources.read_or_none(tree, **options)
    excludes = tuple(dict.fromkeys((*tree.scope.excludes, *options["excludes"])))
    return sources.narrow(tree, excludes)


def split_excludes(excludes: Sequence[str], source: Tree, target: Tree | None) -> tuple[list[str], list[str]]:
    """Those that lie below the source's root, and those below the target's; each must lie below one of them.

    A snapshot file's root is known only once it is read: an exclude is given to it when no other side takes it.
    """
    roots = [_root_of(tree) for tree in (source, target)]
    split: tuple[list[str], list[str]] = ([], [])
    for exclude in excludes:
        exclude = paths.validate(exclude.removesuffix("/") or "/")
        takers = [root is not None and root != exclude and paths.contains(root, exclude) for root in roots]
        if not any(takers):
            takers = [root is None and tree is not None for root, tree in zip(roots, (source, target), strict=True)]
        if not any(takers):
            raise BadInput("this exclude lies below neither root", exclude, "excludes are absolute paths on a server")
        for side, takes in zip(split, takers, strict=True):
            side.extend([exclude] if takes else [])
    return split


def _root_of(tree: Tree | None) -> str | None:
    if tree is None:
        return None
    if isinstance(tree, Snapshot):
        return tree.root
    location: Location = parse(tree)
    return location.path if isinstance(location, EnsembleLocation) else None


def scan_target(
    access: Access,
    place: EnsembleLocation,
    client: Client,
    excludes: Sequence[str],
    control: str,
    progress: ReadProgress | None,
) -> Snapshot | None:
    """The tree of a live target over a session that is open; None if its root is not there yet."""
    access.stop.check()
    scope = sources.make_scope(place.path, excludes, control)
    return live.scan_or_none(client, scope, progress=progress, provenance=sources.provenance_of(place))
