"""Loading: a tree put onto a server that has none of it, as fast as plans are applied, by a plan that only adds.

It is carried out as the first epoch of a scope that goes again afterwards, journal included: what follows begins in a
scope of its own, at epoch 0. Ephemerals come last, from the session of whoever loads, and live as long as that.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from zkmig.apply import engine
from zkmig.apply.engine import SealedPlan
from zkmig.apply.options import Options
from zkmig.apply.remove import remove_scope
from zkmig.epoch.control import ControlPaths, Roles, init_scope
from zkmig.epoch.owner import TakeOver
from zkmig.errors import BadInput, ZkmigError
from zkmig.model.acl import OPEN_ACL, WORLD, Acl, Identity
from zkmig.model.columns import KIND_EPHEMERAL
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.plan import planfile
from zkmig.plan.make import TargetScope, make_plan
from zkmig.plan.plan import BATCH_FRAME_BYTES_MAX, Limits
from zkmig.rehearse.copies import Copy, stand_in
from zkmig.source.ensemble import scan_or_none
from zkmig.stop import StopRequest
from zkmig.wire.client import Client
from zkmig.wire.codes import Code, code_name
from zkmig.wire.replies import MultiResult
from zkmig.wire.requests import Check, Create, Multi

EVERYBODY = Roles((WORLD,), (WORLD,))  # of control planes that are gone within the hour

LOAD_OPS_MAX = 1_000  # in one transaction: nobody else waits behind it
EPHEMERALS_DEPTH = 500
FLAG_EPHEMERAL = 1  # CreateMode.EPHEMERAL
NODE_OVERHEAD = 64 * 1024  # bytes of a guarded transaction beside the data of its one node
_NEVER = Check("/zookeeper/zkmig-never", 0)
_PROBE = "/zkmig-probe"


def frame_bytes_for(tree: Snapshot | None) -> int:
    """The frame that a server has to take for the largest node of a tree."""
    if tree is None:
        return 0
    return max(tree.columns.stats.data_length, default=0) + NODE_OVERHEAD


def stand_ins_for(client: Client, identities: Mapping[Identity, int]) -> dict[Identity, Identity]:
    """Other ids for those that this server does not take in an ACL, as it answers itself; nothing is written.

    Asked by multis that fail at their second operation if they pass the first [apply.preflight].
    """
    asked = [each for each in identities if each != WORLD]
    multis = (Multi((Create(_PROBE, None, (Acl(1, *each),)), _NEVER)) for each in asked)
    replies = client.pipeline(multis, EPHEMERALS_DEPTH)
    refused = []
    for identity, reply in zip(asked, replies, strict=True):
        result = reply.result
        if isinstance(result, MultiResult) and result.failed_index == 0 and result.code == Code.INVALID_ACL:
            refused.append(identity)
    return {identity: stand_in(identity) for identity in refused}


def load(client: Client, copy: Copy, options: Options, stop: StopRequest) -> None:
    """Put the tree there; its root must not be, unless it is "/". The client's session carries the ephemerals, and must
    be one that no ACL keeps out. Ancestors that are missing are created.

    BadInput for a tree that cannot be on a server like this.
    """
    root = copy.tree.root
    scratch = ControlPaths("loading", f"/zkmig-loading-{secrets.token_hex(4)}")  # a name that no tree has
    record = init_scope(client, scratch, root, EVERYBODY).record
    there = scan_or_none(client, Scope(root, ("/zookeeper", scratch.control))) if root == "/" else None
    plan = make_plan(
        copy.durable,
        there,
        limits=Limits(
            frame_bytes_max=max(frame_bytes_for(copy.tree), 1_048_575),
            batch_bytes_max=BATCH_FRAME_BYTES_MAX,
            batch_ops_max=LOAD_OPS_MAX,
            journal_bytes_max=1 << 40,
        ),
        target_root=root,
        hosts=(client.server,),
        scope=TargetScope(scratch.scope, scratch.control, record.incarnation, record.epoch),
        identities=client.identities,
    )
    if not plan.is_empty:
        sealed = SealedPlan(plan, planfile.plan_hash(plan))
        engine.apply_plan(client, scratch, sealed, record.epoch + 1, options=options, take_over=TakeOver(), stop=stop)
    remove_scope(client, scratch, options=options, take_over=TakeOver(), stop=stop)
    _load_ephemerals(client, copy.tree)


def _load_ephemerals(client: Client, tree: Snapshot) -> None:
    nodes = [node for node, kind in enumerate(tree.columns.kinds) if kind == KIND_EPHEMERAL]
    creates = (
        Create(tree.path_at(node), tree.data_at(node), tree.acl_at(node) or OPEN_ACL, FLAG_EPHEMERAL) for node in nodes
    )
    for node, reply in zip(nodes, client.pipeline(creates, EPHEMERALS_DEPTH), strict=True):
        if reply.error:
            raise ZkmigError(f"this ephemeral could not be created: {code_name(reply.error)}", tree.path_at(node))


def make_ancestors(client: Client, path: str) -> None:
    """Create what is missing of a path, itself included, open to everybody."""
    name = ""
    for part in path.split("/")[1:] if path != "/" else ():
        name = f"{name}/{part}"
        reply = client.call_reply(Create(name, b"", OPEN_ACL))
        if reply.error not in (0, Code.NODE_EXISTS):
            raise BadInput(f"it could not be created: {code_name(reply.error)}", name)
