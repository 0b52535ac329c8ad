"""Scope: which part of a tree is meant."""

from __future__ import annotations

from dataclasses import dataclass

from zkmig.model import path as paths


@dataclass(frozen=True, slots=True)
class Scope:
    """A subtree, less whole subtrees that are left out. All are absolute paths on the server.

    The server's own /zookeeper and the control plane are never part of a scope. includes: where there are any, only
    these subtrees are meant; nodes above them are there to lead to them, and say nothing more.
    """

    root: str
    excludes: tuple[str, ...] = (paths.SYSTEM_ROOT, paths.CONTROL_ROOT)
    includes: tuple[str, ...] = ()

    def below(self, path: str) -> Scope:
        """The scope of the subtree at `path`, which is covered: its includes are those that lie in it."""
        inside = () if any(paths.contains(each, path) for each in self.includes) else self.includes
        return Scope(path, self.excludes, tuple(each for each in inside if paths.contains(path, each)))

    def covers(self, path: str) -> bool:
        """Whether `path` is inside the root and outside every exclude, by whole components."""
        return paths.contains(self.root, path) and not any(paths.contains(e, path) for e in self.excludes)
