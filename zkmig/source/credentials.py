"""Credentials: who a session authenticates as, from a file or the environment, never from a command line.

Both hold the same format, a credential a line:

    # comments and blank lines are left out
    digest:user:password

A profile holds the same as a list of lines. Blanks around a line are dropped; everything after the second colon is the
password, colons and # included. An environment variable may hold several lines. (A comma does not separate: a password
may contain one.) The secret is in no error and no log line: a fault is told by file and line number.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping

from zkmig.errors import BadInput
from zkmig.source.profiles import Profile
from zkmig.wire.credential import SASL_SCHEMES, Credential
from zkmig.wire.tls import Tls

ENV_AUTH = "ZKMIG_AUTH"
ENV_TLS_CA = "ZKMIG_TLS_CA"
ENV_TLS_CERT = "ZKMIG_TLS_CERT"
ENV_TLS_KEY = "ZKMIG_TLS_KEY"
AUTH_BYTES_MAX = 64 * 1024  # more is no list of credentials but a wrong file

_FORMAT = "a line is digest:user:password"
_logger = logging.getLogger("zkmig")


def load(auth_file: str | None, env: Mapping[str, str], profile: Profile | None = None) -> tuple[Credential, ...]:
    """The credentials of `auth_file`, then those of ZKMIG_AUTH in `env`, each once. Neither given: the profile's.

    BadInput names file (or variable) and line. A file that others may read is used, with a warning in the log.
    """
    found: dict[Credential, None] = {}
    if auth_file is not None:
        found.update(dict.fromkeys(_parse(_read(auth_file), auth_file)))
    if ENV_AUTH in env:
        found.update(dict.fromkeys(_parse(env[ENV_AUTH], ENV_AUTH)))
    if profile is not None and auth_file is None and not env.get(ENV_AUTH):
        found.update(dict.fromkeys(_of_profile(profile)))
    return tuple(found)


def _of_profile(profile: Profile) -> Iterator[Credential]:
    if profile.auth_file is not None:
        yield from _parse(_read(profile.auth_file), profile.auth_file)
    for number, line in enumerate(profile.auth or (), start=1):
        yield _parse_line(line.strip(), f"{profile.where}, 'auth' line {number}")


def tls_of(env: Mapping[str, str]) -> Tls:
    """The files that ZKMIG_TLS_CA, ZKMIG_TLS_CERT and ZKMIG_TLS_KEY name; an empty variable names none."""
    return Tls(env.get(ENV_TLS_CA, ""), env.get(ENV_TLS_CERT, ""), env.get(ENV_TLS_KEY, ""))


def _read(auth_file: str) -> str:
    try:
        with open(auth_file, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(AUTH_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(f"the credentials cannot be read: {reason}", auth_file, "check --auth-file") from None
    if len(raw) > AUTH_BYTES_MAX:
        raise BadInput(f"more than {AUTH_BYTES_MAX} bytes: not a list of credentials", auth_file, _FORMAT)
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        _logger.warning("%s: other users may read these credentials; chmod 600 it", auth_file)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput("the credential is not UTF-8", f"{auth_file}, line {line}", _FORMAT) from None


def _parse(text: str, where: str) -> Iterator[Credential]:
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            yield _parse_line(line, f"{where}, line {number}")


def _parse_line(line: str, where: str) -> Credential:
    scheme, _, rest = line.partition(":")
    if scheme in SASL_SCHEMES:
        raise BadInput("SASL is not supported yet", where, "use digest, or a client certificate with zks://")
    if scheme == "x509":
        raise BadInput("an x509 identity is no line here", where, "show the certificate with zks:// and --tls-cert")
    if scheme != "digest":
        # What stands before the first colon may itself be the secret, so it is not repeated.
        raise BadInput("not a digest credential, the only kind supported", where, _FORMAT)
    user, colon, password = rest.partition(":")
    if not user or not colon or not password:
        raise BadInput("user or password is missing", where, _FORMAT)
    if "\0" in rest:
        raise BadInput("a credential cannot hold NUL", where, _FORMAT)
    return Credential("digest", rest.encode())
