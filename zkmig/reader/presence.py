"""Presence: a reader's registration, so that an operator can see who reads and which record it has seen.

It informs and decides nothing: it is sent without waiting, and a view never fails for it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Iterable
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.interfaces import IAsyncResult

from zkmig.epoch.control import ControlPaths
from zkmig.model.acl import ALL, READ, WORLD, Acl, Identity
from zkmig.reader.kazoo_acl import kazoo_acl, own_identities
from zkmig.reader.view import RecordSeen

FORMAT: Final = 1
UPDATE_INTERVAL_S: Final = 5.0
"""Between two writes of one registration: thousands of readers see a transition at once, and each write costs."""

_logger = logging.getLogger("zkmig")


class Presence:
    """An ephemeral of kazoo's session under readers/, made at the first view in each session."""

    def __init__(self, client: KazooClient, names: ControlPaths, name: str) -> None:
        self._client = client
        self._directory = names.readers
        self._name = name
        self._session_id: int | None = None
        self._path = ""
        self._told: tuple[int, int] | None = None
        self._told_at = 0.0

    def saw(self, seen: RecordSeen, identities: Iterable[Identity]) -> None:
        """Tell that a view was read under this record."""
        session = self._client.client_id if self._client.connected else None
        if session is None:
            return
        is_new = session[0] != self._session_id
        now = time.monotonic()
        if not is_new and (seen.identity == self._told or now - self._told_at < UPDATE_INTERVAL_S):
            return
        data = self._data(seen)
        if is_new:
            # A name for each session: the ephemeral of one that has just expired may still be there.
            self._path = f"{self._directory}/{self._name}-{secrets.token_hex(4)}"
            acl = (Acl(READ, *WORLD), *(Acl(ALL, *identity) for identity in own_identities(identities)))
            result: IAsyncResult[Any] = self._client.create_async(self._path, data, acl=kazoo_acl(acl), ephemeral=True)
        else:
            result = self._client.set_async(self._path, data)
        result.rawlink(_log_failure)
        self._session_id, self._told, self._told_at = session[0], seen.identity, now

    def leave(self) -> None:
        """Take the registration away, if the control plane lets its readers delete; the session's end does it too."""
        if self._session_id is not None and self._client.connected:
            self._client.delete_async(self._path).rawlink(_log_failure)
        self._session_id = None

    def _data(self, seen: RecordSeen) -> bytes:
        return json.dumps(
            {
                "format": FORMAT,
                "reader": self._name,
                "host": platform.node(),
                "pid": os.getpid(),
                "at": time.time(),
                "incarnation": seen.record.incarnation,
                "epoch": seen.record.epoch,
                "state": seen.record.state.value,
                "record_version": seen.stat.version,
            },
            sort_keys=True,
        ).encode()


def _log_failure(result: IAsyncResult[Any]) -> None:
    if isinstance(result.exception, KazooException):
        _logger.debug("the reader is not registered: %s", type(result.exception).__name__)
