"""`zkmig new`: a migration script to begin with."""

from __future__ import annotations

import os

import click

from zkmig.cli.run import BAD_INPUT, Run, command_options, exit_codes
from zkmig.epoch.control import valid_scope_name
from zkmig.errors import BadInput
from zkmig.script.numbering import new_script, number_of


@click.command(epilog=exit_codes({"0": "written", **BAD_INPUT, "3": "refused: two scripts there have one number"}))
@click.argument("title")
@click.option(
    "--dir",
    "directory",
    default="migrations",
    show_default=True,
    metavar="DIR",
    help="Where the scripts are; made if need be.",
)
@click.option("--scope", metavar="NAME", help="The only scope that it is for. Without it, whichever it is planned for.")
@command_options
def new(run: Run, title: str, directory: str, scope: str | None) -> None:
    """Write a migration script for the number after those in DIR, as NNNN_title.py, and print its path.

    The number is the epoch that the script makes: correct both in the file if epochs were made by other means since, by
    a plan or a revert. Nothing is read from any server.
    """
    if scope is not None:
        valid_scope_name(scope)
    path, text = new_script(directory, title, scope)
    try:
        os.makedirs(directory, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:  # never over one that is there
            file.write(text)
    except FileExistsError:
        there = path if os.path.lexists(path) else directory
        raise BadInput("there is something of that name already", there, "choose another title or --dir") from None
    except OSError as error:
        raise BadInput(f"it cannot be written: {error.strerror}", path, "choose another --dir") from error
    run.document({"script": path, "epoch": number_of(path), "scope": scope})
    run.line(path)
