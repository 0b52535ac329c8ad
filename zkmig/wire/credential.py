"""A credential: what a session authenticates with. Its secret is shown nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from zkmig.errors import BadInput
from zkmig.model.acl import Identity, digest_id

SASL_SCHEMES: Final = frozenset({"sasl", "kerberos", "gssapi", "SASL", "Kerberos", "GSSAPI"})
"""What operators call what this client cannot do: a conversation instead of one secret."""


@dataclass(frozen=True, slots=True)
class Credential:
    """scheme: "digest" as a rule; secret: what it takes, b"user:password" for digest."""

    scheme: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.scheme in SASL_SCHEMES:
            raise BadInput("SASL is not supported yet", "", "use digest, or a client certificate with zks://")

    @property
    def identity(self) -> Identity | None:
        """As ACL entries name it; None where only the server knows (any scheme but digest)."""
        if self.scheme != "digest":
            return None
        try:
            user, colon, password = self.secret.decode().partition(":")
        except UnicodeDecodeError:
            user, colon, password = "", "", ""
        if not colon:
            raise BadInput("a digest credential must be UTF-8 text of the form user:password")
        return Identity("digest", digest_id(user, password))
