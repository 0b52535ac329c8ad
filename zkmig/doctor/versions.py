"""Releases of ZooKeeper: how a server names its own, and which known bugs it has.

Where a bug was fixed was read from the project's tags (`git log release-X.Y.Z`), vulnerabilities from
https://zookeeper.apache.org/security. A distribution may have put a fix into an older release without changing its
number (Debian 12's 3.8.0 has those of CVE-2023-44981 and CVE-2024-23944), so a bug that only matters to security is
never more than a note here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from zkmig.doctor.finding import Severity

_APACHE = re.compile(r"Zookeeper version:\s*([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")
_ANY = re.compile(r".{0,40}[Vv]ersion:\s*(\S{1,60})")


class Version(NamedTuple):
    """Of a release. str(): as it is written."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


FLOOR: Final = Version(3, 6, 0)
"""No multiRead and no persistent watches before it, and a stale pzxid (ZOOKEEPER-3145) [zookeeper-facts 25]."""

MAINTAINED: Final = (3, 8)
"""The oldest line that its project still repairs: 3.7 ended on 2024-02-02."""


def version_in(text: str) -> Version | None:
    """The release that an answer to `srvr` names; None if it names none of Apache ZooKeeper's."""
    found = _APACHE.search(text)
    return None if found is None else Version(int(found[1]), int(found[2]), int(found[3]))


def foreign_name(text: str) -> str:
    """What a server that is no Apache ZooKeeper calls itself in that answer; "" where it says nothing."""
    first = text.strip().partition("\n")[0]
    return first[:80] if _ANY.match(first) and not first.startswith("Zookeeper version:") else ""


SOUND: Final = {(3, 8): Version(3, 8, 5), (3, 9): Version(3, 9, 4)}
"""Of each maintained line, the release from which on no bug of KNOWN_BUGS loses or mixes up what was committed.

What no release mends is no reason to go to one, and is not in that table: ZOOKEEPER-4882 (docs/doctor.md).
"""


@dataclass(frozen=True, slots=True)
class KnownBug:
    """ranges: (first release that has it, first that does not), disjoint and ascending. quorum_only: a standalone
    server cannot meet it. todo: what helps beside an upgrade; ""."""

    id: str
    ranges: tuple[tuple[Version, Version], ...]
    severity: Severity
    what: str
    means: str
    todo: str = ""
    quorum_only: bool = True

    def affects(self, version: Version) -> bool:
        """Whether that release has it."""
        return any(first <= version < fixed for first, fixed in self.ranges)

    def way_out(self, version: Version) -> str:
        """The releases to go to from `version`: of its own line, if it was fixed there, else all that came to have it.

        Never one that loses transactions: some of the fixes came with another bug, which was fixed later.
        """
        lines = {fixed[:2]: fixed for _, fixed in self.ranges if fixed > version and fixed[:2] in SOUND}
        fixes = [max(fixed, SOUND[line]) for line, fixed in lines.items()] or list(SOUND.values())
        own = [fixed for fixed in fixes if fixed[:2] == version[:2]]
        return " or ".join(map(str, own or fixes))


def _v(text: str) -> Version:
    return Version(*map(int, text.split(".")))


def _ranges(*pairs: str) -> tuple[tuple[Version, Version], ...]:
    return tuple((_v(first), _v(fixed)) for first, fixed in (pair.split("..") for pair in pairs))


_LOST = "what zkmig has read as committed may be gone after a member restarted, without a trace"

KNOWN_BUGS: Final = (
    KnownBug(
        "ZOOKEEPER-4785",
        _ranges("3.6.0..3.8.5", "3.9.0..3.9.2"),
        Severity.WARNING,
        "committed transactions can be lost when a follower joins and crashes (Learner.syncWithLeader, DIFF sync)",
        _LOST,
        "until then restart no member during a migration",
    ),
    KnownBug(
        "ZOOKEEPER-4925",
        _ranges("3.9.3..3.9.4"),
        Severity.WARNING,
        "committed transactions can be lost: a member that joined has a hole in its log and hands it on as leader",
        _LOST,
        "until then restart no member during a migration",
    ),
    KnownBug(
        "ZOOKEEPER-3911",
        _ranges("3.6.0..3.6.3"),
        Severity.WARNING,
        "followers acknowledge a new leader before what they were sent is on disk",
        _LOST,
    ),
    KnownBug(
        "ZOOKEEPER-3642",
        _ranges("3.6.0..3.6.3"),
        Severity.WARNING,
        "a follower can go on with half a snapshot after its leader has died",
        "members then show different trees",
    ),
    KnownBug(
        "ZOOKEEPER-4394",
        _ranges("3.6.0..3.9.3"),
        Severity.NOTE,
        "a follower that joins while others write can fail (NullPointerException) and has to join again",
        "a member may come back late from a restart; every 3.8 has it",
        "restart members while nothing is migrated",
    ),
    KnownBug(
        "ZOOKEEPER-4712",
        _ranges("3.6.0..3.9.3"),
        Severity.NOTE,
        "a follower that steps down may go on logging while it joins again; every 3.8 has it",
        "members may come to differ after quick changes of the leader",
        "compare members after a window with many elections: zkmig verify, one member each",
    ),
    KnownBug(
        "ZOOKEEPER-4846",
        _ranges("3.8.4..3.8.5", "3.9.2..3.9.4"),
        Severity.NOTE,
        "a server can fail to load its own data after a restart, for want of an ACL",
        "a restart in the window may cost a member",
        "take a snapshot of the tree first: zkmig snapshot",
        quorum_only=False,
    ),
    KnownBug(
        "ZOOKEEPER-4846",  # came with ZOOKEEPER-4799, the fix of CVE-2024-23944
        _ranges("3.6.0..3.8.4", "3.9.0..3.9.2"),
        Severity.NOTE,
        "only where a distribution has put in the fix of CVE-2024-23944, as Debian 12 has, a server can fail to load "
        "its own data after a restart, for want of an ACL",
        "a restart in the window may cost a member",
        "take a snapshot of the tree first: zkmig snapshot",
        quorum_only=False,
    ),
    KnownBug(
        "CVE-2024-23944",
        _ranges("3.6.0..3.8.4", "3.9.0..3.9.2"),
        Severity.NOTE,
        "a persistent watch tells names of znodes that its owner may not read",
        "names leak, data does not; where it is fixed, watches are silent about what one may not read",
        quorum_only=False,
    ),
    KnownBug(
        "CVE-2023-44981",
        _ranges("3.6.0..3.7.2", "3.8.0..3.8.3", "3.9.0..3.9.1"),
        Severity.NOTE,
        "with quorum.auth.enableSasl anybody with a login may join the quorum",
        "who reaches the quorum's ports may write the tree",
        "or keep the quorum's ports behind a firewall",
    ),
    KnownBug(
        "CVE-2024-51504",
        _ranges("3.9.0..3.9.3"),
        Severity.NOTE,
        "the admin server believes X-Forwarded-For when it checks addresses",
        "who reaches its port may take a snapshot of the tree, or put one in its place",
        "or switch it off: admin.enableServer=false",
        quorum_only=False,
    ),
    KnownBug(
        "CVE-2025-58457",
        _ranges("3.9.0..3.9.4"),
        Severity.NOTE,
        "the admin server lets users without ALL on / take and restore snapshots",
        "who may log in there may read or replace the tree",
        "or switch it off: admin.enableServer=false",
        quorum_only=False,
    ),
    KnownBug(
        "CVE-2026-24281",
        _ranges("3.8.0..3.8.6", "3.9.0..3.9.5"),
        Severity.NOTE,
        "the TLS host name check of a server falls back to reverse DNS",
        "who controls DNS and holds a trusted certificate may pass for a member",
    ),
)


def known_bugs(version: Version) -> Iterator[KnownBug]:
    """Those that a release has."""
    return (bug for bug in KNOWN_BUGS if bug.affects(version))
