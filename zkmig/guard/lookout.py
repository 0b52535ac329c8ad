"""Lookout: the record of a scope and the registration of one guard, read and watched; and whose that one is.

Nothing is written here. What the node of the registration was found to be is remembered for the write that follows
(`zkmig.guard.registration`): its version, what it said, and the connection on which that was read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    InvalidACLError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
)
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import WatchedEvent

from zkmig.epoch import record as records
from zkmig.epoch.control import ControlPaths
from zkmig.epoch.leases import ENTRY_BYTES_MAX, GuardEntry
from zkmig.errors import UnknownFormat
from zkmig.guard.bound import NoAnswerError
from zkmig.guard.events import EntrySeen, Holder, NoRecord, Seen
from zkmig.model.acl import Acl, AclList

REFUSALS: Final = (NoNodeError, NoAuthError, NodeExistsError, BadVersionError, InvalidACLError)

T = TypeVar("T")
_logger = logging.getLogger("zkmig.guard")

Judge = Callable[[GuardEntry], tuple[Holder, str]]
"""Whether a registration that says running, of another guard than this, is of one that is gone: GONE, ANOTHER or
ALIVE, and whose it is. May take as long as ending what that one has left."""


class Lookout:
    """For the guard of this unit and instance; no two guards have the same instance.

    on_change: called by kazoo's thread when something that was read may be so no longer. Whatever asks the servers
    raises NoAnswerError where no answer comes within answer_timeout_s. All but `answer` is for one thread alone.
    """

    def __init__(
        self,
        client: KazooClient,
        names: ControlPaths,
        unit: str,
        instance: str,
        judge: Judge,
        on_change: Callable[[], None],
        *,
        answer_timeout_s: float,
    ) -> None:
        self._client = client
        self._names = names
        self._instance = instance
        self._judge = judge
        self._on_change = on_change
        self._answer_timeout_s = answer_timeout_s
        self.path = f"{names.guards}/{unit}"
        """Of the registration."""
        self.entry: GuardEntry | None = None
        self.version: int | None = None  # of the registration; None: there is none
        self.czxid = 0
        self.is_unreadable = False
        self.read_on = 0
        """The connection on which it was read before a write."""
        self.connection = 0
        """Counts them; by kazoo's thread, before it sends anything on a new one."""
        self._own_czxid = 0  # of the node that last was seen to be this guard's, 0: none is
        self._known_gone = ""  # whose registration was last judged to be

    def answer(self, result: IAsyncResult[T]) -> T:
        """The result; the server's refusals as they are, anything else is no answer."""
        try:
            return result.get(timeout=self._answer_timeout_s)
        except REFUSALS:
            raise
        except (KazooException, self._client.handler.timeout_exception) as error:
            _logger.info("no answer from the servers: %s", type(error).__name__)
            raise NoAnswerError from error

    # -- reading ------------------------------------------------------------------------------------------------------

    def look(self) -> tuple[EntrySeen, Seen | NoRecord]:
        """Both as they are now, in the order in which they are to be told; asks whose the registration is."""
        self.answer(self._client.sync_async(self._names.record))
        record = self._read_record()
        return self._read_entry(), record

    def load_before_write(self) -> None:
        """What the node is now, and not earlier than what this guard has sent on connections that are over."""
        connection = self.connection
        self.answer(self._client.sync_async(self.path))
        self._load_entry()
        self.read_on = connection

    def record_acl(self) -> AclList:
        """Of the record. NoNodeError, NoAuthError."""
        entries, _ = self.answer(self._client.get_acls_async(self._names.record))
        return tuple(Acl(entry.perms, entry.id.scheme, entry.id.id) for entry in entries)

    def _on_watch(self, _event: WatchedEvent) -> None:
        self._on_change()

    def _read_record(self) -> Seen | NoRecord:
        path = self._names.record
        try:
            data, stat = self.answer(self._client.get_async(path, watch=self._on_watch))
            record = records.decode(data, path)
        except NoNodeError:
            self.answer(self._client.exists_async(path, watch=self._on_watch))  # to be told when there is
            return NoRecord(f"there is no scope {self._names.scope!r} ({path})")
        except NoAuthError:
            return NoRecord(f"not permitted to read {path}; init the scope with this identity as --reader")
        except UnknownFormat as error:
            return NoRecord(str(error))
        last = None if record.last is None else (record.last.epoch, record.last.attempt, record.last.outcome)
        return Seen(
            record.incarnation,
            stat.version,
            stat.mzxid,
            record.state,
            record.epoch,
            record.held,
            record.target_epoch,
            last,
        )

    def _load_entry(self) -> None:
        """Remembers what is found, for the writes that follow on the same connection."""
        self.entry, self.version, self.czxid, self.is_unreadable = None, None, 0, False
        try:
            data, stat = self.answer(self._client.get_async(self.path, watch=self._on_watch))
        except NoNodeError:
            return
        except NoAuthError:
            self.is_unreadable = True
            return
        self.version, self.czxid = stat.version, stat.czxid
        self.entry = GuardEntry.decode(data) if stat.dataLength <= ENTRY_BYTES_MAX else None
        if self.entry is not None and self.entry.instance == self._instance:
            self._own_czxid = stat.czxid

    def _read_entry(self) -> EntrySeen:
        self._load_entry()
        entry = self.entry
        if self.is_unreadable:
            return EntrySeen(Holder.ANOTHER, who=self.unreadable)
        if self.version is None:
            return EntrySeen(Holder.NOBODY)
        if entry is None:
            return EntrySeen(Holder.STOPPED)  # what is no registration holds up nobody
        if entry.stopped:
            return EntrySeen(Holder.STOPPED, entry.epoch, entry.down)
        if entry.instance == self._instance:
            return EntrySeen(Holder.OURS, entry.epoch, entry.down)
        if self._whose(entry) == self._known_gone:
            return EntrySeen(Holder.GONE, entry.epoch, entry.down)
        holder, who = self._judge(entry)
        if holder is Holder.GONE:
            self._known_gone = self._whose(entry)
        return EntrySeen(holder, entry.epoch, entry.down, who, self._whose(entry))

    # -- whose it is --------------------------------------------------------------------------------------------------

    @property
    def unreadable(self) -> str:
        """That it is, in words."""
        return f"{self.path} may not be read by this identity"

    @property
    def is_anothers(self) -> bool:
        """Whether the node on which this guard was registered is gone, and this one is of somebody else's making."""
        entry = self.entry
        return entry is not None and entry.instance != self._instance and self._own_czxid not in (0, self.czxid)

    def may_write_over(self, taking: str = "") -> bool:
        """Whether what was read last does not say "running" of somebody else; it may be later than what was ordered.

        taking: another guard's instance, over whose registration it is to be written.
        """
        entry = self.entry
        if entry is None or entry.stopped:
            return True
        return self._whose(entry) in (self._instance, self._known_gone, taking)

    def _whose(self, entry: GuardEntry) -> str:
        """What tells a registration from others: its instance, or this very write of one that has none that we know."""
        return entry.instance or f"czxid {self.czxid}, version {self.version}"

    # -- what was made of it ------------------------------------------------------------------------------------------

    def written(self, entry: GuardEntry, version: int) -> None:
        """This guard has written that over what was read, which has this version since."""
        self.entry, self.version = entry, version

    def lost(self) -> None:
        """The node on which this guard was registered is another's by now, and that is known."""
        self._own_czxid = 0
