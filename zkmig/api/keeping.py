"""history, prune and remove: what a scope keeps of its epochs, and taking it away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, open_scope
from zkmig.apply import prune as pruning
from zkmig.apply import remove as removing
from zkmig.apply.options import DRAIN_TIMEOUT_S, Options, Progress, quiet
from zkmig.apply.prune import Pruned
from zkmig.apply.remove import Removed
from zkmig.apply.rollback import read_deviations
from zkmig.apply.verify import Deviation
from zkmig.epoch.attempts import Attempt, home_of, read_attempts
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.owner import TakeOver, read_owner
from zkmig.epoch.record import Record
from zkmig.errors import BadInput, NotPermitted
from zkmig.model.path import CONTROL_ROOT
from zkmig.wire.client import Client

Say = Callable[[str], None]
Report = Callable[[Progress], None]

KEEP_DEFAULT = 1


@dataclass(frozen=True, slots=True)
class History:
    """Every attempt of a scope, oldest first, as its note and the record tell; iterating gives the attempts.

    left_as_found: what a rollback has left with somebody else's value, by the attempt's name, where this identity may
    read it and it was not pruned.
    """

    scope: str
    record: Record
    attempts: tuple[Attempt, ...]
    left_as_found: Mapping[str, tuple[Deviation, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self.attempts)

    def __len__(self) -> int:
        return len(self.attempts)


def history(
    at: str,
    scope: str | None = None,
    *,
    control: str = CONTROL_ROOT,
    **session: Unpack[SessionOptions],
) -> History:
    """Every attempt at an epoch that was ever begun here: who, when, what became of it, and whether its undo is kept.

    Nothing is written. Raises what `status` raises.
    """
    with open_scope(Access.of(**session), at, scope, control) as (client, names):
        record, _ = read_record(client, names)
        is_idle = not read_owner(client, names).alive
        attempts = tuple(read_attempts(client, names, record, is_owner=is_idle))
        return History(names.scope, record, attempts, _left_as_found(client, names, attempts))


def _left_as_found(
    client: Client, names: ControlPaths, attempts: Iterable[Attempt]
) -> dict[str, tuple[Deviation, ...]]:
    found: dict[str, tuple[Deviation, ...]] = {}
    for attempt in attempts:
        if attempt.note.deviations and attempt.children:
            try:
                deviations = tuple(read_deviations(client, home_of(names, attempt.note)))
            except NotPermitted:
                continue  # the paths are for admins: some lie below what others may not look into
            if deviations:
                found[attempt.note.attempt] = deviations
    return found


def prune(
    at: str,
    scope: str | None = None,
    *,
    keep: int = KEEP_DEFAULT,
    dry_run: bool = False,
    wait: bool = False,
    steal: bool = False,
    control: str = CONTROL_ROOT,
    report: Report = quiet,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Pruned:
    """Take away the journals of all attempts but those that reverting the last `keep` committed epochs works from.

    Of the last one of these that is also the journals of attempts that were rolled back since.

    The notes that make up the history stay. Refused while an epoch is under way, NotOwner while another migrator is
    alive (wait and steal as for `apply`). Stopped or cut off in between, it has taken away a part: prune again.
    """
    if keep < 0:
        raise BadInput("fewer than none cannot be kept", f"--keep {keep}", "give 0 or more")
    access = Access.of(**session)
    with open_scope(access, at, scope, control) as (client, names):
        return pruning.prune(
            client,
            names,
            keep,
            options=Options(report=report, say=say),
            take_over=TakeOver(wait, steal),
            stop=access.stop,
            dry_run=dry_run,
        )


def remove(
    at: str,
    scope: str,
    *,
    dry_run: bool = False,
    wait: bool = False,
    steal: bool = False,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    evict: Sequence[str] = (),
    control: str = CONTROL_ROOT,
    report: Report = quiet,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Removed:
    """Remove a scope: its record, history and undo; with the last scope the control root too. The tree stays as it is.

    Refused unless it is STABLE or EMPTY, with nothing pending, not held, and no guard registered that has not stopped
    its process; admitted actions are waited for, drain_timeout_s at most. evict: leases and guards to do without, as
    for `apply`. The scope goes in one transaction, after what is large in it.
    """
    access = Access.of(**session)
    with open_scope(access, at, scope, control) as (client, names):
        options = dataclasses.replace(
            Options(report=report, say=say), drain_timeout_s=drain_timeout_s, evict=tuple(evict)
        )
        return removing.remove_scope(
            client,
            names,
            options=options,
            take_over=TakeOver(wait, steal),
            stop=access.stop,
            dry_run=dry_run,
        )
