"""Lines: where in a TOML file a field stands, so that an error can name it.

Python's tomllib tells no places. The text, which is known to be TOML, is cut into its statements; what each of them
sets, tomllib says, one statement at a time.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

Field = Sequence[str | int]  # as pydantic names it: names of tables, numbers of their entries

# Whatever can hide an end of line or a bracket, then these themselves. A string in three quotes may end with five.
_TOKENS = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)


class Lines:
    """Where the fields of one file begin. text: is TOML."""

    def __init__(self, text: str) -> None:
        self._places = _places(text.replace("\r\n", "\n"))  # as tomllib takes them

    def of(self, field: Field) -> int:
        """The line, from 1, on which the field begins; of one that is missing, the line of what should hold it."""
        for held in range(len(field), 0, -1):
            if tuple(field[:held]) in self._places:
                return self._places[tuple(field[:held])]
        return 1


def named(field: Field) -> str:
    """As in guardrails[2].max_deletions; entries are counted from 1, as people do."""
    text = ""
    for part in field:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _places(text: str) -> dict[tuple[str | int, ...], int]:
    places: dict[tuple[str | int, ...], int] = {}
    lengths: dict[tuple[str | int, ...], int] = {}  # of arrays of tables
    table: tuple[str | int, ...] = ()
    for line, statement in _statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            keys = [*_keys(parsed)]
            is_entry = statement.lstrip().startswith("[[")
            table = _entered(keys[:-1], lengths) if is_entry else _entered(keys, lengths)
            if is_entry:
                array = (*table, keys[-1])
                places.setdefault(array, line)
                lengths[array] = lengths.get(array, 0) + 1
                table = (*array, lengths[array] - 1)
            for held in range(1, len(table) + 1):
                places.setdefault(table[:held], line)
        else:
            for field in _fields(table, parsed):
                places.setdefault(field, line)
    return places


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each with its line; what is empty or only a comment is none."""
    depth, start, line, line_start = 0, 0, 1, 1
    for token in _TOKENS.finditer(text + "\n"):
        found = token[0]
        if found in "[{":
            depth += 1
        elif found in "]}":
            depth -= 1
        elif found == "\n" and not depth:
            statement = text[start : token.start()]
            if statement.strip() and not statement.lstrip().startswith("#"):
                yield line_start, statement
            start, line_start = token.end(), line + 1
        line += found.count("\n")


def _keys(parsed: Any) -> Iterator[str]:
    """Of a header alone: the one way down."""
    while parsed:
        ((key, parsed),) = parsed.items()
        yield key
        if isinstance(parsed, list):
            return


def _entered(keys: Sequence[str], lengths: dict[tuple[str | int, ...], int]) -> tuple[str | int, ...]:
    """A header speaks of the last entry of each array of tables on its way."""
    place: tuple[str | int, ...] = ()
    for key in keys:
        place = (*place, key)
        if place in lengths:
            place = (*place, lengths[place] - 1)
    return place


def _fields(place: tuple[str | int, ...], value: Any) -> Iterator[tuple[str | int, ...]]:
    """All that a statement sets: it begins on one line."""
    if isinstance(value, dict):
        for key, held in value.items():
            yield (*place, key)
            yield from _fields((*place, key), held)
