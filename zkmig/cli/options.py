"""Options that several of the commands which write take, each with one meaning and one help text."""

from __future__ import annotations

import click

from zkmig.apply.options import DRAIN_TIMEOUT_S
from zkmig.cli.run import Function

single_shot_option = click.option(
    "--single-shot",
    type=click.Choice(["auto", "never", "require"]),
    default="auto",
    show_default=True,
    help="Whether all goes into the one transaction that moves the epoch, atomic for every reader there is.",
)
drain_option = click.option(
    "--drain-timeout",
    "drain_timeout_s",
    type=click.FloatRange(min=0),
    default=DRAIN_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for readers' actions and guarded processes to end.",
)
evict_option = click.option(
    "--evict",
    multiple=True,
    metavar="NAME",
    help="Do not wait for this lease or guard, acting/NAME or guards/NAME, exactly as status and errors name it, or "
    "(by the word unreadable) for any that this session may not read. What it stands for may still be at work: end it "
    "first. An epoch keeps it on record. May be given several times.",
)
throttle_option = click.option(
    "--throttle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="WRITES",
    help="At most so many writes (creates, changes, deletes) a second, on an average: a batch goes out whole, and then "
    "its time is waited for; plan --batch-bytes makes batches smaller. Without it, as many as other clients can stand: "
    "their latency is measured all the while, and at most 5,000 go out in a second while others write. A single shot "
    "is one transaction all the same.",
)
wait_option = click.option(
    "--wait",
    is_flag=True,
    help="Wait for another migrator to end, and for a hold to be released, instead of exiting 3.",
)
wait_for_owner_option = click.option(
    "--wait", is_flag=True, help="Wait for another migrator to end instead of exiting 3."
)
wait_by_default_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait for another migrator to end."
)
steal_option = click.option("--steal", is_flag=True, help="Take over from another migrator without waiting for it.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Read and check everything, print it, write nothing.")
ignore_quotas_option = click.option(
    "--ignore-quotas",
    is_flag=True,
    help="Go on although hard quotas of the target would be passed: its servers do not enforce them.",
)


def writing_options(function: Function) -> Function:
    """Those of every command that begins an epoch: how to write it, and what to wait for."""
    for option in reversed(_WRITING):
        function = option(function)
    return function


_WRITING = (
    dry_run_option,
    single_shot_option,
    drain_option,
    evict_option,
    throttle_option,
    ignore_quotas_option,
    wait_option,
    steal_option,
)
