"""Load: a script from its file, and what it makes of a tree.

Scripts are trusted code: they run with all that this process may do. The bytes that are hashed are the bytes that are
run; what a script imports is not pinned by that.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import stat
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, ModuleType

from zkmig.errors import BadInput, ZkmigError
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.plan.scriptpin import ScriptPin
from zkmig.script.apart import apart
from zkmig.script.draft import Draft
from zkmig.script.migration import Migration, made_since, made_so_far
from zkmig.script.numbering import number_of
from zkmig.stop import Interruption

SCRIPT_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class Script:
    """A script that is loaded. path: of its file, as given. source: what was hashed and run."""

    path: str
    source: bytes = field(repr=False)
    migration: Migration
    pin: ScriptPin

    @property
    def epoch(self) -> int:
        return self.migration.epoch


def load(path: str) -> Script:
    """The script in a file. BadInput, naming file and line, for what is none, and for a number that is not its epoch's.

    Its top level is run; its migration is not.
    """
    return load_source(path, _read(path))


def sha256_of(path: str) -> str:
    """Of a script's file, hex. BadInput if it cannot be read. Nothing of it is run."""
    return hashlib.sha256(_read(path)).hexdigest()


def load_source(path: str, source: bytes) -> Script:
    """The same of a file whose bytes are known."""
    number = number_of(path)
    name = os.path.basename(path)
    module = ModuleType(f"zkmig_migration_{os.path.splitext(name)[0]}")
    module.__file__ = path
    before = made_so_far()
    sys.modules[module.__name__] = module  # dataclasses and pickle look for it there
    try:
        code = _compiled(path, source)
        with blamed_on(path, tells=True), apart():
            exec(code, module.__dict__)
    finally:
        sys.modules.pop(module.__name__, None)
    # Of a module that it imports, migrations are that one's own.
    found = [each for each in made_since(before) if _file_of(each) == path]
    if len(found) != 1:
        what = "there is no migration in it" if not found else f"there are {len(found)} migrations in it"
        raise BadInput(what, path, "mark one function with @zkmig.migration(epoch=N)")
    made = found[0]
    if made.epoch != number:
        raise BadInput(f"its number is {number}, and its migration is for epoch {made.epoch}", path, "make them agree")
    pin = ScriptPin(made.name, name, hashlib.sha256(source).hexdigest(), made.epoch, made.scope)
    return Script(path, source, made, pin)


def _compiled(path: str, source: bytes) -> CodeType:
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{path}:{error.lineno}" if error.lineno else path
        raise BadInput(f"it is no Python: {error.msg}", where) from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL in older versions; brackets too deep
        raise BadInput(f"it is no Python: {error}", path) from error


def _file_of(made: Migration) -> str:
    code = getattr(inspect.unwrap(made.function), "__code__", None)
    return code.co_filename if code is not None else ""


def run(script: Script, target: Snapshot | None, scope: Scope | None = None) -> Snapshot:
    """The tree that the script makes of the target, of which it gets a fresh draft.

    target None: its root is not there yet, and scope says where it is to be. BadInput for whatever the script raises,
    with its file and line; of exceptions of its own only the type, since their text may hold data.
    """
    draft = Draft(target, scope)
    with blamed_on(script.path), apart():
        script.migration(draft)
    with blamed_on(script.path):
        return draft.snapshot(script.path)


@contextmanager
def blamed_on(path: str, tells: bool = False) -> Iterator[None]:
    """Whatever is raised inside becomes BadInput that names the script and the last line of it that was running.

    tells: whether the text of exceptions of its own is shown, since it cannot hold data of znodes yet.
    """
    try:
        yield
    except ZkmigError as error:
        inside = f"{error.where}: {error.what}" if error.where else error.what
        raise BadInput(inside, _place(error, path), error.hint) from error
    except (KeyboardInterrupt, Interruption):
        raise  # not of the script: somebody ends the program
    except BaseException as error:  # also SystemExit, and asyncio's CancelledError, which are no Exceptions
        name = type(error).__name__
        text = f" ({error})" if tells else ""
        raise BadInput(f"it raised {name}{text}", _place(error, path), "ZKMIG_DEBUG=1 shows the traceback") from error


def _place(error: BaseException, path: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadInput("this is no regular file, and a script is wanted", path)
            source = file.read(SCRIPT_BYTES_MAX + 1)
    except FileNotFoundError:
        raise BadInput("there is no such script", path, "make one with zkmig new") from None
    except IsADirectoryError:
        hint = "name one of its scripts; zkmig apply takes the directory"
        raise BadInput("this is a directory, and a migration script is wanted", path, hint) from None
    except OSError as error:
        raise BadInput(f"it cannot be read: {error.strerror}", path) from error
    except ValueError:
        raise BadInput("a file name cannot hold NUL", repr(path)) from None
    if len(source) > SCRIPT_BYTES_MAX:
        raise BadInput(f"it is larger than {SCRIPT_BYTES_MAX} bytes", path, "this is no script")
    return source


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that nobody writes to would keep us waiting for ever
