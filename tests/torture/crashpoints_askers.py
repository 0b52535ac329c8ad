"""Who in the engine's sources asks for a write: so that a new kind of write that no crash point visits is noticed.

The sources are read, not run: every function of `zkmig.apply` and `zkmig.epoch` that calls one of the migrator's ways
to write, or hands a write to a client itself.
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


def askers() -> set[str]:
    """As MortalClient.askers names them: module:function."""
    found: set[str] = set()
    for package in PACKAGES:
        for file in sorted((Path(zkmig.__file__).parent / package).glob("*.py")):
            for name, function in _functions(ast.parse(file.read_text()).body, ""):
                if name not in PLUMBING and any(_is_write(node) for node in _own_nodes(function)):
                    found.add(f"zkmig.{package}.{file.stem}:{name}")
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
