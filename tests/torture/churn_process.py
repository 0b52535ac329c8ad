"""A foreign writer in a process of its own: changes, creates and deletes znodes that no plan covers, without end.

    python -m tests.torture.churn_process NAME HOSTS TOP SEED [--pause SECONDS]

Ends when standard input closes. What it has done is in the servers' logs.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import select
import sys

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException

NODES = 6


def churn(client: KazooClient, top: str, rng: random.Random, pause_s: float) -> None:
    """Until standard input closes."""
    number = 0
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        number += 1
        path = f"{top}/n{rng.randrange(NODES)}"
        with contextlib.suppress(KazooException):  # not there, there already, or the connection is lost: the next one
            if client.exists(path) is None:
                client.create(path, b"new %d" % number)
            elif rng.random() < 0.1:
                client.delete(path)
            else:
                client.set(path, b"%d" % number)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    for name in ("name", "hosts", "top", "seed"):
        parser.add_argument(name)
    parser.add_argument("--pause", type=float, default=0.03)
    options = parser.parse_args()
    client = KazooClient(options.hosts, timeout=4.0)
    client.start()
    try:
        churn(client, options.top, random.Random(options.seed), options.pause)
    finally:
        client.stop()
        client.close()


if __name__ == "__main__":
    main()
