"""`zkmig dev`: real servers on loopback for people, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType

import click

from zkmig.dev import Ensemble, Server
from zkmig.dev.ensemble import MEMBERS_MAX
from zkmig.errors import Stopped, Unreachable

# How often to look whether a server has died.
WATCH_INTERVAL_S = 0.2

END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command(
    epilog="\b\n"
    "Exit codes:\n"
    "  0    ended by a signal or --timeout, once the servers were up\n"
    "  2    no ZooKeeper or Java to start, or bad usage\n"
    "  6    the servers did not start, or all of them died\n"
    "  130  stopped by SIGINT before the servers were up\n"
    "  143  stopped by SIGTERM before the servers were up",
)
@click.option("--servers", type=click.IntRange(1, MEMBERS_MAX), default=1, show_default=True, help="How many servers.")
@click.option("--tls", is_flag=True, help="Serve TLS as well, with certificates made for it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End SECONDS after all serve.",
)
def dev(servers: int, tls: bool, as_json: bool, timeout_s: float | None) -> None:
    """Run a ZooKeeper server, or an ensemble, on loopback until Ctrl-C or SIGTERM.

    Prints the address of each server once all of them serve. The data are temporary and go when the command ends,
    however it ends. With --tls each has a second port, which wants client certificates; the files are named on stderr.
    """
    is_up = False
    try:
        with _ended_by_signals(), closing(_make(servers, tls)) as started:
            started.start()
            is_up = True
            members = [started] if isinstance(started, Server) else started.members
            _describe(started, members, as_json)
            _watch(members, None if timeout_s is None else time.monotonic() + timeout_s)
    except _Ended as ended:
        if not is_up:
            raise ended.as_error() from None


def _make(servers: int, tls: bool) -> Server | Ensemble:
    return Server(tls=tls) if servers == 1 else Ensemble(servers, tls=tls)


class _Ended(BaseException):
    """A signal asks for the end. No Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._signal = signal.Signals(number)

    def as_error(self) -> Stopped:
        stopped = Stopped(f"stopped by {self._signal.name} before the servers were up")
        stopped.exit_code = 128 + self._signal
        return stopped


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    def end(number: int, _frame: FrameType | None) -> None:
        for each in END_SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not cut the cleaning up short
        raise _Ended(number)

    before = {number: signal.signal(number, end) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(started: Server | Ensemble, members: Sequence[Server], as_json: bool) -> None:
    """Addresses on stdout for programs; what a person may want besides on stderr."""
    described = [
        {"address": member.address, "role": member.mode(), "pid": member.pid, "log": str(member.log_path)}
        for member in members
    ]
    if as_json:
        click.echo(json.dumps({"hosts": started.hosts, "servers": described, **_tls_document(started, members)}))
    else:
        for server in described:
            click.echo(server["address"])
    for server in described:
        click.echo("{address}  {role}  pid {pid}  log {log}".format_map(server), err=True)
    for name, value in _tls_document(started, members).get("tls", {}).items():
        click.echo(f"{name}={value}", err=True)
    click.echo(f"zk://{started.hosts}/ is up; Ctrl-C ends it", err=True)


def _tls_document(started: Server | Ensemble, members: Sequence[Server]) -> dict[str, dict[str, str]]:
    """With TLS: what to put into the environment to use it."""
    made = members[0].certificates
    if made is None:
        return {}
    files = {"ZKMIG_TLS_CA": str(made.ca), "ZKMIG_TLS_CERT": str(made.client)}
    return {"tls": {"ZKMIG_AT": f"zks://{started.tls_hosts}", **files}}


def _watch(members: Sequence[Server], deadline: float | None) -> None:
    """Wait for the end. Servers that die are named; when none is left, Unreachable."""
    alive = list(members)
    while deadline is None or time.monotonic() < deadline:
        for member in list(alive):
            if not member.is_running:
                click.echo(f"{member.address}  ended", err=True)
                alive.remove(member)
        if not alive:
            raise Unreachable("all servers ended", members[0].address, "start them again")
        time.sleep(WATCH_INTERVAL_S)
