"""Which scripts are due: those between the committed epoch of a scope and the one that is wanted.

What has made the epochs that are committed is told by the notes of their attempts on the servers, so that any machine
can tell whether a script was edited since.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Unpack

from zkmig.api.access import Access, SessionOptions, open_scope
from zkmig.apply.options import quiet
from zkmig.epoch.attempts import AttemptNote, Fate, read_attempts, read_note
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.owner import read_owner
from zkmig.epoch.record import Record
from zkmig.epoch.transitions import MIGRATING, State
from zkmig.errors import Refused, WrongEpoch
from zkmig.model.path import CONTROL_ROOT
from zkmig.script.load import Script, load, sha256_of
from zkmig.script.numbering import number_of, refuse_gaps, scripts_in
from zkmig.source.location import EnsembleLocation, parse
from zkmig.wire.client import Client

Say = Callable[[str], None]

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Due:
    """scripts: to be applied, in order; none where all are. target: the tree of the scope, as a location. epoch: the
    committed one. folder: where the scripts are."""

    scripts: tuple[Script, ...]
    target: str
    scope: str
    epoch: int
    folder: str


def find_due(
    where: str | os.PathLike[str],
    at: str,
    *,
    epoch: int,
    scope: str | None = None,
    wait: bool = False,
    control: str = CONTROL_ROOT,
    say: Say = quiet,
    **session: Unpack[SessionOptions],
) -> Due:
    """The scripts that lead from the committed epoch to `epoch`, all loaded, and checked against the scope's history.

    where: a directory of scripts, or one script, whose epoch is the next. Refused, naming file and epoch: a number that
    is missing or there twice, a file that was edited since it made its epoch or is gone, one whose epoch something else
    has made, a script for another scope, an epoch under way. wait: for that one to end, while its migrator lives.
    Nothing is written.
    """
    shown = os.fspath(where)
    is_folder = os.path.isdir(shown)
    files = scripts_in(shown) if is_folder else {number_of(shown): shown}
    if not is_folder and epoch not in files:
        raise WrongEpoch(f"the script is for epoch {next(iter(files))}, not {epoch}", shown, "check --epoch")
    access = Access.of(**session)
    with open_scope(access, at, scope, control) as (client, names):
        record = _at_rest(client, names, access, wait, say)
        attempts = read_attempts(client, names, record)
    committed = {one.note.epoch: one.note for one in attempts if one.fate is Fate.COMMITTED}
    _check_history(shown, files, committed, record.epoch, is_folder, say)
    place = parse(at)
    assert isinstance(place, EnsembleLocation)
    target = str(dataclasses.replace(place, path=record.root))
    folder = shown if is_folder else os.path.dirname(shown)
    first = record.epoch + 1
    if epoch < record.epoch:
        raise WrongEpoch(f"the committed epoch is {record.epoch}, beyond {epoch}", names.record, "check --epoch")
    if not is_folder and first < epoch:
        what = f"the committed epoch is {record.epoch}, and the script is for epoch {epoch}"
        raise WrongEpoch(what, shown, "apply those before it first, or name the directory")
    refuse_gaps(shown, files, first, epoch)
    due = tuple(load(files[number]) for number in range(first, epoch + 1))
    for script in due:
        if script.pin.scope not in (None, names.scope):
            raise Refused(f"it is for scope {script.pin.scope!r}, not {names.scope!r}", script.path, "check --scope")
    return Due(due, target, names.scope, record.epoch, folder)


def _at_rest(client: Client, names: ControlPaths, access: Access, wait: bool, say: Say) -> Record:
    """The record, with nothing under way or pending. Refused otherwise."""
    has_said = False
    while True:
        record, _ = read_record(client, names)
        if record.state not in MIGRATING:
            break
        if not wait or not read_owner(client, names).alive:
            what = f"epoch {record.target_epoch} is {record.state.value}"
            plan = read_note(client, names, record)[0].plan_path
            on = f" {shlex.quote(plan)}" if plan else ""
            hint = f"run zkmig resume{on}, or zkmig rollback, and then this again"
            raise Refused(what, names.record, hint)
        if not has_said:
            say(f"epoch {record.target_epoch} is {record.state.value}: waiting for its migrator")
            has_said = True
        access.stop.check()
        time.sleep(POLL_S)
    if record.pending is not None:
        raise Refused(f"{record.pending} are pending", names.record, "run zkmig resume")
    if record.state not in (State.STABLE, State.EMPTY):
        raise Refused(f"the scope is {record.state.value}", names.record, "run zkmig status")
    return record


def _check_history(
    shown: str,
    files: Mapping[int, str],
    committed: Mapping[int, AttemptNote],
    epoch: int,
    is_folder: bool,
    say: Say,
) -> None:
    """Hold the files against what has made the epochs that are committed."""
    unknown: list[str] = []
    for number, path in files.items():
        note = committed.get(number)
        if number > epoch:
            break
        if note is None or not note.plan_hash:  # not there, or not for this identity to read
            unknown.append(os.path.basename(path))
        elif note.script is None:
            how = f"a revert of epoch {note.reverts}" if note.reverts is not None else "a plan of no script"
            raise Refused(
                f"epoch {number} was made by {how}, so this script was never applied",
                path,
                f"give it a number after {epoch}, or take it away",
            )
        elif (digest := sha256_of(path)) != note.script.sha256:
            raise Refused(
                f"it was edited since epoch {number} was made by {note.script.file}: its sha256 is {digest[:12]}, "
                f"then it was {note.script.sha256[:12]}",
                path,
                "put it back as it was, and write what is to change into a new script",
            )
    if unknown:
        say(f"warning: the history does not tell what has made the epochs of {', '.join(unknown)}: not checked")
    if not is_folder:
        return
    for number, note in committed.items():
        if note.script is not None and number not in files:
            raise Refused(f"{note.script.file}, which has made epoch {number}, is not there", shown, "put it back")
