"""Patterns: absolute paths by whole components, `*` for exactly one of them, `**` for any number, none included."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from zkmig.errors import BadInput
from zkmig.model import path as paths

ONE = "*"
MANY = "**"


@dataclass(frozen=True, slots=True)
class Pattern:
    """components: names, ONE or MANY. A `*` inside a longer name is that character, which ZooKeeper admits."""

    components: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """As in /app/*/leases or /app/**. BadInput for what could match no path."""
        path = parse_path(text, "a pattern")
        return cls(tuple(path[1:].split("/")) if path != "/" else ())

    def __str__(self) -> str:
        return "/" + "/".join(self.components)

    @property
    def top(self) -> str:
        """The path that all it can match lies on or below: its components up to the first wildcard."""
        literal: list[str] = []
        for component in self.components:
            if component in (ONE, MANY):
                break
            literal.append(component)
        return "/" + "/".join(literal)

    def matcher(self) -> Callable[[str], bool]:
        """`matches`, for many paths: compiled where that cannot backtrack without end."""
        if self.components.count(MANY) > 1:
            return self.matches
        parts = {ONE: "/[^/]+", MANY: "(?:/[^/]+)*"}
        expression = "".join(parts.get(component, "/" + re.escape(component)) for component in self.components)
        fits = re.compile(expression).fullmatch
        return lambda path: fits(path if path != "/" else "") is not None

    def matches(self, path: str) -> bool:
        """Whether the whole of an absolute path is described."""
        names = path[1:].split("/") if path != "/" else []
        # The positions in the pattern that the names so far may have led to: no backtracking, so no blow-up.
        reached = self._through_many({0})
        for name in names:
            reached = self._through_many(
                {
                    position if self.components[position] == MANY else position + 1
                    for position in reached
                    if position < len(self.components) and self.components[position] in (name, ONE, MANY)
                }
            )
            if not reached:
                return False
        return len(self.components) in reached

    def _through_many(self, reached: set[int]) -> set[int]:
        found = set(reached)
        for position in reached:
            while position < len(self.components) and self.components[position] == MANY:
                position += 1
                found.add(position)
        return found


def parse_path(text: str, what: str) -> str:
    """An absolute path as an operator writes it, a trailing slash forgiven. what: names the option in the error."""
    if not text.startswith("/"):
        raise BadInput(f"{what} wants an absolute path on a server", repr(text), "write it like /app/pools")
    return paths.validate(text.removesuffix("/") or "/")
