"""An autoscaler: read the registry, decide which servers are surplus, order their termination, again and again.

    python -m zkmig.demo.autoscaler --reader plain|aware --hosts HOST:PORT --scope NAME --running FILE --record FILE

The two kinds differ in how they read, and in asking before they act; they decide alike. Terminations are only written
down. It runs until it is told to end (see `lifeline`).
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from kazoo.client import KazooClient

from zkmig.demo.decision import Tree, digest, surplus
from zkmig.demo.lifeline import until_ended
from zkmig.demo.lines import append
from zkmig.demo.observations import Observation
from zkmig.demo.plain import connected, read_tree
from zkmig.demo.registry import ROOT
from zkmig.errors import ActingRefused
from zkmig.reader import Reader, View

ROUND_PAUSE_S = 0.3
ACTION_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The registry as it was read. epoch: of the image that this is, None if the reader does not know of epochs."""

    tree: Tree
    epoch: int | None


class Eyes(Protocol):
    """How an autoscaler reads, and whether what it read may be acted upon."""

    def look(self) -> Seen:
        """The registry, read now."""

    def acting(self) -> AbstractContextManager[object]:
        """Around an action upon the last look. ActingRefused when that is not admitted."""


class PlainEyes:
    """Plain kazoo: what most programs do."""

    def __init__(self, client: KazooClient) -> None:
        self._client = client

    def look(self) -> Seen:
        """Whatever the nodes hold, one after the other."""
        return Seen(read_tree(self._client, ROOT), None)

    def acting(self) -> AbstractContextManager[object]:
        """Nobody is asked."""
        return nullcontext()


class AwareEyes:
    """zkmig.Reader: the few lines that an owner of a service adds."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._view: View | None = None

    def look(self) -> Seen:
        """One committed image. fresh: ask the servers each time, as the plain one does."""
        self._view = view = self._reader.view(fresh=True)
        return Seen({path: znode.data for path, znode in view.items()}, view.epoch)

    def acting(self) -> AbstractContextManager[object]:
        """Admitted only while the image seen is the committed one and no migration is under way."""
        assert self._view is not None
        return self._reader.acting(self._view, max_seconds=ACTION_SECONDS_MAX)


@contextmanager
def open_eyes(kind: str, hosts: str, scope: str) -> Iterator[Eyes]:
    """Eyes of the kind named, closed at the end."""
    if kind == "plain":
        with connected(hosts) as client:
            yield PlainEyes(client)
    else:
        with Reader(hosts, scope) as reader:
            yield AwareEyes(reader)


def run(eyes: Eyes, running: tuple[str, ...], record: Path, over: threading.Event) -> None:
    """Rounds until `over`, each with a line in `record`."""
    started_s = time.monotonic()
    while not over.wait(ROUND_PAUSE_S):
        begun_s = time.monotonic()
        seen = eyes.look()
        ended_s = time.monotonic()
        ordered, refused = _act(eyes, surplus(seen.tree, running))
        observation = Observation(
            pid=os.getpid(),
            started_s=started_s,
            begun_s=begun_s,
            ended_s=ended_s,
            digest=digest(seen.tree),
            znodes=len(seen.tree),
            epoch=seen.epoch,
            ordered=ordered,
            refused=refused,
        )
        append(record, asdict(observation))


def _act(eyes: Eyes, servers: list[str]) -> tuple[tuple[str, ...], bool]:
    """Order the termination of `servers`: (what was ordered, whether acting was refused).

    Admission is asked for in every round, be there much to do or nothing: the answer is counted.
    """
    try:
        with eyes.acting():
            return tuple(servers), False
    except ActingRefused:
        return (), True


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description="An autoscaler of the demo.")
    parser.add_argument("--reader", choices=("plain", "aware"), required=True)
    parser.add_argument("--hosts", required=True)
    parser.add_argument("--scope", required=True)
    parser.add_argument("--running", type=Path, required=True, help="what the cloud says runs: a JSON list of ids")
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    over = until_ended()
    running = tuple(json.loads(arguments.running.read_text()))
    with open_eyes(arguments.reader, arguments.hosts, arguments.scope) as eyes:
        run(eyes, running, arguments.record, over)


if __name__ == "__main__":
    main()
