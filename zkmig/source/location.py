"""Locations: where a tree is, as an operator writes it: an ensemble and a path, or a file.

    zk://zk1:2181,zk2,[::1]:2182/app/pools      hosts with ports (2181 if left out), then the path of the root
    backup/monday.zks                           everything else is a file, known by its magic once it is opened

The path is taken as it stands: "%" is a legal character of a znode name, so nothing is percent-decoded. Credentials
never stand in a location; one that holds them is refused, and no part of it is repeated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from zkmig.errors import BadInput
from zkmig.model import path as paths

PORT_DEFAULT = 2181
PORT_MAX = 65_535
LABEL_CHARS_MAX = 63  # RFC 1035, 2.3.4

_EXAMPLE = "locations look like zk://zk1:2181,zk2:2181/app, or are the name of a file"
_NO_CREDENTIALS = "give credentials with --auth-file or ZKMIG_AUTH"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?")  # with a zone, as in fe80::1%eth0
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class EnsembleLocation:
    """A subtree of a live ensemble. hosts: (name or address, port), in the order given. path: absolute, validated.

    text: as it was given, for messages and provenance; it plays no part in equality. ``str()`` writes every port and
    no trailing slash, and parses to an equal location.
    """

    hosts: tuple[tuple[str, int], ...]
    path: str = "/"
    tls: bool = False
    text: str = field(default="", compare=False)

    @property
    def hosts_text(self) -> str:
        """The hosts as kazoo and zkCli take them: ``zk1:2181,[::1]:2182``."""
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)

    def __str__(self) -> str:
        return f"{'zks' if self.tls else 'zk'}://{self.hosts_text}{self.path}"


@dataclass(frozen=True, slots=True)
class FileLocation:
    """A file; what kind is known by its magic, only when it is opened."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Location = EnsembleLocation | FileLocation


def parse(text: str) -> Location:
    """The location that `text` names. BadInput says what is wrong with it; a file is not looked for here."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _parse_file(text)
    if scheme[1].lower() not in ("zk", "zks"):
        raise BadInput(f"unknown kind of location {scheme[1]}://", "", f"{_EXAMPLE} (./name if it looks like a URL)")
    authority, slash, rest = text[scheme.end() :].partition("/")
    if "@" in authority:
        raise BadInput("credentials do not belong in a location", "", _NO_CREDENTIALS)
    try:
        location = EnsembleLocation(parse_hosts(authority), _parse_path(slash + rest), scheme[1].lower() == "zks", text)
    except BadInput:
        if "@" not in text:
            raise
        # A password may hold a slash, and then what was taken for host or path is a piece of it.
        raise BadInput("a location with an @ that cannot be understood", "", _NO_CREDENTIALS) from None
    return location


def parse_hosts(text: str) -> tuple[tuple[str, int], ...]:
    """Members of ``zk1:2181,zk2,[::1]:2182`` as (host, port). BadInput names the member that is wrong."""
    if not text:
        raise BadInput("no host given", "", _EXAMPLE)
    return tuple(_parse_member(member, text) for member in text.split(","))


def _parse_member(member: str, text: str) -> tuple[str, int]:
    if not member:
        raise BadInput("a host is empty", text, "hosts are separated by single commas")
    if member.startswith("["):
        host, bracket, tail = member[1:].partition("]")
        if not bracket or not _IPV6.fullmatch(host) or (tail and not tail.startswith(":")):
            raise BadInput(f"not an IPv6 address in brackets: {member!r}", text, "write it like [::1]:2181")
        return host, _parse_port(tail[1:], text) if tail else PORT_DEFAULT
    if member.count(":") > 1:
        raise BadInput(f"more than one colon in {member!r}", text, "write IPv6 addresses in brackets, like [::1]:2181")
    host, colon, port = member.partition(":")
    if not _HOST_NAME.fullmatch(host):
        raise BadInput(f"not a host name: {host!r}", text, _EXAMPLE)
    if not all(1 <= len(label) <= LABEL_CHARS_MAX for label in host.removesuffix(".").split(".")):
        # Refused here, since Python's resolver raises UnicodeError for it, for which clients are not prepared.
        what = f"not a host name: {host!r} (a part is empty or longer than {LABEL_CHARS_MAX} characters)"
        raise BadInput(what, text, _EXAMPLE)
    return host, _parse_port(port, text) if colon else PORT_DEFAULT


def _parse_port(digits: str, text: str) -> int:
    if not _PORT.fullmatch(digits) or not 1 <= int(digits) <= PORT_MAX:
        raise BadInput(f"not a port: {digits!r}", text, f"ports are numbers from 1 to {PORT_MAX}")
    return int(digits)


def _parse_path(text: str) -> str:
    return paths.validate(text.removesuffix("/") or "/")


def _parse_file(text: str) -> FileLocation:
    if not text.strip():
        raise BadInput("the location is empty", "", _EXAMPLE)
    if "\0" in text:
        raise BadInput("a file name cannot hold NUL", repr(text), _EXAMPLE)
    return FileLocation(Path(text))
