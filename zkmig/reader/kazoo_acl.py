"""ACLs of the nodes that a reader leaves in the control plane, as kazoo takes them."""

from __future__ import annotations

from collections.abc import Iterable

from kazoo.security import ACL, Id

from zkmig.epoch.control import Roles
from zkmig.model.acl import ALL, READ, WORLD, WRITE, Acl, AclList, Identity

MASKED_ID_END = ":x"  # what a session without ADMIN is shown of a digest id (FinalRequestProcessor)


def kazoo_acl(acl: AclList) -> list[ACL]:
    """The same list in kazoo's terms."""
    return [ACL(entry.perms, Id(entry.scheme, entry.id)) for entry in acl]


def own_identities(identities: Iterable[Identity]) -> tuple[Identity, ...]:
    """Those that tell this session from others best: its credentials, else its address, else everybody."""
    known = tuple(identities)
    proven = tuple(one for one in known if one.scheme not in ("ip", "world", "super"))
    addresses = tuple(one for one in known if one.scheme == "ip")
    return proven or addresses or (WORLD,)


def lease_acl(record_acl: AclList, identities: Iterable[Identity]) -> AclList:
    """ACL of a lease: its holder writes it, the scope's admins may do all, its readers read.

    record_acl: as shown to this session, which is where the roles are kept. A reader without ADMIN is shown digest ids
    masked, and cannot name the admins: everybody may read then, since a lease that the migrator cannot read would block
    it for good, and it holds no secret. (To delete a lease takes a right on its parent, which admins have.)
    """
    masked = [entry for entry in record_acl if entry.scheme == "digest" and entry.id.endswith(MASKED_ID_END)]
    roles = Roles.of_record(tuple(entry for entry in record_acl if entry not in masked))
    perms = dict.fromkeys(own_identities(identities), READ | WRITE)
    for identity in roles.reader if not masked else (WORLD,):
        perms[identity] = perms.get(identity, 0) | READ
    for identity in roles.admin:
        perms[identity] = ALL
    return tuple(Acl(bits, *identity) for identity, bits in perms.items())
