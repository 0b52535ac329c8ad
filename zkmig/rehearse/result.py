"""What came of a rehearsal, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a rehearsal that ended as it has to. proven: what was compared, in a sentence; "" for nothing.

    seconds: of the work itself; comparing_seconds: of the look at the tree afterwards, and what it is held against.
    nodes: znodes of the tree afterwards, ephemerals included, 0 for none. tree_hash, counter_hash: of that tree; None
    where there is none, or none was looked at.
    """

    name: str
    seconds: float
    comparing_seconds: float
    proven: str = ""
    nodes: int = 0
    tree_hash: str | None = None
    counter_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A rehearsal that came to its end: every stage left the tree that it had to.

    target: where the tree was read. tree_hash: of the target as it was loaded, None where its root is not there.
    server: version of the throw-away server. as_super: whether what was written was written by a user whom no ACL keeps
    out. warnings: what came out well here, and would not on the target. not_rehearsed: what this says nothing about, a
    sentence each. kept: folder with the server's data, "" if it is gone.
    """

    plan_hash: str
    target: str
    root: str
    tree_hash: str | None
    server: str
    writes: int
    batches: int
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]
    not_rehearsed: tuple[str, ...]
    as_super: bool = False
    kept: str = ""

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(stage.seconds + stage.comparing_seconds for stage in self.stages)
