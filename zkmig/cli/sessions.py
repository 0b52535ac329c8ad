"""As whom, and how, a command opens its sessions: options, the environment, a profile, in this order."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from zkmig.api.access import SessionOptions
from zkmig.errors import BadInput
from zkmig.source import credentials, profiles
from zkmig.source.profiles import Profile
from zkmig.wire.tls import Tls

ENV_SESSION_TIMEOUT = "ZKMIG_SESSION_TIMEOUT"
LOCATIONS = ("location", "a", "b", "source", "target", "at", "before")
"""Names of parameters that hold locations."""

_GIVEN = "zkmig.profile"  # in click's context: what --profiles and --profile were given as
_CHOSEN = "zkmig.profile.chosen"  # and the profile that counts, None for none


def _found(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Once both options are known: the profile's values are what click takes where nothing else is given."""
    given = ctx.meta.setdefault(_GIVEN, {})
    given[param.name] = value
    if len(given) == 2 and given["profile"] and not ctx.resilient_parsing:
        profile = profiles.load(given["profile"], _file(given["profiles"]))
        named = {"at": profile.at, "scope": profile.scope, "timeout_s": profile.timeout}
        ctx.default_map = {name: value for name, value in named.items() if value is not None}
    return value


def _file(given: str | None) -> str:
    return given or profiles.default_file(os.environ)


_OPTIONS = (
    click.option(
        "--profile",
        envvar=profiles.ENV_PROFILE,
        metavar="NAME",
        is_eager=True,
        callback=_found,
        help="Take what is not given otherwise from this profile: --at, --scope, --timeout, credentials, TLS. "
        "ZKMIG_PROFILE. A location may also be written @NAME or @NAME/path.",
    ),
    click.option(
        "--profiles",
        envvar=profiles.ENV_PROFILES,
        metavar="FILE",
        is_eager=True,
        callback=_found,
        help="Where profiles are, in TOML. ZKMIG_PROFILES; default: ~/.config/zkmig/profiles.toml.",
    ),
    click.option(
        "--auth-file",
        metavar="FILE",
        help="Credentials for every location of the command, a line each: digest:user:password. "
        "ZKMIG_AUTH holds the same.",
    ),
    click.option(
        "--tls-ca",
        envvar=credentials.ENV_TLS_CA,
        metavar="FILE",
        help="For zks://: the authorities to trust, in PEM. ZKMIG_TLS_CA; default: the system's.",
    ),
    click.option(
        "--tls-cert",
        envvar=credentials.ENV_TLS_CERT,
        metavar="FILE",
        help="For zks://: the client certificate to show, in PEM. ZKMIG_TLS_CERT.",
    ),
    click.option(
        "--tls-key",
        envvar=credentials.ENV_TLS_KEY,
        metavar="FILE",
        help="Its key, without passphrase. ZKMIG_TLS_KEY; default: in the file of --tls-cert.",
    ),
    click.option(
        "--session-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How long the servers keep a silent session. So long others wait for a migrator that was killed or is "
        "stuck. The servers have bounds of their own (2 to 20 ticks: usually 4 to 40 s). ZKMIG_SESSION_TIMEOUT; "
        "default: 30.",
        envvar=ENV_SESSION_TIMEOUT,
    ),
    click.option(
        "--tls-hostname/--tls-no-hostname",
        default=None,
        help="Whether a server's certificate must name its host; it is verified in any case. Default: it must.",
    ),
)


def session_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--profile, --profiles, --auth-file, --tls-... and --session-timeout; `take_session` takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_session(options: dict[str, Any]) -> SessionOptions:
    """Take the values of `session_options` out of `options`, and put locations in the place of @names there."""
    name, file = options.pop("profile"), _file(options.pop("profiles"))
    chosen = profiles.load(name, file) if name else None
    named = []
    for key in LOCATIONS:
        if isinstance(options.get(key), str):
            options[key], profile = profiles.location(options[key], file)
            named += [] if profile is None else [profile]
    profile = chosen or _the_one(named)
    click.get_current_context().meta[_CHOSEN] = profile
    session: SessionOptions = {
        "auth": credentials.load(options.pop("auth_file"), os.environ, profile),
        "tls": _take_tls(options, profile),
    }
    session_timeout_s = options.pop("session_timeout")
    if session_timeout_s is None and profile is not None:
        session_timeout_s = profile.session_timeout
    if session_timeout_s is not None:
        session["session_timeout_s"] = session_timeout_s
    return session


def session_words() -> str:
    """How this command was told to open its sessions, for the commands that it proposes: "" or " --profile prod"."""
    ctx = click.get_current_context()
    told = {name: ctx.params.get(name) for name in _WORDS if _is_on_command_line(ctx, name)}
    profile = ctx.meta.get(_CHOSEN)
    if profile is not None and not ctx.params.get("profile"):
        told["profile"] = profile.name  # of a location @name, which is written out in what is proposed
    words = [f" {_WORDS[name]} {shlex.quote(value)}" for name, value in told.items() if isinstance(value, str)]
    if _is_on_command_line(ctx, "session_timeout"):
        words.append(f" --session-timeout {ctx.params['session_timeout']:g}")
    return "".join(words) + (" --tls-no-hostname" if ctx.params.get("tls_hostname") is False else "")


_WORDS = {
    "profile": "--profile",
    "profiles": "--profiles",
    "auth_file": "--auth-file",
    "tls_ca": "--tls-ca",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
}


def _is_on_command_line(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _the_one(named: list[Profile]) -> Profile | None:
    """The profile whose credentials a command has that names profiles only as locations."""
    if any(each.session != named[0].session for each in named):
        # A password goes to every server of the command, so it is not for us to choose.
        names = ", ".join(f"@{each.name}" for each in named)
        raise BadInput("these profiles differ in credentials or TLS", names, "say whose to use with --profile")
    return named[0] if named else None


def _take_tls(options: dict[str, Any], profile: Profile | None) -> Tls:
    ca, cert, key = (options.pop(name) for name in ("tls_ca", "tls_cert", "tls_key"))
    check_hostname = options.pop("tls_hostname")
    if profile is not None:
        ca = ca or profile.tls_ca
        if not cert:  # a key goes with its certificate
            cert, key = profile.tls_cert, key or profile.tls_key
        check_hostname = profile.tls_hostname if check_hostname is None else check_hostname
    return Tls(ca or "", cert or "", key or "", check_hostname is not False)
