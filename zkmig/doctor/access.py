"""Who may do what in a tree: each node's ACL, held against the session and against the roles of its scope.

Nothing is refused here: a node whose ACL or children may not be read is counted, and what lies below it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, ALL, CREATE, DELETE, READ, WRITE, AclList, Identity, grants
from zkmig.model.scope import Scope
from zkmig.plan.preflight import can_evaluate
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.replies import AclResult, ChildrenResult, MultiReadResult, Reply, SubError
from zkmig.wire.requests import GetAcl, GetChildren, MultiRead

PERMISSIONS: Final = {READ: "read", WRITE: "write", CREATE: "create", DELETE: "delete", ADMIN: "set ACLs"}
PATHS_KEPT: Final = 5
"""First paths that are kept of each sort; the rest is counted."""

ACLS_UNDER_WAY: Final = 128
LISTS_UNDER_WAY: Final = 4
LISTS_MAX: Final = 256
LIST_REQUEST_BYTES: Final = 16 * 1024
LIST_REPLY_NAMES: Final = 10_000
"""Child lists that are asked for together: by number, by the bytes of their paths, and by the names to come, since a
small jute.maxbuffer counts for the request and a server builds the whole reply in its heap."""


@dataclass(slots=True)
class Lacking:
    """Nodes without a permission: how many, and the first paths."""

    count: int = 0
    paths: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """One more."""
        self.count += 1
        if len(self.paths) < PATHS_KEPT:
            self.paths.append(path)


@dataclass(slots=True)
class RoleAccess:
    """What one role may do. name: as an operator knows it. lacking, unsure: by permission bit; unsure: only the server
    knows, since an entry that would count is of a scheme that cannot be judged from here (sasl, x509, address ranges).

    root: where its scope begins; what lies elsewhere is none of its business. nodes: judged. unseen: nodes closed to
    the session, of which, or below which, nothing is known of the role.
    """

    name: str
    identities: tuple[Identity, ...]
    root: str = "/"
    nodes: int = 0
    unseen: Lacking = field(default_factory=Lacking)
    lacking: dict[int, Lacking] = field(default_factory=lambda: {bit: Lacking() for bit in PERMISSIONS})
    unsure: dict[int, Lacking] = field(default_factory=lambda: {bit: Lacking() for bit in PERMISSIONS})
    _seen: dict[AclList, tuple[int, int]] = field(default_factory=dict)

    def judge(self, path: str, acl: AclList, settled: int = 0) -> tuple[int, int]:
        """Count one node; the bits that this role surely lacks there, and those that only the server knows of.

        settled: bits whose doubt the caller settles in another way, so that it is not counted.
        """
        self.nodes += 1
        missing, doubtful = self._judged(acl)
        if missing:
            for bit in PERMISSIONS:
                if missing & bit & ~doubtful:
                    self.lacking[bit].add(path)
                elif doubtful & bit & ~settled:
                    self.unsure[bit].add(path)
        return missing & ~doubtful, doubtful

    def _judged(self, acl: AclList) -> tuple[int, int]:
        """Bits that are not granted as far as can be told, and those of them that the server might grant yet."""
        known = self._seen.get(acl)
        if known is None:
            missing = ALL & ~grants(acl, self.identities)
            doubtful = 0
            for entry in acl:
                if not can_evaluate(entry.scheme, entry.id, self.identities) or is_masked_id(
                    Identity(entry.scheme, entry.id)
                ):
                    doubtful |= entry.perms
            known = self._seen[acl] = (missing, missing & doubtful)
        return known


def is_masked_id(identity: Identity) -> bool:
    """Whether this is what the server shows to who lacks ADMIN on a node: it may be anybody of that name."""
    return identity.scheme == "digest" and identity.id.endswith(":x")


@dataclass(slots=True)
class Access:
    """nodes: seen. is_there: whether the root is. closed: nodes whose children may not be listed, or whose ACL may not
    be read: what lies below is unknown."""

    nodes: int = 0
    is_there: bool = True
    roles: tuple[RoleAccess, ...] = ()
    closed: Lacking = field(default_factory=Lacking)

    def close(self, path: str) -> None:
        """One more that is closed to the session, and so to what is known of the roles whose scopes it touches."""
        self.closed.add(path)
        for role in self.roles[1:]:
            if paths.overlap(role.root, path):
                role.unseen.add(path)

    @property
    def unreadable(self) -> list[str]:
        """First paths that the session should not be able to read, by their ACL or by what the server said."""
        session = self.roles[0]
        return list(dict.fromkeys([*session.lacking[READ].paths, *self.closed.paths]))[:PATHS_KEPT]


def look(
    client: Client,
    scope: Scope,
    roles: Sequence[RoleAccess],
    progress: Callable[[int], None] | None = None,
) -> Access:
    """Look at every ACL of a scope. roles: the session's first. Raises what a lost connection raises."""
    found = Access(roles=tuple(roles))
    level = [scope.root]
    while level:
        to_list: list[tuple[str, int]] = []
        for path, reply in _acls(client, level):
            children = _judge_node(found, path, reply)
            if children is not None:
                to_list.append((path, children))
            if progress is not None and found.nodes % 1_000 == 0:
                progress(found.nodes)
        level = [path for path in _children(client, found, to_list) if scope.covers(path)]
    if progress is not None:
        progress(found.nodes)
    return found


def _acls(client: Client, level: Sequence[str]) -> Iterator[tuple[str, Reply]]:
    return zip(level, client.pipeline(map(GetAcl, level), ACLS_UNDER_WAY), strict=True)


def _judge_node(found: Access, path: str, reply: Reply) -> int | None:
    """Count it. How many children to list, 0 also where it is only to be tried; None for neither."""
    result = reply.result
    if isinstance(result, AclResult):
        found.nodes += 1
        _, doubtful = found.roles[0].judge(path, result.acl, settled=READ)
        for role in found.roles[1:]:
            if paths.contains(role.root, path):
                role.judge(path, result.acl)
        return result.stat.num_children if result.stat.num_children or doubtful & READ else None
    if reply.error == Code.NO_AUTH:
        found.nodes += 1
        found.close(path)
    elif reply.error != Code.NO_NODE:
        raise error_for(reply.error, path, GetAcl.operation)
    elif not found.nodes:
        found.is_there = False
    return None


def _children(client: Client, found: Access, to_list: Sequence[tuple[str, int]]) -> Iterator[str]:
    """The children of these nodes, by multiRead where the server knows it; what may not be listed is counted."""
    is_bulk = client.has_multi_read
    groups = list(_groups(to_list, LISTS_MAX if is_bulk else 1))
    requests = (MultiRead(tuple(map(GetChildren, group))) if is_bulk else GetChildren(group[0]) for group in groups)
    for group, reply in zip(groups, client.pipeline(requests, LISTS_UNDER_WAY), strict=True):
        for path, result in zip(group, _parts(reply, group), strict=True):
            if isinstance(result, ChildrenResult):
                yield from (paths.join(path, f"/{name}") for name in result.children)
            elif result == Code.NO_AUTH:  # ADMIN shows the ACL, and no more
                found.close(path)
            elif result != Code.NO_NODE:
                raise error_for(int(result), path, GetChildren.operation)


def _groups(to_list: Sequence[tuple[str, int]], nodes_max: int) -> Iterator[list[str]]:
    group: list[str] = []
    request_bytes = names = 0
    for path, children in to_list:
        size = len(path.encode())
        if group and (
            len(group) == nodes_max or request_bytes + size > LIST_REQUEST_BYTES or names + children > LIST_REPLY_NAMES
        ):
            yield group
            group, request_bytes, names = [], 0, 0
        group.append(path)
        request_bytes += size
        names += children
    if group:
        yield group


def _parts(reply: Reply, group: Sequence[str]) -> Sequence[ChildrenResult | int]:
    """The names, or the code, of each path asked for."""
    result = reply.result
    if isinstance(result, MultiReadResult):
        return [part if isinstance(part, ChildrenResult) else _code(part) for part in result.results]
    return [result if isinstance(result, ChildrenResult) else reply.error] * len(group)


def _code(part: object) -> int:
    return part.code if isinstance(part, SubError) else int(Code.SYSTEM_ERROR)
