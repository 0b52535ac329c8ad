"""Deaths of migrators: `python -m tests.torture.deaths [--jobs N] [--kills N] [--only PART] [--json FILE]`.

Crash points by enumeration, SIGKILLs over a whole run, and the negative controls, each on servers of its own. Nothing
is drawn by chance, so that a violation's own line is all that it takes to see it again. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.torture import controls, crashpoints, sigkills
from zkmig.dev import Server

SHARDS = 8  # of the crash points: a server's memory holds one with ease
KILLS = 200
HEAP_MB = 1_500
PARTS = ("crashpoints", "kills", "controls")


def crash_shard(number: int, count: int) -> dict[str, Any]:
    """One share of the crash points."""
    with Server(extended_types=True, heap_mb=HEAP_MB) as server:
        return crashpoints.run(0, server, (number, count))


def kill_all(kills: int) -> dict[str, Any]:
    """All kills."""
    with Server(extended_types=True, heap_mb=HEAP_MB) as server:
        return sigkills.run(0, server, kills)


def control_all() -> list[dict[str, Any]]:
    """All negative controls, as plain rows."""
    with Server(extended_types=True) as server:
        return [row._asdict() for row in controls.run(0, server)]


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of several shares as those of one: numbers are added, lists joined; what all of them measure is kept."""
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name in ("lengths", "askers", "writes_in_log") or name not in whole:
                whole[name] = value
            elif isinstance(value, Mapping):
                whole[name] = dict(Counter(whole[name]) + Counter(value))
            else:
                whole[name] = whole[name] + value
    return whole


def run_all(jobs: int, kills: int, only: str, shards: int = SHARDS) -> dict[str, Any]:
    """Figures of all parts, or of the one named, by its name."""
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(jobs) as pool:
        killing: Future[dict[str, Any]] | None = None
        if only in ("", "kills"):
            killing = pool.submit(kill_all, kills)
        points = [pool.submit(crash_shard, n, shards) for n in range(shards) if only in ("", "crashpoints")]
        table = pool.submit(control_all) if only in ("", "controls") else None
        _tell_progress({"kills": killing, **{f"crash points {n}": each for n, each in enumerate(points)}})
        if points:
            found["crashpoints"] = merged([each.result() for each in points])
        if table is not None:
            found["controls"] = table.result()
        if killing is not None:
            found["kills"] = killing.result()
    return found


def _tell_progress(parts: Mapping[str, Future[dict[str, Any]] | None]) -> None:
    """A line on stderr for each part that is over: all of it takes an hour, and what was found is known before."""
    began = time.monotonic()

    def tell(name: str, part: Future[dict[str, Any]]) -> None:
        wrong = "failed" if part.exception() is not None else f"{len(part.result().get('violations', ()))} violations"
        sys.stderr.write(f"{name}: {wrong}, after {time.monotonic() - began:.0f} s\n")

    for name, part in parts.items():
        if part is not None:
            part.add_done_callback(partial(tell, name))


def violations(found: Mapping[str, Any]) -> list[str]:
    """All that is wrong."""
    wrong = [each for part in ("crashpoints", "kills") for each in found.get(part, {}).get("violations", ())]
    if points := found.get("crashpoints"):
        figures = crashpoints.Figures(visits=Counter(points["visits"]), unreached=Counter(points["unreached"]))
        wrong += filter(None, [figures.too_many_unreached()])
    return wrong + [f"{row['mechanism']} off: not caught" for row in found.get("controls", ()) if not row["after"]]


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures, for people."""
    for part in ("crashpoints", "kills"):
        if part in found:
            yield part
            for name, value in found[part].items():
                if isinstance(value, Mapping):
                    yield f"  {name}: {sum(value.values())}"
                    yield from (f"  {number:>9}  {what}" for what, number in sorted(value.items()))
                elif name != "violations":
                    yield f"  {name}: {value}"
    for row in found.get("controls", ()):
        yield str(controls.Row(**row))


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.deaths")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--only", choices=PARTS, default="")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    began = time.monotonic()
    found = run_all(options.jobs, options.kills, options.only)
    wrong = violations(found)
    lines = [*told(found), "", *(f"VIOLATION {each}" for each in wrong)]
    lines.append(f"{len(wrong)} violations, {time.monotonic() - began:.0f} s")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
