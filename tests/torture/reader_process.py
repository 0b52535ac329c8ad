"""A reader in a process of its own: views without end, each written down as an event; and actions all the time.

    python -m tests.torture.reader_process FOLDER NAME HOSTS SCOPE APART [--kept] [--pause SECONDS] [--no-overlay]

Short actions, one after another, on the view taken last (not with --idle). A line `act SECONDS` on standard input
begins a further one, as long as that or until a line `end`; `admitted` or `refused` is answered on standard output at
once and `ended` when it is over. The effects of an action are writes to a node of its own outside the scope, one after
another for as long as its token lets it. Ends when standard input closes, so that it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
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
EFFECT_PAUSE_S = 0.04
SHORT_MAX_S = 2.0  # the lease of a short action, which is released much sooner
SHORT_S = (0.05, 0.3)
BETWEEN_S = (0.05, 0.4)
JOIN_TIMEOUT_S = 20.0
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


class Actor:
    """Actions of one thread, written down under a name of its own."""

    def __init__(self, log: Log, reader: Reader, kazoo: KazooClient) -> None:
        self._log = log
        self._reader = reader
        self._kazoo = kazoo
        self._path = f"{EFFECTS}/{log.who}"
        self._effects = 0
        kazoo.ensure_path(self._path)

    def act(self, view: View, max_s: float, is_over: Callable[[], bool], on_admitted: Callable[[], None]) -> bool:
        """One action; whether it was admitted."""
        try:
            with self._reader.acting(view, max_seconds=max_s) as token:
                self._note("admitted", token, deadline_t=time.monotonic() + token.remaining())
                on_admitted()
                self._take_effect(token, is_over)
            self._note("ended", token)
        except ZkmigError as error:
            self._log.write("action", phase="refused", error=type(error).__name__, what=error.what)
            return False
        return True

    def _take_effect(self, token: Token, is_over: Callable[[], bool]) -> None:
        """Writes until the token says no."""
        while not is_over():
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
                zxid = self._kazoo.set(self._path, data.encode()).mzxid
            self._note("effect", token, effect_path=self._path, effect_data=data, zxid=zxid, checked_wall=checked_wall)
            time.sleep(EFFECT_PAUSE_S)

    def _note(self, phase: str, token: Token, **fields: object) -> None:
        self._log.write(
            "action", phase=phase, token=token.fencing_token, epoch=token.epoch, lease=token.lease, **fields
        )


class Process:
    """One reader: views by the main thread, actions beside it."""

    def __init__(self, log: Log, reader: Reader, options: argparse.Namespace, short: Actor, ordered: Actor) -> None:
        self._log = log
        self._reader = reader
        self._options = options
        self._short, self._ordered = short, ordered
        self._last: View | None = None
        self._over = threading.Event()
        self._end = threading.Event()

    def run(self) -> None:
        """Until standard input closes."""
        threads = [] if self._options.idle else [threading.Thread(target=self._act_all_the_time, name="actions")]
        for thread in threads:
            thread.start()
        try:
            while self._obey():
                self._last = self._view()
        finally:
            self._over.set()
            self._end.set()
            for thread in threads:
                thread.join(JOIN_TIMEOUT_S)

    def _obey(self) -> bool:
        """Whatever is on standard input; False once it is closed."""
        ready, _, _ = select.select([0], [], [], self._options.pause)
        if not ready:
            return True
        said = os.read(0, 4096).decode()
        for line in said.splitlines():
            word, _, seconds = line.partition(" ")
            self._end.set()
            if word == "act":
                self._end = threading.Event()
                arguments = (float(seconds), self._end)
                threading.Thread(target=self._act, args=arguments, name="action", daemon=True).start()
        return bool(said)

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

    def _act_all_the_time(self) -> None:
        rng = random.Random(self._options.name)
        while not self._over.wait(rng.uniform(*BETWEEN_S)):
            view = self._last
            if view is None or view.state != "STABLE":
                continue
            until = time.monotonic() + rng.uniform(*SHORT_S)
            self._short.act(view, SHORT_MAX_S, _after(until, self._over), _nothing)

    def _act(self, seconds: float, end: threading.Event) -> None:
        view = self._last
        until = time.monotonic() + seconds * 0.8
        is_admitted = view is not None and self._ordered.act(view, seconds, _after(until, end), lambda: _say(ADMITTED))
        _say(ENDED if is_admitted else REFUSED)


def _after(until: float, end: threading.Event) -> Callable[[], bool]:
    return lambda: end.is_set() or time.monotonic() > until


def _nothing() -> None:
    pass


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
    parser.add_argument("--idle", action="store_true")
    options = parser.parse_args()
    auth = [("digest", SECRET)]
    kind = ReaderWithoutOverlay if options.no_overlay else Reader
    # Two clients: an action's effects have their own connection, as the resource of a real service would.
    readers = KazooClient(options.hosts, timeout=SESSION_TIMEOUT_S, auth_data=auth)
    effects = KazooClient(options.hosts, timeout=SESSION_TIMEOUT_S)
    readers.start()
    effects.start()
    folder = Path(options.folder)
    try:
        with (
            Log(folder, options.name) as log,
            Log(folder, f"{options.name}-short") as log_of_short,
            Log(folder, f"{options.name}-ordered") as log_of_ordered,
            kind(readers, options.scope, name=options.name, timeout_s=VIEW_TIMEOUT_S) as reader,
        ):
            short, ordered = (Actor(each, reader, effects) for each in (log_of_short, log_of_ordered))
            Process(log, reader, options, short, ordered).run()
    finally:
        for client in (readers, effects):
            client.stop()
            client.close()


if __name__ == "__main__":
    main()
