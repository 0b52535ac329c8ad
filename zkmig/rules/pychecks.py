"""Checks in Python: functions over a read-only tree that yield violations.

    def every_pool_has_hosts(tree):
        for path, names in tree.find("/pools/{pool}"):
            if not tree.json(path)["hosts"]:
                yield path, "a pool without hosts"

A check yields a path and a sentence, or a sentence alone, which then is about the root. One that raises is a violation
too: what could not be judged is not sound.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from zkmig.errors import BadInput, Refused
from zkmig.model.snapshot import Snapshot
from zkmig.policy.rules import PythonCheck
from zkmig.rules.readonly import ReadOnlyTree
from zkmig.rules.violation import Violation, told

GROUP = "zkmig.checks"  # of entry points
Check = Callable[[ReadOnlyTree], Iterable[Any] | None]


def pinned(name: str, call: str, folder: str, reason: str = "") -> PythonCheck:
    """A check as a policy names it, found, and pinned to its source. folder: what a file's name is relative to.

    BadInput for one that is not there.
    """
    file = ""
    head, colon, _ = call.rpartition(":")
    if colon and head.endswith(".py"):
        file = str(Path(folder, head).resolve())
    found = PythonCheck(name, call, file, reason=reason)
    return PythonCheck(name, call, file, _digest(_function(found), found), reason)


def judged(check: PythonCheck, tree: Snapshot) -> Iterator[Violation]:
    """What it yields. Refused if its source is not the one that it is pinned to."""
    function = _function(check)
    if check.sha256 and _digest(function, check) != check.sha256:
        what = f"the check {check.name!r} has changed since the plan was made"
        raise Refused(what, check.file or check.call, "plan again")
    try:
        for each in function(ReadOnlyTree(tree)) or ():
            yield _violation(check, tree, each)
    except Exception as error:  # noqa: BLE001 - whatever a check raises, the tree is not known to be sound
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)} line {frame.lineno}"
        # Its message may hold data.
        yield Violation(check.name, tree.root, f"the check failed: {type(error).__name__} at {where}")


def _violation(check: PythonCheck, tree: Snapshot, told_so: Any) -> Violation:
    if isinstance(told_so, Violation):
        return told_so
    path, what = told_so if isinstance(told_so, tuple) else (tree.root, told_so)
    if not isinstance(path, str) or not isinstance(what, str):
        raise TypeError("a check yields a path and a sentence")
    return Violation(check.name, path, what, told(tree[path].data) if path in tree else "")


def _function(check: PythonCheck) -> Check:
    head, colon, name = check.call.rpartition(":")
    if not colon:
        return _entry_point(check)
    try:
        module = _module_of(check.file) if check.file else importlib.import_module(head)
        found = getattr(module, name)
    except FileNotFoundError:
        raise BadInput(f"the check {check.name!r} is not there", check.file, "say where it lies") from None
    except AttributeError:
        raise BadInput(f"it has no function {name}", check.file or head, "check the name") from None
    except Exception as error:  # noqa: BLE001 - whatever a module raises while it is loaded
        what = f"it cannot be loaded: {type(error).__name__}: {error}"
        raise BadInput(what, check.file or head, "mend it, or leave the check out") from None
    return _callable(found, check)


def _entry_point(check: PythonCheck) -> Check:
    for point in entry_points(group=GROUP, name=check.call):
        return _callable(point.load(), check)
    raise BadInput(
        f"no installed package offers the check {check.call!r}",
        check.name,
        f"write it like checks.py:function or package.module:function, or install what has it as {GROUP}",
    )


def _callable(found: Any, check: PythonCheck) -> Check:
    if not callable(found):
        raise BadInput("it is no function", check.call, "a check takes the tree and yields violations")
    function: Check = found
    return function


def _module_of(file: str) -> Any:
    """A module from its file, not kept among the loaded ones: two policies may have a checks.py each."""
    spec = importlib.util.spec_from_file_location(f"zkmig_check_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput("it is no Python file", file, "name it like checks.py")
    module = importlib.util.module_from_spec(spec)
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is left beside somebody's policy
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = was
    return module


def _digest(function: Check, check: PythonCheck) -> str:
    source = check.file or inspect.getsourcefile(inspect.unwrap(function)) or ""
    try:
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    except OSError:
        raise BadInput("its source cannot be read", source or check.call, "a check is pinned by its source") from None
