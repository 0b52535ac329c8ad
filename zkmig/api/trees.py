"""read, diff and verify: trees at rest, wherever they are."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from zkmig.api.access import Access, SessionOptions
from zkmig.diff import Diff
from zkmig.diff import diff as compare
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.patterns import parse_path
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.policy.carry import Prepared, prepare, source_tops, target_tops
from zkmig.policy.leftout import LeftOut, left_out
from zkmig.policy.policy import AnyPolicy, Policy, policy_of
from zkmig.policy.selection import merged, only
from zkmig.source import ensemble as live
from zkmig.source import read as sources
from zkmig.source import zks
from zkmig.source.beside import beside
from zkmig.source.location import EnsembleLocation, Location, parse
from zkmig.wire.client import Client

_log = logging.getLogger("zkmig.api")

Tree = Snapshot | str  # a snapshot, or the location to read it from
ReadProgress = Callable[[int], None]  # gets the number of znodes read so far


def read(
    location: str,
    *,
    includes: Sequence[str] = (),
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    known: Snapshot | None = None,
    require_consistent: bool = False,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Snapshot:
    """The tree at `location`: an ensemble is scanned, a snapshot file is read. Nothing is written.

    known: an earlier snapshot of the same ensemble, never of a copy, so that ACLs are asked for only where czxid or
    aversion moved since, and child lists only where pzxid did. require_consistent: NotConsistent for a fuzzy one.

    includes: absolute paths; where there are any, only these subtrees are meant, and what is above them is kept to lead
    there. excludes: absolute paths left out with all below them. session: see `SessionOptions`. Raises BadInput (no
    such root or file, DamagedFile), Unreachable, NotPermitted (no znode is left out for want of permission).
    """
    access = Access.of(**session)
    root = _root_of(location)
    tops = tuple(parse_path(text, "--include") for text in includes)
    if root is None or root in tops or not all(paths.contains(root, top) for top in tops):
        tops = ()
    options = read_options(access, excludes, control, progress)
    options["known"] = known
    tree = selected(take(location, options, access, tops), includes)
    return sources.consistent(tree) if require_consistent else tree


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
    policy: AnyPolicy = None,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    hash_first: bool = False,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Diff:
    """What to change on `target` so that it equals `source`; paths are relative to the roots.

    A target of None, or a location whose root is not there: everything is an add. A source that is not there is
    BadInput. policy: what is meant, and as what the source is to be taken; a ComparePolicy says which aspects count.
    excludes: absolute paths, below either root, besides the policy's; what one side leaves out counts on neither.
    hash_first: compute hashes and pass over equal subtrees.
    """
    declared = with_excludes(policy, excludes)
    ready = _read_both(source, target, declared, Access.of(**session), control, progress)
    return compare(ready.source, ready.target, declared.compare, hash_first)


def _read_both(
    source: Tree, target: Tree | None, policy: Policy, access: Access, control: str, progress: ReadProgress | None
) -> Prepared:
    """Both trees, with the policy in force."""
    for_source, for_target = split_excludes(policy.excludes, source, target)
    ours = take_source(source, target, policy, read_options(access, for_source, control, progress), access)
    if target is None:
        return prepare(ours, None, policy)
    there = _root_of(target)
    tops = target_tops(policy, ours, there) if there is not None else ()
    theirs = take_or_none(target, read_options(access, for_target, control, progress), access, tops)
    return prepare(ours, theirs, policy, there)


def take_source(
    source: Tree, target: Tree | None, policy: Policy, options: sources.ReadOptions, access: Access
) -> Snapshot:
    """The source, of a live one only what the policy includes. SourceAbsent if it is not there."""
    here = _root_of(source)
    tops = source_tops(policy, here, _root_of(target)) if here is not None else ()
    return take(source, options, access, tops)


def with_excludes(policy: AnyPolicy, excludes: Sequence[str]) -> Policy:
    """The policy, these excludes added to its own."""
    declared = policy_of(policy)
    return dataclasses.replace(declared, excludes=tuple(dict.fromkeys((*declared.excludes, *excludes))))


def selected(tree: Snapshot, includes: Sequence[str]) -> Snapshot:
    """The tree less all that is neither in nor above the included subtrees. BadInput if one of them is not there."""
    relative: list[str] = []
    for text in includes:
        include = parse_path(text, "--include")
        if include not in tree:
            raise BadInput("the tree has no such node to include", include, f"name paths below {tree.root}")
        relative.append(paths.relative_to(include, tree.root))
    return only(tree, merged(relative))


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether two trees are the same. diff: None where their hashes, of everything, are equal."""

    source: Snapshot
    target: Snapshot | None
    diff: Diff | None
    left_out: LeftOut = field(default_factory=LeftOut)

    def differs(self, exact_counters: bool = False) -> bool:
        """As `Diff.differs`: a counter that is higher on the target counts only with exact_counters."""
        return self.diff is not None and self.diff.differs(exact_counters)


def verify(
    source: Tree,
    target: Tree,
    *,
    policy: AnyPolicy = None,
    excludes: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    by_hash: bool = True,
    progress: ReadProgress | None = None,
    **session: Unpack[SessionOptions],
) -> Verification:
    """Compare two trees by hash, and node by node where the hashes differ. Arguments and errors as for `diff`.

    by_hash: False compares node by node at once.
    """
    declared = with_excludes(policy, excludes)
    ready = _read_both(source, target, declared, Access.of(**session), control, progress)
    ours, theirs = ready.source, ready.target
    found: Diff | None = None
    if not by_hash or theirs is None or _hashes(ours) != _hashes(theirs):
        found = compare(ours, theirs, declared.compare)
    return Verification(ours, theirs, found, left_out(ready, found, theirs.root if theirs is not None else ours.root))


def _hashes(tree: Snapshot) -> tuple[str, str]:
    return tree.tree_hash, tree.counter_hash


def take(tree: Tree, options: sources.ReadOptions, access: Access | None = None, tops: Sequence[str] = ()) -> Snapshot:
    """A snapshot less the excludes of the options, or the tree at a location. SourceAbsent if it is not there."""
    found = take_or_none(tree, options, access, tops)
    if found is None:
        raise live.absent(str(tree))
    return found


def take_or_none(
    tree: Tree, options: sources.ReadOptions, access: Access | None = None, tops: Sequence[str] = ()
) -> Snapshot | None:
    """The same, None if the location's root is not there.

    tops: absolute paths; where there are any, no more than these subtrees, and what is above them, is read of a live
    ensemble, over a session of `access` besides.
    """
    if isinstance(tree, str):
        place = parse(tree)
        _log.info("reading %s", place)  # parsed: what cannot be a location may hold a password
        if not tops or access is None or not isinstance(place, EnsembleLocation):
            return sources.read_or_none(tree, **options)
        with access.client(place) as client:
            aside = beside(client, place.path, tops)
        asked = list(options["excludes"])
        limited: sources.ReadOptions = {**options, "excludes": [*asked, *aside]}
        found = sources.read_or_none(tree, **limited)
        return found and _only(found, sources.make_scope(place.path, asked, options["control"]), tops)
    excludes = tuple(dict.fromkeys((*tree.scope.excludes, *options["excludes"])))
    return sources.narrow(tree, excludes)


def _only(snapshot: Snapshot, scope: Scope, tops: Iterable[str]) -> Snapshot:
    """What a scan brought of these subtrees. What stood beside them is not excluded, it is not selected."""
    whole = Snapshot(snapshot.columns, scope, snapshot.provenance, snapshot.consistency)
    return only(whole, merged(paths.relative_to(top, scope.root) for top in tops))


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
    tops: Sequence[str] = (),
) -> Snapshot | None:
    """The tree of a live target over a session that is open; None if its root is not there yet. tops: only these."""
    access.stop.check()
    aside = beside(client, place.path, tops) if tops else []
    scope = sources.make_scope(place.path, (*excludes, *aside), control)
    found = live.scan_or_none(client, scope, progress=progress, provenance=sources.provenance_of(place))
    if found is None or not tops:
        return found
    return _only(found, sources.make_scope(place.path, excludes, control), tops)
