"""Proof that a script comes out the same each time: it is run some times, and the trees that it makes are compared.

Once here; then in processes of its own, one after the other, in each of which text has other hashes; in the first of
them twice. So what hangs on chance, on the clock's tick, on the order of a set, or on what an earlier run has left in
memory, comes out another way. What is the same each time in a row, and not tomorrow (a date, the host, a file), does
not show.

The trees go from process to process in files that have no name, so that nothing is left of them, whatever ends us.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from zkmig.diff import diff
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.script.load import Script, load_source, run
from zkmig.source import zks

RUNS_AGAIN = (2, 1, 1)  # in each process; the order of a set of two slips through all of them one time in eight
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from zkmig.script.proof import answer; answer()"
_HASH_SEEDS = 2**32
_PR_SET_PDEATHSIG = 1  # of prctl(2); it is sent when the thread ends that has started us, and that one waits for us


def proven(script: Script, target: Snapshot | None, scope: Scope | None = None) -> Snapshot:
    """The tree that the script makes, as `run`. BadInput naming the first path where it came out in another way."""
    made = run(script, target, scope)
    with _file_of(target, script.path) as base, _file_of(None, script.path) as other:
        request = {
            "path": script.path,
            "source": base64.b64encode(script.source).decode(),
            "base": base.fileno() if target is not None else None,
            "scope": [scope.root, scope.excludes, scope.includes] if scope is not None else None,
            "hashes": _hashes(made),
            "other": other.fileno(),
            "parent": os.getpid(),
        }
        for seed, times in zip(_other_seeds(len(RUNS_AGAIN)), RUNS_AGAIN, strict=True):
            base.seek(0)
            found = _again({**request, "times": times}, seed, (base.fileno(), other.fileno()))
            if found.get("same") is True:
                continue
            what = "it does not come out the same each time"
            if "failed" in found:
                raise BadInput(f"{what}: run again, it failed ({found['failed']})", script.path, _HINT)
            other.seek(0)
            first = _first_difference(made, zks.read_from(other, script.path))
            raise BadInput(f"{what}: {first} is first to differ", script.path, _HINT)
    return made


@contextmanager
def _file_of(tree: Snapshot | None, script: str) -> Iterator[BinaryIO]:
    """A file without a name that holds this tree, or nothing yet."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(TemporaryFile())
            if tree is not None:
                zks.write_into(tree, file)
                file.flush()
        except OSError as error:
            what = f"there is no place for the trees to run it again on: {error.strerror}"
            raise BadInput(what, script, "set TMPDIR to where there is room") from error
        yield file


_HINT = "leave out what is random, the clock, the order of sets, and what an earlier run has left"


def _hashes(snapshot: Snapshot) -> list[str]:
    return [snapshot.tree_hash, snapshot.counter_hash]


def _first_difference(one: Snapshot, other: Snapshot) -> str:
    found = diff(one, other)
    entries = [*found.changes[:1], *found.notes[:1], *found.in_the_way[:1]]
    relative = min((entry.path for entry in entries), key=lambda each: paths.order_key(each or "/"), default="")
    return paths.join(one.root, relative)


def _again(request: dict[str, Any], seed: int, files: tuple[int, ...]) -> dict[str, Any]:
    """Ask another process for its runs, under the hashes of this seed. BadInput where it does not answer."""
    path = request["path"]
    if not sys.executable:
        raise BadInput("there is no Python to run it again with", path, "run zkmig by an interpreter")
    # -P and the same sys.path: what the script imports is found just as here.
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        pass_fds=files,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C in a terminal is for this process, which ends that one
    )
    try:
        answered, _ = process.communicate(json.dumps(request).encode())
    finally:
        if process.returncode is None:  # a signal ended the waiting: whatever the script has started goes, too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with contextlib.suppress(ValueError):
        found = json.loads(answered)
        if isinstance(found, dict) and process.returncode == 0:
            return found
    code = process.returncode
    if code < 0:
        how, hint = f"was killed by signal {-code}", "look whether there is memory enough, and for what it runs"
    else:
        how, hint = f"ended with {code}", "look for exits in it"
    raise BadInput(f"run again in a process of its own, that {how}", path, hint)


def _other_seeds(count: int) -> Iterator[int]:
    """So many, none of them that of this process as far as that is known."""
    given = os.environ.get("PYTHONHASHSEED", "")
    first = int(given) + 1 if given.isdecimal() else int.from_bytes(os.urandom(4))
    return ((first + number) % _HASH_SEEDS for number in range(count))


def answer() -> None:
    """The other process: a request on stdin, an answer on stdout, which the script cannot reach."""
    request = json.load(sys.stdin)
    _end_with(request["parent"])
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "w") as nothing, open(os.devnull) as nobody:
        # The first run has shown what the script prints.
        os.dup2(nothing.fileno(), sys.stdout.fileno())
        os.dup2(nothing.fileno(), sys.stderr.fileno())
        os.dup2(nobody.fileno(), sys.stdin.fileno())
        try:
            found = _answered(request)
        except BadInput as error:
            found = {"failed": f"{error.where}: {error.what}" if error.where else error.what}
    json.dump(found, out)
    out.flush()
    os._exit(0)  # threads that the script has left running would keep this process, and whoever waits for it


def _end_with(parent: int) -> None:
    """Where the parent is killed outright, so is this process, however long its script would take. Linux alone."""
    if sys.platform == "linux":
        zero = ctypes.c_ulong(0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), zero, zero, zero)
    if os.getppid() != parent:  # before that could be asked for
        os._exit(1)


def _answered(request: dict[str, Any]) -> dict[str, Any]:
    script = load_source(request["path"], base64.b64decode(request["source"]))
    base = None
    if request["base"] is not None:
        with os.fdopen(request["base"], "rb") as file:
            base = zks.read_from(file, request["path"], verify_hash=False)
    scope = None
    if request["scope"] is not None:
        root, excludes, includes = request["scope"]
        scope = Scope(root, tuple(excludes), tuple(includes))
    for _ in range(request["times"]):
        made = run(script, base, scope)
        if _hashes(made) != request["hashes"]:
            try:
                with os.fdopen(request["other"], "wb") as other:
                    zks.write_into(made, other)
            except OSError as error:
                return {"failed": f"to say where it differs: {error.strerror}"}
            return {"same": False}
    return {"same": True}
