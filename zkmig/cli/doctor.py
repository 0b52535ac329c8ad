"""`zkmig doctor`: what an ensemble is like, and what that means for a migration."""

from __future__ import annotations

import click

from zkmig.api import doctor as api
from zkmig.api.access import ensemble
from zkmig.cli.run import BAD_INPUT, STOPPED, UNREACHABLE, Run, command_options, control_option, exit_codes
from zkmig.doctor.finding import Finding, Severity

_SHOWN = (Severity.PROBLEM, Severity.WARNING, Severity.UNKNOWN, Severity.NOTE)


@click.command(epilog=exit_codes({"0": "whatever it finds", **BAD_INPUT, **UNREACHABLE, **STOPPED}))
@click.argument("location")
@click.option("--all", "show_all", is_flag=True, help="Show what is in order, too, not only its number.")
@click.option(
    "--reads-only",
    is_flag=True,
    help="Do not ask the leader by transactions that cannot succeed: ACL checks, TTL and container nodes are unknown.",
)
@control_option
@command_options
def doctor(run: Run, location: str, show_all: bool, reads_only: bool, control: str) -> None:
    """Look at the ensemble and the tree of LOCATION, and say what is found, what it means, and what to do.

    Versions and their known bugs, members and how far they are, frame limits and heaps, skipACL, TTL nodes, quotas,
    who may do what in the tree, the scope and its state, TLS, sessions, and what of zkmig is in use. A check that
    cannot be made is shown as unknown. --json has all of it, what is in order included.

    Nothing is written: no znode is created, changed or deleted. Sessions take a zxid each, as any session does, and
    three questions to the leader are transactions that cannot succeed; --reads-only leaves them out.
    """
    ensemble(location)
    with run.progress() as progress:
        found = api.diagnose(location, control=control, reads_only=reads_only, progress=progress.read, **run.session)
    counts = {severity.value: count for severity, count in found.counts.items()}
    run.document(
        {
            "location": found.location,
            "counts": counts,
            "findings": [finding.document() for finding in found.findings],
        }
    )
    for finding in found.findings:
        if show_all or finding.severity in _SHOWN:
            _show(run, finding)
    run.line("")
    told = ", ".join(severity.counted(count) for severity, count in found.counts.items())
    run.line(told + ("" if show_all else " (--all shows them)"))


def _show(run: Run, finding: Finding) -> None:
    where = f"{finding.where}: " if finding.where else ""
    run.line(f"{finding.severity.value:<8} {finding.code:<18} {where}{finding.what}")
    for label, text in (("means", finding.means), ("do", finding.todo)):
        if text:
            run.line(f"{'':<8} {label + ':':>18} {text}")
