"""Queues get a place of their own."""

from __future__ import annotations

import zkmig


@zkmig.migration(epoch=2, scope="prod")
def move_queues(tree: zkmig.Draft) -> None:
    """All that is in them moves along, and their sequence numbers go on where they were."""
    for path, names in tree.find("/app/services/{service}/queue"):
        tree.move(path, f"/app/queues/{names['service']}", makepath=True)
