"""ACL entries, and what a list of them grants."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

READ = 1
WRITE = 2
CREATE = 4
DELETE = 8
ADMIN = 16
ALL = 31

_LETTERS = ((READ, "r"), (WRITE, "w"), (CREATE, "c"), (DELETE, "d"), (ADMIN, "a"))


class Acl(NamedTuple):
    """One ACL entry. perms: bits READ..ADMIN; scheme and id as ZooKeeper stores them."""

    perms: int
    scheme: str
    id: str

    def __str__(self) -> str:
        letters = "".join(letter for bit, letter in _LETTERS if self.perms & bit)
        return f"{self.scheme}:{self.id}:{letters}"


AclList = tuple[Acl, ...]

OPEN_ACL: AclList = (Acl(ALL, "world", "anyone"),)


class Identity(NamedTuple):
    """Who a session is, as ACL entries name it (scheme and stored id)."""

    scheme: str
    id: str


WORLD = Identity("world", "anyone")


def acl_of_plain(entries: Iterable[Iterable[Any]]) -> AclList:
    """The inverse of an ACL as files hold it, lists of perms, scheme and id. ValueError or TypeError for all else."""
    acl = tuple([Acl(*entry) for entry in entries])
    for perms, scheme, name in acl:
        if type(perms) is not int or type(scheme) is not str or type(name) is not str:
            raise ValueError("an ACL entry is perms, scheme and id")
        if not -(2**31) <= perms < 2**31:
            raise ValueError(f"perms {perms}")
    return acl


def digest_id(user: str, password: str) -> str:
    """The stored id of a digest identity: ``user:base64(sha1(user:password))`` (DigestAuthenticationProvider)."""
    raw = f"{user}:{password}".encode()
    return f"{user}:{base64.b64encode(hashlib.sha1(raw).digest()).decode('ascii')}"


def grants(acls: AclList, identities: Iterable[Identity]) -> int:
    """The permission bits that `acls` give to a session holding `identities` (world:anyone always counts).

    An empty list, and identity `super`, grant everything (PrepRequestProcessor.checkACL). `ip` entries match exact
    addresses only here: a CIDR range the caller cannot evaluate is not counted, so the answer errs on the safe side.
    """
    held = set(identities) | {WORLD}
    if not acls or any(identity.scheme == "super" for identity in held):
        return ALL
    perms = 0
    for acl in acls:
        if Identity(acl.scheme, acl.id) in held:
            perms |= acl.perms
    return perms


def may_show_as(acl: AclList, shown: AclList) -> bool:
    """Whether a server that stores `acl` may answer getACL with `shown`.

    To a session without ADMIN on the node it shows digest ids as "user:x" (FinalRequestProcessor).
    """
    return shown in (acl, masked(acl))


def masked(acl: AclList) -> AclList:
    """The ACL as a server shows it to a session without ADMIN on the node."""
    return tuple(_masked(entry) for entry in acl)


def _masked(entry: Acl) -> Acl:
    return entry._replace(id=entry.id.partition(":")[0] + ":x") if entry.scheme == "digest" else entry


def is_masked(shown: AclList, identities: Iterable[Identity]) -> bool:
    """Whether getACL's answer to a session holding `identities` hides digest ids from it (see `masked`)."""
    hidden = any(entry.scheme == "digest" and entry.id.endswith(":x") for entry in shown)
    return hidden and not grants(shown, identities) & ADMIN
