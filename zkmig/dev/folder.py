"""A temporary folder, and a process in it, that end with this process however it ends.

Each folder has a keeper: a small shell that reads from a pipe whose other end only this process holds. The pipe ends
when the folder is closed, and also when this process is killed outright, and then the keeper ends the process whose id
stands in the file `pid` and removes the folder. The parent-death signal of Linux would be no substitute: it fires when
the *thread* dies that started the process, and it removes no files.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
from pathlib import Path

from zkmig.errors import ZkmigError

# The process is ended only if its command line names the folder: its number may belong to another one by now. It may
# still write while it dies, hence the loop around rm.
_KEEPER = r"""
folder=$1
trap '' INT TERM HUP
read -r _
command_line() {
    if [ -d /proc/self ]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o command= -p "$1"; fi
}
if [ -s "$folder/pid" ]; then
    pid=$(cat "$folder/pid")
    case "$(command_line "$pid" 2>/dev/null)" in *"$folder"*) kill -KILL "$pid" 2>/dev/null ;; esac
fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$folder" 2>/dev/null && exit 0
    sleep 0.1
done
exit 1
"""


class KeptFolder:
    """A temporary folder. Invariant: while `path` exists, a keeper watches this process."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="zkmig-dev-"))
        self._owner_pid = os.getpid()
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "zkmig-dev-keeper", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal is for this process, not for its keeper
            bufsize=0,
        )
        _open_folders.add(self)
        atexit.register(self.close)

    @property
    def is_ours(self) -> bool:
        """False in a forked child, which must leave the parent's servers alone."""
        return os.getpid() == self._owner_pid

    @property
    def pid_file(self) -> Path:
        """Where the process that is to end with this one writes its id."""
        return self.path / "pid"

    def close(self) -> None:
        """End the process and remove the folder. Again, or in a forked child: nothing."""
        if not self.is_ours or self not in _open_folders:
            return
        _open_folders.discard(self)
        atexit.unregister(self.close)
        self._hang_up()
        if self._keeper.wait() != 0:
            raise ZkmigError("the temporary folder could not be removed", str(self.path), "remove it by hand")

    def _hang_up(self) -> None:
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()


_open_folders: set[KeptFolder] = set()


def _hang_up_in_forked_child() -> None:
    # A forked child (multiprocessing's, for one) that kept its copy of the pipe would keep the keeper waiting after
    # this process is gone.
    for folder in _open_folders:
        folder._hang_up()


os.register_at_fork(after_in_child=_hang_up_in_forked_child)
