"""Others: whether anybody else writes to these servers while we do. Pure: it is told zxids and times.

Every transaction of an ensemble takes the next zxid, also one that fails. So the zxids that went by, less the
transactions that we sent, are those of others; no list of connections is needed, and no command that servers refuse.
Sessions that begin and end are transactions too; so one of our own that was lost counts as somebody else's when it
expires, and once more a few of ours may where a probe comes back on a member that lags: then a rate is kept to for
nothing, for some seconds.
"""

from __future__ import annotations

from typing import Final

YIELD_WRITES_PER_S: Final = 5_000
"""What we keep to while others write: a server stops for its collector of garbage once for so many creates, whatever
the size of the batches they come in (docs/performance.md)."""
YIELD_S: Final = 2.0  # after the last transaction of others that was seen; who writes more seldom has no tail
SLACK: Final = 16  # of ours that may be under way where a count begins in the midst of it: as deep as two pipelines


class Others:
    """Transactions of others, at least: what is under way of ours counts as ours before it has its zxid."""

    def __init__(self) -> None:
        self._counted = 0  # before the present beginning
        self._since = 0  # in the present one
        self._base: int | None = None  # zxid less ours
        self._seen_at: float | None = None

    @property
    def transactions(self) -> int:
        """Of others, as many as are sure."""
        return self._counted + self._since

    def begin(self, zxid: int, ours: int) -> None:
        """As `saw`, while nothing of ours is under way: counted exactly from here."""
        self._base = zxid - ours

    def saw(self, zxid: int, ours: int, now: float) -> None:
        """zxid: of an answer. ours: transactions that we have sent, at least all up to it. now: seconds."""
        if self._base is None:
            self._base = zxid - ours + SLACK
            return
        others = zxid - ours - self._base
        if others > self._since:
            self._since = others
            self._seen_at = now

    def lost(self) -> None:
        """The connection that told zxids is gone: another leader may begin another epoch, whose count is its own."""
        self._counted += self._since
        self._since, self._base = 0, None

    def unseen(self, now: float) -> None:
        """No zxids are told just now: whoever wrote until then is taken to go on, and somebody if none ever were."""
        if self.write(now) or self._base is None:
            self._seen_at = now

    def write(self, now: float) -> bool:
        """Whether somebody has written just now."""
        return self._seen_at is not None and now - self._seen_at < YIELD_S
