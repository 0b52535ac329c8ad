"""The program `zkmig`. Each command's module is loaded when that command runs, so that `zkmig epoch` starts at once."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

import zkmig
from zkmig.cli.failures import exit_code_of
from zkmig.cli.run import log_to_stderr
from zkmig.cli.terminal import prepare_streams


class _Lazy(NamedTuple):
    module: str
    attribute: str
    summary: str


_SECTIONS: dict[str, dict[str, _Lazy]] = {
    "Look": {
        "snapshot": _Lazy("compare", "snapshot", "Save a tree into a snapshot file."),
        "diff": _Lazy("compare", "diff", "Name every difference between two trees."),
        "verify": _Lazy("compare", "verify", "Tell whether two trees are the same."),
        "check": _Lazy("check", "check", "Judge a tree, or what a plan leads to, by the rules of a policy."),
        "status": _Lazy("status", "status", "What a scope is doing, and what can follow."),
        "history": _Lazy("keeping", "history", "Every attempt at an epoch, and what became of it."),
        "watch": _Lazy("watch", "watch", "Name what others put back to old values after a commit."),
        "doctor": _Lazy("doctor", "doctor", "What an ensemble is like, and what that means for a migration."),
        "epoch": _Lazy("scope", "epoch", "Print the committed epoch of a scope."),
    },
    "Migrate": {
        "init": _Lazy("scope", "init", "Create a scope over a tree."),
        "new": _Lazy("new", "new", "Write a migration script to begin with."),
        "plan": _Lazy("plan", "plan", "Plan how one tree becomes equal to another, or what a script makes."),
        "show": _Lazy("show", "show", "Show what a plan would do, as text or as a page."),
        "rehearse": _Lazy("rehearse", "rehearse", "Try a plan on a throw-away server."),
        "apply": _Lazy("migrate", "apply", "Carry out a plan, or scripts, as the next epoch."),
        "resume": _Lazy("migrate", "resume", "Go on from where a migration stopped."),
        "rollback": _Lazy("migrate", "rollback", "Take back an epoch that is not committed."),
        "revert": _Lazy("revert", "revert", "Take back the last committed epoch."),
    },
    "Keep": {
        "guard": _Lazy("guard", "guard", "Run a command only while its scope is STABLE."),
        "hold": _Lazy("holding", "hold", "Hold a scope for maintenance: nothing acts, nothing begins."),
        "release": _Lazy("holding", "release", "Release the hold of a scope."),
        "prune": _Lazy("keeping", "prune", "Take away journals that nobody needs any more."),
        "remove": _Lazy("keeping", "remove", "Remove a scope, not its tree."),
    },
    "Try": {
        "dev": _Lazy("dev", "dev", "Run real ZooKeeper servers on loopback."),
        "demo": _Lazy("demo", "demo", "Replay an outage on real servers."),
    },
}
_COMMANDS = {name: lazy for section in _SECTIONS.values() for name, lazy in section.items()}


class LazyGroup(click.Group):
    """Knows its commands by name and summary; a command's module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        lazy = _COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        found = getattr(import_module(f"zkmig.cli.{lazy.module}"), lazy.attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, lazy.summary) for name, lazy in commands.items()])


def _show_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    click.echo(f"zkmig {zkmig.__version__}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\n"
    "Exit codes:\n"
    "  0    done, or the same\n"
    "  1    different (diff, verify), or a rule violated (check)\n"
    "  2    usage or bad input\n"
    "  3    refused: stale plan, wrong epoch, held, not the owner, other incarnation\n"
    "  4    conflict with a foreign writer\n"
    "  5    outcome unknown: run zkmig status\n"
    "  6    unreachable or not permitted, nothing written\n"
    "  70   internal error (ZKMIG_DEBUG=1 shows the traceback)\n"
    "  75   not stable (epoch --require-stable)\n"
    "  130  stopped by SIGINT\n"
    "  143  stopped by SIGTERM or --timeout",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Print the version."
)
@click.option("-v", "--verbose", count=True, help="Log what happens on stderr; twice for more.")
def cli(verbose: int) -> None:
    """Migrate ZooKeeper trees under an epoch, so that no reader ever sees half of a change.

    \b
    Locations:
      zk://zk1:2181,zk2:2181/app   a tree of a live ensemble
      zks://zk1:2281/app           the same by TLS
      @prod                        the tree of a profile
      monday.zks                   a snapshot file, known by its content

    Credentials come from --auth-file FILE or ZKMIG_AUTH, a line each: digest:user:password. A profile holds them, TLS
    files and more in ~/.config/zkmig/profiles.toml.
    """
    log_to_stderr(verbose)


def main() -> NoReturn:
    """Entry point of the program."""
    prepare_streams()
    sys.exit(exit_code_of(lambda: cli.main(standalone_mode=False, prog_name="zkmig")))
