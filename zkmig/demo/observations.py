"""What autoscalers wrote down, a JSON line for each round, and what an independent checker counts in it.

A view is torn if what was seen, paths and data, equals none of the whole images that plain kazoo read while nothing
was under way. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Observation:
    """One round of an autoscaler.

    started_s: when its process began its first round. begun_s, ended_s: around reading. digest: of what was seen.
    epoch: of the image that the reader says it shows, None for a reader that does not know of epochs. ordered: ids of
    servers that it ordered to be terminated. refused: the action was not admitted.
    """

    pid: int
    started_s: float
    begun_s: float
    ended_s: float
    digest: str
    znodes: int
    epoch: int | None
    ordered: tuple[str, ...]
    refused: bool

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Observation:
        """From a line of the file."""
        return cls(**{**fields, "ordered": tuple(fields["ordered"])})


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in which a migration was open."""

    begun_s: float
    ended_s: float

    def holds(self, observation: Observation) -> bool:
        """Whether the whole view was taken in it."""
        return self.begun_s <= observation.begun_s and observation.ended_s <= self.ended_s

    def saw_start_of(self, observation: Observation) -> bool:
        """Whether the process that took the view started in it."""
        return self.begun_s <= observation.started_s <= self.ended_s


@dataclass(frozen=True, slots=True)
class ReaderCounts:
    """What one autoscaler did. terminations_ordered: distinct servers. actions_refused: rounds not admitted.

    views_while_open: from the first write to the commit, or to the end of the rollback. views_started_midway: of those,
    by processes that themselves started in that time. misdated: views that are not the image of the epoch they name.
    epochs: those named by views, in order of appearance.
    """

    views: int
    views_while_open: int
    views_started_midway: int
    torn: int
    misdated: int
    terminations_ordered: int
    rounds_ordering: int
    actions_refused: int
    processes: int
    epochs: tuple[int, ...]


def count(observations: Collection[Observation], images: Mapping[int, str], spans: Iterable[Span]) -> ReaderCounts:
    """Count one autoscaler's rounds. images: digest of the whole image of each committed epoch."""
    whole = set(images.values())
    while_open = [(each, span) for span in spans for each in observations if span.holds(each)]
    return ReaderCounts(
        views=len(observations),
        views_while_open=len(while_open),
        views_started_midway=sum(span.saw_start_of(each) for each, span in while_open),
        torn=sum(each.digest not in whole for each in observations),
        misdated=sum(each.epoch is not None and each.digest != images.get(each.epoch) for each in observations),
        terminations_ordered=len({server for each in observations for server in each.ordered}),
        rounds_ordering=sum(bool(each.ordered) for each in observations),
        actions_refused=sum(each.refused for each in observations),
        processes=len({each.pid for each in observations}),
        epochs=tuple(dict.fromkeys(each.epoch for each in observations if each.epoch is not None)),
    )
