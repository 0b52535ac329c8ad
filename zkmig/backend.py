"""Which implementation runs: the compiled modules of zkmig._fast or their plain twins. Decided once, for all of them.

ZKMIG_BACKEND=python takes the twins, =cython insists on the compiled modules, =auto (or nothing) takes the compiled
modules if they were built. Twins that nobody asked for give one notice; modules that are there but cannot be
loaded are an error, never a silent change of speed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from zkmig.errors import BadInput

BackendName = Literal["python", "cython"]

COMPILED_MODULES = (
    "zkmig._fast.bulk",
    "zkmig._fast.encode",
    "zkmig._fast.columns",
    "zkmig._fast.diff",
    "zkmig._fast.order",
    "zkmig._fast.treehash",
)
VARIABLE = "ZKMIG_BACKEND"

_log = logging.getLogger("zkmig.backend")


@cache
def name() -> BackendName:
    """The backend in use. Raises BadInput if the one asked for is unknown, absent or broken."""
    return choose(os.environ, COMPILED_MODULES)


def choose(environ: Mapping[str, str], modules: Sequence[str]) -> BackendName:
    """The backend for these settings and compiled modules; what `name` remembers."""
    asked = environ.get(VARIABLE) or "auto"
    if asked not in ("auto", "python", "cython"):
        raise BadInput(f"no such backend: {asked!r}", VARIABLE, "use python, cython or auto")
    if asked == "python":
        return "python"
    absent = [module for module in modules if find_spec(module) is None]
    if not absent:
        for module in modules:
            _load(module)
        return "cython"
    if asked == "cython" or len(absent) < len(modules):
        raise BadInput(
            f"compiled module {absent[0]} is absent", VARIABLE, "build it: pip install . (needs a C compiler)"
        )
    _log.warning(
        "the compiled modules were not built: plain Python runs, several times slower; %s=python hides this", VARIABLE
    )
    return "python"


def _load(module: str) -> None:
    try:
        import_module(module)
    except ImportError as error:
        hint = f"build it again: pip install ., or set {VARIABLE}=python"
        raise BadInput(f"compiled module {module} cannot be loaded ({error})", VARIABLE, hint) from error
