"""What stands beside the way to a few subtrees of a live ensemble: a scan that leaves it out reads only these."""

from __future__ import annotations

from collections.abc import Iterable

from zkmig.model import path as paths
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.client import Client


def beside(client: Client, root: str, tops: Iterable[str]) -> list[str]:
    """The children of all nodes above `tops` (absolute, below `root`) that lead to none of them.

    What is created there later is not among them, so that whoever scans has to drop it all the same.
    """
    wanted = set(tops)
    above = {root}
    for top in wanted:
        while top != root:
            top = paths.parent(top)
            above.add(top)
    found: list[str] = []
    for node in read_nodes(client, sorted(above, key=paths.order_key), children=True):
        if isinstance(node, NodeRead):
            children = (paths.join(node.path, "/" + name) for name in node.children or ())
            found += [child for child in children if child not in wanted and child not in above]
    return found
