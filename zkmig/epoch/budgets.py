"""Budgets: what the control plane tells of how far a reader's views have moved from one action to the next.

A node for each reader's name, which everybody reads who may read the scope: counts for each pattern, and when somebody
overrode a limit, and why. What the counts are of, hashes of paths and data, lies in a node beside it for that reader
alone (`zkmig.reader.baseline`). Both are written in the very transaction that admits an action.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from zkmig.epoch.control import ControlPaths
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, error_for
from zkmig.wire.replies import ChildrenResult, DataResult
from zkmig.wire.requests import GetChildren, GetData

FORMAT: Final = 1
OVERRIDES_MAX: Final = 20
"""Overrides that are remembered, the latest."""

WHY_CHARS_MAX: Final = 300
NOTE_BYTES_MAX: Final = 16 * 1024
LOOK_DEPTH: Final = 16
READERS_MAX: Final = 1_000
"""Notes that one look reads at most: anybody who reads the scope may create there."""

GUARD_CHARS_MAX: Final = 40
"""Of a guard's name in that of its reader: room for what a session adds, and others to tell them apart."""


def guard_reader(unit: str) -> str:
    """The reader's name under which the guard of this name looks at the tree, where it has a budget: one for each,
    however long it is and whatever it has in it."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "_", unit)
    if plain == unit and len(unit) <= GUARD_CHARS_MAX:
        return f"guard.{unit}"
    digest = hashlib.blake2b(unit.encode(), digest_size=6).hexdigest()
    return f"guard.{plain[:GUARD_CHARS_MAX]}.{digest}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Between what was last acted on and a view, under one pattern, in znodes.

    nodes: how many matched when last acted on; None: nothing is known of that. changed: their data.
    """

    pattern: str
    nodes: int | None
    added: int
    removed: int
    changed: int

    @property
    def total(self) -> int:
        """Znodes that are not as they were."""
        return self.added + self.removed + self.changed

    def __str__(self) -> str:
        return f"{self.added} added, {self.removed} removed, {self.changed} changed under {self.pattern}"


@dataclass(frozen=True, slots=True)
class Override:
    """An action that was admitted beyond its budget: when (Unix seconds), why, on which epoch, what differed."""

    at: float
    why: str
    epoch: int
    differed: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What was last acted on, under one pattern: so many znodes, this far from the time before."""

    pattern: str
    nodes: int
    added: int = 0
    removed: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True)
class BudgetNote:
    """What everybody may know of one reader's budget. epoch, at (Unix seconds): of the last action on a view that
    differed from the one before it."""

    reader: str
    epoch: int
    at: float
    patterns: tuple[Counted, ...] = ()
    overrides: tuple[Override, ...] = ()

    def with_override(self, override: Override | None) -> BudgetNote:
        """With this one as the latest."""
        if override is None:
            return self
        return dataclasses.replace(self, overrides=(*self.overrides, override)[-OVERRIDES_MAX:])

    def encode(self) -> bytes:
        """JSON of at most NOTE_BYTES_MAX: the oldest overrides go first where it would be more."""
        note = self
        while True:
            data = json.dumps({"format": FORMAT, **dataclasses.asdict(note)}, sort_keys=True).encode()
            if len(data) <= NOTE_BYTES_MAX or not note.overrides:
                return data
            note = dataclasses.replace(note, overrides=note.overrides[1:])

    @classmethod
    def decode(cls, data: bytes | None) -> BudgetNote | None:
        """None for what is no note of this format."""
        try:
            fields = json.loads(data or b"")
            if fields["format"] != FORMAT:
                return None
            return cls(
                str(fields["reader"]),
                int(fields["epoch"]),
                float(fields["at"]),
                tuple(Counted(str(one["pattern"]), *_numbers(one)) for one in fields["patterns"]),
                tuple(_override(one) for one in fields["overrides"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


def _numbers(fields: dict[str, Any]) -> Iterable[int]:
    return (int(fields[name]) for name in ("nodes", "added", "removed", "changed"))


def _override(fields: dict[str, Any]) -> Override:
    differed = tuple(
        Difference(
            str(one["pattern"]),
            None if one["nodes"] is None else int(one["nodes"]),
            int(one["added"]),
            int(one["removed"]),
            int(one["changed"]),
        )
        for one in fields["differed"]
    )
    return Override(float(fields["at"]), str(fields["why"]), int(fields["epoch"]), differed)


def read_budgets(client: Client, names: ControlPaths) -> list[BudgetNote]:
    """What every reader with a budget has left, by name; those that cannot be read are passed over: they inform.

    [] for a scope that was made before there were any.
    """
    reply = client.call_reply(GetChildren(names.budgets))
    if reply.error in (Code.NO_NODE, Code.NO_AUTH):
        return []
    if reply.error:
        raise error_for(reply.error, names.budgets, GetChildren.operation)
    assert isinstance(reply.result, ChildrenResult)
    shown = sorted(name for name in reply.result.children if not names.is_seen(name))[:READERS_MAX]
    found: list[BudgetNote] = []
    for reply in client.pipeline((GetData(names.budget(name)) for name in shown), LOOK_DEPTH):
        note = BudgetNote.decode(reply.result.data) if isinstance(reply.result, DataResult) else None
        found += [note] if note is not None else []
    return found
