"""Run: one invocation of a command: its credentials, its output, and how a signal or --timeout ends it."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from zkmig.api.access import SessionOptions
from zkmig.cli.failures import Interrupted
from zkmig.cli.progress import Progress, open_progress
from zkmig.cli.sessions import session_options, take_session
from zkmig.cli.terminal import escape
from zkmig.errors import BadInput, Outcome, Stopped
from zkmig.model.path import CONTROL_ROOT
from zkmig.stop import EXIT_SIGINT, EXIT_SIGTERM, StopRequest
from zkmig.wire.link import silent_servers

_SIGNALS = {signal.SIGINT: ("interrupted", EXIT_SIGINT), signal.SIGTERM: ("terminated", EXIT_SIGTERM)}
_GRACEFUL = b"zkmig: stopping after what is under way; a second signal stops at once\n"


class Run:
    """What every command has: `session` for the API, output, progress. A context manager around the work."""

    def __init__(self, as_json: bool, timeout_s: float | None, session: SessionOptions | None = None) -> None:
        self.as_json = as_json
        self.stop = StopRequest(timeout_s)
        self.session: SessionOptions = {**(session or {}), "stop": self.stop}
        self._timeout_s = timeout_s
        self._is_graceful = False
        self._is_heard = True

    # -- output -------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A sentence for the operator, on stderr."""
        with suppress(OSError):  # nobody listens there any more: no reason to stop
            sys.stderr.write(escape(text) + "\n")  # not click.echo, which would write across a progress bar
            sys.stderr.flush()

    def line(self, text: str) -> None:
        """A line of data on stdout, unless one JSON document is to stand there alone."""
        if not self.as_json:
            self._put(escape(text))

    def document(self, content: Mapping[str, Any]) -> None:
        """With --json: the one document."""
        if self.as_json:
            self._put(json.dumps(content))

    def long_document(self, content: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
        """The same with a last field `name`, a list whose items are written as they come and never held all at once."""
        if not self.as_json:
            return
        self._put(f"{json.dumps(content)[:-1]}, {json.dumps(name)}: [", end="")
        for number, item in enumerate(items):
            self._put(f"{', ' if number else ''}{json.dumps(item)}", end="")
            if not self._is_heard:
                return
        self._put("]}")

    def stream(self, text: str) -> bool:
        """A line on stdout at once, for whoever follows as things happen. False: nobody reads there any more."""
        self._put(text)
        if self._is_heard:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                self._is_heard = False
        return self._is_heard

    def _put(self, text: str, end: str = "\n") -> None:
        if self._is_heard:
            try:
                sys.stdout.write(text + end)
            except BrokenPipeError:
                self._is_heard = False  # whoever read it has seen enough; what the command does and returns stays

    def progress(self, what: str = "") -> Progress:
        """Bars or periodic lines on stderr, to be opened by `with`."""
        return open_progress(what)

    # -- its end ------------------------------------------------------------------------------------------------------

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Inside, SIGINT, SIGTERM and --timeout end the work: at once, or inside `gracefully` between two steps."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        alarm = signal.signal(signal.SIGALRM, self._on_alarm)
        if self._timeout_s is not None:
            signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def gracefully(self) -> Iterator[None]:
        """Around what writes: a first signal ends it after the step in flight, a second one at once."""
        self._is_graceful = True
        try:
            yield
        except Stopped as stopped:
            if stopped.outcome is Outcome.NOTHING_WRITTEN:
                stopped.hint = stopped.hint or Outcome.NOTHING_WRITTEN.value
            raise
        finally:
            self._is_graceful = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.stop.requested:
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            raise Interrupted(self.stop.error(Outcome.UNKNOWN))
        self.stop.request(*_SIGNALS[signal.Signals(number)])
        self._end()

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        # The stop request knows the time itself; it may be a moment behind the timer.
        self.stop.request("the time given with --timeout is over", EXIT_SIGTERM)
        self._end()

    def _end(self) -> None:
        if not self._is_graceful:
            stopped = self.stop.error(Outcome.NOTHING_WRITTEN)
            if silent := silent_servers():
                stopped.what += f" while waiting for {'; '.join(silent)}"
            raise Interrupted(stopped)
        os.write(2, _GRACEFUL)  # click.echo is not for signal handlers


# -- options that commands share --------------------------------------------------------------------------------------

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

_VERBOSE = click.option("-v", "--verbose", count=True, help="Log what happens on stderr; twice for more.")
_TIMEOUT = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after SECONDS, between two steps; exit code 143.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")

control_option = click.option(
    "--control",
    envvar="ZKMIG_CONTROL",
    metavar="PATH",
    default=CONTROL_ROOT,
    show_default=True,
    help="Root of the control plane. ZKMIG_CONTROL.",
)
consistent_option = click.option(
    "--require-consistent",
    is_flag=True,
    help="Fail with 4 where others write so fast that what was read is not known to be one state of the tree.",
)
exclude_option = click.option(
    "--exclude",
    "excludes",
    multiple=True,
    metavar="PATH",
    help="Leave out the subtree at this absolute path. May be given several times.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
_SCOPE = click.option(
    "--scope",
    envvar="ZKMIG_SCOPE",
    metavar="NAME",
    help="The scope; may be left out where only one can be meant. ZKMIG_SCOPE.",
)


def scope_options(at_help: str = "The ensemble, and a path where it has several scopes.") -> Decorator:
    """--at, --scope and --control, of commands that act on a scope."""
    at = click.option("--at", envvar="ZKMIG_AT", metavar="zk://HOSTS[/PATH]", help=f"{at_help} ZKMIG_AT.")
    return lambda function: at(_SCOPE(control_option(function)))


def required_at(at: str | None) -> str:
    """The value of --at, or BadInput."""
    if not at:
        raise BadInput("no ensemble is given", "", "say --at zk://HOST, or set ZKMIG_AT")
    return at


def command_options(function: Function) -> Function:
    """--json, --timeout, -v, those of `zkmig.cli.sessions`. The function gets a Run for them, its signals in force."""

    @functools.wraps(function)
    def called(*args: Any, as_json: bool, timeout_s: float | None, verbose: int, **options: Any) -> Any:
        log_to_stderr(verbose)
        run = Run(as_json, timeout_s, take_session(options))
        with run.signals():
            return function(run, *args, **options)

    return _JSON(session_options(_TIMEOUT(_VERBOSE(called))))


def exit_codes(codes: Mapping[str, str]) -> str:
    """The end of a help text: the codes that a command can give."""
    width = max(map(len, codes))
    lines = (f"  {code:<{width}}  {meaning}" for code, meaning in codes.items())
    return "\b\nExit codes:\n" + "\n".join(lines)


# What most commands say of a code. 70 is said once, in the help of zkmig itself.
BAD_INPUT = {"2": "usage or bad input"}
FUZZY = {"4": "with --require-consistent: not known to be one state of the tree"}
UNREACHABLE = {"6": "unreachable, or not permitted; nothing was written"}
STOPPED = {"130/143": "stopped by SIGINT / by SIGTERM or --timeout"}


def log_to_stderr(verbose: int) -> None:
    """Show what the logger `zkmig` says: warnings, or more with -v and -vv."""
    logger = logging.getLogger("zkmig")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_EscapedFormatter("zkmig: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    if verbose or logger.level == logging.NOTSET:
        logger.setLevel(level)


class _EscapedFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))
