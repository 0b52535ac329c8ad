"""What an operator declares: --policy FILE, and on the command line --include, --map-path and the rest, as one Policy.

What the command line says is added to what the file says.
"""

from __future__ import annotations

import dataclasses
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

policy_option = click.option(
    "--policy",
    "policy_file",
    envvar="ZKMIG_POLICY",
    metavar="FILE",
    help="What is meant and what a sound tree looks like, as TOML (docs/policy.md). Other options add to it. "
    "ZKMIG_POLICY.",
)
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
            policy = _policy(run, options)
            if not carrying:
                _say_unused(run, policy)
            return function(run, *args, policy=policy, **options)

        decorated: Function = called
        for option in reversed((policy_option, include_option, *_MAPPING, *(_CARRYING if carrying else ()))):
            decorated = option(decorated)
        return decorated

    return decorate


def loaded_policy(run: Run, path: str | None) -> Policy | None:
    """The policy of --policy; None where there is none."""
    if not path:
        return None
    from zkmig.api.policies import load_policy  # only where there is one: it loads pydantic

    return load_policy(path, run.session.get("auth"))


def _policy(run: Run, options: dict[str, Any]) -> Policy:
    def resolve(text: str) -> Identity:
        from zkmig.api.scopes import parse_identity  # only where there is a rule: it loads the control plane

        given = run.session.get("auth") or ()
        return parse_identity(text, [one for one in given if isinstance(one, Credential)])

    base = loaded_policy(run, options.pop("policy_file")) or Policy()
    replaced = [AclRule.parse(text, resolve) for text in options.pop("map_acls")]
    dropped = [AclRule.parse_drop(text, resolve) for text in options.pop("drop_acls")]
    return dataclasses.replace(
        base,
        includes=(*base.includes, *options.pop("includes")),
        map_paths=(*base.map_paths, *map(PathRule.parse, options.pop("map_paths"))),
        map_acls=(*base.map_acls, *replaced, *dropped),
        # The first that matches decides: what was just typed goes before what a file says.
        kinds=(*map(KindRule.parse, options.pop("kinds", ())), *base.kinds),
        quotas=options.pop("quotas", False) or base.quotas,
    )


def _say_unused(run: Run, policy: Policy) -> None:
    if policy.rules:
        run.say("note: the policy's rules are not judged here: zkmig check judges a tree, zkmig plan a change")
    if policy.quotas:
        run.say("note: quotas are not compared")


def say_left_out(run: Run, left_out: LeftOut) -> None:
    """What was not carried or compared, for people."""
    for sentence in left_out.sentences():
        run.say(f"left out: {sentence}")
