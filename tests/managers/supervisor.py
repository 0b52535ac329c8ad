"""A supervisord of its own, with its services defined while it runs.

It and its services end with the `with` block, and also when this process is killed outright: a shell is its parent,
which reads from a pipe that only this process holds, and asks it to end when the pipe does.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.managers.waiting import wait_for

CALL_TIMEOUT_S = 90.0
END_TIMEOUT_S = 60.0

_CONFIG = """\
[supervisord]
nodaemon=true
silent=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}

[unix_http_server]
file={socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}

[include]
files={folder}/services/*.conf
"""

_PARENT = """
"$@" </dev/null &
child=$!
read -r _ || true
kill -TERM "$child" 2>/dev/null
wait "$child"
"""


class SupervisorFailed(Exception):
    """It did not come up, or supervisorctl failed."""


class Supervisor:
    """folder: for its configuration and what services print."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = folder / "supervisord.conf"
        self._sockets = ""  # a socket's path is at most 107 bytes long
        self._shell: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self._folder / "services").mkdir(parents=True)
        self._sockets = tempfile.mkdtemp(prefix="zkmig-test-")
        self._config.write_text(_CONFIG.format(folder=self._folder, socket=f"{self._sockets}/control"))
        with (self._folder / "errors").open("wb") as errors:
            self._shell = subprocess.Popen(
                ["sh", "-c", _PARENT, "zkmig-test-supervisor", _script("supervisord"), "-c", str(self._config)],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        try:
            wait_for(lambda: self._try_ctl("pid").returncode == 0, self._complaints)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, name: str, settings: str) -> None:
        """Define a service and start it. settings: lines of its [program:...] section."""
        output = f"redirect_stderr=true\nstdout_logfile={self._output_file(name)}\n"
        (self._folder / "services" / f"{name}.conf").write_text(f"[program:{name}]\n{settings}{output}")
        self.ctl("update")

    def ctl(self, *arguments: str) -> str:
        """supervisorctl, which must succeed: what it prints."""
        ran = self._try_ctl(*arguments)
        if ran.returncode != 0:
            said = f"exit {ran.returncode}: {ran.stdout}{ran.stderr}"
            raise SupervisorFailed(f"supervisorctl {' '.join(arguments)}: {said}{self._complaints()}")
        return ran.stdout

    def pid(self, name: str) -> int | None:
        """The service's process; None while it has none."""
        text = self._try_ctl("pid", name).stdout.strip()
        return int(text) if text.isdigit() and text != "0" else None

    def output(self, name: str) -> str:
        """What a service has printed so far."""
        file = self._output_file(name)
        return file.read_text(errors="replace") if file.exists() else ""

    def close(self) -> None:
        """End it, and with it its services, which get their time for that. Again: nothing."""
        shell, self._shell = self._shell, None
        if shell is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                shell.communicate(timeout=END_TIMEOUT_S)  # closes its standard input first
            shell.kill()
            shell.wait()
            shutil.rmtree(self._sockets)

    def _try_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_script("supervisorctl"), "-c", str(self._config), *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=CALL_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )

    def _complaints(self) -> str:
        files = (self._folder / name for name in ("errors", "supervisord.log"))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def _output_file(self, name: str) -> Path:
        return self._folder / f"{name}.output"


def _script(name: str) -> str:
    """Of the virtual environment that this Python is of."""
    return str(Path(sys.executable).with_name(name))
