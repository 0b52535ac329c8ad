"""zkmig without the time that its imports take: runs that are forked off a process which has all of it loaded.

Each is a process with arguments, environment, folder, output and exit code of its own, and ends as interpreters do.
What it does not show is how the program starts. This file is that process, too; `Forks` starts it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

REQUEST_BYTES_MAX = 1 << 18
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "ZKMIG_BACKEND")  # by the interpreter, or with an import
LOADED_LATE = ("jsonpath_rfc9535", "jsonschema", "rich.progress")  # by functions, when they are called


class Forks:
    """Makes runs of the program, also side by side."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._requests.close()  # of which it hears as well where this process is killed
        self._process.wait()

    def heeds(self, environment: Mapping[str, str]) -> bool:
        """Whether a run would be all that this environment makes of one: nothing in it is read before the fork."""
        then = self._environment
        different = [name for name in {*environment, *then} if environment.get(name) != then.get(name)]
        return not any(name.startswith(READ_AT_START) for name in different)

    def run(
        self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
    ) -> tuple[int, str, str]:
        """Exit code as `subprocess` gives it, stdout and stderr. Killed, and TimeoutExpired, after so long."""
        request = json.dumps({"argv": argv, "folder": str(folder), "environment": dict(environment)})
        answers, theirs = socket.socketpair()
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err, answers:
            with theirs:
                files = [theirs.fileno(), out.fileno(), err.fileno()]
                socket.send_fds(self._requests, [request.encode()], files)
            lines = answers.makefile()
            pid = int(lines.readline())
            answers.settimeout(timeout_s)
            try:
                code = int(lines.readline())
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([*argv], timeout_s) from None
            for file in (out, err):
                file.seek(0)
            return code, out.read(), err.read()


def load() -> None:
    """All of the program, and what it loads only when needed."""
    import zkmig

    for module in pkgutil.walk_packages(zkmig.__path__, "zkmig."):
        if module.name not in ("zkmig.__main__", "zkmig.pytest_plugin"):
            importlib.import_module(module.name)
    for name in LOADED_LATE:
        importlib.import_module(name)


def serve(requests: socket.socket) -> None:
    """Fork for each request; returns in each new process, ready to be the program, and ends in this one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those in between wait for the runs; nobody waits for them
    gc.collect()
    gc.freeze()
    while True:
        request, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, 3)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _begin(json.loads(request), *files)
            return
        for file in files:
            os.close(file)


def _begin(request: dict[str, object], answers: int, out: int, err: int) -> None:
    """The run in a child, while this process waits for it and tells how it ends."""
    if pid := os.fork():
        os.close(out)
        os.close(err)
        os.write(answers, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(answers)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(file, number)
        os.close(file)
    argv, folder, environment = request["argv"], request["folder"], request["environment"]
    assert isinstance(argv, list)
    assert isinstance(folder, str)
    assert isinstance(environment, dict)
    sys.argv = argv
    sys.path.insert(0, os.path.dirname(argv[0]))  # as it is for a script
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    load()
    serve(socket.socket(fileno=int(sys.argv[1])))

    from zkmig.cli.main import main

    sys.exit(main())
