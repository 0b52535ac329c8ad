"""`python -m tests.fuzz`: every target in turn, for a time, from a new seed unless one is given."""

from __future__ import annotations

import secrets
import traceback
from pathlib import Path

import click

from tests.fuzz.loop import TARGETS, Crash, run_for


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="In all, shared among the targets.")
@click.option("--seed", type=int, help="Of the inputs; a random one, which is told, by default.")
@click.option("--target", "names", multiple=True, type=click.Choice(list(TARGETS)), help="Only these.")
@click.option("--crashes", default="build/fuzz", show_default=True, help="Folder for inputs that fail.")
@click.option("--replay", type=click.Path(exists=True, dir_okay=False), help="Check the input in this file once more.")
def main(seconds: float, seed: int | None, names: tuple[str, ...], crashes: str, replay: str | None) -> None:
    """Fuzz the decoders. Ends with 1 if a property did not hold, after the others have had their time."""
    folder = Path(crashes)
    if replay is not None:
        path = Path(replay)
        name = path.name.partition("-")[2].rpartition("-")[0].replace("-", " ")
        if name not in TARGETS:
            raise click.BadParameter("its name tells no target", param_hint="--replay")
        TARGETS[name].run(path.read_bytes())
        click.echo(f"{name}: passes")
        return
    seed = secrets.randbits(32) if seed is None else seed
    chosen = names or tuple(TARGETS)
    click.echo(f"seed {seed}")
    failed = False
    for name in chosen:
        try:
            count = run_for(name, seed, seconds / len(chosen), folder)
            click.echo(f"{name}: {count} inputs")
        except Crash as crash:
            failed = True
            traceback.print_exception(crash)
    raise SystemExit(failed)


main()
