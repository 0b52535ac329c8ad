"""migration: the mark on the one function of a script that changes a tree.

@zkmig.migration(epoch=7, scope="prod")
def split_pools(tree): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zkmig.epoch.control import valid_scope_name
from zkmig.errors import BadInput
from zkmig.script.draft import Draft

EPOCH_MAX = 2**31 - 1

_made: list[Migration] = []


@dataclass(frozen=True, slots=True)
class Migration:
    """function: what changes a draft. epoch: the one that this creates. scope: the only one it is for; None: any."""

    function: Callable[[Draft], object]
    epoch: int
    scope: str | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, tree: Draft) -> None:
        """Change the draft: a migration is called like its function, as in a test of it."""
        result = self.function(tree)
        if result is not None:  # a generator, or a coroutine, of which nothing was run
            raise BadInput(f"it returned {type(result).__name__}: a migration changes the draft and returns nothing")


def migration(*, epoch: int, scope: str | None = None) -> Callable[[Callable[[Draft], object]], Migration]:
    """Mark a function as the migration that makes `epoch`; it gets a Draft and changes it.

    scope: None: whichever the script is planned for. BadInput for what can be no migration.
    """
    if type(epoch) is not int or not 1 <= epoch <= EPOCH_MAX:
        raise BadInput("a migration wants the number of its epoch, 1 or more", f"epoch={epoch!r}")
    if scope is not None:
        valid_scope_name(scope)

    def marked(function: Callable[[Draft], object]) -> Migration:
        _refuse_odd(function)
        made = Migration(function, epoch, scope)
        _made.append(made)
        return made

    return marked


def made_since(count: int) -> list[Migration]:
    """Those that were marked after the first `count` of this process."""
    return _made[count:]


def made_so_far() -> int:
    """How many were marked in this process."""
    return len(_made)


def _refuse_odd(function: Any) -> None:
    hint = "write it like def split_pools(tree): ..."
    if not inspect.isfunction(function):
        raise BadInput(f"a migration is a function, not {type(function).__name__}", "", hint)
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise BadInput("a migration is a plain function: no async, no yield", function.__name__, hint)
    if inspect.isasyncgenfunction(function):
        raise BadInput("a migration is a plain function: no async, no yield", function.__name__, hint)
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise BadInput("a migration takes one argument, the draft", function.__name__, hint) from None
