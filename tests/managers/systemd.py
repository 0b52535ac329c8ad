"""A systemd of its own, as PID 1 of new namespaces, so that units are tried as they will run.

    with Systemd(folder) as systemd:
        systemd.add("app.service", "[Service]\nExecStart=...\nRestart=always\n")
        systemd.ctl("start", "app.service")

It needs root, a systemd that is installed (it need not run), and a kernel with cgroups v2, whatever of them the host
has mounted. It finds no unit but those that were added, so nothing of the host is started. Processes, control groups
and mounts end with the `with` block, and also when this process is killed outright: a shell, which reads from a pipe
that only this process holds, is the parent of it all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 90.0
END_TIMEOUT_S = 30.0
POLL_S = 0.05

PROGRAMS = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
TOOLS = ("systemctl", "unshare", "nsenter", "mount", "find", "sed", "sh")

# What units refer to, and no more than that.
TARGETS = ("mini", "sysinit", "basic", "shutdown", "multi-user", "network-online", "timers")

# Runs in a mount namespace of its own, where cgroups v2 are mounted anew: a host's own mount of them may be elsewhere,
# or not to be written to. systemd gets a group below ours and, by a cgroup namespace, sees nothing above it.
_OUTER = r"""
set -eu
folder=$1
mount -t cgroup2 cgroup2 "$folder/cgroup"
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
home=$folder/cgroup${own%/}/zkmig-test-$$
mkdir "$home"
(
    echo 0 >"$home/cgroup.procs"
    exec unshare --fork --kill-child=KILL --pid --mount --mount-proc --cgroup --uts --ipc --propagation private \
        sh "$folder/inner.sh" "$@"
) </dev/null &
unshared=$!
echo "$unshared"
read -r _ || true
kill -KILL "$unshared" 2>/dev/null || true
wait "$unshared" 2>/dev/null || true
for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$home" -depth -type d -exec rmdir {} + 2>/dev/null && exit 0
    sleep 0.2
done
exit 1
"""

# container: or it would take the machine for its own to set up.
_INNER = r"""
set -eu
folder=$1 program=$2 console=$3
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /sys/fs/cgroup # the same file system cannot be mounted upon itself, where the host has it here
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /run/none
log=null
[ -z "$console" ] || { mount --bind "$console" /dev/console; log=console; }
export container=docker TERM=dumb SYSTEMD_UNIT_PATH="$folder/units"
export SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none
[ "$program" != true ] || exit 0
exec "$program" --system --unit=mini.target --show-status=no --log-target=$log
"""


def why_not() -> str:
    """What this machine lacks for it; "" if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a systemd of its own needs Linux and root"
    if not _program():
        return "systemd is not installed"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if "\tcgroup2\n" not in Path("/proc/filesystems").read_text():
        return "the kernel has no cgroups v2"
    identity = Path("/etc/machine-id")
    if not identity.exists() or len(identity.read_text().strip()) != 32:
        return "/etc/machine-id is not set: systemd would write it"
    return ""


def _program() -> str:
    return next((program for program in PROGRAMS if os.access(program, os.X_OK)), "")


class NamespacesForbidden(Exception):
    """Namespaces, control groups or mounts of one's own are not allowed here, as in most containers."""


class SystemdFailed(Exception):
    """It did not come up, or systemctl failed."""


class Systemd:
    """folder: an empty or absent one, for units, their output and scripts; not below /run, which is another inside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._units = folder / "units"
        self._shell: subprocess.Popen[str] | None = None
        self._terminal: tuple[int, int] | None = None
        self._listener: threading.Thread | None = None
        self._console = bytearray()
        self.init_pid = 0
        """PID 1 of the namespace, as this process sees it."""

    def __enter__(self) -> Self:
        for part in (self._units, self._folder / "cgroup", self._folder / "output"):
            part.mkdir(parents=True)
        for target in TARGETS:
            (self._units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (self._folder / "outer.sh").write_text(_OUTER)
        (self._folder / "inner.sh").write_text(_INNER)
        self._try_namespaces()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- units --------------------------------------------------------------------------------------------------------

    def add(self, name: str, text: str) -> None:
        """A unit, new or changed. What a service prints goes to `output`, whatever the unit says of that."""
        (self._units / name).write_text(text)
        if name.endswith(".service"):
            addition = self._units / f"{name}.d"
            addition.mkdir(exist_ok=True)
            file = self._output_file(name)
            (addition / "output.conf").write_text(
                f"[Service]\nStandardOutput=append:{file}\nStandardError=append:{file}\n"
            )
        self.ctl("daemon-reload")

    def output(self, name: str) -> str:
        """What a service has printed so far."""
        file = self._output_file(name)
        return file.read_text(errors="replace") if file.exists() else ""

    def ctl(self, *arguments: str) -> str:
        """systemctl, which must succeed: what it prints."""
        ran = self.try_ctl(*arguments)
        if ran.returncode != 0:
            raise SystemdFailed(f"systemctl {' '.join(arguments)}: exit {ran.returncode}: {ran.stderr}{self.console}")
        return ran.stdout

    def try_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """systemctl, whatever comes of it."""
        return self.run("systemctl", "--no-pager", "--no-ask-password", *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the namespaces of this systemd, though not one of its services."""
        enter = ["nsenter", "--target", str(self.init_pid), "--mount", "--uts", "--ipc", "--pid", "--cgroup"]
        return subprocess.run(
            [*enter, *command],
            capture_output=True,
            check=False,
            text=True,
            timeout=CALL_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )

    def show(self, name: str, key: str) -> str:
        """One property of a unit, as `systemctl show` prints it."""
        return self.ctl("show", name, f"--property={key}", "--value").strip()

    def main_pid(self, name: str) -> int | None:
        """The service's main process as this process sees it; None while it has none."""
        inside = int(self.show(name, "MainPID"))
        return next((pid for pid, number in self.processes().items() if number == inside), None) if inside else None

    def processes(self) -> dict[int, int]:
        """Every process in the namespace: its pid as this process sees it -> as they see it."""
        found = {}
        mine = _namespace(self.init_pid)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and mine and _namespace(int(entry.name)) == mine:
                with contextlib.suppress(OSError, StopIteration):
                    lines = (entry / "status").read_text().splitlines()
                    numbers = next(line for line in lines if line.startswith("NSpid:")).split()
                    found[int(entry.name)] = int(numbers[-1])
        return found

    @property
    def console(self) -> str:
        """What systemd itself has said so far."""
        return self._console.decode(errors="replace").replace("\r", "")

    # -- life ---------------------------------------------------------------------------------------------------------

    def _launch(self, program: str, console: str, errors: int) -> subprocess.Popen[str]:
        command = ["unshare", "--mount", "--propagation", "private", "sh", str(self._folder / "outer.sh")]
        return subprocess.Popen(
            [*command, str(self._folder), program, console],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # a Ctrl-C is for the tests: what they leave is cleared away then
        )

    def _try_namespaces(self) -> None:
        """All of it but systemd, to tell what is forbidden from what is broken."""
        with (self._folder / "trial").open("w+") as said:
            shell = self._launch("true", "", said.fileno())
            assert shell.stdout is not None
            pid = shell.stdout.readline().strip()
            deadline = time.monotonic() + START_TIMEOUT_S
            while pid and _runs(int(pid)) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            code = _end(shell)
            said.seek(0)
            complaints = said.read().strip()
        if code != 0 or complaints:
            raise NamespacesForbidden(f"no namespaces of its own: {complaints or f'exit {code}'}")

    def _start(self) -> None:
        console = ""
        if Path("/dev/console").exists():
            self._terminal = os.openpty()
            console = os.ttyname(self._terminal[1])
            self._listener = threading.Thread(target=self._listen, name="systemd-console", daemon=True)
            self._listener.start()
        with (self._folder / "errors").open("w") as errors:
            self._shell = self._launch(_program(), console, errors.fileno())
        assert self._shell.stdout is not None
        unshared = self._shell.stdout.readline().strip()
        deadline = time.monotonic() + START_TIMEOUT_S
        while unshared and _runs(int(unshared)) and time.monotonic() < deadline:
            self.init_pid = self.init_pid or _child_of(int(unshared))
            if self.init_pid and self.try_ctl("is-system-running").stdout.strip() in {"running", "degraded"}:
                return
            time.sleep(POLL_S)
        said = (self._folder / "errors").read_text() + self.console
        raise SystemdFailed(f"it did not come up within {START_TIMEOUT_S:g} s: {said}")

    def _listen(self) -> None:
        """Take what comes: a terminal that nobody reads would block PID 1."""
        assert self._terminal is not None
        with contextlib.suppress(OSError):  # the other end is closed everywhere
            while data := os.read(self._terminal[0], 4096):
                self._console += data

    def close(self) -> None:
        """End all of it. SystemdFailed when something is left. Again: nothing."""
        shell, self._shell = self._shell, None
        code = 0 if shell is None else _end(shell)
        if self._terminal is not None:
            os.close(self._terminal[1])
            assert self._listener is not None
            self._listener.join(END_TIMEOUT_S)
            os.close(self._terminal[0])
            self._terminal = None
        if code != 0:
            raise SystemdFailed(f"control groups are left: {(self._folder / 'errors').read_text()}")

    def _output_file(self, name: str) -> Path:
        return self._folder / "output" / name


def _end(shell: subprocess.Popen[str]) -> int:
    with contextlib.suppress(subprocess.TimeoutExpired):
        shell.communicate(timeout=END_TIMEOUT_S)  # closes its standard input first
    shell.kill()
    return shell.wait()


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _stat(pid: int | str) -> tuple[str, int]:
    """(state, parent) of a process; ("", 0) if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def _runs(pid: int) -> bool:
    return _stat(pid)[0] not in {"", "Z", "X"}


def _child_of(parent: int) -> int:
    numbers = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((int(number) for number in numbers if _stat(number)[1] == parent), 0)
