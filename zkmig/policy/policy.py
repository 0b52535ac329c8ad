"""Policy: all that an operator declares about one comparison or one migration, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zkmig.changes import DEFAULT_POLICY, ComparePolicy
from zkmig.policy.captures import CapturePattern
from zkmig.policy.identities import AclRule, check_rules
from zkmig.policy.kinds import KindRule
from zkmig.policy.relocation import PathRule
from zkmig.policy.rules import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class Policy:
    """What is meant, and as what it is to arrive. Paths are absolute on a server.

    compare: the aspects that count. includes: only these subtrees, each below the source's root (a path there) or else
    below the target's. excludes: subtrees left out, below either root. map_paths, map_acls, kinds: rules for what
    arrives where, whom ACLs name, and which nodes are containers or TTL nodes. quotas: whether quotas are carried.
    rules: what the target is held against. masks: nodes whose data no output shows. reasons: why a subtree is included
    or excluded, by its path.
    """

    compare: ComparePolicy = DEFAULT_POLICY
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    map_paths: tuple[PathRule, ...] = ()
    map_acls: tuple[AclRule, ...] = ()
    kinds: tuple[KindRule, ...] = ()
    quotas: bool = False
    rules: Rules = NO_RULES
    masks: tuple[CapturePattern, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_rules(self.map_acls)


AnyPolicy = Policy | ComparePolicy | None


def policy_of(given: AnyPolicy) -> Policy:
    """A Policy; of a ComparePolicy, one that declares nothing else."""
    if isinstance(given, Policy):
        return given
    return Policy(given or DEFAULT_POLICY)
