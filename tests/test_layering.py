"""Imports point one way. Method: parse every module's imports, and look at what a fresh interpreter loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import zkmig

PACKAGE = Path(zkmig.__file__).parent

# Rooms (packages and modules directly under zkmig) from the ground up. A room may import from those below it, not from
# its own line's neighbours and not from above. The epoch lies below the plan: a reader needs the one without the other,
# and the plan reckons with the sizes of the journal's entries.
LAYERS = (
    {"_fast", "errors"},
    {"backend", "counted", "sealed", "stop", "uncollected"},
    {"model"},
    {"changes", "diff_plain", "treehash_plain", "wire"},
    {"source", "treehash"},
    {"diff"},
    {"epoch"},
    {"policy"},
    {"rules"},
    {"plan"},
    {"script"},
    {"apply", "dev", "reader", "show"},
    {"doctor", "rehearse"},
    {"api"},
    {"api", "guard"},
    {"demo"},
    {"cli", "pytest_plugin"},
)

# Rooms that keep to less than what lies below them; each may also import itself.
NEEDS_ONLY = {
    "_fast": set[str](),
    "dev": {"errors"},
    "model": {"_fast", "backend", "errors"},
    "reader": {"epoch", "errors", "model", "source", "stop", "wire"},
}

# Imports made inside a function, when it is called, of something above. Each is there for the sake of an interface.
UPWARD_ON_DEMAND = {
    ("zkmig.model.snapshot", "zkmig.treehash"),  # snapshot.tree_hash is a property
}

# What a service that only reads, or a command that only prints its help, must not wait for.
UNLOADED = {
    "zkmig.reader": {"networkx", "rich", "click", "zkmig.plan", "zkmig.apply", "zkmig.policy", "zkmig.cli"},
    "zkmig.cli.main": {"networkx", "rich", "kazoo", "zkmig.plan", "zkmig.apply"},
    "zkmig.pytest_plugin": {"networkx", "rich", "click", "kazoo", "zkmig.api", "zkmig.dev", "zkmig.model"},
    "zkmig.dev": {"networkx", "rich", "click", "kazoo", "zkmig.model", "zkmig.wire"},
}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """`zkmig.wire.client` -> `wire`; the package itself -> ""."""
    return module.partition(".")[2].partition(".")[0]


def imported_names(file: Path) -> Iterator[str]:
    """Every name that a module imports anywhere in it, as far as it can be told: `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of zkmig that `module` imports: the longest part of each name that is one."""
    found = set()
    for name in imported_names(MODULES[module]):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module}


def rank_of(room: str) -> int:
    for rank, layer in enumerate(LAYERS):
        if room in layer:
            return rank
    pytest.fail(f"zkmig/{room} is in no layer: add it to LAYERS")


def is_admitted(importer: str, imported: str) -> bool:
    """Whether one room may import another. "" is zkmig/__init__.py: it stands below `demo` and above the rest."""
    if importer == imported:
        return True
    if importer == "":
        return rank_of(imported) < rank_of("demo")
    if importer in NEEDS_ONLY:
        return imported in NEEDS_ONLY[importer]
    if imported == "":
        return rank_of(importer) >= rank_of("demo")
    return rank_of(imported) < rank_of(importer)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_below(module: str) -> None:
    room = room_of(module)
    upward = [
        name
        for name in imported_modules(module)
        if not is_admitted(room, room_of(name)) and (module, name) not in UPWARD_ON_DEMAND
    ]
    assert not upward, f"{module} imports {upward}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Inside a room as well, where the layers do not look."""
    graph: networkx.DiGraph[str] = networkx.DiGraph(
        (module, name)
        for module in MODULES
        for name in imported_modules(module)
        if (module, name) not in UPWARD_ON_DEMAND
    )
    circles = [sorted(members) for members in networkx.strongly_connected_components(graph) if len(members) > 1]
    assert not circles


def test_compiled_sources_import_nothing_of_zkmig() -> None:
    """.pyx, .pxd and .pyi are not Python to the parser: look for any import of zkmig in their text."""
    sources = [file for suffix in ("*.pyx", "*.pxd", "*.pyi") for file in (PACKAGE / "_fast").glob(suffix)]
    for source in sources:
        assert not re.search(r"^\s*(from|import|cimport)\s+(zkmig|\.)", source.read_text(), re.MULTILINE), source


def test_one_module_of_the_wire_opens_sockets() -> None:
    """The codec and the session are free of I/O; beside the link, only what secures its connections may do any."""
    reaching_out = {"asyncio", "select", "selectors", "socket", "ssl"}
    openers = {
        module
        for module in MODULES
        if room_of(module) == "wire" and {name.split(".")[0] for name in imported_names(MODULES[module])} & reaching_out
    }
    assert openers == {"zkmig.wire.link", "zkmig.wire.tls", "zkmig.wire.tlsstream"}


def test_the_model_reads_no_clock_and_no_file() -> None:
    outside = {"os", "random", "secrets", "shutil", "socket", "subprocess", "tempfile", "threading", "time"}
    for module in MODULES:
        if room_of(module) == "model":
            assert not {name.split(".")[0] for name in imported_names(MODULES[module])} & outside, module


@pytest.mark.parametrize("module", UNLOADED)
def test_an_import_stays_small(module: str) -> None:
    """Import one module in a fresh interpreter and look for what must not come along."""
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not UNLOADED[module] & set(loaded)


def test_the_rules_catch_what_they_are_for() -> None:
    """Known offenders: upward, sideways, and past a room's own needs."""
    assert not is_admitted("wire", "source")
    assert not is_admitted("source", "treehash")
    assert not is_admitted("reader", "plan")
    assert not is_admitted("_fast", "errors")
    assert not is_admitted("epoch", "apply")
    assert not is_admitted("", "cli")
    assert not is_admitted("apply", "")
    assert is_admitted("cli", "")
    assert is_admitted("cli", "apply")
    assert is_admitted("plan", "plan")
