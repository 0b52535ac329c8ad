"""Trees by hand: a snapshot from a dict, for tests of migrations. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.acl import OPEN_ACL
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat

HANDMADE = "a dict"


def snapshot_of(nodes: Mapping[str, Any], root: str) -> Snapshot:
    """The tree that a dict names, below `root`.

    nodes: data by path relative to the root, as in "/pools/web"; "" or "/" is the root itself. Data is bytes, None
    (null), a str (UTF-8), or whatever else JSON can hold, as JSON. Nodes that are only passed through are empty. All
    are open to everybody. BadInput for what is no path, and for data that is none.
    """
    named: dict[str, bytes | None] = {}
    given: Any  # whoever writes a test may have left types out
    for given, value in nodes.items():
        relative = "" if given in ("", "/") else given
        if not isinstance(given, str) or (relative and not relative.startswith("/")):
            raise BadInput("a path of a tree begins with /, and is relative to its root", repr(given))
        path = paths.validate(paths.join(root, relative))
        if path in named:
            raise BadInput("this node is named twice", path)
        named[path] = data_of(value, path)
    for path in list(named):
        while path != root:
            path = paths.parent(path)
            named.setdefault(path, b"")
    named.setdefault(root, b"")
    children = dict.fromkeys(named, 0)
    for path in named:
        if path != root:
            children[paths.parent(path)] += 1
    builder = SnapshotBuilder()
    for number, (path, data) in enumerate(named.items(), 1):
        count = children[path]  # as a server shows it where nothing was ever deleted: the counter is their number
        stat = Stat(number, number, 0, 0, 0, count, 0, 0, len(data or b""), count, number)
        builder.add(path, data, OPEN_ACL, stat)
    return builder.build(Scope(root), Provenance(HANDMADE, kinds_known=True), Consistency(False, 1, len(named), ""))


def data_of(value: Any, path: str) -> bytes | None:
    """The bytes that a value stands for."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise BadInput("this is neither bytes, None, text nor anything that JSON holds", path) from error
