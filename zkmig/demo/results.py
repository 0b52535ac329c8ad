"""What a replay came to, and what may be concluded from it: from the counts alone, whatever they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zkmig.demo.observations import ReaderCounts


@dataclass(frozen=True, slots=True)
class Results:
    """servers_running: that either autoscaler could have terminated. znodes, changes: of the first migration.

    batches: applied in both epochs. batches_undone: of the second, by its rollback. is_committed_image_whole: the tree
    after the first commit equals the source. is_rolled_back_exactly: the tree after the rollback equals the one before
    its epoch, by plain kazoo and by tree hash. tree_hash: of the tree at the end. seconds: all of it.
    """

    plain: ReaderCounts
    aware: ReaderCounts
    servers_running: int
    znodes: int
    changes: int
    batches: int
    batches_undone: int
    epochs_committed: int
    epochs_rolled_back: int
    is_committed_image_whole: bool
    is_rolled_back_exactly: bool
    tree_hash: str
    seconds: float

    @property
    def failure(self) -> str | None:
        """What contradicts zkmig's promise, if anything does."""
        aware = self.aware
        if aware.torn or aware.misdated or aware.terminations_ordered:
            return (
                f"of {aware.views} views with zkmig.Reader {aware.torn} were torn and {aware.misdated} were not of the "
                f"epoch that they named, and its autoscaler ordered {aware.terminations_ordered} terminations"
            )
        if not self.is_committed_image_whole:
            return "the tree after the commit is not the one that was to be migrated"
        if not self.is_rolled_back_exactly:
            return "the tree after the rollback is not the one from before"
        return None

    @property
    def gap(self) -> str | None:
        """Why this run shows nothing, if it does not: the danger, or the reader, was not there."""
        if not self.aware.views_while_open:
            return "the autoscaler that reads with zkmig.Reader took no view while a migration was open"
        if not self.plain.terminations_ordered:
            return (
                f"{self.plain.torn} of {self.plain.views} views with plain kazoo were torn, and yet its autoscaler "
                "ordered no termination"
            )
        return None

    @property
    def is_as_promised(self) -> bool:
        """The plain autoscaler did harm, the aware one neither saw nor did any, and the trees are what they should."""
        return self.failure is None and self.gap is None

    def conclusion(self) -> str:
        """One sentence."""
        if self.failure is not None:
            return f"The promise is broken: {self.failure}."
        if self.gap is not None:
            return f"This run shows nothing: {self.gap}."
        plain, aware, running = self.plain, self.aware, self.servers_running
        return (
            f"With plain kazoo {plain.torn} of {plain.views} views were torn, and {plain.terminations_ordered} of "
            f"{running} servers would be gone; with zkmig.Reader {aware.torn} of {aware.views} views were torn, "
            f"{aware.views_while_open} of them taken while a migration was open, and {aware.terminations_ordered} "
            "servers would be gone."
        )

    def document(self) -> dict[str, Any]:
        """For --json."""
        fields = asdict(self)
        epochs = self.epochs_committed + self.epochs_rolled_back
        return {
            **fields,
            "epochs": epochs,
            "as_promised": self.is_as_promised,
            "conclusion": self.conclusion(),
        }
