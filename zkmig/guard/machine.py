"""Who this process is, on which machine, so that the next guard of the name can tell whether it still lives.

What each part says, and what it does not:
- boot: the kernel's random id of this boot. The same for all containers of a host; another one after every start.
- namespace: the pid namespace (its inode number, which is given away again once the namespace is gone).
- pid, started: the process in that namespace; a pid that was given away again has another start.
- user: the user and group that it acts as, its capabilities, and the user namespace in which these numbers count. By
  these the kernel decides what of a process another one may see.
- machine: a hash of /etc/machine-id. Images and clones of machines share it, so it proves nothing alone.
- hardware: hashes of what clones do not share: the system's UUID, where we may read it, and the addresses of the
  network cards that came with the machine.

machine-id(5) asks for its number not to be shown around: only hashes under a key of our own leave the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from zkmig.guard.descendants import proc_is_ours, read_process

_KEY = b"zkmig guard"
_HASH_DIGITS = 32
_PERMANENT = "0"  # addr_assign_type: the address came with the card
_LOOPBACK_TYPE = "772"

# UUIDs that makers of boards forgot to fill in: many machines have them.
_NOT_UNIQUE = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
    }
)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process on one machine. machine: "" where there is no machine id. init: it is PID 1 of its namespace.

    started: clock ticks since boot, 0 where it could not be read. namespace: "" where /proc does not tell. hardware:
    kind -> hash. user: "" where it is not known, as of guards that did not register it yet.
    """

    host: str
    pid: int
    started: int
    machine: str
    boot: str
    namespace: str
    init: bool
    hardware: Mapping[str, str] = field(default_factory=dict)
    user: str = ""

    def shares_pids_with(self, other: ProcessIdentity) -> bool:
        """Whether a pid of the one is known to name the same process to the other: same kernel, same pid namespace."""
        same = (self.boot, self.namespace) == (other.boot, other.namespace)
        return same and bool(self.boot and self.namespace)

    def is_same_user_as(self, other: ProcessIdentity) -> bool:
        """Whether both are known to act as the same user; of use only where they share pids."""
        return self.user != "" and self.user == other.user

    def to_json(self) -> dict[str, object]:
        """As it stands in a registration."""
        return {
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "machine": self.machine,
            "boot": self.boot,
            "namespace": self.namespace,
            "init": self.init,
            "hardware": dict(self.hardware),
            "user": self.user,
        }

    @classmethod
    def from_json(cls, value: object) -> ProcessIdentity:
        """What `to_json` gave, perhaps of a later version: keys that we do not know are passed over.

        ValueError when a key is missing or of another type: then it cannot be known who it was.
        """
        if not isinstance(value, dict):
            raise ValueError("the process of a registration is not an object")
        pid, started, init = value.get("pid"), value.get("started"), value.get("init")
        texts = [value.get(key) for key in ("host", "machine", "boot", "namespace")]
        if type(pid) is not int or type(started) is not int or type(init) is not bool:
            raise ValueError("the process of a registration lacks its pid, its start, or whether it is PID 1")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the process of a registration lacks its host, machine, boot or namespace")
        hardware = value.get("hardware")
        pairs = hardware.items() if isinstance(hardware, dict) else ()
        host, machine, boot, namespace = map(str, texts)
        kept = {str(kind): hashed for kind, hashed in pairs if isinstance(hashed, str)}
        user = value.get("user")
        return cls(host, pid, started, machine, boot, namespace, init, kept, user if isinstance(user, str) else "")


def this_process() -> ProcessIdentity:
    """Who we are. Whatever cannot be read is left empty, and so proves nothing."""
    pid = os.getpid()
    started = started_of(pid)
    machine = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id")
    return ProcessIdentity(
        host=socket.gethostname(),
        pid=pid,
        started=0 if isinstance(started, Unseen) else started,
        machine=_hashed(machine) if len(machine) == 32 else "",  # "uninitialized" is not one
        boot=_read("/proc/sys/kernel/random/boot_id"),
        namespace=_namespace(),
        init=pid == 1,
        hardware=_hardware(),
        user=_user(),
    )


class Unseen(Enum):
    """What is known of a pid where no running process can be read under it."""

    GONE = "no process of this pid namespace has it, or only one that has ended"
    UNKNOWN = "a process has it, or may have it, and /proc does not show which"


def started_of(pid: int) -> int | Unseen:
    """When the process that has this pid now started, in clock ticks since boot.

    That /proc shows none does not mean that there is none: it may hide those of other users, and it cannot be read
    without a descriptor to spare. The kernel answers for certain: ESRCH from kill, which no mount option touches.
    """
    if proc_is_ours():  # else it shows strangers under our numbers
        try:
            process = read_process(pid)
        except OSError:
            pass
        else:
            return process.started if process.runs else Unseen.GONE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Unseen.GONE
    except OSError:
        pass
    return Unseen.UNKNOWN


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _user() -> str:
    permitted = re.search(r"^CapPrm:\s*(\w+)$", _read("/proc/self/status"), re.MULTILINE)
    try:
        namespace = os.readlink("/proc/self/ns/user")
    except OSError:
        return ""
    return "" if permitted is None else f"{os.geteuid()}:{os.getegid()} {permitted[1]} {namespace}"


def _hardware() -> dict[str, str]:
    found = {}
    uuid = _read("/sys/class/dmi/id/product_uuid").lower()
    if uuid and uuid not in _NOT_UNIQUE:
        found["dmi"] = _hashed(uuid)
    addresses = []
    for card in sorted(Path("/sys/class/net").glob("*")):
        if (card / "device").exists() and _read(card / "addr_assign_type") == _PERMANENT:
            address = _read(card / "address")
            if address and _read(card / "type") != _LOOPBACK_TYPE:
                addresses.append(address)
    if addresses:
        found["nics"] = _hashed(" ".join(sorted(addresses)))
    return found


def _hashed(text: str) -> str:
    return hmac.new(_KEY, text.encode(), hashlib.sha256).hexdigest()[:_HASH_DIGITS]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
