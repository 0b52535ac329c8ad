"""The history of a run: what readers, migrators, foreign writers and whoever injected faults have written down.

A run has a folder with `events-<name>.jsonl`, one for each process: an event is one JSON object on one line, appended
with a single write, so that a killed process tears no more than its last line.

    every event   t (CLOCK_MONOTONIC, seconds), wall (seconds since 1970, as servers stamp transactions), who (name of
                  the process), kind
    view          zxid, zxid_first (of the state in which the record was read), epoch, state, incarnation,
                  record_version, fresh, digest (of all rows but those apart), apart {path: digest of its row}
    action        phase admitted|effect|ended|refused, token, epoch, lease, deadline_t; an effect also effect_path,
                  effect_data (unlike that of any other), checked_wall (time.time() when the token was asked last)
    plan          plan_hash, zxid (of the state that was planned against), epoch, batches (paths of each, in order),
                  target {path: digest of its data, None if it is to go}, raises (paths whose counter is raised),
                  wanted {path: [digest of its data, ACL, owner, counter]} (the whole tree that was handed to the
                  planner), writer (scheme and id of the migrators)
    migrator      phase began|ended|killed|stopped|continued, number, command, exit, outcome; report {conflicts,
                  deviations}
    foreign       path, op, version, result, zxid (None: not known)
    fault         fault (its name), n (its number), detail, effect (what was observed)

The rows behind a digest are kept once, in `rows/<digest>.json`: what the checker needs to name the znode that is wrong.
`run.json` says what the run was: seed, root, home, apart, members.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

DIGEST_CHARS: Final = 24


class Row(NamedTuple):
    """One znode as a reader was shown it. data: None and empty differ. stat: ZooKeeper's eleven fields in order."""

    path: str
    data: bytes | None
    acl: tuple[tuple[int, str, str], ...]
    stat: tuple[int, ...]

    @property
    def digest(self) -> str:
        return _hash([repr(tuple(self)).encode()])

    def plain(self) -> list[Any]:
        """As JSON holds it."""
        data = None if self.data is None else self.data.hex()
        return [self.path, data, [list(entry) for entry in self.acl], list(self.stat)]

    @classmethod
    def of_plain(cls, fields: list[Any]) -> Row:
        path, data, acl, stat = fields
        raw = None if data is None else bytes.fromhex(data)
        return cls(path, raw, tuple((perms, scheme, who) for perms, scheme, who in acl), tuple(stat))


def image_digest(rows: Iterable[Row]) -> str:
    """Equal exactly when two images are."""
    return _hash(repr(tuple(row)).encode() for row in sorted(rows, key=lambda row: row.path))


def _hash(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:DIGEST_CHARS]


def is_apart(path: str, apart: str) -> bool:
    """Whether a path lies in the subtree where others write all the time. apart: its top, "" for none."""
    return bool(apart) and (path == apart or path.startswith(apart + "/"))


class Log:
    """Appends one process's events. A context manager; to be used by one thread at a time for each name."""

    def __init__(self, folder: Path, who: str) -> None:
        self.who = who
        self._folder = folder
        self._file = os.open(folder / f"events-{who}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._known: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append an event; returns it."""
        event = {"t": time.monotonic(), "wall": time.time(), "who": self.who, "kind": kind, **fields}
        os.write(self._file, (json.dumps(event) + "\n").encode())
        return event

    def view(self, rows: Iterable[Row], apart: str, **fields: Any) -> dict[str, Any]:
        """Append a view's event, and its rows unless they are known. apart: subtree of the churn, told row by row."""
        here, churn = [], {}
        for row in rows:
            if is_apart(row.path, apart):
                churn[row.path] = row.digest
            else:
                here.append(row)
        digest = image_digest(here)
        self._keep(digest, here)
        return self.write("view", digest=digest, apart=churn, **fields)

    def _keep(self, digest: str, rows: list[Row]) -> None:
        if digest in self._known:
            return
        self._known.add(digest)
        path = self._folder / "rows" / f"{digest}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(f".{self.who}.part")
            partial.write_text(json.dumps([row.plain() for row in rows]))
            partial.rename(path)


class DamagedHistory(Exception):
    """A line in the midst of a file, or at the end of one whose process was not killed, that is no event."""


class History:
    """All events of a run, by the time they were written. killed: names of processes that were, whose last line may
    be torn."""

    def __init__(self, folder: Path, killed: Iterable[str] = ()) -> None:
        self.folder = folder
        self.run: Mapping[str, Any] = {}
        if (folder / "run.json").exists():
            self.run = json.loads((folder / "run.json").read_text())
        torn = {*killed, *self.run.get("killed", ())}
        self.events = sorted(
            (event for file in sorted(folder.glob("events-*.jsonl")) for event in _events(file, torn)),
            key=lambda event: event["t"],
        )

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    def rows(self, digest: str) -> dict[str, Row]:
        """The rows behind a view's digest, by path."""
        plain = json.loads((self.folder / "rows" / f"{digest}.json").read_text())
        return {row.path: row for row in map(Row.of_plain, plain)}


def _events(file: Path, killed: set[str]) -> Iterator[dict[str, Any]]:
    name = file.stem.removeprefix("events-")
    lines = file.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith("\n"):
                raise ValueError("torn")
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines) and name in killed:
                return
            raise DamagedHistory(f"{file}, line {number}: {error}") from error
