"""How to apply, how far it has come, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zkmig.apply.probe import OpenProbe
from zkmig.apply.tempo import TempoSeen
from zkmig.apply.verify import Deviation
from zkmig.epoch.record import Record

DRAIN_TIMEOUT_S = 60.0


def quiet(_: object) -> None:
    """For what is said or reported and nobody listens to."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where long work stands: its phase, and done of total units of it.

    in_flight: batches under way, on an average; latency_ms: of others' writes, measured last; None: not known.
    """

    phase: str
    done: int
    total: int
    in_flight: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How to apply. single_shot: auto, never or require. report: called as work proceeds; say: sentences.

    writes_per_s: at most so many; None: as many as others can stand. open_probe: makes the client that measures what
    others feel; None: nobody measures. all_take: whether every member takes a frame of so many bytes; None: the one
    that the client is connected to is asked. ignore_quotas: go on although hard quotas would be passed.
    reverts: the epoch that the plan takes back, for the scope's history. evict: leases and guards that the drain is
    not to wait for, by name.
    """

    single_shot: str = "auto"
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    report: Callable[[Progress], None] = quiet
    say: Callable[[str], None] = quiet
    writes_per_s: float | None = None
    open_probe: OpenProbe | None = None
    all_take: Callable[[int], bool] | None = None
    ignore_quotas: bool = False
    reverts: int | None = None
    evict: tuple[str, ...] = ()


def say_hold(record: Record, say: Callable[[str], None]) -> None:
    """That work goes on under a hold: an epoch that is under way has to end all the same, but whoever has set the hold
    may not think of it."""
    if record.held is not None:
        say(f"the scope is {record.held.told()}; what is under way goes on all the same")


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of it. epoch: the committed one. batches: sent in OPEN, 0 for a single shot and for ACLs or quotas
    alone. already: it was committed before. nothing_to_do: the plan is empty. deviations: ACLs that somebody else
    changed meanwhile and that were left as they are. tempo: how fast it went, and what others felt of it; None where
    nobody measured. quotas, acls: how many were set; ACLs that nodes were created with are no such."""

    epoch: int
    attempt: str | None
    writes: int
    batches: int
    single_shot: bool
    already: bool = False
    deviations: tuple[Deviation, ...] = ()
    tempo: TempoSeen | None = None
    nothing_to_do: bool = False
    quotas: int = 0
    acls: int = 0
