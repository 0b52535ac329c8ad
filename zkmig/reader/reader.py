"""Reader: whole views of one committed epoch, whatever a migration is doing, and leave to act on them."""

from __future__ import annotations

import logging
import os
import platform
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from kazoo.client import KazooClient

from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths, valid_scope_name
from zkmig.epoch.journal import JournalMissing, load
from zkmig.epoch.record import Held
from zkmig.epoch.transitions import IMAGES, MIGRATING, Image, State
from zkmig.errors import (
    BadInput,
    Forbidden,
    NotPermitted,
    NotReady,
    ReaderError,
    Unavailable,
    UnknownFormat,
    ZkmigError,
)
from zkmig.model import path as paths
from zkmig.model.acl import Identity
from zkmig.model.path import CONTROL_ROOT
from zkmig.model.patterns import Pattern
from zkmig.model.znode import Znode
from zkmig.reader.admission import Admission, Token
from zkmig.reader.budget import Budget, checked
from zkmig.reader.kazoo_client import Auth, client_of, credentials_of, tls_of
from zkmig.reader.kept import KeptView
from zkmig.reader.overlay import NO_OVERLAY, Overlay, overlay_of
from zkmig.reader.part import Part, part_of
from zkmig.reader.presence import Presence
from zkmig.reader.session import BulkSession
from zkmig.reader.tree import read_tree
from zkmig.reader.view import RecordSeen, View
from zkmig.source.acl_cache import AclCache
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.credential import Credential
from zkmig.wire.replies import DataResult, StatResult
from zkmig.wire.requests import Exists, GetData, Sync
from zkmig.wire.tls import Tls

_logger = logging.getLogger("zkmig")

TIMEOUT_S: Final = 30.0
PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 0.5
"""Between two tries of a view: doubled from the first to the longest."""

LOOK_AFTER_INTERVAL_S: Final = 1.0
"""Between two looks after registration and leases, when views are asked for more often than that."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Reader:
    """Reads one scope. Safe to use from several threads: one view is read at a time, actions run side by side.

    client_or_hosts: a kazoo client, started and stopped by its owner, or hosts ("zk1:2181,zk2:2181", for TLS
    "zks://zk1:2281,zk2:2281"), for which the Reader makes a client of its own. kazoo's session holds the reader's
    registration and admits actions; bulk reads go through a second session to the same hosts, which never shows a state
    older than kazoo's or its own before. A client below a chroot is refused: the control plane is not below it, and
    paths in a view are absolute.

    paths: read only these subtrees, whole components ("/app/a" does not take "/app/ab"); the nodes above them, up to
    the scope's root, are in the view too, without their other children. None: all of the scope.

    control: where the control plane lies. auth: with hosts, credentials, also as ("digest", "user:password"). tls: with
    hosts, how to use TLS, which is then used. A client brings its own of both. name: under which the reader registers,
    and takes leases; the default names host and process. timeout_s: how long `view` goes on trying, through
    transitions, lost connections and lagging members; it also has to suffice for reading: some 15 us for a znode, and
    50 us for each ACL that is new.

    budget: how far a view may differ from the one last acted on, one Budget or several: `acting` raises BudgetExceeded
    beyond. What was last acted on is kept in the control plane under `name`, which has to be given then, and be the
    same whenever the service is started: readers of one name share it. (docs/budget.md)
    """

    # Tests switch these off, one at a time, to prove that they would notice. No application may.
    _shows_undo = True
    _confirms_record = True

    def __init__(
        self,
        client_or_hosts: KazooClient | str,
        scope: str,
        paths: Iterable[str] | None = None,
        *,
        control: str = CONTROL_ROOT,
        auth: Auth | None = None,
        tls: Tls | None = None,
        name: str | None = None,
        timeout_s: float = TIMEOUT_S,
        budget: Budget | Iterable[Budget] = (),
    ) -> None:
        self._owns_client = isinstance(client_or_hosts, str)
        self._kazoo = client_of(client_or_hosts, auth, tls)
        self._names = ControlPaths(valid_scope_name(scope), _control_path(control))
        self._wanted = None if paths is None else _valid_paths(paths)
        self._timeout_s = timeout_s
        self._session = BulkSession(tuple(self._kazoo.hosts), self._check_stop, tls_of(self._kazoo))
        self._auth: tuple[Credential, ...] = ()
        self._acls = AclCache()
        self._kept: KeptView | None = None
        self._look_after_at = 0.0
        self._told_of: Held | None = None
        self._overlay_key: object = None
        self._overlay_kept = NO_OVERLAY
        self._deadline = 0.0
        self._closing = threading.Event()
        self._lock = threading.RLock()
        self._is_started = not self._owns_client
        shown = _valid_name(name or f"{platform.node() or 'host'}-{os.getpid()}")
        self._presence = Presence(self._kazoo, self._names, shown)
        budgets = _valid_budgets(budget, name, self._wanted)
        self._admission = Admission(self._kazoo, self._names, shown, budgets)

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what the Reader has begun; a client that was handed in goes on. Views stay good as values."""
        self._closing.set()
        with self._lock:
            self._kept = None
            self._admission.settle()
            self._presence.leave()
            self._session.close()
            if self._owns_client and self._is_started:
                self._kazoo.stop()
                self._kazoo.close()
                self._is_started = False

    def _start(self) -> None:
        with self._lock:
            if not self._is_started and not self._closing.is_set():
                self._kazoo.start_async()  # nothing waits for it but `acting`
                self._is_started = True

    # -- views --------------------------------------------------------------------------------------------------------

    def view(self, fresh: bool = False) -> View:
        """The whole image of the committed epoch, not older than any view before, nor than what kazoo's session saw.

        While watches tell that nothing has changed, it is the last view again, and where they tell of changes, only
        those are read. fresh: read everything; ACLs set by others are seen no sooner than that, or their znode changes.
        Raises NotReady (no committed image, no record,
        a record or undo of unknown format, no root: absence on a tree that is not ready proves nothing), Forbidden (an
        ACL keeps record, tree or undo from this reader), Unavailable (no view within timeout_s); nothing else.
        """
        kept = self._kept
        if kept is not None and not fresh and time.monotonic() < self._look_after_at:
            view = kept.view_if_good_at(self._kazoo.last_zxid)
            if view is not None:
                return view
        self._start()
        with self._lock:
            self._deadline = time.monotonic() + self._timeout_s
            view = self._view_by_deadline(fresh)
            self._presence.saw(view.seen, self._session.identities or ())
            self._admission.settle()
            self._tell_if_forgotten(view.seen.record.held)
            self._look_after_at = time.monotonic() + LOOK_AFTER_INTERVAL_S
            return view

    def _tell_if_forgotten(self, held: Held | None) -> None:
        """Log, once for each, that a hold is past its deadline: nothing acts until somebody releases it."""
        if held is not None and held != self._told_of and held.is_expired():
            self._told_of = held
            _logger.warning("scope %s is %s", self._names.scope, held.told())

    def _view_by_deadline(self, fresh: bool) -> View:
        trouble: ZkmigError | None = None
        pause_s = 0.0
        while True:
            try:
                self._check_stop()
                view = self._try(fresh)
            except ReaderError as error:
                if isinstance(error, Unavailable) and trouble is not None:
                    last = ZkmigError(trouble.what, trouble.where)  # what to do about it is said once, at the end
                    hint = error.hint and (trouble.hint or error.hint)
                    raise Unavailable(f"{error.what}; last: {last}", error.where, hint) from trouble
                raise
            except UnknownFormat as error:
                raise NotReady(error.what, error.where, error.hint) from error
            except NotPermitted as error:
                raise Forbidden(error.what, error.where, error.hint) from error
            except ZkmigError as error:
                trouble, view = error, None
            if view is not None:
                return view
            self._closing.wait(pause_s)
            pause_s = min(max(2 * pause_s, PAUSE_FIRST_S), PAUSE_MAX_S)

    def _check_stop(self) -> None:
        where = self._names.home
        if self._closing.is_set():
            raise Unavailable("the Reader was closed", where)
        if time.monotonic() > self._deadline:
            raise Unavailable(f"no view within {self._timeout_s:g} s", where, "check the servers, or give more time")

    def _try(self, fresh: bool) -> View | None:
        """Record, tree, record in one session. None: the record moved meanwhile, or the member lags."""
        floor = max(self._session.zxid_seen, self._kazoo.last_zxid)
        client = self._connected(floor)
        view = None if fresh else self._renewed(client, floor)
        if view is not None:
            return view
        if self._kept is not None:
            last, self._kept = self._kept, None
            if last.is_of(client):
                last.end()
        seen = self._read_record(client)
        if seen.zxid < floor:
            return None
        _refuse_without_image(seen, self._names)
        part = part_of(seen.record, self._names.control, self._wanted)
        kept = self._watching(client, seen, part)
        try:
            overlay = self._overlay(client, seen, part)
            nodes = self._read_tree(client, part, overlay)
        except (NotPermitted, UnknownFormat, JournalMissing):
            if self._zxid_if_current(client, seen) is None:
                return None  # what could not be read belongs to an epoch that is over
            raise
        zxid = self._zxid_if_current(client, seen)
        if zxid is None:
            return None
        overlay.lay_over(nodes)
        if part.root not in nodes:
            raise NotReady("the root of the scope is not there", part.root, "check who deleted it")
        view = View(nodes, self._names, seen, overlay, zxid)
        if kept is not None:
            kept.keep(view, nodes)
            self._kept = kept
        return view

    def _renewed(self, client: Client, floor: int) -> View | None:
        """The last view, or what has become of it; None if it has to be read anew."""
        kept = self._kept
        if kept is None or kept.view is None or not kept.is_of(client):
            return None
        seen = kept.view.seen
        return kept.renew(self._acls, floor, lambda: self._zxid_if_current(client, seen))

    def _watching(self, client: Client, seen: RecordSeen, part: Part) -> KeptView | None:
        """Watches, before the tree is read; None where views cannot be kept.

        While undo covers the tree its live znodes change without end, and a part is read as quickly as it is watched.
        """
        if IMAGES[seen.record.state] is Image.OVERLAID or self._wanted is not None:
            return None
        kept = KeptView(client, self._names.record, part)
        return kept if kept.is_watched else None

    def _connected(self, floor: int) -> Client:
        auth = credentials_of(self._kazoo)
        if auth != self._auth:
            # Others may be shown other ACLs.
            self._auth, self._acls, self._overlay_key, self._kept = auth, AclCache(), None, None
        return self._session.connected(auth, floor)

    def _read_record(self, client: Client) -> RecordSeen:
        path = self._names.record
        # sync is no guarantee [zookeeper-facts 4], but a follower that lags would show an epoch of seconds ago.
        _, reply = client.pipeline((Sync(path), GetData(path)), 2)
        if reply.error == Code.NO_NODE:
            raise NotReady(f"there is no scope {self._names.scope!r}", path, "run zkmig init, or correct the name")
        if not isinstance(reply.result, DataResult):
            raise error_for(reply.error, path, GetData.operation)
        return RecordSeen(records.decode(reply.result.data, path), reply.result.stat, reply.zxid)

    def _zxid_if_current(self, client: Client, seen: RecordSeen) -> int | None:
        """The zxid of a state, later than every read so far, in which the record is still `seen`; else None."""
        if not self._confirms_record:
            return client.last_zxid
        reply = client.call_reply(Exists(self._names.record))
        if not isinstance(reply.result, StatResult):
            return None
        stat = reply.result.stat
        return reply.zxid if (stat.czxid, stat.mzxid) == seen.identity else None

    def _overlay(self, client: Client, seen: RecordSeen, part: Part) -> Overlay:
        record = seen.record
        if IMAGES[record.state] is not Image.OVERLAID or not self._shows_undo:
            return NO_OVERLAY
        if record.target_epoch is None or record.attempt is None or record.manifest_hash is None:
            raise UnknownFormat("the record names no journal", self._names.record, "run zkmig status")
        # By attempt, not by epoch: a number that was rolled back is tried again with another plan.
        key = (record.incarnation, record.target_epoch, record.attempt, record.manifest_hash, part)
        if key != self._overlay_key:
            attempt = self._names.attempt(record.target_epoch, record.attempt)
            _, journal = load(client, attempt, record.manifest_hash, for_reader=True)
            self._overlay_kept = overlay_of(journal, part, client.identities)
            self._overlay_key = key
        return self._overlay_kept

    def _read_tree(self, client: Client, part: Part, overlay: Overlay) -> dict[str, Znode]:
        return read_tree(client, part, overlay, self._acls)

    # -- acting -------------------------------------------------------------------------------------------------------

    @contextmanager
    def acting(
        self,
        view: View,
        *,
        max_seconds: float = 30.0,
        decisive: Iterable[str] = (),
        override: str | None = None,
    ) -> Iterator[Token]:
        """Leave to act on `view`: inside the block no migration writes its first node until max_seconds are over.

        max_seconds: how long the action can take effect at most, counted from now; ask the token before each effect
        (`Token.check`). decisive: paths of the view whose data the decision rests on: they are admitted only at the
        versions that the view shows. (Absence, children and ACLs cannot be checked.) override: why to act beyond the
        Reader's budget, this time; it is recorded and shown by `zkmig status`.

        Raises BudgetExceeded (the view differs from the last one acted on by more than `budget` allows), ActingRefused
        (not STABLE, held, the epoch or a decisive znode has moved since the view, another incarnation), Forbidden (an
        ACL), Unavailable (no connection, or no answer: nothing is admitted then, though a lease may block migrations
        until it runs out), BadInput (what was asked for cannot be, as a budget for what lies outside the scope).
        """
        self._start()
        token = self._admission.admit(view, max_seconds, tuple(decisive), self._who(), override)
        try:
            yield token
        finally:
            self._admission.release(token)

    def _who(self) -> tuple[Identity, ...]:
        known = self._session.identities
        if known is not None:
            return known
        # The view came from another Reader: its own sessions have not been asked who they are.
        return tuple(one.identity for one in credentials_of(self._kazoo) if one.identity is not None)


def _refuse_without_image(seen: RecordSeen, names: ControlPaths) -> None:
    record = seen.record
    began_empty = record.base is State.EMPTY and record.state in MIGRATING
    if began_empty or IMAGES[record.state] is Image.NONE:
        raise NotReady(
            f"scope {names.scope!r} is {record.state.value} and has no committed image yet",
            record.root,
            "wait for the commit of its first epoch",
        )


# -- what the caller gave ---------------------------------------------------------------------------------------------


def _control_path(control: str) -> str:
    """The control root as given, or BadInput."""
    paths.validate(control)
    if control == "/":
        raise BadInput("the control plane needs a path of its own", control, "the default is /zkmig")
    return control


def _valid_paths(wanted: Iterable[str]) -> tuple[str, ...]:
    if isinstance(wanted, str):
        raise BadInput("paths is a list of paths", wanted, f"write paths=[{wanted!r}]")
    found = tuple(paths.validate(path) for path in wanted)
    if not found:
        raise BadInput("paths names no path", hint="leave it out to read all of the scope")
    return found


def _valid_budgets(
    budget: Budget | Iterable[Budget], name: str | None, wanted: tuple[str, ...] | None
) -> tuple[Budget, ...]:
    budgets = checked(budget)
    if budgets and name is None:
        raise BadInput("a budget without name=", hint="name the service as it is named whenever it is started")
    for one in budgets:
        top = Pattern.parse(one.pattern).top
        if wanted is not None and not any(paths.overlap(top, path) for path in wanted):
            raise BadInput("a budget for what this Reader does not read", one.pattern, "it is not in paths=")
    return budgets


def _valid_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput("not a reader's name", repr(name), "use up to 64 letters, digits, dots, dashes, underscores")
    return name
