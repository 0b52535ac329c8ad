"""`zkmig guard`: run a command that knows nothing of epochs only while its scope is STABLE."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from zkmig.api.access import Access, address, ensemble, open_scope
from zkmig.cli.durations import as_seconds_or_none_at_all
from zkmig.cli.run import control_option, exit_codes, log_to_stderr, required_at
from zkmig.cli.sessions import session_options, take_session
from zkmig.cli.terminal import escape
from zkmig.epoch.control import ControlPaths, valid_scope_name
from zkmig.errors import BadInput, Refused, UnknownFormat, ZkmigError
from zkmig.guard import guard as guards
from zkmig.guard.command import look_for
from zkmig.guard.events import AfterCommit, Settings
from zkmig.model.acl import Identity
from zkmig.model.path import validate
from zkmig.reader.budget import Budget, checked
from zkmig.reader.kazoo_client import client_of
from zkmig.source.location import EnsembleLocation

GRACE = "10s"
ATTEMPT_S = 1.0  # of those that only find out what to say
UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,199}")
_COMMAND = "zkmig.guard.command"  # in click's context: what stands behind --
_EXEC = AfterCommit.HOOK.value


class GuardCommand(click.Command):
    """Takes what stands behind -- as it is, and `--after-commit exec HOOK` as two words or one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Only what stands before -- is ours."""
        end = args.index("--") if "--" in args else len(args)
        own, ctx.meta[_COMMAND] = args[:end], args[end + 1 :]
        for at, word in enumerate(own[:-1]):
            if (own[at - 1 : at], word) == (["--after-commit"], _EXEC) or word == f"--after-commit={_EXEC}":
                own[at : at + 2] = [f"{word} {own[at + 1]}"]
                break
        try:
            return super().parse_args(ctx, own)
        except click.UsageError as error:
            # An option that is not ours is likely CMD's.
            if "--" in args or not (isinstance(error, click.NoSuchOption) or "extra argument" in error.message):
                raise
            hint = "write the command and its options behind --, as in: zkmig guard --scope S -- CMD"
            raise click.UsageError(f"{error.message.rstrip('.')}: {hint}", ctx) from error

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """With the command."""
        return [*super().collect_usage_pieces(ctx), "--", "CMD [ARGUMENTS]"]


@click.command(
    cls=GuardCommand,
    epilog=exit_codes(
        {
            "CMD's": "CMD has ended by itself, or by a signal that the guard was sent: its code, or 128 + signal",
            "2": "usage or bad input",
            "3": "another guard of this name lives on this machine; with --no-wait: there is no such scope",
            "70": "internal error, or the keeper of the processes was killed; what ran was ended",
            "75": "with --no-wait: the scope does not admit CMD, or the servers do not answer",
            "126/127": "CMD cannot be run / is not there",
            "128+n": "signal n ended the guard while CMD did not run",
        }
    ),
)
@click.option("--at", envvar="ZKMIG_AT", metavar="zk://HOSTS", help="The ensemble. ZKMIG_AT.")
@click.option("--scope", envvar="ZKMIG_SCOPE", metavar="NAME", help="The scope; it need not be there yet. ZKMIG_SCOPE.")
@control_option
@click.option(
    "--name",
    "unit",
    metavar="NAME",
    help="Name of the registration, and what --evict takes: one guard in the ensemble at a time. "
    "Default: host name and CMD's, as in web1.autoscaler.",
)
@click.option(
    "--grace",
    "grace_s",
    callback=as_seconds_or_none_at_all,
    metavar="DURATION",
    default=GRACE,
    show_default=True,
    help="Between TERM and KILL, when CMD and all that it has started is ended: 10s, 2m, or seconds. "
    "A drain waits as long.",
)
@click.option(
    "--after-commit",
    metavar="restart|stay-down|exec HOOK",
    default=AfterCommit.RESTART.value,
    show_default=True,
    help="Once another epoch was committed: start CMD again; keep it down until the guard is sent SIGUSR1; or run the "
    "program HOOK, which has ZKMIG_SCOPE, ZKMIG_EPOCH and ZKMIG_EPOCH_BEFORE in its environment, and start CMD if "
    "that exits with 0, else keep it down.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="PATTERN=LIMIT",
    help="How far the tree may differ from the one on which CMD ran last, once another epoch was committed, as in "
    "/app/hosts/*=10% or =50 or =10%,50. Beyond it CMD stays down until the guard is sent SIGUSR1, which is recorded. "
    "May be given several times.",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Exit instead of waiting for the scope to admit CMD: with 75, or with 3 if there is no such scope.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Take the registration that is found at the start although it says that CMD runs on another machine. Only if "
    "you know that it does not. One that comes later is not taken, nor one whose guard is known to live.",
)
@click.option("--status-file", metavar="FILE", type=click.Path(path_type=Path), help="Keep phase, since and why here.")
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where names are held on this machine, the same for all guards of a name. "
    "Default: RUNTIME_DIRECTORY, /run/zkmig for root, else one of the user's own.",
)
@click.option("--quiet", "-q", is_flag=True, help="No lines on stdout, which CMD writes to as well.")
@session_options
@click.option("-v", "--verbose", count=True, help="Log what happens on stderr; twice for more.")
@click.pass_context
def guard(
    ctx: click.Context,
    /,
    at: str | None,
    scope: str | None,
    control: str,
    unit: str | None,
    grace_s: float,
    after_commit: str,
    budgets: tuple[str, ...],
    no_wait: bool,
    take_over: bool,
    status_file: Path | None,
    state_dir: Path | None,
    quiet: bool,
    verbose: int,
    **session: Any,
) -> int:
    """Run CMD, which knows nothing of epochs, only while its scope is STABLE and not held.

    When a migration begins, or somebody holds the scope, CMD and everything that it has started is ended, and only then
    the migration writes. The guard stays, says why and since when, and starts CMD again when it may run. Signals go to
    CMD. CMD goes on while the ZooKeeper servers are away.
    """
    log_to_stderr(verbose)
    if not verbose:
        logging.getLogger("kazoo").setLevel(logging.CRITICAL)  # the guard itself says what becomes of the servers
    options = {"at": at, **session}
    access = Access.of(**take_session(options))
    place = ensemble(required_at(options["at"]))
    if scope is None:
        raise BadInput("no scope is given", "", "say --scope NAME, or set ZKMIG_SCOPE")
    argv = ctx.meta[_COMMAND]
    if not argv:
        raise click.UsageError("no command: write it behind --, as in: zkmig guard --scope S -- CMD", ctx)
    policy, hook = _after_commit(after_commit)
    # Before anything is registered: a mistyped name is told at once, also where CMD would have to wait.
    if (missing := look_for(argv[0], os.environ)) is not None:
        click.echo(f"zkmig: the command cannot be started: {escape(missing.text)}", err=True)
        return missing.exit_code
    session_timeout_s = access.session_timeout_ms / 1000
    left = guards.run(
        guards.Options(
            names=ControlPaths(valid_scope_name(scope), validate(control)),
            unit=_unit(unit, argv),
            argv=argv,
            client=client_of(address(place), access.auth, access.tls_for(place), session_timeout_s),
            who=_asker(access, place),
            session_timeout_s=session_timeout_s,
            grace_s=grace_s,
            settings=Settings(policy, not no_wait, take_over, _ends_on()),
            hook=hook,
            folder=state_dir,
            status_file=status_file,
            out=None if quiet else 1,
            budgets=checked(Budget.parse(budget) for budget in budgets),
            unreached=_unreached(access, place),
            missing=_missing(access, place, scope, control),
        ),
        os.environ,
    )
    if left.error:
        click.echo(f"zkmig: {escape(left.error)}", err=True)
    return left.code


def _ends_on() -> frozenset[int]:
    """HUP ends who has a terminal that can go away; elsewhere it asks services to read their configuration again."""
    ending = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
    return frozenset(ending | {signal.SIGHUP} if sys.stdin is not None and sys.stdin.isatty() else ending)


def _after_commit(text: str) -> tuple[AfterCommit, str]:
    word, _, hook = text.strip().partition(" ")
    hook = hook.strip()
    if word in {policy.value for policy in AfterCommit} and (word == _EXEC) == bool(hook):
        return AfterCommit(word), hook
    raise BadInput("not something to do after a commit", text, "say restart, stay-down, or exec HOOK")


def _unit(given: str | None, argv: Sequence[str]) -> str:
    if given is None:
        name = f"{platform.node() or 'host'}.{Path(argv[0]).name}"
        given = re.sub(r"[^A-Za-z0-9._@:+-]", "-", name)[:200]
    if not UNIT.fullmatch(given):
        raise BadInput("not a name for a guard", given, "use up to 200 letters, digits and . _ @ : + -, with --name")
    return given


def _asker(access: Access, place: EnsembleLocation) -> Callable[[], Sequence[Identity]]:
    """Who this guard is, as the servers say; its credentials alone, if they do not."""

    def ask() -> Sequence[Identity]:
        try:
            with access.client(place) as client:
                return client.identities
        except ZkmigError:
            return [one.identity for one in access.auth if one.identity is not None]

    return ask


def _unreached(access: Access, place: EnsembleLocation) -> Callable[[], str]:
    """Why no server can be reached, as other commands would say it."""
    brief = dataclasses.replace(access, connect_timeout_s=ATTEMPT_S)

    def ask() -> str:
        try:
            with brief.client(place):
                return ""
        except ZkmigError as error:
            return error.what

    return ask


def _missing(access: Access, place: EnsembleLocation, scope: str, control: str) -> Callable[[], str]:
    """That there is no such scope, as `zkmig epoch` says it; "" where it cannot be told."""
    brief = dataclasses.replace(access, connect_timeout_s=ATTEMPT_S)

    def ask() -> str:
        try:
            with open_scope(brief, address(place), scope, control):
                return ""
        except UnknownFormat:
            return ""  # what the registry holds is no word on this scope
        except Refused as error:
            return str(error)
        except ZkmigError:
            return ""

    return ask
