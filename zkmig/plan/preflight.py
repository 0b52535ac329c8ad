"""Preflight: what the target will refuse, and what an operator should know first, all at once and before any write.

Findings are values. Those that a plan shows by itself are computed here; `apply.preflight` asks the server for the
rest. A fatal finding ends `apply` before anything is written, a warning is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zkmig.errors import NotPermitted, PlanImpossible, ZkmigError
from zkmig.model import path as paths
from zkmig.model.acl import READ, AclList, Identity, grants
from zkmig.model.quota import UNLIMITED, Quota
from zkmig.model.znode import Kind
from zkmig.plan.operations import CreateNode, RaiseCounter, WriteData
from zkmig.plan.plan import Plan

IN_THE_WAY = "in_the_way"
KIND_DIFFERS = "kind_differs"
SHUT_OUT = "shut_out"
OVERSIZE = "oversize"
PERMISSION = "permission"
SCHEME = "scheme"
KIND = "kind"
LOCK_OUT = "lock_out"
QUOTA = "quota"
QUOTA_SOFT = "quota_soft"
QUOTA_WRITE = "quota_write"
CONTAINER_EMPTY = "container_empty"
TTL_SHORT = "ttl_short"
COUNTER_HIGHER = "counter_higher"

TTL_MS_SHORT = 3_600_000  # a migration, its verification and a coffee fit into an hour
_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """code: its sort, one of this module's. path: where, the first if there are several. hint: what to do."""

    code: str
    path: str
    what: str
    hint: str
    is_fatal: bool = False

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.what}; {self.hint}" if self.hint else f"{where}{self.what}"


def refuse(findings: Iterable[Finding]) -> None:
    """Raise for the fatal ones: NotPermitted if it is all about permissions, else PlanImpossible. Names them all."""
    fatal = [finding for finding in findings if finding.is_fatal]
    if not fatal:
        return
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(fatal, key=lambda finding: finding.code == PERMISSION):  # what no credential helps with first
        groups.setdefault(finding.code, []).append(finding)
    first, *others = groups.values()
    kind: type[ZkmigError] = NotPermitted if first[0].code == PERMISSION else PlanImpossible
    named = ", ".join(dict.fromkeys(finding.path for finding in first[:_NAMED_MAX]))
    more = f" and {len(first) - _NAMED_MAX} more" if len(first) > _NAMED_MAX else ""
    error = kind(first[0].what, named + more, first[0].hint)
    for group in others:
        for finding in group[:_NAMED_MAX]:
            error.add_note(f"  also: {finding}")
        if len(group) > _NAMED_MAX:
            error.add_note(f"  also: {len(group) - _NAMED_MAX} more of this sort")
    raise error


# -- what a plan shows by itself --------------------------------------------------------------------------------------


def warnings_of(plan: Plan, identities: Sequence[Identity]) -> Iterator[Finding]:
    """What will not be refused, but may surprise. identities: of the session that will write; none: unknown."""
    yield from _empty_containers(plan)
    yield from _short_ttls(plan)
    if identities:
        yield from _lock_outs(plan, identities)
    higher = plan.left_out.counters_higher
    if higher:
        first = plan.left_out.counters_first[0]
        yield Finding(
            COUNTER_HIGHER, first, f"{higher} sequence counters are higher than the source's", "nothing lowers them"
        )


def _empty_containers(plan: Plan) -> Iterator[Finding]:
    creates = plan.ordered.all_creates()
    if Kind.CONTAINER.value not in creates.kinds:
        return
    parents = {paths.parent(path) for path in creates.paths() if path != "/"}
    for index, kind in enumerate(creates.kinds):
        if kind == Kind.CONTAINER.value and creates.path_at(index) not in parents:
            yield Finding(
                CONTAINER_EMPTY,
                creates.path_at(index),
                "a container without children: the server may remove it at any time, also before the commit",
                "narrow the rule of --kind, or leave it out with --exclude",
            )


def _short_ttls(plan: Plan) -> Iterator[Finding]:
    creates = plan.ordered.all_creates()
    short = {index: ttl_ms for index, ttl_ms in creates.ttls.items() if ttl_ms < TTL_MS_SHORT}
    if short:
        shortest = min(short, key=lambda index: short[index])
        yield Finding(
            TTL_SHORT,
            creates.path_at(shortest),
            f"its time to live of {short[shortest]} ms runs from its creation: {len(short)} such nodes may be gone "
            "before the commit, which then does not come",
            "have their owners write them, or give them a longer time",
        )


def _lock_outs(plan: Plan, identities: Sequence[Identity]) -> Iterator[Finding]:
    """Final ACLs that let the session neither read nor administer what it has migrated. One finding for each ACL."""
    creates = plan.ordered.all_creates()
    steps = {step.path: step.final for step in plan.acl_steps}
    is_hidden = [bool(_hidden(acl, identities)) for acl in creates.acl_table]
    finals: dict[AclList, list[str]] = {}
    if any(is_hidden):
        for index, acl_id in enumerate(creates.acl_ids):
            if is_hidden[acl_id] and creates.path_at(index) not in steps:
                finals.setdefault(creates.acl_table[acl_id], []).append(creates.path_at(index))
    for path, acl in steps.items():
        if _hidden(acl, identities):
            finals.setdefault(acl, []).append(path)
    for held in finals.values():
        yield Finding(
            LOCK_OUT,
            held[0],
            f"after the commit this session may not read {_counted(held)}: no later snapshot or plan would work",
            "check whose ids the source's ACLs hold, or map them with --map-acl",
        )


def _hidden(acl: AclList, identities: Sequence[Identity]) -> bool:
    """Whether it is certain that the ACL does not let these identities read."""
    if grants(acl, identities) & READ:
        return False
    return all(can_evaluate(entry.scheme, entry.id, identities) for entry in acl)


def _counted(held: Sequence[str]) -> str:
    return "it" if len(held) == 1 else f"it and {len(held) - 1} more with the same ACL"


def can_evaluate(scheme: str, identity: str, identities: Iterable[Identity]) -> bool:
    """Whether it can be told here that an ACL entry does not name the session; else only the server knows."""
    if scheme == "ip":
        # A server before 3.7 does not tell a session its address.
        return "/" not in identity and any(own.scheme == "ip" for own in identities)
    return scheme in ("world", "digest")


# -- quotas -----------------------------------------------------------------------------------------------------------


@dataclass
class _Load:
    """What a subtree under a quota holds as the plan goes on, and the most of it on the way."""

    nodes: int
    bytes: int
    nodes_max: int = 0
    bytes_max: int = 0

    def add(self, nodes: int, size: int) -> None:
        self.nodes += nodes
        self.bytes += size
        if nodes > 0:
            self.nodes_max = max(self.nodes_max, self.nodes)
        if size > 0:
            self.bytes_max = max(self.bytes_max, self.bytes)


def quota_findings(plan: Plan, quotas: Sequence[Quota], usage: dict[str, tuple[int, int]]) -> Iterator[Finding]:
    """Quotas of the target that the plan would pass, on the way or in the end.

    usage: nodes and bytes under each quota now. Only the deepest quota above a node counts, and only what grows is
    refused (ZooKeeperServer.checkQuota). What the plan deletes comes last, when the most is reached already.
    """
    if not quotas:
        return
    loads = {quota.path: _Load(*usage.get(quota.path, (0, 0))) for quota in quotas}
    for operation in plan.operations:
        top = _deepest(operation.path, loads)
        match operation:
            case CreateNode(data=data) if top:
                loads[top].add(1, len(data or b""))
            case WriteData(data=data, before_size=before) if top:
                loads[top].add(0, len(data or b"") - before)
            case RaiseCounter(path=path):
                below = _deepest(path + "/x", loads)
                if below:
                    loads[below].add(1, 0)
                    loads[below].add(-1, 0)
            case _:
                pass
    for quota in quotas:
        load = loads[quota.path]
        if not quota.is_readable and (load.nodes_max or load.bytes_max):
            what = "its quota is not made of numbers: servers that enforce quotas refuse what the plan does there"
            hint = "set it anew (zkCli: setquota); or --ignore-quotas, where none are enforced (enforceQuota)"
            yield Finding(QUOTA, quota.path, what, hint, is_fatal=True)
        for is_hard, limit, needed, unit in (
            (True, quota.count_hard, load.nodes_max, "nodes"),
            (True, quota.bytes_hard, load.bytes_max, "bytes"),
            (False, quota.count_soft, load.nodes_max, "nodes"),
            (False, quota.bytes_soft, load.bytes_max, "bytes"),
        ):
            if limit != UNLIMITED and needed > limit:
                yield Finding(
                    QUOTA if is_hard else QUOTA_SOFT,
                    quota.path,
                    f"its {'hard' if is_hard else 'soft'} quota is {limit} {unit}, the plan needs {needed}",
                    "raise the quota; or --ignore-quotas, where the servers do not enforce them (enforceQuota)"
                    if is_hard
                    else "servers only log this",
                    is_fatal=is_hard,
                )


def _deepest(path: str, tops: Iterable[str]) -> str | None:
    held = [top for top in tops if top != "/" and paths.contains(top, path)]
    return max(held, key=len, default=None)
