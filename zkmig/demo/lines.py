"""Files of JSON lines that one process writes and another reads as they grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def append(file: Path, fields: dict[str, Any]) -> None:
    """Add one line, in one write, so that whoever reads meets whole lines in the order of their writing."""
    with file.open("ab", buffering=0) as lines:
        lines.write(json.dumps(fields).encode() + b"\n")


class Tail:
    """What has been added to a file since the last look. A file that is not there yet is empty."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """The whole lines that were added; one that is still being written waits for the next look."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as lines:
            lines.seek(self._offset)
            added = lines.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
