"""The outage of 2016, and the same night with the autoscaler behind `zkmig guard`.

    make example                              # with the guard: nothing happens, which is the point
    make example EXAMPLE_ARGS=--without-guard # as it was
    make example EXAMPLE_ARGS=--lost          # a registry that is whole, committed and wrong

The autoscaler is the demo's plain one, unchanged: kazoo, and no idea of epochs. The service manager is the demo's,
which starts again whatever has ended. Both are processes of their own, and the servers are real. See README.md.

Exit codes: 0 the autoscaler has done what the committed registry asks for, and nothing else; 1 it has not.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from examples.autoscaler_2016.night import Night, Settings

USUAL = Settings()


@click.command()
@click.option("--without-guard", is_flag=True, help="As it was in 2016.")
@click.option("--lost", is_flag=True, help="The new registry is whole and wrong: every second host is missing.")
@click.option("--servers", type=click.IntRange(min=100), default=USUAL.servers, show_default=True)
@click.option("--seconds", type=float, default=USUAL.write_s, show_default=True, help="That the batches take.")
@click.option("--json", "as_json", is_flag=True, help="Print what it came to as JSON.")
def main(without_guard: bool, lost: bool, servers: int, seconds: float, as_json: bool) -> None:
    """Replay it."""
    settings = Settings(guarded=not without_guard, lost=lost, servers=servers, write_s=seconds)
    outcome = Night(settings, lambda sentence: click.echo(sentence, err=as_json)).run()
    click.echo(json.dumps(asdict(outcome)) if as_json else outcome.conclusion)
    sys.exit(0 if outcome.is_well else 1)


if __name__ == "__main__":
    main()
