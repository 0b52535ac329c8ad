"""Access: as whom, and until when, zkmig talks to an ensemble; and which scope of it is meant."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict

from zkmig.epoch.control import ControlPaths, Registration, read_registry, valid_scope_name
from zkmig.errors import BadInput, Refused
from zkmig.model import path as paths
from zkmig.model.path import CONTROL_ROOT
from zkmig.source import credentials
from zkmig.source.location import EnsembleLocation, parse
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.credential import Credential
from zkmig.wire.requests import FRAME_BYTES_MAX_DEFAULT
from zkmig.wire.tls import Tls

_log = logging.getLogger("zkmig.api")

Auth = Iterable[Credential | tuple[str, str]]  # as in ("digest", "user:password")
Hosts = tuple[tuple[str, int], ...]


SESSION_TIMEOUT_S = 30.0


class SessionOptions(TypedDict, total=False):
    """As whom, how, and until when: what every function that opens sessions takes.

    auth: credentials for every location, also as ("digest", "user:password"); None or left out: what ZKMIG_AUTH holds.
    tls: for zks:// locations; None or left out: what ZKMIG_TLS_CA, ZKMIG_TLS_CERT and ZKMIG_TLS_KEY name, else the
    authorities that the system trusts, and no client certificate. session_timeout_s: asked of the servers (30).
    stop: ends what is under way.
    """

    auth: Auth | None
    tls: Tls | None
    session_timeout_s: float | None
    stop: StopRequest | None


@dataclass(frozen=True, slots=True)
class Access:
    """auth: who to be. tls: how, where a location says zks://. stop: ends what is under way.

    connect_timeout_s: for all members of an ensemble together.
    """

    auth: tuple[Credential, ...] = ()
    stop: StopRequest = field(default_factory=StopRequest)
    session_timeout_ms: int = round(SESSION_TIMEOUT_S * 1000)
    connect_timeout_s: float = 10.0
    tls: Tls = field(default_factory=Tls)

    @classmethod
    def of(
        cls,
        auth: Auth | None = None,
        stop: StopRequest | None = None,
        tls: Tls | None = None,
        session_timeout_s: float | None = None,
    ) -> Access:
        """As SessionOptions says. stop None: never."""
        if session_timeout_s is not None and session_timeout_s <= 0:
            raise BadInput("a session cannot end before it begins", f"{session_timeout_s:g} s", "give more time")
        return cls(
            credentials.load(None, os.environ) if auth is None else tuple(map(_credential, auth)),
            stop or StopRequest(),
            round((session_timeout_s or SESSION_TIMEOUT_S) * 1000),
            tls=credentials.tls_of(os.environ) if tls is None else tls,
        )

    def client(self, place: EnsembleLocation, frame_bytes_max: int = FRAME_BYTES_MAX_DEFAULT) -> Client:
        """A client of the ensemble of a location, to be opened by `with`."""
        _log.info("connecting to %s", place.hosts_text)
        return Client(
            place.hosts,
            auth=self.auth,
            session_timeout_ms=self.session_timeout_ms,
            connect_timeout_s=self.connect_timeout_s,
            check_stop=self.stop.check,
            frame_bytes_max=max(frame_bytes_max, FRAME_BYTES_MAX_DEFAULT),
            tls=self.tls_for(place),
        )

    def tls_for(self, place: EnsembleLocation) -> Tls | None:
        """None where the location says zk://."""
        return self.tls if place.tls else None


def _credential(given: Credential | tuple[str, str]) -> Credential:
    return given if isinstance(given, Credential) else Credential(given[0], given[1].encode())


def ensemble(text: str) -> EnsembleLocation:
    """The live ensemble that a location names; BadInput for a file."""
    location = parse(text)
    if not isinstance(location, EnsembleLocation):
        raise BadInput("this is not a live ensemble", text, "write it like zk://zk1:2181,zk2:2181/app")
    return location


def address(location: EnsembleLocation) -> str:
    """The location without its path: zk://zk1:2181,zk2:2181."""
    return f"{'zks' if location.tls else 'zk'}://{location.hosts_text}"


def covering_scope(client: Client, path: str, scope: str | None, control: str = CONTROL_ROOT) -> Registration | None:
    """The scope whose root covers `path`, if there is one and it is the one named (or none is named)."""
    registrations, _ = read_registry(client, control)
    return next((r for r in registrations if paths.contains(r.root, path) and scope in (None, r.scope)), None)


def scope_at(client: Client, place: EnsembleLocation, scope: str | None, control: str = CONTROL_ROOT) -> ControlPaths:
    """The scope that a location means: the one named, else the only one that lies on, above or below its path.

    Refused when there is none, or when the one named lies elsewhere; BadInput when there are several.
    """
    registrations, _ = read_registry(client, paths.validate(control))
    named = registrations
    if scope is not None:
        valid_scope_name(scope)
        named = tuple(r for r in registrations if r.scope == scope)
    near = [r for r in named if paths.overlap(r.root, place.path)]
    if len(near) == 1:
        return ControlPaths(near[0].scope, control)
    if near:
        names = ", ".join(r.scope for r in near)
        raise BadInput(f"several scopes lie here: {names}", _told(place), "name one with --scope")
    if named and scope is not None:
        raise Refused(f"scope {scope!r} covers {named[0].root}, not this path", _told(place), "check --at and --scope")
    raise _no_scope(place, scope, control, registrations)


def _told(place: EnsembleLocation) -> str:
    """Its servers, and its path where that is more than the root."""
    return address(place) if place.path == "/" else str(place)


def _no_scope(
    place: EnsembleLocation, scope: str | None, control: str, registrations: Sequence[Registration]
) -> Refused:
    """The refusal, naming where it was looked for, those that are there, and the command that creates one."""
    is_root = place.path == "/"
    where = _told(place)
    path, name = "/PATH" if is_root else place.path, "NAME" if scope is None else scope
    elsewhere = "" if control == CONTROL_ROOT else f" --control {shlex.quote(control)}"
    create = f"zkmig init {shlex.quote(address(place) + path)} --scope {name}{elsewhere}"
    what = f"there is no scope under {control}" if scope is None else f"there is no scope {scope!r} under {control}"
    if not registrations:
        return Refused(what, where, f"create it: {create}")
    if scope is None:
        what = f"no scope under {control} covers this path"
    here = f"scopes here: {', '.join(r.scope for r in registrations)}"
    return Refused(what, where, f"{here}; name one with --scope, or create it: {create}")


@contextmanager
def open_scope(
    access: Access, at: str, scope: str | None, control: str = CONTROL_ROOT
) -> Iterator[tuple[Client, ControlPaths]]:
    """A session with the ensemble of `at`, and the names of the scope that is meant there; see `scope_at`."""
    place = ensemble(at)
    with access.client(place) as client:
        yield client, scope_at(client, place, scope, control)
