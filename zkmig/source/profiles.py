"""Profiles: what an operator says of an ensemble once, in a TOML file, instead of with every command.

    [prod]
    at = "zks://zk1:2281,zk2:2281,zk3:2281/app"
    scope = "prod"
    auth_file = "prod.auth"          # or auth = ["digest:user:password"]
    tls_ca = "ca.pem"                # names of files are relative to the folder of this one
    tls_cert = "me.pem"
    tls_key = "me.key"
    tls_hostname = true
    session_timeout = 30             # seconds
    timeout = 600

Every field may be left out. A field that is not known, or of the wrong type, is an error: a mistyped `scope` must not
become the absence of one. No value is repeated in an error, since it may be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from zkmig.errors import BadInput
from zkmig.source.location import EnsembleLocation, parse

ENV_PROFILE = "ZKMIG_PROFILE"
ENV_PROFILES = "ZKMIG_PROFILES"
PROFILES_BYTES_MAX = 1024 * 1024

_logger = logging.getLogger("zkmig")


@dataclass(frozen=True, slots=True)
class Profile:
    """name: as in the file. where: file and profile, for messages. The rest: fields of the file, None where not given.

    Files are absolute names. Timeouts are seconds.
    """

    name: str
    where: str
    at: str | None = None
    scope: str | None = None
    auth: tuple[str, ...] | None = None
    auth_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_hostname: bool | None = None
    session_timeout: float | None = None
    timeout: float | None = None

    @property
    def session(self) -> tuple[object, ...]:
        """What it says of sessions: two profiles that are equal in it can serve one command."""
        files = (self.auth_file, self.tls_ca, self.tls_cert, self.tls_key)
        return (self.auth, *files, self.tls_hostname, self.session_timeout)


_FIELDS = tuple(field.name for field in fields(Profile))[2:]
_FILES = ("auth_file", "tls_ca", "tls_cert", "tls_key")
_TEXTS = ("at", "scope", *_FILES)
_SECONDS = ("session_timeout", "timeout")


def default_file(env: Mapping[str, str]) -> str:
    """~/.config/zkmig/profiles.toml, or where XDG_CONFIG_HOME says."""
    home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(home, "zkmig", "profiles.toml")


def load(name: str, file: str) -> Profile:
    """The profile `name` of `file`. BadInput names file, profile and field of what is wrong, and no value.

    A file with credentials in it that others may read is used, with a warning in the log.
    """
    content = _read(file)
    if name not in content:
        raise BadInput(f"there is no profile {name!r}", file, _nearest(name, content, "it has"))
    table = content[name]
    where = f"{file}, profile {name!r}"
    if not isinstance(table, dict):
        raise BadInput("a profile is a table", where, f"write [{name}] on a line of its own above its fields")
    values = {field: _value(field, value, where, Path(file).absolute().parent) for field, value in table.items()}
    profile = Profile(name, where, **values)
    if profile.auth is not None and profile.auth_file is not None:
        raise BadInput("fields 'auth' and 'auth_file' at once", where, "keep one of them")
    if profile.auth and _is_open(file):
        _logger.warning("%s: other users may read the credentials in it; chmod 600 it", file)
    return profile


def location(text: str, file: str) -> tuple[str, Profile | None]:
    """A location as it is, or for "@name" and "@name/path" that of the profile, with the path added; and the profile.

    "./@name" is a file of that name.
    """
    if not text.startswith("@"):
        return text, None
    name, slash, path = text[1:].partition("/")
    profile = load(name, file)
    if profile.at is None:
        raise BadInput("no field 'at'", profile.where, f"add it, or write out the location {text}")
    return profile.at.removesuffix("/") + slash + path if slash else profile.at, profile


def _read(file: str) -> dict[str, Any]:
    import tomllib  # loaded by the commands that name a profile

    try:
        with open(file, "rb") as source:
            raw = source.read(PROFILES_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(f"the profiles cannot be read: {reason}", file, f"check --profiles or {ENV_PROFILES}") from None
    if len(raw) > PROFILES_BYTES_MAX:
        raise BadInput(f"more than {PROFILES_BYTES_MAX} bytes: not a file of profiles", file, "check --profiles")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput("not UTF-8", f"{file}, line {line}", "write it anew") from None
    except tomllib.TOMLDecodeError as error:
        # What stands before the place may quote the file, which may hold a secret.
        _, _, place = str(error).rpartition("(at ")
        raise BadInput("this is not TOML", f"{file}, {place.removesuffix(')')}", "check quotes and brackets") from None


def _is_open(file: str) -> bool:
    mode = os.stat(file).st_mode
    return stat.S_ISREG(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise}: {', '.join(sorted(known)) or 'there are none'}"


def _value(field: str, value: Any, where: str, folder: Path) -> Any:
    if field not in _FIELDS:
        raise BadInput(f"no such field: {field!r}", where, _nearest(field, _FIELDS, "the fields are"))
    wanted = _wanted(field, value)
    if wanted is not None:
        raise BadInput(f"field {field!r} must be {wanted}", where, "correct it")
    if field == "at" and not _is_ensemble(value):
        raise BadInput("field 'at' must be the location of an ensemble", where, "write it like zk://zk1:2181/app")
    if field == "auth":
        return tuple(value)
    return str(folder / os.path.expanduser(value)) if field in _FILES else value


def _wanted(field: str, value: Any) -> str | None:
    """What the value should have been, None if it is that."""
    if field == "auth":
        is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
        return None if is_lines else 'a list of lines, like ["digest:user:password"]'
    if field in _SECONDS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number and 0 < value < float("inf") else "a number of seconds above 0"
    if field in _TEXTS:
        return None if isinstance(value, str) and value else "a text that is not empty"
    return None if isinstance(value, bool) else "true or false"


def _is_ensemble(text: str) -> bool:
    try:
        return isinstance(parse(text), EnsembleLocation)
    except BadInput:
        return False
