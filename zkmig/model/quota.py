"""Quotas: limits on a subtree, kept by the server below /zookeeper/quota [zookeeper-facts 22].

The path of a quota is a subtree's; its text is the data of zookeeper_limits, kept as it is. Only the deepest quota on
the way to a node counts (DataTree.getMaxPrefixWithQuota), and hard limits bind only where enforceQuota is set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zkmig.model.path import SYSTEM_ROOT, join

QUOTA_ROOT = SYSTEM_ROOT + "/quota"
LIMITS = "zookeeper_limits"
STATS = "zookeeper_stats"

_PAIR = re.compile(r"(\w+)=(-?\d+)")
UNLIMITED = -1


def limits_path(path: str) -> str:
    """Where the limits of a subtree stand."""
    return join(QUOTA_ROOT, "" if path == "/" else path) + "/" + LIMITS


def stats_path(path: str) -> str:
    """Where the server counts what a subtree holds."""
    return join(QUOTA_ROOT, "" if path == "/" else path) + "/" + STATS


@dataclass(frozen=True, slots=True)
class Quota:
    """path: the top of the subtree. text: its limits as the server keeps them (StatsTrack)."""

    path: str
    text: str

    @property
    def count_soft(self) -> int:
        """Most nodes, the top included; -1: no limit. Passing it is only logged by the server."""
        return fields(self.text).get("count", UNLIMITED)

    @property
    def bytes_soft(self) -> int:
        """Most bytes of data; -1: no limit."""
        return fields(self.text).get("bytes", UNLIMITED)

    @property
    def count_hard(self) -> int:
        """Most nodes that the server admits; -1: no limit."""
        return fields(self.text).get("countHardLimit", UNLIMITED)

    @property
    def bytes_hard(self) -> int:
        """Most bytes of data that the server admits; -1: no limit."""
        return fields(self.text).get("byteHardLimit", UNLIMITED)


def fields(text: str) -> dict[str, int]:
    """The numbers of a StatsTrack: count and bytes, and from 3.7 on the hard limits."""
    return {name: int(value) for name, value in _PAIR.findall(text)}
