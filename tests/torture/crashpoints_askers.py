"""Who in the engine's sources asks for a write, on behalf of which command: so that none is left without a crash point.

The sources are read, not run. An asker is a function of `zkmig.apply` or `zkmig.epoch` that calls one of the migrator's
ways to write, or hands a write to a client itself. A command is a public function there that takes a scope over, with
all askers that it reaches: what its code names, followed through imports, classes and methods.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import zkmig
from tests.torture.crashpoints_client import PLUMBING

WAYS = frozenset({"write", "write_all", "transition", "write_series"})  # of a Migrator
STEPS = frozenset(
    {"write_acls", "_must", "_transition_to_commit", "transition_noted"}
)  # functions that write, whose callers count instead of them
SENDERS = frozenset({"call", "call_reply", "pipeline", "post", "send"})  # of a client
REQUESTS = frozenset({"Multi", "SetAcl", "Create", "Create2", "CreateContainer", "CreateTtl", "Delete", "SetData"})
PACKAGES = ("apply", "epoch")
TAKES = ("zkmig.epoch.owner", "Migrator.take")

Place = tuple[str, str]  # module, function


def askers() -> set[str]:
    """As MortalClient.askers names them: module:function."""
    return {
        f"{module}:{name}"
        for module, tree in _modules()
        for name, function in _functions(tree.body, "")
        if name not in PLUMBING and any(_is_write(node) for node in _own_nodes(function))
    }


def asked_by_commands() -> set[str]:
    """Each asker that a command reaches, as "command: asker"."""
    graph = _graph()
    writers = askers()
    found: set[str] = set()
    for module, name in graph:
        reached = _reached(graph, (module, name))
        is_public = module.startswith("zkmig.apply.") and not name.startswith("_") and "." not in name
        if is_public and TAKES in reached:
            found |= {f"{name}: {':'.join(one)}" for one in reached if ":".join(one) in writers}
    return found


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
            yield from _functions(node.body, f"{prefix}{node.name}.<locals>.")


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """All below it but what is in functions of its own."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.FunctionDef)]


def _is_write(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Name):
        return called.id in STEPS
    if not isinstance(called, ast.Attribute):
        return False
    if called.attr in STEPS:
        return True
    if called.attr in WAYS:
        return _last_name(called.value) in ("migrator", "_migrator")
    return called.attr in SENDERS and any(_makes_a_write(argument) for argument in node.args)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _makes_a_write(argument: ast.expr) -> bool:
    names = {node.id for node in ast.walk(argument) if isinstance(node, ast.Name)}
    return bool(names & REQUESTS) or bool(names & {"multi", "multis"})


# -- who reaches whom -------------------------------------------------------------------------------------------------


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted((Path(zkmig.__file__).parent / package).glob("*.py")):
            yield f"zkmig.{package}.{file.stem}", ast.parse(file.read_text())


def _graph() -> dict[Place, set[Place]]:
    """Whom each function may call: too many rather than too few."""
    functions: dict[Place, ast.FunctionDef] = {}
    known: dict[str, dict[str, Place]] = {}  # by module: what its names mean
    for module, tree in _modules():
        imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
        known[module] = {one.asname or one.name: (str(node.module), one.name) for node in imports for one in node.names}
        tops = (node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
        known[module] |= {name: (module, name) for name in tops}
        functions |= {(module, name): function for name, function in _functions(tree.body, "")}
    return {
        place: {one for node in _own_nodes(function) for one in _meant(node, place, known[place[0]])} & functions.keys()
        for place, function in functions.items()
    }


def _meant(node: ast.AST, place: Place, known: dict[str, Place]) -> Iterator[Place]:
    """Functions that a piece of code may mean: a name its function or class, an attribute a method of any class that
    the module knows, but one of `self` of its own class."""
    module, inside = place
    if isinstance(node, ast.Name | ast.FunctionDef):
        name = node.id if isinstance(node, ast.Name) else node.name
        yield module, f"{inside}.<locals>.{name}"
        if name in known:
            there, known_as = known[name]
            yield from ((there, f"{known_as}{method}") for method in ("", ".__init__", ".__enter__", ".__exit__"))
    elif isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            yield module, f"{inside.rpartition('.')[0]}.{node.attr}"
        else:
            yield from ((there, f"{known_as}.{node.attr}") for there, known_as in known.values())


def _reached(graph: dict[Place, set[Place]], start: Place) -> set[Place]:
    seen, waiting = {start}, [start]
    while waiting:
        for place in graph[waiting.pop()] - seen:
            seen.add(place)
            waiting.append(place)
    return seen
