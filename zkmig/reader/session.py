"""BulkSession: the one wire session of a reader, opened again after loss and expiry, never at an older state."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from zkmig.model.acl import Identity
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.faults import SessionExpired
from zkmig.wire.link import Host
from zkmig.wire.tls import Tls

SESSION_TIMEOUT_MS: Final = 10_000
"""As kazoo's default. A member that falls silent is given up after two thirds of it."""

CONNECT_TIMEOUT_S: Final = 10.0


class BulkSession:
    """hosts are tried in an order of its own, so that many readers spread over the members.

    check_stop: called at least every 0.5 s while waiting; what it raises ends the wait. identities: who the session
    is, as ACLs name it; None before the first connection. tls: None for plain TCP.
    """

    def __init__(self, hosts: tuple[Host, ...], check_stop: Callable[[], None], tls: Tls | None = None) -> None:
        self._hosts = random.sample(hosts, len(hosts))
        self._tls = tls
        self._check_stop = check_stop
        self._client: Client | None = None
        self.identities: tuple[Identity, ...] | None = None
        self._auth: tuple[Credential, ...] = ()
        self._zxid_seen = 0

    @property
    def zxid_seen(self) -> int:
        """The newest zxid seen in any session: no read that follows is older."""
        if self._client is not None:
            self._zxid_seen = max(self._zxid_seen, self._client.last_zxid)
        return self._zxid_seen

    def connected(self, auth: tuple[Credential, ...], zxid_floor: int) -> Client:
        """A connected client with these credentials, of a member that has seen `zxid_floor` and all seen before.

        Raises Unreachable (nobody takes the session), NotPermitted (a credential was refused).
        """
        if self._client is not None and auth != self._auth:
            self.close()
        if self._client is not None and not self._client.is_connected:
            try:
                self._client.reconnect()
            except SessionExpired:
                self.close()
        if self._client is None:
            self._open(auth, zxid_floor)
        assert self._client is not None
        return self._client

    def _open(self, auth: tuple[Credential, ...], zxid_floor: int) -> None:
        client = Client(
            self._hosts,
            auth=auth,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            zxid_floor=max(self._zxid_seen, zxid_floor),
            check_stop=self._check_stop,
            tls=self._tls,
        )
        client.connect()
        self._client, self._auth = client, auth
        # Asked now: an old server answers either question with a dropped connection.
        self.identities = client.identities

    def close(self) -> None:
        """End the session; what it has seen stays the floor of the next."""
        if self._client is not None:
            client, self._zxid_seen = self._client, self.zxid_seen
            self._client = None
            client.close()
