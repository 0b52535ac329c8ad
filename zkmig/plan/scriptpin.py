"""ScriptPin: which migration script made a plan. Apart from the plan, so that to run a script needs no planner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScriptPin:
    """The migration script that a plan was made by. name: of its function. file: its name, without a directory. sha256:
    of the file, hex. epoch: the only one it may make; scope: the only one it may be applied to, None: any."""

    name: str
    file: str
    sha256: str
    epoch: int
    scope: str | None = None
