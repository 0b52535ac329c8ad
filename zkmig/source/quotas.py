"""Quotas of a live ensemble: their limits, and what the subtrees under them hold now."""

from __future__ import annotations

from collections.abc import Iterable

from zkmig.model import path as paths
from zkmig.model.quota import LIMITS, QUOTA_ROOT, STATS, Quota, fields, limits_path, stats_path
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client


def read_quotas(client: Client, root: str) -> tuple[Quota, ...]:
    """Every quota on `root` or below it, in tree order. NotPermitted where /zookeeper/quota may not be read."""
    found: list[str] = []
    level = [paths.join(QUOTA_ROOT, "" if root == "/" else root)]
    while level:
        deeper: list[str] = []
        for node in read_nodes(client, level, children=True):
            if isinstance(node, NodeRead):
                if LIMITS in (node.children or ()):
                    found.append(paths.relative_to(node.path, QUOTA_ROOT) or "/")
                deeper += [f"{node.path}/{name}" for name in node.children or () if name not in (LIMITS, STATS)]
        level = deeper
    return _with_limits(client, found)


def read_quotas_around(client: Client, root: str) -> tuple[Quota, ...]:
    """The same, and those on what lies above `root`."""
    above: list[str] = []
    path = root
    while path != "/":
        path = paths.parent(path)
        above.append(path)
    return (*_with_limits(client, above), *read_quotas(client, root))


def _with_limits(client: Client, tops: Iterable[str]) -> tuple[Quota, ...]:
    ordered = sorted(tops, key=paths.order_key)
    reads = read_nodes(client, map(limits_path, ordered))
    return tuple(
        Quota(path, (node.data or b"").decode(errors="replace"))
        for path, node in zip(ordered, reads, strict=True)
        if isinstance(node, NodeRead)
    )


def read_usage(client: Client, quotas: Iterable[Quota]) -> dict[str, tuple[int, int]]:
    """Nodes and bytes that the server counts under each quota; nothing of those under which it counts none."""
    tops = [quota.path for quota in quotas]
    usage: dict[str, tuple[int, int]] = {}
    for path, node in zip(tops, read_nodes(client, map(stats_path, tops)), strict=True):
        counted = fields((node.data or b"").decode(errors="replace")) if isinstance(node, NodeRead) else {}
        if "count" in counted and "bytes" in counted:
            usage[path] = (counted["count"], counted["bytes"])
    return usage
