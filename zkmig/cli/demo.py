"""`zkmig demo`: the outage of 2016-08-11, replayed on real servers of this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from zkmig.cli.run import BAD_INPUT, STOPPED, Run, exit_codes

if TYPE_CHECKING:
    from zkmig.demo.results import Results

EXIT_NOT_SHOWN = 1


@click.command(
    epilog=exit_codes(
        {
            "0": "the plain autoscaler ordered terminations; the other saw no torn view and ordered none",
            "1": "the run did not show that: the last line says why",
            **BAD_INPUT,
            "6": "a server did not start",
            **STOPPED,
        }
    )
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON document on stdout.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after SECONDS; exit code 143.",
)
def demo(as_json: bool, timeout_s: float | None) -> int:
    """Replay an outage on real servers, in about a minute.

    On 2016-08-11 a site moved its ZooKeeper data while its autoscaler was switched off; a service manager switched it
    on again, it read half of a migration, and terminated most servers. Here two autoscalers, which decide alike, read
    a service registry while zkmig migrates it: one with plain kazoo, one with zkmig.Reader. Terminations are only
    counted. Two servers are started on loopback, and end with the command.
    """
    from zkmig.demo.replay import Replay, Settings

    run = Run(as_json, timeout_s, None)
    begun_s = time.monotonic()
    with run.signals():
        results = Replay(Settings(), lambda text: run.say(f"{time.monotonic() - begun_s:5.1f} s  {text}")).run()
    run.document(results.document())
    if not run.as_json:
        _print_table(results)
        run.line(results.conclusion())
    return 0 if results.is_as_promised else EXIT_NOT_SHOWN


def _print_table(results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What was counted")
    table.add_column("")
    table.add_column("plain kazoo", justify="right")
    table.add_column("zkmig.Reader", justify="right")
    rows = {
        "views of the registry": "views",
        "  wholly while a migration was open": "views_while_open",
        "  by processes started in that time": "views_started_midway",
        "torn views": "torn",
        "servers ordered to be terminated": "terminations_ordered",
        "actions refused": "actions_refused",
        "processes": "processes",
    }
    for title, name in rows.items():
        table.add_row(title, str(getattr(results.plain, name)), str(getattr(results.aware, name)))
    console = Console()
    console.print(table)
    console.print(
        f"{results.servers_running} servers, {results.znodes} znodes, {results.changes} changes; "
        f"{results.epochs_committed} epoch committed, {results.epochs_rolled_back} rolled back; "
        f"{results.batches} batches written, {results.batches_undone} undone; {results.seconds} s",
        highlight=False,
    )
