"""The name of a guard, held by one guard of a machine at a time, and what is to be thought of the one before.

A claim is a flock on a file of a local directory. The guard's keeper inherits the descriptor, so that the name is free
only once all that the guard had started has been ended, however the guard went. The file says who holds it, or held
it last; it is never removed, as a lock on a removed file keeps nobody out.

`judge` is the other half: what the registration of a predecessor that says "running" is worth. It says only what is
proved; where nothing is, a human has to say so.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from zkmig.errors import BadInput, Refused, ZkmigError
from zkmig.guard.machine import ProcessIdentity, Unseen, started_of, this_process

POLL_INTERVAL_S = 0.1
FILE_BYTES_MAX = 65536
EARLIER_MAX = 20
NAME_BYTES_MAX = 200
HOLDER_UNKNOWN_S = 2.0  # so long may a holder take between its lock and its name in the file

StartedOf = Callable[[int], int | Unseen]


# -- the predecessor --------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """What is known of a predecessor whose registration says that it runs."""

    OVER = "it has ended, and all that it had started"
    LEFTOVERS = "it has ended on this machine; what it had started may be left and can be found here"
    ALIVE = "it runs on this machine"
    UNKNOWN = "it ran where this process cannot see: from here it cannot be known whether it still does"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a claim's file names. instance: the guard's id."""

    instance: str
    process: ProcessIdentity


def judge(
    instance: str,
    process: ProcessIdentity,
    here: ProcessIdentity,
    earlier: Sequence[Holder],
    started: StartedOf = started_of,
) -> Verdict:
    """What became of the guard `instance`, registered as `process`, as far as it is known to the process `here`.

    earlier: whom the claim's file named when we got it; only for who holds the claim, nobody for who just asks. Without
    the claim LEFTOVERS may be what a keeper is still ending. Proofs, from the cheapest:
    - Same kernel (boot id) and pid namespace: we look at its pid. Another start: the pid was given away again. Where
      /proc does not show who has it, and the kernel says that somebody has, nothing is proved.
    - Same kernel, another namespace: the file, on which we now hold the lock, names it as an earlier holder, so it and
      its keeper are dead; and it was PID 1 of its namespace, with which the kernel ends all others in it (a container
      that was restarted).
    - Another boot of this very hardware, under the same host name: nothing outlives a boot. A machine id is no proof
      of that: it is copied with images. Neither is the claim's file: it is copied with disks.
    """
    if process.shares_pids_with(here):
        return _judge_by_pid(process, started(process.pid))
    if process.boot and process.boot == here.boot:
        if process.init and any(holder.instance == instance for holder in earlier):
            return Verdict.OVER
        return Verdict.UNKNOWN
    if process.boot and here.boot and process.host == here.host and _same_hardware(process, here):
        return Verdict.OVER
    return Verdict.UNKNOWN


def _judge_by_pid(process: ProcessIdentity, found: int | Unseen) -> Verdict:
    if found is Unseen.GONE:
        return Verdict.LEFTOVERS
    if found is Unseen.UNKNOWN or not process.started:
        return Verdict.UNKNOWN
    return Verdict.ALIVE if found == process.started else Verdict.LEFTOVERS


def _same_hardware(one: ProcessIdentity, other: ProcessIdentity) -> bool:
    """At least one thing known of both, and no difference in what is known of both."""
    if one.machine and other.machine and one.machine != other.machine:
        return False
    both = one.hardware.keys() & other.hardware.keys()
    return bool(both) and all(one.hardware[kind] == other.hardware[kind] for kind in both)


# -- the claim --------------------------------------------------------------------------------------------------------


class NameTaken(Refused):
    """Another guard on this machine runs under this name."""

    def __init__(self, name: str, holder: Holder | None, path: Path) -> None:
        who = "another guard" if holder is None else f"a guard with pid {holder.process.pid} on {holder.process.host}"
        super().__init__(f"{who} holds the name {name}", str(path), "stop it, or give this one another --name")
        self.holder = holder


class Claim:
    """The name, held until `close` and until every process that inherited `fileno` has ended or closed it.

    earlier: who held it before, the last one first, and so is dead together with its keeper. More than the last one,
    because a guard may die before it has taken over its predecessor's registration.
    """

    def __init__(self, descriptor: int, path: Path, earlier: Sequence[Holder]) -> None:
        self.path = path
        self.earlier = tuple(earlier)
        self._descriptor: int | None = descriptor

    def fileno(self) -> int:
        """The locked descriptor, for the keeper to hold as well."""
        assert self._descriptor is not None
        return self._descriptor

    def close(self) -> None:
        """Give the name up, as far as we hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def claim(
    name: str,
    instance: str,
    *,
    within: Sequence[str] = (),
    folder: Path | None = None,
    on_wait: Callable[[Holder], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Claim:
    """Hold `name` for the guard `instance`; waits while a predecessor that has died is being cleaned up by its keeper.

    within: where the name is one (control root, scope): elsewhere it may be held as well.
    on_wait: called once, with whom we wait for. check: called often while waiting; what it raises ends the wait.
    NameTaken: a guard of this name lives. BadInput: the directory cannot be used.
    """
    where = state_folder() if folder is None else folder
    opened = _open_folder(where, private=folder is None and "RUNTIME_DIRECTORY" not in os.environ)
    try:
        return _claim_in(opened, where / file_name(name, within), name, instance, on_wait, check)
    finally:
        os.close(opened)


def _claim_in(
    folder: int,
    path: Path,
    name: str,
    instance: str,
    on_wait: Callable[[Holder], None] | None,
    check: Callable[[], None] | None,
) -> Claim:
    me = this_process()
    waiting = False
    nameless_since: float | None = None
    while True:
        descriptor = _open_file(folder, path)
        try:
            if _lock(descriptor, folder, path):
                earlier = _read_holders(descriptor)
                _write_holders(descriptor, [Holder(instance, me), *earlier[: EARLIER_MAX - 1]], path)
                return Claim(descriptor, path, earlier)
            holder = next(iter(_read_holders(descriptor)), None)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if holder is None:
            # It has the lock and has not yet written its name; or it never will, and then it is no guard of ours.
            nameless_since = time.monotonic() if nameless_since is None else nameless_since
            if time.monotonic() - nameless_since > HOLDER_UNKNOWN_S:
                raise NameTaken(name, None, path)
        elif not _is_dead(holder.process, me):
            raise NameTaken(name, holder, path)
        elif not waiting:
            waiting = True
            if on_wait is not None:
                on_wait(holder)
        if check is not None:
            check()
        time.sleep(POLL_INTERVAL_S)


def _is_dead(process: ProcessIdentity, me: ProcessIdentity) -> bool:
    """Whether it is certain that the holder itself is dead (and its keeper, which has the lock too, is not)."""
    if process.shares_pids_with(me):
        return _judge_by_pid(process, started_of(process.pid)) is Verdict.LEFTOVERS
    return process.boot != me.boot and bool(process.boot and me.boot)


def state_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where claims are: what the service manager gives us, else /run/zkmig for root, else a directory of the user's."""
    environment = os.environ if environment is None else environment
    given = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/zkmig")
    session = environment.get("XDG_RUNTIME_DIR", "")
    if session:
        return Path(session) / "zkmig"
    return Path(tempfile.gettempdir()) / f"zkmig-{os.geteuid()}"


def file_name(name: str, within: Sequence[str] = ()) -> str:
    """The file of a claim: its parts where they are plain, else with what is not plain as %XX; a hash if it is long."""
    parts = [
        re.sub(rb"[^A-Za-z0-9._-]", lambda found: b"%%%02X" % found[0][0], part.encode()).decode()
        for part in (*within, name)
    ]
    plain = ",".join(parts)  # a comma in a part is no plain one
    if len(plain) > NAME_BYTES_MAX:
        plain = plain[: NAME_BYTES_MAX // 2] + "%" + hashlib.sha256(plain.encode()).hexdigest()
    return f"guard.{plain}.lock"


def _open_folder(folder: Path, private: bool) -> int:
    """A directory that nobody else writes to. private: made by us, and no symbolic link (systemd's may be one)."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if private else 0)
    try:
        folder.mkdir(mode=0o700, exist_ok=True, parents=not private)
        descriptor = os.open(folder, flags)
    except OSError as error:
        raise _unusable(folder, f"cannot be used to hold the name of a guard: {error.strerror}") from error
    found = os.fstat(descriptor)
    if found.st_uid not in {0, os.geteuid()} or stat.S_IMODE(found.st_mode) & 0o022:
        os.close(descriptor)
        raise _unusable(folder, "somebody else owns this directory or may write to it")
    return descriptor


def _unusable(folder: Path, what: str) -> ZkmigError:
    return BadInput(what, str(folder), "set RUNTIME_DIRECTORY to a directory of your own on this machine")


def _open_file(folder: int, path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path.name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        raise _unusable(path, f"cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unusable(path, "is no regular file")
    return descriptor


def _lock(descriptor: int, folder: int, path: Path) -> bool:
    """Whether we hold the lock now, on the file that has the name now: not on one that was removed meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _unusable(path, f"cannot be locked: {error.strerror}") from error
    try:
        named = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def _read_holders(descriptor: int) -> list[Holder]:
    """Whom the file names, the last one first; nobody if it is empty or no guard wrote it."""
    try:
        entries = json.loads(os.pread(descriptor, FILE_BYTES_MAX, 0).rstrip(b"\0"))["holders"]
        return [Holder(str(entry["instance"]), ProcessIdentity.from_json(entry["process"])) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return []


def _write_holders(descriptor: int, holders: Sequence[Holder], path: Path) -> None:
    """In one write over the old text and to its length: who reads meanwhile finds the one or the other, or no JSON.

    Room is made first: where there is none, the old text stays. Whom it names is what a verdict may rest on.
    """
    entries = [{"instance": holder.instance, "process": holder.process.to_json()} for holder in holders]
    text = json.dumps({"format": 1, "holders": entries}).encode()
    before = os.fstat(descriptor).st_size
    padded = text + b" " * max(before - len(text) - 1, 0) + b"\n"
    try:
        _make_room(descriptor, before, len(padded))
        if os.pwrite(descriptor, padded, 0) != len(padded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(text) + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be written: {error.strerror}") from error


def _make_room(descriptor: int, before: int, needed: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, needed)
    except OSError as error:
        os.ftruncate(descriptor, before)
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:  # then the file system has no such call
            raise
