"""A picture of what was measured: cost per znode against the size of the tree, zkmig beside its floor and kazoo.

`make bench-picture` draws it from the JSON files in results/, of whatever runs left them there.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
SIZES = ("full", "huge")
PICTURE = RESULTS / "cost-per-znode.svg"

SHOWN = {
    "first scan, with ACLs": "First scan, with ACLs",
    "rescan, ACLs known": "Rescan, ACLs known",
    "apply, its batches": "Creates in batches of an epoch",
    "copy, snapshot to commit": "Copy: snapshot to verified commit",
}
OURS = "zkmig"
STYLES = {OURS: "o-", "raw floor": "s--", "raw floors": "s--"}

Points = dict[int, float]
"""Microseconds a znode, by number of znodes."""


@dataclass
class Panel:
    """What one benchmark measured: the points of each of those compared."""

    lines: dict[str, Points] = field(default_factory=lambda: defaultdict(dict))


def panels(rows: list[dict[str, Any]]) -> dict[str, Panel]:
    """The rows that are shown, by benchmark."""
    found: dict[str, Panel] = {}
    for row in rows:
        if row["name"] not in SHOWN or "against" not in row:
            continue
        panel = found.setdefault(row["name"], Panel())
        znodes = row["znodes"]
        panel.lines[OURS][znodes] = row["ours"] / znodes * 1e6
        panel.lines[row["against"]][znodes] = row["theirs"] / row["theirs_znodes"] * 1e6
    return found


def read_rows() -> list[dict[str, Any]]:
    """All rows of the runs at full sizes."""
    return [
        row
        for size in SIZES
        for path in sorted(RESULTS.glob(f"{size}-*.json"))
        for row in json.loads(path.read_text())["rows"]
    ]


def draw(found: dict[str, Panel]) -> Figure:
    """One plot for each benchmark, all over the same scales."""
    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 4), sharey=True, squeeze=False)
    for plot, name in zip(axes[0], filter(found.__contains__, SHOWN), strict=True):
        _draw_panel(plot, SHOWN[name], found[name])
    axes[0][0].set_ylabel("microseconds a znode")
    figure.tight_layout()
    return figure


def _draw_panel(plot: Axes, title: str, panel: Panel) -> None:
    for name, points in panel.lines.items():
        ordered = sorted(points.items())
        plot.plot([size for size, _ in ordered], [cost for _, cost in ordered], STYLES.get(name, "^:"), label=name)
    plot.set_xscale("log")
    plot.set_yscale("log")
    plot.set_title(title, fontsize="medium")
    plot.set_xlabel("znodes")
    plot.grid(visible=True, which="major", alpha=0.4)
    plot.legend(fontsize="small")


def main() -> None:
    """Draw the picture."""
    found = panels(read_rows())
    if not found:
        raise SystemExit("nothing was measured at full sizes yet: make bench")
    draw(found).savefig(PICTURE, metadata={"Date": None})
    sys.stdout.write(f"{PICTURE}\n")


if __name__ == "__main__":
    main()
