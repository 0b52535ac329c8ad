"""Lines: where in a TOML file a field stands, so that an error can name it.

Python's tomllib tells no places. A field stands where the file, read up to there, first has it: every prefix of whole
lines that is TOML itself is tried. That needs no second idea of what TOML is; the file is small, and was refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

Field = Sequence[str | int]  # as pydantic names it: names of tables, numbers of their entries


def line_of(text: str, field: Field) -> int:
    """The line, from 1, on which the field begins; of one that is missing, the line of what should hold it."""
    lines = text.splitlines()
    for held in range(len(field), 0, -1):
        found = _first_with(lines, field[:held])
        if found is not None:
            return found
    return 1


def named(field: Field) -> str:
    """As in guardrails[2].max_deletions; entries are counted from 1, as people do."""
    text = ""
    for part in field:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _first_with(lines: list[str], field: Field) -> int | None:
    sound = 0  # lines of the longest prefix so far that is TOML: the next statement begins behind it
    for count in range(1, len(lines) + 1):
        try:
            value = tomllib.loads("\n".join(lines[:count]) + "\n")
        except tomllib.TOMLDecodeError:
            continue
        if _has(value, field):
            return next(
                (number for number in range(sound + 1, count + 1) if _is_statement(lines[number - 1])), sound + 1
            )
        sound = count
    return None


def _is_statement(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _has(value: Any, field: Field) -> bool:
    for part in field:
        if isinstance(part, int):
            if not isinstance(value, list) or part >= len(value):
                return False
        elif not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True
