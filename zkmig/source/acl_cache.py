"""ACLs by path, each with the (czxid, aversion) it was read at: who reads again asks only for those that moved."""

from __future__ import annotations

from zkmig.model.acl import AclList
from zkmig.model.stat import Stat

Known = tuple[int, int, AclList]
"""czxid, aversion, and the ACL that they stand for."""


class AclCache:
    """ACLs by path, each with the (czxid, aversion) it was read at, so that a rescan asks only for those that moved.

    Good for one scope, and for sessions of the same identities: who lacks ADMIN is shown masked ids.
    """

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def find(self, path: str, stat: Stat) -> AclList | None:
        """The ACL of the znode that `stat` describes; None if it moved since, or was never read."""
        known = self._known.get(path)
        return known[2] if known is not None and known[0] == stat.czxid and known[1] == stat.aversion else None

    def note(self, path: str, stat: Stat, acl: AclList) -> None:
        """One more that has been read."""
        self._known[path] = (stat.czxid, stat.aversion, acl)

    def replace(self, known: dict[str, Known]) -> None:
        """Forget everything but `known`: what one whole scan has seen."""
        self._known = known
