"""A registry read and written with plain kazoo: what the plain autoscaler does, and the checker's own eyes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

CREATES_PER_TRANSACTION = 400


@contextmanager
def connected(hosts: str) -> Iterator[KazooClient]:
    """A started client, closed at the end."""
    client = KazooClient(hosts=hosts, timeout=30.0)
    try:
        client.start(timeout=30.0)
        yield client
    finally:
        client.stop()
        client.close()


def read_tree(client: KazooClient, root: str) -> dict[str, bytes | None]:
    """Path -> data of everything below `root`, level by level, many requests at a time.

    A znode that goes between its listing and its reading is passed over, as most programs do: nobody locks a registry
    in order to read it.
    """
    tree: dict[str, bytes | None] = {}
    level = [root]
    while level:
        answers = [(path, client.get_async(path)) for path in level]
        listings = []
        for path, answer in answers:
            try:
                tree[path], stat = answer.get()
            except NoNodeError:
                continue
            if stat.numChildren:
                listings.append((path, client.get_children_async(path)))
        level = []
        for path, listing in listings:
            try:
                level += [f"{path}/{name}" for name in listing.get()]
            except NoNodeError:
                continue
    return tree


def write_tree(client: KazooClient, tree: Mapping[str, bytes], root: str, new_root: str) -> None:
    """Create the nodes of `tree`, which lie at and below `root`, at and below `new_root`. Parents come first."""
    items = list(tree.items())
    client.ensure_path(new_root.rpartition("/")[0] or "/")
    for start in range(0, len(items), CREATES_PER_TRANSACTION):
        transaction = client.transaction()
        for path, data in items[start : start + CREATES_PER_TRANSACTION]:
            transaction.create(new_root + path.removeprefix(root), data)
        for result in transaction.commit():
            if isinstance(result, Exception):
                raise result
