"""A reader in a process of its own: takes views without pause and writes down what each was, one JSON line a view.

    python -m tests.view_recorder HOSTS SCOPE FILE [--no-overlay]

Ends when its standard input closes, so that it cannot outlive the test.
"""

from __future__ import annotations

import json
import select
import sys
from typing import TextIO

from tests.image_digest import Row, digest
from zkmig.reader import Reader
from zkmig.reader.view import View


class ReaderWithoutOverlay(Reader):
    """The negative control: shows live nodes whatever the record says."""

    _shows_undo = False


def record(reader: Reader, file: TextIO) -> None:
    """Views until standard input closes."""
    while not select.select([sys.stdin], [], [], 0)[0]:
        view = reader.view(fresh=True)
        line = {"state": view.state, "epoch": view.epoch, "zxid": view.zxid, "digest": digest(rows(view))}
        file.write(json.dumps(line) + "\n")
        file.flush()


def rows(view: View) -> list[Row]:
    """The view as the checker takes it."""
    children: dict[str, list[str]] = {path: [] for path in view}
    for path in view:
        parent, _, name = path.rpartition("/")
        if parent in children:
            children[parent].append(name)
    return [
        Row(
            path,
            node.data,
            tuple((acl.perms, acl.scheme, acl.id) for acl in node.acl),
            tuple(node.stat),
            tuple(sorted(children[path])),
        )
        for path, node in view.items()
    ]


def main() -> None:
    """See the module."""
    hosts, scope, path = sys.argv[1:4]
    kind = ReaderWithoutOverlay if "--no-overlay" in sys.argv else Reader
    with kind(hosts, scope) as reader, open(path, "w", encoding="utf-8") as file:
        record(reader, file)


if __name__ == "__main__":
    main()
