"""TLS: what vouches for a server, and by what this client shows who it is.

Certificates are always verified; the host name is, too, unless that is switched off by name. Python's `ssl` is loaded
only where TLS is used, since it takes longer to load than most commands take to run.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zkmig.errors import BadInput

if TYPE_CHECKING:
    import ssl

_logger = logging.getLogger("zkmig")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to use TLS where a location says zks://. Files are PEM.

    ca: certificates of the authorities that may vouch for servers; "": those that the system trusts. cert: this
    client's certificate, and those between it and its authority; "": none is shown. key: its private key, without a
    passphrase; "": it stands in the file `cert`. check_hostname: whether the server's certificate must name the host.
    server_name: the name that it must hold, where that is not the host of the location (through a tunnel).
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    check_hostname: bool = True
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """As the files are now. BadInput names the one that cannot be used."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # so that sending never has to wait for receiving
        context.check_hostname = self.check_hostname
        if self.ca:
            self._load_ca(context)
        else:
            context.load_default_certs()
        if self.cert:
            self._load_cert(context)
        elif self.key:
            raise BadInput("a TLS key without its certificate", self.key, "give the certificate with --tls-cert")
        return context

    def _load_ca(self, context: ssl.SSLContext) -> None:
        _require_readable(self.ca, "the TLS authorities", "--tls-ca")
        try:
            context.load_verify_locations(self.ca)
        except OSError:
            raise BadInput("no certificates in PEM", self.ca, "check --tls-ca") from None

    def _load_cert(self, context: ssl.SSLContext) -> None:
        key = self.key or self.cert
        _require_readable(self.cert, "the TLS certificate", "--tls-cert")
        _require_readable(key, "the TLS key", "--tls-key")
        _warn_if_open(key)
        asked = False

        def password() -> str:
            nonlocal asked
            asked = True  # OpenSSL would ask on the terminal
            return ""

        try:
            context.load_cert_chain(self.cert, key, password)
        except OSError as error:
            if asked:
                hint = "keep an unencrypted copy that only you can read (openssl pkey -in KEY -out COPY)"
                raise BadInput("the TLS key needs a passphrase, which is not supported", key, hint) from None
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                raise BadInput("the TLS key does not belong to the certificate", key, f"compare {self.cert}") from None
            where = self.cert if key == self.cert else f"{self.cert} and {key}"
            raise BadInput("no certificate and key in PEM", where, "check --tls-cert and --tls-key") from None

    def name_of(self, host: str) -> str:
        """What a certificate of this host must be made out to."""
        return self.server_name or host.partition("%")[0].removesuffix(".")  # no zone of an IPv6 address, no root dot


def _require_readable(file: str, what: str, option: str) -> None:
    try:
        with open(file, "rb"):
            return
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(f"{what} cannot be read: {reason}", file, f"check {option}") from None


def _warn_if_open(key: str) -> None:
    mode = os.stat(key).st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        _logger.warning("%s: other users may read this TLS key; chmod 600 it", key)
