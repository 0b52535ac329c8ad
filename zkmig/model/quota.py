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

_NUMBER = re.compile(r"([+-]?)0*(\d{1,19})")
_LONG_MAX = (1 << 63) - 1
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
        return self._limit("count")

    @property
    def bytes_soft(self) -> int:
        """Most bytes of data; -1: no limit."""
        return self._limit("bytes")

    @property
    def count_hard(self) -> int:
        """Most nodes that the server admits; -1: no limit."""
        return self._limit("countHardLimit")

    @property
    def bytes_hard(self) -> int:
        """Most bytes of data that the server admits; -1: no limit."""
        return self._limit("byteHardLimit")

    @property
    def is_readable(self) -> bool:
        """Whether a server can make sense of it. Where not, it has no limits; one that enforces quotas refuses each
        create and write below, with MarshallingError (3.8 [seen])."""
        return _parsed(self.text) is not None

    def _limit(self, name: str) -> int:
        return max(fields(self.text).get(name, UNLIMITED), UNLIMITED)  # all below zero is no limit


def fields(text: str) -> dict[str, int]:
    """The numbers of a StatsTrack: count and bytes, and from 3.7 on the hard limits. None of a text that no server can
    read, which anybody who may write there can put there."""
    return _parsed(text) or {}


def _parsed(text: str) -> dict[str, int] | None:
    """As servers do from 3.7 on (StatsTrack): all pairs or nothing, the last of a name counts, blanks are no digits."""
    found: dict[str, int] = {}
    pairs = re.split("[,;]+", text)
    while pairs and not pairs[-1]:
        pairs.pop()
    for pair in pairs:
        name, *values = pair.split("=")
        number = _NUMBER.fullmatch(values[0]) if values else None
        if number is None:
            return None
        value = int(number[1] + number[2])
        if not -_LONG_MAX - 1 <= value <= _LONG_MAX:
            return None
        found[name] = value
    return found
