"""ACL changes: what can be set at once, what has to be narrowed first, and what waits until after the commit.

setACL cannot be part of a multi [zookeeper-facts 10], so ACL changes of existing nodes are outside the atomic commit.
The order keeps both images protected: taken away before any data is written, given only after the commit. Meanwhile a
node carries no more than both ACLs grant, plus the migrator where it would shut itself out of its own work or undo.
"""

from __future__ import annotations

from collections.abc import Iterable

from zkmig.model.acl import ADMIN, ALL, CREATE, DELETE, OPEN_ACL, READ, WORLD, Acl, AclList, Identity, grants
from zkmig.plan.operations import AclStep, Pin

# An empty list would grant everything to everybody, and servers refuse to store one (PrepRequestProcessor.fixupACL).
NOBODY: AclList = (Acl(0, *WORLD),)


def meet(one: AclList, other: AclList) -> AclList:
    """The ACL that grants each identity what both lists grant it. An entry for world counts for everybody."""
    identities = dict.fromkeys((WORLD, *(Identity(a.scheme, a.id) for a in (*one, *other))))
    world = _of(one, WORLD) & _of(other, WORLD)
    found: list[Acl] = []
    for identity in identities:
        perms = _of(one, identity) & _of(other, identity)
        if perms and (identity == WORLD or perms & ~world):
            found.append(Acl(perms, *identity))
    return tuple(found) or NOBODY


def _of(acl: AclList, identity: Identity) -> int:
    perms = 0
    for entry in acl or OPEN_ACL:
        if (entry.scheme, entry.id) in (identity, WORLD):
            perms |= entry.perms
    return perms


def same_grants(one: AclList, other: AclList) -> bool:
    """Whether two lists grant the same to everybody they name."""
    identities = {Identity(a.scheme, a.id) for a in (*one, *other)} | {WORLD}
    return all(_of(one, identity) == _of(other, identity) for identity in identities)


class AclPlanner:
    """Decides the ACL steps. identities: of the session that will write (as the server knows it).

    shut_out: paths whose ACL would shut the migrator out of its own work and undo, with no identity to let in instead;
    what was decided for them cannot be carried out.
    """

    def __init__(self, identities: Iterable[Identity]) -> None:
        self._identities = tuple(identities)
        self.identity_used: Identity | None = None
        self.shut_out: dict[str, None] = {}

    def for_created(self, path: str, final: AclList, works_below: bool) -> tuple[AclList, AclStep | None]:
        """ACL to create a node with, and the step that narrows it after the commit, if any.

        works_below: the plan creates children under it or raises its counter.
        """
        final = final or OPEN_ACL
        needed = READ | (CREATE | DELETE if works_below else 0)
        if grants(final, self._identities) & needed == needed:
            return final, None
        return self._with_migrator(path, final), AclStep(path, None, final, None)

    def for_existing(self, path: str, before: AclList, after: AclList, needed: int, pin: Pin) -> AclStep:
        """The steps that lead an existing node from one ACL to the other. needed: bits the plan and its undo use."""
        after = after or OPEN_ACL
        both = meet(before, after)
        if same_grants(both, before):
            return AclStep(path, None, after, pin)  # only gives: after the commit
        needed |= READ | ADMIN
        if same_grants(both, after):
            both = after
        if grants(both, self._identities) & needed != needed:
            both = self._with_migrator(path, both)
        return AclStep(path, both, after, pin)

    def _with_migrator(self, path: str, acl: AclList) -> AclList:
        own = next((i for i in self._identities if i.scheme in ("digest", "x509")), None)
        own = own or next((i for i in self._identities if i.scheme == "ip"), None)
        if own is None:
            self.shut_out[path] = None
            return acl
        self.identity_used = own
        rest = tuple(entry for entry in acl if entry.perms and Identity(entry.scheme, entry.id) != own)
        return (*rest, Acl(ALL, *own))
