"""What each member of an ensemble is like, asked at the member itself: four-letter words, and sessions of its own.

Sessions are all that takes a zxid here. A member is asked with the zxid that the leading session has seen as its floor,
so one that lags behind refuses; and it is asked to take up a session of another member, which only a server of the same
ensemble can.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from zkmig.doctor.questions import CONFIG
from zkmig.doctor.words import Told, ask
from zkmig.errors import NotPermitted, Unreachable
from zkmig.wire.client import Client
from zkmig.wire.codes import Code
from zkmig.wire.credential import Credential
from zkmig.wire.faults import SessionExpired
from zkmig.wire.limits import frame_limits
from zkmig.wire.link import Host, address, addresses_of
from zkmig.wire.replies import DataResult
from zkmig.wire.requests import GetData, Sync
from zkmig.wire.tls import Tls

CONNECT_TIMEOUT_S: Final = 5.0
FRAME_BYTES_ASKED: Final = 4 << 20
"""The largest frame that is tried: nothing that zkmig sends by itself is larger."""

_TIMEOUT_MS_MAX: Final = (1 << 31) - 1
SHORT_SESSION_MS: Final = 5_000  # one that no server of its own can be told to end goes soon
MODE_CHARS: Final = 20
_ZXID: Final = re.compile(r"0x([0-9a-f]{1,16})")
_LOOPBACK: Final = ("127.", "::1")


@dataclass(slots=True)
class Member:
    """name: as findings name it. host: to connect to. server_name: what its certificate must hold. told: by words.

    fault: why it takes no session; "". lags: it takes none that has seen what is committed. session_ms: the least and
    the longest session that it grants. frame_bytes: the largest frame that it takes, up to FRAME_BYTES_ASKED; None:
    frame_fault says why that is not known. has_multi_read: None: not asked. config: the ensemble as this member knows
    it, "" for a standalone one, None where it may not be read. shares_session: whether it took up a session of the
    first member; None: not tried. lets_read: paths that the session should not be able to read, and can here.
    """

    name: str
    host: Host
    server_name: str
    told: Told = field(default_factory=Told)
    fault: str = ""
    lags: bool = False
    session_ms: tuple[int, int] | None = None
    frame_bytes: int | None = None
    frame_fault: str = ""
    has_multi_read: bool | None = None
    config: str | None = None
    shares_session: bool | None = None
    lets_read: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this machine on the way to it."""
        return self.host[0].startswith(_LOOPBACK) or self.host[0] == "localhost"

    @property
    def mode(self) -> str:
        """standalone, leader, follower, observer or read-only, as srvr says; "" where it is not known."""
        return self.told.srvr().get("Mode", "")[:MODE_CHARS]

    @property
    def zxid(self) -> int | None:
        """The newest that it has applied, as srvr says."""
        found = _ZXID.fullmatch(self.told.srvr().get("Zxid", ""))
        return None if found is None else int(found[1], 16)


@dataclass(frozen=True, slots=True)
class _TlsOfMembers(Tls):
    """names: by address, what a member's certificate must hold."""

    names: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, host: str) -> str:
        return self.names[host]


@dataclass(frozen=True, slots=True)
class Asking:
    """How members are asked: as the session of a location is opened."""

    auth: tuple[Credential, ...]
    tls: Tls | None
    check_stop: Callable[[], None]

    def client(self, members: Sequence[Member], session_ms: int, zxid_floor: int = 0) -> Client:
        """A session with some members, not opened yet."""
        names = {member.host[0]: member.server_name for member in members}
        return Client(
            [member.host for member in members],
            auth=self.auth,
            session_timeout_ms=session_ms,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            zxid_floor=zxid_floor,
            check_stop=self.check_stop,
            tls=None if self.tls is None else _TlsOfMembers(**dataclasses.asdict(self.tls), names=names),
        )

    def tls_for(self, server_name: str) -> Tls | None:
        """For a server known by that name, whatever its address."""
        return None if self.tls is None else dataclasses.replace(self.tls, server_name=server_name)


def members_of(hosts: Sequence[Host], asking: Asking) -> list[Member]:
    """Each address behind each name, since it may be another server; what they tell by four-letter words."""
    found: dict[Host, Member] = {}
    for host in hosts:
        behind = addresses_of(host)
        for where in behind:
            name = address(host) if len(behind) == 1 else f"{address(host)} ({where[0]})"
            server_name = "" if asking.tls is None else asking.tls.name_of(host[0])
            found.setdefault(where, Member(name, where, server_name))
    for member in found.values():
        member.told = ask(
            member.host, asking.tls_for(member.server_name), member.server_name, check_stop=asking.check_stop
        )
    return _without_empty_addresses(list(found.values()))


def look_again(member: Member, asking: Asking) -> None:
    """Ask for `srvr` anew; where it does not answer, what it said before stays."""
    told = ask(member.host, asking.tls_for(member.server_name), member.server_name, ["srvr"], asking.check_stop)
    member.told.answers.update(told.answers)


def _without_empty_addresses(members: list[Member]) -> list[Member]:
    """`localhost` has two addresses, one of which nobody listens at as a rule: that is no member."""
    heard = {member.host[1] for member in members if member.is_loopback and not member.told.fault}
    return [
        member
        for member in members
        if not (member.told.fault and member.is_loopback and member.name.startswith("localhost:"))
        or member.host[1] not in heard
    ]


def examine(member: Member, asking: Asking, zxid_floor: int, closed: Sequence[str]) -> None:
    """Open sessions with one member: does it take one, how long may it be, what does it let through.

    zxid_floor: what it must have seen. closed: paths that the session should not be able to read.
    """
    for floor in (zxid_floor, 0):
        try:
            _open_sessions(member, asking, floor, closed)
        except (Unreachable, NotPermitted) as error:
            member.fault = member.fault or error.what
            if member.told.fault or isinstance(error, NotPermitted):
                return  # it says nothing at all, so it does not refuse for what the session has seen
        else:
            member.fault, member.lags = "", floor != zxid_floor
            break
    if member.fault:
        return
    try:
        limits = frame_limits(
            [member.host],
            FRAME_BYTES_ASKED,
            tls=asking.tls_for(member.server_name),
            connect_timeout_s=CONNECT_TIMEOUT_S,
            check_stop=asking.check_stop,
        )
        member.frame_bytes = limits.smallest.frame_bytes
    except (Unreachable, NotPermitted) as error:
        member.frame_fault = error.what


def _open_sessions(member: Member, asking: Asking, zxid_floor: int, closed: Sequence[str]) -> None:
    with asking.client([member], _TIMEOUT_MS_MAX, zxid_floor) as client:
        longest = client.session_timeout_ms
    # Another one to read by: how long a member may be silent goes by the time-out, and that one may be days.
    with asking.client([member], SHORT_SESSION_MS, zxid_floor) as client:
        member.config = _config(client)
        member.lets_read = tuple(path for path in closed if client.call_reply(GetData(path)).error == Code.OK)
        member.has_multi_read = client.has_multi_read  # last: a server that does not know it hangs up
    with asking.client([member], 1) as client:
        member.session_ms = (client.session_timeout_ms, longest)


def _config(client: Client) -> str | None:
    result = client.call_reply(GetData(CONFIG)).result
    return (result.data or b"").decode(errors="replace") if isinstance(result, DataResult) else None


def share_session(first: Member, other: Member, asking: Asking) -> None:
    """Whether one of two members takes up a session of the other: a server of another ensemble knows nothing of it.

    Tried both ways, since a server refuses whoever has seen more than it has.
    """
    for here, there in ((first, other), (other, first)):
        try:
            with asking.client([here, there], SHORT_SESSION_MS) as client:
                if client.server == here.host:
                    client.reconnect()
                    other.shares_session = True if client.server == there.host else None
        except SessionExpired:
            other.shares_session = False
        except (Unreachable, NotPermitted):
            continue
        if other.shares_session is not None:
            return


def catch_up(leading: Client, root: str) -> int:
    """The zxid of a state that the ensemble has committed by now, for others to have seen."""
    leading.call(Sync(root))
    return leading.last_zxid


def servers_in(config: str) -> Iterator[tuple[str, str]]:
    """Of /zookeeper/config: the server's number and its role, `participant` or `observer`."""
    for line in config.splitlines():
        name, found, value = line.partition("=")
        if found and name.startswith("server."):
            yield name.removeprefix("server."), "observer" if ":observer" in value else "participant"
