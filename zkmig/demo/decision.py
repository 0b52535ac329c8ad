"""What an autoscaler concludes from a registry: one plain rule, the same for every autoscaler of the demo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping

from zkmig.demo.registry import HOSTS, POOL_SUFFIX

Tree = Mapping[str, bytes | None]
"""Absolute path -> data, None for null."""


def surplus(registry: Tree, running: Collection[str]) -> list[str]:
    """Ids of running servers that no pool of the registry lists: they cost money and serve nobody, so they go."""
    listed = set()
    for path, data in registry.items():
        if path.endswith(POOL_SUFFIX):
            for name in json.loads(data or b"{}").get("hosts", ()):
                host = registry.get(f"{HOSTS}/{name}")
                if host:
                    listed.add(json.loads(host)["id"])
    return [server for server in running if server not in listed]


def digest(tree: Tree) -> str:
    """Hex digest of all paths and data of a tree: two views are equal if and only if their digests are."""
    hashed = hashlib.blake2b(digest_size=16)
    for path in sorted(tree):
        data = tree[path]
        for part in (path.encode(), b"\0" if data is None else b"\1" + data):
            hashed.update(len(part).to_bytes(4))
            hashed.update(part)
    return hashed.hexdigest()
