"""Lengths of time as operators write them: 90m, 2h, 1d12h, 45s, or a number of seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

import click

_SECONDS: Final[Mapping[str, int]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_CHARS_MAX: Final = 20


def duration_s(text: str) -> float | None:
    """Seconds; None for what is no length of time, or none at all."""
    text = text.strip().lower()
    if len(text) > _CHARS_MAX:
        return None
    if _NUMBER.fullmatch(text):
        return float(text) or None
    match = _DURATION.fullmatch(text)
    parts = match.groups() if match is not None else ()
    return sum(int(part) * unit for part, unit in zip(parts, _SECONDS.values(), strict=False) if part) or None


def as_seconds_or_none_at_all(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """The same, for an option of which 0 means at once; a number may be written as any."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = duration_s(value) or -1.0
    if not 0 <= seconds < math.inf:
        raise click.BadParameter(f"{value!r} is not a duration: write it like 90s, 5m, or as seconds", ctx, param)
    return seconds


def as_seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes a length of time; fails as usage does."""
    if value is None:
        return None
    seconds = duration_s(value)
    if seconds is None:
        what = f"{value!r} is not a duration: write it like 90m, 2h, 1d12h, or as seconds"
        raise click.BadParameter(what, ctx, param)
    return seconds
