"""Scans HOSTS ROOT, and prints the process's memory in bytes as JSON: idle (connected, nothing read) and at its peak.

The kernel's own peak (VmHWM) belongs to this program alone. ru_maxrss does not: it begins with that of the parent.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.realistic import OWNER
from zkmig.model.scope import Scope
from zkmig.source.ensemble import scan
from zkmig.source.location import parse_hosts
from zkmig.wire.client import Client


def main(hosts: str, root: str) -> None:
    with Client(parse_hosts(hosts), auth=[OWNER]) as client:
        client.exists(root)
        idle = status_bytes("VmHWM")
        snapshot = scan(client, Scope(root))
        seen = {"idle": idle, "peak": status_bytes("VmHWM"), "znodes": len(snapshot)}
    sys.stdout.write(json.dumps(seen))


def status_bytes(field: str) -> int:
    """What the kernel says of this process under a name such as VmHWM."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"this system does not tell {field}")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
