"""Report: what a guard is doing, why and since when, for people, for monitoring, for the service manager.

Nothing of it may hold up the guard: who does not read what the command writes must not keep it from being ended.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import select
import signal
from pathlib import Path
from typing import Any, Final

from zkmig.epoch.record import shown_time
from zkmig.guard.decision import SIGNAL_EXIT
from zkmig.guard.events import Phase, Situation
from zkmig.guard.notify import Notifier

FORMAT: Final = 1
LINE_BYTES_MAX: Final = 2_000
"""Less than a pipe takes at once, so that a line is written whole or not at all."""

AT_ITS_PLACE: Final = -1  # of pwritev: where the descriptor stands, as write does; also in pipes (Linux 4.16)

_ENDED = re.compile(r"(?P<what>(the (command|hook) has ended )?)with (?P<code>[0-9]{1,3})(?=;|$)")
_NOT_OFFERED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE})
_logger = logging.getLogger("zkmig.guard")


class Report:
    """out: descriptor for a line at each change, None: quiet. status_file: JSON, always whole. pid: of the guard."""

    def __init__(
        self, unit: str, scope: str, *, out: int | None, status_file: Path | None, notifier: Notifier, pid: int
    ) -> None:
        self._unit = unit
        self._scope = scope
        self._out = out
        self._status_file = status_file
        self._notifier = notifier
        self._pid = pid
        self._told: tuple[Phase, str] | None = None
        self._since = 0.0
        self._written: dict[str, Any] | None = None
        self._is_ready = False

    def tell(self, situation: Situation, now: float, code: int | None = None) -> None:
        """Say what is new. code: with which the guard is leaving."""
        situation = situation._replace(why=with_signal(situation.why))
        if not situation.is_passing and (situation.phase, situation.why) != self._told:
            if self._told is None or self._told[0] is not situation.phase:
                self._since = situation.since
            self._told = (situation.phase, situation.why)
            text = f"{situation.phase.value} since {shown_time(self._since)}: {situation.why}"
            if situation.phase is Phase.DOWN:
                text += f"; SIGUSR1 to pid {self._pid} starts it"
            if situation.phase is Phase.LEFT:
                self._notifier.stopping()
            self._notifier.status(text)
            self._line(f"guard {self._unit}: {text}\n")
        self._file(situation, now, code)
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready()

    def _line(self, text: str) -> None:
        if self._out is None:
            return
        line = "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
        try:
            _write_without_waiting(self._out, line.encode(errors="replace")[:LINE_BYTES_MAX])
        except BlockingIOError:
            return  # dropped: nobody reads
        except (OSError, ValueError):
            self._out = None  # nobody is there any more

    def _file(self, situation: Situation, now: float, code: int | None) -> None:
        if self._status_file is None:
            return
        is_told = self._told is not None and self._told[0] is situation.phase
        held = situation.held
        document: dict[str, Any] = {
            "format": FORMAT,
            "name": self._unit,
            "scope": self._scope,
            "phase": situation.phase.value,
            "since": self._since if is_told else situation.since,
            "why": situation.why,
            "pid": situation.pid,
            "guard_pid": self._pid,
            "epoch": situation.epoch,
            "hold": None if held is None else held.document(now),
            "code": code,
        }
        if document == self._written:
            return
        beside = self._status_file.with_name(f".{self._status_file.name}.{self._pid}")
        try:
            _write_new(beside, json.dumps(document) + "\n")
            beside.replace(self._status_file)
        except OSError as error:
            _logger.warning("the status file cannot be written: %s: %s", self._status_file, error.strerror)
            with contextlib.suppress(OSError):
                beside.unlink()
        self._written = document


def with_signal(why: str) -> str:
    """Why something has ended, as the decision words it; a code that stands for a signal is told by the signal's name,
    as in "by SIGTERM (143)". What others have written, as the reason of a hold, stays as it is."""
    found = _ENDED.match(why)
    number = 0 if found is None else int(found["code"]) - SIGNAL_EXIT
    if found is None or number not in signal.valid_signals():
        return why
    try:
        name = signal.Signals(number).name
    except ValueError:  # of real time: they have no names
        name = f"signal {number}"
    return f"{found['what']}by {name} ({found['code']}){why[found.end() :]}"


def _write_without_waiting(out: int, line: bytes) -> None:
    """BlockingIOError: there is no room. Descriptors are shared with the command, so O_NONBLOCK is not ours to set."""
    try:
        os.pwritev(out, [line], AT_ITS_PLACE, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        # Files, terminals. The command may fill a terminal between the two calls; a file does not fill up.
        if select.select([], [out], [], 0)[1]:
            os.write(out, line)


def _write_new(path: Path, text: str) -> None:
    """Into a file of our own making: in a directory like /tmp somebody may have put a link there."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(descriptor, "w") as file:
        file.write(text)
