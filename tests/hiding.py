"""Programs for which /proc hides what they may not see, and users who may not see each other.

What is started so is the program itself: it has the pid that was given to whoever started it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

import pytest

# Another user, who may not look into processes of root, nor signal them; only files are open to it, since those of a
# test lie in a folder of root.
OTHER_USER: Final = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
]

# The same user, who may signal what it may not look into: processes with more capabilities. Of another group, since
# that of root sees all (the option gid of /proc).
LESS_CAPABLE: Final = ["setpriv", "--regid=65534", "--clear-groups", "--bounding-set=-all,+kill,+dac_override"]


def hiding(hidepid: int, who: Sequence[str] = ()) -> list[str]:
    """What to put before a command: it gets a /proc mounted with hidepid, and is run by `who`."""
    script = f'mount -t proc -o hidepid={hidepid} proc /proc && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *who]


def may_hide() -> bool:
    """Whether this is allowed here, and does hide."""
    looks = ["sh", "-c", "! test -e /proc/$PPID && ! cat /proc/1/stat"]
    ran = [subprocess.run([*hiding(2, who), *looks], capture_output=True, check=False) for who in WHO]
    return all(one.returncode == 0 for one in ran)


WHO: Final = (OTHER_USER, LESS_CAPABLE)
needs_hiding = pytest.mark.skipif(
    not may_hide(), reason="`unshare --mount`, a mount of /proc or setpriv is not allowed"
)
