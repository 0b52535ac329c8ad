"""Relocation: subtrees of the source that are to arrive somewhere else below the target's root.

Paths are relative to the roots here, "/..." each. Invariants of a Relocation: no OLD twice; no NEW inside or above
another NEW, so that no two sources lead to one target; no NEW below an OLD, where nothing is left to hold it.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import AclList
from zkmig.model.columns import Columns
from zkmig.model.patterns import parse_path
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat

_OPTION = "--map-path"


@dataclass(frozen=True, slots=True)
class PathRule:
    """The subtree at `old`, an absolute path on the source, arrives at `new`, an absolute path on the target."""

    old: str
    new: str

    @classmethod
    def parse(cls, text: str) -> PathRule:
        """OLD=NEW. Paths may hold "=" themselves: the one that divides is followed by a slash."""
        parts = text.split("=/")
        if len(parts) != 2:
            raise BadInput(
                "not a rule for paths: it must divide into two absolute paths at one =",
                repr(text),
                "write it like /app/old=/app/new",
            )
        return cls(parse_path(parts[0], _OPTION), parse_path("/" + parts[1], _OPTION))

    def __str__(self) -> str:
        return f"{self.old}={self.new}"


@dataclass(frozen=True, slots=True)
class Relocation:
    """moves: OLD -> NEW, both relative. Where one OLD lies in another, the deeper one decides for what is below it."""

    moves: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, rules: Iterable[PathRule], source_root: str, target_root: str) -> Relocation:
        """Rules made relative. BadInput for what the invariants exclude, and for paths outside the roots."""
        moves: list[tuple[str, str]] = []
        for rule in rules:
            for path, root, side in ((rule.old, source_root, "source"), (rule.new, target_root, "target")):
                if path == root or not paths.contains(root, path):
                    raise BadInput(
                        f"{_OPTION} {rule}: this is not below the {side}'s root {root}",
                        path,
                        "OLD is a path on the source, NEW one on the target",
                    )
            moves.append((paths.relative_to(rule.old, source_root), paths.relative_to(rule.new, target_root)))
        _check(moves)
        return cls(tuple(moves))

    def image(self, relative: str) -> str:
        """Where a node of the source arrives."""
        inside = [move for move in self.moves if relative == move[0] or relative.startswith(move[0] + "/")]
        if not inside:
            return relative
        old, new = max(inside, key=lambda move: len(move[0]))
        return new + relative[len(old) :]

    def images(self, relative: str) -> tuple[str, ...]:
        """The tops of the subtrees that a subtree of the source becomes: its own image, and what moves out of it."""
        out = [new for old, new in self.moves if old.startswith(relative + "/")]
        here = self.image(relative)
        return (here, *(new for new in out if not paths.contains(here or "/", new)))


def _check(moves: list[tuple[str, str]]) -> None:
    for position, (old, new) in enumerate(moves):
        for other_old, other_new in moves[:position]:
            if old == other_old:
                raise BadInput(f"{_OPTION}: this path is moved twice", old, "keep one of the rules")
            if paths.overlap(new, other_new):
                raise BadInput(f"{_OPTION}: two sources lead to one target", new, "keep one of the rules")
        for other_old, _ in moves:
            if new != other_old and paths.contains(other_old, new):
                raise BadInput(
                    f"{_OPTION}: this lies below {other_old}, which is moved away itself", new, "choose another place"
                )


def relocated(snapshot: Snapshot, relocation: Relocation) -> tuple[Snapshot, tuple[str, ...]]:
    """The snapshot with subtrees where they are to arrive, and the relative paths that were made up on the way there.

    A parent of NEW that the source does not have is made up: empty, persistent, with the ACL of the node above it.
    Sequence counters stay what they were. BadInput where OLD is not there, or something else is already at NEW.
    """
    if not relocation.moves:
        return snapshot, ()
    root = snapshot.root
    for old, new in relocation.moves:
        if paths.join(root, old) not in snapshot:
            raise BadInput(f"{_OPTION}: the source has no such node", paths.join(root, old), "check the path")
        here = paths.join(root, new)
        if here in snapshot and relocation.image(new) == new and new != old:
            raise BadInput(
                f"{_OPTION}: the source has a node there already", here, "move that one too, or choose another"
            )
    builder = SnapshotBuilder()
    builder.extend(_renamed(snapshot, relocation), [(0, len(snapshot))])
    made_up = _make_up_parents(builder, snapshot, relocation)
    excludes = tuple(
        paths.join(root, relocation.image(paths.relative_to(each, root))) if paths.contains(root, each) else each
        for each in snapshot.scope.excludes
    )
    includes = tuple(
        paths.join(root, image)
        for each in snapshot.scope.includes
        for image in relocation.images(paths.relative_to(each, root))
    )
    scope = Scope(root, tuple(dict.fromkeys(excludes)), includes)
    return builder.build(scope, snapshot.provenance, snapshot.consistency), made_up


def _renamed(snapshot: Snapshot, relocation: Relocation) -> Columns:
    """The columns with the paths that nodes are to have, in the old order."""
    columns, root = snapshot.columns, snapshot.root
    pieces = [columns.path_bytes(index) for index in range(len(snapshot))]
    for old, new in sorted(relocation.moves):  # a deeper rule comes later, and wins
        strip, prefix = len(paths.join(root, old).encode()), paths.join(root, new).encode()
        for index in snapshot.subtree_indices(paths.join(root, old)):
            pieces[index] = prefix + columns.path_bytes(index)[strip:]
    offsets = array("Q", accumulate(map(len, pieces), initial=0))
    return dataclasses.replace(columns, paths_blob=b"".join(pieces), path_offsets=offsets)


def _make_up_parents(builder: SnapshotBuilder, snapshot: Snapshot, relocation: Relocation) -> tuple[str, ...]:
    root = snapshot.root
    arrived = {new: paths.join(root, old) for old, new in relocation.moves}
    acls: dict[str, AclList] = {}

    def acl_of(relative: str) -> AclList | None:
        """None where no node arrives."""
        if relative in acls:
            return acls[relative]
        path = paths.join(root, relative)
        if relative in arrived:
            return snapshot[arrived[relative]].acl
        # No NEW lies inside another, so that what is above one was not moved there.
        return snapshot[path].acl if path in snapshot and relocation.image(relative) == relative else None

    made_up: list[str] = []
    for _, new in relocation.moves:
        missing: list[str] = []
        parent = new.rpartition("/")[0]
        while acl_of(parent) is None:
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        for relative in reversed(missing):
            above = acl_of(relative.rpartition("/")[0])
            assert above is not None
            acls[relative] = above
            builder.add(paths.join(root, relative), b"", above, _MADE_UP)
            made_up.append(relative)
    return tuple(made_up)


_MADE_UP = Stat(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
