"""Quotas, after the commit: in force before it, they could refuse the writes that lead to it.

Each is one guarded multi, conditional on what was just read, and the same result however often it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zkmig.apply.verify import Deviation, why
from zkmig.epoch.owner import HEAD_LENGTH, Migrator
from zkmig.model import path as paths
from zkmig.model.acl import OPEN_ACL
from zkmig.model.quota import QUOTA_ROOT, Quota, limits_path, stats_path
from zkmig.source.bulk import NodeRead, read_nodes
from zkmig.wire.codes import Code
from zkmig.wire.requests import Create, SetData, WriteOp

TRIES_MAX = 5  # somebody else may be setting quotas at the same time
_NOTHING_YET = b"count=0,bytes=0"  # the server counts when it sees the node come (DataTree.createNode)
_RACES = (Code.NODE_EXISTS, Code.BAD_VERSION, Code.NO_NODE)


def write_quotas(
    migrator: Migrator, quotas: Sequence[Quota], progress: Callable[[int], None] = lambda _: None
) -> list[Deviation]:
    """Set each quota. One that the server does not let this session set is left and returned."""
    deviations: list[Deviation] = []
    for done, quota in enumerate(quotas, 1):
        code = _write(migrator, quota)
        if code:
            deviations.append(Deviation(limits_path(quota.path), f"its quota was not set, {why(code)}"))
        progress(done)
    return deviations


def quotas_set(quotas: Sequence[Quota], deviations: Sequence[Deviation]) -> int:
    """How many of them are in force, given all that was left."""
    left = {deviation.path for deviation in deviations}
    return sum(limits_path(quota.path) not in left for quota in quotas)


def _write(migrator: Migrator, quota: Quota) -> int:
    """0, or the code that it was refused with."""
    code = 0
    for _ in range(TRIES_MAX):
        operations = _operations(migrator, quota)
        if not operations:
            return 0
        result = migrator.write(operations)
        if result.failed_index is None or result.failed_index < HEAD_LENGTH:
            return 0
        code = result.code
        if code not in _RACES:
            break
    return code


def _operations(migrator: Migrator, quota: Quota) -> list[WriteOp]:
    """What is missing: the way down, the limits, and after them the node in which the server counts."""
    limits, stats = limits_path(quota.path), stats_path(quota.path)
    way = [paths.parent(limits)]
    while way[-1] != QUOTA_ROOT:
        way.append(paths.parent(way[-1]))
    way.reverse()
    nodes = {node.path: node for node in read_nodes(migrator.client, [*way, limits, stats])}
    text = quota.text.encode()
    operations: list[WriteOp] = [Create(path, None, OPEN_ACL) for path in way if not isinstance(nodes[path], NodeRead)]
    held = nodes[limits]
    if not isinstance(held, NodeRead):
        operations.append(Create(limits, text, OPEN_ACL))
    elif held.data != text:
        operations.append(SetData(limits, text, held.stat.version))
    if not isinstance(nodes[stats], NodeRead):
        operations.append(Create(stats, _NOTHING_YET, OPEN_ACL))
    return operations
