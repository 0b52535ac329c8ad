"""A reader in a process of its own: views without end, each written down as an event; and actions when told to.

    python -m tests.torture.reader_process FOLDER NAME HOSTS SCOPE APART [--kept] [--pause SECONDS] [--no-overlay]

A line `act SECONDS` on standard input begins an action whose effects are writes to a node of its own outside the scope,
one after another for as long as its token lets it; `admitted` or `refused` is answered on standard output at once and
`ended` when it is over. Ends when standard input closes, so that it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException

from tests.torture.history import Log, Row
from zkmig.errors import ReaderError, ZkmigError
from zkmig.reader import Reader
from zkmig.reader.admission import Token
from zkmig.reader.view import View

EFFECTS = "/effects"
ADMITTED, REFUSED, ENDED = "admitted", "refused", "ended"
EFFECT_PAUSE_S = 0.03
VIEW_TIMEOUT_S = 15.0
SESSION_TIMEOUT_S = 4.0
SECRET = "me:hunter2"


class ReaderWithoutOverlay(Reader):
    """The negative control: shows live nodes whatever the record says."""

    _shows_undo = False


def rows(view: View) -> Iterator[Row]:
    """The view as the checker takes it."""
    for path, node in view.items():
        acl = tuple((entry.perms, entry.scheme, entry.id) for entry in node.acl)
        yield Row(path, node.data, acl, tuple(node.stat))


class Process:
    """One reader. Views and actions take turns."""

    def __init__(self, log: Log, reader: Reader, kazoo: KazooClient, options: argparse.Namespace) -> None:
        self._log = log
        self._reader = reader
        self._kazoo = kazoo
        self._options = options
        self._effects = 0

    def run(self) -> None:
        """Until standard input closes."""
        while True:
            ready, _, _ = select.select([sys.stdin], [], [], self._options.pause)
            if ready:
                line = sys.stdin.readline()
                if not line:
                    return
                self._act(float(line.split()[1]))
            self._view()

    def _view(self) -> View | None:
        try:
            view = self._reader.view(fresh=not self._options.kept)
        except ReaderError as error:
            self._log.write("unavailable", error=type(error).__name__, what=error.what)
            return None
        self._log.view(
            rows(view),
            self._options.apart,
            zxid=view.zxid,
            zxid_first=view.seen.zxid,
            epoch=view.epoch,
            state=view.state,
            incarnation=view.incarnation,
            record_version=view.record_version,
            fresh=not self._options.kept,
        )
        return view

    # -- actions ------------------------------------------------------------------------------------------------------

    def _act(self, seconds: float) -> None:
        view = self._view()
        try:
            if view is None:
                raise ReaderNotReady
            with self._reader.acting(view, max_seconds=seconds) as token:
                deadline = time.monotonic() + token.remaining()
                self._note("admitted", token, deadline_t=deadline)
                _say(ADMITTED)
                self._take_effect(token)
            self._note("ended", token)
        except ZkmigError as error:
            self._log.write("action", phase="refused", error=type(error).__name__, what=error.what)
            _say(REFUSED)
            return
        except ReaderNotReady:
            _say(REFUSED)
            return
        _say(ENDED)

    def _take_effect(self, token: Token) -> None:
        """Writes until the token says no."""
        path = f"{EFFECTS}/{self._log.who}"
        until = time.monotonic() + token.remaining() * 0.8
        while time.monotonic() < until:
            self._effects += 1
            data = f"{os.getpid()}-{self._effects}"
            try:
                token.check()
            except ZkmigError:
                self._note("refused", token)  # it woke up too late, and was told so
                return
            checked_wall = time.time()
            zxid = None
            with contextlib.suppress(KazooException):  # it may have taken effect all the same: the log tells
                zxid = self._kazoo.set(path, data.encode()).mzxid
            self._note("effect", token, effect_path=path, effect_data=data, zxid=zxid, checked_wall=checked_wall)
            time.sleep(EFFECT_PAUSE_S)

    def _note(self, phase: str, token: Token, **fields: object) -> None:
        self._log.write(
            "action", phase=phase, token=token.fencing_token, epoch=token.epoch, lease=token.lease, **fields
        )


class ReaderNotReady(Exception):
    """There was no view to act on."""


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "name", "hosts", "scope", "apart"):
        parser.add_argument(name)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--no-overlay", action="store_true")
    options = parser.parse_args()
    auth = [("digest", SECRET)]
    kind = ReaderWithoutOverlay if options.no_overlay else Reader
    # Two clients: an action's effects have their own connection, as the resource of a real service would.
    readers = KazooClient(options.hosts, timeout=SESSION_TIMEOUT_S, auth_data=auth)
    effects = KazooClient(options.hosts, timeout=SESSION_TIMEOUT_S)
    readers.start()
    effects.start()
    try:
        effects.ensure_path(f"{EFFECTS}/{options.name}")
        with (
            Log(Path(options.folder), options.name) as log,
            kind(readers, options.scope, name=options.name, timeout_s=VIEW_TIMEOUT_S) as reader,
        ):
            Process(log, reader, effects, options).run()
    finally:
        for client in (readers, effects):
            client.stop()
            client.close()


if __name__ == "__main__":
    main()
