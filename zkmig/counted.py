"""Counts in words: one is told in the singular, in every line that people read."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """As in "1 batch", "2 batches". many: "" for one that takes a plain s or es."""
    return f"{count} {one if count == 1 else many or one + ('es' if one.endswith('ch') else 's')}"
