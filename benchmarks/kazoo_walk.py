"""What users have today: plain kazoo, its requests pipelined as well as its interface admits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult
from kazoo.protocol.states import ZnodeStat
from kazoo.security import ACL, Id

from zkmig.model.acl import AclList
from zkmig.model.znode import Znode
from zkmig.wire.credential import Credential

WINDOW: Final = 200
"""Znodes under way in a walk: more does not make kazoo faster."""

TRANSACTION_CREATES: Final = 500


class _Asked(NamedTuple):
    path: str
    data: IAsyncResult[tuple[bytes | None, ZnodeStat]]
    children: IAsyncResult[list[str]]
    acl: IAsyncResult[tuple[list[ACL], ZnodeStat]] | None


def connect(hosts: str, auth: Credential) -> KazooClient:
    """A started client; stop and close it."""
    client = KazooClient(hosts, timeout=60.0, auth_data=[(auth.scheme, auth.secret.decode())])
    client.start(timeout=60.0)
    return client


def walk(client: KazooClient, root: str, nodes_max: int, with_acls: bool) -> float:
    """Seconds to read the first `nodes_max` znodes from `root` down: data, children and, if so, ACL."""
    start = time.perf_counter()
    waiting = [root]
    asked: deque[_Asked] = deque()
    left = nodes_max
    while asked or (waiting and left):
        while waiting and left and len(asked) < WINDOW:
            path = waiting.pop()
            left -= 1
            data, children = client.get_async(path), client.get_children_async(path)
            asked.append(_Asked(path, data, children, client.get_acls_async(path) if with_acls else None))
        node = asked.popleft()
        node.data.get()
        if node.acl is not None:
            node.acl.get()
        waiting += [f"{node.path}/{name}" for name in node.children.get()]
    assert not left, f"the tree has {left} znodes less than were to be read"
    return time.perf_counter() - start


def create(client: KazooClient, znodes: Sequence[Znode]) -> float:
    """Seconds to create znodes, parents first, in transactions one after the other."""
    acls = {acl: _kazoo_acl(acl) for acl in {znode.acl for znode in znodes}}
    start = time.perf_counter()
    source = iter(znodes)
    while batch := list(islice(source, TRANSACTION_CREATES)):
        transaction = client.transaction()
        for znode in batch:
            transaction.create(znode.path, znode.data or b"", acls[znode.acl])
        results = transaction.commit()
        assert not any(isinstance(result, Exception) for result in results), results[:3]
    return time.perf_counter() - start


def _kazoo_acl(acl: AclList) -> list[ACL]:
    return [ACL(entry.perms, Id(entry.scheme, entry.id)) for entry in acl]
