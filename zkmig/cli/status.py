"""`zkmig status`: what a scope is doing, and what can follow."""

from __future__ import annotations

import dataclasses
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import click

from zkmig.api import status as scopes
from zkmig.api.access import address, ensemble
from zkmig.apply.entries import ACTING, GUARDS, on_host, some
from zkmig.apply.following import advice, next_commands, plan_elsewhere
from zkmig.apply.status import Status
from zkmig.cli.run import BAD_INPUT, STOPPED, UNREACHABLE, Run, command_options, exit_codes, required_at, scope_options
from zkmig.cli.sessions import session_words
from zkmig.cli.terminal import escape
from zkmig.counted import counted
from zkmig.epoch.leases import GuardEntry
from zkmig.epoch.record import ConflictNote, shown_time
from zkmig.epoch.transitions import State
from zkmig.guard.claim import Verdict, judge
from zkmig.guard.machine import ProcessIdentity, this_process
from zkmig.guard.report import with_signal


@click.command(
    epilog=exit_codes({"0": "whatever it finds", **BAD_INPUT, "3": "there is no such scope", **UNREACHABLE, **STOPPED})
)
@scope_options()
@command_options
def status(run: Run, at: str | None, scope: str | None, control: str) -> None:
    """Tell what a scope is doing, who does it, what blocks it and for how long, and the commands that can follow.

    It fits a screen of 24 lines: where there is too much, what is long is cut in the middle, and many are counted.
    --json has all of it.
    """
    place = ensemble(required_at(at))
    found = scopes.status(str(place), scope, control=control, **run.session)
    following = [command + session_words() for command in next_commands(found, address(place), control)]
    run.document(_document(found, following, control))
    for line in screen(found, following, time.time(), _gone(found)):
        run.line(line)


def _document(found: Status, following: list[str], control: str) -> dict[str, Any]:
    record = found.record

    def plain(value: Any) -> Any:
        return None if value is None else dataclasses.asdict(value)

    return {
        "scope": found.scope,
        "root": record.root,
        "state": record.state.value,
        "held": None if record.held is None else record.held.document(),
        "epoch": record.epoch,
        "target_epoch": record.target_epoch,
        "attempt": record.attempt,
        "batches_applied": found.batches_applied,
        "batches_undone": found.batches_undone,
        "batches_total": record.batches_total,
        "owner": plain(found.owner.owner),
        "owner_alive": found.owner.alive,
        "owner_progress_at": found.owner.progress_at,
        "progress_at": found.progress_at,
        "readers": list(found.readers),
        "guards": list(found.guards),
        "guarded": [_guard_document(name, entry) for name, entry in found.guarded],
        "acting": list(found.acting),
        "blocking": [{"name": entry.name, "what": entry.what} for entry in found.blocking],
        "blocks_at_most_s": found.blocks_at_most_s,
        "attempts": len(found.attempts),
        "revertible": found.revertible is not None,
        "prunable": len(found.prunable),
        "evicted": [dataclasses.asdict(eviction) for eviction in found.evicted],
        "budgets": [dataclasses.asdict(note) for note in found.budgets],
        "pending": plain(record.pending),
        "conflict": plain(record.conflict),
        "last": plain(record.last),
        "incarnation": record.incarnation,
        "control": control,
        "advice": "; ".join(advice(found)) or None,
        "plan": plan_elsewhere(found),
        "next": following,
    }


def _guard_document(name: str, entry: GuardEntry) -> dict[str, Any]:
    process = entry.process or {}
    down = None if entry.down is None else dataclasses.asdict(entry.down)
    told = {"name": name, "unit": entry.unit, "stopped": entry.stopped, "since": entry.since, "why": entry.why}
    return {**told, "epoch": entry.epoch, "host": process.get("host"), "pid": process.get("pid"), "down": down}


def _gone(found: Status) -> frozenset[str]:
    """Names of the guards that are registered as running, and are known to have ended: they ran on this machine.

    One that cannot be seen from here is not among them: who is told that it is gone may well evict it. What they had
    started may still be being ended by their keepers, so nothing is concluded from it; it is told.
    """
    running = [(name, entry) for name, entry in found.guarded if not entry.stopped]
    here = this_process() if running else None
    return frozenset(name for name, entry in running if here is not None and _is_over(entry, here))


def _is_over(entry: GuardEntry, here: ProcessIdentity) -> bool:
    try:
        process = ProcessIdentity.from_json(entry.process)
        return judge(entry.instance, process, here, earlier=()) in _OVER  # we hold no claim that names anybody
    except ValueError:
        return False  # it does not say who it is


# -- one screen -------------------------------------------------------------------------------------------------------

COLUMNS, LINES = 80, 24
TITLE = 11
_LEAST = ("readers", "evicted", "kept", "guards", "overridden", "last")  # left out first where it would be more
_WHOLE = "plan"  # never cut: it is to be found by that
_WORDS = ("held", "", "last", "guards", "overridden", "advice")  # what people have to read: wrapped before it is cut
_OVER = (Verdict.LEFTOVERS, Verdict.OVER)
_ENDED_S = 24 * 3600  # a guard that a timer starts with --no-wait is back by then
_NAMED = 2  # of those that block, by their whole names, as --evict takes them
_ROOMY = ((5, 4), (5, 2), (5, 1), (_NAMED, 1))  # guards with a line of their own, lines for words; the first that fits


def screen(found: Status, following: Sequence[str], now: float, gone: Collection[str] = ()) -> list[str]:
    """The whole status in at most LINES lines of COLUMNS; only commands and the plan's path are longer, and wrap.

    gone: names of guards that have ended without saying so.
    """
    commands = [f"{'next':<{TITLE}}{escape(command)}" for command in following]
    rows: list[tuple[str, str]] = []
    for guards, lines in _ROOMY:
        rows = [shown for row in _rows(found, now, gone, guards) for shown in _shown(*row, lines)]
        if _fits(rows, commands):
            break
    left_out = iter(_LEAST)
    while not _fits(rows, commands):
        least = next(left_out, None)
        if least is None:
            rows = [(title, _cut(text)) for title, text in rows]  # also where the plan lies: --json has it
            break
        rows = [row for row in rows if row[0] != least]
    return [*(f"{title:<{TITLE}}{text}" for title, text in rows), *commands]


def _fits(rows: Sequence[tuple[str, str]], commands: Sequence[str]) -> bool:
    widths = [*(TITLE + _width(text) for _, text in rows), *map(_width, commands)]
    return sum(-(-width // COLUMNS) for width in widths) <= LINES


def _shown(title: str, text: str, lines: int) -> Iterator[tuple[str, str]]:
    """A row as it stands on the screen; in so many lines at most, if it is of words."""
    if title == _WHOLE:
        yield title, escape(text)
        return
    first, *more = _wrapped(text, lines if title in _WORDS else 1)
    yield title, first
    yield from (("", line) for line in more)


def _rows(found: Status, now: float, gone: Collection[str], guards: int) -> Iterator[tuple[str, str]]:
    record = found.record
    yield "scope", f"{found.scope} over {record.root}"
    flags = ["held", record.held.term(now)] if record.held is not None else []
    yield "state", ", ".join([record.state.value, *filter(None, flags)])
    yield "epoch", f"{record.epoch}"
    if record.target_epoch is not None:
        yield "under way", f"epoch {record.target_epoch}, attempt {record.attempt}{_done(found)}"
        if found.progress_at is not None:
            # By the clock of the server that leads, against ours.
            yield "progress", f"{max(0.0, now - found.progress_at):.0f} s ago, {shown_time(found.progress_at)}"
    owner = found.owner.owner
    if owner is not None and (found.owner.alive or record.target_epoch is not None):
        yield "owner", f"{owner.host} pid {owner.pid}, {_life(found, now)}, since {shown_time(owner.since)}"
    if record.held is not None:
        yield "held", record.held.by
        yield "", record.held.reason
    if record.pending is not None:
        yield "pending", str(record.pending)
    yield from _conflict(record.conflict)
    if record.last is not None:
        deviations = f", {counted(record.last.deviations, 'path')} left as found" if record.last.deviations else ""
        why = f": {record.last.reason}" if record.last.reason else ""
        outcome = record.last.outcome.replace("_", " ")
        yield "last", f"epoch {record.last.epoch} {outcome} {shown_time(record.last.at)}{deviations}{why}"
    if found.readers:
        yield "readers", f"{len(found.readers)}: {some(found.readers)}"
    yield from (("guards", line) for line in _guards(found, now, gone, guards))
    yield from _blocking(found)
    if found.evicted:
        yield "evicted", some(found.evicted)
    if overrides := found.overrides:
        note, last = overrides[0]
        yield "overridden", f"{len(overrides)} in a week, {note.reader} {shown_time(last.at)}: {last.why}"
    if kept := _kept(found):
        yield "kept", kept
    if (plan := plan_elsewhere(found)) is not None:
        yield _WHOLE, plan
    yield from (("advice", sentence) for sentence in advice(found))


def _done(found: Status) -> str:
    record = found.record
    if record.state not in (State.OPEN, State.ROLLING_BACK):
        return ""
    applied = f": {found.batches_applied} of {counted(record.batches_total, 'batch')} applied"
    if record.state is State.ROLLING_BACK:
        return f"{applied}, {counted(found.batches_undone, 'step')} undone"
    return f"{applied} ({100 * found.batches_applied // max(1, record.batches_total)} %)"


def _life(found: Status, now: float) -> str:
    if not found.owner.alive:
        return "gone"
    if found.record.target_epoch is not None or found.owner.progress_at is None:
        return "alive"
    return f"alive, at work {max(0.0, now - found.owner.progress_at):.0f} s ago"  # it uploads a journal, or prunes


def _conflict(conflict: ConflictNote | None) -> Iterator[tuple[str, str]]:
    if conflict is None:
        return
    yield "conflict", conflict.path
    reason, _, what = conflict.reason.partition("; ")
    yield "", f"{reason}{_versions(conflict)}"
    if what:
        yield from (("", part) for part in re.split("[:;] ", what, maxsplit=2))


def _versions(conflict: ConflictNote) -> str:
    if conflict.found_version == conflict.expected_version:
        return ""  # its ACL, or another node of the same version, as the reason says
    shown = ["nothing" if v is None else f"version {v}" for v in (conflict.found_version, conflict.expected_version)]
    if "(version" in conflict.reason:  # what was found is in it
        return f", expected {shown[1]}"
    return f": found {shown[0]}, expected {shown[1]}"


def _guards(found: Status, now: float, gone: Collection[str], few: int) -> Iterator[str]:
    """A line for each of a few, else how many there are, and for those that are kept down or are gone; how to be rid
    of one."""
    if len(found.guarded) == len(found.guards) <= few:
        yield from (_guard(name, entry, name in gone) for name, entry in found.guarded)
    elif found.guards:
        running = sum(not entry.stopped for _, entry in found.guarded)
        yield f"{len(found.guards)}, {running} running: {some(found.guards)}"
        odd = [(name, entry) for name, entry in found.guarded if entry.down is not None or name in gone]
        yield from (_guard(name, entry, name in gone) for name, entry in odd[:_NAMED])
    if found.is_at_rest and any(_has_ended(entry, now) for _, entry in found.guarded):
        yield f"ended for good? then an admin deletes {found.guards_path}/NAME"


def _has_ended(entry: GuardEntry, now: float) -> bool:
    """Whether it is stopped though it might run, and has been for so long that its guard may be gone for good."""
    return entry.stopped and entry.down is None and entry.since is not None and now - entry.since > _ENDED_S


def _guard(name: str, entry: GuardEntry, is_gone: bool) -> str:
    since = "" if entry.since is None else f" since {shown_time(entry.since)}"
    if is_gone:
        way = f"start it there again, or --evict {GUARDS}/{name}"
        return f"{name}: its guard is gone, registered as running{since}{on_host(entry)}: {way}"
    if not entry.stopped:
        under = "" if entry.epoch is None else f" under epoch {entry.epoch}"
        return f"{name}: running{since}{under}{on_host(entry)}"
    if entry.down is not None:
        return f"{name}: kept down{since}: {entry.down.why}; SIGUSR1 to its guard starts it"
    return f"{name}: stopped{since}: {with_signal(entry.why)}"


def _blocking(found: Status) -> Iterator[tuple[str, str]]:
    if not found.blocking:
        return
    if found.is_at_rest:
        yield from _running(found)
        return
    limit = found.blocks_at_most_s
    count = len(found.blocking)
    until = "until they end" if limit is None else f"for {limit:.0f} s more at most"
    more = "" if count <= _NAMED else f"; --json names all, {_NAMED} are"
    yield "blocking", f"{count}, {until}{more}"
    yield from (("", entry.name) for entry in found.blocking[:_NAMED])


def _running(found: Status) -> Iterator[tuple[str, str]]:
    """The same while nobody waits for it: no fault."""
    kinds = Counter("action" if entry.kind == ACTING else "guard" for entry in found.blocking)
    count = len(found.blocking)
    who = ", ".join(f"{counted(number, kind)}" for kind, number in sorted(kinds.items()))
    yield "running", f"{who}; an epoch that begins waits until {'it ends' if count == 1 else 'they end'}"
    yield "", some([entry.name for entry in found.blocking])


def _kept(found: Status) -> str:
    parts = [f"undo of epoch {found.record.epoch}, for revert"] if found.revertible is not None else []
    count = len(found.prunable)
    parts += [f"{counted(count, 'journal')} that prune takes away"] if count else []
    return "; ".join(parts)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _wrapped(text: str, lines: int) -> list[str]:
    """In so many lines at most, at spaces where there are any; what is left over is cut into the last."""
    text, room, shown = escape(text), COLUMNS - TITLE, list[str]()
    while len(shown) < lines - 1 and _width(text) > room:
        end = next(at for at in range(min(len(text), room), 0, -1) if _width(text[:at]) <= room)
        end = text.rfind(" ", 1, end + 1) if " " in text[1 : end + 1] else end
        shown.append(text[:end])
        text = text[end:].lstrip(" ")
    return [*shown, _cut(text)]


def _cut(text: str) -> str:
    """The text, or its beginning and its end where it is wider than what is left of a line."""
    text = escape(text)
    room = COLUMNS - TITLE
    if _width(text) <= room:
        return text
    first, last = "", ""
    for head, tail in zip(text, reversed(text), strict=True):
        if _width(first + head) <= room - room // 3 - 1:
            first += head
        if _width(tail + last) <= room // 3:
            last = tail + last
    return f"{first}…{last}"
