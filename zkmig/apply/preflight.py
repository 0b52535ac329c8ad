"""Preflight: what the target itself says to a plan, asked without writing anything.

The questions are multis that cannot succeed: their last operation checks a node that is never there. A server goes
through the operations in order, tells which one it refused and why, and applies none of them (PrepRequestProcessor).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zkmig.apply.preimage import Preimage
from zkmig.errors import NotPermitted, OutcomeUnknown, Unreachable
from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, CREATE, DELETE, OPEN_ACL, READ, WRITE, Acl, AclList, Identity, grants
from zkmig.model.quota import QUOTA_ROOT, UNLIMITED, Quota, limits_path
from zkmig.model.znode import Kind, Znode
from zkmig.plan.operations import CreateNode, DeleteNode, RaiseCounter, WriteData
from zkmig.plan.plan import Plan
from zkmig.plan.preflight import (
    KIND,
    PERMISSION,
    QUOTA,
    QUOTA_WRITE,
    SCHEME,
    Finding,
    can_evaluate,
    quota_findings,
    warnings_of,
)
from zkmig.source.quotas import read_quotas_around, read_usage
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name, error_for
from zkmig.wire.replies import MultiResult, Reply
from zkmig.wire.requests import Check, Create, CreateContainer, CreateTtl, Delete, Multi, SetData, WriteOp

SCHEMES_EVERYWHERE = frozenset({"world", "digest", "ip"})  # compiled in (ProviderRegistry); others are configured
IDENTITIES_ASKED = 100  # in one ACL
QUESTIONS_DEPTH = 16
QUOTA_PROBE_BYTES_MAX = 512 * 1024  # of data in a question, well inside the smallest usual frame


def examine(
    client: Client, plan: Plan, preimage: Preimage | None = None, *, ignore_quotas: bool = False
) -> tuple[Finding, ...]:
    """All that stands against the plan or may surprise: of the plan itself, and as the server answers.

    preimage: what the plan's paths are now, for the permissions on them; without it only those of the root's parent
    are looked at. Nothing is written. Raises what a read raises.
    """
    questions = _Questions(client)
    found = list(warnings_of(plan, client.identities))
    found += _schemes(questions, plan)
    found += _kinds(questions, plan)
    if preimage is not None:
        found += _permissions(questions, plan, preimage, client.identities)
    found += _root_parent(questions, plan)
    found += _quotas(questions, client, plan, ignore_quotas)
    found += _quota_writes(questions, plan)
    return tuple(found)


@dataclass
class _Questions:
    client: Client

    def __post_init__(self) -> None:
        token = secrets.token_hex(4)
        self.name = f"/zkmig-probe-{token}"
        self._never = Check(f"{paths.SYSTEM_ROOT}/zkmig-never-{token}", 0)

    def ask(self, asked: Iterable[Sequence[WriteOp]]) -> Iterator[tuple[int, int]]:
        """For each group of operations: which of them the server refuses first, and its code; (-1, 0) for none.

        A server that fails at a quota that it cannot read says MarshallingError of the whole; raises any other such.
        """
        multis = [Multi((*operations, self._never)) for operations in asked]
        for multi, reply in zip(multis, self._replies(multis), strict=True):
            result = reply.result
            if isinstance(result, MultiResult):
                index = result.failed_index
                yield (-1, 0) if index is None or index == len(multi.operations) - 1 else (index, result.code)
            elif reply.error == Code.MARSHALLING_ERROR:
                yield 0, reply.error
            else:
                raise error_for(reply.error, "", multi.operation)

    def _replies(self, multis: Sequence[Multi]) -> Iterator[Reply]:
        try:
            yield from self.client.pipeline(multis, QUESTIONS_DEPTH)
        except OutcomeUnknown as error:  # to the client they are writes, but none of them could have landed
            raise Unreachable(error.what, error.where, "try again") from error

    def refused(self, *operations: WriteOp) -> int:
        """The code that the server refuses one of these operations with, 0 if it does not."""
        ((_, code),) = self.ask([operations])
        return code

    def child(self, path: str) -> str:
        return paths.join(path, self.name)


# -- what the server does not know ------------------------------------------------------------------------------------


def _schemes(questions: _Questions, plan: Plan) -> Iterator[Finding]:
    """Ids that it refuses would stop the migration midway, or wait for the commit in vain [zookeeper-facts 21].

    A server looks at the ACL before it looks at the permission to create.
    """
    unusual: dict[Identity, str] = {}
    for path, acl in plan.acls():
        for entry in acl:
            if entry.scheme not in SCHEMES_EVERYWHERE:
                unusual.setdefault(Identity(entry.scheme, entry.id), path)
    wanted = list(unusual)
    groups = [wanted[start : start + IDENTITIES_ASKED] for start in range(0, len(wanted), IDENTITIES_ASKED)]
    suspects = [identity for group in _unknown(questions, groups) for identity in group]
    for (identity,) in _unknown(questions, [[identity] for identity in suspects]):
        yield Finding(
            SCHEME,
            unusual[identity],
            f"the target knows no such ids in an ACL: {identity.scheme}",
            "configure the scheme on every server of the target, map the ids with --map-acl, or leave these nodes "
            "out with --exclude",
            is_fatal=True,
        )


def _unknown(questions: _Questions, groups: Sequence[list[Identity]]) -> Iterator[list[Identity]]:
    """The groups in which the server does not know some id."""
    probe = questions.child("/")
    answers = questions.ask([Create(probe, None, tuple(Acl(READ, *each) for each in group))] for group in groups)
    for group, (_, code) in zip(groups, answers, strict=True):
        if code == Code.INVALID_ACL:
            yield group


def _kinds(questions: _Questions, plan: Plan) -> Iterator[Finding]:
    creates = plan.ordered.all_creates()
    probe = questions.child("/")
    for kind, operation, hint in (
        (
            Kind.TTL,
            CreateTtl(probe, None, OPEN_ACL, max(creates.ttls.values(), default=1)),
            "start every server of the target with zookeeper.extendedTypesEnabled=true, or drop the rule of --kind",
        ),
        (Kind.CONTAINER, CreateContainer(probe, None, OPEN_ACL), "drop the rule of --kind"),
    ):
        count = creates.kinds.count(kind.value)
        if count and questions.refused(operation) in (Code.UNIMPLEMENTED, Code.BAD_ARGUMENTS):
            yield Finding(
                KIND,
                creates.path_at(creates.kinds.index(kind.value)),
                f"the target admits no {'TTL' if kind is Kind.TTL else 'container'} nodes, and the plan has {count}",
                hint,
                is_fatal=True,
            )


# -- what this session may not do -------------------------------------------------------------------------------------

_NAMES = {READ: "read", WRITE: "write", CREATE | DELETE: "create and delete children", ADMIN: "set ACLs"}


def _permissions(
    questions: _Questions, plan: Plan, preimage: Preimage, identities: Sequence[Identity]
) -> Iterator[Finding]:
    """What the ACLs of the nodes that are there do not grant; where only the server knows, one question an ACL."""
    held = {entry.path: entry.before for entry in preimage.journal.entries if entry.before is not None}
    doubtful: dict[tuple[AclList, int], Znode] = {}
    for path, wanted in _needed(plan).items():
        node = held.get(path)
        if node is None:
            continue  # the plan creates it, with an ACL that lets this session do its work
        granted = grants(node.acl, identities)
        for perms, name in _NAMES.items():
            if wanted & perms and granted & perms != perms:
                if all(can_evaluate(entry.scheme, entry.id, identities) for entry in node.acl):
                    yield _denied(path, name)
                else:
                    doubtful.setdefault((node.acl, perms), node)
    asked = [(perms, node) for (_, perms), node in doubtful.items() if perms in (WRITE, CREATE | DELETE)]
    answers = questions.ask(_trial(questions, node, perms) for perms, node in asked)
    for (perms, node), (_, code) in zip(asked, answers, strict=True):
        if code == Code.NO_AUTH:
            yield _denied(node.path, _NAMES[perms])


def _needed(plan: Plan) -> dict[str, int]:
    """Permission bits that the plan, and taking it back, needs on each path."""
    needed: dict[str, int] = {}

    def need(path: str, perms: int) -> None:
        needed[path] = needed.get(path, 0) | perms

    for path in plan.touched:
        need(path, CREATE | DELETE)
    for operation in plan.ordered.rest:
        match operation:
            case WriteData(path=path):
                need(path, WRITE)
            case RaiseCounter(path=path):
                need(path, CREATE | DELETE)
            case CreateNode(path=path) | DeleteNode(path=path) if path != plan.target.root:
                need(paths.parent(path), CREATE | DELETE)
            case _:
                pass
    for step in plan.acl_steps:
        if step.pin is not None:
            need(step.path, ADMIN)
    return needed


def _trial(questions: _Questions, node: Znode, perms: int) -> Sequence[WriteOp]:
    if perms == WRITE:
        return (SetData(node.path, node.data, node.stat.version),)
    probe = questions.child(node.path)
    return (Create(probe, None, OPEN_ACL), Delete(probe, 0))


def _denied(path: str, what: str) -> Finding:
    return Finding(
        PERMISSION,
        path,
        f"its ACL does not let this identity {what}, which the plan or taking it back needs",
        "authenticate with --auth-file as somebody whom it lets in",
        is_fatal=True,
    )


def _root_parent(questions: _Questions, plan: Plan) -> Iterator[Finding]:
    """The parent of a root that the plan creates lies outside what was read."""
    root = plan.target.root
    creates = plan.ordered.all_creates()
    if root == "/" or not creates or creates.path_at(0) != root:
        return
    probe = questions.child(paths.parent(root))
    if questions.refused(Create(probe, None, OPEN_ACL), Delete(probe, 0)) == Code.NO_AUTH:
        yield _denied(paths.parent(root), _NAMES[CREATE | DELETE])


# -- quotas -----------------------------------------------------------------------------------------------------------


def _quotas(questions: _Questions, client: Client, plan: Plan, ignore_quotas: bool) -> Iterator[Finding]:
    """Quotas that would be passed. Hard ones count only where the servers enforce them, if that can be told."""
    try:
        quotas = read_quotas_around(client, plan.target.root)
        usage = read_usage(client, quotas)
    except NotPermitted as error:
        yield Finding(QUOTA, error.where, "the target's quotas may not be read", "check them yourself")
        return
    found = list(quota_findings(plan, quotas, usage))
    if any(finding.is_fatal for finding in found):
        enforced = False if ignore_quotas else _enforces_quotas(questions, quotas, usage)
        if enforced is False:
            found = [_not_enforced(finding) if finding.is_fatal else finding for finding in found]
    yield from found


def _not_enforced(finding: Finding) -> Finding:
    return Finding(finding.code, finding.path, finding.what, "this server does not enforce quotas, or they are ignored")


def _enforces_quotas(questions: _Questions, quotas: Sequence[Quota], usage: dict[str, tuple[int, int]]) -> bool | None:
    """Whether the server refuses what passes a hard quota: asked with one create that would. None: it did not come out.

    enforceQuota is a setting of the server, off unless somebody switched it on.
    """
    for quota in quotas:
        nodes, size = usage.get(quota.path, (UNLIMITED, UNLIMITED))
        excess: int | None = None
        if not quota.is_readable:
            excess = 1
        elif nodes == UNLIMITED:
            continue  # where nothing is counted, nothing is refused
        elif quota.count_hard != UNLIMITED and nodes + 1 > quota.count_hard:
            excess = 0
        elif quota.bytes_hard != UNLIMITED and quota.bytes_hard - size < QUOTA_PROBE_BYTES_MAX:
            excess = max(quota.bytes_hard - size + 1, 1)
        if excess is None or quota.path == "/":
            continue
        code = questions.refused(Create(questions.child(quota.path), bytes(excess), OPEN_ACL))
        if code in (0, Code.QUOTA_EXCEEDED, Code.MARSHALLING_ERROR):
            return code != 0
    return None


def _quota_writes(questions: _Questions, plan: Plan) -> Iterator[Finding]:
    """Whether the session may set the quotas that the plan carries: ACLs below /zookeeper/quota may be tight."""
    if not plan.quotas:
        return
    client = questions.client
    for quota in plan.quotas:
        place = limits_path(quota.path)
        stat = client.exists(place)
        if stat is not None:
            code = questions.refused(SetData(place, quota.text.encode(), stat.version))
        else:
            above = paths.parent(place)
            while above != QUOTA_ROOT and client.exists(above) is None:
                above = paths.parent(above)
            code = questions.refused(Create(questions.child(above), None, OPEN_ACL))
        if code:
            yield Finding(
                QUOTA_WRITE,
                place,
                f"this quota cannot be set: {code_name(code)}",
                "authenticate as somebody who may, or plan without --quotas",
                is_fatal=True,
            )
