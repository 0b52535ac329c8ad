"""Lengths of time as operators write them: 90m, 2h, 1d12h, 45s, or a number of seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import click

_SECONDS: Final[Mapping[str, int]] = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# Digits by name: \d would take those of every script, and not all who read a command would see the same number.
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_CHARS_MAX: Final = 20


def duration_s(text: str) -> float | None:
    """Seconds, which may be none at all, as in 0 or 0m; None for what is no length of time."""
    text = text.strip().lower()
    if not text or len(text) > _CHARS_MAX:
        return None
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    return float(sum(int(part) * unit for part, unit in zip(match.groups("0"), _SECONDS.values(), strict=True)))


def as_seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes a length of time, of which none at all means nothing; fails as usage does."""
    if value is None:
        return None
    seconds = as_seconds_or_none_at_all(ctx, param, value)
    if not seconds:
        raise click.BadParameter(
            f"{value!r} is no time at all: give more than that, or leave the option out", ctx, param
        )
    return seconds


def as_seconds_or_none_at_all(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """The same, for an option of which 0 means at once."""
    seconds = duration_s(value)
    if seconds is None:
        what = f"{value!r} is not a duration: write it like 90m, 2h, 1d12h, or as seconds"
        raise click.BadParameter(what, ctx, param)
    return seconds
