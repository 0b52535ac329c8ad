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
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from zkmig.errors import BadInput, Refused
from zkmig.model.snapshot import Snapshot
from zkmig.policy.rules import PythonCheck
from zkmig.rules.readonly import ReadOnlyTree
from zkmig.rules.violation import Violation, told
from zkmig.stop import Interruption

GROUP = "zkmig.checks"  # of entry points
SENTENCE_CHARS_MAX = 1000
FAILED = "the check failed"

# All else that foreign code raises is a failure of it: sys.exit() too, which would otherwise end the program as if all
# were well, and asyncio's CancelledError, which is no Exception either.
_OURS = (KeyboardInterrupt, Interruption, GeneratorExit)


_END = object()


class NotLoaded(BadInput):
    """public: for records that everybody reads: without the text of what was raised, which may hold anything."""

    public = ""


class _Loaded(NamedTuple):
    function: Callable[[ReadOnlyTree], Any]
    sha256: str  # of the source that it was loaded from


def pinned(name: str, call: str, folder: str, reason: str = "") -> PythonCheck:
    """A check as a policy names it, found, and pinned to its source. folder: what a file's name is relative to.

    BadInput for one that is not there.
    """
    file = ""
    head, colon, _ = call.rpartition(":")
    if colon and head.endswith(".py"):
        file = os.path.abspath(os.path.join(folder, head))
    return PythonCheck(name, call, file, _load(PythonCheck(name, call, file)).sha256, reason)


def judged(check: PythonCheck, tree: Snapshot) -> Iterator[Violation]:
    """What it yields. Refused if its source is not the one that it is pinned to."""
    loaded = _load(check)
    if check.sha256 and loaded.sha256 != check.sha256:
        what = f"the check {check.name!r} has changed since the policy was read"
        raise Refused(what, check.file or check.call, "plan again")
    try:
        for each in _said(loaded.function, ReadOnlyTree(tree)):
            yield _violation(check, tree, each)
    except _OURS:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a check raises, the tree is not known to be sound
        # Its message may hold data.
        yield Violation(check.name, tree.root, f"{FAILED}: {type(error).__name__}{_place(error)}")


def is_failure(violation: Violation) -> bool:
    """Whether it says that a check could not be carried through: what else there is to say nobody knows."""
    return violation.what.startswith(FAILED)


def _said(function: Callable[[ReadOnlyTree], Any], tree: ReadOnlyTree) -> Iterator[Any]:
    """What it yields. What it prints goes to stderr: stdout is for the verdict."""
    with redirect_stdout(sys.stderr):
        found = function(tree)
    if isinstance(found, str):
        raise TypeError("a sentence is yielded, not returned")
    items = iter(() if found is None else found)
    while True:
        with redirect_stdout(sys.stderr):
            item = next(items, _END)
        if item is _END:
            return
        yield item


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    if not own:
        return ": it is to take a tree and to yield violations"
    return f" at {os.path.basename(own[-1].filename)} line {own[-1].lineno}"


def _violation(check: PythonCheck, tree: Snapshot, said: Any) -> Violation:
    path, what = said if isinstance(said, tuple) else (tree.root, said)
    if not isinstance(path, str) or not isinstance(what, str):
        raise TypeError("a check yields a path and a sentence")
    path, what = (text.encode(errors="backslashreplace").decode() for text in (path, what))
    is_node = path in tree
    shown = path if is_node else path[:SENTENCE_CHARS_MAX]
    return Violation(check.name, shown, what[:SENTENCE_CHARS_MAX], told(tree[path].data) if is_node else "")


# -- finding it -------------------------------------------------------------------------------------------------------


def _load(check: PythonCheck) -> _Loaded:
    with redirect_stdout(sys.stderr):  # as above: a module may print, too
        return _found(check)


def _found(check: PythonCheck) -> _Loaded:
    head, colon, name = check.call.rpartition(":")
    if not colon:
        return _entry_point(check)
    if check.file:
        source = _read(check)
        found = getattr(_executed(check, source), name, None)
        digest = hashlib.sha256(source).hexdigest()
        return _Loaded(_function(found, check, name), digest)
    with _loading(check):
        module = importlib.import_module(head)
    function = _function(getattr(module, name, None), check, name)
    return _Loaded(function, _digest(function, check))


def _read(check: PythonCheck) -> bytes:
    try:
        return Path(check.file).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise BadInput(f"the check {check.name!r} cannot be read: {why}", check.file, "say where it lies") from None


def _executed(check: PythonCheck, source: bytes) -> ModuleType:
    """A module of just the bytes that were read: neither compiled earlier, nor one that another policy calls so too."""
    module = ModuleType(f"zkmig_check_{hashlib.sha256(check.file.encode()).hexdigest()[:16]}")
    module.__file__ = check.file
    sys.modules[module.__name__] = module  # dataclasses look for their module there
    with _loading(check):
        exec(compile(source, check.file, "exec", dont_inherit=True), module.__dict__)
    return module


@contextmanager
def _loading(check: PythonCheck) -> Iterator[None]:
    try:
        yield
    except _OURS:
        raise
    except BaseException as error:  # noqa: BLE001 - of foreign code, which may raise what is no Exception
        raise _not_loaded(check, error) from None


def _not_loaded(check: PythonCheck, error: BaseException) -> BadInput:
    what = f"the check {check.name!r} cannot be loaded"
    found = NotLoaded(
        f"{what}: {type(error).__name__}: {error}", check.file or check.call, "mend it, or leave the check out"
    )
    found.public = what
    return found


def _entry_point(check: PythonCheck) -> _Loaded:
    points = tuple({point.value: point for point in entry_points(group=GROUP, name=check.call)}.values())
    if not points:
        raise BadInput(
            f"no installed package offers the check {check.call!r}",
            check.name,
            f"write it like checks.py:function or package.module:function, or install what has it as {GROUP}",
        )
    if len(points) > 1:
        raise BadInput(
            f"several packages offer the check {check.call!r}", check.name, "write it like package.module:function"
        )
    with _loading(check):
        found = points[0].load()
    function = _function(found, check, points[0].attr)
    return _Loaded(function, _digest(function, check))


def _function(found: Any, check: PythonCheck, name: str) -> Callable[[ReadOnlyTree], Any]:
    if found is None:
        raise BadInput(f"the check {check.name!r}: there is no function {name}", check.file or check.call, "check it")
    if not callable(found):
        raise BadInput(f"the check {check.name!r} is no function", check.file or check.call, "name a function")
    function: Callable[[ReadOnlyTree], Any] = found
    return function


def _digest(function: Callable[[ReadOnlyTree], Any], check: PythonCheck) -> str:
    """Of the file that defines it; of a callable object, of the one that defines its class."""
    try:
        found = inspect.unwrap(function)
        source = inspect.getsourcefile(found if inspect.isroutine(found) or inspect.isclass(found) else type(found))
        return hashlib.sha256(Path(source or "").read_bytes()).hexdigest()
    except (OSError, TypeError, ValueError):
        raise BadInput("its source cannot be read", check.call, "a check is pinned by its source") from None
