"""Independent eyes: reads and writes trees by plain kazoo alone, with no code of the engine, one request per znode.

What zkmig claims to have carried is compared through these functions. Relative paths: "" is the root itself.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kazoo.client import KazooClient
from kazoo.protocol.states import ZnodeStat
from kazoo.security import ACL, Id

WINDOW = 500  # requests unanswered at a time
AclRow = tuple[int, str, str]
OPEN: tuple[AclRow, ...] = ((31, "world", "anyone"),)


class Seen(NamedTuple):
    """What is compared of a persistent znode. counter: number of the next sequential child [zookeeper-facts 19]."""

    data: bytes | None
    acl: tuple[AclRow, ...] = OPEN
    counter: int = 0


def real_tree(file: Path) -> dict[str, Seen]:
    """The persistent nodes of a recorded tree, the server's own left out."""
    found: dict[str, Seen] = {}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            path = "" if row["path"] == "/" else row["path"]
            if row["ephemeralOwner"] or path == "/zookeeper" or path.startswith("/zookeeper/"):
                continue
            data = None if row["null"] else base64.b64decode(row["data"])
            acl = tuple((perms, scheme, name) for perms, scheme, name in row["acl"])
            found[path] = Seen(data, acl, (row["cversion"] + row["numChildren"]) // 2)
    return found


def put(client: KazooClient, root: str, tree: Mapping[str, Seen]) -> None:
    """Create the tree under `root`, whose parent must exist; then counters, then ACLs, children before parents."""
    ordered = sorted(tree, key=lambda path: path.count("/"))
    for group in _groups(ordered):
        # One by one: kazoo's transactions cannot create null data. Requests of a session are served in order.
        for created in [client.create_async(root + path, tree[path].data) for path in group]:
            created.get()
    for path, seen in tree.items():
        _raise_counter(client, root + path, seen.counter)
    for path in reversed(ordered):
        if tree[path].acl != OPEN:
            client.set_acls(root + path, [ACL(perms, Id(scheme, name)) for perms, scheme, name in tree[path].acl])


def _groups(items: Iterable[str]) -> Iterable[list[str]]:
    source = iter(items)
    while group := list(islice(source, WINDOW)):
        yield group


def _expect_no_error(results: list[object]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


def _raise_counter(client: KazooClient, path: str, counter: int) -> None:
    missing = counter - _counter(client.exists(path))
    while missing > 0:
        transaction = client.transaction()
        for _ in range(min(missing, WINDOW)):
            transaction.create(path + "/counter")
            transaction.delete(path + "/counter")
        _expect_no_error(transaction.commit())
        missing -= WINDOW


def _counter(stat: ZnodeStat | None) -> int:
    assert stat is not None
    return (stat.cversion + stat.numChildren) // 2


def look(client: KazooClient, root: str) -> dict[str, Seen]:
    """The persistent nodes at and below `root` as they are now."""
    found: dict[str, Seen] = {}
    level = [""]
    while level:
        below: list[str] = []
        for group in _groups(level):
            asked = [
                (
                    path,
                    client.get_async(root + path),
                    client.get_acls_async(root + path),
                    client.get_children_async(root + path),
                )
                for path in group
            ]
            for path, node, acls, children in asked:
                data, stat = node.get()
                if stat.ephemeralOwner:
                    continue
                acl = tuple((a.perms, a.id.scheme, a.id.id) for a in acls.get()[0])
                found[path] = Seen(data, acl, _counter(stat))
                below += [f"{path}/{name}" for name in children.get()]
        level = below
    return found


def next_sequential(client: KazooClient, root: str, parents: Iterable[str]) -> dict[str, str]:
    """The name that the next sequential child gets under each of `parents`; it is created and deleted again."""
    found: dict[str, str] = {}
    for group in _groups(parents):
        asked = [(path, client.create_async(f"{root}{path}/seq-", b"", None, False, True)) for path in group]
        for path, created in asked:
            name: str = created.get()
            found[path] = name.rpartition("/")[2]
            client.delete_async(name)
    return found


def last_zxid(client: KazooClient) -> int:
    """The zxid that the server stands at, as a fresh reply tells."""
    client.sync("/")
    return int(client.last_zxid)
