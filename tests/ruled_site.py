"""A site with rules: hosts, server sets that name them, services that name a set, and somebody else who tampers with
them."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.interruptions import at
from tests.scopes import Site, settled
from tests.trees import Node, Tree
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.plan.plan import Limits
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.policy import Policy
from zkmig.policy.rules import MaxDeletions, NeverEmpty, Reference, Rules

HOSTS = 20
BATCHES = Limits(batch_ops_max=4)  # several, each with room for the checks of a commit
SECRET = b"CANARY-web"


def tree(hosts: int = HOSTS, web: int = 3, active: bytes = b"web", rack: bytes = b"r1") -> Tree:
    """hosts: how many there are; web: members of the set `web`; active: what the service names."""
    return settled(
        {
            "": Node(b""),
            "/hosts": Node(b""),
            **{f"/hosts/h{number:02}": Node(rack) for number in range(hosts)},
            "/sets": Node(b""),
            "/sets/web": Node(SECRET),
            **{f"/sets/web/m{number}": Node(json.dumps({"host": f"h{number:02}"}).encode()) for number in range(web)},
            "/sets/spare": Node(b""),
            "/sets/spare/m0": Node(b'{"host": "h00"}'),
            "/services": Node(b""),
            "/services/site": Node(active),
            "/other": Node(b""),
        }
    )


def policy(site: Site) -> Policy:
    """The rules of the site, by absolute paths."""

    def pattern(relative: str) -> CapturePattern:
        return CapturePattern.parse(site.path(relative))

    member, service = pattern("/sets/{set}/{member}"), pattern("/services/{service}")
    return Policy(
        rules=Rules(
            references=(
                Reference("member", member, Template.parse(site.path("/hosts/{value}"), member.names), "$.host"),
                Reference("service", service, Template.parse(site.path("/sets/{value}"), service.names)),
            ),
            guardrails=(
                MaxDeletions("hosts", pattern("/hosts/*"), share=0.1),
                NeverEmpty("sets", pattern("/sets/*")),
            ),
        )
    )


def plan_of_many_batches(site: Site) -> SealedPlan:
    """A sound plan in several batches: every host is written and the last one goes."""
    site.init(tree())
    return site.plan(tree(HOSTS - 1, rack=b"r2"), limits=BATCHES, policy=policy(site))


def take_hosts(site: Site, *numbers: int) -> None:
    """Somebody else takes these away; the plan touches none of them twice."""
    for number in numbers:
        site.kazoo.delete(site.path(f"/hosts/h{number:02}"))


def empty_spare(site: Site) -> None:
    """Somebody else empties a set that the plan does not touch."""
    site.kazoo.delete(site.path("/sets/spare/m0"))


def fill_spare(site: Site) -> None:
    site.kazoo.create(site.path("/sets/spare/m0"), b'{"host": "h00"}')


def among_the_batches(act: Callable[[], object]) -> Options:
    return Options(single_shot="never", report=at("write", 2, act))
