"""Certificates for trying TLS: an authority of one's own, and what it vouches for, made by the `openssl` program.

Debian's Java depends on the package that brings `openssl`, so it is there wherever Debian's ZooKeeper runs.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zkmig.dev.ports import LOOPBACK
from zkmig.errors import BadInput, ZkmigError

DAYS_VALID = 30
CLIENT_NAME = "/O=zkmig/CN=client"  # as openssl writes it; ZooKeeper's x509 id of it is "CN=client,O=zkmig"

_SERVER_EXTENSIONS = f"subjectAltName=DNS:localhost,IP:{LOOPBACK}\n"
_CA_EXTENSIONS = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files in one folder. ca: the authority. server, client: a key and its certificate in one file each."""

    ca: Path
    server: Path
    client: Path


def make_certificates(folder: Path) -> Certificates:
    """An authority, a certificate of localhost and 127.0.0.1, and one of a client. Keys only their owner can read.

    BadInput when there is no `openssl`.
    """
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")
    subject = ("-subj", "/O=zkmig/CN=authority")
    key = folder / "ca.key"
    _openssl("req", "-x509", *_NEW_KEY, "-keyout", key, *subject, "-days", DAYS_VALID, "-out", made.ca, *_CA_EXTENSIONS)
    issue(made.ca, key, "/O=zkmig/CN=localhost", made.server, _SERVER_EXTENSIONS)
    issue(made.ca, key, CLIENT_NAME, made.client)
    return made


def issue(ca: Path, ca_key: Path, subject: str, file: Path, extensions: str = "", days: int = DAYS_VALID) -> None:
    """Write a new key and its certificate into one file. extensions: lines as in openssl's configuration."""
    key, request, settings = (file.with_suffix(suffix) for suffix in (".key", ".csr", ".ext"))
    _openssl("req", *_NEW_KEY, "-keyout", key, "-subj", subject, "-out", request)
    settings.write_text(extensions)
    authority = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial")
    certificate = ("-days", days, "-extfile", settings, "-out", file)
    _openssl("x509", "-req", "-in", request, *authority, *certificate)
    text = file.read_text() + key.read_text()
    file.unlink()
    file.touch(0o600)
    file.write_text(text)
    for each in (key, request, settings):
        each.unlink()


def _openssl(*arguments: str | int | Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise BadInput("TLS needs the program openssl to make certificates", "PATH", "run `apt-get install openssl`")
    ran = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ZkmigError(f"openssl {arguments[0]} failed: {' '.join(ran.stderr.splitlines()[-1:])}", str(arguments[-1]))
