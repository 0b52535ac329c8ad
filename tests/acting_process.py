"""A reader as a process of its own that acts, once it is told to go on, if its token still lets it."""

from __future__ import annotations

import os
import sys

from zkmig.errors import ActingRefused
from zkmig.reader import Reader

ADMITTED = "admitted"


def main(hosts: str, scope: str, control: str, max_seconds: str, effect: str) -> None:
    """Be admitted; wait for a line; then look at the token, and only then take effect: write a znode by itself."""
    with Reader(hosts, scope, auth=[("digest", "me:hunter2")], control=control) as reader:
        view = reader.view()
        with reader.acting(view, max_seconds=float(max_seconds)) as token:
            os.write(1, f"{ADMITTED} {token.fencing_token}\n".encode())
            sys.stdin.readline()
            try:
                token.check()
            except ActingRefused:
                os.write(1, b"refused\n")
                return
            reader._kazoo.create(effect, b"")
            os.write(1, b"acted\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
