"""Committed: under what a command ran, or may run, held against the record as it is now. Values alone, no state.

What is committed is told by an epoch and the incarnation of the scope in which it was; a scope that is deleted and
created again counts its epochs anew.
"""

from __future__ import annotations

from typing import NamedTuple

from zkmig.epoch.transitions import MIGRATING, State
from zkmig.guard.events import NoRecord, Seen


class Committed(NamedTuple):
    """What was committed when something ran, or when it was said that it may. incarnation: None where it is not known,
    which is of the scope in which the registration is."""

    incarnation: str | None
    epoch: int

    @classmethod
    def of(cls, scope: Seen) -> Committed:
        """For what is committed now."""
        return cls(scope.incarnation, scope.epoch)

    def is_for(self, scope: Seen) -> bool:
        """Whether that is what is committed now, as far as it is known."""
        return self.epoch == scope.epoch and self.incarnation in (None, scope.incarnation)


def obstacle(scope: Seen, now: float) -> str:
    """Why a scope admits nothing, in words."""
    words = []
    if scope.state in MIGRATING:
        words.append(f"the scope is {scope.state.value}, on the way to epoch {scope.target_epoch}")
    elif scope.state is not State.STABLE:
        words.append(f"the scope is {scope.state.value}")
    if scope.held is not None:
        words.append(scope.held.told(now))
    return "; ".join(words)


def lapse(scope: Seen | NoRecord | None, under: Seen, now: float) -> str:
    """Why what was registered under one record must not run under the one that is there now, in words: "" if it may.

    scope: as it was last seen, None: not at all.
    """
    if scope is None:
        return "the scope is not known"
    if isinstance(scope, NoRecord):
        return scope.why
    if not scope.admits:
        return obstacle(scope, now)
    if scope.incarnation != under.incarnation:
        return "the scope was deleted and created again"
    if scope.epoch != under.epoch:
        return f"epoch {scope.epoch} was committed meanwhile"
    if scope.last != under.last:
        return "a migration was begun and taken back meanwhile"
    return ""
