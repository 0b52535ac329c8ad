"""The rows of a run as a table to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.pairs import Row

_HEADINGS = ("what", "znodes", "zkmig", "a znode", "against", "theirs", "of znodes", "ratio", "spread", "bar")
_LEFT = {"what", "against"}


def lines(rows: Sequence[Row]) -> Iterable[str]:
    """Headings, and a line a row, in columns."""
    cells = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (
            cell.ljust(width) if heading in _LEFT else cell.rjust(width)
            for heading, cell, width in zip(_HEADINGS, line, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    theirs, of, spread = "", "", ""
    if row.against:
        theirs, of = amount(row.theirs, row.unit), f"{row.theirs_znodes:,}"
    if row.low is not None and row.high is not None and row.rounds > 1:
        ends = sorted((row.low, row.high) if not _is_inverse(row.ratio) else (1 / row.low, 1 / row.high))
        spread = f"{ends[0]:.3g} to {ends[1]:.3g}"
    return (
        row.name,
        f"{row.znodes:,}",
        amount(row.ours, row.unit),
        amount(row.ours / row.znodes, row.unit),
        row.against,
        theirs,
        of,
        ratio(row.ratio),
        spread,
        bar(row),
    )


def amount(value: float, unit: str) -> str:
    """Seconds or bytes with a prefix that makes them short."""
    if unit == "B":
        return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value:,.0f} B"
    for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value / 1e-9:.3g} ns"


def ratio(value: float | None) -> str:
    """As a factor; below a half as its inverse, which is how one speaks of it."""
    if value is None:
        return ""
    return f"{1 / value:.1f} x faster" if _is_inverse(value) else f"{value:.2f} x"


def _is_inverse(ratio: float | None) -> bool:
    return ratio is not None and ratio < 0.5


def bar(row: Row) -> str:
    """The bar, and whether it is met."""
    if row.bar is None or row.ratio is None:
        return ""
    return f"{ratio(row.bar)}: {'met' if row.ratio <= row.bar else 'not met'}"
