"""`zkmig watch`: follow a committed epoch, and name what is put back to its old value."""

from __future__ import annotations

import dataclasses
import json
import time
from contextlib import closing

import click

from zkmig.api import watching
from zkmig.apply.watching import INTERVAL_S, Sighting
from zkmig.cli.durations import as_seconds
from zkmig.cli.run import BAD_INPUT, Run, command_options, exit_codes, required_at, scope_options
from zkmig.cli.terminal import escape
from zkmig.counted import counted
from zkmig.errors import EXIT_CONFLICT, EXIT_DONE, ZkmigError

_SUMS = ("heartbeat", "ended")
_COUNTS = ("paths", "put_back", "times", "now", "changed")


@click.command(
    epilog=exit_codes(
        {
            "0": "nothing was put back (what others changed to new values is named, and no reason for 4)",
            **BAD_INPUT,
            "3": "no epoch was committed yet, N is not the last one, its undo is not kept, or --once while an epoch "
            "is OPEN; the scope was removed",
            "4": "something was put back to its old value, however the watching ended",
            "6": "unreachable, not permitted, or no look at the end (not connected, an epoch OPEN, or a record that "
            "moved during each), so that what happened last is not known",
            "130/143": "stopped by SIGINT / by SIGTERM or --timeout, and nothing was put back until then",
        }
    )
)
@click.option(
    "--epoch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stay with epoch N, and end when the next is committed. Default: the last committed one, then the next.",
)
@click.option("--once", is_flag=True, help="Look once at all paths, and end.")
@click.option(
    "--for",
    "for_s",
    callback=as_seconds,
    metavar="DURATION",
    help="End after that, with a last look: 90m, 2h, 1d12h, or seconds.",
)
@click.option("--exit-on-first", is_flag=True, help="End as soon as something was put back.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=INTERVAL_S,
    show_default=True,
    help="Between two looks at all paths. In between a watch tells, where the servers have it (3.6); not of ACLs.",
)
@scope_options()
@command_options
def watch(
    run: Run,
    at: str | None,
    scope: str | None,
    control: str,
    epoch: int | None,
    once: bool,
    for_s: float | None,
    exit_on_first: bool,
    interval_s: float,
) -> int:
    """Name each path of a committed epoch that somebody puts back to its old value, how often, and since when.

    Old values are those of the kept undo. The data of before, the ACL of before, a created node deleted, a deleted one
    created again as it was: these are put back. Other values that others write are named as changed. Data is shown as
    hashes only. Nothing is written to the servers. --json prints one object a line, at once, with a heartbeat after
    each look at all paths.
    """
    shown = _Shown(run)
    seen = watching.watch(
        required_at(at),
        scope,
        epoch=epoch,
        once=once,
        for_s=for_s,
        interval_s=interval_s,
        control=control,
        **run.session,
    )
    try:
        with run.gracefully(), closing(seen):
            for one in seen:
                if not shown.show(one) or (exit_on_first and one.event == "put_back"):
                    break
    except ZkmigError as error:
        shown.sum_up()
        if not shown.paths:
            raise
        run.say(f"zkmig: {error}")
    else:
        shown.sum_up()
    return EXIT_CONFLICT if shown.paths else EXIT_DONE


class _Shown:
    """What was shown so far. paths: that were put back, of whatever epoch."""

    def __init__(self, run: Run) -> None:
        self.paths: set[str] = set()
        self._counts: dict[int, dict[str, int]] = {}  # of each epoch, as last told
        self._looked: set[int] = set()  # epochs of which all paths were looked at
        self._run = run
        self._epoch: int | None = None
        self._is_ended = False
        self._begun = time.monotonic()

    def show(self, one: Sighting) -> bool:
        """One line, or none. False: nobody reads any more."""
        self._epoch, self._is_ended = one.epoch, one.event == "ended"
        if one.event == "heartbeat":
            self._looked.add(one.epoch)
        if one.event == "put_back":
            self.paths.add(one.path or "")
        if one.put_back is not None:
            self._counts[one.epoch] = {name: getattr(one, name) for name in _COUNTS}
        if self._run.as_json:
            fields = {name: value for name, value in dataclasses.asdict(one).items() if value not in (None, "")}
            return self._run.stream(json.dumps(fields))
        if one.event in _SUMS:
            return True
        text = _words(one)
        if one.event in ("put_back", "changed"):
            return self._run.stream(escape(text))
        self._run.say(text)
        return True

    def sum_up(self) -> None:
        """The last line, however it ended; and one for each epoch that was followed before. None for one at whose
        paths nobody has looked."""
        if self._epoch is None:
            return
        if self._run.as_json:
            if not self._is_ended:
                counts = self._counts[self._epoch]
                self._run.stream(json.dumps({"event": "ended", "at": time.time(), "epoch": self._epoch, **counts}))
            return
        seconds = time.monotonic() - self._begun
        for epoch, counts in self._counts.items():
            if epoch not in self._looked and not (counts["put_back"] or counts["changed"]):
                continue  # "0 paths put back" would be a false all-clear
            changed = f", {counts['changed']} changed by others" if counts["changed"] else ""
            time_taken = f", in {seconds:.0f} s" if epoch == self._epoch else ""
            put_back = f"{counted(counts['put_back'], 'path')} put back, {counted(counts['times'], 'time')}"
            self._run.stream(f"epoch {epoch}: {put_back}{changed}{time_taken}")


def _words(one: Sighting) -> str:
    match one.event:
        case "following":
            return f"watching {counted(one.paths or 0, 'path')} of epoch {one.epoch}"
        case "put_back":
            since = "" if one.count == 1 else f", {one.count} times since {_when(one.first_seen)}"
            return f"{_when(one.at)}  put back  {one.path}: {one.text}{since}{_hash(one)}"
        case "changed":
            return f"{_when(one.at)}  changed   {one.path}: {one.text}{_hash(one)}"
        case "lost":
            return f"{_when(one.at)}  connection lost: {one.text}; nothing is seen until it is back"
        case _:
            return f"{_when(one.at)}  {one.event}{f': {one.text}' if one.text else ''}"


def _hash(one: Sighting) -> str:
    return f" (holds {one.data_hash})" if one.data_hash is not None else ""


def _when(unix_s: float | None) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_s))
