"""Part: which znodes of a scope a reader wants, worked out from the record's root and excludes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zkmig.epoch.record import Record
from zkmig.errors import NotReady
from zkmig.model import path as paths


class OutsideScope(NotReady):
    """A path was asked for that is not part of the scope."""


@dataclass(frozen=True, slots=True)
class Part:
    """tops: subtrees that are read, none inside another. ancestors: what lies above them, outermost first, from the
    root of the scope on. excludes: subtrees left out."""

    root: str
    tops: tuple[str, ...]
    ancestors: tuple[str, ...]
    excludes: frozenset[str]

    def covers(self, path: str) -> bool:
        """Whether a view shows `path` if it is there."""
        if path in self.ancestors:
            return True
        return any(paths.contains(top, path) for top in self.tops) and not any(
            paths.contains(excluded, path) for excluded in self.excludes
        )


def part_of(record: Record, control: str, wanted: tuple[str, ...] | None) -> Part:
    """The part that `wanted` names (None: all of the scope). NotReady when one of them lies outside the scope."""
    root = record.root
    excludes = {paths.SYSTEM_ROOT, paths.CONTROL_ROOT, control, *record.excludes}
    relevant = frozenset(excluded for excluded in excludes if paths.overlap(root, excluded))
    if wanted is None or any(paths.contains(path, root) for path in wanted):
        return Part(root, (root,), (), relevant)
    for path in wanted:
        if not paths.contains(root, path) or any(paths.contains(excluded, path) for excluded in relevant):
            raise OutsideScope(
                f"this path is not part of the scope over {root}", path, "correct the paths of the Reader"
            )
    tops = tuple(_outermost(wanted))
    above = {ancestor for top in tops for ancestor in _between(root, top)}
    return Part(root, tops, tuple(sorted(above, key=paths.order_key)), relevant)


def _outermost(wanted: Iterable[str]) -> Iterable[str]:
    last: str | None = None
    for path in sorted(set(wanted), key=paths.order_key):
        if last is None or not paths.contains(last, path):
            yield path
            last = path


def _between(root: str, path: str) -> Iterable[str]:
    """Ancestors of `path` up to and with `root`."""
    while path != root:
        path = paths.parent(path)
        yield path
