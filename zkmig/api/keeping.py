"""history, prune and remove: what a scope keeps of its epochs, and taking it away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, ensemble, scope_at
from zkmig.apply import prune as pruning
from zkmig.apply import remove as removing
from zkmig.apply.options import DRAIN_TIMEOUT_S, Options, Progress
from zkmig.apply.prune import Pruned
from zkmig.apply.remove import Removed
from zkmig.epoch.attempts import Attempt, read_attempts
from zkmig.epoch.control import read_record
from zkmig.epoch.owner import TakeOver, read_owner
from zkmig.epoch.record import Record
from zkmig.errors import BadInput
from zkmig.model.path import CONTROL_ROOT

Say = Callable[[str], None]
Report = Callable[[Progress], None]

KEEP_DEFAULT = 1


def _quiet(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class History:
    """Every attempt of a scope, oldest first, as its note and the record tell; iterating gives the attempts."""

    scope: str
    record: Record
    attempts: tuple[Attempt, ...]

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
    access = Access.of(**session)
    place = ensemble(at)
    with access.client(place) as client:
        names = scope_at(client, place.path, scope, control)
        record, _ = read_record(client, names)
        is_idle = not read_owner(client, names).alive
        return History(names.scope, record, tuple(read_attempts(client, names, record, is_owner=is_idle)))


def prune(
    at: str,
    scope: str | None = None,
    *,
    keep: int = KEEP_DEFAULT,
    dry_run: bool = False,
    wait: bool = False,
    steal: bool = False,
    control: str = CONTROL_ROOT,
    report: Report = _quiet,
    say: Say = _quiet,
    **session: Unpack[SessionOptions],
) -> Pruned:
    """Take away the journals of all attempts but those of the last `keep` committed epochs, which `revert` works from.

    The notes that make up the history stay. Refused while an epoch is under way, NotOwner while another migrator is
    alive (wait and steal as for `apply`). Stopped or cut off in between, it has taken away a part: prune again.
    """
    if keep < 0:
        raise BadInput("fewer than none cannot be kept", f"--keep {keep}", "give 0 or more")
    access = Access.of(**session)
    place = ensemble(at)
    with access.client(place) as client:
        return pruning.prune(
            client,
            scope_at(client, place.path, scope, control),
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
    report: Report = _quiet,
    say: Say = _quiet,
    **session: Unpack[SessionOptions],
) -> Removed:
    """Remove a scope: its record, history and undo; with the last scope the control root too. The tree stays as it is.

    Refused unless it is STABLE or EMPTY, with nothing pending, not held, and no guard registered that has not stopped
    its process; admitted actions are waited for, drain_timeout_s at most. evict: leases and guards to do without, as
    for `apply`. The scope goes in one transaction, after what is large in it.
    """
    access = Access.of(**session)
    place = ensemble(at)
    with access.client(place) as client:
        names = scope_at(client, place.path, scope, control)
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
