"""What an operator declares on the command line: --include, --map-path, --map-acl and the rest, as one Policy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from zkmig.cli.run import Run
from zkmig.model.acl import Identity
from zkmig.policy.identities import AclRule
from zkmig.policy.kinds import KindRule
from zkmig.policy.leftout import LeftOut
from zkmig.policy.policy import Policy
from zkmig.policy.relocation import PathRule
from zkmig.wire.credential import Credential

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

include_option = click.option(
    "--include",
    "includes",
    multiple=True,
    metavar="PATH",
    help="Only the subtree at this absolute path. May be given several times. A node above it is created where it is "
    "missing, else left alone.",
)
_MAPPING = (
    click.option(
        "--map-path",
        "map_paths",
        multiple=True,
        metavar="OLD=NEW",
        help="The subtree at OLD, a path on the source, arrives at NEW, a path on the target. May be given several "
        "times.",
    ),
    click.option(
        "--map-acl",
        "map_acls",
        multiple=True,
        metavar="SCHEME:ID=SCHEME:ID",
        help="ACLs that name the first identity name the second one instead, as in sasl:app@OLD=sasl:app@NEW; a digest "
        "as digest:user:HASH, or digest:user for one in --auth-file. May be given several times.",
    ),
    click.option(
        "--drop-acl",
        "drop_acls",
        multiple=True,
        metavar="SCHEME:ID",
        help="Take this identity out of every ACL; refused where nobody would be left.",
    ),
)
_CARRYING = (
    click.option(
        "--kind",
        "kinds",
        multiple=True,
        metavar="KIND:PATTERN",
        help="Nodes of the source that match are containers or TTL nodes, which a live read cannot see: "
        "container:PATTERN, ttl=MILLISECONDS:PATTERN. A pattern is an absolute path, * for one component, ** for any "
        "number. The first that matches decides. May be given several times.",
    ),
    click.option(
        "--quotas",
        is_flag=True,
        help="Carry the quotas of a live source too; they are set after the commit.",
    ),
)


def policy_options(carrying: bool = False) -> Decorator:
    """Options that become one `policy`, to stand inside `command_options`. carrying: also what only a plan heeds."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def called(run: Run, *args: Any, **options: Any) -> Any:
            return function(run, *args, policy=_policy(run, options), **options)

        decorated: Function = called
        for option in reversed((include_option, *_MAPPING, *(_CARRYING if carrying else ()))):
            decorated = option(decorated)
        return decorated

    return decorate


def _policy(run: Run, options: dict[str, Any]) -> Policy:
    def resolve(text: str) -> Identity:
        from zkmig.api.scopes import parse_identity  # only where there is a rule: it loads the control plane

        given = run.session.get("auth") or ()
        return parse_identity(text, [one for one in given if isinstance(one, Credential)])

    replaced = [AclRule.parse(text, resolve) for text in options.pop("map_acls")]
    dropped = [AclRule.parse_drop(text, resolve) for text in options.pop("drop_acls")]
    return Policy(
        includes=options.pop("includes"),
        map_paths=tuple(map(PathRule.parse, options.pop("map_paths"))),
        map_acls=(*replaced, *dropped),
        kinds=tuple(map(KindRule.parse, options.pop("kinds", ()))),
        quotas=options.pop("quotas", False),
    )


def say_left_out(run: Run, left_out: LeftOut) -> None:
    """What was not carried or compared, for people."""
    for sentence in left_out.sentences():
        run.say(f"left out: {sentence}")
